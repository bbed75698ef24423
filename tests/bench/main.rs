//! What the gateway costs, against the simulated accounts directly. `cargo bench`; with `-- --quick`
//! in seconds, to see that it works.
//!
//! Gateway, accounts and load run on the same machine and share its cores, so the figures are worse
//! than with each on its own. What is compared runs in turns, in the same minute.

#[expect(dead_code, reason = "other benchmarks ask for more")]
mod process;
mod sockets;

use std::process::Command;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use reqwest::{Client, RequestBuilder};
use tokio::task::JoinSet;

use process::{Pool, Process};

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Effort {
    latency_requests: u64,
    load_time: Duration,
    streams: usize,
}

const FULL: Effort = Effort {
    latency_requests: 5_000,
    load_time: Duration::from_secs(10),
    streams: 1_000,
};

const QUICK: Effort = Effort {
    latency_requests: 200,
    load_time: Duration::from_secs(1),
    streams: 100,
};

/// Clients that ask at once, where the load is measured.
const CLIENTS: usize = 64;

/// Something that answers: an account, or the gateway in front of it.
#[derive(Debug, Clone)]
struct Target {
    client: Client,
    url: String,
    key: String,
}

impl Target {
    fn new(base_url: &str, key: &str) -> Target {
        Target {
            client: Client::new(),
            url: format!("{base_url}/responses"),
            key: key.to_owned(),
        }
    }

    /// A first turn of some kilobytes, like no other.
    fn request(&self, number: u64, stream: bool, simulate: &str) -> RequestBuilder {
        let filling = "The tide comes in, the tide goes out, and the lines hold. ".repeat(64);
        let body = format!(
            "{{\"model\":\"sim-large\",\"stream\":{stream},\"input\":[{{\"role\":\"user\",\"content\":\"{number} {filling}\"}}]}}"
        );
        let request = self.client.post(&self.url).bearer_auth(&self.key).body(body);
        request
            .header("content-type", "application/json")
            .header("x-simulate", simulate)
    }
}

fn main() {
    rustls::crypto::ring::default_provider().install_default().ok();
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let effort = if std::env::args().any(|argument| argument == "--quick") {
        QUICK
    } else {
        FULL
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure(effort));
}

async fn measure(effort: Effort) {
    let pool = Pool::start();
    let gateway = Process::start(&pool, Command::new(process::PROGRAM));
    let direct = Target::new(&pool.base_url, &pool.key);
    let through = Target::new(&gateway.base_url, process::CLIENT_KEY);
    println!(
        "added latency, one client, {} requests each way",
        effort.latency_requests
    );
    println!("{:>28} {:>12} {:>12} {:>12}", "", "direct", "gateway", "added");
    for (what, stream, simulate) in [
        ("JSON answer", false, "canned"),
        ("first event of a stream", true, "canned;deltas=8"),
    ] {
        let (a, b) = latency(&direct, &through, effort.latency_requests, stream, simulate).await;
        for quantile in [0.5, 0.99] {
            let (a, b) = (a.value_at_quantile(quantile), b.value_at_quantile(quantile));
            let name = format!("{what}, p{:.0}", quantile * 100.0);
            println!("{name:>28} {a:>9} µs {b:>9} µs {:>9} µs", b.saturating_sub(a));
        }
    }

    println!("\nload, {CLIENTS} clients, {} s each", effort.load_time.as_secs());
    for (what, stream, simulate) in [
        ("JSON", false, "canned"),
        ("SSE, 8 deltas", true, "canned;deltas=8"),
    ] {
        let (alone, _) = load(&direct, effort.load_time, stream, simulate).await;
        let cpu = gateway.process.cpu();
        let (rate, requests) = load(&through, effort.load_time, stream, simulate).await;
        let cpu = (gateway.process.cpu() - cpu).as_secs_f64() * 1000.0 / requests as f64;
        println!(
            "{what:>14}: direct {alone:>6.0} requests/s, gateway {rate:>6.0} requests/s, {cpu:.3} CPU s per 1,000 requests"
        );
    }

    sockets::measure(&direct, &through, &gateway, effort).await;

    // One of its own: what the load before has left would be used again.
    drop(gateway);
    let gateway = Process::start(&pool, Command::new(process::PROGRAM));
    let through = Target::new(&gateway.base_url, process::CLIENT_KEY);
    let per_stream = open_streams(&gateway, &through, effort.streams).await;
    println!(
        "\nmemory: {per_stream:.1} KiB per open stream at {} open streams",
        effort.streams
    );
}

/// Times of single requests, the two targets in turns.
async fn latency(
    direct: &Target,
    through: &Target,
    requests: u64,
    stream: bool,
    simulate: &str,
) -> (Histogram<u64>, Histogram<u64>) {
    let mut histograms = [Histogram::new(3).unwrap(), Histogram::new(3).unwrap()];
    let warm_up = requests / 10;
    for number in 0..requests + warm_up {
        for (target, histogram) in [direct, through].into_iter().zip(&mut histograms) {
            let request = target.request(number, stream, simulate);
            let begin = Instant::now();
            let mut response = request.send().await.unwrap();
            assert_eq!(response.status(), 200);
            let mut first = None;
            while let Some(chunk) = response.chunk().await.unwrap() {
                first.get_or_insert_with(|| (begin.elapsed(), chunk.len()));
            }
            let time = if stream { first.unwrap().0 } else { begin.elapsed() };
            if number >= warm_up {
                histogram
                    .record(u64::try_from(time.as_micros()).unwrap())
                    .unwrap();
            }
        }
    }
    let [a, b] = histograms;
    (a, b)
}

/// As many requests as so many clients get answered; the rate, and how many there were.
async fn load(target: &Target, time: Duration, stream: bool, simulate: &'static str) -> (f64, u64) {
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS as u64 {
        let target = target.clone();
        clients.spawn(async move {
            let mut done = 0;
            while begin.elapsed() < time {
                let response = target
                    .request(client << 32 | done, stream, simulate)
                    .send()
                    .await
                    .unwrap();
                assert_eq!(response.status(), 200);
                response.bytes().await.unwrap();
                done += 1;
            }
            done
        });
    }
    let requests: u64 = clients.join_all().await.into_iter().sum();
    (requests as f64 / begin.elapsed().as_secs_f64(), requests)
}

/// What an open stream costs, in KiB of the gateway's resident memory.
async fn open_streams(gateway: &Process, through: &Target, count: usize) -> f64 {
    let before = gateway.process.resident_kib();
    let mut open = Vec::with_capacity(count);
    for number in 0..count {
        let request = through.request(number as u64, true, "canned;deltas=2;delta_delay=1h");
        let mut response = request.send().await.unwrap();
        response.chunk().await.unwrap().unwrap();
        open.push(response);
    }
    (gateway.process.resident_kib() - before) / count as f64
}
