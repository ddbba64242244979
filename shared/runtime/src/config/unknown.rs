//! Finds variables that have Foreman's prefix, but that no process of Foreman reads. Most are typing errors, which would
//! otherwise go unnoticed.

use super::{Env, Setting};

const PREFIX: &str = "FOREMAN_";

/// A name that is at least this similar to a known name is probably a typing error.
const SIMILAR: f64 = 0.8;

impl Env {
    /// One line for each `FOREMAN_*` variable that no process of Foreman knows.
    pub fn unknown(&self, known: &[&[Setting]]) -> Vec<String> {
        let known: Vec<_> = known.iter().copied().flatten().map(|setting| setting.name).collect();
        self.names()
            .filter(|name| name.starts_with(PREFIX) && !is_service_link(name))
            .filter(|name| {
                !known.contains(&name.strip_suffix("_FILE").unwrap_or(name)) && !known.contains(name)
            })
            .map(|name| match nearest(name, &known) {
                Some(meant) => format!("{name} is set but unknown; {meant} was perhaps meant"),
                None => format!("{name} is set but unknown; it changes nothing"),
            })
            .collect()
    }
}

fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    known
        .iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), *candidate))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, candidate)| candidate)
}

/// Kubernetes sets such variables for every service. Those of a service named `foreman-api` have our prefix.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.contains("_PORT_")
}
