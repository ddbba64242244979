//! `foreman healthcheck`, by which a container knows how it is.

use foreman_tests::{Api, Db, free_port};

use super::{foreman, sentence};

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_is_well_only_where_the_page_says_so() {
    let db = Db::fresh().await;
    let api = Api::start(&db, &[]).await;
    let ready = format!("{}/readyz", api.ops_url);
    let well = foreman(&["healthcheck", &ready], &[]).await;
    assert!(well.status.success() && well.stderr.is_empty(), "{well:?}");

    let nobody = format!("http://127.0.0.1:{}/readyz", free_port());
    for (url, why) in [(nobody, "nothing answers"), (format!("{}/nothing", api.ops_url), "404 Not Found")] {
        let unwell = foreman(&["healthcheck", &url], &[]).await;
        assert_eq!(unwell.status.code(), Some(1));
        assert!(sentence(&unwell).contains(why), "{unwell:?}");
    }
}
