//! Whatever a request points with: item references, conversations, sealed reasoning, sessions; and
//! what happens when the account that holds it cannot serve.

use serde_json::{Value, json};

use crate::harness::{Harness, KEY, Reply, eventually, said};

/// What arrived last at the account that answered.
fn arrived(harness: &Harness, reply: &Reply) -> Value {
    harness.named(reply.account()).journal().pop().unwrap().json()
}

/// A turn of a client that keeps nothing with the upstream and sends all of it at each turn, sealed
/// reasoning included.
async fn replayed(harness: &Harness, history: &mut Vec<Value>, text: &str) -> Reply {
    history.push(json!({ "role": "user", "content": text }));
    let reply = harness.post(stateless(history)).await;
    if reply.status == 200 {
        let output = reply.json()["output"].clone();
        history.extend(output.as_array().unwrap().iter().cloned());
    }
    reply
}

fn stateless(history: &[Value]) -> Value {
    json!({
        "model": "sim-large", "store": false, "reasoning": { "effort": "low" },
        "include": ["reasoning.encrypted_content"], "input": history,
    })
}

#[tokio::test]
async fn item_references_alone_lead_every_turn_to_one_account() {
    let harness = Harness::over(3).await;
    let first = harness.turn(None).await;
    let mut items = vec![first.json()["output"][0]["id"].clone()];
    for typed in [true, false, true] {
        let mut input: Vec<Value> = items
            .iter()
            .map(|id| match typed {
                true => json!({ "type": "item_reference", "id": id }),
                false => json!({ "id": id }),
            })
            .collect();
        input.push(json!({ "role": "user", "content": "and then?" }));
        let reply = harness
            .post(json!({ "model": "sim-large", "input": input }))
            .await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(
            (reply.account(), reply.affinity()),
            (first.account(), "hit; by=item_reference")
        );
        items.push(reply.json()["output"][0]["id"].clone());
    }
}

#[tokio::test]
async fn an_item_that_nobody_knows_is_refused_as_the_upstream_would() {
    let harness = Harness::over(2).await;
    let reply = harness
        .post(json!({ "input": [{ "type": "item_reference", "id": "msg_nobody" }] }))
        .await;
    assert_eq!(reply.status, 404);
    let error = reply.json()["error"].clone();
    assert_eq!(error["param"], "input");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .starts_with("Item with id 'msg_nobody' not found."),
        "{error}"
    );
}

#[tokio::test]
async fn two_references_to_different_places_are_a_conflict_that_names_both() {
    let harness = Harness::over(2).await;
    let one = harness.turn(None).await;
    let two = harness.post(said("another matter", None)).await;
    assert_ne!(one.account(), two.account());
    let item = two.json()["output"][0]["id"].clone();
    let reply = harness
        .post(json!({
            "previous_response_id": one.id(),
            "input": [{ "type": "item_reference", "id": item }],
        }))
        .await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "affinity_conflict"));
    let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    for word in [&one.id(), one.account(), item.as_str().unwrap(), two.account()] {
        assert!(message.contains(word), "{word}: {message}");
    }
    let row = harness.row(reply.request_id()).await;
    assert_eq!(
        (&row["outcome"], &row["affinity"]),
        (&json!("refused"), &json!("refused"))
    );
}

#[tokio::test]
async fn sealed_reasoning_alone_leads_to_the_account_that_can_read_it() {
    let harness = Harness::over(3).await;
    let mut history = Vec::new();
    let first = replayed(&harness, &mut history, "begin").await;
    for turn in 0..3 {
        // The beginning differs each time: only what is sealed is the same.
        history[0]["content"] = format!("begin {turn}").into();
        let reply = replayed(&harness, &mut history, "go on").await;
        assert_eq!(
            (reply.status, reply.account(), reply.affinity()),
            (200, first.account(), "hit; by=encrypted_content")
        );
    }
}

#[tokio::test]
async fn when_the_owner_of_sealed_reasoning_cannot_serve_it_is_left_out_and_the_rest_goes_on() {
    let harness = Harness::build(2)
        .section("[affinity]\npin_wait = \"100ms\"")
        .start()
        .await;
    let mut history = Vec::new();
    let first = replayed(&harness, &mut history, "begin").await;
    let home = first.account().to_owned();
    harness
        .named(&home)
        .script("status=429;retry_after=600".parse().unwrap());
    let moved = replayed(&harness, &mut history, "go on").await;
    assert_eq!(moved.status, 200, "{moved:?}");
    assert_ne!(moved.account(), home);
    assert!(moved.affinity().starts_with("moved; "), "{}", moved.affinity());
    assert!(
        moved.affinity().ends_with("; stripped=reasoning"),
        "{}",
        moved.affinity()
    );
    let sent = arrived(&harness, &moved);
    assert!(
        !sent.to_string().contains("encrypted_content\":\"gAAAA"),
        "{sent}"
    );
    let kinds: Vec<&str> = sent["input"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["type"].as_str().unwrap_or("message"))
        .collect();
    assert_eq!(kinds, ["message", "message", "message"]);
    let row = harness.row(moved.request_id()).await;
    assert_eq!(row["affinity"], "moved");
    assert!(
        row["reasons"].as_str().unwrap().contains("stripped=reasoning"),
        "{row}"
    );

    // From now on it lives there: what the first home sealed is left out at every turn, what the
    // new one sealed is not.
    let away = moved.account().to_owned();
    for _ in 0..2 {
        let reply = replayed(&harness, &mut history, "and on").await;
        assert_eq!(
            (reply.account(), reply.affinity()),
            (away.as_str(), "hit; by=encrypted_content; stripped=reasoning")
        );
        let sent = arrived(&harness, &reply).to_string();
        assert!(sent.contains("encrypted_content\":\"gAAAA"), "{sent}");
        assert_eq!(harness.row(reply.request_id()).await["attempts"], 1);
    }
}

#[tokio::test]
async fn what_an_upstream_cannot_read_is_left_out_once_whatever_code_it_gives() {
    let harness = Harness::over(1).await;
    let foreign = json!({ "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAfrom-somewhere-else" });
    let input = json!([foreign, { "role": "user", "content": "hi" }]);
    for fault in ["", "null_code"] {
        let reply = harness
            .simulate(fault, json!({ "store": false, "input": input }))
            .await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(
            reply.affinity().contains("stripped=reasoning"),
            "{}",
            reply.affinity()
        );
        assert_eq!(harness.row(reply.request_id()).await["attempts"], 2);
        assert_eq!(
            arrived(&harness, &reply)["input"],
            json!([{ "role": "user", "content": "hi" }])
        );
    }
    // A compaction item is the history itself: the upstream's word is final.
    let compaction =
        json!({ "type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAAfrom-somewhere-else" });
    let input = json!([foreign, compaction, { "role": "user", "content": "hi" }]);
    let reply = harness.post(json!({ "store": false, "input": input })).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (400, "invalid_encrypted_content")
    );
    let row = harness.row(reply.request_id()).await;
    assert_eq!(row["attempts"], 2);
    let sent = arrived(&harness, &reply).to_string();
    assert!(sent.contains("cmp_1") && !sent.contains("rs_1"), "{sent}");
}

#[tokio::test]
async fn an_unreadable_seal_that_is_told_inside_a_stream_is_left_out_once_too() {
    let harness = Harness::over(2).await;
    let foreign = json!({ "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAfrom-somewhere-else" });
    let mut history = Vec::new();
    replayed(&harness, &mut history, "begin").await;
    let kept = harness.turn(None).await.id();
    let user = json!({ "role": "user", "content": "go on" });
    let sealed = history.iter().find(|item| item["type"] == "reasoning").unwrap();
    // Nothing known; firmly pinned by what an account sealed itself; pinned hard.
    let cases = [
        json!({ "store": false, "input": [foreign, user] }),
        json!({ "store": false, "input": [foreign, sealed, user] }),
        json!({ "previous_response_id": kept, "input": [foreign, user] }),
    ];
    for mut body in cases {
        body["stream"] = true.into();
        for fault in ["refuse_in_stream", "refuse_in_stream;null_code"] {
            let reply = harness.simulate(fault, body.clone()).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            let kinds = reply.kinds();
            let count = |kind: &str| kinds.iter().filter(|known| *known == kind).count();
            assert_eq!(
                (
                    count("response.created"),
                    count("response.failed"),
                    count("response.completed")
                ),
                (1, 0, 1),
                "{body} {kinds:?}"
            );
            assert!(
                reply.affinity().contains("stripped=reasoning"),
                "{}",
                reply.affinity()
            );
            assert_eq!(harness.row(reply.request_id()).await["attempts"], 2);
            let sent = arrived(&harness, &reply);
            assert_eq!(sent["input"], json!([user]), "{sent}");
            assert_eq!(sent["previous_response_id"], body["previous_response_id"]);
        }
    }
}

#[tokio::test]
async fn a_compaction_alone_that_an_upstream_cannot_read_is_asked_about_once() {
    let harness = Harness::over(2).await;
    let compaction =
        json!({ "type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAAfrom-somewhere-else" });
    for stream in [false, true] {
        let body = json!({ "store": false, "stream": stream, "input": [compaction] });
        let reply = harness.post(body).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "invalid_encrypted_content")
        );
        assert_eq!(harness.row(reply.request_id()).await["attempts"], 1);
    }
}

#[tokio::test]
async fn reasoning_that_an_upstream_withholds_from_its_model_is_told_in_row_and_log() {
    let harness = Harness::over(1).await;
    let foreign = json!({ "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAfrom-somewhere-else" });
    for stream in [false, true] {
        let input = json!([foreign, { "role": "user", "content": "hi" }]);
        let body = json!({ "store": false, "stream": stream, "input": input });
        let reply = harness.simulate("withhold_foreign", body.clone()).await;
        assert_eq!(reply.status, 200);
        let row = harness.row(reply.request_id()).await;
        let reasons = row["reasons"].as_str().unwrap();
        assert!(reasons.ends_with("; withheld=organization_mismatch"), "{reasons}");
    }
    eventually("both in the log", || {
        (harness.log().matches("withheld reasoning").count() == 2).then_some(())
    })
    .await;
    let well = harness.simulate("withhold_foreign", said("hi", None)).await;
    let row = harness.row(well.request_id()).await;
    assert!(!row["reasons"].to_string().contains("withheld"), "{row}");
}

#[tokio::test]
async fn a_response_that_was_made_elsewhere_is_found_by_asking_and_then_known() {
    let harness = Harness::over(3).await;
    // Made at the second account, past the gateway.
    let account = harness.account(1);
    let request = harness
        .http
        .post(format!("{}/responses", account.base_url()))
        .bearer_auth(account.api_key())
        .body(said("hi", None).to_string());
    let made = Reply::of(request).await.id();
    let id = made.as_str();
    for _ in 0..2 {
        let reply = harness.post(said("go on", Some(id))).await;
        assert_eq!(
            (reply.status, reply.account(), reply.affinity()),
            (200, "sim-b", "hit; by=previous_response_id")
        );
    }
    let asked = harness.account(0).journal().len();
    assert_eq!(asked, 1, "once found, it is known");
}

#[tokio::test]
async fn asking_can_be_switched_off() {
    let harness = Harness::build(2)
        .section("[affinity]\nask_around = false")
        .start()
        .await;
    let reply = harness.post(said("go on", Some("resp_nobody"))).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (400, "previous_response_not_found")
    );
    assert!(harness.account(0).journal().is_empty() && harness.account(1).journal().is_empty());
}

#[tokio::test]
async fn a_detour_that_outlasts_the_cache_moves_the_preference_and_the_row_says_so() {
    let harness = Harness::build(2)
        .section("[affinity]\ndetour_max = \"300ms\"")
        .start()
        .await;
    let body = |text: &str| json!({ "input": text, "prompt_cache_key": "thread" });
    let home = harness.post(body("one")).await.account().to_owned();
    harness.named(&home).always(Some("status=500".parse().unwrap()));
    let detour = harness.post(body("two")).await;
    assert_eq!(detour.affinity(), "moved; by=prompt_cache_key");
    let away = detour.account().to_owned();
    let begin = std::time::Instant::now();
    let moved = loop {
        let reply = harness.post(body("three")).await;
        assert_eq!(reply.account(), away);
        if reply.affinity() != "moved; by=prompt_cache_key" {
            break reply;
        }
        assert!(begin.elapsed() < crate::harness::PATIENCE);
    };
    assert_eq!(moved.affinity(), "moved; by=prompt_cache_key; rehomed");
    let row = harness.row(moved.request_id()).await;
    let rehomed = format!("rehomed to {away}");
    assert!(row["reasons"].as_str().unwrap().contains(&rehomed), "{row}");
    harness.named(&home).always(None);
    let next = harness.post(body("four")).await;
    assert_eq!(
        (next.account(), next.affinity()),
        (away.as_str(), "hit; by=prompt_cache_key")
    );
}

#[tokio::test]
async fn agents_that_share_a_session_have_preferences_of_their_own() {
    let harness = Harness::over(2).await;
    let ask = async |agent: &str, text: &str| {
        let body = json!({ "instructions": agent, "input": text });
        Reply::of(harness.request().header("session-id", "s").body(body.to_string())).await
    };
    let one = ask("You plan.", "one").await.account().to_owned();
    let two = ask("You write.", "one").await.account().to_owned();
    assert_ne!(one, two);
    for text in ["two", "three"] {
        assert_eq!(ask("You plan.", text).await.account(), one);
        assert_eq!(ask("You write.", text).await.account(), two);
    }
}

#[tokio::test]
async fn branches_of_a_conversation_keep_their_pins() {
    let harness = Harness::over(3).await;
    let root = harness.turn(None).await;
    let mut heads = vec![root.id(), root.id(), root.id()];
    for _ in 0..3 {
        for head in &mut heads {
            let reply = harness.turn(Some(head)).await;
            assert_eq!(
                (reply.account(), reply.affinity()),
                (root.account(), "hit; by=previous_response_id")
            );
            *head = reply.id();
        }
    }
    // An old branch goes on after newer ones.
    let late = harness.turn(Some(&root.id())).await;
    assert_eq!(late.account(), root.account());
    for head in heads.iter().chain([&late.id()]) {
        assert_eq!(harness.turn(Some(head)).await.account(), root.account());
    }
    let conversations = harness.query("SELECT turns, moves FROM conversations");
    assert_eq!(conversations, [json!({ "turns": 15, "moves": 0 })]);
}

#[tokio::test]
async fn ids_of_items_that_are_sent_whole_lead_back() {
    let harness = Harness::over(3).await;
    let first = harness.turn(None).await;
    let mut input = first.json()["output"].as_array().unwrap().clone();
    input.push(json!({ "role": "user", "content": "and then?" }));
    let reply = harness
        .post(json!({ "model": "sim-large", "input": input }))
        .await;
    assert_eq!(
        (reply.account(), reply.affinity()),
        (first.account(), "hit; by=item_id")
    );
}

#[tokio::test]
async fn explain_says_what_would_happen_and_why_and_sends_nothing() {
    let mut harness = Harness::over(2).await;
    let first = harness.turn(None).await;
    harness
        .simulator
        .accounts()
        .iter()
        .for_each(|account| account.clear_journal());
    let request = said("go on", Some(&first.id()));
    let file = harness.folder().join("request.json");
    std::fs::write(&file, request.to_string()).unwrap();

    let path = file.to_str().unwrap();
    let output = harness.command(&["explain", path, "--json"]);
    assert!(output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told["decision"], &told["account"], &told["affinity_by"]),
        (
            &json!("pinned"),
            &json!(first.account()),
            &json!("previous_response_id")
        )
    );
    assert_eq!(told["references"][0]["owner"], first.account());
    assert_eq!(told["references"][0]["decides"], true);
    let chosen = |account: &Value| account["may_serve"] == true;
    let serving: Vec<&Value> = told["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|a| chosen(a))
        .collect();
    assert_eq!(serving.len(), 1);
    assert_eq!(serving[0]["account"], first.account());

    // The running gateway says the same, to whoever has the admin key.
    harness.gateway.kill();
    let output = harness.command(&["admin-key", "reset"]);
    let printed = String::from_utf8(output.stdout).unwrap();
    let admin = printed
        .split_whitespace()
        .find(|word| word.starts_with("ma-"))
        .unwrap();
    harness.restart();
    let url = format!("{}/admin/api/explain", harness.gateway.url());
    let asked = json!({ "key": "laptop", "request": request });
    let ask = async |key: &str| {
        let request = harness.http.post(&url).bearer_auth(key);
        let request = request.header("content-type", "application/json");
        Reply::of(request.body(asked.to_string())).await
    };
    let reply = ask(admin).await;
    assert_eq!(reply.json(), told);
    let refused = ask(KEY).await;
    assert_eq!(refused.status, 401);

    // For people, with the name of the key.
    let output = harness.command(&["explain", path, "--key", "laptop"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(&format!(
            "Goes to '{}', which holds its previous_response_id",
            first.account()
        )),
        "{text}"
    );
    let wrong = harness.command(&["explain", path, "--key", "nobody"]);
    assert!(
        String::from_utf8(wrong.stderr)
            .unwrap()
            .contains("there are: laptop")
    );
    for account in harness.simulator.accounts() {
        assert!(account.journal().is_empty());
    }

    // The row of the turn itself keeps the same reasons.
    let next = harness.post(request).await;
    let row = harness.row(next.request_id()).await;
    assert_eq!(row["reasons"], told["reasons"]);
}
