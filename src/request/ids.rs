//! Ids anywhere in a body: found by walking over its tokens, without building anything and without
//! recursion, because a body may be nested as deep as its sender likes.

use std::borrow::Cow;
use std::collections::HashSet;

use memchr::{memchr2, memmem};

use super::{Named, Unreadable};
use crate::affinity::ReferenceKind;
use crate::limits;

/// Adds the ids of files, vector stores and containers in the input and the tools of a request, and
/// drops what stands there twice.
///
/// # Errors
/// If there are more than any real request has.
pub(super) fn read_into(body: &[u8], ids: &mut Vec<Named>) -> Result<(), Unreadable> {
    // Most requests hold none of these words, which is quickly seen. A name can be written with
    // escapes, and must not hide behind them.
    let may_hold = [&b"file_id"[..], b"vector_store_id", b"container", b"\\u00"]
        .iter()
        .any(|word| memmem::find(body, word).is_some());
    if may_hold {
        walk(body, |place, value| {
            if let Some((kind, id)) = place.kind().zip(decoded(value))
                && !id.trim().is_empty()
            {
                ids.push(Named {
                    kind,
                    id: id.into_owned(),
                });
            }
        })?;
    }
    once_each(ids)
}

/// Texts in a body that look like ids, each once: for endpoints whose bodies are not known.
///
/// # Errors
/// If there are more than any real request has.
pub fn mentioned(body: &[u8]) -> Result<Vec<Named>, Unreadable> {
    let mut ids = Vec::new();
    add_mentioned(body, &mut ids)?;
    once_each(&mut ids)?;
    Ok(ids)
}

fn add_mentioned(body: &[u8], ids: &mut Vec<Named>) -> Result<(), Unreadable> {
    walk(body, |place, value| {
        // What a client notes for itself points at nothing.
        let id = decoded(value).filter(|id| looks_like_id(id) && !place.is_within(&[b"metadata"]));
        ids.extend(id.map(|id| Named {
            kind: kind_of(place.name()).unwrap_or(ReferenceKind::Mentioned),
            id: id.into_owned(),
        }));
    })
}

/// Adds the ids that a field of a form names.
///
/// # Errors
/// If there are more than any real request has.
pub(super) fn of_field(name: &str, value: &[u8], ids: &mut Vec<Named>) -> Result<(), Unreadable> {
    // Of a list it is one: `file_ids[]`.
    let name = name.split('[').next().unwrap_or_default();
    match std::str::from_utf8(value).map(str::trim) {
        Ok(text) if text.starts_with(['{', '[']) => add_mentioned(text.as_bytes(), ids)?,
        Ok(text) if name != "metadata" && looks_like_id(text) => ids.push(Named {
            kind: kind_of(name.as_bytes()).unwrap_or(ReferenceKind::Mentioned),
            id: text.to_owned(),
        }),
        _ => {}
    }
    once_each(ids)
}

/// What an id would be under this name, wherever that stands.
fn kind_of(name: &[u8]) -> Option<ReferenceKind> {
    Some(match name {
        b"file_id" | b"file_ids" | b"input_file_id" | b"training_file" | b"validation_file" => {
            ReferenceKind::File
        }
        b"vector_store_id" | b"vector_store_ids" => ReferenceKind::VectorStore,
        b"container" | b"container_id" => ReferenceKind::Container,
        _ => return None,
    })
}

fn once_each(ids: &mut Vec<Named>) -> Result<(), Unreadable> {
    if ids.len() > 1 {
        let mut seen = HashSet::with_capacity(ids.len());
        ids.retain(|id| seen.insert(id.clone()));
    }
    match ids.len() > limits::REFERENCES_PER_REQUEST_MAX {
        true => Err(Unreadable::Extravagant("points with more ids")),
        false => Ok(()),
    }
}

/// A word, then `-` or `_`, then something long with a digit in it: `file-abc123…`, `vs_67cc…`.
fn looks_like_id(text: &str) -> bool {
    let Some((word, rest)) = text.split_once(['-', '_']) else {
        return false;
    };
    let is_word = (1..=16).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    is_word
        && rest.len() >= 8
        && rest.len() <= limits::REFERENCE_BYTES_MAX
        && rest.bytes().all(is_token)
        && rest.bytes().any(|byte| byte.is_ascii_digit())
}

/// Where a text stands: the names of the members that it stands in, outermost first. An array
/// stands for the member that holds it.
struct Place<'a> {
    frames: Vec<Frame<'a>>,
}

struct Frame<'a> {
    is_object: bool,
    name: Cow<'a, [u8]>,
}

impl Place<'_> {
    fn name(&self) -> &[u8] {
        self.frames.last().map_or(&[], |frame| &frame.name)
    }

    fn is_within(&self, names: &[&[u8]]) -> bool {
        self.frames.iter().any(|frame| names.contains(&&*frame.name))
    }

    /// What an id would mean here.
    fn kind(&self) -> Option<ReferenceKind> {
        let top: &[u8] = self.frames.first().map_or(&[], |frame| &frame.name);
        let kind = kind_of(self.name())?;
        match top {
            b"tools" | b"prompt" => Some(kind),
            // What an earlier answer cited or looked up is told again with it.
            b"input" | b"messages" => {
                match kind == ReferenceKind::File && !self.is_within(&[b"annotations", b"results"]) {
                    true => Some(kind),
                    false => Some(ReferenceKind::Mentioned),
                }
            }
            _ => None,
        }
    }
}

/// Calls back for every text that is a value, with its quotes. The body need not be legal JSON.
fn walk<'a>(body: &'a [u8], mut found: impl FnMut(&Place<'a>, &'a [u8])) -> Result<(), Unreadable> {
    let mut place = Place { frames: Vec::new() };
    let mut expects_name = false;
    let mut at = 0;
    while at < body.len() {
        match body[at] {
            b'"' => {
                let end = string_end(body, at);
                let text = &body[at..end];
                match place.frames.last_mut() {
                    Some(frame) if frame.is_object && expects_name => frame.name = raw_name(text),
                    _ => found(&place, text),
                }
                at = end;
                continue;
            }
            b'{' => {
                place.frames.push(Frame {
                    is_object: true,
                    name: Cow::Borrowed(&[]),
                });
                expects_name = true;
            }
            b'[' => {
                let name = place
                    .frames
                    .last()
                    .map_or(Cow::Borrowed(&[][..]), |frame| frame.name.clone());
                place.frames.push(Frame {
                    is_object: false,
                    name,
                });
                expects_name = false;
            }
            b'}' | b']' => {
                place.frames.pop();
                expects_name = false;
            }
            b':' => expects_name = false,
            b',' => expects_name = place.frames.last().is_some_and(|frame| frame.is_object),
            _ => {}
        }
        if place.frames.len() > limits::BODY_DEPTH_MAX {
            return Err(Unreadable::Extravagant("is nested deeper"));
        }
        at += 1;
    }
    Ok(())
}

/// The position behind the closing quote of the text that begins here.
fn string_end(body: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(length) = memchr2(b'"', b'\\', &body[at..]) {
        at += length;
        if body[at] == b'"' {
            return at + 1;
        }
        at = (at + 2).min(body.len());
    }
    body.len()
}

fn raw_name(text: &[u8]) -> Cow<'_, [u8]> {
    match decoded(text) {
        Some(Cow::Borrowed(name)) => Cow::Borrowed(name.as_bytes()),
        Some(Cow::Owned(name)) => Cow::Owned(name.into_bytes()),
        None => Cow::Borrowed(&[]),
    }
}

fn decoded(text: &[u8]) -> Option<Cow<'_, str>> {
    let inner = text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inner).is_some() {
        return serde_json::from_slice(text).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

#[cfg(test)]
mod tests {
    use super::ReferenceKind::*;
    use super::*;

    fn ids(body: &str) -> Vec<(ReferenceKind, String)> {
        let mut ids = Vec::new();
        read_into(body.as_bytes(), &mut ids).unwrap();
        ids.into_iter().map(|id| (id.kind, id.id)).collect()
    }

    #[test]
    fn ids_are_found_wherever_the_api_has_them() {
        let body = r#"{"metadata":{"file_id":"no"},"text":"file_id",
            "input":[{"role":"user","content":[{"type":"input_file","file_id":"file-1"},{"type":"input_image","file_id":"file-2"}]},
                     {"type":"message","content":[{"annotations":[{"file_id":"file-3"}]}]},
                     {"type":"code_interpreter_call","container_id":"cntr_1"}],
            "tools":[{"type":"file_search","vector_store_ids":["vs_1","vs_2"]},
                     {"type":"code_interpreter","container":"cntr_2"},
                     {"type":"code_interpreter","container":{"type":"auto","file_ids":["file-1","file-4"]}},
                     {"type":"function","parameters":{"properties":{"file_id":{"type":"string"}}}}]}"#;
        let expected = [
            (File, "file-1"),
            (File, "file-2"),
            (Mentioned, "file-3"),
            (Mentioned, "cntr_1"),
            (VectorStore, "vs_1"),
            (VectorStore, "vs_2"),
            (Container, "cntr_2"),
            (File, "file-4"),
        ];
        assert_eq!(ids(body), expected.map(|(kind, id)| (kind, id.to_owned())));
    }

    #[test]
    fn a_name_cannot_hide_behind_escapes() {
        let body = r#"{"input":[{"content":[{"fil\u0065_id":"file\u002d1"}]}]}"#;
        assert_eq!(ids(body), [(File, "file-1".to_owned())]);
        assert_eq!(ids(r#"{"input":"\u0041 \ud800"}"#), []);
    }

    #[test]
    fn what_looks_like_an_id_is_found_in_bodies_that_are_not_known() {
        let body = r#"{"input_file_id":"file-abc123def456","x":["vs_67ccd2bed1ec","not-an-id"," file-abc123def456"],
            "model":"gpt-5.6-large","endpoint":"/v1/responses"}"#;
        let found: Vec<String> = mentioned(body.as_bytes())
            .unwrap()
            .into_iter()
            .map(|id| id.id)
            .collect();
        assert_eq!(found, ["file-abc123def456", "vs_67ccd2bed1ec"]);
    }

    #[test]
    fn a_body_beyond_all_measure_is_refused() {
        let deep = format!("{{\"container\":{}", "[".repeat(limits::BODY_DEPTH_MAX + 1));
        let many: Vec<String> = (0..=limits::REFERENCES_PER_REQUEST_MAX)
            .map(|n| format!("\"file-{n}\""))
            .collect();
        let many = format!("{{\"tools\":[{{\"file_ids\":[{}]}}]}}", many.join(","));
        for body in [deep, many] {
            assert!(read_into(body.as_bytes(), &mut Vec::new()).is_err());
        }
        for body in ["", "\"", "{\"", "}}]]", "{\"container\\"] {
            read_into(body.as_bytes(), &mut Vec::new()).unwrap();
            mentioned(body.as_bytes()).unwrap();
        }
    }
}
