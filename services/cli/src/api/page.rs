//! A page of a list, whatever it is a list of.

use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ANSWER_WITHIN, Api, ApiError};

/// The most entries that the api puts on a page.
pub(crate) const LARGEST_PAGE: usize = 500;

/// A part of a list, each entry as it came.
#[derive(Deserialize)]
#[serde(from = "Wire")]
pub(crate) struct Page {
    pub(crate) entries: Vec<Box<RawValue>>,
    /// Where the next part begins, if there is one.
    pub(crate) next: Option<String>,
}

#[derive(Deserialize)]
struct Wire {
    data: Vec<Box<RawValue>>,
    has_more: bool,
    last_id: Option<String>,
}

impl From<Wire> for Page {
    fn from(Wire { data, has_more, last_id }: Wire) -> Self {
        Self { entries: data, next: last_id.filter(|_| has_more) }
    }
}

impl Api {
    /// A page of the list at `path` with at most `limit` entries, of those that the filters let through.
    pub(super) async fn page(
        &self,
        path: &str,
        limit: usize,
        filters: &[(&str, Option<&str>)],
        after: Option<&str>,
    ) -> Result<Page, ApiError> {
        let limit = limit.min(LARGEST_PAGE).to_string();
        let query = [("limit", Some(limit.as_str())), ("after", after)];
        let query = query.iter().chain(filters).filter_map(|(name, value)| Some((*name, (*value)?)));
        let request = self.request(Method::GET, path).timeout(ANSWER_WITHIN);
        Ok(self.send_query(request, query).await?.value)
    }
}
