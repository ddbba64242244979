//! Keys, ids, groups and settings for the tests of this folder and of the decider.

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use foreman_store::{ClientId, JobId, UserName, ulid_floor};

use super::backlog::Group;
use super::key::Key;
use crate::config;

pub(crate) fn key(text: &str) -> Key {
    Arc::new(text.parse().unwrap())
}

/// The lowest id of this millisecond.
pub(crate) fn id(millisecond: i64) -> JobId {
    ulid_floor(DateTime::from_timestamp_millis(millisecond).unwrap())
}

pub(crate) fn client(number: u128) -> ClientId {
    ClientId::from_ulid(number.into())
}

/// Plain jobs of a client that names no user.
pub(crate) fn group(text: &str, number: u128, lowest: i64) -> Group {
    Group {
        key: key(text),
        client: client(number),
        user: UserName::default(),
        priority: 0,
        sync: false,
        lowest: id(lowest),
    }
}

/// Turns on a host that holds one model.
pub(crate) fn turns() -> config::Turns {
    config::Turns {
        max_model_wait: Duration::from_secs(600),
        load_share: 0.1,
        context_fit: true,
        context_max: None,
        models_together: 1,
    }
}
