//! Whether a process can work with its Postgres. api and worker ask the same questions, at their start and at each
//! probe of `/readyz`.
//!
//! Must never change anything in Postgres.

use crate::db::clock::CLOCK_TOLERANCE;
use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::partition::days_ahead_needed;
use crate::db::schema::schema_version_needed;

/// `Err` has one sentence: what is wrong, and how to mend it.
type Condition = Result<(), String>;

impl Store {
    /// Checks every condition of being ready, each with its name.
    pub async fn readiness(&self) -> Vec<(&'static str, Condition)> {
        if let Err(error) = self.ping().await {
            return vec![("database", Err(no_answer(&error)))];
        }
        let schema = self.schema_is_new_enough().await;
        // The question about partitions needs the tables.
        let partitions = if schema.is_ok() { self.days_have_partitions().await } else { Ok(()) };
        vec![("schema", schema), ("partitions", partitions), ("clock", self.clocks_agree().await)]
    }

    /// Checks whether a process can start: Postgres answers, its time is known, and its schema is new enough.
    pub async fn can_be_used(&self) -> Condition {
        self.learn_time().await.map_err(|error| no_answer(&error))?;
        self.schema_is_new_enough().await
    }

    async fn schema_is_new_enough(&self) -> Condition {
        let needed = schema_version_needed();
        match self.schema_version().await {
            Ok(Some(version)) if version >= needed => Ok(()),
            Ok(Some(version)) => Err(format!(
                "the schema is at version {version} and must be at {needed}; run `foreman migrate`"
            )),
            Ok(None) => Err("the database has no schema of Foreman's; run `foreman migrate`".to_owned()),
            Err(error) => Err(no_answer(&error)),
        }
    }

    async fn days_have_partitions(&self) -> Condition {
        let needed = days_ahead_needed();
        match self.partition_days_ahead().await {
            Ok(days) if days >= needed => self.next_id_has_its_day().await,
            Ok(days) => Err(format!(
                "partitions are made for {days} days ahead and must be for {needed}; start a worker with the role \
                 janitor, or run `foreman migrate`"
            )),
            Err(error) => Err(no_answer(&error)),
        }
    }

    /// Without the partitions of that day no job can be accepted. They are missing if this process is wrong about
    /// Postgres' time, or Postgres about its own.
    async fn next_id_has_its_day(&self) -> Condition {
        match self.next_id_has_partitions().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!(
                "the day of {} has no partitions, and ids are stamped with that time; let Postgres' clock follow NTP",
                self.clock().now().format("%F %T UTC")
            )),
            Err(error) => Err(no_answer(&error)),
        }
    }

    async fn clocks_agree(&self) -> Condition {
        match self.learn_time().await {
            Ok(offset) if offset.abs() <= CLOCK_TOLERANCE => Ok(()),
            Ok(offset) => Err(format!(
                "this machine's clock is {} ms away from Postgres'; let both follow NTP",
                offset.num_milliseconds()
            )),
            Err(error) => Err(no_answer(&error)),
        }
    }
}

fn no_answer(error: &StoreError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(" ({cause})")).unwrap_or_default();
    format!("{error}{cause}; look at DATABASE_URL and at Postgres itself")
}
