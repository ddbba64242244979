//! The output of a child of `foreman up`: everything goes into a file of bounded size, the important lines also to the
//! terminal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

use crate::terminal;

/// The largest size of a log file. At most one older file is kept, so that logs never fill a disk.
const LARGEST: u64 = 16 << 20;

/// Which lines the terminal shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shown {
    All,
    /// Warnings, errors, and what is no log line: the last word of a process that cannot go on.
    Warnings,
    Nothing,
}

#[derive(Clone)]
pub(crate) struct Journal {
    name: Arc<str>,
    shown: Shown,
    path: Arc<Path>,
    file: Arc<Mutex<File>>,
}

impl Journal {
    pub(crate) fn open(path: &Path, name: &str, shown: Shown) -> anyhow::Result<Self> {
        let file = append_to(path).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { name: name.into(), shown, path: path.into(), file: Arc::new(Mutex::new(file)) })
    }

    /// Keeps what comes from `stream` until it ends.
    pub(crate) async fn keep(self, stream: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        // Read bytes, because the last words of a child need not be UTF-8.
        while lines.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
            if let Err(error) = self.write(&line) {
                terminal::say(format_args!(
                    "{:>10} | {} cannot be written: {error}",
                    self.name,
                    self.path.display()
                ));
            }
            let text = String::from_utf8_lossy(&line);
            if let Some(text) = shown(text.trim_end(), self.shown) {
                terminal::say(format_args!("{:>10} | {text}", self.name));
            }
            line.clear();
        }
    }

    fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line)?;
        if file.metadata()?.len() > LARGEST {
            fs::rename(&self.path, previous(&self.path))?;
            *file = append_to(&self.path)?;
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn previous(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// The line without its time, or None where it is not for the terminal.
fn shown(line: &str, shown: Shown) -> Option<&str> {
    const ROUTINE: [&str; 3] = ["INFO", "DEBUG", "TRACE"];
    let (_time, rest) = line.split_once(' ').unwrap_or(("", line));
    let rest = rest.trim_start();
    let level = rest.split(' ').next().unwrap_or_default();
    match shown {
        Shown::Nothing => None,
        Shown::All => Some(line),
        Shown::Warnings if ROUTINE.contains(&level) => None,
        Shown::Warnings if ROUTINE.iter().any(|level| line.contains(&format!("\"level\":\"{level}\""))) => {
            None
        }
        Shown::Warnings if ["WARN", "ERROR"].contains(&level) => Some(rest),
        Shown::Warnings => Some(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_shows_warnings_errors_and_last_words() {
        for (line, seen) in [
            ("2026-11-22T10:00:00.1Z  INFO foreman_api: listening", None),
            ("2026-11-22T10:00:00.1Z DEBUG foreman_api: claimed", None),
            (r#"{"timestamp":"2026-11-22T10:00:00.1Z","level":"INFO","message":"listening"}"#, None),
            ("2026-11-22T10:00:00.1Z  WARN foreman_api: slow", Some("WARN foreman_api: slow")),
            ("2026-11-22T10:00:00.1Z ERROR foreman_api: gone", Some("ERROR foreman_api: gone")),
            (r#"{"level":"ERROR","message":"gone"}"#, Some(r#"{"level":"ERROR","message":"gone"}"#)),
            ("foreman-api: DATABASE_URL is not set", Some("foreman-api: DATABASE_URL is not set")),
            ("", Some("")),
        ] {
            assert_eq!(shown(line, Shown::Warnings), seen, "{line}");
            assert_eq!(shown(line, Shown::All), Some(line));
            assert_eq!(shown(line, Shown::Nothing), None);
        }
    }

    #[tokio::test]
    async fn a_log_is_put_aside_when_it_has_grown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let journal = Journal::open(&path, "x", Shown::Nothing).unwrap();
        let line = vec![b'a'; 1 << 20];
        for _ in 0..20 {
            journal.write(&line).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() <= 4 << 20);
        assert!(fs::metadata(dir.path().join("x.log.1")).unwrap().len() > LARGEST);
        journal.clone().keep(&b"last words"[..]).await;
        assert!(fs::read_to_string(&path).unwrap().ends_with("last words"));
    }
}
