//! How a receiver reacts to one request. A code must never change, because codes are stored, shown and counted.
//!
//! A code must never contain a text that a receiver chose, because codes are labels of metrics.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use crate::guard::GuardError;
use crate::receiver_url::UrlError;

/// The longest `Retry-After` that counts. Otherwise a receiver could postpone its events past the end of their deliveries.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// How a receiver reacted to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// The receiver answered in time. A redirect is an answer too: the sender never follows it.
    Answered { status: u16, retry_after: Option<Duration> },
    /// The receiver did not answer.
    NotAnswered(Failure),
}

/// Why no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The name does not resolve, or not in time.
    Dns,
    /// No address of the receiver may be called.
    AddressRefused,
    /// The URL is not https, and the operator requires that.
    HttpsRequired,
    /// Nothing listens there.
    Refused,
    /// No route, host or network down.
    Unreachable,
    /// The certificate or the handshake was bad.
    Tls,
    /// No complete answer within the time allowed.
    Timeout,
    /// The connection broke before the answer.
    Connection,
    /// The answer is not HTTP.
    InvalidAnswer,
    /// The stored URL may not be called any more. Nothing was sent.
    InvalidUrl,
}

impl Reaction {
    /// The reaction that follows from an answer. `retry_after` is the raw header, and `now` is when the answer came.
    pub fn answered(status: u16, retry_after: Option<&str>, now: SystemTime) -> Self {
        let honoured = matches!(status, 429 | 503);
        Self::Answered {
            status,
            retry_after: retry_after.filter(|_| honoured).and_then(|value| parse_retry_after(value, now)),
        }
    }

    pub fn is_delivered(&self) -> bool {
        matches!(self, Self::Answered { status: 200..=299, .. })
    }

    /// 410: the receiver wants no more webhooks of this kind.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Answered { status: 410, .. })
    }

    /// Whether the receiver itself said no to this request, and did not ask for time. A handler that fails on a webhook that
    /// it does not expect usually answers 500. Most other 5xx come from something in front of a receiver that is down.
    pub fn is_refusal(&self) -> bool {
        matches!(self.status(), Some(300..=501)) && !matches!(self.status(), Some(408 | 425 | 429))
    }

    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answered { status, .. } => Some(*status),
            Self::NotAnswered(_) => None,
        }
    }

    /// How long the receiver asked us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Answered { retry_after, .. } => *retry_after,
            Self::NotAnswered(_) => None,
        }
    }

    /// The stable code of a failure. `None` if the webhook was delivered.
    pub fn error_code(&self) -> Option<&'static str> {
        match self {
            Self::NotAnswered(failure) => Some(failure.code()),
            Self::Answered { status, .. } => match status {
                200..=299 => None,
                300..=399 => Some("status_3xx"),
                410 => Some("gone"),
                429 => Some("status_429"),
                503 => Some("status_503"),
                400..=499 => Some("status_4xx"),
                500..=599 => Some("status_5xx"),
                _ => Some("invalid_answer"),
            },
        }
    }
}

impl Failure {
    pub fn code(self) -> &'static str {
        match self {
            Self::Dns => "dns_error",
            Self::AddressRefused => "address_refused",
            Self::HttpsRequired => "https_required",
            Self::Refused => "connection_refused",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls_error",
            Self::Timeout => "timeout",
            Self::Connection => "connection_lost",
            Self::InvalidAnswer => "invalid_answer",
            Self::InvalidUrl => "invalid_url",
        }
    }

    /// Why a URL may not be called any more that was good when it came.
    pub fn of_url(error: &UrlError) -> Self {
        match error {
            UrlError::NotHttps => Self::HttpsRequired,
            UrlError::Refused(_) => Self::AddressRefused,
            _ => Self::InvalidUrl,
        }
    }

    /// The failure behind an HTTP client's error, if our own guard or the operating system caused it.
    ///
    /// TLS and protocol errors have other types. The sender knows those.
    pub fn from_causes(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(guard) = error.downcast_ref::<GuardError>() {
                return Some(guard.failure());
            }
            if let Some(io) = error.downcast_ref::<io::Error>() {
                // `source` of an `io::Error` skips the error that it wraps, so look at that error too.
                let inner = io.get_ref().and_then(|inner| Self::from_causes(inner));
                if let Some(failure) = inner.or_else(|| Self::from_kind(io.kind())) {
                    return Some(failure);
                }
            }
            cause = error.source();
        }
        None
    }

    fn from_kind(kind: io::ErrorKind) -> Option<Self> {
        match kind {
            io::ErrorKind::ConnectionRefused => Some(Self::Refused),
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable => Some(Self::Unreachable),
            io::ErrorKind::TimedOut => Some(Self::Timeout),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::NotConnected => Some(Self::Connection),
            _ => None,
        }
    }
}

/// RFC 9110, 10.2.3: whole seconds or an HTTP date. Any other value is ignored.
fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number with too many digits is still a number of seconds, and longer than we wait.
        value.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).ok()?
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::LookupError;

    fn now() -> SystemTime {
        httpdate::parse_http_date("Sun, 22 Nov 2026 10:00:00 GMT").unwrap()
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date_and_nonsense_is_ignored() {
        let secs = |n| Some(Duration::from_secs(n));
        for (value, wait) in [
            ("0", secs(0)),
            ("120", secs(120)),
            (" 120 ", secs(120)),
            ("86400", secs(86_400)),
            ("86401", secs(86_400)),
            ("99999999999999999999999999", secs(86_400)),
            ("Sun, 22 Nov 2026 10:02:00 GMT", secs(120)),
            ("Sunday, 22-Nov-26 10:02:00 GMT", secs(120)),
            ("Sun Nov 22 10:02:00 2026", secs(120)),
            ("Tue, 24 Nov 2026 10:00:00 GMT", secs(86_400)),
            ("Sun, 22 Nov 2026 09:00:00 GMT", None),
            ("1e300", None),
            ("-5", None),
            ("+5", None),
            ("1.5", None),
            ("NaN", None),
            ("inf", None),
            ("", None),
            ("soon", None),
            ("٣", None),
            ("Sun, 32 Nov 2026 10:02:00 GMT", None),
        ] {
            assert_eq!(Reaction::answered(503, Some(value), now()).retry_after(), wait, "{value:?}");
        }
    }

    #[test]
    fn only_429_and_503_may_ask_us_to_stay_away() {
        for (status, honoured) in [(429, true), (503, true), (500, false), (301, false), (200, false)] {
            let reaction = Reaction::answered(status, Some("60"), now());
            assert_eq!(reaction.retry_after().is_some(), honoured, "{status}");
        }
    }

    #[test]
    fn every_status_has_its_code_and_only_2xx_is_delivered() {
        for (status, code) in [
            (200, None),
            (204, None),
            (299, None),
            (301, Some("status_3xx")),
            (304, Some("status_3xx")),
            (400, Some("status_4xx")),
            (404, Some("status_4xx")),
            (410, Some("gone")),
            (429, Some("status_429")),
            (500, Some("status_5xx")),
            (503, Some("status_503")),
            (599, Some("status_5xx")),
            (600, Some("invalid_answer")),
            (999, Some("invalid_answer")),
            (101, Some("invalid_answer")),
        ] {
            let reaction = Reaction::answered(status, None, now());
            assert_eq!(reaction.error_code(), code, "{status}");
            assert_eq!(reaction.is_delivered(), code.is_none(), "{status}");
            assert_eq!(reaction.is_gone(), status == 410, "{status}");
        }
    }

    #[test]
    fn a_refusal_is_an_answer_of_the_receiver_itself_that_asks_for_no_time() {
        for status in [301, 400, 401, 404, 422, 500, 501] {
            assert!(Reaction::answered(status, None, now()).is_refusal(), "{status}");
        }
        for status in [200, 408, 425, 429, 502, 503, 504, 522, 600] {
            assert!(!Reaction::answered(status, None, now()).is_refusal(), "{status}");
        }
        assert!(!Reaction::NotAnswered(Failure::Timeout).is_refusal());
    }

    #[test]
    fn the_causes_of_an_error_are_found_through_io_errors_that_hide_them() {
        #[derive(Debug, thiserror::Error)]
        #[error("client")]
        struct Client(#[source] io::Error);

        let refused = Client(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(Failure::from_causes(&refused), Some(Failure::Refused));

        let wrapped = Client(io::Error::other(io::Error::other(GuardError::Lookup {
            host: "h".into(),
            source: LookupError::NotFound,
        })));
        assert_eq!(Failure::from_causes(&wrapped), Some(Failure::Dns));

        assert_eq!(Failure::from_causes(&Client(io::Error::other("bad certificate"))), None);
    }
}
