//! The tables: whether they are there in the form that this build knows, whether the role may use them, and how many days
//! have a place in them.

use foreman_store::{SchemaState, Store, StoreError, days_ahead_needed, schema_version_needed};

use super::finding::{Finding, count};

/// With fewer days left somebody has not made new ones for a week.
const DAYS_EXPECTED: i64 = 7;

/// What the role may do, and how far it may go. Asked before anything reads a table.
pub(super) async fn rights(store: &Store, role: &str, database: &str) -> Result<Vec<Finding>, StoreError> {
    let rights = store.rights().await?;
    let Some(schema) = &rights.schema else {
        return Ok(vec![Finding::trouble(
            format!("The role {role} may use no schema of its search_path."),
            format!(
                "GRANT USAGE, CREATE ON SCHEMA public TO {role};  (as the owner of the database {database})"
            ),
        )]);
    };
    let mut found = Vec::new();
    if !rights.missing.is_empty() {
        let tables: Vec<_> = rights.missing.iter().map(|(table, _)| table.as_str()).collect();
        let missing = &rights.missing[0].1;
        found.push(Finding::trouble(
            format!("The role {role} lacks {} on {}: {}.", missing.join(", "),
                count(tables.len(), "table"), tables.join(", ")),
            format!("GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role};"),
        ));
    }
    match &rights.owner {
        Some(owner) if !rights.as_owner => found.push(Finding::trouble(
            format!("The tables belong to {owner}, and {role} may not act for it: a worker cannot make or drop the days' partitions."),
            format!("GRANT {owner} TO {role};  (or run api, worker and foreman migrate as {owner})"),
        )),
        _ if !rights.may_create => found.push(Finding::trouble(
            format!("The role {role} may make no table in schema {schema} (since Postgres 15 not everybody may), and a new day is a new table."),
            format!("GRANT CREATE ON SCHEMA {schema} TO {role};  (or ALTER DATABASE {database} OWNER TO {role})"),
        )),
        _ => {}
    }
    if found.is_empty() {
        found.push(Finding::ok(format!("The role {role} may do all that is needed.")));
    }
    Ok(found)
}

pub(super) fn state(state: SchemaState) -> Finding {
    let ours = schema_version_needed();
    match state {
        SchemaState::Current => {
            Finding::ok(format!("The schema is at version {ours}, as this foreman needs it."))
        }
        SchemaState::Absent => {
            Finding::trouble("The database has no schema of Foreman's.", "foreman migrate")
        }
        SchemaState::Behind { missing, newest } => Finding::trouble(
            format!(
                "The schema is at version {newest}, and migration {missing} of this foreman was not applied."
            ),
            "foreman migrate",
        ),
        SchemaState::Ahead { newest } => Finding::trouble(
            format!(
                "The schema is at version {newest}, and this foreman knows {ours}: a newer one has migrated it."
            ),
            "install that newer release here too, api and worker with it; passing while an upgrade is under way",
        ),
        SchemaState::Failed(version) => Finding::trouble(
            format!("Migration {version} began and did not end."),
            format!(
                "see what it left (its text is migrations/{version:04}_*.sql), undo that, DELETE FROM _sqlx_migrations WHERE \
                 version = {version}, then foreman migrate; or restore the backup from before it"
            ),
        ),
        SchemaState::Altered(version) => Finding::trouble(
            format!("Migration {version} was applied in another form than this foreman has."),
            "install the release that migrated this database, or restore a backup from a release",
        ),
    }
}

/// Whether the tables can be read as we know them.
pub(super) fn is_readable(state: SchemaState) -> bool {
    match state {
        SchemaState::Current | SchemaState::Ahead { .. } => true,
        SchemaState::Absent
        | SchemaState::Behind { .. }
        | SchemaState::Failed(_)
        | SchemaState::Altered(_) => false,
    }
}

pub(super) async fn partitions(store: &Store) -> Result<Finding, StoreError> {
    let ahead = store.partition_days_ahead().await?;
    let what = match ahead {
        ..0 => "Today has no partition: no job can be accepted.".to_owned(),
        0 => "Only today has its partitions: from midnight UTC on no job can be accepted.".to_owned(),
        days => format!("Partitions are there for {} after today.", count(days, "day")),
    };
    let mend = "foreman migrate  (makes two weeks; a live worker with the role janitor does so by itself)";
    Ok(match ahead {
        days if days < days_ahead_needed() => Finding::trouble(what, mend),
        days if days < DAYS_EXPECTED => Finding::note(what, mend),
        _ => Finding::ok(what),
    })
}
