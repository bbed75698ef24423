//! An answer that is one JSON document, read while it passes: never held whole.
//!
//! The scanner follows the structure of the document through its pieces and takes out the few
//! values that are needed. Not a byte of an id goes on before the id is known whole, so that its
//! owner can be written down first.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2};
use sha2::{Digest as _, Sha256};

use super::{ErrorSaid, Facts, IncompleteDetails, Outcome, Usage};
use crate::limits;

/// Follows one document through its pieces.
#[derive(Debug, Default)]
pub struct Scanner {
    depth: u32,
    /// Inside a string; `true` after a backslash.
    string: Option<bool>,
    /// The next string at this place is the name of a member.
    expects_name: bool,
    /// The name of the top-level member that is being read, and of the output item's member.
    member: Vec<u8>,
    item_member: Vec<u8>,
    /// Within `output`, or within `data` of a list: what stands there has ids of its own.
    in_output_array: bool,
    in_output_item: bool,
    /// Within `file`, which an upload has become.
    in_file: bool,
    /// What is being kept.
    capture: Option<Target>,
    /// What was kept of it.
    kept: Vec<u8>,
    /// Of sealed content, which may be long and is not kept.
    digest: Sha256,
    complete: bool,
    /// The beginning of an id whose end has not come.
    held: BytesMut,
}

enum IdStart {
    Earlier,
    At(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Name,
    ItemName,
    Value,
    ItemId,
    Sealed,
}

/// What one piece brought.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    /// What may go on, once the ids that are known now are written down.
    pub bytes: Bytes,
    /// The document ended within these bytes.
    pub complete: bool,
}

impl Scanner {
    /// Reads the next piece and adds what it says to `facts`. Mostly nothing is copied: only the
    /// bytes of an id that a piece cuts in two are kept here.
    pub fn push(&mut self, piece: Bytes, facts: &mut Facts) -> Passed {
        let was_complete = self.complete;
        let id_start = self.scan(&piece, facts);
        let bytes = match id_start {
            None if self.held.is_empty() => piece,
            None => {
                self.held.extend_from_slice(&piece);
                self.held.split().freeze()
            }
            // The id began in an earlier piece, and still has not ended.
            Some(IdStart::Earlier) => {
                self.held.extend_from_slice(&piece);
                Bytes::new()
            }
            Some(IdStart::At(start)) => {
                self.held.extend_from_slice(&piece[..start]);
                let whole = self.held.split().freeze();
                self.held.extend_from_slice(&piece[start..]);
                whole
            }
        };
        Passed {
            bytes,
            complete: self.complete && !was_complete,
        }
    }

    /// How many bytes of an unfinished id are kept here.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// What is held when the answer ends too early.
    pub fn rest(&mut self) -> Bytes {
        self.held.split().freeze()
    }

    /// Reads a piece; tells where an id began that has not ended with it.
    fn scan(&mut self, piece: &[u8], facts: &mut Facts) -> Option<IdStart> {
        let mut id_start = self.in_id().then_some(IdStart::Earlier);
        let mut position = 0;
        while position < piece.len() && !self.complete {
            let start = position;
            if self.string.is_some() {
                position = self.read_string(piece, position, facts);
            } else {
                self.read_structure(piece[position], facts);
                position += 1;
            }
            id_start = match self.in_id() {
                true => id_start.or(Some(IdStart::At(start))),
                false => None,
            };
        }
        id_start
    }

    /// Whether an id is being read that is not too long to be one.
    fn in_id(&self) -> bool {
        let is_id = match self.capture {
            Some(Target::ItemId) => true,
            Some(Target::Value) => self.member == b"id",
            _ => false,
        };
        is_id && self.kept.len() <= limits::ANSWER_VALUE_BYTES_MAX
    }

    /// Reads on in a string, to its end or the piece's; gives the position after.
    fn read_string(&mut self, piece: &[u8], start: usize, facts: &mut Facts) -> usize {
        if self.string == Some(true) {
            self.keep(&piece[start..=start]);
            self.string = Some(false);
            return start + 1;
        }
        let Some(length) = memchr2(b'"', b'\\', &piece[start..]) else {
            self.keep(&piece[start..]);
            return piece.len();
        };
        let end = start + length;
        self.keep(&piece[start..=end]);
        if piece[end] == b'\\' {
            self.string = Some(true);
        } else {
            self.string = None;
            self.end_string(facts);
        }
        end + 1
    }

    /// A name ends with its string, and so does an id. Other values end with their member.
    fn end_string(&mut self, facts: &mut Facts) {
        let ends = self.capture.is_some_and(|target| match target {
            Target::Name | Target::ItemName | Target::ItemId | Target::Sealed => true,
            Target::Value => self.depth == 1,
        });
        if ends {
            self.end_capture(facts);
        }
    }

    fn read_structure(&mut self, byte: u8, facts: &mut Facts) {
        match byte {
            b'"' => self.begin_string(),
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => self.close(byte, facts),
            b':' => {
                self.expects_name = false;
                self.keep(b":");
            }
            b',' => self.next_member(facts),
            b' ' | b'\t' | b'\r' | b'\n' => {}
            other => {
                self.begin_value(false);
                self.keep(&[other]);
            }
        }
    }

    fn begin_string(&mut self) {
        self.string = Some(false);
        if self.expects_name && self.depth == 1 {
            self.begin_capture(Target::Name);
        } else if self.expects_name && self.is_in_item() {
            self.begin_capture(Target::ItemName);
        } else {
            self.begin_value(true);
        }
        self.keep(b"\"");
    }

    /// Begins to keep a value, if it is one that is needed. Ids and seals are strings: what else stands in
    /// their place is none.
    fn begin_value(&mut self, is_string: bool) {
        if self.capture.is_some() || self.expects_name {
            return;
        }
        if self.depth == 1 && WANTED.contains(&self.member.as_slice()) {
            self.begin_capture(Target::Value);
        } else if self.is_in_item() && is_string {
            match self.item_member.as_slice() {
                b"id" | b"container_id" => self.begin_capture(Target::ItemId),
                b"encrypted_content" => self.begin_capture(Target::Sealed),
                _ => {}
            }
        }
    }

    /// Among the members of something that has an id of its own.
    fn is_in_item(&self) -> bool {
        (self.depth == 3 && self.in_output_item) || (self.depth == 2 && self.in_file)
    }

    fn open(&mut self, byte: u8) {
        self.begin_value(false);
        self.keep(&[byte]);
        self.depth += 1;
        match self.depth {
            1 => self.expects_name = byte == b'{',
            2 => {
                self.in_output_array = byte == b'[' && matches!(self.member.as_slice(), b"output" | b"data");
                self.in_file = byte == b'{' && self.member == b"file";
                self.item_member.clear();
                self.expects_name = self.in_file;
            }
            3 => {
                self.in_output_item = byte == b'{' && self.in_output_array;
                self.item_member.clear();
                self.expects_name = self.in_output_item;
            }
            _ => {}
        }
    }

    fn close(&mut self, byte: u8, facts: &mut Facts) {
        match self.depth {
            0 | 1 => {
                self.end_capture(facts);
                self.complete = true;
            }
            2 => {
                self.in_output_array = false;
                self.in_file = false;
            }
            3 => self.in_output_item = false,
            _ => {}
        }
        self.depth = self.depth.saturating_sub(1);
        self.expects_name = false;
        self.keep(&[byte]);
    }

    fn next_member(&mut self, facts: &mut Facts) {
        match self.depth {
            1 => {
                self.end_capture(facts);
                self.expects_name = true;
            }
            _ if self.is_in_item() => {
                self.end_capture(facts);
                self.expects_name = true;
            }
            _ => self.keep(b","),
        }
    }

    fn begin_capture(&mut self, target: Target) {
        self.capture = Some(target);
        self.kept.clear();
        self.digest = Sha256::new();
    }

    fn keep(&mut self, bytes: &[u8]) {
        match self.capture {
            None => {}
            Some(Target::Sealed) => {
                // Base64 has one character that some writers escape: the slash.
                let text = bytes.strip_suffix(b"\"").unwrap_or(bytes);
                self.digest.update(text.strip_suffix(b"\\").unwrap_or(text));
            }
            Some(_) => {
                let room = (limits::ANSWER_VALUE_BYTES_MAX + 1).saturating_sub(self.kept.len());
                self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
    }

    fn end_capture(&mut self, facts: &mut Facts) {
        let Some(target) = self.capture.take() else {
            return;
        };
        let bytes = self.kept.as_slice();
        let fits = bytes.len() <= limits::ANSWER_VALUE_BYTES_MAX;
        match target {
            Target::Name => name_into(&mut self.member, bytes),
            Target::ItemName => name_into(&mut self.item_member, bytes),
            Target::ItemId if fits => {
                if let Some(id) = text(bytes) {
                    facts.add_item(id.into_owned());
                }
            }
            Target::Sealed => facts.add_sealed_digest(self.digest.finalize_reset().into()),
            Target::Value if fits => add_value(&self.member, bytes, facts),
            Target::ItemId | Target::Value => {}
        }
    }
}

/// A string, without a copy where it has no escapes.
fn text(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let inner = bytes.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr(b'\\', inner).is_some() {
        return serde_json::from_slice(bytes).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

fn name_into(name: &mut Vec<u8>, bytes: &[u8]) {
    name.clear();
    name.extend_from_slice(text(bytes).unwrap_or_default().as_bytes());
}

/// The top-level members that are read.
const WANTED: [&[u8]; 8] = [
    b"id",
    b"model",
    b"service_tier",
    b"status",
    b"usage",
    b"error",
    b"incomplete_details",
    b"input_transformations",
];

fn add_value(member: &[u8], bytes: &[u8], facts: &mut Facts) {
    if bytes == b"null" {
        return;
    }
    let text = || text(bytes).map(Cow::into_owned);
    match member {
        b"id" => {
            if let Some(id) = text() {
                facts.add_response_id(id);
            }
        }
        b"model" => facts.model = text(),
        b"service_tier" => facts.service_tier = text(),
        b"status" => {
            facts.outcome = text()
                .and_then(|status| Outcome::of_status(&status))
                .or(facts.outcome)
        }
        b"usage" => {
            facts.usage = serde_json::from_slice(bytes).ok().and_then(Usage::read);
        }
        b"error" => {
            if let Ok(error) = serde_json::from_slice::<ErrorSaid>(bytes) {
                facts.add_error(error);
                facts.outcome.get_or_insert(Outcome::Failed);
            }
        }
        b"input_transformations" => {
            facts.add_transformations(serde_json::from_slice(bytes).unwrap_or_default());
        }
        b"incomplete_details" => {
            if let Ok(IncompleteDetails { reason: Some(reason) }) = serde_json::from_slice(bytes) {
                facts.error_code = Some(reason);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANSWER: &str = r#" {"metadata":{"id":"no"},"id" : "resp_1","object":"response","status":"completed",
        "output":[{"type":"reasoning","id":"rs_1","summary":[{"id":"no"}]},
                  {"content":[{"text":"\"id\":\"no\" } ] \\"}],"id":"msg_1"}],
        "model":"gpt-5.6","big":12345678901234567890123, "error":null, "incomplete_details":null,
        "usage":{"input_tokens":2311,"input_tokens_details":{"cached_tokens":2048,"cache_write_tokens":0},
        "output_tokens":9,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":2320},"service_tier":"default"} "#;

    fn whole(answer: &str) -> (Facts, Passed) {
        let mut facts = Facts::default();
        let passed = Scanner::default().push(Bytes::copy_from_slice(answer.as_bytes()), &mut facts);
        (facts, passed)
    }

    #[test]
    fn an_answer_tells_id_items_model_and_figures() {
        let (facts, passed) = whole(ANSWER);
        assert!(passed.complete);
        assert_eq!(passed.bytes, ANSWER);
        assert_eq!(facts.response_id.as_deref(), Some("resp_1"));
        assert_eq!(facts.items, ["rs_1", "msg_1"]);
        assert_eq!(facts.model.as_deref(), Some("gpt-5.6"));
        assert_eq!(facts.service_tier.as_deref(), Some("default"));
        assert_eq!(facts.outcome, Some(Outcome::Completed));
        assert_eq!(facts.error_code, None);
        let usage = facts.usage.unwrap();
        assert_eq!(
            (usage.input, usage.cached, usage.cache_write),
            (Some(2311), Some(2048), Some(0))
        );
        assert_eq!((usage.output, usage.reasoning), (Some(9), Some(3)));
    }

    #[test]
    fn an_incomplete_answer_says_why() {
        let (facts, _) =
            whole(r#"{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"}}"#);
        assert_eq!(facts.outcome, Some(Outcome::Incomplete));
        assert_eq!(facts.error_code.as_deref(), Some("max_output_tokens"));
    }

    #[test]
    fn a_value_over_the_limit_counts_as_absent() {
        let long = "x".repeat(limits::ANSWER_VALUE_BYTES_MAX);
        let (facts, passed) = whole(&format!(r#"{{"id":"{long}","model":"m"}}"#));
        assert_eq!((facts.response_id, facts.model.as_deref()), (None, Some("m")));
        assert!(passed.complete);
    }

    #[test]
    fn what_is_no_object_passes() {
        for answer in ["[1,2]", "nonsense", "", "\"text\""] {
            let (facts, _) = whole(answer);
            assert_eq!(facts, Facts::default(), "{answer}");
        }
    }

    proptest! {
        #[test]
        fn however_an_answer_is_cut_no_id_leaves_before_it_is_known(
            cuts in proptest::collection::vec(0..ANSWER.len(), 0..30),
        ) {
            let mut cuts = cuts;
            cuts.extend([0, ANSWER.len()]);
            cuts.sort_unstable();
            let mut scanner = Scanner::default();
            let mut facts = Facts::default();
            let mut left = Vec::new();
            let mut completions = 0;
            for pair in cuts.windows(2) {
                let piece = Bytes::copy_from_slice(&ANSWER.as_bytes()[pair[0]..pair[1]]);
                let passed = scanner.push(piece, &mut facts);
                left.extend_from_slice(&passed.bytes);
                completions += u32::from(passed.complete);
                let text = String::from_utf8_lossy(&left);
                for (id, name) in [("resp_1", "\"id\" : \""), ("rs_1", "reasoning\",\"id\":\""), ("msg_1", "}],\"id\":\"")] {
                    let known = facts.response_id.as_deref() == Some(id) || facts.items.iter().any(|item| item == id);
                    // Not even its opening quote.
                    prop_assert!(known || !text.contains(name), "{} in {}", id, text);
                }
            }
            prop_assert!(scanner.rest().is_empty());
            prop_assert_eq!(completions, 1);
            prop_assert_eq!(left, ANSWER.as_bytes());
            prop_assert_eq!(facts, whole(ANSWER).0);
        }
    }
}
