//! The story of one exchange: one client request, from arrival to its row.
//!
//! Find what the request points with, look up who owns that, decide, lease an account, send; and
//! when an attempt fails before anything of it reached the client, perhaps again. What happens to
//! the answer is told in [`answer`].

pub mod answer;
mod asking;
mod attempt;
pub mod client;
pub mod explain;
pub mod lists;
pub mod models;
mod record;
pub mod references;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};

use crate::account::{AccountId, Kind};
use crate::affinity::{self, AccountView, ConversationId, Decision, Plan, ReferenceKind, Strip, Terms};
use crate::clock::now_ms;
use crate::error::Error;
use crate::limits;
use crate::metrics::Metrics;
use crate::pool::{Changed, Lease, NoLease, Pool, Ticket, Wish};
use crate::price::Prices;
use crate::request::endpoint::{Api, Endpoint, Role};
use crate::request::{self, Envelope, Fill, Unreadable};
use crate::response::refusal::{LOST, MODEL_NOT_FOUND};
use crate::retry::{self, Next, Spent};
use crate::store::requests::{Affinity, Transport};
use crate::store::{Lifetimes, StandingRow, Store, Work};
use crate::upstream::headers;
use crate::upstream::http::{Outgoing, OutgoingBody, Upstream};
use crate::upstream::passing::Passing;

use answer::Answer;
pub use asking::Unfound;
use attempt::{Attempt, Failed, Reads};
pub use models::Models;
pub use record::Record;
use references::{Located, ToRemember};

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
    /// Which account has which model.
    pub models: Models,
    /// What was asked for and not found.
    pub unfound: Unfound,
    /// Set when the gateway is told to stop.
    pub stopping: AtomicBool,
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
    /// What tokens cost.
    pub prices: Prices,
    /// The currency of that, as it is shown.
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
    /// The body, decompressed.
    pub body: Content,
}

/// The body of a request.
#[derive(Debug, Clone)]
pub enum Content {
    /// Read whole.
    Whole(Bytes),
    /// Passed on while it comes: what it holds is not looked at.
    Passing(Passing),
}

impl Content {
    fn whole(&self) -> &Bytes {
        static EMPTY: Bytes = Bytes::new();
        match self {
            Content::Whole(bytes) => bytes,
            Content::Passing(_) => &EMPTY,
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
pub async fn run(gateway: &Arc<Gateway>, mut record: Record, question: Question) -> Result<Answer, Refused> {
    match Box::pin(converse(gateway, question, &mut record)).await {
        Ok((attempt, remember)) => answer::begin(gateway.clone(), record, attempt, remember).await,
        Err(error) => Err((error, record)),
    }
}

/// Why there is no answer, and the record of the exchange.
pub type Refused = (Error, Record);

/// Up to an attempt whose answer can be passed on, and what is to be remembered of it.
async fn converse(
    gateway: &Arc<Gateway>,
    question: Question,
    record: &mut Record,
) -> Result<(Attempt, ToRemember), Error> {
    let body_read = Instant::now();
    if gateway.settings.refuse_without_store && gateway.store.trouble().is_some() {
        return Err(Error::StoreUnavailable);
    }
    let envelope = read_envelope(&question)?;
    record.describe(&question, &envelope);
    record.check_model(envelope.model.as_deref())?;
    let mut located = references::locate(gateway, &question, &envelope).await?;
    asking::shield(gateway, &question, &located, record).await?;
    let known_conversation = affinity::conversation(&located.found, envelope.has_history);
    let conversation = known_conversation.unwrap_or_default();
    if question.endpoint.api().is_some() {
        record.row().conversation = Some(conversation);
    }

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
        began: body_read,
        faults: 0,
        tried: Vec::new(),
        waited: Duration::ZERO,
        last: None,
    };
    let (attempt, planned) = loop {
        let planned = turn.plan(record).await?;
        let lease = match turn.lease(&planned, record).await {
            Ok(Some(lease)) => lease,
            Ok(None) => break (turn.give_up(&planned, record)?, planned),
            // What only the owner can read is left out, and the request goes elsewhere.
            Err(_) if planned.yields() => {
                turn.terms.without_reasoning = true;
                continue;
            }
            // What an account answered says more than that no other can be asked.
            Err(_) if turn.has_answer() => break (turn.give_up(&planned, record)?, planned),
            Err(error) => return Err(error),
        };
        record.attempt(&lease, &planned);
        let outgoing = outgoing(
            &question,
            &envelope,
            lease.account().kind,
            conversation,
            planned.strip,
        );
        record.add_overhead(
            body_read.elapsed().saturating_sub(turn.waited),
            turn.last.is_none(),
        );
        let movable = !matches!(planned.decision, Decision::Pinned(_));
        let sent = attempt::send(gateway, lease, outgoing, turn.reads(), movable).await;
        match sent {
            Ok(attempt) => {
                gateway.pool.answered(attempt.account.id);
                break (attempt, planned);
            }
            Err(failed) => {
                if let Some(attempt) = turn.failed(failed, &planned, record).await? {
                    break (attempt, planned);
                }
            }
        }
    };
    let account = attempt.account.id;
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
    Ok((attempt, remember))
}

/// What a request says of itself. Where a model is asked, it must be an object; elsewhere any body
/// passes, and what looks like an id in it is looked up.
fn read_envelope(question: &Question) -> Result<Envelope, Error> {
    let body = question.body.whole();
    if question.endpoint.api().is_none() {
        let mut envelope = Envelope::read(body).unwrap_or_default();
        envelope.ids = request::mentioned(body).map_err(unreadable)?;
        let in_path = question.endpoint.mentioned.iter();
        envelope.ids.extend(in_path.map(|id| request::Named {
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

fn unreadable(error: Unreadable) -> Error {
    match error {
        Unreadable::NotAnObject(error) => Error::BadJson {
            message: error.message,
            line: error.line,
            column: error.column,
        },
        Unreadable::Extravagant(how) => Error::Extravagant(how),
    }
}

/// The request as this account gets it: the client's bytes, what the client left out, and without
/// what the account cannot read.
fn outgoing(
    question: &Question,
    envelope: &Envelope,
    kind: Kind,
    conversation: ConversationId,
    strip: Strip,
) -> Outgoing {
    let api = question.endpoint.api();
    let body = match &question.body {
        Content::Passing(body) => OutgoingBody::Passing(body.clone()),
        Content::Whole(body) => {
            let cache_key = conversation.0.hyphenated().to_string();
            let stores = envelope.store.unwrap_or(true);
            let mut splices = match api {
                None => Vec::new(),
                Some(api) => envelope.fill_in(Fill {
                    cache_key: api.takes_cache_key().then_some(cache_key.as_str()),
                    sealed_reasoning: api == Api::Responses && kind.wants_sealed_reasoning(stores),
                    usage: api.is_chat(),
                }),
            };
            splices.extend(request::without_reasoning(body, strip));
            splices.sort_by_key(|splice| splice.range.start);
            OutgoingBody::Pieces(request::spliced(body, splices))
        }
    };
    let path_and_query = match &question.query {
        Some(query) => format!("{}?{query}", question.path),
        None => question.path.clone(),
    };
    Outgoing {
        method: question.method.clone(),
        path_and_query,
        headers: headers::for_upstream(&question.headers),
        body,
    }
}

/// The attempts of one exchange.
struct Turn<'a> {
    gateway: &'a Arc<Gateway>,
    question: &'a Question,
    envelope: &'a Envelope,
    located: &'a mut Located,
    terms: Terms,
    /// Whether a new conversation begins.
    begins: bool,
    began: Instant,
    /// Attempts that failed by a fault of transport or server.
    faults: u32,
    tried: Vec<AccountId>,
    waited: Duration,
    /// What the last attempt that failed would tell the client.
    last: Option<Failed>,
}

impl Turn<'_> {
    /// Decides. A hard reference that nobody knows is asked for first.
    async fn plan(&mut self, record: &mut Record) -> Result<Plan, Error> {
        loop {
            let accounts = self.gateway.view(self.envelope.model.as_deref());
            let found = &self.located.found;
            let plan = affinity::plan(found, &accounts, self.terms);
            record.planned(&plan, affinity::short(&plan, found, &accounts));
            match plan.decision {
                Decision::Unknown(position) => {
                    record.row().affinity = Affinity::Unknown;
                    asking::find_owner(self.gateway, self.question, self.located, position).await?;
                }
                Decision::Conflict(first, second) => {
                    record.row().affinity = Affinity::Refused;
                    return Err(self.located.conflict(first, second, &accounts));
                }
                Decision::OwnerGone(account) => {
                    record.row().affinity = Affinity::Refused;
                    record.row().account = Some(account);
                    return Err(Error::Unavailable {
                        account: None,
                        reason: "the account that holds this conversation was removed".to_owned(),
                    });
                }
                _ => return Ok(plan),
            }
        }
    }

    /// How the answer is read.
    fn reads(&self) -> Reads {
        let stream = self.envelope.stream;
        match self.question.endpoint.role {
            Role::Generate(api) if api.is_chat() => Reads::Chat {
                stream,
                hides_usage: self.envelope.lacks_usage(),
            },
            Role::Generate(_) => Reads::Response { stream },
            Role::Create => Reads::Object,
            _ if self.question.is_retrieval() => Reads::Response {
                stream: self.question.asks_for_stream(),
            },
            Role::Other if self.question.method == Method::POST => Reads::Object,
            _ => Reads::Nothing,
        }
    }

    /// Leases an account, waiting a bounded time for a cooldown, or in line for a free place.
    /// `None` if all that may serve have been tried.
    async fn lease(&mut self, plan: &Plan, record: &mut Record) -> Result<Option<Lease>, Error> {
        let mut ticket: Option<Ticket> = None;
        loop {
            let pool = &self.gateway.pool;
            let freed = pool.freed();
            let now = now_ms();
            let none = match pool.lease(&self.wish(plan), ticket.as_ref(), now) {
                Ok(lease) => return Ok(Some(lease)),
                Err(NoLease::Tried) => return Ok(None),
                Err(none) => none,
            };
            let patience = self.gateway.settings.pin_wait.saturating_sub(self.waited);
            let begin = Instant::now();
            let wait = match &none {
                NoLease::CoolingDown { until_ms, .. } => {
                    Some(until(*until_ms, now)).filter(|wait| *wait <= patience)
                }
                NoLease::Full { .. } if !patience.is_zero() => {
                    ticket = ticket.or_else(|| pool.stand_in_line(&self.wish(plan)));
                    ticket.is_some().then_some(patience)
                }
                _ => None,
            };
            let Some(wait) = wait else {
                record.row().affinity = match plan.decision {
                    Decision::Pinned(_) => Affinity::Refused,
                    _ => record.row().affinity,
                };
                return Err(no_lease(none, now));
            };
            // Whatever it waits for: a person may change the accounts meanwhile.
            tokio::time::timeout(wait, freed).await.ok();
            self.waited += begin.elapsed();
        }
    }

    fn wish<'b>(&'b self, plan: &'b Plan) -> Wish<'b> {
        Wish {
            decision: &plan.decision,
            tried: &self.tried,
            model: self.envelope.model.as_deref(),
            without_model: &plan.without_model,
            begins: self.begins,
        }
    }

    /// Takes note of a failure and decides. Gives the failed attempt's answer if the client is to
    /// have it; nothing if another attempt is to be made.
    async fn failed(
        &mut self,
        failed: Failed,
        plan: &Plan,
        record: &mut Record,
    ) -> Result<Option<Attempt>, Error> {
        let pinned = matches!(plan.decision, Decision::Pinned(_));
        if failed.seal_is_unreadable && plan.strip != Strip::All && !self.envelope.sealed.is_empty() {
            self.terms.without_reasoning = true;
            self.last = Some(failed);
            return Ok(None);
        }
        if failed.code.as_deref() == Some(MODEL_NOT_FOUND) && !pinned && self.may_try_another(record) {
            if let Some(model) = &self.envelope.model {
                self.gateway.models.refused(failed.account.id, model, now_ms());
            }
            self.tried.push(failed.account.id);
            self.last = Some(failed);
            return Ok(None);
        }
        // An account that is limited is kept away by its status, and may be asked again after it.
        if failed.signal.is_none() {
            self.tried.push(failed.account.id);
        }
        let pool = &self.gateway.pool;
        match failed.failure.is_fault() {
            true => {
                self.faults += 1;
                pool.fault(failed.account.id, now_ms());
            }
            false => pool.answered(failed.account.id),
        }
        if let Some(signal) = failed.signal.clone()
            && let Some(changed) = pool.note(
                failed.account.id,
                &signal.of_model(self.envelope.model.as_deref()),
                now_ms(),
            )
        {
            tracing::warn!(
                account = failed.account.name,
                status = changed.standing.word(failed.account.switch, now_ms()),
                code = failed.code,
                "account status changed"
            );
            self.gateway.metrics.met_limit(true);
            let work = Work {
                standing: Some(standing_row(changed)),
                ..Work::default()
            };
            self.gateway.store.write(work).await.ok();
        }
        self.forget_lost_response(&failed).await;
        let spent = Spent {
            attempts: record.row().attempts,
            faults: self.faults,
            time: self.began.elapsed(),
        };
        let next = retry::next(failed.failure, pinned, spent);
        self.last = Some(failed);
        match next {
            Next::Again => Ok(None),
            Next::GiveUp => self.give_up(plan, record).map(Some),
        }
    }

    /// Another account may have the model, whatever their lists say.
    fn may_try_another(&mut self, record: &mut Record) -> bool {
        record.row().attempts < limits::ATTEMPTS_MAX && self.tried.len() + 1 < self.gateway.pool.len()
    }

    /// Whether the last failure is one that the client can be told as it is.
    fn has_answer(&self) -> bool {
        self.last.as_ref().is_some_and(|failed| failed.signal.is_none())
    }

    /// What the last failure tells the client: the upstream's own answer, unless that speaks of
    /// the account's credential or limits, which are not the client's.
    fn give_up(&mut self, plan: &Plan, record: &mut Record) -> Result<Attempt, Error> {
        let Some(failed) = self.last.take() else {
            return Err(Error::NoAccounts);
        };
        record.row().error_code = failed.code;
        if failed.signal.is_none() {
            return failed.attempt.map_err(|error| *error);
        }
        let now = now_ms();
        let soon = NoLease::CoolingDown {
            account: None,
            until_ms: now + 1000,
        };
        Err(match self.gateway.pool.lease(&self.wish(plan), None, now) {
            Err(none) => no_lease(none, now),
            // One has come back in this moment, or there are more of them than attempts.
            Ok(_) => no_lease(soon, now),
        })
    }

    /// The owner itself says that it does not hold the response any more: so it is unknown.
    async fn forget_lost_response(&self, failed: &Failed) {
        if let (Some(digest), Some(LOST)) =
            (references::followed(&self.located.found), failed.code.as_deref())
        {
            let work = Work {
                forget: Some(digest),
                ..Work::default()
            };
            self.gateway.store.write(work).await.ok();
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

fn until(until_ms: i64, now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(until_ms - now_ms).unwrap_or(0))
}

fn no_lease(none: NoLease, now_ms: i64) -> Error {
    match none {
        NoLease::NoAccounts | NoLease::Tried => Error::NoAccounts,
        NoLease::CoolingDown { account, until_ms } => Error::CoolingDown {
            account,
            retry_after: until(until_ms, now_ms),
        },
        NoLease::Full { account } => Error::Busy { account },
        NoLease::Unavailable { account, reason } => Error::Unavailable { account, reason },
    }
}

impl Gateway {
    /// How the accounts look to the planner for a request of this model.
    pub fn view(&self, model: Option<&str>) -> Vec<AccountView> {
        let now = now_ms();
        let mut accounts = self.pool.view(model, now);
        if let Some(model) = model {
            for view in &mut accounts {
                view.offers_model = self.models.offers(view.account.id, model, now);
            }
        }
        accounts
    }

    /// Whether the gateway has been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
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
            true => Transport::Sse,
            false => Transport::Json,
        }
    }
}
