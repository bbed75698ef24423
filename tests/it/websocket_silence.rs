//! Accounts whose WebSockets fall silent, and how many of them are open.

use futures_util::{SinkExt as _, StreamExt as _};
use moorage::account::Kind;
use moorage::simulator::{Simulator, SimulatorConfig};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Builder, Harness, PATIENCE, eventually, said};
use crate::socket::{Socket, create, unstored};

/// How an upstream behaves towards an upgrade and after it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    /// It takes the connection, and says nothing.
    Mute,
    /// It upgrades, and reads and says nothing more.
    Deaf,
    /// It says that it has begun, and ends only when it was pinged three times.
    Busy,
}

/// An upstream that speaks WebSocket in this manner.
struct Silent {
    base_url: String,
    /// A word for each connection that has ended.
    ended: mpsc::UnboundedReceiver<()>,
    task: JoinHandle<()>,
}

impl Silent {
    async fn start(manner: Manner) -> Silent {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (ends, ended) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let ends = ends.clone();
                tokio::spawn(async move {
                    serve(stream, manner).await;
                    ends.send(()).ok();
                });
            }
        });
        Silent {
            base_url,
            ended,
            task,
        }
    }

    /// A gateway over it, and over a simulated account that is asked if it fails.
    async fn harness(&self, builder: Builder, is_alone: bool) -> Harness {
        let simulator = Simulator::start(SimulatorConfig::default()).await.unwrap();
        let live = simulator.accounts()[0].base_url().to_owned();
        let mut accounts = vec![("silent".to_owned(), self.base_url.clone(), "k".to_owned())];
        if !is_alone {
            accounts.push(("sim-a".to_owned(), live, "sk-sim-a".to_owned()));
        }
        builder.start_over(simulator, &accounts).await
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, manner: Manner) {
    if manner == Manner::Mute {
        stream.read_to_end(&mut Vec::new()).await.ok();
        return;
    }
    // What asks for the list of models is no upgrade.
    let Ok(mut socket) = accept_async(stream).await else {
        return;
    };
    if manner == Manner::Deaf {
        // The connection alone is looked at: nothing that comes is answered.
        let stream = socket.get_mut();
        stream.read_to_end(&mut Vec::new()).await.ok();
        return;
    }
    let mut pings = 0;
    while let Some(Ok(message)) = socket.next().await {
        let response = |status: &str| json!({ "id": "resp_silent", "object": "response", "status": status, "output": [] });
        let event = match message {
            Message::Text(_) => json!({ "type": "response.created", "response": response("in_progress") }),
            Message::Ping(_) if pings == 2 => {
                json!({ "type": "response.completed", "response": response("completed") })
            }
            _ => {
                pings += 1;
                continue;
            }
        };
        socket.send(Message::text(event.to_string())).await.ok();
    }
}

fn pinging() -> Builder {
    Harness::build(0).section("[limits]\nsocket_ping = \"50ms\"")
}

#[tokio::test]
async fn an_account_that_falls_silent_is_found_and_its_connection_closed() {
    let mut silent = Silent::start(Manner::Deaf).await;
    let harness = silent.harness(pinging(), true).await;
    let mut socket = harness.socket().await;
    let refused = socket.refusal(create("hi", None)).await;
    assert_eq!(refused["status"], 502, "{refused}");
    let ended = tokio::time::timeout(PATIENCE, silent.ended.recv()).await;
    assert!(ended.is_ok(), "it is still open");
    // It may have run: nobody else was asked.
    let rows = harness.socket_rows(1).await;
    assert_eq!(
        (&rows[0]["attempts"], &rows[0]["account"]),
        (&json!(1), &json!("silent"))
    );
}

#[tokio::test]
async fn an_account_is_pinged_also_while_it_is_busy() {
    let silent = Silent::start(Manner::Busy).await;
    let harness = silent.harness(pinging(), true).await;
    let turn = harness.socket().await.turn(create("hi", None)).await;
    assert_eq!(turn.id(), "resp_silent");
}

#[tokio::test]
async fn an_upgrade_that_is_not_answered_is_given_up_and_another_account_serves() {
    let silent = Silent::start(Manner::Mute).await;
    let harness = silent.harness(Harness::build(0), false).await;
    // The one that has served the longest time ago is next.
    let mut attempts = 0;
    for _ in 0..2 {
        let turn = harness.socket().await.turn(create("hi", None)).await;
        assert_eq!(turn.account(), "sim-a");
        attempts = harness
            .socket_rows(1)
            .await
            .iter()
            .map(|row| row["attempts"].as_i64().unwrap())
            .sum();
        if attempts > 1 {
            break;
        }
    }
    assert!(attempts > 1, "the silent account was never asked");
}

#[tokio::test]
async fn so_many_websockets_are_open_to_an_account_and_further_clients_are_served_over_http() {
    let harness = Harness::over(1).await;
    let account = harness.account(0);
    let most = moorage::limits::SOCKETS_PER_ACCOUNT_MAX;
    let mut sockets: Vec<Socket> = Vec::new();
    for _ in 0..most {
        let mut socket = harness.socket().await;
        socket.turn(unstored("hi", None)).await;
        sockets.push(socket);
    }
    assert_eq!(account.open_sockets(), most);
    let mut further = harness.socket().await;
    let first = further.turn(unstored("one", None)).await;
    let second = further.turn(unstored("two", Some(&first.id()))).await;
    assert!(second.text().starts_with("Turn 2 "));
    assert_eq!(account.open_sockets(), most);
    assert_eq!(account.journal().pop().unwrap().method, "POST");
    // One that is closed makes room.
    drop(sockets.pop());
    eventually("room", || (account.open_sockets() < most).then_some(())).await;
    harness.socket().await.turn(unstored("three", None)).await;
    assert_eq!(account.journal().pop().unwrap().method, "WEBSOCKET");
}

#[tokio::test]
async fn explain_says_what_only_a_connection_knows_and_whether_that_is_there_still() {
    let harness = Harness::build(1).kinds(&[Kind::Codex]).start().await;
    let ask = async |id: &str| {
        let asked = json!({ "key": "laptop", "request": said("go on", Some(id)) });
        let request = harness
            .http
            .post(format!("{}/admin/api/explain", harness.gateway.url()));
        let request = request
            .bearer_auth(&harness.admin_key)
            .header("content-type", "application/json");
        crate::harness::Reply::of(request.body(asked.to_string()))
            .await
            .json()
    };
    let over_http = harness.turn(None).await.id();
    let mut socket = harness.socket().await;
    let over_socket = socket.turn(unstored("hi", None)).await.id();
    for id in [&over_http, &over_socket] {
        let told = ask(id).await;
        let says = told["says"].as_str().unwrap();
        assert!(says.contains("only over the WebSocket that made"), "{says}");
        assert_eq!(told["references"][0]["only_on_its_connection"], true);
        assert_eq!(told["references"][0]["connection_is_open"], true);
    }
    drop(socket);
    eventually("the end of one connection", || {
        (harness.account(0).open_sockets() == 1).then_some(())
    })
    .await;
    let told = ask(&over_socket).await;
    let says = told["says"].as_str().unwrap();
    assert!(
        says.starts_with("Is refused with previous_response_not_found"),
        "{says}"
    );
    assert_eq!(told["references"][0]["connection_is_open"], false);
    assert_eq!(ask(&over_http).await["references"][0]["connection_is_open"], true);
    // Who only reads the database cannot know.
    let file = harness.folder().join("request.json");
    std::fs::write(&file, said("go on", Some(&over_http)).to_string()).unwrap();
    let offline = harness.run(&["explain", file.to_str().unwrap(), "--json"]);
    let offline: serde_json::Value = serde_json::from_str(&offline).unwrap();
    assert_eq!(
        offline["references"][0]["connection_is_open"],
        serde_json::Value::Null
    );
    assert!(offline["says"].as_str().unwrap().contains("while that lasts"));
}
