//! Worker processes: that they live, what they hold, and where there is work for them.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::{ClientId, JobId, LeaseNo, WorkerId};
use crate::job::lease::{Holder, Lease};
use crate::job::state::Phase;

/// What a renewal found still standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// The worker's row. Without it others have taken its leases.
    pub lives: bool,
    /// The host lease that was renewed with it.
    pub holds_host: bool,
}

/// A worker's row as it was seen: `renewed_at` changes with every renewal. Whether a worker lives cannot be told from one
/// look, because Postgres' clock may have been set since the renewal: it is dead if it was seen like this for a whole
/// `ttl` by the looker's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    pub worker: WorkerId,
    pub renewed_at: DateTime<Utc>,
    /// How long this worker may be silent.
    pub ttl: Duration,
}

/// Workers that are known to be dead, as statements take them: each is so only while its row is as it was seen.
pub(crate) fn columns(dead: &[Heartbeat]) -> (Vec<uuid::Uuid>, Vec<DateTime<Utc>>) {
    dead.iter().map(|heartbeat| (heartbeat.worker.uuid(), heartbeat.renewed_at)).unzip()
}

/// A lease as its holder finds it in Postgres.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnLease {
    pub lease: Lease,
    pub phase: Phase,
    /// The model as `/api/tags` names it.
    pub model_label: String,
}

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
    /// Says that a worker lives from now on, until it has not renewed for `ttl`. Safe to repeat.
    pub async fn register_worker(
        &self,
        worker: WorkerId,
        host: &str,
        roles: &[&str],
        ttl: Duration,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            r#"-- register_worker
            INSERT INTO worker (id, host_id, roles, ttl, started_at, renewed_at)
            VALUES ($1, $2, $3, make_interval(secs => $4), clock_timestamp(), clock_timestamp())
            ON CONFLICT (id) DO UPDATE SET renewed_at = excluded.renewed_at"#,
            worker.uuid(),
            host,
            roles as &[&str],
            ttl.as_secs_f64(),
        )
        .execute(self.once())
        .await?;
        Ok(())
    }

    /// Renews a worker's row, and with it the host lease that it believes to hold. What Postgres' clock says is learned
    /// on the way.
    pub async fn renew_worker(
        &self,
        worker: WorkerId,
        holder: Option<&Holder>,
    ) -> Result<Renewal, StoreError> {
        let mut conn = self.open().await?;
        let asked = SystemTime::now();
        let row = sqlx::query!(
            r#"-- renew_worker
            WITH alive AS (
                UPDATE worker SET renewed_at = clock_timestamp() WHERE id = $1 RETURNING id
            ), held AS (
                UPDATE host h SET renewed_at = clock_timestamp() FROM alive
                WHERE h.id = $2 AND h.holder = alive.id AND h.fence = $3
                RETURNING h.id
            )
            SELECT EXISTS (SELECT FROM alive) AS "lives!", EXISTS (SELECT FROM held) AS "holds_host!",
                   clock_timestamp() AS "now!""#,
            worker.uuid(),
            holder.map(|holder| holder.host.as_str()),
            holder.map(|holder| holder.fence),
        )
        .fetch_one(&mut conn)
        .await?;
        self.clock().learn(asked, row.now);
        conn.done().await?;
        Ok(Renewal { lives: row.lives, holds_host: row.holds_host })
    }

    /// Every worker that has a row, as it stands now.
    pub async fn heartbeats(&self) -> Result<Vec<Heartbeat>, StoreError> {
        let rows = sqlx::query!(
            r#"-- heartbeats
            SELECT id AS "worker: WorkerId", renewed_at, extract(epoch FROM ttl)::float8 AS "ttl!" FROM worker"#
        )
        .fetch_all(self.once())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Heartbeat {
                worker: row.worker,
                renewed_at: row.renewed_at,
                ttl: Duration::try_from_secs_f64(row.ttl).unwrap_or_default(),
            })
            .collect())
    }

    /// Takes a worker's row away, once it holds nothing any more. What it still holds is rescued at once.
    pub async fn deregister_worker(&self, worker: WorkerId) -> Result<(), StoreError> {
        sqlx::query!(
            "-- deregister_worker
            DELETE FROM worker WHERE id = $1",
            worker.uuid()
        )
        .execute(self.once())
        .await?;
        self.tell([Write::HostFreed]);
        Ok(())
    }

    /// What a worker holds, whether it knows or not: the answer to a claim may have been lost.
    pub async fn own_leases(&self, worker: WorkerId) -> Result<Vec<OwnLease>, StoreError> {
        let rows = sqlx::query!(
            r#"-- own_leases
            SELECT l.job_id AS "job_id: JobId", l.lease_no AS "lease_no: LeaseNo", l.phase AS "phase: Phase",
                   j.model_label
            FROM job_lease l JOIN job j ON j.id = l.job_id
            WHERE l.worker_id = $1 ORDER BY l.lease_no"#,
            worker.uuid(),
        )
        .fetch_all(self.once())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| OwnLease {
                lease: Lease { job_id: row.job_id, no: row.lease_no },
                phase: row.phase,
                model_label: row.model_label,
            })
            .collect())
    }

    /// Which of a worker's leases somebody asked to cancel.
    pub async fn cancelled_leases(&self, worker: WorkerId) -> Result<Vec<LeaseNo>, StoreError> {
        let numbers = sqlx::query_scalar!(
            r#"-- cancelled_leases
            SELECT lease_no AS "lease_no: LeaseNo" FROM job_lease WHERE worker_id = $1 AND cancel"#,
            worker.uuid(),
        )
        .fetch_all(self.once())
        .await?;
        Ok(numbers)
    }

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
