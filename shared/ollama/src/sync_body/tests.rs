use super::*;

fn read(route: Route, body: &str) -> SyncBody {
    SyncBody::read(route, body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"))
}

fn refused(route: Route, body: &[u8]) -> (u16, String) {
    let error = SyncBody::read(route, body).unwrap_err();
    (error.status, error.text)
}

#[test]
fn only_keep_alive_is_taken_out_and_no_other_byte_changes() {
    for (body, payload) in [
        (r#"{"model":"a","messages":[1]}"#, r#"{"model":"a","messages":[1]}"#),
        ("\n{ \"model\" : \"a\" }\n", "\n{ \"model\" : \"a\" }\n"),
        (r#"{"model":"a","keep_alive":5,"x":1.50e+3}"#, r#"{"model":"a","x":1.50e+3}"#),
        (r#"{"keep_alive":"5m","model":"a"}"#, r#"{"model":"a"}"#),
        (r#"{"model":"a", "Keep_Alive" : -1 }"#, r#"{"model":"a"}"#),
        (r#"{"keep_alive":1,"model":"a","keep_alive":null,"KEEP_ALIVE":0}"#, r#"{"model":"a"}"#),
        (r#"{"model":"a"} {"model":"b"}"#, r#"{"model":"a"}"#),
        ("{\"model\":\"a\"}\0", r#"{"model":"a"}"#),
        (r#"{"model":"a","keep_alive":"soon"}"#, r#"{"model":"a","keep_alive":"soon"}"#),
        (r#"{"model":"a","keep_alive":true}"#, r#"{"model":"a","keep_alive":true}"#),
    ] {
        assert_eq!(read(Route::Chat, body).payload, payload, "{body}");
    }
    let body = r#"{"model":"a","keep_alive":5}"#;
    assert_eq!(read(Route::ChatCompletions, body).payload, body, "the /v1 routes know no keep_alive");
    let invalid = SyncBody::read(Route::Chat, b"{\"model\":\"a\",\"x\":\"\xff\xe4\xbd\"}").unwrap();
    assert_eq!(invalid.payload, "{\"model\":\"a\",\"x\":\"\u{fffd}\u{fffd}\u{fffd}\"}");
}

#[test]
fn the_model_is_the_one_that_ollama_sees() {
    for (body, model) in [
        (r#"{"model":"a","MODEL":"b"}"#, "b"),
        (r#"{"MODEL":"b","model":"a"}"#, "a"),
        (r#"{"model":"a","model":null}"#, "a"),
        (r#"{"\u006dodel":"a\u0062"}"#, "ab"),
        (r#"{"model":"Library/A:LATEST"}"#, "Library/A:LATEST"),
    ] {
        for route in [Route::Chat, Route::Messages] {
            assert_eq!(read(route, body).model, model, "{body}");
        }
    }
}

#[test]
fn the_load_key_is_that_of_the_options_that_ollama_sees() {
    for (body, key) in [
        (r#"{"model":"a","options":{"num_ctx":8192,"seed":1}}"#, "a:latest num_ctx=8192"),
        (r#"{"model":"a","options":{"num_ctx":1},"OPTIONS":{"num_gpu":2}}"#, "a:latest num_ctx=1 num_gpu=2"),
        (r#"{"model":"a","options":{"num_ctx":1},"options":null}"#, "a:latest num_ctx=any"),
        (r#"{"model":"a","options":{"num_ctx":1,"num_ctx":2}}"#, "a:latest num_ctx=2"),
        (r#"{"model":"a","options":{"num_ctx":"big","use_mmap":5}}"#, "a:latest num_ctx=any"),
        (r#"{"model":"a","options":{"NUM_CTX":5}}"#, "a:latest num_ctx=any"),
        (r#"{"model":"a","shift":false,"options":{"num_ctx":5.9}}"#, "a:latest num_ctx=5 shift=false"),
        (r#"{"model":"a","options":{"\ud800":1,"num_ctx":5}}"#, "a:latest num_ctx=5"),
    ] {
        assert_eq!(read(Route::Chat, body).load_key.as_str(), key, "{body}");
    }
    let on_v1 = read(Route::ChatCompletions, r#"{"model":"a","options":{"num_ctx":1},"shift":true}"#);
    assert_eq!(on_v1.load_key.as_str(), "a:latest");
    let (status, text) = refused(Route::Chat, br#"{"model":"a","options":{"num_ctx":1e300}}"#);
    assert_eq!((status, text.contains("num_ctx")), (400, true), "{text}");
}

#[test]
fn a_native_call_streams_unless_it_says_no_and_others_only_if_they_ask() {
    for (field, native, other) in [
        ("", true, false),
        (r#","stream":true"#, true, true),
        (r#","stream":false"#, false, false),
        (r#","stream":null"#, true, false),
        (r#","stream":true,"STREAM":false"#, false, false),
        (r#","stream":false,"stream":null"#, true, false),
    ] {
        let body = format!(r#"{{"model":"a"{field}}}"#);
        assert_eq!(read(Route::Generate, &body).stream, native, "{body}");
        assert_eq!(read(Route::Responses, &body).stream, other, "{body}");
    }
}

#[test]
fn an_unload_is_a_request_without_content_whose_keep_alive_is_zero() {
    for (route, body, unloads) in [
        (Route::Chat, r#"{"model":"a","keep_alive":0}"#, true),
        (Route::Chat, r#"{"model":"a","messages":[ ],"keep_alive":"0s"}"#, true),
        (Route::Chat, r#"{"model":"a","messages":null,"keep_alive":0e5}"#, true),
        (Route::Chat, r#"{"model":"a","messages":[1],"keep_alive":0}"#, false),
        (Route::Chat, r#"{"model":"a","messages":[],"keep_alive":"10m"}"#, false),
        (Route::Chat, r#"{"model":"a","keep_alive":0,"keep_alive":null}"#, false),
        (Route::Chat, r#"{"model":"a","keep_alive":null}"#, false),
        (Route::Generate, r#"{"model":"a","prompt":"","keep_alive":0.0}"#, true),
        (Route::Generate, r#"{"model":"a","prompt":"x","keep_alive":0}"#, false),
        (Route::Generate, r#"{"model":"a","prompt":"x","prompt":null,"keep_alive":0}"#, false),
        (Route::Completions, r#"{"model":"a","prompt":"","keep_alive":0}"#, false),
        (Route::Embed, r#"{"model":"a","input":[],"keep_alive":0}"#, true),
        (Route::Embed, r#"{"model":"a","input":["x"],"keep_alive":0}"#, false),
        (Route::Embeddings, r#"{"model":"a","prompt":"","keep_alive":"0m"}"#, true),
        (Route::OpenAiEmbeddings, r#"{"model":"a","input":[],"keep_alive":0}"#, false),
    ] {
        let purpose = read(route, body).purpose;
        assert_eq!(purpose == Purpose::Unload, unloads, "{body}");
    }
}

#[test]
fn a_body_that_ollama_refuses_is_refused_in_the_same_words() {
    for (route, body, status, text) in [
        (Route::Chat, &b""[..], 400, "missing request body"),
        (Route::Messages, b" ", 400, "EOF"),
        (Route::Chat, b"hello", 400, "invalid character 'h' looking for beginning of value"),
        (Route::Generate, b"{\"model\":\"a\"", 400, "unexpected EOF"),
        (Route::Chat, b"[1]", 400, "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (Route::Chat, b"null", 400, "model is required"),
        (Route::Chat, b"{}", 400, "model is required"),
        (Route::Generate, b"{}", 404, "model '' not found"),
        (Route::Chat, br#"{"model":"a b/c d"}"#, 400, "invalid model name"),
        (Route::Generate, br#"{"model":"a b"}"#, 404, "model 'a b' not found"),
        (
            Route::Chat,
            br#"{"model":5}"#,
            400,
            "json: cannot unmarshal number into Go struct field ChatRequest.model of type string",
        ),
        (
            Route::Chat,
            br#"{"model":"a","stream":"yes"}"#,
            400,
            "json: cannot unmarshal string into Go struct field ChatRequest.stream of type bool",
        ),
        (
            Route::Chat,
            br#"{"model":"a","options":[1]}"#,
            400,
            "json: cannot unmarshal array into Go struct field ChatRequest.options of type map[string]interface {}",
        ),
        (
            Route::ChatCompletions,
            br#"{"model":true}"#,
            400,
            "json: cannot unmarshal bool into Go struct field ChatCompletionRequest.model of type string",
        ),
    ] {
        assert_eq!(refused(route, body), (status, text.to_owned()), "{}", String::from_utf8_lossy(body));
    }
}
