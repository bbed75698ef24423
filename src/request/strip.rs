//! Leaving reasoning out that the chosen account cannot read.

use std::ops::Range;

use bytes::Bytes;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::input::word;
use super::{Name, Splice, span};
use crate::affinity::Strip;

/// The edits that leave out the sealed reasoning of the input, as far as it is asked for. Reasoning
/// with something readable left in it stays, without its id: under it the account would look for
/// what it never had. Items left empty go whole; nothing else is touched, a compaction item never.
pub fn without_reasoning(body: &[u8], strip: Strip) -> Vec<Splice> {
    let last = match strip {
        Strip::Nothing => return Vec::new(),
        Strip::Through(position) => position,
        Strip::All => usize::MAX,
    };
    let items = input_items(body);
    let spans: Vec<Range<usize>> = items.iter().map(|item| span(item, body)).collect();
    let mut splices = Vec::new();
    let mut position = 0;
    while position < items.len() {
        match (position <= last).then(|| rewritten(items[position])).flatten() {
            None => position += 1,
            Some(Rewritten::As(text)) => {
                splices.push(Splice {
                    range: spans[position].clone(),
                    with: text.into(),
                });
                position += 1;
            }
            Some(Rewritten::Empty) => {
                let first = position;
                let is_empty = |at: usize| {
                    at <= last
                        && items
                            .get(at)
                            .is_some_and(|item| matches!(rewritten(item), Some(Rewritten::Empty)))
                };
                while is_empty(position) {
                    position += 1;
                }
                splices.push(Splice {
                    range: without_comma(&spans, first, position),
                    with: Bytes::new(),
                });
            }
        }
    }
    splices
}

/// The items from `first` to before `end`, with the comma that would be left over.
fn without_comma(spans: &[Range<usize>], first: usize, end: usize) -> Range<usize> {
    match (first.checked_sub(1), spans.get(end)) {
        (Some(before), _) => spans[before].end..spans[end - 1].end,
        (None, Some(after)) => spans[first].start..after.start,
        (None, None) => spans[first].start..spans[end - 1].end,
    }
}

enum Rewritten {
    As(String),
    Empty,
}

/// What is left of a reasoning item; `None` for any other.
fn rewritten(item: &RawValue) -> Option<Rewritten> {
    let members = members(item.get())?;
    let value = |wanted: &[u8]| {
        let found = members.iter().rev().find(|(name, _)| name == wanted);
        found.map(|(_, value)| *value)
    };
    if word(value(b"type")?)? != "reasoning" {
        return None;
    }
    let holds = |name: &[u8]| {
        let list = value(name).and_then(|value| serde_json::from_str::<Vec<IgnoredAny>>(value.get()).ok());
        list.is_some_and(|list| !list.is_empty())
    };
    if !holds(b"summary") && !holds(b"content") {
        return Some(Rewritten::Empty);
    }
    let mut text = String::from("{");
    for (name, value) in &members {
        if matches!(name.as_slice(), b"encrypted_content" | b"id") {
            continue;
        }
        if text.len() > 1 {
            text.push(',');
        }
        let name = String::from_utf8_lossy(name);
        text.push_str(&serde_json::Value::from(name).to_string());
        text.push(':');
        text.push_str(value.get());
    }
    text.push('}');
    Some(Rewritten::As(text))
}

/// The items of the input as they stand; none where it is something else.
fn input_items(body: &[u8]) -> Vec<&RawValue> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let input = members(text)
        .and_then(|members| members.into_iter().rev().find(|(name, _)| name == b"input"))
        .map(|(_, value)| value);
    input
        .and_then(|input| serde_json::from_str(input.get()).ok())
        .unwrap_or_default()
}

/// The members of an object in their order; `None` where it is none.
pub(super) fn members(text: &str) -> Option<Vec<(Vec<u8>, &RawValue)>> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(Vec<u8>, &'de RawValue)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(name) = map.next_key_seed(Name)? {
                members.push((name.into_owned(), map.next_value()?));
            }
            Ok(members)
        }
    }
    serde_json::Deserializer::from_str(text)
        .deserialize_map(Members)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::spliced;

    fn stripped(body: &str, strip: Strip) -> String {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let splices = without_reasoning(body.as_bytes(), strip);
        String::from_utf8(spliced(&bytes, splices).concat()).unwrap()
    }

    const EMPTY: &str = r#"{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"gA"}"#;
    const TOLD: &str =
        r#"{"type":"reasoning","id":"rs_2","summary":[{"text":"so"}],"encrypted_content":"gB"}"#;
    const LEFT: &str = r#"{"type":"reasoning","summary":[{"text":"so"}]}"#;
    const COMPACTION: &str = r#"{"type":"compaction","id":"cmp_1","encrypted_content":"gC"}"#;

    #[test]
    fn sealed_reasoning_goes_and_everything_else_stays_as_it_is() {
        let says = r#"{"role" : "user","content":"reasoning"}"#;
        let cases = [
            (format!("[{EMPTY}]"), "[]".to_owned()),
            (format!("[ {EMPTY} , {says} ]"), format!("[ {says} ]")),
            (format!("[{says} , {EMPTY} ]"), format!("[{says} ]")),
            (format!("[{EMPTY},{EMPTY},{says}]"), format!("[{says}]")),
            (
                format!("[{says},{EMPTY},{EMPTY},{COMPACTION}]"),
                format!("[{says},{COMPACTION}]"),
            ),
            (format!("[{TOLD},{EMPTY},{TOLD}]"), format!("[{LEFT},{LEFT}]")),
            (format!("[{says},7,null,[1]]"), format!("[{says},7,null,[1]]")),
        ];
        for (input, expected) in cases {
            let body = |input: &str| format!(r#"{{"x":1.0e2 ,"input":{input},"y":"\ud800"}}"#);
            assert_eq!(stripped(&body(&input), Strip::All), body(&expected));
        }
    }

    #[test]
    fn what_came_later_stays() {
        let body = format!(r#"{{"input":[{EMPTY},{EMPTY},{EMPTY}]}}"#);
        assert_eq!(
            stripped(&body, Strip::Through(1)),
            format!(r#"{{"input":[{EMPTY}]}}"#)
        );
        assert_eq!(stripped(&body, Strip::Nothing), body);
        assert_eq!(stripped(r#"{"input":"hi"}"#, Strip::All), r#"{"input":"hi"}"#);
    }
}
