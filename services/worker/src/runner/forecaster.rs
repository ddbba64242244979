//! Makes the host's forecast while jobs wait, and publishes it. The plan runs ahead on a copy and on a thread of its own,
//! so that the floor never waits for it.

use std::sync::Arc;
use std::time::Duration;

use foreman_runtime::{background_error, stalls};
use foreman_store::{Holder, Store, StoreError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::floor::ForecastRequest;
use super::told_times::ToldTimes;
use crate::scheduling::backlog::Group;
use crate::scheduling::plan::forecast::{Foretold, MOST, Read, Start};
use crate::worker::Worker;

/// The shortest time between two forecasts. People look at them.
const REST: Duration = Duration::from_secs(1);

/// After each forecast, rest for this many times as long as it took, so that forecasts take at most a fiftieth of a
/// processor.
const REST_TIMES: u32 = 49;

/// The longest time between two forecasts. Apis take none for true that is much older.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// A run ahead ends after this time, and tells what it has found. A thousand jobs of a few groups take a tenth of it; with
/// hundreds of groups it ends before so many.
const AT_MOST: Duration = Duration::from_millis(200);

/// Foretell nothing while more groups wait than this: each costs a look into the index.
const MAX_GROUPS: usize = 10_000;

/// How often to read more jobs for one forecast. Each time, four times as many are read of the groups that need them.
const MAX_READS: usize = 5;

/// Forecasts while this worker holds its host.
pub(crate) async fn run(
    worker: Arc<Worker>,
    mut holder: watch::Receiver<Option<Holder>>,
    ask_floor: mpsc::Sender<ForecastRequest>,
    told: ToldTimes,
) {
    // What another holder has published may still stand there.
    let mut is_published = true;
    loop {
        let Ok(Some(held)) = holder.wait_for(Option::is_some).await.map(|held| held.clone()) else { return };
        let began = Instant::now();
        let (request, answer) = oneshot::channel();
        if ask_floor.send(request).await.is_err() {
            return;
        }
        let Ok(start) = answer.await else { return };
        let waits = start.is_some();
        if waits || is_published {
            let publish = publish(&worker.store, &held, start, &told);
            match stalls::round("forecast", stalls::USUAL, publish).await {
                Ok(()) => is_published = waits,
                Err(error) => background_error!("forecast", error),
            }
        }
        sleep((began.elapsed() * REST_TIMES).clamp(REST, LONGEST_REST)).await;
    }
}

async fn publish(
    store: &Store,
    holder: &Holder,
    start: Option<Start>,
    told: &ToldTimes,
) -> Result<(), StoreError> {
    let Some(start) = start else { return store.publish_forecast(holder, None).await };
    let groups = start.groups();
    if groups.len() > MAX_GROUPS {
        return store.publish_forecast(holder, None).await;
    }
    let at = start.now;
    let Some(Foretold { mut forecast, .. }) = foretell(store, start, groups).await? else { return Ok(()) };
    told.tell(&mut forecast, at);
    store.publish_forecast(holder, Some(&forecast)).await
}

/// `None` if the run ahead has panicked, which is logged.
async fn foretell(store: &Store, start: Start, groups: Vec<Group>) -> Result<Option<Foretold>, StoreError> {
    let each = (MOST / groups.len().max(1)).max(1);
    let mut at_most = vec![each; groups.len()];
    for reads in 1.. {
        let waiting = read(store, &groups, &at_most).await?;
        let again = start.clone();
        let run = move || {
            let began = Instant::now();
            again.foretell(waiting, || began.elapsed() < AT_MOST)
        };
        let foretold = match spawn_blocking(run).await {
            Ok(foretold) => foretold,
            Err(error) => {
                background_error!("forecast", error, "the plan could not run ahead");
                return Ok(None);
            }
        };
        if !foretold.needs_more || reads == MAX_READS {
            return Ok(Some(foretold));
        }
        for (at_most, reached) in at_most.iter_mut().zip(&foretold.reached) {
            *at_most = (each + 4 * reached).clamp(*at_most, MOST);
        }
    }
    Ok(None)
}

async fn read(store: &Store, groups: &[Group], at_most: &[usize]) -> Result<Vec<Read>, StoreError> {
    let asked: Vec<_> = groups.iter().map(Into::into).zip(at_most.iter().copied()).collect();
    let jobs = store.ready_jobs(&asked).await?;
    let empty = |group: &Group| Read { group: group.clone(), jobs: [].into(), has_more: false };
    let mut waiting: Vec<Read> = groups.iter().map(empty).collect();
    for (group, job) in jobs {
        waiting[group].jobs.push_back(job);
    }
    for (read, at_most) in waiting.iter_mut().zip(at_most) {
        read.has_more = read.jobs.len() >= *at_most;
    }
    Ok(waiting)
}
