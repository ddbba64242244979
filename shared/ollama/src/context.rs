//! The context that a request asks for with `num_ctx`, and how another one is written into its body.
//!
//! Must never change another byte of a body, nor what Ollama reads from it beside the context.

use std::ops::Range;

use crate::go_json::{self, GoMember, folds_to};
use crate::route::Route;

/// The option that says how many tokens the context has.
pub(crate) const NUM_CTX: &str = "num_ctx";

/// What a load key says of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Context {
    /// The request names no length, and its route cannot carry one. Only a runner with the length that Ollama chooses itself
    /// serves it.
    Automatic,
    /// The request names no length, but its body can carry one, so a longer runner serves it too.
    Any,
    /// The request names this length.
    Length(i64),
}

/// The body of a request with `options.num_ctx` set to a length, or taken out. Every other byte stays.
///
/// The body is read as Ollama reads it: the last of repeated keys counts, case aside, and repeated `options` are one object. A
/// body comes back as it is if it asks for this context already, if its route cannot carry a context, or if its `num_ctx` has a
/// wrong type: Ollama refuses such a request, and must go on refusing it.
pub fn write_context(route: Route, body: &str, length: Option<i64>) -> String {
    let options = if route.is_native() { Options::read(body) } else { None };
    match options {
        Some(options) if options.length.is_some_and(|given| given != length) => match length {
            Some(length) => options.set(body, length),
            None => options.take_out(body),
        },
        _ => body.to_owned(),
    }
}

/// The `options` of a body, as far as they say something about the context. All places are those in the body.
#[derive(Debug)]
struct Options {
    /// The length that the body asks for. `None` if its `num_ctx` is neither a whole number nor null.
    length: Option<Option<i64>>,
    /// Every `num_ctx` that Ollama reads. The last one counts.
    given: Vec<Given>,
    /// Where a first member of the last `options` object can be inserted.
    within: Option<Gap>,
    /// Where a last member of the body can be inserted.
    end: Gap,
}

#[derive(Debug)]
struct Given {
    value: Range<usize>,
    /// The whole member, with the comma that must go with it.
    member: Range<usize>,
}

/// A place between members.
#[derive(Clone, Copy, Debug)]
struct Gap {
    at: usize,
    /// Whether a member that is inserted here needs a comma between it and the others.
    has_neighbour: bool,
}

impl Options {
    /// `None` if the body is no JSON object.
    fn read(body: &str) -> Option<Self> {
        let bytes = body.as_bytes();
        let (mut given, mut within, mut is_empty) = (Vec::new(), None, true);
        let object = go_json::members(bytes, |member| {
            is_empty = false;
            if !folds_to(&member.key, "options") {
                return;
            }
            match bytes[member.value.start] {
                b'{' => within = Some(read_object(bytes, &member, &mut given)),
                // Go forgets the objects before a null.
                _ => (given, within) = (Vec::new(), None),
            }
        })?;
        let length = match given.last().map(|last: &Given| &body[last.value.clone()]) {
            None | Some("null") => Some(None),
            Some(number) => go_json::integer(number).map(Some),
        };
        Some(Self { length, given, within, end: Gap { at: object.end - 1, has_neighbour: !is_empty } })
    }

    fn set(&self, body: &str, length: i64) -> String {
        let (place, text) = match (self.given.last(), self.within) {
            (Some(last), _) => (last.value.clone(), length.to_string()),
            (None, Some(Gap { at, has_neighbour })) => {
                let comma = if has_neighbour { "," } else { "" };
                (at..at, format!("\"{NUM_CTX}\":{length}{comma}"))
            }
            (None, None) => {
                let Gap { at, has_neighbour } = self.end;
                let comma = if has_neighbour { "," } else { "" };
                (at..at, format!("{comma}\"options\":{{\"{NUM_CTX}\":{length}}}"))
            }
        };
        let mut written = String::with_capacity(body.len() + text.len());
        written.push_str(&body[..place.start]);
        written.push_str(&text);
        written.push_str(&body[place.end..]);
        written
    }

    fn take_out(&self, body: &str) -> String {
        let mut written = String::with_capacity(body.len());
        let mut rest = 0;
        for Given { member, .. } in &self.given {
            written.push_str(&body[rest..member.start]);
            rest = member.end;
        }
        written.push_str(&body[rest..]);
        written
    }
}

/// Notes each `num_ctx` of an `options` object, and returns the gap before the first member.
fn read_object(body: &[u8], options: &GoMember, given: &mut Vec<Given>) -> Gap {
    let start = options.value.start;
    let (mut is_empty, mut any_stays) = (true, false);
    go_json::members(&body[options.value.clone()], |member| {
        is_empty = false;
        // Options are a map to Go, so their case counts.
        if member.key != NUM_CTX {
            any_stays = true;
            return;
        }
        let (value, mut place) = (shift(member.value, start), shift(member.place, start));
        // If a member before this one stays, the comma between them goes. Else the comma after this one goes, if there is one.
        if any_stays {
            place.start -= 1;
        } else if body[place.end] == b',' {
            place.end += 1;
        }
        given.push(Given { value, member: place });
    });
    Gap { at: start + 1, has_neighbour: !is_empty }
}

fn shift(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

#[cfg(test)]
mod tests;
