//! Tables for each form and range, and properties for everything that is too much for a table.

use proptest::prelude::*;

use super::*;
use crate::guard::Kind;

fn parse(text: &str) -> Result<String, UrlError> {
    ReceiverUrl::parse(text).map(|url| url.as_str().to_owned())
}

#[test]
fn good_urls_are_kept_in_one_form() {
    for (text, kept) in [
        ("http://example.com", "http://example.com/"),
        ("HTTPS://Example.COM:443/Path?q=1", "https://example.com/Path?q=1"),
        ("http://example.com:8080/a b", "http://example.com:8080/a%20b"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
        ("https://example.com/hook#part", "https://example.com/hook"),
        ("http://[2606:4700::1111]:65535/", "http://[2606:4700::1111]:65535/"),
        ("http://my_host.example./x", "http://my_host.example./x"),
        ("http://example.com/?to=user@host", "http://example.com/?to=user@host"),
    ] {
        assert_eq!(parse(text).as_deref(), Ok(kept), "{text}");
    }
}

#[test]
fn bad_urls_are_refused_each_for_its_reason() {
    let long = format!("http://example.com/{}", "a".repeat(MAX_BYTES));
    let long_once_encoded = format!("http://example.com/{}", "é".repeat(500));
    let long_name = format!("http://{}example/", "a.".repeat(130));
    for (text, reason) in [
        ("", UrlError::NotHttp),
        ("example.com/hook", UrlError::NotHttp),
        ("ftp://example.com/", UrlError::NotHttp),
        ("file:///etc/passwd", UrlError::NotHttp),
        ("javascript:alert(1)", UrlError::NotHttp),
        ("http:example.com", UrlError::NotHttp),
        ("http:/example.com", UrlError::NotHttp),
        ("http:///example.com", UrlError::NotHttp),
        ("http:\\\\example.com", UrlError::NotHttp),
        (" http://example.com", UrlError::NotHttp),
        ("http://", UrlError::NotHttp),
        ("http://?q", UrlError::NotHttp),
        ("http://user@example.com/", UrlError::UserInfo),
        ("http://user:secret@example.com/", UrlError::UserInfo),
        ("http://@example.com/", UrlError::UserInfo),
        ("http://:@example.com/", UrlError::UserInfo),
        ("http://example.com:0/", UrlError::InvalidPort),
        ("http://example.com:65536/", UrlError::InvalidPort),
        ("http://example.com:http/", UrlError::InvalidPort),
        ("http://:80/", UrlError::InvalidHost),
        ("http://./", UrlError::InvalidHost),
        ("http://exa mple.com/", UrlError::InvalidHost),
        ("http://1.2.3.4.5/", UrlError::InvalidHost),
        ("http://256.1.1.1/", UrlError::InvalidHost),
        ("http://[::1/", UrlError::InvalidHost),
        ("http://[fe80::1%25eth0]/", UrlError::InvalidHost),
        ("http://[fe80::1%eth0]/", UrlError::InvalidHost),
        ("http://[::1%25lo]/", UrlError::InvalidHost),
        ("http://[127.0.0.1]/", UrlError::InvalidHost),
        ("http://[[::1]]/", UrlError::InvalidHost),
        ("http://::1/", UrlError::InvalidHost),
        ("http://%5b::1%5d/", UrlError::InvalidHost),
        ("http://%00/", UrlError::InvalidHost),
        ("http://example.com/\n", UrlError::ControlCharacter),
        ("http://exam\tple.com/", UrlError::ControlCharacter),
        ("http://example.com/\u{0}", UrlError::ControlCharacter),
        ("http://example.com/\u{85}", UrlError::ControlCharacter),
        (&long, UrlError::TooLong),
        (&long_once_encoded, UrlError::TooLong),
        (&long_name, UrlError::InvalidHost),
    ] {
        assert_eq!(parse(text), Err(reason), "{text:?}");
    }
}

#[test]
fn an_empty_port_is_the_default_one() {
    assert_eq!(parse("http://example.com:/x").as_deref(), Ok("http://example.com/x"));
}

/// Spellings of addresses that must not be called. Some resolver, library or kernel accepts each of them.
#[test]
fn an_address_is_recognised_in_every_spelling() {
    for (host, kind) in [
        ("127.0.0.1", Kind::Loopback),
        ("127.0.0.1.", Kind::Loopback),
        ("127.1", Kind::Loopback),
        ("127.0.1", Kind::Loopback),
        ("2130706433", Kind::Loopback),
        ("0x7f000001", Kind::Loopback),
        ("0x7f.1", Kind::Loopback),
        ("0X7F.0.0.1", Kind::Loopback),
        ("0177.0.0.01", Kind::Loopback),
        ("017700000001", Kind::Loopback),
        ("%31%32%37.0.0.1", Kind::Loopback),
        ("１２７.0.0.1", Kind::Loopback),
        ("127。0。0。1", Kind::Loopback),
        ("①②⑦.0.0.1", Kind::Loopback),
        ("localhost", Kind::Loopback),
        ("LOCALHOST.", Kind::Loopback),
        ("ｌocalhost", Kind::Loopback),
        ("a.localhost", Kind::Loopback),
        ("0", Kind::Reserved),
        ("0.0.0.0", Kind::Reserved),
        ("0x0", Kind::Reserved),
        ("10.1", Kind::Private),
        ("0xc0a80101", Kind::Private),
        ("169.254.169.254", Kind::Metadata),
        ("0xA9FEA9FE", Kind::Metadata),
        ("2852039166", Kind::Metadata),
        ("0251.0376.0251.0376", Kind::Metadata),
        ("255.255.255.255", Kind::Reserved),
        ("[::1]", Kind::Loopback),
        ("[0:0:0:0:0:0:0:1]", Kind::Loopback),
        ("[::]", Kind::Reserved),
        ("[::ffff:127.0.0.1]", Kind::Translated),
        ("[::FFFF:7f00:1]", Kind::Translated),
        ("[::127.0.0.1]", Kind::Translated),
        ("[64:ff9b::7f00:1]", Kind::Translated),
        ("[2002:7f00:1::]", Kind::Translated),
        ("[2001:0:4136:e378:8000:63bf:3fff:fdd2]", Kind::Translated),
        ("[64:ff9b:1::7f00:1]", Kind::Translated),
        ("[2606:4700::5efe:7f00:1]", Kind::Translated),
        ("127.1.", Kind::Loopback),
        ("0x7f000001.", Kind::Loopback),
        ("2130706433.", Kind::Loopback),
        ("017700000001.", Kind::Loopback),
        ("%30x7f000001", Kind::Loopback),
        ("%6cocalhost", Kind::Loopback),
        ("[fd00:ec2::254]", Kind::Metadata),
        ("[fe80::1]", Kind::LinkLocal),
        ("[fc00::1]", Kind::Private),
    ] {
        let url = ReceiverUrl::parse(&format!("http://{host}/")).unwrap();
        let refused = url.check_literal(&Allow::default()).unwrap_err();
        assert_eq!(refused.kind, kind, "{host}");
    }
}

#[test]
fn a_name_that_only_looks_local_is_left_to_the_resolver() {
    for host in ["localhost.evil.com", "notlocalhost", "127.0.0.1.nip.io", "internal"] {
        let url = ReceiverUrl::parse(&format!("http://{host}/")).unwrap();
        assert_eq!(url.check_literal(&Allow::default()), Ok(()), "{host}");
        assert_eq!(url.target(), Target::Name(host));
    }
}

#[test]
fn the_origin_names_the_receiver() {
    for (text, origin) in [
        ("https://Example.com:443/a?b", "https://example.com"),
        ("http://example.com:8080/a", "http://example.com:8080"),
        ("http://0x7f.1:81/", "http://127.0.0.1:81"),
        ("http://[::1]/", "http://[::1]"),
    ] {
        assert_eq!(ReceiverUrl::parse(text).unwrap().origin(), origin);
    }
}

#[test]
fn debug_shows_no_path_because_paths_carry_tokens() {
    let url = ReceiverUrl::parse("https://example.com/hook/token").unwrap();
    assert_eq!(format!("{url:?}"), "ReceiverUrl(https://example.com)");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The worker parses the stored URL again. It must mean the same then.
    #[test]
    fn what_is_kept_reads_back_as_itself(
        text in "(?i:https?)://[a-z0-9.:@%\\[\\]é。-]{1,30}(/[ -~é]{0,20})?(\\?[ -~]{0,9})?(#[ -~]{0,9})?"
    ) {
        if let Ok(url) = ReceiverUrl::parse(&text) {
            prop_assert_eq!(ReceiverUrl::parse(url.as_str()), Ok(url.clone()));
            prop_assert!(url.as_url().username().is_empty() && url.as_url().password().is_none());
            prop_assert!(url.port() != 0);
            let _target = url.target();
        }
    }
}
