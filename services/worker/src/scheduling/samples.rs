//! Keys, ids and groups for the tests of this folder.

use std::sync::Arc;

use chrono::DateTime;
use foreman_store::{ClientId, JobId, UserName, ulid_floor};

use super::backlog::Group;
use super::key::Key;

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
