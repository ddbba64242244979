//! Reads of the database: each client has a quarter of the pool for them, and all together three quarters. The rest is
//! left to what keeps the service going.
//!
//! A read takes a connection for milliseconds, so that a client waits for its turn a little before it is told that it asks
//! for too much at once. A page of a list takes several, much of them on a processor: a client reads one page at a time and
//! rests after it, so that it never has more than a quarter of one processor for them.

use std::sync::Arc;
use std::time::Duration;

use foreman_store::ClientId;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::each_client::EachClient;
use crate::access::shares::{Bounds, Held, Resource, Shares};
use crate::refusal::Refusal;

const READS: Resource = Resource {
    name: "reads",
    code: "too_many_reads",
    error: "this client reads more at once than one client may; ask less often, or for smaller pages",
};

/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long an answer that has begun waits for the next piece of it: to break it off would cost more than to wait.
const PATIENCE_MIDWAY: Duration = Duration::from_secs(60);

/// After a page its client gets no other for this many times what that one took.
const REST: u32 = 3;

/// The turns of all clients at the database.
pub(crate) struct Reads {
    part: usize,
    /// The turns of each client.
    of_clients: EachClient<Semaphore>,
    /// When the next page of each client may be read.
    pages: EachClient<Mutex<Instant>>,
    all: Arc<Semaphore>,
    shares: Shares,
}

/// The right to one read at a time; ends when dropped.
pub(crate) struct Turn {
    _held: Held,
    _of_all: OwnedSemaphorePermit,
    _of_client: OwnedSemaphorePermit,
}

/// The right to read a page; ends when dropped, and then the client's rest begins.
pub(crate) struct PageTurn {
    _turn: Turn,
    began: Instant,
    next: OwnedMutexGuard<Instant>,
}

impl Drop for PageTurn {
    fn drop(&mut self) {
        *self.next = Instant::now() + self.began.elapsed() * REST;
    }
}

impl Reads {
    /// For a pool of so many connections.
    pub(crate) fn new(pool: usize) -> Self {
        let part = (pool / 4).max(1);
        let whole = (pool - part).max(1);
        let bounds = Bounds { whole, part, reserve: 0, small: 0 };
        Self {
            part,
            of_clients: EachClient::default(),
            pages: EachClient::default(),
            all: Arc::new(Semaphore::new(whole)),
            shares: Shares::new(READS, bounds),
        }
    }

    /// Waits for this client's turn.
    pub(crate) async fn turn(&self, client: ClientId) -> Result<Turn, Refusal> {
        self.turn_before(client, Instant::now() + PATIENCE).await
    }

    /// The same in the middle of an answer.
    pub(crate) async fn turn_midway(&self, client: ClientId) -> Result<Turn, Refusal> {
        self.turn_before(client, Instant::now() + PATIENCE_MIDWAY).await
    }

    /// Waits for this client's turn to read a page of a list.
    pub(crate) async fn page_turn(&self, client: ClientId) -> Result<PageTurn, Refusal> {
        let deadline = Instant::now() + PATIENCE;
        let pages = self.pages.of(client, || Mutex::new(Instant::now()));
        let rested = async {
            let next = pages.lock_owned().await;
            sleep_until(*next).await;
            next
        };
        let Ok(next) = timeout_at(deadline, rested).await else {
            return Err(self.shares.refusals().part_is_used());
        };
        let turn = self.turn_before(client, deadline).await?;
        Ok(PageTurn { _turn: turn, began: Instant::now(), next })
    }

    async fn turn_before(&self, client: ClientId, deadline: Instant) -> Result<Turn, Refusal> {
        let refusals = self.shares.refusals();
        // First the client's own line: whoever stands in it keeps no other client waiting.
        let of_client = self.of_clients.of(client, || Semaphore::new(self.part));
        let Ok(Ok(of_client)) = timeout_at(deadline, of_client.acquire_owned()).await else {
            return Err(refusals.part_is_used());
        };
        let Ok(Ok(of_all)) = timeout_at(deadline, Arc::clone(&self.all).acquire_owned()).await else {
            return Err(refusals.whole_is_used());
        };
        Ok(Turn { _held: self.shares.take(client, 1)?, _of_all: of_all, _of_client: of_client })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(answer: Result<Turn, Refusal>) -> &'static str {
        answer.err().map_or("a turn", |refusal| refusal.code())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_much_waits_for_itself_and_nobody_else_does() {
        let reads = Reads::new(8);
        let clients: [ClientId; 4] = std::array::from_fn(|_| ClientId::generate());
        let mut turns = Vec::new();
        for client in &clients[..3] {
            for _ in 0..2 {
                turns.push(reads.turn(*client).await.unwrap_or_else(|_| panic!("it has two")));
            }
            if *client == clients[0] {
                assert_eq!(code(reads.turn(*client).await), "too_many_reads");
                assert_eq!(code(reads.turn(clients[3]).await), "a turn", "another client's is its own");
            }
        }
        assert_eq!(code(reads.turn(clients[3]).await), "busy", "three clients have all that reads may have");
        let (next, ()) = tokio::join!(reads.turn(clients[0]), async { drop(turns.remove(0)) });
        assert_eq!(code(next), "a turn", "whoever waits has the first that is given back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_rests_between_pages_and_reads_other_things_meanwhile() {
        let reads = Reads::new(8);
        let (client, other) = (ClientId::generate(), ClientId::generate());
        let turn = reads.page_turn(client).await;
        tokio::time::advance(Duration::from_millis(10)).await;
        drop(turn);
        let over = Instant::now();
        assert!(reads.turn(client).await.is_ok() && reads.page_turn(other).await.is_ok());
        assert_eq!(over.elapsed(), Duration::ZERO);
        let next = reads.page_turn(client).await;
        assert!(next.is_ok());
        assert_eq!(over.elapsed(), Duration::from_millis(30));
        let refused = reads.page_turn(client).await.err().map(|refusal| refusal.code());
        assert_eq!(refused, Some("too_many_reads"), "one page at a time");
    }
}
