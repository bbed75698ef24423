//! An account whose upstream is the backend of ChatGPT logins: its paths, its rules for a body, its
//! errors in words of their own, and what it tells about the plan's quota.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::account::State;
use super::fault::Fault;
use super::play::{Sending, Step};
use super::refusal::Refusal;
use super::server::{self, Entry};
use super::{events, login, response, socket};
use crate::clock::now_ms;

/// Members of a body that the backend does not take.
const UNSUPPORTED: [&str; 14] = [
    "previous_response_id",
    "conversation",
    "background",
    "max_output_tokens",
    "max_tool_calls",
    "temperature",
    "top_p",
    "metadata",
    "user",
    "safety_identifier",
    "stream_options",
    "prompt_cache_retention",
    "truncation",
    "generate",
];

/// Turn states that are remembered; the oldest go.
const TURN_STATES_MAX: usize = 1024;

/// How much of a window one request takes, in percent.
const REQUEST_PERCENT: f64 = 0.5;

/// The windows of a plan.
#[derive(Debug)]
pub(super) struct Plan {
    windows: Mutex<[Window; 2]>,
    turn_states: Mutex<(HashSet<String>, VecDeque<String>)>,
}

/// How much of a window is used, and when it begins anew.
#[derive(Debug, Clone, Copy)]
struct Window {
    used_percent: f64,
    minutes: i64,
    begins_anew_ms: i64,
}

impl Default for Plan {
    fn default() -> Self {
        let window = |minutes| Window {
            used_percent: 0.0,
            minutes,
            begins_anew_ms: now_ms() + minutes * 60_000,
        };
        Plan {
            windows: Mutex::new([window(300), window(10_080)]),
            turn_states: Mutex::default(),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plan {
    /// The windows now: one that is over has begun anew.
    fn windows(&self) -> [Window; 2] {
        let now = now_ms();
        let mut windows = locked(&self.windows);
        for window in windows.iter_mut().filter(|window| window.begins_anew_ms <= now) {
            window.used_percent = 0.0;
            window.begins_anew_ms = now + window.minutes * 60_000;
        }
        *windows
    }

    /// Uses the first window up for so long.
    pub(super) fn use_up(&self, wait: Duration) {
        let window = &mut locked(&self.windows)[0];
        window.used_percent = 100.0;
        window.begins_anew_ms = now_ms() + i64::try_from(wait.as_millis()).unwrap_or(0);
    }

    fn use_some(&self) {
        for window in locked(&self.windows).iter_mut() {
            window.used_percent = (window.used_percent + REQUEST_PERCENT).min(99.0);
        }
    }

    /// When the window that is used up begins anew.
    fn used_up(&self) -> Option<i64> {
        let windows = self.windows();
        let full = windows.iter().filter(|window| window.used_percent >= 100.0);
        full.map(|window| window.begins_anew_ms).max()
    }

    fn headers(&self, headers: &mut HeaderMap) {
        for (name, window) in ["primary", "secondary"].iter().zip(self.windows()) {
            let mut set = |what: &str, value: String| {
                let name = HeaderName::try_from(format!("x-codex-{name}-{what}"));
                if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                    headers.insert(name, value);
                }
            };
            set("used-percent", window.used_percent.to_string());
            set("window-minutes", window.minutes.to_string());
            set("reset-at", (window.begins_anew_ms / 1000).to_string());
        }
    }

    /// What a stream begins with.
    pub(super) fn event(&self) -> Value {
        let windows = self.windows().map(|window| {
            json!({
                "used_percent": window.used_percent,
                "window_minutes": window.minutes,
                "reset_at": window.begins_anew_ms / 1000,
            })
        });
        let [primary, secondary] = windows;
        json!({
            "type": "codex.rate_limits",
            "plan_type": "plus",
            "rate_limits": { "allowed": true, "limit_reached": false, "primary": primary, "secondary": secondary },
            "credits": { "has_credits": false, "unlimited": false, "balance": null },
            "metered_limit_name": "codex",
        })
    }

    /// The state of a turn: the one that the client sends back, or a new one. One that this account
    /// has not made is none.
    fn turn_state(&self, sent: Option<&str>, account_id: &str) -> Option<String> {
        let (known, order) = &mut *locked(&self.turn_states);
        if let Some(sent) = sent {
            return known.contains(sent).then(|| sent.to_owned());
        }
        let made = format!("ts-{account_id}-{}", uuid::Uuid::new_v4().simple());
        if order.len() >= TURN_STATES_MAX
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
        order.push_back(made.clone());
        known.insert(made.clone());
        Some(made)
    }
}

pub(super) fn router() -> Router<Arc<State>> {
    Router::new()
        .route("/backend-api/codex/responses", post(create).get(socket::upgrade))
        .route("/backend-api/codex/responses/compact", post(server::compact))
        .route("/backend-api/codex/models", get(models))
        .merge(login::router())
        .fallback(async || detail(StatusCode::NOT_FOUND, "Not Found"))
}

/// The id of the account behind a login.
pub(super) fn account_id(name: &str) -> String {
    format!("acct-{name}")
}

/// Who may not come in, as the backend says it: without an `originator`, not even the door answers in
/// its own words.
pub(super) fn refused_at_the_door(state: &State, request: &Request) -> Option<Response> {
    let server = state.login.as_ref()?;
    if request.uri().path() == "/oauth/token" {
        return None;
    }
    let header = |name: &str| request.headers().get(name)?.to_str().ok();
    if header("originator").is_none() || header("user-agent").is_none() {
        return Some(forbidden());
    }
    let id = account_id(&state.name);
    let token = header(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
    let is_known =
        header("chatgpt-account-id") == Some(&id) && token.is_some_and(|token| server.accepts(&id, token));
    (!is_known).then(token_expired)
}

fn forbidden() -> Response {
    let page = "<html><head><title>Just a moment...</title></head><body>Enable JavaScript and cookies to \
                continue</body></html>";
    let headers = [
        ("content-type", "text/html; charset=UTF-8"),
        ("cf-ray", "8f00aa11bb22cc33-FRA"),
    ];
    (StatusCode::FORBIDDEN, headers, page).into_response()
}

fn token_expired() -> Response {
    let error = json!({
        "message": "Provided authentication token is expired. Please try signing in again.",
        "type": null, "code": "token_expired", "param": null,
    });
    (
        StatusCode::UNAUTHORIZED,
        Json(json!({ "error": error, "status": 401 })),
    )
        .into_response()
}

fn usage_limit_reached(wait: Duration) -> Response {
    let seconds = wait.as_secs_f64().ceil();
    let error = json!({
        "type": "usage_limit_reached", "message": "The usage limit has been reached", "plan_type": "plus",
        "resets_at": (now_ms() as f64 / 1000.0 + wait.as_secs_f64()).round() as i64,
        "resets_in_seconds": seconds as i64, "eligible_promo": null,
    });
    (StatusCode::TOO_MANY_REQUESTS, Json(json!({ "error": error }))).into_response()
}

fn detail(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "detail": text }))).into_response()
}

fn bad(text: String) -> Response {
    detail(StatusCode::BAD_REQUEST, &text)
}

/// How long a limit lasts that was told without a time.
const LIMIT_UNSTATED: Duration = Duration::from_secs(9000);

/// The error that a fault asks for, in the backend's words.
fn told(status: usize, fault: &Fault) -> Response {
    let stated = fault
        .retry_after
        .as_deref()
        .and_then(|seconds| seconds.parse::<f64>().ok());
    let wait = stated.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match (status, fault.code.as_deref()) {
        (400, None) => bad("Unsupported parameter: harbour".to_owned()),
        (401, None) => token_expired(),
        (403, None) => forbidden(),
        (403, Some(code)) => {
            let error = STANDARD.encode(json!({ "error": { "code": code } }).to_string());
            let headers = [
                ("x-error-json", error),
                ("x-openai-authorization-error", code.to_owned()),
            ];
            (StatusCode::FORBIDDEN, headers, "").into_response()
        }
        (422, None) => {
            let problem = json!({ "type": "missing", "loc": ["body", "model"], "msg": "Field required" });
            (
                StatusCode::UNPROCESSABLE_ENTITY,
                Json(json!({ "detail": [problem] })),
            )
                .into_response()
        }
        (429, None | Some("usage_limit_reached")) => usage_limit_reached(wait.unwrap_or(LIMIT_UNSTATED)),
        (429, Some("usage_not_included")) => {
            let error = json!({
                "type": "usage_not_included", "plan_type": "free",
                "message": "To use Codex with your ChatGPT plan, upgrade to Plus.",
            });
            (StatusCode::TOO_MANY_REQUESTS, Json(json!({ "error": error }))).into_response()
        }
        _ => Refusal::told(status, fault).into_response(),
    }
}

/// What the backend takes on a WebSocket besides.
const ON_SOCKETS: [&str; 2] = ["previous_response_id", "generate"];

/// The first rule that a body breaks, besides members that are taken here; nothing if it breaks none.
/// What it goes on from may have told instructions.
pub(super) fn broken_rule(body: &[u8], taken: &[&str], is_instructed: bool) -> Option<String> {
    let body: Map<String, Value> = match serde_json::from_slice(body) {
        Ok(body) => body,
        Err(error) => return Some(format!("Invalid JSON: {error}")),
    };
    let is_there = |name: &str| body.get(name).is_some_and(|value| !value.is_null());
    let items = body.get("input").and_then(Value::as_array);
    let has_role = |role: &str| items.is_some_and(|items| items.iter().any(|item| item["role"] == role));
    if let Some(name) = UNSUPPORTED
        .iter()
        .find(|name| is_there(name) && !taken.contains(name))
    {
        return Some(format!("Unsupported parameter: {name}"));
    }
    if body.get("store") != Some(&Value::Bool(false)) {
        return Some("Store must be set to false".to_owned());
    }
    if body.get("stream") != Some(&Value::Bool(true)) {
        return Some("Stream must be set to true".to_owned());
    }
    if items.is_none() {
        return Some("Input must be a list".to_owned());
    }
    if has_role("system") {
        return Some("System messages are not allowed".to_owned());
    }
    if !is_there("instructions") && !has_role("developer") && !is_instructed {
        return Some("Instructions are required".to_owned());
    }
    match body.get("service_tier").and_then(Value::as_str) {
        None | Some("default" | "priority") => None,
        Some(tier) => Some(format!("Unsupported service_tier: {tier}")),
    }
}

/// `POST /responses`.
async fn create(
    Shared(state): Shared<Arc<State>>,
    Extension(Entry(number)): Extension<Entry>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let fault = server::fault(&state, &headers)?;
    let mut sending = Sending::new(state.clone(), number);
    tokio::time::sleep(fault.slow.unwrap_or(state.reply_delay)).await;
    if fault.hang {
        std::future::pending::<()>().await;
    }
    if fault.cut_before {
        return Ok(server::respond(
            false,
            &Fault::default(),
            vec![Step::Cut],
            sending,
        ));
    }
    let account_id = account_id(&state.name);
    let sent = headers.get("x-codex-turn-state");
    let turn_state = state
        .plan
        .turn_state(sent.and_then(|value| value.to_str().ok()), &account_id);
    let refused = match fault.status {
        Some(status) => Some(told(status, &fault)),
        None => match state.plan.used_up() {
            Some(at_ms) => {
                let wait = u64::try_from(at_ms - now_ms()).unwrap_or(0);
                Some(usage_limit_reached(Duration::from_millis(wait)))
            }
            None if turn_state.is_none() => Some(bad("Invalid turn state".to_owned())),
            None => broken_rule(&body, &[], false)
                .or_else(|| unknown_model(&state, &body))
                .map(bad),
        },
    };
    if let Some(refused) = refused {
        sending.whole();
        return Ok(refused);
    }
    let mut answer = response::answer(&state, &body, &fault).inspect_err(|_| sending.whole())?;
    if let Some(number) = number {
        state.journal().change(number, |entry| {
            entry.response_id = Some(answer.id().to_owned());
            entry.usage = Some(answer.object["usage"].clone());
        });
    }
    state.plan.use_some();
    answer.plan = Some(state.plan.event());
    let steps = events::stream(&answer, &fault, state.delta_delay);
    let mut response = server::respond(true, &fault, steps, sending);
    if let Some(turn_state) = turn_state.and_then(|state| HeaderValue::try_from(state).ok()) {
        response.headers_mut().insert("x-codex-turn-state", turn_state);
    }
    Ok(response)
}

/// Why an event on a WebSocket is refused, if it is.
pub(super) fn refused_on_socket(
    state: &State,
    event: &[u8],
    fault: &Fault,
    is_instructed: bool,
) -> Option<Response> {
    if let Some(status) = fault.status {
        return Some(told(status, fault));
    }
    if let Some(at_ms) = state.plan.used_up() {
        let wait = u64::try_from(at_ms - now_ms()).unwrap_or(0);
        return Some(usage_limit_reached(Duration::from_millis(wait)));
    }
    let sent = serde_json::from_slice::<Value>(event).unwrap_or_default();
    let turn_state = sent["client_metadata"]["x-codex-turn-state"].as_str();
    let is_foreign = turn_state.is_some_and(|sent| state.plan.turn_state(Some(sent), "").is_none());
    let broken = is_foreign
        .then(|| "Invalid turn state".to_owned())
        .or_else(|| broken_rule(event, &ON_SOCKETS, is_instructed))
        .or_else(|| unknown_model(state, event));
    broken.map(bad)
}

/// What the backend says on a WebSocket before a response: the plan, and the state of the turn.
pub(super) fn before_a_response(state: &State, event: &[u8]) -> [Value; 2] {
    let sent = serde_json::from_slice::<Value>(event).unwrap_or_default();
    let turn_state = sent["client_metadata"]["x-codex-turn-state"].as_str();
    let turn_state = state.plan.turn_state(turn_state, &account_id(&state.name));
    state.plan.use_some();
    let metadata = json!({ "type": "response.metadata", "headers": { "x-codex-turn-state": turn_state } });
    [state.plan.event(), metadata]
}

fn unknown_model(state: &State, body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let model = body["model"].as_str()?;
    state.check_model(Some(model)).err()?;
    Some(format!(
        "The '{model}' model is not supported when using Codex with a ChatGPT account."
    ))
}

/// `GET /models`: always in the shape that Codex reads.
async fn models(Shared(state): Shared<Arc<State>>) -> Json<Value> {
    let model =
        |slug: String| json!({ "slug": slug, "display_name": slug, "visibility": "list", "priority": 1 });
    Json(json!({ "models": state.models().into_iter().map(model).collect::<Vec<_>>() }))
}

/// What the backend sends with every answer.
pub(super) fn add_headers(headers: &mut HeaderMap, state: &State) {
    state.plan.headers(headers);
    headers.insert("x-models-etag", HeaderValue::from_static("W/\"sim\""));
    if !headers.contains_key("cf-ray") {
        headers.insert("cf-ray", HeaderValue::from_static("8f00aa11bb22cc34-FRA"));
    }
}

/// `POST /_simulator/login`: a new login, as Codex CLI writes it down.
pub(super) async fn log_in(Shared(state): Shared<Arc<State>>) -> Response {
    match &state.login {
        Some(server) => Json(server.log_in(&account_id(&state.name), LOGGED_IN_FOR)).into_response(),
        None => Response::builder()
            .status(StatusCode::NOT_FOUND)
            .body(Body::empty())
            .unwrap_or_default(),
    }
}

/// How long the first access token of a login is valid.
const LOGGED_IN_FOR: Duration = Duration::from_secs(3600);
