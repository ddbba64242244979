//! Tables for people: aligned, under a header, and on a terminal no wider than the terminal is. Programs ask for `--json`.

use comfy_table::{ColumnConstraint, ContentArrangement, Row, Table, Width, presets};

use crate::terminal::{PrintError, columns, one_line, print};

/// The last column is not cut below this, however narrow the terminal.
const NARROWEST: Width = Width::Fixed(8);

/// Put values that may be long into the last column: it is cut where the terminal ends.
pub(crate) fn with_header<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(Row::from(header).max_height(1).clone());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2)).set_constraint(ColumnConstraint::ContentWidth);
    }
    if let Some(last) = table.column_iter_mut().last() {
        last.set_padding((0, 0)).set_constraint(ColumnConstraint::LowerBoundary(NARROWEST));
    }
    table
}

pub(crate) fn add_row<const N: usize>(table: &mut Table, cells: [String; N]) {
    let mut row = Row::from(cells.map(|cell| one_line(&cell)));
    table.add_row(row.max_height(1).clone());
}

pub(crate) fn show(mut table: Table) -> Result<(), PrintError> {
    print(text(&mut table, columns()))
}

/// What [`show`] prints, for a terminal with so many columns.
pub(crate) fn text(table: &mut Table, columns: Option<u16>) -> String {
    if let Some(columns) = columns {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
    }
    table.set_truncation_indicator("…").trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_what_is_seen_and_the_last_ends_with_the_terminal() {
        let mut table = with_header(["MODEL", "NOTE"]);
        add_row(&mut table, ["模型".to_owned(), "a long story\nof what went wrong".to_owned()]);
        add_row(&mut table, ["llama".to_owned(), String::new()]);
        assert_eq!(text(&mut table, None), "MODEL  NOTE\n模型   a long story of what went wrong\nllama");
        assert_eq!(text(&mut table, Some(20)), "MODEL  NOTE\n模型   a long story…\nllama");
        assert_eq!(text(&mut table, Some(5)), "MODEL  NOTE\n模型   a long…\nllama");
    }
}
