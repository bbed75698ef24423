//! A stream of events, gathered into the document that a client gets who asked for no stream.
//!
//! The last event holds the response, as the upstream wrote it; the backend of ChatGPT logins leaves
//! its `output` empty there, and tells the items one by one before.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::events::{Event, Meaning};
use super::lenient;
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
        let text = response.get();
        let read: Output<'_> = serde_json::from_str(text).ok()?;
        let listed = read.output.map(RawValue::get);
        let is_empty = listed.is_none_or(|listed| {
            listed == "null" || listed.trim_matches(['[', ']', ' ', '\n', '\t', '\r']).is_empty()
        });
        if !is_empty || self.items.is_empty() {
            return Some(Bytes::copy_from_slice(text.as_bytes()));
        }
        self.items.sort_by_key(|(place, _)| *place);
        let items: Vec<&str> = self.items.iter().map(|(_, item)| item.get()).collect();
        let items = format!("[{}]", items.join(","));
        let whole = match listed {
            Some(listed) => {
                let start = listed.as_ptr() as usize - text.as_ptr() as usize;
                [&text[..start], &items, &text[start + listed.len()..]].concat()
            }
            // There is a member at least: an empty object has no output that could be missed.
            None => format!(
                "{{\"output\":{items},{}",
                text.trim_start().trim_start_matches('{')
            ),
        };
        Some(whole.into())
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
    use crate::response::events::events;

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

    #[test]
    fn without_a_response_there_is_no_document() {
        assert_eq!(gathered(&[FIRST]), None);
        assert_eq!(
            gathered(&[FIRST, r#"{"type":"error","code":"server_error"}"#]),
            None
        );
    }
}
