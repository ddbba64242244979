//! Gets Ollama's answer to the request of a job. A job of `/jobs` is joined into the one object that Ollama would have
//! answered unstreamed. A sync call is kept exactly as it comes, because its caller gets these bytes.
//!
//! Either way the answer can be followed live. Must never give out bytes that another attempt could contradict.

use std::time::Duration;

use bytes::Bytes;
use foreman_ollama::{Client, Failure, Generation, Join, Joined, Pieces, Pushed, Relay, Relayed, Route};
use foreman_store::Completion;
use tokio::time::{Instant, timeout, timeout_at};

use super::trouble::Trouble;
use crate::config::Limits;
use crate::stream::live::LiveAnswer;

/// How long to wait for the end of the response after the last piece of the answer. Reading to the end lets the client reuse
/// the connection for the next request.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Bytes of the answer that may wait to be read. We read each piece as soon as it comes, so pieces pile up only while this
/// machine is too busy to read them.
const MAX_UNREAD: usize = 4 << 20;

/// What becomes of the pieces of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeping {
    Joined,
    AsItCame,
}

/// A request on its way to Ollama.
pub(super) struct Asking<'a> {
    pub(super) route: Route,
    pub(super) keeping: Keeping,
    pub(super) limits: &'a Limits,
    pub(super) first_token_by: Instant,
    pub(super) live: &'a LiveAnswer,
    /// To call as soon as Ollama's answer has ended, before anything is done with it.
    pub(super) answered: &'a (dyn Fn() + Sync),
}

/// The answer while it comes.
struct Coming<'a> {
    asking: &'a Asking<'a>,
    generation: Generation,
    end_by: Instant,
    spoken: bool,
}

impl Asking<'_> {
    /// Sends the body exactly as it is stored.
    pub(super) async fn ask(&self, ollama: &Client, body: String) -> Result<Completion, Trouble> {
        let max_unread = self.limits.max_result.max(MAX_UNREAD);
        let generation = ollama.run(self.route, body, max_unread);
        let end_by = Instant::now() + self.limits.run_timeout;
        let mut coming = Coming { asking: self, generation, end_by, spoken: false };
        match self.keeping {
            Keeping::Joined => Ok(completion(coming.join().await?)),
            Keeping::AsItCame => coming.keep().await,
        }
    }
}

impl Coming<'_> {
    async fn join(&mut self) -> Result<Joined, Trouble> {
        let Asking { route, limits, live, answered, .. } = *self.asking;
        let mut join = Join::new(route, limits.max_result);
        let mut bytes = 0;
        loop {
            let line = self.next().await?.ok_or(Failure::EndedEarly)?;
            bytes += line.len();
            let pushed = join.push(&line)?;
            if pushed == Pushed::Last {
                answered();
            }
            if bytes > limits.max_result {
                live.is_too_long();
            } else {
                live.head(self.generation.head());
                live.push(line);
                live.give_out();
            }
            if pushed == Pushed::Last {
                break;
            }
        }
        // Nothing after `done` belongs to the answer, so the result of this read does not matter.
        _ = timeout(LAST_BYTES, self.generation.next()).await;
        Ok(join.finish()?)
    }

    async fn keep(&mut self) -> Result<Completion, Trouble> {
        let Asking { route, limits, live, answered, .. } = *self.asking;
        let mut bytes = 0;
        let mut relayed: Option<Relayed> = None;
        let mut next = self.next().await;
        loop {
            let piece = match next {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(trouble) => {
                    self.keep_error_answer();
                    return Err(trouble);
                }
            };
            bytes += piece.len();
            if bytes > limits.max_result {
                return Err(Failure::TooLarge { limit: limits.max_result }.into());
            }
            let head = self.generation.head();
            let is_stream = head.is_some_and(|head| head.pieces() != Pieces::Whole);
            live.head(head);
            let relayed = match (&mut relayed, head) {
                (Some(relayed), _) => relayed,
                (none, Some(head)) => none.insert(Relayed::new(route, head)),
                // A head comes before every piece.
                (None, None) => return Err(Failure::EndedEarly.into()),
            };
            match relayed.push(&piece) {
                Ok(relay) => {
                    if relay == Relay::Last {
                        answered();
                    }
                    live.push(piece);
                    if is_stream {
                        live.give_out();
                    }
                    next = match relay {
                        Relay::More => self.next().await,
                        Relay::Last => self.rest().await,
                    };
                }
                Err(failure) => {
                    live.push_error(piece);
                    return Err(failure.into());
                }
            }
        }
        let usage = relayed.ok_or(Failure::EndedEarly)?.finish()?;
        let content_type = self.generation.head().and_then(|head| head.content_type.clone());
        Ok(Completion {
            completion: live.bytes(),
            content_type: content_type.unwrap_or_else(|| "application/octet-stream".to_owned()),
            prompt_tokens: usage.prompt_tokens.and_then(|tokens| i64::try_from(tokens).ok()),
            completion_tokens: usage.completion_tokens.and_then(|tokens| i64::try_from(tokens).ok()),
        })
    }

    /// Ollama's error answer is the caller's answer, if no other attempt follows.
    fn keep_error_answer(&self) {
        let live = self.asking.live;
        if let Some(body) = self.generation.error_body() {
            live.head(self.generation.head());
            live.push_error(Bytes::clone(body));
        }
    }

    /// The next piece, within the limits of time.
    async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        let Asking { limits, first_token_by, .. } = *self.asking;
        let word_by = if self.spoken { Instant::now() + limits.idle_timeout } else { first_token_by };
        match timeout_at(word_by.min(self.end_by), self.generation.next()).await {
            Ok(piece) => {
                let piece = piece?;
                self.spoken = true;
                Ok(piece)
            }
            Err(_elapsed) if self.end_by <= word_by => Err(Trouble::too_long(limits.run_timeout)),
            Err(_elapsed) if self.spoken => Err(Trouble::no_further_token(limits.idle_timeout)),
            Err(_elapsed) => Err(Trouble::no_token(limits.load_timeout)),
        }
    }

    /// What still comes after the piece that makes the answer complete. It is complete without that, too.
    async fn rest(&mut self) -> Result<Option<Bytes>, Trouble> {
        Ok(timeout(LAST_BYTES, self.generation.next()).await.ok().and_then(Result::ok).flatten())
    }
}

fn completion(joined: Joined) -> Completion {
    let count = |tokens: u64| i64::try_from(tokens).ok();
    Completion {
        prompt_tokens: count(joined.metrics.prompt_eval_count),
        completion_tokens: count(joined.metrics.eval_count),
        completion: joined.body.into_bytes(),
        content_type: "application/json".to_owned(),
    }
}
