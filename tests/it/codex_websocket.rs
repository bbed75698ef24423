//! Accounts that are ChatGPT logins, over the WebSocket that alone knows what was said on it: for clients
//! that speak it themselves, and kept for those that speak HTTP.

use std::time::Duration;

use moorage::account::Kind;
use moorage::simulator::{JournalEntry, SimulatedAccount};
use serde_json::{Value, json};

use crate::harness::{Builder, Harness, Reply, WithJson as _, eventually, said, streamed};
use crate::socket::{create, unstored};

fn logins(number: usize) -> Builder {
    Harness::build(number).kinds(&vec![Kind::Codex; number])
}

/// How many connections an account has seen, and the events that came over them.
fn got(account: &SimulatedAccount) -> (usize, Vec<JournalEntry>) {
    let journal = account.journal();
    let upgrades = journal.iter().filter(|entry| entry.status == 101).count();
    let events = journal.into_iter().filter(|entry| entry.method == "WEBSOCKET");
    (upgrades, events.collect())
}

/// What an account was asked to answer, by whichever way.
fn asked(account: &SimulatedAccount) -> Vec<JournalEntry> {
    let journal = account.journal().into_iter();
    journal.filter(|entry| entry.method != "GET").collect()
}

/// Nothing of the kind is known any more, and nobody was asked.
async fn is_not_found(harness: &Harness, body: Value) {
    let asked = || -> usize {
        let accounts = harness.simulator.accounts().iter();
        accounts.map(|account| asked(account).len()).sum()
    };
    let before = asked();
    let refused = harness.post(body).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (400, "previous_response_not_found"),
        "{refused:?}"
    );
    assert_eq!(before, asked(), "an account was asked");
}

#[tokio::test]
async fn a_websocket_client_has_a_connection_of_its_own_to_a_login_and_sends_only_what_is_new() {
    let harness = logins(2).start().await;
    let mut socket = harness
        .socket_with(&[
            ("originator", "codex_exec"),
            ("version", "0.169.0"),
            ("session-id", "mine"),
        ])
        .await;
    let mut warm = unstored("the whole of the beginning", None);
    warm["generate"] = false.into();
    warm["input"][0]["role"] = "developer".into();
    let mut previous = socket.turn(warm).await.id();
    let mut account = String::new();
    for number in 0..3 {
        let turn = socket
            .turn(unstored(&format!("part {number}"), Some(&previous)))
            .await;
        account = turn.account();
        previous = turn.id();
    }
    let account = harness.named(&account);
    let (upgrades, events) = got(account);
    assert_eq!((upgrades, events.len()), (1, 4));
    let last = events[3].json();
    assert_eq!(last["input"], json!([{ "role": "user", "content": "part 2" }]));
    // A developer has said what is to be done, and nobody else does.
    assert!(
        events
            .iter()
            .all(|event| event.json().get("instructions").is_none())
    );
    let header = |name: &str| events[0].header(name).map(str::to_owned);
    assert_eq!(header("originator").as_deref(), Some("moorage"));
    assert_eq!(
        header("chatgpt-account-id"),
        Some(format!("acct-{}", account.name()))
    );
    assert_eq!(header("session-id").as_deref(), Some("mine"));
    assert_eq!((header("version"), header("cookie")), (None, None));
    assert!(
        header("openai-beta")
            .unwrap()
            .starts_with("responses_websockets=")
    );
    let rows = harness.socket_rows(4).await;
    assert!(
        rows.iter()
            .all(|row| row["account"] == account.name() && row["outcome"] == "completed"),
        "{rows:?}"
    );
}

#[tokio::test]
async fn a_plain_chain_over_a_websocket_is_made_to_fit_from_its_first_turn_to_its_last() {
    let harness = logins(1).start().await;
    let mut socket = harness.socket().await;
    let mut first = create("Which tide is it?", None);
    first["temperature"] = 0.2.into();
    first["input"] = "Which tide is it?".into();
    let first = socket.turn(first).await;
    let second = socket.turn(create("And now?", Some(&first.id()))).await;
    assert!(second.text().starts_with("Turn 2 "), "{}", second.text());
    let (upgrades, events) = got(harness.account(0));
    assert_eq!(upgrades, 1);
    for event in &events {
        let event = event.json();
        assert_eq!((&event["store"], &event["stream"]), (&json!(false), &json!(true)));
        assert_eq!(event["instructions"], "You are a helpful assistant.");
        assert!(event.get("temperature").is_none());
    }
    assert_eq!(events[1].json()["previous_response_id"], json!(first.id()));
    // It is known on this connection alone, whatever the client asked for.
    is_not_found(&harness, said("And then?", Some(&second.id()))).await;
}

#[tokio::test]
async fn an_http_client_goes_on_from_a_response_over_the_connection_that_holds_it() {
    let harness = logins(2).start().await;
    let first = harness.turn(None).await;
    let second = harness.post(streamed("And now?", Some(&first.id()))).await;
    assert_eq!(
        (second.status, second.account()),
        (200, first.account()),
        "{second:?}"
    );
    assert_eq!(second.affinity(), "hit; by=previous_response_id");
    // As over HTTP: what is said about the account stands in the head.
    assert_eq!(second.kinds()[0], "response.created");
    assert!(second.header("x-codex-turn-state").is_some());
    let text = String::from_utf8_lossy(&second.body);
    assert!(text.starts_with("event: response.created\ndata: {"), "{text}");
    let third = harness.post(said("And then?", Some(&second.id()))).await;
    let answer = third.json();
    let text = answer["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("Turn 3 "), "{text}");
    let (upgrades, events) = got(harness.named(first.account()));
    assert_eq!((upgrades, events.len()), (1, 3));
    let last = events[2].json();
    assert_eq!(
        (&last["type"], &last["input"]),
        (
            &json!("response.create"),
            &json!([{ "role": "user", "content": "And then?" }])
        )
    );
    let rows = harness.query("SELECT * FROM turns ORDER BY request_id");
    let chain: Vec<&Value> = rows.iter().map(|row| &row["conversation_id"]).collect();
    assert!(
        chain.iter().all(|conversation| *conversation == chain[0]),
        "{rows:?}"
    );
    let transports: Vec<&str> = rows
        .iter()
        .map(|row| row["transport"].as_str().unwrap())
        .collect();
    assert_eq!(transports, ["json", "sse", "json"]);
}

#[tokio::test]
async fn only_the_newest_response_of_a_chain_is_held() {
    let harness = logins(1).start().await;
    let first = harness.turn(None).await;
    harness.turn(Some(&first.id())).await;
    is_not_found(&harness, said("from the first again", Some(&first.id()))).await;
}

#[tokio::test]
async fn what_follows_at_once_waits_for_the_end_of_what_it_follows() {
    let harness = logins(1).start().await;
    let mut running = harness
        .begin("deltas=20;delta_delay=20ms", streamed("hi", None))
        .await;
    let begun = running.chunk().await.unwrap().unwrap();
    let begun = String::from_utf8_lossy(&begun).into_owned();
    let id = begun
        .split("\"id\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    let (next, ()) = tokio::join!(harness.post(said("go on", Some(&id))), async {
        while running.chunk().await.unwrap().is_some() {}
    });
    assert_eq!(next.status, 200, "{next:?}");
}

#[tokio::test]
async fn a_chain_whose_connection_is_lost_is_not_found_at_once() {
    let mut harness = logins(2).start().await;
    let first = harness.turn(None).await;
    let account = harness.named(first.account());
    account.script("cut_before".parse().unwrap());
    let cut = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(cut.status, 502, "it may have run: {cut:?}");
    is_not_found(&harness, said("go on", Some(&first.id()))).await;
    let other = harness.turn(None).await;
    harness.kill_and_restart();
    is_not_found(&harness, said("go on", Some(&other.id()))).await;
}

#[tokio::test]
async fn a_continuation_that_fails_takes_what_it_continued_with_it() {
    let harness = logins(1).start().await;
    let first = harness.turn(None).await;
    harness.account(0).script("status=400".parse().unwrap());
    let refused = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (refused.status, refused.json()["error"]["message"].as_str()),
        (400, Some("Unsupported parameter: harbour"))
    );
    is_not_found(&harness, said("go on", Some(&first.id()))).await;
}

#[tokio::test]
async fn the_row_of_what_cannot_be_gone_on_from_says_why() {
    let mut harness = logins(1).start().await;
    let mut told = Vec::new();
    let mut refused = async |harness: &Harness, previous: &str| {
        let reply = harness.post(said("go on", Some(previous))).await;
        assert_eq!(reply.code(), "previous_response_not_found");
        told.push(harness.row(reply.request_id()).await);
    };
    let first = harness.turn(None).await;
    let second = harness.turn(Some(&first.id())).await;
    refused(&harness, &first.id()).await;

    harness.account(0).script("status=400".parse().unwrap());
    assert_eq!(harness.post(said("go on", Some(&second.id()))).await.status, 400);
    refused(&harness, &second.id()).await;

    let mut socket = harness.socket().await;
    let of_socket = socket.turn(unstored("hi", None)).await;
    refused(&harness, &of_socket.id()).await;

    let last = harness.turn(None).await;
    harness.kill_and_restart();
    refused(&harness, &last.id()).await;

    let reasons: Vec<&str> = told.iter().map(|row| row["reasons"].as_str().unwrap()).collect();
    let lost = ["replaced", "dropped", "other_connection", "connection_ended"];
    let expected = lost.map(|why| format!("previous_response_id->sim-a; lost={why}"));
    assert_eq!(reasons, expected);
    for row in &told {
        let ended = [&row["affinity"], &row["affinity_by"], &row["outcome"]];
        assert_eq!(ended, ["refused", "previous_response_id", "refused"]);
    }
    let chain = harness.row(first.request_id()).await["conversation_id"].clone();
    assert_eq!(
        [&told[0]["conversation_id"], &told[1]["conversation_id"]],
        [&chain, &chain]
    );

    let mut socket = harness.socket().await;
    let first = socket.turn(unstored("one", None)).await;
    harness.account(0).use_up(Duration::from_secs(600));
    socket.refusal(unstored("two", Some(&first.id()))).await;
    let rows = eventually("the row of the turn that was refused", || {
        let sql = "SELECT reasons FROM turns WHERE transport = 'websocket' AND outcome = 'refused'";
        Some(harness.query(sql)).filter(|rows| !rows.is_empty())
    })
    .await;
    let reasons = rows[0]["reasons"].as_str().unwrap();
    assert!(reasons.ends_with("; lost=account_limited"), "{reasons}");
}

#[tokio::test]
async fn connections_are_kept_for_so_long_without_use_and_until_an_age() {
    for settings in [
        "socket_idle = \"300ms\"",
        "socket_age = \"300ms\"\nsocket_idle = \"400ms\"",
    ] {
        let harness = logins(1).section(&format!("[limits]\n{settings}")).start().await;
        let first = harness.turn(None).await;
        eventually("the end of the connection", || {
            (harness.account(0).open_sockets() == 0).then_some(())
        })
        .await;
        is_not_found(&harness, said("go on", Some(&first.id()))).await;
        harness.turn(None).await;
    }
}

#[tokio::test]
async fn so_many_connections_are_kept_for_an_account_and_the_oldest_gives_way() {
    let harness = logins(1).start().await;
    let first = harness.turn(None).await;
    let second = harness.turn(None).await;
    for _ in 0..moorage::limits::KEPT_SOCKETS_PER_ACCOUNT_MAX - 1 {
        harness.turn(None).await;
    }
    is_not_found(&harness, said("go on", Some(&first.id()))).await;
    let next = harness.post(said("go on", Some(&second.id()))).await;
    assert_eq!(next.status, 200, "{next:?}");
}

#[tokio::test]
async fn no_more_connections_are_kept_than_that_when_all_are_opened_at_once() {
    let harness = logins(1).start().await;
    let account = harness.account(0);
    let most = moorage::limits::KEPT_SOCKETS_PER_ACCOUNT_MAX;
    // Places are given back where nothing could be opened.
    account.always(Some("upgrade=500".parse().unwrap()));
    for _ in 0..=most {
        harness.turn(None).await;
    }
    assert_eq!(got(account).0, 0);
    let before = account.journal().len();

    account.always(Some("upgrade=101;slow=1s;hang".parse().unwrap()));
    let further = 8;
    let burst = futures_util::future::join_all((0..most + further).map(|_| harness.post(said("hi", None))));
    let all_asked = eventually("all of them at the account", || {
        let journal = account.journal();
        let asked = journal[before..].iter().filter(|entry| entry.method != "GET");
        (asked.count() == most + further).then_some(())
    });
    tokio::select! {
        answers = burst => panic!("the account answers nothing: {answers:?}"),
        () = all_asked => {}
    }
    let (upgrades, events) = got(account);
    assert_eq!(
        (upgrades, events.len()),
        (most, most),
        "the others went over HTTP"
    );

    // Their clients have gone now, and so have they.
    eventually("the end of the connections", || {
        (account.open_sockets() == 0).then_some(())
    })
    .await;
    account.always(None);
    harness.turn(None).await;
    assert_eq!(got(account).0, most + 1);
}

#[tokio::test]
async fn a_client_that_sends_everything_again_uses_one_connection() {
    let harness = logins(1).start().await;
    let mut input = json!([{ "role": "user", "content": "one" }]);
    for number in 0..4 {
        let request = harness.request().header("session-id", "thread");
        let reply = Reply::of(request.json(&json!({ "model": "sim-large", "input": input }))).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let items = input.as_array_mut().unwrap();
        items.extend(reply.json()["output"].as_array().unwrap().iter().cloned());
        items.push(json!({ "role": "user", "content": format!("more {number}") }));
    }
    assert_eq!(got(harness.account(0)).0, 1);
    // Who asks for nothing to be kept needs none.
    let mut body = said("hi", None);
    body["store"] = false.into();
    harness.post(body).await;
    let (upgrades, events) = got(harness.account(0));
    assert_eq!((upgrades, events.len()), (1, 4));
}

#[tokio::test]
async fn a_connection_that_is_held_for_one_key_serves_no_other() {
    let harness = logins(1).start().await;
    let key = harness.run(&["key", "add", "stranger"]);
    let key = key
        .split_whitespace()
        .find(|word| word.starts_with("mk-"))
        .unwrap();
    let as_stranger = |body: Value| {
        let url = format!("{}/v1/responses", harness.gateway.url());
        Reply::of(
            harness
                .http
                .post(url)
                .bearer_auth(key)
                .header("session-id", "thread")
                .json(&body),
        )
    };
    let first = Reply::of(
        harness
            .request()
            .header("session-id", "thread")
            .json(&said("hi", None)),
    )
    .await;
    let refused = as_stranger(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (400, "previous_response_not_found")
    );
    let history = json!({ "model": "sim-large", "input": [
        { "role": "user", "content": "hi" }, { "role": "assistant", "content": "ho" },
        { "role": "user", "content": "go on" },
    ] });
    assert_eq!(as_stranger(history).await.status, 200);
    assert_eq!(got(harness.account(0)).0, 2, "a connection for each");
    assert_eq!(harness.post(said("go on", Some(&first.id()))).await.status, 200);
}

#[tokio::test]
async fn requests_fan_out_over_all_logins_and_each_chain_stays_on_its_own() {
    let harness = logins(3).start().await;
    let chain = async |number: usize| {
        let mut last: Option<Reply> = None;
        for turn in 0..4 {
            let id = last.as_ref().map(Reply::id);
            let reply = harness
                .post(said(&format!("chain {number} turn {turn}"), id.as_deref()))
                .await;
            assert_eq!(reply.status, 200, "{reply:?}");
            let home = last.as_ref().map_or(reply.account(), Reply::account);
            assert_eq!(reply.account(), home);
            last = Some(reply);
        }
    };
    futures_util::future::join_all((0..9).map(chain)).await;
    for account in harness.simulator.accounts() {
        let (upgrades, events) = got(account);
        assert!(
            upgrades >= 1 && events.len() == 4 * upgrades,
            "{upgrades} {}",
            events.len()
        );
    }
}

#[tokio::test]
async fn a_plan_that_is_used_up_is_another_account_at_the_upgrade_and_at_the_first_event() {
    for fault in [
        "upgrade=429;code=usage_limit_reached;retry_after=12964",
        "status=429;retry_after=3600",
    ] {
        let harness = logins(2).start().await;
        harness.account(0).always(Some(fault.parse().unwrap()));
        harness.account(1).always(None);
        for number in 0..3 {
            let reply = harness.post(said(&format!("matter {number}"), None)).await;
            assert_eq!((reply.status, reply.account()), (200, "sim-b"), "{fault}");
            let turn = harness
                .socket()
                .await
                .turn(unstored(&format!("{number}"), None))
                .await;
            assert_eq!(turn.account(), "sim-b", "{fault}");
        }
        assert_ne!(
            harness.query("SELECT status FROM accounts_now")[0]["status"],
            "active"
        );
    }
}

#[tokio::test]
async fn a_chain_on_a_login_that_is_used_up_is_told_when_over_http_and_sent_anew_over_websocket() {
    let harness = logins(2).start().await;
    let first = harness.turn(None).await;
    harness.named(first.account()).use_up(Duration::from_secs(600));
    let limited = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (limited.status, limited.code().as_str()),
        (429, "account_cooling_down")
    );
    assert!(limited.header("retry-after").is_some());

    let harness = logins(2).start().await;
    let mut socket = harness.socket_with(&[("session-id", "s-1")]).await;
    let first = socket.turn(unstored("one", None)).await;
    harness.named(&first.account()).use_up(Duration::from_secs(600));
    let refused = socket.refusal(unstored("two", Some(&first.id()))).await;
    assert_eq!(refused["error"]["code"], "previous_response_not_found");
    let moved = socket.turn(unstored("all of it", None)).await;
    assert_ne!(moved.account(), first.account());
}

#[tokio::test]
async fn an_access_token_that_is_refused_at_the_upgrade_is_renewed_and_asked_with_again() {
    let harness = logins(1).start().await;
    harness.account(0).end_access();
    let turn = harness.socket().await.turn(unstored("hi", None)).await;
    assert_eq!(turn.account(), "sim-a");
    let rows = harness.socket_rows(1).await;
    assert_eq!(
        (&rows[0]["attempts"], &rows[0]["outcome"]),
        (&json!(1), &json!("completed"))
    );
    harness.account(0).end_access();
    let reply = harness.turn(None).await;
    assert_eq!(reply.account(), "sim-a");
}

#[tokio::test]
async fn an_access_token_that_is_refused_by_the_first_event_is_renewed_and_asked_with_again() {
    let harness = logins(1).start().await;
    let account = harness.account(0);
    account.script("status=401".parse().unwrap());
    let first = harness.turn(None).await;
    assert_eq!((account.renewals(), account.refused_renewals()), (1, 0));
    let (upgrades, events) = got(account);
    assert_eq!((upgrades, events.len()), (2, 2));
    let login = std::fs::read_to_string(harness.auth_file("sim-a")).unwrap();
    let login: Value = serde_json::from_str(&login).unwrap();
    let written = format!("Bearer {}", login["tokens"]["access_token"].as_str().unwrap());
    assert_eq!(events[1].header("authorization"), Some(written.as_str()));
    assert_ne!(events[0].header("authorization"), Some(written.as_str()));
    // The chain goes on where it was let in.
    harness.turn(Some(&first.id())).await;
    assert_eq!(got(account).0, 2);

    account.script("status=401".parse().unwrap());
    let mut socket = harness.socket().await;
    let first = socket.turn(unstored("hi", None)).await;
    socket.turn(unstored("go on", Some(&first.id()))).await;
    assert_eq!((account.renewals(), got(account).0), (2, 4));
    let rows = harness.query("SELECT attempts, outcome FROM turns");
    let served = json!({ "attempts": 1, "outcome": "completed" });
    assert_eq!(rows, vec![served; 4]);
}

#[tokio::test]
async fn a_login_that_is_refused_after_its_renewals_has_ended() {
    let harness = logins(1).start().await;
    let account = harness.account(0);
    account.always(Some("status=401".parse().unwrap()));
    let refused = harness.post(said("hi", None)).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "account_unavailable")
    );
    let tries = usize::try_from(moorage::limits::LOGIN_TRIES).unwrap();
    assert_eq!((got(account).1.len(), account.renewals()), (tries, tries - 1));
    let standing = harness.query("SELECT status FROM accounts_now");
    assert_eq!(standing[0]["status"], "expired");
    // None of them is kept.
    eventually("the end of the connections", || {
        (account.open_sockets() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn lanes_that_begin_at_once_are_all_served_though_first_events_are_refused() {
    let harness = logins(1).start().await;
    let account = harness.account(0);
    for _ in 1..moorage::limits::LOGIN_TRIES {
        account.script("status=401".parse().unwrap());
    }
    let lanes = 4;
    let mut socket = harness.socket().await;
    for number in 0..lanes {
        let mut event = unstored("hi", None);
        event["stream_id"] = format!("lane-{number}").into();
        socket.send(&event).await;
    }
    let mut completed = 0;
    while completed < lanes {
        let event = socket.next().await;
        assert_ne!(event["type"], "error", "{event}");
        completed += i32::from(event["type"] == "response.completed");
    }
    assert_eq!(account.refused_renewals(), 0);
    let standing = harness.query("SELECT status FROM accounts_now");
    assert_eq!(standing[0]["status"], "active");
}

#[tokio::test]
async fn a_token_that_ends_while_its_connection_is_open_ends_the_connection_and_not_the_login() {
    let harness = logins(1).start().await;
    let outdated = || harness.account(0).script("status=401".parse().unwrap());
    let mut socket = harness.socket().await;
    let first = socket.turn(unstored("one", None)).await;
    outdated();
    let refused = socket.refusal(unstored("two", Some(&first.id()))).await;
    assert_eq!(refused["error"]["code"], "previous_response_not_found");
    socket.turn(unstored("all of it", None)).await;
    outdated();
    let turn = socket.turn(unstored("something else", None)).await;
    assert_eq!(
        turn.account(),
        "sim-a",
        "it was asked again over a new connection"
    );

    let first = harness.turn(None).await;
    outdated();
    let refused = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (400, "previous_response_not_found")
    );
    let standing = harness.query("SELECT status FROM accounts_now");
    assert_eq!(standing[0]["status"], "active");
}

#[tokio::test]
async fn the_state_of_a_turn_reaches_websocket_clients_and_goes_back_to_its_account_only() {
    for builder in [logins(2), logins(2).http_only()] {
        let harness = builder.start().await;
        let mut socket = harness.socket_with(&[("session-id", "s-1")]).await;
        let first = socket.turn(unstored("hi", None)).await;
        let told = |turn: &crate::socket::Turn| {
            let told = turn
                .events
                .iter()
                .filter(|event| event["type"] == "response.metadata");
            let told: Vec<String> = told
                .map(|event| {
                    event["headers"]["x-codex-turn-state"]
                        .as_str()
                        .unwrap()
                        .to_owned()
                })
                .collect();
            assert_eq!(told.len(), 1, "{turn:?}");
            told[0].clone()
        };
        let state = told(&first);
        let with_state = |text: &str, previous: Option<&str>| {
            let mut event = unstored(text, previous);
            event["client_metadata"] = json!({ "thread_id": "t", "x-codex-turn-state": state });
            event
        };
        let second = socket.turn(with_state("two", Some(&first.id()))).await;
        assert_eq!(told(&second), state);
        // A change of account: the foreign state is left out, and another one comes.
        harness.named(&first.account()).use_up(Duration::from_secs(600));
        let moved = socket.turn(with_state("all of it", None)).await;
        assert_ne!(moved.account(), first.account());
        assert_ne!(told(&moved), state);
        let got = harness.named(&moved.account()).journal().pop().unwrap();
        assert_eq!(got.json()["client_metadata"], json!({ "thread_id": "t" }));
    }
}

#[tokio::test]
async fn what_is_left_of_the_plan_is_read_from_the_upgrade_and_from_events() {
    let harness = logins(1).start().await;
    let mut socket = harness.socket().await;
    let turn = socket.turn(unstored("hi", None)).await;
    assert!(
        turn.events
            .iter()
            .all(|event| event["type"] != "codex.rate_limits")
    );
    eventually("the quota in the database", || {
        let told = harness.query("SELECT quota FROM accounts WHERE quota LIKE '%primary%'");
        (!told.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gathered_answer_over_a_kept_connection_ends_as_it_would_over_http() {
    let harness = logins(1).start().await;
    for (fault, status, code) in [
        ("fail_in_stream=server_error", 500, "server_error"),
        ("fail_in_stream=invalid_prompt", 400, "invalid_prompt"),
        ("nested_error_event", 503, "server_is_overloaded"),
        ("fail_in_stream=server_error;fail_after=2", 500, "server_error"),
        ("cut_after=6", 502, "upstream_cut"),
        ("status=500", 500, "server_error"),
    ] {
        let reply = harness.simulate(fault, said("hi", None)).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{fault}");
    }
    let cut = harness.simulate("incomplete", said("hi", None)).await;
    assert_eq!((cut.status, &cut.json()["status"]), (200, &json!("incomplete")));
    let next = harness.post(said("go on", Some(&cut.id()))).await;
    assert_eq!(
        next.status, 200,
        "what is incomplete can be gone on from: {next:?}"
    );
}

#[tokio::test]
async fn a_client_that_goes_away_closes_the_connection_that_was_kept_for_it() {
    let harness = logins(1).start().await;
    let stream = harness.open_stream("delta_delay=20ms;deltas=500", "hi").await;
    drop(stream);
    eventually("the end of the connection", || {
        (harness.account(0).open_sockets() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_login_without_websocket_serves_over_http_and_says_that_it_keeps_nothing() {
    let harness = logins(1).http_only().start().await;
    let first = harness.turn(None).await;
    assert!(got(harness.account(0)).1.is_empty());
    let refused = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (400, "previous_response_not_found")
    );
    assert!(
        refused.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("send the whole conversation")
    );
}
