//! The answer of an ended job as Postgres has it, for a call that did not get it from a worker.

use foreman_live::{End, Frame, Head};
use foreman_store::{ClientId, JobId, JobState, Scope, Store, StoreError, artifact_piece};
use foreman_webhook::event::COMPLETION;

/// Reads a stored answer as frames. It is read from the beginning of the call's answer, so a call that has got some of it from
/// a worker goes on where it was.
pub(crate) struct Stored {
    store: Store,
    client: ClientId,
    job: JobId,
    /// The attempt that brought the answer.
    pub(crate) attempt: i32,
    size: u64,
    head: Option<Head>,
}

/// A job that has ended.
pub(crate) struct Ended {
    /// Its last attempt.
    pub(crate) attempt: i32,
    pub(crate) outcome: Outcome,
}

pub(crate) enum Outcome {
    Answer(Box<Stored>),
    /// There is no answer.
    None(End),
}

/// How a job has ended. `None` if it has not.
pub(crate) async fn ended(store: &Store, client: ClientId, job: JobId) -> Result<Option<Ended>, StoreError> {
    let scope = Scope::Client(client);
    let gone = || Some(Ended { attempt: 0, outcome: Outcome::None(End::Cancelled) });
    let Some(view) = store.job(scope, job, 0).await? else { return Ok(gone()) };
    let attempt = view.attempt;
    let outcome = match view.state {
        JobState::Done => {
            let completion = view.artifacts.into_iter().find(|artifact| artifact.name == COMPLETION);
            let Some(completion) = completion else { return Ok(gone()) };
            let (size, content_type) = (completion.size.unsigned_abs(), Some(completion.content_type));
            let head = Head { status: 200, content_type, content_length: Some(size) };
            let store = store.clone();
            Outcome::Answer(Box::new(Stored { store, client, job, attempt, size, head: Some(head) }))
        }
        JobState::Failed => Outcome::None(End::Failed {
            code: view.error_code.unwrap_or_default(),
            error: view.error.unwrap_or_default(),
            said: false,
        }),
        JobState::Cancelled => Outcome::None(End::Cancelled),
        JobState::Expired => Outcome::None(End::Expired),
        JobState::Queued | JobState::Loading | JobState::Working => return Ok(None),
    };
    Ok(Some(Ended { attempt, outcome }))
}

impl Stored {
    /// The next frame after `given` bytes of the answer.
    pub(crate) async fn next(&mut self, given: u64) -> Result<Frame, StoreError> {
        if let Some(head) = self.head.take() {
            return Ok(Frame::Head(head));
        }
        let length = artifact_piece(self.size).min(self.size.saturating_sub(given));
        if length == 0 {
            return Ok(Frame::End(End::Done));
        }
        let scope = Scope::Client(self.client);
        let part = self.store.artifact_part(scope, self.job, COMPLETION, given, length).await?;
        Ok(match part {
            Some(part) if !part.is_empty() => Frame::Piece(part.into()),
            _ => Frame::End(End::Cancelled),
        })
    }
}
