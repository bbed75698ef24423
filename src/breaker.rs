//! Keeps requests away for moments from an account whose connections or servers fail time after
//! time. A plain value: no clock, no I/O.
//!
//! Faults of transport say nothing about an account: they never change its standing, and one
//! answer ends what they have caused. After [`limits::BREAKER_FAULTS`] in a row the breaker opens,
//! for a second at first and for twice as long each time that the probe after it fails. While it
//! is half open, one request is the probe and the others wait for its end.

use crate::account::Usability;
use crate::limits;

/// The breaker of one account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breaker {
    /// In a row, without an answer in between.
    faults: u32,
    /// Closed while this is `None`. In milliseconds since 1970 UTC.
    open_until_ms: Option<i64>,
    /// How often it has opened since the last answer.
    openings: u32,
    probing: bool,
}

impl Breaker {
    /// Whether a request may go now. While the probe runs, a request looks again a little later.
    pub fn usability(&self, now_ms: i64) -> Usability {
        match self.open_until_ms {
            None => Usability::Usable,
            Some(_) if self.probing => Usability::UsableAt(now_ms + limits::BREAKER_LOOK_MS),
            // The clock was put back: it cannot have been meant for so long.
            Some(until_ms) if until_ms.saturating_sub(now_ms) > limits::BREAKER_OPEN_MS_MAX => {
                Usability::Usable
            }
            Some(until_ms) => Usability::from(until_ms, now_ms),
        }
    }

    /// A request goes. Tells whether it is the probe.
    pub fn begin(&mut self) -> bool {
        let is_probe = self.open_until_ms.is_some();
        self.probing |= is_probe;
        is_probe
    }

    /// The probe has ended without a word on the transport: another may be it.
    pub fn probe_ended(&mut self) {
        self.probing = false;
    }

    /// A connection failed, or a server said that it does. Tells whether this opened the breaker.
    pub fn fault(&mut self, now_ms: i64) -> bool {
        self.faults = self.faults.saturating_add(1);
        self.probing = false;
        let is_open = self.open_until_ms.is_some() && self.usability(now_ms) != Usability::Usable;
        if self.faults < limits::BREAKER_FAULTS || is_open {
            return false;
        }
        let factor = 1_i64 << self.openings.min(16);
        let wait_ms = limits::BREAKER_OPEN_MS
            .saturating_mul(factor)
            .min(limits::BREAKER_OPEN_MS_MAX);
        self.openings = self.openings.saturating_add(1);
        self.open_until_ms = Some(now_ms.saturating_add(wait_ms));
        true
    }

    /// An answer came, whatever it said. Tells whether this closed the breaker.
    pub fn answered(&mut self) -> bool {
        let was_open = self.open_until_ms.is_some();
        *self = Breaker::default();
        was_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for fault in 1..limits::BREAKER_FAULTS {
            assert!(!breaker.fault(0), "fault {fault}");
            assert_eq!(breaker.usability(0), Usability::Usable);
        }
        assert!(breaker.fault(0));
        breaker
    }

    #[test]
    fn faults_in_a_row_open_it_and_an_answer_in_between_does_not() {
        let mut breaker = opened();
        assert_eq!(breaker.usability(0), Usability::UsableAt(limits::BREAKER_OPEN_MS));
        assert!(breaker.answered());
        for _ in 0..3 * limits::BREAKER_FAULTS {
            breaker.fault(0);
            breaker.answered();
        }
        assert_eq!(breaker.usability(0), Usability::Usable);
    }

    #[test]
    fn half_open_it_lets_one_probe_pass_whose_answer_closes_it() {
        let mut breaker = opened();
        let after = limits::BREAKER_OPEN_MS;
        assert_eq!(breaker.usability(after), Usability::Usable);
        assert!(breaker.begin());
        assert!(matches!(breaker.usability(after), Usability::UsableAt(at) if at > after));
        assert!(breaker.answered());
        assert_eq!(breaker, Breaker::default());
        assert!(!breaker.begin());
    }

    #[test]
    fn a_probe_that_fails_opens_it_for_longer_up_to_a_bound() {
        let mut breaker = opened();
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..20 {
            let Usability::UsableAt(at) = breaker.usability(now) else {
                panic!("it is open");
            };
            waits.push(at - now);
            now = at;
            breaker.begin();
            assert!(breaker.fault(now));
        }
        assert_eq!(
            waits[..3],
            [1000, 2000, 4000].map(|ms| ms * limits::BREAKER_OPEN_MS / 1000)
        );
        assert_eq!(*waits.last().unwrap(), limits::BREAKER_OPEN_MS_MAX);
    }

    #[test]
    fn a_clock_that_is_put_back_does_not_keep_it_open() {
        let mut breaker = opened();
        let hour_ms = 3_600_000;
        assert_eq!(breaker.usability(-hour_ms), Usability::Usable);
        assert!(breaker.begin());
        assert!(breaker.fault(-hour_ms));
        assert_eq!(
            breaker.usability(-hour_ms),
            Usability::UsableAt(2 * limits::BREAKER_OPEN_MS - hour_ms)
        );
    }

    #[test]
    fn a_probe_that_ends_without_a_word_makes_room_for_another() {
        let mut breaker = opened();
        let after = limits::BREAKER_OPEN_MS;
        breaker.begin();
        breaker.probe_ended();
        assert_eq!(breaker.usability(after), Usability::Usable);
    }

    #[test]
    fn faults_of_requests_that_ran_already_do_not_prolong_it() {
        let mut breaker = opened();
        for _ in 0..10 {
            assert!(!breaker.fault(1));
        }
        assert_eq!(breaker.usability(1), Usability::UsableAt(limits::BREAKER_OPEN_MS));
    }
}
