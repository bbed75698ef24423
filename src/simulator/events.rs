//! An answer as a stream of events, in the order of the real API, and with what can go wrong in it.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::fault::Fault;
use super::play::Step;
use super::refusal::try_again_in;
use super::response::Answer;

/// Deltas that a text is cut into, unless it is said otherwise.
const DELTAS: usize = 8;

/// The steps that send this answer as events.
pub(super) fn stream(answer: &Answer, fault: &Fault, delta_delay: Duration) -> Vec<Step> {
    let mut writer = Writer {
        steps: Vec::new(),
        sequence: 0,
        events: 0,
        deltas: 0,
        fault,
        delta_delay: fault.delta_delay.unwrap_or(delta_delay),
        obfuscation: answer.obfuscation,
        ended: false,
    };
    writer.begin(answer);
    for (index, item) in answer.object["output"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        writer.item(index, item);
    }
    writer.end(answer);
    writer.steps
}

/// The steps that send a kept response again, from behind an event of this number.
pub(super) fn resumed(object: &Value, after: Option<u64>, delta_delay: Duration) -> Vec<Step> {
    let answer = Answer {
        object: object.clone(),
        stream: true,
        obfuscation: true,
        in_background: true,
        plan: None,
        kept: None,
    };
    let mut number = 0;
    let mut steps = stream(&answer, &Fault::default(), delta_delay);
    // Without faults every event is a step of its own.
    steps.retain(|step| {
        if !matches!(step, Step::Send(_)) {
            return true;
        }
        number += 1;
        after.is_none_or(|after| number - 1 > after)
    });
    steps
}

/// The steps that refuse a request inside a stream that has begun.
pub(super) fn refused(id: &str, error: &Value, fault: &Fault) -> Vec<Step> {
    let mut writer = Writer {
        steps: Vec::new(),
        sequence: 0,
        events: 0,
        deltas: 0,
        fault,
        delta_delay: Duration::ZERO,
        obfuscation: false,
        ended: false,
    };
    let response = |status: &str, error: &Value| json!({ "response": { "id": id, "object": "response", "status": status, "error": error, "output": [], "usage": null } });
    writer.send("response.created", response("in_progress", &Value::Null));
    writer.send("response.in_progress", response("in_progress", &Value::Null));
    writer.send("response.failed", response("failed", error));
    writer.steps
}

struct Writer<'a> {
    steps: Vec<Step>,
    sequence: u64,
    events: usize,
    deltas: usize,
    fault: &'a Fault,
    delta_delay: Duration,
    obfuscation: bool,
    /// Nothing more is sent.
    ended: bool,
}

impl Writer<'_> {
    fn begin(&mut self, answer: &Answer) {
        if let Some(plan) = &answer.plan {
            self.raw(format!("event: codex.rate_limits\ndata: {plan}\n\n"));
        }
        let begun = with(
            &answer.object,
            &[
                ("status", "in_progress".into()),
                ("output", json!([])),
                ("usage", Value::Null),
                ("completed_at", Value::Null),
            ],
        );
        self.send("response.created", json!({ "response": begun }));
        if self.fault.only_created_then_hang {
            self.steps.push(Step::Hang);
            self.ended = true;
        }
        self.send("response.in_progress", json!({ "response": begun }));
        self.unknown();
        if self.fault.fail_after.is_none() {
            self.fail(answer);
        }
    }

    fn item(&mut self, index: usize, item: &Value) {
        match item["type"].as_str() {
            Some("message") => self.message(index, item),
            Some("function_call") => self.function_call(index, item),
            _ => self.around(index, item.clone(), item, |_| {}),
        }
    }

    fn message(&mut self, index: usize, item: &Value) {
        let text = item["content"][0]["text"].as_str().unwrap_or_default();
        let place = json!({ "item_id": item["id"], "output_index": index, "content_index": 0 });
        let empty = with(item, &[("status", "in_progress".into()), ("content", json!([]))]);
        let part =
            |text: &str| json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] });
        self.around(index, empty, item, |writer| {
            writer.send("response.content_part.added", with(&place, &[("part", part(""))]));
            for delta in pieces(text, writer.fault.deltas.unwrap_or(DELTAS)) {
                writer.delta(
                    "response.output_text.delta",
                    with(&place, &[("delta", delta.into()), ("logprobs", json!([]))]),
                );
            }
            writer.send(
                "response.output_text.done",
                with(&place, &[("text", text.into()), ("logprobs", json!([]))]),
            );
            writer.send(
                "response.content_part.done",
                with(&place, &[("part", part(text))]),
            );
        });
    }

    fn function_call(&mut self, index: usize, item: &Value) {
        let place = json!({ "item_id": item["id"], "output_index": index });
        let empty = with(
            item,
            &[("status", "in_progress".into()), ("arguments", "".into())],
        );
        let arguments = item["arguments"].clone();
        self.around(index, empty, item, |writer| {
            writer.delta(
                "response.function_call_arguments.delta",
                with(&place, &[("delta", arguments.clone())]),
            );
            writer.send(
                "response.function_call_arguments.done",
                with(&place, &[("arguments", arguments)]),
            );
        });
    }

    /// An item's first and last event, and what is between them.
    fn around(&mut self, index: usize, added: Value, done: &Value, between: impl FnOnce(&mut Self)) {
        self.send(
            "response.output_item.added",
            json!({ "output_index": index, "item": added }),
        );
        between(self);
        self.send(
            "response.output_item.done",
            json!({ "output_index": index, "item": done }),
        );
    }

    fn delta(&mut self, kind: &str, mut event: Value) {
        if self.fault.fail_after == Some(self.deltas) {
            self.fail_now();
        }
        if self.deltas > 0 && !self.delta_delay.is_zero() {
            self.push(Step::Wait(self.delta_delay));
        }
        self.deltas += 1;
        if self.obfuscation {
            // Padding to one length, against those who measure the encrypted stream.
            let length = event["delta"].as_str().map_or(0, str::len);
            event["obfuscation"] = "x".repeat(16 - length % 16).into();
        }
        self.send(kind, event);
    }

    fn end(&mut self, answer: &Answer) {
        if self.fault.end_without_terminal {
            return;
        }
        let status = answer.object["status"].as_str().unwrap_or_default();
        let (kind, mut response) = match (self.fault.cancelled, status) {
            (true, _) => (
                "response.cancelled",
                with(
                    &answer.object,
                    &[("status", "cancelled".into()), ("usage", Value::Null)],
                ),
            ),
            (false, "incomplete") => ("response.incomplete", answer.object.clone()),
            (false, _) => ("response.completed", answer.object.clone()),
        };
        if answer.plan.is_some() {
            response["output"] = json!([]);
        }
        self.unknown();
        self.send(kind, json!({ "response": response }));
        if self.fault.done && !self.ended {
            self.raw("data: [DONE]\n\n".to_owned());
        }
    }

    /// Fails as told before any output.
    fn fail(&mut self, answer: &Answer) {
        let code = self.fault.fail_in_stream.as_deref();
        let message = message(code);
        if self.fault.error_event {
            let code = code.unwrap_or("server_error");
            self.send(
                "error",
                json!({ "code": code, "message": message, "param": null }),
            );
        } else if self.fault.nested_error_event {
            let code = code.unwrap_or("server_is_overloaded");
            let error = json!({ "type": "service_unavailable_error", "code": code, "message": message, "param": null });
            self.send("error", json!({ "error": error }));
        } else if let Some(code) = code {
            let error = json!({ "code": code, "message": message });
            let failed = with(
                &answer.object,
                &[
                    ("status", "failed".into()),
                    ("error", error),
                    ("output", json!([])),
                    ("usage", Value::Null),
                ],
            );
            self.send("response.failed", json!({ "response": failed }));
        } else {
            return;
        }
        self.ended = true;
    }

    /// Fails as told, in the middle of the text.
    fn fail_now(&mut self) {
        if self.ended {
            return;
        }
        let code = self.fault.fail_in_stream.as_deref().unwrap_or("server_error");
        self.send(
            "error",
            json!({ "code": code, "message": message(Some(code)), "param": null }),
        );
        self.ended = true;
    }

    /// What the next version of the API may send.
    fn unknown(&mut self) {
        if self.fault.unknown_events && !self.ended {
            let number = self.sequence;
            self.sequence += 1;
            // The figures are written as they are: read as a float, they would be others.
            self.raw(format!(
                "event: response.harbour.tide\ndata: {{\"type\": \"response.harbour.tide\", \
                 \"sequence_number\":{number}, \"level\":12345678901234567890123, \"drift\":1.0e2}}\n\n"
            ));
            self.raw(": a comment\n\n".to_owned());
        }
    }

    fn send(&mut self, kind: &str, mut event: Value) {
        if self.ended {
            return;
        }
        let mut whole = json!({ "type": kind, "sequence_number": self.sequence });
        self.sequence += 1;
        if let (Some(whole), Some(members)) = (whole.as_object_mut(), event.as_object_mut()) {
            whole.append(members);
            if self.fault.unknown_events {
                whole.insert("harbour".to_owned(), json!({ "tide": "high" }));
            }
        }
        self.raw(format!("event: {kind}\ndata: {whole}\n\n"));
        self.events += 1;
        if self.fault.cut_after == Some(self.events) {
            self.steps.push(Step::Cut);
            self.ended = true;
        }
    }

    fn raw(&mut self, text: String) {
        let text = if self.fault.crlf {
            text.replace('\n', "\r\n")
        } else {
            text
        };
        self.push(Step::Send(Bytes::from(text)));
    }

    fn push(&mut self, step: Step) {
        if !self.ended {
            self.steps.push(step);
        }
    }
}

fn message(code: Option<&str>) -> String {
    match code {
        Some("rate_limit_exceeded") => try_again_in(Duration::from_millis(1200)),
        _ => "The simulated account was told to fail here.".to_owned(),
    }
}

/// A copy with some members set.
fn with(object: &Value, members: &[(&str, Value)]) -> Value {
    let mut copy = object.clone();
    for (name, value) in members {
        copy[*name] = value.clone();
    }
    copy
}

/// Cuts a text into this many pieces, as even as its characters allow.
fn pieces(text: &str, count: usize) -> impl Iterator<Item = &str> {
    let count = count.max(1);
    let cut = move |index: usize| text.floor_char_boundary(text.len() * index / count);
    (0..count)
        .map(move |index| &text[cut(index)..cut(index + 1)])
        .filter(|piece| !piece.is_empty())
}
