//! The older ways to ask a model: chat completions, completions, embeddings.

use std::sync::Arc;

use axum::extract::{Path, Request, State as Shared};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use serde_json::{Value, json};

use super::account::State;
use super::cache::BYTES_PER_TOKEN;
use super::fault::Fault;
use super::play::{Sending, Step};
use super::refusal::Refusal;
use super::response::spoken;
use super::server::{Entry, fault, respond};
use super::things::Thing;
use crate::clock::now_ms;

/// Pieces that a text is cut into.
const DELTAS: usize = 4;

pub(super) fn router() -> Router<Arc<State>> {
    Router::new()
        .route("/v1/chat/completions", post(complete).get(list))
        .route(
            "/v1/chat/completions/{id}",
            get(retrieve).post(retrieve).delete(delete),
        )
        .route("/v1/chat/completions/{id}/messages", get(messages))
        .route("/v1/completions", post(complete))
        .route("/v1/embeddings", post(embed))
}

async fn complete(
    Shared(state): Shared<Arc<State>>,
    Extension(Entry(number)): Extension<Entry>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let fault = fault(&state, &headers)?;
    let mut sending = Sending::new(state.clone(), number);
    if let Some(status) = fault.status {
        sending.whole();
        return Err(Refusal::told(status, &fault));
    }
    let asked: Value =
        serde_json::from_slice(&body).map_err(|error| Refusal::bad_request(None, None, error.to_string()))?;
    state.check_model(asked["model"].as_str())?;
    state.check_things(&asked["messages"])?;
    let is_chat = asked["messages"].is_array();
    let context = if is_chat {
        &asked["messages"]
    } else {
        &asked["prompt"]
    }
    .to_string();
    let said = said(&asked);
    let turns = asked["messages"].as_array().into_iter().flatten();
    let turns = turns.filter(|message| message["role"] == "user").count().max(1);
    let text = spoken(&state.name, turns, &said, fault.output_bytes);
    let cached = state.cached(asked["prompt_cache_key"].as_str(), &context);
    let completion_tokens = text.len().div_ceil(BYTES_PER_TOKEN);
    let prompt_tokens = context.len().div_ceil(BYTES_PER_TOKEN);
    let usage = json!({
        "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": { "cached_tokens": cached.read },
        "completion_tokens_details": { "reasoning_tokens": 0 },
    });
    let head = json!({
        "id": state.id(if is_chat { "chatcmpl" } else { "cmpl" }),
        "created": now_ms() / 1000,
        "model": asked.get("model").cloned().unwrap_or_else(|| "sim-large".into()),
    });
    let stream = asked["stream"] == true;
    let steps = match stream {
        true => chunks(&head, &text, &asked, &usage, &fault),
        false => {
            let mut object = head.clone();
            object["object"] = if is_chat {
                "chat.completion"
            } else {
                "text_completion"
            }
            .into();
            object["choices"] = match is_chat {
                true => {
                    json!([{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }])
                }
                false => json!([{ "index": 0, "text": text, "finish_reason": "stop" }]),
            };
            object["usage"] = usage;
            if asked["store"] == true {
                object["metadata"] = asked.get("metadata").cloned().unwrap_or_else(|| json!({}));
                state.things().add("chat/completions", Thing::new(object.clone()));
            }
            vec![Step::Send(Bytes::from(object.to_string()))]
        }
    };
    Ok(respond(stream, &fault, steps, sending))
}

fn said(asked: &Value) -> String {
    let messages = asked["messages"].as_array().into_iter().flatten();
    let last = messages.rev().find(|message| message["role"] == "user");
    let content = last.map_or(&asked["prompt"], |message| &message["content"]);
    match content {
        Value::String(text) => text.clone(),
        other => other
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|part| part["text"].as_str())
            .collect(),
    }
}

/// The stream, with the figures at its end only if they are asked for.
fn chunks(head: &Value, text: &str, asked: &Value, usage: &Value, fault: &Fault) -> Vec<Step> {
    let with_usage = asked["stream_options"]["include_usage"] == true;
    let is_chat = asked["messages"].is_array();
    let mut steps = Vec::new();
    let mut send = |choices: Value, usage: Option<&Value>| {
        let mut chunk = head.clone();
        chunk["object"] = if is_chat {
            "chat.completion.chunk"
        } else {
            "text_completion"
        }
        .into();
        chunk["choices"] = choices;
        if with_usage {
            chunk["usage"] = usage.cloned().unwrap_or(Value::Null);
        }
        steps.push(Step::Send(Bytes::from(format!("data: {chunk}\n\n"))));
    };
    let choice = |text: &str, reason: Value| match is_chat {
        true => json!([{ "index": 0, "delta": { "content": text }, "finish_reason": reason }]),
        false => json!([{ "index": 0, "text": text, "finish_reason": reason }]),
    };
    let cut = |index: usize| text.floor_char_boundary(text.len() * index / DELTAS);
    if is_chat {
        // Who speaks is said once: `openai` for Node takes no message without it.
        let delta = json!({ "role": "assistant", "content": "" });
        send(
            json!([{ "index": 0, "delta": delta, "finish_reason": null }]),
            None,
        );
    }
    for index in 0..DELTAS {
        send(choice(&text[cut(index)..cut(index + 1)], Value::Null), None);
    }
    send(choice("", "stop".into()), None);
    if with_usage {
        send(json!([]), Some(usage));
    }
    if let Some(events) = fault.cut_after {
        steps.truncate(events);
        steps.push(Step::Cut);
    } else if !fault.end_without_terminal {
        steps.push(Step::Send(Bytes::from_static(b"data: [DONE]\n\n")));
    }
    steps
}

async fn embed(Shared(state): Shared<Arc<State>>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let asked: Value =
        serde_json::from_slice(&body).map_err(|error| Refusal::bad_request(None, None, error.to_string()))?;
    state.check_model(asked["model"].as_str())?;
    let input = match &asked["input"] {
        Value::Array(texts) => texts.as_slice(),
        one => std::slice::from_ref(one),
    };
    let tokens = asked["input"].to_string().len().div_ceil(BYTES_PER_TOKEN);
    let data: Vec<Value> = (0..input.len())
        .map(|index| json!({ "object": "embedding", "index": index, "embedding": [0.25, -0.5, 1.0] }))
        .collect();
    Ok(Json(json!({
        "object": "list", "data": data, "model": asked["model"],
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })))
}

fn unknown(id: &str) -> Refusal {
    Refusal::not_found(format!("Chat completion with id '{id}' not found."), None)
}

async fn retrieve(Shared(state): Shared<Arc<State>>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let things = state.things();
    let kept = things.find("chat/completions", &id).ok_or_else(|| unknown(&id))?;
    Ok(Json(kept.object.clone()))
}

async fn delete(Shared(state): Shared<Arc<State>>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    match state.remove_thing("chat/completions", &id) {
        true => Ok(Json(
            json!({ "id": id, "object": "chat.completion.deleted", "deleted": true }),
        )),
        false => Err(unknown(&id)),
    }
}

async fn messages(Shared(state): Shared<Arc<State>>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    match state.things().find("chat/completions", &id) {
        Some(_) => Ok(Json(json!({ "object": "list", "data": [], "has_more": false }))),
        None => Err(unknown(&id)),
    }
}

async fn list(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    super::things::listed(&state, "chat/completions", request.uri().query()).into_response()
}
