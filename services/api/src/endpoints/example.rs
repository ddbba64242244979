//! Has a worker send an example to an endpoint, because an api never talks to receivers.

use std::time::Duration;

use foreman_live::{ENDPOINTS, ExampleSent};
use foreman_store::{EndpointId, JobState};
use reqwest::{Method, StatusCode};

use crate::access::auth::Caller;
use crate::app::App;
use crate::refusal::Refusal;

/// Longer than any receiver may take by FOREMAN_WEBHOOK_TIMEOUT, unless somebody raised that far.
const ANSWERED_WITHIN: Duration = Duration::from_secs(90);

/// Sends an example of the event `state`, and waits for the receiver's answer.
pub(crate) async fn send(
    app: &App,
    caller: &Caller,
    id: EndpointId,
    state: JobState,
) -> Result<ExampleSent, Refusal> {
    if app.store.endpoint(caller.scope(), id).await?.is_none() {
        return Err(Refusal::no_such_endpoint());
    }
    app.examples.count(caller.client)?;
    let path = format!("{ENDPOINTS}/{id}/example?state={state}");
    let workers = app.workers.addresses().borrow().clone();
    let mut why = None;
    for worker in workers {
        let request = app.workers.request(Method::POST, &worker.url, &path).timeout(ANSWERED_WITHIN);
        let answer = match request.send().await {
            Ok(answer) => answer,
            // It is dead, so the next one may.
            Err(error) if error.is_connect() => continue,
            // It may have sent the example. A second one would confuse the receiver's owner.
            Err(_) => return Err(unanswered()),
        };
        match answer.status() {
            StatusCode::OK => {
                let sent = answer.bytes().await.ok().and_then(|sent| serde_json::from_slice(&sent).ok());
                return sent.ok_or_else(unanswered);
            }
            StatusCode::SERVICE_UNAVAILABLE => why = answer.text().await.ok(),
            _ => {}
        }
    }
    Err(match why {
        Some(why) => Refusal::unavailable("example_unsent", format!("no example was sent: {why}")),
        None => Refusal::unavailable(
            "no_sender",
            "no worker that answers has the roles run and dispatch, which send examples; start one",
        ),
    })
}

fn unanswered() -> Refusal {
    let error = "the worker that sent the example gave no answer; look at the receiver, then try again";
    Refusal::unavailable("example_unanswered", error)
}
