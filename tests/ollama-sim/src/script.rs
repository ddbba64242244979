//! What a model says: words that depend only on the prompt, or an answer that the prompt orders from the simulator.

use std::time::Duration;

use crate::config::Config;
use crate::go_json::{self, Json};
use crate::model::Model;
use crate::options::RunOptions;
use crate::orders::Orders;
use crate::request::{RunRequest, Shape};

/// The content of one line of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Thinking(String),
    Content(String),
    /// Name and arguments, the arguments as JSON.
    ToolCall(String, String),
    /// A token without text. Only generate sends a line for it.
    Silent,
}

/// Everything that a run will say, and how fast.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) pieces: Vec<Piece>,
    /// Whether the answer ends because of a limit.
    pub(crate) cut: bool,
    pub(crate) prompt_tokens: u64,
    pub(crate) eval_count: u64,
    pub(crate) prompt_delay: Duration,
    pub(crate) token_delay: Duration,
    pub(crate) metrics: bool,
    /// Whether Ollama gives up after the last piece.
    pub(crate) given_up: bool,
}

const MOST_PIECES: usize = 1_000;
/// How often Ollama lets a model repeat itself.
const MOST_REPEATS: usize = 31;

impl Plan {
    pub(crate) fn make(
        config: &Config,
        model: &Model,
        shape: Shape,
        request: &RunRequest,
        options: &RunOptions,
    ) -> Self {
        let prompt = request.last_text();
        let orders = Orders::read(prompt);
        let may_think = model.can("thinking") && request.think.is_none_or(|think| think.0);
        let scripted = model.scripted.then(|| scripted(prompt, request, may_think)).flatten();
        let mut pieces = scripted.unwrap_or_else(|| {
            let mut pieces = Vec::new();
            if orders.think && may_think {
                pieces.push(Piece::Silent);
                pieces.extend(["hm,", " let", " me", " see"].map(|word| Piece::Thinking(word.to_owned())));
                pieces.push(Piece::Silent);
            }
            match request.tools.first().filter(|_| orders.tools > 0) {
                Some(tool) => pieces.extend((0..orders.tools).map(|_| call(tool))),
                None => pieces.extend(content(config, &orders, request).into_iter().map(Piece::Content)),
            }
            pieces
        });
        stop_at(&mut pieces, &options.stop);
        let most = options.num_predict.map_or(usize::MAX, |number| number as usize);
        let cut = pieces.len() >= most;
        pieces.truncate(most);
        // Stopping by itself takes one token more.
        let eval_count = pieces.len() as u64 + u64::from(!cut);
        if shape == Shape::Chat {
            pieces.retain(|piece| *piece != Piece::Silent);
        }
        Self {
            cut,
            prompt_tokens: if orders.no_metrics { 0 } else { prompt_tokens(request) },
            eval_count,
            prompt_delay: orders.prompt_delay.unwrap_or(config.prompt_delay),
            token_delay: orders.token_delay.unwrap_or(config.token_delay),
            metrics: !orders.no_metrics,
            given_up: orders.looping && !cut,
            pieces,
        }
    }
}

/// The number of tokens of a prompt: one per character, and two around it, as in the recorded models.
pub(crate) fn prompt_tokens(request: &RunRequest) -> u64 {
    let characters: usize = request.messages.iter().map(|message| message.content.chars().count()).sum();
    (characters + request.prompt.chars().count() + request.context.len() + 2) as u64
}

fn content(config: &Config, orders: &Orders, request: &RunRequest) -> Vec<String> {
    if orders.looping {
        return vec![" loop".to_owned(); MOST_REPEATS];
    }
    if orders.echo {
        return split(request.last_text());
    }
    if let Some(format) = &request.format
        && *format != Json::String(String::new())
    {
        return split(&example(format, 0));
    }
    if let Some(bytes) = orders.bytes {
        let pieces = bytes.clamp(1, MOST_PIECES);
        let letter = |i: usize| ["a", "b", "c", "d", "e", "f", "g"][i % 7];
        return (0..pieces)
            .map(|i| letter(i).repeat(bytes * (i + 1) / pieces - bytes * i / pieces))
            .collect();
    }
    let count = orders.tokens.unwrap_or(config.tokens);
    let seed =
        request.last_text().bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    (0..u64::from(count)).map(|i| format!(" w{}", seed.wrapping_add(i.wrapping_mul(37)) % 256)).collect()
}

/// The answer of the recorded model, chosen by the last letter of its prompt.
fn scripted(prompt: &str, request: &RunRequest, may_think: bool) -> Option<Vec<Piece>> {
    let words =
        |words: &[&str]| words.iter().map(|word| Piece::Content((*word).to_owned())).collect::<Vec<_>>();
    let weather = |city| Piece::ToolCall("get_weather".to_owned(), format!("{{\"city\":\"{city}\"}}"));
    match prompt.chars().last()? {
        's' => Some(words(&[" The", " sky", " is", " blue."])),
        't' if may_think => {
            let mut pieces = vec![Piece::Silent];
            pieces.extend(["hm,", " light", " scatters"].map(|word| Piece::Thinking(word.to_owned())));
            pieces.push(Piece::Silent);
            pieces.extend(words(&["Blue", " it", " is."]));
            Some(pieces)
        }
        'c' if !request.tools.is_empty() => Some(vec![weather("Paris")]),
        'd' if !request.tools.is_empty() => Some(vec![weather("Oslo"), weather("Bern")]),
        _ => None,
    }
}

/// A call of a tool with an example for each of its parameters.
fn call(tool: &Json) -> Piece {
    let function = tool.get("function").unwrap_or(tool);
    let name = function.get("name").and_then(Json::as_str).unwrap_or("tool");
    let arguments = function.get("parameters").map_or_else(|| "{}".to_owned(), |schema| example(schema, 0));
    Piece::ToolCall(name.to_owned(), arguments)
}

/// A value that fits a JSON schema, or an object for the bare word `json`.
fn example(schema: &Json, depth: usize) -> String {
    let kind = schema.get("type").and_then(Json::as_str).unwrap_or("object");
    match (kind, schema.get("properties")) {
        ("integer", _) => "1".to_owned(),
        ("number", _) => "1.5".to_owned(),
        ("boolean", _) => "true".to_owned(),
        ("null", _) => "null".to_owned(),
        ("string", _) => "\"a\"".to_owned(),
        ("array", _) => "[]".to_owned(),
        (_, Some(Json::Object(properties))) if depth < 8 => {
            let members: Vec<_> = properties
                .iter()
                .map(|(name, schema)| format!("{}:{}", go_json::string(name), example(schema, depth + 1)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        _ => "{}".to_owned(),
    }
}

/// Splits a text into pieces of about a word, without losing any of it.
fn split(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut last = String::new();
    for c in text.chars() {
        if c == ' ' && !last.is_empty() {
            pieces.push(std::mem::take(&mut last));
        }
        last.push(c);
    }
    pieces.push(last);
    pieces.retain(|piece| !piece.is_empty());
    // A text without blanks is streamed in pieces too.
    if let [whole] = &pieces[..]
        && whole.chars().count() > 1
    {
        pieces = whole.chars().map(String::from).collect();
    }
    let size = pieces.len().div_ceil(MOST_PIECES).max(1);
    pieces.chunks(size).map(<[String]>::concat).collect()
}

/// Ends the answer before the first stop word, which may span several tokens.
fn stop_at(pieces: &mut Vec<Piece>, stops: &[String]) {
    let text = |piece: &Piece| if let Piece::Content(text) = piece { text.clone() } else { String::new() };
    let whole: String = pieces.iter().map(text).collect();
    let Some(end) = stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| whole.find(stop)).min()
    else {
        return;
    };
    let mut said = 0;
    for at in 0..pieces.len() {
        let length = text(&pieces[at]).len();
        if said + length > end {
            pieces.truncate(at);
            if end > said {
                pieces.push(Piece::Content(whole[said..end].to_owned()));
            }
            return;
        }
        said += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(model: &Model, body: &str, options: &RunOptions) -> Plan {
        let request = RunRequest::decode(Shape::Chat, body.as_bytes()).unwrap();
        Plan::make(&Config::default(), model, Shape::Chat, &request, options)
    }

    fn said(plan: &Plan) -> String {
        plan.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Content(text) => text.clone(),
                Piece::Thinking(text) => format!("<{text}>"),
                Piece::ToolCall(name, arguments) => format!("{name}({arguments})"),
                Piece::Silent => String::new(),
            })
            .collect()
    }

    #[test]
    fn prompts_give_orders() {
        let model = Model::new("a").with("thinking").with("tools");
        let say = |content: &str, more: &str| {
            let content = go_json::string(content);
            let body = format!(r#"{{"messages":[{{"content":{content}}}]{more}}}"#);
            plan(&model, &body, &RunOptions::default())
        };
        assert_eq!(say("x sim:tokens=3", "").pieces.len(), 3);
        assert_eq!(said(&say("x sim:bytes=300000", "")).len(), 300_000);
        assert_eq!(said(&say("sim:echo <b> \"ä\"", "")), "sim:echo <b> \"ä\"");
        assert!(said(&say("sim:think sim:tokens=1", "")).starts_with("<hm,>< let>"));
        let tool = r#","tools":[{"function":{"name":"f","parameters":{"type":"object","properties":{"b":{"type":"integer"},"a":{"type":"string"}}}}}]"#;
        assert_eq!(said(&say("sim:tools=2", tool)), r#"f({"b":1,"a":"a"})f({"b":1,"a":"a"})"#);
        assert_eq!(said(&say("x", r#","format":{"properties":{"n":{"type":"number"}}}"#)), r#"{"n":1.5}"#);
        assert_eq!(say("sim:token-delay=50ms", "").token_delay, Duration::from_millis(50));
    }

    #[test]
    fn limits_and_stop_words_end_an_answer() {
        let model = Model::new("a");
        let limited = RunOptions { num_predict: Some(4), stop: Vec::new() };
        let plan_of = |text: &str, options: &RunOptions| {
            plan(&model, &format!(r#"{{"messages":[{{"content":"{text}"}}]}}"#), options)
        };
        let four = plan_of("x", &limited);
        assert_eq!((four.pieces.len(), four.cut, four.eval_count), (4, true, 4));
        let three = plan_of("x sim:tokens=3", &limited);
        assert_eq!((three.pieces.len(), three.cut, three.eval_count), (3, false, 4));
        let stopped = RunOptions { num_predict: None, stop: vec!["cd e".to_owned()] };
        assert_eq!(said(&plan_of("sim:echo abcd efg", &stopped)), "sim:echo ab");
    }
}
