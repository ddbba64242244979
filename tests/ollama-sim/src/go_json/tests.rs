//! How Go parses a body, and how it words its errors.

use proptest::prelude::*;

use super::*;

#[test]
fn what_go_accepts_is_accepted_as_go_reads_it() {
    let text = |body: &[u8]| match decode(body) {
        Ok(Some(Json::String(text))) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(text(br#""\ud83d\ude00 \ud800x \u0000 \/" trailing"#), "\u{1f600} \u{fffd}x \0 /");
    assert_eq!(text(b"\"a\xffb\""), "a\u{fffd}b");
    assert_eq!(text(br#""\ud800\u0041""#), "\u{fffd}A");
    assert_eq!(decode(b" \n"), Ok(None));
    assert_eq!(
        decode(br#"{"a":1,"A":[ -1.5e+3 ],"a":null}{"#).unwrap().unwrap(),
        Json::Object(vec![
            ("a".to_owned(), Json::Number("1".to_owned())),
            ("A".to_owned(), Json::Array(vec![Json::Number("-1.5e+3".to_owned())])),
            ("a".to_owned(), Json::Null),
        ])
    );
}

#[test]
fn what_go_refuses_is_refused_in_its_words() {
    for (body, error) in [
        ("hello", "invalid character 'h' looking for beginning of value"),
        ("{\"a\":[", "unexpected EOF"),
        ("{a", "invalid character 'a' looking for beginning of object key string"),
        ("{\"a\" 1", "invalid character '1' after object key"),
        ("{\"a\":01}", "invalid character '1' after object key:value pair"),
        ("[1 2]", "invalid character '2' after array element"),
        ("nul}", "invalid character '}' in literal null (expecting 'l')"),
        ("\"\n\"", "invalid character '\\n' in string literal"),
        ("\"\\x\"", "invalid character 'x' in string escape code"),
        ("-x", "invalid character 'x' in numeric literal"),
        ("'", "invalid character '\\'' looking for beginning of value"),
        ("\u{7}", "invalid character '\\a' looking for beginning of value"),
        ("{\u{b}", "invalid character '\\v' looking for beginning of object key string"),
        ("\"\r", "invalid character '\\r' in string literal"),
        ("\u{7f}", "invalid character '\\x7f' looking for beginning of value"),
        (&"[".repeat(100_000), "invalid character '[' exceeded max depth"),
    ] {
        assert_eq!(decode(body.as_bytes()), Err(error.to_owned()), "{:.20}", body);
    }
}

#[test]
fn strings_are_written_as_go_writes_them() {
    assert_eq!(string("a\"\\\n\0<b>&\u{2028}ä"), r#""a\"\\\n\u0000\u003cb\u003e\u0026\u2028ä""#);
}

#[test]
fn keys_fold_as_in_go() {
    assert!(folds_to("KEEP_ALIVE", "keep_alive") && folds_to("\u{212a}eep_alive", "keep_alive"));
    assert!(folds_to("me\u{17f}\u{17f}ages", "messages") && !folds_to("message", "messages"));
}

fn as_serde_reads(value: &Value) -> Json {
    use Value;
    match value {
        Value::Null => Json::Null,
        Value::Bool(truth) => Json::Bool(*truth),
        Value::Number(number) => Json::Number(number.to_string()),
        Value::String(text) => Json::String(text.clone()),
        Value::Array(items) => Json::Array(items.iter().map(as_serde_reads).collect()),
        Value::Object(members) => {
            Json::Object(members.iter().map(|(key, value)| (key.clone(), as_serde_reads(value))).collect())
        }
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::hash_map(any::<String>(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        _ = decode(&body);
    }

    #[test]
    fn json_is_read_as_others_read_it_and_written_so_that_they_can(value in json(), text in any::<String>()) {
        for body in [value.to_string(), format!("{value:#}")] {
            prop_assert_eq!(decode(body.as_bytes()), Ok(Some(as_serde_reads(&value))));
        }
        prop_assert_eq!(serde_json::from_str::<String>(&string(&text)).unwrap(), text);
    }

    #[test]
    fn broken_json_is_refused_by_both(value in json(), cut in any::<prop::sample::Index>()) {
        let body = value.to_string();
        let mut end = cut.index(body.len());
        while !body.is_char_boundary(end) {
            end -= 1;
        }
        let ours = decode(&body.as_bytes()[..end]).is_ok_and(|value| value.is_some());
        prop_assert_eq!(ours, serde_json::from_str::<Value>(&body[..end]).is_ok());
    }
}
