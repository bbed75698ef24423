//! What upstreams are seen to do and no documentation says. Each case is one that people reported.

use serde_json::{Value, json};

use crate::harness::{Harness, KEY, Reply, eventually, said, streamed};
use crate::raw::RawUpstream;

/// A gateway over upstreams that say exactly what they are told.
async fn over(upstreams: &[&RawUpstream]) -> Harness {
    over_with(upstreams, "").await
}

async fn over_with(upstreams: &[&RawUpstream], section: &str) -> Harness {
    let simulator = moorage::simulator::Simulator::start(Default::default())
        .await
        .unwrap();
    let name = |index: usize| ["a", "b", "c"][index].to_owned();
    let accounts: Vec<(String, String, String)> = upstreams
        .iter()
        .enumerate()
        .map(|(index, upstream)| (name(index), upstream.base_url.clone(), "k".to_owned()))
        .collect();
    Harness::build(0)
        .section(section)
        .start_over(simulator, &accounts)
        .await
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<Vec<u8>> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
    vec![head.into_bytes()]
}

fn json_answer(body: &str) -> Vec<Vec<u8>> {
    answer("200 OK", "content-type: application/json\r\n", body)
}

fn stream_of(media_type: &str, body: &str) -> Vec<Vec<u8>> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\nconnection: close\r\n\r\n");
    vec![head.into_bytes(), body.as_bytes().to_vec()]
}

const WELL: &str = r#"{"id":"resp_well","object":"response","status":"completed","model":"m","output":[],"usage":{"input_tokens":64.0,"output_tokens":2}}"#;
const CREATED: &str = r#"{"type":"response.created","response":{"id":"resp_1"}}"#;
const DELTA: &str = r#"{"type":"response.output_text.delta","delta":"x"}"#;
const COMPLETED: &str = r#"{"type":"response.completed","response":{"id":"resp_1","status":"completed","model":"m","output":[],"usage":{"input_tokens":9,"output_tokens":2}}}"#;

async fn ended(harness: &Harness, reply: &Reply) -> Value {
    let id = reply.request_id();
    eventually("the final row", || {
        let sql = format!("SELECT * FROM turns WHERE request_id = {id} AND outcome <> 'open'");
        harness.query(&sql).into_iter().next()
    })
    .await
}

#[tokio::test]
async fn a_last_event_without_its_blank_line_counts() {
    let upstream = RawUpstream::start().await;
    let harness = over(&[&upstream]).await;
    for end in ["", "\n", "\r\n"] {
        let stream = format!("data: {CREATED}\n\ndata: {DELTA}\n\ndata: {COMPLETED}{end}");
        upstream.say(stream_of("text/event-stream", &stream));
        let reply = harness.post(streamed("hi", None)).await;
        assert_eq!(reply.kinds().last().unwrap(), "response.completed", "{reply:?}");
        assert!(
            reply.body.ends_with(b"\n\n") || reply.body.ends_with(b"\r\n\n"),
            "{reply:?}"
        );
        let row = ended(&harness, &reply).await;
        assert_eq!(
            (&row["outcome"], &row["input_tokens"]),
            (&json!("completed"), &json!(9))
        );
    }
}

#[tokio::test]
async fn half_an_event_at_the_end_is_not_passed_on() {
    let upstream = RawUpstream::start().await;
    let harness = over(&[&upstream]).await;
    let half = &COMPLETED[..COMPLETED.len() - 4];
    upstream.say(stream_of(
        "text/event-stream",
        &format!("data: {CREATED}\n\ndata: {half}"),
    ));
    let reply = harness.post(streamed("hi", None)).await;
    assert_eq!(reply.kinds().last().unwrap(), "response.failed");
    assert_eq!(ended(&harness, &reply).await["outcome"], "upstream_cut");
}

#[tokio::test]
async fn a_chat_may_leave_out_its_last_blank_line() {
    let upstream = RawUpstream::start().await;
    let harness = over(&[&upstream]).await;
    let stream = concat!(
        "data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n",
        "data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"id\":\"chatcmpl-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":1}}"
    );
    upstream.say(stream_of("text/event-stream", stream));
    let body = json!({
        "model": "m", "stream": true, "stream_options": { "include_usage": true },
        "messages": [{ "role": "user", "content": "hi" }],
    });
    let request = harness
        .http
        .post(format!("{}/v1/chat/completions", harness.gateway.url()))
        .bearer_auth(KEY);
    let reply = Reply::of(request.body(body.to_string())).await;
    let row = ended(&harness, &reply).await;
    assert_eq!(
        (&row["outcome"], &row["input_tokens"]),
        (&json!("completed"), &json!(7)),
        "{reply:?}"
    );
}

#[tokio::test]
async fn a_stream_is_one_whatever_it_is_called() {
    let upstream = RawUpstream::start().await;
    let harness = over(&[&upstream]).await;
    let untyped = COMPLETED.replace(r#""type":"response.completed","#, "");
    for stream in [
        format!("data: {CREATED}\n\ndata: {COMPLETED}\n\n"),
        format!("data: {CREATED}\r\rdata: {COMPLETED}\r\r"),
        format!("event: response.created\ndata: {CREATED}\n\nevent: response.completed\ndata: {untyped}\n\n"),
        format!(": hello\ndata: {CREATED}\n\ndata: {COMPLETED}\n\n"),
    ] {
        for media_type in ["application/json", "text/event-stream", "text/plain"] {
            upstream.say(stream_of(media_type, &stream));
            let reply = harness.post(streamed("hi", None)).await;
            assert_eq!(reply.body, stream.as_bytes(), "{media_type}");
            let named = reply.header("content-type").unwrap();
            assert!(named.starts_with("text/event-stream"), "{named}");
            let row = ended(&harness, &reply).await;
            assert_eq!(
                (&row["outcome"], &row["input_tokens"]),
                (&json!("completed"), &json!(9)),
                "{media_type} {stream}"
            );
        }
    }
}

#[tokio::test]
async fn a_document_is_one_whatever_it_is_called() {
    let upstream = RawUpstream::start().await;
    let harness = over(&[&upstream]).await;
    upstream.say(answer("200 OK", "content-type: text/event-stream\r\n", WELL));
    let reply = harness.post(said("hi", None)).await;
    assert_eq!(reply.id(), "resp_well");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let row = ended(&harness, &reply).await;
    // A figure may be written as a float.
    assert_eq!(
        (&row["outcome"], &row["input_tokens"]),
        (&json!("completed"), &json!(64))
    );
}

#[tokio::test]
async fn an_error_in_a_200_document_goes_elsewhere() {
    let (bad, good) = (RawUpstream::start().await, RawUpstream::start().await);
    let harness = over(&[&bad, &good]).await;
    good.say(json_answer(WELL));
    for error in [
        r#"{"error":{"message":"m","type":"server_error"}}"#,
        r#"{"id":"resp_x","status":"failed","output":[],"error":{"code":"server_error","message":"m"}}"#,
        r#"{"error":{"message":"m","type":"rate_limit_error","code":"429"}}"#,
    ] {
        bad.say(json_answer(error));
        let reply = harness.post(said("hi", None)).await;
        assert_eq!(
            (reply.id().as_str(), reply.account()),
            ("resp_well", "b"),
            "{error}"
        );
        harness.run(&["account", "enable", "a"]);
    }
}

#[tokio::test]
async fn an_error_in_a_200_document_is_no_success_in_its_row() {
    let upstream = RawUpstream::start().await;
    let harness = over(&[&upstream]).await;
    let error = r#"{"error":{"message":"m","type":"invalid_request_error","code":"invalid_prompt"}}"#;
    upstream.say(json_answer(error));
    let reply = harness.post(said("hi", None)).await;
    assert_eq!((reply.status, reply.body.as_slice()), (200, error.as_bytes()));
    let row = ended(&harness, &reply).await;
    assert_eq!(
        (&row["outcome"], &row["error_code"]),
        (&json!("failed"), &json!("invalid_prompt"))
    );
}

#[tokio::test]
async fn an_answer_without_a_body_has_its_own_outcome() {
    let upstream = RawUpstream::start().await;
    let harness = over(&[&upstream]).await;
    upstream.say(json_answer(WELL));
    harness.post(said("hi", None)).await;
    let known = |harness: &Harness| {
        let rows = harness.query("SELECT count(*) AS n FROM known_references");
        rows[0]["n"].as_i64().unwrap()
    };
    let before = known(&harness);
    let url = format!("{}/v1/responses/resp_well", harness.gateway.url());
    upstream.say(vec![
        b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_vec(),
    ]);
    let deleted = Reply::of(harness.http.delete(&url).bearer_auth(KEY)).await;
    assert_eq!(deleted.status, 204);
    assert_eq!(ended(&harness, &deleted).await["outcome"], "completed");
    eventually("the deleted id is forgotten", || {
        (known(&harness) == before - 1).then_some(())
    })
    .await;
    for status in ["400 Bad Request", "500 Internal Server Error"] {
        upstream.say(answer(status, "", ""));
        let refused = harness.post(said("hi", None)).await;
        assert_eq!(refused.status, status[..3].parse::<u16>().unwrap());
        assert_eq!(ended(&harness, &refused).await["outcome"], "rejected", "{status}");
    }
    upstream.say(answer("200 OK", "content-type: application/json\r\n", ""));
    let empty = harness.post(said("hi", None)).await;
    assert_eq!(
        (empty.status, empty.code().as_str()),
        (502, "upstream_unreadable")
    );
}

#[tokio::test]
async fn a_redirect_is_a_fault_of_the_accounts_address() {
    let (moved, good) = (RawUpstream::start().await, RawUpstream::start().await);
    let harness = over(&[&moved, &good]).await;
    let redirect = |status: &str| answer(status, "location: http://127.0.0.1:9/v1/responses\r\n", "");
    good.say(json_answer(WELL));
    for status in [
        "301 Moved Permanently",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        moved.say(redirect(status));
        let reply = harness.post(said("hi", None)).await;
        assert_eq!((reply.status, reply.account()), (200, "b"), "{status}");
    }
    let alone = over(&[&moved]).await;
    let told = alone.post(said("hi", None)).await;
    assert_eq!((told.status, told.code().as_str()), (502, "upstream_redirect"));
    assert_eq!(told.header("location"), None);
    assert!(told.json()["error"]["message"].as_str().unwrap().contains("'a'"));
}

#[tokio::test]
async fn an_edge_that_cannot_reach_its_account_is_left_for_another() {
    let (edge, good) = (RawUpstream::start().await, RawUpstream::start().await);
    good.say(json_answer(WELL));
    let page = |status: &str| answer(status, "content-type: text/html\r\n", "<html>sorry</html>");
    for status in [
        "521 Web Server Is Down",
        "525 SSL Handshake Failed",
        "530 Origin DNS Error",
    ] {
        let harness = over(&[&edge, &good]).await;
        edge.say(page(status));
        let reply = harness.post(said("hi", None)).await;
        assert_eq!((reply.status, reply.account()), (200, "b"), "{status}");
    }
    for (status, told) in [("520 Unknown", 502), ("524 A Timeout Occurred", 504)] {
        let harness = over(&[&edge, &good]).await;
        edge.say(page(status));
        let reply = harness.post(said("hi", None)).await;
        assert_eq!(reply.status, told, "{status}");
        // It may have run: it is not made again, and the client gets no page for people.
        assert!(reply.json()["error"]["message"].as_str().unwrap().contains("may"));
    }
}

#[tokio::test]
async fn a_response_that_ends_under_another_id_is_known_by_both() {
    let (renames, other) = (RawUpstream::start().await, RawUpstream::start().await);
    let harness = over_with(&[&renames, &other], "[affinity]\nask_around = false").await;
    let completed = COMPLETED.replace("resp_1", "resp_2");
    let stream = format!("data: {CREATED}\n\ndata: {DELTA}\n\ndata: {completed}\n\n");
    renames.say(stream_of("text/event-stream", &stream));
    other.say(stream_of("text/event-stream", &stream));
    let first = harness.post(streamed("hi", None)).await;
    let home = first.account().to_owned();
    for id in ["resp_1", "resp_2"] {
        let next = harness.post(streamed("and now?", Some(id))).await;
        assert_eq!((next.status, next.account()), (200, home.as_str()), "{id}");
        assert_eq!(next.affinity(), "hit; by=previous_response_id", "{id}");
    }
}

#[tokio::test]
async fn credits_beside_a_plan_that_is_used_up_keep_the_account() {
    let upstream = RawUpstream::start().await;
    let harness = over(&[&upstream]).await;
    let head = |credits: &str| {
        format!(
            "content-type: application/json\r\nx-codex-primary-used-percent: 100\r\nx-codex-primary-reset-after-seconds: 9000\r\n{credits}"
        )
    };
    for credits in [
        "x-codex-credits-has-credits: true\r\n",
        "x-codex-credits-unlimited: True\r\n",
    ] {
        upstream.say(answer("200 OK", &head(credits), WELL));
        for _ in 0..2 {
            assert_eq!(harness.post(said("hi", None)).await.status, 200, "{credits}");
        }
    }
    upstream.say(answer(
        "200 OK",
        &head("x-codex-credits-has-credits: false\r\n"),
        WELL,
    ));
    assert_eq!(harness.post(said("hi", None)).await.status, 200);
    let refused = harness.post(said("hi", None)).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "account_cooling_down")
    );
}

#[tokio::test]
async fn an_account_that_says_to_retry_at_once_is_given_a_second() {
    let upstream = RawUpstream::start().await;
    let harness = over(&[&upstream]).await;
    let limit = r#"{"error":{"message":"m","code":"rate_limit_exceeded"}}"#;
    upstream.say(answer("429 Too Many Requests", "retry-after: 0\r\n", limit));
    let begin = std::time::Instant::now();
    let reply = harness.post(said("hi", None)).await;
    assert_eq!(reply.status, 429);
    let row = ended(&harness, &reply).await;
    let attempts = row["attempts"].as_u64().unwrap();
    // One at the start, and at most one for each second since.
    assert!(
        attempts >= 2 && attempts <= begin.elapsed().as_secs() + 1,
        "{attempts}"
    );
}

#[tokio::test]
async fn a_blank_reference_is_none() {
    let harness = Harness::over(2).await;
    for blank in ["", "   "] {
        let mut first = None;
        for text in ["the tide at Brest is high", "the moon over Cadiz is low"] {
            let body = json!({
                "model": "m", "previous_response_id": blank, "prompt_cache_key": blank, "conversation": blank,
                "input": [{ "role": "user", "content": [{ "type": "input_file", "file_id": blank }, { "type": "input_text", "text": text }] }],
            });
            let request = harness
                .request()
                .header("session-id", blank)
                .body(body.to_string());
            let reply = Reply::of(request).await;
            let journal = harness.named(reply.account()).journal();
            assert_eq!(journal.last().unwrap().json()["prompt_cache_key"], blank);
            let row = ended(&harness, &reply).await;
            assert_eq!(row["affinity_by"], Value::Null, "{row}");
            let conversation = row["conversation_id"].clone();
            assert_ne!(first.replace(conversation.clone()), Some(conversation));
        }
    }
}

#[tokio::test]
async fn include_is_not_filled_in_where_reasoning_sets_nothing() {
    let harness = Harness::over(1).await;
    for reasoning in [json!({}), json!({ "effort": null, "summary": null })] {
        harness
            .post(json!({ "model": "m", "input": "hi", "store": false, "reasoning": reasoning }))
            .await;
        let sent = harness.account(0).journal().last().unwrap().json();
        assert_eq!(sent.get("include"), None, "{reasoning}");
    }
}
