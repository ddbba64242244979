//! The queue as tables: hosts with their turns, models, clients.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::api::{LaterTurn, Loaded, Queue, QueueClient, QueueHost, QueueModel};
use crate::moment::{from_now, in_words};
use crate::table;
use crate::terminal::one_line;

/// No line is longer than so many `columns`.
pub(crate) fn text(queue: &Queue, now: DateTime<Utc>, columns: Option<u16>) -> String {
    let mut parts = vec![hosts(&queue.hosts, columns)];
    let too_slow = queue.hosts.iter().filter(|host| !host.keeps_max_wait);
    parts.extend(too_slow.map(|host| {
        let max = wait(host.max_wait_ms);
        format!("{} cannot keep FOREMAN_MAX_MODEL_WAIT ({max}) now.", one_line(&host.host))
    }));
    parts.push(models(&queue.models, now, columns));
    parts.push(clients(&queue.clients, columns));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn hosts(hosts: &[QueueHost], columns: Option<u16>) -> String {
    if hosts.is_empty() {
        return "No worker holds a host.".to_owned();
    }
    let header = ["HOST", "BUSY", "LONGEST WAIT", "MODEL", "CONTEXT", "TURN", "CLIENT", "WHY"];
    let mut table = table::with_header(header);
    for host in hosts {
        let busy = format!("{}/{}", host.running, host.slots);
        let longest = match host {
            QueueHost { is_reachable: false, .. } => "away".to_owned(),
            QueueHost { is_drained: true, .. } => "drained".to_owned(),
            host => wait(host.longest_wait_ms),
        };
        let mut first = [host.host.clone(), busy, longest];
        // The columns of the host stand in its first row alone.
        let mut add = |[model, context, turn, client, why]: [String; 5]| {
            let [host, busy, wait] = std::mem::take(&mut first);
            table::add_row(&mut table, [host, busy, wait, model, context, turn, client, why]);
        };
        match &host.turn {
            Some(turn) => add([
                turn.model.clone(),
                number(turn.context),
                if turn.is_loaded { "loaded" } else { "not loaded" }.to_owned(),
                turn.client.clone().unwrap_or_default(),
                turn.reason.clone(),
            ]),
            None => {
                let why = if host.is_reachable { "" } else { "its Ollama is away" };
                add([String::new(), String::new(), String::new(), String::new(), why.to_owned()]);
            }
        }
        let has_turn = |key: &String| host.turn.as_ref().is_some_and(|turn| turn.load_key == *key);
        for Loaded { model, context, .. } in host.loaded.iter().filter(|loaded| !has_turn(&loaded.load_key)) {
            add([model.clone(), number(*context), "loaded too".to_owned(), String::new(), String::new()]);
        }
        for LaterTurn { model, context, client, reason } in &host.next {
            add([model.clone(), number(*context), "next".to_owned(), client.clone(), reason.clone()]);
        }
    }
    table::text(&mut table, columns)
}

fn models(models: &[QueueModel], now: DateTime<Utc>, columns: Option<u16>) -> String {
    if models.is_empty() {
        return "No jobs wait or run.".to_owned();
    }
    let mut table = table::with_header(["MODEL", "QUEUED", "RUNNING", "OLDEST", "LONGEST WAIT", "LOADED ON"]);
    for model in models {
        let cells = [
            model.model.clone(),
            model.queued.to_string(),
            model.running.to_string(),
            model.oldest.map(|oldest| from_now(oldest, now)).unwrap_or_default(),
            wait(model.longest_wait_ms),
            model.resident_on.join(" "),
        ];
        table::add_row(&mut table, cells);
    }
    table::text(&mut table, columns)
}

fn clients(clients: &[QueueClient], columns: Option<u16>) -> String {
    if clients.is_empty() {
        return String::new();
    }
    let header = ["QUEUED", "RUNNING", "MAX", "WEIGHT", "DUE", "GOT", "GPU", "BUDGET LEFT", "CLIENT"];
    let mut table = table::with_header(header);
    for client in clients {
        let seconds = |seconds| in_words(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        let cells = [
            client.queued.to_string(),
            client.running.to_string(),
            number(client.max_running),
            client.weight.to_string(),
            percent(client.share_due),
            percent(client.share_got),
            seconds(client.gpu_seconds),
            client.gpu_seconds_left.map(seconds).unwrap_or_default(),
            client.name.clone(),
        ];
        table::add_row(&mut table, cells);
    }
    table::text(&mut table, columns)
}

fn number(number: Option<u64>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

fn wait(millis: Option<u64>) -> String {
    millis.map(|millis| in_words(Duration::from_millis(millis))).unwrap_or_default()
}

fn percent(share: Option<f64>) -> String {
    share.map(|share| format!("{:.0} %", share * 100.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_host_has_its_turn_and_the_next_ones_in_rows_below_each_other() {
        let queue = json!({
            "models": [{"model": "qwen3:latest", "queued": 3, "running": 0, "oldest": "2026-11-29T12:00:00Z",
                        "resident_on": [], "longest_wait_ms": 90_000}],
            "hosts": [{
                "host": "gpu-1", "running": 1, "slots": 4, "longest_wait_ms": 90_000, "max_wait_ms": 60_000,
                "keeps_max_wait": false, "is_drained": false, "is_reachable": true,
                "turn": {"model": "llama3.2:latest", "load_key": "llama3.2:latest num_ctx=4096", "context": 4096,
                         "is_loaded": true, "client": null, "reason": "its quantum is not over"},
                "loaded": [{"model": "llama3.2:latest", "load_key": "llama3.2:latest num_ctx=4096", "context": 4096},
                           {"model": "bge-m3:latest", "load_key": "bge-m3:latest", "context": 8192}],
                "next": [{"model": "qwen3:latest", "context": null, "client": "ada\u{1b}[2J", "reason": "no other client waits"}],
            }, {
                "host": "gpu-2", "running": 0, "slots": 2, "longest_wait_ms": null, "max_wait_ms": null,
                "keeps_max_wait": true, "is_drained": false, "is_reachable": false, "turn": null, "next": [],
            }],
            "clients": [{"name": "ada", "queued": 3, "running": 0, "weight": 1.5, "share_due": 0.5, "share_got": 0.254, "gpu_seconds": 7200.0,
                         "max_running": null, "gpu_seconds_a_day": 60.0, "gpu_seconds_left": 42.0}],
        });
        let queue: Queue = serde_json::from_value(queue).unwrap();
        let now = "2026-11-29T12:05:00Z".parse().unwrap();
        let expected = "\
HOST   BUSY  LONGEST WAIT  MODEL            CONTEXT  TURN        CLIENT   WHY
gpu-1  1/4   2m            llama3.2:latest  4096     loaded               its quantum is not over
                           bge-m3:latest    8192     loaded too
                           qwen3:latest              next        ada [2J  no other client waits
gpu-2  0/2   away                                                         its Ollama is away

gpu-1 cannot keep FOREMAN_MAX_MODEL_WAIT (60s) now.

MODEL         QUEUED  RUNNING  OLDEST  LONGEST WAIT  LOADED ON
qwen3:latest  3       0        5m ago  2m

QUEUED  RUNNING  MAX  WEIGHT  DUE   GOT   GPU  BUDGET LEFT  CLIENT
3       0             1.5     50 %  25 %  2h   42s          ada";
        let shown = text(&queue, now, None);
        let shown: Vec<&str> = shown.lines().map(str::trim_end).collect();
        assert_eq!(shown.join("\n"), expected);
    }
}
