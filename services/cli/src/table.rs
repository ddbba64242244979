//! Tables for people: aligned, under a header, and on a terminal no wider than it is. Programs ask for `--json`.

use std::iter;

use console::{measure_text_width, truncate_str};

use crate::terminal::{PrintError, columns, one_line, print_raw};

const GAP: &str = "  ";
/// The last column is not cut below this, however narrow the terminal.
const NARROWEST: usize = 8;

pub(crate) struct Table<const N: usize> {
    header: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// What may be long belongs into the last column, which is cut where the terminal ends.
    pub(crate) fn new(header: [&'static str; N]) -> Self {
        Self { header, rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: [String; N]) {
        self.rows.push(row.map(|cell| one_line(&cell)));
    }

    pub(crate) fn print(&self) -> Result<(), PrintError> {
        print_raw(self.text(columns()).as_bytes())
    }

    fn text(&self, columns: Option<usize>) -> String {
        let header = self.header.map(str::to_owned);
        let rows: Vec<&[String; N]> = iter::once(&header).chain(&self.rows).collect();
        let mut widths = [0; N];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(*row) {
                *width = measure_text_width(cell).max(*width);
            }
        }
        let before_last: usize = widths.iter().rev().skip(1).map(|width| width + GAP.len()).sum();
        let last = columns.map_or(usize::MAX, |columns| columns.saturating_sub(before_last).max(NARROWEST));
        let mut text = String::new();
        for row in rows {
            let mut line = String::new();
            for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
                if at + 1 == N {
                    line.push_str(&truncate_str(cell, last, "…"));
                } else {
                    line.push_str(cell);
                    line.extend(iter::repeat_n(' ', width - measure_text_width(cell)));
                    line.push_str(GAP);
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_what_is_seen_and_the_last_ends_with_the_terminal() {
        let mut table = Table::new(["MODEL", "NOTE"]);
        table.push(["模型".to_owned(), "a long story\nof what went wrong".to_owned()]);
        table.push(["llama".to_owned(), String::new()]);
        assert_eq!(table.text(None), "MODEL  NOTE\n模型   a long story of what went wrong\nllama\n");
        assert_eq!(table.text(Some(20)), "MODEL  NOTE\n模型   a long story…\nllama\n");
        assert_eq!(table.text(Some(5)), "MODEL  NOTE\n模型   a long …\nllama\n");
    }
}
