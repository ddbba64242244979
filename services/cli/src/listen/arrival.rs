//! One webhook as it came in, and whether its signatures are good.

use std::fmt;
use std::time::{Duration, SystemTime};

use foreman_webhook::{SigningSecret, sign};
use hyper::HeaderMap;
use serde::Deserialize;

/// Refuse webhooks whose timestamp is further from now, so that nobody can replay a recorded one later. The libraries of
/// Standard Webhooks use the same limit.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) job_id: String,
    pub(super) seq: i64,
    pub(super) state: String,
    pub(super) check: SignatureCheck,
    error: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum SignatureCheck {
    Verified,
    NoSecret,
    Refused(&'static str),
}

impl Arrival {
    pub(super) fn read(
        headers: &HeaderMap,
        body: &[u8],
        secret: Option<&SigningSecret>,
    ) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Event {
            job_id: String,
            seq: i64,
            state: String,
            error: Option<String>,
        }
        let Event { job_id, seq, state, error } = serde_json::from_slice(body)?;
        let check = match secret {
            Some(secret) => verify(headers, body, secret, SystemTime::now())
                .map_or_else(SignatureCheck::Refused, |()| SignatureCheck::Verified),
            None => SignatureCheck::NoSecret,
        };
        Ok(Self { job_id, seq, state, check, error })
    }
}

fn verify(
    headers: &HeaderMap,
    body: &[u8],
    secret: &SigningSecret,
    now: SystemTime,
) -> Result<(), &'static str> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let id = header("webhook-id").ok_or("it has no webhook-id")?;
    let seconds: i64 = header("webhook-timestamp")
        .and_then(|text| text.parse().ok())
        .ok_or("it has no webhook-timestamp")?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    if now.cast_signed().abs_diff(seconds) > TOLERANCE.as_secs() {
        return Err("its timestamp is more than five minutes from now");
    }
    for (name, expected) in sign::headers(std::slice::from_ref(secret), id, seconds, body) {
        match (name, header(name)) {
            // There are several signatures while a secret is rotated.
            ("webhook-signature", Some(signatures)) if signatures.split(' ').any(|one| one == expected) => {}
            ("webhook-signature", None) => return Err("it is not signed"),
            ("webhook-signature", Some(_)) => {
                return Err("its webhook-signature is of another secret or body");
            }
            // This header holds the newest secret's signature alone. During a rotation our secret may be the older one.
            ("x-foreman-signature", Some(signature)) if signature == expected || is_rotated(headers) => {}
            ("x-foreman-signature", _) => return Err("its X-Foreman-Signature is of another secret or body"),
            _ => {}
        }
    }
    Ok(())
}

fn is_rotated(headers: &HeaderMap) -> bool {
    headers.get("webhook-signature").is_some_and(|value| value.as_bytes().contains(&b' '))
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { job_id, seq, state, check, error } = self;
        write!(f, "{job_id}  webhook {seq}  {state:<9}  ")?;
        match check {
            SignatureCheck::Verified => write!(f, "signature verified"),
            SignatureCheck::NoSecret => write!(f, "not verified: no secret to do it with"),
            SignatureCheck::Refused(why) => write!(f, "REFUSED: {why}"),
        }?;
        error.as_ref().map_or(Ok(()), |error| write!(f, "  ({error})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"type":"job.done","job_id":"01J","seq":4,"state":"done","error":null}"#;
    const SECONDS: i64 = 1_700_000_000;

    fn secret(text: &str) -> SigningSecret {
        SigningSecret::parse(text).unwrap()
    }

    fn signed(secrets: &[&str]) -> HeaderMap {
        let secrets: Vec<_> = secrets.iter().map(|text| secret(text)).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in sign::headers(&secrets, "01J_4", SECONDS, BODY) {
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }

    fn at(seconds: i64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())
    }

    #[test]
    fn what_was_signed_with_our_secret_verifies_also_while_it_is_rotated() {
        for secrets in [&["ours"][..], &["new", "ours"], &["ours", "old"]] {
            assert_eq!(verify(&signed(secrets), BODY, &secret("ours"), at(SECONDS)), Ok(()), "{secrets:?}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let verify_at = |headers: &HeaderMap, body: &[u8], seconds| {
            verify(headers, body, &secret("ours"), at(seconds)).unwrap_err()
        };
        assert!(verify_at(&signed(&["theirs"]), BODY, SECONDS).contains("another secret"));
        assert!(verify_at(&signed(&["ours"]), b"{}", SECONDS).contains("another secret or body"));
        assert!(verify_at(&signed(&["ours"]), BODY, SECONDS + 301).contains("five minutes"));
        assert!(verify_at(&signed(&["ours"]), BODY, SECONDS - 301).contains("five minutes"));
        assert!(verify_at(&signed(&[]), BODY, SECONDS).contains("not signed"));
        assert!(verify_at(&HeaderMap::new(), BODY, SECONDS).contains("no webhook-id"));
        let mut one_forged = signed(&["ours"]);
        one_forged.insert("x-foreman-signature", "sha256=00".parse().unwrap());
        assert!(verify_at(&one_forged, BODY, SECONDS).contains("X-Foreman-Signature"));
    }
}
