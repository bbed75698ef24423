//! Requests without a valid client key: what those of one address may cost.
//!
//! A key that was made here has 256 random bits: no number of guesses finds one, so guessing need not
//! be slowed. And a valid key is let in always, because behind a router or a reverse proxy the next
//! request of the same address may be somebody else's; that also tells a guesser nothing that waiting
//! would hide. What is bounded is what wrong keys do to the others: each that leaves a row takes a
//! commit, a line of the log, and in the end the place of a row that tells something. Beyond the bound
//! a request is refused before any of that, and only counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Peer;
use crate::clock::now_ms;
use crate::error::Error;
use crate::limits;

/// Who came without a valid client key.
#[derive(Debug, Default)]
pub struct Strangers {
    windows: Mutex<HashMap<IpAddr, Window>>,
    count: AtomicU64,
}

/// The requests of one address since the first of them.
#[derive(Debug, Clone, Copy)]
struct Window {
    requests: u32,
    ends_at_ms: i64,
}

impl Strangers {
    /// What somebody without a valid key is told.
    pub fn refuse(&self, peer: Peer) -> Error {
        self.count.fetch_add(1, Ordering::Relaxed);
        match self.must_wait(peer, now_ms()) {
            None => Error::UnknownKey,
            Some(retry_after) => Error::TooManyWrongKeys { retry_after },
        }
    }

    /// How many there were since the start.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn windows(&self) -> MutexGuard<'_, HashMap<IpAddr, Window>> {
        // Each entry is whole between any two calls.
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request, and tells how long its address has to wait if it was one too many.
    fn must_wait(&self, peer: Peer, now_ms: i64) -> Option<Duration> {
        let all = limits::WRONG_CLIENT_KEYS_WINDOW;
        let mut windows = self.windows();
        let network = peer.network();
        if windows.len() >= limits::WRONG_CLIENT_KEYS_ADDRESSES && !windows.contains_key(&network) {
            windows.retain(|_, window| now_ms < window.ends_at_ms);
            if windows.len() >= limits::WRONG_CLIENT_KEYS_ADDRESSES {
                return Some(all);
            }
        }
        let begun = Window {
            requests: 0,
            ends_at_ms: now_ms + i64::try_from(all.as_millis()).unwrap_or(0),
        };
        let window = windows.entry(network).or_insert(begun);
        if window.ends_at_ms <= now_ms {
            *window = begun;
        }
        window.requests = window.requests.saturating_add(1);
        let wait_ms = u64::try_from(window.ends_at_ms - now_ms).unwrap_or(0);
        let beyond = window.requests.checked_sub(limits::WRONG_CLIENT_KEYS)?;
        if beyond == 1 {
            tracing::warn!(peer = %peer.0, times = window.requests, "wrong client keys");
        }
        (beyond > 0).then(|| Duration::from_millis(wait_ms))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const WINDOW_MS: i64 = limits::WRONG_CLIENT_KEYS_WINDOW.as_millis() as i64;

    fn peer(number: u32) -> Peer {
        Peer(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    #[test]
    fn each_address_has_its_number_in_a_minute() {
        let strangers = Strangers::default();
        for _ in 0..limits::WRONG_CLIENT_KEYS {
            assert_eq!(strangers.must_wait(peer(1), 0), None);
        }
        let wait = strangers.must_wait(peer(1), 1000).unwrap();
        assert_eq!(
            wait,
            limits::WRONG_CLIENT_KEYS_WINDOW.saturating_sub(Duration::from_secs(1))
        );
        assert_eq!(strangers.must_wait(peer(2), 1000), None);
        assert!(strangers.must_wait(peer(1), WINDOW_MS - 1).is_some());
        assert_eq!(strangers.must_wait(peer(1), WINDOW_MS), None);
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory_and_ends() {
        let strangers = Strangers::default();
        for number in 0..limits::WRONG_CLIENT_KEYS_ADDRESSES as u32 {
            assert_eq!(strangers.must_wait(peer(number), 0), None);
        }
        let other = peer(u32::MAX);
        assert!(strangers.must_wait(other, WINDOW_MS - 1).is_some());
        assert_eq!(strangers.windows().len(), limits::WRONG_CLIENT_KEYS_ADDRESSES);
        assert_eq!(strangers.must_wait(peer(1), 1), None);
        assert_eq!(strangers.must_wait(other, WINDOW_MS), None);
        assert_eq!(strangers.windows().len(), 1);
    }
}
