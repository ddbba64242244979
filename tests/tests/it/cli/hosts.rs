//! `foreman host`.

use foreman_tests::{Api, Db};
use serde_json::Value;

use super::{foreman, sentence, stdout};
use crate::api::publish;

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_drains_and_resumes_a_host_and_nobody_else() {
    let db = Db::fresh().await;
    publish(&db).await;
    db.run("UPDATE host SET id = 'http://gpu/1'; UPDATE host_model SET host_id = 'http://gpu/1'").await;
    let api = Api::start(&db, &[("FOREMAN_AUTH", "required")]).await;
    let [admin, other] = [db.new_client("admin", true).await.key, db.new_client("other", false).await.key];
    let run = async |arguments: &[&str], key: &str| {
        foreman(arguments, &[("FOREMAN_URL", &api.url), ("FOREMAN_API_KEY", key)]).await
    };

    let refused = run(&["host", "drain", "http://gpu/1"], &other).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(sentence(&refused).contains("foreman client create NAME --admin"), "{}", sentence(&refused));
    assert_eq!(run(&["host", "list"], &other).await.status.code(), Some(1));

    let drained = run(&["host", "drain", "http://gpu/1"], &admin).await;
    assert_eq!(drained.status.code(), Some(0), "{}", sentence(&drained));
    assert_eq!(sentence(&drained), "http://gpu/1 takes no new jobs; running there: 0.");
    let table = stdout(&run(&["host", "list"], &admin).await);
    assert!(table.lines().nth(1).unwrap().starts_with("http://gpu/1  drained "), "{table}");
    let line: Value = serde_json::from_str(&stdout(&run(&["host", "list", "--json"], &admin).await)).unwrap();
    assert!(line["drained_at"].is_string(), "{line}");

    let resumed = stdout(&run(&["host", "resume", "http://gpu/1", "--json"], &admin).await);
    let resumed: Value = serde_json::from_str(&resumed).unwrap();
    assert_eq!((&resumed["drained_at"], &resumed["slots"]), (&Value::Null, &Value::from(1)));
    let unknown = sentence(&run(&["host", "resume", "gpu"], &admin).await);
    assert!(unknown.contains("there are http://gpu/1"), "{unknown}");
}
