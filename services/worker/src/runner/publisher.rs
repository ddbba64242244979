//! Publishes the host's plan: what the floor last said of it, at most once a second, while this worker holds the host.
//! Reads the terms of clients for the plan as well.

use std::sync::Arc;
use std::time::Duration;

use foreman_ollama::{Client, Context, LoadKey, RunningModel};
use foreman_runtime::{background_error, stalls};
use foreman_store::{Holder, HostPlan, MeasuredContext};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::load::listed;
use super::signal::Signal;
use crate::worker::Worker;

/// The time between two publications. People look at them.
const REST: Duration = Duration::from_secs(1);

/// How often to read the terms of clients. So long a change of them takes until it is in force.
const TERMS: Duration = Duration::from_secs(5);

pub(crate) async fn run(
    worker: Arc<Worker>,
    mut holder: watch::Receiver<Option<Holder>>,
    mut plans: watch::Receiver<HostPlan>,
    signals: mpsc::UnboundedSender<Signal>,
) {
    let mut terms_at = Instant::now() + TERMS;
    loop {
        let Ok(Some(held)) = holder.wait_for(Option::is_some).await.map(|held| held.clone()) else { return };
        if Instant::now() >= terms_at {
            terms_at = Instant::now() + TERMS;
            tell_terms(&worker, &signals).await;
        }
        if plans.has_changed().is_ok_and(|changed| changed) {
            let plan = plans.borrow_and_update().clone();
            let publish = worker.store.publish_plan(&held, &plan);
            if let Err(error) = stalls::round("plan", stalls::USUAL, publish).await {
                background_error!("plan", error);
                plans.mark_changed();
            }
        }
        sleep(REST).await;
    }
}

async fn tell_terms(worker: &Worker, signals: &mpsc::UnboundedSender<Signal>) {
    match stalls::round("plan", stalls::USUAL, worker.store.client_terms()).await {
        // Sending fails only when the floor has ended.
        Ok(terms) => _ = signals.send(Signal::Agreed(terms)),
        Err(error) => background_error!("plan", error),
    }
}

/// Tells the floor, before it claims anything, the terms of clients and what the holder before this one has published,
/// as far as Ollama confirms it. Nothing waits for what cannot be read.
pub(super) async fn remember(
    worker: &Worker,
    host: &str,
    ollama: &Client,
    signals: &mpsc::UnboundedSender<Signal>,
) {
    tell_terms(worker, signals).await;
    match stalls::round("plan", stalls::USUAL, worker.store.host_plan(host)).await {
        Ok(Some(plan)) => {
            let plan = confirmed(plan, &listed(ollama).await);
            // Sending fails only when the floor has ended.
            _ = signals.send(Signal::Remembered(Box::new(plan)));
        }
        Ok(None) => {}
        Err(error) => background_error!("plan", error),
    }
}

/// The plan, with what may have changed since taken out: what is loaded, unless Ollama lists it, and the automatic
/// lengths, because another Ollama may have another one. If Ollama still has the runner that has the turn, with the context
/// that we gave it, it is the same one.
fn confirmed(mut plan: HostPlan, loaded: &[RunningModel]) -> HostPlan {
    let turn = plan.turn.as_deref().and_then(|turn| turn.parse::<LoadKey>().ok());
    let listed = turn.as_ref().and_then(|turn| loaded.iter().find(|model| model.is(turn.model())));
    let listed = turn.as_ref().zip(listed.and_then(RunningModel::context));
    plan.loaded.retain(|runner| {
        let runner = runner.parse::<LoadKey>();
        runner.is_ok_and(|runner| loaded.iter().any(|model| model.is(runner.model())))
    });
    if listed.is_some_and(|(turn, length)| turn.context() == Context::Length(length)) {
        return plan;
    }
    plan.contexts.iter_mut().for_each(|context| context.automatic = None);
    if let Some((turn, length)) = listed.filter(|(turn, _)| turn.context() == Context::Automatic) {
        let automatic = Some(length);
        plan.contexts.retain(|context| context.load_key != turn.as_str());
        plan.contexts.push(MeasuredContext { load_key: turn.to_string(), automatic, longest: None });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> HostPlan {
        let context = |load_key: &str| MeasuredContext {
            load_key: load_key.to_owned(),
            automatic: Some(4_096),
            longest: Some(8_192),
        };
        HostPlan {
            turn: Some("a:latest".to_owned()),
            loaded: vec!["a:latest".to_owned()],
            contexts: vec![context("a:latest"), context("b:latest")],
            ..HostPlan::default()
        }
    }

    fn loaded(name: &str) -> RunningModel {
        serde_json::from_value(serde_json::json!({"name": name, "context_length": 2_048})).unwrap()
    }

    #[test]
    fn only_what_ollama_lists_is_taken_for_loaded_and_only_its_word_for_the_automatic_length() {
        let plan = confirmed(published(), &[loaded("A")]);
        assert!(plan.turn_is_loaded());
        let automatic = |nth: usize| (plan.contexts[nth].load_key.as_str(), plan.contexts[nth].automatic);
        assert_eq!([automatic(0), automatic(1)], [("b:latest", None), ("a:latest", Some(2_048))]);
        let of_length = |length: i64| HostPlan {
            turn: Some(format!("a:latest num_ctx={length}")),
            loaded: vec![format!("a:latest num_ctx={length}")],
            ..published()
        };
        assert_eq!(confirmed(of_length(2_048), &[loaded("a")]).contexts, published().contexts);
        let others = confirmed(of_length(8_192), &[loaded("a")]).contexts;
        assert!(others.iter().all(|context| context.automatic.is_none()), "Ollama has loaded it anew");
        assert!(!confirmed(published(), &[loaded("b")]).turn_is_loaded());
        assert!(!confirmed(published(), &[]).turn_is_loaded());
    }
}
