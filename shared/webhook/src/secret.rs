//! The secrets that sign webhooks, and the two ways to make a key from the text of a secret.
//!
//! The text of a secret must never reach a log. So `Debug` hides the text, and there is no `Display`.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};

/// The beginning of a Standard Webhooks secret. The rest is base64.
pub const PREFIX: &str = "whsec_";

/// Standard Webhooks asks for 24 to 64 random bytes. Its libraries make 24.
const GENERATED_BYTES: usize = 24;

/// A secret, as text and as key.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret {
    text: String,
    standard_key: Vec<u8>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecretError {
    #[error(
        "the signing secret is empty; use whsec_ and the base64 of 24 random bytes, or any text of yours"
    )]
    Empty,
    #[error(
        "the signing secret begins with whsec_, but the rest is not padded standard base64; \
         make one with `echo whsec_$(head -c 24 /dev/urandom | base64)`"
    )]
    NotBase64,
}

impl SigningSecret {
    /// A text that begins with `whsec_` is base64 of the key. Any other text is the key itself.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let standard_key = match text.strip_prefix(PREFIX) {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| SecretError::NotBase64)?,
            None => text.as_bytes().to_vec(),
        };
        if standard_key.is_empty() {
            return Err(SecretError::Empty);
        }
        Ok(Self { text: text.to_owned(), standard_key })
    }

    /// A new random `whsec_…`, from the thread's cryptographic generator.
    pub fn generate() -> Self {
        let standard_key: [u8; GENERATED_BYTES] = rand::random();
        Self {
            text: format!("{PREFIX}{}", STANDARD.encode(standard_key)),
            standard_key: standard_key.to_vec(),
        }
    }

    /// The text, to show it to its owner once, or to encrypt and store it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The `whsec_…` text that gives the same `webhook-signature`, for libraries that accept no other form.
    pub fn equivalent_whsec(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.standard_key))
    }

    /// The key of `webhook-signature`.
    pub(crate) fn standard_key(&self) -> &[u8] {
        &self.standard_key
    }

    /// The key of `X-Foreman-Signature`. It is always the text, so that a receiver need not decode base64.
    pub(crate) fn text_key(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whsec_secret_is_decoded_and_any_other_text_is_its_bytes() {
        let decoded = SigningSecret::parse("whsec_AAEC/w==").unwrap();
        assert_eq!(decoded.standard_key(), [0, 1, 2, 255]);
        assert_eq!(decoded.text_key(), b"whsec_AAEC/w==");

        let plain = SigningSecret::parse("grüße").unwrap();
        assert_eq!(plain.standard_key(), "grüße".as_bytes());
        assert_eq!(plain.text_key(), "grüße".as_bytes());
    }

    #[test]
    fn the_equivalent_whsec_stands_for_the_same_key() {
        for text in ["s3cret", "whsec_AAEC/w==", " spaces count "] {
            let secret = SigningSecret::parse(text).unwrap();
            let equivalent = SigningSecret::parse(&secret.equivalent_whsec()).unwrap();
            assert_eq!(equivalent.standard_key(), secret.standard_key());
        }
    }

    #[test]
    fn secrets_that_cannot_be_keys_are_refused() {
        assert_eq!(SigningSecret::parse(""), Err(SecretError::Empty));
        assert_eq!(SigningSecret::parse("whsec_"), Err(SecretError::Empty));
        for text in ["whsec_not base64", "whsec_AAEC/w", "whsec_AAEC_w==", "whsec_\n"] {
            assert_eq!(SigningSecret::parse(text), Err(SecretError::NotBase64), "{text}");
        }
    }

    #[test]
    fn a_generated_secret_is_fresh_and_reads_back() {
        let (one, other) = (SigningSecret::generate(), SigningSecret::generate());
        assert_ne!(one, other);
        assert_eq!(SigningSecret::parse(one.expose()).as_ref(), Ok(&one));
        assert_eq!(one.standard_key().len(), GENERATED_BYTES);
    }

    #[test]
    fn debug_hides_the_secret() {
        let shown = format!("{:?}", SigningSecret::parse("s3cret").unwrap());
        assert_eq!(shown, "SigningSecret(hidden)");
    }
}
