//! How long the worker claims nothing after it handed a job back because of the host. The pause grows with each time
//! in a row, until Ollama answers a job's own request. An answered look at Ollama's version does not end it: a proxy
//! in between may let looks pass but no jobs, and then jobs would be claimed and handed back without end. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// The same time that passes between two looks at an Ollama that is away.
const FIRST: Duration = Duration::from_secs(1);
/// When Ollama works again, the next job finds that out after this time at most.
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Pause {
    in_a_row: u32,
    until: Option<Instant>,
}

impl Pause {
    /// A job was handed back because of the host. Returns the pause that begins now. Returns `None` if one is on
    /// already: when several requests fail together, they count once.
    pub(crate) fn handed_back(&mut self, now: Instant) -> Option<Duration> {
        if self.until(now).is_some() {
            return None;
        }
        let pause = FIRST.saturating_mul(2u32.saturating_pow(self.in_a_row)).min(LONGEST);
        self.in_a_row += 1;
        self.until = Some(now + pause);
        Some(pause)
    }

    /// Ollama itself has answered a job's own request, with a result or with an error.
    pub(crate) fn answered(&mut self) {
        *self = Self::default();
    }

    /// When the pause ends, if one is on.
    pub(crate) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_every_job_is_handed_back_and_an_answer_ends_that() {
        let (mut pause, mut now) = (Pause::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..40 {
            let length = pause.handed_back(now).unwrap();
            assert_eq!(pause.handed_back(now + length / 2), None, "it failed together with the first");
            pauses.push(length.as_secs());
            now += length;
            assert_eq!(pause.until(now), None);
        }
        assert_eq!(pauses[..7], [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pauses[39], 30);
        pause.answered();
        assert_eq!(pause.handed_back(now), Some(FIRST));
    }
}
