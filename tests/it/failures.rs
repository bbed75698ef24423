//! What happens when an attempt fails: elsewhere where that is safe, an honest error where not.

use std::time::{Duration, Instant};

use moorage::simulator::Fault;
use serde_json::{Value, json};

use crate::harness::{Harness, Reply, eventually, said, streamed};

fn fault(text: &str) -> Fault {
    text.parse().unwrap()
}

/// Errors that say nothing about the request. The first attempt of a harness goes to `sim-a`.
const ELSEWHERE: [&str; 6] = [
    "status=429;retry_after=600",
    "status=429;code=insufficient_quota",
    "status=401",
    "status=403",
    "status=500",
    "status=503",
];

#[tokio::test]
async fn a_free_request_that_one_account_refuses_is_answered_by_another() {
    for refusal in ELSEWHERE {
        let harness = Harness::over(2).await;
        harness.account(0).script(fault(refusal));
        let reply = harness.post(said("hi", None)).await;
        assert_eq!((reply.status, reply.account()), (200, "sim-b"), "{refusal}");
        let row = harness.row(reply.request_id()).await;
        assert_eq!(
            (&row["attempts"], &row["outcome"], &row["error_code"]),
            (&json!(2), &json!("completed"), &Value::Null)
        );
    }
}

#[tokio::test]
async fn a_stream_that_fails_before_its_output_is_answered_by_another() {
    for failure in [
        "fail_in_stream=rate_limit_exceeded",
        "fail_in_stream=server_error",
        "error_event",
        "nested_error_event",
        "nested_error_event;unknown_events;chunk=9",
    ] {
        let harness = Harness::over(2).await;
        harness.account(0).script(fault(failure));
        let reply = harness.post(streamed("hi", None)).await;
        assert_eq!((reply.status, reply.account()), (200, "sim-b"), "{failure}");
        let kinds = reply.kinds();
        assert_eq!(
            kinds.iter().filter(|kind| *kind == "response.created").count(),
            1,
            "{failure} {kinds:?}"
        );
        assert_eq!(kinds.last().unwrap(), "response.completed", "{failure}");
        // What the failed attempt said has left no trace: its id was never seen.
        let row = harness.row(reply.request_id()).await;
        assert_eq!(
            (&row["attempts"], row["response_id"].as_str().unwrap()),
            (&json!(2), reply.id().as_str())
        );
    }
}

#[tokio::test]
async fn a_stream_that_fails_after_its_output_is_passed_on_as_it_is() {
    let harness = Harness::over(2).await;
    harness
        .account(0)
        .script(fault("fail_after=2;fail_in_stream=rate_limit_exceeded"));
    let reply = harness.post(streamed("hi", None)).await;
    assert_eq!(reply.account(), "sim-a");
    let kinds = reply.kinds();
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| *kind == "response.output_text.delta")
            .count(),
        2
    );
    assert_eq!(kinds.last().unwrap(), "error");
    let row = harness.row(reply.request_id()).await;
    assert_eq!(
        (&row["outcome"], &row["error_code"], &row["attempts"]),
        (&json!("failed"), &json!("rate_limit_exceeded"), &json!(1))
    );
    assert!(row["input_tokens"].is_null());
    assert!(harness.account(1).journal().is_empty());
}

#[tokio::test]
async fn an_error_in_the_request_goes_to_the_client_as_it_is() {
    for status in [400, 404, 408, 409, 413, 415, 422] {
        let harness = Harness::over(2).await;
        harness
            .account(0)
            .script(fault(&format!("status={status};code=told")));
        let reply = harness.post(said("hi", None)).await;
        assert_eq!(
            (reply.status, reply.code().as_str(), reply.account()),
            (status, "told", "sim-a")
        );
        let row = harness.row(reply.request_id()).await;
        assert_eq!(
            (&row["outcome"], &row["status"], &row["error_code"]),
            (&json!("rejected"), &json!(status), &json!("told"))
        );
        assert!(harness.account(1).journal().is_empty());
    }
}

#[tokio::test]
async fn when_all_fail_the_client_gets_the_last_error() {
    let harness = Harness::over(2).await;
    for index in 0..2 {
        harness.account(index).always(Some(fault("status=503")));
    }
    let reply = harness.post(said("hi", None)).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (503, "server_is_overloaded")
    );
    assert_eq!(harness.row(reply.request_id()).await["attempts"], 2);
}

#[tokio::test]
async fn events_are_held_back_for_a_bounded_time_only() {
    let harness = Harness::over(2).await;
    let begin = Instant::now();
    let mut response = harness
        .begin("only_created_then_hang", streamed("hi", None))
        .await;
    let first = response.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(b"event: response.created"), "{first:?}");
    assert!(begin.elapsed() >= Duration::from_millis(1900));
    // The id has been seen: it has its row and its owner, though the answer has not ended.
    let text = String::from_utf8(first.to_vec()).unwrap();
    let id = text.split('"').find(|word| word.starts_with("resp_")).unwrap();
    let rows = harness.query(&format!("SELECT outcome FROM turns WHERE response_id = '{id}'"));
    assert_eq!(rows, [json!({ "outcome": "open" })]);
}

#[tokio::test]
async fn a_pinned_stream_is_not_held_back() {
    let harness = Harness::over(2).await;
    let first = harness.turn(None).await;
    let request = harness.request().header("x-simulate", "only_created_then_hang");
    let begin = Instant::now();
    let body = streamed("go on", Some(&first.id())).to_string();
    let mut response = request.body(body).send().await.unwrap();
    response.chunk().await.unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_millis(1900));
}

#[tokio::test]
async fn a_pinned_request_waits_for_a_short_cooldown_of_its_account() {
    let harness = Harness::over(2).await;
    let first = harness.turn(None).await;
    harness
        .named(first.account())
        .script(fault("status=429;retry_after=0.3"));
    let reply = harness.turn(Some(&first.id())).await;
    assert_eq!(reply.account(), first.account());
    assert_eq!(harness.row(reply.request_id()).await["attempts"], 2);
}

/// A conversation whose account refuses from now on, and the next turn's answer.
async fn refused_at_home(harness: &Harness, refusal: &str) -> (Reply, Reply) {
    let first = harness.turn(None).await;
    harness.named(first.account()).always(Some(fault(refusal)));
    harness
        .simulator
        .accounts()
        .iter()
        .for_each(|account| account.clear_journal());
    let reply = harness.post(said("go on", Some(&first.id()))).await;
    for account in harness.simulator.accounts() {
        assert!(
            account.name() == first.account() || account.journal().is_empty(),
            "it went elsewhere"
        );
    }
    assert_eq!(reply.account(), first.account());
    assert_eq!(reply.affinity(), "refused; by=previous_response_id");
    (first, reply)
}

#[tokio::test]
async fn a_pinned_request_whose_account_cools_down_is_told_when_to_come_back() {
    let mut harness = Harness::over(2).await;
    let (first, reply) = refused_at_home(&harness, "status=429;retry_after=600").await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (429, "account_cooling_down")
    );
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((598..=600).contains(&wait), "{wait}");
    let row = harness.row(reply.request_id()).await;
    assert_eq!(
        (&row["outcome"], &row["affinity"], &row["account"]),
        (&json!("refused"), &json!("refused"), &json!(first.account()))
    );

    // The account stays away, also from a gateway that was started anew, and is not asked again.
    harness.kill_and_restart();
    harness.named(first.account()).clear_journal();
    let reply = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (429, "account_cooling_down")
    );
    assert!(harness.named(first.account()).journal().is_empty());
    // The limit is that of a model; the account serves others.
    let now = &harness.query("SELECT * FROM accounts_now WHERE account = 'sim-a'")[0];
    assert_eq!((&now["status"], &now["until"]), (&json!("active"), &json!(null)));
    let limited = now["limited_models"].as_str().unwrap();
    assert!(limited.starts_with("sim-large until 2"), "{limited}");
    let mut other = said("go on", Some(&first.id()));
    other["model"] = "sim-small".into();
    harness.named(first.account()).always(None);
    let reply = harness.post(other).await;
    assert_eq!((reply.status, reply.account()), (200, first.account()));
}

#[tokio::test]
async fn a_limit_of_no_model_keeps_the_whole_account_away() {
    let harness = Harness::over(1).await;
    harness.account(0).script(fault("status=429;retry_after=600"));
    let reply = harness.post(json!({ "input": "hi" })).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (429, "account_cooling_down")
    );
    let now = &harness.query("SELECT * FROM accounts_now WHERE account = 'sim-a'")[0];
    assert_eq!(
        (&now["status"], &now["reason"]),
        (&json!("cooling_down"), &json!("rate_limit_exceeded"))
    );
    assert!(now["until"].is_string());
    assert_eq!(
        harness.post(said("hi", None)).await.code(),
        "account_cooling_down"
    );
}

#[tokio::test]
async fn a_pinned_request_whose_account_is_gone_is_told_so() {
    for (refusal, status) in [("status=401", "expired"), ("status=403", "disabled")] {
        let harness = Harness::over(2).await;
        let (_, reply) = refused_at_home(&harness, refusal).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (503, "account_unavailable"),
            "{refusal}"
        );
        assert_eq!(
            harness.query("SELECT status FROM accounts_now WHERE account = 'sim-a'")[0]["status"],
            status
        );
    }
}

#[tokio::test]
async fn a_spent_quota_rests_longer_and_is_probed_again() {
    let harness = Harness::over(2).await;
    let (_, reply) = refused_at_home(&harness, "status=429;code=insufficient_quota").await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (429, "account_cooling_down")
    );
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((595..=600).contains(&wait), "{wait}");
    let now = &harness.query("SELECT status, until FROM accounts_now WHERE account = 'sim-a'")[0];
    assert_eq!(now["status"], "exhausted");
    assert!(now["until"].is_string());
}

#[tokio::test]
async fn a_limit_without_a_time_is_probed_again_soon() {
    let harness = Harness::over(1).await;
    harness.account(0).script(fault("status=429"));
    let reply = harness.post(said("hi", None)).await;
    assert_eq!(reply.status, 200);
    assert_eq!(harness.row(reply.request_id()).await["attempts"], 2);
}

#[tokio::test]
async fn a_server_fault_at_home_is_told_and_no_other_account_asked() {
    let harness = Harness::over(2).await;
    let first = harness.turn(None).await;
    harness.named(first.account()).script(fault("status=500"));
    let reply = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (reply.status, reply.code().as_str(), reply.account()),
        (500, "server_error", first.account())
    );
    // It was nobody's fault: the next turn is served.
    harness.turn(Some(&first.id())).await;
}

#[tokio::test]
async fn a_request_that_was_sent_and_not_answered_is_not_made_again() {
    let harness = Harness::build(2)
        .section("[limits]\nupstream_first_byte = \"300ms\"")
        .start()
        .await;
    for (failure, status, code, outcome) in [
        ("cut_before", 502, "upstream_cut", "upstream_cut"),
        ("hang", 504, "upstream_timeout", "timeout"),
    ] {
        harness
            .simulator
            .accounts()
            .iter()
            .for_each(|account| account.clear_journal());
        let reply = harness.simulate(failure, said(failure, None)).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code));
        let row = harness.row(reply.request_id()).await;
        assert_eq!(
            (&row["outcome"], &row["attempts"], &row["status"]),
            (&json!(outcome), &json!(1), &json!(status))
        );
        let asked: usize = harness
            .simulator
            .accounts()
            .iter()
            .map(|account| account.journal().len())
            .sum();
        assert_eq!(asked, 1);
        // A broken connection does not count against the account.
        assert!(
            harness
                .query("SELECT status FROM accounts_now")
                .iter()
                .all(|now| now["status"] == "active")
        );
    }
}

#[tokio::test]
async fn an_account_that_cannot_be_reached_is_passed_over() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}/v1", nobody.local_addr().unwrap());
    drop(nobody);
    let simulator = moorage::simulator::Simulator::start(Default::default())
        .await
        .unwrap();
    let live = simulator.accounts()[0].base_url().to_owned();
    let accounts = [
        ("dead".to_owned(), closed.clone(), "k".to_owned()),
        ("sim-a".to_owned(), live, "sk-sim-a".to_owned()),
    ];
    let harness = Harness::build(0).start_over(simulator, &accounts).await;
    let reply = harness.post(said("hi", None)).await;
    assert_eq!((reply.status, reply.account()), (200, "sim-a"));

    let simulator = moorage::simulator::Simulator::start(Default::default())
        .await
        .unwrap();
    let harness = Harness::build(0).start_over(simulator, &accounts[..1]).await;
    let reply = harness.post(said("hi", None)).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (502, "upstream_unreachable")
    );
    let message = reply.json()["error"]["message"].to_string();
    assert!(
        !message.contains(&closed["http://".len()..]),
        "the address is no business of the client: {message}"
    );
}

#[tokio::test]
async fn a_slow_upstream_is_waited_for() {
    let harness = Harness::over(1).await;
    let reply = harness.simulate("slow=400ms", said("hi", None)).await;
    assert_eq!(reply.status, 200);
    let row = harness.row(reply.request_id()).await;
    let (whole, own) = (
        row["duration_ms"].as_i64().unwrap(),
        row["overhead_us"].as_i64().unwrap(),
    );
    assert!(
        whole >= 400 && own < 300_000,
        "waiting is not the gateway's own time: {row}"
    );
}

#[tokio::test]
async fn an_answer_in_an_encoding_that_nobody_asked_for_is_refused() {
    let harness = Harness::over(1).await;
    let reply = harness.simulate("wrong_encoding", said("hi", None)).await;
    assert_eq!((reply.status, reply.code().as_str()), (502, "upstream_encoding"));
    eventually("the account's place", || {
        (harness
            .query("SELECT 1 AS x FROM turns WHERE outcome = 'open'")
            .is_empty())
        .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_limit_that_is_told_inside_a_stream_counts_also_where_nothing_can_be_moved() {
    let cases = [
        ("fail_in_stream=rate_limit_exceeded", "active", true),
        ("fail_in_stream=rate_limit_exceeded;fail_after=2", "active", true),
        ("fail_in_stream=insufficient_quota", "exhausted", false),
    ];
    for (failure, status, of_model) in cases {
        let harness = Harness::over(2).await;
        let first = harness.turn(None).await;
        harness.named(first.account()).script(fault(failure));
        let reply = harness.post(streamed("go on", Some(&first.id()))).await;
        assert_eq!(
            (reply.status, reply.account()),
            (200, first.account()),
            "{failure}"
        );
        let now = format!(
            "SELECT status, limited_models FROM accounts_now WHERE account = '{}'",
            first.account()
        );
        let now = &harness.query(&now)[0];
        assert_eq!(now["status"], status, "{failure}");
        assert_eq!(now["limited_models"].is_string(), of_model, "{failure}");
    }
}

#[tokio::test]
async fn what_an_account_answered_is_told_though_the_others_cannot_be_asked() {
    let mut harness = Harness::over(2).await;
    let disable = harness.command(&["account", "disable", "sim-b"]);
    assert!(disable.status.success());
    harness.kill_and_restart();
    harness.account(0).script(fault("status=503"));
    let reply = harness.post(said("hi", None)).await;
    assert_eq!(
        (reply.status, reply.code().as_str(), reply.account()),
        (503, "server_is_overloaded", "sim-a")
    );
    assert_eq!(harness.row(reply.request_id()).await["outcome"], "rejected");
}

#[tokio::test]
async fn a_limit_that_is_over_is_told_no_more() {
    let harness = Harness::over(1).await;
    harness.account(0).script(fault("status=429;retry_after=0.1"));
    assert_eq!(harness.post(said("hi", None)).await.status, 200);
    let now = eventually("the end of the limit", || {
        let now = harness
            .query("SELECT status, until, reason FROM accounts_now")
            .pop()?;
        now["until"].is_null().then_some(now)
    })
    .await;
    assert_eq!(now, json!({ "status": "active", "until": null, "reason": null }));
}
