//! Which account has which model, and the union of all.

use std::time::Instant;

use serde_json::{Value, json};

use crate::endpoints::get;
use crate::harness::{Harness, PATIENCE, Reply};

#[tokio::test]
async fn models_are_the_union_and_a_request_goes_to_who_has_its_model() {
    let harness = Harness::build(2)
        .models(&[&["big", "both"], &["small", "both"]])
        .start()
        .await;
    let listed = get(&harness, "/models").await.json();
    let ids: Vec<&str> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["big", "both", "small"]);
    let codex = get(&harness, "/models?client_version=0.169.0").await.json();
    let slugs: Vec<&str> = codex["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["slug"].as_str().unwrap())
        .collect();
    assert_eq!(slugs, ["big", "both", "small"]);
    for _ in 0..4 {
        for (model, account) in [("big", "sim-a"), ("small", "sim-b")] {
            let reply = harness.post(json!({ "model": model, "input": "hi" })).await;
            assert_eq!((reply.status, reply.account()), (200, account));
            assert_eq!(harness.row(reply.request_id()).await["attempts"], 1);
        }
    }
    let nobody = harness.post(json!({ "model": "huge", "input": "hi" })).await;
    assert_eq!((nobody.status, nobody.code().as_str()), (404, "model_not_found"));

    // Stale lists hold while an account does not answer.
    harness.account(0).always(Some("status=500".parse().unwrap()));
    assert_eq!(get(&harness, "/models").await.json(), listed);
}

#[tokio::test]
async fn without_a_list_an_account_that_does_not_have_the_model_is_asked_once() {
    let harness = Harness::build(2)
        .models(&[&["big"], &["small"]])
        .unlisted()
        .start()
        .await;
    let mut attempts = Vec::new();
    for number in 0..4 {
        let body = json!({ "model": "small", "input": format!("matter {number}") });
        let reply = harness.post(body).await;
        assert_eq!((reply.status, reply.account()), (200, "sim-b"));
        attempts.push(
            harness.row(reply.request_id()).await["attempts"]
                .as_i64()
                .unwrap(),
        );
    }
    assert!(attempts.iter().sum::<i64>() <= 5, "{attempts:?}");
}

/// What is known of the accounts for a request of this model.
async fn why(harness: &Harness, model: &str) -> Vec<Value> {
    let asked = json!({ "key": "laptop", "request": { "model": model, "input": "hi" } });
    let url = format!("{}/admin/api/explain", harness.gateway.url());
    let request = harness.http.post(url).bearer_auth(&harness.admin_key);
    let request = request.header("content-type", "application/json");
    let told = Reply::of(request.body(asked.to_string())).await.json();
    let accounts = told["accounts"].as_array().unwrap_or_else(|| panic!("{told}"));
    accounts.iter().map(|account| account["why"].clone()).collect()
}

/// Waits until the lists have come that a gateway asks for when it starts.
async fn lists_have_come(harness: &Harness, model: &str, wanted: [&str; 2]) {
    let begin = Instant::now();
    while why(harness, model).await != wanted {
        assert!(begin.elapsed() < PATIENCE, "{:?}", why(harness, model).await);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_lists_are_there_without_anybody_asking_and_nobody_else_is_tried() {
    let harness = Harness::build(2).models(&[&["big"], &["small"]]).start().await;
    lists_have_come(&harness, "small", ["does not have the model", "may serve"]).await;
    for number in 0..4 {
        let body = json!({ "model": "small", "input": format!("matter {number}") });
        let reply = harness.post(body).await;
        assert_eq!((reply.status, reply.account()), (200, "sim-b"));
        let row = harness.row(reply.request_id()).await;
        assert_eq!(row["attempts"], 1);
        assert!(
            row["reasons"]
                .as_str()
                .unwrap()
                .contains("sim-a without the model"),
            "{row}"
        );
    }
    // An account that is added while the gateway runs is asked, too.
    let file = harness.folder().join("sim-a-again.key");
    std::fs::write(&file, harness.account(0).api_key()).unwrap();
    let (url, key) = (
        harness.account(0).base_url().to_owned(),
        file.to_str().unwrap().to_owned(),
    );
    harness.run(&[
        "account",
        "add",
        "again",
        "--base-url",
        &url,
        "--api-key-file",
        &key,
    ]);
    let begin = Instant::now();
    while why(&harness, "small").await.get(2) != Some(&json!("does not have the model")) {
        assert!(begin.elapsed() < PATIENCE, "{:?}", why(&harness, "small").await);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_model_is_described_by_an_account_that_has_it() {
    let harness = Harness::build(2)
        .models(&[&["big"], &["org/small"]])
        .start()
        .await;
    for _ in 0..4 {
        for (model, account) in [("big", "sim-a"), ("org/small", "sim-b")] {
            let reply = get(&harness, &format!("/models/{model}")).await;
            assert_eq!((reply.status, reply.account()), (200, account), "{reply:?}");
            assert_eq!(reply.json()["id"], model);
        }
    }
    let nobody = get(&harness, "/models/huge").await;
    assert_eq!((nobody.status, nobody.code().as_str()), (404, "model_not_found"));
}

#[tokio::test]
async fn a_model_that_no_account_has_is_refused_in_the_upstreams_own_words() {
    let harness = Harness::build(2).models(&[&["big"], &["small"]]).start().await;
    lists_have_come(&harness, "small", ["does not have the model", "may serve"]).await;
    let own = harness.account(0);
    let body = json!({ "model": "huge", "input": "hi" });
    let request = harness.http.post(format!("{}/responses", own.base_url()));
    let upstream = Reply::of(request.bearer_auth(own.api_key()).body(body.to_string())).await;
    for stream in [false, true] {
        let mut body = body.clone();
        body["stream"] = stream.into();
        let reply = harness.post(body).await;
        assert_eq!((reply.status, reply.body), (404, upstream.body.clone()));
    }
    // Also where one of them cannot be asked now.
    harness
        .account(1)
        .always(Some("status=429;retry_after=600".parse().unwrap()));
    let reply = harness.post(body).await;
    assert_eq!((reply.status, reply.body), (404, upstream.body));
}
