//! How long nothing is claimed after a job had to be handed back for the host's sake: longer with each time in a row, until
//! Ollama answers a job's own request. That it answers a look at its version proves too little: something in
//! between may let that pass and nothing else, and then jobs would be claimed and handed back without end. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// As long as an Ollama that is away is left alone between two looks.
const FIRST: Duration = Duration::from_secs(1);
/// An Ollama that is mended is found by the next job this much later at most.
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Pause {
    in_a_row: u32,
    until: Option<Instant>,
}

impl Pause {
    /// A job was handed back. Returns the pause that begins with it, unless one is on: requests that were under way
    /// together fail together.
    pub(crate) fn handed_back(&mut self, now: Instant) -> Option<Duration> {
        if self.until(now).is_some() {
            return None;
        }
        let pause = FIRST.saturating_mul(2u32.saturating_pow(self.in_a_row)).min(LONGEST);
        self.in_a_row += 1;
        self.until = Some(now + pause);
        Some(pause)
    }

    /// Ollama has answered a job's own request as Ollama does, well or badly.
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
            assert_eq!(pause.handed_back(now + length / 2), None, "it was under way together with the first");
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
