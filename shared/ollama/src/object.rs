//! JSON objects whose members keep their order and their bytes.
//!
//! Must never decode and encode a value again, because numbers, escapes and the order of keys would change. Nothing
//! here looks into a value.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The most members of one object. No request or answer of Ollama comes near it. Each member needs several times as
/// much memory as its text has bytes.
pub(crate) const MAX_KEYS: usize = 1_000;

/// One member of an object, in its place.
#[derive(Clone, Debug)]
pub(crate) struct Member<'a> {
    /// The key, with its escapes resolved.
    pub(crate) key: Cow<'a, str>,
    /// The value as it is written.
    pub(crate) value: &'a RawValue,
}

/// The members of one object, including repeated keys.
#[derive(Debug)]
pub(crate) struct Members<'a>(pub(crate) Vec<Member<'a>>);

impl<'a> Members<'a> {
    /// Parses one object; nothing may follow it.
    pub(crate) fn parse(text: &'a str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// The value of a key. For a repeated key the last one counts, as in Go.
    pub(crate) fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|member| member.key == key).map(|member| member.value)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    if members.len() == MAX_KEYS {
                        let too_many = format_args!("an object has more than {MAX_KEYS} keys");
                        return Err(A::Error::custom(too_many));
                    }
                    members.push(Member { key, value });
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// A key that borrows from the text if it is written without escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// The deepest nesting of arrays and objects in a text. Brackets inside strings do not count. For a text that is not
/// JSON the figure means nothing, but this function never recurses.
pub(crate) fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => loop {
                match bytes.next() {
                    Some(b'\\') => _ = bytes.next(),
                    Some(b'"') | None => break,
                    Some(_) => {}
                }
            },
            _ => {}
        }
    }
    deepest
}

/// Writes members as one compact object, with unchanged values.
pub(crate) fn write<'a>(members: impl IntoIterator<Item = (&'a str, &'a str), IntoIter: Clone>) -> String {
    let members = members.into_iter();
    // Reserve all memory at once, or a large value would be copied while the text grows. 4 is for quotes, colon and
    // comma.
    let size = members.clone().map(|(key, value)| key.len() + value.len() + 4).sum::<usize>() + 2;
    let mut object = String::with_capacity(size);
    object.push('{');
    for (key, value) in members {
        if object.len() > 1 {
            object.push(',');
        }
        write_string(&mut object, key);
        object.push(':');
        object.push_str(value);
    }
    object.push('}');
    object
}

fn write_string(out: &mut String, text: &str) {
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_order_repeats_and_bytes() {
        let text = r#" { "b" : 1.50e+3 , "a\u0041" : [ 1 ,2 ] , "b":"\ud800\u0000" } "#;
        let members = Members::parse(text).unwrap();
        let seen: Vec<_> = members.0.iter().map(|m| (m.key.as_ref(), m.value.get())).collect();
        assert_eq!(seen, [("b", "1.50e+3"), ("aA", "[ 1 ,2 ]"), ("b", r#""\ud800\u0000""#)]);
        assert_eq!(members.get("b").unwrap().get(), r#""\ud800\u0000""#);
        assert_eq!(write(seen), r#"{"b":1.50e+3,"aA":[ 1 ,2 ],"b":"\ud800\u0000"}"#);
        assert_eq!(write([("q\"\n", "1")]), r#"{"q\"\n":1}"#);
    }

    #[test]
    fn depth_counts_brackets_outside_strings_only() {
        for (text, deep) in [
            ("1", 0),
            ("{}", 1),
            (r#"{"a":[[]],"b":{}}"#, 3),
            (r#"["[[[[\"[[["]"#, 1),
            (r#"["\\",[]]"#, 2),
            (r#"["["#, 1),
            (r#"["\"#, 1),
        ] {
            assert_eq!(depth(text), deep, "{text}");
        }
        assert_eq!(depth(&"[".repeat(1_000_000)), 1_000_000);
    }
}
