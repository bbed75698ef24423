//! The lanes of a WebSocket: one answers one request after the other, several beside each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;

use super::{Talk, frames, turn};
use crate::error::Error;
use crate::exchange::{Record, unreadable};
use crate::limits;
use crate::request::event::{ClientEvent, Intent, Lane};

/// A request that waits for its turn.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) event: Arc<ClientEvent>,
    pub(super) body: Bytes,
    /// Its row, from its arrival on. Dropped before its turn, it says what that means.
    pub(super) record: Option<Record>,
    talk: Arc<Talk>,
    _room: OwnedSemaphorePermit,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.talk.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How much of a connection's room a message takes.
pub(super) fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(limits::SOCKET_ROOM_BYTES).max(1)).unwrap_or(u32::MAX)
}

/// The lanes of a connection. Their tasks end when they are dropped.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    queues: HashMap<Lane, mpsc::UnboundedSender<Waiting>>,
    tasks: JoinSet<()>,
}

impl Lanes {
    /// Takes an event, when there is room for it.
    pub(super) async fn take(&mut self, talk: &Arc<Talk>, body: Bytes) {
        // The semaphore is never closed.
        let room = talk.room.clone().acquire_many_owned(units(body.len())).await;
        let Ok(room) = room else { return };
        let event = match ClientEvent::read(&body) {
            Ok(event) => event,
            Err(error) => return turn::refuse(talk, &Lane::Default, unreadable(error)).await,
        };
        match (event.intent, &event.lane) {
            (_, Lane::Invalid) => return turn::refuse(talk, &Lane::Default, Error::InvalidLane).await,
            (Intent::Create, _) => {}
            (Intent::Steer, _) => return steer(talk, &event, &body).await,
            (Intent::Unknown, lane) => return pass(talk, lane, &body).await,
        }
        let named = self.queues.keys().filter(|lane| **lane != Lane::Default).count();
        let is_new = !self.queues.contains_key(&event.lane);
        if is_new && event.lane != Lane::Default && named >= limits::SOCKET_LANES_MAX {
            let error = Error::TooManyLanes(limits::SOCKET_LANES_MAX);
            return turn::refuse(talk, &event.lane, error).await;
        }
        let queue = self.queues.entry(event.lane.clone()).or_insert_with(|| {
            let (queue, waiting) = mpsc::unbounded_channel();
            self.tasks.spawn(answer_all(talk.clone(), waiting));
            queue
        });
        talk.requests.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting {
            event: Arc::new(event),
            body,
            record: Some(turn::opened(talk)),
            talk: talk.clone(),
            _room: room,
        };
        // A lane that has panicked takes nothing more, and says nothing more.
        queue.send(waiting).ok();
    }

    /// Waits until what runs has ended. What waits is not begun any more: its client sends it again
    /// elsewhere, or later.
    pub(super) async fn finish(&mut self) {
        self.queues.clear();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Says something to a response that runs, over the connection on which it runs.
async fn steer(talk: &Talk, event: &ClientEvent, body: &Bytes) {
    let id = event.previous_response_id.as_deref().unwrap_or_default();
    if let Some(socket) = talk.connection.running(id)
        && socket.say(body).await.is_ok()
    {
        return;
    }
    talk.send(frames::steer_failed(body, talk.connection.has_sockets()))
        .await;
}

/// An event that nobody here knows goes to the account, where it is clear to which.
async fn pass(talk: &Talk, lane: &Lane, body: &Bytes) {
    if let Some(socket) = talk.connection.only_socket()
        && socket.say(body).await.is_ok()
    {
        return;
    }
    turn::refuse(talk, lane, Error::UnknownEvent).await;
}

async fn answer_all(talk: Arc<Talk>, mut waiting: mpsc::UnboundedReceiver<Waiting>) {
    while let Some(request) = waiting.recv().await {
        let Ok(_place) = talk.in_flight.acquire().await else {
            return;
        };
        if talk.front.gateway.is_stopping() {
            return;
        }
        Box::pin(turn::answer(&talk, request)).await;
    }
}
