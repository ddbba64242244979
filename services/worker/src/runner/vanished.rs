//! Counts how often Ollama went away under each job, or something else answered in its place. A job under which that
//! keeps happening may be the cause, and would bring Ollama down again and again. A restart loses the counts, which
//! only gives such a job a few more tries. Pure.

use std::collections::HashMap;

use foreman_store::JobId;

/// With more jobs than this, forget all counts and start again. Few jobs meet this trouble, so the limit only bounds
/// memory.
const MAX_JOBS: usize = 4_096;

#[derive(Debug, Default)]
pub(crate) struct Vanished(HashMap<JobId, u32>);

impl Vanished {
    /// Ollama went away while it had this job's own request. Returns how often that has happened, this time included.
    pub(crate) fn under(&mut self, job: JobId) -> u32 {
        if self.0.len() >= MAX_JOBS && !self.0.contains_key(&job) {
            self.0.clear();
        }
        let times = self.0.entry(job).or_default();
        *times += 1;
        *times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_has_a_count_of_its_own() {
        let mut vanished = Vanished::default();
        let (one, other) = (JobId::generate(), JobId::generate());
        let times: Vec<u32> = (0..4).map(|_| vanished.under(one)).collect();
        assert_eq!(times, [1, 2, 3, 4]);
        assert_eq!(vanished.under(other), 1);
    }
}
