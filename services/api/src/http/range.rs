//! Reads `Range` and `If-Range` (RFC 9110, 14.2 and 13.1.5). We serve one range of bytes. A request for several ranges gets the
//! whole, as the RFC allows, and so does a range that we do not understand.

use axum::http::{HeaderMap, HeaderValue, header};

/// The bytes that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestedRange {
    Whole,
    /// From `first` to `last`, both included. Bytes are counted from 0.
    Bytes {
        first: u64,
        last: u64,
    },
    /// Only bytes after the end.
    Beyond,
}

/// The range that a request asks for, of `size` bytes with this strong tag.
pub(crate) fn requested(request: &HeaderMap, tag: &HeaderValue, size: u64) -> RequestedRange {
    let mut lines = request.get_all(header::RANGE).iter();
    let (Some(range), None) = (lines.next(), lines.next()) else { return RequestedRange::Whole };
    // A date never matches, because we send no `Last-Modified`.
    if request.get_all(header::IF_RANGE).iter().any(|condition| condition != tag) {
        return RequestedRange::Whole;
    }
    range.to_str().ok().and_then(|range| read(range, size)).unwrap_or(RequestedRange::Whole)
}

fn read(range: &str, size: u64) -> Option<RequestedRange> {
    let (unit, range) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    let end = size.checked_sub(1)?;
    if first.is_empty() {
        return Some(match position(last)? {
            0 => RequestedRange::Beyond,
            suffix => RequestedRange::Bytes { first: size.saturating_sub(suffix), last: end },
        });
    }
    let first = position(first)?;
    let last = if last.is_empty() { u64::MAX } else { position(last)? };
    match () {
        () if last < first => None,
        () if first > end => Some(RequestedRange::Beyond),
        () => Some(RequestedRange::Bytes { first, last: last.min(end) }),
    }
}

/// Reads a number that has only digits. A number that is too large for `u64` counts as the largest one, because no artifact has
/// as many bytes.
fn position(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn bytes(first: u64, last: u64) -> RequestedRange {
        RequestedRange::Bytes { first, last }
    }

    #[test]
    fn a_single_range_of_bytes_is_read() {
        for (range, part) in [
            ("bytes=0-0", bytes(0, 0)),
            ("bytes=0-9", bytes(0, 9)),
            ("bytes=3-", bytes(3, 9)),
            ("bytes=9-", bytes(9, 9)),
            ("bytes=2-99", bytes(2, 9)),
            ("bytes=0-99999999999999999999999", bytes(0, 9)),
            ("bytes=-1", bytes(9, 9)),
            ("bytes=-10", bytes(0, 9)),
            ("bytes=-99999999999999999999999", bytes(0, 9)),
            ("Bytes = 1-2", bytes(1, 2)),
            ("bytes=10-", RequestedRange::Beyond),
            ("bytes=10-20", RequestedRange::Beyond),
            ("bytes=99999999999999999999999-", RequestedRange::Beyond),
            ("bytes=-0", RequestedRange::Beyond),
        ] {
            assert_eq!(read(range, 10), Some(part), "{range}");
        }
    }

    #[test]
    fn anything_else_is_the_whole() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=2-1",
            "bytes=+1-2",
            "bytes=1-2,4-5",
            "bytes=0-1,",
            "bytes=0 - 1",
            "items=0-1",
            "bytes=--1",
        ] {
            assert_eq!(read(range, 10), None, "{range}");
        }
        assert_eq!(read("bytes=0-", 0), None);
        assert_eq!(read("bytes=-1", 0), None);
    }

    #[test]
    fn a_range_of_another_body_gives_the_whole_of_this_one() {
        let tag = HeaderValue::from_static("\"a\"");
        let part = |headers: &[(header::HeaderName, &'static str)]| {
            let mut request = HeaderMap::new();
            for (name, value) in headers {
                request.append(name, HeaderValue::from_static(value));
            }
            requested(&request, &tag, 10)
        };
        let range = (header::RANGE, "bytes=1-2");
        assert_eq!(part(&[]), RequestedRange::Whole);
        assert_eq!(part(std::slice::from_ref(&range)), bytes(1, 2));
        assert_eq!(part(&[range.clone(), range.clone()]), RequestedRange::Whole);
        assert_eq!(part(&[range.clone(), (header::IF_RANGE, "\"a\"")]), bytes(1, 2));
        for other in ["\"b\"", "W/\"a\"", "Sun, 22 Nov 2026 12:00:00 GMT", "*"] {
            assert_eq!(part(&[range.clone(), (header::IF_RANGE, other)]), RequestedRange::Whole, "{other}");
        }
    }
}
