//! Calls of programs that this suite cannot run, written down from the programs' sources: their headers, their fields and how
//! they leave. Each gets through Foreman what its program gets from Ollama itself.

use foreman_tests::{Api, eventually, http};
use ollama_sim::{Config, Model, Record};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::{Answered, House, answered, comparable};

/// A program with the headers that it sends.
struct Program<'a> {
    house: &'a House,
    headers: Vec<(&'static str, String)>,
}

impl Program<'_> {
    fn request(&self, url: &str, method: Method, path: &str) -> RequestBuilder {
        let request = http().request(method, format!("{url}{path}"));
        self.headers.iter().fold(request, |request, (name, value)| request.header(*name, value))
    }

    async fn get(&self, path: &str) -> Answered {
        answered(self.request(&self.house.api.url, Method::GET, path).send().await.unwrap()).await
    }

    async fn lists_models(&self) -> String {
        eventually("the models of the host", async || {
            let listed = self.get("/api/tags").await;
            if listed.status == 200 { Ok(listed.body) } else { Err(listed.body) }
        })
        .await
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(&self.house.api.url, Method::POST, path).body(body.to_string())
    }

    /// The answer to this body, which is the same as Ollama's own.
    async fn asks(&self, path: &str, body: &Value) -> Answered {
        let through = answered(self.post(path, body).send().await.unwrap()).await;
        let ollama = self.request(&self.house.sim.url(), Method::POST, path).body(body.to_string());
        let direct = answered(ollama.send().await.unwrap()).await;
        assert_eq!(comparable(&through), comparable(&direct), "{path} {body}");
        assert_eq!(through.status, 200, "{}", through.body);
        through
    }

    /// The bodies that Ollama got from Foreman for runs.
    fn bodies_of(&self, path: &str) -> Vec<Value> {
        let body = |record: &Record| serde_json::from_slice(&record.body).unwrap();
        let of_path = |record: &&Record| record.path == path;
        self.house.sim.look(|log| log.runs().into_iter().filter(of_path).map(body).collect())
    }
}

fn json_headers(user_agent: &str, key: &str) -> Vec<(&'static str, String)> {
    vec![
        ("content-type", "application/json".to_owned()),
        ("accept", "application/json".to_owned()),
        ("user-agent", user_agent.to_owned()),
        ("authorization", format!("Bearer {key}")),
    ]
}

fn function(name: &str) -> Value {
    let parameters = json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": []});
    json!({"type": "function", "function": {"name": name, "description": "Turns on", "parameters": parameters}})
}

/// `homeassistant/components/ollama`, with the library for Python.
#[tokio::test(flavor = "multi_thread")]
async fn home_assistant_lists_models_and_chats_with_tools() {
    let house = House::start(&[("FOREMAN_AUTH", "required")], &[]).await;
    let key = house.db.new_client("home", false).await.key;
    let library = "ollama-python/0.5.1 (x86_64 linux) Python/3.13.2";
    // Its setup asks for the key again only after 401 or 403.
    let stranger = Program { house: &house, headers: json_headers(library, "wrong") };
    assert_eq!(stranger.get("/api/tags").await.status, 401);
    let home = Program { house: &house, headers: json_headers(library, &key) };
    assert!(home.lists_models().await.contains("tiny-tools:latest"));
    let body = json!({
        "model": "tiny-tools", "stream": true, "think": false, "keep_alive": "-1s", "options": {"num_ctx": 8192},
        "messages": [
            {"role": "system", "content": "You are a voice assistant for Home Assistant."},
            {"role": "user", "content": "turn on the light sim:tools=1"},
        ],
        "tools": [function("HassTurnOn")],
    });
    let answer = home.asks("/api/chat", &body).await;
    assert!(answer.body.contains(r#""tool_calls":[{"#), "{}", answer.body);
    let bodies = home.bodies_of("/api/chat");
    assert!(bodies[0].get("keep_alive").is_none() && bodies[0]["options"]["num_ctx"] == 8192, "{bodies:?}");
    let pull = json!({"model": "gemma3", "stream": true});
    let refused = answered(home.post("/api/pull", &pull).send().await.unwrap()).await;
    let reason: Value = serde_json::from_str(&refused.body).unwrap();
    assert!(refused.status == 403 && reason["error"].is_string(), "{refused:?}");
}

/// `nodes-langchain`: the test of the credential, the chat model and the embeddings by LangChain.js, and a node of its own.
#[tokio::test(flavor = "multi_thread")]
async fn n8n_tests_its_credential_chats_and_embeds() {
    let mut config = Config::default();
    config.models.push(Model::parse("tiny-embed+embedding").unwrap());
    let house = House::before(config, &[], &[]).await;
    // With an empty key in its credential.
    let n8n =
        Program { house: &house, headers: json_headers("ollama-js/0.6.0 (x64 linux) Node.js/v22.16.0", "") };
    n8n.lists_models().await;
    let messages = json!([{"role": "user", "content": "hello"}]);
    let options =
        json!({"temperature": 0.7, "top_k": -1, "top_p": 1, "num_ctx": 2048, "use_mmap": true, "stop": null});
    n8n.asks(
        "/api/chat",
        &json!({"model": "tiny-a", "messages": messages, "stream": true, "keep_alive": "5m", "options": options, "tools": []}),
    )
    .await;
    n8n.asks("/api/chat", &json!({"model": "tiny-a", "messages": messages, "stream": false, "options": {}}))
        .await;
    let embed =
        json!({"model": "tiny-embed", "input": ["a page", "another"], "keep_alive": "5m", "options": {}});
    let answer = answered(n8n.post("/api/embed", &embed).send().await.unwrap()).await;
    let vectors: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(vectors["embeddings"].as_array().unwrap().len(), 2, "{vectors}");
}

/// `core/llm/llms/Ollama.ts`. Its editor gives up completions all the time.
#[tokio::test(flavor = "multi_thread")]
async fn continue_completes_what_is_typed_and_gives_it_up() {
    let config = Config { models: vec![Model::new("coder").with("insert")], ..Config::default() };
    let house = House::before(config, &[], &[]).await;
    let editor = Program { house: &house, headers: json_headers("node", "any") };
    let shown = answered(editor.post("/api/show", &json!({"name": "coder"})).send().await.unwrap()).await;
    assert!(shown.body.contains(r#""capabilities":["completion","insert"]"#), "{}", shown.body);
    let options =
        json!({"num_ctx": 2048, "num_predict": 256, "temperature": 0.01, "stop": ["\n\n", "<fim_prefix>"]});
    let complete = |prompt: &str| {
        json!({
            "model": "coder", "prompt": prompt, "raw": true, "suffix": "\n}\n", "options": options, "keep_alive": 1800,
        })
    };
    let mut running = editor.post("/api/generate", &complete("fn a sim:fault=hang@1")).send().await.unwrap();
    running.chunk().await.unwrap().unwrap();
    let waiting = tokio::spawn(editor.post("/api/generate", &complete("fn ab")).send());
    house.until_jobs("queued", 1).await;
    waiting.abort();
    house.until_jobs("queued", 0).await;
    drop(running);
    let third = editor.post("/api/generate", &complete("fn abc")).send().await.unwrap();
    assert!(answered(third).await.body.contains(r#""done":true"#));
    house.db.every_job_ends().await;
    let ends: Vec<String> = house.db.values("SELECT state FROM job_done ORDER BY job_id").await;
    assert_eq!(ends, ["cancelled", "cancelled", "done"]);
    assert_eq!(editor.bodies_of("/api/generate").len(), 2, "the completion that waited never reached Ollama");
    let chat = json!({
        "model": "coder", "stream": true, "options": options, "keep_alive": 1800, "think": null,
        "messages": [{"role": "user", "content": "what does this do?"}],
    });
    editor.asks("/api/chat", &chat).await;
}

/// `codex-rs`. It counts events, and an answer without `response.completed` is none for it.
#[tokio::test(flavor = "multi_thread")]
async fn codex_waits_for_events_and_sees_the_response_completed() {
    let house = House::start(&[], &[]).await;
    let hasty = Api::start(&house.db, &[("FOREMAN_HEARTBEAT", "200ms")]).await;
    // It looks for the server without a key.
    let probe = Program { house: &house, headers: Vec::new() };
    probe.lists_models().await;
    assert_eq!(probe.get("/v1/models").await.status, 200);
    let headers = vec![
        ("content-type", "application/json".to_owned()),
        ("accept", "text/event-stream".to_owned()),
        ("user-agent", "codex_cli_rs/0.60.0 (Debian 12; x86_64) xterm".to_owned()),
        ("originator", "codex_cli_rs".to_owned()),
        ("session_id", "0199e2a4-5f0a-7f31-9d0a-2f6f1f0c9a11".to_owned()),
        ("authorization", "Bearer any".to_owned()),
    ];
    let codex = Program { house: &house, headers };
    let shell = json!({
        "type": "function", "name": "shell", "description": "Runs a command", "strict": false,
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    });
    let text = |role: &str, text: &str| json!({"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]});
    let body = json!({
        "model": "tiny-tools", "instructions": "You are a coding agent.", "tools": [shell], "tool_choice": "auto",
        "input": [text("user", "<environment_context></environment_context>"), text("user", "list the files")],
        "parallel_tool_calls": false, "store": false, "stream": true, "include": [], "reasoning": null,
        "prompt_cache_key": "0199e2a4-5f0a-7f31-9d0a-2f6f1f0c9a11",
    });
    codex.asks("/v1/responses", &body).await;
    let hangs = json!({"model": "tiny-a", "prompt": "sim:fault=hang@1"});
    let mut taken = house.call("/api/generate", &hangs).await;
    taken.chunk().await.unwrap().unwrap();
    // The head comes with the first event, while the slot is taken.
    let waits = codex.request(&hasty.url, Method::POST, "/v1/responses").body(body.to_string());
    let waited = waits.send().await.unwrap();
    drop(taken);
    let waited = answered(waited).await;
    let events: Vec<Value> = waited
        .body
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .collect();
    assert_eq!(events[0]["type"], "response.queued", "{}", waited.body);
    assert_eq!(events.last().unwrap()["type"], "response.completed", "{}", waited.body);
}
