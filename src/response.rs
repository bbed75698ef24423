//! Ids, events and usage, read from what an upstream answers.

pub mod chat;
pub mod document;
pub mod error_forms;
pub mod events;
pub mod gather;
pub mod refusal;
pub mod wording;

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::limits;

pub use error_forms::ErrorSaid;

/// How an exchange ended. One word each in SQL, logs, JSON and page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It runs.
    Open,
    /// `response.completed`, or a whole answer with that status.
    Completed,
    /// `response.incomplete`: cut by a limit of tokens or content.
    Incomplete,
    /// `response.failed` or an `error` event inside a 200 stream.
    Failed,
    /// `response.cancelled`.
    Cancelled,
    /// Accepted in the background.
    Queued,
    /// Refused by Moorage.
    Refused,
    /// Refused by the upstream with an error status.
    Rejected,
    /// The upstream ended without a terminal event, or its connection broke.
    UpstreamCut,
    /// Nothing came in time.
    Timeout,
    /// The client hung up.
    ClientGone,
    /// Moorage was stopped while the exchange ran.
    Shutdown,
}

impl Outcome {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Open => "open",
            Outcome::Completed => "completed",
            Outcome::Incomplete => "incomplete",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
            Outcome::Queued => "queued",
            Outcome::Refused => "refused",
            Outcome::Rejected => "rejected",
            Outcome::UpstreamCut => "upstream_cut",
            Outcome::Timeout => "timeout",
            Outcome::ClientGone => "client_gone",
            Outcome::Shutdown => "shutdown",
        }
    }

    /// The outcome that a response object's `status` stands for.
    fn of_status(status: &str) -> Option<Outcome> {
        match status {
            "completed" => Some(Outcome::Completed),
            "incomplete" => Some(Outcome::Incomplete),
            "failed" => Some(Outcome::Failed),
            "cancelled" => Some(Outcome::Cancelled),
            "queued" | "in_progress" => Some(Outcome::Queued),
            _ => None,
        }
    }
}

/// Token figures as the upstream told them. `input` includes `cached`: never add them up. What was
/// not told is `None`, not zero; servers other than OpenAI's leave the details out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the whole context.
    pub input: Option<i64>,
    /// Those of the input that came from the prompt cache.
    pub cached: Option<i64>,
    /// Those that were written to the prompt cache.
    pub cache_write: Option<i64>,
    /// Tokens of the answer, reasoning included.
    pub output: Option<i64>,
    /// Those of the output that were reasoning.
    pub reasoning: Option<i64>,
}

impl Usage {
    fn read(raw: &RawValue) -> Option<Usage> {
        let usage: UsageObject = serde_json::from_str(raw.get()).ok()?;
        // The words of the Responses API, or else those of chat completions.
        let input_details = usage.input_tokens_details.or(usage.prompt_tokens_details);
        let input_details = input_details.unwrap_or_default();
        let output_details = usage.output_tokens_details.or(usage.completion_tokens_details);
        let output_details = output_details.unwrap_or_default();
        // Some servers write -1 for what they do not know.
        let figure = |told: Option<Figure>| {
            let told = told.map(|Figure(told)| told);
            told.filter(|told| (0..=limits::TOKENS_MAX).contains(told))
        };
        let figures = Usage {
            input: figure(usage.input_tokens.or(usage.prompt_tokens)),
            cached: figure(input_details.cached_tokens),
            cache_write: figure(input_details.cache_write_tokens),
            output: figure(usage.output_tokens.or(usage.completion_tokens)),
            reasoning: figure(output_details.reasoning_tokens),
        };
        (figures != Usage::default()).then_some(figures)
    }
}

/// What has been read of an answer so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The id of the response.
    pub response_id: Option<String>,
    /// The model that served.
    pub model: Option<String>,
    /// The tier that served.
    pub service_tier: Option<String>,
    /// The figures, once told.
    pub usage: Option<Usage>,
    /// How it ended, once told.
    pub outcome: Option<Outcome>,
    /// Whether it ended because something was said to it: another follows by itself.
    pub is_steered: bool,
    /// The code of the error that ended it.
    pub error_code: Option<String>,
    /// What the error says.
    pub error: ErrorSaid,
    /// Ids that the response was told under later. Some gateways end an answer under another id than the
    /// one that it began with; clients may follow either.
    pub other_ids: Vec<String>,
    /// Ids of output items, and of what they use, in order of appearance, each once.
    pub items: Vec<String>,
    /// Digests of what the items hold that only this account can read, each once.
    pub sealed: Vec<[u8; 32]>,
    /// Why the upstream has withheld reasoning from its model, if it has: its `input_transformations`
    /// say so. `organization_mismatch` before anything else: what another account sealed came here.
    pub withheld: Option<String>,
}

impl Facts {
    fn add_item(&mut self, id: String) {
        let known = self.items.contains(&id);
        if !known
            && id.len() <= limits::REFERENCE_BYTES_MAX
            && self.items.len() < limits::ITEMS_PER_RESPONSE_MAX
        {
            self.items.push(id);
        }
    }

    fn add_sealed(&mut self, content: &str) {
        self.add_sealed_digest(Sha256::digest(content).into());
    }

    fn add_sealed_digest(&mut self, digest: [u8; 32]) {
        if !self.sealed.contains(&digest) && self.sealed.len() < limits::ITEMS_PER_RESPONSE_MAX {
            self.sealed.push(digest);
        }
    }

    fn add_whole_item(&mut self, item: ItemObject<'_>) {
        if let Some(id) = item.id {
            self.add_item(id);
        }
        // The container that a tool ran in can be pointed at, too.
        if let Some(id) = item.container_id {
            self.add_item(id);
        }
        if let Some(content) = item.encrypted_content.and_then(|content| text(content.get())) {
            self.add_sealed(&content);
        }
    }

    fn add_response_id(&mut self, id: String) {
        if id.len() > limits::REFERENCE_BYTES_MAX || id.trim().is_empty() {
            return;
        }
        match &self.response_id {
            None => self.response_id = Some(id),
            Some(first) => {
                let is_known = *first == id || self.other_ids.contains(&id);
                if !is_known && self.other_ids.len() < limits::RESPONSE_IDS_MAX {
                    self.other_ids.push(id);
                }
            }
        }
    }

    fn add_error(&mut self, said: ErrorSaid) {
        let code = said.code_or_kind().map(str::to_owned);
        self.error_code = code.or(self.error_code.take());
        self.error = said.or(std::mem::take(&mut self.error));
    }

    fn add_transformations(&mut self, transformations: Vec<Transformation>) {
        let reasons = transformations.into_iter().filter_map(|told| told.reason);
        for reason in reasons {
            if self.withheld.is_none() || reason == WRONG_ACCOUNT {
                self.withheld = Some(reason);
            }
        }
    }

    fn add_response(&mut self, response: ResponseObject<'_>) {
        if let Some(id) = response.id {
            self.add_response_id(id);
        }
        self.model = response.model.or(self.model.take());
        self.service_tier = response.service_tier.or(self.service_tier.take());
        self.usage = response.usage.and_then(Usage::read).or(self.usage);
        if let Some(error) = response.error {
            self.add_error(error);
        }
        if let Some(reason) = response.incomplete_details.and_then(|details| details.reason) {
            self.error_code = Some(reason);
        }
        for item in response.output.unwrap_or_default() {
            self.add_whole_item(item);
        }
        self.add_transformations(response.input_transformations.unwrap_or_default());
    }
}

/// A text without its quotes, and without a copy where it has no escapes; `None` for anything else.
fn text(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    match inner.contains('\\') {
        true => serde_json::from_str(raw).ok().map(Cow::Owned),
        false => Some(Cow::Borrowed(inner)),
    }
}

/// A field that counts as absent where it has another type than expected: other servers than
/// OpenAI's speak this protocol, each with its own accent.
fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let raw: &RawValue = Deserialize::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).ok())
}

/// A code: text, or a number as vLLM writes it.
struct Word(String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: &RawValue = Deserialize::deserialize(deserializer)?;
        match serde_json::from_str(raw.get()) {
            Ok(text) => Ok(Word(text)),
            Err(_) if raw.get().parse::<i64>().is_ok() => Ok(Word(raw.get().to_owned())),
            Err(_) => Err(serde::de::Error::custom("neither text nor number")),
        }
    }
}

/// A count: a whole number, also where it is written as `64.0`.
struct Figure(i64);

impl<'de> Deserialize<'de> for Figure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: &RawValue = Deserialize::deserialize(deserializer)?;
        if let Ok(whole) = raw.get().parse::<i64>() {
            return Ok(Figure(whole));
        }
        let number: f64 = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
        match number.fract() == 0.0 && number.abs() < 9e15 {
            true => Ok(Figure(number as i64)),
            false => Err(serde::de::Error::custom("no whole number")),
        }
    }
}

#[derive(Deserialize, Default)]
struct UsageObject {
    #[serde(default, deserialize_with = "lenient")]
    input_tokens: Option<Figure>,
    #[serde(default, deserialize_with = "lenient")]
    input_tokens_details: Option<InputDetails>,
    #[serde(default, deserialize_with = "lenient")]
    output_tokens: Option<Figure>,
    #[serde(default, deserialize_with = "lenient")]
    output_tokens_details: Option<OutputDetails>,
    #[serde(default, deserialize_with = "lenient")]
    prompt_tokens: Option<Figure>,
    #[serde(default, deserialize_with = "lenient")]
    prompt_tokens_details: Option<InputDetails>,
    #[serde(default, deserialize_with = "lenient")]
    completion_tokens: Option<Figure>,
    #[serde(default, deserialize_with = "lenient")]
    completion_tokens_details: Option<OutputDetails>,
}

#[derive(Deserialize, Default)]
struct InputDetails {
    #[serde(default, deserialize_with = "lenient")]
    cached_tokens: Option<Figure>,
    #[serde(default, deserialize_with = "lenient")]
    cache_write_tokens: Option<Figure>,
}

#[derive(Deserialize, Default)]
struct OutputDetails {
    #[serde(default, deserialize_with = "lenient")]
    reasoning_tokens: Option<Figure>,
}

#[derive(Deserialize)]
struct ResponseObject<'a> {
    #[serde(default, deserialize_with = "lenient")]
    id: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    model: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    service_tier: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    error: Option<ErrorSaid>,
    #[serde(default, deserialize_with = "lenient")]
    incomplete_details: Option<IncompleteDetails>,
    #[serde(default, borrow, deserialize_with = "lenient")]
    output: Option<Vec<ItemObject<'a>>>,
    #[serde(default, borrow)]
    usage: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "lenient")]
    input_transformations: Option<Vec<Transformation>>,
}

/// What an upstream did to an item of the input before its model got it.
#[derive(Deserialize)]
struct Transformation {
    #[serde(default, deserialize_with = "lenient")]
    reason: Option<String>,
}

/// The reason of a transformation that says that a conversation came to the wrong account.
const WRONG_ACCOUNT: &str = "organization_mismatch";

#[derive(Deserialize)]
struct IncompleteDetails {
    #[serde(default, deserialize_with = "lenient")]
    reason: Option<String>,
}

#[derive(Deserialize)]
struct ItemObject<'a> {
    #[serde(default, deserialize_with = "lenient")]
    id: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    container_id: Option<String>,
    #[serde(default, borrow, deserialize_with = "lenient")]
    encrypted_content: Option<&'a RawValue>,
}
