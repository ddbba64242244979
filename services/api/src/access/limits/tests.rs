//! What is let in between two counts. No Postgres is asked: each test writes down what a count would have found.

use foreman_store::ConnectOptions;
use tokio::time::advance;

use super::*;

const MAX: ClientBacklog = ClientBacklog { jobs: 100, bytes: 100_000 };

fn limits() -> QueueLimits {
    let store =
        Store::new(ConnectOptions::new("postgres://nobody@127.0.0.1:1/none", None, 1, false).unwrap());
    QueueLimits::new(store.clone(), MAX, StoredBytes::new(store, 0))
}

/// A client of whom a count has just found so many waiting jobs without bytes.
fn counted(jobs: u64) -> Arc<Tally> {
    let tally = Arc::new(Tally::default());
    *tally.estimate() = Estimate {
        waiting: ClientBacklog { jobs, bytes: 0 },
        counted_at: Some(Instant::now()),
        ..Estimate::default()
    };
    tally
}

impl QueueLimits {
    /// The places that are given until there is another verdict, which is the second value.
    fn let_in(&self, tally: &Arc<Tally>, bytes: u64) -> (Vec<Place>, Verdict) {
        let mut places = Vec::new();
        loop {
            match self.judge(tally, bytes) {
                Verdict::In(place) => places.push(place),
                verdict => return (places, verdict),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_never_counted_is_counted_first() {
    assert!(matches!(limits().judge(&Arc::default(), 1), Verdict::Count));
}

#[tokio::test(start_paused = true)]
async fn a_tenth_of_the_limit_is_let_in_before_the_next_count() {
    let (limits, tally) = (limits(), counted(0));
    let (places, then) = limits.let_in(&tally, 1);
    assert!(places.len() == 10 && matches!(then, Verdict::Count), "jobs: {}", places.len());
    let tally = counted(0);
    let (places, then) = limits.let_in(&tally, 2_500);
    assert!(places.len() == 4 && matches!(then, Verdict::Count), "bytes: {}", places.len());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_refused_by_a_count_that_is_good_for_a_second() {
    let (limits, tally) = (limits(), counted(98));
    let (places, then) = limits.let_in(&tally, 1);
    assert!(places.len() == 2 && matches!(then, Verdict::Full), "{}", places.len());
    advance(GOOD_FOR).await;
    assert!(matches!(limits.judge(&tally, 1), Verdict::Count));
}

#[tokio::test(start_paused = true)]
async fn only_a_job_that_was_not_accepted_gives_its_place_back() {
    let (limits, tally) = (limits(), counted(98));
    let (mut places, _full) = limits.let_in(&tally, 1);
    places[0].is_kept = true;
    drop(places);
    assert_eq!(tally.estimate().under_way, ClientBacklog::default());
    let (places, then) = limits.let_in(&tally, 1);
    assert!(places.len() == 1 && matches!(then, Verdict::Full), "{}", places.len());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_refused_by_a_count_that_may_have_seen_a_job_twice() {
    let (limits, tally) = (limits(), counted(100));
    tally.estimate().is_doubtful = true;
    assert!(matches!(limits.judge(&tally, 1), Verdict::Count));
}
