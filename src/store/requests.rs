//! The row of an exchange.

use std::borrow::Cow;

use rusqlite::{Connection, params};
use serde::Serialize;

use crate::account::AccountId;
use crate::affinity::{ConversationId, ReferenceKind};
use crate::price::Cost;
use crate::response::{Outcome, Usage};

/// How the answer travels to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One JSON document.
    Json,
    /// Server-sent events.
    Sse,
    /// Events on a WebSocket.
    Websocket,
}

impl Transport {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Json => "json",
            Transport::Sse => "sse",
            Transport::Websocket => "websocket",
        }
    }
}

/// What became of the references of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Nothing known pointed anywhere.
    None,
    /// It went to the owner.
    Hit,
    /// A preference was not honoured.
    Moved,
    /// A hard reference nobody knows, passed on to the only place that can know it.
    Unknown,
    /// The owner could not serve.
    Refused,
}

impl Affinity {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Affinity::None => "none",
            Affinity::Hit => "hit",
            Affinity::Moved => "moved",
            Affinity::Unknown => "unknown",
            Affinity::Refused => "refused",
        }
    }
}

/// One try of an exchange on one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttemptMade {
    /// Which account was asked.
    #[serde(serialize_with = "as_number")]
    pub account_id: AccountId,
    /// When it began, in milliseconds from the start of the request.
    pub after_ms: i64,
    /// How it failed; nothing as long as it has not.
    #[serde(flatten)]
    pub failed: Option<AttemptFailed>,
}

/// How an attempt failed before anything of it reached the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttemptFailed {
    /// From its begin, in milliseconds.
    pub duration_ms: i64,
    /// How far it came, in a word.
    pub how: &'static str,
    /// The upstream's status, or the one that an event stands for.
    pub status: Option<u16>,
    /// The upstream's error code.
    pub error_code: Option<String>,
}

fn as_number<S: serde::Serializer>(account: &AccountId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(account.0)
}

/// One client request, from arrival to its end. The columns of `requests`, in their order.
#[derive(Debug, Clone)]
pub struct Row {
    /// From [`super::Store::next_request_id`].
    pub id: i64,
    /// When the head of the request had arrived, in milliseconds since 1970 UTC.
    pub started_at_ms: i64,
    /// When the outcome was known.
    pub ended_at_ms: Option<i64>,
    /// Who asked.
    pub client_key_id: Option<i64>,
    /// Who answered, or was asked last.
    pub account: Option<AccountId>,
    /// The chain it belongs to.
    pub conversation: Option<ConversationId>,
    /// The id of the answer.
    pub response_id: Option<String>,
    /// The id that it follows.
    pub previous_response_id: Option<String>,
    /// The path, without ids.
    pub endpoint: Cow<'static, str>,
    /// How the answer travels.
    pub transport: Transport,
    /// The model in the request.
    pub model_asked: Option<String>,
    /// The model in the answer.
    pub model_served: Option<String>,
    /// The tier in the answer, before that the one in the request.
    pub service_tier: Option<String>,
    /// What became of the references.
    pub affinity: Affinity,
    /// Which reference decided.
    pub affinity_by: Option<ReferenceKind>,
    /// How many accounts were tried, with repetition.
    pub attempts: u32,
    /// The HTTP status that the client got.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
    /// The code of the error, ours or the upstream's.
    pub error_code: Option<String>,
    /// Size of the request body as it was read.
    pub request_bytes: Option<u64>,
    /// Size of the answer's body as it was passed on.
    pub response_bytes: Option<u64>,
    /// Items in the input.
    pub input_items: Option<u64>,
    /// The figures, if the upstream told them.
    pub usage: Option<Usage>,
    /// From the start to the first byte for the client, in milliseconds.
    pub first_byte_ms: Option<i64>,
    /// From the start to the first output event, in milliseconds.
    pub first_output_ms: Option<i64>,
    /// From the start to the end, in milliseconds.
    pub duration_ms: Option<i64>,
    /// Time spent in Moorage itself, in microseconds.
    pub overhead_us: Option<i64>,
    /// What it cost, where a price is known.
    pub cost: Option<Cost>,
    /// Whether an earlier state of the row was handed to the writer.
    pub was_written: bool,
    /// Why it went where it went.
    pub reasons: Option<String>,
    /// What became of each attempt.
    pub each_attempt: Vec<AttemptMade>,
}

impl Row {
    /// The row of a request of which nothing is known yet.
    pub fn new(id: i64, started_at_ms: i64, endpoint: impl Into<Cow<'static, str>>) -> Row {
        Row {
            id,
            started_at_ms,
            ended_at_ms: None,
            client_key_id: None,
            account: None,
            conversation: None,
            response_id: None,
            previous_response_id: None,
            endpoint: endpoint.into(),
            transport: Transport::Json,
            model_asked: None,
            model_served: None,
            service_tier: None,
            affinity: Affinity::None,
            affinity_by: None,
            attempts: 0,
            status: None,
            outcome: Outcome::Open,
            error_code: None,
            request_bytes: None,
            response_bytes: None,
            input_items: None,
            usage: None,
            first_byte_ms: None,
            first_output_ms: None,
            duration_ms: None,
            overhead_us: None,
            cost: None,
            was_written: false,
            reasons: None,
            each_attempt: Vec::new(),
        }
    }

    /// The attempts as they are kept; nothing where the row itself tells all of them.
    fn attempts_as_json(&self) -> Option<String> {
        let told = match &self.each_attempt[..] {
            [] => false,
            [only] => only.failed.is_some(),
            _ => true,
        };
        told.then(|| serde_json::to_string(&self.each_attempt).ok())?
    }

    pub(super) fn record(&self, connection: &Connection) -> rusqlite::Result<()> {
        let insert = include_str!("../../sql/queries/insert_request.sql");
        let update = include_str!("../../sql/queries/update_request.sql");
        // Not one statement for both: SQLite would keep a copy of every page that it changes, in case
        // that it has to take the statement back.
        let updated = self.was_written && self.execute(connection, update)? > 0;
        if !updated {
            self.execute(connection, insert)?;
        }
        // What a move lost is seen beside the turn before; few turns move.
        if self.affinity == Affinity::Moved && self.usage.is_some_and(|usage| usage.cached.is_some()) {
            connection
                .prepare_cached(include_str!("../../sql/queries/settle_move.sql"))?
                .execute([self.id])?;
        }
        Ok(())
    }

    fn execute(&self, connection: &Connection, query: &str) -> rusqlite::Result<usize> {
        let usage = self.usage.unwrap_or_default();
        let conversation = self.conversation.map(|conversation| conversation.0.hyphenated());
        let mut buffer = uuid::Uuid::encode_buffer();
        let conversation = conversation.map(|id| &*id.encode_lower(&mut buffer));
        connection.prepare_cached(query)?.execute(params![
            self.id,
            self.started_at_ms,
            self.ended_at_ms,
            self.client_key_id,
            self.account.map(|account| account.0),
            conversation,
            self.response_id,
            self.previous_response_id,
            self.endpoint,
            self.transport.as_str(),
            self.model_asked,
            self.model_served,
            self.service_tier,
            self.affinity.as_str(),
            self.affinity_by.map(ReferenceKind::as_str),
            self.attempts,
            self.status,
            self.outcome.as_str(),
            self.error_code,
            self.request_bytes.map(u64::cast_signed),
            self.response_bytes.map(u64::cast_signed),
            self.input_items.map(u64::cast_signed),
            usage.input,
            usage.cached,
            usage.cache_write,
            usage.output,
            usage.reasoning,
            self.usage.map(|_| "upstream"),
            self.first_byte_ms,
            self.first_output_ms,
            self.duration_ms,
            self.overhead_us,
            self.cost.map(|cost| cost.price_id),
            self.cost.map(|cost| cost.cost_micros),
            self.cost.and_then(|cost| cost.saved_micros),
            self.reasons,
            self.attempts_as_json(),
        ])
    }
}
