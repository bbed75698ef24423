//! A WebSocket to an account: opened with its credential, kept while it is used, pinged, and shared
//! by the lanes of one client.
//!
//! Open is no success: an account that is spent says so at the upgrade, or in its first event. Both
//! are made into what the same account would have answered over HTTP.

mod frames;
mod upgrade;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{HeaderMap, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::auth_file::Login;
use super::http::{Incoming, IncomingBody, SendError};
use crate::account::AccountId;
use crate::affinity::ConnectionId;
use crate::limits;
use crate::request::event::Lane;
use crate::response::Outcome;
use crate::response::events::{Event, Meaning};

pub use frames::metadata;
use frames::{as_stream_event, headers_in, refused};
use upgrade::Place;
pub use upgrade::{OpenSockets, Opened};

type Stream = WebSocketStream<TokioIo<Upgraded>>;

/// An open WebSocket to an account. It is closed when nobody holds it any more.
#[derive(Debug)]
pub struct Socket {
    /// Its identity: what is not stored is known to it alone.
    pub id: ConnectionId,
    /// Whose it is.
    pub account: AccountId,
    opened: Instant,
    outgoing: mpsc::Sender<Utf8Bytes>,
    shared: Arc<Shared>,
    /// What was said with the upgrade, for the first answer: there is no other head than that.
    greeting: Mutex<Option<HeaderMap>>,
    /// Whether a chain on it began with instructions of ours.
    is_instructed: AtomicBool,
    /// The login that it was opened with, if the account has one.
    login: Option<Arc<Login>>,
}

#[derive(Debug, Default)]
struct Shared {
    lanes: Mutex<HashMap<Lane, Running>>,
    /// Whether a lane with a name was ever used: only then events are looked into for theirs.
    has_lanes: AtomicBool,
    is_closed: AtomicBool,
    /// Whether the credential that it was opened with was taken: something was answered.
    was_let_in: AtomicBool,
    /// The newest response that was made without naming a lane: what can be gone on from here.
    newest: Mutex<Option<String>>,
    /// Told when it is to end.
    ends: Notify,
}

/// The right to ask on a connection that has no lanes: others wait until it is given back.
pub type Turn = Arc<OwnedSemaphorePermit>;

/// A request that runs on a lane.
#[derive(Debug)]
struct Running {
    frames: mpsc::Sender<Bytes>,
    /// The response that runs, once it is known.
    response_id: Option<String>,
}

impl Shared {
    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.ends.notify_one();
    }

    /// Takes nothing new. What runs on it goes on.
    fn retire(&self) {
        self.is_closed.store(true, Ordering::Release);
        if self.lanes().is_empty() {
            self.close();
        }
    }

    fn let_in(&self) {
        self.was_let_in.store(true, Ordering::Relaxed);
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Lane, Running>> {
        // A map is whole between any two calls.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self) -> MutexGuard<'_, Option<String>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Socket {
    /// Takes an upgraded connection over.
    fn start(
        upgraded: Upgraded,
        greeting: HeaderMap,
        account: AccountId,
        login: Option<Arc<Login>>,
        place: Place,
        ping: Duration,
    ) -> impl Future<Output = Arc<Socket>> {
        let config = WebSocketConfig::default()
            .read_buffer_size(limits::SOCKET_READ_BYTES)
            .write_buffer_size(limits::SOCKET_READ_BYTES)
            .max_message_size(Some(limits::EVENT_BYTES_MAX))
            .max_frame_size(Some(limits::EVENT_BYTES_MAX));
        async move {
            let stream =
                WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await;
            let (outgoing, frames) = mpsc::channel(limits::SOCKET_FRAMES_MAX);
            let shared = Arc::new(Shared::default());
            let id = place.id;
            tokio::spawn(carry(stream, frames, shared.clone(), ping, place));
            Arc::new(Socket {
                id,
                account,
                opened: Instant::now(),
                outgoing,
                shared,
                greeting: Mutex::new(Some(greeting)),
                is_instructed: AtomicBool::new(false),
                login,
            })
        }
    }

    /// Whether it is open still.
    pub fn is_open(&self) -> bool {
        !self.shared.is_closed.load(Ordering::Acquire)
    }

    /// How long it has been open.
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The newest response of those that named no lane, once it has ended, and while it can be gone on
    /// from.
    pub fn newest(&self) -> Option<String> {
        self.shared.newest().clone()
    }

    /// Whether a chain on it began with instructions of ours.
    pub fn is_instructed(&self) -> bool {
        self.is_instructed.load(Ordering::Relaxed)
    }

    /// A chain begins on it with instructions of ours.
    pub fn instruct(&self) {
        self.is_instructed.store(true, Ordering::Relaxed);
    }

    /// The login that it was opened with, if the account has one.
    pub fn login(&self) -> Option<Arc<Login>> {
        self.login.clone()
    }

    /// Whether this response runs on it.
    pub fn runs(&self, response_id: &str) -> bool {
        let lanes = self.shared.lanes();
        lanes
            .values()
            .any(|running| running.response_id.as_deref() == Some(response_id))
    }

    /// Sends an event that is no request of its own.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn say(&self, event: &[u8]) -> Result<(), SendError> {
        self.write(event).await
    }

    async fn write(&self, event: &[u8]) -> Result<(), SendError> {
        let lost = || SendError::NotSent("the connection was lost".to_owned());
        let text =
            Utf8Bytes::try_from(event.to_vec()).map_err(|error| SendError::NotSent(error.to_string()))?;
        self.outgoing.send(text).await.map_err(|_| lost())
    }

    /// Sends a request in a lane, and waits for its first event that says something. The answer is
    /// what the same request would have got over HTTP. `turn` is given back when it has ended.
    ///
    /// # Errors
    /// If none came, and whether anything had been sent.
    pub async fn ask(
        self: &Arc<Socket>,
        lane: Lane,
        pieces: &[Bytes],
        first_event: Duration,
        turn: Option<Turn>,
    ) -> Result<Incoming, SendError> {
        if !self.is_open() {
            return Err(SendError::NotSent("the connection was lost".to_owned()));
        }
        let answer = self.begin(lane, turn);
        self.write(&pieces.concat()).await?;
        tokio::time::timeout(first_event, answer.first())
            .await
            .map_err(|_| SendError::Timeout)?
    }

    /// What was said with the upgrade, for whoever asks first.
    fn greeting(&self) -> Option<HeaderMap> {
        let mut headers = self
            .greeting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
            headers.remove(name);
        }
        Some(headers)
    }

    fn begin(self: &Arc<Socket>, lane: Lane, turn: Option<Turn>) -> SocketAnswer {
        let (frames, received) = mpsc::channel(limits::SOCKET_FRAMES_MAX);
        if lane != Lane::Default {
            self.shared.has_lanes.store(true, Ordering::Relaxed);
        }
        let running = Running {
            frames,
            response_id: None,
        };
        self.shared.lanes().insert(lane.clone(), running);
        SocketAnswer {
            socket: self.clone(),
            lane,
            frames: received,
            ready: VecDeque::new(),
            has_ended: false,
            names_events: turn.is_some(),
            turn,
        }
    }
}

/// The events of one request, as they come.
#[derive(Debug)]
pub struct SocketAnswer {
    socket: Arc<Socket>,
    lane: Lane,
    frames: mpsc::Receiver<Bytes>,
    ready: VecDeque<Bytes>,
    has_ended: bool,
    /// Whether it becomes a stream over HTTP, whose events say of what type they are.
    names_events: bool,
    turn: Option<Turn>,
}

impl SocketAnswer {
    /// The head of an answer, made of the first events.
    async fn first(mut self: SocketAnswer) -> Result<Incoming, SendError> {
        let mut headers = self.socket.greeting().unwrap_or_default();
        if self.turn.is_none() {
            // Whoever speaks WebSocket hears of the state of the turn in an event.
            self.ready.extend(metadata(&headers));
        }
        loop {
            let Some(frame) = self.frames.recv().await else {
                return Err(SendError::Unanswered("the connection was lost".to_owned()));
            };
            let meaning = Event::of(&frame).meaning();
            if let Some(refused) = refused(&frame, meaning) {
                self.has_ended = true;
                let shared = &self.socket.shared;
                shared.lanes().remove(&self.lane);
                if refused.is_connection_limit {
                    shared.close();
                    return Err(outlived());
                }
                let mut incoming = refused.incoming;
                match incoming.status {
                    StatusCode::UNAUTHORIZED => {
                        shared.retire();
                        // The credential is that of the upgrade: one that was good then and has ended says
                        // nothing about the account's.
                        if shared.was_let_in.load(Ordering::Relaxed) {
                            return Err(outlived());
                        }
                    }
                    _ => shared.let_in(),
                }
                headers.extend(std::mem::take(&mut incoming.headers));
                return Ok(Incoming { headers, ..incoming });
            }
            let told = headers_in(&frame, meaning);
            // Over HTTP it is said in the head of the answer, and only there.
            if told.is_empty() || self.turn.is_none() {
                self.ready.push_back(frame);
            }
            headers.extend(told);
            // Quota and the state of the turn come before the response, and say nothing of it.
            let is_answer = !matches!(meaning, Meaning::Unknown | Meaning::Quota);
            if is_answer || self.ready.len() > limits::SOCKET_FRAMES_MAX {
                self.socket.shared.let_in();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
                return Ok(Incoming {
                    status: StatusCode::OK,
                    headers,
                    body: IncomingBody::Socket(self),
                });
            }
        }
    }

    /// The next event, in the form of a stream; `None` after the last.
    ///
    /// # Errors
    /// If the connection ended before.
    pub async fn next(&mut self) -> Option<Result<Bytes, String>> {
        let frame = match self.ready.pop_front() {
            Some(frame) => frame,
            None if self.has_ended => return None,
            None => match self.frames.recv().await {
                Some(frame) => frame,
                None => return Some(Err("the connection was lost".to_owned())),
            },
        };
        let event = Event::of(&frame);
        self.has_ended |= matches!(event.meaning(), Meaning::End(_)) && !event.is_steered();
        if self.has_ended {
            // Whoever goes on from it may be as quick as its last event.
            self.socket.shared.lanes().remove(&self.lane);
            self.turn = None;
        }
        Some(Ok(as_stream_event(
            &frame,
            self.names_events.then(|| event.kind()),
        )))
    }
}

fn outlived() -> SendError {
    SendError::NotSent("the connection has lived as long as it may".to_owned())
}

impl Drop for SocketAnswer {
    fn drop(&mut self) {
        // Its lane may be somebody else's by now.
        if self.has_ended {
            return;
        }
        let mut lanes = self.socket.shared.lanes();
        lanes.remove(&self.lane);
        // There is no other way to tell an upstream that nobody listens any more. What runs beside it
        // is left alone: then the rest is not listened to.
        if lanes.is_empty() {
            self.socket.shared.close();
        }
    }
}

/// Carries events both ways until one side ends, or nobody holds the connection any more.
async fn carry(
    stream: Stream,
    outgoing: mpsc::Receiver<Utf8Bytes>,
    shared: Arc<Shared>,
    ping: Duration,
    place: Place,
) {
    let (sink, source) = stream.split();
    tokio::select! {
        () = write(sink, outgoing, ping) => {}
        () = shared.ends.notified() => {}
        () = read(source, &shared, ping) => {}
    }
    shared.is_closed.store(true, Ordering::Release);
    // Whoever waits for an event learns that none will come.
    shared.lanes().clear();
    drop(place);
}

async fn write(
    mut sink: futures_util::stream::SplitSink<Stream, Message>,
    mut outgoing: mpsc::Receiver<Utf8Bytes>,
    ping: Duration,
) {
    let mut pings = tokio::time::interval_at(Instant::now() + ping, ping);
    loop {
        let message = tokio::select! {
            event = outgoing.recv() => match event {
                Some(event) => Message::Text(event),
                // Nobody holds it any more.
                None => break,
            },
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        if sink.send(message).await.is_err() {
            return;
        }
    }
    tokio::time::timeout(limits::SOCKET_FAREWELL, sink.close())
        .await
        .ok();
}

async fn read(mut source: futures_util::stream::SplitStream<Stream>, shared: &Shared, ping: Duration) {
    let silence = limits::SOCKET_SILENCE_PINGS * ping;
    loop {
        // A peer that is there answers pings, if it says nothing else.
        match tokio::time::timeout(silence, source.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => dispatch(shared, text.into()).await,
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
            Ok(Some(Ok(_))) | Ok(None) => return,
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "a connection to an upstream ended");
                return;
            }
            Err(_) => {
                tracing::debug!("nothing was heard of an upstream for too long");
                return;
            }
        }
    }
}

/// Gives an event to the request that it belongs to. A client that reads slowly slows the upstream.
async fn dispatch(shared: &Shared, frame: Bytes) {
    let event = Event::of(&frame);
    let lane = match shared.has_lanes.load(Ordering::Relaxed) {
        true => event.lane(),
        false => Lane::Default,
    };
    let meaning = event.meaning();
    let frames = {
        let mut lanes = shared.lanes();
        let Some(running) = lanes.get_mut(&lane) else {
            return;
        };
        match meaning {
            Meaning::Begin => running.response_id = event.response_id(),
            Meaning::End(outcome) if lane == Lane::Default => {
                let lives = matches!(outcome, Outcome::Completed | Outcome::Incomplete);
                *shared.newest() = running.response_id.take().filter(|_| lives);
            }
            _ => {}
        }
        running.frames.clone()
    };
    // Nobody listens any more: it was the last that was said.
    frames.send(frame).await.ok();
}
