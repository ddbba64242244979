//! Under which jobs Ollama itself went away, or something else answered in its place. That costs no job an attempt; but a
//! job under which it happens again and again is taken for the cause, or it would bring Ollama down for ever. Pure; a
//! restart forgets, harmlessly.

use std::collections::HashMap;

use foreman_store::JobId;

/// From here on it counts as a failure of the job.
const TOO_OFTEN: u32 = 3;

/// Only jobs that are still queued matter, and of those few have met this. Past so many we begin anew.
const MOST_JOBS: usize = 4_096;

#[derive(Debug, Default)]
pub(crate) struct Vanished(HashMap<JobId, u32>);

impl Vanished {
    /// Ollama went away while this job's own request ran. Returns whether that has happened too often by now.
    pub(crate) fn too_often(&mut self, job: JobId) -> bool {
        if self.0.len() >= MOST_JOBS && !self.0.contains_key(&job) {
            self.0.clear();
        }
        let times = self.0.entry(job).or_default();
        *times += 1;
        *times >= TOO_OFTEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_job_under_which_ollama_goes_away_again_and_again_is_blamed() {
        let mut vanished = Vanished::default();
        let (one, other) = (JobId::generate(), JobId::generate());
        let blamed: Vec<bool> = (0..4).map(|_| vanished.too_often(one)).collect();
        assert_eq!(blamed, [false, false, true, true]);
        assert!(!vanished.too_often(other));
    }
}
