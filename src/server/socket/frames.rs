//! What goes out over a WebSocket: events as they came, and errors as clients know them there.
//!
//! An error always has a numeric `status`: Codex overlooks one without, and waits for five minutes.

use axum::extract::ws::Utf8Bytes;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::error::Error;
use crate::request::event::Lane;
use crate::response::events::{Event, Meaning};
use crate::response::{Facts, Outcome};
use crate::server::errors::{self, Told};

/// What goes out for an event of the upstream's stream. Nothing if it is no text.
pub(super) fn of_event(whole: &Bytes, event: &Event<'_>, meaning: Meaning, lane: &Lane) -> Option<Utf8Bytes> {
    if meaning == Meaning::End(Outcome::Failed) && event.is_error() {
        return Some(text(error_event(event), lane));
    }
    // The mark behind the last event of some servers is none.
    if event.data() == b"[DONE]" {
        return None;
    }
    of_data(event.slice_of(whole), lane)
}

/// What goes out for what an event carries. Nothing if it is no text.
pub(super) fn of_data(data: Bytes, lane: &Lane) -> Option<Utf8Bytes> {
    match lane {
        Lane::Named(name) => Utf8Bytes::try_from(in_lane(&data, name)).ok(),
        _ => Utf8Bytes::try_from(data).ok(),
    }
}

/// The name of its lane goes to the end of an event, unless it is there.
fn in_lane(data: &[u8], name: &str) -> Vec<u8> {
    let end = data.iter().rposition(|byte| *byte == b'}');
    let (before, after) = data.split_at(end.unwrap_or(data.len()));
    let member = format!(",\"stream_id\":\"{name}\"");
    if end.is_none() || before.ends_with(member.as_bytes()) {
        return data.to_vec();
    }
    [before, member.as_bytes(), after].concat()
}

/// `error` as it comes in streams, flat or nested, in the form of a WebSocket.
fn error_event(event: &Event<'_>) -> Value {
    let mut data: Value = serde_json::from_slice(event.data()).unwrap_or_default();
    if data["status"].is_number() {
        return data;
    }
    let mut facts = Facts::default();
    event.read_into(Meaning::End(Outcome::Failed), &mut facts);
    let status = facts.error.status_as_answer();
    if !data["error"].is_object() {
        data["error"] = json!({
            "type": kind_of(status), "code": facts.error_code, "message": facts.error.message, "param": data["param"],
        });
    }
    json!({
        "type": "error", "status": status, "sequence_number": data["sequence_number"], "error": data["error"],
    })
}

fn kind_of(status: u16) -> &'static str {
    match status {
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

/// An error of the gateway.
pub(super) fn of_error(told: &Told, lane: &Lane) -> Utf8Bytes {
    let mut frame = json!({ "type": "error", "status": told.status.as_u16(), "error": told.object() });
    if let Some(seconds) = told.retry_after_seconds() {
        frame["headers"] = json!({ "retry-after": seconds.to_string() });
    }
    text(frame, lane)
}

/// An upstream's answer that is an error.
pub(super) fn of_refusal(status: StatusCode, headers: &HeaderMap, body: &[u8], lane: &Lane) -> Utf8Bytes {
    let body: Value = serde_json::from_slice(body).unwrap_or_else(|_| {
        let said = String::from_utf8_lossy(body).into_owned();
        json!({ "detail": said })
    });
    let error = match body.get("error") {
        Some(error) if error.is_object() => error.clone(),
        _ => {
            let said = body.get("detail").or(body.get("message"));
            let said = said.map(|said| said.as_str().map_or_else(|| said.to_string(), str::to_owned));
            let message = said.unwrap_or_else(|| format!("The upstream answered {status}."));
            json!({ "type": kind_of(status.as_u16()), "code": null, "message": message, "param": null })
        }
    };
    let mut frame = json!({ "type": "error", "status": status.as_u16(), "error": error });
    let told: serde_json::Map<String, Value> = ["retry-after", "retry-after-ms", "x-request-id"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), headers.get(name)?.to_str().ok()?.into())))
        .collect();
    if !told.is_empty() {
        frame["headers"] = told.into();
    }
    text(frame, lane)
}

/// An answer of an upstream that gave it whole though a stream was asked for.
pub(super) fn of_document(body: &[u8], lane: &Lane) -> Vec<Utf8Bytes> {
    let Ok(response) = serde_json::from_slice::<Value>(body) else {
        let told = errors::told(&Error::UnreadableAnswer);
        return vec![of_error(&told, lane)];
    };
    let kind = match response["status"].as_str() {
        Some("failed") => "response.failed",
        Some("incomplete") => "response.incomplete",
        _ => "response.completed",
    };
    let event = |kind: &str, number: u8| {
        let data = json!({ "type": kind, "sequence_number": number, "response": response });
        text(data, lane)
    };
    vec![event("response.created", 0), event(kind, 1)]
}

/// A message that is no text.
pub(super) fn binary() -> Utf8Bytes {
    of_error(&errors::told(&Error::BinaryMessage), &Lane::Default)
}

/// What says nothing, and is read by Codex as a sign of life.
pub(super) fn keepalive() -> Utf8Bytes {
    Utf8Bytes::from_static(r#"{"type":"keepalive"}"#)
}

/// A response that does not run, or runs where nothing can be said to it.
pub(super) fn steer_failed(event: &[u8], is_supported: bool) -> Utf8Bytes {
    let event: Value = serde_json::from_slice(event).unwrap_or_default();
    let (code, message) = match is_supported {
        true => (
            "response_not_active",
            "The response does not run on this connection.",
        ),
        false => (
            "steering_not_supported",
            "The account that runs this response is not reached over WebSocket.",
        ),
    };
    let frame = json!({
        "type": "response.steer.failed",
        "error": { "type": "invalid_request_error", "code": code, "message": message },
        "steer": { "previous_response_id": event["previous_response_id"], "input": event["input"] },
    });
    text(frame, &Lane::Default)
}

fn text(mut frame: Value, lane: &Lane) -> Utf8Bytes {
    if let Lane::Named(name) = lane {
        frame["stream_id"] = name.as_str().into();
    }
    frame.to_string().into()
}
