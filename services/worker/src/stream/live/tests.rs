use std::pin::pin;

use bytes::BytesMut;
use foreman_live::{Frame, Frames};
use foreman_store::{Completion, Reason};
use futures_util::FutureExt as _;
use tokio_util::codec::Decoder as _;

use super::*;

const STREAM: AnswerHead = AnswerHead { status: 200, content_type: None, content_length: None };

fn done() -> Exit {
    let completion = Completion {
        completion: Vec::new(),
        content_type: String::new(),
        prompt_tokens: None,
        completion_tokens: None,
    };
    Exit::Done(completion)
}

fn reason() -> Reason {
    Reason { code: "x".to_owned(), error: "it failed".to_owned() }
}

fn failed(said: bool) -> End {
    End::Failed { code: "x".to_owned(), error: "it failed".to_owned(), said }
}

/// All frames that a reader gets until the end, as text.
async fn read(mut reader: Reader) -> (Option<u16>, String, Option<End>) {
    let (mut bytes, mut status, mut text, mut end) = (BytesMut::new(), None, String::new(), None);
    while let Some(more) = reader.next().await {
        bytes.extend_from_slice(&more.unwrap());
    }
    let mut frames = Frames::default();
    while let Some(frame) = frames.decode(&mut bytes).unwrap() {
        match frame {
            Frame::Head(head) => status = Some(head.status),
            Frame::Piece(piece) => text.push_str(std::str::from_utf8(&piece).unwrap()),
            Frame::End(ended) => end = Some(ended),
        }
    }
    (status, text, end)
}

/// A running answer for an api, with readers from these bytes on.
fn begun(froms: &[u64]) -> (LiveAnswers, JobId, LiveAnswer, Vec<Reader>) {
    let (answers, job) = (LiveAnswers::default(), JobId::generate());
    let live = answers.begin(job, 1, Some(ApiId::generate()));
    let readers = froms.iter().map(|from| answers.follow(job, Some(1), *from).unwrap().1).collect();
    (answers, job, live, readers)
}

#[tokio::test]
async fn every_reader_gets_all_bytes_from_its_own_place_on() {
    let (answers, job, live, readers) = begun(&[0, 3]);
    live.head(Some(&STREAM));
    live.push(Bytes::from_static(b"ab"));
    live.give_out();
    live.push(Bytes::from_static(b"cd"));
    let late = answers.follow(job, None, 4).unwrap().1;
    answers.settled(job, &done());
    let after_the_end = answers.follow(job, Some(1), 1).unwrap().1;
    let texts = ["abcd", "d", "", "bcd"];
    for (reader, text) in readers.into_iter().chain([late, after_the_end]).zip(texts) {
        assert_eq!(read(reader).await, (Some(200), text.to_owned(), Some(End::Done)));
    }
    assert!(answers.follow(job, Some(2), 0).is_none(), "another attempt");
}

#[tokio::test]
async fn a_reader_that_looked_too_early_hears_when_the_first_piece_is_given_out() {
    let (_answers, _job, live, mut readers) = begun(&[0]);
    live.head(Some(&STREAM));
    live.push(Bytes::from_static(b"ab"));
    let mut next = pin!(readers[0].next());
    assert!(next.as_mut().now_or_never().is_none(), "it is held back");
    live.give_out();
    assert!(next.now_or_never().is_some(), "it is given out");
}

#[tokio::test]
async fn what_is_held_back_is_given_out_only_if_it_is_the_answer() {
    let exits = [
        (done(), Some(200), "body", End::Done),
        (Exit::Failed(reason()), None, "", failed(false)),
        (Exit::HandBack { reason: reason() }, None, "", End::Again),
        (Exit::Retry { reason: reason(), wait: Duration::ZERO }, None, "", End::Again),
        (Exit::Cancelled, None, "", End::Cancelled),
        (Exit::Expired, None, "", End::Expired),
    ];
    for (exit, status, text, end) in exits {
        let (answers, job, live, mut readers) = begun(&[0]);
        live.head(Some(&STREAM));
        live.push(Bytes::from_static(b"body"));
        assert!(!answers.has_begun_for_a_caller(job));
        answers.settled(job, &exit);
        assert_eq!(read(readers.remove(0)).await, (status, text.to_owned(), Some(end)), "{exit:?}");
    }
}

#[tokio::test]
async fn ollamas_own_error_is_the_answer_of_a_job_that_failed() {
    for (exit, status, text, end) in [
        (Exit::Failed(reason()), Some(404), "error", failed(true)),
        (Exit::HandBack { reason: reason() }, None, "", End::Again),
    ] {
        let (answers, job, live, mut readers) = begun(&[0]);
        live.head(Some(&AnswerHead { status: 404, ..STREAM }));
        live.push_error(Bytes::from_static(b"error"));
        answers.settled(job, &exit);
        assert_eq!(read(readers.remove(0)).await, (status, text.to_owned(), Some(end)));
    }
}

#[tokio::test]
async fn an_error_in_a_stream_comes_together_with_the_end() {
    let (answers, job, live, mut readers) = begun(&[0]);
    let mut reader = readers.remove(0);
    live.head(Some(&STREAM));
    live.push(Bytes::from_static(b"word"));
    live.give_out();
    let mut bytes = BytesMut::from(&reader.next().await.unwrap().unwrap()[..]);
    live.push_error(Bytes::from_static(b"error"));
    assert!(reader.next().now_or_never().is_none(), "its job may still be cancelled");
    answers.settled(job, &Exit::Failed(reason()));
    bytes.extend_from_slice(&reader.next().await.unwrap().unwrap());
    assert!(reader.next().await.is_none(), "the end came with the error");
    let mut frames = Frames::default();
    let frames: Vec<Frame> = std::iter::from_fn(|| frames.decode(&mut bytes).unwrap()).skip(1).collect();
    let piece = |text: &'static str| Frame::Piece(Bytes::from_static(text.as_bytes()));
    assert_eq!(frames, [piece("word"), piece("error"), Frame::End(failed(true))]);
}

#[tokio::test]
async fn an_api_hears_of_its_own_attempts_and_of_no_others() {
    let (answers, api) = (LiveAnswers::default(), ApiId::generate());
    let jobs = [(); 4].map(|()| JobId::generate());
    let _running = answers.begin(jobs[0], 3, Some(api));
    let mut heard = answers.listen(api);
    let _others = (answers.begin(jobs[1], 1, None), answers.begin(jobs[2], 1, Some(ApiId::generate())));
    let _later = answers.begin(jobs[3], 1, Some(api));
    assert_eq!(heard.recv().await, Some(announcement(jobs[0], 3)));
    assert_eq!(heard.recv().await, Some(announcement(jobs[3], 1)));
    answers.close();
    assert_eq!(heard.recv().await, None);
    assert_eq!(answers.listen(api).recv().await, None, "nothing begins here any more");
}

#[tokio::test]
async fn an_api_that_does_not_listen_loses_its_connection_and_holds_up_nobody() {
    let (answers, api) = (LiveAnswers::default(), ApiId::generate());
    let mut deaf = answers.listen(api);
    let begun: Vec<_> = (0..=UNHEARD).map(|_| answers.begin(JobId::generate(), 1, Some(api))).collect();
    let mut heard = 0;
    while deaf.recv().await.is_some() {
        heard += 1;
    }
    assert_eq!((heard, begun.len()), (UNHEARD, UNHEARD + 1));
}

#[tokio::test]
async fn an_answer_that_is_too_long_to_follow_ends_for_its_readers_alone() {
    let (answers, job) = (LiveAnswers::default(), JobId::generate());
    let live = answers.begin(job, 1, None);
    let reader = answers.follow(job, None, 0).unwrap().1;
    live.head(Some(&STREAM));
    live.push(Bytes::from_static(b"long"));
    live.give_out();
    live.is_too_long();
    let (_, _, end) = read(reader).await;
    assert!(matches!(end, Some(End::Failed { code, .. }) if code == "too_long_to_follow"));
    assert!(!answers.has_begun_for_a_caller(job), "nobody waits for the answer of a job of /jobs");
    answers.settled(job, &done());
    assert!(answers.follow(job, None, 0).is_none());
}
