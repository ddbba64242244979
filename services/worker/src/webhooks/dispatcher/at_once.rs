//! Webhooks that the relay of this process claims as it makes them. So a receiver for which nothing waits hears of an event
//! without a look and a claim. Everything else waits for the two loops, which share the seats among those who wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use foreman_store::{ClaimOfNew, Delivery, LaneId, Store, StoreError};

use super::Desk;
use super::choice::Choice;
use super::pool::CountedLane;
use super::start::Starter;
use crate::worker::Worker;

/// What the relay needs for that.
pub(crate) struct AtOnce {
    store: Store,
    desk: Arc<Desk>,
    starter: Starter,
}

/// What one turn of the relay may claim.
pub(crate) struct Offered {
    pub(crate) claim: ClaimOfNew,
    lanes: HashMap<LaneId, CountedLane>,
}

impl AtOnce {
    pub(crate) fn new(worker: &Arc<Worker>, store: Store, desk: Arc<Desk>) -> Self {
        let starter = desk.starter(worker, store.clone());
        Self { store, desk, starter }
    }

    /// The lanes that took webhooks lately, have nothing due and much room.
    pub(crate) fn offer(&self) -> Offered {
        let (desk, present) = (&*self.desk, self.store.clock().now());
        let memory = desk.memory();
        let has_room = |lane: &CountedLane| desk.seats.room_at(lane) >= ClaimOfNew::AT_MOST.into();
        let lanes: HashMap<LaneId, CountedLane> = memory
            .idle(present)
            .map(|remembered| remembered.counted(&desk.destinations))
            .filter(has_room)
            .map(|lane| (lane.lane, lane))
            .collect();
        let claim = ClaimOfNew { lanes: lanes.keys().copied().collect(), terms: desk.context.terms };
        Offered { claim, lanes }
    }

    /// Begins an attempt for each of these, which were claimed at `claimed` or a little later.
    pub(crate) async fn begin(
        &mut self,
        deliveries: Vec<Delivery>,
        claimed: Instant,
        offered: Offered,
    ) -> Result<(), StoreError> {
        self.desk.count_begun(&deliveries);
        self.starter.begin(deliveries, claimed, &mut Choice::of(offered.lanes)).await
    }
}
