//! What is read of an event that a client sends over a WebSocket, and how the same request is
//! written for an upstream that speaks HTTP only.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use memchr::memchr;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Name, NotAnObject, Splice, Unreadable, pointer, span, text, truth, without_position};

/// What stands for a response that is held here.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The response of the upstream's that it goes on from; `None` where it is whole.
    pub root: Option<String>,
    /// The items since, as they stand between the brackets of a list.
    pub items: Vec<Bytes>,
}

/// What a client wants with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// `response.create`.
    Create,
    /// `response.steer`: something is said to a response that runs.
    Steer,
    /// Something that this version does not know.
    Unknown,
}

/// An event of a client. It knows where its members stand, and copies none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientEvent {
    /// By its `type`.
    pub intent: Intent,
    /// The lane that it names.
    pub lane: Lane,
    /// Whether an answer is to be made; a warm-up only has its input read.
    pub generates: bool,
    /// The response that it follows, or speaks to.
    pub previous_response_id: Option<String>,
    members: Vec<Member>,
    input: Input,
}

/// The lane of an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lane {
    /// None is named.
    Default,
    /// This one.
    Named(String),
    /// A name that is none: too long, or of other characters than the API takes.
    Invalid,
}

/// The longest name of a lane, as the API has it.
const LANE_NAME_MAX: usize = 256;

impl Lane {
    fn of(value: Option<&RawValue>) -> Lane {
        let Some(value) = value.filter(|value| value.get() != "null") else {
            return Lane::Default;
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        match text(Some(value)) {
            Some(name) if (1..=LANE_NAME_MAX).contains(&name.len()) && name.bytes().all(plain) => {
                Lane::Named(name)
            }
            _ => Lane::Invalid,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    kind: MemberKind,
    /// From the quote of its name to the end of its value.
    range: Range<usize>,
}

/// Members that an upstream over HTTP must get otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemberKind {
    Type,
    Stream,
    StreamId,
    Generate,
    PreviousResponseId,
    Other,
}

impl MemberKind {
    fn of(name: &[u8]) -> MemberKind {
        match name {
            b"type" => MemberKind::Type,
            b"stream" => MemberKind::Stream,
            b"stream_id" => MemberKind::StreamId,
            b"generate" => MemberKind::Generate,
            b"previous_response_id" => MemberKind::PreviousResponseId,
            _ => MemberKind::Other,
        }
    }
}

/// Where the input stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Input {
    #[default]
    Absent,
    /// `null`, which is as much.
    Null(Range<usize>),
    /// A list: what stands between its brackets.
    Items(Range<usize>),
    /// A text, with its quotes.
    Text(Range<usize>),
    /// Something else, which the upstream must judge.
    Other,
}

impl Input {
    fn of(value: &RawValue, body: &[u8]) -> Input {
        let range = span(value, body);
        match value.get().as_bytes().first() {
            Some(b'[') => Input::Items(range.start + 1..range.end - 1),
            Some(b'"') => Input::Text(range),
            Some(b'n') => Input::Null(range),
            _ => Input::Other,
        }
    }
}

impl ClientEvent {
    /// Reads an event in one pass.
    ///
    /// # Errors
    /// If it is not one JSON object.
    pub fn read(body: &[u8]) -> Result<ClientEvent, Unreadable> {
        let mut reader = serde_json::Deserializer::from_slice(body);
        let event = (&mut reader).deserialize_map(EventVisitor { body });
        let event = event.and_then(|event| reader.end().map(|()| event));
        event.map_err(|error| {
            Unreadable::NotAnObject(NotAnObject {
                message: without_position(&error),
                line: error.line(),
                column: error.column(),
            })
        })
    }

    /// The items of the input, between its brackets; a text as the message that it stands for.
    pub fn items(&self, body: &Bytes) -> Bytes {
        match &self.input {
            Input::Items(range) => trimmed(body, range.clone()),
            Input::Text(range) => as_message(&body[range.clone()]),
            Input::Absent | Input::Null(_) | Input::Other => Bytes::new(),
        }
    }

    /// The edits that make a body for HTTP of this event. `history`: what stands for the response
    /// that it follows, where only this gateway holds that.
    pub fn for_http(&self, body: &Bytes, history: Option<&History>) -> Vec<Splice> {
        let mut splices = self.without_socket_members(history);
        let history = history.map_or(&[][..], |history| &history.items);
        let joined = || history.iter().filter(|piece| !piece.is_empty());
        // An input that is only the history, of a request that brings nothing of its own.
        let alone = || {
            let pieces: Vec<&[u8]> = joined().map(|piece| &piece[..]).collect();
            [b"[", &pieces.join(&b',')[..], b"]"].concat()
        };
        if let (Input::Absent, false) = (&self.input, history.is_empty())
            && let Some(asks) = splices.iter_mut().find(|splice| splice.with == ASKS_FOR_STREAM)
        {
            asks.with = [ASKS_FOR_STREAM, b",\"input\":", &alone()].concat().into();
        }
        let mut put = |range: Range<usize>, with: Bytes| splices.push(Splice { range, with });
        match &self.input {
            _ if history.is_empty() => {}
            Input::Items(range) => {
                let is_empty = trimmed(body, range.clone()).is_empty();
                for (index, piece) in joined().enumerate() {
                    if index > 0 {
                        put(range.start..range.start, Bytes::from_static(b","));
                    }
                    put(range.start..range.start, piece.clone());
                }
                if !is_empty && joined().next().is_some() {
                    put(range.start..range.start, Bytes::from_static(b","));
                }
            }
            Input::Text(range) => {
                put(range.start..range.start, Bytes::from_static(b"["));
                for piece in joined() {
                    put(range.start..range.start, piece.clone());
                    put(range.start..range.start, Bytes::from_static(b","));
                }
                let message = as_message(&body[range.clone()]);
                put(range.clone(), [&message[..], b"]"].concat().into());
            }
            Input::Null(range) => put(range.clone(), alone().into()),
            Input::Absent | Input::Other => {}
        }
        splices
    }

    /// Leaves out what exists on a WebSocket only, and asks for a stream in the place of the `type`,
    /// which is always there: so the object never becomes empty.
    fn without_socket_members(&self, history: Option<&History>) -> Vec<Splice> {
        let root = history.and_then(|history| history.root.as_deref());
        let goes = |member: &Member| match member.kind {
            MemberKind::Stream | MemberKind::StreamId | MemberKind::Generate => true,
            MemberKind::PreviousResponseId => history.is_some() && root.is_none(),
            MemberKind::Type | MemberKind::Other => false,
        };
        let members = &self.members;
        let mut splices = Vec::new();
        let mut index = 0;
        let mut asks = false;
        while index < members.len() {
            let first = index;
            while members.get(index).is_some_and(goes) {
                index += 1;
            }
            if index > first {
                // Together with the comma that would be left over.
                let range = match (first.checked_sub(1), members.get(index)) {
                    (_, Some(after)) => members[first].range.start..after.range.start,
                    (Some(before), None) => members[before].range.end..members[index - 1].range.end,
                    (None, None) => members[first].range.start..members[index - 1].range.end,
                };
                splices.push(Splice {
                    range,
                    with: Bytes::new(),
                });
                continue;
            }
            if let (MemberKind::PreviousResponseId, Some(root)) = (members[index].kind, root) {
                let root = serde_json::Value::from(root);
                splices.push(Splice {
                    range: members[index].range.clone(),
                    with: format!("\"previous_response_id\":{root}").into(),
                });
            }
            // Of a member that is there twice, the second would stand beside the first.
            if members[index].kind == MemberKind::Type && !asks {
                asks = true;
                splices.push(Splice {
                    range: members[index].range.clone(),
                    with: Bytes::from_static(ASKS_FOR_STREAM),
                });
            }
            index += 1;
        }
        splices
    }
}

/// What stands in the place of the `type`.
const ASKS_FOR_STREAM: &[u8] = b"\"stream\":true";

/// Without the white space around it.
fn trimmed(body: &Bytes, range: Range<usize>) -> Bytes {
    let inner = body[range.clone()].trim_ascii();
    match inner.is_empty() {
        true => Bytes::new(),
        false => body.slice_ref(inner),
    }
}

/// A text as the message of a user, as the API reads it.
fn as_message(quoted: &[u8]) -> Bytes {
    [b"{\"role\":\"user\",\"content\":", quoted, b"}"].concat().into()
}

struct EventVisitor<'a> {
    body: &'a [u8],
}

impl<'de> Visitor<'de> for EventVisitor<'de> {
    type Value = ClientEvent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ClientEvent, A::Error> {
        let mut event = ClientEvent {
            intent: Intent::Unknown,
            lane: Lane::Default,
            generates: true,
            previous_response_id: None,
            members: Vec::new(),
            input: Input::Absent,
        };
        let mut end = 0;
        while let Some(name) = map.next_key_seed(Name)? {
            let value: &'de RawValue = map.next_value()?;
            let kind = MemberKind::of(&name);
            // What stands between two members is white space, a comma, or the opening brace.
            let start = end + memchr(b'"', &self.body[end..]).unwrap_or(0);
            end = span(value, self.body).end;
            event.members.push(Member {
                kind,
                range: start..end,
            });
            match kind {
                MemberKind::Type => {
                    event.intent = match text(Some(value)).as_deref() {
                        Some("response.create") => Intent::Create,
                        Some("response.steer") => Intent::Steer,
                        _ => Intent::Unknown,
                    }
                }
                MemberKind::StreamId => event.lane = Lane::of(Some(value)),
                MemberKind::Generate => event.generates = truth(Some(value)) != Some(false),
                MemberKind::PreviousResponseId => event.previous_response_id = pointer(Some(value)),
                MemberKind::Other if name.as_ref() == b"input" => {
                    event.input = Input::of(value, self.body);
                }
                MemberKind::Stream | MemberKind::Other => {}
            }
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::spliced;

    fn http(event: &str, history: Option<&[&'static str]>) -> String {
        let of = |root: Option<&str>| {
            let pieces =
                history.map(|pieces| pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())));
            pieces.map(|pieces| History {
                root: root.map(str::to_owned),
                items: pieces.collect(),
            })
        };
        http_of(event, of(None))
    }

    fn http_of(event: &str, history: Option<History>) -> String {
        let body = Bytes::copy_from_slice(event.as_bytes());
        let read = ClientEvent::read(&body).unwrap();
        let mut splices = read.for_http(&body, history.as_ref());
        splices.sort_by_key(|splice| splice.range.start);
        let whole = spliced(&body, splices).concat();
        let text = String::from_utf8(whole).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        text
    }

    #[test]
    fn an_event_becomes_a_body_by_few_edits() {
        for (event, body) in [
            (
                r#"{"type":"response.create","model":"m","n":12345678901234567890123}"#,
                r#"{"stream":true,"model":"m","n":12345678901234567890123}"#,
            ),
            (
                r#"{ "stream" : false , "model":"m", "stream_id":"a", "generate":true, "type" : "response.create" }"#,
                r#"{ "model":"m", "stream":true }"#,
            ),
            (
                r#"{"type":"response.create","stream":true,"generate":false}"#,
                r#"{"stream":true}"#,
            ),
            (
                r#"{"type":"response.create","previous_response_id":"r","input":"x"}"#,
                r#"{"stream":true,"previous_response_id":"r","input":"x"}"#,
            ),
        ] {
            assert_eq!(http(event, None), body);
        }
    }

    #[test]
    fn what_only_the_gateway_holds_is_written_out() {
        let event =
            r#"{"type":"response.create","previous_response_id":"r","input":[ {"a":1} ],"store":false}"#;
        assert_eq!(
            http(event, Some(&[r#"{"b":1},{"c":1}"#, "", r#"{"d":1}"#])),
            r#"{"stream":true,"input":[{"b":1},{"c":1},{"d":1}, {"a":1} ],"store":false}"#
        );
        let event = r#"{"type":"response.create","input":"say \"x\"","previous_response_id":"r"}"#;
        assert_eq!(
            http(event, Some(&[r#"{"b":1}"#])),
            r#"{"stream":true,"input":[{"b":1},{"role":"user","content":"say \"x\""}]}"#
        );
        let event = r#"{"type":"response.create","input":[],"previous_response_id":"r"}"#;
        assert_eq!(
            http(event, Some(&[r#"{"b":1}"#])),
            r#"{"stream":true,"input":[{"b":1}]}"#
        );
        let rooted = History {
            root: Some("resp_0".into()),
            items: vec![Bytes::from_static(br#"{"b":1}"#)],
        };
        assert_eq!(
            http_of(event, Some(rooted)),
            r#"{"stream":true,"input":[{"b":1}],"previous_response_id":"resp_0"}"#
        );
    }

    #[test]
    fn lanes_have_plain_names() {
        let lane = |value: &str| {
            let event = format!(r#"{{"type":"response.create","stream_id":{value}}}"#);
            ClientEvent::read(event.as_bytes()).unwrap().lane
        };
        assert_eq!(lane("null"), Lane::Default);
        assert_eq!(lane(r#""a.B-1_""#), Lane::Named("a.B-1_".into()));
        for invalid in [r#""""#, r#""a b""#, "7", r#""é""#] {
            assert_eq!(lane(invalid), Lane::Invalid, "{invalid}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "{", r#"{"a":1}x"#, "7"] {
            assert!(ClientEvent::read(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(ClientEvent::read(b"{}").unwrap().intent, Intent::Unknown);
    }
}
