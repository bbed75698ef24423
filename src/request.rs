//! What is read from a request, by span: the document is never built, and never written again.
//!
//! One pass over the body finds the few fields that routing needs and where they stand. What
//! Moorage adds is spliced in between slices of the original bytes, so everything else arrives at
//! the upstream as the client wrote it: white space, order, escapes, numbers of any length.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::limits;

/// What routing knows of a request body.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Envelope {
    /// The model, if the body names one.
    pub model: Option<String>,
    /// Whether the answer is to be a stream. This alone decides: SDKs send `Accept:
    /// application/json` with streams, too.
    pub stream: bool,
    /// Whether the upstream keeps the response; the Responses API's default is `true`.
    pub store: bool,
    /// The response that this one follows.
    pub previous_response_id: Option<String>,
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
    /// Digest of what stays the same at the head of a conversation: model, instructions, tools and
    /// the first user message. `None` without a user message.
    pub prefix: Option<[u8; 32]>,
    /// Where a member can be put in: the position of the closing brace.
    insert_at: usize,
    /// Whether the object has no members.
    is_empty: bool,
    /// Where `prompt_cache_key` and `include` stand as `null`.
    null_cache_key: Option<Range<usize>>,
    null_include: Option<Range<usize>>,
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
    /// Only if the body is not one JSON object.
    pub fn read(body: &[u8]) -> Result<Envelope, NotAnObject> {
        // A lone surrogate where the input has no text is legal JSON that a reader of text refuses:
        // such a body passes, and only its input stays unread.
        let fields = Fields::read(body, true).or_else(|_| Fields::read(body, false));
        let fields = fields.map_err(|error| NotAnObject {
            message: without_position(&error),
            line: error.line(),
            column: error.column(),
        })?;
        Ok(fields.envelope(body))
    }

    /// The edits that fill in what the client left out: at most a cache key and an `include`. A
    /// member that is there as `null` is replaced where it stands.
    pub fn fill_in(&self, cache_key: Option<&str>, sealed_reasoning: bool) -> Vec<Splice> {
        let mut splices = Vec::new();
        let mut members = String::new();
        let mut fill = |null: &Option<Range<usize>>, name: &str, value: String| match null {
            Some(range) => splices.push(Splice {
                range: range.clone(),
                with: value.into(),
            }),
            None => {
                if !(self.is_empty && members.is_empty()) {
                    members.push(',');
                }
                members.push_str(&format!("\"{name}\":{value}"));
            }
        };
        if let (Some(key), false) = (cache_key, self.has_cache_key) {
            let value = serde_json::Value::from(key).to_string();
            fill(&self.null_cache_key, "prompt_cache_key", value);
        }
        if sealed_reasoning && self.has_reasoning && !self.has_include {
            let value = r#"["reasoning.encrypted_content"]"#.to_owned();
            fill(&self.null_include, "include", value);
        }
        if !members.is_empty() {
            splices.push(Splice {
                range: self.insert_at..self.insert_at,
                with: members.into(),
            });
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
    previous_response_id: Option<&'a RawValue>,
    prompt_cache_key: Option<&'a RawValue>,
    service_tier: Option<&'a RawValue>,
    include: Option<&'a RawValue>,
    reasoning: Option<&'a RawValue>,
    instructions: Option<&'a RawValue>,
    tools: Option<&'a RawValue>,
    input: Input,
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
        let prefix = self.input.first_user_message.map(|message| {
            let mut digest = Sha256::new();
            for part in [self.model, self.instructions, self.tools] {
                let text = part.map_or("", RawValue::get);
                digest.update((text.len() as u64).to_le_bytes());
                digest.update(text);
            }
            digest.update(message);
            digest.finalize().into()
        });
        Envelope {
            model: name(self.model),
            stream: truth(self.stream).unwrap_or(false),
            store: truth(self.store).unwrap_or(true),
            previous_response_id: text(self.previous_response_id),
            prompt_cache_key: text(self.prompt_cache_key),
            service_tier: name(self.service_tier),
            has_include: present(self.include),
            has_cache_key: present(self.prompt_cache_key),
            has_reasoning: present(self.reasoning),
            input_items: self.input.items,
            has_history: self.input.has_history,
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

fn name(value: Option<&RawValue>) -> Option<String> {
    text(value).filter(|name| name.len() <= limits::NAME_BYTES_MAX)
}

fn truth(value: Option<&RawValue>) -> Option<bool> {
    serde_json::from_str(value?.get()).ok()
}

fn present(value: Option<&RawValue>) -> bool {
    value.is_some_and(|value| value.get() != "null")
}

fn null_span(value: Option<&RawValue>, body: &[u8]) -> Option<Range<usize>> {
    let text = value?.get();
    let start = text.as_ptr() as usize - body.as_ptr() as usize;
    (text == "null").then(|| start..start + text.len())
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
                b"previous_response_id" => &mut fields.previous_response_id,
                b"prompt_cache_key" => &mut fields.prompt_cache_key,
                b"service_tier" => &mut fields.service_tier,
                b"include" => &mut fields.include,
                b"reasoning" => &mut fields.reasoning,
                b"instructions" => &mut fields.instructions,
                b"tools" => &mut fields.tools,
                b"input" if self.with_input => {
                    fields.input = map.next_value_seed(InputSeed)?;
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

/// What is known of `input` after one pass.
#[derive(Default)]
struct Input {
    items: u64,
    has_history: bool,
    first_user_message: Option<[u8; 32]>,
}

impl Input {
    fn add(&mut self, item: Item<'_>) {
        self.items += 1;
        // An item with a role is a message; messages may leave their type out.
        match (item.kind.as_deref(), item.role.as_deref()) {
            (None | Some("message"), Some("user")) => {
                if let (None, Some(content)) = (self.first_user_message, item.content) {
                    self.first_user_message = Some(Sha256::digest(content.get()).into());
                }
            }
            (None | Some("message"), Some("system" | "developer")) => {}
            (Some("additional_tools" | "configuration_update" | "compaction_trigger"), _) => {}
            _ => self.has_history = true,
        }
    }
}

struct InputSeed;

impl<'de> DeserializeSeed<'de> for InputSeed {
    type Value = Input;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Input of a type that the API does not know is the upstream's to refuse: it counts as empty.
macro_rules! visit_scalars_as {
    ($value:expr) => {
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($value)
        }
    };
}

impl<'de> Visitor<'de> for InputSeed {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the input")
    }

    fn visit_str<E>(self, text: &str) -> Result<Input, E> {
        Ok(Input {
            items: 1,
            has_history: false,
            first_user_message: Some(Sha256::digest(text).into()),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Input, A::Error> {
        let mut input = Input::default();
        while let Some(item) = items.next_element_seed(ItemSeed {
            with_content: input.first_user_message.is_none(),
        })? {
            input.add(item);
        }
        Ok(input)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Input, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Input::default())
    }

    visit_scalars_as!(Input::default());
}

/// What is read of one input item.
#[derive(Default)]
struct Item<'a> {
    kind: Option<Cow<'a, str>>,
    role: Option<Cow<'a, str>>,
    content: Option<&'a RawValue>,
}

struct ItemSeed {
    /// Whether the content is still looked for: only the first user message's is.
    with_content: bool,
}

impl<'de> DeserializeSeed<'de> for ItemSeed {
    type Value = Item<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Item<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemSeed {
    type Value = Item<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an input item")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item<'de>, A::Error> {
        let mut item = Item::default();
        while let Some(name) = map.next_key_seed(Name)? {
            match name.as_ref() {
                b"type" => item.kind = word(map.next_value()?),
                b"role" => item.role = word(map.next_value()?),
                b"content" if self.with_content => item.content = Some(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(item)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item<'de>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Item::default())
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Item<'de>, E> {
        Ok(Item::default())
    }

    visit_scalars_as!(Item::default());
}

/// A short word, without a copy where it has no escapes.
fn word(value: &RawValue) -> Option<Cow<'_, str>> {
    let inner = value.get().strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str(value.get()).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Envelope {
        Envelope::read(body.as_bytes()).unwrap()
    }

    fn filled(body: &str, key: Option<&str>, sealed: bool) -> String {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let splices = read(body).fill_in(key, sealed);
        let pieces = spliced(&bytes, splices);
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn the_fields_that_route_are_found_wherever_they_stand() {
        let envelope = read(
            r#" { "input":"hi", "mod\u0065l" : "gpt-5.6","stream":true, "store":false,
                 "previous_response_id":"resp_1","service_tier":"flex" } "#,
        );
        assert_eq!(envelope.model.as_deref(), Some("gpt-5.6"));
        assert!(envelope.stream && !envelope.store);
        assert_eq!(envelope.previous_response_id.as_deref(), Some("resp_1"));
        assert_eq!(envelope.service_tier.as_deref(), Some("flex"));
        assert_eq!(envelope.input_items, 1);
    }

    #[test]
    fn a_missing_cache_key_is_put_in_and_nothing_else_changes() {
        assert_eq!(
            filled("{\"a\" : 1.0e2 }\n", Some("k"), false),
            "{\"a\" : 1.0e2 ,\"prompt_cache_key\":\"k\"}\n"
        );
        assert_eq!(filled("{}", Some("k"), false), r#"{"prompt_cache_key":"k"}"#);
        assert_eq!(
            filled(r#"{"prompt_cache_key":"mine"}"#, Some("k"), false),
            r#"{"prompt_cache_key":"mine"}"#
        );
    }

    #[test]
    fn a_null_is_replaced_where_it_stands() {
        assert_eq!(
            filled(r#"{"prompt_cache_key": null ,"x":1}"#, Some("k"), false),
            r#"{"prompt_cache_key": "k" ,"x":1}"#
        );
    }

    #[test]
    fn sealed_reasoning_is_asked_for_only_where_reasoning_is_set_and_include_is_not() {
        let asked = r#"["reasoning.encrypted_content"]"#;
        assert_eq!(
            filled(r#"{"reasoning":{}}"#, None, true),
            format!(r#"{{"reasoning":{{}},"include":{asked}}}"#)
        );
        for body in [r#"{"reasoning":null}"#, r#"{"reasoning":{},"include":[]}"#] {
            assert_eq!(filled(body, None, true), body);
        }
        assert_eq!(
            filled(r#"{"include":null,"reasoning":{}}"#, Some("k"), true),
            format!(r#"{{"include":{asked},"reasoning":{{}},"prompt_cache_key":"k"}}"#)
        );
    }

    #[test]
    fn legal_json_of_every_kind_is_accepted() {
        for body in [
            r#"{"n":12345678901234567890123,"e":1e999,"\ud800":"\ud800"}"#,
            r#"{"model":7,"stream":"yes","input":{"a":[1]},"tools":null}"#,
            r#"{"input":[1,"x",null,[2],{"role":5},{"content":"a","role":"user"}]}"#,
            r#"{"model":"a","model":"b"}"#,
        ] {
            read(body);
        }
        assert_eq!(read(r#"{"model":"a","model":"b"}"#).model.as_deref(), Some("b"));
    }

    #[test]
    fn what_is_no_object_is_refused_with_its_position() {
        let error = Envelope::read(b"{\"a\":1,\n oops}").unwrap_err();
        assert_eq!((error.line, error.column), (2, 2));
        assert!(!error.message.contains("line"));
        for body in ["", "[]", "{} {}", "nul", "{\"a\":}", "\"x\""] {
            assert!(Envelope::read(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn the_prefix_stays_while_a_conversation_grows() {
        let head = r#""model":"m","instructions":"be brief","tools":[{"type":"function"}]"#;
        let first = read(&format!(
            r#"{{{head},"input":[{{"role":"user","content":"hello"}}]}}"#
        ));
        let grown = read(&format!(
            r#"{{{head},"input":[{{"role":"user","content":"hello"}},
               {{"role":"assistant","content":"hi"}},{{"role":"user","content":"more"}}]}}"#
        ));
        let other = read(&format!(
            r#"{{{head},"input":[{{"role":"user","content":"goodbye"}}]}}"#
        ));
        assert_eq!(first.prefix, grown.prefix);
        assert_ne!(first.prefix, other.prefix);
        assert!(!first.has_history && grown.has_history);
        assert_eq!(grown.input_items, 3);
    }

    #[test]
    fn parts_of_the_prefix_do_not_run_into_each_other() {
        let one = read(r#"{"model":"ab","instructions":"c","input":"x"}"#);
        let two = read(r#"{"model":"a","instructions":"bc","input":"x"}"#);
        assert_ne!(one.prefix, two.prefix);
    }
}
