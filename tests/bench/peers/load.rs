//! The load: as little client as can be, so that what is measured is the proxy.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::proxy::Proxy;

/// Clients that ask at once.
const CLIENTS: usize = 64;

/// Turns of a conversation.
const TURNS: usize = 4;

/// Deltas of a measured stream; with what is around them it has 72 events.
const DELTAS: usize = 64;

/// A large request.
pub const LARGE_BODY_BYTES: usize = 5_000_000;

/// Something that answers.
#[derive(Debug, Clone)]
pub struct Target {
    address: String,
    key: String,
}

impl Target {
    pub fn new(base_url: &str, key: &str) -> Target {
        let address = base_url.trim_start_matches("http://").trim_end_matches("/v1");
        Target {
            address: address.to_owned(),
            key: key.to_owned(),
        }
    }

    fn request(&self, simulate: &str, body: &str) -> Vec<u8> {
        let Target { address, key } = self;
        let length = body.len();
        format!(
            "POST /v1/responses HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
             x-simulate: {simulate}\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// The next turn of a conversation, some kilobytes.
fn turn(number: usize, previous: Option<&str>, stream: bool) -> String {
    let previous = previous.map_or(String::new(), |id| format!("\"previous_response_id\":\"{id}\","));
    let filling = "The tide comes in, the tide goes out, and the lines hold. ".repeat(36);
    format!(
        "{{\"model\":\"sim-large\",\"stream\":{stream},{previous}\"input\":[{{\"role\":\"user\",\"content\":\"{number} {filling}\"}}]}}"
    )
}

/// Times, in nanoseconds.
pub struct Times(Histogram<u64>);

impl Times {
    fn new() -> Times {
        Times(Histogram::new(3).unwrap())
    }

    fn add(&mut self, time: Duration) {
        self.0.record(u64::try_from(time.as_nanos()).unwrap()).unwrap();
    }

    /// How many they are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The longest, in microseconds.
    pub fn max(&self) -> f64 {
        self.0.max() as f64 / 1000.0
    }

    /// In microseconds.
    pub fn quantile(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }
}

pub struct Load<'a> {
    target: Target,
    pub proxy: Option<&'a Proxy>,
}

/// A connection that is kept open.
struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(target: &Target) -> Connection {
        let stream = TcpStream::connect(&target.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Connection {
            stream,
            answer: Vec::with_capacity(64 * 1024),
        }
    }

    async fn send(&mut self, request: &[u8]) {
        self.stream.write_all(request).await.unwrap();
        self.answer.clear();
    }

    /// Reads once; gives how many bytes there were before.
    async fn read(&mut self) -> usize {
        let before = self.answer.len();
        let count = self.stream.read_buf(&mut self.answer).await.unwrap();
        assert!(
            count > 0,
            "closed in the middle of: {}",
            String::from_utf8_lossy(&self.answer)
        );
        before
    }

    /// Reads the answer to its end.
    async fn finish(&mut self) {
        while !is_whole(&self.answer) {
            self.read().await;
        }
        assert!(
            self.answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&self.answer)
        );
    }

    fn response_id(&self) -> Option<String> {
        let start = memchr::memmem::find(&self.answer, b"\"resp_")? + 1;
        let length = memchr::memchr(b'"', &self.answer[start..])?;
        Some(String::from_utf8(self.answer[start..start + length].to_vec()).unwrap())
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = memchr::memmem::find(answer, b"\r\n\r\n") else {
        return false;
    };
    let head_text = &answer[..head];
    match find_ignoring_case(head_text, b"content-length: ") {
        Some(at) => {
            let digits = head_text[at..].iter().take_while(|byte| byte.is_ascii_digit());
            let length = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
            answer.len() >= head + 4 + length
        }
        None => answer.ends_with(b"\r\n0\r\n\r\n"),
    }
}

/// Where the value of a header begins.
fn find_ignoring_case(head: &[u8], name: &[u8]) -> Option<usize> {
    let at = head
        .windows(name.len())
        .position(|window| window.eq_ignore_ascii_case(name))?;
    Some(at + name.len())
}

impl<'a> Load<'a> {
    pub fn new(target: Target, proxy: Option<&'a Proxy>) -> Load<'a> {
        Load { target, proxy }
    }

    fn cpu(&self) -> Duration {
        self.proxy.map_or(Duration::ZERO, Proxy::cpu)
    }

    /// One whole answer.
    pub async fn once(&self) {
        let mut connection = Connection::open(&self.target).await;
        connection
            .send(&self.target.request("canned", &turn(0, None, false)))
            .await;
        connection.finish().await;
    }

    /// Whole answers, one after the other.
    pub async fn latency(&self, requests: usize) -> Times {
        let mut connection = Connection::open(&self.target).await;
        let mut times = Times::new();
        let mut previous = None;
        for number in 0..requests + requests / 10 {
            previous = previous.filter(|_| number % TURNS != 0);
            let request = self
                .target
                .request("canned", &turn(number, previous.as_deref(), false));
            let begin = Instant::now();
            connection.send(&request).await;
            connection.finish().await;
            if number >= requests / 10 {
                times.add(begin.elapsed());
            }
            previous = connection.response_id();
        }
        times
    }

    /// Times to the first event of a stream.
    pub async fn first_event(&self, requests: usize) -> Times {
        let mut connection = Connection::open(&self.target).await;
        let mut times = Times::new();
        for number in 0..requests {
            let request = self.target.request("canned;deltas=8", &turn(number, None, true));
            let begin = Instant::now();
            connection.send(&request).await;
            while memchr::memmem::find(&connection.answer, b"response.created").is_none() {
                connection.read().await;
            }
            times.add(begin.elapsed());
            connection.finish().await;
        }
        times
    }

    /// Answers a second, and the proxy's processor time for each in microseconds.
    pub async fn json(&self, seconds: f64) -> (f64, f64) {
        self.all_clients(seconds, "canned", false).await
    }

    /// Events a second of streams that run as fast as they can, and processor time for each stream.
    pub async fn unpaced_streams(&self, seconds: f64) -> (f64, f64) {
        let (rate, cpu) = self
            .all_clients(seconds, &format!("canned;deltas={DELTAS}"), true)
            .await;
        (rate * (DELTAS + 8) as f64, cpu)
    }

    async fn all_clients(&self, seconds: f64, simulate: &str, stream: bool) -> (f64, f64) {
        let (begin, cpu) = (Instant::now(), self.cpu());
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (target, simulate) = (self.target.clone(), simulate.to_owned());
            clients.spawn(async move {
                let mut connection = Connection::open(&target).await;
                let mut previous = None;
                let mut done = 0;
                while begin.elapsed().as_secs_f64() < seconds {
                    previous = previous.filter(|_| done % TURNS != 0);
                    let request = target.request(&simulate, &turn(done, previous.as_deref(), stream));
                    connection.send(&request).await;
                    connection.finish().await;
                    previous = connection.response_id();
                    done += 1;
                }
                done
            });
        }
        let done: usize = clients.join_all().await.into_iter().sum();
        let rate = done as f64 / begin.elapsed().as_secs_f64();
        (rate, (self.cpu() - cpu).as_secs_f64() * 1e6 / done as f64)
    }

    /// Whole answers at so many a second, whatever becomes of the ones before: each time is counted from
    /// when its request was due.
    pub async fn paced_json(&self, rate: f64, seconds: f64) -> Times {
        let begin = Instant::now();
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let target = self.target.clone();
            clients.spawn(async move {
                let mut connection = Connection::open(&target).await;
                let mut times = Times::new();
                let mut previous = None;
                for number in 0.. {
                    let due = (number * CLIENTS + client) as f64 / rate;
                    if due >= seconds {
                        break;
                    }
                    let due = begin + Duration::from_secs_f64(due);
                    tokio::time::sleep_until(due.into()).await;
                    previous = previous.filter(|_| number % TURNS != 0);
                    let request = target.request("canned", &turn(number, previous.as_deref(), false));
                    connection.send(&request).await;
                    connection.finish().await;
                    times.add(due.elapsed());
                    previous = connection.response_id();
                }
                times
            });
        }
        let mut all = Times::new();
        for times in clients.join_all().await {
            all.0.add(times.0).unwrap();
        }
        all
    }

    /// How late a delta comes, in the middle, with 20 ms between two; and processor time for each stream.
    pub async fn paced_streams(&self, seconds: f64) -> (f64, f64) {
        const PAUSE_MS: usize = 20;
        let deltas = ((seconds * 1000.0) as usize / PAUSE_MS).max(10);
        let cpu = self.cpu();
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let target = self.target.clone();
            clients.spawn(async move {
                let mut connection = Connection::open(&target).await;
                let simulate = format!("canned;stamped;deltas={deltas};delta_delay={PAUSE_MS}ms");
                connection
                    .send(&target.request(&simulate, &turn(number, None, true)))
                    .await;
                let mut delays = Vec::with_capacity(deltas);
                while !is_whole(&connection.answer) {
                    let before = connection.read().await;
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                    delays.extend(stamps(&connection.answer[before..]).map(|sent| now.saturating_sub(sent)));
                }
                delays
            });
        }
        let mut times = Times::new();
        clients
            .join_all()
            .await
            .into_iter()
            .flatten()
            .for_each(|delay| times.add(delay));
        (
            times.quantile(0.5),
            (self.cpu() - cpu).as_secs_f64() * 1e6 / CLIENTS as f64,
        )
    }

    /// A request of 5 MB, in milliseconds: the best of some.
    pub async fn large_body(&self) -> f64 {
        let body = format!(
            "{{\"input\":[{{\"role\":\"user\",\"content\":\"{}\"}}]}}",
            "x".repeat(LARGE_BODY_BYTES)
        );
        let request = self.target.request("canned", &body);
        let mut best = f64::MAX;
        for _ in 0..10 {
            let mut connection = Connection::open(&self.target).await;
            let begin = Instant::now();
            connection.send(&request).await;
            connection.finish().await;
            best = best.min(begin.elapsed().as_secs_f64() * 1000.0);
        }
        best
    }

    /// What an open stream costs the proxy, in KiB.
    pub async fn open_streams(&self, proxy: &Proxy, count: usize) -> f64 {
        let before = proxy.resident_kib();
        let mut open = Vec::with_capacity(count);
        for number in 0..count {
            let mut connection = Connection::open(&self.target).await;
            let request = self
                .target
                .request("canned;deltas=2;delta_delay=1h", &turn(number, None, true));
            connection.send(&request).await;
            while memchr::memmem::find(&connection.answer, b"output_text.delta").is_none() {
                connection.read().await;
            }
            connection.answer = Vec::new();
            open.push(connection);
        }
        (proxy.resident_kib() - before) / count as f64
    }
}

/// The moments at which the deltas in these bytes were sent.
fn stamps(bytes: &[u8]) -> impl Iterator<Item = Duration> {
    const NAME: &[u8] = b"\"sent_us\":";
    memchr::memmem::find_iter(bytes, NAME).map(|at| {
        let digits = bytes[at + NAME.len()..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit());
        Duration::from_micros(digits.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
    })
}
