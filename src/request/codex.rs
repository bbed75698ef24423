//! A request as the backend of ChatGPT logins takes it.
//!
//! What Codex CLI sends passes as it is. Of other clients the few members are changed that the backend
//! would refuse; what cannot be left out without changing what is asked for is an error. The rules are
//! those that public clients of the backend have met (openai/codex, BerriAI/litellm
//! `litellm/llms/chatgpt`).

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;
use serde_json::value::RawValue;

use super::endpoint::{Api, Endpoint};
use super::input::word;
use super::strip::members;
use super::{Envelope, Splice, span};

/// Members that the backend refuses and that only tune the answer: left out.
const LEFT_OUT: [&[u8]; 12] = [
    b"conversation",
    b"background",
    b"max_output_tokens",
    b"max_tool_calls",
    b"temperature",
    b"top_p",
    b"metadata",
    b"user",
    b"safety_identifier",
    b"stream_options",
    b"prompt_cache_retention",
    b"truncation",
];

/// Said where a request has no instructions of its own, because the backend wants some.
const INSTRUCTIONS: &str = r#""instructions":"You are a helpful assistant.""#;

/// What a request asks for that the backend cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// To go on from a response: none is kept.
    Follows,
    /// To belong to a conversation that the upstream keeps.
    Conversation,
    /// To be answered in the background.
    Background,
    /// Something else than a response.
    Endpoint,
}

/// Whether the backend can do what a request asks for.
///
/// # Errors
/// What it cannot do.
pub fn check(endpoint: &Endpoint, envelope: &Envelope) -> Result<(), Unfit> {
    match endpoint.api() {
        Some(Api::Responses | Api::Compact) => {}
        _ => return Err(Unfit::Endpoint),
    }
    if envelope.previous_response_id.is_some() {
        return Err(Unfit::Follows);
    }
    if envelope.conversation.is_some() {
        return Err(Unfit::Conversation);
    }
    match envelope.background {
        true => Err(Unfit::Background),
        false => Ok(()),
    }
}

/// What a body is when it goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One of HTTP that asks for a response.
    Body,
    /// One of HTTP that asks for a compaction.
    Compaction,
    /// An event of a client that speaks WebSocket itself.
    Event,
    /// An event that is made of a body of HTTP.
    EventOfBody,
}

impl Form {
    fn leaves_out(self, name: &[u8], value: &RawValue) -> bool {
        let is_out_of_place = match name {
            // Known on a WebSocket alone.
            b"previous_response_id" => matches!(self, Form::Body | Form::Compaction),
            b"generate" => self != Form::Event,
            // Of a client that does not speak WebSocket, it names no lane.
            b"stream_id" => self == Form::EventOfBody,
            b"service_tier" => value.get() == r#""auto""#,
            _ => false,
        };
        is_out_of_place || LEFT_OUT.contains(&name)
    }
}

/// What is changed of a body.
#[derive(Debug, Default, PartialEq)]
pub struct Fitted {
    /// The edits, in order.
    pub splices: Vec<Splice>,
    /// Members that are missing, each with its name.
    pub missing: Vec<&'static str>,
    /// Whether none of the members stays.
    pub nothing_stays: bool,
    /// Whether instructions are among those that are missing.
    pub is_instructed: bool,
}

/// The edits that make a body one that the backend takes; none for one that it takes as it is. What
/// goes on from a response needs instructions of ours only if that one got them: `instructs`.
pub fn fit(body: &[u8], form: Form, instructs: bool) -> Fitted {
    let Some(members) = std::str::from_utf8(body).ok().and_then(members) else {
        return Fitted::default();
    };
    let spans: Vec<Range<usize>> = members.iter().map(|(_, value)| span(value, body)).collect();
    let goes: Vec<bool> = members
        .iter()
        .map(|(name, value)| form.leaves_out(name, value))
        .collect();
    let mut fitted = Fitted {
        nothing_stays: goes.iter().all(|goes| *goes),
        ..Fitted::default()
    };
    let mut has = Present::default();
    let mut position = 0;
    while position < members.len() {
        if goes[position] {
            let first = position;
            while goes.get(position) == Some(&true) {
                position += 1;
            }
            fitted.splices.push(Splice {
                range: without_comma(body, &spans, first, position),
                with: Bytes::new(),
            });
            continue;
        }
        let (name, value) = &members[position];
        fitted.member(name, value, &spans[position], &mut has, form);
        position += 1;
    }
    if form == Form::EventOfBody && !has.kind {
        fitted.missing.push(r#""type":"response.create""#);
    }
    if form != Form::Compaction {
        fitted.missing.extend((!has.store).then_some(r#""store":false"#));
        fitted.missing.extend((!has.stream).then_some(r#""stream":true"#));
        let instructed = has.instructions || has_role(&members, "developer") || has_role(&members, "system");
        fitted.is_instructed = !instructed && instructs;
        fitted
            .missing
            .extend(fitted.is_instructed.then_some(INSTRUCTIONS));
    }
    fitted
}

/// Which of the members that must be there are there.
#[derive(Default)]
struct Present {
    kind: bool,
    store: bool,
    stream: bool,
    instructions: bool,
}

impl Fitted {
    fn member(&mut self, name: &[u8], value: &RawValue, at: &Range<usize>, has: &mut Present, form: Form) {
        let mut becomes = |text: &'static str| {
            if value.get() != text {
                self.splices.push(Splice {
                    range: at.clone(),
                    with: Bytes::from_static(text.as_bytes()),
                });
            }
        };
        match name {
            b"type" if form == Form::EventOfBody => {
                has.kind = true;
                becomes(r#""response.create""#);
            }
            b"store" if form != Form::Compaction => {
                has.store = true;
                becomes("false");
            }
            b"stream" if form != Form::Compaction => {
                has.stream = true;
                becomes("true");
            }
            b"instructions" => has.instructions |= value.get() != "null",
            b"service_tier" if value.get() == r#""fast""# => becomes(r#""priority""#),
            b"input" => self.input(value, at),
            _ => {}
        }
    }

    /// A plain text becomes a message, and system messages become the developer's.
    fn input(&mut self, input: &RawValue, at: &Range<usize>) {
        if input.get().starts_with('"') {
            let around = [
                (
                    at.start,
                    r#"[{"type":"message","role":"user","content":[{"type":"input_text","text":"#,
                ),
                (at.end, "}]}]"),
            ];
            self.splices.extend(around.map(|(position, text)| Splice {
                range: position..position,
                with: Bytes::from_static(text.as_bytes()),
            }));
            return;
        }
        for role in roles(input).filter(|role| word(role).as_deref() == Some("system")) {
            let offset = role.get().as_ptr() as usize - input.get().as_ptr() as usize;
            let start = at.start + offset;
            self.splices.push(Splice {
                range: start..start + role.get().len(),
                with: Bytes::from_static(br#""developer""#),
            });
        }
    }
}

/// The members from `first` to before `end`, with the comma that would be left over.
fn without_comma(body: &[u8], spans: &[Range<usize>], first: usize, end: usize) -> Range<usize> {
    let last = spans[end - 1].end;
    if let Some(before) = first.checked_sub(1) {
        return spans[before].end..last;
    }
    let open = memchr::memchr(b'{', body).map_or(0, |brace| brace + 1);
    match (end < spans.len(), memchr::memchr(b',', &body[last..])) {
        (true, Some(comma)) => open..last + comma + 1,
        _ => open..last,
    }
}

/// The state of a turn in an event of Codex CLI's, which has it among what it tells of itself
/// (`client_metadata`), and the edit that leaves it out.
pub fn turn_state(event: &[u8]) -> Option<(String, Splice)> {
    // Most events have none, and then nothing is read.
    memmem::find(event, TURN_STATE)?;
    let all = members(std::str::from_utf8(event).ok()?)?;
    let (_, told) = all.iter().rev().find(|(name, _)| name == b"client_metadata")?;
    let told_at = span(told, event);
    let told = members(told.get())?;
    let position = told.iter().position(|(name, _)| name == TURN_STATE)?;
    let within = &event[told_at.clone()];
    let spans: Vec<Range<usize>> = told.iter().map(|(_, value)| span(value, within)).collect();
    let range = without_comma(within, &spans, position, position + 1);
    let splice = Splice {
        range: told_at.start + range.start..told_at.start + range.end,
        with: Bytes::new(),
    };
    Some((word(told[position].1)?.into_owned(), splice))
}

/// The edit that puts the state of a turn, which came as a header, where an event has it.
pub fn with_turn_state(body: &[u8], state: &str) -> Option<Splice> {
    let all = members(std::str::from_utf8(body).ok()?)?;
    let state = format!("\"x-codex-turn-state\":{}", serde_json::Value::from(state));
    let told = all.iter().rev().find(|(name, _)| name == b"client_metadata");
    let told = told.filter(|(_, told)| told.get().starts_with('{'));
    let (at, comma, text) = match told {
        Some((_, told)) => (
            span(told, body).start + 1,
            told.get()[1..].trim_start() != "}",
            state,
        ),
        None => (
            memchr::memchr(b'{', body)? + 1,
            !all.is_empty(),
            format!("\"client_metadata\":{{{state}}}"),
        ),
    };
    let comma = if comma { "," } else { "" };
    Some(Splice {
        range: at..at,
        with: (text + comma).into(),
    })
}

/// The name of the state of a turn, as a header and as what Codex CLI tells of itself.
const TURN_STATE: &[u8] = b"x-codex-turn-state";

fn has_role(members: &[(Vec<u8>, &RawValue)], wanted: &str) -> bool {
    let input = members.iter().rev().find(|(name, _)| name == b"input");
    input.is_some_and(|(_, input)| {
        // Most bodies have none, and then nothing is read.
        memmem::find(input.get().as_bytes(), wanted.as_bytes()).is_some()
            && roles(input).any(|role| word(role).as_deref() == Some(wanted))
    })
}

/// The roles of the items of an input.
fn roles(input: &RawValue) -> impl Iterator<Item = &RawValue> {
    let may_have = memmem::find(input.get().as_bytes(), b"system").is_some()
        || memmem::find(input.get().as_bytes(), b"developer").is_some();
    let items: Vec<&RawValue> = match may_have {
        true => serde_json::from_str(input.get()).unwrap_or_default(),
        false => Vec::new(),
    };
    items.into_iter().filter_map(|item| {
        let members = members(item.get())?;
        let role = members.into_iter().rev().find(|(name, _)| name == b"role");
        role.map(|(_, role)| role)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Fill, spliced};

    fn fitted(body: &str) -> String {
        fitted_as(body, Form::Body, true)
    }

    fn fitted_as(body: &str, form: Form, instructs: bool) -> String {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let envelope = Envelope::read(body.as_bytes()).unwrap();
        let fitted = fit(body.as_bytes(), form, instructs);
        let mut splices = envelope.fill_in(Fill {
            cache_key: None,
            sealed_reasoning: false,
            usage: false,
            members: &fitted.missing,
            nothing_stays: fitted.nothing_stays,
        });
        splices.extend(fitted.splices);
        splices.sort_by_key(|splice| splice.range.start);
        String::from_utf8(spliced(&bytes, splices).concat()).unwrap()
    }

    #[test]
    fn what_codex_sends_passes_as_it_is() {
        for body in [
            r#"{"model":"m","store":false,"stream":true,"instructions":"i","input":[{"role":"user","content":"system"}],"x":1.0e2}"#,
            r#"{"store":false,"stream":true,"input":[{"type":"message","role":"developer","content":[]}],"text":{"verbosity":"low"},"service_tier":"priority"}"#,
        ] {
            assert_eq!(fitted(body), body);
        }
    }

    #[test]
    fn each_rule_changes_what_it_must_and_nothing_else() {
        let end = r#""store":false,"stream":true,"instructions":"i","input":[]}"#;
        for (body, expected) in [
            (r#"{"store": true ,"stream":null,"instructions":"i","input":[]}"#.to_owned(), r#"{"store": false ,"stream":true,"instructions":"i","input":[]}"#.to_owned()),
            (r#"{"instructions":"i","input":[]}"#.to_owned(), r#"{"instructions":"i","input":[],"store":false,"stream":true}"#.to_owned()),
            (format!(r#"{{"temperature":1 , {end}"#), format!(r#"{{ {end}"#)),
            (format!(r#"{{"user":"u","top_p":1,"a":[1],"metadata":{{"b":"c"}} ,{end}"#), format!(r#"{{"a":[1] ,{end}"#)),
            (format!(r#"{{"service_tier":"fast",{end}"#), format!(r#"{{"service_tier":"priority",{end}"#)),
            (format!(r#"{{"service_tier":"auto",{end}"#), format!(r#"{{{end}"#)),
            (format!(r#"{{"background":false,"previous_response_id":null,{end}"#), format!(r#"{{{end}"#)),
            (
                r#"{"input":"a \"b\" é","store":false,"stream":true,"instructions":"i"}"#.to_owned(),
                r#"{"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"a \"b\" é"}]}],"store":false,"stream":true,"instructions":"i"}"#.to_owned(),
            ),
            (
                r#"{"store":false,"stream":true,"input":[ {"role" : "system","content":"system"},{"role":"user","content":"x"}]}"#.to_owned(),
                r#"{"store":false,"stream":true,"input":[ {"role" : "developer","content":"system"},{"role":"user","content":"x"}]}"#.to_owned(),
            ),
            (r#"{"store":false,"stream":true,"input":[]}"#.to_owned(), format!(r#"{{"store":false,"stream":true,"input":[],{INSTRUCTIONS}}}"#)),
            (r#"{"store":false,"stream":true,"instructions":"i","input":[],"truncation":"auto"}"#.to_owned(), format!("{{{end}")),
            (r#"{"user":"u"}"#.to_owned(), format!(r#"{{"store":false,"stream":true,{INSTRUCTIONS}}}"#)),
            (r#"{ }"#.to_owned(), format!(r#"{{ "store":false,"stream":true,{INSTRUCTIONS}}}"#)),
        ] {
            assert_eq!(fitted(&body), expected, "{body}");
            serde_json::from_str::<serde_json::Value>(&expected).unwrap();
        }
    }

    #[test]
    fn on_a_websocket_a_request_goes_on_from_a_response() {
        let end = r#""store":false,"stream":true,"instructions":"i","input":[]}"#;
        let event = format!(
            r#"{{"type":"response.create","stream_id":"a","generate":false,"previous_response_id":"r",{end}"#
        );
        assert_eq!(fitted_as(&event, Form::Event, true), event);
        let body =
            format!(r#"{{"stream_id":"a","previous_response_id":"r","generate":false,"top_p":1,{end}"#);
        assert_eq!(
            fitted_as(&body, Form::EventOfBody, true),
            format!(
                r#"{{"previous_response_id":"r",{}"#,
                end.replace("[]}", r#"[],"type":"response.create"}"#)
            )
        );
        let bare = r#"{"type":"x","previous_response_id":"r"}"#;
        for (instructs, instructions) in [(true, format!(",{INSTRUCTIONS}")), (false, String::new())] {
            assert_eq!(
                fitted_as(bare, Form::EventOfBody, instructs),
                format!(
                    r#"{{"type":"response.create","previous_response_id":"r","store":false,"stream":true{instructions}}}"#
                )
            );
        }
    }

    #[test]
    fn the_state_of_a_turn_is_found_in_what_codex_tells_of_itself() {
        for (metadata, without) in [
            (r#"{"x-codex-turn-state":"s\n"}"#, "{}"),
            (r#"{"a":1,"x-codex-turn-state":"s\n","b":2}"#, r#"{"a":1,"b":2}"#),
            (r#"{ "x-codex-turn-state" : "s\n" , "b":2}"#, r#"{ "b":2}"#),
        ] {
            let event =
                |metadata: &str| format!(r#"{{"input":[{{"x":1}}],"client_metadata":{metadata},"z":0}}"#);
            let whole = event(metadata);
            let (state, splice) = turn_state(whole.as_bytes()).unwrap();
            assert_eq!(state, "s\n");
            let rest = spliced(&Bytes::from(whole), vec![splice]).concat();
            let rest: serde_json::Value = serde_json::from_slice(&rest).unwrap();
            let expected: serde_json::Value = serde_json::from_str(&event(without)).unwrap();
            assert_eq!(rest, expected);
        }
        assert!(turn_state(br#"{"input":"x-codex-turn-state"}"#).is_none());
        for (body, expected) in [
            ("{}", r#"{"client_metadata":{"x-codex-turn-state":"s"}}"#),
            (
                r#"{"a":1}"#,
                r#"{"client_metadata":{"x-codex-turn-state":"s"},"a":1}"#,
            ),
            (
                r#"{"client_metadata":{ }}"#,
                r#"{"client_metadata":{"x-codex-turn-state":"s" }}"#,
            ),
            (
                r#"{"client_metadata":{"b":2}}"#,
                r#"{"client_metadata":{"x-codex-turn-state":"s","b":2}}"#,
            ),
        ] {
            let splice = with_turn_state(body.as_bytes(), "s").unwrap();
            let whole = spliced(&Bytes::from(body), vec![splice]).concat();
            assert_eq!(String::from_utf8(whole).unwrap(), expected);
        }
    }

    #[test]
    fn what_the_backend_cannot_do_is_said() {
        let post = |path| Endpoint::of(&http::Method::POST, path).unwrap();
        let read = |body: &str| Envelope::read(body.as_bytes()).unwrap();
        for (path, body, expected) in [
            ("/responses", r#"{"input":"hi"}"#, Ok(())),
            ("/responses/compact", r#"{"input":[]}"#, Ok(())),
            (
                "/responses",
                r#"{"previous_response_id":"resp_1"}"#,
                Err(Unfit::Follows),
            ),
            (
                "/responses",
                r#"{"conversation":"conv_1"}"#,
                Err(Unfit::Conversation),
            ),
            ("/responses", r#"{"background":true}"#, Err(Unfit::Background)),
            ("/chat/completions", r#"{"messages":[]}"#, Err(Unfit::Endpoint)),
            ("/embeddings", r#"{"input":"hi"}"#, Err(Unfit::Endpoint)),
            ("/files", "{}", Err(Unfit::Endpoint)),
        ] {
            assert_eq!(check(&post(path), &read(body)), expected, "{path} {body}");
        }
    }
}
