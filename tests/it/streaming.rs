//! Answers flow: event by event, only as fast as the client reads, and in every form that upstreams
//! are known to send.

use serde_json::json;

use crate::harness::{Harness, eventually, said, streamed};

#[tokio::test]
async fn the_body_decides_about_the_stream_and_not_the_accept_header() {
    let harness = Harness::over(1).await;
    for accept in ["application/json", "text/event-stream"] {
        for (body, kind) in [
            (said("hi", None), "application/json"),
            (streamed("hi", None), "text/event-stream"),
        ] {
            let request = harness.request().header("accept", accept).body(body.to_string());
            let reply = crate::harness::Reply::of(request).await;
            assert!(
                reply.header("content-type").unwrap().starts_with(kind),
                "{accept} {kind}"
            );
        }
    }
}

#[tokio::test]
async fn a_stream_has_every_event_in_its_order() {
    let harness = Harness::over(1).await;
    let reply = harness.simulate("deltas=2", streamed("hi", None)).await;
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(reply.kinds(), expected);
    let numbers: Vec<_> = reply
        .events()
        .iter()
        .map(|event| event["sequence_number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (0..10).collect::<Vec<_>>());
    assert_eq!(reply.header("x-accel-buffering"), Some("no"));
}

#[tokio::test]
async fn an_event_arrives_before_the_next_one_is_made() {
    let harness = Harness::over(1).await;
    let mut response = harness
        .begin("deltas=2;delta_delay=20s", streamed("hi", None))
        .await;
    let mut seen = Vec::new();
    while crate::raw::find(&seen, b"response.output_text.delta").is_none() {
        seen.extend_from_slice(&response.chunk().await.unwrap().unwrap());
    }
    assert!(crate::raw::find(&seen, b"response.completed").is_none());
}

#[tokio::test]
async fn a_slow_reader_slows_the_upstream_and_fills_no_memory() {
    const MEBIBYTE: usize = 1024 * 1024;
    let harness = Harness::over(1).await;
    let before = memory_peak(harness.gateway.id());
    let request = harness
        .request()
        .header("x-simulate", format!("output_bytes={}", 96 * MEBIBYTE));
    let mut response = request.body(said("hi", None).to_string()).send().await.unwrap();
    let mut bytes = response.chunk().await.unwrap().unwrap().len();
    // Nobody reads now: once the gateway's memory has stopped to grow, it holds what it ever will.
    let mut polls = (0, 0);
    eventually("a gateway that waits", || {
        let peak = memory_peak(harness.gateway.id());
        polls = if peak == polls.0 {
            (peak, polls.1 + 1)
        } else {
            (peak, 0)
        };
        (polls.1 == 40).then_some(())
    })
    .await;
    while let Some(chunk) = response.chunk().await.unwrap() {
        bytes += chunk.len();
    }
    assert!(bytes > 96 * MEBIBYTE);
    let grown = memory_peak(harness.gateway.id()) - before;
    assert!(grown < 24 * MEBIBYTE, "the gateway grew by {grown} bytes");
}

#[tokio::test]
async fn a_client_that_takes_nothing_any_more_is_cut_and_holds_no_place() {
    let harness = Harness::build(1)
        .account("max_concurrent = 1")
        .section("[limits]\nclient_stall = \"300ms\"")
        .start()
        .await;
    let request = harness.request().header("x-simulate", "output_bytes=100000000");
    let stalled = request.body(said("hi", None).to_string()).send().await.unwrap();
    eventually("the end of it", || {
        let rows = harness.query("SELECT 1 AS x FROM turns WHERE outcome = 'client_gone'");
        (!rows.is_empty()).then_some(())
    })
    .await;
    assert_eq!(harness.turn(None).await.status, 200);
    drop(stalled);
}

fn memory_peak(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim()
        .trim_end_matches(" kB")
        .trim()
        .parse::<usize>()
        .unwrap()
        * 1024
}

#[tokio::test]
async fn every_form_of_a_stream_passes_and_is_read() {
    let harness = Harness::over(1).await;
    for fault in [
        "chunk=1",
        "chunk=7;crlf",
        "crlf",
        "done",
        "unknown_events",
        "unknown_events;chunk=3;done;crlf",
        "deltas=200",
    ] {
        let reply = harness.simulate(fault, streamed("hi", None)).await;
        assert_eq!(reply.status, 200, "{fault}");
        assert!(
            reply.kinds().iter().any(|kind| kind == "response.completed"),
            "{fault}"
        );
        let row = harness.row(reply.request_id()).await;
        assert_eq!(row["outcome"], "completed", "{fault}");
        assert_eq!(row["response_id"], reply.id(), "{fault}");
        // The row is final when the terminal event leaves: what follows it is not counted.
        if !fault.contains("done") {
            assert_eq!(row["response_bytes"], reply.body.len(), "{fault}");
        }
        assert!(row["input_tokens"].is_i64(), "{fault}");
    }
}

#[tokio::test]
async fn unknown_events_and_fields_reach_the_client_as_they_are() {
    let harness = Harness::over(1).await;
    let reply = harness.simulate("unknown_events", streamed("hi", None)).await;
    let text = String::from_utf8(reply.body.clone()).unwrap();
    assert!(
        text.contains("\"level\":12345678901234567890123, \"drift\":1.0e2"),
        "{text}"
    );
    assert!(text.contains(": a comment\n"), "{text}");
    assert!(text.contains("\"harbour\":{\"tide\":\"high\"}"), "{text}");
    let document = harness.simulate("unknown_events", said("hi", None)).await;
    assert_eq!(document.json()["harbour"], json!({ "tide": "high" }));
}

#[tokio::test]
async fn the_upstream_stops_when_the_client_hangs_up() {
    let harness = Harness::over(1).await;
    let mut response = harness
        .begin("deltas=2;delta_delay=1h", streamed("hi", None))
        .await;
    let request_id = response.headers()["x-moorage-request-id"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    response.chunk().await.unwrap().unwrap();
    drop(response);
    eventually("the end at the upstream", || {
        let entry = harness.account(0).journal().pop()?;
        (entry.ending == moorage::simulator::Ending::Cut).then_some(())
    })
    .await;
    let row = harness.row(request_id).await;
    assert_eq!(row["outcome"], "client_gone");
    assert!(
        row["response_id"].is_string() && row["input_tokens"].is_null(),
        "{row}"
    );
}
