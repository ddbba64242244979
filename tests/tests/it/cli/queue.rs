//! `foreman queue` and `foreman top`: tables for people, the api's answer for programs, and a terminal that is given back
//! as it was.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use foreman_tests::{Api, Db, Pid, Signal, Worker, eventually};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::kill;
use nix::sys::termios::{Termios, tcgetattr};
use ollama_sim::{Config, Sim};
use serde_json::{Value, json};

use super::{foreman, program, stdout};
use crate::api::publish;

/// `foreman` on a terminal of its own.
struct OnTerminal {
    foreman: Child,
    keyboard: File,
    shown: Arc<Mutex<Vec<u8>>>,
    /// Our handle of the terminal, and how it was before.
    terminal: OwnedFd,
    before: Termios,
}

impl OnTerminal {
    fn start(api: &Api, arguments: &[&str]) -> Self {
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let [input, output, error, terminal] = [(); 4].map(|()| pty.slave.try_clone().unwrap());
        let mut command = Command::new(program());
        command.args(arguments).env("FOREMAN_URL", &api.url).env("TERM", "xterm");
        let foreman = command.stdin(input).stdout(output).stderr(error).spawn().unwrap();
        let mut screen = File::from(pty.master.try_clone().unwrap());
        let shown: Arc<Mutex<Vec<u8>>> = Arc::default();
        let to = Arc::clone(&shown);
        // Ends when the last handle of the terminal is closed.
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                to.lock().unwrap().extend(&bytes[..count]);
            }
        });
        let before = tcgetattr(&terminal).unwrap();
        Self { foreman, keyboard: pty.master.into(), shown, terminal, before }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    async fn shows(&self, text: &str) {
        eventually("a text on the screen", async || {
            let shown = self.shown();
            if shown.contains(text) { Ok(()) } else { Err(format!("no {text:?} in {shown:?}")) }
        })
        .await;
    }

    /// Waits for the end, and checks that the terminal is as it was.
    async fn ends_cleanly(mut self, why: &str) {
        let status = eventually("the end of foreman top", async || {
            self.foreman.try_wait().unwrap().ok_or_else(|| format!("{why}: {:?}", self.shown()))
        })
        .await;
        assert!(status.success(), "{why}: {status}");
        assert!(tcgetattr(&self.terminal).unwrap() == self.before, "{why}: the terminal is not as it was");
        // The cursor is shown again, and the screen of before comes back.
        self.shows("\u{1b}[?25h\u{1b}[?1049l").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn top_follows_the_queue_and_gives_the_terminal_back_as_it_was() {
    let db = Db::fresh().await;
    publish(&db).await;
    let api = Api::start(&db, &[]).await;
    let job = json!({ "model": "tiny-a", "prompt": "x" });
    for (nth, why) in ["q", "Ctrl-C", "SIGTERM"].into_iter().enumerate() {
        let mut top = OnTerminal::start(&api, &["top"]);
        top.shows("q ends it").await;
        api.submit(&job).await;
        top.shows(&format!("tiny-a:latest  {}  ", nth + 1)).await;
        assert!(tcgetattr(&top.terminal).unwrap() != top.before, "single keys are read");
        match why {
            "q" => top.keyboard.write_all(b"xq").unwrap(),
            "Ctrl-C" => top.keyboard.write_all(b"\x03").unwrap(),
            _ => kill(Pid::from_raw(top.foreman.id().try_into().unwrap()), Signal::SIGTERM).unwrap(),
        }
        top.ends_cleanly(why).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn top_says_that_the_api_is_away_and_goes_on_when_it_is_back() {
    let db = Db::fresh().await;
    publish(&db).await;
    let mut api = Api::start(&db, &[]).await;
    api.submit(&json!({ "model": "tiny-a", "prompt": "x" })).await;
    let mut top = OnTerminal::start(&api, &["top"]);
    top.shows("tiny-a:latest  1  ").await;
    api.process.kill().await;
    top.shows("The api is away; this is the last that it told.").await;
    top.shown.lock().unwrap().clear();
    api.process.start_again();
    top.shows("q ends it").await;
    top.keyboard.write_all(b"q").unwrap();
    top.ends_cleanly("after a restart of the api").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_a_table_for_people_and_the_answer_for_programs() {
    let db = Db::fresh().await;
    let sim = Sim::start(Config::default().models(["tiny-a"])).await.unwrap();
    let api = Api::start(&db, &[]).await;
    let _worker = Worker::start(&db, &sim.url(), &[]).await;
    let run = async |arguments: &[&str]| stdout(&foreman(arguments, &[("FOREMAN_URL", &api.url)]).await);
    let job = json!({ "model": "tiny-a", "prompt": "x sim:tokens=4 sim:token-delay=20ms" });
    for _ in 0..200 {
        api.submit(&job).await;
    }
    let queue = eventually("a turn", async || {
        let text = run(&["queue", "--json"]).await;
        let queue: Value = serde_json::from_str(&text).unwrap();
        if queue["hosts"][0]["turn"]["is_loaded"] == true { Ok(queue) } else { Err(text) }
    })
    .await;
    assert!(queue["models"][0]["queued"].is_u64());
    for command in ["queue", "top"] {
        let table = run(&[command]).await;
        for part in
            ["LONGEST WAIT", "loaded", "nobody waits for another one", "tiny-a:latest", "QUEUED", "GOT"]
        {
            assert!(table.contains(part), "{command}, {part}: {table}");
        }
        assert!(!table.contains('\u{1b}'), "{command} steers no terminal where there is none");
    }
}
