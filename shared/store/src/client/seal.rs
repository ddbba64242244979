//! Secrets at rest: AES-256-GCM under a key that only the environment has.
//!
//! A sealed secret contains the id of the key that sealed it, so that a changed `FOREMAN_SECRET_KEY` can be told from
//! damage. It is bound to its owner, so that nobody can move it to another row of the database.
//!
//! Must never show a secret in a log: the types print without their contents.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use uuid::Uuid;

/// The only form so far. A later form would begin with another byte.
const FORM: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const NONCE_BYTES: usize = 12;
const HEADER_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_BYTES;

/// Seals secrets with a key derived from `FOREMAN_SECRET_KEY`. Unseals with that one, and with the one of before while
/// `FOREMAN_SECRET_KEY` is being replaced.
#[derive(Clone)]
pub struct Seal {
    current: SealKey,
    previous: Option<SealKey>,
}

#[derive(Clone)]
struct SealKey {
    cipher: Aes256Gcm,
    id: [u8; KEY_ID_BYTES],
}

/// Why a sealed secret cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    #[error(
        "a secret is stored sealed, but FOREMAN_SECRET_KEY is not set; set it to the key it was sealed with"
    )]
    NoKey,
    #[error(
        "a secret was sealed with another FOREMAN_SECRET_KEY; set FOREMAN_PREVIOUS_SECRET_KEY to that key, or rotate the client or endpoint to make a new secret"
    )]
    OtherKey,
    #[error(
        "a sealed secret is damaged or belongs to another row; rotate the client or endpoint to make a new one"
    )]
    Damaged,
}

impl Seal {
    pub fn new(secret_key: &[u8; 32]) -> Self {
        Self { current: SealKey::of(secret_key), previous: None }
    }

    /// Also opens what the key of before has sealed.
    #[must_use]
    pub fn and_previous(self, secret_key: Option<&[u8; 32]>) -> Self {
        Self { previous: secret_key.map(SealKey::of), ..self }
    }

    /// Identifies the current key among others, and reveals nothing about it.
    pub fn key_id(&self) -> String {
        hex::encode(self.current.id)
    }

    /// The id of the key that sealed these bytes, if they have our form.
    pub fn key_id_of(sealed: &[u8]) -> Option<String> {
        let (form, rest) = sealed.split_first()?;
        (*form == FORM).then(|| rest.get(..KEY_ID_BYTES).map(hex::encode))?
    }

    /// `form ‖ key id ‖ nonce ‖ ciphertext and tag`. Only with the same owner can it be unsealed.
    pub fn seal(&self, owner: Uuid, secret: &str) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let mut sealed = Vec::with_capacity(HEADER_BYTES + secret.len() + 16);
        sealed.push(FORM);
        sealed.extend(self.current.id);
        sealed.extend(nonce);
        let payload = Payload { msg: secret.as_bytes(), aad: owner.as_bytes() };
        let text = self.current.cipher.encrypt(&Nonce::from(nonce), payload);
        sealed.extend(text.expect("only a message of 64 GiB is too long for AES-GCM"));
        sealed
    }

    /// Unseals a secret of this owner.
    pub fn unseal(&self, owner: Uuid, sealed: &[u8]) -> Result<String, UnsealError> {
        let (header, text) = sealed.split_at_checked(HEADER_BYTES).ok_or(UnsealError::Damaged)?;
        let (form, rest) = header.split_at(1);
        let (key_id, nonce) = rest.split_at(KEY_ID_BYTES);
        if form != [FORM] {
            return Err(UnsealError::Damaged);
        }
        let key = [Some(&self.current), self.previous.as_ref()].into_iter().flatten();
        let key = key.into_iter().find(|key| key.id == key_id).ok_or(UnsealError::OtherKey)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| UnsealError::Damaged)?;
        let payload = Payload { msg: text, aad: owner.as_bytes() };
        let secret = key.cipher.decrypt(&Nonce::from(nonce), payload).map_err(|_| UnsealError::Damaged)?;
        String::from_utf8(secret).map_err(|_| UnsealError::Damaged)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seal({})", self.key_id())
    }
}

impl SealKey {
    /// Derives the cipher's key, because api and worker also use the same 32 bytes to authenticate to each other.
    fn of(secret_key: &[u8; 32]) -> Self {
        let id = derive(secret_key, b"foreman key id");
        Self {
            cipher: Aes256Gcm::new(&derive(secret_key, b"foreman seal").into()),
            id: std::array::from_fn(|index| id[index]),
        }
    }
}

fn derive(secret_key: &[u8; 32], purpose: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret_key).expect("HMAC takes a key of any length");
    mac.update(purpose);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_AAEC/w==";

    fn seal(byte: u8) -> Seal {
        Seal::new(&[byte; 32])
    }

    #[test]
    fn what_is_sealed_is_read_back_by_its_owner_alone() {
        let (owner, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let sealed = seal(1).seal(owner, SECRET);
        assert_eq!(seal(1).unseal(owner, &sealed).as_deref(), Ok(SECRET));
        assert_eq!(seal(1).unseal(other, &sealed), Err(UnsealError::Damaged));
    }

    #[test]
    fn another_key_is_told_from_damage() {
        let owner = Uuid::from_u128(1);
        let sealed = seal(1).seal(owner, SECRET);
        assert_eq!(seal(2).unseal(owner, &sealed), Err(UnsealError::OtherKey));
        for at in [0, 5, HEADER_BYTES, sealed.len() - 1] {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(seal(1).unseal(owner, &damaged), Err(UnsealError::Damaged), "byte {at}");
        }
        for length in [0, 1, HEADER_BYTES, sealed.len() - 1] {
            assert_eq!(seal(1).unseal(owner, &sealed[..length]), Err(UnsealError::Damaged), "{length} bytes");
        }
    }

    #[test]
    fn while_the_key_is_replaced_both_open_and_the_new_one_seals() {
        let owner = Uuid::from_u128(1);
        let both = seal(2).and_previous(Some(&[1; 32]));
        assert_eq!(both.unseal(owner, &seal(1).seal(owner, SECRET)).as_deref(), Ok(SECRET));
        let sealed = both.seal(owner, SECRET);
        assert_eq!(seal(2).unseal(owner, &sealed).as_deref(), Ok(SECRET));
        assert_eq!(seal(1).unseal(owner, &sealed), Err(UnsealError::OtherKey));
        assert_eq!(both.unseal(owner, &seal(3).seal(owner, SECRET)), Err(UnsealError::OtherKey));
    }

    #[test]
    fn the_same_secret_never_looks_the_same() {
        let owner = Uuid::from_u128(1);
        let (one, other) = (seal(1).seal(owner, SECRET), seal(1).seal(owner, SECRET));
        assert_ne!(one, other);
        assert!(!one.windows(6).any(|bytes| bytes == b"whsec_"));
        assert!(!format!("{:?}", seal(1)).contains(&hex::encode([1; 32])));
    }
}
