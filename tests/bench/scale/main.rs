//! Whether what was ever done makes the next request slower: `cargo bench --bench scale`.
//!
//! A start, a lookup and a commit, with few and with ten million rows and references, what
//! `durability = "full"` costs, what the page's calls take, and what a sweep of nine tenths does to
//! the requests meanwhile. `-- --quick` with less of everything, to see that it works; `-- --rows N`
//! with so many rows; `-- --only sweep` one part; `-- --with PROGRAM` measures another build there.

#[path = "../peers/load.rs"]
#[expect(dead_code, reason = "only a part of the load is needed")]
mod load;
#[path = "../process.rs"]
mod process;
#[path = "../peers/proxy.rs"]
#[expect(dead_code, reason = "only Moorage is measured")]
mod proxy;
mod sweep;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use moorage::account::AccountId;
use moorage::affinity::{ConversationId, Owner, Reference, ReferenceKind};
use moorage::store::requests::Row;
use moorage::store::{Durability, Remember, Store, Work, open_writable};
use uuid::Uuid;

use load::{Load, Target};
use process::{CLIENT_KEY, PROGRAM, Pool, Process};

/// For [`proxy`], which pins what it starts: here nothing is.
pub const PROXY_CORE: &str = "0-1";

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Effort {
    few: u64,
    many: u64,
    operations: u64,
    starts: usize,
    load_seconds: f64,
    paced_seconds: f64,
}

const FULL: Effort = Effort {
    few: 10_000,
    many: 10_000_000,
    operations: 5_000,
    starts: 7,
    load_seconds: 5.0,
    paced_seconds: 30.0,
};

const QUICK: Effort = Effort {
    few: 1_000,
    many: 20_000,
    operations: 200,
    starts: 3,
    load_seconds: 0.5,
    paced_seconds: 1.0,
};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let mut effort = if quick { QUICK } else { FULL };
    if let Some(rows) = value("--rows") {
        effort.many = rows.parse().unwrap();
    }
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let only = value("--only");
    if only.as_deref().is_none_or(|only| only == "sweep") {
        let program = value("--with").unwrap_or_else(|| PROGRAM.to_owned());
        sweep::measure(folder.path(), &program, effort);
    }
    if only.is_some() {
        return;
    }
    let few = history(folder.path(), effort.few);
    let many = history(folder.path(), effort.many);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (name, database) in [("few", &few), ("many", &many)] {
        let count = if name == "few" { effort.few } else { effort.many };
        runtime.block_on(operations(count, database, effort.operations));
    }
    let pool = Pool::start();
    let start = |what: &str, database: Option<&Path>| {
        let mut times: Vec<f64> = (0..effort.starts)
            .map(|_| runtime.block_on(first_answer(&pool, database)))
            .collect();
        times.sort_by(f64::total_cmp);
        println!("start to first answer, {what}: {:.1} ms", times[times.len() / 2]);
    };
    start("empty database", None);
    start(&format!("{} rows and references", effort.many), Some(&many));
    durability(&runtime, &pool, effort.load_seconds);
}

/// A database with so many rows and so many references.
fn history(folder: &Path, count: u64) -> PathBuf {
    let path = folder.join(format!("{count}.db"));
    let mut fill = Command::new(PROGRAM);
    fill.args(["simulate", "--fill", &count.to_string(), "--database"])
        .arg(&path);
    assert!(fill.output().unwrap().status.success());
    let connection = open_writable(&path, Durability::Process).unwrap();
    let account: i64 = connection
        .query_row("SELECT min(id) FROM accounts", [], |row| row.get(0))
        .unwrap();
    // Their digests begin with the time, as those of real ids do.
    let mut insert = connection
        .prepare("INSERT INTO settled_references (digest, account_id, conversation, expires_at_ms) VALUES (?1, ?2, ?3, ?4)")
        .unwrap();
    connection.execute_batch("BEGIN").unwrap();
    for number in 0..count {
        insert
            .execute((
                digest(number),
                account,
                [0_u8; 16],
                i64::MAX / 2 + (number / 100) as i64,
            ))
            .unwrap();
    }
    connection
        .execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE);")
        .unwrap();
    path
}

/// The digest of the reference with this number.
fn digest(number: u64) -> [u8; 16] {
    let mut digest = [0; 16];
    digest[..8].copy_from_slice(&(number << 24).to_be_bytes());
    digest[8..].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    digest
}

/// Lookups of references that are not in memory, and commits of what a response writes.
async fn operations(count: u64, database: &Path, operations: u64) {
    let store = Store::open(database, Durability::Process, Default::default()).unwrap();
    let mut lookups = Histogram::<u64>::new(3).unwrap();
    let mut commits = Histogram::<u64>::new(3).unwrap();
    for turn in 0..operations {
        let number = turn.wrapping_mul(0x9E37_79B9_7F4A_7C15) % count;
        let reference = Reference {
            kind: ReferenceKind::Response,
            digest: digest(number),
        };
        let begin = Instant::now();
        let owners = store.owners(&[reference], 0).await.unwrap();
        lookups.record(nanos(begin.elapsed())).unwrap();
        assert!(owners[0].is_some(), "{number}");
        let work = work(&store);
        let begin = Instant::now();
        store.write(work).await.unwrap();
        commits.record(nanos(begin.elapsed())).unwrap();
    }
    store.close();
    for (what, times) in [("lookup", lookups), ("commit", commits)] {
        let us = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        println!(
            "{what} with {count} references: p50 {:.1} µs, p99 {:.1} µs",
            us(0.5),
            us(0.99)
        );
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

fn work(store: &Store) -> Work {
    let now_ms = moorage::clock::now_ms();
    let mut row = Row::new(store.next_request_id(now_ms), now_ms, "/responses");
    row.conversation = Some(ConversationId::new());
    row.response_id = Some(format!("resp_{}", Uuid::new_v4().simple()));
    let remember = |kind| Remember {
        digest: Reference::new("scope", kind, Uuid::new_v4().as_bytes()).digest,
        owner: Owner {
            detour_since_ms: None,
            connection: None,
            account: AccountId(1),
            conversation: ConversationId::new(),
            expires_at_ms: i64::MAX / 2,
        },
    };
    Work {
        remember: vec![remember(ReferenceKind::Response), remember(ReferenceKind::Item)],
        row: Some(Box::new(row)),
        ..Work::default()
    }
}

/// The time from the start of the program to the end of the first answer, in milliseconds.
async fn first_answer(pool: &Pool, database: Option<&Path>) -> f64 {
    let settings = database.map_or(String::new(), |database| format!("database = {database:?}\n"));
    let begin = Instant::now();
    let gateway = Process::start_with(pool, Command::new(PROGRAM), &settings);
    let load = Load::new(Target::new(&gateway.base_url, CLIENT_KEY), None);
    load.once().await;
    begin.elapsed().as_secs_f64() * 1000.0
}

/// Answers a second with 64 clients, with commits that survive the process, and that survive the power.
fn durability(runtime: &tokio::runtime::Runtime, pool: &Pool, seconds: f64) {
    let mut rates = [0.0; 2];
    for (rate, word) in rates.iter_mut().zip(["process", "full"]) {
        let settings = format!("durability = \"{word}\"\n");
        let gateway = Process::start_with(pool, Command::new(PROGRAM), &settings);
        let load = Load::new(Target::new(&gateway.base_url, CLIENT_KEY), None);
        *rate = runtime.block_on(load.json(seconds)).0;
        println!("durability = \"{word}\", 64 clients: {rate:.0} requests/s");
    }
    println!("full to process: {:.2}", rates[1] / rates[0]);
}
