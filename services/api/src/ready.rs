//! What the api needs to serve: not Ollama, which is the workers' concern.

use foreman_runtime::ops::Check;
use foreman_store::{CLOCK_TOLERANCE, Store, days_ahead_needed, schema_version_needed};

const AWAY: &str = "Postgres does not answer; look at DATABASE_URL and at Postgres itself";

pub(crate) async fn checks(store: Store) -> Vec<Check> {
    if store.ping().await.is_err() {
        return vec![Check::new("database", Err(AWAY.to_owned()))];
    }
    let schema = schema(&store).await;
    // Without its tables nothing else can be asked.
    let partitions = if schema.is_ok() { partitions(&store).await } else { Ok(()) };
    vec![
        Check::new("schema", schema),
        Check::new("partitions", partitions),
        Check::new("clock", clock(&store).await),
    ]
}

pub(crate) async fn schema(store: &Store) -> Result<(), String> {
    let needed = schema_version_needed();
    match store.schema_version().await {
        Ok(Some(version)) if version >= needed => Ok(()),
        Ok(Some(version)) => {
            Err(format!("the schema is at version {version} and must be at {needed}; run `foreman migrate`"))
        }
        Ok(None) => Err("the database has no schema of Foreman's; run `foreman migrate`".to_owned()),
        Err(_) => Err(AWAY.to_owned()),
    }
}

async fn partitions(store: &Store) -> Result<(), String> {
    let needed = days_ahead_needed();
    match store.partition_days_ahead().await {
        Ok(days) if days >= needed => ids_have_partitions(store).await,
        Ok(days) => Err(format!(
            "partitions are made for {days} days ahead and must be for {needed}; start a worker with the role janitor, \
             or run `foreman migrate`"
        )),
        Err(_) => Err(AWAY.to_owned()),
    }
}

/// Without one nothing can be accepted: this process is wrong about Postgres' time, or Postgres is about its own.
async fn ids_have_partitions(store: &Store) -> Result<(), String> {
    match store.next_id_has_partitions().await {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!(
            "the day of {} has no partitions, and ids are stamped with that time; let Postgres' clock follow NTP",
            store.clock().now().format("%F %T UTC")
        )),
        Err(_) => Err(AWAY.to_owned()),
    }
}

async fn clock(store: &Store) -> Result<(), String> {
    match store.learn_time().await {
        Ok(offset) if offset.abs() <= CLOCK_TOLERANCE => Ok(()),
        Ok(offset) => Err(format!(
            "this machine's clock is {} ms away from Postgres'; let both follow NTP",
            offset.num_milliseconds()
        )),
        Err(_) => Err(AWAY.to_owned()),
    }
}
