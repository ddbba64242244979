//! The alerts ask for metrics that are there, and each has its histories. That these come out right is promtool's to say.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{API, BOTH, FROM_THE_START, OF_THE_DATABASE, WORKER};

fn prometheus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus")
}

fn alerts() -> String {
    fs::read_to_string(prometheus().join("alerts.yml")).unwrap()
}

#[test]
fn every_metric_that_an_alert_asks_for_is_exported() {
    let exported: BTreeSet<&str> =
        [BOTH, API, WORKER, FROM_THE_START, OF_THE_DATABASE].concat().iter().map(|metric| metric.0).collect();
    let text = alerts();
    let asked: BTreeSet<&str> = text
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("foreman_"))
        .collect();
    assert!(asked.len() > 5, "{asked:?}");
    assert_eq!(asked.difference(&exported).collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn every_alert_has_histories_with_and_without_it_and_a_mend() {
    let text = alerts();
    let names: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 5, "{names:?}");
    let operations = fs::read_to_string(prometheus().join("../../docs/operations.md")).unwrap();
    for name in &names {
        let history = fs::read_to_string(prometheus().join(format!("tests/{name}.yml"))).unwrap();
        for case in ["exp_alerts: []", "- exp_labels:", "- name: fires", "- name: is silent"] {
            assert!(history.contains(case), "{name}: {case}");
        }
        assert!(text.contains(&format!("runbook: docs/operations.md#{}\n", name.to_lowercase())), "{name}");
        assert!(
            operations.contains(&format!("\n### {name}\n")),
            "{name}: docs/operations.md does not say what to do"
        );
    }
}
