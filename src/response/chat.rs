//! A stream of chat completions: chunks without a type, ended by `[DONE]`.

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::events::{Meaning, placed_events};
use super::{Facts, Outcome, Usage, lenient};

/// What a piece of the stream brought.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// What goes on.
    pub bytes: Bytes,
    /// Whether there was output.
    pub output: bool,
    /// Whether the text has ended: figures and `[DONE]` may follow.
    pub finished: bool,
}

/// Reads whole events. Where the client did not ask for figures, the chunk that holds nothing else
/// is taken out again; everything else stays byte for byte.
pub fn read(whole: Bytes, hides_usage: bool, facts: &mut Facts) -> Read {
    let mut read = Read {
        bytes: Bytes::new(),
        output: false,
        finished: false,
    };
    let mut hidden = Vec::new();
    for (place, event) in placed_events(&whole) {
        let data = event.data();
        if data.starts_with(b"[DONE]") {
            facts.outcome.get_or_insert(Outcome::Completed);
            continue;
        }
        // Most chunks are a few letters, and say nothing that is needed here.
        let has = |word: &str| memmem::find(data, word.as_bytes()).is_some();
        let says_more = facts.response_id.is_none()
            || (has("\"usage\"") && !has("\"usage\":null"))
            || (has("\"finish_reason\"") && !has("\"finish_reason\":null"))
            || !has("\"choices\"")
            || has("\"error\"");
        if !says_more {
            read.output = true;
            continue;
        }
        let failed = Meaning::End(Outcome::Failed);
        if event.meaning() == failed {
            event.read_into(failed, facts);
            continue;
        }
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else {
            continue;
        };
        let has_choices = chunk.choices.as_ref().is_some_and(|choices| !choices.is_empty());
        read.output |= has_choices;
        let is_finished = |choice: &Choice| choice.finish_reason.is_some();
        read.finished |= chunk.choices.iter().flatten().any(is_finished);
        let usage = chunk.usage.and_then(Usage::read);
        if hides_usage && usage.is_some() && !has_choices {
            hidden.push(place);
        }
        if let Some(id) = chunk.id {
            facts.add_response_id(id);
        }
        facts.model = chunk.model.or(facts.model.take());
        facts.service_tier = chunk.service_tier.or(facts.service_tier.take());
        facts.usage = usage.or(facts.usage);
    }
    read.bytes = match hidden.is_empty() {
        true => whole,
        false => {
            let mut rest = BytesMut::with_capacity(whole.len());
            let mut position = 0;
            for place in hidden {
                rest.extend_from_slice(&whole[position..place.start]);
                position = place.end;
            }
            rest.extend_from_slice(&whole[position..]);
            rest.freeze()
        }
    };
    read
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(default, deserialize_with = "lenient")]
    id: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    model: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    service_tier: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    choices: Option<Vec<Choice>>,
    #[serde(default, borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    finish_reason: Option<IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        "data: {\"id\":\"chatcmpl-1\",\"model\":\"m\",\"choices\":[{\"delta\":{\"role\":\"assistant\"},\"finish_reason\":null}],\"usage\":null}\n\n",
        "data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":null}],\"usage\":null}\n\n",
        "data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
    );
    const FIGURES: &str = "data: {\"id\":\"chatcmpl-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn told(stream: &str, hides: bool) -> (Facts, Read) {
        let mut facts = Facts::default();
        let read = read(Bytes::copy_from_slice(stream.as_bytes()), hides, &mut facts);
        (facts, read)
    }

    #[test]
    fn a_chat_tells_its_figures_whether_its_client_sees_them_or_not() {
        let whole = [STREAM, FIGURES, DONE].concat();
        for hides in [true, false] {
            let (facts, read) = told(&whole, hides);
            let usage = facts.usage.unwrap();
            assert_eq!(
                (usage.input, usage.cached, usage.output),
                (Some(9), Some(4), Some(2))
            );
            assert_eq!(facts.response_id.as_deref(), Some("chatcmpl-1"));
            assert_eq!(facts.outcome, Some(Outcome::Completed));
            assert!(read.output && read.finished);
            let expected = if hides {
                [STREAM, DONE].concat()
            } else {
                whole.clone()
            };
            assert_eq!(read.bytes, expected);
        }
    }

    #[test]
    fn a_chat_that_is_not_done_has_not_ended() {
        let (facts, read) = told(STREAM, true);
        assert_eq!(facts.outcome, None);
        assert!(read.finished);
    }

    #[test]
    fn an_error_inside_a_stream_fails_it_before_any_output() {
        let (facts, read) = told(
            "data: {\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"x\"}}\n\n",
            true,
        );
        assert_eq!(facts.outcome, Some(Outcome::Failed));
        assert_eq!(facts.error_code.as_deref(), Some("rate_limit_exceeded"));
        assert!(!read.output);
    }
}
