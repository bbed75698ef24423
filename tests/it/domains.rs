//! Accounts that share server-side state: whatever one of them holds, another serves, as long as one
//! is there; and what nobody shares is served by nobody else.

use serde_json::{Value, json};

use crate::harness::{Harness, KEY, PATIENCE, Reply, said, streamed};

/// Three accounts, of which the first two share what they hold.
async fn two_of_three_share() -> Harness {
    Harness::build(3)
        .sharing(2)
        .section("[affinity]\npin_wait = \"0s\"")
        .start()
        .await
}

/// What a client points with.
struct Held {
    what: &'static str,
    body: Value,
}

/// Something of every kind, all of it held by one account of the shared domain: its name, and
/// requests that only the domain can serve.
async fn held_by_one(harness: &Harness) -> (String, Vec<Held>) {
    for other in ["sim-b", "sim-c"] {
        harness.run(&["account", "disable", other]);
    }
    let made = async |path: &str, body: Value| {
        let url = format!("{}/v1{path}", harness.gateway.url());
        let reply = Reply::of(harness.http.post(url).bearer_auth(KEY).body(body.to_string())).await;
        assert_eq!((reply.status, reply.account()), (200, "sim-a"), "{reply:?}");
        reply.json()
    };
    let thinks = json!({ "model": "sim-large", "input": "begin", "store": false,
        "reasoning": { "effort": "low" }, "include": ["reasoning.encrypted_content"] });
    let response = made("/responses", said("begin", None)).await;
    let item = &response["output"][0]["id"];
    let thought = &made("/responses", thinks).await["output"];
    let compacted = &made("/responses/compact", said("begin", None)).await["output"];
    let conversation = &made("/conversations", json!({})).await["id"];
    let store = &made("/vector_stores", json!({ "name": "a" })).await["id"];
    let container = &made("/containers", json!({ "name": "a" })).await["id"];
    let tool = |tool: Value| json!({ "input": "go on", "tools": [tool] });
    let held = [
        ("previous_response_id", said("go on", response["id"].as_str())),
        (
            "item_reference",
            json!({ "input": [{ "type": "item_reference", "id": item }] }),
        ),
        (
            "conversation",
            json!({ "input": "go on", "conversation": conversation }),
        ),
        ("encrypted_content", json!({ "input": thought })),
        ("compaction", json!({ "input": compacted })),
        (
            "vector_store_ids",
            tool(json!({ "type": "file_search", "vector_store_ids": [store] })),
        ),
        (
            "container",
            tool(json!({ "type": "code_interpreter", "container": container })),
        ),
    ];
    for other in ["sim-b", "sim-c"] {
        harness.run(&["account", "enable", other]);
    }
    (
        "sim-a".to_owned(),
        held.map(|(what, body)| Held { what, body }).into(),
    )
}

#[tokio::test]
async fn a_sibling_serves_everything_that_a_limited_account_holds() {
    let harness = two_of_three_share().await;
    let (home, held) = held_by_one(&harness).await;
    harness
        .named(&home)
        .always(Some("status=429;retry_after=600".parse().unwrap()));
    for Held { what, body } in held {
        let reply = harness.post(body).await;
        assert_eq!(reply.status, 200, "{what}: {reply:?}");
        assert_eq!(
            (reply.account(), reply.affinity()),
            ("sim-b", format!("hit; by={what}").as_str())
        );
    }
    assert!(
        harness
            .named("sim-c")
            .journal()
            .iter()
            .all(|entry| entry.status == 500)
    );
}

#[tokio::test]
async fn a_conversation_goes_to_and_fro_between_siblings_and_keeps_its_history_and_its_cache() {
    let harness = two_of_three_share().await;
    let first = harness.simulate("output_bytes=16000", said("begin", None)).await;
    let mut previous = first.id();
    let mut accounts = vec![first.account().to_owned()];
    if accounts[0] == "sim-c" {
        let other = harness
            .simulate("output_bytes=16000", said("another", None))
            .await;
        previous = other.id();
        accounts = vec![other.account().to_owned()];
    }
    for turn in 2..6 {
        let busy = accounts.last().unwrap().clone();
        harness.named(&busy).script("status=500".parse().unwrap());
        // Asked first wherever it was made, whoever it was that answered last.
        let reply = harness.post(said("go on", Some(&previous))).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let text = reply.json()["output"][0]["content"][0]["text"].to_string();
        assert!(text.contains(&format!("Turn {turn} on ")), "{text}");
        let row = harness.row(reply.request_id()).await;
        let figures = ["input_tokens", "cached_tokens"].map(|name| row[name].as_f64().unwrap());
        assert!(turn < 3 || figures[1] / figures[0] > 0.8, "{row}");
        assert_eq!((&row["affinity"], &row["attempts"]), (&json!("hit"), &json!(2)));
        assert_ne!(reply.account(), busy);
        previous = reply.id();
        accounts.push(reply.account().to_owned());
    }
    assert!(!accounts.contains(&"sim-c".to_owned()), "{accounts:?}");
    let conversations = harness.query("SELECT turns FROM conversations ORDER BY turns DESC LIMIT 1");
    assert_eq!(conversations, [json!({ "turns": 5 })]);
}

#[tokio::test]
async fn a_limit_that_is_told_inside_a_stream_is_passed_over_to_the_sibling_too() {
    let harness = two_of_three_share().await;
    let (home, held) = held_by_one(&harness).await;
    let previous = held[0].body["previous_response_id"].as_str().unwrap().to_owned();
    harness
        .named(&home)
        .script("fail_in_stream=rate_limit_exceeded".parse().unwrap());
    let reply = harness.post(streamed("go on", Some(&previous))).await;
    assert_eq!((reply.status, reply.account()), (200, "sim-b"));
    assert_eq!(reply.kinds().last().unwrap(), "response.completed");
}

/// Takes an account out of the file, and waits until the gateway has taken that over.
async fn remove(harness: &Harness, name: &str) {
    let path = harness.folder().join("moorage.toml");
    let toml = std::fs::read_to_string(&path).unwrap();
    let without: Vec<&str> = toml
        .split("\n[[")
        .filter(|section| !section.starts_with("account]]") || !section.contains(&format!("name = {name:?}")))
        .collect();
    std::fs::write(&path, without.join("\n[[")).unwrap();
    harness.gateway.signal("HUP");
    let begin = std::time::Instant::now();
    loop {
        let accounts = Reply::of(harness.admin("GET", "accounts")).await.json();
        if !accounts.to_string().contains(&format!("{name:?}")) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{accounts}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_a_removed_account_held_is_served_by_who_shares_its_state() {
    let mut harness = two_of_three_share().await;
    let (home, held) = held_by_one(&harness).await;
    remove(&harness, &home).await;
    for restarted in [false, true] {
        if restarted {
            harness.kill_and_restart();
        }
        for Held { what, body } in &held {
            let reply = harness.post(body.clone()).await;
            assert_eq!(reply.status, 200, "{what}: {reply:?}");
            assert_eq!(
                (reply.account(), reply.affinity()),
                ("sim-b", format!("hit; by={what}").as_str())
            );
            let row = harness.row(reply.request_id()).await;
            let reasons = row["reasons"].as_str().unwrap();
            assert!(reasons.contains("->sim-a (removed)"), "{reasons}");
        }
    }
}

#[tokio::test]
async fn what_a_removed_account_held_alone_is_refused_and_says_so() {
    let harness = Harness::over(2).await;
    let first = harness.turn(None).await;
    remove(&harness, first.account()).await;
    let reply = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (503, "account_unavailable")
    );
    let message = reply.json()["error"]["message"].to_string();
    assert!(
        message.contains("was removed") && message.contains(first.account()),
        "{message}"
    );
    let row = harness.row(reply.request_id()).await;
    assert_eq!(
        (&row["affinity"], &row["attempts"]),
        (&json!("refused"), &json!(0))
    );
}
