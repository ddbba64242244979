//! Which requests share a load key, and which do not.

use super::*;

fn key(model: &str, options: &str, shift: &str) -> Result<LoadKey, LoadKeyError> {
    let raw = |text: &str| (!text.is_empty()).then(|| RawValue::from_string(text.to_owned()).unwrap());
    LoadKey::of_request(model, raw(options).as_deref(), raw(shift).as_deref())
}

#[test]
fn only_what_reloads_is_in_the_key_and_always_in_one_form() {
    for (model, options, shift, text) in [
        ("Llama3.2", "", "", "llama3.2:latest"),
        ("a", "null", "null", "a:latest"),
        ("a", r#"{"seed":7,"temperature":0,"num_keep":4,"use_mlock":true,"NUM_CTX":9}"#, "", "a:latest"),
        (
            "a",
            r#"{"use_mmap":false,"num_gpu":-1,"num_ctx":4096}"#,
            "true",
            "a:latest num_ctx=4096 num_gpu=-1 shift=true use_mmap=false",
        ),
        ("a", r#"{"num_ctx":2048.9}"#, "", "a:latest num_ctx=2048"),
        ("a", r#"{"num_ctx":2.048e3}"#, "", "a:latest num_ctx=2048"),
        ("a", r#"{"num_ctx":1,"num_ctx":2}"#, "", "a:latest num_ctx=2"),
        ("a", r#"{"num_ctx":null,"num_batch":8}"#, "", "a:latest num_batch=8"),
        (
            "a",
            r#"{"draft_num_predict":1,"num_thread":2,"main_gpu":3,"num_gpu":4,"num_batch":5,"num_ctx":6,"use_mmap":true}"#,
            "false",
            "a:latest draft_num_predict=1 main_gpu=3 num_batch=5 num_ctx=6 num_gpu=4 num_thread=2 shift=false use_mmap=true",
        ),
    ] {
        let key = key(model, options, shift).unwrap();
        assert_eq!(key.as_str(), text);
        assert_eq!(text.parse::<LoadKey>().unwrap(), key, "the stored text gives the key back");
    }
}

#[test]
fn a_key_stays_small_whatever_is_sent() {
    for (options, shift, error) in [
        (r#"{"num_ctx":"big"}"#, "", LoadKeyError::NotAnInteger("num_ctx")),
        (r#"{"num_ctx":1e400}"#, "", LoadKeyError::NotAnInteger("num_ctx")),
        (r#"{"num_ctx":9223372036854775808}"#, "", LoadKeyError::NotAnInteger("num_ctx")),
        (r#"{"num_ctx":[1]}"#, "", LoadKeyError::NotAnInteger("num_ctx")),
        (r#"{"use_mmap":1}"#, "", LoadKeyError::NotABoolean("use_mmap")),
        ("{}", "0", LoadKeyError::NotABoolean("shift")),
        ("[1]", "", LoadKeyError::OptionsType),
        ("5", "", LoadKeyError::OptionsType),
    ] {
        assert_eq!(key("a", options, shift), Err(error), "{options} {shift}");
    }
    assert_eq!(key("a b", "", ""), Err(LoadKeyError::Model(ModelNameError::Character)));
    for text in [
        "a:latest ",
        "a:latest x=1",
        "a:latest num_ctx",
        "a:latest num_ctx=x",
        "",
        "a:latest  shift=true",
        "a:latest num_gpu=any",
    ] {
        assert!(text.parse::<LoadKey>().is_err(), "{text:?}");
    }
}

proptest::proptest! {
    #[test]
    fn every_key_is_found_again_by_its_text(
        model in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}(:[a-z0-9]{1,8})?",
        num_ctx in proptest::option::of(proptest::prelude::any::<i64>()),
        num_gpu in proptest::option::of(-1_i64..100),
        use_mmap in proptest::option::of(proptest::prelude::any::<bool>()),
        shift in proptest::option::of(proptest::prelude::any::<bool>()),
    ) {
        let options = serde_json::json!({ "num_ctx": num_ctx, "use_mmap": use_mmap, "num_gpu": num_gpu });
        let made = key(&model, &options.to_string(), &serde_json::json!(shift).to_string()).unwrap();
        proptest::prop_assert_eq!(&made.as_str().parse::<LoadKey>().unwrap(), &made);
        // A preload is a request with the same key.
        let body: serde_json::Value = serde_json::from_str(&made.preload_body(Route::Chat)).unwrap();
        let part = |name: &str| body.get(name).map(ToString::to_string).unwrap_or_default();
        let again = key(body["model"].as_str().unwrap(), &part("options"), &part("shift")).unwrap();
        proptest::prop_assert_eq!(again, made);
    }
}

#[test]
fn preloads_carry_the_key_and_nothing_else() {
    let key: LoadKey = "a:latest num_ctx=6 shift=false use_mmap=true".parse().unwrap();
    assert_eq!(
        key.preload_body(Route::Chat),
        r#"{"model":"a:latest","messages":[],"options":{"num_ctx":6,"use_mmap":true},"shift":false,"keep_alive":"1800s"}"#
    );
    assert_eq!(
        key.unload_body(Route::Generate),
        r#"{"model":"a:latest","options":{"num_ctx":6,"use_mmap":true},"shift":false,"keep_alive":0}"#
    );
    let bare = LoadKey::of_model(ModelName::parse("a").unwrap());
    assert_eq!(bare.preload_body(Route::Generate), r#"{"model":"a:latest","keep_alive":"1800s"}"#);
}

#[test]
fn a_key_with_another_context_keeps_everything_else() {
    let text = |context| {
        let key: LoadKey = "a:latest num_batch=5 num_ctx=6 shift=false".parse().unwrap();
        let other = key.with_context(context);
        assert_eq!(other.context(), context);
        assert_eq!(other.as_str().parse::<LoadKey>().unwrap(), other);
        assert_eq!(other.with_context(Context::Length(6)), key);
        other.as_str().to_owned()
    };
    assert_eq!(text(Context::Automatic), "a:latest num_batch=5 shift=false");
    assert_eq!(text(Context::Any), "a:latest num_batch=5 num_ctx=any shift=false");
    assert_eq!(text(Context::Length(-1)), "a:latest num_batch=5 num_ctx=-1 shift=false");
}

#[test]
fn a_preload_for_any_context_names_none() {
    let any: LoadKey = "a:latest num_ctx=any".parse().unwrap();
    let automatic = any.with_context(Context::Automatic);
    assert_ne!(any, automatic);
    for route in [Route::Chat, Route::Generate, Route::Embed] {
        assert_eq!(any.preload_body(route), automatic.preload_body(route));
        assert_eq!(any.unload_body(route), automatic.unload_body(route));
    }
}
