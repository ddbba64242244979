//! Values for every statement, of rows that `fill.sql` makes: those of a usual call, and the dear ones.

/// A statement with the values that it is tried with, each set as it stands between the brackets of `EXECUTE`.
pub(crate) struct Values {
    pub(crate) statement: &'static str,
    pub(crate) reads: Reads,
    pub(crate) sets: &'static [&'static str],
}

/// What a statement may read.
pub(crate) enum Reads {
    /// As good as nothing: 400 pages.
    Few,
    /// So many pages, for this reason.
    Pages(f64, &'static str),
    /// Whole rooms, for this reason. Whoever runs it must bound how often that is.
    WholeRooms(&'static str),
}

impl Reads {
    /// How many pages it may touch, if there is a bound.
    pub(crate) fn pages(&self) -> Option<f64> {
        match self {
            Self::Few => Some(400.0),
            Self::Pages(pages, _why) => Some(*pages),
            Self::WholeRooms(_why) => None,
        }
    }
}

use Reads::{Few, Pages, WholeRooms};

const fn values(statement: &'static str, reads: Reads, sets: &'static [&'static str]) -> Values {
    Values { statement, reads, sets }
}

/// A statement without parameters.
const BARE: &[&str] = &[""];

const BATCH: Reads =
    Pages(4_000.0, "a batch of 100 rows, each of which is looked up and written in several tables");
const DROPPED_DAY: Reads = WholeRooms("a day is dropped once, and looked at each hour before it is");
const DOCTOR: Reads = WholeRooms("`foreman doctor` alone asks it, with a deadline of its own");

/// Sorted by name.
#[rustfmt::skip]
pub(crate) const VALUES: &[Values] = &[
    values("accept_jobs", Few, &[
        "filled.jobs(300001, 2), filled.ids(1, 2), '{tiny-a,tiny-a}', '{tiny-a,tiny-a}', '{tiny-a,tiny-a}', '{/api/chat,/api/chat}', \
         '{a,b}', '{0,0}', '{3,3}', '{NULL,NULL}', '{NULL,NULL}', '{NULL,NULL}', '{NULL,NULL}', '{NULL,NULL}', \
         array[NULL, now() + interval '1 hour'], array[now() + interval '1 day', now() + interval '1 day'], '{NULL,NULL}', '{NULL,NULL}', '{key 40001,new}', \
         array['\\x00'::bytea, '\\x00'], 24, 1, now() + interval '1 hour', array[NULL, filled.id(1)], array['','user 1']"]),
    values("add_up_usage", Few, &["100, 0"]),
    values("adopt", Few, &["filled.job(40000), filled.id(2)", "filled.job(100100), filled.id(2)"]),
    values("api_heartbeats", Few, BARE),
    values("accepted", Few, &["filled.jobs(150000, 50)"]),
    values("address_client", Few, &["'client 3'"]),
    values("artifact_head", Few, &["filled.job(150000), filled.id(2), 'completion'"]),
    values("artifact_part", Few, &["filled.job(150000), filled.id(2), 'completion', 0, 100"]),
    values("artifacts_of", BATCH, &["filled.jobs(150000, 100), 100"]),
    values("ask_for_unload", Few, &["'tiny-a'", "'no-such-model'"]),
    values("begin_jobs", Few, &["filled.jobs(100001, 4), '{100001,100002,100003,100004}', '{loading,working,working,loading}'"]),
    values("bring_forward", Few, &["filled.delivery(60000), filled.id(1)"]),
    values("bury_apis", Few, &["filled.ids(1, 2), array[now(), now()]"]),
    values("bury_workers", Few, &["filled.ids(1, 2)"]),
    values("cancel_leased", Few, &["filled.ids(2, 1), filled.jobs(100100, 1), NULL", "array_fill(filled.id(1), '{4}'), filled.jobs(100001, 4), filled.ids(2, 1)"]),
    values("cancel_waiting", BATCH, &["filled.ids(2, 1), filled.jobs(40000, 1), NULL", "filled.ids(2, 1), filled.jobs(90000, 1), filled.ids(2, 1)",
        "array_fill(filled.id(1), '{100}'), filled.jobs(79951, 100), NULL"]),
    values("cancelled_leases", Few, &["filled.id(3)"]),
    values("change_endpoint", Few, &["filled.id(500001), 'u', 'o', '', '{done}', '{a}', 5, false, true, '{x}', '\\x00', true"]),
    values("claim_deliveries", BATCH, &["filled.ids(1, 11), array_fill('-infinity'::timestamptz, '{11}'), array_fill(10, '{11}'), 25, 10::smallint, 4::smallint, array_fill(1000000::bigint, '{11}'), 1000000, 16384, 262144, 10, filled.job(172800000), 4096"]),
    values("claim_jobs", BATCH, &[
        "filled.id(1), 'host 1', 1, '{tiny-a,tiny-b}', array[filled.id(2), filled.id(1)], array['','user 1'], '{0,0}', '{f,f}', array[filled.job(0), filled.job(0)], '{64,64}', 64, 'held', 1000000, true, 10",
        "filled.id(1), 'host 1', 1, '{tiny-a}', array[filled.id(1)], array['user 0'], '{0}', '{f}', array[filled.job(0)], '{64}', 64, 'working', 1000000, false, 10"]),
    values("client_named", Few, &["'client 3'"]),
    values("client_secrets", DOCTOR, BARE),
    values("client_terms", Few, BARE),
    values("clients", WholeRooms("`foreman client list` shows every client"), BARE),
    values("create_address_client", Few, &["filled.id(900001), 'address 127.0.0.1'"]),
    values("create_client", Few, &["filled.id(900001), 'new', false, decode(repeat('ab', 32), 'hex'), NULL"]),
    values("create_endpoint", Few, &["filled.id(900001), filled.id(1), '', 'u', 'o', NULL, NULL, '{}', NULL, NULL, '\\x00', '', false, 200"]),
    values("day_has_ended_lately", DROPPED_DAY, &["filled.job(1), filled.job(86400000), now()"]),
    values("day_is_live", DROPPED_DAY, &["filled.job(1), filled.job(86400000)", "filled.job(-86400000), filled.job(0)"]),
    values("delete_endpoint", Few, &["filled.id(500001), filled.id(1)"]),
    values("deliver_again", Few, &["filled.delivery(120000), filled.id(1), 10"]),
    values("deliveries", Few, &["filled.job(120000), filled.id(1), filled.id(0), 51, NULL, NULL", "filled.job(120000), filled.id(1), NULL, 51, 'delivered', now()"]),
    values("delivery_backlog", WholeRooms("one worker counts, and rests in proportion"), &["10, 10"]),
    values("deregister_api", Few, &["filled.id(3)"]),
    values("deregister_worker", Few, &["filled.id(3)"]),
    values("drain_host", Few, &["'host 3'"]),
    values("drained_hosts", Few, BARE),
    values("drop_leases_without_request", Few, &["filled.id(3)"]),
    values("end_old_deliveries", Few, &["100, '-infinity'", "100, now() - interval '2 seconds'"]),
    values("expire_jobs", Few, &["100, '-infinity'", "100, now() - interval '2 seconds'"]),
    values("endpoint_deliveries", WholeRooms("what waits for the endpoint is sorted; a client reads one page at a time, and rests"), &[
        "filled.id(500001), 'delivered', NULL, filled.id(900001), 51", "filled.id(1), 'pending', now() - interval '1 hour', filled.id(900001), 51"]),
    values("endpoint_health", Few, &["filled.id(1), 1000, 10"]),
    values("endpoint_receiver", Few, &["filled.id(500001)"]),
    values("endpoint_secrets", DOCTOR, BARE),
    values("exports_gauges", Few, &["filled.ids(1, 2), array[now(), now()]"]),
    values("extend_claim", Few, &["filled.delivery(60000), 1, 25, true"]),
    values("fail_for_want_of_model", BATCH, &["'{tiny-b}', '{gone}', '{model_gone}', 100"]),
    values("find_endpoints", Few, &["filled.id(1), NULL, filled.id(900001), 51", "filled.id(1), filled.id(500001), filled.id(900001), 1", "NULL, NULL, filled.id(900001), 51"]),
    values("find_jobs", Few, &[
        "filled.id(2), 'ffffffff-ffff-ffff-ffff-ffffffffffff', NULL, NULL, 51",
        "filled.id(2), 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'queued', NULL, 51",
        "filled.id(2), 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'done', NULL, 51",
        "filled.id(2), 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'cancelled', NULL, 51",
        "filled.id(1), 'ffffffff-ffff-ffff-ffff-ffffffffffff', NULL, NULL, 51",
        "filled.id(1), filled.job(100000), NULL, NULL, 51",
        "filled.id(1), filled.job(100000), 'queued', NULL, 51",
        "filled.id(1), filled.job(150000), 'done', NULL, 51",
        "filled.id(2), 'ffffffff-ffff-ffff-ffff-ffffffffffff', NULL, 'tiny-a', 10001",
        "NULL, 'ffffffff-ffff-ffff-ffff-ffffffffffff', NULL, NULL, 51"]),
    values("flush_is_over", Few, &["1, now()"]),
    values("forecasts", Few, BARE),
    values("foreign_leases", Few, &["'host 2', filled.id(1), filled.ids(1, 2), array[now(), now()]"]),
    values("forget_unload", Few, &["'host 3', 'tiny-a', now()"]),
    values("have_ended", BATCH, &["filled.ids(2, 1), filled.jobs(150000, 1), filled.ids(2, 1)", "array_fill(filled.id(1), '{100}'), filled.jobs(150001, 100), NULL"]),
    values("has_published", Few, &["'host 3'"]),
    values("heartbeats", Few, BARE),
    values("hosts", Pages(4_000.0, "all leases are looked at, and there are as many as slots"), BARE),
    values("host_intents", Few, &["600, 5"]),
    values("intend", Few, &["'tiny-a', 'host 1', 0, '{tiny-a,tiny-b}', 100, 600", "'tiny-c', 'host 1', 0, '{}', 0, 600"]),
    values("introduce_host", Few, &["'host 3', 'http://127.0.0.1:11434', 20, 4"]),
    values("inventory", Few, BARE),
    values("is_drained", Few, &["'host 3'"]),
    values("is_adopted", Few, &["filled.job(40000)", "filled.job(100100)"]),
    values("job_body", Few, &["filled.job(150000)"]),
    values("job_history", Few, &["filled.job(150000), filled.id(2), 100, 0"]),
    values("job_views", Pages(1_200.0, "a page of 50 jobs, each looked up in all rooms"), &[
        "array[filled.job(150000)], filled.id(2), 100",
        "array[filled.job(40000)], filled.id(2), 100",
        "filled.jobs(150000, 50), filled.id(1), -1",
        "filled.jobs(79951, 50), NULL, -1"]),
    values("key_holder", Few, &["filled.id(1), 'key 300'"]),
    values("key_holders", Few, &["filled.jobs(1, 2), filled.ids(1, 2), '{key 300,key 40000}'"]),
    values("learn_time", Few, BARE),
    values("leave_leases", Few, &["filled.jobs(100001, 4), '{100001,100002,100003,100004}', '{failed,queued,queued,cancelled}', '{NULL,NULL,60,NULL}', \
        '{1,0,1,0}', '{e,e,e,NULL}', '{c,c,c,NULL}', '{NULL,NULL,NULL,NULL}', '{NULL,NULL,NULL,NULL}', '{1,1,1,1}', '{1,1,1,1}', '{NULL,NULL,NULL,NULL}', \
        '{0,1,0,2}', '{0,0,1,0}', '{4096,NULL,4096,NULL}'"]),
    values("lock_dead_workers", Few, &["filled.ids(1, 2), array[now(), now()]"]),
    values("lock_job_of_delivery", Few, &["filled.delivery(60000)"]),
    values("lock_endpoint", Few, &["filled.id(500001), filled.id(1)"]),
    values("lock_endpoints_of_client", Few, &["filled.id(1)"]),
    values("look_at_lanes", Pages(1_500.0, "100 lanes have something, each is looked up twice"), &[
        "'{}', '{}', ulid_floor(now()), 1000, '00000000-0000-0000-0000-000000000000', filled.id(9), 256",
        "filled.ids(2, 100), array_fill(now() - interval '1 hour', '{100}'), ulid_floor(now()), 1000, filled.id(1), filled.id(9), 256"]),
    values("misplaced_jobs", WholeRooms("the proof of the first rule, for the suite and `foreman doctor`"), &["10"]),
    values("missing_models", Few, BARE),
    values("missing_rights", DOCTOR, BARE),
    values("model_backlogs", WholeRooms("one worker counts, and rests in proportion"), BARE),
    values("neighbours", Few, &["'host 3'"]),
    values("next_due", Few, &["'-infinity'"]),
    values("note_unreachable", Few, &["'host 3', filled.id(3), 3"]),
    values("notify", Few, &["'foreman', '{ready,job}'"]),
    values("now", Few, BARE),
    values("oldest_open_transaction", DOCTOR, BARE),
    values("oldest_transaction", Few, BARE),
    values("orphaned_jobs", WholeRooms("the unfinished jobs of an api that died are looked for once"), &["filled.ids(1, 2), array[now(), now()]"]),
    values("orphaned_leases", DOCTOR, BARE),
    values("outbox_oldest", Few, BARE),
    values("outgrown_tables", Pages(1_000.0, "the catalogue's entries of our tables"), &["500, 10"]),
    values("own_leases", Few, &["filled.id(3)"]),
    values("ping", Few, BARE),
    values("place_of", Few, &["filled.job(100100), filled.id(2)"]),
    values("progress", BATCH, &["array_fill(filled.id(1), '{100}'), filled.jobs(99951, 100)"]),
    values("promote_jobs", Few, &["100, '-infinity'"]),
    values("prune_address_clients", WholeRooms("all addresses are looked at, once an hour"), &["100, 'address '"]),
    values("prune_endpoints", WholeRooms("all endpoints are looked at, once a minute"), &["100"]),
    values("prune_host_intents", Few, &["600"]),
    values("prune_idempotency_keys", Few, &["100, '-infinity'", "100, now() - interval '2 seconds'"]),
    values("prune_lanes", WholeRooms("all receivers are looked at, once a minute"), &["100"]),
    values("prune_stored_bytes", Few, &["100"]),
    values("host_plan", Few, &["'host 3'"]),
    values("host_plans", Few, BARE),
    values("prune_usage", Few, &["2592000"]),
    values("publish_forecast", Few, &["'host 3', filled.id(3), 3, '{}'", "'host 3', filled.id(3), 3, NULL"]),
    values("publish_models", Few, &["'host 3', filled.id(3), 3, '{tiny-b}', '{tiny-b}', '{true}'"]),
    values("publish_plan", Few, &["'host 3', filled.id(3), 3, '{}'"]),
    values("queue", WholeRooms("`GET /queue` is kept and shared, and rests in proportion"), BARE),
    values("queue_clients", Few, &["filled.ids(1, 5)"]),
    values("client_backlog", Pages(2_000.0, "a client's waiting jobs are counted up to a limit"), &["filled.id(2), 1000", "filled.id(1), 1000"]),
    values("ready_groups", Few, &[
        "'{}', '{}', '{}', '{}', '{}', 1000, 10, 500",
        "filled.ids(1, 2), array['user 1',''], '{tiny-a,tiny-b}', '{0,0}', '{f,f}', 1000, 10, 500"]),
    values("ready_groups_at", Few, &[
        "'{tiny-a,tiny-b,gone}', filled.ids(1, 3), array['user 2','',''], '{0,0,0}', '{f,t,f}', array_fill('00000000-0000-0000-0000-000000000000'::uuid, '{3}')",
        "array_fill('tiny-a'::text, '{50}'), array_fill(filled.id(1), '{50}'), array_fill('user 1'::text, '{50}'), array_fill(0::smallint, '{50}'), array_fill(false, '{50}'), filled.jobs(79951, 50)"]),
    values("ready_jobs", Pages(4_000.0, "up to a thousand jobs, and the groups of a long line"), &[
        "'{tiny-a,tiny-b,gone}', filled.ids(1, 3), array['user 2','',''], '{0,0,0}', '{f,t,f}', array_fill('00000000-0000-0000-0000-000000000000'::uuid, '{3}'), '{333,333,333}'",
        "array_fill('tiny-a'::text, '{50}'), array_fill(filled.id(1), '{50}'), array_fill('user 1'::text, '{50}'), array_fill(0::smallint, '{50}'), array_fill(false, '{50}'), filled.jobs(79951, 50), array_fill(20, '{50}')"]),
    values("receivers_without_secret", DOCTOR, BARE),
    values("recover_deliveries", Pages(14_000.0, "500 jobs, each with its events, deliveries and attempts"), &["filled.id(1), filled.id(500001), now() - interval '1 hour', filled.job(150000), 500"]),
    values("register_worker", Few, &["filled.id(900001), 'host 3', '{run}', 20, NULL", "filled.id(3), 'host 3', '{run}', 20, 'http://127.0.0.1:1'"]),
    values("relay_outbox", Pages(8_000.0, "a batch of 100 events of a client with three endpoints makes 400 webhooks"), &["100, 0, filled.ids(1, 11), 25, 262144, 16384, filled.job(172800000), 16"]),
    values("release_host", Few, &["'host 3', filled.id(3), 3"]),
    values("renew_api", Few, &["filled.id(900001), 20", "filled.id(3), 20"]),
    values("renew_worker", Few, &["filled.id(3), 'host 3', 3"]),
    values("repeat_of", Few, &["filled.id(2), '/api/chat', '{}', 86400, 10000, ''"]),
    values("reported_already", BATCH, &["filled.jobs(120000, 100), filled.deliveries(120000, 100), array_fill(1::smallint, '{100}')"]),
    values("request", Few, &["filled.job(150000), filled.id(2)"]),
    values("request_size", Few, &["filled.job(150000), filled.id(2)"]),
    values("rescue_leases", Pages(1_000.0, "all leases are looked at for such without a worker, and there are as many as slots"), &[
        "filled.ids(900001, 2), 5, 'lost', 1.0"]),
    values("resume_host", Few, &["'host 3'"]),
    values("revoke_client", Few, &["'client 3'"]),
    values("rights", DOCTOR, BARE),
    values("rotate_endpoint", Few, &["filled.id(500001), filled.id(1), '\\x00', 86400, 'abcd'"]),
    values("rotate_client", Few, &["filled.id(3), '\\xabababababababababababababababababababababababababababababababab', NULL, 24"]),
    values("sealed_values", DOCTOR, BARE),
    values("server", DOCTOR, BARE),
    values("set_client_terms", Few, &["'client 3', true, 2, false, NULL, false, NULL, true, 4, true, NULL"]),
    values("settle_deliveries", BATCH, &["filled.deliveries(50001, 10), array_fill(1::bigint, '{10}'), array_fill('delivered'::text, '{5}') || array_fill('retry'::text, '{5}'), array_fill(500::smallint, '{10}'), \
        array_fill(NULL::text, '{5}') || array_fill('status_5xx'::text, '{5}'), array_fill(1, '{10}'), array_fill(NULL::bytea, '{10}'), array_fill(1::float8, '{10}'), array_fill(60::float8, '{10}'), \
        array_fill('http://127.0.0.1:9/'::text, '{10}'), array_fill('queued'::text, '{10}'), filled.ids(2, 10), array_fill(false, '{10}'), array_fill(NULL::uuid, '{5}') || array_fill(filled.id(500001), '{5}'), \
        array_fill(1, '{10}'), array_fill(1::float8, '{10}'), array_fill('status_5xx'::text, '{10}'), array_fill(true, '{10}'), 10, array_fill(false, '{10}'), \
        array_fill(NULL::text, '{5}') || array_fill('http://127.0.0.1:9/'::text, '{5}')"]),
    values("settled_already", BATCH, &["filled.jobs(150000, 100), ARRAY[150000,150001]::bigint[] || array_fill(1::bigint, '{98}')"]),
    values("sign_in", Few, &["decode(lpad('3', 64, '0'), 'hex')"]),
    values("sign_in_as", Few, &["'client 1'"]),
    values("signing_secrets", Few, &["filled.ids(1, 20)"]),
    values("stream_addresses", Few, BARE),
    values("table_exists", Few, &["'job'"]),
    values("take_host", Few, &["'host 3', filled.id(3), 'http://127.0.0.1:11434', 20, 4, filled.ids(1, 2), array[now(), now()]"]),
    values("take_turn_at_partitions", Few, BARE),
    values("tell_stored_bytes", Few, &["filled.id(1), current_date, filled.ids(1, 2), '{1,2}'"]),
    values("today", Few, BARE),
    values("unloads", Few, &["'host 3'"]),
    values("usage", Pages(1_000.0, "the sums of some hours are read row by row"), &[
        "filled.id(1), now() - interval '10 hours', now() + interval '1 hour', 'user', 100",
        "NULL, now() - interval '10 hours', now() + interval '1 hour', 'client', 100"]),
    values("workers", DOCTOR, BARE),
    values("write_resealed", Few, &["'client.secret', filled.ids(2, 10), array_fill('\\x01'::bytea, '{10}'), array_fill('\\x02'::bytea, '{10}')"]),
];
