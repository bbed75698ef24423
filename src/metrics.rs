//! What is measured while the gateway runs. It begins anew at every start; what must not is in the
//! database.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

/// The instruments of a running gateway.
#[derive(Debug)]
pub struct Metrics {
    /// Seconds that requests spent in the gateway itself, the store included.
    pub overhead: Histogram,
    /// Seconds from the start of a request to its first byte for the client.
    pub first_byte: Histogram,
    /// Seconds that a commit took.
    pub commit: Histogram,
    limits_met: AtomicU64,
    open: AtomicI64,
    ended: AtomicU64,
}

/// From a tenth of a millisecond to a second.
const OVERHEAD_SECONDS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
];

/// From what a cached answer takes to what long reasoning takes.
const FIRST_BYTE_SECONDS: [f64; 12] = [
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0,
];

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            overhead: Histogram::new(OVERHEAD_SECONDS),
            first_byte: Histogram::new(FIRST_BYTE_SECONDS),
            commit: Histogram::new(OVERHEAD_SECONDS),
            limits_met: AtomicU64::new(0),
            open: AtomicI64::new(0),
            ended: AtomicU64::new(0),
        }
    }
}

impl Metrics {
    /// An exchange has begun.
    pub fn begun(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// An exchange has let go of what it held.
    pub fn let_go(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// The outcome of an exchange is known.
    pub fn ended(&self, overhead: Duration, first_byte_ms: Option<i64>) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.overhead.observe(overhead.as_secs_f64());
        if let Some(ms) = first_byte_ms {
            self.first_byte.observe(ms as f64 / 1e3);
        }
    }

    /// The status of an account has changed: because it met a limit, or not.
    pub fn met_limit(&self, is_limit: bool) {
        self.limits_met.fetch_add(u64::from(is_limit), Ordering::Relaxed);
    }

    /// How many limits accounts have met since the start.
    pub fn limits_met(&self) -> u64 {
        self.limits_met.load(Ordering::Relaxed)
    }

    /// How many exchanges run.
    pub fn open_count(&self) -> i64 {
        self.open.load(Ordering::Relaxed)
    }

    /// How many have ended since the start. It changes when there is something new to read.
    pub fn ended_count(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }
}
