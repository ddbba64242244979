//! Tests which jobs are let in between two counts. They need no Postgres: each test writes the result of a count itself.

use foreman_store::ConnectOptions;
use tokio::time::advance;

use super::*;

const MAX: ClientBacklog = ClientBacklog { jobs: 100, bytes: 100_000 };

/// A store that reaches no Postgres.
pub(crate) fn store_without_postgres() -> Store {
    Store::new(ConnectOptions::new("postgres://nobody@127.0.0.1:1/none", None, 1, false).unwrap())
}

fn limits() -> QueueLimits {
    let store = store_without_postgres();
    QueueLimits::new(store.clone(), MAX, StoredBytes::new(store, 0))
}

/// The admission of a client's only job, and a function that counts the client's jobs.
pub(crate) fn admission() -> (Admission, impl Fn() -> u64) {
    let (limits, queue) = (limits(), counted(0));
    let QueueCheck::Reserved(reservation) = limits.check(&queue, 0) else { panic!("the queue is empty") };
    let stored = stored::tests::no_bytes(store_without_postgres());
    (Admission { queue: reservation, stored }, move || queue.estimate().waiting.jobs)
}

/// A client's queue that was counted just now, with this many waiting jobs of no bytes.
fn counted(jobs: u64) -> Arc<ClientQueue> {
    let queue = Arc::new(ClientQueue::default());
    *queue.estimate() = Estimate {
        waiting: ClientBacklog { jobs, bytes: 0 },
        counted_at: Some(Instant::now()),
        ..Estimate::default()
    };
    queue
}

impl QueueLimits {
    /// Reserves room until a check says something else. Returns the reservations and this last check.
    fn let_in(&self, queue: &Arc<ClientQueue>, bytes: u64) -> (Vec<QueueReservation>, QueueCheck) {
        let mut reservations = Vec::new();
        loop {
            match self.check(queue, bytes) {
                QueueCheck::Reserved(reservation) => reservations.push(reservation),
                check => return (reservations, check),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_never_counted_is_counted_first() {
    assert!(matches!(limits().check(&Arc::default(), 1), QueueCheck::CountFirst));
}

#[tokio::test(start_paused = true)]
async fn a_tenth_of_the_limit_is_let_in_before_the_next_count() {
    let (limits, queue) = (limits(), counted(0));
    let (reservations, then) = limits.let_in(&queue, 1);
    assert!(
        reservations.len() == 10 && matches!(then, QueueCheck::CountFirst),
        "jobs: {}",
        reservations.len()
    );
    let queue = counted(0);
    let (reservations, then) = limits.let_in(&queue, 2_500);
    assert!(
        reservations.len() == 4 && matches!(then, QueueCheck::CountFirst),
        "bytes: {}",
        reservations.len()
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_refused_and_counted_again_after_a_second() {
    let (limits, queue) = (limits(), counted(98));
    let (reservations, then) = limits.let_in(&queue, 1);
    assert!(reservations.len() == 2 && matches!(then, QueueCheck::Full), "{}", reservations.len());
    advance(GOOD_FOR).await;
    assert!(matches!(limits.check(&queue, 1), QueueCheck::CountFirst));
}

#[tokio::test(start_paused = true)]
async fn only_a_job_that_was_not_accepted_gives_its_room_back() {
    let (limits, queue) = (limits(), counted(98));
    let (mut reservations, _full) = limits.let_in(&queue, 1);
    reservations[0].is_kept = true;
    drop(reservations);
    assert_eq!(queue.estimate().under_way, ClientBacklog::default());
    let (reservations, then) = limits.let_in(&queue, 1);
    assert!(reservations.len() == 1 && matches!(then, QueueCheck::Full), "{}", reservations.len());
}

#[tokio::test(start_paused = true)]
async fn a_count_that_may_include_a_job_twice_refuses_nobody() {
    let (limits, queue) = (limits(), counted(100));
    queue.estimate().is_doubtful = true;
    assert!(matches!(limits.check(&queue, 1), QueueCheck::CountFirst));
}
