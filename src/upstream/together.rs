//! Small pieces of an answer that came together go on together.
//!
//! An upstream writes a stream event by event, each in a chunk of its own. Passed on one by one, each
//! would cost a system call and a packet.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::Body as _;

use super::client::{ResponseBody, root_cause};
use crate::limits;

/// The body of an answer over HTTP, with what came together in one piece.
#[derive(Debug)]
pub struct Together {
    body: ResponseBody,
    /// Small pieces that came one after the other and go on together.
    pieces: Vec<Bytes>,
    /// What came after them and is no piece: an error, or the end.
    put_off: Option<Option<String>>,
}

impl Together {
    /// Nothing has been read.
    pub(super) fn new(body: ResponseBody) -> Together {
        Together {
            body,
            pieces: Vec::new(),
            put_off: None,
        }
    }

    /// The next piece, with those behind it that are there already; `None` at the end. Nothing else is
    /// read ahead. Can be dropped while it waits, without loss.
    ///
    /// # Errors
    /// If the connection breaks before the end that was announced.
    pub async fn next(&mut self) -> Option<Result<Bytes, String>> {
        if self.pieces.is_empty() {
            if let Some(put_off) = self.put_off.take() {
                return put_off.map(Err);
            }
            match poll_fn(|context| self.poll_piece(context)).await? {
                Ok(first) => self.pieces.push(first),
                Err(error) => return Some(Err(error)),
            }
        }
        while self.takes_more() {
            match self.piece_that_is_there().await {
                None => break,
                Some(Some(Ok(piece))) => self.pieces.push(piece),
                Some(Some(Err(error))) => self.put_off = Some(Some(error)),
                Some(None) => self.put_off = Some(None),
            }
        }
        Some(Ok(self.take_pieces()))
    }

    fn takes_more(&self) -> bool {
        let bytes: usize = self.pieces.iter().map(Bytes::len).sum();
        bytes < limits::UPSTREAM_READ_BYTES && self.put_off.is_none() && self.announced_bytes() != Some(0)
    }

    fn take_pieces(&mut self) -> Bytes {
        if self.pieces.len() == 1 {
            return self.pieces.pop().unwrap_or_default();
        }
        let mut together = BytesMut::with_capacity(self.pieces.iter().map(Bytes::len).sum());
        for piece in self.pieces.drain(..) {
            together.extend_from_slice(&piece);
        }
        together.freeze()
    }

    /// What can be had without waiting for the network. The task that reads the connection hands over
    /// one piece at a time, when it is asked to, and may stand behind this one in the queue.
    async fn piece_that_is_there(&mut self) -> Option<Option<Result<Bytes, String>>> {
        for turn in 0..=TURNS_FOR_A_PIECE {
            if turn > 0 {
                others_turn().await;
            }
            if let Poll::Ready(piece) = poll_fn(|context| Poll::Ready(self.poll_piece(context))).await {
                return Some(piece);
            }
        }
        None
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(root_cause(&*error)))),
                // Trailers carry nothing that is needed here.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Poll::Ready(Some(Ok(data))),
                    _ => {}
                },
            }
        }
    }

    /// How many bytes are to come, where that was announced.
    pub fn announced_bytes(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }
}

/// How often the others get their turn before it is believed that no further piece is there.
const TURNS_FOR_A_PIECE: u32 = 2;

/// Lets the tasks run that have something to do, once. Unlike Tokio's `yield_now` it leaves no wake
/// behind that comes later and for nothing.
async fn others_turn() {
    let mut had_it = false;
    poll_fn(|context| match std::mem::replace(&mut had_it, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}
