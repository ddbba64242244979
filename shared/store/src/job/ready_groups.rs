//! The groups of ready jobs that a scan chooses from.
//!
//! Must never read every ready job: the cost of a look is the number of groups.

use uuid::Uuid;

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{ClientId, JobId};
use crate::job::user_name::UserName;

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
    /// All groups, each with its oldest job. The statement steps from group to group over the index of the claim, so
    /// its cost is the number of groups, not of jobs. It skips expired jobs, which the janitor ends.
    pub async fn ready_groups(&self) -> Result<Vec<ReadyGroup>, StoreError> {
        // Each step looks for the next priority or kind of the user, and for the next user, client or load key, and takes
        // the nearer of the two. Priority and `sync` stand in descending order in the index, so no single comparison can
        // say "after this".
        let groups = sqlx::query_as!(
            ReadyGroup,
            r#"-- ready_groups
            WITH RECURSIVE ready_group AS (
                (SELECT load_key, client_id, user_name, priority, sync, job_id FROM job_ready
                 WHERE expires_at > clock_timestamp()
                 ORDER BY load_key, client_id, user_name, priority DESC, sync DESC, job_id LIMIT 1)
                UNION ALL
                SELECT next.load_key, next.client_id, next.user_name, next.priority, next.sync, next.job_id
                FROM ready_group g CROSS JOIN LATERAL (
                    (SELECT 1 AS nearness, r.load_key, r.client_id, r.user_name, r.priority, r.sync, r.job_id
                     FROM job_ready r
                     WHERE r.load_key = g.load_key AND r.client_id = g.client_id AND r.user_name = g.user_name
                       AND (r.priority, r.sync) < (g.priority, g.sync) AND r.expires_at > clock_timestamp()
                     ORDER BY r.load_key, r.client_id, r.user_name, r.priority DESC, r.sync DESC, r.job_id LIMIT 1)
                    UNION ALL
                    (SELECT 2, r.load_key, r.client_id, r.user_name, r.priority, r.sync, r.job_id FROM job_ready r
                     WHERE (r.load_key, r.client_id, r.user_name) > (g.load_key, g.client_id, g.user_name)
                       AND r.expires_at > clock_timestamp()
                     ORDER BY r.load_key, r.client_id, r.user_name, r.priority DESC, r.sync DESC, r.job_id LIMIT 1)
                    ORDER BY nearness LIMIT 1
                ) AS next
            )
            SELECT load_key AS "load_key!", client_id AS "client!: ClientId", user_name AS "user!: UserName",
                   priority AS "priority!", sync AS "sync!", job_id AS "lowest!: JobId"
            FROM ready_group"#,
        )
        .fetch_all(self.once())
        .await?;
        Ok(groups)
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
