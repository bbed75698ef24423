//! The database: locked, full, swept, and never a place for what does not belong there.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Harness, KEY, Reply, WithJson as _, eventually, moorage, said, streamed};

/// Takes the write lock, as another program could.
fn lock(harness: &Harness) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(harness.database()).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

async fn readiness(harness: &Harness) -> Value {
    let url = format!("{}/readyz", harness.gateway.url());
    Reply::of(harness.http.get(url)).await.json()
}

async fn ready(harness: &Harness) {
    let begin = std::time::Instant::now();
    while readiness(harness).await["status"] != "ready" {
        assert!(begin.elapsed() < crate::harness::PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_locked_database_stops_nobody_and_is_written_when_it_can_be() {
    let mut harness = Harness::over(2).await;
    let before = harness.turn(None).await;
    let locked = lock(&harness);
    let first = harness.turn(Some(&before.id())).await;
    // What could not be written is known all the same, and nobody waits for the database again.
    let second = harness.post(streamed("go on", Some(&first.id()))).await;
    assert_eq!(
        (second.status, second.affinity()),
        (200, "hit; by=previous_response_id")
    );
    let state = readiness(&harness).await;
    assert_eq!(state["status"], "degraded");
    assert!(state["store"].as_str().unwrap().contains("locked"), "{state}");
    assert!(harness.log().contains("the database cannot be written"));

    locked.execute_batch("ROLLBACK").unwrap();
    ready(&harness).await;
    for reply in [&first, &second] {
        assert_eq!(harness.row(reply.request_id()).await["outcome"], "completed");
    }
    harness.kill_and_restart();
    assert_eq!(
        harness.turn(Some(&second.id())).await.affinity(),
        "hit; by=previous_response_id"
    );
}

/// Whether another program can see that somebody reads this database: a lock on the bytes that SQLite
/// has for this.
fn is_locked(database: &Path) -> bool {
    let file = format!(":{} ", std::fs::metadata(database).unwrap().ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    let is_shared =
        |lock: &str| lock.contains(&file) && lock.contains(" READ ") && lock.contains(" 1073741826 ");
    locks.lines().any(is_shared)
}

#[tokio::test]
async fn the_gateway_keeps_its_lock_on_the_database_whatever_is_changed() {
    let harness = Harness::over(1).await;
    // What a person changes is written over a connection of its own, which the gateway closes again.
    let added = harness.admin("POST", "keys").json(&json!({ "name": "tablet" }));
    assert_eq!(Reply::of(added).await.status, 200);
    // Who finds no lock on it believes to be alone, and takes its log away when it leaves: sqlite3 does.
    // SQLite has learnt to see through this, but not the one that people have on their machines.
    assert!(is_locked(&harness.database()));
}

#[tokio::test]
async fn on_request_nothing_is_answered_that_cannot_be_written_down() {
    let harness = Harness::build(1)
        .setting("on_store_failure = \"refuse\"")
        .start()
        .await;
    let locked = lock(&harness);
    for _ in 0..2 {
        let reply = harness.post(said("hi", None)).await;
        assert_eq!((reply.status, reply.code().as_str()), (503, "store_unavailable"));
        assert!(crate::raw::find(&reply.body, b"resp_").is_none());
    }
    let ready_url = format!("{}/readyz", harness.gateway.url());
    assert_eq!(Reply::of(harness.http.get(&ready_url)).await.status, 503);
    locked.execute_batch("ROLLBACK").unwrap();
    ready(&harness).await;
    assert_eq!(harness.turn(None).await.status, 200);
}

#[tokio::test]
async fn a_full_disk_stops_nobody_and_nothing_is_lost_when_there_is_room_again() {
    // No file may grow over 768 KiB: what a full disk looks like to SQLite.
    let full = ["sh", "-c", "trap '' XFSZ; ulimit -S -f 1536; exec \"$0\" \"$@\""];
    let mut harness = Harness::build(2).setting("").within(&full).start().await;
    let mut previous: Option<String> = None;
    let mut seen = Vec::new();
    while readiness(&harness).await["status"] == "ready" {
        let reply = harness.turn(previous.as_deref()).await;
        previous = Some(reply.id());
        seen.push(reply.request_id());
        assert!(seen.len() < 2000, "the disk was never full");
    }
    for _ in 0..20 {
        let reply = harness.turn(previous.as_deref()).await;
        assert_eq!(reply.affinity(), "hit; by=previous_response_id");
        previous = Some(reply.id());
        seen.push(reply.request_id());
    }
    let room = Command::new("prlimit")
        .args(["--pid", &harness.gateway.id().to_string(), "--fsize=unlimited"])
        .status();
    assert!(room.unwrap().success());
    ready(&harness).await;
    let rows = harness.query("SELECT count(*) AS n FROM turns WHERE outcome = 'completed'");
    assert_eq!(rows, [json!({ "n": seen.len() })]);
    harness.kill_and_restart();
    assert_eq!(
        harness.turn(previous.as_deref()).await.affinity(),
        "hit; by=previous_response_id"
    );
}

#[tokio::test]
async fn what_has_expired_is_swept_and_the_sums_stay() {
    let settings = "[affinity]\nask_around = false\nresponse_ttl = \"1500ms\"\nsession_ttl = \"1s\"\nsweep_interval = \"50ms\"\n[usage]\nretention = \"2s\"";
    let harness = Harness::build(2).section(settings).start().await;
    let mut last = None;
    for number in 0..30 {
        last = Some(harness.post(said(&format!("matter {number}"), None)).await);
    }
    let refused = Reply::of(harness.request().body("no json")).await;
    assert_eq!(refused.status, 400);
    let sums = "SELECT requests, errors, input_tokens, output_tokens, cached_tokens FROM usage_by_account ORDER BY account";
    let before = harness.query(sums);
    assert_eq!(
        before
            .iter()
            .map(|sum| sum["requests"].as_i64().unwrap())
            .sum::<i64>(),
        31
    );

    let count = |table: &str| {
        harness.query(&format!("SELECT count(*) AS n FROM {table}"))[0]["n"]
            .as_i64()
            .unwrap()
    };
    eventually("the end of the references", || {
        (count("known_references") == 0).then_some(())
    })
    .await;
    eventually("the end of the rows", || (count("requests") == 0).then_some(())).await;
    assert_eq!(harness.query(sums), before);
    // An eighth stays free for what comes.
    let pragma = |name: &str| {
        harness.query(&format!("PRAGMA {name}"))[0][name]
            .as_i64()
            .unwrap()
    };
    eventually("that space was given back", || {
        (pragma("freelist_count") * 8 <= pragma("page_count")).then_some(())
    })
    .await;

    let late = harness.post(said("go on", Some(&last.unwrap().id()))).await;
    assert_eq!(late.code(), "previous_response_not_found");
}

#[tokio::test]
async fn a_session_that_is_used_does_not_expire() {
    let harness = Harness::build(2)
        .section("[affinity]\nsession_ttl = \"1s\"\nsweep_interval = \"20ms\"")
        .start()
        .await;
    let body = || json!({ "input": "hi", "prompt_cache_key": "thread" });
    let begin = std::time::Instant::now();
    harness.post(body()).await;
    // Used for three of its lifetimes, without a pause that is as long as one.
    while begin.elapsed() < Duration::from_secs(3) {
        let reply = harness.simulate("slow=100ms", body()).await;
        assert_eq!(reply.affinity(), "hit; by=prompt_cache_key");
    }
}

#[tokio::test]
async fn no_prompt_no_answer_and_no_secret_is_in_the_files_or_the_log() {
    let harness = Harness::over(1).await;
    let add = moorage()
        .args([
            "account",
            "add",
            "bob",
            "--base-url",
            "http://127.0.0.1:9/v1",
            "--api-key-env",
            "BOB_KEY",
            "--config",
        ])
        .arg(harness.folder().join("moorage.toml"))
        .env("BOB_KEY", "sk-the-secret-of-bob")
        .output();
    assert!(add.unwrap().status.success());
    for body in [
        said("a confidential question", None),
        streamed("a confidential question", None),
    ] {
        let request = harness.request().header("session-id", "a confidential session");
        let reply = Reply::of(request.body(body.to_string())).await;
        harness.row(reply.request_id()).await;
    }
    harness.gateway.signal("TERM");
    eventually("the end", || {
        std::net::TcpStream::connect(&harness.gateway.address)
            .is_err()
            .then_some(())
    })
    .await;
    let admin_key = harness
        .gateway
        .said
        .lines()
        .find_map(|line| line.trim().strip_prefix("ma-"))
        .unwrap()
        .to_owned();
    for file in std::fs::read_dir(harness.folder()).unwrap() {
        let path = file.unwrap().path();
        // The two files that the test itself has written the keys into.
        if path.ends_with("client.key") || path.ends_with("sim-a.key") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for secret in [
            KEY,
            "sk-sim-a",
            "sk-the-secret-of-bob",
            "a confidential",
            "You said",
            &admin_key,
        ] {
            assert!(
                crate::raw::find(&bytes, secret.as_bytes()).is_none(),
                "{secret} in {}",
                path.display()
            );
        }
    }
}

#[tokio::test]
async fn two_gateways_do_not_serve_one_database() {
    let harness = Harness::over(1).await;
    let second = harness.command(&["serve", "--listen", "127.0.0.1:0"]);
    assert!(!second.status.success());
    assert!(
        String::from_utf8_lossy(&second.stderr).contains("another moorage serves"),
        "{second:?}"
    );
    assert_eq!(harness.turn(None).await.status, 200);
}

#[tokio::test]
async fn the_views_have_the_columns_that_are_documented() {
    let harness = Harness::over(1).await;
    harness.turn(None).await;
    let sums = [
        "requests",
        "errors",
        "input_tokens",
        "cached_tokens",
        "cached_percent",
        "output_tokens",
        "cost",
        "cost_saved",
    ];
    let with = |by: &'static str| std::iter::once(by).chain(sums).collect::<Vec<_>>();
    let turns = "started_at conversation_id response_id previous_response_id client_key account endpoint transport model affinity affinity_by attempts outcome status error_code input_tokens cached_tokens cache_write_tokens output_tokens reasoning_tokens cost first_byte_ms first_output_ms duration_ms overhead_us";
    let conversations = "conversation_id client_key account turns started_at last_at input_tokens cached_tokens cached_percent output_tokens moves";
    let accounts = "account kind status until reason live_conversations requests_today cached_percent_today";
    let views = [
        ("turns", turns.split(' ').collect()),
        ("conversations", conversations.split(' ').collect()),
        ("usage_by_hour", with("hour")),
        ("usage_by_day", with("day")),
        ("usage_by_account", with("account")),
        ("usage_by_model", with("model")),
        ("usage_by_key", with("client_key")),
        ("accounts_now", accounts.split(' ').collect()),
    ];
    for (view, columns) in views {
        let row = &harness.query(&format!("SELECT * FROM {view}"))[0];
        for column in columns {
            assert!(row.get(column).is_some(), "{view}.{column} in {row}");
        }
    }
    assert_eq!(
        harness.query("SELECT live_conversations FROM accounts_now")[0]["live_conversations"],
        1
    );
    let day = &harness.query("select * from usage_by_day")[0];
    assert_eq!(
        (&day["requests"], &day["errors"], &day["cost"]),
        (&json!(1), &json!(0), &Value::Null)
    );
}

/// Debian's current release has sqlite3 3.40, and people query with what they have. What is newer
/// there is no error in a date function, but NULL.
#[test]
fn the_views_use_nothing_that_an_older_sqlite3_does_not_know() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/views");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for newer in [
            "subsec",
            "timediff",
            " concat(",
            "octet_length",
            "string_agg",
            "jsonb",
        ] {
            assert!(!text.contains(newer), "{newer} in {}", path.display());
        }
    }
}

#[tokio::test]
async fn a_database_that_was_locked_is_written_again_also_while_requests_come() {
    for mode in ["go-on", "refuse"] {
        let setting = format!("on_store_failure = \"{mode}\"");
        let harness = Harness::build(1).setting(&setting).start().await;
        let locked = lock(&harness);
        harness.post(said("hi", None)).await;
        locked.execute_batch("ROLLBACK").unwrap();
        let begin = std::time::Instant::now();
        // Never a second without a request.
        while readiness(&harness).await["status"] != "ready" {
            harness.post(said("hi", None)).await;
            assert!(begin.elapsed() < crate::harness::PATIENCE, "{mode}");
        }
    }
}

#[tokio::test]
async fn a_client_that_was_refused_for_want_of_a_commit_has_a_row_that_says_so() {
    let harness = Harness::build(1)
        .setting("on_store_failure = \"refuse\"")
        .start()
        .await;
    let locked = lock(&harness);
    let reply = harness.post(said("hi", None)).await;
    assert_eq!(reply.code(), "store_unavailable");
    locked.execute_batch("ROLLBACK").unwrap();
    ready(&harness).await;
    let row = harness.row(reply.request_id()).await;
    assert_eq!(
        (&row["outcome"], &row["status"], &row["error_code"]),
        (&json!("refused"), &json!(503), &json!("store_unavailable"))
    );
}

#[tokio::test]
async fn a_stop_waits_for_a_locked_database_to_write_what_clients_have_seen() {
    let mut harness = Harness::over(2).await;
    let locked = lock(&harness);
    let reply = harness.turn(None).await;
    harness.gateway.signal("TERM");
    // The end has begun, and finds the database locked.
    eventually("a closed door", || {
        std::net::TcpStream::connect(&harness.gateway.address)
            .is_err()
            .then_some(())
    })
    .await;
    locked.execute_batch("ROLLBACK").unwrap();
    assert!(harness.gateway.ended().await.success());
    harness.restart();
    assert_eq!(
        harness.turn(Some(&reply.id())).await.affinity(),
        "hit; by=previous_response_id"
    );
}

#[tokio::test]
async fn ids_of_requests_never_come_again() {
    let mut harness = Harness::over(1).await;
    let before = harness.turn(None).await.request_id();
    harness.query("DELETE FROM requests");
    harness.kill_and_restart();
    assert!(harness.turn(None).await.request_id() > before);
}

/// Two readers outside of the gateway, of which one always reads: neither ends before the other has
/// begun anew. They read on until `stop`.
fn readers_that_never_pause(database: &std::path::Path, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<u64>> {
    let begun: Arc<[AtomicU64; 2]> = Arc::default();
    let read = |me: usize| {
        let (begun, stop, database) = (begun.clone(), stop.clone(), database.to_owned());
        std::thread::spawn(move || {
            let reader = rusqlite::Connection::open(database).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let moment = reader.unchecked_transaction().unwrap();
                let count = moment.query_row("SELECT count(*) FROM requests", [], |row| row.get::<_, i64>(0));
                count.unwrap();
                let other = begun[1 - me].load(Ordering::SeqCst);
                begun[me].fetch_add(1, Ordering::SeqCst);
                // As long as a query of much takes: longer than it is from one commit to the next.
                std::thread::sleep(Duration::from_millis(40));
                while begun[1 - me].load(Ordering::SeqCst) == other && !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            begun[me].load(Ordering::SeqCst)
        })
    };
    vec![read(0), read(1)]
}

#[tokio::test]
async fn readers_that_never_pause_do_not_keep_the_log_from_being_begun_anew() {
    const MIB: u64 = 1024 * 1024;
    let harness = Harness::over(1).await;
    let stop = Arc::default();
    let readers = readers_that_never_pause(&harness.database(), &stop);
    let writer = rusqlite::Connection::open(harness.database()).unwrap();
    writer.busy_timeout(crate::harness::PATIENCE).unwrap();
    writer.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    let log = harness.folder().join("moorage.db-wal");
    let log_bytes = || std::fs::metadata(&log).unwrap().len();
    for _ in 0..4 {
        while log_bytes() < 40 * MIB {
            let much = "INSERT OR REPLACE INTO settings VALUES ('much', randomblob(1000000))";
            writer.execute(much, []).unwrap();
        }
        // Clients go on, and somebody looks at the page.
        let begin = std::time::Instant::now();
        while log_bytes() >= 16 * MIB {
            assert!(
                begin.elapsed() < crate::harness::PATIENCE,
                "{} bytes",
                log_bytes()
            );
            harness.turn(None).await;
            let looked = Reply::of(harness.admin("GET", "usage?last=24h&step=1h")).await;
            assert_eq!(looked.status, 200);
        }
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 1);
    }
}

#[tokio::test]
async fn a_sweep_of_much_does_not_fill_the_disk_with_its_log() {
    let mut harness = Harness::over(1).await;
    harness.gateway.signal("TERM");
    harness.gateway.ended().await;
    let connection = rusqlite::Connection::open(harness.database()).unwrap();
    connection
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
             INSERT INTO settled_references (digest, account_id, conversation, expires_at_ms) SELECT randomblob(16), 1, randomblob(16), 1 FROM n;
             PRAGMA wal_checkpoint(TRUNCATE);",
        )
        .unwrap();
    drop(connection);
    harness.restart();
    let log = harness.folder().join("moorage.db-wal");
    let mut largest = 0;
    eventually("the end of the sweep", || {
        largest = largest.max(std::fs::metadata(&log).map_or(0, |log| log.len()));
        (harness.query("SELECT count(*) AS n FROM known_references")[0]["n"] == 0).then_some(())
    })
    .await;
    assert!(largest < 96 * 1024 * 1024, "the log grew to {largest} bytes");
}
