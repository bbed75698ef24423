//! What client keys may do: how long, for which models, how much, and how much at once.

use serde_json::json;

use crate::harness::{Harness, KEY, Reply, WithJson as _, eventually, said, streamed};

/// Makes a client key with these arguments.
fn key(harness: &Harness, arguments: &[&str]) -> String {
    named_key(harness, "guest", arguments)
}

fn named_key(harness: &Harness, name: &str, arguments: &[&str]) -> String {
    let told = harness.run(&[&["key", "add", name], arguments].concat());
    let mut lines = told.lines().map(str::trim);
    lines.find(|line| line.starts_with("mk-")).unwrap().to_owned()
}

#[tokio::test]
async fn a_key_is_let_in_as_soon_as_its_command_has_ended() {
    let harness = Harness::over(1).await;
    for number in 0..3 {
        let guest = named_key(&harness, &format!("guest-{number}"), &[]);
        let status = harness.post_as(&guest, said("hi", None)).await.status;
        assert_eq!(status, 200, "key {number}");
    }
}

#[tokio::test]
async fn a_key_lets_nobody_in_after_its_time() {
    let harness = Harness::over(1).await;
    let guest = key(&harness, &["--expires", "30d"]);
    assert_eq!(harness.post_as(&guest, said("hi", None)).await.status, 200);
    harness.run(&["key", "bounds", "guest", "--expires", "2020-01-31"]);
    let reply = harness.post_as(&guest, said("hi", None)).await;
    assert_eq!((reply.status, reply.code().as_str()), (401, "key_expired"));
    let row = harness.row(reply.request_id()).await;
    assert_eq!(
        (&row["client_key"], &row["outcome"]),
        (&json!("guest"), &json!("refused"))
    );
    assert_eq!(harness.post_as(KEY, said("hi", None)).await.status, 200);
    let doctor = harness.command(&["doctor"]);
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        told.contains("guest has expired") && told.contains("moorage key bounds guest"),
        "{told}"
    );
}

#[tokio::test]
async fn bounds_are_not_taken_away_by_saying_nothing() {
    let harness = Harness::over(1).await;
    key(&harness, &["--max-concurrent", "2"]);
    let told = harness.command(&["key", "bounds", "guest"]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("--unbounded takes all bounds away"));
    assert!(harness.run(&["key", "list"]).contains("2 at once"));
    let told = harness.run(&["key", "bounds", "guest", "--tokens-per-day", "2_000_000"]);
    assert!(
        told.contains("guest: changed, now 2000000 tokens a day."),
        "{told}"
    );
    let told = harness.run(&["key", "bounds", "guest", "--unbounded"]);
    assert!(told.contains("guest: changed, now without bound."), "{told}");
    // One that could never be used is a mistake.
    let told = harness.command(&["key", "add", "late", "--expires", "2020-01-31"]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("--expires is over already"));
    assert!(!harness.run(&["key", "list"]).contains("late"));
}

#[tokio::test]
async fn a_key_asks_only_for_the_models_that_it_may() {
    let harness = Harness::over(1).await;
    let guest = key(&harness, &["--model", "sim-small", "--model", "gpt-5*"]);
    for (model, status) in [
        ("sim-small", 200),
        ("gpt-5.6", 200),
        ("sim-large", 403),
        ("", 403),
    ] {
        let reply = harness
            .post_as(&guest, json!({ "model": model, "input": "hi" }))
            .await;
        assert_eq!(reply.status, status, "{model}");
    }
    let refused = harness.post_as(&guest, json!({ "input": "hi" })).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (403, "model_not_allowed")
    );
    assert_eq!(refused.json()["error"]["param"], "model");
}

#[tokio::test]
async fn a_key_that_has_spent_its_budget_is_told_until_when() {
    let mut harness = Harness::over(1).await;
    let guest = key(&harness, &["--tokens-per-day", "100000"]);
    assert_eq!(harness.post_as(&guest, said("hi", None)).await.status, 200);
    harness.run(&["key", "bounds", "guest", "--tokens-per-day", "1"]);
    // Also after a restart, and for streams.
    for restart in [false, true] {
        if restart {
            harness.kill_and_restart();
        }
        let reply = harness.post_as(&guest, streamed("hi", None)).await;
        assert_eq!((reply.status, reply.code().as_str()), (429, "insufficient_quota"));
        let told = reply.json();
        assert_eq!(told["error"]["type"], "insufficient_quota");
        let message = told["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("budget of the day") && message.contains("T00:00:00Z"),
            "{message}"
        );
        let wait: i64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=24 * 3600).contains(&wait), "{wait}");
    }
    assert_eq!(harness.post_as(KEY, said("hi", None)).await.status, 200);
    let list = harness.run(&["key", "list"]);
    assert!(list.contains("1 tokens a day"), "{list}");
}

#[tokio::test]
async fn money_is_a_budget_where_prices_are_known() {
    let harness = Harness::build(1)
        .section("[[price]]\nmodel = \"sim-*\"\nfrom = \"2020-01-01\"\ninput = 1000000\noutput = 1000000")
        .start()
        .await;
    let guest = key(&harness, &["--cost-per-month", "0.5"]);
    assert_eq!(harness.post_as(&guest, said("hi", None)).await.status, 200);
    let reply = harness.post_as(&guest, said("hi", None)).await;
    assert_eq!((reply.status, reply.code().as_str()), (429, "insufficient_quota"));
    let message = reply.json()["error"]["message"].to_string();
    assert!(message.contains("budget of the month"), "{message}");
}

#[tokio::test]
async fn what_a_key_runs_counts_also_after_other_keys_were_changed() {
    let harness = Harness::over(1).await;
    let guest = key(&harness, &["--max-concurrent", "1"]);
    let running = harness
        .request_as(&guest)
        .header("x-simulate", "deltas=2;delta_delay=1h");
    let mut running = running.json(&streamed("hi", None)).send().await.unwrap();
    running.chunk().await.unwrap().unwrap();
    harness.run(&["key", "add", "somebody-else"]);
    let reply = harness.post_as(&guest, said("hi", None)).await;
    assert_eq!((reply.status, reply.code().as_str()), (429, "key_busy"));
    drop(running);
}

#[tokio::test]
async fn a_key_runs_no_more_at_once_than_it_may() {
    let harness = Harness::over(1).await;
    let guest = key(&harness, &["--max-concurrent", "1"]);
    let open = harness
        .request_as(&guest)
        .header("x-simulate", "deltas=2;delta_delay=1h")
        .json(&streamed("one", None))
        .send()
        .await
        .unwrap();
    let busy = harness.post_as(&guest, said("two", None)).await;
    assert_eq!((busy.status, busy.code().as_str()), (429, "key_busy"));
    assert_eq!(busy.header("retry-after"), Some("1"));
    assert_eq!(harness.post_as(KEY, said("hi", None)).await.status, 200);
    drop(open);
    eventually("the end of the stream", || {
        let gone = harness.query("SELECT 1 AS x FROM turns WHERE outcome = 'client_gone'");
        (!gone.is_empty()).then_some(())
    })
    .await;
    assert_eq!(harness.post_as(&guest, said("three", None)).await.status, 200);
}

#[tokio::test]
async fn the_upstreams_quota_is_shown_only_to_keys_that_may_see_it() {
    let harness = Harness::over(1).await;
    let guest = key(&harness, &["--show-quota"]);
    let seen = harness.post_as(&guest, said("hi", None)).await;
    assert_eq!(seen.header("x-ratelimit-limit-requests"), Some("10000"));
    assert_eq!(seen.header("openai-organization"), None);
    let unseen = harness.post_as(KEY, said("hi", None)).await;
    assert_eq!(unseen.header("x-ratelimit-limit-requests"), None);
    // What was told is kept for the operator.
    let shown = eventually("the quota", || {
        let shown = harness.run(&["account", "show", "sim-a"]);
        shown.contains("quota").then_some(shown)
    })
    .await;
    assert!(shown.contains("requests: used 0.0 %"), "{shown}");
}

#[tokio::test]
async fn bounds_are_set_by_the_admin_api_and_the_file_too() {
    let harness = Harness::build(1)
        .section("models = [\"sim-small\"]\nexpires = \"2999-01-01\"")
        .start()
        .await;
    assert_eq!(harness.post(said("hi", None)).await.code(), "model_not_allowed");
    let bounds = json!({ "models": ["sim-large"], "tokens_per_day": 5 });
    let body = json!({ "name": "other", "bounds": bounds });
    let made = Reply::of(harness.admin("POST", "keys").json(&body)).await.json();
    let other = made["key"].as_str().unwrap();
    assert_eq!(harness.post_as(other, said("hi", None)).await.status, 200);
    assert_eq!(harness.post_as(other, said("hi", None)).await.status, 429);
    let wider = json!({ "tokens_per_day": 1_000_000 });
    let reply = Reply::of(harness.admin("PUT", "keys/other/bounds").json(&wider)).await;
    assert_eq!(reply.status, 200);
    assert_eq!(harness.post_as(other, said("hi", None)).await.status, 200);
    for wrong in [
        json!({ "tokens_per_day": -1 }),
        json!({ "max_concurrent": 0 }),
        json!({ "x": 1 }),
    ] {
        let reply = Reply::of(harness.admin("PUT", "keys/other/bounds").json(&wrong)).await;
        assert_eq!(reply.status, 400, "{wrong}");
    }
}
