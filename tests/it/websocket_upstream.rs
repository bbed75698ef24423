//! WebSocket mode over accounts that speak it: one connection of ours for one of the client's.

use serde_json::{Value, json};

use moorage::simulator::{JournalEntry, SimulatedAccount};

use crate::harness::{Harness, eventually, said};
use crate::socket::{Socket, create, unstored};

/// The upgrades and the events that an account has got.
fn got(account: &SimulatedAccount) -> (usize, Vec<JournalEntry>) {
    let journal = account.journal();
    let upgrades = journal.iter().filter(|entry| entry.status == 101).count();
    let events = journal.into_iter().filter(|entry| entry.method == "WEBSOCKET");
    (upgrades, events.collect())
}

#[tokio::test]
async fn a_chain_goes_over_one_connection_and_only_what_is_new_is_sent() {
    let harness = Harness::over(2).await;
    let mut socket = harness
        .socket_with(&[("openai-beta", "responses_websockets=2026-02-06")])
        .await;
    let mut warm = unstored("the whole of the beginning", None);
    warm["generate"] = false.into();
    let warm = socket.turn(warm).await;
    let mut previous = warm.id();
    let mut account = String::new();
    for number in 0..3 {
        let turn = socket
            .turn(unstored(&format!("part {number}"), Some(&previous)))
            .await;
        assert!(
            turn.text().starts_with(&format!("Turn {} ", number + 2)),
            "{}",
            turn.text()
        );
        account = turn.account();
        previous = turn.id();
    }
    let (upgrades, events) = got(harness.named(&account));
    assert_eq!((upgrades, events.len()), (1, 4));
    let last = events[3].json();
    assert_eq!(last["input"], json!([{ "role": "user", "content": "part 2" }]));
    assert_eq!(
        (&last["type"], &last["store"]),
        (&json!("response.create"), &json!(false))
    );
    assert!(last["prompt_cache_key"].is_string(), "filled in, as over HTTP");
    assert_eq!(
        events[0].header("openai-beta"),
        Some("responses_websockets=2026-02-06")
    );
    assert_eq!(
        events[0].header("authorization"),
        Some(format!("Bearer sk-{account}").as_str())
    );
    let rows = harness.socket_rows(4).await;
    assert!(
        rows.iter()
            .all(|row| row["account"] == *account && row["outcome"] == "completed"),
        "{rows:?}"
    );
    assert!(rows.iter().all(|row| row["chain"] == rows[0]["chain"]));
}

#[tokio::test]
async fn an_upgrade_that_is_refused_for_hours_is_an_attempt_that_failed_and_another_account_serves() {
    let harness = Harness::over(2).await;
    let fault = "upgrade=429;code=usage_limit_reached;retry_after=12964";
    harness.account(0).always(Some(fault.parse().unwrap()));
    for _ in 0..3 {
        let mut socket = harness.socket().await;
        assert_eq!(socket.turn(create("hi", None)).await.account(), "sim-b");
    }
    let rows = harness.socket_rows(3).await;
    assert_eq!(
        rows.iter()
            .map(|row| row["attempts"].as_i64().unwrap())
            .sum::<i64>(),
        4,
        "{rows:?}"
    );
    let standing = harness.query("SELECT status FROM accounts_now WHERE account = 'sim-a'");
    assert_ne!(standing[0]["status"], "active");
}

#[tokio::test]
async fn an_upgrade_that_fails_without_a_word_about_the_account_goes_over_http() {
    let harness = Harness::over(1).await;
    for fault in ["upgrade=503", "upgrade=403", "upgrade=404"] {
        harness.account(0).script(fault.parse().unwrap());
        let turn = harness.socket().await.turn(create("hi", None)).await;
        assert_eq!(turn.account(), "sim-a", "{fault}");
        let last = harness.account(0).journal().pop().unwrap();
        assert_eq!((last.method.as_str(), last.status), ("POST", 200), "{fault}");
    }
    // Where the upgrade was not known, it is not asked for again.
    let before = harness.account(0).journal().len();
    harness.socket().await.turn(create("hi", None)).await;
    assert_eq!(harness.account(0).journal().len(), before + 1);
    let rows = harness.socket_rows(4).await;
    assert!(
        rows.iter()
            .all(|row| row["attempts"] == 1 && row["outcome"] == "completed"),
        "{rows:?}"
    );
}

#[tokio::test]
async fn a_limit_as_the_first_event_is_an_attempt_that_failed_and_another_account_serves() {
    let harness = Harness::over(2).await;
    let fault = "status=429;code=usage_limit_reached;retry_after=3600";
    harness.account(0).always(Some(fault.parse().unwrap()));
    harness.account(1).always(None);
    for _ in 0..3 {
        let mut socket = harness.socket().await;
        assert_eq!(socket.turn(unstored("hi", None)).await.account(), "sim-b");
    }
    let (_, events) = got(harness.account(0));
    assert_eq!(events.len(), 1, "it is asked no more");
}

#[tokio::test]
async fn an_account_limited_in_the_middle_makes_the_client_send_all_and_the_session_moves() {
    let harness = Harness::over(2).await;
    let headers = [("originator", "codex_exec"), ("session-id", "s-9")];
    let mut socket = harness.socket_with(&headers).await;
    let first = socket.turn(unstored("one", None)).await;
    let home = first.account();
    let sealed = first.last()["response"]["output"][0].clone();
    let limit = "status=429;code=usage_limit_reached;retry_after=3600";
    harness.named(&home).always(Some(limit.parse().unwrap()));
    // Once as the first event of the account, and then because it is known.
    for _ in 0..2 {
        let refused = socket.refusal(unstored("two", Some(&first.id()))).await;
        assert_eq!(refused["error"]["code"], "previous_response_not_found");
        assert_eq!(refused["status"], 400);
    }
    let mut again = unstored("two", None);
    again["input"] =
        json!([{ "role": "user", "content": "one" }, sealed, { "role": "user", "content": "two" }]);
    let moved = socket.turn(again).await;
    assert_ne!(moved.account(), home);
    let rows = harness.socket_rows(4).await;
    assert_eq!(
        (&rows[3]["affinity"], &rows[3]["chain"]),
        (&json!("moved"), &rows[0]["chain"])
    );
    let (_, events) = got(harness.named(&moved.account()));
    assert!(!String::from_utf8_lossy(&events[0].body).contains("gAAAA"));
    let next = socket.turn(unstored("three", Some(&moved.id()))).await;
    assert_eq!(next.account(), moved.account());
}

#[tokio::test]
async fn what_was_held_by_a_connection_that_is_lost_is_not_found_at_once_and_what_is_stored_goes_on() {
    let harness = Harness::over(2).await;
    let mut socket = harness.socket().await;
    let stored = socket.turn(create("kept", None)).await;
    let account = harness.named(&stored.account());
    let unkept = socket.turn(unstored("not kept", Some(&stored.id()))).await;
    assert_eq!(unkept.account(), account.name());
    account.script("cut_after=5".parse().unwrap());
    socket
        .send(&unstored("cut in the middle", Some(&unkept.id())))
        .await;
    let cut = socket.answer().await;
    assert_eq!(cut.last()["type"], "response.failed", "{cut:?}");

    let (upgrades, events) = got(account);
    let refused = socket.refusal(unstored("go on", Some(&unkept.id()))).await;
    assert_eq!(refused["error"]["code"], "previous_response_not_found");
    assert_eq!(got(account).1.len(), events.len(), "the account was asked");
    let next = socket.turn(create("go on", Some(&stored.id()))).await;
    assert_eq!(next.account(), account.name());
    assert_eq!(got(account).0, upgrades + 1);
    let over_http = harness.post(said("go on", Some(&next.id()))).await;
    assert_eq!((over_http.status, over_http.account()), (200, account.name()));
    let rows = harness.socket_rows(5).await;
    assert_eq!(rows[2]["outcome"], "upstream_cut");
}

#[tokio::test]
async fn connections_to_accounts_are_renewed_before_their_time_at_the_boundary_of_a_turn() {
    let settings = "[limits]\nsocket_age = \"400ms\"";
    let harness = Harness::build(1).section(settings).start().await;
    let mut socket = harness.socket().await;
    let first = socket.turn(unstored("one", None)).await;
    eventually("the age", || {
        let begun = std::time::Instant::now();
        std::thread::sleep(std::time::Duration::from_millis(450));
        (begun.elapsed().as_millis() > 400).then_some(())
    })
    .await;
    let refused = socket.refusal(unstored("two", Some(&first.id()))).await;
    assert_eq!(refused["error"]["code"], "previous_response_not_found");
    socket.turn(unstored("all of it", None)).await;
    assert_eq!(got(harness.account(0)).0, 2);
}

#[tokio::test]
async fn lanes_share_a_connection_and_fork_from_each_other_there() {
    let harness = Harness::over(2).await;
    let mut socket = harness.socket().await;
    let in_lane = |mut event: Value, lane: &str| {
        event["stream_id"] = lane.into();
        event
    };
    let root = socket.turn(in_lane(unstored("root", None), "main")).await;
    assert!(
        root.events.iter().all(|event| event["stream_id"] == "main"),
        "{root:?}"
    );
    for lane in ["left", "right"] {
        socket
            .send(&in_lane(unstored(lane, Some(&root.id())), lane))
            .await;
    }
    let mut ended = Vec::new();
    while ended.len() < 2 {
        let event = socket.next().await;
        if event["type"] == "response.completed" {
            let text = event["response"]["output"][1]["content"][0]["text"]
                .as_str()
                .unwrap()
                .to_owned();
            assert!(text.starts_with("Turn 2"), "{text}");
            ended.push(event["stream_id"].as_str().unwrap().to_owned());
        }
        assert_ne!(event["type"], "error", "{event}");
    }
    ended.sort();
    assert_eq!(ended, ["left", "right"]);
    assert_eq!(got(harness.named(&root.account())).0, 1);
}

#[tokio::test]
async fn a_response_is_steered_and_its_successor_has_a_row_of_its_own() {
    let harness = Harness::over(1).await;
    let mut socket = harness
        .socket_with(&[("x-simulate", "delta_delay=100ms;deltas=20")])
        .await;
    let mut story = create("a long story", None);
    story["stream_id"] = json!("main");
    socket.send(&story).await;
    let first = socket.next().await["response"]["id"].as_str().unwrap().to_owned();
    while socket.next().await["type"] != "response.output_text.delta" {}
    let said = json!([{ "role": "user", "content": "shorter" }]);
    socket
        .send(&json!({ "type": "response.steer", "previous_response_id": first, "input": said }))
        .await;
    let turn = socket.answer().await;
    assert!(
        turn.events
            .iter()
            .any(|event| event["type"] == "response.steer.accepted"),
        "{turn:?}"
    );
    assert!(
        turn.events.iter().all(|event| event["stream_id"] == "main"),
        "{turn:?}"
    );
    assert_eq!(turn.last()["response"]["incomplete_details"]["reason"], "steered");
    let successor = socket.answer().await;
    assert_eq!(successor.events[0]["type"], "response.created");
    assert_eq!(successor.last()["type"], "response.completed");
    let rows = harness.socket_rows(2).await;
    assert_eq!(
        (&rows[0]["response_id"], &rows[0]["outcome"]),
        (&json!(first), &json!("incomplete"))
    );
    assert_eq!(
        (&rows[1]["response_id"], &rows[1]["outcome"]),
        (&json!(successor.id()), &json!("completed"))
    );
    assert_eq!(rows[1]["previous_response_id"], json!(first));
    // Its id is known like any other.
    let reply = harness
        .post(crate::harness::said("go on", Some(&successor.id())))
        .await;
    assert_eq!(
        (reply.status, reply.affinity()),
        (200, "hit; by=previous_response_id")
    );
    let late = json!({ "type": "response.steer", "previous_response_id": first, "input": [] });
    socket.send(&late).await;
    assert_eq!(socket.next().await["error"]["code"], "response_not_active");
}

#[tokio::test]
async fn an_event_that_nobody_knows_passes_to_the_account() {
    let harness = Harness::over(1).await;
    let mut socket = harness.socket_with(&[("x-simulate", "delta_delay=100ms")]).await;
    socket.send(&create("hi", None)).await;
    socket.next().await;
    socket
        .send(&json!({ "type": "response.harbour", "tide": "high" }))
        .await;
    let turn = socket.answer().await;
    // The account knows it as little, and says so in its own words.
    assert_eq!(
        turn.last()["error"]["message"],
        "This type of event is not known here.",
        "{turn:?}"
    );
}

#[tokio::test]
async fn a_client_that_goes_away_closes_the_connection_to_the_account() {
    let harness = Harness::over(1).await;
    let mut socket = harness
        .socket_with(&[("x-simulate", "delta_delay=20ms;deltas=500")])
        .await;
    socket.send(&create("hi", None)).await;
    socket.next().await;
    drop(socket);
    let rows = harness.socket_rows(1).await;
    assert_eq!(rows[0]["outcome"], "client_gone");
    eventually("the end of the answer", || {
        let (_, events) = got(harness.account(0));
        (events[0].ending == moorage::simulator::Ending::Cut).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_simulated_account_speaks_websocket_as_the_real_api_does() {
    let harness = Harness::over(1).await;
    let account = harness.account(0);
    let open = async || {
        Socket::open(account.base_url(), account.api_key(), &[])
            .await
            .unwrap()
    };
    let mut socket = open().await;
    let first = socket.turn(unstored("one", None)).await;
    // Another connection does not have it; a continuation that fails takes it along.
    let refused = open().await.refusal(unstored("two", Some(&first.id()))).await;
    assert_eq!(refused["error"]["code"], "previous_response_not_found");
    account.script("status=500".parse().unwrap());
    let failed = socket.refusal(unstored("two", Some(&first.id()))).await;
    assert_eq!(failed["status"], 500);
    let refused = socket.refusal(unstored("two", Some(&first.id()))).await;
    assert_eq!(refused["error"]["code"], "previous_response_not_found");
    // What is stored is there for all.
    let stored = socket.turn(create("one", None)).await;
    open().await.turn(create("two", Some(&stored.id()))).await;
    // Members of events are no members of bodies.
    for (name, value) in [
        ("type", json!("response.create")),
        ("generate", json!(false)),
        ("stream_id", json!("a")),
    ] {
        let mut body = said("hi", None);
        body[name] = value;
        let url = format!("{}/responses", account.base_url());
        let request = harness
            .http
            .post(url)
            .bearer_auth(account.api_key())
            .body(body.to_string());
        let reply = crate::harness::Reply::of(request).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "unknown_parameter"),
            "{name}"
        );
    }
    account.script("upgrade=403".parse().unwrap());
    let refused = Socket::open(account.base_url(), account.api_key(), &[])
        .await
        .err();
    assert_eq!(refused, Some(403));
}
