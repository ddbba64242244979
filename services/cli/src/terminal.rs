//! Output: results go to standard output, everything meant for a person goes to standard error.
//!
//! A reader that has gone away (`foreman jobs | head`) ends a command quietly, and is never a panic.

use std::fmt::Display;
use std::io::{self, Write as _};

use console::Term;

/// Why a result could not be printed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrintError {
    /// The reader has closed the pipe, as `head` does.
    #[error("nobody reads standard output any more")]
    ReaderGone,
    #[error("standard output cannot be written")]
    Io(#[source] io::Error),
}

/// A result, which a script may read: standard output.
pub(crate) fn print(text: impl Display) -> Result<(), PrintError> {
    print_raw(format!("{text}\n").as_bytes())
}

/// The same without a line end after it.
pub(crate) fn print_raw(bytes: &[u8]) -> Result<(), PrintError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => PrintError::ReaderGone,
        _ => PrintError::Io(error),
    })
}

/// A remark for the person at the terminal: standard error.
pub(crate) fn say(text: impl Display) {
    // There is no third place that could take a message about this failure.
    let _the_reader_is_gone = writeln!(io::stderr().lock(), "{text}");
}

/// Whether a person watches, so that lines may be drawn again.
pub(crate) fn is_watched() -> bool {
    Term::stderr().is_term()
}

/// How many columns results may have; `None` where they do not go to a terminal.
pub(crate) fn columns() -> Option<u16> {
    let term = Term::stdout();
    term.is_term().then(|| term.size().1)
}

/// Puts text on one line without control characters: text from a model, a receiver or a file must not steer the terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.split(char::is_control).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// An error and its causes as one line. Many errors repeat their cause in their own text, so leave out a cause that was
/// already said.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !sentence.contains(&cause) {
            let colon = if sentence.is_empty() { "" } else { ": " };
            sentence = format!("{sentence}{colon}{cause}");
        }
    }
    one_line(&sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_not_said_twice() {
        let error = anyhow::anyhow!("refused").context("it failed: refused").context("it cannot\nbe done");
        assert_eq!(sentence(&error), "it cannot be done: it failed: refused");
    }

    #[test]
    fn what_others_wrote_does_not_steer_the_terminal() {
        assert_eq!(one_line("a\u{1b}[2Jb\r\nc\u{9b}"), "a [2Jb c");
    }
}
