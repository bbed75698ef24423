//! A simulated ChatGPT login behaves like a real one, as far as that is known.

use std::time::Duration;

use moorage::account::Kind;
use moorage::simulator::{AccountConfig, SimulatedAccount, Simulator, SimulatorConfig};
use serde_json::{Value, json};

use crate::harness::{Reply, WithJson as _};
use crate::socket::Socket;

struct Backend {
    simulator: Simulator,
    http: reqwest::Client,
}

impl Backend {
    async fn start() -> Backend {
        rustls::crypto::ring::default_provider().install_default().ok();
        let accounts = ["sim-a", "sim-b"].map(|name| AccountConfig {
            kind: Kind::Codex,
            models: vec!["sim-large".to_owned()],
            ..AccountConfig::named(name)
        });
        let config = SimulatorConfig {
            accounts: accounts.into(),
            ..SimulatorConfig::default()
        };
        Backend {
            simulator: Simulator::start(config).await.unwrap(),
            http: reqwest::Client::new(),
        }
    }

    fn account(&self) -> &SimulatedAccount {
        &self.simulator.accounts()[0]
    }

    fn request(&self, token: &str) -> reqwest::RequestBuilder {
        self.http
            .post(format!("{}/responses", self.account().base_url()))
            .bearer_auth(token)
            .header("chatgpt-account-id", "acct-sim-a")
            .header("originator", "moorage")
            .header("user-agent", "moorage/test")
    }

    async fn renew(&self, refresh_token: &str) -> Reply {
        let body = json!({
            "client_id": "app_EMoamEEZ73f0CkXaXp7hrann", "grant_type": "refresh_token",
            "refresh_token": refresh_token,
        });
        Reply::of(self.http.post(self.account().token_url()).json(&body)).await
    }
}

fn token(login: &Value, name: &str) -> String {
    login["tokens"][name].as_str().unwrap().to_owned()
}

fn proper() -> Value {
    json!({
        "model": "sim-large", "store": false, "stream": true, "instructions": "Be brief.",
        "input": [{ "role": "user", "content": "hi" }],
    })
}

#[tokio::test]
async fn every_rule_for_a_body_has_its_own_error() {
    let backend = Backend::start().await;
    let access = token(
        &backend.account().log_in(Duration::from_secs(600)),
        "access_token",
    );
    let with = |name: &str, value: Value| {
        let mut body = proper();
        body[name] = value;
        body
    };
    let system = json!([{ "role": "system", "content": "hi" }]);
    let mut cases = vec![
        (
            with("store", json!(true)),
            "Store must be set to false".to_owned(),
        ),
        (
            with("store", Value::Null),
            "Store must be set to false".to_owned(),
        ),
        (
            with("stream", json!(false)),
            "Stream must be set to true".to_owned(),
        ),
        (
            with("instructions", Value::Null),
            "Instructions are required".to_owned(),
        ),
        (with("input", json!("hi")), "Input must be a list".to_owned()),
        (
            with("input", system),
            "System messages are not allowed".to_owned(),
        ),
        (
            with("service_tier", json!("flex")),
            "Unsupported service_tier: flex".to_owned(),
        ),
        (
            with("model", json!("sim-other")),
            "The 'sim-other' model is not supported when using Codex with a ChatGPT account.".to_owned(),
        ),
    ];
    for name in [
        "previous_response_id",
        "max_output_tokens",
        "temperature",
        "metadata",
        "truncation",
    ] {
        cases.push((with(name, json!("x")), format!("Unsupported parameter: {name}")));
    }
    for (body, detail) in cases {
        let reply = Reply::of(backend.request(&access).json(&body)).await;
        assert_eq!((reply.status, reply.json()), (400, json!({ "detail": detail })));
    }
    let fine = Reply::of(backend.request(&access).json(&proper())).await;
    assert_eq!(fine.status, 200);
    let kinds = fine.kinds();
    assert_eq!(
        (kinds[0].as_str(), kinds[1].as_str()),
        ("codex.rate_limits", "response.created")
    );
    let last = fine.events().pop().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["output"]),
        (&json!("response.completed"), &json!([]))
    );
    assert_eq!(fine.header("x-codex-primary-window-minutes"), Some("300"));
}

#[tokio::test]
async fn a_refresh_token_works_once_and_a_second_time_ends_the_login() {
    let backend = Backend::start().await;
    let login = backend.account().log_in(Duration::from_secs(600));
    let first = token(&login, "refresh_token");
    let renewed = backend.renew(&first).await;
    assert_eq!((renewed.status, backend.account().renewals()), (200, 1));
    let tokens = renewed.json();
    let access = tokens["access_token"].as_str().unwrap();
    let reply = Reply::of(backend.request(access).json(&proper())).await;
    assert_eq!(reply.status, 200);
    let again = backend.renew(&first).await;
    assert_eq!(
        (again.status, again.code().as_str()),
        (401, "refresh_token_reused")
    );
    let second = backend.renew(tokens["refresh_token"].as_str().unwrap()).await;
    assert_eq!(
        (second.status, second.code().as_str()),
        (401, "refresh_token_invalidated")
    );
    let refused = Reply::of(backend.request(access).json(&proper())).await;
    let code = &refused.json()["error"]["code"];
    assert_eq!((refused.status, code), (401, &json!("token_expired")));
}

#[tokio::test]
async fn who_says_not_who_it_is_meets_a_page_and_a_foreign_turn_is_refused() {
    let backend = Backend::start().await;
    let access = token(
        &backend.account().log_in(Duration::from_secs(600)),
        "access_token",
    );
    let nobody = backend
        .http
        .post(format!("{}/responses", backend.account().base_url()));
    let reply = Reply::of(nobody.bearer_auth(&access).json(&proper())).await;
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (403, Some("text/html; charset=UTF-8"))
    );
    let first = Reply::of(backend.request(&access).json(&proper())).await;
    let state = first.header("x-codex-turn-state").unwrap().to_owned();
    let next = backend.request(&access).header("x-codex-turn-state", &state);
    assert_eq!(
        Reply::of(next.json(&proper())).await.header("x-codex-turn-state"),
        Some(state.as_str())
    );
    let foreign = backend
        .request(&access)
        .header("x-codex-turn-state", "ts-acct-sim-b-1");
    assert_eq!(Reply::of(foreign.json(&proper())).await.status, 400);
}

#[tokio::test]
async fn a_plan_that_is_used_up_says_until_when() {
    let backend = Backend::start().await;
    let access = token(
        &backend.account().log_in(Duration::from_secs(600)),
        "access_token",
    );
    backend.account().use_up(Duration::from_secs(9000));
    let reply = Reply::of(backend.request(&access).json(&proper())).await;
    let error = &reply.json()["error"];
    assert_eq!(
        (reply.status, &error["type"]),
        (429, &json!("usage_limit_reached"))
    );
    assert_eq!(error["resets_in_seconds"], 9000);
    assert_eq!(reply.header("x-codex-primary-used-percent"), Some("100"));
}

#[tokio::test]
async fn over_websocket_the_backend_knows_what_its_connection_said_and_tells_quota_and_turn_state() {
    let backend = Backend::start().await;
    let account = backend.account();
    let access = token(&account.log_in(Duration::from_secs(600)), "access_token");
    let headers = [
        ("chatgpt-account-id", "acct-sim-a"),
        ("originator", "moorage"),
        ("user-agent", "moorage/test"),
    ];
    let open = async || {
        let opened = Socket::open(account.base_url(), &access, &headers).await;
        opened.unwrap_or_else(|status| panic!("refused with {status}"))
    };
    let event = |previous: Option<&str>| {
        let mut event = proper();
        event["type"] = "response.create".into();
        event["previous_response_id"] = previous.into();
        event
    };
    let mut socket = open().await;
    let mut warm = event(None);
    warm["generate"] = false.into();
    let warm = socket.turn(warm).await;
    let kinds: Vec<&Value> = warm.events.iter().map(|event| &event["type"]).collect();
    assert_eq!(
        kinds[..3],
        ["response.metadata", "codex.rate_limits", "response.created"]
    );
    let state = warm.events[0]["headers"]["x-codex-turn-state"].clone();

    let mut next = event(Some(&warm.id()));
    next["client_metadata"] = json!({ "x-codex-turn-state": state });
    let next = socket.turn(next).await;
    assert!(next.text().starts_with("Turn 2 on sim-a"), "{}", next.text());
    assert_eq!(
        next.last()["response"]["output"],
        json!([]),
        "left out of the last event"
    );

    let lost = open().await.refusal(event(Some(&next.id()))).await;
    assert_eq!(lost["error"]["code"], "previous_response_not_found");
    let mut foreign = event(None);
    foreign["client_metadata"] = json!({ "x-codex-turn-state": "ts-of-another" });
    assert_eq!(
        socket.refusal(foreign).await["error"]["message"],
        "Invalid turn state"
    );
    let mut stored = event(None);
    stored["store"] = true.into();
    assert_eq!(
        socket.refusal(stored).await["error"]["message"],
        "Store must be set to false"
    );
    account.script("status=429".parse().unwrap());
    let spent = socket.refusal(event(None)).await;
    assert_eq!(
        (&spent["status"], &spent["error"]["type"]),
        (&json!(429), &json!("usage_limit_reached"))
    );
}
