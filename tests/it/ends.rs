//! Every request leaves one row, however it ends.

use serde_json::{Value, json};

use crate::harness::{Harness, said, streamed};

#[tokio::test]
async fn a_completed_request_has_all_its_figures() {
    let harness = Harness::over(2).await;
    let first = harness.simulate("output_bytes=9000", said("begin", None)).await;
    let mut body = streamed("go on", Some(&first.id()));
    body["reasoning"] = json!({ "effort": "low" });
    let reply = harness.post(body.clone()).await;
    let usage = reply.events().last().unwrap()["response"]["usage"].clone();
    let row = harness.row(reply.request_id()).await;
    let expected = json!({
        "client_key": "laptop", "account": first.account(), "endpoint": "/responses", "transport": "sse",
        "model": "sim-large", "model_asked": "sim-large", "service_tier": "default",
        "response_id": reply.id(), "previous_response_id": first.id(),
        "affinity": "hit", "affinity_by": "previous_response_id", "attempts": 1,
        "status": 200, "outcome": "completed", "error_code": null,
        "request_bytes": body.to_string().len(), "response_bytes": reply.body.len(), "input_items": 1,
        "input_tokens": usage["input_tokens"], "cached_tokens": usage["input_tokens_details"]["cached_tokens"],
        "cache_write_tokens": usage["input_tokens_details"]["cache_write_tokens"],
        "output_tokens": usage["output_tokens"], "reasoning_tokens": 64, "usage_source": "upstream",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&row[name], value, "{name}");
    }
    for name in ["first_byte_ms", "first_output_ms", "duration_ms", "overhead_us"] {
        assert!(row[name].as_i64().unwrap() >= 0, "{name}");
    }
    assert!(row["started_at"].as_str().unwrap().ends_with('Z'));
    assert!(row["duration_ms"].as_i64() >= row["first_byte_ms"].as_i64());
}

#[tokio::test]
async fn the_row_is_there_when_the_answer_is() {
    let harness = Harness::over(1).await;
    for body in [said("a", None), streamed("b", None)] {
        for _ in 0..20 {
            let reply = harness.post(body.clone()).await;
            let rows = harness.query(&format!(
                "SELECT outcome FROM turns WHERE request_id = {}",
                reply.request_id()
            ));
            assert_eq!(rows, [json!({ "outcome": "completed" })]);
        }
    }
}

#[tokio::test]
async fn every_ending_of_an_answer_has_its_own_outcome() {
    let harness = Harness::over(1).await;
    let cases = [
        ("incomplete", true, "incomplete"),
        ("incomplete", false, "incomplete"),
        ("cancelled", true, "cancelled"),
        ("cancelled", false, "cancelled"),
        ("fail_in_stream=invalid_prompt", false, "failed"),
        ("fail_in_stream=invalid_prompt;fail_after=1", true, "failed"),
        ("end_without_terminal", true, "upstream_cut"),
        ("cut_json", false, "upstream_cut"),
    ];
    for (fault, stream, outcome) in cases {
        let body = if stream {
            streamed("hi", None)
        } else {
            said("hi", None)
        };
        let reply = harness.simulate(fault, body).await;
        assert_eq!(reply.status, 200, "{fault}");
        let row = harness.row(reply.request_id()).await;
        assert_eq!(row["outcome"], outcome, "{fault}");
        assert!(row["response_bytes"].is_i64(), "{fault}");
        let has_figures = outcome == "incomplete" || (fault == "cancelled" && !stream);
        assert_eq!(
            row["input_tokens"].is_i64(),
            has_figures,
            "unknown is not zero: {fault} {row}"
        );
        assert_eq!(
            row["usage_source"],
            if has_figures {
                json!("upstream")
            } else {
                Value::Null
            },
            "{fault}"
        );
    }
}

#[tokio::test]
async fn figures_that_were_not_told_are_unknown_and_not_zero() {
    let harness = Harness::over(1).await;
    for stream in [false, true] {
        let body = if stream {
            streamed("hi", None)
        } else {
            said("hi", None)
        };
        let row = harness
            .row(harness.simulate("no_usage", body.clone()).await.request_id())
            .await;
        assert_eq!(
            (&row["outcome"], &row["input_tokens"], &row["output_tokens"]),
            (&json!("completed"), &Value::Null, &Value::Null)
        );
        let row = harness
            .row(harness.simulate("no_details", body).await.request_id())
            .await;
        assert!(
            row["input_tokens"].is_i64() && row["output_tokens"].is_i64(),
            "{row}"
        );
        assert_eq!(
            (&row["cached_tokens"], &row["reasoning_tokens"]),
            (&Value::Null, &Value::Null)
        );
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_anywhere_ends_with_an_event_that_says_so() {
    let harness = Harness::over(1).await;
    for event in 1..=15 {
        let reply = harness
            .simulate(&format!("cut_after={event}"), streamed("hi", None))
            .await;
        let kinds = reply.kinds();
        assert!(reply.whole, "cut after {event}");
        assert_eq!(kinds.len(), event + 1, "cut after {event}: {kinds:?}");
        assert_eq!(kinds.last().unwrap(), "response.failed");
        let events = reply.events();
        assert_eq!(events[event]["sequence_number"], event);
        assert_eq!(events[event]["response"]["id"], reply.id());
        let row = harness.row(reply.request_id()).await;
        assert_eq!(
            (&row["outcome"], row["response_id"].as_str().unwrap()),
            (&json!("upstream_cut"), reply.id().as_str())
        );
        assert_eq!(row["input_tokens"], Value::Null);
        // The upstream has kept the response: the conversation can go on.
        assert_eq!(harness.turn(Some(&reply.id())).await.status, 200);
    }
    // Behind the terminal event there is nothing to be lost.
    let reply = harness.simulate("cut_after=16", streamed("hi", None)).await;
    assert_eq!(reply.kinds().last().unwrap(), "response.completed");
    assert_eq!(harness.row(reply.request_id()).await["outcome"], "completed");
}

#[tokio::test]
async fn a_document_that_is_cut_is_cut_visibly() {
    let harness = Harness::over(1).await;
    let reply = harness.simulate("cut_json", said("hi", None)).await;
    assert!(!reply.whole, "the client must not take it for the answer");
}

#[tokio::test]
async fn an_upstream_that_falls_silent_is_given_up() {
    let harness = Harness::build(1)
        .section("[limits]\nupstream_idle = \"300ms\"")
        .start()
        .await;
    let reply = harness
        .simulate("deltas=2;delta_delay=1h", streamed("hi", None))
        .await;
    assert_eq!(reply.kinds().last().unwrap(), "response.failed");
    assert_eq!(harness.row(reply.request_id()).await["outcome"], "timeout");
}

#[tokio::test]
async fn the_log_says_the_same_in_one_line() {
    let harness = Harness::over(1).await;
    let first = harness.turn(None).await;
    let reply = harness.post(said("go on", Some(&first.id()))).await;
    let row = harness.row(reply.request_id()).await;
    let wanted = format!("request={} ", reply.request_id());
    let line = crate::harness::eventually("the log line", || {
        harness
            .log()
            .lines()
            .find(|line| line.contains(&wanted))
            .map(str::to_owned)
    })
    .await;
    let expected = [
        "affinity=hit by=previous_response_id".to_owned(),
        "outcome=completed".to_owned(),
        format!("payload={}", row["request_bytes"]),
        format!("in={}", row["input_tokens"]),
        format!("out={}", row["output_tokens"]),
        format!("cached={}", row["cached_tokens"]),
        format!("reasoning={}", row["reasoning_tokens"]),
    ];
    for word in expected {
        assert!(line.contains(&word), "{word} in {line}");
    }
}

#[tokio::test]
async fn a_large_payload_is_warned_of() {
    let harness = Harness::over(1).await;
    let reply = harness.post(said(&"history ".repeat(200_000), None)).await;
    assert_eq!(reply.status, 200);
    crate::harness::eventually("the warning", || {
        harness
            .log()
            .lines()
            .find(|line| line.contains("WARN") && line.contains("large payload"))
            .map(str::to_owned)
    })
    .await;
}

#[tokio::test]
async fn what_a_killed_gateway_left_open_is_lost_and_says_so() {
    let mut harness = Harness::over(1).await;
    let _open = harness.open_stream("deltas=2;delta_delay=1h", "hi").await;
    harness.kill_and_restart();
    let rows = harness.query("SELECT outcome, input_tokens FROM turns");
    assert_eq!(rows, [json!({ "outcome": "lost", "input_tokens": null })]);
}

#[tokio::test]
async fn an_upstream_that_falls_silent_is_given_up_though_comments_keep_the_client_waiting() {
    let settings = "[limits]\nupstream_idle = \"700ms\"\nstream_comment = \"100ms\"";
    let harness = Harness::build(1).section(settings).start().await;
    let reply = harness
        .simulate("deltas=2;delta_delay=1h", streamed("hi", None))
        .await;
    let text = String::from_utf8(reply.body.clone()).unwrap();
    assert!(text.matches(": keep-alive\n").count() >= 3, "{text}");
    // A blank line after a comment ends an event without data, at which some readers fail.
    assert!(!text.contains(": keep-alive\n\n"), "{text}");
    assert_eq!(reply.kinds().last().unwrap(), "response.failed");
    assert_eq!(harness.row(reply.request_id()).await["outcome"], "timeout");
}

#[tokio::test]
async fn a_name_longer_than_any_passes_and_is_not_written_down() {
    let harness = Harness::over(1).await;
    let model = "m".repeat(257);
    let reply = harness
        .simulate(
            "status=400",
            json!({ "input": "hi", "model": model, "service_tier": model }),
        )
        .await;
    let row = harness.row(reply.request_id()).await;
    assert_eq!(
        (&row["model"], &row["service_tier"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(harness.account(0).journal()[0].json()["model"], model);
}
