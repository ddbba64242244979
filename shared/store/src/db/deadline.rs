//! How long a statement may take, at Postgres and at the client, and how long a caller waits for a connection.
//!
//! Postgres ends a late statement first and reports that. If no report arrives, the client closes the connection. So
//! no caller waits for ever on a silent line, and no server process waits for a lock on behalf of a client that has
//! left.

use std::time::Duration;

/// Postgres ends a usual statement after this. Ours take less than a tenth of it, unless they wait for a lock.
const USUAL_WORK: Duration = Duration::from_secs(8);
/// No caller waits for upkeep, and it may read a whole table.
const UPKEEP_WORK: Duration = Duration::from_secs(600);
/// The person who runs `foreman doctor` waits no longer than this for one answer.
const CHECKUP_WORK: Duration = Duration::from_secs(20);

/// The client waits this much longer than Postgres does. Postgres has ended the statement by then, so its report is
/// lost.
const GRACE: Duration = Duration::from_secs(2);

/// A statement reaches Postgres within this on any usable line.
const ARRIVAL: Duration = Duration::from_secs(3);

/// Postgres ends the wait for a lock after this, so that the waiters for one table do not occupy the whole pool.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(3);

/// The slowest usable line, in bytes per second (8 Mbit/s). All connections of a process share it.
const SLOWEST_LINE: u64 = 1 << 20;

/// The usual deadline has room for a transfer of this length. Only for longer ones do we change Postgres' settings.
const TRANSFER_IN_PASSING: Duration = Duration::from_secs(4);

/// The same value as `foreman migrate` sets for the role. Postgres counts the arrival of a long message as idle time.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);

/// A caller that waits longer than this for a connection is told that Postgres is away.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is pinged before use, because Postgres may have restarted meanwhile. Under
/// load no connection is idle for so long, so the ping costs nothing then.
pub(crate) const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// The longest wait for the answer to such a ping.
pub(crate) const TRIAL_WITHIN: Duration = Duration::from_secs(2);

/// How long each statement of a unit of work may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    work: Duration,
    transfer: Duration,
    /// The slowest line that this deadline allows for, in bytes per second.
    line: u64,
}

impl Deadline {
    pub(crate) const USUAL: Self = Self::of(USUAL_WORK);
    pub(crate) const UPKEEP: Self = Self::of(UPKEEP_WORK);
    pub(crate) const CHECKUP: Self = Self::of(CHECKUP_WORK);

    const fn of(work: Duration) -> Self {
        Self { work, transfer: Duration::ZERO, line: SLOWEST_LINE }
    }

    /// The same deadline for a line that is slower by this factor.
    pub(crate) fn on_slower_line(self, factor: u32) -> Self {
        Self { line: (SLOWEST_LINE / u64::from(factor)).max(1), ..self }
    }

    /// The same deadline for a statement that carries this many bytes, in either direction.
    pub(crate) fn carrying(self, bytes: u64) -> Self {
        Self { transfer: Duration::from_millis(bytes.saturating_mul(1_000) / self.line), ..self }
    }

    /// Postgres ends the statement after this.
    pub(crate) fn at_server(self) -> Duration {
        self.work + self.transfer
    }

    /// The client closes the connection after this.
    pub(crate) fn at_client(self) -> Duration {
        self.at_server() + GRACE
    }

    /// The statement reaches Postgres within this. An accept that reaches Postgres later must not run.
    pub(crate) fn arrival(self) -> Duration {
        ARRIVAL + self.transfer
    }

    /// Whether the settings with which our connections start give this deadline enough time.
    pub(crate) fn is_usual(self) -> bool {
        self.work <= USUAL_WORK && self.transfer <= TRANSFER_IN_PASSING
    }

    /// The settings that a transaction with this deadline makes.
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
