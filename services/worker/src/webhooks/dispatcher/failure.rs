//! What an error of the HTTP client says about the receiver.

use std::error::Error;
use std::io;

use foreman_webhook::Failure;

/// Looks for an error of the guard or the operating system first. What remains is an error of TLS, an answer that is not
/// HTTP, or a connection that ended too early.
pub(super) fn of(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        return Failure::Timeout;
    }
    if let Some(failure) = Failure::from_causes(error) {
        return failure;
    }
    if cause::<rustls::Error>(error).is_some() {
        return Failure::Tls;
    }
    match cause::<hyper::Error>(error) {
        Some(http) if http.is_parse() => Failure::InvalidAnswer,
        _ => Failure::Connection,
    }
}

fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // An io::Error hides the error it wraps from `source`.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}
