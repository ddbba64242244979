//! What is said of lines that are refused.

use std::fmt;

use crate::terminal::one_line;

/// Lines that follow each other and are refused for the same reason, as all of a file for a model that is missing.
pub(super) struct Refusal {
    first: u64,
    last: u64,
    error: String,
}

impl Refusal {
    pub(super) fn add(refusals: &mut Vec<Self>, line: u64, error: String) {
        match refusals.last_mut() {
            Some(before) if before.last + 1 == line && before.error == error => before.last = line,
            _ => refusals.push(Self { first: line, last: line, error }),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, error } = self;
        let error = one_line(error);
        if first == last {
            write!(f, "line {first}: {error}")
        } else {
            write!(f, "lines {first} to {last}: {error}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_with_the_same_reason_are_told_together() {
        let mut refusals = Vec::new();
        for (line, error) in [(1, "no model"), (2, "no model"), (3, "no\nprompt"), (5, "no model")] {
            Refusal::add(&mut refusals, line, error.to_owned());
        }
        let told: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["lines 1 to 2: no model", "line 3: no prompt", "line 5: no model"]);
    }
}
