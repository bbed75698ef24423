//! `GET /v1/responses` with an upgrade: the WebSocket mode of the Responses API, towards clients.
//!
//! Each `response.create` is an exchange of its own, with its own row; what a WebSocket adds is at
//! the two ends only. A connection has a reader, which takes no more than there is room for, one
//! task for each lane that is used, which answers one request after the other, and a writer.

mod frames;
mod lanes;
mod turn;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts as _, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, UPGRADE, USER_AGENT};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::door::Peer;
use super::listen::Seat;
use super::{Front, errors};
use crate::exchange::Record;
use crate::exchange::connection::Connection;
use crate::limits;

use lanes::Lanes;

/// Close codes of RFC 6455, and of the registry that it made.
mod code {
    pub(super) const GOING_AWAY: u16 = 1001;
    pub(super) const PROTOCOL_ERROR: u16 = 1002;
    pub(super) const NOT_UTF8: u16 = 1007;
    pub(super) const TOO_LARGE: u16 = 1009;
    /// Clients come back at once.
    pub(super) const SERVICE_RESTART: u16 = 1012;
}

type Sink = futures_util::stream::SplitSink<WebSocket, Message>;
type Source = futures_util::stream::SplitStream<WebSocket>;

/// A client's connection, as its reader, its writer and its requests see it.
#[derive(Debug)]
struct Talk {
    front: Front,
    /// Those of the handshake: they belong to each of its requests.
    headers: HeaderMap,
    peer: Peer,
    connection: Arc<Connection>,
    out: mpsc::Sender<Outgoing>,
    /// For what waits to be written, in bytes.
    out_room: Arc<Semaphore>,
    /// Requests that may run at once.
    in_flight: Semaphore,
    /// For requests that run or wait, by their size.
    room: Arc<Semaphore>,
    /// How many run or wait.
    requests: AtomicUsize,
}

/// What waits to be written, and the room that it takes.
type Outgoing = (Utf8Bytes, OwnedSemaphorePermit);

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The client has gone, or nothing was heard of it for too long.
    Gone,
    /// With this code, and why.
    Close(u16, &'static str),
    /// The gateway is told to stop.
    Stopping,
}

/// Answers an upgrade: the key is checked here, and again at each request.
pub(super) async fn upgrade(front: Front, request: Request) -> Response {
    let (mut head, _) = request.into_parts();
    let record = Record::open(&front.gateway, "/responses");
    // Whoever may not ask now is told so at each request: a refused upgrade ends Codex's turn for good.
    let peer = Peer::of(&head.extensions);
    if let Err(error) = front.key_of(&head.headers, peer) {
        return super::v1::refused(&front, error, record).await;
    }
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut head, &()).await else {
        record.withdraw();
        return errors::upgrade_refused();
    };
    // The connection itself is no request: its requests leave the rows.
    record.withdraw();
    let seat = head.extensions.remove::<Seat>();
    let most = front.request_body_bytes_max;
    let mut headers = head.headers;
    for name in [CONNECTION, UPGRADE] {
        headers.remove(name);
    }
    for name in ["key", "version", "extensions", "protocol", "accept"] {
        headers.remove(format!("sec-websocket-{name}"));
    }
    upgrade
        .max_message_size(most)
        .max_frame_size(most)
        .read_buffer_size(limits::SOCKET_READ_BYTES)
        .write_buffer_size(limits::SOCKET_READ_BYTES)
        .on_upgrade(async move |socket| {
            let (out, frames) = mpsc::channel(limits::SOCKET_FRAMES_MAX);
            let talk = Talk::new(front, headers, peer, out);
            let served = Box::pin(serve(socket, talk, frames));
            match &seat {
                Some(seat) => tokio::select! {
                    () = served => {}
                    () = seat.is_cut() => {}
                },
                None => served.await,
            }
            drop(seat);
        })
}

impl Talk {
    fn new(front: Front, mut headers: HeaderMap, peer: Peer, out: mpsc::Sender<Outgoing>) -> Talk {
        // Each request of it is a body of its own.
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let most = front.request_body_bytes_max;
        Talk {
            connection: Arc::new(Connection::new(&front.gateway.connections, most)),
            headers,
            peer,
            out,
            out_room: Arc::new(Semaphore::new(limits::SOCKET_OUT_BYTES as usize)),
            in_flight: Semaphore::new(limits::SOCKET_IN_FLIGHT_MAX),
            room: Arc::new(Semaphore::new(lanes::units(most) as usize)),
            requests: AtomicUsize::new(0),
            front,
        }
    }

    /// Codex waits five minutes for an event, whatever pings come; and takes one that says nothing.
    fn is_codex(&self) -> bool {
        let agent = self.headers.get(USER_AGENT).map(HeaderValue::as_bytes);
        let says_codex = agent.is_some_and(|agent| agent.starts_with(b"codex"));
        says_codex || self.headers.contains_key(HeaderName::from_static("originator"))
    }

    async fn send(&self, frame: Utf8Bytes) {
        // One that is larger than all the room takes all of it.
        let bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let room = self.out_room.clone();
        let room = room.acquire_many_owned(bytes.min(limits::SOCKET_OUT_BYTES)).await;
        if let Ok(room) = room {
            // Closed only where nobody is left to read.
            self.out.send((frame, room)).await.ok();
        }
    }
}

async fn serve(socket: WebSocket, talk: Talk, mut frames: mpsc::Receiver<Outgoing>) {
    let talk = Arc::new(talk);
    let mut lanes = Lanes::default();
    let mut stopping = talk.front.gateway.stopping.subscribe();
    let (mut sink, source) = socket.split();
    let end = tokio::select! {
        end = read(source, &talk, &mut lanes) => end,
        () = write(&mut sink, &mut frames, &talk) => End::Gone,
        _ = stopping.wait_for(|stops| *stops) => End::Stopping,
    };
    let (code, reason) = match end {
        End::Gone => return,
        End::Close(code, reason) => (code, reason),
        End::Stopping => {
            // What runs may end; it is told to whom it belongs, and then the line is hung up.
            tokio::select! {
                () = lanes.finish() => {}
                () = write(&mut sink, &mut frames, &talk) => return,
            }
            (code::SERVICE_RESTART, "the gateway restarts")
        }
    };
    let farewell = async {
        while let Ok((frame, _)) = frames.try_recv() {
            sink.feed(Message::Text(frame)).await.ok();
        }
        let close = CloseFrame {
            code,
            reason: reason.into(),
        };
        sink.send(Message::Close(Some(close))).await.ok();
        sink.close().await.ok();
    };
    tokio::time::timeout(limits::SOCKET_FAREWELL, farewell).await.ok();
}

/// Reads events, as long as there is room for them.
async fn read(mut source: Source, talk: &Arc<Talk>, lanes: &mut Lanes) -> End {
    let silence = limits::SOCKET_SILENCE_PINGS * talk.front.socket_ping;
    loop {
        // A peer that is there answers pings, if it says nothing else.
        let Ok(message) = tokio::time::timeout(silence, source.next()).await else {
            tracing::debug!("nothing was heard of a client for too long");
            return End::Close(code::GOING_AWAY, "nothing was heard for too long");
        };
        match message {
            Some(Ok(Message::Text(text))) => lanes.take(talk, Bytes::from(text)).await,
            Some(Ok(Message::Binary(_))) => talk.send(frames::binary()).await,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_))) | None => return End::Gone,
            Some(Err(error)) => return broken(error),
        }
    }
}

/// What a message that could not be read means.
fn broken(error: axum::Error) -> End {
    use tokio_tungstenite::tungstenite::Error as Broken;
    let Ok(error) = error.into_inner().downcast::<Broken>() else {
        return End::Gone;
    };
    match *error {
        Broken::Capacity(_) => End::Close(code::TOO_LARGE, "the message is too large"),
        Broken::Utf8(_) => End::Close(code::NOT_UTF8, "the message is not UTF-8"),
        Broken::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => End::Gone,
        Broken::Protocol(_) => End::Close(code::PROTOCOL_ERROR, "the frame is not as it should be"),
        _ => End::Gone,
    }
}

/// Writes what is to go out, and pings. It ends when the client cannot be written to.
async fn write(sink: &mut Sink, frames: &mut mpsc::Receiver<Outgoing>, talk: &Talk) {
    let is_codex = talk.is_codex();
    let ping = talk.front.socket_ping;
    let keep_alive = talk.front.gateway.settings.stream_comment;
    let mut pinged = Instant::now();
    let mut said = Instant::now();
    loop {
        let until = match is_codex {
            true => (pinged + ping).min(said + keep_alive),
            false => pinged + ping,
        };
        let written = tokio::select! {
            frame = frames.recv() => {
                let Some(frame) = frame else { return };
                said = Instant::now();
                write_all(sink, frame, frames).await
            }
            () = tokio::time::sleep_until(until) => {
                let now = Instant::now();
                let was_silent = is_codex && now >= said + keep_alive;
                if was_silent {
                    said = now;
                }
                if was_silent && talk.requests.load(Ordering::Relaxed) > 0 {
                    sink.send(Message::Text(frames::keepalive())).await
                } else if now >= pinged + ping {
                    pinged = now;
                    sink.send(Message::Ping(Bytes::new())).await
                } else {
                    Ok(())
                }
            }
        };
        if written.is_err() {
            return;
        }
    }
}

/// All that is there goes out together.
async fn write_all(
    sink: &mut Sink,
    (first, mut room): Outgoing,
    frames: &mut mpsc::Receiver<Outgoing>,
) -> Result<(), axum::Error> {
    sink.feed(Message::Text(first)).await?;
    while let Ok((frame, its)) = frames.try_recv() {
        room.merge(its);
        sink.feed(Message::Text(frame)).await?;
    }
    let written = sink.flush().await;
    drop(room);
    written
}
