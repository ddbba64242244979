//! Asks Postgres the decider's questions, and logs those that fail.

use foreman_runtime::{background_error, stalls};
use foreman_store::{OwnLease, Store, StoreError, WorkerId};

use super::decider::claims::{Question, Reply};

pub(super) async fn ask(store: Store, question: Question) -> Reply {
    stalls::round("claim", stalls::USUAL, answer(&store, question)).await.unwrap_or_else(|error| {
        let may_have_claimed = error.outcome_is_unknown();
        background_error!("claim", error);
        Reply::Failed { may_have_claimed }
    })
}

async fn answer(store: &Store, question: Question) -> Result<Reply, StoreError> {
    Ok(match question {
        Question::Jobs { holder, spell, order } => {
            let jobs = store.claim(&holder, &order.offers, order.limit, order.permit).await?;
            Reply::Claimed { order, spell, jobs }
        }
        Question::Say { host, word } => {
            let load_keys: Vec<&str> = word.load_keys.iter().map(|key| key.as_str()).collect();
            let said = store.intend(&host, word.base.as_str(), word.seen, &load_keys, word.at_least).await?;
            Reply::Said { host, word, number: said }
        }
        Question::OwnLeases { worker, known } => {
            Reply::OwnLeases { known, leases: own_leases(store, worker).await? }
        }
    })
}

/// Drops the leases whose job has lost its request, and returns all other leases of this worker.
async fn own_leases(store: &Store, worker: WorkerId) -> Result<Vec<OwnLease>, StoreError> {
    for job in store.drop_leases_without_request(worker).await? {
        tracing::error!(job.id = %job, "a lease was dropped, because the job's request is gone from Postgres");
    }
    store.own_leases(worker).await
}
