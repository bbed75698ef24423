//! One try of an exchange on one account, up to the point where its answer can be passed on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::account::{Account, AccountId, Kind, Signal};
use crate::affinity::ConnectionId;
use crate::clock::now_ms;
use crate::error::Error;
use crate::limits;
use crate::pool::Lease;
use crate::quota::Quota;
use crate::response::chat;
use crate::response::document::Scanner;
use crate::response::events::{self, Meaning, Splitter};
use crate::response::gather::Gathering;
use crate::response::refusal::Refusal;
use crate::response::{Facts, Outcome, wording};
use crate::retry::Failure;
use crate::store::Work;
use crate::upstream::http::{Incoming, IncomingBody, SendError};

use super::way::Way;
use super::{Gateway, over_socket, standing_row};

/// An attempt whose answer can be passed on.
#[derive(Debug)]
pub struct Attempt {
    /// The account that answers.
    pub account: Arc<Account>,
    /// Its lease, kept until the answer has ended. A refusal has given it back: whoever waits for
    /// the account meanwhile, or asks another, must not be in its way.
    pub lease: Option<Lease>,
    /// The upstream's status.
    pub status: StatusCode,
    /// The upstream's headers.
    pub headers: HeaderMap,
    /// The answer, read while it passes.
    pub reader: Reader,
    /// What was read before it was known that the answer can be passed on.
    pub held: Vec<Bytes>,
    /// The step that followed, if it ended the answer.
    pub ended: Option<Step>,
    /// The connection that it came over, where that is a WebSocket.
    pub socket: Option<ConnectionId>,
}

/// An attempt that failed before anything of it reached the client.
#[derive(Debug)]
pub struct Failed {
    /// Whose failure it is.
    pub account: Arc<Account>,
    /// How far it came.
    pub failure: Failure,
    /// What the upstream said about its account.
    pub signal: Option<Signal>,
    /// The upstream's error code.
    pub code: Option<String>,
    /// Whether it cannot read what another account has sealed.
    pub seal_is_unreadable: bool,
    /// What the client is told if no other attempt is made: the upstream's own words, or ours.
    pub attempt: Result<Attempt, Box<Error>>,
}

/// Sends the request and waits for the answer to begin. Where the request could still be made
/// elsewhere, the events that carry no output are held back for a bounded time: an upstream that
/// is overloaded says so there, inside a 200.
pub(super) async fn send(
    gateway: &Gateway,
    lease: Lease,
    way: Way,
    reads: Reads,
    movable: bool,
) -> Result<Attempt, Failed> {
    let account = lease.account().clone();
    let (sent, socket) = match way {
        Way::Http(outgoing) => (gateway.upstream.send(&account, outgoing).await, None),
        Way::Here(events) => (Ok(Incoming::of_events(events)), None),
        Way::Socket(asked) => Box::pin(over_socket::send(gateway, &account, *asked)).await,
    };
    let incoming = match sent {
        Ok(incoming) => incoming,
        Err(error) => return Err(not_answered(account, error)),
    };
    if let Some(encoding) = unasked_encoding(&incoming.headers) {
        let account_name = account.name.clone();
        let error = Error::UnaskedEncoding {
            account: account_name,
            encoding,
        };
        return Err(Failed {
            account,
            failure: Failure::Unanswered,
            signal: None,
            code: None,
            seal_is_unreadable: false,
            attempt: Err(Box::new(error)),
        });
    }
    let Incoming {
        status,
        headers,
        body,
    } = incoming;
    note_quota(gateway, account.id, Quota::of_headers(&headers, now_ms()));
    let idle = gateway.settings.upstream_idle;
    let reader = Reader::new(body, &headers, status, reads, idle);
    let attempt = Attempt {
        account,
        lease: Some(lease),
        status,
        headers,
        reader,
        held: Vec::new(),
        ended: None,
        socket,
    };
    if !status.is_success() {
        return Err(Box::pin(refused(gateway, attempt)).await);
    }
    // The backend of ChatGPT logins streams to everybody.
    let streams_unasked =
        attempt.account.kind == Kind::Codex && attempt.reader.is_events() && !reads.is_stream();
    let id = attempt.account.id;
    let mut sent = match streams_unasked {
        true => Box::pin(gather(attempt)).await,
        false => hold_back(attempt, reads.is_stream() && movable).await,
    };
    let told = match &mut sent {
        Ok(attempt) => Some(attempt),
        Err(failed) => failed.attempt.as_mut().ok(),
    };
    if let Some(attempt) = told {
        note_quota(gateway, id, std::mem::take(&mut attempt.reader.quota));
    }
    sent
}

/// Tells the pool what an upstream said about its quota.
pub(super) fn note_quota(gateway: &Gateway, account: AccountId, quota: Quota) {
    if let Some(changed) = gateway.pool.note_quota(account, quota, now_ms()) {
        gateway.store.write_later(Work {
            standing: Some(standing_row(changed)),
            ..Work::default()
        });
    }
}

fn not_answered(account: Arc<Account>, error: SendError) -> Failed {
    let name = account.name.clone();
    let (failure, error) = match error {
        SendError::NotSent(reason) => (
            Failure::NotSent,
            Error::Unreachable {
                account: name,
                reason,
            },
        ),
        SendError::Unanswered(reason) => (
            Failure::Unanswered,
            Error::Unanswered {
                account: name,
                reason,
            },
        ),
        SendError::Timeout => (Failure::Timeout, Error::Timeout { account: name }),
        SendError::NoLogin(reason) => (
            Failure::NotSent,
            Error::Unreachable {
                account: name,
                reason,
            },
        ),
        SendError::LoginEnded(code) => return login_ended(account, code),
    };
    Failed {
        account,
        failure,
        signal: None,
        code: None,
        seal_is_unreadable: false,
        attempt: Err(Box::new(error)),
    }
}

/// A login that a person must renew: as an upstream that refuses the credential.
fn login_ended(account: Arc<Account>, code: String) -> Failed {
    let error = Error::Unavailable {
        account: Some(account.name.clone()),
        reason: format!("its login has ended: {code}"),
    };
    Failed {
        account,
        failure: Failure::Refused {
            status: StatusCode::UNAUTHORIZED.as_u16(),
            about_account: true,
        },
        signal: Some(Signal::CredentialRefused { code: code.clone() }),
        code: Some(code),
        seal_is_unreadable: false,
        attempt: Err(Box::new(error)),
    }
}

fn unasked_encoding(headers: &HeaderMap) -> Option<String> {
    let encoding = headers.get(CONTENT_ENCODING)?.to_str().unwrap_or("unreadable");
    (encoding != "identity").then(|| encoding.to_owned())
}

/// An answer with an error status: its body is read, as far as it is needed to decide.
async fn refused(gateway: &Gateway, mut attempt: Attempt) -> Failed {
    let mut body = Vec::new();
    while body.len() < limits::ERROR_BODY_BYTES_MAX && attempt.ended.is_none() {
        match attempt.reader.step().await {
            Step::Bytes(bytes) => {
                body.extend_from_slice(&bytes);
                attempt.held.push(bytes);
            }
            end => attempt.ended = Some(end),
        }
    }
    let refusal = Refusal::of_answer(attempt.status, &attempt.headers, &body, now_ms());
    if attempt.account.kind == Kind::Codex {
        note_quota(gateway, attempt.account.id, Quota::of_error(&body, now_ms()));
        if let Some(words) = wording::reworded(attempt.status, refusal.code.as_deref(), &body) {
            attempt.becomes(words);
        }
    }
    failed(attempt, refusal)
}

/// Reads a stream to its end, for a client that asked for none. Nothing of it reaches the client
/// before: a failure is told with the status that it would have had without a stream.
async fn gather(mut attempt: Attempt) -> Result<Attempt, Failed> {
    let mut gathering = Gathering::default();
    while attempt.reader.facts.outcome.is_none() {
        let cut = |reason: &str| SendError::Unanswered(reason.to_owned());
        let error = match attempt.reader.step().await {
            Step::Bytes(whole) => {
                let mut events = events::events(&whole);
                match events.try_for_each(|event| gathering.add(&event)) {
                    Ok(()) => continue,
                    Err(_) => cut("the answer is larger than the limit"),
                }
            }
            Step::End => cut("the stream ended before the response was complete"),
            Step::Cut(reason) => cut(&reason),
            Step::Idle => SendError::Timeout,
        };
        return Err(not_answered(attempt.account, error));
    }
    let document = match attempt.reader.facts.outcome {
        Some(Outcome::Failed) => None,
        _ => gathering.document(),
    };
    if let Some(document) = document {
        attempt.becomes(document);
        return Ok(attempt);
    }
    let refusal = Refusal::of_event(&attempt.reader.facts);
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_GATEWAY);
    attempt.status = status;
    attempt.becomes(wording::of_event(status.as_u16(), &attempt.reader.facts));
    match attempt.reader.output_began {
        // It has run, and been paid for.
        true => Ok(attempt),
        false => Err(failed(attempt, refusal)),
    }
}

impl Attempt {
    /// Makes this document, which is not the upstream's own bytes, the whole of the answer.
    fn becomes(&mut self, document: Bytes) {
        self.headers.remove(CONTENT_LENGTH);
        self.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.reader.form = Form::Made;
        self.held = vec![document];
        self.ended = Some(Step::End);
    }
}

fn failed(mut attempt: Attempt, refusal: Refusal) -> Failed {
    let signal = refusal.signal();
    attempt.lease = None;
    Failed {
        account: attempt.account.clone(),
        failure: Failure::Refused {
            status: refusal.status,
            about_account: signal.is_some(),
        },
        signal,
        code: refusal.code,
        seal_is_unreadable: refusal.seal_is_unreadable,
        attempt: Ok(attempt),
    }
}

/// Reads until the answer has begun: for a request that can still be moved, until its first
/// output; else until anything at all is there.
async fn hold_back(mut attempt: Attempt, movable: bool) -> Result<Attempt, Failed> {
    let deadline = Instant::now() + limits::HOLD_BACK;
    let mut held_bytes = 0;
    loop {
        let Ok(step) = tokio::time::timeout_at(deadline, attempt.reader.step()).await else {
            return Ok(attempt);
        };
        match step {
            Step::Bytes(bytes) => {
                held_bytes += bytes.len();
                if !bytes.is_empty() {
                    attempt.held.push(bytes);
                }
            }
            Step::Cut(reason) if held_bytes == 0 => return Err(cut_before_anything(attempt, reason)),
            end => {
                attempt.ended = Some(end);
                return Ok(attempt);
            }
        }
        let reader = &attempt.reader;
        if movable && reader.facts.outcome == Some(Outcome::Failed) && !reader.output_began {
            let refusal = Refusal::of_event(&reader.facts);
            return Err(failed(attempt, refusal));
        }
        let began = reader.output_began || reader.facts.outcome.is_some() || !movable;
        if (began && held_bytes > 0) || held_bytes > limits::HELD_BYTES_MAX {
            return Ok(attempt);
        }
    }
}

fn cut_before_anything(attempt: Attempt, reason: String) -> Failed {
    not_answered(attempt.account, SendError::Unanswered(reason))
}

/// What the next piece of an answer is.
#[derive(Debug)]
pub enum Step {
    /// Bytes that may go on, once what they told is written down. May be empty.
    Bytes(Bytes),
    /// The upstream ended the answer in good order.
    End,
    /// The connection broke, or an event grew over the limit.
    Cut(String),
    /// Nothing came in time.
    Idle,
}

/// What an answer is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// A response, with its items and figures.
    Response {
        /// Whether it is asked for as a stream.
        stream: bool,
        /// Whether the client does not see what is left of the account's quota.
        hides_quota: bool,
    },
    /// A chat completion.
    Chat {
        /// Whether it is asked for as a stream.
        stream: bool,
        /// Whether the client did not ask for the figures at the end of the stream.
        hides_usage: bool,
    },
    /// Something that was made, with its id. It may be anything.
    Object,
    /// Nothing: it passes.
    Nothing,
}

impl Reads {
    fn is_stream(self) -> bool {
        matches!(
            self,
            Reads::Response { stream: true, .. } | Reads::Chat { stream: true, .. }
        )
    }
}

/// Reads an answer while it passes: cuts it where it may be cut, and keeps what it tells.
#[derive(Debug)]
pub struct Reader {
    body: IncomingBody,
    form: Form,
    reads: Reads,
    /// The outcome of an answer that tells none itself.
    at_end: Outcome,
    idle: Duration,
    /// When the upstream has been silent for too long.
    deadline: Instant,
    /// What the answer has told so far.
    pub facts: Facts,
    /// What it has told of the account's quota, for whoever takes it from here.
    pub quota: Quota,
    /// Whether the first output has come.
    pub output_began: bool,
    /// A document that has ended.
    complete: bool,
    /// A chat whose text has ended.
    finished: bool,
    /// The last events, for the number of one of our own after them.
    last_events: Bytes,
}

/// What kind of answer it is, by its `Content-Type`.
#[derive(Debug)]
enum Form {
    Events(Splitter),
    Document(Scanner),
    /// Something that is not read: it passes.
    Opaque,
    /// Named as neither of them: its first byte decides.
    Unnamed {
        stream: bool,
    },
    /// Put together here from what was read: it is there whole, and nothing follows.
    Made,
}

impl Form {
    fn of(media_type: &str, stream: bool) -> Form {
        let media_type = media_type.split(';').next().unwrap_or("").trim();
        match media_type.to_ascii_lowercase().as_str() {
            "text/event-stream" => Form::Events(Splitter::default()),
            "application/json" => Form::Document(Scanner::default()),
            _ => Form::Unnamed { stream },
        }
    }

    /// What the first byte that is no space says.
    fn named(stream: bool, bytes: &[u8]) -> Option<Form> {
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace())?;
        Some(match first {
            b'{' => Form::Document(Scanner::default()),
            _ if stream => Form::Events(Splitter::default()),
            _ => Form::Opaque,
        })
    }
}

impl Reader {
    fn new(
        body: IncomingBody,
        headers: &HeaderMap,
        status: StatusCode,
        reads: Reads,
        idle: Duration,
    ) -> Reader {
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let form = match (status.is_success(), reads) {
            (false, _) | (true, Reads::Nothing) => Form::Opaque,
            (true, Reads::Object) => match Form::of(media_type.unwrap_or(""), false) {
                Form::Document(scanner) => Form::Document(scanner),
                _ => Form::Opaque,
            },
            (true, _) => Form::of(media_type.unwrap_or(""), reads.is_stream()),
        };
        Reader {
            body,
            form,
            reads,
            at_end: match status.is_success() {
                true => Outcome::Completed,
                false => Outcome::Rejected,
            },
            idle,
            deadline: Instant::now() + idle,
            facts: Facts::default(),
            quota: Quota::default(),
            output_began: false,
            complete: false,
            finished: false,
            last_events: Bytes::new(),
        }
    }

    /// Whether the answer is a stream of events.
    pub fn is_events(&self) -> bool {
        matches!(self.form, Form::Events(_))
    }

    /// How many bytes are still to come, where that was announced.
    pub fn announced_bytes(&self) -> Option<u64> {
        match self.form {
            Form::Made => Some(0),
            _ => self.body.announced_bytes(),
        }
    }

    /// Reads the next piece. Can be dropped while it waits, without loss.
    pub async fn step(&mut self) -> Step {
        if matches!(self.form, Form::Made) {
            return Step::End;
        }
        let next = tokio::time::timeout_at(self.deadline, self.body.next()).await;
        self.deadline = match &next {
            // Asked again, it is as silent as before: whoever waits in steps waits no longer for it.
            Err(_) => self.deadline,
            Ok(_) => Instant::now() + self.idle,
        };
        match next {
            Err(_) => Step::Idle,
            Ok(None) => Step::End,
            Ok(Some(Err(reason))) => Step::Cut(reason),
            Ok(Some(Ok(bytes))) => self.read(bytes),
        }
    }

    /// What is left of an answer that ended in the middle of something.
    pub fn rest(&mut self) -> Bytes {
        match &mut self.form {
            Form::Events(splitter) => splitter.rest(),
            Form::Document(scanner) => scanner.rest(),
            Form::Opaque | Form::Unnamed { .. } | Form::Made => Bytes::new(),
        }
    }

    /// How many bytes have come and are kept here until more is known.
    pub fn withheld_bytes(&self) -> u64 {
        match &self.form {
            Form::Document(scanner) => scanner.held_bytes() as u64,
            _ => 0,
        }
    }

    fn read(&mut self, bytes: Bytes) -> Step {
        if let Form::Unnamed { stream } = self.form
            && let Some(form) = Form::named(stream, &bytes)
        {
            self.form = form;
        }
        match &mut self.form {
            Form::Opaque | Form::Unnamed { .. } | Form::Made => Step::Bytes(bytes),
            Form::Document(scanner) => {
                let passed = scanner.push(bytes, &mut self.facts);
                self.output_began |= !passed.bytes.is_empty();
                self.complete |= passed.complete;
                Step::Bytes(passed.bytes)
            }
            Form::Events(splitter) => match splitter.push(bytes) {
                Err(events::EventTooLarge) => Step::Cut("an event is larger than the limit".to_owned()),
                Ok(whole) if self.is_chat() => Step::Bytes(self.read_chunks(whole)),
                Ok(whole) => {
                    let tells_quota = self.read_events(&whole);
                    if !whole.is_empty() {
                        self.last_events = whole.clone();
                    }
                    Step::Bytes(match tells_quota && self.hides_quota() {
                        true => events::without_quota(whole),
                        false => whole,
                    })
                }
            },
        }
    }

    /// Whether the answer is a chat, whose streams have other events.
    pub fn is_chat(&self) -> bool {
        matches!(self.reads, Reads::Chat { .. })
    }

    /// Whether an answer may be whole without having said so.
    pub fn may_just_end(&self) -> bool {
        match (&self.form, self.reads) {
            (_, Reads::Object | Reads::Nothing) => true,
            // What ended its text has said all that counts.
            (Form::Events(_), Reads::Chat { .. }) => self.finished,
            (form, _) => matches!(form, Form::Opaque | Form::Unnamed { .. } | Form::Made),
        }
    }

    fn read_chunks(&mut self, whole: Bytes) -> Bytes {
        let hides = matches!(
            self.reads,
            Reads::Chat {
                hides_usage: true,
                ..
            }
        );
        let read = chat::read(whole, hides, &mut self.facts);
        self.output_began |= read.output;
        self.finished |= read.finished;
        read.bytes
    }

    /// Reads events, and tells whether one of them is about the account's quota.
    fn read_events(&mut self, whole: &[u8]) -> bool {
        let mut tells_quota = false;
        for event in events::events(whole) {
            let meaning = event.meaning();
            self.output_began |= matches!(meaning, Meaning::Output | Meaning::Item);
            match meaning {
                Meaning::Output => {}
                Meaning::Quota => {
                    tells_quota = true;
                    self.quota.update(Quota::of_event(event.data(), now_ms()));
                }
                _ => event.read_into(meaning, &mut self.facts),
            }
        }
        tells_quota
    }

    fn hides_quota(&self) -> bool {
        matches!(
            self.reads,
            Reads::Response {
                hides_quota: true,
                ..
            }
        )
    }

    /// The `sequence_number` of the last event that passed.
    pub fn last_sequence_number(&self) -> Option<u64> {
        events::events(&self.last_events)
            .filter_map(|event| event.sequence_number())
            .last()
    }

    /// Whether everything has been told: the terminal event, or the end of the document, or the
    /// last of the bytes that were announced. Nobody asks for more after those.
    pub fn outcome(&self) -> Option<Outcome> {
        let all_came = self.announced_bytes() == Some(0);
        match self.form {
            Form::Events(_) => self.facts.outcome,
            Form::Made => Some(self.facts.outcome.unwrap_or(self.at_end)),
            Form::Document(_) if self.complete => Some(self.facts.outcome.unwrap_or(Outcome::Completed)),
            Form::Document(_) => all_came.then_some(Outcome::UpstreamCut),
            Form::Opaque | Form::Unnamed { .. } => all_came.then_some(self.at_end),
        }
    }
}
