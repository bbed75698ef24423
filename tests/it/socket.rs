//! A client of the WebSocket mode, as the tests speak it.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::harness::{Harness, KEY, PATIENCE};

/// A WebSocket to a gateway, or to a simulated account.
pub struct Socket {
    pub stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// How a WebSocket ended: with a code, or without a word.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    With(u16),
    Cut,
}

impl Socket {
    /// Connects with these headers; the status of a refusal, if it is refused.
    pub async fn open(url: &str, key: &str, headers: &[(&str, &str)]) -> Result<Socket, u16> {
        match Socket::connect(url, key, headers).await {
            Ok(socket) => Ok(socket),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// The same to a gateway that may be gone.
    pub async fn try_open(url: &str, key: &str, headers: &[(&str, &str)]) -> Option<Socket> {
        Socket::connect(url, key, headers).await.ok()
    }

    async fn connect(url: &str, key: &str, headers: &[(&str, &str)]) -> Result<Socket, Error> {
        let url = format!("{}/responses", url.replacen("http", "ws", 1));
        let mut request = url.into_client_request().unwrap();
        let bearer = format!("Bearer {key}");
        let all = [&[("authorization", bearer.as_str())], headers].concat();
        for (name, value) in all {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let (stream, _) = bounded(tokio_tungstenite::connect_async(request)).await?;
        Ok(Socket { stream })
    }

    pub async fn try_send(&mut self, event: &Value) -> Result<(), Error> {
        bounded(self.stream.send(Message::text(event.to_string()))).await
    }

    pub async fn send(&mut self, event: &Value) {
        self.say(Message::text(event.to_string())).await;
    }

    pub async fn say(&mut self, message: Message) {
        bounded(self.stream.send(message)).await.unwrap();
    }

    /// The next event.
    pub async fn next(&mut self) -> Value {
        match self.try_next().await {
            Ok(event) => event,
            Err(ended) => panic!("the connection has ended: {ended:?}"),
        }
    }

    /// The next event, or how the connection ended.
    pub async fn try_next(&mut self) -> Result<Value, Ended> {
        loop {
            match bounded(self.stream.next()).await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(frame)))) => return Err(Ended::With(frame.code.into())),
                Some(Ok(Message::Binary(_))) => panic!("a binary message"),
                Some(Ok(_)) => {}
                _ => return Err(Ended::Cut),
            }
        }
    }

    /// How the connection ends, whatever comes before.
    pub async fn ended(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.try_next().await {
                return ended;
            }
        }
    }

    /// All events of the next answer, to its last.
    pub async fn answer(&mut self) -> Turn {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            let is_last = is_terminal(&event);
            events.push(event);
            if is_last {
                return Turn { events };
            }
        }
    }

    /// Asks, and gives the answer, which must be completed.
    pub async fn turn(&mut self, event: Value) -> Turn {
        self.send(&event).await;
        let turn = self.answer().await;
        assert_eq!(turn.last()["type"], "response.completed", "{turn:?}");
        turn
    }

    /// Asks, and gives the error that comes instead of an answer.
    pub async fn refusal(&mut self, event: Value) -> Value {
        self.send(&event).await;
        let event = self.next().await;
        assert_eq!(event["type"], "error", "{event}");
        assert!(event["status"].is_u64(), "{event}");
        event
    }
}

fn is_terminal(event: &Value) -> bool {
    let kind = event["type"].as_str().unwrap();
    let ends = ["response.completed", "response.failed", "response.incomplete"];
    ends.contains(&kind) || kind == "error"
}

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it took too long")
}

/// The events of one answer.
#[derive(Debug)]
pub struct Turn {
    pub events: Vec<Value>,
}

impl Turn {
    pub fn last(&self) -> &Value {
        self.events.last().unwrap()
    }

    pub fn id(&self) -> String {
        self.last()["response"]["id"].as_str().unwrap().to_owned()
    }

    /// What was said.
    pub fn text(&self) -> String {
        let deltas = self
            .events
            .iter()
            .filter(|event| event["type"] == "response.output_text.delta");
        deltas.filter_map(|event| event["delta"].as_str()).collect()
    }

    /// The name of the account that said it.
    pub fn account(&self) -> String {
        let text = self.text();
        let (_, after) = text.split_once(" on ").unwrap();
        after.split('.').next().unwrap().to_owned()
    }
}

/// A request that says something, after an earlier response.
pub fn create(text: &str, previous: Option<&str>) -> Value {
    let mut event = json!({
        "type": "response.create", "model": "sim-large",
        "input": [{ "role": "user", "content": text }],
    });
    if let Some(previous) = previous {
        event["previous_response_id"] = previous.into();
    }
    event
}

/// The same, and only this connection will know the answer; as Codex asks.
pub fn unstored(text: &str, previous: Option<&str>) -> Value {
    let mut event = create(text, previous);
    event["store"] = false.into();
    event["stream"] = true.into();
    event["reasoning"] = json!({ "effort": "high" });
    event["include"] = json!(["reasoning.encrypted_content"]);
    event
}

impl Harness {
    /// A WebSocket to the gateway.
    pub async fn socket(&self) -> Socket {
        self.socket_with(&[]).await
    }

    pub async fn socket_with(&self, headers: &[(&str, &str)]) -> Socket {
        let url = format!("{}/v1", self.gateway.url());
        Socket::open(&url, KEY, headers).await.unwrap()
    }

    /// The rows of all requests over WebSocket that have ended, oldest first, once there are so many.
    pub async fn socket_rows(&self, count: usize) -> Vec<Value> {
        crate::harness::eventually("the rows", || {
            let rows = self.query(
                "SELECT t.*, q.conversation_id AS chain FROM turns t JOIN requests q ON q.id = t.request_id \
                 WHERE t.transport = 'websocket' AND t.outcome <> 'open' ORDER BY t.request_id",
            );
            (rows.len() >= count).then_some(rows)
        })
        .await
    }
}
