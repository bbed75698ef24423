//! An answer on its way to the client, and what is written down before it may leave.
//!
//! The promise that everything else rests on is kept here: the owner of an id is committed before
//! the first byte that carries the id goes out, and the final row before the terminal event does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::Stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::account::{AccountId, Signal};
use crate::clock::now_ms;
use crate::error::Error;
use crate::pool::{Changed, Lease};
use crate::response::refusal::{LOST, Refusal};
use crate::response::{Facts, Outcome};
use crate::store::{StoreError, Work};
use crate::upstream::headers;

use super::attempt::{Attempt, note_quota};
use super::connection::Keeping;
use super::reader::{Reader, Step};
use super::record::Record;
use super::references::ToRemember;
use super::{Begun, Gateway, Routing, standing_row};

/// An answer whose first bytes are ready.
#[derive(Debug)]
pub struct Answer {
    /// The upstream's status.
    pub status: StatusCode,
    /// The upstream's headers that the client may see.
    pub headers: HeaderMap,
    /// Whether the body is a stream of events.
    pub is_events: bool,
    /// Whether it came over a WebSocket, whose events tell all that there is.
    pub is_of_socket: bool,
    /// How many bytes the body has, where that is known.
    pub length: Option<u64>,
    /// How the request was routed.
    pub routing: Routing,
    /// What is to be held of it here, if its connection alone will know it.
    pub keeping: Option<Box<Keeping>>,
    /// The bytes.
    pub body: AnswerBody,
}

/// Takes an attempt over: writes down what it has told so far, and prepares the rest.
///
/// # Errors
/// If the owner of the answer cannot be written down and the configuration says not to go on.
pub(super) async fn begin(
    gateway: Arc<Gateway>,
    mut record: Record,
    begun: Begun,
) -> Result<Answer, (Error, Record)> {
    let Begun {
        attempt,
        remember,
        keeping,
    } = begun;
    let Attempt {
        account,
        lease,
        status,
        mut headers,
        reader,
        held,
        ended,
        socket,
    } = attempt;
    say_what_it_is(&mut headers, &reader);
    record.row().status = Some(status.as_u16());
    let held_bytes: u64 = held.iter().map(|piece| piece.len() as u64).sum();
    let length = reader
        .announced_bytes()
        .filter(|_| !reader.is_events())
        .map(|left| left + held_bytes + reader.withheld_bytes());
    let routing = record.routing();
    let is_events = reader.is_events();
    let mut body = AnswerBody {
        gateway,
        record,
        remember,
        reader,
        status,
        ready: held.into(),
        next: ended,
        response_bytes: 0,
        is_final: false,
        account: account.id,
        is_known_to_work: false,
        _lease: lease,
    };
    if !body.ready.is_empty() {
        match body.write_down().await {
            Ok(()) => {}
            Err(StoreError::Unwritten) if body.may_go_on() => {}
            Err(_) => return Err((Error::StoreUnavailable, body.record)),
        }
    }
    let is_empty = length == Some(0) || matches!(body.next, Some(Step::End));
    if body.ready.is_empty() && is_empty && !is_events {
        // Nobody reads a body that has no bytes: what it means is written down here.
        if !body.is_whole() && status != StatusCode::NO_CONTENT {
            return Err((Error::UnreadableAnswer, body.record));
        }
        if body.end_whole().await.is_err() {
            return Err((Error::StoreUnavailable, body.record));
        }
    }
    let shows_quota = body.record.shows_quota();
    Ok(Answer {
        status,
        headers: headers::for_client(headers, shows_quota),
        is_events,
        is_of_socket: socket.is_some(),
        length,
        routing,
        keeping,
        body,
    })
}

/// Some servers name a stream a document, or the reverse: clients go by the name.
fn say_what_it_is(headers: &mut HeaderMap, reader: &Reader) {
    let Some(media_type) = reader.media_type() else {
        return;
    };
    let named = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !named.is_some_and(|named| named.to_ascii_lowercase().starts_with(media_type)) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    }
}

/// What keeps a silent stream open. It is one line: some readers take a blank line after it for the end
/// of an event, and fail on an event without data (openai-python where events carry ids, older openai-go).
const KEEP_ALIVE: &[u8] = b": keep-alive\n";

/// The body of an answer. Dropped before its end, it writes the row as what that means, and closes
/// the connection to the upstream, which stops there, too.
#[derive(Debug)]
pub struct AnswerBody {
    gateway: Arc<Gateway>,
    record: Record,
    remember: ToRemember,
    reader: Box<Reader>,
    status: StatusCode,
    /// Pieces that were written down and may leave.
    ready: VecDeque<Bytes>,
    /// A step that was read and not acted upon.
    next: Option<Step>,
    response_bytes: u64,
    /// The row is final; what follows the terminal event just passes.
    is_final: bool,
    account: AccountId,
    /// The pool has been told that the account works.
    is_known_to_work: bool,
    _lease: Option<Lease>,
}

/// The answer cannot go on, and the client must see that it is not whole.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut")]
pub struct Broken;

impl AnswerBody {
    /// The body as a stream that reads from the upstream only as fast as it is read from.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Broken>> + Send {
        futures_util::stream::unfold(Some(self), |mut body| async move {
            // Borrowed, not moved: an open stream keeps room for every place where it has been.
            match body.as_mut()?.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), body)),
                Ok(None) => None,
                Err(broken) => Some((Err(broken), None)),
            }
        })
    }

    /// The next bytes for the client; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(self.leaving(bytes)));
            }
            match self.next_step().await {
                None => return Ok(Some(Bytes::from_static(KEEP_ALIVE))),
                Some(Step::Bytes(bytes)) if bytes.is_empty() => {}
                Some(Step::Bytes(bytes)) => {
                    self.ready.push_back(bytes);
                    match self.write_down().await {
                        Ok(()) => {}
                        Err(StoreError::Unwritten) if self.may_go_on() => {}
                        Err(_) => {
                            self.record.cut_unwritten();
                            return Err(Broken);
                        }
                    }
                }
                Some(end) => return self.end(end).await,
            }
        }
    }

    /// The upstream's next step; `None` if it has been silent so long that the client's side of a
    /// stream should hear something: proxies and routers in between close a connection that is silent.
    async fn next_step(&mut self) -> Option<Step> {
        if let Some(step) = self.next.take() {
            return Some(step);
        }
        if !self.reader.is_events() {
            return Some(self.reader.step().await);
        }
        tokio::time::timeout(self.gateway.settings.stream_comment, self.reader.step())
            .await
            .ok()
    }

    fn leaving(&mut self, bytes: Bytes) -> Bytes {
        self.response_bytes += bytes.len() as u64;
        bytes
    }

    /// Commits what the answer has told since the last time, before the bytes that told it leave.
    async fn write_down(&mut self) -> Result<(), StoreError> {
        let begin = Instant::now();
        self.note_times();
        let outcome = self.reader.outcome().filter(|_| !self.is_final);
        note_quota(
            &self.gateway,
            self.account,
            std::mem::take(&mut self.reader.quota),
        );
        let changed = self.note_account(outcome);
        let remember = self.remember.take_new(&self.reader.facts);
        let mut work = match outcome {
            Some(outcome) => {
                let pending: usize = self.ready.iter().map(Bytes::len).sum();
                self.record.row().response_bytes = Some(self.response_bytes + pending as u64);
                self.record.add_overhead(begin.elapsed(), true);
                self.is_final = true;
                self.record.finish(outcome, &self.reader.facts, remember)
            }
            None if remember.is_empty() && changed.is_none() => return Ok(()),
            None if self.is_final => Work {
                remember,
                ..Work::default()
            },
            None => {
                self.record.tell(&self.reader.facts);
                self.record.progress(remember)
            }
        };
        work.standing = changed.map(standing_row);
        if outcome == Some(Outcome::Failed) && self.reader.facts.error_code.as_deref() == Some(LOST) {
            work.forget = self.remember.follows;
        }
        if outcome == Some(Outcome::Completed) && self.status.is_success() {
            work.forget = work.forget.or(self.remember.deletes.take());
        }
        // Told and counted here, and not again.
        if outcome.is_some() && self.reader.facts.usage.is_some() {
            work.forget = work.forget.or(self.remember.owed.take());
        }
        let follows = self.reader.facts.is_steered && outcome.is_some();
        let successor = work
            .row
            .as_ref()
            .filter(|_| follows)
            .map(|row| Box::new(self.record.successor(row)));
        let row = self.record.for_refusal(&work);
        let written = self.gateway.store.write(work).await;
        if written.is_err() && !self.may_go_on() {
            self.record.take_back(row);
        }
        self.record.add_overhead(begin.elapsed(), !self.is_final);
        if let Some(successor) = successor {
            self.goes_on(*successor);
        }
        written
    }

    /// The response was steered: what follows is another one, with a row of its own.
    fn goes_on(&mut self, successor: Record) {
        self.record = successor;
        self.remember.goes_on();
        self.reader.facts = Facts::default();
        self.response_bytes = 0;
        self.is_final = false;
    }

    /// Tells the pool what the answer says about its account: that it works, once there is output,
    /// or what made it fail. Gives the account's new standing, if it changed.
    fn note_account(&mut self, outcome: Option<Outcome>) -> Option<Changed> {
        let failure = (outcome == Some(Outcome::Failed))
            .then(|| Refusal::of_event(&self.reader.facts, now_ms()).signal())
            .flatten();
        let works = outcome == Some(Outcome::Completed) || self.reader.output_began;
        let signal = match failure {
            Some(signal) => signal.of_model(self.record.row().model_asked.as_deref()),
            None if works && !self.is_known_to_work => {
                self.is_known_to_work = true;
                Signal::Worked
            }
            None => return None,
        };
        let is_limit = !matches!(signal, Signal::Worked);
        let status = self.gateway.pool.note(self.account, &signal, now_ms())?;
        self.gateway.metrics.met_limit(is_limit);
        Some(status)
    }

    fn note_times(&mut self) {
        if self.is_final {
            return;
        }
        let elapsed = self.record.elapsed_ms();
        let output_began = self.reader.output_began;
        let row = self.record.row();
        row.first_byte_ms.get_or_insert(elapsed);
        if output_began {
            row.first_output_ms.get_or_insert(elapsed);
        }
    }

    /// Ends the answer. One that ended too early is not ended with silence: a stream gets an event
    /// that says so, and any other body is cut visibly.
    async fn end(&mut self, step: Step) -> Result<Option<Bytes>, Broken> {
        if self.is_final {
            // What the client waits for has been told. A body that is shorter than announced is seen
            // as such without a word from here.
            return Ok(None);
        }
        let (outcome, said) = match &step {
            Step::Idle => (Outcome::Timeout, "The upstream was silent for too long."),
            Step::End if self.is_whole() => return self.end_whole().await,
            _ => (
                Outcome::UpstreamCut,
                "The upstream ended the stream before the response was complete.",
            ),
        };
        if let Step::Cut(reason) = &step {
            tracing::warn!(reason, "an answer was cut");
        }
        self.write_end(outcome).await.map_err(|_| Broken)?;
        if !self.reader.is_events() {
            // What was handed over before goes out while this waits.
            tokio::task::yield_now().await;
            return Err(Broken);
        }
        let event = self.failed_event(outcome, said);
        self.next = Some(Step::End);
        Ok(Some(event))
    }

    /// Whether an answer that has not said so is whole at its end.
    fn is_whole(&self) -> bool {
        self.reader.may_just_end() || !self.status.is_success()
    }

    async fn end_whole(&mut self) -> Result<Option<Bytes>, Broken> {
        let outcome = match self.status.is_success() {
            true => Outcome::Completed,
            false => Outcome::Rejected,
        };
        self.write_end(outcome).await.map_err(|_| Broken)?;
        Ok(None)
    }

    async fn write_end(&mut self, outcome: Outcome) -> Result<(), StoreError> {
        self.is_final = true;
        self.record.row().response_bytes = Some(self.response_bytes);
        let remember = self.remember.take_new(&self.reader.facts);
        let mut work = self.record.finish(outcome, &self.reader.facts, remember);
        if outcome == Outcome::Completed {
            work.forget = self.remember.deletes.take();
        }
        match self.gateway.store.write(work).await {
            Err(StoreError::Unwritten) if self.may_go_on() => Ok(()),
            written => written,
        }
    }

    /// The terminal event that the upstream did not send.
    fn failed_event(&mut self, outcome: Outcome, said: &str) -> Bytes {
        if self.reader.is_chat() {
            drop(self.reader.rest());
            let message = format!("{said} (moorage: {})", outcome.as_str());
            let error = serde_json::json!({
                "error": { "message": message, "type": "server_error", "param": null, "code": "server_error" },
            });
            return Bytes::from(format!("data: {error}\n\n"));
        }
        let sequence_number = self.reader.last_sequence_number.map_or(0, |last| last + 1);
        let event = serde_json::json!({
            "type": "response.failed",
            "sequence_number": sequence_number,
            "response": {
                "id": self.reader.facts.response_id,
                "object": "response",
                "status": "failed",
                "error": { "code": "server_error", "message": format!("{said} (moorage: {})", outcome.as_str()) },
                "output": [],
                "usage": null,
            },
        });
        // What the upstream left unfinished is dropped: half an event says nothing.
        drop(self.reader.rest());
        Bytes::from(format!("event: response.failed\ndata: {event}\n\n"))
    }

    fn may_go_on(&self) -> bool {
        !self.gateway.settings.refuse_without_store
    }
}
