//! What to do after an attempt failed: a plain function over the failure and what it cost so far.

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

/// Decides. `attempts` counts those made, this one included; `pinned` says that only the accounts
/// of one state domain may serve, where the caller plans again among them.
pub fn next(failure: Failure, pinned: bool, attempts: u32) -> Next {
    if attempts >= limits::ATTEMPTS_MAX {
        return Next::GiveUp;
    }
    match failure {
        Failure::NotSent => Next::Again,
        // It may have run, and been paid for.
        Failure::Unanswered | Failure::Timeout => Next::GiveUp,
        Failure::Refused {
            about_account: true, ..
        } => Next::Again,
        // A server's fault: once more, elsewhere. Where it is pinned, the client retries in its own time.
        Failure::Refused {
            status: 500 | 502 | 503 | 504 | 529,
            ..
        } if attempts == 1 && !pinned => Next::Again,
        Failure::Refused { .. } => Next::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_retried_only_where_that_is_safe_and_of_use() {
        let refused = |status, about_account| Failure::Refused {
            status,
            about_account,
        };
        let cases = [
            (Failure::NotSent, false, 1, Next::Again),
            (Failure::NotSent, true, 1, Next::Again),
            (Failure::Unanswered, false, 1, Next::GiveUp),
            (Failure::Timeout, false, 1, Next::GiveUp),
            (refused(429, true), false, 1, Next::Again),
            (refused(429, true), true, 1, Next::Again),
            (refused(401, true), false, 2, Next::Again),
            (refused(503, false), false, 1, Next::Again),
            (refused(503, false), false, 2, Next::GiveUp),
            (refused(503, false), true, 1, Next::GiveUp),
            (refused(400, false), false, 1, Next::GiveUp),
            (refused(404, false), false, 1, Next::GiveUp),
            (refused(413, false), false, 1, Next::GiveUp),
            (refused(422, false), false, 1, Next::GiveUp),
            (refused(429, true), false, limits::ATTEMPTS_MAX, Next::GiveUp),
        ];
        for (failure, pinned, attempts, expected) in cases {
            assert_eq!(
                next(failure, pinned, attempts),
                expected,
                "{failure:?} {pinned} {attempts}"
            );
        }
    }
}
