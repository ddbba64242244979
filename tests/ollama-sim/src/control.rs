//! The simulator's own routes, for tests that drive it as a process of its own.
//!
//! | route | what it does |
//! |---|---|
//! | `GET /sim/log`, `GET /sim/log?records=no` | the log, or its counts and events alone |
//! | `GET /sim/faults`, `POST`, `DELETE` | the faults that wait; one more or several; none any more |
//! | `POST /sim/kill` `{"model"}` | kills the process that holds a model |
//! | `POST /sim/away` `{"for":"5s"}` | refuses connections for that long, or until `/sim/back` on the control address |
//! | `POST /sim/back` | listens again |
//! | `POST /sim/reset` | forgets faults, log and what is resident |

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::Deserialize;

use crate::faults::Fault;
use crate::http::{self, ResponseOrCut, read};
use crate::ollama::Ollama;

/// What a connection does after its answer was sent, because it cannot do so before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Afterwards {
    Away(Option<Duration>),
    Back,
}

/// The simulator's own routes, as one connection sees them.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Whether `/sim/back` can still be called at another address.
    pub(crate) reachable_while_away: bool,
    afterwards: Mutex<Option<Afterwards>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    More(Vec<Fault>),
    One(Fault),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kill {
    model: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Away {
    #[serde(rename = "for")]
    time: Option<String>,
}

impl Control {
    pub(crate) fn new(reachable_while_away: bool) -> Self {
        Self { reachable_while_away, afterwards: Mutex::default() }
    }

    pub(crate) fn afterwards(&self) -> Option<Afterwards> {
        self.afterwards.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) async fn serve(&self, ollama: &Arc<Ollama>, head: &Parts, body: Incoming) -> ResponseOrCut {
        let body = read(body).await?;
        Ok(match (&head.method, head.uri.path()) {
            (&Method::GET, "/sim/log") => {
                let bare = head.uri.query().is_some_and(|query| query.contains("records=no"));
                let log = ollama.journal.read(|log| {
                    let mut log = log.clone();
                    if bare {
                        log.records.clear();
                    }
                    log
                });
                answer(&log)
            }
            (&Method::GET, "/sim/faults") => answer(&ollama.faults.list()),
            (&Method::POST, "/sim/faults") => match serde_json::from_slice(&body) {
                Ok(OneOrMore::One(fault)) => {
                    ollama.faults.add(fault);
                    answer(&ollama.faults.list())
                }
                Ok(OneOrMore::More(faults)) => {
                    faults.into_iter().for_each(|fault| ollama.faults.add(fault));
                    answer(&ollama.faults.list())
                }
                Err(error) => http::error(400, &format!("that is no fault: {error}")),
            },
            (&Method::DELETE, "/sim/faults") => {
                ollama.faults.clear();
                answer(&ollama.faults.list())
            }
            (&Method::POST, "/sim/kill") => match serde_json::from_slice::<Kill>(&body) {
                Ok(Kill { model }) => answer(&ollama.kill(&model)),
                Err(error) => http::error(400, &format!("name the model to kill: {error}")),
            },
            (&Method::POST, "/sim/reset") => {
                ollama.reset();
                answer(&())
            }
            (&Method::POST, "/sim/away") => match self.away(&body) {
                Ok(time) => self.then(Afterwards::Away(time)),
                Err(text) => http::error(400, &text),
            },
            (&Method::POST, "/sim/back") => self.then(Afterwards::Back),
            _ => http::bare(StatusCode::NOT_FOUND),
        })
    }

    fn away(&self, body: &[u8]) -> Result<Option<Duration>, String> {
        let away = match body {
            [] => Away::default(),
            body => serde_json::from_slice(body).map_err(|error| error.to_string())?,
        };
        match away.time {
            Some(time) => humantime::parse_duration(&time).map(Some).map_err(|error| error.to_string()),
            None if self.reachable_while_away => Ok(None),
            None => {
                Err("say for how long, as in {\"for\":\"5s\"}: without a control address there is no way to \
                         call the simulator back"
                    .to_owned())
            }
        }
    }

    fn then(&self, afterwards: Afterwards) -> hyper::Response<http::Body> {
        *self.afterwards.lock().unwrap_or_else(PoisonError::into_inner) = Some(afterwards);
        let mut answer = answer(&());
        // The connection must close after this answer, because the requested change begins when the connection ends.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        answer
    }
}

fn answer<T: serde::Serialize>(value: &T) -> hyper::Response<http::Body> {
    match serde_json::to_vec(value) {
        Ok(json) => http::json(json),
        Err(error) => http::error(500, &error.to_string()),
    }
}
