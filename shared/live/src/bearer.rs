//! The secret by which a worker knows that it talks to an api of its own installation.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// What the derived secret is for. A secret for another use has another text here.
const USE: &[u8] = b"foreman: api to worker, 1";

/// Derived from the installation's secret key, so that the key itself never goes over a line.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer {
    current: String,
    /// Accepted, and never sent.
    previous: Option<String>,
}

impl Bearer {
    /// The bearer of an installation with this secret key.
    pub fn of(secret_key: &[u8; 32]) -> Self {
        Self { current: header(secret_key), previous: None }
    }

    /// Also accepts the bearer of the key of before, while that is being replaced.
    #[must_use]
    pub fn and_previous(self, secret_key: Option<&[u8; 32]>) -> Self {
        Self { previous: secret_key.map(header), ..self }
    }

    /// The value of the header `Authorization`.
    pub fn header(&self) -> String {
        self.current.clone()
    }

    /// Whether a value of the header `Authorization` is this bearer. Takes the same time for every wrong value of the right
    /// length.
    pub fn is(&self, header: &[u8]) -> bool {
        same(&self.current, header) || self.previous.as_ref().is_some_and(|previous| same(previous, header))
    }
}

fn header(secret_key: &[u8; 32]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret_key).expect("HMAC takes keys of every length");
    mac.update(USE);
    format!("Bearer {}", hex::encode(mac.finalize().into_bytes()))
}

fn same(expected: &str, header: &[u8]) -> bool {
    let difference = |(a, b): (&u8, &u8)| a ^ b;
    expected.len() == header.len()
        && expected.as_bytes().iter().zip(header).map(difference).fold(0, |all, one| all | one) == 0
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_gives_the_same_bearer() {
        let (bearer, other) = (Bearer::of(&[1; 32]), Bearer::of(&[2; 32]));
        assert!(bearer.is(Bearer::of(&[1; 32]).header().as_bytes()));
        for wrong in [other.header(), String::new(), "Bearer ".to_owned(), bearer.header().to_lowercase()] {
            assert!(!bearer.is(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn while_the_key_is_replaced_both_are_accepted_and_the_new_one_is_sent() {
        let (old, new) = (Bearer::of(&[1; 32]), Bearer::of(&[2; 32]));
        let both = Bearer::of(&[2; 32]).and_previous(Some(&[1; 32]));
        assert!(both.is(old.header().as_bytes()) && both.is(new.header().as_bytes()));
        assert!(new.is(both.header().as_bytes()) && !old.is(both.header().as_bytes()));
        assert!(!both.is(Bearer::of(&[3; 32]).header().as_bytes()));
    }
}
