//! `moorage backup`: a copy that is whole, whatever happens meanwhile, and that a person can go on with.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::{Gateway, Harness, KEY, PATIENCE, Reply, WithJson as _, eventually, query, said};

fn failed(output: Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn backup(harness: &Harness, file: &Path) -> Output {
    harness.command(&["backup", file.to_str().unwrap()])
}

/// What lies in a folder, hidden files included.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

async fn ask(http: &reqwest::Client, gateway: &str, previous: Option<&str>) -> Reply {
    let request = http.post(format!("{gateway}/v1/responses")).bearer_auth(KEY);
    let reply = Reply::of(request.timeout(PATIENCE).json(&said("hi", previous))).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply
}

/// Clients that go on talking until they are told to stop, and the ids that they have seen.
struct Load {
    seen: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn begin(harness: &Harness) -> Load {
        let (seen, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let client = |_| {
            let (seen, stop): (Arc<Mutex<Vec<String>>>, _) = (Arc::clone(&seen), Arc::clone(&stop));
            let (http, url) = (harness.http.clone(), harness.gateway.url());
            tokio::spawn(async move {
                let mut previous: Option<String> = None;
                while !stop.load(Ordering::Relaxed) {
                    let id = ask(&http, &url, previous.as_deref()).await.id();
                    seen.lock().unwrap().push(id.clone());
                    previous = Some(id);
                }
            })
        };
        let clients = (0..4).map(client).collect();
        Load { seen, stop, clients }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_under_load_is_of_one_moment_and_serves_its_conversations_on() {
    let harness = Harness::over(2).await;
    let load = Load::begin(&harness);
    let copies = tempfile::tempdir().unwrap();
    let mut before = Vec::new();
    for round in 1..=3 {
        eventually("some turns", || (load.seen().len() >= round * 40).then_some(())).await;
        before = load.seen();
        let copy = copies.path().join(format!("{round}.db"));
        let made = tokio::task::block_in_place(|| harness.run(&["backup", copy.to_str().unwrap()]));
        assert!(
            made.contains("whole") && made.contains("moorage.db.key"),
            "{made}"
        );
        let whole = &query(&copy, "PRAGMA integrity_check")[0];
        assert_eq!(whole["integrity_check"], "ok");
        // Sums and rows are of the same moment.
        let figures = query(
            &copy,
            "SELECT (SELECT sum(requests) FROM usage_by_account) AS sums, (SELECT sum(input_tokens) FROM usage_by_account) AS tokens,
               count(*) AS rows, sum(input_tokens) AS row_tokens FROM turns WHERE outcome <> 'open'",
        );
        assert_eq!(figures[0]["sums"], figures[0]["rows"], "{figures:?}");
        assert_eq!(figures[0]["tokens"], figures[0]["row_tokens"], "{figures:?}");
        // Whatever a client had seen before is in it.
        let known = query(&copy, "SELECT response_id FROM turns");
        for id in &before {
            assert!(known.contains(&json!({ "response_id": id })), "{id}");
        }
    }
    load.end().await;
    let made: Vec<String> = (1..=3).map(|round| format!("{round}.db")).collect();
    assert_eq!(names(copies.path()), made);

    // As the README says: in the place of the database, with its key beside it.
    let place = tempfile::tempdir().unwrap();
    for file in ["moorage.toml", "moorage.db.key"] {
        std::fs::copy(harness.folder().join(file), place.path().join(file)).unwrap();
    }
    std::fs::copy(copies.path().join("3.db"), place.path().join("moorage.db")).unwrap();
    let restored = Gateway::start(place.path(), "127.0.0.1:0", None);
    for id in before.iter().rev().take(4) {
        let reply = ask(&harness.http, &restored.url(), Some(id)).await;
        assert_eq!(reply.affinity(), "hit; by=previous_response_id");
    }
}

#[tokio::test]
async fn a_copy_is_for_its_owner_only_and_one_file_and_the_doctor_knows_of_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let harness = Harness::over(1).await;
    harness.turn(None).await;
    let told = harness.run(&["doctor"]);
    assert!(
        told.contains("odd    copy           none was made yet: moorage backup FILE"),
        "{told}"
    );
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("copy.db");
    assert!(backup(&harness, &copy).status.success());
    assert_eq!(names(copies.path()), ["copy.db"]);
    let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(query(&copy, "PRAGMA journal_mode")[0]["journal_mode"], "delete");
    let told = harness.run(&["doctor"]);
    assert!(
        told.contains(&format!("ok     copy           {} of 20", copy.display())),
        "{told}"
    );
    // A month later.
    harness.query("UPDATE settings SET value = CAST(json_set(CAST(value AS TEXT), '$.at_ms', json_extract(CAST(value AS TEXT), '$.at_ms') - 40 * 86400000) AS BLOB) WHERE name = 'last_backup'");
    let told = harness.run(&["doctor"]);
    assert!(
        told.contains("odd    copy") && told.contains("40 days old"),
        "{told}"
    );
}

#[tokio::test]
async fn a_copy_overwrites_nothing_and_says_what_is_missing() {
    let harness = Harness::over(1).await;
    let copies = tempfile::tempdir().unwrap();
    let there = copies.path().join("there.db");
    std::fs::write(&there, "mine").unwrap();
    let link = copies.path().join("link.db");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    for taken in [&there, &link, &harness.database(), &copies.path().to_owned()] {
        let told = failed(backup(&harness, taken));
        assert!(told.contains("is there already"), "{told}");
    }
    assert_eq!(std::fs::read_to_string(&there).unwrap(), "mine");
    let told = failed(backup(&harness, &copies.path().join("no/such/copy.db")));
    assert!(told.contains("there is no folder"), "{told}");
    assert_eq!(names(copies.path()), ["link.db", "there.db"]);
    // Nor is there anything to copy where no gateway ever ran.
    let config = copies.path().join("moorage.toml");
    std::fs::write(&config, "database = \"none.db\"").unwrap();
    let mut nothing = crate::harness::moorage();
    let nothing = nothing.args(["backup", "copy.db", "--config"]).arg(&config);
    let told = failed(nothing.output().unwrap());
    assert!(told.contains("there is no database"), "{told}");
}

#[tokio::test]
async fn a_copy_that_a_full_disk_stops_says_so_and_leaves_nothing() {
    let harness = Harness::over(1).await;
    harness.turn(None).await;
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("copy.db");
    // No file may grow over 50 KiB: what a full disk looks like to SQLite.
    let command = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 100; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_moorage"))
        .args(["backup", copy.to_str().unwrap(), "--config"])
        .arg(harness.folder().join("moorage.toml"))
        .output();
    let told = failed(command.unwrap());
    assert!(told.contains("look at the room on its disk"), "{told}");
    assert_eq!(names(copies.path()), [""; 0]);
    assert!(backup(&harness, &copy).status.success());
    assert_eq!(harness.turn(None).await.status, 200);
}

#[tokio::test]
async fn a_stopped_copy_leaves_nothing() {
    let harness = Harness::over(1).await;
    let rows: Vec<Value> = harness.query(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)
         INSERT INTO settled_references (digest, account_id, conversation, expires_at_ms)
         SELECT randomblob(16), 1, randomblob(16), 9e15 FROM n RETURNING 1 AS one",
    );
    assert_eq!(rows.len(), 300_000);
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("copy.db");
    let mut command = crate::harness::moorage();
    let mut process = command
        .args(["backup", copy.to_str().unwrap(), "--config"])
        .arg(harness.folder().join("moorage.toml"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Stopped in the middle of it, or of looking it through.
    eventually("a copy that has begun", || {
        names(copies.path())
            .iter()
            .any(|name| name.ends_with(".part"))
            .then_some(())
    })
    .await;
    let interrupt = Command::new("kill")
        .args(["-s", "INT", &process.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    eventually("the end of the command", || process.try_wait().unwrap()).await;
    let told = failed(process.wait_with_output().unwrap());
    assert!(told.contains("stopped; nothing of the copy is left"), "{told}");
    assert_eq!(names(copies.path()), [""; 0]);
}
