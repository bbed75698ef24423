//! Events of a WebSocket as the same upstream would have told them over HTTP: in the head of an answer,
//! in the document of an error, in the lines of a stream.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::response::events::{Event, Meaning};
use crate::upstream::headers::TURN_STATE;
use crate::upstream::http::{Incoming, IncomingBody};

/// The code by which an upstream says that a connection has lived as long as it may.
const CONNECTION_LIMIT: &str = "websocket_connection_limit_reached";

/// The event that tells on a WebSocket what these headers say about the state of the turn.
pub fn metadata(headers: &HeaderMap) -> Option<Bytes> {
    let state = headers.get(TURN_STATE)?.to_str().ok()?;
    let told = serde_json::json!({ TURN_STATE.as_str(): state });
    let event = serde_json::json!({ "type": "response.metadata", "headers": told });
    Some(event.to_string().into())
}

/// What an upstream would have said over HTTP in the head of its answer: `response.metadata`.
pub(super) fn headers_in(frame: &[u8], meaning: Meaning) -> HeaderMap {
    #[derive(Deserialize)]
    struct Metadata {
        headers: HashMap<String, serde_json::Value>,
    }
    if meaning != Meaning::Unknown || Event::of(frame).kind().as_ref() != b"response.metadata" {
        return HeaderMap::new();
    }
    let metadata: Option<Metadata> = serde_json::from_slice(frame).ok();
    header_map(metadata.map(|metadata| metadata.headers))
}

/// Headers as an event tells them. What is none is left out.
fn header_map(told: Option<HashMap<String, serde_json::Value>>) -> HeaderMap {
    let told = told.into_iter().flatten().filter(|(_, value)| !value.is_null());
    told.filter_map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((
            HeaderName::try_from(name).ok()?,
            HeaderValue::try_from(text).ok()?,
        ))
    })
    .collect()
}

/// An event as it stands in a stream. A line break within it begins a line of data of its own.
pub(super) fn as_stream_event(frame: &[u8], kind: Option<Cow<'_, [u8]>>) -> Bytes {
    let kind = kind.filter(|kind| kind.iter().all(u8::is_ascii_graphic));
    let mut out = BytesMut::with_capacity(frame.len() + 64);
    if let Some(kind) = kind {
        out.put_slice(b"event: ");
        out.put_slice(&kind);
        out.put_u8(b'\n');
    }
    for line in frame.split(|byte| *byte == b'\n') {
        out.put_slice(b"data: ");
        out.put_slice(line.strip_suffix(b"\r").unwrap_or(line));
        out.put_u8(b'\n');
    }
    out.put_u8(b'\n');
    out.freeze()
}

pub(super) struct Refused {
    pub(super) incoming: Incoming,
    pub(super) is_connection_limit: bool,
}

/// An error that came instead of an answer. One without a status is an event like others.
pub(super) fn refused(whole: &[u8], meaning: Meaning) -> Option<Refused> {
    #[derive(Deserialize)]
    struct ErrorFrame<'a> {
        #[serde(alias = "status_code")]
        status: u16,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
        #[serde(default)]
        headers: Option<HashMap<String, serde_json::Value>>,
    }
    #[derive(Deserialize)]
    struct Code {
        code: Option<String>,
    }
    if !matches!(meaning, Meaning::End(_)) {
        return None;
    }
    let frame: ErrorFrame<'_> = serde_json::from_slice(whole).ok()?;
    let status = StatusCode::from_u16(frame.status)
        .ok()
        .filter(|status| !status.is_success())?;
    let error = frame.error.map(RawValue::get);
    let code: Option<Code> = error.and_then(|error| serde_json::from_str(error).ok());
    let body = match error {
        Some(error) => format!("{{\"error\":{error}}}").into(),
        None => Bytes::copy_from_slice(whole),
    };
    let mut headers = header_map(frame.headers);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Some(Refused {
        is_connection_limit: code.and_then(|error| error.code).as_deref() == Some(CONNECTION_LIMIT),
        incoming: Incoming {
            status,
            headers,
            body: IncomingBody::Whole(Some(body)),
        },
    })
}
