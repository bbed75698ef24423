//! WebSocket mode beside streams over HTTP: turns as Codex makes them, and what an idle client costs.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::process::Process;
use super::{CLIENTS, Effort, Target};

/// A session as Codex holds one: what is new at each turn is the short output of a tool.
struct Session {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    previous: Option<String>,
}

/// One turn: the time to its first event, and how many there were.
struct Turn {
    first: Duration,
    events: u64,
}

impl Session {
    async fn open(target: &Target, simulate: &str) -> Session {
        let mut request = target
            .url
            .replacen("http", "ws", 1)
            .into_client_request()
            .unwrap();
        let headers = request.headers_mut();
        headers.insert("authorization", format!("Bearer {}", target.key).parse().unwrap());
        headers.insert("x-simulate", simulate.parse().unwrap());
        let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        Session {
            socket,
            previous: None,
        }
    }

    async fn turn(&mut self, number: u64) -> Turn {
        let previous = self.previous.take();
        let follows = previous.map_or(String::new(), |id| format!("\"previous_response_id\":\"{id}\","));
        let event = format!(
            "{{\"type\":\"response.create\",\"model\":\"sim-large\",\"store\":false,{follows}\"input\":[{{\"type\":\"function_call_output\",\"call_id\":\"call_{number}\",\"output\":\"the tide is in\"}}]}}"
        );
        let begin = Instant::now();
        self.socket.send(Message::text(event)).await.unwrap();
        let mut turn = Turn {
            first: Duration::ZERO,
            events: 0,
        };
        loop {
            let Some(Ok(Message::Text(text))) = self.socket.next().await else {
                continue;
            };
            turn.events += 1;
            if turn.events == 1 {
                turn.first = begin.elapsed();
                let (_, after) = text.split_once("\"id\":\"").unwrap_or_else(|| panic!("{text}"));
                self.previous = after.split('"').next().map(str::to_owned);
            }
            if text.starts_with("{\"type\":\"response.completed\"") {
                return turn;
            }
            assert!(!text.starts_with("{\"type\":\"error\""), "{text}");
        }
    }
}

/// Compares the two ways, and prints what came of it.
pub async fn measure(direct: &Target, through: &Target, gateway: &Process, effort: Effort) {
    println!("\nWebSocket beside streams over HTTP, turns with short inputs");
    let mut added = Vec::new();
    for over_socket in [false, true] {
        let name = if over_socket { "WebSocket" } else { "SSE" };
        let (a, b) = first_events(direct, through, effort.latency_requests, over_socket).await;
        let [a, b] = [a, b].map(|times| times.value_at_quantile(0.5));
        println!(
            "{name:>14}: first event, p50: direct {a:>5} µs, gateway {b:>5} µs, added {:>5} µs",
            b.saturating_sub(a)
        );
        added.push(b.saturating_sub(a) as f64);
    }
    println!(
        "{:>14}: {:.2} times the added time",
        "ratio",
        added[1] / added[0].max(1.0)
    );
    let mut rates = Vec::new();
    for over_socket in [false, true] {
        let name = if over_socket { "WebSocket" } else { "SSE" };
        let cpu = gateway.process.cpu();
        let (rate, turns) = events_per_second(through, effort.load_time, over_socket).await;
        let cpu = (gateway.process.cpu() - cpu).as_secs_f64() * 1000.0 / turns as f64;
        println!(
            "{name:>14}: {CLIENTS} clients, turns of 72 events: {rate:>7.0} events/s, {cpu:.3} CPU s per 1,000 turns"
        );
        rates.push(rate);
    }
    println!("{:>14}: {:.2} times the events", "ratio", rates[1] / rates[0]);

    let before = gateway.process.resident_kib();
    let mut idle = Vec::with_capacity(effort.streams);
    for _ in 0..effort.streams {
        idle.push(Session::open(through, "canned").await);
    }
    let each = (gateway.process.resident_kib() - before) / effort.streams as f64;
    println!(
        "memory: {each:.1} KiB per idle WebSocket at {} of them",
        effort.streams
    );
}

const TURN: &str = "canned;deltas=8";

/// Times to the first event, the two targets in turns.
async fn first_events(
    direct: &Target,
    through: &Target,
    turns: u64,
    over_socket: bool,
) -> (Histogram<u64>, Histogram<u64>) {
    let mut times = [Histogram::new(3).unwrap(), Histogram::new(3).unwrap()];
    let mut sessions = [
        Session::open(direct, TURN).await,
        Session::open(through, TURN).await,
    ];
    let warm_up = turns / 10;
    for number in 0..turns + warm_up {
        for (index, target) in [direct, through].into_iter().enumerate() {
            let first = match over_socket {
                true => sessions[index].turn(number).await.first,
                false => over_http(target, number, TURN).await.first,
            };
            if number >= warm_up {
                times[index]
                    .record(u64::try_from(first.as_micros()).unwrap())
                    .unwrap();
            }
        }
    }
    let [a, b] = times;
    (a, b)
}

async fn over_http(target: &Target, number: u64, simulate: &str) -> Turn {
    let body = format!(
        "{{\"model\":\"sim-large\",\"stream\":true,\"store\":false,\"input\":[{{\"type\":\"function_call_output\",\"call_id\":\"call_{number}\",\"output\":\"the tide is in\"}}]}}"
    );
    let request = target
        .client
        .post(&target.url)
        .bearer_auth(&target.key)
        .body(body);
    let begin = Instant::now();
    let mut response = request.header("x-simulate", simulate).send().await.unwrap();
    let mut turn = Turn {
        first: Duration::ZERO,
        events: 0,
    };
    while let Some(chunk) = response.chunk().await.unwrap() {
        if turn.events == 0 {
            turn.first = begin.elapsed();
        }
        turn.events += memchr::memmem::find_iter(&chunk, b"event: ").count() as u64;
    }
    turn
}

/// Events that so many clients get in a second, and in how many turns.
async fn events_per_second(target: &Target, time: Duration, over_socket: bool) -> (f64, u64) {
    const LONG: &str = "canned;deltas=64";
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS as u64 {
        let target = target.clone();
        clients.spawn(async move {
            let mut session = match over_socket {
                true => Some(Session::open(&target, LONG).await),
                false => None,
            };
            let (mut events, mut turns) = (0, 0);
            while begin.elapsed() < time {
                let number = client << 32 | turns;
                let turn = match &mut session {
                    Some(session) => session.turn(number).await,
                    None => over_http(&target, number, LONG).await,
                };
                events += turn.events;
                turns += 1;
            }
            (events, turns)
        });
    }
    let done = clients.join_all().await;
    let events: u64 = done.iter().map(|(events, _)| events).sum();
    let turns: u64 = done.iter().map(|(_, turns)| turns).sum();
    (events as f64 / begin.elapsed().as_secs_f64(), turns)
}
