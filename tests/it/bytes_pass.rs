//! What the client sent is what the upstream gets, and what the upstream answers is what the client
//! gets, byte for byte but for what is documented.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::harness::{Harness, KEY, Reply, said};
use crate::raw::{self, RawUpstream};

/// Text that is JSON, with all that writers are free to choose.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("12345678901234567890123".to_owned()),
        Just("-0.0".to_owned()),
        Just("1.0e2".to_owned()),
        Just(r#""\u0041\/\ud83d\ude00""#.to_owned()),
        Just(r#""a lone \ud800""#.to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| json!(text).to_string()),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        let member = (any::<String>(), inner.clone(), space());
        prop_oneof![
            (prop::collection::vec(inner, 0..6), space())
                .prop_map(|(items, space)| format!("[{space}{}]", items.join(&format!("{space},")))),
            prop::collection::vec(member, 0..6).prop_map(|members| object(&members)),
        ]
    })
}

fn space() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,3}"
}

fn object(members: &[(String, String, String)]) -> String {
    let members: Vec<String> = members
        .iter()
        .map(|(name, value, space)| format!("{space}{}{space}:{space}{value}{space}", json!(name)))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// The members that Moorage reads, with values of the right type and of any other.
fn member() -> impl Strategy<Value = (String, String, String)> {
    let known = prop::sample::select(vec![
        "model",
        "input",
        "stream",
        "store",
        "include",
        "reasoning",
        "prompt_cache_key",
        "service_tier",
        "instructions",
        "tools",
        "metadata",
    ]);
    let typed = prop_oneof![
        (known.clone(), json_text()),
        Just(("store", "false".to_owned())),
        Just(("reasoning", r#"{"effort":"low"}"#.to_owned())),
        Just(("prompt_cache_key", r#""mine""#.to_owned())),
        Just(("input", r#"[{"role":"user","content":"hi"}]"#.to_owned())),
    ];
    let other = (any::<String>(), json_text());
    let member = prop_oneof![
        3 => typed.prop_map(|(name, value)| (name.to_owned(), value)),
        1 => other.prop_filter("a member that decides", |(name, _)| name != "previous_response_id"),
    ];
    (member, space()).prop_map(|((name, value), space)| (name, value, space))
}

/// What must arrive, from the documented rules alone.
fn expected(members: &[(String, String, String)], sent: &str, key: &str) -> String {
    let last = |name: &str| {
        members
            .iter()
            .rev()
            .find(|(known, ..)| known == name)
            .map(|(_, value, _)| value.as_str())
    };
    let mut added = Vec::new();
    if last("prompt_cache_key").is_none() {
        added.push(format!("\"prompt_cache_key\":\"{key}\""));
    }
    let reasons = last("reasoning").is_some_and(|value| value != "null");
    if reasons && last("store") == Some("false") && last("include").is_none() {
        added.push("\"include\":[\"reasoning.encrypted_content\"]".to_owned());
    }
    let end = sent.rfind('}').unwrap();
    let comma = if members.is_empty() || added.is_empty() {
        ""
    } else {
        ","
    };
    format!("{}{comma}{}{}", &sent[..end], added.join(","), &sent[end..])
}

#[test]
fn a_request_arrives_as_it_was_sent_but_for_the_documented_fields() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let harness = runtime.block_on(Harness::over(1));
    // `null` for a field that is filled in is replaced where it stands; the reader's own tests show it.
    let fills = |(name, value, _): &(String, String, String)| {
        !((name == "prompt_cache_key" || name == "include") && value == "null")
    };
    let members = prop::collection::vec(member().prop_filter("null is filled in", fills), 0..8);
    let config = Config {
        cases: 192,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&members, |members| {
            let sent = object(&members);
            harness.account(0).clear_journal();
            let reply = runtime.block_on(Reply::of(harness.request().body(sent.clone())));
            let journal = harness.account(0).journal();
            prop_assert_eq!(journal.len(), 1, "{} {:?}", &sent, reply);
            let row = runtime.block_on(harness.row(reply.request_id()));
            let conversation = row["conversation_id"].as_str().unwrap().to_owned();
            let arrived = String::from_utf8(journal[0].body.to_vec()).unwrap();
            prop_assert_eq!(arrived, expected(&members, &sent, &conversation));
            Ok(())
        })
        .unwrap();
}

/// One event, or what may stand between events.
fn event() -> impl Strategy<Value = String> {
    let kind = prop::sample::select(vec![
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.output_text.delta",
        "response.future.thing",
        "keepalive",
    ]);
    let data = (kind, json_text(), any::<u32>()).prop_map(|(kind, extra, number)| {
        let id = format!("resp_{number}");
        format!(
            "event: {kind}\ndata: {{\"type\":\"{kind}\",\"x\":{},\"response\":{{\"id\":\"{id}\"}}}}\n\n",
            extra.replace(['\n', '\r'], " ")
        )
    });
    prop_oneof![6 => data, 1 => Just(": comment\n\n".to_owned()), 1 => Just("\n".to_owned()), 1 => Just("retry: 10\n\n".to_owned())]
}

const COMPLETED: &str = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_end\",\"status\":\"completed\",\"usage\":{\"input_tokens\":12345678901234567890123,\"output_tokens\":1}}}\n\n";

/// Bytes cut at these places, taken modulo their length.
fn cut(bytes: &[u8], places: &[usize]) -> Vec<Vec<u8>> {
    let mut places: Vec<usize> = places.iter().map(|place| place % (bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places
        .windows(2)
        .map(|pair| bytes[pair[0]..pair[1]].to_vec())
        .filter(|piece| !piece.is_empty())
        .collect()
}

async fn over_raw(upstream: &RawUpstream) -> Harness {
    let account = ("raw".to_owned(), upstream.base_url.clone(), "sk-raw".to_owned());
    let simulator = moorage::simulator::Simulator::start(moorage::simulator::SimulatorConfig {
        accounts: Vec::new(),
        ..Default::default()
    });
    Harness::build(0)
        .start_over(simulator.await.unwrap(), &[account])
        .await
}

#[test]
fn a_stream_passes_byte_for_byte_however_the_network_cuts_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let upstream = runtime.block_on(RawUpstream::start());
    let harness = runtime.block_on(over_raw(&upstream));
    let stream = (
        prop::collection::vec(event(), 0..8),
        prop::bool::ANY,
        prop::bool::ANY,
        prop::collection::vec(any::<usize>(), 0..12),
    );
    let config = Config {
        cases: 128,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&stream, |(events, crlf, done, places)| {
            let mut text = events.concat() + COMPLETED;
            if done {
                text += "data: [DONE]\n\n";
            }
            if crlf {
                text = text.replace('\n', "\r\n");
            }
            upstream.say(raw::event_stream(cut(text.as_bytes(), &places)));
            let body = json!({ "stream": true, "input": "hi" });
            let reply = runtime.block_on(Reply::of(harness.request().body(body.to_string())));
            prop_assert!(reply.whole);
            prop_assert_eq!(String::from_utf8(reply.body).unwrap(), text);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_document_passes_byte_for_byte_however_the_network_cuts_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let upstream = runtime.block_on(RawUpstream::start());
    let harness = runtime.block_on(over_raw(&upstream));
    let document = (
        prop::collection::vec(member(), 0..8),
        prop::collection::vec(any::<usize>(), 0..12),
    );
    let config = Config {
        cases: 128,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&document, |(members, places)| {
            let text = object(&members);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                text.len()
            );
            let script = std::iter::once(head.into_bytes()).chain(cut(text.as_bytes(), &places));
            upstream.say(script.collect());
            let reply = runtime.block_on(Reply::of(harness.request().body("{}")));
            prop_assert_eq!(String::from_utf8(reply.body).unwrap(), text);
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn headers_pass_both_ways_but_for_credentials_and_the_connection() {
    let harness = Harness::over(1).await;
    let request = harness
        .request()
        .header("openai-beta", "one")
        .header("openai-beta", "two")
        .header("x-mine", "kept")
        .header("x-hop", "dropped")
        .header("connection", "x-hop")
        .header("cookie", "session=secret")
        .header("openai-organization", "org-of-the-client")
        .header("x-forwarded-for", "10.0.0.1")
        .header("x-moorage-account", "sim-z");
    let reply = Reply::of(request.body(said("hi", None).to_string())).await;
    let arrived = &harness.account(0).journal()[0];
    let values: Vec<&str> = arrived
        .headers
        .iter()
        .filter(|(name, _)| name == "openai-beta")
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(values, ["one", "two"]);
    assert_eq!(arrived.header("x-mine"), Some("kept"));
    assert_eq!(arrived.header("authorization"), Some("Bearer sk-sim-a"));
    for name in [
        "x-hop",
        "cookie",
        "openai-organization",
        "x-forwarded-for",
        "x-moorage-account",
    ] {
        assert_eq!(arrived.header(name), None, "{name}");
    }
    assert!(
        arrived.headers.iter().all(|(_, value)| !value.contains(KEY)),
        "{arrived:?}"
    );

    assert!(reply.header("x-request-id").unwrap().starts_with("req_"));
    assert!(reply.header("openai-processing-ms").is_some());
    assert_eq!(reply.account(), "sim-a");
    for name in [
        "set-cookie",
        // Said of the provider's host, and not of this one.
        "strict-transport-security",
        "alt-svc",
        "openai-organization",
        "x-ratelimit-remaining-requests",
    ] {
        assert_eq!(reply.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn the_query_passes_and_the_routing_headers_can_be_switched_off() {
    let harness = Harness::build(1)
        .section("[answers]\nrouting_headers = false")
        .start()
        .await;
    let url = format!("{}/v1/responses?beta=true&x=%20y", harness.gateway.url());
    let reply = Reply::of(harness.http.post(url).bearer_auth(KEY).body("{\"input\":\"hi\"}")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        harness.account(0).journal()[0].path,
        "/v1/responses?beta=true&x=%20y"
    );
    assert!(
        reply
            .headers
            .keys()
            .all(|name| !name.as_str().starts_with("x-moorage")),
        "{reply:?}"
    );
}

#[tokio::test]
async fn a_compressed_body_is_read_and_sent_on_plain() {
    use std::io::Write as _;
    let harness = Harness::over(1).await;
    let body = said(&"a long history ".repeat(5000), None).to_string();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(body.as_bytes()).unwrap();
    let zstd = zstd::encode_all(body.as_bytes(), 3).unwrap();
    for (encoding, bytes) in [
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd),
        ("identity", body.clone().into_bytes()),
    ] {
        let request = harness.request().header("content-encoding", encoding).body(bytes);
        let reply = Reply::of(request).await;
        assert_eq!(reply.status, 200, "{encoding} {reply:?}");
        let arrived = harness.account(0).journal().pop().unwrap();
        let end = body.len() - 1;
        assert_eq!(arrived.body[..end], body.as_bytes()[..end], "{encoding}");
        let length = arrived.body.len().to_string();
        assert_eq!(
            arrived.header("content-length"),
            Some(length.as_str()),
            "{encoding}"
        );
        let row = harness.row(reply.request_id()).await;
        assert_eq!(row["request_bytes"], body.len());
    }
}

#[tokio::test]
async fn a_document_whose_first_piece_ends_inside_an_id_arrives_whole() {
    let upstream = RawUpstream::start().await;
    let harness = over_raw(&upstream).await;
    let text = r#"{"id":"resp_abcdef","status":"completed","output":[]}"#;
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        text.len()
    );
    for cut in 1..20 {
        let (first, rest) = text.as_bytes().split_at(cut);
        upstream.say(vec![
            [head.as_bytes(), first].concat(),
            raw::PAUSE.to_vec(),
            rest.to_vec(),
        ]);
        let reply = Reply::of(harness.request().body("{}")).await;
        assert_eq!(String::from_utf8_lossy(&reply.body), text, "cut at {cut}");
    }
}

#[tokio::test]
async fn an_answer_is_read_whatever_its_content_type_is_called() {
    let upstream = RawUpstream::start().await;
    let harness = over_raw(&upstream).await;
    for kind in [
        "",
        "content-type: text/plain\r\n",
        "content-type: Text/Event-Stream\r\n",
        "content-type: Application/JSON; charset=utf-8\r\n",
    ] {
        for stream in [true, false] {
            if (stream && kind.contains("JSON")) || (!stream && kind.contains("Event")) {
                continue;
            }
            let body = match stream {
                true => COMPLETED.to_owned(),
                false => r#"{"id":"resp_end","status":"completed","output":[]}"#.to_owned(),
            };
            upstream.say(vec![
                format!("HTTP/1.1 200 OK\r\n{kind}connection: close\r\n\r\n{body}").into_bytes(),
            ]);
            let request = json!({ "stream": stream, "input": "hi" }).to_string();
            let reply = Reply::of(harness.request().body(request)).await;
            assert_eq!(String::from_utf8_lossy(&reply.body), body);
            let row = harness.row(reply.request_id()).await;
            assert_eq!(
                (&row["response_id"], &row["outcome"]),
                (&json!("resp_end"), &json!("completed")),
                "{kind} {stream}"
            );
        }
    }
}
