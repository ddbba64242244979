//! Bytes on their way out, with the memory they hold until the client has taken them.

use bytes::Bytes;

use crate::shares::{Held, Resource};

pub(crate) const OUTGOING: Resource = Resource {
    name: "outgoing",
    code: "too_much_unread",
    error: "this client has not read as many bytes of answers as one client may leave unread; read them first",
};

/// Bytes of artifacts and event streams that may be held for all clients together.
pub(crate) const WHOLE: usize = 256 << 20;

pub(crate) struct Outgoing {
    data: Vec<u8>,
    _held: Held,
}

impl Outgoing {
    pub(crate) fn bytes(data: Vec<u8>, held: Held) -> Bytes {
        Bytes::from_owner(Self { data, _held: held })
    }
}

impl AsRef<[u8]> for Outgoing {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}
