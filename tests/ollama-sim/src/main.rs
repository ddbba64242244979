//! The simulator as a program: an Ollama to try Foreman with, and for tests that must kill a process.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use ollama_sim::{Config, KeepAlive, Model, Sim};

/// Answers like an Ollama v0.32.15 with made-up words, without a GPU.
///
/// Words in a prompt that begin with `sim:` give it orders: sim:tokens=50, sim:bytes=300000, sim:echo, sim:think,
/// sim:tools=1, sim:token-delay=50ms, sim:prompt-delay=1s, sim:no-metrics, and sim:fault= with busy, oom, killed, reset, hang,
/// end, error=500 or stream-error, and @load or @N tokens behind it.
#[derive(Debug, Parser)]
#[command(name = "ollama-sim", version)]
struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:11434")]
    addr: SocketAddr,
    /// A second address for the routes of /sim, which stays reachable while the simulator is away.
    #[arg(long)]
    control_addr: Option<SocketAddr>,
    /// The models it has, each with its abilities, as in qwen3:4b+tools+thinking.
    #[arg(long, value_delimiter = ',', default_value = "llama3.2+tools,qwen3+tools+thinking,gemma3", value_parser = Model::parse)]
    models: Vec<Model>,
    /// How long a load takes.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    load_delay: Duration,
    /// Time from the start of a run to its first token.
    #[arg(long, default_value = "100ms", value_parser = humantime::parse_duration)]
    prompt_delay: Duration,
    /// Time from one token to the next.
    #[arg(long, default_value = "20ms", value_parser = humantime::parse_duration)]
    token_delay: Duration,
    /// How many tokens an answer has.
    #[arg(long, default_value_t = 32)]
    tokens: u32,
    /// OLLAMA_NUM_PARALLEL.
    #[arg(long, default_value_t = 1)]
    parallel: usize,
    /// OLLAMA_MAX_LOADED_MODELS.
    #[arg(long, default_value_t = 1)]
    max_loaded: usize,
    /// OLLAMA_MAX_QUEUE.
    #[arg(long, default_value_t = 512)]
    max_queue: usize,
    /// OLLAMA_CONTEXT_LENGTH.
    #[arg(long, default_value_t = 4096)]
    context_length: i64,
    /// OLLAMA_KEEP_ALIVE, or `forever`.
    #[arg(long, default_value = "5m", value_parser = keep_alive)]
    keep_alive: KeepAlive,
    /// Adds "simulated": true to every final answer.
    #[arg(long)]
    simulated_mark: bool,
}

fn keep_alive(text: &str) -> Result<KeepAlive, humantime::DurationError> {
    match text {
        "forever" | "-1" => Ok(KeepAlive::Forever),
        time => humantime::parse_duration(time).map(KeepAlive::For),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let addr = args.addr;
    let sim = Sim::start(Config {
        addr,
        control_addr: args.control_addr,
        models: args.models,
        load_delay: args.load_delay,
        prompt_delay: args.prompt_delay,
        token_delay: args.token_delay,
        tokens: args.tokens,
        parallel: args.parallel.max(1),
        max_loaded: args.max_loaded.max(1),
        max_queue: args.max_queue.max(1),
        context_length: args.context_length,
        keep_alive: args.keep_alive,
        simulated_mark: args.simulated_mark,
        ..Config::default()
    })
    .await
    .with_context(|| format!("cannot listen on {addr}: choose another with --addr"))?;
    println!("ollama-sim listens on {}", sim.url());
    stopped().await.context("cannot wait for a signal")?;
    Ok(())
}

/// Waits for Ctrl-C or SIGTERM.
async fn stopped() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
