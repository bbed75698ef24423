//! A history of N requests, of which nine tenths go: what the page's calls take before, and what the
//! sweep does to the requests meanwhile.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Effort;
use super::load::{Load, Target, Times};
use super::process::{CLIENT_KEY, Pool, Process};

/// Requests a second meanwhile: far more than a home has.
const RATE: f64 = 400.0;

/// How often the load is measured while the sweep runs.
const LOADED_ROUNDS: usize = 2;

/// The longest that a sweep may take, so that this ends.
const SWEEP_MAX: Duration = Duration::from_secs(3 * 3600);

/// What the page and people ask: its first view, ranges, lists, lists that find nothing.
const CALLS: [&str; 13] = [
    "usage?last=24h&by=account",
    "usage?last=1h&by=account&step=2m",
    "usage?last=7d&step=6h&by=account",
    "usage?last=30d&step=24h&by=account",
    "usage?last=90d&step=24h&by=model",
    "requests?count=50",
    "requests?count=50&account=sim-b",
    "requests?count=50&outcome=errors",
    "requests?count=50&affinity=moved",
    "requests?count=50&error=nothing_like_it",
    "requests?count=50&model=sim-small&outcome=queued",
    "conversations?count=50",
    "accounts",
];

pub fn measure(folder: &Path, program: &str, effort: Effort) {
    let database = folder.join("sweep.db");
    let begin = Instant::now();
    let rows = effort.many;
    let mut fill = Command::new(program);
    fill.args(["simulate", "--fill", &rows.to_string(), "--database"])
        .arg(&database);
    assert!(fill.output().unwrap().status.success());
    println!(
        "fill: {rows} rows in {:.0} s, {:.0} MB",
        begin.elapsed().as_secs_f64(),
        megabytes(&database)
    );
    let admin_key = Command::new(program)
        .args(["admin-key", "reset", "--database"])
        .arg(&database)
        .output()
        .unwrap();
    let admin_key = String::from_utf8(admin_key.stdout).unwrap();
    let admin_key = admin_key
        .split_whitespace()
        .find(|word| word.starts_with("ma-"))
        .unwrap();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pool = Pool::start();
    let start = |rows: u64| {
        let settings = format!("database = {database:?}\n[usage]\nrows = {rows}\n");
        let command = Command::new(program);
        let gateway = Process::start_with(&pool, command, &settings);
        let target = Target::new(&gateway.base_url, CLIENT_KEY);
        (gateway, target)
    };

    // Before: nothing is swept.
    let (gateway, target) = start(u64::MAX / 4);
    let load = Load::new(target, None);
    runtime.block_on(async {
        println!("the page's calls, each the first after a start:");
        for call in CALLS {
            let took = asked(&gateway.base_url, admin_key, call).await;
            println!("  {:6.1} ms  {call}", took.as_secs_f64() * 1000.0);
        }
        println!("the same under a load of {RATE} requests/s, p50 and the longest:");
        let calls = page_calls(&gateway.base_url, admin_key, effort.paced_seconds);
        let (times, calls) = tokio::join!(load.paced_json(RATE, effort.paced_seconds), calls);
        for (call, mut took) in CALLS.iter().zip(calls) {
            took.sort();
            let ms = |time: Option<&Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0);
            println!(
                "  {:6.1} {:6.1} ms  {call}",
                ms(took.get(took.len() / 2)),
                ms(took.last())
            );
        }
        tell("requests, the page is looked at", &times);
        tell(
            "requests, nobody looks",
            &load.paced_json(RATE, effort.paced_seconds).await,
        );
    });
    drop(gateway);

    let (gateway, target) = start(rows / 10);
    let load = Load::new(target, None);
    let begin = Instant::now();
    let mut log_bytes_max = 0;
    for _ in 0..LOADED_ROUNDS {
        let times = runtime.block_on(load.paced_json(RATE, effort.paced_seconds));
        tell(
            &format!("requests while it sweeps, {} rows left", rows_left(&database)),
            &times,
        );
        log_bytes_max = log_bytes_max.max(log_bytes(&database));
    }
    // The rest of it with nobody there, when it goes faster.
    let (idle, before) = (Instant::now(), rows_left(&database));
    while !is_swept(&database, rows / 10) {
        log_bytes_max = log_bytes_max.max(log_bytes(&database));
        assert!(begin.elapsed() < SWEEP_MAX, "the sweep does not end");
        std::thread::sleep(Duration::from_millis(500));
    }
    println!(
        "with nobody there: {:.0} rows a second",
        (before - rows_left(&database)) as f64 / idle.elapsed().as_secs_f64()
    );
    println!(
        "swept in {:.0} s; the write-ahead log had up to {:.0} MB when it was looked at",
        begin.elapsed().as_secs_f64(),
        log_bytes_max as f64 / 1e6
    );
    tell(
        "requests afterwards",
        &runtime.block_on(load.paced_json(RATE, effort.paced_seconds)),
    );
    drop(gateway);
    let tight = folder.join("tight.db");
    let connection = Connection::open(&database).unwrap();
    connection
        .execute("VACUUM INTO ?1", [tight.to_str().unwrap()])
        .unwrap();
    let (size, need) = (megabytes(&database), megabytes(&tight));
    println!(
        "the file has {size:.0} MB, what is left needs {need:.0} MB: {:.2}",
        size / need
    );
}

fn tell(what: &str, times: &Times) {
    let ms = |quantile| times.quantile(quantile) / 1000.0;
    println!(
        "{what}: {} requests, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.1} ms",
        times.count(),
        ms(0.5),
        ms(0.99),
        ms(0.999),
        times.max() / 1000.0
    );
}

fn rows_left(database: &Path) -> i64 {
    let connection = Connection::open(database).unwrap();
    let query = "SELECT folded_rows FROM usage_fold";
    connection.query_row(query, [], |row| row.get(0)).unwrap()
}

fn log_bytes(database: &Path) -> u64 {
    std::fs::metadata(database.with_extension("db-wal")).map_or(0, |log| log.len())
}

/// Whether so many rows are left, and their space was given back.
fn is_swept(database: &Path, rows: u64) -> bool {
    let connection = Connection::open(database).unwrap();
    let count = |query: &str| {
        connection
            .query_row(query, [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let (free, pages) = (count("PRAGMA freelist_count"), count("PRAGMA page_count"));
    // The load adds some meanwhile, which the next sweep takes.
    let wanted = rows as i64 + 100_000;
    count("SELECT folded_rows FROM usage_fold") <= wanted && free * 4 <= pages
}

fn megabytes(path: &Path) -> f64 {
    std::fs::metadata(path).unwrap().len() as f64 / 1e6
}

/// All calls one after the other, four times a second, for so long: the times of each.
async fn page_calls(base_url: &str, admin_key: &str, seconds: f64) -> Vec<Vec<Duration>> {
    let mut times = vec![Vec::new(); CALLS.len()];
    let begin = Instant::now();
    for number in (0..CALLS.len()).cycle() {
        if begin.elapsed().as_secs_f64() >= seconds {
            break;
        }
        times[number].push(asked(base_url, admin_key, CALLS[number]).await);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    times
}

/// The time from a call of the admin API to its last byte.
async fn asked(base_url: &str, admin_key: &str, call: &str) -> Duration {
    let address = base_url.trim_start_matches("http://").trim_end_matches("/v1");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /admin/api/v1/{call} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {admin_key}\r\nconnection: close\r\n\r\n"
    );
    let begin = Instant::now();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{call}: {}",
        String::from_utf8_lossy(&answer)
    );
    begin.elapsed()
}
