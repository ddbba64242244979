//! The groups of ready jobs that a scan chooses from.
//!
//! Must never read every ready job, nor every group: clients can make groups without end.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{ClientId, JobId};
use crate::job::user_name::UserName;

/// In a look at everything the clients share this many groups, each the same. A step from group to group takes about
/// 6 µs.
const GROUPS: i64 = 1_000;
/// Each client gets this many groups in a look, however many clients there are. So a look at most clients finds all.
const OF_EACH_AT_LEAST: i64 = 10;
/// And no client gets more, however few there are.
const OF_EACH_AT_MOST: i64 = 500;

/// The ready jobs of one client and user with one load key and one priority: its sync calls, or its other jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyGroup {
    pub load_key: String,
    pub client: ClientId,
    pub user: UserName,
    pub priority: i16,
    /// Whether these are sync calls, whose callers wait.
    pub sync: bool,
    /// The oldest job that was seen in the group.
    pub lowest: JobId,
}

/// A place among the groups of a client: behind the group of these values. GroupPlaces are ordered as Postgres orders the
/// groups.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupPlace {
    pub user: UserName,
    pub load_key: String,
    pub priority: i16,
    pub sync: bool,
}

impl ReadyGroup {
    /// The place behind this group.
    pub fn place(&self) -> GroupPlace {
        let Self { user, load_key, priority, sync, .. } = self;
        GroupPlace { user: user.clone(), load_key: load_key.clone(), priority: *priority, sync: *sync }
    }

    fn order(&self) -> (ClientId, &UserName, &str, i16, bool) {
        (self.client, &self.user, &self.load_key, self.priority, self.sync)
    }
}

/// What a look at everything has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundGroups {
    /// Sorted by client, and by their places within each client.
    pub groups: Vec<ReadyGroup>,
    /// The clients of which there may be more groups behind the last one found.
    pub have_more: BTreeSet<ClientId>,
}

/// Groups as Postgres takes them: one array for each column.
struct Columns<'a> {
    load_keys: Vec<&'a str>,
    clients: Vec<Uuid>,
    users: Vec<&'a str>,
    priorities: Vec<i16>,
    syncs: Vec<bool>,
    lower_bounds: Vec<Uuid>,
}

impl<'a> Columns<'a> {
    fn of(groups: impl Iterator<Item = &'a ReadyGroup> + Clone) -> Self {
        Self {
            load_keys: groups.clone().map(|group| group.load_key.as_str()).collect(),
            clients: groups.clone().map(|group| group.client.uuid()).collect(),
            users: groups.clone().map(|group| group.user.as_str()).collect(),
            priorities: groups.clone().map(|group| group.priority).collect(),
            syncs: groups.clone().map(|group| group.sync).collect(),
            lower_bounds: groups.map(|group| group.lowest.uuid()).collect(),
        }
    }
}

impl Store {
    /// Groups of every client, each with its oldest job. The look at a client begins at its first group, or at the place
    /// that `goes_on` names. The clients in `goes_on` share as many groups as all the others. The statement steps from group
    /// to group over an index, so its cost is bounded, whatever the clients have queued. It skips expired jobs, which the
    /// janitor ends.
    pub async fn ready_groups(&self, goes_on: &[(ClientId, GroupPlace)]) -> Result<FoundGroups, StoreError> {
        let clients: Vec<_> = goes_on.iter().map(|(client, _)| client.uuid()).collect();
        let users: Vec<_> = goes_on.iter().map(|(_, place)| place.user.as_str()).collect();
        let load_keys: Vec<_> = goes_on.iter().map(|(_, place)| place.load_key.as_str()).collect();
        let priorities: Vec<_> = goes_on.iter().map(|(_, place)| place.priority).collect();
        let syncs: Vec<_> = goes_on.iter().map(|(_, place)| place.sync).collect();
        let rows = sqlx::query!(
            r#"-- ready_groups
            WITH RECURSIVE client AS (
                (SELECT client_id FROM job_ready WHERE expires_at > clock_timestamp() ORDER BY client_id LIMIT 1)
                UNION ALL
                SELECT next.client_id FROM client c CROSS JOIN LATERAL (
                    SELECT r.client_id FROM job_ready r
                    WHERE r.client_id > c.client_id AND r.expires_at > clock_timestamp()
                    ORDER BY r.client_id LIMIT 1
                ) AS next
            ), look AS MATERIALIZED (
                SELECT c.client_id, coalesce(g.user_name, '') AS user_name, coalesce(g.load_key, '') AS load_key,
                       coalesce(g.priority, 0::smallint) AS priority, coalesce(g.sync, false) AS sync,
                       least(greatest($6 / CASE WHEN g.client_id IS NULL THEN (SELECT count(*) FROM client)
                                                ELSE cardinality($1) END, $7), $8) AS at_most
                FROM client c
                LEFT JOIN unnest($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::boolean[])
                    AS g (client_id, user_name, load_key, priority, sync) ON g.client_id = c.client_id
            )
            SELECT look.client_id AS "client!: ClientId", found.user_name AS "user!: UserName",
                   found.load_key AS "load_key!", found.priority AS "priority!", found.sync AS "sync!",
                   found.job_id AS "lowest!: JobId", found.nth = look.at_most AS "is_last!"
            FROM look CROSS JOIN LATERAL (
                WITH RECURSIVE ready_group AS (
                    (SELECT 1 AS nth, r.user_name, r.load_key, r.priority, r.sync, r.job_id FROM job_ready r
                     WHERE r.client_id = look.client_id AND r.expires_at > clock_timestamp()
                       AND (r.user_name, r.load_key, r.priority, r.sync)
                         > (look.user_name, look.load_key, look.priority, look.sync)
                     ORDER BY r.user_name, r.load_key, r.priority, r.sync, r.job_id LIMIT 1)
                    UNION ALL
                    SELECT g.nth + 1, next.* FROM ready_group g CROSS JOIN LATERAL (
                        SELECT r.user_name, r.load_key, r.priority, r.sync, r.job_id FROM job_ready r
                        WHERE r.client_id = look.client_id AND r.expires_at > clock_timestamp()
                          AND (r.user_name, r.load_key, r.priority, r.sync)
                            > (g.user_name, g.load_key, g.priority, g.sync)
                        ORDER BY r.user_name, r.load_key, r.priority, r.sync, r.job_id LIMIT 1
                    ) AS next
                    WHERE g.nth < look.at_most
                )
                SELECT * FROM ready_group
            ) AS found"#,
            &clients,              // $1 client_id
            &users as &[&str],     // $2 user_name
            &load_keys as &[&str], // $3 load_key
            &priorities,           // $4 priority
            &syncs,                // $5 sync
            GROUPS,                // $6 groups
            OF_EACH_AT_LEAST,      // $7 at_least
            OF_EACH_AT_MOST,       // $8 at_most
        )
        .fetch_all(self.once())
        .await?;
        let have_more = rows.iter().filter(|row| row.is_last).map(|row| row.client).collect();
        let mut groups: Vec<_> = rows
            .into_iter()
            .map(|row| ReadyGroup {
                load_key: row.load_key,
                client: row.client,
                user: row.user,
                priority: row.priority,
                sync: row.sync,
                lowest: row.lowest,
            })
            .collect();
        groups.sort_unstable_by(|one, other| one.order().cmp(&other.order()));
        Ok(FoundGroups { groups, have_more })
    }

    /// Those of the `known` groups that still have ready jobs. Each look begins at the group's `lowest` job, so that
    /// it skips the index entries of jobs long gone. It sees neither other groups nor older jobs.
    pub async fn ready_groups_at(&self, known: &[ReadyGroup]) -> Result<Vec<ReadyGroup>, StoreError> {
        let columns = Columns::of(known.iter());
        let groups = sqlx::query_as!(
            ReadyGroup,
            r#"-- ready_groups_at
            SELECT known.load_key AS "load_key!", known.client_id AS "client!: ClientId",
                   known.user_name AS "user!: UserName", known.priority AS "priority!", known.sync AS "sync!",
                   ready.job_id AS "lowest!: JobId"
            FROM unnest($1::text[], $2::uuid[], $3::text[], $4::smallint[], $5::boolean[], $6::uuid[])
                AS known (load_key, client_id, user_name, priority, sync, lower_bound)
            CROSS JOIN LATERAL (
                SELECT job_id FROM job_ready r
                WHERE r.load_key = known.load_key AND r.client_id = known.client_id AND r.user_name = known.user_name
                  AND r.priority = known.priority AND r.sync = known.sync
                  AND r.job_id >= known.lower_bound AND r.expires_at > clock_timestamp()
                ORDER BY r.job_id LIMIT 1
            ) AS ready"#,
            &columns.load_keys as &[&str], // $1 load_key
            &columns.clients,              // $2 client_id
            &columns.users as &[&str],     // $3 user_name
            &columns.priorities,           // $4 priority
            &columns.syncs,                // $5 sync
            &columns.lower_bounds,         // $6 lower_bound
        )
        .fetch_all(self.once())
        .await?;
        Ok(groups)
    }

    /// The oldest jobs of these groups, in their order within each group: of each group as many as the number beside it
    /// says, at most. Each job comes with the place of its group in `groups`. The look at a group begins at its `lowest`
    /// job.
    pub async fn ready_jobs(
        &self,
        groups: &[(ReadyGroup, usize)],
    ) -> Result<Vec<(usize, JobId)>, StoreError> {
        let of = |group: &(ReadyGroup, usize)| i32::try_from(group.1).unwrap_or(i32::MAX);
        let at_most: Vec<i32> = groups.iter().map(of).collect();
        let columns = Columns::of(groups.iter().map(|(group, _)| group));
        // `sync` is given as a range and leads the order, because only the index of the claim has that order. With an
        // equality the primary key would have it too, and Postgres might read all jobs of the client for it.
        let rows = sqlx::query!(
            r#"-- ready_jobs
            SELECT asked.nth AS "nth!", ready.job_id AS "job!: JobId"
            FROM unnest($1::text[], $2::uuid[], $3::text[], $4::smallint[], $5::boolean[], $6::uuid[], $7::integer[])
                WITH ORDINALITY AS asked (load_key, client_id, user_name, priority, sync, lower_bound, at_most, nth)
            CROSS JOIN LATERAL (
                SELECT job_id FROM job_ready r
                WHERE r.load_key = asked.load_key AND r.client_id = asked.client_id AND r.user_name = asked.user_name
                  AND r.priority = asked.priority AND r.sync BETWEEN asked.sync AND asked.sync
                  AND r.job_id >= asked.lower_bound AND r.expires_at > clock_timestamp()
                ORDER BY r.sync DESC, r.job_id LIMIT asked.at_most
            ) AS ready"#,
            &columns.load_keys as &[&str], // $1 load_key
            &columns.clients,              // $2 client_id
            &columns.users as &[&str],     // $3 user_name
            &columns.priorities,           // $4 priority
            &columns.syncs,                // $5 sync
            &columns.lower_bounds,         // $6 lower_bound
            &at_most,                      // $7 at_most
        )
        .fetch_all(self.once())
        .await?;
        let place = |nth: i64| usize::try_from(nth - 1).ok();
        Ok(rows.into_iter().filter_map(|row| Some((place(row.nth)?, row.job))).collect())
    }
}
