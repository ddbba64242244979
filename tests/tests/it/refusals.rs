//! Postgres refuses rows with an error that Foreman does not know: only the row that is the cause pays for it, and where
//! every row is refused nothing is thrown away.

use foreman_store::JobId;
use foreman_tests::{Api, Db, Receiver, Worker, eventually};
use ollama_sim::{Config, Sim};
use sqlx::AssertSqlSafe;

use crate::chat;
use crate::webhooks::{dispatcher, done_jobs_to, logged};

const JOBS: usize = 4;

/// How many jobs ended how.
const ENDS: &str = "
    SELECT coalesce(string_agg(format('%s %s', jobs, coalesce(error_code, state)), ', ' ORDER BY state), 'none')
    FROM (SELECT state, error_code, count(*) AS jobs FROM job_done GROUP BY state, error_code) AS e";

/// Lets Postgres refuse these rows of a table, and count how often: a sequence keeps what a refusal undoes.
fn refuse(table: &str, rows: &str) -> String {
    format!(
        "CREATE SEQUENCE refusals MINVALUE 0;
         SELECT nextval('refusals');
         {};
         CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()",
        refuse_only(rows)
    )
}

/// Other rows from now on.
fn refuse_only(rows: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF {rows} THEN
                 PERFORM nextval('refusals');
                 RAISE 'the test refuses this row';
             END IF;
             RETURN NEW;
         END $$"
    )
}

async fn until_refused(db: &Db, times: i64) {
    eventually("a row that is refused again and again", async || {
        match db.value::<i64>("SELECT last_value FROM refusals").await {
            refused if refused >= times => Ok(()),
            refused => Err(format!("{refused} of {times}")),
        }
    })
    .await;
}

async fn until_ended(db: &Db, ends: &str) {
    eventually(ends, async || {
        let found: String = db.value(ENDS).await;
        if found == ends { Ok(()) } else { Err(found) }
    })
    .await;
}

/// An api, and a worker with a slot for each job.
async fn processes(db: &Db) -> (Api, Worker, Sim) {
    let sim = Sim::start(Config { parallel: JOBS, ..Config::default() }).await.unwrap();
    let (url, slots) = (sim.url(), JOBS.to_string());
    let settings = [("FOREMAN_WORKER_SLOTS", slots.as_str())];
    let (api, worker) = tokio::join!(Api::start(db, &[]), Worker::start(db, &url, &settings));
    (api, worker, sim)
}

async fn submit(api: &Api, priority: u8) -> JobId {
    let mut job = chat("sim:tokens=3");
    job["priority"] = priority.into();
    api.submit(&job).await.parse().unwrap()
}

async fn submit_all(api: &Api) -> Vec<JobId> {
    let mut jobs = Vec::new();
    for _ in 0..JOBS {
        jobs.push(submit(api, 0).await);
    }
    jobs
}

async fn no_lease_is_left(db: &Db) {
    assert_eq!(db.value::<i64>("SELECT count(*) FROM job_lease").await, 0);
    db.every_job_has_one_room().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_is_refused_fails_its_job_and_delays_no_other_of_its_batch() {
    let db = Db::fresh().await;
    let (api, _worker, sim) = processes(&db).await;
    // While the first outcome waits for the lock, the others gather.
    let mut lock = db.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE job_done IN SHARE ROW EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let bad = submit_all(&api).await[JOBS / 2];
    sim.until(|log| log.runs().len() == JOBS && log.running() == 0).await;
    let refused = refuse("job_done", &format!("NEW.job_id = '{}' AND NEW.state = 'done'", bad.uuid()));
    sqlx::raw_sql(AssertSqlSafe(refused)).execute(&mut *lock).await.unwrap();
    lock.commit().await.unwrap();
    until_ended(&db, "3 done, 1 outcome_refused").await;
    let failed: JobId = db.value("SELECT job_id FROM job_done WHERE state = 'failed'").await;
    assert_eq!(failed, bad);
    no_lease_is_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_are_kept_while_every_row_is_refused() {
    let db = Db::fresh().await;
    let (api, _worker, _sim) = processes(&db).await;
    db.run(&refuse("job_done", "true")).await;
    submit_all(&api).await;
    // Each job is refused once with its batch, five times alone, and once where its failure is written instead.
    until_refused(&db, 10 * i64::try_from(JOBS).unwrap()).await;
    assert_eq!(db.value::<String>(ENDS).await, "none");
    // Were failures taken again, too, one could be the first row that is taken.
    db.run(&refuse_only("NEW.state = 'failed'")).await;
    until_ended(&db, "4 done").await;
    no_lease_is_left(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_begin_is_refused_is_handed_back_and_delays_no_other() {
    let db = Db::fresh().await;
    let (api, _worker, _sim) = processes(&db).await;
    // A claim that begins a job itself inserts it so.
    let begins = "TG_OP = 'UPDATE' AND NEW.phase <> 'held' AND NEW.priority = 7";
    db.run(&refuse("job_lease", begins)).await;
    let bad = submit(&api, 7).await;
    until_refused(&db, 1).await;
    let others = submit_all(&api).await;
    eventually("the end of the others", async || {
        let ended: Vec<JobId> = db.values("SELECT job_id FROM job_done WHERE state = 'done'").await;
        if others.iter().all(|job| ended.contains(job)) { Ok(()) } else { Err(format!("{ended:?}")) }
    })
    .await;
    until_refused(&db, 6).await;
    db.run(&refuse_only("false")).await;
    until_ended(&db, "5 done").await;
    no_lease_is_left(&db).await;
    let began = db.history(bad).await;
    assert_eq!(began.iter().filter(|state| *state == "working").count(), 1, "{began:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_refused_is_written_without_the_answer_and_delays_no_other() {
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    let bad = done_jobs_to(&db, &receiver.url("/"), JOBS).await[JOBS / 2];
    let refused = format!("NEW.job_id = '{}' AND NEW.seq = 1 AND NEW.status IS NOT NULL", bad.uuid());
    db.run(&refuse("webhook_attempt", &refused)).await;
    let _dispatcher = dispatcher(&db, &[]).await;
    logged(&db, 4 * JOBS).await;
    assert_eq!(receiver.count(), 4 * JOBS, "each was sent once");
    let without = "SELECT job_id FROM webhook_attempt WHERE outcome = 'delivered' AND status IS NULL";
    assert_eq!(db.values::<JobId>(without).await, [bad]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_whose_report_is_refused_in_every_form_is_sent_again_once_its_claim_lapses() {
    let (db, receiver) = (Db::fresh().await, Receiver::start().await);
    done_jobs_to(&db, &receiver.url("/"), 1).await;
    db.run(&refuse("webhook_attempt", "true")).await;
    let _dispatcher = dispatcher(&db, &[]).await;
    until_refused(&db, 7).await;
    db.run(&refuse_only("false")).await;
    db.run("UPDATE webhook_delivery SET claimed_until = now() WHERE claim_no IS NOT NULL").await;
    logged(&db, 5).await;
    assert_eq!(receiver.count(), 5, "the first of four was sent twice");
}
