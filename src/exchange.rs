//! The story of one exchange: one client request, from arrival to its row.
//!
//! Find what the request points with, look up who owns that, decide, lease an account, send; and
//! when an attempt fails before anything of it reached the client, perhaps again. What happens to
//! the answer is told in [`answer`].

pub mod answer;
mod asking;
mod attempt;
pub mod client;
mod codex;
pub mod connection;
pub mod explain;
pub mod kept;
pub mod lists;
pub mod logins;
pub mod models;
mod over_socket;
mod reader;
mod record;
pub mod references;
mod turn;
mod way;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};
use tokio::sync::watch;

use crate::affinity::{self, Accounts, ConnectionId, ReferenceKind, Terms};
use crate::clock::now_ms;
use crate::error::Error;
use crate::limits;
use crate::metrics::Metrics;
use crate::pool::{Changed, Pool};
use crate::price::Prices;
use crate::request::endpoint::{Endpoint, Role};
use crate::request::{self, Envelope, Named, Unreadable};
use crate::store::requests::{Affinity, Transport};
use crate::store::{Lifetimes, StandingRow, Store};
use crate::upstream::http::Upstream;
use crate::upstream::passing::Passing;

use answer::Answer;
pub use asking::{Unfound, is_anyones};
use attempt::Attempt;
pub use codex::TurnStates;
pub use connection::Connections;
use connection::{Keeping, Lost, OnConnection};
pub use kept::Kept;
pub use models::Models;
pub use over_socket::HttpOnly;
pub use record::Record;
use references::{Located, ToRemember};
use turn::Turn;
use way::{Held, Setting};

/// What a running gateway is made of, as an exchange sees it.
#[derive(Debug)]
pub struct Gateway {
    /// The database.
    pub store: Store,
    /// The accounts.
    pub pool: Arc<Pool>,
    /// The way to them.
    pub upstream: Upstream,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// How it was set up.
    pub settings: Settings,
    /// What tokens cost; read again with the configuration.
    pub prices: RwLock<Arc<Prices>>,
    /// Which account has which model.
    pub models: Models,
    /// What was asked for and not found.
    pub unfound: Unfound,
    /// Which accounts speak HTTP only.
    pub http_only: HttpOnly,
    /// Whose the states of turns are.
    pub turn_states: TurnStates,
    /// The clients' WebSockets.
    pub connections: Connections,
    /// The connections that are kept for clients over HTTP.
    pub kept: Kept,
    /// Set when the gateway is told to stop.
    pub stopping: watch::Sender<bool>,
}

/// The settings that an exchange needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long things are kept.
    pub lifetimes: Lifetimes,
    /// How long conversations, files and other things are known after their last use.
    pub object_ttl: Duration,
    /// How long a preference is served elsewhere before it moves there.
    pub detour_max: Duration,
    /// Whether accounts are asked for an id that nobody knows.
    pub ask_around: bool,
    /// How long a request waits for a cooldown or a free place.
    pub pin_wait: Duration,
    /// The headers that name a session, the first that is there counts.
    pub session_headers: Vec<HeaderName>,
    /// The time between two pieces of an answer.
    pub upstream_idle: Duration,
    /// The silence of an upstream after which a comment goes into an open stream.
    pub stream_comment: Duration,
    /// How long a WebSocket to an account is used.
    pub socket_age: Duration,
    /// How long one is kept for a client over HTTP that does not use it.
    pub socket_idle: Duration,
    /// The currency of the prices, as it is shown.
    pub currency: String,
    /// Whether a request is refused while the database cannot be written.
    pub refuse_without_store: bool,
}

/// A request as it came from a client.
#[derive(Debug)]
pub struct Question {
    /// Whose conversations the client can see.
    pub scope: String,
    /// Whether every client key is of this scope.
    pub one_scope: bool,
    /// The client's method.
    pub method: Method,
    /// What its path means.
    pub endpoint: Endpoint,
    /// The path after `/v1`, as the client wrote it.
    pub path: String,
    /// The query, without its question mark.
    pub query: Option<String>,
    /// All headers of the client.
    pub headers: HeaderMap,
    /// The body, decompressed; on a WebSocket, the event.
    pub body: Content,
    /// The WebSocket that it came over.
    pub on: Option<OnConnection>,
}

/// The body of a request.
#[derive(Debug, Clone)]
pub enum Content {
    /// Read whole.
    Whole(Bytes),
    /// Passed on while it comes.
    Passing {
        /// What comes.
        body: Passing,
        /// What its first fields point with.
        ids: Vec<Named>,
    },
}

impl Content {
    fn whole(&self) -> &Bytes {
        static EMPTY: Bytes = Bytes::new();
        match self {
            Content::Whole(bytes) => bytes,
            Content::Passing { .. } => &EMPTY,
        }
    }
}

/// What the client is told about the routing, in headers.
#[derive(Debug, Clone)]
pub struct Routing {
    /// The row of the exchange.
    pub request_id: i64,
    /// Who answered, or was asked last.
    pub account: Option<String>,
    /// Outcome and reason, as in `hit; by=previous_response_id`.
    pub affinity: String,
}

/// Runs one exchange up to the first bytes of its answer; they, and the rest, are in the answer's
/// body. Whatever happens, the exchange leaves one row.
///
/// # Errors
/// If no upstream's answer can be passed on. The record comes back, for the row to say what the
/// client is told.
pub async fn run(
    gateway: &Arc<Gateway>,
    mut record: Record,
    question: Box<Question>,
) -> Result<Answer, Refused> {
    match Box::pin(converse(gateway, question, &mut record)).await {
        Ok(begun) => answer::begin(gateway.clone(), record, begun).await,
        Err(error) => Err((error, record)),
    }
}

/// Why there is no answer, and the record of the exchange.
pub type Refused = (Error, Record);

/// An attempt whose answer can be passed on, and what is to be remembered of it.
struct Begun {
    attempt: Attempt,
    remember: ToRemember,
    keeping: Option<Box<Keeping>>,
}

/// Up to an attempt whose answer can be passed on.
async fn converse(
    gateway: &Arc<Gateway>,
    question: Box<Question>,
    record: &mut Record,
) -> Result<Begun, Error> {
    let body_read = Instant::now();
    if gateway.settings.refuse_without_store && gateway.store.trouble().is_some() {
        return Err(Error::StoreUnavailable);
    }
    let envelope = read_envelope(&question)?;
    record.describe(&question, &envelope);
    record.check_model(envelope.model.as_deref())?;
    let mut located = references::locate(gateway, &question, &envelope).await?;
    let known_conversation = affinity::conversation(&located.found, envelope.has_history);
    let conversation = known_conversation.unwrap_or_default();
    if question.endpoint.api().is_some() {
        record.row().conversation = Some(conversation);
    }
    let held = match Held::find(gateway, &question, &located).await {
        Ok(held) => held,
        Err(lost) => return Err(told_as_lost(gateway, &located, lost, record)),
    };
    asking::shield(gateway, &question, &located, record).await?;

    let mut owed = None;
    if question.is_retrieval() {
        owed = references::owed(gateway, &question).await;
        record.tells(owed.is_some());
        record.row().conversation = known_conversation.filter(|_| owed.is_some());
    }

    let mut turn = Turn {
        gateway,
        question: &question,
        envelope: &envelope,
        located: &mut located,
        terms: Terms {
            one_scope: question.one_scope,
            without_reasoning: false,
        },
        begins: known_conversation.is_none(),
        hides_quota: !record.shows_quota(),
        began: body_read,
        faults: 0,
        tried: Vec::new(),
        refused: Vec::new(),
        waited: Duration::ZERO,
        last: None,
    };
    let setting = Setting {
        question: &question,
        envelope: &envelope,
        conversation,
        held: held.as_ref(),
        speaks_websocket: false,
        turn_state: None,
    };
    let (attempt, planned) = match turn.attempts(setting, record).await {
        Ok(done) => done,
        Err(error) => return Err(told_on_connection(error, &question, held.as_ref(), record)),
    };
    let account = &attempt.account;
    let (mut remember, moves) = references::to_remember(
        gateway,
        &question,
        &envelope,
        &located,
        &planned,
        account,
        conversation,
    );
    remember.owed = owed;
    record.moves(moves && attempt.status.is_success());
    let is_stored = account.kind.stores(envelope.store);
    let by_socket = attempt.socket.filter(|_| !is_stored);
    let over_http = attempt.status.is_success() && attempt.socket.is_none();
    let keeping = setting
        .keeping(account.kind, planned.strip)
        .filter(|_| over_http)
        .map(Box::new);
    let here = keeping
        .as_ref()
        .and(question.on.as_ref())
        .map(|on| on.connection.id);
    remember.connection = by_socket.or(here);
    Ok(Begun {
        attempt,
        remember,
        keeping,
    })
}

/// What a request says of itself. Where a model is asked, it must be an object; elsewhere any body
/// passes, and what looks like an id in it is looked up.
fn read_envelope(question: &Question) -> Result<Envelope, Error> {
    let body = question.body.whole();
    if question.endpoint.api().is_none() {
        let mut envelope = Envelope::read(body).unwrap_or_default();
        envelope.model = envelope.model.or_else(|| question.endpoint.model.clone());
        envelope.ids = match &question.body {
            Content::Whole(body) => request::mentioned(body).map_err(unreadable)?,
            Content::Passing { ids, .. } => ids.clone(),
        };
        let in_path = question.endpoint.mentioned.iter();
        envelope.ids.extend(in_path.map(|id| Named {
            kind: ReferenceKind::Mentioned,
            id: id.clone(),
        }));
        return Ok(envelope);
    }
    let envelope = Envelope::read(body).map_err(unreadable)?;
    let too_long = |value: &str| value.len() > limits::REFERENCE_BYTES_MAX;
    for (parameter, value) in [
        ("previous_response_id", &envelope.previous_response_id),
        ("conversation", &envelope.conversation),
        ("prompt_cache_key", &envelope.prompt_cache_key),
    ] {
        if value.as_deref().is_some_and(too_long) {
            return Err(Error::InvalidReference { parameter });
        }
    }
    if envelope.ids.iter().any(|named| too_long(&named.id)) {
        return Err(Error::InvalidReference { parameter: "input" });
    }
    Ok(envelope)
}

/// What a client is told of a body that cannot be read.
pub fn unreadable(error: Unreadable) -> Error {
    match error {
        Unreadable::NotAnObject(error) => Error::BadJson {
            message: error.message,
            line: error.line,
            column: error.column,
        },
        Unreadable::Extravagant(how) => Error::Extravagant(how),
    }
}

/// Nothing holds any more what one connection alone held. The row says why.
fn told_as_lost(gateway: &Gateway, located: &Located, lost: Lost, record: &mut Record) -> Error {
    let kind = ReferenceKind::Response;
    let owner = located.found.iter().find(|found| found.kind() == kind);
    let accounts = gateway.view(None);
    let account = owner
        .and_then(|found| found.owner)
        .and_then(|owner| accounts.name(owner.account));
    let row = record.row();
    row.affinity = Affinity::Refused;
    row.affinity_by = Some(kind);
    row.add_reason(&format!("{}->{}", kind.as_str(), account.unwrap_or("unknown")));
    row.add_reason(&lost.reason());
    Error::PreviousResponseNotFound(row.previous_response_id.clone().unwrap_or_default())
}

/// What one connection alone holds goes with it. On a WebSocket an account that cannot serve is told
/// in the same way: nobody else can go on with it, and such a client can send all of it again.
fn told_on_connection(error: Error, question: &Question, held: Option<&Held>, record: &mut Record) -> Error {
    let is_lost = matches!(error, Error::PreviousResponseNotFound(_)) && held.is_some();
    let limited = matches!(error, Error::CoolingDown { .. } | Error::Unavailable { .. });
    let is_over = limited && held.is_some() && question.on.is_some();
    match record.row().previous_response_id.clone() {
        Some(id) if is_lost || is_over => {
            let lost = match is_lost {
                true => Lost::ConnectionEnded,
                false => Lost::AccountLimited,
            };
            let row = record.row();
            row.affinity = Affinity::Refused;
            row.add_reason(&lost.reason());
            Error::PreviousResponseNotFound(id)
        }
        _ => error,
    }
}

impl Gateway {
    /// How the accounts look to the planner for a request of this model.
    pub fn view(&self, model: Option<&str>) -> Accounts {
        let now = now_ms();
        let mut accounts = self.pool.view(model, now);
        if let Some(model) = model {
            for view in &mut accounts.here {
                view.offers_model = self.models.offers(view.account.id, model, now);
            }
        }
        accounts
    }

    /// What tokens cost now.
    pub fn prices(&self) -> Arc<Prices> {
        self.prices.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Rows that end from now on keep these prices; those that are written keep theirs.
    pub fn replace_prices(&self, prices: Prices) {
        *self.prices.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(prices);
    }

    /// Whether a connection that holds responses is open: a client's, or one to an account.
    pub(super) fn has_connection(&self, id: ConnectionId) -> bool {
        self.connections.has(id) || self.upstream.has_socket(id)
    }

    /// Whether the gateway has been told to stop.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }
}

impl Question {
    /// Whether it asks for a response as it stands. What that tells was counted when it was made.
    fn is_retrieval(&self) -> bool {
        self.endpoint.role == Role::Use && self.endpoint.name == "/responses/{id}"
    }

    /// Whether the answer of a request that has no body is to be a stream.
    fn asks_for_stream(&self) -> bool {
        self.query_value("stream") == Some("true")
    }

    /// A value of the query, as it is written.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        let pairs = self.query.as_deref().unwrap_or_default().split('&');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// How the answer will travel.
    fn transport(&self, envelope: &Envelope) -> Transport {
        match envelope.stream || self.asks_for_stream() {
            _ if self.on.is_some() => Transport::Websocket,
            true => Transport::Sse,
            false => Transport::Json,
        }
    }
}

/// A new standing of an account, as it is written down.
fn standing_row(changed: Changed) -> Box<StandingRow> {
    let Changed {
        account,
        revision,
        sequence,
        standing,
    } = changed;
    Box::new(StandingRow {
        account,
        revision,
        sequence,
        standing,
    })
}
