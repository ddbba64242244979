//! Records that leased jobs begin to load or to work.
//!
//! A holder must never send a request to Ollama before `begin` has answered [`Begin::Go`] for it, unless the claim has let it
//! ([`Permit`](crate::Permit)).

use std::collections::HashMap;

use crate::db::connect::Store;
use crate::db::error::StoreError;
use crate::db::wake::Write;
use crate::id::LeaseNo;
use crate::job::lease::Lease;
use crate::job::state::Phase;

/// The answer to a holder that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// The phase is recorded, now or before under the same lease number.
    Go,
    /// Somebody asked to cancel the job: settle it as cancelled.
    Cancelled,
    /// The job expired before it began: settle it as expired.
    Expired,
    /// The lease belongs to another holder now: drop the job and write nothing.
    Stale,
}

impl Store {
    /// Records that holders begin: `Loading` before a preload, `Working` after it. For a resident model record
    /// `Working` at once, which writes both events. The answer decides whether the holder may send the request.
    pub async fn begin(&self, beginnings: &[(&Lease, Phase)]) -> Result<Vec<Begin>, StoreError> {
        let ids: Vec<_> = beginnings.iter().map(|(lease, _)| lease.job_id.uuid()).collect();
        let numbers: Vec<_> = beginnings.iter().map(|(lease, _)| lease.no.0).collect();
        let phases: Vec<_> = beginnings.iter().map(|(_, phase)| phase.as_str()).collect();
        let rows = sqlx::query!(
            r#"-- begin_jobs
            WITH input AS (
                SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS t (job_id, lease_no, phase)
            ), held AS MATERIALIZED (
                SELECT l.job_id, l.lease_no, l.phase, l.seq, l.attempt, l.cancel, i.phase AS target,
                       l.phase = 'held' AND l.expires_at <= clock_timestamp() AS expired
                FROM job_lease l JOIN input i ON i.job_id = l.job_id AND i.lease_no = l.lease_no
                ORDER BY l.job_id FOR UPDATE OF l
            ), moving AS (
                SELECT held.*, (held.phase = 'held')::integer AS loads, (held.target = 'working')::integer AS works
                FROM held
                WHERE NOT cancel AND NOT expired
                  AND (held.phase, held.target) IN (('held', 'loading'), ('held', 'working'), ('loading', 'working'))
            ), moved AS (
                UPDATE job_lease l
                SET phase = m.target, seq = l.seq + m.loads + m.works,
                    loading_at = coalesce(l.loading_at, clock_timestamp()),
                    working_at = CASE WHEN m.works = 1 THEN clock_timestamp() END
                FROM moving m WHERE l.job_id = m.job_id AND l.lease_no = m.lease_no
                RETURNING l.job_id, l.seq, l.attempt, l.loading_at, l.working_at, m.loads, m.works
            ), noted AS (
                INSERT INTO outbox (job_id, seq, attempt, state, previous_state, at)
                SELECT m.job_id, m.seq - m.works, m.attempt, 'loading', 'queued', m.loading_at
                FROM moved m WHERE m.loads = 1
                UNION ALL
                SELECT m.job_id, m.seq, m.attempt, 'working', 'loading', m.working_at
                FROM moved m WHERE m.works = 1
                ORDER BY 1, 2
            )
            SELECT lease_no AS "lease_no: LeaseNo", cancel, expired AS "expired!" FROM held"#,
            &ids,
            &numbers,
            &phases as &[&str],
        )
        .fetch_all(self.once())
        .await?;
        self.tell([Write::Begun]);
        let found: HashMap<LeaseNo, Begin> = rows
            .into_iter()
            .map(|row| {
                let begin = match (row.cancel, row.expired) {
                    (true, _) => Begin::Cancelled,
                    (false, true) => Begin::Expired,
                    (false, false) => Begin::Go,
                };
                (row.lease_no, begin)
            })
            .collect();
        Ok(beginnings
            .iter()
            .map(|(lease, _)| found.get(&lease.no).copied().unwrap_or(Begin::Stale))
            .collect())
    }
}
