use std::future::pending;
use std::iter;

use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::routing::get;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;

const LIMITS: Limits = Limits {
    connections: 8,
    head: Duration::from_secs(30),
    idle: Duration::from_secs(30),
    stalled: Duration::from_secs(60),
};

async fn start(router: Router, limits: Limits) -> (SocketAddr, Shutdown, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
    let serving = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { serve("test_http", listener, router, limits, &shutdown).await }
    });
    (address, shutdown, serving)
}

#[tokio::test]
async fn a_burst_of_connections_finds_room_before_any_is_accepted() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = listen(any, &crate::settings::api::ADDR).unwrap();
    let address = listener.local_addr().unwrap();
    let burst = futures_util::future::try_join_all((0..300).map(|_| TcpStream::connect(address)));
    let connected = tokio::time::timeout(Duration::from_secs(20), burst).await;
    assert_eq!(connected.expect("nobody waits for an accept").unwrap().len(), 300);
}

async fn send(stream: &mut TcpStream, path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes()).await.unwrap();
}

/// Reads until the body `end` has come, or the connection is closed.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1_024];
    while !text.ends_with(end) {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            read => text.push_str(std::str::from_utf8(&buffer[..read]).unwrap()),
        }
    }
    text
}

#[tokio::test]
async fn handlers_see_the_address_of_their_client() {
    let router =
        Router::new().route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()));
    let (address, shutdown, serving) = start(router, LIMITS).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let peer = stream.local_addr().unwrap().to_string();
    send(&mut stream, "/").await;
    assert!(read_until(&mut stream, &peer).await.starts_with("HTTP/1.1 200"));
    shutdown.stop();
    serving.await.unwrap();
}

#[tokio::test]
async fn a_request_refused_before_its_body_was_read_still_hears_why() {
    const LARGE: usize = 16 << 20;
    let router = Router::new().route("/", axum::routing::post(async || "refused"));
    let (address, shutdown, serving) = start(router, LIMITS).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {LARGE}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // Gateways do this too: they send the whole body first.
    stream.write_all(&vec![b'x'; LARGE]).await.unwrap();
    assert!(read_until(&mut stream, "refused").await.starts_with("HTTP/1.1 200"));
    shutdown.stop();
    serving.await.unwrap();
}

#[tokio::test]
async fn a_stop_refuses_new_clients_lets_a_running_request_finish_and_closes_idle_ones() {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = get({
        let (entered, release) = (Arc::clone(&entered), Arc::clone(&release));
        async move || {
            entered.notify_one();
            release.notified().await;
            "slow"
        }
    });
    let (address, shutdown, serving) =
        start(Router::new().route("/slow", slow).route("/fast", get("fast")), LIMITS).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    send(&mut idle, "/fast").await;
    read_until(&mut idle, "fast").await;
    let mut unused = TcpStream::connect(address).await.unwrap();
    let mut busy = TcpStream::connect(address).await.unwrap();
    send(&mut busy, "/slow").await;
    entered.notified().await;

    shutdown.stop();
    assert_eq!(read_until(&mut idle, "?").await, "");
    assert_eq!(read_until(&mut unused, "?").await, "");
    assert!(TcpStream::connect(address).await.is_err());
    assert!(!serving.is_finished());
    release.notify_one();
    let answer = read_until(&mut busy, "slow").await;
    assert!(answer.contains("connection: close") && answer.ends_with("slow"), "{answer}");
    serving.await.unwrap();
}

#[tokio::test]
async fn whoever_is_connected_when_the_stop_comes_may_still_ask() {
    let router = Router::new().route("/fast", get("fast"));
    let (address, shutdown, serving) = start(router.clone(), LIMITS).await;
    let mut unused = TcpStream::connect(address).await.unwrap();
    let mut later = TcpStream::connect(address).await.unwrap();
    send(&mut later, "/fast").await;
    read_until(&mut later, "fast").await;
    // By now the server has accepted the first connection too.
    shutdown.stop();
    send(&mut unused, "/fast").await;
    assert!(read_until(&mut unused, "fast").await.ends_with("fast"));
    serving.await.unwrap();

    // Nobody accepts this connection before the stop.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut waiting = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    send(&mut waiting, "/fast").await;
    let shutdown = Shutdown::new();
    shutdown.stop();
    serve("test_http", listener, router, LIMITS, &shutdown).await;
    assert!(read_until(&mut waiting, "fast").await.ends_with("fast"));
}

#[tokio::test]
async fn the_hard_token_ends_requests_that_would_not() {
    let entered = Arc::new(Notify::new());
    let stuck = get({
        let entered = Arc::clone(&entered);
        async move || {
            entered.notify_one();
            pending::<()>().await;
        }
    });
    let (address, shutdown, serving) = start(Router::new().route("/", stuck), LIMITS).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    send(&mut stream, "/").await;
    entered.notified().await;
    shutdown.stop();
    shutdown.hard().cancel();
    serving.await.unwrap();
    assert_eq!(read_until(&mut stream, "?").await, "");
}

#[tokio::test]
async fn a_head_that_does_not_come_gives_the_connection_to_the_next_client() {
    let limits = Limits { connections: 1, head: Duration::from_millis(50), ..LIMITS };
    let (address, shutdown, serving) = start(Router::new().route("/", get("fast")), limits).await;
    let mut dripping = TcpStream::connect(address).await.unwrap();
    dripping.write_all(b"GET / HT").await.unwrap();
    let mut next = TcpStream::connect(address).await.unwrap();
    send(&mut next, "/").await;
    assert!(read_until(&mut next, "fast").await.starts_with("HTTP/1.1 200"));
    shutdown.stop();
    serving.await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_stops_reading_gives_its_connection_to_the_next_client() {
    let limits = Limits { connections: 1, stalled: Duration::from_millis(300), ..LIMITS };
    let endless = get(async || {
        let chunk = Bytes::from(vec![b'x'; 1 << 20]);
        Body::from_stream(stream::repeat_with(move || Ok::<_, io::Error>(chunk.clone())))
    });
    let router = Router::new().route("/endless", endless).route("/fast", get("fast"));
    let (address, shutdown, serving) = start(router, limits).await;
    let mut stalled = TcpStream::connect(address).await.unwrap();
    send(&mut stalled, "/endless").await;
    let mut next = TcpStream::connect(address).await.unwrap();
    send(&mut next, "/fast").await;
    assert!(read_until(&mut next, "fast").await.starts_with("HTTP/1.1 200"));
    shutdown.stop();
    serving.await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_told_with_the_setting_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = listen(address, &crate::settings::api::ADDR).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
    assert!(error.ends_with("; free the port or set FOREMAN_API_ADDR to another address"), "{error}");
}

#[tokio::test]
async fn connections_that_ask_for_nothing_make_room_and_running_requests_do_not() {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = get({
        let (entered, release) = (Arc::clone(&entered), Arc::clone(&release));
        async move || {
            entered.notify_one();
            release.notified().await;
            "slow"
        }
    });
    let router = Router::new().route("/slow", slow).route("/fast", get("fast"));
    let (address, shutdown, serving) = start(router, Limits { connections: 4, ..LIMITS }).await;
    let mut busy = TcpStream::connect(address).await.unwrap();
    send(&mut busy, "/slow").await;
    entered.notified().await;
    let mut kept = TcpStream::connect(address).await.unwrap();
    send(&mut kept, "/fast").await;
    read_until(&mut kept, "fast").await;
    let mut crowd = Vec::new();
    for index in 0..40 {
        let mut idle = TcpStream::connect(address).await.unwrap();
        if index % 2 == 0 {
            idle.write_all(b"GET / HT").await.unwrap();
        }
        crowd.push(idle);
    }
    let mut next = TcpStream::connect(address).await.unwrap();
    send(&mut next, "/fast").await;
    assert!(read_until(&mut next, "fast").await.starts_with("HTTP/1.1 200"));
    for closed in iter::once(&mut kept).chain(&mut crowd[..36]) {
        // If half a head was not read by then, the system resets the connection.
        assert_eq!(closed.read(&mut [0; 8]).await.unwrap_or(0), 0);
    }
    release.notify_one();
    assert!(read_until(&mut busy, "slow").await.ends_with("slow"));
    shutdown.stop();
    serving.await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_still_being_read_makes_no_room() {
    const LARGE: usize = 16 << 20;
    let large = get(async || format!("{}end", "x".repeat(LARGE)));
    let router = Router::new().route("/large", large).route("/fast", get("fast"));
    let (address, shutdown, serving) = start(router, Limits { connections: 1, ..LIMITS }).await;
    let mut reader = TcpStream::connect(address).await.unwrap();
    send(&mut reader, "/large").await;
    let mut begun = [0; 12];
    reader.read_exact(&mut begun).await.unwrap();
    let mut next = TcpStream::connect(address).await.unwrap();
    send(&mut next, "/fast").await;
    assert!(read_until(&mut reader, "end").await.len() > LARGE);
    assert!(read_until(&mut next, "fast").await.starts_with("HTTP/1.1 200"));
    shutdown.stop();
    serving.await.unwrap();
}

#[tokio::test]
async fn a_head_is_bounded() {
    let (address, shutdown, serving) = start(Router::new().route("/", get("fast")), LIMITS).await;
    for (size, status) in [(32 << 10, "HTTP/1.1 200"), (160 << 10, "HTTP/1.1 431")] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nhost: h\r\nlarge: {}\r\n\r\n", "x".repeat(size));
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(std::str::from_utf8(&answer), Ok(status));
    }
    shutdown.stop();
    serving.await.unwrap();
}
