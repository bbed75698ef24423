//! WebSocket mode towards clients, over accounts that speak HTTP only.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Harness, KEY, Reply, eventually, said};
use crate::raw;
use crate::socket::{Ended, Socket, create, unstored};

/// What the first account was asked over HTTP.
fn posted(harness: &Harness) -> Vec<moorage::simulator::JournalEntry> {
    let journal = harness.account(0).journal().into_iter();
    journal.filter(|entry| entry.method == "POST").collect()
}

#[tokio::test]
async fn four_turns_over_a_websocket_stay_on_one_account_and_leave_a_row_each() {
    let harness = Harness::build(3).http_only().start().await;
    let mut socket = harness.socket().await;
    let mut previous: Option<String> = None;
    let mut accounts = Vec::new();
    for _ in 0..4 {
        let turn = socket
            .turn(create("What does the tide do?", previous.as_deref()))
            .await;
        assert_eq!(turn.events[0]["type"], "response.created");
        assert!(turn.events.iter().all(|event| event["stream_id"].is_null()));
        accounts.push(turn.account());
        previous = Some(turn.id());
    }
    assert!(
        accounts.iter().all(|account| *account == accounts[0]),
        "{accounts:?}"
    );
    let rows = harness.socket_rows(4).await;
    assert_eq!(rows.len(), 4);
    for (row, account) in rows.iter().zip(&accounts) {
        assert_eq!(row["transport"], "websocket");
        assert_eq!(row["account"], **account);
        assert_eq!(row["outcome"], "completed");
        assert_eq!(row["chain"], rows[0]["chain"]);
        assert!(row["input_tokens"].as_i64().unwrap() > 0);
    }
    assert_eq!(rows[3]["affinity"], "hit");
    assert_eq!(rows[3]["affinity_by"], "previous_response_id");
    // What is stored is known everywhere.
    let reply = harness.post(said("go on", previous.as_deref())).await;
    assert_eq!((reply.status, reply.account()), (200, accounts[0].as_str()));
}

#[tokio::test]
async fn a_session_as_codex_holds_it_goes_on_over_an_account_that_speaks_http_only() {
    let harness = Harness::build(2).http_only().start().await;
    let mut socket = harness
        .socket_with(&[("originator", "codex_exec"), ("session-id", "s-1")])
        .await;
    let tool = json!([{ "type": "function", "name": "shell", "parameters": {} }]);
    let mut warm = unstored("", None);
    warm["generate"] = false.into();
    warm["input"] = json!([{ "type": "message", "role": "developer", "content": "You sail." }]);
    warm["tools"] = tool.clone();
    let warm = socket.turn(warm).await;
    assert_eq!(warm.last()["response"]["output"], json!([]));

    let mut first = unstored("call the tool shell with {\"cmd\":\"ls\"}", Some(&warm.id()));
    first["tools"] = tool.clone();
    let first = socket.turn(first).await;
    let output = &first.last()["response"]["output"];
    assert_eq!(output[0]["type"], "reasoning");
    let call = output[1]["call_id"].clone();

    let mut second = unstored("", Some(&first.id()));
    second["input"] = json!([{ "type": "function_call_output", "call_id": call, "output": "boats" }]);
    second["tools"] = tool;
    let second = socket.turn(second).await;

    // The upstream was sent all of it: it holds nothing itself.
    let account = harness.named(&second.account());
    let body = account.journal().last().unwrap().json();
    let kinds: Vec<&str> = body["input"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["type"].as_str().unwrap_or("user"))
        .collect();
    assert_eq!(
        kinds,
        [
            "message",
            "user",
            "reasoning",
            "function_call",
            "function_call_output"
        ]
    );
    assert!(
        body.get("previous_response_id").is_none() && body.get("type").is_none(),
        "{body}"
    );
    assert_eq!(body["stream"], true);
    let rows = harness.socket_rows(3).await;
    assert!(
        rows.iter()
            .all(|row| row["account"] == *account.name() && row["outcome"] == "completed")
    );
    assert_eq!(rows[2]["previous_response_id"], first.id());
    assert_eq!(rows[2]["affinity"], "hit");
}

#[tokio::test]
async fn what_is_not_stored_is_known_to_its_connection_only() {
    let mut harness = Harness::build(2).http_only().start().await;
    let mut socket = harness.socket().await;
    let turn = socket.turn(unstored("What does the tide do?", None)).await;
    let scopes = harness.query("SELECT count(*) AS n FROM known_references WHERE connection IS NOT NULL");
    assert_eq!(scopes[0]["n"], 1);

    let before: usize = harness
        .simulator
        .accounts()
        .iter()
        .map(|account| account.journal().len())
        .sum();
    let refused = harness
        .socket()
        .await
        .refusal(unstored("go on", Some(&turn.id())))
        .await;
    assert_eq!(
        (refused["status"].clone(), refused["error"]["code"].clone()),
        (400.into(), "previous_response_not_found".into())
    );
    assert_eq!(refused["error"]["param"], "previous_response_id");
    let over_http = harness.post(said("go on", Some(&turn.id()))).await;
    assert_eq!(
        (over_http.status, over_http.code().as_str()),
        (400, "previous_response_not_found")
    );
    let after: usize = harness
        .simulator
        .accounts()
        .iter()
        .map(|account| account.journal().len())
        .sum();
    assert_eq!(before, after, "an account was asked");

    // Its own connection goes on.
    let next = socket.turn(unstored("go on", Some(&turn.id()))).await;
    harness.kill_and_restart();
    let refused = harness
        .socket()
        .await
        .refusal(unstored("go on", Some(&next.id())))
        .await;
    assert_eq!(refused["error"]["code"], "previous_response_not_found");
}

#[tokio::test]
async fn lanes_run_beside_each_other_and_one_forks_from_another() {
    let harness = Harness::build(2).http_only().start().await;
    let mut socket = harness.socket().await;
    let in_lane = |mut event: Value, lane: &str| {
        event["stream_id"] = lane.into();
        event
    };
    let root = socket.turn(in_lane(unstored("root", None), "main")).await;
    assert!(root.events.iter().all(|event| event["stream_id"] == "main"));
    socket
        .send(&in_lane(unstored("left", Some(&root.id())), "left"))
        .await;
    socket
        .send(&in_lane(unstored("right", Some(&root.id())), "right"))
        .await;
    let mut ended = Vec::new();
    let mut said = String::new();
    while ended.len() < 2 {
        let event = socket.next().await;
        let lane = event["stream_id"].as_str().unwrap().to_owned();
        if event["type"] == "response.completed" {
            ended.push(lane);
        } else if event["type"] == "response.output_text.delta" {
            said += event["delta"].as_str().unwrap();
        }
    }
    ended.sort();
    assert_eq!(ended, ["left", "right"]);
    assert!(said.contains("Turn 2"), "the fork knows what came before: {said}");
}

#[tokio::test]
async fn errors_have_a_status_and_the_connection_lives_on() {
    let harness = Harness::build(1).http_only().start().await;
    let mut socket = harness.socket().await;
    let cases = [
        (Message::binary(vec![1, 2, 3]), "binary_message"),
        (Message::text("no json"), "invalid_json"),
        (Message::text("[]"), "invalid_json"),
        (Message::text(r#"{"type":"response.harbour"}"#), "unknown_event"),
        (
            Message::text(r#"{"type":"response.create","stream_id":"a b"}"#),
            "invalid_stream_id",
        ),
        (
            Message::text(
                r#"{"type":"response.create","model":"m","input":"hi","previous_response_id":"resp_nobody"}"#,
            ),
            "previous_response_not_found",
        ),
    ];
    for (message, code) in cases {
        socket.say(message).await;
        let event = socket.next().await;
        assert_eq!(
            (&event["type"], &event["error"]["code"]),
            (&"error".into(), &code.into()),
            "{event}"
        );
        assert_eq!(event["status"], 400, "{event}");
    }
    socket
        .send(&json!({ "type": "response.steer", "previous_response_id": "r", "input": [] }))
        .await;
    let steered = socket.next().await;
    assert_eq!(steered["error"]["code"], "steering_not_supported");
    socket.turn(create("still here", None)).await;
}

#[tokio::test]
async fn a_connection_has_so_many_lanes_and_no_more() {
    let harness = Harness::build(1).http_only().start().await;
    let mut socket = harness.socket().await;
    for number in 0..32 {
        let mut event = create("hi", None);
        event["stream_id"] = format!("lane-{number}").into();
        socket.turn(event).await;
    }
    let mut event = create("hi", None);
    event["stream_id"] = "one-more".into();
    let refused = socket.refusal(event).await;
    assert_eq!(refused["error"]["code"], "websocket_stream_limit_reached");
    assert_eq!(refused["stream_id"], "one-more");
    socket.turn(create("the one without a name", None)).await;
}

#[tokio::test]
async fn upstream_errors_reach_the_client_with_their_status() {
    let harness = Harness::build(1).http_only().start().await;
    let mut socket = harness.socket().await;
    let account = harness.account(0);
    for (fault, status, code) in [
        ("status=400;code=invalid_prompt", 400, "invalid_prompt"),
        ("status=404;code=thing_not_found", 404, "thing_not_found"),
        ("error_event", 500, "server_error"),
        ("nested_error_event", 503, "server_is_overloaded"),
    ] {
        // A fault of the server is tried once more.
        account.always(Some(fault.parse().unwrap()));
        socket.send(&create("hi", None)).await;
        let turn = socket.answer().await;
        let event = turn.last();
        assert_eq!(
            (&event["type"], &event["status"]),
            (&"error".into(), &status.into()),
            "{fault}: {event}"
        );
        assert_eq!(event["error"]["code"], code, "{fault}: {event}");
    }
    account.always(None);
    socket.turn(create("well again", None)).await;
}

#[tokio::test]
async fn keys_are_checked_at_the_door_and_at_each_request() {
    let harness = Harness::build(1).http_only().start().await;
    let url = format!("{}/v1", harness.gateway.url());
    assert_eq!(Socket::open(&url, "mk-wrong", &[]).await.err(), Some(401));
    let key = harness.run(&["key", "add", "guest"]);
    let key = key
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("mk-"))
        .unwrap()
        .to_owned();
    let mut socket = Socket::open(&url, &key, &[]).await.unwrap();
    socket.turn(create("hi", None)).await;
    harness.run(&["key", "revoke", "guest"]);
    let refused = socket.refusal(create("hi", None)).await;
    assert_eq!(
        (refused["status"].clone(), refused["error"]["code"].clone()),
        (401.into(), "invalid_api_key".into())
    );
}

#[tokio::test]
async fn an_account_that_is_limited_in_the_middle_makes_the_client_send_all_and_the_session_moves() {
    let harness = Harness::build(2).http_only().start().await;
    let headers = [("originator", "codex_exec"), ("session-id", "s-7")];
    let mut socket = harness.socket_with(&headers).await;
    let first = socket.turn(unstored("one", None)).await;
    let home = first.account();
    let sealed = first.last()["response"]["output"][0].clone();
    assert!(sealed["encrypted_content"].is_string());
    let limit = "status=429;code=rate_limit_exceeded;retry_after=3600";
    harness.named(&home).always(Some(limit.parse().unwrap()));

    let refused = socket.refusal(unstored("two", Some(&first.id()))).await;
    assert_eq!(refused["error"]["code"], "previous_response_not_found");
    // As Codex does: a new connection, all of it again.
    let mut socket = harness.socket_with(&headers).await;
    let mut again = unstored("two", None);
    again["input"] = json!([
        { "role": "user", "content": "one" }, sealed,
        { "role": "assistant", "content": "the tide" }, { "role": "user", "content": "two" },
    ]);
    let moved = socket.turn(again).await;
    assert_ne!(moved.account(), home);
    let body = harness.named(&moved.account()).journal().last().unwrap().json();
    assert!(
        !body.to_string().contains("gAAAA"),
        "sealed reasoning of the old account: {body}"
    );
    let rows = harness.socket_rows(3).await;
    assert_eq!(rows[1]["affinity"], "refused");
    assert_eq!(
        (&rows[2]["affinity"], &rows[2]["account"]),
        (&"moved".into(), &moved.account().into())
    );
    assert_eq!(rows[2]["chain"], rows[0]["chain"]);
    let next = socket.turn(unstored("three", Some(&moved.id()))).await;
    assert_eq!(next.account(), moved.account());
}

#[tokio::test]
async fn what_is_held_here_goes_along_also_with_a_request_that_brings_no_input() {
    let harness = Harness::build(1).http_only().start().await;
    for input in [None, Some(Value::Null)] {
        let mut socket = harness.socket().await;
        let mut warm = unstored("What does the tide do?", None);
        warm["generate"] = false.into();
        let warm = socket.turn(warm).await;
        let mut next = unstored("", Some(&warm.id()));
        next.as_object_mut().unwrap().remove("input");
        if let Some(input) = input {
            next["input"] = input;
        }
        socket.turn(next).await;
        let body = posted(&harness).last().unwrap().json();
        let input = body["input"].to_string();
        assert!(input.contains("What does the tide do?"), "{body}");
    }
}

#[tokio::test]
async fn a_gateway_that_stops_ends_what_runs_and_hangs_up_with_1012() {
    let mut harness = Harness::build(1).http_only().start().await;
    let mut idle = harness.socket().await;
    let mut busy = harness
        .socket_with(&[("x-simulate", "delta_delay=100ms;deltas=5")])
        .await;
    busy.send(&create("hi", None)).await;
    assert_eq!(busy.next().await["type"], "response.created");
    harness.gateway.signal("TERM");
    assert_eq!(idle.ended().await, Ended::With(1012));
    assert_eq!(busy.answer().await.last()["type"], "response.completed");
    assert_eq!(busy.ended().await, Ended::With(1012));
    assert!(harness.gateway.ended().await.success());
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_a_row_and_stops_the_upstream() {
    let harness = Harness::build(1).http_only().start().await;
    let mut socket = harness
        .socket_with(&[("x-simulate", "delta_delay=20ms;deltas=500")])
        .await;
    socket.send(&create("hi", None)).await;
    socket.send(&create("waits for its turn", None)).await;
    socket.next().await;
    drop(socket);
    let rows = harness.socket_rows(2).await;
    for row in rows {
        assert_eq!(
            (&row["outcome"], &row["client_key"]),
            (&json!("client_gone"), &json!("laptop"))
        );
    }
    let cut = moorage::simulator::Ending::Cut;
    eventually("the end of the upstream's stream", || {
        (posted(&harness)[0].ending == cut).then_some(())
    })
    .await;
}

#[tokio::test]
async fn codex_hears_a_sign_of_life_and_others_get_pings_only() {
    let settings = "[limits]\nsocket_ping = \"50ms\"\nstream_comment = \"60ms\"";
    let harness = Harness::build(1).http_only().section(settings).start().await;
    let slow = ("x-simulate", "slow=600ms");
    let mut codex = harness
        .socket_with(&[slow, ("user-agent", "codex_exec/0.169.0")])
        .await;
    codex.send(&create("hi", None)).await;
    let first = codex.next().await;
    assert_eq!(first, json!({ "type": "keepalive" }));
    let mut other = harness.socket_with(&[slow]).await;
    let turn = other.turn(create("hi", None)).await;
    assert!(turn.events.iter().all(|event| event["type"] != "keepalive"));
}

#[tokio::test]
async fn a_dead_peer_is_found_and_cleaned_up() {
    use tokio::io::AsyncReadExt as _;
    let settings = "[limits]\nsocket_ping = \"50ms\"";
    let harness = Harness::build(1).http_only().section(settings).start().await;
    // It never answers a ping.
    let mut raw = upgraded(&harness).await;
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(crate::harness::PATIENCE, raw.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "it is still open");
}

/// A connection that was upgraded, with nobody behind it who speaks WebSocket.
async fn upgraded(harness: &Harness) -> tokio::net::TcpStream {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(&harness.gateway.address)
        .await
        .unwrap();
    let head = format!(
        "GET /v1/responses HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(
        answer.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    stream
}

#[tokio::test]
async fn a_slow_client_slows_the_upstream_and_loses_nothing() {
    let harness = Harness::build(1).http_only().start().await;
    let mut socket = harness
        .socket_with(&[("x-simulate", "output_bytes=12000000;deltas=3000;chunk=65536")])
        .await;
    socket.send(&create("hi", None)).await;
    // It reads nothing until the upstream has been stopped by that: its answer is not sent to its end.
    eventually("the request", || (!posted(&harness).is_empty()).then_some(())).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(posted(&harness)[0].ending, moorage::simulator::Ending::Open);
    let turn = socket.answer().await;
    let deltas = turn.text();
    assert_eq!(turn.last()["response"]["output"][0]["content"][0]["text"], deltas);
    let numbers: Vec<u64> = turn
        .events
        .iter()
        .map(|event| event["sequence_number"].as_u64().unwrap())
        .collect();
    assert!(
        numbers
            .iter()
            .enumerate()
            .all(|(index, number)| index as u64 == *number)
    );
}

#[tokio::test]
async fn sixty_four_busy_connections_lose_no_frame() {
    let harness = Harness::build(2).http_only().start().await;
    let mut talks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let mut socket = harness.socket_with(&[("x-simulate", "deltas=200")]).await;
        talks.spawn(async move {
            let mut previous = None;
            for _ in 0..3 {
                let turn = socket.turn(unstored("hi", previous.as_deref())).await;
                let whole = &turn.last()["response"]["output"][1]["content"][0]["text"];
                assert_eq!(*whole, turn.text());
                previous = Some(turn.id());
            }
        });
    }
    while let Some(talk) = talks.join_next().await {
        talk.unwrap();
    }
    assert_eq!(harness.socket_rows(192).await.len(), 192);
}

#[tokio::test]
async fn frames_of_any_kind_harm_no_other_connection() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let settings = "[limits]\nrequest_body_bytes = 100000";
    let harness = Harness::build(1).http_only().section(settings).start().await;
    let mut well = harness.socket().await;
    let first = well.turn(unstored("before", None)).await;
    // Too large: said, and closed.
    let mut socket = harness.socket().await;
    socket.say(Message::text("x".repeat(200_000))).await;
    assert_eq!(socket.ended().await, Ended::With(1009));
    let masked = |first: u8, payload: &[u8]| {
        let mut frame = vec![first, 0x80 | payload.len() as u8, 1, 2, 3, 4];
        frame.extend(
            payload
                .iter()
                .enumerate()
                .map(|(index, byte)| byte ^ [1, 2, 3, 4][index % 4]),
        );
        frame
    };
    // Invalid UTF-8, reserved bits, a continuation of nothing, an unmasked frame, a control frame in
    // pieces, a length that lies.
    let broken = [
        masked(0x81, &[0xff, 0xfe]),
        masked(0xf1, b"{}"),
        masked(0x80, b"{}"),
        vec![0x81, 0x02, b'{', b'}'],
        masked(0x09, b"ping"),
        vec![
            0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
        ],
    ];
    for frame in broken {
        let mut raw = upgraded(&harness).await;
        raw.write_all(&frame).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(crate::harness::PATIENCE, raw.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{frame:x?} left it open");
    }
    // In pieces, with a ping between them, as it is allowed.
    let mut raw = upgraded(&harness).await;
    let event = br#"{"type":"response.create","model":"sim-large","input":"hi"}"#;
    for frame in [
        masked(0x01, &event[..20]),
        masked(0x89, b"x"),
        masked(0x00, &event[20..40]),
        masked(0x80, &event[40..]),
    ] {
        raw.write_all(&frame).await.unwrap();
    }
    let mut heard = Vec::new();
    while raw::find(&heard, b"response.completed").is_none() {
        let mut piece = [0; 4096];
        let read = tokio::time::timeout(crate::harness::PATIENCE, raw.read(&mut piece)).await;
        let count = read.unwrap().unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&piece[..count]);
    }
    // Noise of all lengths.
    let mut seed = 7_u64;
    for _ in 0..200 {
        let mut raw = upgraded(&harness).await;
        let mut noise = Vec::new();
        for _ in 0..(seed % 97) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            noise.push((seed >> 33) as u8);
        }
        raw.write_all(&noise).await.ok();
        seed = seed.wrapping_add(1).wrapping_mul(31);
    }
    let next = well.turn(unstored("after", Some(&first.id()))).await;
    assert!(next.text().contains("Turn 2"));
}

#[tokio::test]
async fn a_client_that_sends_faster_than_it_is_answered_is_slowed() {
    let settings = "[limits]\nrequest_body_bytes = 100000";
    let harness = Harness::build(1).http_only().section(settings).start().await;
    let socket = harness.socket_with(&[("x-simulate", "slow=20ms")]).await;
    let filling = "x".repeat(40_000);
    // Far more than there is room for: all of it is answered, in its order.
    let (mut sink, source) = futures_util::StreamExt::split(socket.stream);
    let sender = tokio::spawn(async move {
        for number in 0..40 {
            let mut event = create(&format!("{number}"), None);
            event["metadata"] = json!({ "filling": filling });
            let message = Message::text(event.to_string());
            futures_util::SinkExt::send(&mut sink, message).await.unwrap();
        }
        sink
    });
    let mut answered = 0;
    let mut source = source;
    while answered < 40 {
        let message = tokio::time::timeout(
            crate::harness::PATIENCE,
            futures_util::StreamExt::next(&mut source),
        );
        if let Message::Text(text) = message.await.unwrap().unwrap().unwrap() {
            let event: Value = serde_json::from_str(&text).unwrap();
            if event["type"] == "response.completed" {
                let said = event["response"]["output"][0]["content"][0]["text"]
                    .as_str()
                    .unwrap()
                    .to_owned();
                assert!(said.ends_with(&format!("You said: {answered}")), "{said}");
                answered += 1;
            }
        }
    }
    drop(sender.await.unwrap());
}

#[tokio::test]
async fn what_a_connection_holds_is_bounded_and_what_does_not_fit_is_sent_anew() {
    let settings = "[limits]\nrequest_body_bytes = 100000";
    let harness = Harness::build(1).http_only().section(settings).start().await;
    let mut socket = harness.socket().await;
    let long = "x".repeat(60_000);
    let mut in_lane = unstored(&long, None);
    in_lane["stream_id"] = "other".into();
    let other = socket.turn(in_lane).await;
    let first = socket.turn(unstored(&long, None)).await;
    // There was room for one of them: the newest.
    let refused = socket.refusal(unstored("go on", Some(&other.id()))).await;
    assert_eq!(refused["error"]["code"], "previous_response_not_found");
    let second = socket.turn(unstored(&long, Some(&first.id()))).await;
    // And all of this is more than could be sent.
    let refused = socket.refusal(unstored("go on", Some(&second.id()))).await;
    assert_eq!(refused["error"]["code"], "previous_response_not_found");
}

#[tokio::test]
async fn http_goes_on_beside_websockets() {
    let harness = Harness::build(1).http_only().start().await;
    let mut socket = harness.socket().await;
    let turn = socket.turn(create("hi", None)).await;
    let reply = Reply::of(
        harness
            .request()
            .body(said("go on", Some(&turn.id())).to_string()),
    )
    .await;
    assert_eq!(reply.status, 200);
    let id = reply.id();
    socket.turn(create("and on", Some(&id))).await;
}
