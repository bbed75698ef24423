//! What is read from a request, by span: the document is never built, and never written again.
//!
//! One pass over the body finds the few fields that routing needs and where they stand. What
//! Moorage adds is spliced in between slices of the original bytes, so everything else arrives at
//! the upstream as the client wrote it: white space, order, escapes, numbers of any length.

pub mod codex;
pub mod endpoint;
pub mod event;
pub mod form;
mod ids;
mod input;
mod strip;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::affinity::ReferenceKind;
use crate::limits;

pub use ids::mentioned;
use input::{Input, InputSeed};
pub use input::{Sealed, SealedBy};
pub use strip::without_reasoning;

/// What routing knows of a request body.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Envelope {
    /// The model, if the body names one.
    pub model: Option<String>,
    /// Whether the answer is to be a stream. This alone decides: SDKs send `Accept:
    /// application/json` with streams, too.
    pub stream: bool,
    /// Whether the upstream is to keep the response, where the client says so. Else it does in the
    /// Responses API, and does not in a chat.
    pub store: Option<bool>,
    /// Whether the answer is made in the background, to be asked for later.
    pub background: bool,
    /// The response that this one follows.
    pub previous_response_id: Option<String>,
    /// The conversation that it belongs to.
    pub conversation: Option<String>,
    /// Ids in input and tools: item references, files, vector stores, containers, each once.
    pub ids: Vec<Named>,
    /// Reasoning and compaction that only its maker can read, oldest first: the newest of it.
    pub sealed: Vec<Sealed>,
    /// Ids of items that are sent whole, the newest of them, oldest first.
    pub item_ids: Vec<String>,
    /// The cache key that the client named.
    pub prompt_cache_key: Option<String>,
    /// The service tier that the client asked for.
    pub service_tier: Option<String>,
    /// Whether the client sent an `include` of its own.
    pub has_include: bool,
    /// Whether the client sent a `prompt_cache_key`, of whatever type.
    pub has_cache_key: bool,
    /// Whether the client set `reasoning`.
    pub has_reasoning: bool,
    /// Items in the input; a plain text counts as one.
    pub input_items: u64,
    /// Whether the input holds more than what people write: answers, calls, reasoning. It is then
    /// the continuation of a conversation by a client that sends all of it at each turn.
    pub has_history: bool,
    /// Digest of instructions and tools: what tells the agents apart that share a session. In a chat
    /// its system messages are the instructions.
    pub lane: [u8; 32],
    /// Digest of what stays the same at the head of a conversation: model, instructions, tools and
    /// the first user message. `None` without a user message.
    pub prefix: Option<[u8; 32]>,
    /// What a stream of a chat says of its figures.
    stream_options: StreamOptions,
    /// Where a member can be put in: the position of the closing brace.
    insert_at: usize,
    /// Whether the object has no members.
    is_empty: bool,
    /// Where `prompt_cache_key` and `include` stand as `null`.
    null_cache_key: Option<Range<usize>>,
    null_include: Option<Range<usize>>,
}

/// An id that a request points with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Named {
    /// How it points.
    pub kind: ReferenceKind,
    /// The id.
    pub id: String,
}

/// `stream_options` as they stand.
#[derive(Debug, Clone, Default, PartialEq)]
enum StreamOptions {
    #[default]
    Absent,
    /// Stands as `null`, or says no to figures there.
    Replace(Range<usize>, &'static str),
    /// An object without `include_usage`, whose first member would stand there.
    Insert(usize, &'static str),
    /// Asks for figures, or is something that the upstream must judge.
    AsItIs,
}

/// What is filled in where the client left it out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fill<'a> {
    /// `prompt_cache_key`.
    pub cache_key: Option<&'a str>,
    /// `include`, with reasoning in sealed form.
    pub sealed_reasoning: bool,
    /// `stream_options`, with figures at the end of a stream.
    pub usage: bool,
    /// Members that are missing, each with its name.
    pub members: &'a [&'static str],
    /// Whether other edits leave none of the members that are there.
    pub nothing_stays: bool,
}

/// Why a body was not read.
#[derive(Debug)]
pub enum Unreadable {
    /// The body is no JSON object.
    NotAnObject(NotAnObject),
    /// It is nested deeper, or points with more ids, than any real request.
    Extravagant(&'static str),
}

/// The body is no JSON object.
#[derive(Debug)]
pub struct NotAnObject {
    /// What the reader found.
    pub message: String,
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
}

impl Envelope {
    /// Reads a body in one pass. Fields of an unexpected type count as absent: to judge them is
    /// the upstream's part.
    ///
    /// # Errors
    /// Only if the body is not one JSON object, or beyond all measure.
    pub fn read(body: &[u8]) -> Result<Envelope, Unreadable> {
        // A lone surrogate where the input has no text is legal JSON that a reader of text refuses:
        // such a body passes, and only its input stays unread.
        let fields = Fields::read(body, true).or_else(|_| Fields::read(body, false));
        let fields = fields.map_err(|error| {
            Unreadable::NotAnObject(NotAnObject {
                message: without_position(&error),
                line: error.line(),
                column: error.column(),
            })
        })?;
        let mut envelope = fields.envelope(body);
        ids::read_into(body, &mut envelope.ids)?;
        // Reasoning that is sent by its id alone points with it, too.
        match envelope.sealed.len() > limits::REFERENCES_PER_REQUEST_MAX {
            true => Err(Unreadable::Extravagant("points with more ids")),
            false => Ok(envelope),
        }
    }

    /// Whether a stream tells its figures only because Moorage asks for them.
    pub fn lacks_usage(&self) -> bool {
        self.stream && self.stream_options != StreamOptions::AsItIs
    }

    /// The edits that fill in what the client left out. A member that is there as `null` is replaced
    /// where it stands.
    pub fn fill_in(&self, with: Fill<'_>) -> Vec<Splice> {
        let mut splices = Vec::new();
        let is_first = self.is_empty || with.nothing_stays;
        let mut members = String::new();
        let mut fill = |null: &Option<Range<usize>>, name: &str, value: String| match null {
            Some(range) => splices.push(Splice {
                range: range.clone(),
                with: value.into(),
            }),
            None => {
                if !(is_first && members.is_empty()) {
                    members.push(',');
                }
                members.push_str(&format!("\"{name}\":{value}"));
            }
        };
        if let (Some(key), false) = (with.cache_key, self.has_cache_key) {
            let value = serde_json::Value::from(key).to_string();
            fill(&self.null_cache_key, "prompt_cache_key", value);
        }
        if with.sealed_reasoning && self.has_reasoning && !self.has_include {
            let value = r#"["reasoning.encrypted_content"]"#.to_owned();
            fill(&self.null_include, "include", value);
        }
        if with.usage && self.stream && self.stream_options == StreamOptions::Absent {
            fill(&None, "stream_options", r#"{"include_usage":true}"#.to_owned());
        }
        for member in with.members {
            if !(is_first && members.is_empty()) {
                members.push(',');
            }
            members.push_str(member);
        }
        if !members.is_empty() {
            splices.push(Splice {
                range: self.insert_at..self.insert_at,
                with: members.into(),
            });
        }
        match &self.stream_options {
            StreamOptions::Replace(range, value) if with.usage && self.stream => splices.push(Splice {
                range: range.clone(),
                with: Bytes::from_static(value.as_bytes()),
            }),
            StreamOptions::Insert(at, member) if with.usage && self.stream => splices.push(Splice {
                range: *at..*at,
                with: Bytes::from_static(member.as_bytes()),
            }),
            _ => {}
        }
        splices.sort_by_key(|splice| splice.range.start);
        splices
    }
}

/// serde_json's message without its own "at line … column …", which is told apart.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// One edit of a body: the bytes of a range are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splice {
    /// What is replaced; empty where something is put in between.
    pub range: Range<usize>,
    /// What stands there instead.
    pub with: Bytes,
}

/// The pieces of a body with its edits: slices of the original, not copies. The edits must be in
/// order and must not overlap.
pub fn spliced(body: &Bytes, splices: Vec<Splice>) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(2 * splices.len() + 1);
    let mut position = 0;
    for splice in splices {
        pieces.push(body.slice(position..splice.range.start));
        pieces.push(splice.with);
        position = splice.range.end;
    }
    pieces.push(body.slice(position..));
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// The members of the object, as they stand. Of members that are there twice the last one counts,
/// as with most readers.
#[derive(Default)]
struct Fields<'a> {
    model: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    store: Option<&'a RawValue>,
    background: Option<&'a RawValue>,
    previous_response_id: Option<&'a RawValue>,
    conversation: Option<&'a RawValue>,
    prompt_cache_key: Option<&'a RawValue>,
    service_tier: Option<&'a RawValue>,
    stream_options: Option<&'a RawValue>,
    include: Option<&'a RawValue>,
    reasoning: Option<&'a RawValue>,
    instructions: Option<&'a RawValue>,
    tools: Option<&'a RawValue>,
    input: Input<'a>,
    /// Whether `input` is there: `messages` beside it do not hide what it points with.
    has_input: bool,
    is_empty: bool,
}

impl<'a> Fields<'a> {
    fn read(body: &'a [u8], with_input: bool) -> serde_json::Result<Fields<'a>> {
        let mut reader = serde_json::Deserializer::from_slice(body);
        let fields = (&mut reader).deserialize_map(ObjectVisitor { with_input })?;
        reader.end()?;
        Ok(fields)
    }

    fn envelope(self, body: &[u8]) -> Envelope {
        let mut head = Sha256::new();
        for part in [self.instructions, self.tools] {
            let text = part.map_or("", RawValue::get);
            head.update((text.len() as u64).to_le_bytes());
            head.update(text);
        }
        head.update(self.input.instructions.unwrap_or_default());
        let lane: [u8; 32] = head.finalize().into();
        let prefix = self.input.first_user_message.map(|message| {
            let model = self.model.map_or("", RawValue::get);
            let digest = Sha256::new().chain_update(lane).chain_update(message);
            digest.chain_update(model).finalize().into()
        });
        Envelope {
            model: name(self.model),
            stream: truth(self.stream).unwrap_or(false),
            store: truth(self.store),
            background: truth(self.background).unwrap_or(false),
            previous_response_id: pointer(self.previous_response_id),
            conversation: conversation(self.conversation),
            prompt_cache_key: pointer(self.prompt_cache_key),
            service_tier: name(self.service_tier),
            stream_options: stream_options(self.stream_options, body),
            has_include: present(self.include),
            has_cache_key: present(self.prompt_cache_key),
            has_reasoning: sets_something(self.reasoning),
            input_items: self.input.items,
            has_history: self.input.has_history,
            sealed: self.input.sealed(),
            item_ids: self.input.newest_item_ids(),
            ids: self.input.references,
            lane,
            prefix,
            insert_at: body.iter().rposition(|byte| *byte == b'}').unwrap_or(0),
            is_empty: self.is_empty,
            null_cache_key: null_span(self.prompt_cache_key, body),
            null_include: null_span(self.include, body),
        }
    }
}

fn text(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(value?.get()).ok()
}

/// A text that points at something. A blank one points at nothing, and counts as absent.
fn pointer(value: Option<&RawValue>) -> Option<String> {
    text(value).filter(|text| !text.trim().is_empty())
}

fn name(value: Option<&RawValue>) -> Option<String> {
    text(value).filter(|name| name.len() <= limits::NAME_BYTES_MAX)
}

fn truth(value: Option<&RawValue>) -> Option<bool> {
    serde_json::from_str(value?.get()).ok()
}

fn present(value: Option<&RawValue>) -> bool {
    value.is_some_and(|value| value.get() != "null")
}

/// Whether an object has a member that is set. A model without reasoning refuses what is filled in for
/// an empty one.
fn sets_something(value: Option<&RawValue>) -> bool {
    let members = value.map(|value| serde_json::from_str::<HashMap<Cow<'_, str>, &RawValue>>(value.get()));
    match members {
        Some(Ok(members)) => members.values().any(|member| member.get() != "null"),
        // What is no object is for the upstream to judge.
        Some(Err(_)) => present(value),
        None => false,
    }
}

fn null_span(value: Option<&RawValue>, body: &[u8]) -> Option<Range<usize>> {
    let value = value.filter(|value| value.get() == "null")?;
    Some(span(value, body))
}

/// Where a value stands in the body that it was read from.
fn span(value: &RawValue, body: &[u8]) -> Range<usize> {
    let text = value.get();
    let start = text.as_ptr() as usize - body.as_ptr() as usize;
    start..start + text.len()
}

/// The id of a conversation, which may stand in an object.
fn conversation(value: Option<&RawValue>) -> Option<String> {
    #[derive(Deserialize)]
    struct Object {
        id: String,
    }
    let text = value?.get();
    let object = || serde_json::from_str::<Object>(text).ok().map(|object| object.id);
    let id: Option<String> = serde_json::from_str(text).ok().or_else(object);
    id.filter(|id| !id.trim().is_empty())
}

fn stream_options(value: Option<&RawValue>, body: &[u8]) -> StreamOptions {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(default, borrow)]
        include_usage: Option<&'a RawValue>,
    }
    const ASKED: &str = r#"{"include_usage":true}"#;
    let Some(value) = value else {
        return StreamOptions::Absent;
    };
    if value.get() == "null" {
        return StreamOptions::Replace(span(value, body), ASKED);
    }
    match serde_json::from_str::<Object<'_>>(value.get()) {
        Ok(Object { include_usage: None }) => {
            let start = span(value, body).start + 1;
            let is_empty = value.get()[1..].trim_start().starts_with('}');
            let member = if is_empty {
                "\"include_usage\":true"
            } else {
                "\"include_usage\":true,"
            };
            StreamOptions::Insert(start, member)
        }
        Ok(Object {
            include_usage: Some(asked),
        }) if matches!(asked.get(), "false" | "null") => StreamOptions::Replace(span(asked, body), "true"),
        _ => StreamOptions::AsItIs,
    }
}

struct ObjectVisitor {
    with_input: bool,
}

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields {
            is_empty: true,
            ..Fields::default()
        };
        while let Some(name) = map.next_key_seed(Name)? {
            fields.is_empty = false;
            let field = match name.as_ref() {
                b"model" => &mut fields.model,
                b"stream" => &mut fields.stream,
                b"store" => &mut fields.store,
                b"background" => &mut fields.background,
                b"previous_response_id" => &mut fields.previous_response_id,
                b"conversation" => &mut fields.conversation,
                b"stream_options" => &mut fields.stream_options,
                b"prompt_cache_key" => &mut fields.prompt_cache_key,
                b"service_tier" => &mut fields.service_tier,
                b"include" => &mut fields.include,
                b"reasoning" => &mut fields.reasoning,
                b"instructions" => &mut fields.instructions,
                b"tools" => &mut fields.tools,
                b"input" if self.with_input => {
                    fields.has_input = true;
                    fields.input = map.next_value_seed(InputSeed { is_chat: false })?;
                    continue;
                }
                b"messages" if self.with_input && !fields.has_input => {
                    fields.input = map.next_value_seed(InputSeed { is_chat: true })?;
                    continue;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *field = Some(map.next_value()?);
        }
        Ok(fields)
    }
}

/// The name of a member, as bytes: a name with a lone surrogate is no text, and yet legal JSON.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, [u8]>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, [u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(bytes))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Cow::Owned(bytes.to_vec()))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text.as_bytes()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.as_bytes().to_vec()))
    }
}

#[cfg(test)]
mod tests;
