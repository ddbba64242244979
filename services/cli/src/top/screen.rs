//! The whole terminal, for as long as it is lent to us. It must always be given back as it was, however the command ends.

use std::io::{self, Write as _};

use anyhow::Context as _;
use console::{Term, truncate_str};
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyModifiers};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};
use futures_util::StreamExt as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::terminal::{PrintError, one_line, print_raw};

pub(super) struct Screen;

impl Screen {
    pub(super) fn open() -> anyhow::Result<Self> {
        enable_raw_mode().context("this terminal does not tell single keys; use `foreman queue`")?;
        // From here on `drop` gives the terminal back.
        let screen = Self;
        execute!(io::stdout(), EnterAlternateScreen, Hide).context("the terminal cannot be written")?;
        Ok(screen)
    }

    /// Replaces what is shown. What does not fit is cut.
    pub(super) fn show(&self, head: &str, text: &str) -> Result<(), PrintError> {
        let (rows, columns) = Term::stdout().size();
        let mut bytes = Vec::new();
        let head = one_line(head);
        let lines = [head.as_str(), ""].into_iter().chain(text.lines());
        for (row, line) in (0..rows).zip(lines) {
            let line = truncate_str(line, columns.into(), "…");
            // Writing to memory cannot fail.
            let _ = queue!(bytes, MoveTo(0, row), Clear(ClearType::UntilNewLine));
            let _ = bytes.write_all(line.as_bytes());
        }
        let _ = queue!(bytes, Clear(ClearType::FromCursorDown));
        print_raw(&bytes)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nobody left to tell if the terminal has gone.
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// Waits for `q`, Ctrl-C, or the end of the terminal or the process.
pub(super) async fn until_it_ends() -> anyhow::Result<()> {
    let mut keys = EventStream::new();
    let [mut interrupted, mut terminated, mut hung_up] =
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    loop {
        let event = tokio::select! {
            event = keys.next() => event,
            _ = interrupted.recv() => None,
            _ = terminated.recv() => None,
            _ = hung_up.recv() => None,
        };
        match event {
            Some(Ok(Event::Key(key))) if ends(key) => return Ok(()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error).context("the terminal cannot be read"),
            None => return Ok(()),
        }
    }
}

fn ends(KeyEvent { code, modifiers, .. }: KeyEvent) -> bool {
    match code {
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        KeyCode::Char('q') => true,
        _ => false,
    }
}
