//! An upstream's stream of events: where one ends, and what it says.
//!
//! The bytes go on as they came. Only whole events are let through, because a client can do
//! nothing with half of one, and because what an event says must be known before it leaves.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2, memrchr2};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::{ErrorSaid, Facts, ItemObject, Outcome, ResponseObject, error_forms, lenient};
use crate::limits;
use crate::request::event::Lane;

/// An event is larger than the limit.
#[derive(Debug, PartialEq, Eq)]
pub struct EventTooLarge;

/// Cuts a stream of bytes behind the last event that is there whole.
#[derive(Debug, Default)]
pub struct Splitter {
    /// The beginning of an event whose end has not come.
    partial: BytesMut,
}

impl Splitter {
    /// Takes the next bytes and gives all events that are whole now; empty if none is. Where the
    /// bytes end with an event, as they mostly do, nothing is copied.
    ///
    /// # Errors
    /// If an unfinished event has grown over the limit.
    pub fn push(&mut self, chunk: Bytes) -> Result<Bytes, EventTooLarge> {
        if self.partial.is_empty() {
            let end = last_end(&chunk, 0);
            self.partial.extend_from_slice(&chunk[end..]);
            return self.within_limit(chunk.slice(..end));
        }
        // The blank line may have begun in the bytes before.
        let from = self.partial.len().saturating_sub(3);
        self.partial.extend_from_slice(&chunk);
        let end = last_end(&self.partial, from);
        let whole = self.partial.split_to(end).freeze();
        self.within_limit(whole)
    }

    /// What came after the last whole event.
    pub fn rest(&mut self) -> Bytes {
        self.partial.split().freeze()
    }

    /// The last event of a stream that ended in good order: servers are seen to leave out its blank line.
    /// It gets one, because clients drop an event without. Nothing if what is there is no whole event.
    pub fn last_event(&mut self) -> Option<Bytes> {
        let (event, _) = take_event(&self.partial);
        let data = event?.data;
        let is_whole = data.starts_with(b"[DONE]") || serde_json::from_slice::<IgnoredAny>(&data).is_ok();
        if !is_whole {
            return None;
        }
        let mut last = self.partial.split();
        if !last.ends_with(b"\n") && !last.ends_with(b"\r") {
            last.extend_from_slice(b"\n");
        }
        last.extend_from_slice(b"\n");
        Some(last.freeze())
    }

    fn within_limit(&self, whole: Bytes) -> Result<Bytes, EventTooLarge> {
        if self.partial.len() > limits::EVENT_BYTES_MAX {
            return Err(EventTooLarge);
        }
        Ok(whole)
    }
}

/// The position behind the last blank line that ends at or after `from`; 0 if there is none. Lines
/// end with LF, CRLF or, as the standard allows and nobody expects, CR.
fn last_end(bytes: &[u8], from: usize) -> usize {
    let mut end = bytes.len();
    while let Some(at) = memrchr2(b'\n', b'\r', &bytes[from..end]) {
        let at = from + at;
        let before = &bytes[..at];
        let is_blank = match bytes[at] {
            b'\n' => {
                before.strip_suffix(b"\r").unwrap_or(before).ends_with(b"\n") || before.ends_with(b"\r\r")
            }
            // Where lines end with LF, a CR is the half of a CRLF, until something else follows.
            _ => before.ends_with(b"\r") || (before.ends_with(b"\n") && at + 1 < bytes.len()),
        };
        if is_blank {
            return at + 1;
        }
        end = at;
    }
    0
}

/// The position of the end of the first line, and of what follows it.
fn line_end(bytes: &[u8]) -> (usize, usize) {
    match memchr2(b'\n', b'\r', bytes) {
        None => (bytes.len(), bytes.len()),
        Some(end) if bytes[end..].starts_with(b"\r\n") => (end, end + 2),
        Some(end) => (end, end + 1),
    }
}

/// The events in a piece that [`Splitter::push`] gave.
pub fn events(whole: &[u8]) -> impl Iterator<Item = Event<'_>> {
    placed_events(whole).map(|(_, event)| event)
}

/// The events, each with where it stands, up to and with its blank line.
pub(super) fn placed_events(whole: &[u8]) -> impl Iterator<Item = (Range<usize>, Event<'_>)> {
    let mut rest = whole;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let start = whole.len() - rest.len();
            let (event, after) = take_event(rest);
            rest = after;
            if let Some(event) = event {
                return Some((start..whole.len() - rest.len(), event));
            }
        }
        None
    })
}

/// The events without those that tell what is left of the account's quota, which is no business of
/// most clients. Where there are none, as mostly, nothing is copied.
pub fn without_quota(whole: Bytes) -> Bytes {
    let tells = |(_, event): &(Range<usize>, Event<'_>)| event.meaning() == Meaning::Quota;
    let told: Vec<Range<usize>> = placed_events(&whole)
        .filter(tells)
        .map(|(range, _)| range)
        .collect();
    let mut rest = BytesMut::with_capacity(if told.is_empty() { 0 } else { whole.len() });
    let mut position = 0;
    for range in &told {
        rest.extend_from_slice(&whole[position..range.start]);
        position = range.end;
    }
    if told.is_empty() {
        return whole;
    }
    rest.extend_from_slice(&whole[position..]);
    rest.freeze()
}

/// Reads the lines up to the next blank one. `None` for what has no data: comments, blank lines.
fn take_event(bytes: &[u8]) -> (Option<Event<'_>>, &[u8]) {
    let mut data: Option<Cow<'_, [u8]>> = None;
    let mut name: &[u8] = &[];
    let mut rest = bytes;
    while !rest.is_empty() {
        let (end, next) = line_end(rest);
        let line = &rest[..end];
        rest = &rest[next..];
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix(b"event:") {
            name = value.trim_ascii();
        }
        let Some(value) = line.strip_prefix(b"data:") else {
            continue;
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        data = Some(match data {
            None => Cow::Borrowed(value),
            Some(before) => Cow::Owned([&before[..], value].join(&b'\n')),
        });
    }
    (data.map(|data| Event { data, name }), rest)
}

/// One event. Its type is what the JSON says, as for the clients; where that says nothing, it is what the
/// `event:` line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    data: Cow<'a, [u8]>,
    /// The value of the `event:` line; empty without one.
    name: &'a [u8],
}

/// What an event means for the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// `response.created`, `.queued`, `.in_progress`: the id is known, no output yet.
    Begin,
    /// An output item begins or ends; carries the item's id.
    Item,
    /// Output, or progress of a tool.
    Output,
    /// The response ended this way.
    End(Outcome),
    /// What is left of the account's quota; no output.
    Quota,
    /// A type that this version does not know; no output.
    Unknown,
}

impl<'a> Event<'a> {
    /// An event that carries this.
    pub fn of(data: &'a [u8]) -> Event<'a> {
        Event {
            data: Cow::Borrowed(data),
            name: &[],
        }
    }

    /// What it carries.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// What the event means, by its `type`.
    pub fn meaning(&self) -> Meaning {
        match self.kind().as_ref() {
            b"response.created" | b"response.queued" | b"response.in_progress" => Meaning::Begin,
            b"response.output_item.added" | b"response.output_item.done" => Meaning::Item,
            b"response.completed" => Meaning::End(Outcome::Completed),
            b"response.incomplete" => Meaning::End(Outcome::Incomplete),
            b"response.failed" => Meaning::End(Outcome::Failed),
            b"response.cancelled" => Meaning::End(Outcome::Cancelled),
            b"codex.rate_limits" => Meaning::Quota,
            kind if is_error(kind) => Meaning::End(Outcome::Failed),
            kind if OUTPUT_FAMILIES.iter().any(|family| kind.starts_with(family)) => Meaning::Output,
            _ => Meaning::Unknown,
        }
    }

    /// The `type`, mostly the first member and then found without reading the rest.
    pub fn kind(&self) -> Cow<'_, [u8]> {
        if let Some((kind, _)) = self.leading_kind() {
            return Cow::Borrowed(kind);
        }
        let data: Option<TypeOnly> = serde_json::from_slice(&self.data).ok();
        match data.and_then(|data| data.kind) {
            Some(kind) if !kind.ends_with("Error") => Cow::Owned(kind.into_bytes()),
            None if !self.name.is_empty() && self.name != b"message" => Cow::Borrowed(self.name),
            // What has no type can still be an error.
            _ if error_forms::is_error(&self.data) => Cow::Borrowed(b"error"),
            kind => Cow::Owned(kind.unwrap_or_default().into_bytes()),
        }
    }

    /// Whether it tells an error that is not that of a response: `error`, in any of its forms.
    pub fn is_error(&self) -> bool {
        is_error(&self.kind())
    }

    /// Adds what the event says to what is known. Not for [`Meaning::Output`]: those are many and
    /// say nothing that is needed here.
    pub fn read_into(&self, meaning: Meaning, facts: &mut Facts) {
        let Ok(data) = serde_json::from_slice::<EventData<'_>>(&self.data) else {
            return;
        };
        if let Some(response) = data.response {
            facts.add_response(response);
        }
        if let Some(item) = data.item {
            facts.add_whole_item(item);
        }
        if let Meaning::End(outcome) = meaning {
            facts.outcome = Some(outcome);
            facts.is_steered = outcome == Outcome::Incomplete && self.is_steered();
        }
        if meaning == Meaning::End(Outcome::Failed) {
            facts.add_error(ErrorSaid::read(&self.data));
        }
    }

    /// The item that `response.output_item.done` tells, as it stands, with its place; `None` for any
    /// other event, and for reasoning that nobody could read again.
    pub fn item_done(&self) -> Option<(u64, Bytes)> {
        #[derive(Deserialize)]
        struct Done<'a> {
            #[serde(default)]
            output_index: u64,
            #[serde(borrow)]
            item: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct Item<'a> {
            #[serde(rename = "type", default, borrow)]
            kind: Cow<'a, str>,
            #[serde(default, borrow)]
            encrypted_content: Option<&'a RawValue>,
        }
        if self.kind().as_ref() != b"response.output_item.done" {
            return None;
        }
        let done: Done<'_> = serde_json::from_slice(&self.data).ok()?;
        let item: Item<'_> = serde_json::from_str(done.item.get()).ok()?;
        let is_sealed = item
            .encrypted_content
            .is_some_and(|sealed| sealed.get() != "null");
        (item.kind != "reasoning" || is_sealed).then(|| {
            (
                done.output_index,
                Bytes::copy_from_slice(done.item.get().as_bytes()),
            )
        })
    }

    /// Where what it carries stands in the bytes that it was read from; `None` if it stands in several
    /// lines.
    pub(super) fn range_in(&self, whole: &[u8]) -> Option<Range<usize>> {
        match &self.data {
            Cow::Borrowed(data) => {
                let start = (data.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
                Some(start..start + data.len())
            }
            Cow::Owned(_) => None,
        }
    }

    /// The same as a slice of the bytes that it was read from.
    pub fn slice_of(&self, whole: &Bytes) -> Bytes {
        match &self.data {
            Cow::Borrowed(data) => whole.slice_ref(data),
            Cow::Owned(data) => Bytes::copy_from_slice(data),
        }
    }

    /// The lane that it names; the one without a name if it names none.
    pub fn lane(&self) -> Lane {
        #[derive(Deserialize)]
        struct Named {
            #[serde(default, deserialize_with = "lenient")]
            stream_id: Option<String>,
        }
        let named: Option<Named> = serde_json::from_slice(&self.data).ok();
        named
            .and_then(|named| named.stream_id)
            .map_or(Lane::Default, Lane::Named)
    }

    /// Whether it ends a response only because something was said to it: another follows by itself.
    pub fn is_steered(&self) -> bool {
        #[derive(Deserialize, Default)]
        struct Details {
            #[serde(default, deserialize_with = "lenient")]
            reason: Option<String>,
        }
        #[derive(Deserialize)]
        struct Response {
            #[serde(default, deserialize_with = "lenient")]
            incomplete_details: Option<Details>,
        }
        #[derive(Deserialize)]
        struct Incomplete {
            response: Response,
        }
        if self.kind().as_ref() != b"response.incomplete" {
            return false;
        }
        let event: Option<Incomplete> = serde_json::from_slice(&self.data).ok();
        let details = event.and_then(|event| event.response.incomplete_details);
        details.and_then(|details| details.reason).as_deref() == Some("steered")
    }

    /// The id of the response that it tells of.
    pub fn response_id(&self) -> Option<String> {
        let data: EventData<'_> = serde_json::from_slice(&self.data).ok()?;
        let mut facts = Facts::default();
        facts.add_response(data.response?);
        facts.response_id
    }

    /// The event's `sequence_number`, if it has one.
    pub fn sequence_number(&self) -> Option<u64> {
        // Right after the type, where the upstreams write it.
        if let Some((_, rest)) = self.leading_kind()
            && let Some(digits) = rest.strip_prefix(br#","sequence_number":"#)
            && let Some(end) = digits.iter().position(|byte| !byte.is_ascii_digit())
            && matches!(digits[end], b',' | b'}')
        {
            return std::str::from_utf8(&digits[..end]).ok()?.parse().ok();
        }
        let data: TypeOnly = serde_json::from_slice(&self.data).ok()?;
        data.sequence_number
    }

    /// The event's type where it is the first field and has no escapes, and what follows it.
    fn leading_kind(&self) -> Option<(&[u8], &[u8])> {
        let kind = self.data.strip_prefix(br#"{"type":""#)?;
        let (kind, rest) = kind.split_at(memchr(b'"', kind)?);
        memchr(b'\\', kind).is_none().then_some((kind, &rest[1..]))
    }
}

fn is_error(kind: &[u8]) -> bool {
    kind == b"error" || kind == b"response.error" || kind.ends_with(b"_error")
}

/// The types that carry output or progress, by their beginnings.
const OUTPUT_FAMILIES: [&[u8]; 13] = [
    b"response.output_",
    b"response.content_part.",
    b"response.refusal.",
    b"response.reasoning_",
    b"response.function_call_arguments.",
    b"response.custom_tool_call_input.",
    b"response.file_search_call.",
    b"response.web_search_call.",
    b"response.code_interpreter_call",
    b"response.image_generation_call.",
    b"response.mcp_",
    b"response.shell_call_",
    b"response.audio.",
];

#[derive(Deserialize)]
struct TypeOnly {
    #[serde(default, rename = "type", deserialize_with = "lenient")]
    kind: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    sequence_number: Option<u64>,
}

#[derive(Deserialize)]
struct EventData<'a> {
    #[serde(default, borrow, deserialize_with = "lenient")]
    response: Option<ResponseObject<'a>>,
    #[serde(default, borrow, deserialize_with = "lenient")]
    item: Option<ItemObject<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = concat!(
        "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_1\",\"usage\":null}}\n\n",
        ": a comment\n\n",
        "data: {\"sequence_number\":1,\"type\":\"response.output_item.added\",\"item\":{\"id\":\"msg_1\"}}\n\n",
        "data: {\"type\":\"response.output_text.delta\",\"delta\":\"é\\n\"}\r\n\r\n",
        "data: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"model\":\"m\",\"output\":[{\"id\":\"msg_1\"}],",
        "\"usage\":{\"input_tokens\":9,\"input_tokens_details\":{\"cached_tokens\":4},\"output_tokens\":2}}}\n\n",
    );

    fn facts_of(stream: &[u8]) -> Facts {
        let mut facts = Facts::default();
        for event in events(stream) {
            event.read_into(event.meaning(), &mut facts);
        }
        facts
    }

    #[test]
    fn a_stream_tells_id_items_model_and_figures() {
        let facts = facts_of(STREAM.as_bytes());
        assert_eq!(facts.response_id.as_deref(), Some("resp_1"));
        assert_eq!(facts.items, ["msg_1"]);
        assert_eq!(facts.outcome, Some(Outcome::Completed));
        let usage = facts.usage.unwrap();
        assert_eq!(
            (usage.input, usage.cached, usage.output),
            (Some(9), Some(4), Some(2))
        );
        assert_eq!((usage.cache_write, usage.reasoning), (None, None));
    }

    #[test]
    fn unknown_types_and_comments_are_no_output() {
        let meanings: Vec<_> = events(STREAM.as_bytes()).map(|event| event.meaning()).collect();
        use Meaning::*;
        assert_eq!(meanings, [Begin, Item, Output, End(Outcome::Completed)]);
        for data in [
            "data: {\"type\":\"response.metadata\"}\n\n",
            "data: [DONE]\n\n",
            "data: {\"type\":7}\n\n",
        ] {
            let event = events(data.as_bytes()).next().unwrap();
            assert_eq!(event.meaning(), Unknown, "{data}");
        }
    }

    #[test]
    fn what_tells_of_the_quota_is_taken_out_and_all_else_stays() {
        let quota = "event: codex.rate_limits\ndata: {\"type\":\"codex.rate_limits\"}\n\n";
        let stream = [quota, STREAM, quota].concat();
        assert_eq!(without_quota(stream.into()), STREAM);
        assert_eq!(without_quota(STREAM.into()), STREAM);
        assert_eq!(events(quota.as_bytes()).next().unwrap().meaning(), Meaning::Quota);
    }

    #[test]
    fn both_forms_of_the_error_event_are_understood() {
        let flat = "data: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"a\"}\n\n";
        let nested = "data: {\"type\":\"error\",\"error\":{\"type\":\"x\",\"code\":\"server_is_overloaded\",\"message\":\"b\"}}\n\n";
        assert_eq!(
            facts_of(flat.as_bytes()).error_code.as_deref(),
            Some("server_error")
        );
        assert_eq!(
            facts_of(nested.as_bytes()).error_code.as_deref(),
            Some("server_is_overloaded")
        );
    }

    #[test]
    fn the_number_of_an_event_is_its_own_wherever_it_stands() {
        let numbers: Vec<_> = events(STREAM.as_bytes())
            .map(|event| event.sequence_number())
            .collect();
        assert_eq!(numbers, [Some(0), Some(1), None, None]);
        for (data, number) in [
            (r#"{"type":"a","sequence_number":12}"#, Some(12)),
            (r#"{"type":"a","sequence_number":12 }"#, Some(12)),
            (r#"{"type":"a","sequence_number": 12}"#, Some(12)),
            (r#"{"type":"a","sequence_number":1.5}"#, None),
            (r#"{"type":"a","sequence_number":"12"}"#, None),
            (r#"{"type":"a","sequence_number":99999999999999999999}"#, None),
            (r#"{"type":"a\"b","sequence_number":3}"#, Some(3)),
            (r#"{"type":"a","item":{"sequence_number":4}}"#, None),
            (r#"{"type":"a","sequence_number":12"#, None),
        ] {
            assert_eq!(Event::of(data.as_bytes()).sequence_number(), number, "{data}");
        }
    }

    #[test]
    fn data_of_several_lines_is_one_event() {
        let stream = "data: {\"type\":\"response.created\",\ndata: \"response\":{\"id\":\"r\"}}\n\n";
        assert_eq!(facts_of(stream.as_bytes()).response_id.as_deref(), Some("r"));
    }

    #[test]
    fn figures_that_cannot_be_are_unknown() {
        let stream = "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":9223372036854775807,\"input_tokens_details\":{\"cached_tokens\":-1},\"output_tokens\":2}}}\n\n";
        let usage = facts_of(stream.as_bytes()).usage.unwrap();
        assert_eq!((usage.input, usage.cached, usage.output), (None, None, Some(2)));
    }

    #[test]
    fn a_stream_without_figures_has_none() {
        let stream = "data: {\"type\":\"response.failed\",\"response\":{\"id\":\"r\",\"usage\":null,\"error\":{\"code\":\"server_error\"}}}\n\n";
        let facts = facts_of(stream.as_bytes());
        assert_eq!((facts.usage, facts.outcome), (None, Some(Outcome::Failed)));
        assert_eq!(facts.error_code.as_deref(), Some("server_error"));
    }

    proptest! {
        #[test]
        fn however_a_stream_is_cut_the_same_bytes_and_events_come_out(
            cuts in proptest::collection::vec(0..STREAM.len(), 0..20),
        ) {
            let mut cuts = cuts;
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let mut splitter = Splitter::default();
            let mut bytes = Vec::new();
            let mut facts = Facts::default();
            for pair in cuts.windows(2) {
                let whole = splitter.push(Bytes::copy_from_slice(&STREAM.as_bytes()[pair[0]..pair[1]])).unwrap();
                for event in events(&whole) {
                    event.read_into(event.meaning(), &mut facts);
                }
                bytes.extend_from_slice(&whole);
            }
            prop_assert!(splitter.rest().is_empty());
            prop_assert_eq!(&bytes[..], STREAM.as_bytes());
            prop_assert_eq!(facts, facts_of(STREAM.as_bytes()));
        }
    }
}
