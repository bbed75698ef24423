//! Which account serves what nothing points at.

use std::collections::HashMap;

use serde_json::json;

use crate::harness::{Harness, Reply, eventually, said, streamed};

/// First turns that have nothing in common.
async fn first_turns(harness: &Harness, count: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for number in 0..count {
        let reply = harness.post(said(&format!("matter {number}"), None)).await;
        assert_eq!(reply.status, 200);
        *counts.entry(reply.account().to_owned()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn idle_accounts_take_turns() {
    let harness = Harness::over(3).await;
    let counts = first_turns(&harness, 12).await;
    assert_eq!(
        counts,
        HashMap::from(["sim-a", "sim-b", "sim-c"].map(|name| (name.to_owned(), 4)))
    );
}

#[tokio::test]
async fn an_account_of_more_weight_takes_more() {
    let harness = Harness::build(2).account("weight = 3").start().await;
    let counts = first_turns(&harness, 12).await;
    assert_eq!((counts["sim-a"], counts["sim-b"]), (9, 3));
}

/// A stream that does not end by itself.
const ENDLESS: &str = "deltas=2;delta_delay=1h";

fn account_of(response: &reqwest::Response) -> &str {
    response.headers()["x-moorage-account"].to_str().unwrap()
}

#[tokio::test]
async fn the_least_loaded_account_is_next() {
    let harness = Harness::over(2).await;
    let open = harness.open_stream(ENDLESS, "one").await;
    let other = if account_of(&open) == "sim-a" {
        "sim-b"
    } else {
        "sim-a"
    };
    assert_eq!(
        first_turns(&harness, 5).await,
        HashMap::from([(other.to_owned(), 5)])
    );
}

#[tokio::test]
async fn a_full_account_gets_nothing_until_a_place_is_free() {
    let harness = Harness::build(1)
        .account("max_concurrent = 1")
        .section("[affinity]\npin_wait = \"0s\"")
        .start()
        .await;
    let open = harness.open_stream(ENDLESS, "one").await;
    let busy = harness.post(said("two", None)).await;
    assert_eq!((busy.status, busy.code().as_str()), (429, "account_busy"));
    assert_eq!(busy.header("retry-after"), Some("1"));
    drop(open);
    let row = eventually("the end of the stream", || {
        harness
            .query("SELECT * FROM turns WHERE outcome = 'client_gone'")
            .pop()
    })
    .await;
    assert_eq!(row["account"], "sim-a");
    assert_eq!(harness.post(said("three", None)).await.status, 200);
}

#[tokio::test]
async fn a_request_waits_for_a_place_on_its_account() {
    let harness = Harness::build(2)
        .account("max_concurrent = 1")
        .account("max_concurrent = 1")
        .start()
        .await;
    let first = harness.turn(None).await;
    let body = streamed("go on", Some(&first.id()));
    let open = harness.begin(ENDLESS, body).await;
    assert_eq!(account_of(&open), first.account());
    let previous = first.id();
    let (reply, ()) = tokio::join!(harness.turn(Some(&previous)), async move {
        // The place is given back while the other request waits for it.
        tokio::task::yield_now().await;
        drop(open);
    });
    assert_eq!(reply.account(), first.account());
}

#[tokio::test]
async fn accounts_of_one_state_domain_serve_for_each_other() {
    let harness = Harness::build(2).sharing(2).start().await;
    let first = harness.turn(None).await;
    let home = first.account().to_owned();
    harness
        .named(&home)
        .always(Some("status=429;retry_after=600".parse().unwrap()));
    let reply = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (reply.status, reply.affinity()),
        (200, "hit; by=previous_response_id")
    );
    assert_ne!(reply.account(), home);
    let row = harness.row(reply.request_id()).await;
    assert_eq!((&row["attempts"], &row["affinity"]), (&json!(2), &json!("hit")));
}

#[tokio::test]
async fn without_an_account_everything_is_refused_with_what_to_do() {
    let harness = Harness::over(0).await;
    let reply: Reply = harness.post(said("hi", None)).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "no_accounts"));
    assert!(
        reply.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("moorage account add")
    );
    assert_eq!(harness.row(reply.request_id()).await["outcome"], "refused");
    let ready = harness
        .http
        .get(format!("{}/readyz", harness.gateway.url()))
        .send()
        .await
        .unwrap();
    assert_eq!(ready.status(), 503);
}

#[tokio::test]
async fn a_limited_account_is_not_kept_busy_by_those_who_wait_for_it() {
    let harness = Harness::build(1).account("max_concurrent = 1").start().await;
    let first = harness.turn(None).await;
    for previous in [Some(first.id()), None] {
        harness
            .account(0)
            .script("status=429;retry_after=0.3".parse().unwrap());
        let reply = harness.post(said("go on", previous.as_deref())).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(harness.row(reply.request_id()).await["attempts"], 2);
    }
}

#[tokio::test]
async fn a_sibling_serves_where_the_home_cannot_be_reached() {
    let mut harness = Harness::build(2).sharing(2).start().await;
    let first = harness.turn(None).await;
    let home = first.account().to_owned();
    // The home's address changes to one where nobody is.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}/v1", nobody.local_addr().unwrap());
    drop(nobody);
    let path = harness.folder().join("moorage.toml");
    let toml = std::fs::read_to_string(&path)
        .unwrap()
        .replace(harness.named(&home).base_url(), &closed);
    std::fs::write(&path, toml).unwrap();
    harness.kill_and_restart();
    let reply = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (reply.status, reply.affinity()),
        (200, "hit; by=previous_response_id")
    );
    assert_ne!(reply.account(), home);
}
