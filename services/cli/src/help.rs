//! What `--help` says beside the arguments: an example, and the settings that the command reads.

use std::fmt::Write as _;

use foreman_runtime::Setting;

/// The text below the arguments.
pub(crate) fn after(text: &str, settings: &[Setting]) -> String {
    let mut help = text.to_owned();
    if !settings.is_empty() {
        help.push_str("\n\nSettings are environment variables; NAME_FILE names a file that holds the value.");
    }
    for setting in settings {
        // Writing to a String cannot fail.
        let _ = write!(help, "\n  {}\n      {} [{}]", setting.name, setting.help, setting.default_text());
    }
    help
}

#[cfg(test)]
mod tests {
    use foreman_runtime::settings::{api, cli, shared, worker};

    use super::*;

    /// The part of the README between the two comments is this, to the letter.
    #[test]
    fn the_readme_tells_every_setting_as_it_is() {
        let mut table = String::from("| | variable | default | |\n|---|---|---|---|\n");
        for (who, settings) in [
            ("all", shared::PROCESS),
            ("api, worker", shared::JOBS),
            ("api", api::ALL),
            ("worker", worker::ALL),
            ("cli", cli::ALL),
        ] {
            for setting in settings {
                let Setting { name, help, .. } = setting;
                writeln!(table, "| {who} | `{name}` | {} | {help} |", setting.default_text()).unwrap();
            }
        }
        let readme = include_str!("../../../README.md");
        let (_, rest) = readme.split_once("<!-- settings -->\n").expect("a comment before the table");
        let (found, _) = rest.split_once("<!-- end of settings -->").expect("a comment behind the table");
        assert!(found == table, "README.md is not up to date; between its comments should be:\n{table}");
    }
}
