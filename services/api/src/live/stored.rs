//! The answer of an ended job as Postgres has it, for a call that did not get it from a worker.

use foreman_live::{End, Frame, Head};
use foreman_store::{ClientId, JobId, JobState, Scope, Store, StoreError};

/// The name of the artifact that is a job's answer.
pub(crate) const COMPLETION: &str = "completion";

/// A part of an answer that is read at once.
const PART: u64 = 1 << 20;

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

impl Stored {
    /// The end of a job. `None` if it has not ended.
    pub(crate) async fn of(
        store: &Store,
        client: ClientId,
        job: JobId,
    ) -> Result<Option<Result<Self, End>>, StoreError> {
        let scope = Scope::Client(client);
        let Some(view) = store.job(scope, job, 0).await? else { return Ok(Some(Err(End::Cancelled))) };
        Ok(match view.state {
            JobState::Done => {
                let head = store.artifact_head(scope, job, COMPLETION).await?;
                let Some(head) = head else { return Ok(Some(Err(End::Cancelled))) };
                let size = head.size.unsigned_abs();
                let head =
                    Head { status: 200, content_type: Some(head.content_type), content_length: Some(size) };
                Some(Ok(Self {
                    store: store.clone(),
                    client,
                    job,
                    attempt: view.attempt,
                    size,
                    head: Some(head),
                }))
            }
            JobState::Failed => Some(Err(End::Failed {
                code: view.error_code.unwrap_or_default(),
                error: view.error.unwrap_or_default(),
                said: false,
            })),
            JobState::Cancelled => Some(Err(End::Cancelled)),
            JobState::Expired => Some(Err(End::Expired)),
            JobState::Queued | JobState::Loading | JobState::Working => None,
        })
    }

    /// The next frame after `given` bytes of the answer.
    pub(crate) async fn next(&mut self, given: u64) -> Result<Frame, StoreError> {
        if let Some(head) = self.head.take() {
            return Ok(Frame::Head(head));
        }
        let length = PART.min(self.size.saturating_sub(given));
        if length == 0 {
            return Ok(Frame::End(End::Done));
        }
        // Postgres stores no artifact of 2 GiB.
        let (from, length) =
            (i32::try_from(given).unwrap_or(i32::MAX), i32::try_from(length).unwrap_or(i32::MAX));
        let part =
            self.store.artifact_part(Scope::Client(self.client), self.job, COMPLETION, from, length).await?;
        Ok(match part {
            Some(part) if !part.is_empty() => Frame::Piece(part.into()),
            _ => Frame::End(End::Cancelled),
        })
    }
}
