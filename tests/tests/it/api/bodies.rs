//! Tests that clients share the memory for request bodies, and that no client can keep the others out.

use foreman_tests::{Api, Db, eventually};
use futures_util::future::join_all;
use reqwest::{Method, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{JOB, ask, header, problem, start};
use crate::metrics::exposition::Exposition;

/// The default of `FOREMAN_MAX_BODY`.
const LARGEST: usize = 32 << 20;

async fn key(db: &Db, client: &str) -> String {
    db.new_client(client, false).await.key
}

async fn submit(api: &Api, key: &str) -> Response {
    ask(api, Method::POST, "/jobs").bearer_auth(key).body(JOB).send().await.unwrap()
}

/// Begins a submission of the largest size and sends this many bytes of it. Returns when they are sent or refused.
pub(super) async fn hang(api: &Api, key: &str, bytes: usize) -> TcpStream {
    let address = api.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /jobs HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-length: {LARGEST}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut left = bytes;
    while left > 0 {
        let piece = vec![0xff; left.min(1 << 20)];
        let (reader, mut writer) = stream.split();
        tokio::select! {
            biased;
            // The answer is a refusal, because the body is not complete.
            _answered = reader.readable() => break,
            sent = writer.write_all(&piece) => sent.unwrap(),
        }
        left -= piece.len();
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_bodies_hang_keeps_no_other_client_out() {
    let (db, api) = start(&[("FOREMAN_AUTH", "required")]).await;
    let (greedy, other) = (key(&db, "greedy").await, key(&db, "other").await);
    let mut hanging = join_all((0..8).map(|_| hang(&api, &greedy, LARGEST - 30))).await;
    let scraped = eventually("two bodies in memory", async || {
        let scraped = Exposition::scrape(&api.ops_url).await;
        let used = scraped.sum("foreman_share_used", &[("share", "incoming")]);
        if used == Some(2.0 * LARGEST as f64) { Ok(scraped) } else { Err(format!("{used:?}")) }
    })
    .await;
    let refused = |short| {
        let labels = [("share", "incoming"), ("short", short)];
        scraped.sum("foreman_share_refusals_total", &labels)
    };
    assert_eq!((refused("client"), refused("all")), (Some(6.0), Some(0.0)));

    let own = submit(&api, &greedy).await;
    assert!(!header(&own, "retry-after").is_empty());
    assert_eq!(problem(own, 429, "its part is used up").await, "too_much_under_way");
    assert_eq!(submit(&api, &other).await.status(), 202);

    let mut answers = Vec::new();
    for stream in &mut hanging {
        // This completes the two bodies that hold memory. The others were answered long ago, and may be closed already.
        let _completed = stream.write_all(&[0xff; 30]).await;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        answers.push(String::from_utf8(answer.to_vec()).unwrap());
    }
    answers.sort();
    let (held, refused) = answers.split_at(2);
    assert!(held.iter().all(|answer| answer == "HTTP/1.1 400"), "these are no text: {held:?}");
    assert!(refused.iter().all(|answer| answer == "HTTP/1.1 429"), "{refused:?}");
    assert_eq!(submit(&api, &greedy).await.status(), 202, "the memory is given back");
}
