//! A plain HTTP server on loopback with a thread of its own. Its answers are as cheap as HTTP allows, so that it
//! takes little CPU from the programs it measures, and the same from both contenders.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

pub(crate) type BackendResponse = Response<BoxBody<Bytes, Infallible>>;

/// Serves `count` ports until the process ends. `answer` also gets the number of the port, starting at 0.
pub(crate) fn serve<F, A>(count: usize, answer: F) -> anyhow::Result<Vec<SocketAddr>>
where
    F: Fn(usize, Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = BackendResponse> + 'static,
{
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
        .collect::<std::io::Result<_>>()
        .context("loopback has no free ports")?;
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        let local = tokio::task::LocalSet::new();
        for (number, listener) in listeners.into_iter().enumerate() {
            local.spawn_local(listen(number, listener, answer.clone()));
        }
        runtime.block_on(local);
    });
    Ok(addresses)
}

async fn listen<F, A>(number: usize, listener: TcpListener, answer: F)
where
    F: Fn(usize, Request<Incoming>) -> A + Clone + 'static,
    A: Future<Output = BackendResponse> + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener).expect("the runtime takes the listener");
    loop {
        let (stream, _) = listener.accept().await.expect("there are enough files for the connections");
        stream.set_nodelay(true).expect("a fresh connection takes the option");
        let answer = answer.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| {
                let answer = answer(number, request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            // A client that hangs up has already got its answer.
            _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
