//! Limits how many reads of the database run at once: a quarter of the pool for each client, three quarters for all clients
//! together. The service's own tasks use the rest of the pool.
//!
//! A read takes a connection for a few milliseconds only, so a request waits a little for its permit before it is refused. A
//! page of a list takes longer, and much of this time is spent on a processor. So a client reads one page at a time and rests
//! afterwards, and its pages never use more than a quarter of one processor.

use std::sync::Arc;
use std::time::Duration;

use foreman_store::ClientId;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::each_client::EachClient;
use crate::access::shares::{Bounds, Holding, Resource, Shares};
use crate::refusal::Refusal;

const READS: Resource = Resource {
    name: "reads",
    code: "too_many_reads",
    error: "this client reads more at once than one client may; ask less often, or for smaller pages",
};

/// A request waits this long for its permit.
const PATIENCE: Duration = Duration::from_secs(2);

/// An answer that has begun waits this long for a permit to read its next piece, because to break it off would cost more.
const PATIENCE_MIDWAY: Duration = Duration::from_secs(60);

/// After a page, its client rests for this many times as long as the page took.
const REST: u32 = 3;

/// Hands out the permits to read from the database.
pub(crate) struct Reads {
    /// Permits per client.
    part: usize,
    of_clients: EachClient<Semaphore>,
    /// Per client: the moment from which its next page may be read.
    pages: EachClient<Mutex<Instant>>,
    all: Arc<Semaphore>,
    shares: Shares,
}

/// Permission for one read of the database. Dropping it gives it back.
pub(crate) struct ReadPermit {
    _held: Holding,
    _of_all: OwnedSemaphorePermit,
    _of_client: OwnedSemaphorePermit,
}

/// Permission to read one page of a list. Dropping it gives it back and begins the client's rest.
pub(crate) struct PagePermit {
    _permit: ReadPermit,
    began: Instant,
    next: OwnedMutexGuard<Instant>,
}

impl Drop for PagePermit {
    fn drop(&mut self) {
        *self.next = Instant::now() + self.began.elapsed() * REST;
    }
}

impl Reads {
    /// `pool` is the number of connections in the pool.
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

    /// Waits for a permit, or refuses when none is free in time.
    pub(crate) async fn permit(&self, client: ClientId) -> Result<ReadPermit, Refusal> {
        self.permit_before(client, Instant::now() + PATIENCE).await
    }

    /// The same as [`permit`](Self::permit), in the middle of an answer.
    pub(crate) async fn permit_midway(&self, client: ClientId) -> Result<ReadPermit, Refusal> {
        self.permit_before(client, Instant::now() + PATIENCE_MIDWAY).await
    }

    /// Waits for a permit to read a page of a list, and for the end of this client's rest.
    pub(crate) async fn page_permit(&self, client: ClientId) -> Result<PagePermit, Refusal> {
        self.page_permit_before(client, Instant::now() + PATIENCE).await
    }

    /// The same as [`page_permit`](Self::page_permit), in the middle of work that reads page after page.
    pub(crate) async fn page_permit_midway(&self, client: ClientId) -> Result<PagePermit, Refusal> {
        self.page_permit_before(client, Instant::now() + PATIENCE_MIDWAY).await
    }

    async fn page_permit_before(&self, client: ClientId, deadline: Instant) -> Result<PagePermit, Refusal> {
        let pages = self.pages.of(client, || Mutex::new(Instant::now()));
        let rested = async {
            let next = pages.lock_owned().await;
            sleep_until(*next).await;
            next
        };
        let Ok(next) = timeout_at(deadline, rested).await else {
            return Err(self.shares.refusals().part_is_used());
        };
        let permit = self.permit_before(client, deadline).await?;
        Ok(PagePermit { _permit: permit, began: Instant::now(), next })
    }

    async fn permit_before(&self, client: ClientId, deadline: Instant) -> Result<ReadPermit, Refusal> {
        let refusals = self.shares.refusals();
        // Take the client's own permit first, so that a request which waits for it keeps no other client waiting.
        let of_client = self.of_clients.of(client, || Semaphore::new(self.part));
        let Ok(Ok(of_client)) = timeout_at(deadline, of_client.acquire_owned()).await else {
            return Err(refusals.part_is_used());
        };
        let Ok(Ok(of_all)) = timeout_at(deadline, Arc::clone(&self.all).acquire_owned()).await else {
            return Err(refusals.whole_is_used());
        };
        Ok(ReadPermit { _held: self.shares.take(client, 1)?, _of_all: of_all, _of_client: of_client })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(answer: Result<ReadPermit, Refusal>) -> &'static str {
        answer.err().map_or("a permit", |refusal| refusal.code())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_much_makes_only_itself_wait() {
        let reads = Reads::new(8);
        let clients: [ClientId; 4] = std::array::from_fn(|_| ClientId::generate());
        let mut permits = Vec::new();
        for client in &clients[..3] {
            for _ in 0..2 {
                permits.push(reads.permit(*client).await.unwrap_or_else(|_| panic!("it has two")));
            }
            if *client == clients[0] {
                assert_eq!(code(reads.permit(*client).await), "too_many_reads");
                assert_eq!(code(reads.permit(clients[3]).await), "a permit", "another client's is its own");
            }
        }
        assert_eq!(code(reads.permit(clients[3]).await), "busy", "three clients use all permits");
        let (next, ()) = tokio::join!(reads.permit(clients[0]), async { drop(permits.remove(0)) });
        assert_eq!(code(next), "a permit", "a waiting request gets the first permit that is given back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_rests_between_pages_and_reads_other_things_meanwhile() {
        let reads = Reads::new(8);
        let (client, other) = (ClientId::generate(), ClientId::generate());
        let permit = reads.page_permit(client).await;
        tokio::time::advance(Duration::from_millis(10)).await;
        drop(permit);
        let over = Instant::now();
        assert!(reads.permit(client).await.is_ok() && reads.page_permit(other).await.is_ok());
        assert_eq!(over.elapsed(), Duration::ZERO);
        let next = reads.page_permit(client).await;
        assert!(next.is_ok());
        assert_eq!(over.elapsed(), Duration::from_millis(30));
        let refused = reads.page_permit(client).await.err().map(|refusal| refusal.code());
        assert_eq!(refused, Some("too_many_reads"), "one page at a time");
        // That page took two seconds. Its rest is longer than a request waits.
        drop(next);
        assert!(reads.page_permit(client).await.is_err());
        assert!(reads.page_permit_midway(client).await.is_ok());
    }
}
