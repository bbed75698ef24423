//! A stream of events, gathered into the document that a client gets who asked for no stream; or into
//! the last event of a stream that passes.
//!
//! The last event holds the response, as the upstream wrote it; the backend of ChatGPT logins leaves
//! its `output` empty there, and tells the items one by one before.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::events::{Event, Meaning, events};
use super::{Outcome, lenient};
use crate::limits;

/// What has come of a stream so far.
#[derive(Debug, Default)]
pub struct Gathering {
    /// The items that are done, each with its place.
    items: Vec<(u64, Box<RawValue>)>,
    item_bytes: usize,
    response: Option<Box<RawValue>>,
}

/// The answer is larger than one that can be held.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

impl Gathering {
    /// Takes the next event.
    ///
    /// # Errors
    /// If the answer grows over the limit.
    pub fn add(&mut self, event: &Event<'_>) -> Result<(), TooLarge> {
        let meaning = event.meaning();
        if !matches!(meaning, Meaning::Item | Meaning::End(_)) {
            return Ok(());
        }
        let Ok(data) = serde_json::from_slice::<Data<'_>>(event.data()) else {
            return Ok(());
        };
        if let Meaning::End(_) = meaning {
            self.response = data.response.map(ToOwned::to_owned);
        } else if let (Some("response.output_item.done"), Some(item)) = (data.kind.as_deref(), data.item) {
            self.item_bytes += item.get().len();
            if self.item_bytes > limits::EVENT_BYTES_MAX {
                return Err(TooLarge);
            }
            // Without a place, it comes behind those before.
            let after = self.items.last().map_or(0, |(place, _)| place.saturating_add(1));
            self.items
                .push((data.output_index.unwrap_or(after), item.to_owned()));
        }
        Ok(())
    }

    /// The document; nothing if the stream ended without a response.
    pub fn document(mut self) -> Option<Bytes> {
        let response = self.response.take()?;
        let filled = self.filled(response.get())?;
        Some(match filled {
            Some(whole) => whole.into(),
            None => Bytes::copy_from_slice(response.get().as_bytes()),
        })
    }

    /// Takes the next events of a stream that passes. Where the last one leaves the output empty, it gets
    /// the items that came before, unless they are larger than can be held: clients read them there.
    pub fn complete(&mut self, whole: Bytes) -> Bytes {
        let mut completed = None;
        for event in events(&whole) {
            match event.meaning() {
                Meaning::Item if self.add(&event).is_err() => self.items.clear(),
                Meaning::End(Outcome::Completed | Outcome::Incomplete | Outcome::Cancelled) => {
                    completed = std::mem::take(self)
                        .last_event(&event)
                        .zip(event.range_in(&whole));
                }
                _ => {}
            }
        }
        match completed {
            Some((data, range)) => [&whole[..range.start], data.as_bytes(), &whole[range.end..]]
                .concat()
                .into(),
            None => whole,
        }
    }

    /// The data of the event that ends a response, where its output has to be filled in.
    fn last_event(mut self, event: &Event<'_>) -> Option<String> {
        let text = std::str::from_utf8(event.data()).ok()?;
        let response = serde_json::from_str::<Data<'_>>(text).ok()?.response?.get();
        let filled = self.filled(response)??;
        let start = response.as_ptr() as usize - text.as_ptr() as usize;
        let whole = [&text[..start], &filled, &text[start + response.len()..]].concat();
        // A line of a stream has no breaks in it.
        memchr::memchr2(b'\n', b'\r', whole.as_bytes())
            .is_none()
            .then_some(whole)
    }

    /// A response with its items; nothing in the inner place if it is to stay as it is, and none at all if
    /// it cannot be read.
    fn filled(&mut self, text: &str) -> Option<Option<String>> {
        let read: Output<'_> = serde_json::from_str(text).ok()?;
        let listed = read.output.map(RawValue::get);
        let is_empty = listed.is_none_or(|listed| {
            listed == "null" || listed.trim_matches(['[', ']', ' ', '\n', '\t', '\r']).is_empty()
        });
        if !is_empty || self.items.is_empty() {
            return Some(None);
        }
        self.items.sort_by_key(|(place, _)| *place);
        let items: Vec<&str> = self.items.iter().map(|(_, item)| item.get()).collect();
        let items = format!("[{}]", items.join(","));
        Some(Some(match listed {
            Some(listed) => {
                let start = listed.as_ptr() as usize - text.as_ptr() as usize;
                [&text[..start], &items, &text[start + listed.len()..]].concat()
            }
            // There is a member at least: an empty object has no output that could be missed.
            None => format!(
                "{{\"output\":{items},{}",
                text.trim_start().trim_start_matches('{')
            ),
        }))
    }
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(default, rename = "type", deserialize_with = "lenient")]
    kind: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    output_index: Option<u64>,
    #[serde(default, borrow)]
    item: Option<&'a RawValue>,
    #[serde(default, borrow)]
    response: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Output<'a> {
    // An output of `null` is one that is there.
    #[serde(default, borrow, deserialize_with = "lenient")]
    output: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(stream: &[&str]) -> Option<String> {
        let mut gathering = Gathering::default();
        let stream: String = stream.iter().map(|data| format!("data: {data}\n\n")).collect();
        for event in events(stream.as_bytes()) {
            gathering.add(&event).unwrap();
        }
        let document = gathering.document()?;
        Some(String::from_utf8(document.to_vec()).unwrap())
    }

    const ADDED: &str = r#"{"type":"response.output_item.added","output_index":0,"item":{"id":"no"}}"#;
    const FIRST: &str =
        r#"{"type":"response.output_item.done","output_index":0,"item":{"id":"rs_1","n":1.0e2}}"#;
    const SECOND: &str = r#"{"item":{"id":"msg_1"},"output_index":1,"type":"response.output_item.done"}"#;

    #[test]
    fn an_output_that_was_left_out_is_put_together_from_its_items() {
        for (end, expected) in [
            (
                r#"{"type":"response.completed","response":{"id":"r","output":[],"big":12345678901234567890123}}"#,
                r#"{"id":"r","output":[{"id":"rs_1","n":1.0e2},{"id":"msg_1"}],"big":12345678901234567890123}"#,
            ),
            (
                r#"{"type":"response.incomplete","response":{"id":"r","output": null }}"#,
                r#"{"id":"r","output": [{"id":"rs_1","n":1.0e2},{"id":"msg_1"}] }"#,
            ),
            (
                r#"{"type":"response.cancelled","response":{"id":"r"}}"#,
                r#"{"output":[{"id":"rs_1","n":1.0e2},{"id":"msg_1"}],"id":"r"}"#,
            ),
        ] {
            assert_eq!(gathered(&[ADDED, SECOND, FIRST, end]).as_deref(), Some(expected));
        }
    }

    #[test]
    fn an_output_that_is_there_stays_as_it_is() {
        let end = r#"{"type":"response.completed","response":{"id":"r","output":[{"id":"x"}]}}"#;
        assert_eq!(
            gathered(&[FIRST, end]).as_deref(),
            Some(r#"{"id":"r","output":[{"id":"x"}]}"#)
        );
        let empty = r#"{"type":"response.completed","response":{"id":"r","output":[]}}"#;
        assert_eq!(
            gathered(&[ADDED, empty]).as_deref(),
            Some(r#"{"id":"r","output":[]}"#)
        );
    }

    fn passed(pieces: &[&str]) -> String {
        let mut gathering = Gathering::default();
        let passed = pieces
            .iter()
            .map(|piece| gathering.complete(Bytes::copy_from_slice(piece.as_bytes())));
        passed
            .map(|piece| String::from_utf8(piece.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn the_last_event_of_a_stream_gets_the_items_that_it_left_out_and_nothing_else_changes() {
        let before = format!(": hi\n\ndata: {ADDED}\n\nevent: x\ndata: {SECOND}\r\n\r\ndata: {FIRST}\n\n");
        let end = |output: &str| {
            format!(
                "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"id\":\"r\",\"output\":{output}}}}}\n\ndata: [DONE]\n\n"
            )
        };
        let items = r#"[{"id":"rs_1","n":1.0e2},{"id":"msg_1"}]"#;
        assert_eq!(passed(&[&before, &end("[]")]), before.clone() + &end(items));
        let together = before.clone() + &end("[]");
        assert_eq!(passed(&[&together]), before.clone() + &end(items));
        for stays in [end(r#"[{"id":"x"}]"#), end("[]").replace("completed", "failed")] {
            assert_eq!(passed(&[&before, &stays]), before.clone() + &stays);
        }
        assert_eq!(passed(&[&end("[]")]), end("[]"));
        // What follows a response that was steered has items of its own.
        let two = before.clone() + &end(items) + &end("[]");
        assert_eq!(passed(&[&before, &end("[]"), &end("[]")]), two);
    }

    #[test]
    fn without_a_response_there_is_no_document() {
        assert_eq!(gathered(&[FIRST]), None);
        assert_eq!(
            gathered(&[FIRST, r#"{"type":"error","code":"server_error"}"#]),
            None
        );
    }
}
