//! Answers from a template, for benchmarks: nothing is read, only the ids are new.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use super::events;
use super::fault::Fault;
use super::play::Step;
use super::response::Answer;

/// Stands in the templates where the ids differ.
const MARK: &str = "CANNED";

/// The templates of one account; the streams by their number of deltas.
#[derive(Debug, Default)]
pub(super) struct Canned {
    streams: Mutex<HashMap<usize, Arc<[Step]>>>,
}

impl Canned {
    /// The steps of the next canned answer, as a stream or whole.
    pub(super) fn steps(&self, stream: bool, id: &str, fault: &Fault) -> Vec<Step> {
        if !stream {
            return vec![Step::Send(filled(&object().to_string(), id))];
        }
        let deltas = fault.deltas.unwrap_or(1);
        let template = {
            let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
            streams
                .entry(deltas)
                .or_insert_with(|| template_of(deltas))
                .clone()
        };
        let mut steps: Vec<Step> = template
            .iter()
            .map(|step| at_pace(step, id, fault.delta_delay))
            .collect();
        if fault.stamped {
            steps.iter_mut().for_each(stamp);
        }
        steps
    }
}

/// Whether a body asks for a stream, without reading it.
pub(super) fn asks_for_stream(body: &[u8]) -> bool {
    let finds = |words: &[u8]| memmem::find(body, words).is_some();
    finds(br#""stream":true"#) || finds(br#""stream": true"#)
}

fn template_of(deltas: usize) -> Arc<[Step]> {
    let answer = Answer {
        plan: None,
        in_background: false,
        object: object(),
        stream: true,
        obfuscation: false,
        kept: None,
    };
    let fault = Fault {
        deltas: Some(deltas),
        ..Fault::default()
    };
    // A pause of any length marks where those of the request belong.
    events::stream(&answer, &fault, Duration::from_millis(1)).into()
}

fn at_pace(step: &Step, id: &str, delta_delay: Option<Duration>) -> Step {
    match step {
        Step::Send(bytes) => Step::Send(filled(std::str::from_utf8(bytes).unwrap_or_default(), id)),
        Step::Wait(_) => Step::Wait(delta_delay.unwrap_or_default()),
        other => other.clone(),
    }
}

/// A delta gets a place for the time, which is known when it is sent.
fn stamp(step: &mut Step) {
    const KIND: &str = "{\"type\":\"response.output_text.delta\",";
    if let Step::Send(bytes) = step
        && let Some(at) = memmem::find(bytes, KIND.as_bytes())
    {
        let (before, after) = bytes.split_at(at + KIND.len());
        *step = Step::SendStamped(Bytes::copy_from_slice(before), Bytes::copy_from_slice(after));
    }
}

fn filled(template: &str, id: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(template.len() + 4 * id.len());
    let mut parts = template.split(MARK);
    out.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out.freeze()
}

fn object() -> serde_json::Value {
    serde_json::json!({
        "id": format!("resp_{MARK}"), "object": "response", "created_at": 1_795_000_000, "status": "completed",
        "error": null, "incomplete_details": null, "model": "sim-large", "service_tier": "default", "store": true,
        "output": [{
            "id": format!("msg_{MARK}"), "type": "message", "role": "assistant", "status": "completed",
            "content": [{ "type": "output_text", "text": "The tide comes in, the tide goes out. ".repeat(16), "annotations": [], "logprobs": [] }],
        }],
        "usage": {
            "input_tokens": 2311, "input_tokens_details": { "cached_tokens": 2048, "cache_write_tokens": 0 },
            "output_tokens": 152, "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 2463,
        },
    })
}
