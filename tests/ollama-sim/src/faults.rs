//! The faults that a test can cause, and where they happen.
//!
//! A fault waits until a request matches it. Must never carry a fault out: this file only decides which fault is due.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// One fault. The JSON of `POST /sim/faults` has the same fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub what: Trouble,
    pub when: Moment,
    /// Only for requests for this model, in the spelling of the request.
    #[serde(default)]
    pub model: Option<String>,
    /// Only for requests whose body contains this text.
    #[serde(default)]
    pub body_contains: Option<String>,
    /// How many matching requests succeed first.
    #[serde(default)]
    pub skip: u32,
    /// How often the fault happens after that; for ever if not given.
    #[serde(default)]
    pub times: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// Ollama's JSON error: a whole answer before the first token, or a last line after it. The streams of `/v1` lose
    /// the text of the latter, as in Ollama.
    Error { status: u16, text: String },
    /// The process that runs the model dies, and with it every request that it serves.
    RunnerKilled,
    /// The TCP connection is reset.
    Reset,
    /// The connection stays silent until the client hangs up.
    Hang,
    /// The answer ends regularly, but without `done: true`, or what stands for it on the routes of `/v1`.
    EndEarly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// Before the simulator reads the request.
    Arrival,
    /// In the middle of the load that the request causes. Never, if the request causes no load.
    Load,
    /// After this many tokens; 0 means before the first, when no headers were sent yet. Embeddings have no tokens, so
    /// every number means: after the prompt.
    Tokens(u32),
}

impl Fault {
    /// A fault for every request, for ever. The other methods restrict it.
    pub fn new(what: Trouble, when: Moment) -> Self {
        Self { what, when, model: None, body_contains: None, skip: 0, times: None }
    }

    /// 503: the queue is full.
    pub fn busy() -> Self {
        Self::new(Trouble::error(503, SERVER_BUSY), Moment::Arrival)
    }

    /// 500: the model does not fit.
    pub fn out_of_memory() -> Self {
        let text = "model requires more system memory (9.9 GiB) than is available (7.6 GiB)";
        Self::new(Trouble::error(500, text), Moment::Load)
    }

    pub fn for_model(mut self, model: &str) -> Self {
        self.model = Some(model.to_owned());
        self
    }

    pub fn for_body_with(mut self, text: &str) -> Self {
        self.body_contains = Some(text.to_owned());
        self
    }

    pub fn after(mut self, requests: u32) -> Self {
        self.skip = requests;
        self
    }

    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    pub fn once(self) -> Self {
        self.times(1)
    }

    fn matches(&self, model: &str, body: &[u8]) -> bool {
        let within = |text: &String| body.windows(text.len().max(1)).any(|part| part == text.as_bytes());
        self.model.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(model))
            && self.body_contains.as_ref().is_none_or(within)
    }
}

impl Trouble {
    pub fn error(status: u16, text: &str) -> Self {
        Self::Error { status, text: text.to_owned() }
    }
}

/// The name of a fault in a prompt: `busy`, `oom`, `error=500`, `killed`, `reset`, `hang`, `end` or `stream-error`.
/// The last five may be followed by `@N` tokens or `@load`. Without that, the fault happens before the first token.
impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (what, when) = text.split_once('@').unwrap_or((text, "0"));
        let when = match when {
            "load" => Moment::Load,
            "arrival" => Moment::Arrival,
            tokens => {
                Moment::Tokens(tokens.parse().map_err(|_| format!("{tokens:?} is no number of tokens"))?)
            }
        };
        let what = match what.split_once('=').unwrap_or((what, "")) {
            ("busy", _) => return Ok(Self::busy()),
            ("oom", _) => return Ok(Self::out_of_memory()),
            ("killed", _) => Trouble::RunnerKilled,
            ("reset", _) => Trouble::Reset,
            ("hang", _) => Trouble::Hang,
            ("end", _) => Trouble::EndEarly,
            ("stream-error", _) => Trouble::error(500, "the simulator was told to fail"),
            ("error", status) => {
                let status = status.parse().map_err(|_| format!("{status:?} is no status"))?;
                Trouble::error(status, "the simulator was told to fail")
            }
            (other, _) => return Err(format!("there is no fault {other:?}")),
        };
        Ok(Self::new(what, when))
    }
}

pub(crate) const SERVER_BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";

/// The faults that wait.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    pub(crate) fn add(&self, fault: Fault) {
        self.lock().push(fault);
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    pub(crate) fn list(&self) -> Vec<Fault> {
        self.lock().clone()
    }

    /// The fault that is due for a request at this stage. Counts the fault as used.
    pub(crate) fn due(&self, stage: Stage, model: &str, body: &[u8]) -> Option<Due> {
        let mut faults = self.lock();
        if faults.is_empty() {
            return None;
        }
        let at = faults.iter_mut().position(|fault| {
            let here = matches!(
                (fault.when, stage),
                (Moment::Arrival, Stage::Arrival)
                    | (Moment::Load, Stage::Load)
                    | (Moment::Tokens(_), Stage::Run)
            );
            if !here || !fault.matches(model, body) {
                return false;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                return false;
            }
            true
        })?;
        let fault = &mut faults[at];
        let due = Due::of(fault);
        if let Some(times) = &mut fault.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                faults.remove(at);
            }
        }
        Some(due)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Arrival,
    Load,
    Run,
}

/// A fault that hits a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) what: Trouble,
    /// The number of tokens after which the fault happens.
    pub(crate) tokens: u32,
}

impl Due {
    pub(crate) fn of(fault: &Fault) -> Self {
        let tokens = if let Moment::Tokens(tokens) = fault.when { tokens } else { 0 };
        Self { what: fault.what.clone(), tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_skips_then_strikes_so_many_times_then_is_gone() {
        let faults = Faults::default();
        faults.add(
            Fault::new(Trouble::Reset, Moment::Tokens(2)).for_model("A").for_body_with("x").after(1).times(2),
        );
        let due = |model, body: &[u8]| faults.due(Stage::Run, model, body).is_some();
        assert!(!due("b", b"x") && !due("a", b"y") && !due("a", b""), "these do not match and do not count");
        assert_eq!(
            [due("a", b"x"), due("a", b"x"), due("a", b"x"), due("a", b"x")],
            [false, true, true, false]
        );
        assert!(faults.list().is_empty());
    }

    #[test]
    fn triggers_are_read_from_prompts() {
        assert_eq!("killed@3".parse(), Ok(Fault::new(Trouble::RunnerKilled, Moment::Tokens(3))));
        assert_eq!("hang@load".parse(), Ok(Fault::new(Trouble::Hang, Moment::Load)));
        assert_eq!("busy".parse(), Ok(Fault::busy()));
        assert!("killed@x".parse::<Fault>().is_err() && "nonsense".parse::<Fault>().is_err());
    }
}
