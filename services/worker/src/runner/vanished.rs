//! Counts how often Ollama went away under each job, or something else answered in its place. A job under which that
//! keeps happening may be the cause, and would bring Ollama down again and again. A restart loses the counts, which
//! only gives such a job a few more tries. Pure.

use foreman_store::JobId;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

/// With more jobs than this, forget those that met the trouble longest ago. Few jobs meet it, so the limit only bounds
/// memory.
const MAX_JOBS: u64 = 4_096;

#[derive(Debug)]
pub(crate) struct Vanished(Cache<JobId, u32>);

impl Default for Vanished {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_JOBS).eviction_policy(EvictionPolicy::lru()).build())
    }
}

impl Vanished {
    /// Ollama went away while it had this job's own request. Returns how often that has happened, this time included.
    pub(crate) fn under(&mut self, job: JobId) -> u32 {
        let times = self.0.get(&job).unwrap_or(0) + 1;
        self.0.insert(job, times);
        times
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
