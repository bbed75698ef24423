//! The routes of one simulated account.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State as Shared};
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use serde_json::{Value, json};

use super::account::State;
use super::fault::Fault;
use super::journal::JournalEntry;
use super::play::{Sending, Step, in_pieces, play};
use super::refusal::Refusal;
use super::{canned, chat, codex, events, response, socket, things};

/// The largest request, as the real API takes images in it.
const BODY_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The place of a request in the journal; `None` if none is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry(pub(super) Option<u64>);

pub(super) fn router(state: Arc<State>) -> Router {
    let received = middleware::from_fn_with_state(state.clone(), receive);
    let routes = match state.login {
        Some(_) => codex::router(),
        None => openai(),
    };
    routes
        .layer(DefaultBodyLimit::disable())
        .layer(received)
        .route("/_simulator/fault", post(set_fault).delete(clear_fault))
        .route("/_simulator/journal", get(show_journal).delete(clear_journal))
        .route("/_simulator/login", post(codex::log_in))
        .layer(middleware::from_fn_with_state(state.clone(), check_key))
        .with_state(state)
}

fn openai() -> Router<Arc<State>> {
    Router::new()
        .route("/v1/responses", post(create).get(socket::upgrade))
        .route("/v1/responses/compact", post(compact))
        .route("/v1/responses/input_tokens", post(input_tokens))
        .route("/v1/responses/{id}", get(retrieve).delete(delete))
        .route("/v1/responses/{id}/cancel", post(cancel))
        .route("/v1/responses/{id}/input_items", get(input_items))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .merge(things::router())
        .merge(chat::router())
        .fallback(async |request: Request| Refusal::unknown_url(request.uri().path()))
}

async fn check_key(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    if state.login.is_some() && !request.uri().path().starts_with("/_simulator/") {
        return match codex::refused_at_the_door(&state, &request) {
            Some(refused) => refused,
            None => next.run(request).await,
        };
    }
    let sent = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    match sent.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(key) if key == state.api_key => next.run(request).await,
        _ => Refusal::wrong_key().into_response(),
    }
}

/// Reads the body whole, and writes the request into the journal.
async fn receive(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let (parts, body) = request.into_parts();
    // Files are not held.
    let kind = parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_form = kind.is_some_and(|kind| kind.starts_with(b"multipart/"));
    let (read, body) = match is_form {
        true => (Ok(Bytes::new()), body),
        false => match to_bytes(body, BODY_BYTES_MAX).await {
            Ok(bytes) => (Ok(bytes.clone()), Body::from(bytes)),
            Err(error) => (Err(error), Body::empty()),
        },
    };
    let Ok(bytes) = read else {
        return Refusal::bad_request(None, None, "The body could not be read.".to_owned()).into_response();
    };
    let entry = (state.keeps_journal && !is_background(&parts.uri))
        .then(|| state.journal().add(received(&parts, &bytes)));
    let mut request = Request::from_parts(parts, body);
    request.extensions_mut().insert(Entry(entry));
    let mut answer = next.run(request).await;
    if let Some(number) = entry {
        let status = answer.status().as_u16();
        state.journal().change(number, |entry| entry.status = status);
    }
    add_headers(answer.headers_mut(), &state, begin);
    answer
}

/// The list of models comes whenever a gateway wants it, and no client: it says nothing about what
/// was asked for.
fn is_background(uri: &axum::http::Uri) -> bool {
    uri.path().ends_with("/models")
}

fn received(parts: &axum::http::request::Parts, body: &Bytes) -> JournalEntry {
    JournalEntry::of(parts.method.as_str(), parts.uri.to_string(), &parts.headers, body)
}

/// What the real API sends with every answer.
fn add_headers(headers: &mut HeaderMap, state: &State, begin: Instant) {
    let mut set = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    set("x-request-id", state.id("req"));
    set("openai-processing-ms", begin.elapsed().as_millis().to_string());
    set("set-cookie", format!("__cf_bm={}; path=/; HttpOnly", state.name));
    set(
        "strict-transport-security",
        "max-age=31536000; includeSubDomains".to_owned(),
    );
    set("alt-svc", "h3=\":443\"; ma=86400".to_owned());
    if state.login.is_some() {
        return codex::add_headers(headers, state);
    }
    set("openai-version", "2020-10-01".to_owned());
    set("openai-organization", format!("org-{}", state.name));
    set("x-ratelimit-limit-requests", "10000".to_owned());
    set("x-ratelimit-remaining-requests", "9999".to_owned());
    set("x-ratelimit-reset-requests", "6ms".to_owned());
}

async fn create(
    Shared(state): Shared<Arc<State>>,
    Extension(Entry(number)): Extension<Entry>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let fault = fault(&state, &headers)?;
    let mut sending = Sending::new(state.clone(), number);
    if fault.canned {
        let stream = canned::asks_for_stream(&body);
        let steps = state.canned.steps(stream, &state.id("c")[2..], &fault);
        return Ok(respond(stream, &fault, steps, sending));
    }
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|encoding| encoding != "identity")
    {
        let message = "This simulated account reads plain bodies only.".to_owned();
        return Err(Refusal::bad_request(None, None, message));
    }
    tokio::time::sleep(fault.slow.unwrap_or(state.reply_delay)).await;
    if fault.hang {
        std::future::pending::<()>().await;
    }
    if fault.cut_before {
        return Ok(respond(false, &Fault::default(), vec![Step::Cut], sending));
    }
    if let Some(status) = fault.status {
        sending.whole();
        return Err(Refusal::told(status, &fault));
    }
    let answer = match response::answer(&state, &body, &fault) {
        Ok(answer) => answer,
        Err(refusal) if fault.refuse_in_stream => {
            let steps = events::refused(&state.id("resp"), &refusal.error(), &fault);
            return Ok(respond(true, &fault, steps, sending));
        }
        Err(refusal) => {
            sending.whole();
            return Err(refusal);
        }
    };
    if let Some(number) = number {
        state.journal().change(number, |entry| {
            entry.response_id = Some(answer.id().to_owned());
            entry.usage = Some(answer.object["usage"].clone());
        });
    }
    let steps = match answer.stream {
        true => events::stream(&answer, &fault, state.delta_delay),
        false if answer.in_background => document(&in_background(&answer.object, Some("queued")), &fault),
        false => document(&answer.object, &fault),
    };
    Ok(respond(answer.stream, &fault, steps, sending))
}

/// The fault that the request asks for, or else the next one that the account was told.
pub(super) fn fault(state: &State, headers: &HeaderMap) -> Result<Fault, Refusal> {
    let Some(asked) = headers.get("x-simulate") else {
        return Ok(state.next_fault().unwrap_or_default());
    };
    let text = String::from_utf8_lossy(asked.as_bytes());
    text.parse()
        .map_err(|error| Refusal::bad_request(None, Some("x-simulate"), error))
}

/// The steps that send an answer whole.
fn document(object: &Value, fault: &Fault) -> Vec<Step> {
    let mut object = object.clone();
    if fault.cancelled {
        object["status"] = "cancelled".into();
    }
    if let Some(code) = &fault.fail_in_stream {
        object["status"] = "failed".into();
        object["error"] = json!({ "code": code, "message": "The simulated account was told to fail here." });
        object["usage"] = Value::Null;
    }
    if fault.unknown_events {
        object["harbour"] = json!({ "tide": "high" });
    }
    let mut bytes = Bytes::from(object.to_string());
    if fault.cut_json {
        let half = bytes.split_to(bytes.len() / 2);
        return vec![Step::Send(half), Step::Cut];
    }
    vec![Step::Send(bytes)]
}

pub(super) fn respond(stream: bool, fault: &Fault, steps: Vec<Step>, sending: Sending) -> Response {
    let length = match &steps[..] {
        [Step::Send(bytes)] if !stream => Some(bytes.len()),
        _ => None,
    };
    let steps = match fault.chunk {
        Some(size) => in_pieces(steps, size),
        None => steps,
    };
    let mut response = Response::new(play(steps, sending));
    let headers = response.headers_mut();
    let kind = if stream {
        "text/event-stream; charset=utf-8"
    } else {
        "application/json"
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if fault.wrong_encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
    }
    response
}

fn unknown_response(id: &str) -> Refusal {
    Refusal::not_found(format!("Response with id '{id}' not found."), None)
}

async fn retrieve(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    Query(asked): Query<HashMap<String, String>>,
    Extension(Entry(number)): Extension<Entry>,
) -> Result<Response, Refusal> {
    let kept = state.kept(&id).ok_or_else(|| unknown_response(&id))?;
    if asked.get("stream").is_some_and(|stream| stream == "true") {
        let after = asked.get("starting_after").and_then(|after| after.parse().ok());
        let steps = events::resumed(&kept.object, after, state.delta_delay);
        let sending = Sending::new(state.clone(), number);
        return Ok(respond(true, &Fault::default(), steps, sending));
    }
    let status = state.progress(&id);
    Ok(Json(in_background(&kept.object, status)).into_response())
}

/// A response as it stands now, if it runs in the background.
fn in_background(object: &Value, status: Option<&str>) -> Value {
    let mut object = object.clone();
    if let Some(status) = status {
        object["status"] = status.into();
        if status != "completed" {
            object["output"] = json!([]);
            object["usage"] = Value::Null;
            object["completed_at"] = Value::Null;
        }
    }
    object
}

async fn cancel(Shared(state): Shared<Arc<State>>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let kept = state.kept(&id).ok_or_else(|| unknown_response(&id))?;
    if !state.cancel(&id) {
        let message = "Only responses in the background can be cancelled.".to_owned();
        return Err(Refusal::bad_request(None, None, message));
    }
    Ok(Json(in_background(&kept.object, state.progress(&id))))
}

/// The history, put together into one item that only this account can read.
pub(super) async fn compact(Shared(state): Shared<Arc<State>>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let answer = response::answer(&state, &body, &Fault::default())?;
    Ok(Json(json!({
        "id": state.id("resp"),
        "object": "response.compaction",
        "created_at": answer.object["created_at"],
        "output": [{ "id": state.id("cmp"), "type": "compaction", "encrypted_content": state.seal() }],
        "usage": answer.object["usage"],
    })))
}

async fn input_tokens(Shared(state): Shared<Arc<State>>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let answer = response::answer(&state, &body, &Fault::default())?;
    Ok(Json(
        json!({ "object": "response.input_tokens", "input_tokens": answer.object["usage"]["input_tokens"] }),
    ))
}

async fn delete(Shared(state): Shared<Arc<State>>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    match state.forget(&id) {
        true => Ok(Json(json!({ "id": id, "object": "response", "deleted": true }))),
        false => Err(unknown_response(&id)),
    }
}

async fn input_items(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let kept = state.kept(&id).ok_or_else(|| unknown_response(&id))?;
    let items: Vec<&Value> = kept.input.iter().rev().collect();
    Ok(Json(json!({
        "object": "list",
        "first_id": items.first().map(|item| &item["id"]),
        "last_id": items.last().map(|item| &item["id"]),
        "has_more": false,
        "data": items,
    })))
}

/// Asked for whenever a gateway wants it: no fault that waits for the next request is used up by it.
async fn models(
    Shared(state): Shared<Arc<State>>,
    Query(asked): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Refusal> {
    let fault = state.lasting_fault().unwrap_or_default();
    if let Some(status) = fault.status {
        return Err(Refusal::told(status, &fault));
    }
    if !state.lists_models {
        return Err(Refusal::unknown_url("/v1/models"));
    }
    let models = state.models().into_iter();
    // Codex asks with its version, and expects another shape.
    if asked.contains_key("client_version") {
        let model =
            |slug: String| json!({ "slug": slug, "display_name": slug, "visibility": "list", "priority": 1 });
        return Ok(Json(json!({ "models": models.map(model).collect::<Vec<_>>() })));
    }
    let models: Vec<Value> = models.map(|id| model_object(&id)).collect();
    Ok(Json(json!({ "object": "list", "data": models })))
}

fn model_object(id: &str) -> Value {
    json!({ "id": id, "object": "model", "created": 1_795_000_000, "owned_by": "moorage-simulator" })
}

async fn model(Shared(state): Shared<Arc<State>>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    match state.models().contains(&id) {
        true => Ok(Json(model_object(&id))),
        false => Err(Refusal::no_model(&id)),
    }
}

/// The body is a fault in text; with `?always`, for every request from now on.
async fn set_fault(Shared(state): Shared<Arc<State>>, request: Request) -> Result<StatusCode, Refusal> {
    let always = request.uri().query() == Some("always");
    let refused = |error: String| Refusal::bad_request(None, None, error);
    let body = to_bytes(request.into_body(), BODY_BYTES_MAX).await;
    let body = body.map_err(|error| refused(error.to_string()))?;
    let fault: Fault = String::from_utf8_lossy(&body).parse().map_err(refused)?;
    match always {
        true => state.always(Some(fault)),
        false => state.script(fault),
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn clear_fault(Shared(state): Shared<Arc<State>>) -> StatusCode {
    state.always(None);
    StatusCode::NO_CONTENT
}

async fn show_journal(Shared(state): Shared<Arc<State>>) -> Json<Value> {
    let entries = state.journal().entries();
    Json(entries.iter().map(JournalEntry::to_json).collect())
}

async fn clear_journal(Shared(state): Shared<Arc<State>>) -> StatusCode {
    state.journal().clear();
    StatusCode::NO_CONTENT
}
