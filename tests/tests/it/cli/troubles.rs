//! Whatever is wrong, the command line says it in one sentence with the mend, and its exit code tells the kind.

use foreman_tests::{Api, Db, Receiver, ReceiverAnswer, free_port};

use super::{foreman, sentence, stderr, stdout};

/// An id of no job.
const JOB: &str = "01JD8Z6Q2M5V0R3N7K4T9W1XYA";

/// Every command that talks to the api.
const COMMANDS: [&[&str]; 7] = [
    &["submit", "--model", "m", "hello"],
    &["submit", "--file", "Cargo.toml"],
    &["watch", JOB],
    &["jobs"],
    &["deliveries", JOB],
    &["cancel", JOB],
    &["retry", JOB],
];

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_not_there_is_named_with_the_mend() {
    let url = format!("http://127.0.0.1:{}", free_port());
    for command in COMMANDS {
        let output = foreman(command, &[("FOREMAN_URL", &url)]).await;
        if command.contains(&"--file") {
            // No line of this file is a job, so that nobody is asked.
            assert_eq!(output.status.code(), Some(6), "{command:?}");
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let said = sentence(&output);
        assert!(said.contains(&url) && said.contains("foreman up") && said.contains("FOREMAN_URL"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn something_else_at_that_address_is_no_foreman() {
    for kind in 0..3 {
        let receiver = Receiver::answering(move |_, _| match kind {
            0 => ReceiverAnswer::Status(200),
            1 => ReceiverAnswer::Status(404),
            _ => ReceiverAnswer::Redirect("http://127.0.0.1:9/".to_owned()),
        })
        .await;
        let url = receiver.url("");
        for command in COMMANDS.into_iter().filter(|command| !command.contains(&"--file")) {
            let output = foreman(command, &[("FOREMAN_URL", &url)]).await;
            assert_eq!(output.status.code(), Some(1), "{command:?}");
            let said = sentence(&output);
            assert!(
                said.contains("is not Foreman's api") && said.contains("FOREMAN_URL"),
                "{command:?}: {said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_does_not_exist_is_said_not_to() {
    let db = Db::fresh().await;
    let api = Api::start(&db, &[]).await;
    for command in ["watch", "deliveries", "cancel", "retry"] {
        let output = foreman(&[command, JOB], &[("FOREMAN_URL", &api.url)]).await;
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(sentence(&output).contains("there is no such job"), "{}", sentence(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_missing_or_wrong_is_named() {
    let db = Db::fresh().await;
    let api = Api::start(&db, &[("FOREMAN_AUTH", "required")]).await;
    for key in [&[][..], &[("FOREMAN_API_KEY", "wrong")]] {
        for command in COMMANDS.into_iter().filter(|command| !command.contains(&"--file")) {
            let settings = [&[("FOREMAN_URL", api.url.as_str())], key].concat();
            let output = foreman(command, &settings).await;
            assert_eq!(output.status.code(), Some(1), "{command:?}");
            assert!(sentence(&output).contains("FOREMAN_API_KEY"), "{}", sentence(&output));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_and_settings_are_misuse() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let arguments: [&[&str]; 19] = [
        &[],
        &["submit"],
        &["submit", "hello"],
        &["submit", "--model", "m"],
        &["submit", "--model", "m", "hello", "--priority", "high"],
        &["submit", "--model", "m", "hello", "--metadata", "{"],
        &["submit", "--model", "m", "hello", "--run", "x"],
        &["submit", "--file", "x", "hello"],
        &["submit", "--file", "x", "--wait"],
        &["submit", "--file", "x", "--idempotency-key", "k"],
        &["submit", "--model", "x", "--user", " ", "hello"],
        &["watch"],
        &["watch", ".."],
        &["cancel", JOB, "x"],
        &["jobs", "--state", "sleeping"],
        &["jobs", "--limit", "0"],
        &["cancel"],
        &["retry"],
        &["completions", "tcl"],
    ];
    for arguments in arguments {
        let output = foreman(arguments, &[("FOREMAN_URL", &nobody)]).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
    for setting in
        [("FOREMAN_URL", "127.0.0.1:8080"), ("FOREMAN_URL", "ftp://x"), ("FOREMAN_API_KEY", "two\nlines")]
    {
        let output = foreman(&["jobs"], &[setting]).await;
        assert_eq!(output.status.code(), Some(2), "{setting:?}");
        assert!(sentence(&output).starts_with(&format!("foreman: {}", setting.0)), "{}", sentence(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_is_named() {
    for file in ["/not/there", "/tmp"] {
        for command in [&["submit", "--file", file][..], &["submit", "--model", "m", "--messages", file]] {
            let output = foreman(command, &[]).await;
            assert_eq!(output.status.code(), Some(1), "{command:?}");
            assert!(sentence(&output).contains("cannot be read"), "{}", sentence(&output));
        }
    }
}
