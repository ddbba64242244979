//! Names of receivers: what nameservers answer, what they leave unanswered, and that nobody pays for the names of others.

use std::collections::HashSet;
use std::net::IpAddr;

use foreman_store::{ClientId, JobRequest, NewJob, Seal};
use foreman_tests::{
    Db, NameAnswer, NameServer, Received, Receiver, ReceiverAnswer, endpoint_at, eventually,
};
use foreman_webhook::guard::{Asker, LookupError};
use foreman_webhook::{Allow, Failure, Guard, GuardError, Nameservers, Policy};
use tokio::task::JoinSet;

use super::{dispatcher, job_to, logged};
use crate::endpoints::KEY;

const PUBLIC: &str = "93.184.215.14";

fn addresses(texts: &[&str]) -> NameAnswer {
    NameAnswer::Addresses(texts.iter().map(|text| text.parse().unwrap()).collect(), 60)
}

fn guard(nameservers: &[&NameServer]) -> Guard {
    let list: Vec<&str> = nameservers.iter().map(|server| server.address()).collect();
    let nameservers = Some(Nameservers::parse(&list.join(",")).unwrap());
    Guard::new(Policy { allow: Allow::default(), nameservers, ..Policy::default() })
}

/// The addresses of a name, or why there are none.
async fn resolve(guard: &Guard, host: &str) -> Result<Vec<String>, GuardError> {
    let found = guard.resolve(Asker::of("a client"), host, 443).await?;
    Ok(found.iter().map(|address| address.ip().to_string()).collect())
}

fn cause(error: &GuardError) -> Option<LookupError> {
    match error {
        GuardError::Lookup { source, .. } => Some(*source),
        GuardError::Blocked(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_nameserver_has_its_outcome() {
    let nameserver = NameServer::start(|name, nth| match name {
        "both.example" => addresses(&[PUBLIC, "2606:4700::1111"]),
        "six.example" => addresses(&["2606:4700::1111"]),
        "mixed.example" => addresses(&["10.0.0.1", PUBLIC, "::1", "64:ff9b::7f00:1"]),
        "inner.example" => addresses(&["10.0.0.1", "fd00::1"]),
        "nat64.example" => addresses(&["64:ff9b::a9fe:a9fe"]),
        "empty.example" => addresses(&[]),
        "broken.example" => NameAnswer::ServFail,
        "forgetful.example" if nth == 0 => NameAnswer::Silence,
        "forgetful.example" => addresses(&[PUBLIC]),
        "spoofed.example" => {
            NameAnswer::LieBefore("198.51.100.1".parse().unwrap(), Box::new(addresses(&[PUBLIC])))
        }
        "dead.example" => NameAnswer::Silence,
        _ => NameAnswer::NoSuchName,
    })
    .await;
    let guard = guard(&[&nameserver]);
    for (host, expected) in [
        ("both.example", &[PUBLIC, "2606:4700::1111"][..]),
        ("six.example", &["2606:4700::1111"]),
        ("mixed.example", &[PUBLIC]),
        ("MIXED.example.", &[PUBLIC]),
        ("forgetful.example", &[PUBLIC]),
        ("spoofed.example", &[PUBLIC]),
    ] {
        assert_eq!(resolve(&guard, host).await.unwrap(), expected, "{host}");
    }
    for host in ["inner.example", "nat64.example"] {
        let error = resolve(&guard, host).await.unwrap_err();
        assert_eq!(error.failure(), Failure::AddressRefused, "{host}");
    }
    for (host, expected) in [
        ("empty.example", LookupError::NotFound),
        ("nobody.example", LookupError::NotFound),
        ("broken.example", LookupError::Failed),
        ("dead.example", LookupError::TimedOut),
    ] {
        let error = resolve(&guard, host).await.unwrap_err();
        assert_eq!((cause(&error), error.failure()), (Some(expected), Failure::Dns), "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nameserver_that_is_dead_does_not_stop_the_other() {
    let dead = NameServer::start(|_, _| NameAnswer::Silence).await;
    let alive = NameServer::start(|_, _| addresses(&[PUBLIC])).await;
    for order in [[&dead, &alive], [&alive, &dead]] {
        assert_eq!(resolve(&guard(&order), "receiver.example").await.unwrap(), [PUBLIC]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_serves_all_until_its_time_is_over() {
    let nameserver = NameServer::start(|name, _| match name {
        "kept.example" => addresses(&[PUBLIC]),
        "fleeting.example" => NameAnswer::Addresses(vec![PUBLIC.parse().unwrap()], 0),
        _ => NameAnswer::NoSuchName,
    })
    .await;
    let guard = guard(&[&nameserver]);
    let ten = (0..10).map(|_| resolve(&guard, "kept.example"));
    assert!(futures_util::future::join_all(ten).await.iter().all(Result::is_ok));
    resolve(&guard, "kept.example").await.unwrap();
    let questions = |name: &str| nameserver.asked().iter().filter(|asked| asked.ends_with(name)).count();
    assert_eq!(questions(" kept.example"), 2, "one for each kind of address");
    eventually("a second question about a name without a TTL", async || {
        resolve(&guard, "fleeting.example").await.unwrap();
        let asked = questions(" fleeting.example");
        if asked >= 4 { Ok(()) } else { Err(asked) }
    })
    .await;
    assert_eq!(questions(" kept.example"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_dead_names_of_one_client_do_not_delay_the_name_of_another() {
    const DEAD: usize = 2_000;
    const SHARE: usize = 64;
    let nameserver = NameServer::start(|name, _| match name {
        "healthy.example" => addresses(&[PUBLIC]),
        _ => NameAnswer::Silence,
    })
    .await;
    let guard = guard(&[&nameserver]);
    let mut flood = JoinSet::new();
    for nth in 0..DEAD {
        let guard = guard.clone();
        flood.spawn(
            async move { guard.resolve(Asker::of("the flood"), &format!("dead{nth}.example"), 1).await },
        );
    }
    let dead_names = || {
        let mut names = nameserver.asked();
        names.retain_mut(|asked| asked.starts_with("A dead"));
        names.sort();
        names.dedup();
        names.len()
    };
    eventually("a share that is full", async || {
        let names = dead_names();
        if names >= SHARE { Ok(()) } else { Err(names) }
    })
    .await;
    let found = guard.resolve(Asker::of("another client"), "healthy.example", 443).await.unwrap();
    assert_eq!(found[0].ip(), PUBLIC.parse::<IpAddr>().unwrap());
    assert!(dead_names() < DEAD, "the other client waited for the whole flood");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_of_all_endpoints_of_a_client_are_looked_up_in_one_share() {
    const ENDPOINTS: usize = 100;
    const SHARE: usize = 64;
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    let nameserver = NameServer::start(|name, _| match name {
        "healthy.example" => addresses(&["127.0.0.1"]),
        _ => NameAnswer::Silence,
    })
    .await;
    for nth in 0..ENDPOINTS {
        let settings = endpoint_at(&format!("http://dead{nth}.example:80/"));
        db.store
            .create_endpoint(&Seal::new(&[1; 32]), db.client, &settings, &Vec::new())
            .await
            .unwrap()
            .unwrap();
    }
    let _dispatcher = dispatcher(&db, &[KEY, ("FOREMAN_WEBHOOK_NAMESERVERS", nameserver.address())]).await;
    db.accept(1).await;
    let dead_names = || {
        let asked = nameserver.asked();
        asked.iter().filter(|asked| asked.starts_with("A dead")).collect::<HashSet<_>>().len()
    };
    eventually("a share that is full", async || match dead_names() {
        SHARE.. => Ok(()),
        fewer => Err(fewer),
    })
    .await;
    let url = receiver.url("/").replace("127.0.0.1", "healthy.example");
    let other = job_to(&db, &url);
    let request = JobRequest { client: ClientId::generate(), ..other.request };
    db.accept_all(&[NewJob { request, ..other }]).await;
    assert_eq!(logged(&db, 1).await, ["1 1 delivered"]);
    assert_eq!(dead_names(), SHARE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_turns_to_a_forbidden_address_is_never_dialled_there() {
    let db = Db::fresh().await;
    // Without a kept connection each webhook looks the name up.
    let closing = |_: &Received, _: usize| ReceiverAnswer::With(200, "connection", "close".to_owned());
    let receiver = Receiver::answering(closing).await;
    let port = receiver.url("").rsplit(':').next().unwrap().to_owned();
    // The canary listens at another address of this machine, at the same port.
    let canary = tokio::net::TcpListener::bind(format!("127.0.0.2:{port}")).await.unwrap();
    let nameserver = NameServer::start(|name, nth| match (name, nth) {
        ("mixed.example", _) => addresses(&["127.0.0.2", "127.0.0.1"]),
        // Allowed when it is first asked, another one ever after.
        (_, 0) => NameAnswer::Addresses(vec!["127.0.0.1".parse().unwrap()], 0),
        (_, _) => NameAnswer::Addresses(vec!["127.0.0.2".parse().unwrap()], 0),
    })
    .await;
    let settings =
        [("FOREMAN_WEBHOOK_ALLOW", "127.0.0.1"), ("FOREMAN_WEBHOOK_NAMESERVERS", nameserver.address())];
    db.accept_all(&[job_to(&db, &format!("http://mixed.example:{port}/"))]).await;
    let _dispatcher = dispatcher(&db, &settings).await;
    assert_eq!(logged(&db, 1).await, ["1 1 delivered"]);

    let url = format!("http://turning.example:{port}/");
    eventually("the name to turn", async || {
        db.accept_all(&[job_to(&db, &url)]).await;
        let refused: i64 = db
            .value("SELECT count(*) FROM webhook_attempt WHERE error_code = 'address_refused' AND outcome = 'retry'")
            .await;
        if refused > 0 { Ok(()) } else { Err(refused) }
    })
    .await;
    let others: i64 = db
        .value("SELECT count(*) FROM webhook_attempt WHERE outcome <> 'delivered' AND error_code <> 'address_refused'")
        .await;
    assert_eq!(others, 0);
    // What connects stands in the queue of the listener, accepted or not.
    let called = futures_util::FutureExt::now_or_never(canary.accept());
    assert!(called.is_none(), "somebody called the forbidden address");
}
