//! Input that is wrong, too large, or meant to harm: a clear error to who sent it, nothing to others.

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::harness::{Harness, KEY, Reply, said};
use crate::raw;

#[tokio::test]
async fn json_that_is_none_is_refused_with_its_position() {
    let harness = Harness::over(1).await;
    let cases = [
        ("", "line 1, column 0"),
        ("[]", "line 1"),
        ("\"text\"", "line 1"),
        ("{\"a\":1,\n \"b\":}", "line 2, column 6"),
        ("{\"a\":1} {}", "line 1, column 9"),
        ("{\"a\":NaN}", "line 1, column 6"),
        ("{\"a\":\"\u{1}\"}", "line 1"),
    ];
    for (body, position) in cases {
        let reply = Reply::of(harness.request().body(body)).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "invalid_json"),
            "{body}"
        );
        let message = reply.json()["error"]["message"].to_string();
        assert!(message.contains(position), "{body}: {message}");
        let row = harness.row(reply.request_id()).await;
        assert_eq!(
            (&row["outcome"], &row["error_code"]),
            (&json!("refused"), &json!("invalid_json"))
        );
    }
    let invalid_utf8 = Reply::of(harness.request().body(b"{\"model\":\"\xff\"}".to_vec())).await;
    assert_eq!(invalid_utf8.status, 400);
    assert!(harness.account(0).journal().is_empty());
}

#[tokio::test]
async fn without_a_client_key_nothing_is_done_and_the_row_says_so() {
    let harness = Harness::over(1).await;
    let url = format!("{}/v1/responses", harness.gateway.url());
    let with = |name: &str, value: &str| harness.http.post(&url).header(name, value).body("{}");
    let requests = [
        harness.http.post(&url).body("{}"),
        with("authorization", "Bearer mk-wrong"),
        with("authorization", "Bearer "),
        with("authorization", &format!("Basic {KEY}")),
        with("authorization", &format!("Bearer {KEY}x")),
        with("x-api-key", "sk-sim-a"),
    ];
    for request in requests {
        let reply = Reply::of(request).await;
        assert_eq!((reply.status, reply.code().as_str()), (401, "invalid_api_key"));
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        let row = harness.row(reply.request_id()).await;
        assert_eq!(
            (&row["outcome"], &row["client_key"]),
            (&json!("refused"), &json!(null))
        );
    }
    assert!(harness.account(0).journal().is_empty());
    let other_place = Reply::of(with("x-api-key", KEY)).await;
    assert_eq!(other_place.status, 200);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_comes() {
    let harness = Harness::build(1)
        .section("[limits]\nrequest_body_bytes = 100000")
        .start()
        .await;
    let large = said(&"x".repeat(100_000), None).to_string();
    let announced = Reply::of(harness.request().body(large.clone())).await;
    assert_eq!(
        (announced.status, announced.code().as_str()),
        (413, "body_too_large")
    );

    // In chunks, without a word on its size before.
    let pieces: Vec<_> = large
        .as_bytes()
        .chunks(1000)
        .map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    let chunked = reqwest::Body::wrap(StreamBody::new(futures_util::stream::iter(pieces)));
    let chunked = Reply::of(harness.request().body(chunked)).await;
    assert_eq!(chunked.status, 413);

    // A bomb: small as it travels, large as it is read.
    let bomb = zstd::encode_all(said(&"x".repeat(50_000_000), None).to_string().as_bytes(), 19).unwrap();
    assert!(bomb.len() < 100_000);
    let bomb = Reply::of(harness.request().header("content-encoding", "zstd").body(bomb)).await;
    assert_eq!(bomb.status, 413);
    assert!(harness.account(0).journal().is_empty());
    assert_eq!(harness.turn(None).await.status, 200);
}

#[tokio::test]
async fn a_body_that_is_not_what_it_says_is_refused() {
    let harness = Harness::over(1).await;
    let unknown = Reply::of(harness.request().header("content-encoding", "br").body("{}")).await;
    assert_eq!(
        (unknown.status, unknown.code().as_str()),
        (415, "unknown_encoding")
    );
    let broken = Reply::of(harness.request().header("content-encoding", "gzip").body("{}")).await;
    assert_eq!((broken.status, broken.code().as_str()), (400, "body_unreadable"));
    assert!(harness.account(0).journal().is_empty());
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_done_have_their_errors() {
    let harness = Harness::over(1).await;
    let url = harness.gateway.url();
    let unknown = Reply::of(
        harness
            .http
            .post(format!("{url}/v1/nothing/here"))
            .bearer_auth(KEY),
    )
    .await;
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "unknown_url"));
    // What is below /v1 is the upstream's to refuse.
    assert!(unknown.header("x-request-id").is_some());
    let wrong = Reply::of(harness.http.delete(format!("{url}/healthz")).bearer_auth(KEY)).await;
    assert_eq!((wrong.status, wrong.code().as_str()), (405, "method_not_allowed"));
    assert!(wrong.header("allow").unwrap().contains("GET"));
}

#[tokio::test]
async fn a_websocket_elsewhere_is_refused_with_the_status_that_makes_clients_use_http() {
    let harness = Harness::over(1).await;
    let url = format!("ws://{}/v1/realtime", harness.gateway.address);
    let refused = tokio_tungstenite::connect_async(url).await.unwrap_err();
    let tokio_tungstenite::tungstenite::Error::Http(response) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(response.status(), 426);
}

#[tokio::test]
async fn a_reference_longer_than_any_is_refused_and_one_of_the_longest_passes() {
    let harness = Harness::over(1).await;
    for name in ["previous_response_id", "prompt_cache_key"] {
        let reply = harness
            .post(json!({ "input": "hi", name: "x".repeat(2049) }))
            .await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_reference"));
        let message = reply.json()["error"]["message"].to_string();
        assert!(message.contains(name) && !message.contains("xxxx"), "{message}");
    }
    let long = harness
        .post(json!({ "input": "hi", "previous_response_id": "x".repeat(2048) }))
        .await;
    assert_eq!(long.code(), "previous_response_not_found");
}

#[tokio::test]
async fn json_nested_deeper_than_any_reader_likes_passes_and_harms_nobody() {
    let harness = Harness::over(1).await;
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    for body in [
        format!("{{\"x\":{deep}}}"),
        format!("{{\"input\":{deep}}}"),
        format!("{{\"input\":[{{\"role\":\"user\",\"content\":{deep}}}]}}"),
        format!("{{\"model\":{deep}}}"),
    ] {
        harness.account(0).clear_journal();
        // The simulated account does not read that deep; it is enough that it was asked.
        let reply = Reply::of(harness.request().body(body.clone())).await;
        assert_eq!(reply.status, 400);
        assert_eq!(harness.account(0).journal().len(), 1, "{:?}", reply.json());
    }
    assert_eq!(harness.turn(None).await.status, 200);
}

#[tokio::test]
async fn bytes_that_are_no_http_end_their_connection_only() {
    let harness = Harness::over(1).await;
    let host = &harness.gateway.address;
    let garbage: [&[u8]; 3] = [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"POST /v1/responses HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    ];
    for bytes in garbage {
        let answer = raw::exchange(host, bytes).await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"),
            "{answer:?}"
        );
    }
    assert_eq!(harness.turn(None).await.status, 200);
}

#[tokio::test]
async fn a_smuggled_request_is_not_taken_for_one() {
    let harness = Harness::over(1).await;
    let request = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    );
    let answer = raw::exchange(&harness.gateway.address, request.as_bytes()).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(
        text.starts_with("HTTP/1.1 400") || text.starts_with("HTTP/1.1 200"),
        "{text}"
    );
    assert!(harness.account(0).journal().len() <= 1);
    for entry in harness.account(0).journal() {
        assert!(
            entry.header("transfer-encoding").is_none() || entry.header("content-length").is_none(),
            "{entry:?}"
        );
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_leaves_a_row() {
    let harness = Harness::over(1).await;
    let mut stream = tokio::net::TcpStream::connect(&harness.gateway.address)
        .await
        .unwrap();
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 1000\r\n\r\n{{\"model\":"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    let row = crate::harness::eventually("the row", || {
        harness.query("SELECT * FROM turns WHERE outcome <> 'open'").pop()
    })
    .await;
    assert!(
        row["outcome"] == "client_gone" || row["outcome"] == "refused",
        "{row}"
    );
    assert_eq!(row["client_key"], "laptop");
}

#[tokio::test]
async fn an_upstream_that_breaks_the_protocol_is_an_error_and_no_crash() {
    let upstream = raw::RawUpstream::start().await;
    let simulator = moorage::simulator::Simulator::start(moorage::simulator::SimulatorConfig {
        accounts: Vec::new(),
        ..Default::default()
    })
    .await
    .unwrap();
    let account = ("raw".to_owned(), upstream.base_url.clone(), "sk-raw".to_owned());
    let harness = Harness::build(0).start_over(simulator, &[account]).await;
    let answers: [&[u8]; 6] = [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\nnot json!",
        b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere.example/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 999999\r\nretry-after: 0\r\n\r\n{",
    ];
    for answer in answers {
        upstream.say(vec![answer.to_vec()]);
        let reply = Reply::of(harness.request().body(said("hi", None).to_string())).await;
        let row = harness.row(reply.request_id()).await;
        assert_ne!(
            row["outcome"],
            "completed",
            "{:?} {row}",
            String::from_utf8_lossy(answer)
        );
        let request = upstream.last_request();
        assert!(
            raw::find(&request, b"Bearer sk-raw").is_some() && raw::find(&request, KEY.as_bytes()).is_none()
        );
        assert!(serde_json::from_slice::<serde_json::Value>(raw::body(&request)).is_ok());
    }
}
