//! From a claim to its attempts: secrets and small artifacts are read for many at once, and each attempt begins as soon as
//! it can.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foreman_runtime::background::Rounds;
use foreman_store::{Delivery, JobState, LaneId, StoreError};

use super::attempt::release;
use super::receivers::Withheld;
use super::seats::CountedLane;
use super::{Dispatcher, tell};

/// Before a claim is tried again whose artifacts could not be read.
const RELEASED_FOR: Duration = Duration::from_secs(1);

/// Artifacts of light webhooks are read in pieces of so many bytes, and what one brings is sent before the next is read: on
/// a thin line the first are not late for the sake of the last.
const PIECE: u64 = 512 << 10;

/// What all attempts of one claim begin with.
struct Start<'a> {
    /// A moment before the claim.
    claimed: Instant,
    lanes: &'a HashMap<LaneId, CountedLane>,
}

impl Dispatcher {
    /// Begins the attempts: at once where there is nothing to be read or much, which the attempt does itself, and the others
    /// as their artifacts come.
    pub(super) async fn begin(
        &mut self,
        deliveries: Vec<Delivery>,
        claimed: Instant,
        lanes: &HashMap<LaneId, CountedLane>,
    ) -> Result<(), StoreError> {
        let mut failed = self.receivers.read(Self::TASK, &self.store, &deliveries).await.err();
        let start = Start { claimed, lanes };
        let is_read_here = |one: &Delivery| one.event.state == JobState::Done && !one.is_heavy();
        let (mut light, others): (Vec<Delivery>, Vec<Delivery>) =
            deliveries.into_iter().partition(is_read_here);
        for delivery in others {
            self.start(delivery, &start).await;
        }
        while !light.is_empty() {
            let mut bytes = 0;
            let fitting = light.iter().take_while(|delivery| {
                bytes += delivery.artifact_bytes;
                bytes <= PIECE
            });
            let mut piece: Vec<Delivery> = light.drain(..fitting.count().max(1)).collect();
            match self.store.add_artifacts(&mut piece, self.terms.inline_limit).await {
                Ok(()) => {
                    for delivery in piece {
                        self.start(delivery, &start).await;
                    }
                }
                Err(error) => {
                    for delivery in piece {
                        tell(&self.over, release(delivery, claimed, RELEASED_FOR)).await;
                    }
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Begins one attempt. It keeps its seat until its report is on its way to the settler, who takes only so many: what is
    /// under way is bounded even where Postgres is slow to write.
    async fn start(&self, delivery: Delivery, start: &Start<'_>) {
        let lane = start
            .lanes
            .get(&delivery.receiver.lane)
            .expect("only lanes that were offered seats are claimed from");
        let seat = self.seats.take(lane.clone());
        let weight = delivery.is_heavy().then(|| self.heavy.take(lane.clone(), delivery.artifact_bytes));
        let over = self.over.clone();
        match self.receivers.address(&delivery.receiver) {
            Ok(address) => {
                let context = Arc::clone(&self.context);
                // In a box before it is wrapped: each wrapper would copy its kilobytes.
                let attempt = Box::pin(context.attempt(delivery, weight, start.claimed, address));
                let hard = self.worker.shutdown.hard().clone();
                self.worker.shutdown.spawn_work("delivery", async move {
                    // At the end of the grace it is let go: its claim ends by itself, and it is sent again.
                    if let Some(attempted) = hard.run_until_cancelled(attempt).await {
                        tell(&over, attempted).await;
                        drop(seat);
                    }
                });
            }
            Err(Withheld { wait }) => tell(&over, release(delivery, start.claimed, wait)).await,
        }
    }
}
