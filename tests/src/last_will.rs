//! What must happen even if this process is killed with SIGKILL: a shell waits for the end of a pipe that we alone hold.

use std::process::{Child, Command, Stdio};

/// A shell script that runs when the value is dropped, or when this process ends in whatever way.
#[derive(Debug)]
pub(crate) struct LastWill(Child);

impl LastWill {
    pub(crate) fn write(script: &str) -> Self {
        let shell = Command::new("sh")
            .args(["-c", &format!("trap '' INT TERM HUP; read -r _; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh can be started");
        Self(shell)
    }

    /// The script will not run.
    pub(crate) fn revoke(mut self) {
        // SIGKILL: the shell is gone before the pipe ends.
        self.0.kill().expect("the shell is our child");
    }
}

impl Drop for LastWill {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // An error means that there is no such child any more: it was revoked.
        let _ended = self.0.wait();
    }
}
