//! `POST /api/chat`, streamed: the one route of Ollama's own that a command calls.

use bytes::Bytes;
use foreman_ollama::{Cutter, Pieces};
use futures_util::stream::{BoxStream, StreamExt as _};
use reqwest::{Method, header};
use serde::Deserialize;

use super::{Api, ApiError, LATER};

/// An answer on its way. Dropping it hangs up, which cancels the job.
pub(crate) struct ChatAnswer<'a> {
    api: &'a Api,
    bytes: BoxStream<'static, reqwest::Result<Bytes>>,
    lines: Cutter,
}

/// One line of the answer.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Chunk {
    #[serde(default)]
    pub(crate) message: Said,
    #[serde(default)]
    pub(crate) done: bool,
    /// Given if the answer ends with a failure.
    pub(crate) error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Said {
    #[serde(default)]
    pub(crate) content: String,
    #[serde(default)]
    pub(crate) thinking: String,
}

impl Api {
    /// Begins a chat. Returns once the answer begins, or its first sign of life comes.
    pub(crate) async fn chat(&self, body: String) -> Result<ChatAnswer<'_>, ApiError> {
        let request = self.request(Method::POST, "api/chat").header(header::CONTENT_TYPE, "application/json");
        let request = self.build(request.body(body))?;
        let answer = self.http.execute(request).await.map_err(|error| self.unanswered(&error))?;
        let status = answer.status();
        if !status.is_success() {
            let body = answer.bytes().await.map_err(|error| self.unanswered(&error))?;
            let chunk: Option<Chunk> = serde_json::from_slice(&body).ok();
            return Err(self.refusal(status, chunk.and_then(|chunk| chunk.error), LATER));
        }
        Ok(ChatAnswer { api: self, bytes: answer.bytes_stream().boxed(), lines: Cutter::new(Pieces::Lines) })
    }
}

impl ChatAnswer<'_> {
    /// The next line, or `None` if the connection ended.
    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>, ApiError> {
        loop {
            if let Some(line) = self.lines.next_piece() {
                return serde_json::from_slice(&line).map(Some).map_err(|error| self.api.strange(&error));
            }
            match self.bytes.next().await {
                Some(Ok(bytes)) => self.lines.push(&bytes),
                Some(Err(error)) => return Err(self.api.unanswered(&error)),
                None => return Ok(None),
            }
        }
    }
}
