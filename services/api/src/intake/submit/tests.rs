//! Tests how offers are gathered into flushes. `writer/tests.rs` uses the submissions of this file too.

use tokio_util::sync::CancellationToken;

use super::*;
use crate::access::limits::tests::admission;
use crate::access::shares::tests::one_client_may_have;

/// A submission with a body of this many bytes, and a function that counts its client's jobs.
pub(super) fn submission(bytes: usize) -> (Submission, impl Fn() -> u64) {
    let (admission, jobs) = admission();
    let client = ClientId::generate();
    let request = JobRequest {
        client,
        user: foreman_store::UserName::default(),
        model: "a".to_owned(),
        model_label: "a:latest".to_owned(),
        load_key: "a".to_owned(),
        path: "/api/generate".to_owned(),
        body: "x".repeat(bytes),
        priority: 0,
        max_attempts: None,
        metadata: None,
        receiver: None,
    };
    let held = Arc::new(one_client_may_have(1).take(client, 1).unwrap());
    let times = Times { run_at: None, expires_at: chrono::DateTime::UNIX_EPOCH };
    let submission = Submission {
        request,
        times,
        retry_of: None,
        traceparent: None,
        idempotency: None,
        caller: None,
        admission,
        held,
    };
    (submission, jobs)
}

/// Offers bodies of these sizes, and gives the sizes in each flush.
async fn flushes(sizes: &[usize]) -> Vec<Vec<usize>> {
    let (submitter, mut offers) = Submitter::new();
    let _replies: Vec<PendingReply> =
        sizes.iter().map(|bytes| submitter.offer(submission(*bytes).0).unwrap()).collect();
    let last_request = CancellationToken::new();
    last_request.cancel();
    let mut flushes = Vec::new();
    while let Some(flush) = offers.next_flush(&last_request).await {
        flushes.push(flush.iter().map(|offer| offer.submission.request.body.len()).collect());
    }
    assert_eq!(
        submitter.offer(submission(1).0).err(),
        Some(NotAccepted::Unavailable),
        "nobody would write it"
    );
    flushes
}

#[tokio::test]
async fn a_flush_has_at_most_so_many_jobs_and_bytes_in_the_order_of_the_offers() {
    const MIB: usize = 1 << 20;
    assert_eq!(flushes(&[]).await, Vec::<Vec<usize>>::new());
    let many = flushes(&[1; 1_100]).await;
    assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [500, 500, 100]);
    let large = flushes(&[MIB, 5 * MIB, 3 * MIB, 2 * MIB, 20 * MIB, 8 * MIB, 1]).await;
    assert_eq!(
        large,
        [vec![MIB, 5 * MIB], vec![3 * MIB, 2 * MIB], vec![20 * MIB], vec![8 * MIB], vec![1]],
        "a body over the limit goes alone"
    );
}

#[tokio::test]
async fn after_a_submitter_that_ended_in_the_middle_of_a_flush_nobody_knows_of_its_jobs() {
    let (submitter, mut offers) = Submitter::new();
    let mut reply = submitter.offer(submission(1).0).unwrap();
    drop(offers.next_flush(&CancellationToken::new()).await);
    assert_eq!(reply.wait().await, Err(NotAccepted::Unknown));
}
