//! A body that is passed on while it comes, never held whole.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};

use crate::error::Error;

pub use super::client::BoxError;

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

/// A body on its way through. It can be sent only once: what has begun to pass is gone.
#[derive(Clone)]
pub struct Passing {
    pieces: Arc<Mutex<Pieces>>,
    passed_bytes: Arc<AtomicU64>,
    has_begun: Arc<AtomicBool>,
    announced_bytes: Option<u64>,
    stopped: Stopped,
}

/// Why a body was stopped on its way, if it was: that is not the upstream's fault.
#[derive(Debug, Clone, Default)]
pub struct Stopped(Arc<Mutex<Option<Error>>>);

impl Stopped {
    /// Says why.
    pub fn set(&self, why: Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Why, once.
    pub fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Passing {
    /// A body of these pieces.
    pub fn new(
        pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
        announced_bytes: Option<u64>,
        stopped: Stopped,
    ) -> Passing {
        Passing {
            pieces: Arc::new(Mutex::new(Box::pin(pieces))),
            passed_bytes: Arc::default(),
            has_begun: Arc::default(),
            announced_bytes,
            stopped,
        }
    }

    /// Why it was stopped, once.
    pub fn why_stopped(&self) -> Option<Error> {
        self.stopped.take()
    }

    /// Its size, where that was announced.
    pub fn announced_bytes(&self) -> Option<u64> {
        self.announced_bytes
    }

    /// Whether something of it has gone.
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    fn passed_bytes(&self) -> u64 {
        self.passed_bytes.load(Ordering::Relaxed)
    }
}

/// Waits for the head of an answer. A body that passes has the time that it takes: the wait begins
/// again as long as it moves.
pub(super) async fn in_time<T>(
    sent: impl Future<Output = T>,
    first_byte: Duration,
    passing: Option<&Passing>,
) -> Result<T, tokio::time::error::Elapsed> {
    let mut sent = std::pin::pin!(sent);
    let mut passed = 0;
    loop {
        match (tokio::time::timeout(first_byte, &mut sent).await, passing) {
            (Err(_), Some(passing)) if passing.passed_bytes() > passed => passed = passing.passed_bytes(),
            (done, _) => return done,
        }
    }
}

impl fmt::Debug for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passing")
            .field("announced_bytes", &self.announced_bytes)
            .field("passed_bytes", &self.passed_bytes)
            .finish_non_exhaustive()
    }
}

impl http_body::Body for Passing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.has_begun.store(true, Ordering::Relaxed);
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = std::task::ready!(pieces.as_mut().poll_next(context));
        if let Some(Ok(bytes)) = &piece {
            self.passed_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        match self.announced_bytes {
            Some(bytes) => SizeHint::with_exact(bytes.saturating_sub(self.passed_bytes())),
            None => SizeHint::default(),
        }
    }
}
