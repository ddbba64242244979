//! What attempts say of their receivers, added up for each lane of a batch. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::LaneId;

/// What an attempt says of its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneNews {
    /// Nothing was sent, or the answer says nothing of how the receiver takes other webhooks.
    Unknown,
    Succeeded,
    /// It took the webhook, but its answer went on for so long that it was cut off. That does not prove the lane: answers
    /// that never end would hold as many seats as a proven lane has.
    SucceededWithoutEnd,
    Failed {
        code: &'static str,
        /// How long nothing may be sent there, because the receiver says so.
        hold: Option<Duration>,
    },
}

impl LaneNews {
    /// Whether it speaks against the receiver.
    pub fn is_bad(&self) -> bool {
        matches!(self, Self::SucceededWithoutEnd | Self::Failed { .. })
    }
}

/// What the reports of one batch say of a lane.
pub(crate) struct OfLane<'a> {
    pub(crate) id: LaneId,
    /// Where the lane's endpoint was, if it has one: the answers of two URLs are told apart.
    pub(crate) url: Option<&'a str>,
    pub(crate) succeeded: bool,
    /// The last success does not prove the lane.
    pub(crate) unproven: bool,
    /// Failures since the last success.
    pub(crate) failures: i32,
    pub(crate) hold: Option<Duration>,
    pub(crate) last_error: Option<&'static str>,
    pub(crate) probed: bool,
}

/// Adds up the news of attempts in the order in which they ended, each with its lane, the URL of its endpoint if it has one, and
/// whether it was a probe.
pub(crate) fn of_lanes<'a>(
    attempts: impl IntoIterator<Item = ((LaneId, Option<&'a str>), LaneNews, bool)>,
) -> Vec<OfLane<'a>> {
    let mut lanes: BTreeMap<(LaneId, Option<&str>), OfLane<'_>> = BTreeMap::new();
    for ((id, url), news, is_probe) in attempts {
        if news == LaneNews::Unknown && !is_probe {
            continue;
        }
        let lane = lanes.entry((id, url)).or_insert(OfLane {
            id,
            url,
            succeeded: false,
            unproven: false,
            failures: 0,
            hold: None,
            last_error: None,
            probed: false,
        });
        lane.probed |= is_probe;
        match news {
            LaneNews::Unknown => {}
            LaneNews::Succeeded | LaneNews::SucceededWithoutEnd => {
                (lane.succeeded, lane.failures) = (true, 0);
                lane.unproven = news == LaneNews::SucceededWithoutEnd;
            }
            LaneNews::Failed { code, hold } => {
                lane.failures += 1;
                lane.hold = lane.hold.max(hold);
                lane.last_error = Some(code);
            }
        }
    }
    lanes.into_values().collect()
}
