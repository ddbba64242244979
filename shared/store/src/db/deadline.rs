//! How long a statement may take, at both ends, and how long a connection is waited for. Postgres gives a statement up
//! first, and says so. Where even that word does not come, we give up the connection. So nobody waits for ever on a line
//! that has gone silent, and no server process waits for a lock on behalf of somebody who has left.

use std::time::Duration;

/// Postgres ends a usual statement after this. None of ours takes a tenth of it, unless it waits for another.
const USUAL_WORK: Duration = Duration::from_secs(8);
/// Nobody waits for this kind, and it may go over a whole table.
const UPKEEP_WORK: Duration = Duration::from_secs(600);
/// Whoever waits for the answer of a checkup waits no longer than this.
const CHECKUP_WORK: Duration = Duration::from_secs(20);

/// So much later we take silence for an answer: Postgres has ended the statement by then, and its word is lost.
const GRACE: Duration = Duration::from_secs(2);

/// What is sent has arrived by then, on every line that is worth having.
const ARRIVAL: Duration = Duration::from_secs(3);

/// Postgres ends the wait for a lock after this. Those who wait for one table leave the pool to those who need another.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(3);

/// The slowest line that is still good enough, in bytes per second (8 Mbit/s). All of a process share it.
const SLOWEST_LINE: u64 = 1 << 20;

/// The usual work leaves room for carrying so long; only longer transfers are worth telling Postgres of.
const TRANSFER_IN_PASSING: Duration = Duration::from_secs(4);

/// As `foreman migrate` sets it for the role. Postgres counts a message that is still arriving as idling.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);

/// How long a caller waits for a connection before it is told that Postgres is away.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that lay idle for longer is tried before it is used: Postgres may have restarted meanwhile. Under
/// load none lies idle for so long, and the trial costs nothing.
pub(crate) const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// A connection that is tried has answered by then, or is not worth waiting for.
pub(crate) const TRIAL_WITHIN: Duration = Duration::from_secs(2);

/// How long each statement of a unit of work may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    work: Duration,
    transfer: Duration,
    /// The slowest line that it allows for, in bytes per second.
    line: u64,
}

impl Deadline {
    pub(crate) const USUAL: Self = Self::of(USUAL_WORK);
    pub(crate) const UPKEEP: Self = Self::of(UPKEEP_WORK);
    pub(crate) const CHECKUP: Self = Self::of(CHECKUP_WORK);

    const fn of(work: Duration) -> Self {
        Self { work, transfer: Duration::ZERO, line: SLOWEST_LINE }
    }

    /// The same over a line that is slower by this factor.
    pub(crate) fn on_slower_line(self, factor: u32) -> Self {
        Self { line: (SLOWEST_LINE / u64::from(factor)).max(1), ..self }
    }

    /// The same for a statement that carries so many bytes, there or back.
    pub(crate) fn carrying(self, bytes: u64) -> Self {
        Self { transfer: Duration::from_millis(bytes.saturating_mul(1_000) / self.line), ..self }
    }

    /// Postgres ends the statement after this.
    pub(crate) fn at_server(self) -> Duration {
        self.work + self.transfer
    }

    /// We close its connection after this.
    pub(crate) fn at_client(self) -> Duration {
        self.at_server() + GRACE
    }

    /// The statement begins within this, or not at all where it minds that.
    pub(crate) fn arrival(self) -> Duration {
        ARRIVAL + self.transfer
    }

    /// Whether the settings with which our connections begin leave enough time for it.
    pub(crate) fn is_usual(self) -> bool {
        self.work <= USUAL_WORK && self.transfer <= TRANSFER_IN_PASSING
    }

    /// What a transaction sets for itself.
    pub(crate) fn settings(self) -> String {
        let (statement, lock) = (self.at_server().as_millis(), LOCK_WAIT.as_millis());
        let mut settings =
            format!("SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock}");
        if !self.transfer.is_zero() {
            let idle = (IDLE_IN_TRANSACTION + self.transfer).as_millis();
            settings += &format!("; SET LOCAL idle_in_transaction_session_timeout = {idle}");
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_speaks_before_we_hang_up_however_much_is_carried() {
        for bytes in [0, 1, 4 << 20, 64 << 20, u64::MAX] {
            let deadline = Deadline::USUAL.carrying(bytes);
            assert!(deadline.at_server() < deadline.at_client(), "{bytes}");
        }
        assert_eq!(Deadline::USUAL.carrying(64 << 20).at_server(), USUAL_WORK + Duration::from_secs(64));
    }

    #[test]
    fn a_slower_line_has_more_time_for_its_bytes_alone() {
        let usual = Deadline::USUAL;
        let slower = usual.on_slower_line(4);
        assert_eq!(slower.at_server(), usual.at_server());
        let transfer = |deadline: Deadline| deadline.carrying(24 << 20).at_server() - USUAL_WORK;
        assert_eq!(transfer(slower), transfer(usual) * 4);
        assert!(transfer(usual.on_slower_line(u32::MAX)) > transfer(slower));
    }

    #[test]
    fn only_much_to_carry_is_worth_telling_postgres_of() {
        assert!(Deadline::USUAL.carrying(4 << 20).is_usual());
        assert!(!Deadline::USUAL.carrying(5 << 20).is_usual());
        assert!(!Deadline::UPKEEP.is_usual());
    }
}
