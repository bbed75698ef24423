//! One try of an exchange on one account, up to the point where its answer can be passed on.

use std::sync::Arc;

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
use crate::response::events;
use crate::response::gather::Gathering;
use crate::response::refusal::Refusal;
use crate::response::{Outcome, wording};
use crate::retry::Failure;
use crate::store::Work;
use crate::upstream::http::{Incoming, SendError};

use super::reader::{Reader, Reads, Step};
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
    pub reader: Box<Reader>,
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
    if let Some((failure, error)) = unusable(&account, &incoming) {
        return Err(Failed {
            account,
            failure,
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
    let mut reader = Box::new(Reader::new(body, &headers, status, reads, idle));
    if account.kind == Kind::Codex && reads.is_stream() {
        // Its backend leaves the output of the last event empty, where clients look for it.
        reader.completes();
    }
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
        false => hold_back(attempt, movable, reads.is_stream()).await,
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
        // Why is for the operator, and in the log.
        SendError::NoLogin(_) => (
            Failure::NotSent,
            Error::Unreachable {
                account: name,
                reason: "its login cannot be used now".to_owned(),
            },
        ),
        // Nobody's fault, and nobody else can do better.
        SendError::Forgotten(id) => (
            Failure::Refused {
                status: StatusCode::BAD_REQUEST.as_u16(),
                about_account: false,
            },
            Error::PreviousResponseNotFound(id),
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

/// How an attempt failed where an edge such as Cloudflare's stands in front of the account: it answers for
/// it with a page for people. With 520 and 524 the account had got the request and may have run it; with the
/// others it had not (developers.cloudflare.com, "Cloudflare 5xx errors").
fn edge_failure(status: StatusCode) -> Option<Failure> {
    match status.as_u16() {
        520 => Some(Failure::Unanswered),
        524 => Some(Failure::Timeout),
        521 | 522 | 523 | 525 | 526 | 527 | 530 => Some(Failure::NotSent),
        _ => None,
    }
}

/// Why an answer cannot be passed on by its head: a redirect leads the client, and its key, to a place that
/// nobody configured; an encoding that nobody asked for cannot be read.
fn unusable(account: &Account, incoming: &Incoming) -> Option<(Failure, Error)> {
    let status = incoming.status;
    let name = || account.name.clone();
    if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
        let error = Error::Redirected {
            account: name(),
            status: status.as_u16(),
        };
        let failure = Failure::Refused {
            status: status.as_u16(),
            about_account: false,
        };
        return Some((failure, error));
    }
    if let Some(failure) = edge_failure(status) {
        let reason = format!("the server in front of it says {}", status.as_u16());
        let account = name();
        let error = match failure {
            Failure::Timeout => Error::Timeout { account },
            Failure::Unanswered => Error::Unanswered { account, reason },
            _ => Error::Unreachable { account, reason },
        };
        return Some((failure, error));
    }
    let encoding = unasked_encoding(&incoming.headers)?;
    let error = Error::UnaskedEncoding {
        account: name(),
        encoding,
    };
    Some((Failure::Unanswered, error))
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
    let refusal = Refusal::of_event(&attempt.reader.facts, now_ms());
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
        self.reader.becomes_made();
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

/// Reads until the answer has begun: of a stream whose request can still be moved, until its first
/// output; else until anything at all is there.
async fn hold_back(mut attempt: Attempt, movable: bool, is_stream: bool) -> Result<Attempt, Failed> {
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
        if movable && reader.failed_before_output() {
            let refusal = Refusal::of_event(&reader.facts, now_ms());
            return Err(failed(attempt, refusal));
        }
        let waits = movable && (is_stream || reader.is_failing());
        let began = !waits || reader.outcome().is_some() || (reader.output_began && !reader.is_failing());
        if (began && held_bytes > 0) || held_bytes > limits::HELD_BYTES_MAX {
            return Ok(attempt);
        }
    }
}

fn cut_before_anything(attempt: Attempt, reason: String) -> Failed {
    not_answered(attempt.account, SendError::Unanswered(reason))
}
