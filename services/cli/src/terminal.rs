//! What a command says: results on standard output, everything meant for a person on standard error.
//!
//! A reader that has gone away (`foreman submit … | head`) is no failure, and never a panic.

use std::fmt::Display;
use std::io::{self, Write as _};

/// A result, which a script may read: standard output.
pub(crate) fn print(text: impl Display) {
    finish(writeln!(io::stdout().lock(), "{text}"));
}

/// The same, where the result brings its own line ends.
pub(crate) fn print_raw(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    finish(out.write_all(bytes).and_then(|()| out.flush()));
}

/// A remark for the person at the terminal: standard error.
pub(crate) fn say(text: impl Display) {
    finish(writeln!(io::stderr().lock(), "{text}"));
}

/// An error and its causes as one line. Many an error repeats its cause; what was said is not said again.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !sentence.contains(&cause) {
            let colon = if sentence.is_empty() { "" } else { ": " };
            sentence = format!("{sentence}{colon}{cause}");
        }
    }
    sentence.replace(['\n', '\r'], " ")
}

fn finish(written: io::Result<()>) {
    // Nobody is left to tell that nobody listens.
    let _the_reader_is_gone = written;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_not_said_twice() {
        let error = anyhow::anyhow!("refused").context("it failed: refused").context("it cannot\nbe done");
        assert_eq!(sentence(&error), "it cannot be done: it failed: refused");
    }
}
