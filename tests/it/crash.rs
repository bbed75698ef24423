//! Killed with SIGKILL at any instant and started again, every id that any client ever saw still
//! routes to its owner and has its row.
//!
//! `MOORAGE_TEST_KILLS` sets how often it is killed; 50 times without.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use moorage::affinity::{Reference, ReferenceKind};
use serde_json::json;

use crate::harness::{Harness, KEY, Reply, said, streamed};
use crate::socket::{Socket, create};

const CLIENTS: usize = 12;

/// Turns of a conversation before its client begins a new one.
const TURNS: usize = 12;

type Ids = Arc<Mutex<HashSet<String>>>;

#[tokio::test(flavor = "multi_thread")]
async fn every_id_that_a_client_saw_survives_a_kill_at_any_instant() {
    let kills: u64 = std::env::var("MOORAGE_TEST_KILLS").map_or(50, |text| text.parse().unwrap());
    let mut harness = Harness::over(3).await;
    let mut known = Known::default();
    for kill in 0..kills {
        let new = Ids::default();
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let url = format!("{}/v1/responses", harness.gateway.url());
                match number % 2 {
                    0 => tokio::spawn(talk(harness.http.clone(), url, number, new.clone(), stop.clone())),
                    _ => tokio::spawn(talk_over_websocket(url, number, new.clone(), stop.clone())),
                }
            })
            .collect();
        // No wait for a condition: the instant of the kill is the random thing under test.
        tokio::time::sleep(Duration::from_micros(15_000 + scattered(kill) % 120_000)).await;
        harness.gateway.kill();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
        harness.restart();
        let new = std::mem::take(&mut *new.lock().unwrap());
        known.check(&harness, new).await;
    }
    let count = known.owners_seen.len();
    assert!(
        count as u64 > 5 * kills,
        "the clients saw almost nothing: {count} ids, {kills} kills"
    );
}

/// The same numbers in every run, far apart from each other.
fn scattered(seed: u64) -> u64 {
    let mixed = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 32
}

/// Talks until it is told to stop, and notes every id at the moment at which it sees it.
async fn talk(http: reqwest::Client, url: String, number: usize, seen: Ids, stop: Arc<AtomicBool>) {
    for turn in 0.. {
        let mut previous: Option<String> = None;
        for _ in 0..TURNS {
            let text = format!("client {number}, turn {turn}");
            let body = match (turn + number) % 3 {
                0 => said(&text, previous.as_deref()),
                _ => streamed(&text, previous.as_deref()),
            };
            let request = http
                .post(&url)
                .bearer_auth(KEY)
                .header("x-simulate", "delta_delay=1ms");
            let Ok(mut response) = request.body(body.to_string()).send().await else {
                return;
            };
            let mut bytes = Vec::new();
            loop {
                match response.chunk().await {
                    Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                    Ok(None) => break,
                    Err(_) => return,
                }
                if let Some(id) = first_id(&bytes, previous.as_deref()) {
                    seen.lock().unwrap().insert(id);
                }
            }
            previous = first_id(&bytes, previous.as_deref());
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// The same over WebSocket.
async fn talk_over_websocket(url: String, number: usize, seen: Ids, stop: Arc<AtomicBool>) {
    let base_url = url.trim_end_matches("/responses");
    let headers = [("x-simulate", "delta_delay=1ms")];
    for turn in 0.. {
        let Some(mut socket) = Socket::try_open(base_url, KEY, &headers).await else {
            return;
        };
        let mut previous: Option<String> = None;
        for _ in 0..TURNS {
            let event = create(&format!("client {number}, turn {turn}"), previous.as_deref());
            if socket.try_send(&event).await.is_err() {
                return;
            }
            loop {
                let Ok(event) = socket.try_next().await else {
                    return;
                };
                if let Some(id) = event["response"]["id"].as_str() {
                    seen.lock().unwrap().insert(id.to_owned());
                    previous = Some(id.to_owned());
                }
                if event["type"] == "response.completed" {
                    break;
                }
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// The first whole response id, other than the one that was sent.
fn first_id(bytes: &[u8], sent: Option<&str>) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut words = text.split('"');
    words.next_back();
    words
        .find(|word| word.starts_with("resp_") && Some(*word) != sent)
        .map(str::to_owned)
}

/// What all clients have ever seen.
#[derive(Default)]
struct Known {
    /// By id: the account that made it.
    owners: HashMap<String, String>,
    owners_seen: HashSet<String>,
}

impl Known {
    async fn check(&mut self, harness: &Harness, new: HashSet<String>) {
        for account in harness.simulator.accounts() {
            for entry in account.journal() {
                self.owners
                    .extend(entry.response_id.map(|id| (id, account.name().to_owned())));
            }
            account.clear_journal();
        }
        self.owners_seen.extend(new.iter().cloned());
        self.check_database(harness);
        let owners = &self.owners;
        futures_util::stream::iter(&new)
            .for_each_concurrent(8, |id| async move {
                let mut body = said("go on", Some(id));
                body["store"] = json!(false);
                let reply: Reply = harness.post(body).await;
                assert_eq!(reply.status, 200, "{id} was seen: {reply:?}");
                assert_eq!(reply.account(), owners[id], "{id} went elsewhere");
                assert_eq!(reply.affinity(), "hit; by=previous_response_id");
            })
            .await;
    }

    /// Every id ever seen has its owner and its row.
    fn check_database(&self, harness: &Harness) {
        let rows = harness.query("SELECT response_id, account FROM turns WHERE response_id IS NOT NULL");
        let rows: HashMap<&str, &str> = rows
            .iter()
            .map(|row| {
                (
                    row["response_id"].as_str().unwrap(),
                    row["account"].as_str().unwrap(),
                )
            })
            .collect();
        let connection = rusqlite::Connection::open(harness.database()).unwrap();
        let scope: String = connection
            .query_row("SELECT scope FROM client_keys WHERE name = 'laptop'", [], |row| {
                row.get(0)
            })
            .unwrap();
        let mut find = connection
            .prepare("SELECT a.name FROM known_references r JOIN accounts a ON a.id = r.account_id WHERE r.digest = ?")
            .unwrap();
        for id in &self.owners_seen {
            let owner = &self.owners[id];
            assert_eq!(rows.get(id.as_str()), Some(&owner.as_str()), "the row of {id}");
            let digest = Reference::new(&scope, ReferenceKind::Response, id.as_bytes()).digest;
            let known: rusqlite::Result<String> = find.query_row([digest], |row| row.get(0));
            assert_eq!(known.as_ref(), Ok(owner), "the owner of {id}");
        }
    }
}
