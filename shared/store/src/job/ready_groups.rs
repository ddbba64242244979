//! Where jobs are ready: the groups of waiting jobs that a scan chooses from.
//!
//! Must never read every waiting job: the cost of a scan is the number of groups.

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::id::{ClientId, JobId};

/// A place where jobs are ready: one client's of one load key and priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyGroup {
    pub load_key: String,
    pub client: ClientId,
    pub priority: i16,
    /// The oldest that was seen there.
    pub lowest: JobId,
}

impl Store {
    /// Every place where jobs are ready, with the oldest job there: a walk from place to place over the claim's own
    /// index, whose cost is the number of places and not of jobs. What has expired is left to the janitor.
    pub async fn ready_groups(&self) -> Result<Vec<ReadyGroup>, StoreError> {
        // Each step asks for the next priority of the client, the next client of the key and the next key, and takes
        // the first that there is: with a descending column in the index no single comparison says "after this".
        let groups = sqlx::query_as!(
            ReadyGroup,
            r#"-- ready_groups
            WITH RECURSIVE place AS (
                (SELECT load_key, client_id, priority, job_id FROM job_ready
                 WHERE expires_at > clock_timestamp()
                 ORDER BY load_key, client_id, priority DESC, job_id LIMIT 1)
                UNION ALL
                SELECT next.load_key, next.client_id, next.priority, next.job_id
                FROM place p CROSS JOIN LATERAL (
                    (SELECT 1 AS nearness, r.load_key, r.client_id, r.priority, r.job_id FROM job_ready r
                     WHERE r.load_key = p.load_key AND r.client_id = p.client_id AND r.priority < p.priority
                       AND r.expires_at > clock_timestamp()
                     ORDER BY r.load_key, r.client_id, r.priority DESC, r.job_id LIMIT 1)
                    UNION ALL
                    (SELECT 2, r.load_key, r.client_id, r.priority, r.job_id FROM job_ready r
                     WHERE r.load_key = p.load_key AND r.client_id > p.client_id
                       AND r.expires_at > clock_timestamp()
                     ORDER BY r.load_key, r.client_id, r.priority DESC, r.job_id LIMIT 1)
                    UNION ALL
                    (SELECT 3, r.load_key, r.client_id, r.priority, r.job_id FROM job_ready r
                     WHERE r.load_key > p.load_key AND r.expires_at > clock_timestamp()
                     ORDER BY r.load_key, r.client_id, r.priority DESC, r.job_id LIMIT 1)
                    ORDER BY nearness LIMIT 1
                ) AS next
            )
            SELECT load_key AS "load_key!", client_id AS "client!: ClientId", priority AS "priority!",
                   job_id AS "lowest!: JobId"
            FROM place"#,
        )
        .fetch_all(self.once())
        .await?;
        Ok(groups)
    }

    /// Those of these places where jobs are ready, each looked at from its `lowest` on: steps over the entries of jobs long
    /// gone. Jobs at other places, and older ones, are not seen.
    pub async fn ready_groups_at(&self, known: &[ReadyGroup]) -> Result<Vec<ReadyGroup>, StoreError> {
        let load_keys: Vec<_> = known.iter().map(|place| place.load_key.as_str()).collect();
        let clients: Vec<_> = known.iter().map(|place| place.client.uuid()).collect();
        let priorities: Vec<_> = known.iter().map(|place| place.priority).collect();
        let bounds: Vec<_> = known.iter().map(|place| place.lowest.uuid()).collect();
        let groups = sqlx::query_as!(
            ReadyGroup,
            r#"-- ready_groups_at
            SELECT known.load_key AS "load_key!", known.client_id AS "client!: ClientId", known.priority AS "priority!",
                   ready.job_id AS "lowest!: JobId"
            FROM unnest($1::text[], $2::uuid[], $3::smallint[], $4::uuid[])
                AS known (load_key, client_id, priority, lower_bound)
            CROSS JOIN LATERAL (
                SELECT job_id FROM job_ready r
                WHERE r.load_key = known.load_key AND r.client_id = known.client_id AND r.priority = known.priority
                  AND r.job_id >= known.lower_bound AND r.expires_at > clock_timestamp()
                ORDER BY r.job_id LIMIT 1
            ) AS ready"#,
            &load_keys as &[&str],
            &clients,
            &priorities,
            &bounds,
        )
        .fetch_all(self.once())
        .await?;
        Ok(groups)
    }
}
