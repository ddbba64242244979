//! The headers of one attempt: those of Standard Webhooks 1.0, and Foreman's own plain signature.
//!
//! The signed bytes must be the sent bytes. So render the body once, sign it here, and send the same buffer.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::secret::SigningSecret;

/// `webhook-version`: the version of the event body.
const BODY_VERSION: &str = "1";

/// `webhook-id`: the same for every attempt to send one event. Receivers recognise repeated webhooks by it.
pub fn message_id(job_id: &str, seq: i64) -> String {
    format!("{job_id}_{seq}")
}

/// The headers of the request that sends `body`. Their names are in lower case.
///
/// `secrets` begins with the newest. There are several while a client rotates its secret. There is none if the client has
/// no secret: then the webhook is not signed. `X-Foreman-Signature` can have only one signature, that of the newest
/// secret.
pub fn headers(
    secrets: &[SigningSecret],
    message_id: &str,
    unix_seconds: i64,
    body: &[u8],
) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("webhook-id", message_id.to_owned()),
        ("webhook-timestamp", unix_seconds.to_string()),
        ("webhook-version", BODY_VERSION.to_owned()),
    ];
    if let Some(newest) = secrets.first() {
        let signatures: Vec<String> =
            secrets.iter().map(|secret| standard_signature(secret, message_id, unix_seconds, body)).collect();
        headers.push(("webhook-signature", signatures.join(" ")));
        headers.push(("x-foreman-signature", foreman_signature(newest, body)));
    }
    headers
}

/// `v1,<base64 of HMAC-SHA256 over "id.timestamp.body">`.
fn standard_signature(secret: &SigningSecret, message_id: &str, unix_seconds: i64, body: &[u8]) -> String {
    let prefix = format!("{message_id}.{unix_seconds}.");
    format!("v1,{}", STANDARD.encode(hmac_sha256(secret.standard_key(), &[prefix.as_bytes(), body])))
}

/// `sha256=<hex of HMAC-SHA256 over the body>`.
fn foreman_signature(secret: &SigningSecret, body: &[u8]) -> String {
    format!("sha256={}", hex::encode(hmac_sha256(secret.text_key(), &[body])))
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(headers: &'a [(&'static str, String)], name: &str) -> Option<&'a str> {
        headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    /// The vectors in the documentation of Standard Webhooks and of Svix.
    #[test]
    fn the_published_vectors_of_standard_webhooks_are_met() {
        for (secret, id, timestamp, body, signature) in [
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
        ] {
            let secret = SigningSecret::parse(secret).unwrap();
            let headers = headers(&[secret], id, timestamp, body.as_bytes());
            assert_eq!(header(&headers, "webhook-signature"), Some(signature));
            assert_eq!(header(&headers, "webhook-id"), Some(id));
            assert_eq!(header(&headers, "webhook-timestamp"), Some(timestamp.to_string().as_str()));
            assert_eq!(header(&headers, "webhook-version"), Some("1"));
        }
    }

    /// The vector in GitHub's documentation on validating deliveries. GitHub's header has the same form.
    #[test]
    fn the_published_vector_of_a_plain_body_signature_is_met() {
        let secret = SigningSecret::parse("It's a Secret to Everybody").unwrap();
        let headers = headers(&[secret], "id", 0, b"Hello, World!");
        assert_eq!(
            header(&headers, "x-foreman-signature"),
            Some("sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")
        );
    }

    /// RFC 4231, test case 2: key "Jefe".
    #[test]
    fn a_plain_text_secret_is_its_bytes_in_both_signatures() {
        let secret = SigningSecret::parse("Jefe").unwrap();
        assert_eq!(
            foreman_signature(&secret, b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let whsec = SigningSecret::parse(&secret.equivalent_whsec()).unwrap();
        assert_eq!(standard_signature(&secret, "a_1", 7, b"{}"), standard_signature(&whsec, "a_1", 7, b"{}"));
    }

    #[test]
    fn while_a_secret_is_rotated_both_sign_and_the_plain_header_takes_the_newest() {
        let (new, old) = (SigningSecret::parse("new").unwrap(), SigningSecret::parse("old").unwrap());
        let both = headers(&[new.clone(), old.clone()], "a_1", 7, b"{}");
        let alone = |secret| headers(&[secret], "a_1", 7, b"{}");
        let (new, old) = (alone(new), alone(old));
        let expected = format!(
            "{} {}",
            header(&new, "webhook-signature").unwrap(),
            header(&old, "webhook-signature").unwrap()
        );
        assert_eq!(header(&both, "webhook-signature"), Some(expected.as_str()));
        assert_eq!(header(&both, "x-foreman-signature"), header(&new, "x-foreman-signature"));
    }

    #[test]
    fn without_a_secret_the_signature_headers_are_absent() {
        let names: Vec<_> =
            headers(&[], &message_id("01J", 3), 7, b"{}").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["webhook-id", "webhook-timestamp", "webhook-version"]);
        assert_eq!(message_id("01J", 3), "01J_3");
    }
}
