//! `foreman model`.

use foreman_tests::{Api, Db};
use serde_json::{Value, json};

use super::{foreman, sentence, stdout};
use crate::api::publish;

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_has_a_model_unloaded_and_nobody_else() {
    let db = Db::fresh().await;
    publish(&db).await;
    let api = Api::start(&db, &[("FOREMAN_AUTH", "required")]).await;
    let [admin, other] = [db.new_client("admin", true).await.key, db.new_client("other", false).await.key];
    let run = async |arguments: &[&str], key: &str| {
        foreman(arguments, &[("FOREMAN_URL", &api.url), ("FOREMAN_API_KEY", key)]).await
    };

    let refused = run(&["model", "unload", "tiny-a"], &other).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(sentence(&refused).contains("foreman client create NAME --admin"), "{}", sentence(&refused));
    assert_eq!(db.value::<i64>("SELECT count(*) FROM host_unload").await, 0);

    let host: String = db.value("SELECT id FROM host").await;
    let asked = run(&["model", "unload", "Tiny-A"], &admin).await;
    assert_eq!((asked.status.code(), stdout(&asked)), (Some(0), String::new()), "{}", sentence(&asked));
    let said = format!("tiny-a:latest is unloaded as soon as no job of it runs, on {host}.");
    assert_eq!(sentence(&asked), said);
    let asked = stdout(&run(&["model", "unload", "tiny-a", "--json"], &admin).await);
    let asked: Value = serde_json::from_str(&asked).unwrap();
    assert_eq!(asked, json!({ "model": "tiny-a:latest", "hosts": [host] }));
    assert_eq!(db.value::<i64>("SELECT count(*) FROM host_unload").await, 1);

    let unknown = run(&["model", "unload", "nosuch"], &admin).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(sentence(&unknown).contains("no host has the model"), "{}", sentence(&unknown));
}
