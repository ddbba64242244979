//! The ids of Foreman: ULIDs as text outside, `uuid` in Postgres. Each kind has a type of its own, so that a job's id
//! cannot be used as a client's.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};
use ulid::Ulid;
use uuid::Uuid;

/// The text is not a ULID in its canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 26 characters of Crockford base32 (a ULID)")]
pub struct InvalidId;

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
        #[sqlx(transparent)]
        pub struct $name(pub(crate) Uuid);

        impl $name {
            /// Higher than every id that is ever given out.
            pub const MAX: Self = Self(Uuid::max());

            /// A new id stamped with the clock of this machine.
            pub fn generate() -> Self {
                Self::from_ulid(Ulid::generate())
            }

            /// The id with the bits of this ULID.
            pub fn from_ulid(ulid: Ulid) -> Self {
                Self(Uuid::from_bytes(ulid.to_bytes()))
            }

            /// The same 128 bits in the form of Postgres.
            pub fn uuid(self) -> Uuid {
                self.0
            }

            /// When the id was made, in milliseconds since 1970.
            pub fn timestamp_ms(self) -> u64 {
                Ulid::from_bytes(*self.0.as_bytes()).timestamp_ms()
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let ulid = Ulid::from_string(text).map_err(|_| InvalidId)?;
                // The decoder accepts lower case and letters that look like digits. We accept only the canonical
                // spelling of an id.
                if ulid.to_string() == text { Ok(Self::from_ulid(ulid)) } else { Err(InvalidId) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Ulid::from_bytes(*self.0.as_bytes()).fmt(f)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

ulid_id!(
    /// A job, from its acceptance to the end of its day's partition.
    JobId
);
ulid_id!(
    /// The client that submits a job.
    ClientId
);
ulid_id!(
    /// One api process, from its start to its end.
    ApiId
);
ulid_id!(
    /// One worker process, from its start to its end.
    WorkerId
);
ulid_id!(
    /// One webhook on its way to one receiver.
    DeliveryId
);
ulid_id!(
    /// A registered endpoint: a receiver of all jobs of its client.
    EndpointId
);

impl ClientId {
    /// The id of a client, derived from its name.
    pub(crate) fn derive(name: &str) -> Self {
        Self(derived(&[name.as_bytes()]))
    }
}

/// The deliveries to one receiver. For the URLs that jobs name, that is a client together with an origin, and the id is
/// derived from the two, so no look-up is needed to find it. For a registered endpoint it is the endpoint's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct LaneId(pub(crate) Uuid);

impl LaneId {
    /// The lane of this client's webhooks to this origin (`scheme://host:port`).
    pub fn derive(client: ClientId, origin: &str) -> Self {
        Self(derived(&[client.0.as_bytes(), origin.as_bytes()]))
    }

    /// The 128 bits in the form of Postgres.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl From<EndpointId> for LaneId {
    fn from(endpoint: EndpointId) -> Self {
        Self(endpoint.0)
    }
}

impl From<Uuid> for LaneId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

/// The number of a claim. Every write of a holder proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct LeaseNo(pub i64);

fn derived(parts: &[&[u8]]) -> Uuid {
    let digest = parts.iter().fold(Sha256::new(), Sha256::chain_update).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Uuid::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = JobId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_lowercase().parse::<JobId>(), Err(InvalidId));
        for text in
            ["", "0", "01J", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "../../etc/passwd", "01ARZ3NDEKTSV4RRFFQ69G5FA\0"]
        {
            assert_eq!(text.parse::<JobId>(), Err(InvalidId), "{text}");
        }
    }

    #[test]
    fn a_lane_is_a_client_and_an_origin() {
        let (one, other) = (ClientId::generate(), ClientId::generate());
        assert_eq!(LaneId::derive(one, "https://a"), LaneId::derive(one, "https://a"));
        assert_ne!(LaneId::derive(one, "https://a"), LaneId::derive(one, "https://b"));
        assert_ne!(LaneId::derive(one, "https://a"), LaneId::derive(other, "https://a"));
    }
}
