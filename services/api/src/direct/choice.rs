//! Which hosts may answer a request that names a model.

use foreman_ollama::ModelName;

use super::hosts;
use crate::app::App;

pub(super) struct Choice {
    /// For each host, the addresses of its workers.
    pub(super) hosts: Vec<Vec<String>>,
    /// The model's name as Ollama shows it. `None` if no host has it.
    pub(super) label: Option<String>,
    /// Whether each of the hosts lists what the model can do, and none lists that it embeds. An Ollama that lists nothing embeds
    /// with every model.
    pub(super) may_not_embed: bool,
}

/// The hosts that have a model. If none has it, these are all hosts: the Ollama of any host then says so in its own words.
pub(super) async fn hosts_for(app: &App, model: &str) -> Choice {
    let mut hosts = hosts::urls(&app.workers);
    let listed = app.direct.tags.latest(&app.workers).await;
    let name = ModelName::parse(model).ok();
    let entry = |host: &str| {
        let name = name.as_ref()?;
        listed.get(host)?.iter().find(|entry| entry.is(name))
    };
    let label = hosts.keys().find_map(|host| entry(host)).map(|entry| entry.name().to_owned());
    if label.is_some() {
        hosts.retain(|host, _| entry(host).is_some());
    }
    let listed_without = |host: &String| {
        let capabilities = entry(host).and_then(|entry| entry.capabilities.as_ref());
        capabilities.is_some_and(|all| all.iter().all(|one| one != "embedding"))
    };
    let may_not_embed = label.is_some() && hosts.keys().all(listed_without);
    Choice { hosts: hosts.into_values().collect(), label, may_not_embed }
}
