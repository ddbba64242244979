//! How much receivers that hang or drip delay the webhooks of healthy receivers. Measures the time from the commit of a state
//! change until its webhook arrives: first without such receivers, then beside them, with the same worker. Half of the
//! healthy receivers are new in each of the two measurements.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use foreman_store::{ClientId, JobReceiver, JobRequest, JobState, NewJob, Store};
use foreman_tests::{Cluster, Db};
use foreman_webhook::ReceiverUrl;
use http_body_util::{BodyExt as _, Empty};
use hyper::Response;
use tokio::time::{interval, sleep};

use crate::bad_receivers::{BadReceivers, Manner};
use crate::measure::millis;
use crate::mixed::{between_arrivals, seeded};
use crate::programs::Programs;
use crate::services::Worker;
use crate::{Scale, cpu, say, server};

const HEALTHY: usize = 50;

/// Webhooks per second to all healthy receivers together.
const RATE: u32 = 100;

/// How many times its time alone a healthy receiver may wait at p99.
const AIM: f64 = 1.5;

/// A webhook that took this long waited for a poll or a time-out.
const LATE: Duration = Duration::from_millis(300);

/// What has not come after this long counts as if it had come then. It is longer than any machine needs, and than the time-out
/// of a webhook.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many jobs go to Postgres together.
const BATCH: usize = 500;

pub(crate) struct Isolation<'a> {
    cluster: &'a Cluster,
    /// The first half is measured alone, the other half beside the bad receivers.
    healthy: Vec<SocketAddr>,
    /// When each webhook came, by the number in its path.
    came: Arc<Mutex<Vec<Option<Instant>>>>,
    length: Duration,
    crowd: usize,
}

/// What one turn showed.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// p50 and p99.
    alone: [Duration; 2],
    beside: [Duration; 2],
    slowest: Duration,
    late: usize,
    /// The most that the worker used, in bytes.
    memory: u64,
    /// The most connections that the bad receivers had at the same time.
    connections: usize,
}

/// One kind of bad receivers.
struct Case {
    name: &'static str,
    manner: Manner,
    /// How many there are, each with an origin of its own.
    receivers: usize,
    /// How many webhooks are due at each of them from the beginning.
    webhooks: usize,
    /// Whether they belong to the client with the healthy receivers.
    same_client: bool,
    /// Whether half of them come one after the other while we measure.
    keep_coming: bool,
}

impl<'a> Isolation<'a> {
    pub(crate) fn start(cluster: &'a Cluster, scale: &Scale) -> anyhow::Result<Self> {
        let came = Arc::<Mutex<Vec<Option<Instant>>>>::default();
        let seen = Arc::clone(&came);
        let healthy = server::serve(2 * HEALTHY, move |_, request| {
            let (seen, now) = (Arc::clone(&seen), Instant::now());
            async move {
                let number = request.uri().path().trim_start_matches('/').parse();
                let number: usize = number.expect("the path is the number of the webhook");
                request.into_body().collect().await.expect("the sender sends its body");
                note(&seen)[number].get_or_insert(now);
                Response::new(Empty::new().boxed())
            }
        })?;
        Ok(Self { cluster, healthy, came, length: scale.isolation_for, crowd: scale.crowd })
    }

    /// Measures the contenders in turn and returns the table.
    pub(crate) async fn measure(&self, contenders: &[Programs], repeats: u8) -> anyhow::Result<String> {
        let mut table = String::from(
            "\n| beside | contender | alone: p50, p99 | beside: p50, p99 | p50 ratio | p99 ratio | aim | slowest | late | worker |\n\
             |---|---|---|---|---:|---:|---:|---:|---:|---:|\n",
        );
        for case in self.cases() {
            let mut turns: Vec<Vec<Turn>> = contenders.iter().map(|_| Vec::new()).collect();
            for number in 1..=repeats {
                for (programs, turns) in contenders.iter().zip(&mut turns) {
                    let turn = self.turn(programs, &case).await;
                    let turn = turn.with_context(|| format!("{programs} beside {}", case.name))?;
                    say(&format!("beside {} {number}/{repeats}: {programs} {}", case.name, summary(&[turn])));
                    turns.push(turn);
                }
            }
            for (programs, turns) in contenders.iter().zip(&turns) {
                writeln!(table, "| {} | {programs} | {}", case.name, summary(turns))?;
            }
        }
        Ok(table)
    }

    fn cases(&self) -> [Case; 3] {
        let hanging = Case {
            name: "500 of the same client that hang",
            manner: Manner::Hang,
            receivers: self.crowd / 10,
            webhooks: 40,
            same_client: true,
            keep_coming: false,
        };
        [
            Case {
                name: "5,000 of another client that hang, each new",
                receivers: self.crowd,
                webhooks: 2,
                same_client: false,
                keep_coming: true,
                ..hanging
            },
            Case { name: "500 of the same client that drip", manner: Manner::Drip, webhooks: 60, ..hanging },
            hanging,
        ]
    }

    async fn turn(&self, programs: &Programs, case: &Case) -> anyhow::Result<Turn> {
        let db = Db::on(self.cluster).await;
        let worker = Worker::dispatcher(programs, &db);
        // Tells the worker of our state changes, as an api does.
        let store = db.another_store();
        let telling = store.clone();
        let telling = tokio::spawn(async move { telling.wakeups().run(&telling).await });
        let bad = BadReceivers::start(case.manner)?;
        let (alone, beside) = self.healthy.split_at(HEALTHY);
        let known = [&alone[..HEALTHY / 2], &beside[..HEALTHY / 2]].concat();
        for _ in 0..2 {
            self.send(&db, &store, &known, known.len(), Duration::from_millis(5)).await?;
        }
        let count = usize::try_from(RATE * u32::try_from(self.length.as_secs())?)?;
        let pause = Duration::from_secs(1) / RATE;
        let alone = self.send(&db, &store, alone, count, pause).await?;

        let client = if case.same_client { db.client } else { ClientId::generate() };
        let jobs = |receivers: std::ops::Range<usize>| -> Vec<NewJob> {
            let jobs = receivers.flat_map(|number| (0..case.webhooks).map(move |_| number));
            jobs.map(|number| job(&db, client, &bad.url(number))).collect()
        };
        let first = if case.keep_coming { case.receivers / 2 } else { case.receivers };
        for batch in jobs(0..first).chunks(BATCH) {
            store.accept(batch).await?;
        }
        // Gives the worker time to call as many of them as it will.
        sleep(self.length / 10).await;
        let more: Vec<_> = (first..case.receivers).map(|receiver| jobs(receiver..receiver + 1)).collect();
        let gap = self.length / u32::try_from(more.len().max(1))?;
        let theirs = store.clone();
        let coming = tokio::spawn(async move {
            let mut next = interval(gap);
            for receiver in more {
                next.tick().await;
                theirs.accept(&receiver).await.expect("the jobs can be accepted");
            }
        });
        let beside = self.send(&db, &store, beside, count, pause).await?;
        coming.await?;
        telling.abort();

        Ok(Turn {
            alone: quantiles(&alone),
            beside: quantiles(&beside),
            slowest: beside.iter().max().copied().unwrap_or_default(),
            late: beside.iter().filter(|took| **took > LATE).count(),
            memory: cpu::memory_of(worker.process.id())?,
            connections: bad.most_at_once(),
        })
    }

    /// Makes this many state changes, in turn for each of these receivers and on average `pause` apart, and waits for their
    /// webhooks. Returns how long each took.
    async fn send(
        &self,
        db: &Db,
        store: &Store,
        receivers: &[SocketAddr],
        count: usize,
        pause: Duration,
    ) -> anyhow::Result<Vec<Duration>> {
        *note(&self.came) = vec![None; count];
        let mut random = seeded();
        let mut committed = Vec::with_capacity(count);
        for number in 0..count {
            let url = format!("http://{}/{number}", receivers[number % receivers.len()]);
            let (store, job) = (store.clone(), job(db, db.client, &url));
            committed.push(tokio::spawn(async move {
                store.accept(&[job]).await?;
                anyhow::Ok(Instant::now())
            }));
            // At random moments, as events have that do not know of each other.
            sleep(between_arrivals(&mut random, pause.as_secs_f64())).await;
        }
        let mut moments = Vec::with_capacity(count);
        for committed in committed {
            moments.push(committed.await??);
        }
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience && note(&self.came).iter().any(Option::is_none) {
            sleep(Duration::from_millis(50)).await;
        }
        // A webhook may come before we have read that its state change is committed.
        let took = |(came, committed): (Option<Instant>, Instant)| {
            came.map_or(PATIENCE, |came| came.saturating_duration_since(committed))
        };
        Ok(note(&self.came).drain(..).zip(moments).map(took).collect())
    }
}

fn quantiles(times: &[Duration]) -> [Duration; 2] {
    let mut times = times.to_vec();
    times.sort_unstable();
    [0.5, 0.99].map(|quantile| times[((times.len() - 1) as f64 * quantile).ceil() as usize])
}

/// The medians of these turns, the slowest of all webhooks and all that were late.
fn summary(turns: &[Turn]) -> String {
    let median = |of: &dyn Fn(&Turn) -> f64| {
        let mut all: Vec<f64> = turns.iter().map(of).collect();
        all.sort_unstable_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let time = |of: &dyn Fn(&Turn) -> Duration| {
        millis(Duration::from_secs_f64(median(&|turn| of(turn).as_secs_f64())))
    };
    let ratio = |n: usize| median(&|turn| turn.beside[n].as_secs_f64() / turn.alone[n].as_secs_f64());
    format!(
        "{}, {} | {}, {} | {:.2} | **{:.2}** | {AIM} | {} | {} | {:.0} MiB, {:.0} connections |",
        time(&|turn| turn.alone[0]),
        time(&|turn| turn.alone[1]),
        time(&|turn| turn.beside[0]),
        time(&|turn| turn.beside[1]),
        ratio(0),
        ratio(1),
        millis(turns.iter().map(|turn| turn.slowest).max().unwrap_or_default()),
        turns.iter().map(|turn| turn.late).sum::<usize>(),
        median(&|turn| (turn.memory >> 20) as f64),
        median(&|turn| turn.connections as f64),
    )
}

/// A job whose first event goes to this URL. Nobody runs it.
fn job(db: &Db, client: ClientId, url: &str) -> NewJob {
    let url = ReceiverUrl::parse(url).expect("the URL is one");
    let events = Some(vec![JobState::Queued]);
    let receiver = JobReceiver { url: url.as_str().to_owned(), origin: url.origin(), events };
    db.job(JobRequest { client, receiver: Some(receiver), ..db.request() })
}

fn note<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("nobody panics with it")
}
