//! Moorage beside the pass-through proxies that people know: `cargo bench --bench peers`.
//!
//! Each proxy runs alone on the first core; the simulated account and the load share the second. The
//! proxies take turns, round by round, and the medians of the rounds are printed with their ratio to
//! nginx. nginx and HAProxy take part where they are installed. Moorage runs as it comes: a commit
//! before every id and every end, a row and a log line for every request.
//!
//! `-- --quick` does little of everything, to see that it works; `-- --only json` one part; `-- --with
//! PROGRAM` also measures another build of Moorage.

#[expect(dead_code, reason = "some of it is for the benchmark of scale")]
mod load;
#[path = "../process.rs"]
mod process;
mod proxy;
mod table;

use std::process::Command;

use load::{LARGE_BODY_BYTES, Load, Target};
use process::Pool;
use proxy::Proxy;
use table::Table;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    rounds: usize,
    latency_requests: usize,
    load_seconds: f64,
    streams: [usize; 2],
}

const FULL: Effort = Effort {
    rounds: 3,
    latency_requests: 2_000,
    load_seconds: 5.0,
    streams: [1_000, 5_000],
};

const QUICK: Effort = Effort {
    rounds: 1,
    latency_requests: 200,
    load_seconds: 0.5,
    streams: [50, 100],
};

/// Starts a proxy in front of the pool, if it is installed.
type Start<'a> = dyn Fn(&Pool) -> Option<Proxy> + 'a;

/// Where the proxy under test runs, and everything else.
const PROXY_CORE: &str = "0";
const OTHER_CORE: &str = "1";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let effort = if arguments.iter().any(|word| word == "--quick") {
        QUICK
    } else {
        FULL
    };
    let value = |name: &str| {
        let at = arguments.iter().position(|word| word == name)?;
        Some(arguments[at + 1].clone())
    };
    let only = value("--only");
    let other_build = value("--with");
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    // Threads that are started later inherit it.
    let pinned = Command::new("taskset")
        .args(["-cp", OTHER_CORE, &std::process::id().to_string()])
        .output();
    assert!(
        pinned.is_ok_and(|output| output.status.success()),
        "taskset is needed"
    );
    let pool = Pool::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut table = Table::default();
    for _ in 0..effort.rounds {
        // The account alone: what the machine can do, and what latencies are added to.
        let direct = Target::new(&pool.base_url, &pool.key);
        let own = runtime.block_on(measure(
            &Load::new(direct, None),
            effort,
            only.as_deref(),
            None,
            &mut table,
        ));
        let other = |pool: &Pool| Some(proxy::other_build(pool, other_build.as_deref()?));
        for start in [&proxy::nginx, &proxy::haproxy, &proxy::moorage, &other] as [&Start; 4] {
            let Some(proxy) = start(&pool) else { continue };
            let load = Load::new(proxy.target.clone(), Some(&proxy));
            runtime.block_on(measure(&load, effort, only.as_deref(), Some(own), &mut table));
            if only.as_deref().is_none_or(|only| only == "memory") {
                drop(proxy);
                runtime.block_on(measure_streams(&pool, start, effort, &mut table));
            }
        }
    }
    table.print();
}

/// What is taken from the latencies of a proxy: those of the account alone, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Own {
    p50: f64,
    p99: f64,
    first_event: f64,
}

async fn measure(
    load: &Load<'_>,
    effort: Effort,
    only: Option<&str>,
    own: Option<Own>,
    table: &mut Table,
) -> Own {
    let wanted = |part: &str| only.is_none_or(|only| only == part);
    let less = own.unwrap_or_default();
    let name = load.name();
    let mut measured = Own::default();
    let mut add = |column: &'static str, value: f64| table.add(name, column, value);
    if wanted("idle")
        && let Some(proxy) = load.proxy
    {
        add("idle MB", proxy.resident_kib() / 1024.0);
    }
    if wanted("latency") {
        let times = load.latency(effort.latency_requests).await;
        measured.p50 = times.quantile(0.5);
        measured.p99 = times.quantile(0.99);
        add("added p50 µs", measured.p50 - less.p50);
        add("added p99 µs", measured.p99 - less.p99);
        measured.first_event = load.first_event(effort.latency_requests).await.quantile(0.5);
        add("added first event µs", measured.first_event - less.first_event);
    }
    if wanted("json") {
        let (rate, cpu) = load.json(effort.load_seconds).await;
        add("JSON requests/s", rate);
        add("CPU µs/request", cpu);
    }
    if wanted("streams") {
        let (rate, cpu) = load.unpaced_streams(effort.load_seconds).await;
        add("events/s", rate);
        add("CPU µs/stream", cpu);
    }
    if wanted("paced") {
        let (delay, cpu) = load.paced_streams(effort.load_seconds).await;
        add("delta delay p50 µs", delay);
        add("paced CPU µs/stream", cpu);
    }
    if wanted("large") {
        load.once().await;
        match load.proxy {
            None => add("5 MB body ms", load.large_body().await),
            Some(proxy) => {
                let (best_ms, peak_kib) = proxy.peak_kib(load.large_body()).await;
                add("5 MB body ms", best_ms);
                add("5 MB body, copies", peak_kib * 1024.0 / LARGE_BODY_BYTES as f64);
            }
        }
    }
    measured
}

/// The memory of open streams, each count on a proxy of its own: what was there before would be used
/// again.
async fn measure_streams(pool: &Pool, start: &Start<'_>, effort: Effort, table: &mut Table) {
    for (count, column) in effort
        .streams
        .into_iter()
        .zip(["KB/stream, fewer", "KB/stream, more"])
    {
        let Some(proxy) = start(pool) else { return };
        let load = Load::new(proxy.target.clone(), Some(&proxy));
        table.add(proxy.name, column, load.open_streams(&proxy, count).await);
    }
}

/// A measured proxy, or the account alone.
impl Load<'_> {
    fn name(&self) -> &'static str {
        self.proxy.map_or("direct", |proxy: &Proxy| proxy.name)
    }
}
