//! A simulated account over WebSocket: what one connection holds and does.
//!
//! As the guide of the WebSocket mode describes it: each connection holds the newest response of
//! each lane, whether it is stored or not; a lane answers one request after the other, lanes beside
//! each other; a continuation that fails takes what it continued with it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State as Shared;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::account::{Kept, State};
use super::journal::JournalEntry;
use super::play::{Sending, Step};
use super::refusal::Refusal;
use super::{codex, events, response, server};

/// The largest message, as the body of a request over HTTP.
const MESSAGE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Responses that run at once on a connection; more wait.
const IN_FLIGHT_MAX: usize = 16;

/// Lanes with a name that a connection has in its life.
const LANES_MAX: usize = 32;

/// The longest name of a lane.
const LANE_NAME_MAX: usize = 256;

/// A lane; `None` is the one without a name.
type Lane = Option<String>;

pub(super) async fn upgrade(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let Some(life) = state.socket_life else {
        return Refusal::upgrade().into_response();
    };
    if let Some(fault) = state.upgrade_fault() {
        tokio::time::sleep(fault.slow.unwrap_or_default()).await;
        let status = fault.upgrade.unwrap_or(StatusCode::FORBIDDEN.as_u16().into());
        if status != usize::from(StatusCode::SWITCHING_PROTOCOLS.as_u16()) {
            return Refusal::told(status, &fault).into_response();
        }
    }
    match upgrade {
        Ok(upgrade) => upgrade
            .max_message_size(MESSAGE_BYTES_MAX)
            .max_frame_size(MESSAGE_BYTES_MAX)
            .read_buffer_size(8 * 1024)
            .on_upgrade(move |socket| serve(socket, Talk::new(state, headers), life)),
        Err(rejection) => rejection.into_response(),
    }
}

/// What is to go out.
#[derive(Debug)]
enum Out {
    Frame(String),
    Close(u16),
    Cut,
}

/// One among the open connections of an account, while it lives.
struct Open(Arc<State>);

impl Open {
    fn begin(state: Arc<State>) -> Open {
        state.open_sockets.fetch_add(1, Ordering::AcqRel);
        Open(state)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open_sockets.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn serve(mut socket: WebSocket, talk: (Talk, mpsc::Receiver<Out>), life: Duration) {
    let (talk, mut out) = talk;
    let _open = Open::begin(talk.state.clone());
    let talk = Arc::new(talk);
    let mut lanes = Lanes::default();
    let end = tokio::time::sleep(life);
    tokio::pin!(end);
    loop {
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    if let Err(refused) = lanes.take(&talk, Bytes::from(text)) {
                        talk.refuse(&refused.0, &refused.1).await;
                    }
                }
                Some(Ok(Message::Binary(_))) => {
                    let message = "Binary messages are not supported.".to_owned();
                    talk.refuse(&None, &Refusal::bad_request(None, None, message)).await;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return,
            },
            Some(frame) = out.recv() => match frame {
                Out::Frame(text) => {
                    if socket.send(Message::Text(text.into())).await.is_err() {
                        return;
                    }
                }
                Out::Close(code) => {
                    let frame = CloseFrame { code, reason: "as it was told".into() };
                    socket.send(Message::Close(Some(frame))).await.ok();
                    return;
                }
                Out::Cut => return,
            },
            () = &mut end => {
                let text = Refusal::connection_limit(life).frame().to_string();
                socket.send(Message::Text(text.into())).await.ok();
                socket.send(Message::Close(None)).await.ok();
                return;
            }
        }
    }
}

/// The lanes of a connection, each with a task that answers one request after the other.
#[derive(Debug, Default)]
struct Lanes {
    queues: HashMap<Lane, mpsc::UnboundedSender<Bytes>>,
    tasks: JoinSet<()>,
}

impl Lanes {
    fn take(&mut self, talk: &Arc<Talk>, frame: Bytes) -> Result<(), Box<(Lane, Refusal)>> {
        let refused = |lane: Lane, code: &str, param, message: &str| {
            let refusal = Refusal::bad_request(Some(code), param, message.to_owned());
            Err(Box::new((lane, refusal)))
        };
        let Ok(Value::Object(event)) = serde_json::from_slice(&frame) else {
            return refused(None, "invalid_json", None, "The message is no JSON object.");
        };
        let lane = match event.get("stream_id") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) if is_lane_name(name) => Some(name.clone()),
            Some(_) => {
                let message = "'stream_id' is 1 to 256 characters of [A-Za-z0-9_.-].";
                return refused(None, "invalid_stream_id", Some("stream_id"), message);
            }
        };
        match event.get("type").and_then(Value::as_str) {
            Some("response.create") => {}
            Some("response.steer") => {
                talk.steer(&event);
                return Ok(());
            }
            _ => {
                let message = "This type of event is not known here.";
                return refused(lane, "unknown_event", Some("type"), message);
            }
        }
        let named = self.queues.keys().filter(|lane| lane.is_some()).count();
        if lane.is_some() && !self.queues.contains_key(&lane) && named >= LANES_MAX {
            let message = "This connection has had as many lanes as it may.";
            return refused(lane, "websocket_stream_limit_reached", Some("stream_id"), message);
        }
        let queue = self.queues.entry(lane.clone()).or_insert_with(|| {
            let (sender, frames) = mpsc::unbounded_channel();
            self.tasks.spawn(talk.clone().answer_all(lane, frames));
            sender
        });
        queue.send(frame).ok();
        Ok(())
    }
}

fn is_lane_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=LANE_NAME_MAX).contains(&name.len()) && name.bytes().all(plain)
}

/// One connection.
#[derive(Debug)]
struct Talk {
    state: Arc<State>,
    /// Those of the handshake.
    headers: HeaderMap,
    out: mpsc::Sender<Out>,
    in_flight: Semaphore,
    /// The newest response of each lane.
    held: Mutex<HashMap<Lane, (String, Arc<Kept>)>>,
    /// The responses that run, each with its lane and what was said to it meanwhile.
    running: Mutex<HashMap<String, (Lane, Option<Value>)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Talk {
    fn new(state: Arc<State>, headers: HeaderMap) -> (Talk, mpsc::Receiver<Out>) {
        let (out, receiver) = mpsc::channel(16);
        let talk = Talk {
            state,
            headers,
            out,
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            held: Mutex::default(),
            running: Mutex::default(),
        };
        (talk, receiver)
    }

    async fn answer_all(self: Arc<Talk>, lane: Lane, mut frames: mpsc::UnboundedReceiver<Bytes>) {
        while let Some(frame) = frames.recv().await {
            let Ok(_place) = self.in_flight.acquire().await else {
                return;
            };
            let mut next = Some(frame);
            while let Some(frame) = next {
                next = self.answer(&lane, frame).await;
            }
        }
    }

    /// Answers a request. Gives the request that follows it, if it was steered.
    async fn answer(&self, lane: &Lane, frame: Bytes) -> Option<Bytes> {
        let number = self.state.keeps_journal.then(|| {
            let entry = JournalEntry::of("WEBSOCKET", "/v1/responses".to_owned(), &self.headers, &frame);
            self.state.journal().add(entry)
        });
        let mut sending = Sending::new(self.state.clone(), number);
        let fault = match server::fault(&self.state, &self.headers) {
            Ok(fault) => fault,
            Err(refusal) => {
                self.refuse(lane, &refusal).await;
                return None;
            }
        };
        if fault.canned {
            let steps = self.state.canned.steps(true, &self.state.id("c")[2..], &fault);
            self.play(lane, steps, "").await;
            return None;
        }
        tokio::time::sleep(fault.slow.unwrap_or(self.state.reply_delay)).await;
        if fault.hang {
            std::future::pending::<()>().await;
        }
        if let Some(code) = fault.close {
            self.out
                .send(Out::Close(u16::try_from(code).unwrap_or(1011)))
                .await
                .ok();
            return None;
        }
        if fault.cut_before {
            self.out.send(Out::Cut).await.ok();
            return None;
        }
        let held = |id: &str| self.holds(id);
        let is_codex = self.state.login.is_some();
        let instructed = || self.is_instructed(&frame);
        if is_codex && let Some(refused) = codex::refused_on_socket(&self.state, &frame, &fault, instructed())
        {
            sending.whole();
            self.evict(lane, &frame);
            self.send(lane, in_words_of_the_backend(refused).await).await;
            return None;
        }
        let answer = match fault.status {
            Some(status) => Err(Refusal::told(status, &fault)),
            None => response::answer_on(&self.state, &held, &frame, &fault),
        };
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(refusal) => {
                sending.whole();
                self.evict(lane, &frame);
                self.refuse(lane, &refusal).await;
                return None;
            }
        };
        let id = answer.id().to_owned();
        if let Some(number) = number {
            self.state.journal().change(number, |entry| {
                entry.status = 200;
                entry.response_id = Some(id.clone());
                entry.usage = Some(answer.object["usage"].clone());
            });
        }
        match &answer.kept {
            Some(kept) => drop(locked(&self.held).insert(lane.clone(), (id.clone(), kept.clone()))),
            None => self.evict(lane, &frame),
        }
        if is_codex {
            let [plan, metadata] = codex::before_a_response(&self.state, &frame);
            self.send(lane, metadata).await;
            answer.plan = Some(plan);
        }
        locked(&self.running).insert(id.clone(), (lane.clone(), None));
        let steps = events::stream(&answer, &fault, self.state.delta_delay);
        let steered = self.play(lane, steps, &id).await;
        locked(&self.running).remove(&id);
        sending.whole();
        let said = steered?;
        self.send(lane, steered_event(&answer.object)).await;
        Some(successor(&frame, &id, said))
    }

    fn holds(&self, id: &str) -> Option<Arc<Kept>> {
        let held = locked(&self.held);
        let mut held = held.values();
        held.find(|(known, _)| known == id).map(|(_, kept)| kept.clone())
    }

    /// Whether what a request goes on from has a developer's message. Of what is not here, another error
    /// is told.
    fn is_instructed(&self, frame: &[u8]) -> bool {
        let request: Value = serde_json::from_slice(frame).unwrap_or_default();
        let follows = request["previous_response_id"].as_str();
        follows.is_some_and(|id| self.holds(id).is_none_or(|kept| kept.is_instructed()))
    }

    /// A continuation has failed: what it continued in its own lane is gone.
    fn evict(&self, lane: &Lane, frame: &[u8]) {
        let request: Value = serde_json::from_slice(frame).unwrap_or_default();
        let mut held = locked(&self.held);
        if held
            .get(lane)
            .is_some_and(|(id, _)| request["previous_response_id"] == **id)
        {
            held.remove(lane);
        }
    }

    /// Sends the events; gives what was said to the response meanwhile, and stops there.
    async fn play(&self, lane: &Lane, steps: Vec<Step>, id: &str) -> Option<Value> {
        for step in steps {
            match step {
                Step::Send(bytes) => {
                    for data in datas(&bytes) {
                        self.send_text(lane, data).await;
                    }
                }
                Step::SendStamped(before, after) => {
                    let stamp = format!("\"sent_us\":{},", super::play::micros_now());
                    let bytes = [&before[..], stamp.as_bytes(), &after[..]].concat();
                    for data in datas(&bytes) {
                        self.send_text(lane, data).await;
                    }
                }
                Step::Wait(Duration::ZERO) => tokio::task::yield_now().await,
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Hang => std::future::pending().await,
                Step::Cut => drop(self.out.send(Out::Cut).await),
            }
            let mut running = locked(&self.running);
            if let Some(said) = running.get_mut(id).and_then(|(_, said)| said.take()) {
                return Some(said);
            }
        }
        None
    }

    /// Says something to a response that runs.
    fn steer(self: &Arc<Talk>, event: &Map<String, Value>) {
        let id = event.get("previous_response_id").cloned().unwrap_or_default();
        let input = event.get("input").cloned().unwrap_or_default();
        let lane = id.as_str().and_then(|id| {
            let mut running = locked(&self.running);
            let (lane, said) = running.get_mut(id)?;
            *said = Some(input.clone());
            Some(lane.clone())
        });
        let answer = match lane {
            Some(_) => json!({
                "type": "response.steer.accepted", "sequence_number": 0,
                "steer": { "id": self.state.id("steer"), "previous_response_id": id },
            }),
            None => json!({
                "type": "response.steer.failed",
                "error": {
                    "type": "invalid_request_error", "code": "response_not_active",
                    "message": "The response does not run.",
                },
                "steer": { "previous_response_id": id, "input": input },
            }),
        };
        let talk = self.clone();
        tokio::spawn(async move { talk.send(&lane.flatten(), answer).await });
    }

    async fn refuse(&self, lane: &Lane, refusal: &Refusal) {
        self.send(lane, refusal.frame()).await;
    }

    async fn send(&self, lane: &Lane, event: Value) {
        self.send_text(lane, &event.to_string()).await;
    }

    /// Sends an event, with the name of its lane at the end.
    async fn send_text(&self, lane: &Lane, event: &str) {
        let frame = match (lane, event.strip_suffix('}')) {
            (Some(lane), Some(open)) => format!("{open},\"stream_id\":\"{lane}\"}}"),
            _ => event.to_owned(),
        };
        self.out.send(Out::Frame(frame)).await.ok();
    }
}

/// An error of the backend of ChatGPT logins as a frame.
async fn in_words_of_the_backend(refused: Response) -> Value {
    let status = refused.status().as_u16();
    let body = axum::body::to_bytes(refused.into_body(), MESSAGE_BYTES_MAX).await;
    let body: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
    let error = match body.get("error") {
        Some(error) => error.clone(),
        None => json!({ "type": "invalid_request_error", "code": null, "message": body["detail"] }),
    };
    json!({ "type": "error", "status": status, "error": error })
}

/// What the events of a stream carry.
fn datas(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("data: "))
}

/// The end of a response that was steered.
fn steered_event(object: &Value) -> Value {
    let mut response = object.clone();
    response["status"] = "incomplete".into();
    response["incomplete_details"] = json!({ "reason": "steered" });
    response["output"] = json!([]);
    json!({ "type": "response.incomplete", "sequence_number": 9999, "response": response })
}

/// The request that goes on after a response that was steered.
fn successor(frame: &[u8], id: &str, said: Value) -> Bytes {
    let mut request: Value = serde_json::from_slice(frame).unwrap_or_default();
    request["previous_response_id"] = id.into();
    request["input"] = said;
    request.to_string().into()
}
