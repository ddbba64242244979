//! When a delivery is tried again, and when it ends.
//!
//! The decision is a pure function of the attempt and the receiver's reaction. The database adds the wait to its own clock.

use std::time::Duration;

use crate::reaction::Reaction;

/// Every delivery ends within this time. Otherwise an open delivery could keep its partition for ever.
pub const MAX_DELIVERY_AGE: Duration = Duration::from_secs(6 * 24 * 60 * 60);

/// The code of a delivery that ended because of its age.
pub const TOO_OLD: &str = "too_old";

/// The most attempts to send an event that is not the last of its job. Later events wait for it, and `done` must not wait
/// for days.
const MAX_ATTEMPTS_NOT_TERMINAL: usize = 4;

/// The most attempts to send any event. A longer schedule is a mistake.
const MAX_ATTEMPTS: usize = 100;

/// The waits before attempts 2, 3 and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule {
    waits: Vec<Duration>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScheduleError {
    #[error("expected waits separated by commas, such as 5s,5m,30m,2h, but {0:?} is not a duration")]
    NotADuration(String),
    #[error("expected at most {} waits", MAX_ATTEMPTS - 1)]
    TooMany,
    #[error("the waits add up to more than 6 days, but every delivery ends after 6 days; shorten them")]
    TooLong,
}

/// An attempt that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// Whether the event is the job's last (`done`, `failed`, `cancelled`, `expired`).
    pub terminal: bool,
    /// The time since the delivery was made, at the end of this attempt.
    pub delivery_age: Duration,
    /// Whether it tried out a receiver that had failed many times in a row.
    pub lane_is_open: bool,
}

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryDecision {
    Delivered,
    /// Try again this long after the end of the attempt.
    RetryIn(Duration),
    /// It tried out an open lane in vain. The attempt is not counted, and the lane says when the next one is made.
    Uncounted,
    /// The delivery has ended. The code is that of the last attempt, or `too_old`.
    Failed {
        code: &'static str,
    },
    /// 410: the delivery has ended, and the receiver gets no further webhooks. A registered endpoint is disabled. A
    /// per-job URL gets no more events of its job.
    EndReceiver,
}

/// A random addition to a wait, so that deliveries that failed together are not tried again together.
#[derive(Debug, Clone, Copy)]
pub struct Jitter(f64);

impl Jitter {
    pub const NONE: Self = Self(0.0);

    /// The largest addition, as a part of the wait.
    const MOST: f64 = 0.1;

    pub fn random() -> Self {
        Self(rand::random_range(0.0..=Self::MOST))
    }

    fn add_to(self, wait: Duration) -> Duration {
        wait + wait.mul_f64(self.0)
    }
}

impl RetrySchedule {
    /// Reads `5s,5m,30m`.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let waits = text
            .split(',')
            .map(|wait| {
                humantime::parse_duration(wait.trim())
                    .map_err(|_| ScheduleError::NotADuration(wait.trim().to_owned()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if waits.len() >= MAX_ATTEMPTS {
            return Err(ScheduleError::TooMany);
        }
        let total = waits.iter().try_fold(Duration::ZERO, |total, wait| total.checked_add(*wait));
        if total.is_none_or(|total| total > MAX_DELIVERY_AGE) {
            return Err(ScheduleError::TooLong);
        }
        Ok(Self { waits })
    }

    pub fn max_attempts(&self, terminal: bool) -> u32 {
        self.waits_for(terminal).len() as u32 + 1
    }

    /// Decides what becomes of the delivery after this reaction.
    pub fn decide(&self, attempt: Attempt, reaction: &Reaction, jitter: Jitter) -> DeliveryDecision {
        let Some(code) = reaction.error_code() else { return DeliveryDecision::Delivered };
        if reaction.is_gone() {
            return DeliveryDecision::EndReceiver;
        }
        if attempt.lane_is_open {
            return if attempt.delivery_age > MAX_DELIVERY_AGE {
                DeliveryDecision::Failed { code: TOO_OLD }
            } else if self.is_late_refusal(attempt, reaction) {
                DeliveryDecision::Failed { code }
            } else {
                DeliveryDecision::Uncounted
            };
        }
        let index = attempt.number.saturating_sub(1) as usize;
        let Some(wait) = self.waits_for(attempt.terminal).get(index) else {
            return DeliveryDecision::Failed { code };
        };
        let wait = jitter.add_to(reaction.retry_after().unwrap_or_default().max(*wait));
        if attempt.delivery_age + wait > MAX_DELIVERY_AGE {
            return DeliveryDecision::Failed { code: TOO_OLD };
        }
        DeliveryDecision::RetryIn(wait)
    }

    /// Whether the receiver refuses an event before the job's last one, after the time of the event's whole schedule. The
    /// receiver may refuse only such events. So a late refusal says nothing of how the receiver takes others: the lane neither
    /// opens by it nor waits longer. In an open lane, where failures are not counted, the event ends with it. Otherwise it
    /// would hold back the job's last event for as long as the lane is open.
    pub fn is_late_refusal(&self, attempt: Attempt, reaction: &Reaction) -> bool {
        let scheduled: Duration = self.waits_for(attempt.terminal).iter().sum();
        !attempt.terminal && attempt.delivery_age > scheduled && reaction.is_refusal()
    }

    fn waits_for(&self, terminal: bool) -> &[Duration] {
        let most = if terminal { MAX_ATTEMPTS } else { MAX_ATTEMPTS_NOT_TERMINAL };
        &self.waits[..self.waits.len().min(most - 1)]
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::reaction::Failure;

    const DEFAULT: &str = "5s,5m,30m,2h,5h,10h,14h,20h,24h";
    const FAILED: Reaction = Reaction::NotAnswered(Failure::Refused);

    fn schedule(text: &str) -> RetrySchedule {
        RetrySchedule::parse(text).unwrap()
    }

    fn attempt(number: u32) -> Attempt {
        Attempt { number, terminal: true, delivery_age: Duration::ZERO, lane_is_open: false }
    }

    fn answered(status: u16, retry_after: Option<&str>) -> Reaction {
        Reaction::answered(status, retry_after, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn each_attempt_waits_for_its_own_entry_and_the_last_one_ends_the_delivery() {
        let schedule = schedule(DEFAULT);
        let waits = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
        for (number, wait) in (1..).zip(waits) {
            assert_eq!(
                schedule.decide(attempt(number), &FAILED, Jitter::NONE),
                DeliveryDecision::RetryIn(Duration::from_secs(wait))
            );
        }
        for number in [10, 11, u32::MAX] {
            let decision = schedule.decide(attempt(number), &FAILED, Jitter::NONE);
            assert_eq!(decision, DeliveryDecision::Failed { code: "connection_refused" });
        }
        assert_eq!(schedule.max_attempts(true), 10);
    }

    #[test]
    fn an_event_that_is_not_the_last_has_at_most_4_attempts() {
        let schedule = schedule(DEFAULT);
        let attempt = |number| Attempt { terminal: false, ..attempt(number) };
        assert_eq!(
            schedule.decide(attempt(3), &FAILED, Jitter::NONE),
            DeliveryDecision::RetryIn(Duration::from_secs(1_800))
        );
        assert_eq!(
            schedule.decide(attempt(4), &FAILED, Jitter::NONE),
            DeliveryDecision::Failed { code: "connection_refused" }
        );
        assert_eq!(schedule.max_attempts(false), 4);
        assert_eq!(RetrySchedule::parse("2s").unwrap().max_attempts(false), 2);
    }

    #[test]
    fn jitter_only_adds_and_at_most_a_tenth() {
        let schedule = schedule("100s");
        for _ in 0..1_000 {
            let DeliveryDecision::RetryIn(wait) = schedule.decide(attempt(1), &FAILED, Jitter::random())
            else {
                panic!("attempt 1 of 2 is retried");
            };
            assert!((Duration::from_secs(100)..=Duration::from_secs(110)).contains(&wait), "{wait:?}");
        }
    }

    #[test]
    fn retry_after_lengthens_a_wait_and_never_shortens_it() {
        let schedule = schedule("60s,60s");
        for (value, wait) in [("5", 60), ("300", 300), ("1e300", 60), ("999999999", 86_400)] {
            assert_eq!(
                schedule.decide(attempt(1), &answered(429, Some(value)), Jitter::NONE),
                DeliveryDecision::RetryIn(Duration::from_secs(wait)),
                "{value}"
            );
        }
        // `Retry-After` lengthens waits, but adds no attempt.
        assert_eq!(
            schedule.decide(attempt(3), &answered(503, Some("300")), Jitter::NONE),
            DeliveryDecision::Failed { code: "status_503" }
        );
    }

    #[test]
    fn success_and_410_end_it_at_any_attempt() {
        let schedule = schedule("60s");
        for number in [1, 2, 9] {
            assert_eq!(
                schedule.decide(attempt(number), &answered(204, None), Jitter::NONE),
                DeliveryDecision::Delivered
            );
            assert_eq!(
                schedule.decide(attempt(number), &answered(410, None), Jitter::NONE),
                DeliveryDecision::EndReceiver
            );
        }
    }

    #[test]
    fn a_redirect_and_a_refused_address_are_retried_like_any_failure() {
        let schedule = schedule("60s");
        for reaction in [answered(302, None), Reaction::NotAnswered(Failure::AddressRefused)] {
            assert_eq!(
                schedule.decide(attempt(1), &reaction, Jitter::NONE),
                DeliveryDecision::RetryIn(Duration::from_secs(60))
            );
        }
    }

    #[test]
    fn no_attempt_is_planned_past_six_days() {
        let schedule = schedule("60s");
        let aged = |age| Attempt { delivery_age: age, ..attempt(1) };
        let minute = Duration::from_secs(60);
        assert_eq!(
            schedule.decide(aged(MAX_DELIVERY_AGE - minute), &FAILED, Jitter::NONE),
            DeliveryDecision::RetryIn(minute)
        );
        for age in [MAX_DELIVERY_AGE - Duration::from_secs(59), MAX_DELIVERY_AGE * 2] {
            let decision = schedule.decide(aged(age), &FAILED, Jitter::NONE);
            assert_eq!(decision, DeliveryDecision::Failed { code: "too_old" });
        }
    }

    #[test]
    fn an_open_lane_counts_nothing_and_ends_only_old_events_before_the_last_that_are_refused() {
        let schedule = schedule(DEFAULT);
        let in_time = Duration::from_secs(5 + 300 + 1_800);
        let late = in_time + Duration::from_secs(1);
        let decide = |terminal, delivery_age, reaction| {
            let attempt = Attempt { terminal, delivery_age, lane_is_open: true, ..attempt(4) };
            schedule.decide(attempt, &reaction, Jitter::NONE)
        };
        let refused = answered(400, None);
        assert_eq!(decide(false, late, refused), DeliveryDecision::Failed { code: "status_4xx" });
        assert_eq!(decide(false, in_time, refused), DeliveryDecision::Uncounted);
        assert_eq!(decide(true, late, refused), DeliveryDecision::Uncounted);
        assert_eq!(decide(false, late, FAILED), DeliveryDecision::Uncounted);
        assert_eq!(decide(false, late, answered(503, None)), DeliveryDecision::Uncounted);
        assert_eq!(decide(false, late, answered(410, None)), DeliveryDecision::EndReceiver);
        assert_eq!(decide(false, late, answered(200, None)), DeliveryDecision::Delivered);
        let ancient = MAX_DELIVERY_AGE + Duration::from_secs(1);
        assert_eq!(decide(true, ancient, FAILED), DeliveryDecision::Failed { code: TOO_OLD });
    }

    #[test]
    fn schedules_that_cannot_be_kept_are_refused() {
        for text in ["", "5", "soon", "5s,,5m", "-5s", "5s;5m", "1e300s"] {
            let refused = RetrySchedule::parse(text);
            assert!(matches!(refused, Err(ScheduleError::NotADuration(_))), "{text}: {refused:?}");
        }
        assert_eq!(RetrySchedule::parse("3d,3d,1s"), Err(ScheduleError::TooLong));
        assert_eq!(RetrySchedule::parse("500000000000y,500000000000y"), Err(ScheduleError::TooLong));
        assert_eq!(RetrySchedule::parse(&["1s"; 100].join(",")), Err(ScheduleError::TooMany));
        assert_eq!(schedule(" 2s, 4s ,8s"), schedule("2s,4s,8s"));
    }
}
