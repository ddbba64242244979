//! Work that must happen even if this process is killed with SIGKILL: a shell waits for the end of a pipe that only
//! this process holds.

use std::process::{Child, Command, Stdio};

/// A shell script that runs when the value is dropped, or when this process ends for any reason.
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

    /// Makes sure that the script never runs.
    pub(crate) fn revoke(mut self) {
        // SIGKILL ends the shell before the pipe ends.
        self.0.kill().expect("the shell is our child");
    }
}

impl Drop for LastWill {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // An error means that the child is gone already, because it was revoked.
        let _ended = self.0.wait();
    }
}
