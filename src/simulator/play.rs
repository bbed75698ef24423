//! Sends an answer as it was planned: in which pieces, with which pauses, and where it is cut.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use bytes::{Bytes, BytesMut};

use super::account::State;
use super::journal::Ending;

/// One step of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Send these bytes.
    Send(Bytes),
    /// Send these bytes, with the time in microseconds since 1970 UTC between them as a member.
    SendStamped(Bytes, Bytes),
    /// Wait.
    Wait(Duration),
    /// Send nothing more, and keep the connection.
    Hang,
    /// Break the connection.
    Cut,
}

/// The journal's entry of an answer that is being sent; cut unless it is said to be whole.
#[derive(Debug)]
pub(super) struct Sending {
    state: Arc<State>,
    number: Option<u64>,
}

impl Sending {
    pub(super) fn new(state: Arc<State>, number: Option<u64>) -> Sending {
        Sending { state, number }
    }

    /// Nothing more comes.
    pub(super) fn whole(&mut self) {
        self.end(Ending::Whole);
    }

    fn end(&mut self, ending: Ending) {
        if let Some(number) = self.number.take() {
            self.state.journal().change(number, |entry| entry.ending = ending);
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.end(Ending::Cut);
    }
}

/// A body that follows the steps. What can leave together does.
pub(super) fn play(steps: Vec<Step>, sending: Sending) -> Body {
    let state = (joined(steps), sending);
    Body::from_stream(futures_util::stream::try_unfold(
        state,
        |(mut steps, mut sending)| async move {
            loop {
                match steps.pop_front() {
                    Some(Step::Send(bytes)) => {
                        if steps.is_empty() {
                            sending.whole();
                        }
                        return Ok(Some((bytes, (steps, sending))));
                    }
                    Some(Step::SendStamped(before, after)) => {
                        let stamp = format!("\"sent_us\":{},", micros_now());
                        let bytes = [&before[..], stamp.as_bytes(), &after[..]].concat();
                        return Ok(Some((bytes.into(), (steps, sending))));
                    }
                    // A timer is not set for nothing: the pause is that between two writes.
                    Some(Step::Wait(Duration::ZERO)) => tokio::task::yield_now().await,
                    Some(Step::Wait(time)) => tokio::time::sleep(time).await,
                    Some(Step::Hang) => {
                        let never: Infallible = std::future::pending().await;
                        match never {}
                    }
                    Some(Step::Cut) => {
                        // What was handed over before goes out while this waits.
                        tokio::task::yield_now().await;
                        return Err(std::io::Error::other("cut, as it was told"));
                    }
                    None => return Ok(None),
                }
            }
        },
    ))
}

/// Microseconds since 1970 UTC.
pub(super) fn micros_now() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_micros()
}

/// Joins neighbours, so that an answer without pauses is one write.
fn joined(steps: Vec<Step>) -> VecDeque<Step> {
    let mut out = VecDeque::with_capacity(steps.len());
    let mut pending = BytesMut::new();
    for step in steps {
        match step {
            Step::Send(bytes) => pending.extend_from_slice(&bytes),
            other => {
                if !pending.is_empty() {
                    out.push_back(Step::Send(pending.split().freeze()));
                }
                out.push_back(other);
            }
        }
    }
    if !pending.is_empty() {
        out.push_back(Step::Send(pending.freeze()));
    }
    out
}

/// Cuts what is sent into pieces of this many bytes, each a write of its own.
pub(super) fn in_pieces(steps: Vec<Step>, size: usize) -> Vec<Step> {
    let size = size.max(1);
    let mut out = Vec::new();
    for step in steps {
        match step {
            Step::Send(mut bytes) => {
                while !bytes.is_empty() {
                    out.push(Step::Send(bytes.split_to(size.min(bytes.len()))));
                    out.push(Step::Wait(Duration::ZERO));
                }
            }
            other => out.push(other),
        }
    }
    // The answer ends with its last byte, not with a pause.
    if out.last() == Some(&Step::Wait(Duration::ZERO)) {
        out.pop();
    }
    out
}
