//! Stopping: in good order, within a bound, and at once when told twice.

use serde_json::json;

use crate::harness::{Harness, Reply, eventually};
use crate::socket::create;

fn refuses(harness: &Harness) -> bool {
    std::net::TcpStream::connect(&harness.gateway.address).is_err()
}

#[tokio::test]
async fn a_running_stream_ends_in_good_order_and_nothing_new_is_taken() {
    for signal in ["TERM", "INT"] {
        let mut harness = Harness::over(1).await;
        let mut open = harness.open_stream("deltas=3;delta_delay=300ms", "hi").await;
        harness.gateway.signal(signal);
        eventually("a closed door", || refuses(&harness).then_some(())).await;
        let mut rest = Vec::new();
        while let Some(chunk) = open.chunk().await.unwrap() {
            rest.extend_from_slice(&chunk);
        }
        assert!(crate::raw::find(&rest, b"event: response.completed").is_some());
        assert!(harness.gateway.ended().await.success());
        assert_eq!(
            harness.query("SELECT outcome FROM turns"),
            [json!({ "outcome": "completed" })]
        );
        // All of it is in the one file: it can be copied.
        assert!(!harness.folder().join("moorage.db-wal").exists());
        harness.restart();
        assert_eq!(harness.turn(None).await.status, 200);
    }
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_the_end_up() {
    let mut harness = Harness::over(1).await;
    harness.turn(None).await;
    let begin = std::time::Instant::now();
    harness.gateway.signal("TERM");
    assert!(harness.gateway.ended().await.success());
    assert!(
        begin.elapsed().as_secs() < 10,
        "it waited for a connection that does nothing"
    );
}

#[tokio::test]
async fn a_stream_that_takes_too_long_is_cut_and_its_row_says_so() {
    let mut harness = Harness::build(1)
        .section("[limits]\nshutdown_grace = \"200ms\"")
        .start()
        .await;
    let open = harness.open_stream("deltas=2;delta_delay=1h", "hi").await;
    harness.gateway.signal("TERM");
    assert!(harness.gateway.ended().await.success());
    assert_eq!(
        harness.query("SELECT outcome FROM turns"),
        [json!({ "outcome": "shutdown" })]
    );
    drop(open);
}

#[tokio::test]
async fn a_response_over_a_websocket_that_takes_too_long_is_cut_and_its_row_says_so() {
    let mut harness = Harness::build(1)
        .section("[limits]\nshutdown_grace = \"200ms\"")
        .start()
        .await;
    for fault in ["deltas=2;delta_delay=1h", "hang"] {
        let asked = harness.account(0).journal().len();
        let mut socket = harness.socket_with(&[("x-simulate", fault)]).await;
        socket.send(&create("hi", None)).await;
        eventually("the request upstream", || {
            (harness.account(0).journal().len() > asked).then_some(())
        })
        .await;
        harness.gateway.signal("TERM");
        assert!(harness.gateway.ended().await.success());
        assert_eq!(
            harness.query("SELECT outcome FROM turns ORDER BY started_at DESC LIMIT 1"),
            [json!({ "outcome": "shutdown" })],
            "{fault}"
        );
        harness.restart();
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut harness = Harness::over(1).await;
    let open = harness.open_stream("deltas=2;delta_delay=1h", "hi").await;
    harness.gateway.signal("TERM");
    eventually("a closed door", || refuses(&harness).then_some(())).await;
    let begin = std::time::Instant::now();
    harness.gateway.signal("TERM");
    let status = harness.gateway.ended().await;
    assert_eq!(status.code(), Some(130));
    assert!(begin.elapsed().as_secs() < 10);
    drop(open);
    harness.restart();
    assert_eq!(
        harness.query("SELECT outcome FROM turns"),
        [json!({ "outcome": "lost" })]
    );
}

#[tokio::test]
async fn the_health_of_a_gateway_can_be_asked() {
    let harness = Harness::over(1).await;
    let health = Reply::of(harness.http.get(format!("{}/healthz", harness.gateway.url()))).await;
    assert_eq!((health.status, &health.body[..]), (200, &b"ok\n"[..]));
    let ready = Reply::of(harness.http.get(format!("{}/readyz", harness.gateway.url()))).await;
    assert_eq!((ready.status, &ready.json()["status"]), (200, &json!("ready")));
}
