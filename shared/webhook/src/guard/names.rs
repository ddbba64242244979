//! Looks up the names of receivers: what is asked of nameservers, for whom, and how long an answer is used.
//!
//! Must never decide which address may be called. Must never let the names of one client delay those of another: each client
//! has its own share of the look-ups that run, and a name that a nameserver does not answer is given up in time.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hickory_resolver::net::{DnsError, NetError};
use moka::Expiry;
use moka::sync::Cache;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use super::nameservers::Nameservers;
use super::system::System;

/// The longest look-up. It includes the wait for a share, and every repetition of a question.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Look-ups that run at the same time. Each has up to four sockets: two questions to two nameservers.
const MAX_LOOKUPS: usize = 512;

/// Look-ups that run at the same time for one asker.
const MAX_LOOKUPS_PER_ASKER: usize = 64;

/// Answers that are remembered. Who fills this memory only makes names be looked up more often.
const MAX_REMEMBERED: u64 = 20_000;

/// An answer is used for its TTL, within these bounds. A TTL of 0 still serves the webhooks that are sent at that moment, and
/// a receiver that moves is found within minutes whatever its old TTL was.
const LEAST_TTL: Duration = Duration::from_secs(1);
const MOST_TTL: Duration = Duration::from_secs(300);

/// How long a name counts as one that does not exist.
const MOST_NEGATIVE_TTL: Duration = Duration::from_secs(30);

/// How long a name counts as one whose nameservers do not answer.
const FAILURE_TTL: Duration = Duration::from_secs(5);

/// On whose behalf a name is looked up, such as a client. Two askers with the same number share their share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asker(u64);

impl Asker {
    pub fn of(who: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        who.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Why a name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("no nameserver knows the name")]
    NotFound,
    #[error("no nameserver answered in time")]
    TimedOut,
    #[error("the nameservers answered with an error")]
    Failed,
    #[error("the text is no name")]
    NotAName,
}

type Resolved = Result<Arc<[IpAddr]>, LookupError>;

type UnderWay = HashMap<(Asker, String), Arc<OnceCell<Resolved>>>;

/// An answer with the time for which it is used.
#[derive(Debug, Clone)]
struct Remembered {
    answer: Resolved,
    ttl: Duration,
}

struct ByTtl;

impl Expiry<String, Remembered> for ByTtl {
    fn expire_after_create(&self, _: &String, value: &Remembered, _: Instant) -> Option<Duration> {
        Some(value.ttl)
    }

    fn expire_after_update(
        &self,
        _: &String,
        value: &Remembered,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(value.ttl)
    }
}

#[derive(Debug)]
pub(super) struct Names {
    system: System,
    remembered: Cache<String, Remembered>,
    all: Arc<Semaphore>,
    askers: Mutex<HashMap<Asker, Weak<Semaphore>>>,
    under_way: Mutex<UnderWay>,
}

impl Names {
    pub(super) fn new(nameservers: Option<Nameservers>) -> Self {
        Self {
            system: System::new(nameservers),
            remembered: Cache::builder().max_capacity(MAX_REMEMBERED).expire_after(ByTtl).build(),
            all: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            askers: Mutex::default(),
            under_way: Mutex::default(),
        }
    }

    /// The addresses of a name, of which there is at least one. A look-up goes on where its caller stops waiting, so that its
    /// answer serves the next one.
    pub(super) async fn addresses(self: &Arc<Self>, asker: Asker, host: &str) -> Resolved {
        if let Some(remembered) = self.remembered.get(host) {
            return remembered.answer;
        }
        let (names, key) = (Arc::clone(self), (asker, host.to_owned()));
        let asked = tokio::spawn(async move {
            let under_way = Arc::clone(names.under_way().entry(key.clone()).or_default());
            let answer = under_way.get_or_init(|| names.ask_in_time(asker, &key.1)).await.clone();
            names.under_way().remove(&key);
            answer
        });
        asked.await.unwrap_or(Err(LookupError::Failed))
    }

    async fn ask_in_time(&self, asker: Asker, host: &str) -> Resolved {
        let remembered = timeout(LOOKUP_TIMEOUT, self.ask(asker, host))
            .await
            .unwrap_or(Remembered { answer: Err(LookupError::TimedOut), ttl: FAILURE_TTL });
        // Another asker may have an answer by now, and a failure must not replace that.
        if remembered.answer.is_ok() || !self.remembered.contains_key(host) {
            self.remembered.insert(host.to_owned(), remembered.clone());
        }
        remembered.answer
    }

    async fn ask(&self, asker: Asker, host: &str) -> Remembered {
        let share = self.share(asker);
        // The own share first: who waits for it must not hold a part of what all have.
        let (Ok(_own), Ok(_common)) = (share.acquire().await, self.all.acquire().await) else {
            return Remembered { answer: Err(LookupError::Failed), ttl: FAILURE_TTL };
        };
        // Somebody may have asked while this one waited.
        if let Some(remembered) = self.remembered.get(host) {
            return remembered;
        }
        match self.system.look_up(host).await {
            Ok(found) => {
                Remembered { answer: Ok(found.addresses.into()), ttl: found.ttl.clamp(LEAST_TTL, MOST_TTL) }
            }
            Err(error) => {
                let (error, ttl) = judge(&error);
                Remembered { answer: Err(error), ttl }
            }
        }
    }

    /// The look-ups of the moment. One asker looks a name up once at a time, however many webhooks wait for that.
    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn share(&self, asker: Asker) -> Arc<Semaphore> {
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = askers.get(&asker).and_then(Weak::upgrade) {
            return share;
        }
        // Each that is left has a look-up under way or waiting, so this stays small.
        askers.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(MAX_LOOKUPS_PER_ASKER));
        askers.insert(asker, Arc::downgrade(&share));
        share
    }
}

/// What went wrong, and for how long that is believed.
fn judge(error: &NetError) -> (LookupError, Duration) {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.negative_ttl.is_some() => {
            let ttl = Duration::from_secs(none.negative_ttl.unwrap_or_default().into());
            (LookupError::NotFound, ttl.clamp(LEAST_TTL, MOST_NEGATIVE_TTL))
        }
        NetError::Dns(DnsError::NoRecordsFound(none)) if is_absent(none.response_code) => {
            (LookupError::NotFound, FAILURE_TTL)
        }
        NetError::Timeout => (LookupError::TimedOut, FAILURE_TTL),
        NetError::Proto(_) => (LookupError::NotAName, FAILURE_TTL),
        _ => (LookupError::Failed, FAILURE_TTL),
    }
}

fn is_absent(code: hickory_resolver::proto::op::ResponseCode) -> bool {
    use hickory_resolver::proto::op::ResponseCode;
    matches!(code, ResponseCode::NXDomain | ResponseCode::NoError)
}
