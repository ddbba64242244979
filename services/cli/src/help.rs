//! What `--help` says beside the arguments: an example, and the settings that the command reads.

use std::fmt::Write as _;

use foreman_runtime::Setting;

use crate::exit;

/// The text below the list of commands.
pub(crate) fn overview() -> String {
    format!(
        "\
Examples:
  foreman demo
  foreman submit --model llama3.2 'Why is the sky blue?' --wait
  foreman jobs --state queued

Each command says more with --help.

{}",
        exit::HELP
    )
}

/// The text below the arguments of a command.
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
    use std::process::Command;

    use clap::{CommandFactory as _, Parser as _};
    use foreman_runtime::settings::{api, cli, shared, worker};

    use super::*;
    use crate::Cli;

    #[test]
    fn every_command_has_examples_and_each_can_be_run_as_it_stands() {
        let mut cli = Cli::command();
        cli.build();
        let mut commands = vec![&cli];
        while let Some(command) = commands.pop() {
            commands.extend(
                command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help"),
            );
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = examples(&help);
            assert!(!examples.is_empty(), "`{}` has no example", command.get_bin_name().unwrap_or_default());
            for example in examples {
                for arguments in arguments(example) {
                    Cli::try_parse_from(&arguments).unwrap_or_else(|error| panic!("{example}\n{error}"));
                }
            }
        }
    }

    /// The lines of a help text that are meant for a shell.
    fn examples(help: &str) -> Vec<&str> {
        let lines = help.lines().map(|line| line.trim_start_matches("Example:").trim());
        let is_setting =
            |word: &str| word.split_once('=').is_some_and(|(name, _)| name == name.to_uppercase());
        lines
            .filter(|line| {
                let command = line.split_whitespace().find(|word| !is_setting(word));
                command == Some("foreman") || line.contains("| foreman ") || line.contains("| xargs foreman ")
            })
            .collect()
    }

    /// What a shell calls `foreman` with, once for each time that it stands there.
    fn arguments(example: &str) -> Vec<Vec<String>> {
        // Files come from nowhere and go nowhere.
        let example = example.split([';', '#', '>', '<']).next().unwrap_or_default();
        let script = format!(
            "exec 3>&1; foreman() {{ printf '%s\\0' foreman \"$@\" '' >&3; }}
             xargs() {{ \"$@\" 01JD8Z6Q2M5V0R3N7K4T9W1XYA; }}; jq() {{ :; }}; {example}"
        );
        let ran = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(ran.status.success(), "{example}: {}", String::from_utf8_lossy(&ran.stderr));
        let called = String::from_utf8(ran.stdout).unwrap();
        let calls = called.split_terminator("\0\0");
        let calls: Vec<Vec<String>> =
            calls.map(|call| call.split('\0').map(str::to_owned).collect()).collect();
        assert!(!calls.is_empty(), "{example} calls nothing");
        calls
    }

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
