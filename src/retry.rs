//! What to do after an attempt failed: a plain function over the failure and what it cost so far.

use std::time::Duration;

use crate::limits;

/// How an attempt failed, before anything of it reached the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The connection could not be made: nothing was sent.
    NotSent,
    /// The request was sent, and no answer came: it may have run.
    Unanswered,
    /// No answer in time: it may still run.
    Timeout,
    /// The upstream refused with this status, or with an event that means the same.
    Refused {
        /// See [`crate::response::refusal::Refusal::status`].
        status: u16,
        /// Whether the refusal is the account's own limit or credential.
        about_account: bool,
    },
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Plan again: another account, or the pinned one after its cooldown.
    Again,
    /// Tell the client.
    GiveUp,
}

/// What an exchange has spent so far.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// Attempts that were made, the failed one included.
    pub attempts: u32,
    /// Those of them that failed by a fault of transport or server.
    pub faults: u32,
    /// Since the request was there whole.
    pub time: Duration,
}

impl Failure {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Failure::NotSent => "not_sent",
            Failure::Unanswered => "unanswered",
            Failure::Timeout => "timeout",
            Failure::Refused { .. } => "refused",
        }
    }

    /// The status of a refusal.
    pub fn status(self) -> Option<u16> {
        match self {
            Failure::Refused { status, .. } => Some(status),
            _ => None,
        }
    }

    /// Whether the way to the account or its server is at fault: that counts in its breaker, and
    /// nowhere else.
    pub fn is_fault(self) -> bool {
        match self {
            Failure::NotSent | Failure::Unanswered | Failure::Timeout => true,
            Failure::Refused { status, .. } => status >= 500 || is_redirect(status),
        }
    }
}

/// Whether an account's address leads elsewhere: the request did not run.
fn is_redirect(status: u16) -> bool {
    (300..400).contains(&status)
}

/// Decides. `pinned` says that only one account may serve, so that there is nowhere else to go.
pub fn next(failure: Failure, pinned: bool, spent: Spent) -> Next {
    let Spent {
        attempts,
        faults,
        time,
    } = spent;
    if attempts >= limits::ATTEMPTS_MAX || time >= limits::ATTEMPTS_TIME {
        return Next::GiveUp;
    }
    match failure {
        Failure::NotSent => Next::Again,
        // It may have run, and been paid for.
        Failure::Unanswered | Failure::Timeout => Next::GiveUp,
        Failure::Refused {
            about_account: true, ..
        } => Next::Again,
        // It did not run there, and another account has another address.
        Failure::Refused { status, .. } if is_redirect(status) && !pinned => Next::Again,
        // A server's fault: once more, elsewhere. Where it is pinned, the client retries in its own time.
        Failure::Refused {
            status: 500 | 502 | 503 | 504 | 529,
            ..
        } if faults <= 1 && !pinned => Next::Again,
        Failure::Refused { .. } => Next::GiveUp,
    }
}

#[cfg(test)]
mod protocol;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_retried_only_where_that_is_safe_and_of_use() {
        let refused = |status, about_account| Failure::Refused {
            status,
            about_account,
        };
        let limit = |status| refused(status, true);
        let own = |status| refused(status, false);
        // A failure, whether it is pinned, the attempts and the faults among them, seconds spent.
        let cases = [
            // Nothing was sent: anywhere else, or once more at home.
            (Failure::NotSent, false, (1, 1, 0), Next::Again),
            (Failure::NotSent, true, (1, 1, 0), Next::Again),
            (Failure::NotSent, false, (4, 4, 0), Next::Again),
            // It may have run.
            (Failure::Unanswered, false, (1, 1, 0), Next::GiveUp),
            (Failure::Unanswered, true, (1, 1, 0), Next::GiveUp),
            (Failure::Timeout, false, (1, 1, 0), Next::GiveUp),
            (Failure::Timeout, true, (1, 1, 0), Next::GiveUp),
            // The account's limit or credential: the next account, or home after its cooldown.
            (limit(429), false, (1, 0, 0), Next::Again),
            (limit(429), true, (1, 0, 0), Next::Again),
            (limit(429), false, (5, 0, 0), Next::Again),
            (limit(402), false, (1, 0, 0), Next::Again),
            (limit(401), false, (2, 0, 0), Next::Again),
            (limit(403), false, (1, 0, 0), Next::Again),
            // A server's fault: once more, elsewhere.
            (own(500), false, (1, 1, 0), Next::Again),
            (own(502), false, (1, 1, 0), Next::Again),
            (own(503), false, (1, 1, 0), Next::Again),
            (own(504), false, (1, 1, 0), Next::Again),
            (own(529), false, (1, 1, 0), Next::Again),
            (own(503), false, (3, 1, 0), Next::Again),
            (own(503), false, (2, 2, 0), Next::GiveUp),
            (own(503), true, (1, 1, 0), Next::GiveUp),
            // An address that leads elsewhere.
            (own(307), false, (3, 3, 0), Next::Again),
            (own(307), true, (1, 1, 0), Next::GiveUp),
            // An error in the request.
            (own(400), false, (1, 0, 0), Next::GiveUp),
            (own(403), false, (1, 0, 0), Next::GiveUp),
            (own(404), false, (1, 0, 0), Next::GiveUp),
            (own(408), false, (1, 0, 0), Next::GiveUp),
            (own(409), false, (1, 0, 0), Next::GiveUp),
            (own(415), false, (1, 0, 0), Next::GiveUp),
            (own(413), false, (1, 0, 0), Next::GiveUp),
            (own(422), false, (1, 0, 0), Next::GiveUp),
            // Both budgets end it.
            (limit(429), false, (limits::ATTEMPTS_MAX, 0, 0), Next::GiveUp),
            (limit(429), false, (1, 0, 59), Next::Again),
            (limit(429), false, (1, 0, 60), Next::GiveUp),
            (Failure::NotSent, true, (1, 1, 60), Next::GiveUp),
        ];
        for (failure, pinned, (attempts, faults, seconds), expected) in cases {
            let spent = Spent {
                attempts,
                faults,
                time: Duration::from_secs(seconds),
            };
            assert_eq!(
                next(failure, pinned, spent),
                expected,
                "{failure:?} {pinned} {spent:?}"
            );
        }
    }

    #[test]
    fn only_transport_and_servers_count_in_the_breaker() {
        let refused = |status| Failure::Refused {
            status,
            about_account: false,
        };
        for fault in [
            Failure::NotSent,
            Failure::Unanswered,
            Failure::Timeout,
            refused(500),
            refused(529),
        ] {
            assert!(fault.is_fault(), "{fault:?}");
        }
        for answer in [400, 401, 403, 404, 429] {
            assert!(!refused(answer).is_fault(), "{answer}");
        }
    }
}
