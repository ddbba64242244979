//! A receiver to look at webhooks with: it answers 200, checks both signatures, and says what came.
//!
//! It is for people and for first steps. It stores nothing.

mod arrival;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use foreman_runtime::Env;
use foreman_runtime::settings::shared;
use foreman_webhook::SigningSecret;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::help;
use crate::terminal::{one_line, print, say};
use crate::up::home;
use crate::watch::exit_code;
use arrival::{Arrival, SignatureCheck};

/// Far more than any event: large results travel by URL.
const LARGEST_BODY: usize = 64 << 20;

#[derive(Debug, clap::Args)]
#[command(after_help = help::after("\
Example: foreman listen --addr 127.0.0.1:9000
         foreman submit --model llama3.2 'Hello' --webhook http://127.0.0.1:9000/

Signatures are checked with FOREMAN_WEBHOOK_SECRET: for a client with a key, the secret that came with it; for an
endpoint, the secret that `foreman webhook create` showed; with FOREMAN_AUTH=off, that of the api and the worker. Where
it is not set and `foreman up` runs here, its own is used.", &[shared::WEBHOOK_SECRET]))]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:9000")]
    addr: SocketAddr,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut listener = Listener::bind(args.addr, secret(&Env::from_process())?).await?;
    say(format_args!("Listening on {}; Ctrl-C ends it.", listener.url()));
    loop {
        let arrival = listener.next().await?;
        print(one_line(&arrival.to_string()))?;
    }
}

/// What signatures are checked with, if anything: what is set, or else what the `foreman up` on this machine signs with.
pub(crate) fn secret(env: &Env) -> anyhow::Result<Option<SigningSecret>> {
    if let Some(set) = env.read_optional(&shared::WEBHOOK_SECRET, SigningSecret::parse)? {
        return Ok(Some(set));
    }
    home::running(env)?.map(|home| home::secrets_of(&home).read_webhook()).transpose()
}

pub(crate) struct Listener {
    address: SocketAddr,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
}

impl Listener {
    pub(crate) async fn bind(address: SocketAddr, secret: Option<SigningSecret>) -> anyhow::Result<Self> {
        let socket = TcpListener::bind(address)
            .await
            .with_context(|| format!("nothing can listen on {address}; name another address"))?;
        let address = socket.local_addr()?;
        let (sender, arrivals) = mpsc::unbounded_channel();
        tokio::spawn(accept(socket, secret, sender));
        Ok(Self { address, arrivals })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    async fn next(&mut self) -> anyhow::Result<Arrival> {
        self.arrivals.recv().await.context("the listener has ended")
    }

    /// Shows the webhooks of one job until its end. Fails unless all of them verify and come in order with none missing.
    pub(crate) async fn follow(mut self, job: &str) -> anyhow::Result<ExitCode> {
        let mut seen = BTreeSet::new();
        loop {
            let arrival = self.next().await?;
            say(one_line(&arrival.to_string()));
            if arrival.job_id != job {
                continue;
            }
            match arrival.check {
                SignatureCheck::Verified => {}
                SignatureCheck::NoSecret => {
                    bail!("no secret to verify with; set FOREMAN_WEBHOOK_SECRET to the client's")
                }
                SignatureCheck::Refused(why) => bail!("a webhook did not verify: {why}"),
            }
            // Webhooks are sent at least once, so the same one may come again.
            if seen.contains(&arrival.seq) {
                continue;
            }
            if seen.last().map_or(1, |last| last + 1) != arrival.seq {
                bail!("webhook {} of the job came out of order", arrival.seq);
            }
            seen.insert(arrival.seq);
            if let Some(code) = exit_code(&arrival.state) {
                return Ok(code);
            }
        }
    }
}

async fn accept(
    socket: TcpListener,
    secret: Option<SigningSecret>,
    arrivals: mpsc::UnboundedSender<Arrival>,
) {
    loop {
        match socket.accept().await {
            Ok((stream, _peer)) => {
                tokio::spawn(serve(stream, secret.clone(), arrivals.clone()));
            }
            Err(error) => say(format_args!("A connection could not be accepted: {error}")),
        }
    }
}

async fn serve(stream: TcpStream, secret: Option<SigningSecret>, arrivals: mpsc::UnboundedSender<Arrival>) {
    let service = service_fn(|request| answer(request, secret.as_ref(), &arrivals));
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        say(format_args!("A connection ended badly: {error}"));
    }
}

async fn answer(
    request: Request<Incoming>,
    secret: Option<&SigningSecret>,
    arrivals: &mpsc::UnboundedSender<Arrival>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let status = match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(body) => match Arrival::read(&head.headers, &body.to_bytes(), secret) {
            Ok(arrival) => {
                // Nobody listens any more: the job has ended.
                let _ended = arrivals.send(arrival);
                StatusCode::OK
            }
            Err(problem) => {
                say(format_args!("Something that is no webhook came to {}: {problem}", head.uri.path()));
                StatusCode::BAD_REQUEST
            }
        },
        Err(_) => StatusCode::PAYLOAD_TOO_LARGE,
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}
