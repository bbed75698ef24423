//! The usage history: what the admin API tells, and that everybody who tells it says the same.

use serde_json::{Value, json};

use crate::harness::{Harness, PATIENCE, Reply, eventually, said, streamed};

/// What a million tokens of the simulated model cost in these tests.
const PRICE: &str =
    "[[price]]\nmodel = \"sim-*\"\nfrom = \"2026-01-01\"\ninput = 2\ncached_input = 0.5\noutput = 10";

async fn ask(harness: &Harness, path: &str) -> Reply {
    let url = format!("{}{path}", harness.gateway.url());
    Reply::of(
        harness
            .http
            .get(url)
            .bearer_auth(&harness.admin_key)
            .timeout(PATIENCE),
    )
    .await
}

async fn get(harness: &Harness, path: &str) -> Value {
    let reply = ask(harness, path).await;
    assert_eq!(reply.status, 200, "{path}: {reply:?}");
    reply.json()
}

/// Three turns of a session; the last goes to another account, because the first is limited.
async fn moved_session(harness: &Harness) -> Vec<Reply> {
    let text = "the tide ".repeat(600);
    let turn = async |number: usize| {
        let body = json!({ "model": "sim-large", "input": format!("{text}{number}") });
        let request = harness.request().header("session-id", "a session");
        Reply::of(request.body(body.to_string())).await
    };
    let mut turns = vec![turn(1).await, turn(2).await];
    let home = harness.named(turns[0].account());
    home.always(Some("status=429;retry_after=300".parse().unwrap()));
    turns.push(turn(3).await);
    turns
}

#[tokio::test]
async fn a_range_is_told_in_steps_and_parts_beside_the_range_before() {
    let harness = Harness::build(2).section(PRICE).start().await;
    for number in 0..6 {
        harness.post(said(&format!("matter {number}"), None)).await;
    }
    harness.post(streamed("one more", None)).await;
    harness.simulate("no_usage", said("no figures", None)).await;
    Reply::of(harness.request().body("no json")).await;
    let day = get(&harness, "/admin/api/v1/usage?last=24h&by=account").await;
    let totals = &day["totals"];
    assert_eq!(
        (&totals["requests"], &totals["errors"], &totals["without_usage"]),
        (&json!(9), &json!(1), &json!(2))
    );
    assert_eq!(day["before"]["requests"], 0);
    assert_eq!(day["before"]["input_tokens"], Value::Null);
    assert_eq!(day["step_ms"], 3_600_000);
    let sum = |list: &Value, name: &str| -> i64 {
        list.as_array()
            .unwrap()
            .iter()
            .filter_map(|line| line[name].as_i64())
            .sum()
    };
    for list in [&day["parts"], &day["cells"]] {
        for name in [
            "requests",
            "errors",
            "input_tokens",
            "output_tokens",
            "cost_micros",
        ] {
            assert_eq!(sum(list, name), totals[name].as_i64().unwrap(), "{name}");
        }
    }
    let parts: Vec<&Value> = day["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| &part["part"])
        .collect();
    assert!(
        parts.contains(&&json!("sim-a")) && parts.contains(&&json!("sim-b")) && parts.contains(&&Value::Null)
    );
    // The same in steps of minutes, which are made of rows.
    let hour = get(&harness, "/admin/api/v1/usage?last=1h&by=transport").await;
    assert_eq!(hour["totals"], *totals);
    assert_eq!(hour["step_ms"], 120_000);
    let sse = hour["parts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|part| part["part"] == "sse");
    assert_eq!(sse.unwrap()["requests"], 1);
}

#[tokio::test]
async fn cost_is_what_the_price_table_says_and_unknown_without_a_price() {
    let harness = Harness::build(1).section(PRICE).start().await;
    let text = "the tide ".repeat(600);
    let body = |model: &str| json!({ "model": model, "prompt_cache_key": "thread", "input": text });
    harness.post(body("sim-large")).await;
    let second = harness.post(body("sim-large")).await;
    harness.row(second.request_id()).await;
    let row = get(
        &harness,
        &format!("/admin/api/v1/requests/{}", second.request_id()),
    )
    .await;
    let figure = |name: &str| row[name].as_i64().unwrap();
    let (input, cached, output) = (
        figure("input_tokens"),
        figure("cached_tokens"),
        figure("output_tokens"),
    );
    assert!(cached > 0, "{row}");
    assert_eq!(
        figure("cost_micros"),
        ((input - cached) * 4 + cached + output * 20 + 1) / 2
    );
    assert_eq!(figure("saved_micros"), (cached * 3 + 1) / 2);
    assert_eq!(row["price"]["valid_from_ms"], 1_767_225_600_000_i64);
    let foreign = harness.post(body("other-model")).await;
    let row = harness.row(foreign.request_id()).await;
    assert!(row["input_tokens"].is_i64());
    assert_eq!(row["cost"], Value::Null);
    let usage = get(&harness, "/admin/api/v1/usage?by=model").await;
    assert_eq!(usage["totals"]["without_price"], 1);
    assert_eq!(usage["currency"], "USD");
}

#[tokio::test]
async fn prices_are_read_again_on_a_hang_up_and_rows_that_are_written_keep_theirs() {
    let harness = Harness::build(1).section(PRICE).start().await;
    let input_price = async || {
        let reply = harness.turn(None).await;
        harness.row(reply.request_id()).await;
        let path = format!("/admin/api/v1/requests/{}", reply.request_id());
        let price = get(&harness, &path).await["price"]["input_micros"].as_i64();
        (reply.request_id(), price)
    };
    let (first, before) = input_price().await;
    assert_eq!(before, Some(2_000_000));
    let file = harness.folder().join("moorage.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("input = 2\n", "input = 3\n")).unwrap();
    harness.gateway.signal("HUP");
    eventually("the word in the log", || {
        harness.log().contains("prices taken over").then_some(())
    })
    .await;
    assert_eq!(input_price().await.1, Some(3_000_000));
    let kept = get(&harness, &format!("/admin/api/v1/requests/{first}")).await;
    assert_eq!(kept["price"]["input_micros"], 2_000_000);
}

#[tokio::test]
async fn the_doctor_tells_how_large_the_history_is() {
    let harness = Harness::over(1).await;
    let first = harness.turn(None).await;
    harness.turn(Some(&first.id())).await;
    let told = harness.run(&["doctor"]);
    assert!(
        told.contains("size") && told.contains("write-ahead log"),
        "{told}"
    );
    assert!(told.contains("2 requests since 20"), "{told}");
}

#[tokio::test]
async fn a_turn_that_moved_tells_what_that_cost() {
    let harness = Harness::build(2).section(PRICE).start().await;
    let turns = moved_session(&harness).await;
    assert_ne!(turns[1].account(), turns[2].account());
    let moved = get(&harness, "/admin/api/v1/requests?affinity=astray").await;
    let moved = moved["requests"].as_array().unwrap();
    assert_eq!(moved.len(), 1);
    let lost = moved[0]["lost_tokens"].as_i64().unwrap();
    assert!(lost > 1000, "{moved:?}");
    let cost_lost = moved[0]["cost_lost"].as_f64().unwrap();
    assert!((cost_lost - lost as f64 * 1.5e-6).abs() < 1e-6, "{cost_lost}");
    let usage = get(&harness, "/admin/api/v1/usage").await;
    assert_eq!(
        (&usage["totals"]["moves"], &usage["totals"]["lost_tokens"]),
        (&json!(1), &json!(lost))
    );
}

#[tokio::test]
async fn a_list_is_filtered_and_paged_and_each_request_is_shown_once() {
    let harness = Harness::over(2).await;
    let mut ids = Vec::new();
    for number in 0..25 {
        let fault = if number % 5 == 0 {
            "status=400;code=bad_thing"
        } else {
            ""
        };
        ids.push(
            harness
                .simulate(fault, said(&format!("matter {number}"), None))
                .await
                .request_id(),
        );
    }
    ids.reverse();
    let mut seen = Vec::new();
    let mut next = Value::Null;
    loop {
        let cursor = next
            .as_i64()
            .map(|id| format!("&before_id={id}"))
            .unwrap_or_default();
        let page = get(&harness, &format!("/admin/api/v1/requests?count=10{cursor}")).await;
        seen.extend(
            page["requests"]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| row["request_id"].as_i64().unwrap()),
        );
        next = page["next_before_id"].clone();
        if next.is_null() {
            break;
        }
    }
    assert_eq!(seen, ids);
    let count = async |filter: &str| {
        let list = get(&harness, &format!("/admin/api/v1/requests?count=100&{filter}")).await;
        list["requests"].as_array().unwrap().len()
    };
    assert_eq!(count("outcome=errors").await, 5);
    assert_eq!(count("outcome=rejected").await, 5);
    assert_eq!(count("outcome=timeout").await, 0);
    assert_eq!(count("error=BAD").await, 5);
    assert_eq!(count("outcome=completed").await, 20);
    assert_eq!(count("account=sim-a").await + count("account=sim-b").await, 25);
    assert_eq!(count("account=nobody").await, 0);
    assert_eq!(
        count("client_key=laptop&model=sim-large&transport=json").await,
        25
    );
    assert_eq!(count("model=other").await, 0);
    assert_eq!(count("to=2026-01-01T00:00:00Z").await, 0);
    for (wrong, word) in [
        ("colour=red", "colour"),
        ("from=soon", "from"),
        ("count=many", "count"),
    ] {
        let reply = ask(&harness, &format!("/admin/api/v1/requests?{wrong}")).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "invalid_parameter"),
            "{wrong}"
        );
        assert!(
            reply.json()["error"]["message"].as_str().unwrap().contains(word) || word == "count",
            "{reply:?}"
        );
    }
    let csv = ask(&harness, "/admin/api/v1/requests?outcome=errors&format=csv").await;
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
    let text = String::from_utf8(csv.body).unwrap();
    assert_eq!(text.lines().count(), 6);
    assert!(
        text.starts_with("request_id,started_at,") && text.contains("bad_thing"),
        "{text}"
    );
}

#[tokio::test]
async fn a_conversation_is_followed_by_its_id_or_one_of_its_responses() {
    let harness = Harness::over(2).await;
    let first = harness.turn(None).await;
    let second = harness.turn(Some(&first.id())).await;
    let other = harness.turn(None).await;
    let list = get(&harness, "/admin/api/v1/conversations").await;
    let list = list["conversations"].as_array().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!((&list[1]["turns"], &list[0]["turns"]), (&json!(2), &json!(1)));
    for id in [
        first.id(),
        second.id(),
        list[1]["conversation_id"].as_str().unwrap().to_uppercase(),
    ] {
        let shown = get(&harness, &format!("/admin/api/v1/conversations/{id}")).await;
        let turns = shown["turns"].as_array().unwrap();
        assert_eq!(turns.len(), 2);
        assert_eq!(
            (&turns[0]["response_id"], &turns[1]["response_id"]),
            (&json!(first.id()), &json!(second.id()))
        );
        assert_eq!(shown["conversation"]["account"], first.account());
        assert_eq!(turns[1]["affinity"], "hit");
    }
    let elsewhere = get(&harness, &format!("/admin/api/v1/conversations/{}", other.id())).await;
    assert_eq!(elsewhere["turns"].as_array().unwrap().len(), 1);
    let unknown = ask(&harness, "/admin/api/v1/conversations/resp_nobody_knows").await;
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "not_found"));
    assert_eq!(ask(&harness, "/admin/api/v1/requests/1").await.status, 404);
}

#[tokio::test]
async fn each_attempt_of_a_request_is_told_with_what_became_of_it() {
    let harness = Harness::over(2).await;
    let session = harness.request().header("session-id", "a session");
    let first = Reply::of(session.body(said("The tide", None).to_string())).await;
    let home = harness.named(first.account());
    home.always(Some(
        "status=429;code=rate_limit_exceeded;retry_after=60"
            .parse()
            .unwrap(),
    ));
    let session = harness.request().header("session-id", "a session");
    let reply = Reply::of(session.body(said("The tide", None).to_string())).await;
    let request = reply.request_id();
    let accounts = [first.account(), reply.account()];
    let told = get(&harness, &format!("/admin/api/v1/requests/{request}")).await;
    let attempts = told["each_attempt"].as_array().unwrap();
    let column = |name: &str| -> Vec<Value> { attempts.iter().map(|line| line[name].clone()).collect() };
    assert_eq!(column("account"), accounts);
    assert_eq!(column("attempt"), [1, 2]);
    assert_eq!(column("how"), ["refused", "answered"]);
    assert_eq!(column("status"), [429, 200]);
    assert_eq!(column("error_code"), [json!("rate_limit_exceeded"), Value::Null]);
    assert!(attempts.iter().all(|line| line["duration_ms"].is_i64()), "{told}");
    // The view says the same, and the command.
    let view = harness.query(&format!("SELECT * FROM attempts WHERE request_id = {request}"));
    assert_eq!(view.len(), 2);
    assert_eq!(
        (&view[0]["how"], &view[0]["status"]),
        (&json!("refused"), &json!(429))
    );
    let printed = harness.command(&["request", &request.to_string()]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    for word in ["rate_limit_exceeded", "refused", "answered", "model asked"] {
        assert!(printed.contains(word), "{word}: {printed}");
    }
    // What was asked once and answered has one; what was asked nowhere has none.
    let of =
        async |id: i64| get(&harness, &format!("/admin/api/v1/requests/{id}")).await["each_attempt"].clone();
    let single = of(first.request_id()).await;
    assert_eq!(
        (single.as_array().unwrap().len(), &single[0]["how"]),
        (1, &json!("answered"))
    );
    let unread = Reply::of(harness.request().body("no json")).await;
    assert_eq!(of(unread.request_id()).await, json!([]));
    let unknown = harness.command(&["request", "7"]);
    assert!(!unknown.status.success());
}

#[tokio::test]
async fn what_runs_now_is_told() {
    let harness = Harness::over(1).await;
    let live = get(&harness, "/admin/api/v1/live").await;
    assert_eq!((&live["open"], &live["ended"]), (&json!(0), &json!(0)));
    let stream = harness.open_stream("deltas=2;delta_delay=100ms", "hi").await;
    let live = get(&harness, "/admin/api/v1/live").await;
    assert_eq!(
        (&live["open"], &live["accounts"][0]["in_flight"]),
        (&json!(1), &json!(1))
    );
    stream.bytes().await.unwrap();
    let begin = std::time::Instant::now();
    while get(&harness, "/admin/api/v1/live").await["open"] != 0 {
        assert!(begin.elapsed() < PATIENCE);
    }
    assert_eq!(get(&harness, "/admin/api/v1/live").await["ended"], 1);
}

#[tokio::test]
async fn nothing_of_the_history_is_told_without_the_admin_key() {
    let harness = Harness::over(1).await;
    for path in [
        "usage",
        "requests",
        "requests/1",
        "conversations",
        "conversations/x",
        "live",
        "../../../metrics",
    ] {
        let url = format!("{}/admin/api/v1/{path}", harness.gateway.url());
        assert_eq!(Reply::of(harness.http.get(&url)).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn metrics_have_the_names_and_units_that_prometheus_wants() {
    let harness = Harness::build(1).section(PRICE).start().await;
    harness.turn(None).await;
    let reply = ask(&harness, "/metrics").await;
    assert!(
        reply
            .header("content-type")
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    let text = String::from_utf8(reply.body).unwrap();
    for line in [
        "moorage_requests_total{account=\"sim-a\",client_key=\"laptop\",outcome=\"completed\"} 1",
        "moorage_affinity_total{affinity=\"none\"} 1",
        "moorage_attempts_total{account=\"sim-a\"} 1",
        "moorage_overhead_seconds_count 1",
        "moorage_open_exchanges 0",
        "moorage_store_writable 1",
        "moorage_account_cooling_down{account=\"sim-a\"} 0",
        "# TYPE moorage_store_commit_seconds histogram",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(
        text.contains("moorage_cost_total{account=\"sim-a\",model=\"sim-large\",currency=\"USD\"} 0."),
        "{text}"
    );
}

/// Rows of a conversation of many turns, each with as many tokens in as its number.
pub fn long_conversation(harness: &Harness, turns: usize) -> String {
    let conversation = "0198c1f2-0000-7000-8000-000000000001";
    harness.query(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {turns}),
           begin(ms) AS (SELECT unixepoch('now') * 1000 - 3600000)
         INSERT INTO requests (id, started_at_ms, ended_at_ms, endpoint, transport, outcome, account_id, conversation_id, input_tokens, cached_tokens, output_tokens)
         SELECT (ms + i) * 1024, ms + i, ms + i + 1, '/responses', 'sse', 'completed', 1, '{conversation}', i, i / 2, 1 FROM n, begin"
    ));
    conversation.to_owned()
}

#[tokio::test]
async fn a_conversation_of_thousands_of_turns_is_told_whole() {
    let harness = Harness::over(1).await;
    let id = long_conversation(&harness, 2500);
    let printed = harness.run(&["conversation", &id, "--json"]);
    let turns: Vec<Value> = serde_json::from_str(&printed).unwrap();
    let tokens: Vec<i64> = turns
        .iter()
        .map(|turn| turn["input_tokens"].as_i64().unwrap())
        .collect();
    assert_eq!(tokens, (1..=2500).collect::<Vec<i64>>());
    let path = format!("/admin/api/v1/conversations/{id}?format=csv");
    let csv = String::from_utf8(ask(&harness, &path).await.body).unwrap();
    assert_eq!(csv.lines().count(), 1 + 2500);
    // JSON comes in pages.
    let (mut after, mut told) = (0, 0);
    loop {
        let path = format!("/admin/api/v1/conversations/{id}?after_id={after}");
        let page = get(&harness, &path).await;
        told += page["turns"].as_array().unwrap().len();
        assert!(told <= 2500);
        match page["next_after_id"].as_i64() {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(told, 2500);
}

#[tokio::test]
async fn what_is_rare_is_in_the_list_as_csv_however_far_back_it_is() {
    let harness = Harness::over(1).await;
    long_conversation(&harness, 25_000);
    harness.query("UPDATE requests SET outcome = 'failed', error_code = iif(id = (SELECT min(id) FROM requests), 'rare_thing', 'common')");
    let path = "/admin/api/v1/requests?error=rare_thing&count=1000";
    let page = get(&harness, path).await;
    assert_eq!(page["requests"], json!([]));
    assert!(page["next_before_id"].is_i64());
    let csv = ask(&harness, &format!("{path}&format=csv")).await;
    let csv = String::from_utf8(csv.body).unwrap();
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(csv.contains("rare_thing"));
}
