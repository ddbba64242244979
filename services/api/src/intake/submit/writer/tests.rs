//! Tests what the writer replies, without Postgres. The suite tests the same against a Postgres that refuses a job or breaks
//! connections (`tests/tests/it/api/flushing.rs`).

use foreman_runtime::Shutdown;

use super::super::tests::submission;
use super::super::{PendingReply, Submitter};
use super::*;
use crate::access::limits::tests::store_without_postgres;

/// Jobs that are being written: their ids, their tickets, the replies to come, and functions that count their clients' jobs.
struct Writing<J> {
    ids: Vec<JobId>,
    tickets: Vec<Ticket>,
    replies: Vec<PendingReply>,
    jobs: Vec<J>,
}

async fn writing(count: usize) -> Writing<impl Fn() -> u64> {
    let (submitter, mut offers) = Submitter::new();
    let (mut replies, mut jobs) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (submission, counter) = submission(1);
        replies.push(submitter.offer(submission).unwrap());
        jobs.push(counter);
    }
    let flush = offers.next_flush(&CancellationToken::new()).await.unwrap();
    let stamped = flush.into_iter().map(|offer| offer.stamp(JobId::generate()));
    let (ids, tickets) = stamped.map(|(job, ticket)| (job.id, ticket)).unzip();
    Writing { ids, tickets, replies, jobs }
}

impl<J: Fn() -> u64> Writing<J> {
    /// The replies, and for each job whether it is counted as waiting.
    async fn outcome(self) -> (Vec<Reply>, Vec<bool>) {
        let mut replies = Vec::new();
        for mut reply in self.replies {
            replies.push(reply.wait().await);
        }
        (replies, self.jobs.iter().map(|jobs| jobs() == 1).collect())
    }
}

fn writer() -> Writer {
    let store = store_without_postgres();
    Writer { store: store.clone(), flushes: store, shutdown: Shutdown::new() }
}

#[tokio::test]
async fn each_job_gets_its_own_reply_and_only_an_accepted_one_keeps_its_room() {
    let mut writing = writing(4).await;
    let (id, other) = (writing.ids[0], JobId::generate());
    let acceptances = vec![
        Acceptance::Accepted(id),
        Acceptance::Replayed(other),
        Acceptance::KeyReused,
        Acceptance::OfferAgain,
    ];
    reply_to_all(acceptances, std::mem::take(&mut writing.tickets));
    let (replies, counted) = writing.outcome().await;
    assert_eq!(
        replies,
        [
            Ok(Accepted::New(id)),
            Ok(Accepted::Replayed(other)),
            Err(NotAccepted::KeyReused),
            Err(NotAccepted::Unavailable)
        ]
    );
    assert_eq!(counted, [true, false, false, false]);
}

#[tokio::test]
async fn after_a_look_up_a_job_that_was_found_is_accepted_and_no_other_is() {
    let mut writing = writing(2).await;
    let [id, lost] = writing.ids[..] else { panic!("there are two") };
    reply_after_look_up(Some(&[id]), vec![id, lost], std::mem::take(&mut writing.tickets));
    let (replies, counted) = writing.outcome().await;
    assert_eq!(replies, [Ok(Accepted::New(id)), Err(NotAccepted::Unavailable)]);
    assert_eq!(counted, [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_without_an_answer_that_cannot_be_looked_up_stays_unknown() {
    let mut writing = writing(2).await;
    let unanswered = AcceptError::Unknown {
        error: store_without_postgres().ping().await.unwrap_err(),
        flush: Flush::default(),
    };
    let began = Instant::now();
    writer().give_up(unanswered, writing.ids.clone(), std::mem::take(&mut writing.tickets));
    let (replies, counted) = writing.outcome().await;
    assert_eq!(replies, [Err(NotAccepted::Unknown); 2]);
    assert_eq!(counted, [false; 2]);
    assert!(began.elapsed() >= LOOK_UP_FOR, "it asked until the time was up");
}

#[tokio::test(start_paused = true)]
async fn without_postgres_no_job_is_accepted() {
    let (submitter, offers) = Submitter::new();
    let replies = [(); 2].map(|()| submitter.offer(submission(1).0).unwrap());
    let last_request = CancellationToken::new();
    last_request.cancel();
    writer().run(offers, last_request).await;
    for mut reply in replies {
        assert_eq!(reply.wait().await, Err(NotAccepted::Unavailable));
    }
}
