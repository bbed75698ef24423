//! What a request points with, and where it goes.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::harness::{Harness, Reply, said, streamed};

/// The members that arrived at the account that answered.
fn arrived(harness: &Harness, reply: &Reply) -> Value {
    harness.named(reply.account()).journal().pop().unwrap().json()
}

#[tokio::test]
async fn every_turn_of_a_chain_goes_to_the_account_that_holds_it() {
    let harness = Harness::over(3).await;
    let conversations = (0..12).map(async |number| {
        let mut previous: Option<String> = None;
        let mut homes = HashSet::new();
        for turn in 0..4 {
            let body = match (number + turn) % 2 {
                0 => said("go on", previous.as_deref()),
                _ => streamed("go on", previous.as_deref()),
            };
            let reply = harness.post(body).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            let expected = if turn == 0 {
                "none"
            } else {
                "hit; by=previous_response_id"
            };
            // Two first turns may begin alike: a soft reference then prefers an account.
            if turn > 0 || !reply.affinity().ends_with("by=prefix") {
                assert_eq!(reply.affinity(), expected);
            }
            homes.insert(reply.account().to_owned());
            previous = Some(reply.id());
        }
        assert_eq!(homes.len(), 1);
    });
    futures_util::future::join_all(conversations).await;
}

#[tokio::test]
async fn a_conversation_goes_on_after_the_gateway_was_killed() {
    let mut harness = Harness::over(2).await;
    let first = harness.turn(None).await;
    let other = harness.post(said("another matter", None)).await;
    assert_ne!(first.account(), other.account());
    for reply in [&first, &other] {
        harness.kill_and_restart();
        let next = harness.turn(Some(&reply.id())).await;
        assert_eq!(next.account(), reply.account());
        assert_eq!(next.affinity(), "hit; by=previous_response_id");
    }
}

#[tokio::test]
async fn every_turn_has_the_conversation_and_its_cache_key() {
    let harness = Harness::over(2).await;
    let mut previous: Option<String> = None;
    let mut keys = HashSet::new();
    for _ in 0..4 {
        let reply = harness.turn(previous.as_deref()).await;
        let row = harness.row(reply.request_id()).await;
        let key = arrived(&harness, &reply)["prompt_cache_key"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(row["conversation_id"], key);
        assert_eq!(uuid::Uuid::parse_str(&key).unwrap().hyphenated().to_string(), key);
        keys.insert(key);
        previous = Some(reply.id());
    }
    assert_eq!(keys.len(), 1);
    let other = harness.post(said("another matter", None)).await;
    assert!(!keys.contains(arrived(&harness, &other)["prompt_cache_key"].as_str().unwrap()));
}

#[tokio::test]
async fn the_cache_holds_from_turn_to_turn() {
    let harness = Harness::over(2).await;
    let first = harness.simulate("output_bytes=16000", said("begin", None)).await;
    let second = harness
        .simulate("output_bytes=100", said("go on", Some(&first.id())))
        .await;
    let third = harness
        .simulate("output_bytes=100", said("go on", Some(&second.id())))
        .await;
    let row = harness.row(third.request_id()).await;
    let (input, cached) = (
        row["input_tokens"].as_f64().unwrap(),
        row["cached_tokens"].as_f64().unwrap(),
    );
    assert!(cached / input > 0.9, "{row}");
}

#[tokio::test]
async fn a_key_of_the_client_is_kept_and_leads_back() {
    let harness = Harness::over(2).await;
    let body = |text: &str| json!({ "model": "m", "input": text, "prompt_cache_key": "my-thread" });
    let first = harness.post(body("one")).await;
    for text in ["two", "three", "four"] {
        let reply = harness.post(body(text)).await;
        assert_eq!(reply.account(), first.account());
        assert_eq!(reply.affinity(), "hit; by=prompt_cache_key");
        assert_eq!(arrived(&harness, &reply)["prompt_cache_key"], "my-thread");
    }
}

#[tokio::test]
async fn a_session_header_leads_back_and_makes_one_conversation() {
    let names = [
        "session-id",
        "session_id",
        "thread-id",
        "conversation_id",
        "x-session-id",
        "x-session-affinity",
    ];
    let harness = Harness::over(2).await;
    for name in names {
        let ask = async |text: &str| {
            let request = harness.request().header(name, format!("the session of {name}"));
            Reply::of(request.body(json!({ "input": text }).to_string())).await
        };
        let first = ask("one").await;
        let conversation = harness.row(first.request_id()).await["conversation_id"].clone();
        for text in ["two", "three"] {
            let reply = ask(text).await;
            assert_eq!(reply.account(), first.account(), "{name}");
            assert_eq!(reply.affinity(), "hit; by=session", "{name}");
            assert_eq!(
                harness.row(reply.request_id()).await["conversation_id"],
                conversation,
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn the_headers_that_name_a_session_can_be_set() {
    let harness = Harness::build(2)
        .section("[affinity]\nsession_headers = [\"X-Chat\"]")
        .start()
        .await;
    let ask = async |name: &str, text: &str| {
        Reply::of(
            harness
                .request()
                .header(name, "s")
                .body(json!({ "input": text }).to_string()),
        )
        .await
    };
    ask("x-chat", "one").await;
    assert_eq!(ask("x-chat", "two").await.affinity(), "hit; by=session");
    ask("session-id", "three").await;
    assert_eq!(ask("session-id", "four").await.affinity(), "none");
}

#[tokio::test]
async fn a_client_that_sends_the_whole_history_is_led_back_by_how_it_begins() {
    let harness = Harness::over(2).await;
    let mut history = vec![json!({ "role": "user", "content": "a question of its own" })];
    let ask = async |history: &[Value]| {
        harness
            .post(json!({ "instructions": "Be brief.", "store": false, "input": history }))
            .await
    };
    let first = ask(&history).await;
    let conversation = harness.row(first.request_id()).await["conversation_id"].clone();
    for _ in 0..3 {
        history.push(json!({ "role": "assistant", "content": "an answer" }));
        history.push(json!({ "role": "user", "content": "and then?" }));
        let reply = ask(&history).await;
        assert_eq!(reply.account(), first.account());
        assert_eq!(reply.affinity(), "hit; by=prefix");
        assert_eq!(
            harness.row(reply.request_id()).await["conversation_id"],
            conversation
        );
    }
}

#[tokio::test]
async fn keys_do_not_see_each_others_conversations_unless_they_share_a_scope() {
    let folder = tempfile::tempdir().unwrap();
    let mut sections = String::new();
    for (name, scope) in [
        ("alone", ""),
        ("phone", "scope = \"home\""),
        ("desk", "scope = \"home\""),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, format!("mk-the-client-key-of-{name}")).unwrap();
        sections += &format!("[[client_key]]\nname = \"{name}\"\nkey_file = {file:?}\n{scope}\n");
    }
    let harness = Harness::build(2).section(&sections).start().await;
    let ask = async |name: &str, body: Value| {
        let request = harness
            .http
            .post(format!("{}/v1/responses", harness.gateway.url()));
        Reply::of(
            request
                .bearer_auth(format!("mk-the-client-key-of-{name}"))
                .body(body.to_string()),
        )
        .await
    };
    let first = ask("phone", said("hi", None)).await;
    let shared = ask("desk", said("go on", Some(&first.id()))).await;
    assert_eq!((shared.status, shared.account()), (200, first.account()));
    let foreign = ask("alone", said("go on", Some(&first.id()))).await;
    assert_eq!(
        (foreign.status, foreign.code().as_str()),
        (400, "previous_response_not_found")
    );

    let keyed = |text: &str| json!({ "input": text, "prompt_cache_key": "same" });
    ask("phone", keyed("one")).await;
    assert_eq!(ask("alone", keyed("two")).await.affinity(), "none");
    // Two tenants never share a derived key.
    let keys: HashSet<String> = [
        ask("phone", said("same", None)).await,
        ask("alone", said("same", None)).await,
    ]
    .iter()
    .map(|reply| arrived(&harness, reply)["prompt_cache_key"].to_string())
    .collect();
    assert_eq!(keys.len(), 2);
}

#[tokio::test]
async fn a_response_that_nobody_knows_is_asked_of_the_only_account_and_else_refused() {
    let alone = Harness::over(1).await;
    let reply = alone.post(said("go on", Some("resp_nobody"))).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (400, "previous_response_not_found")
    );
    assert_eq!(reply.affinity(), "unknown; by=previous_response_id");
    assert_eq!(alone.account(0).journal().len(), 1);

    let several = Harness::over(2).await;
    let reply = several.post(said("go on", Some("resp_nobody"))).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (400, "previous_response_not_found")
    );
    assert_eq!(reply.json()["error"]["param"], "previous_response_id");
    let row = several.row(reply.request_id()).await;
    assert_eq!(
        (&row["outcome"], &row["affinity"], &row["status"]),
        (&json!("refused"), &json!("unknown"), &json!(400))
    );
    // Each was asked for it once, and is not asked again soon.
    several.post(said("go on", Some("resp_nobody"))).await;
    for account in several.simulator.accounts() {
        let asked: Vec<String> = account
            .journal()
            .iter()
            .map(|entry| format!("{} {}", entry.method, entry.path))
            .collect();
        assert_eq!(asked, ["GET /v1/responses/resp_nobody"]);
    }
}

#[tokio::test]
async fn a_response_that_its_owner_has_lost_is_forgotten() {
    let harness = Harness::over(2).await;
    let first = harness.turn(None).await;
    let owner = harness.named(first.account());
    let url = format!("{}/responses/{}", owner.base_url(), first.id());
    harness
        .http
        .delete(url)
        .bearer_auth(owner.api_key())
        .send()
        .await
        .unwrap();
    let lost = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (lost.status, lost.code().as_str()),
        (400, "previous_response_not_found")
    );
    assert_eq!(lost.affinity(), "hit; by=previous_response_id");
    let again = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(again.affinity(), "unknown; by=previous_response_id");
}

#[tokio::test]
async fn a_detour_does_not_move_where_a_conversation_lives() {
    let harness = Harness::over(2).await;
    let body = |text: &str| json!({ "input": text, "prompt_cache_key": "thread" });
    let home = harness.post(body("one")).await.account().to_owned();
    harness.named(&home).script("status=500".parse().unwrap());
    let detour = harness.post(body("two")).await;
    assert_eq!(detour.affinity(), "moved; by=prompt_cache_key");
    assert_ne!(detour.account(), home);
    let back = harness.post(body("three")).await;
    assert_eq!(
        (back.account(), back.affinity()),
        (home.as_str(), "hit; by=prompt_cache_key")
    );
}

#[tokio::test]
async fn ids_of_output_items_are_written_down_too() {
    let harness = Harness::over(1).await;
    let count = || {
        harness.query("SELECT count(*) AS n FROM known_references")[0]["n"]
            .as_i64()
            .unwrap()
    };
    for body in [said("a", None), streamed("b", None)] {
        let before = count();
        let mut body = body;
        body["reasoning"] = json!({ "effort": "low" });
        let reply = harness.post(body).await;
        harness.row(reply.request_id()).await;
        // The response, its two items, and the prefix.
        assert_eq!(count() - before, 4);
    }
}

#[tokio::test]
async fn sealed_reasoning_is_asked_for_where_it_would_be_lost() {
    let harness = Harness::over(1).await;
    let sealed = json!(["reasoning.encrypted_content"]);
    let cases = [
        (
            json!({ "store": false, "reasoning": { "effort": "low" } }),
            sealed.clone(),
        ),
        (
            json!({ "store": false, "reasoning": { "effort": "low" }, "include": null }),
            sealed,
        ),
        (
            json!({ "store": false, "reasoning": { "effort": "low" }, "include": [] }),
            json!([]),
        ),
        (json!({ "store": false }), Value::Null),
        (json!({ "reasoning": { "effort": "low" } }), Value::Null),
    ];
    for (mut body, expected) in cases {
        body["input"] = "hi".into();
        let reply = harness.post(body.clone()).await;
        assert_eq!(arrived(&harness, &reply)["include"], expected, "{body}");
    }
}

#[tokio::test]
async fn the_service_tier_passes_and_is_written_down() {
    let harness = Harness::over(1).await;
    for (asked, served) in [("priority", "priority"), ("auto", "default")] {
        let reply = harness
            .post(json!({ "input": "hi", "service_tier": asked }))
            .await;
        assert_eq!(arrived(&harness, &reply)["service_tier"], asked);
        assert_eq!(harness.row(reply.request_id()).await["service_tier"], served);
    }
}

#[tokio::test]
async fn a_home_that_does_not_come_back_by_itself_is_left_for_another() {
    let harness = Harness::over(3).await;
    let body = |text: &str| json!({ "input": text, "prompt_cache_key": "thread" });
    let home = harness.post(body("one")).await.account().to_owned();
    harness.named(&home).always(Some("status=401".parse().unwrap()));
    let next = harness.post(body("two")).await.account().to_owned();
    assert_ne!(next, home);
    for text in ["three", "four", "five"] {
        let reply = harness.post(body(text)).await;
        assert_eq!(
            (reply.account(), reply.affinity()),
            (next.as_str(), "hit; by=prompt_cache_key")
        );
    }
}
