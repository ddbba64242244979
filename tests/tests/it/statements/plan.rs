//! What a run of a statement read, as `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)` tells it.

use serde_json::Value;

/// Rows that a node may read and throw away: more means that no index led to the rows.
const REMOVED: f64 = 1_000.0;

/// Rows that may be sorted: a page of a list, or a batch.
const SORTED: f64 = 1_000.0;

/// Tables of which there are ever only a few pages: processes and hosts.
const FEW: &[&str] = &["worker", "host", "host_model", "api_process"];

pub(crate) struct Plan(Value);

impl Plan {
    pub(crate) fn read(json: String) -> Self {
        let explained: Value = serde_json::from_str(&json).unwrap();
        Self(explained[0]["Plan"].clone())
    }

    /// What is wrong with it, where so many pages may be touched.
    pub(crate) fn faults(&self, allowed: f64) -> Vec<String> {
        let mut faults = Vec::new();
        let pages = number(&self.0, "Shared Hit Blocks") + number(&self.0, "Shared Read Blocks");
        if pages > allowed {
            faults.push(format!("{pages} pages were touched instead of {allowed}"));
        }
        inspect(&self.0, &mut faults);
        faults
    }
}

fn inspect(node: &Value, faults: &mut Vec<String>) {
    let loops = number(node, "Actual Loops");
    let kind = node["Node Type"].as_str().unwrap_or_default();
    let of = ["Index Name", "Relation Name", "CTE Name", "Function Name"]
        .iter()
        .find_map(|key| node[*key].as_str());
    let of = of.unwrap_or_default();
    for removed in ["Rows Removed by Filter", "Rows Removed by Join Filter", "Rows Removed by Index Recheck"]
    {
        let rows = number(node, removed) * loops;
        if rows > REMOVED {
            faults.push(format!("{kind} {of}: {removed}: {rows}"));
        }
    }
    if kind == "Seq Scan" && loops > 0.0 && !FEW.contains(&of) {
        faults.push(format!("{kind} {of}"));
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        let rows = number(child, "Actual Rows") * number(child, "Actual Loops");
        if kind.ends_with("Sort") && rows > SORTED {
            faults.push(format!("{kind} of {rows} rows"));
        }
        inspect(child, faults);
    }
}

fn number(node: &Value, key: &str) -> f64 {
    node[key].as_f64().unwrap_or_default()
}
