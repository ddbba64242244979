//! A page of a list, whatever it is a list of.

use serde::Deserialize;
use serde_json::value::RawValue;

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
