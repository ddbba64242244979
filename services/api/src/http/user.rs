//! Reads for which of its users a client submits a job.

use axum::http::HeaderMap;
use foreman_store::UserName;

use crate::refusal::Refusal;

/// Foreman's own header, and the one that Open WebUI sends for each of its users. The first that is there and not empty counts.
const NAMES: [&str; 2] = ["x-foreman-user", "x-openwebui-user-id"];

/// The user that the headers name. Without such a header, the user of all jobs that name none.
pub(crate) fn user(headers: &HeaderMap) -> Result<UserName, Refusal> {
    for name in NAMES {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Err(refused(format!("the header `{name}` is there more than once; send it once")));
        }
        if value.is_empty() {
            continue;
        }
        let user = std::str::from_utf8(value.as_bytes()).ok().and_then(|text| text.parse().ok());
        return user.ok_or_else(|| {
            refused(format!(
                "the header `{name}` must name a user in at most {} bytes of printable UTF-8, not only blanks",
                UserName::MAX_BYTES
            ))
        });
    }
    Ok(UserName::default())
}

fn refused(error: String) -> Refusal {
    Refusal::bad_request("invalid_user", error)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn user_of(headers: &[(&'static str, &[u8])]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, bytes) in headers {
            map.append(*name, HeaderValue::from_bytes(bytes).unwrap());
        }
        user(&map).ok().map(|user| user.to_string())
    }

    #[test]
    fn the_header_of_foreman_comes_before_that_of_open_webui() {
        let (own, other) = (("x-foreman-user", "ada".as_bytes()), ("x-openwebui-user-id", "bob".as_bytes()));
        assert_eq!(user_of(&[other, own]).unwrap(), "ada");
        assert_eq!(user_of(&[other]).unwrap(), "bob");
        assert_eq!(user_of(&[]).unwrap(), "");
    }

    #[test]
    fn an_empty_header_counts_as_none_and_a_repeated_one_is_refused() {
        let (empty, other) = (("x-foreman-user", "".as_bytes()), ("x-openwebui-user-id", "bob".as_bytes()));
        assert_eq!(user_of(&[empty, other]).unwrap(), "bob");
        assert_eq!(user_of(&[empty]).unwrap(), "");
        let own = ("x-foreman-user", "ada".as_bytes());
        assert_eq!(user_of(&[own, own]), None);
        assert_eq!(user_of(&[empty, own]), None);
        assert_eq!(user_of(&[other, other]), None);
    }

    #[test]
    fn a_name_that_cannot_be_shown_is_refused() {
        let longest = "é".repeat(64);
        assert_eq!(user_of(&[("x-foreman-user", longest.as_bytes())]), Some(longest.clone()));
        for bytes in [
            format!("{longest}a").as_bytes(),
            b"tab\there",
            b"latin-1 \xe9",
            "c1 \u{85}".as_bytes(),
            "\u{3000}".as_bytes(),
        ] {
            assert_eq!(user_of(&[("x-foreman-user", bytes)]), None, "{bytes:?}");
        }
    }
}
