//! Accounts that are ChatGPT logins: what clients that are not Codex CLI send is made to fit, what comes
//! back is what they expect, and what cannot be done is said. How they go on from a response is in
//! `codex_websocket`.

use moorage::account::Kind;
use serde_json::{Value, json};

use crate::harness::{Builder, Harness, Reply, WithJson as _, eventually, said, streamed};
use crate::socket::create;

fn one_login() -> Builder {
    Harness::build(1).kinds(&[Kind::Codex])
}

/// One whose backend is asked over HTTP only.
fn over_http() -> Builder {
    one_login().http_only()
}

fn two_logins() -> Builder {
    Harness::build(2).kinds(&[Kind::Codex, Kind::Codex])
}

/// The body as the account got it last.
fn received(harness: &Harness) -> Value {
    harness.account(0).journal().pop().unwrap().json()
}

#[tokio::test]
async fn a_plain_request_is_made_to_fit_and_answered_as_json() {
    let harness = one_login().start().await;
    let body = json!({
        "model": "sim-large", "input": "Which tide is it?", "temperature": 0.2, "max_output_tokens": 900,
        "metadata": { "a": "b" }, "user": "u", "service_tier": "fast", "harbour": 12345678901234567890u64,
    });
    let reply = harness.post(body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let answer = reply.json();
    assert_eq!(
        (&answer["object"], &answer["status"]),
        (&json!("response"), &json!("completed"))
    );
    let text = answer["output"][0]["content"][0]["text"].as_str().unwrap();
    assert_eq!(text, "Turn 1 on sim-a. You said: Which tide is it?");
    let got = received(&harness);
    assert_eq!(
        (&got["store"], &got["stream"], &got["service_tier"]),
        (&json!(false), &json!(true), &json!("priority"))
    );
    assert_eq!(got["input"][0]["content"][0]["text"], "Which tide is it?");
    assert_eq!(got["harbour"], 12345678901234567890u64);
    assert!(got["instructions"].is_string() && got["prompt_cache_key"].is_string());
    for name in ["temperature", "max_output_tokens", "metadata", "user"] {
        assert!(got.get(name).is_none(), "{name}");
    }
    let row = harness.row(reply.request_id()).await;
    assert_eq!(
        (&row["outcome"], &row["transport"], &row["status"]),
        (&json!("completed"), &json!("json"), &json!(200))
    );
    assert_eq!(row["input_tokens"], answer["usage"]["input_tokens"]);
    assert_eq!(row["response_id"], answer["id"]);
}

#[tokio::test]
async fn system_messages_become_the_developers_and_need_no_other_instructions() {
    let harness = one_login().start().await;
    let input = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "hi" }]);
    let reply = harness
        .post(json!({ "model": "sim-large", "input": input }))
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let got = received(&harness);
    assert_eq!(
        got["input"][0],
        json!({ "role": "developer", "content": "Be brief." })
    );
    assert!(got.get("instructions").is_none());
}

#[tokio::test]
async fn moorage_says_who_it_is_and_which_conversation_it_is() {
    let harness = one_login().start().await;
    let request = harness
        .request()
        .header("user-agent", "codex_exec/0.169.0")
        .header("originator", "codex_exec");
    let request = request
        .header("version", "0.169.0")
        .header("chatgpt-account-id", "acct-mine");
    let reply = Reply::of(request.json(&said("hi", None))).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let entry = harness.account(0).journal().pop().unwrap();
    assert_eq!(entry.header("originator"), Some("moorage"));
    assert!(entry.header("user-agent").unwrap().starts_with("moorage/"));
    assert_eq!(entry.header("chatgpt-account-id"), Some("acct-sim-a"));
    assert_eq!(entry.header("version"), None);
    let row = harness.row(reply.request_id()).await;
    assert_eq!(entry.header("session-id"), row["conversation_id"].as_str());
    assert_eq!(entry.json()["prompt_cache_key"], row["conversation_id"]);
}

#[tokio::test]
async fn what_codex_itself_sends_arrives_byte_for_byte() {
    let harness = one_login().start().await;
    let body = r#"{"model":"sim-large","store":false,"stream":true,"prompt_cache_key":"k", "input":[{"role":"developer","content":"x"},{"role":"user","content":"hi"}],"include":["reasoning.encrypted_content"],"reasoning":{"summary":"auto"},"n":1.0e2}"#;
    let reply = Reply::of(harness.request().header("session-id", "mine").body(body)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let entry = harness.account(0).journal().pop().unwrap();
    assert_eq!(
        (entry.body.as_ref(), entry.header("session-id")),
        (body.as_bytes(), Some("mine"))
    );
}

#[tokio::test]
async fn a_stream_passes_and_its_quota_is_seen_by_those_who_may() {
    let harness = one_login().start().await;
    let hidden = harness.post(streamed("hi", None)).await;
    assert_eq!(hidden.kinds()[0], "response.created");
    assert_eq!(hidden.kinds().last().unwrap(), "response.completed");
    assert!(
        hidden
            .headers
            .keys()
            .all(|name| !name.as_str().starts_with("x-codex-primary"))
    );
    let key = harness.run(&["key", "add", "owner", "--show-quota"]);
    let key = key
        .split_whitespace()
        .find(|word| word.starts_with("mk-"))
        .unwrap()
        .to_owned();
    let shown = harness.post_as(&key, streamed("hi", None)).await;
    assert_eq!(shown.kinds()[0], "codex.rate_limits");
    assert!(shown.header("x-codex-primary-used-percent").is_some());
    let quota = eventually("the quota in the database", || {
        let accounts = harness.query("SELECT quota FROM accounts WHERE quota LIKE '%primary%'");
        accounts
            .first()
            .map(|row| row["quota"].as_str().unwrap().to_owned())
    })
    .await;
    let windows: Value = serde_json::from_str(&quota).unwrap();
    assert_eq!(
        (&windows[0]["name"], &windows[0]["window_minutes"]),
        (&json!("primary"), &json!(300))
    );
}

#[tokio::test]
async fn a_gathered_answer_that_ends_badly_is_an_error_with_its_status() {
    let harness = over_http().start().await;
    for (fault, status, code) in [
        ("fail_in_stream=server_error", 500, "server_error"),
        ("fail_in_stream=invalid_prompt", 400, "invalid_prompt"),
        (
            "error_event;fail_in_stream=server_is_overloaded",
            503,
            "server_is_overloaded",
        ),
        ("nested_error_event", 503, "server_is_overloaded"),
        ("fail_in_stream=server_error;fail_after=2", 500, "server_error"),
        ("cut_after=6", 502, "upstream_cut"),
        ("end_without_terminal", 502, "upstream_cut"),
    ] {
        let reply = harness.simulate(fault, said("hi", None)).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{fault}");
        assert!(reply.whole, "{fault}");
    }
    let cut = harness.simulate("incomplete", said("hi", None)).await;
    assert_eq!((cut.status, &cut.json()["status"]), (200, &json!("incomplete")));
    assert!(!cut.json()["output"].as_array().unwrap().is_empty());
    let cancelled = harness.simulate("cancelled", said("hi", None)).await;
    assert_eq!(
        (cancelled.status, &cancelled.json()["status"]),
        (200, &json!("cancelled"))
    );
    let outcomes = harness.query("SELECT outcome FROM turns ORDER BY request_id");
    let outcomes: Vec<&str> = outcomes
        .iter()
        .map(|row| row["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes[4], "failed");
    assert_eq!(
        &outcomes[5..],
        ["upstream_cut", "upstream_cut", "incomplete", "cancelled"]
    );
}

#[tokio::test]
async fn a_gathered_answer_that_fails_before_its_output_is_made_elsewhere() {
    let harness = two_logins().start().await;
    for fault in [
        "fail_in_stream=server_is_overloaded",
        "fail_in_stream=rate_limit_exceeded",
        "status=429",
    ] {
        harness.account(0).always(Some(fault.parse().unwrap()));
        let asked = harness.account(0).journal().len();
        for number in 0..2 {
            let reply = harness.post(said(&format!("{fault} {number}"), None)).await;
            assert_eq!((reply.status, reply.account()), (200, "sim-b"), "{fault}");
        }
        assert!(
            harness.account(0).journal().len() > asked,
            "{fault} did not happen"
        );
        harness.run(&["account", "enable", "sim-a"]);
    }
}

#[tokio::test]
async fn refusals_come_in_the_words_of_openai() {
    let harness = over_http().start().await;
    for (fault, status, message) in [
        ("status=400", 400, "Unsupported parameter: harbour"),
        ("status=422", 422, "body.model: Field required"),
        (
            "status=403",
            403,
            "The upstream answered with status 403 and without a reason.",
        ),
    ] {
        let reply = harness.simulate(fault, said("hi", None)).await;
        let error = reply.json()["error"].clone();
        assert_eq!(
            (reply.status, &error["message"]),
            (status, &json!(message)),
            "{fault}"
        );
        assert_eq!(
            (&error["type"], reply.header("content-type")),
            (&json!("invalid_request_error"), Some("application/json"))
        );
        assert!(reply.whole);
    }
    let coded = harness
        .simulate("status=403;code=plan_has_ended", said("hi", None))
        .await;
    assert_eq!(coded.code(), "plan_has_ended");
    assert_eq!(
        harness.query("SELECT status FROM accounts_now")[0]["status"],
        "active"
    );
}

#[tokio::test]
async fn a_plan_that_is_used_up_rests_until_the_upstream_says() {
    let harness = two_logins().start().await;
    harness.account(0).use_up(std::time::Duration::from_secs(9000));
    for number in 0..4 {
        let reply = harness.post(said(&format!("matter {number}"), None)).await;
        assert_eq!((reply.status, reply.account()), (200, "sim-b"));
    }
    let row = &harness.query("SELECT * FROM accounts_now WHERE account = 'sim-a'")[0];
    assert_eq!(
        (&row["status"], &row["reason"]),
        (&json!("exhausted"), &json!("usage_limit_reached"))
    );
    eventually("the quota in the list", || {
        let shown = harness.run(&["account", "show", "sim-a"]);
        shown
            .contains("quota           primary: used 100.0 %")
            .then_some(())
    })
    .await;
    harness.account(1).use_up(std::time::Duration::from_secs(600));
    let none = harness.post(said("hi", None)).await;
    assert_eq!((none.status, none.code().as_str()), (429, "account_cooling_down"));
    let wait: u64 = none.header("retry-after").unwrap().parse().unwrap();
    assert!((500..=601).contains(&wait), "{wait}");
}

#[tokio::test]
async fn what_a_login_cannot_do_goes_to_an_account_that_can() {
    let harness = Harness::build(2)
        .kinds(&[Kind::Codex, Kind::OpenAi])
        .start()
        .await;
    let url = |path: &str| format!("{}/v1{path}", harness.gateway.url());
    for number in 0..3 {
        let body = json!({ "model": "sim-large", "messages": [{ "role": "user", "content": format!("m{number}") }] });
        let chat = harness
            .http
            .post(url("/chat/completions"))
            .bearer_auth(crate::harness::KEY);
        let reply = Reply::of(chat.json(&body)).await;
        assert_eq!((reply.status, reply.account()), (200, "sim-b"));
        let mut body = said(&format!("b{number}"), None);
        body["background"] = true.into();
        assert_eq!(harness.post(body).await.account(), "sim-b");
    }
    let made = harness
        .http
        .post(url("/conversations"))
        .bearer_auth(crate::harness::KEY)
        .json(&json!({}));
    assert_eq!(Reply::of(made).await.account(), "sim-b");
    let models = Reply::of(harness.http.get(url("/models")).bearer_auth(crate::harness::KEY))
        .await
        .json();
    let ids: Vec<&str> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["sim-large", "sim-small"]);
    let files = Reply::of(harness.http.get(url("/files")).bearer_auth(crate::harness::KEY)).await;
    assert_eq!((files.status, &files.json()["object"]), (200, &json!("list")));
}

#[tokio::test]
async fn a_chain_is_refused_where_nothing_is_kept_and_history_is_never_dropped() {
    let harness = over_http().start().await;
    let first = harness.turn(None).await;
    let asked = harness.account(0).journal().len();
    let next = harness.post(said("go on", Some(&first.id()))).await;
    assert_eq!(
        (next.status, next.code().as_str()),
        (400, "previous_response_not_found")
    );
    let error = next.json()["error"].clone();
    assert_eq!(error["param"], "previous_response_id");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("send the whole conversation"),
        "{error}"
    );
    assert_eq!(harness.account(0).journal().len(), asked);
    let only = Reply::of(
        harness
            .http
            .post(format!("{}/v1/embeddings", harness.gateway.url()))
            .bearer_auth(crate::harness::KEY)
            .json(&json!({ "input": "x" })),
    )
    .await;
    assert_eq!((only.status, only.code().as_str()), (404, "unknown_url"));
}

#[tokio::test]
async fn the_state_of_a_turn_goes_back_to_its_account_only() {
    let harness = two_logins().start().await;
    let session = |request: reqwest::RequestBuilder| request.header("session-id", "thread-1");
    let first = Reply::of(session(harness.request()).json(&streamed("hi", None))).await;
    let state = first.header("x-codex-turn-state").unwrap().to_owned();
    let home = first.account().to_owned();
    let again = || {
        session(harness.request())
            .header("x-codex-turn-state", &state)
            .json(&streamed("hi", None))
    };
    let second = Reply::of(again()).await;
    assert_eq!((second.status, second.account()), (200, home.as_str()));
    assert_eq!(second.header("x-codex-turn-state"), Some(state.as_str()));
    // A change of account: the foreign state is left out, and another one comes back.
    harness.named(&home).use_up(std::time::Duration::from_secs(600));
    let moved = Reply::of(again()).await;
    assert_eq!(moved.status, 200, "{moved:?}");
    assert_ne!(moved.account(), home);
    assert_ne!(moved.header("x-codex-turn-state"), Some(state.as_str()));
    let got = harness.named(moved.account()).journal().pop().unwrap();
    assert_eq!(got.header("x-codex-turn-state"), None);
}

#[tokio::test]
async fn an_account_of_another_kind_is_refused_with_what_to_do() {
    let harness = Harness::over(1).await;
    let file = harness.folder().join("auth.json");
    let refused = |arguments: &[&str]| {
        let output = harness.command(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let file = file.to_str().unwrap();
    let add = ["account", "add", "me", "--kind", "codex", "--auth-file", file];
    assert!(refused(&add).contains("is not there"));
    std::fs::write(file, "{}").unwrap();
    assert!(refused(&add).contains("chmod 600"));
    crate::harness::write_private(std::path::Path::new(file), &json!({}));
    std::process::Command::new("chmod")
        .args(["600", file])
        .status()
        .unwrap();
    assert!(refused(&add).contains("holds no ChatGPT login"));
    let key = ["account", "add", "me", "--kind", "codex", "--api-key-env", "PATH"];
    assert!(refused(&key).contains("--auth-file") || refused(&key).contains("auth_file"));
    let openai = [
        "account",
        "add",
        "me",
        "--base-url",
        "http://127.0.0.1:1/v1",
        "--auth-file",
        file,
    ];
    assert!(refused(&openai).contains("kind codex"));
}

#[tokio::test]
async fn a_login_is_added_by_a_command_and_by_the_admin_api() {
    let harness = one_login().start().await;
    let path = harness.folder().join("second.json");
    crate::harness::write_private(
        &path,
        &harness.account(0).log_in(std::time::Duration::from_secs(3600)),
    );
    let file = path.to_str().unwrap();
    let said = harness.run(&["account", "add", "me", "--kind", "codex", "--auth-file", file]);
    assert!(
        said.contains("provider's terms") && said.contains("plan: plus"),
        "{said}"
    );
    let row = &harness.query("SELECT base_url, auth_file, sealed_secret FROM accounts WHERE name = 'me'")[0];
    assert_eq!(row["base_url"], "https://chatgpt.com/backend-api/codex");
    assert_eq!(
        (&row["auth_file"], &row["sealed_secret"]),
        (&json!(file), &Value::Null)
    );
    let described = json!({ "name": "page", "kind": "codex", "auth_file": file });
    let reply = Reply::of(harness.admin("POST", "accounts").json(&described)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    for wrong in ["/etc/passwd", "relative.json", "/nowhere/auth.json"] {
        let described = json!({ "name": "page", "kind": "codex", "auth_file": wrong });
        let reply = Reply::of(harness.admin("POST", "accounts").json(&described)).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_request"));
    }
}

#[tokio::test]
async fn a_chain_over_a_websocket_goes_on_because_its_history_is_held_here() {
    let harness = over_http().start().await;
    let mut socket = harness.socket().await;
    let mut previous: Option<String> = None;
    for _ in 0..3 {
        let turn = socket
            .turn(create("What does the tide do?", previous.as_deref()))
            .await;
        assert_eq!(turn.last()["type"], "response.completed");
        previous = Some(turn.id());
    }
    let got = received(&harness);
    let said = got["input"].as_array().unwrap().iter();
    let by_user = said.filter(|item| item["role"] == "user").count();
    assert_eq!((by_user, got.get("previous_response_id")), (3, None));
}

#[tokio::test]
async fn the_last_event_of_a_stream_has_the_items_that_its_backend_leaves_out() {
    let is_whole = |events: &[Value], how: &str| {
        let items: Vec<&Value> = events
            .iter()
            .filter(|event| event["type"] == "response.output_item.done")
            .map(|event| &event["item"])
            .collect();
        let last = events.last().unwrap();
        assert_eq!(last["type"], "response.completed", "{how}");
        assert!(!items.is_empty(), "{how}");
        assert_eq!(last["response"]["output"], json!(items), "{how}");
    };
    let harness = one_login().start().await;
    let kept = harness.post(streamed("hi", None)).await;
    is_whole(&kept.events(), "over a kept connection");
    let mut body = streamed("hi", None);
    body["store"] = false.into();
    is_whole(&harness.post(body.clone()).await.events(), "over HTTP");
    let in_pieces = harness.simulate("chunk=7;crlf", body).await;
    is_whole(&in_pieces.events(), "in pieces");
    let turn = harness.socket().await.turn(create("hi", None)).await;
    is_whole(&turn.events, "over the client's WebSocket");
}
