//! What an answer consists of, and the voices that put it into the words of a route.

use std::fmt::Debug;
use std::time::Duration;

use crate::go_json;
use crate::request::RunRequest;
use crate::script::Piece;

/// A request that was read, and the voice that tells its answer.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: RunRequest,
    pub(crate) voice: Box<dyn Voice>,
}

/// Puts one answer into the words of its route.
pub(crate) trait Voice: Debug + Send {
    /// What a stream says for one token.
    fn part(&mut self, out: &mut String, said: &Said);
    /// How a stream ends.
    fn last(&mut self, out: &mut String, end: &End);
    /// What a stream says when the run breaks after the first token.
    fn failed(&mut self, out: &mut String, text: &str);
    /// The whole answer as one object. Without an end, the run broke off.
    fn whole(&mut self, said: &Said, end: Option<&End>) -> String;
}

/// The values of the last line besides the text.
#[derive(Clone, Debug, Default)]
pub(crate) struct End {
    pub(crate) reason: &'static str,
    pub(crate) context: Vec<u64>,
    pub(crate) total: Duration,
    pub(crate) load: Duration,
    pub(crate) prompt_tokens: u64,
    pub(crate) prompt: Duration,
    pub(crate) eval_count: u64,
    pub(crate) eval: Duration,
}

/// The parts of an answer: of all lines together, or of one line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) thinking: String,
    pub(crate) tool_calls: Vec<Call>,
    /// Each as JSON.
    pub(crate) logprobs: Vec<String>,
}

/// A call of a tool.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) id: String,
    /// Counts the calls of one answer.
    pub(crate) index: usize,
    pub(crate) name: String,
    /// As JSON.
    pub(crate) arguments: String,
}

impl Said {
    /// Adds a piece. `top_logprobs` is how many alternatives are listed with the probability of each token; `None`
    /// lists no probabilities. `calls` is how many tools were called before.
    pub(crate) fn add(&mut self, piece: &Piece, top_logprobs: Option<i64>, calls: usize) {
        match piece {
            Piece::Thinking(text) => self.thinking.push_str(text),
            Piece::Content(text) => self.text.push_str(text),
            Piece::ToolCall(name, arguments) => self.tool_calls.push(Call {
                id: format!("call_{}", base36(rand::random())),
                index: calls,
                name: name.clone(),
                arguments: arguments.clone(),
            }),
            Piece::Silent => {}
        }
        if let (Some(top), Piece::Content(text) | Piece::Thinking(text)) = (top_logprobs, piece) {
            self.logprobs.push(logprob(text, top));
        }
    }
}

fn logprob(token: &str, top: i64) -> String {
    let one = |text: &str, likelihood: f64| {
        let bytes: Vec<_> = text.bytes().map(|byte| byte.to_string()).collect();
        format!(r#""token":{},"logprob":{likelihood},"bytes":[{}]"#, go_json::string(text), bytes.join(","))
    };
    let surprise =
        token.bytes().fold(1_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 9_973;
    let likelihood = -f64::from(surprise + 1) / 9_973.0;
    let alternatives: Vec<_> = (0..top)
        .map(|i| match i {
            0 => format!("{{{}}}", one(token, likelihood)),
            _ => format!("{{{}}}", one(&format!(" alternative{i}"), likelihood - 1.5)),
        })
        .collect();
    match alternatives.is_empty() {
        true => format!("{{{}}}", one(token, likelihood)),
        false => format!("{{{},\"top_logprobs\":[{}]}}", one(token, likelihood), alternatives.join(",")),
    }
}

/// Eight letters and digits, like the ids of tool calls.
fn base36(mut number: u64) -> String {
    let mut id = String::new();
    for _ in 0..8 {
        let digit = u32::try_from(number % 36).unwrap_or_default();
        id.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
    }
    id
}
