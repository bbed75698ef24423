//! The accounts now: who is usable, who is busy, whose turn it is.
//!
//! A lease is the right to run one attempt. It returns itself when it is dropped, so no place is
//! ever lost and none is freed twice, however an exchange ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::account::{Account, AccountId, Signal, Status, Usability};
use crate::affinity::{AccountView, Decision};

/// The accounts of a running gateway. Locked for moments only, never over an await.
#[derive(Debug)]
pub struct Pool {
    members: Mutex<Members>,
    freed: Notify,
}

#[derive(Debug)]
struct Members {
    list: Vec<Member>,
    /// The virtual time of the member that was chosen last. See [`Member::virtual_time`].
    virtual_time: u64,
}

#[derive(Debug)]
struct Member {
    account: Arc<Account>,
    status: Status,
    in_flight: u32,
    /// Rises by a step with every lease, by less the more weight the account has. Of two accounts
    /// with equal load the one that lags behind is next: the longest idle, in the share of its
    /// weight.
    virtual_time: u64,
}

/// One lease at weight 1, in virtual time.
const STRIDE: u64 = 1 << 20;

/// Why no lease is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoLease {
    /// There is no account at all.
    NoAccounts,
    /// All that may serve have been tried.
    Tried,
    /// All that may serve are limited; the first comes back then, in milliseconds since 1970 UTC.
    CoolingDown {
        /// Its name, where only this one may serve.
        account: Option<String>,
        /// When it comes back.
        until_ms: i64,
    },
    /// All that may serve run as many attempts as they may.
    Full {
        /// Its name, where only this one may serve.
        account: Option<String>,
    },
    /// None that may serve comes back by itself.
    Unavailable {
        /// Its name, where only this one may serve.
        account: Option<String>,
        /// Why.
        reason: String,
    },
}

impl Pool {
    /// A pool of these accounts, each as its stored status says.
    pub fn new(accounts: Vec<Account>) -> Arc<Pool> {
        let list = accounts.into_iter().map(|account| Member {
            status: account.status.clone(),
            account: Arc::new(account),
            in_flight: 0,
            virtual_time: 0,
        });
        Arc::new(Pool {
            members: Mutex::new(Members {
                list: list.collect(),
                virtual_time: 0,
            }),
            freed: Notify::new(),
        })
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // The members are whole between any two calls, whatever panicked in between.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the accounts look to the planner.
    pub fn view(&self, now_ms: i64) -> Vec<AccountView> {
        let view = |member: &Member| AccountView {
            id: member.account.id,
            state_domain: member.account.state_domain.clone(),
            usability: member.status.usability(now_ms),
        };
        self.members().list.iter().map(view).collect()
    }

    /// How many accounts there are.
    pub fn len(&self) -> usize {
        self.members().list.len()
    }

    /// Whether there is no account.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Leases an account as the decision says. Of those that may serve, one that was tried before
    /// is not taken again, unless the request is pinned to it.
    ///
    /// # Errors
    /// Why none is to be had.
    pub fn lease(
        self: &Arc<Self>,
        decision: &Decision,
        tried: &[AccountId],
        now_ms: i64,
    ) -> Result<Lease, NoLease> {
        let mut members = self.members();
        let chosen = members.choose(decision, tried, now_ms)?;
        let account = members.take(chosen);
        Ok(Lease {
            pool: self.clone(),
            account,
        })
    }

    /// Waits until a lease has been returned. Ask for it before trying for a lease, so that none
    /// that is returned in between is missed.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Takes note of what an upstream said about its account; gives the new status if it changed.
    pub fn note(&self, id: AccountId, signal: &Signal, now_ms: i64) -> Option<Status> {
        let mut members = self.members();
        let member = members.list.iter_mut().find(|member| member.account.id == id)?;
        let after = member.status.after(signal, now_ms);
        if after == member.status {
            return None;
        }
        member.status = after.clone();
        Some(after)
    }

    fn give_back(&self, id: AccountId) {
        if let Some(member) = self
            .members()
            .list
            .iter_mut()
            .find(|member| member.account.id == id)
        {
            member.in_flight = member.in_flight.saturating_sub(1);
        }
        self.freed.notify_waiters();
    }
}

impl Members {
    fn choose(&self, decision: &Decision, tried: &[AccountId], now_ms: i64) -> Result<usize, NoLease> {
        if self.list.is_empty() {
            return Err(NoLease::NoAccounts);
        }
        let position = |id: &AccountId| self.list.iter().position(|member| member.account.id == *id);
        let (candidates, pinned): (Vec<usize>, bool) = match decision {
            Decision::Pinned(ids) => (ids.iter().filter_map(position).collect(), true),
            Decision::Preferred(_) | Decision::Free => {
                let untried = |index: &usize| !tried.contains(&self.list[*index].account.id);
                ((0..self.list.len()).filter(untried).collect(), false)
            }
            Decision::OwnerGone(_) | Decision::Unknown => (Vec::new(), true),
        };
        let ready = |index: &usize| {
            let member = &self.list[*index];
            member.status.usability(now_ms) == Usability::Usable && member.has_room()
        };
        let untried = |index: &usize| !tried.contains(&self.list[*index].account.id);
        let first = match decision {
            Decision::Preferred(id) => position(id).filter(|index| candidates.contains(index)),
            _ => candidates.first().copied().filter(|_| pinned),
        };
        let all = || candidates.iter().copied();
        first
            .filter(|home| ready(home) && untried(home))
            .or_else(|| self.least_loaded(all().filter(|index| ready(index) && untried(index))))
            // A pinned request may ask again where it was refused: there is nowhere else.
            .or_else(|| all().find(ready).filter(|_| pinned))
            .ok_or_else(|| self.why_none(&candidates, pinned, now_ms))
    }

    fn least_loaded(&self, ready: impl Iterator<Item = usize>) -> Option<usize> {
        ready.min_by(|a, b| {
            let (a, b) = (&self.list[*a], &self.list[*b]);
            // in_flight / weight, without the division.
            let load_a = u64::from(a.in_flight) * u64::from(b.account.weight);
            let load_b = u64::from(b.in_flight) * u64::from(a.account.weight);
            load_a.cmp(&load_b).then(a.virtual_time.cmp(&b.virtual_time))
        })
    }

    fn why_none(&self, candidates: &[usize], pinned: bool, now_ms: i64) -> NoLease {
        let Some(first) = candidates.first().map(|index| &self.list[*index]) else {
            return NoLease::Tried;
        };
        let account = (pinned || self.list.len() == 1).then(|| first.account.name.clone());
        let members = || candidates.iter().map(|index| &self.list[*index]);
        if members().any(|member| member.status.usability(now_ms) == Usability::Usable) {
            return NoLease::Full { account };
        }
        let returns = members().filter_map(|member| match member.status.usability(now_ms) {
            Usability::UsableAt(until_ms) => Some(until_ms),
            _ => None,
        });
        match returns.min() {
            Some(until_ms) => NoLease::CoolingDown { account, until_ms },
            None => {
                let (word, _, reason) = first.status.columns();
                let reason = format!("{word}: {}", reason.unwrap_or("no reason given"));
                NoLease::Unavailable { account, reason }
            }
        }
    }

    fn take(&mut self, index: usize) -> Arc<Account> {
        let member = &mut self.list[index];
        // Who was away does not come back with a claim on all that it missed.
        let begin = member.virtual_time.max(self.virtual_time);
        self.virtual_time = begin;
        member.virtual_time = begin + STRIDE / u64::from(member.account.weight.max(1));
        member.in_flight += 1;
        member.account.clone()
    }
}

impl Member {
    fn has_room(&self) -> bool {
        self.account
            .max_concurrent
            .is_none_or(|most| self.in_flight < most)
    }
}

/// The right to run one attempt on an account.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    account: Arc<Account>,
}

impl Lease {
    /// The account.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.give_back(self.account.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Kind, Secret, StateDomain};
    use std::time::Duration;

    fn pool(weights: &[u32], max_concurrent: Option<u32>) -> Arc<Pool> {
        let account = |(index, weight): (usize, &u32)| Account {
            id: AccountId(index as i64 + 1),
            name: format!("account-{}", index + 1),
            kind: Kind::OpenAi,
            base_url: String::new(),
            state_domain: StateDomain(index.to_string()),
            weight: *weight,
            max_concurrent,
            secret: Secret::new("k").unwrap(),
            status: Status::Active,
        };
        Pool::new(weights.iter().enumerate().map(account).collect())
    }

    fn id(lease: &Lease) -> i64 {
        lease.account().id.0
    }

    fn limit(pool: &Pool, account: i64, seconds: u64) {
        let signal = Signal::RateLimited {
            code: "x".into(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        pool.note(AccountId(account), &signal, 0);
    }

    #[test]
    fn idle_accounts_take_turns_in_the_share_of_their_weights() {
        let pool = pool(&[1, 3], None);
        let mut counts = [0, 0];
        for _ in 0..40 {
            let lease = pool.lease(&Decision::Free, &[], 0).unwrap();
            counts[id(&lease) as usize - 1] += 1;
        }
        assert_eq!(counts, [10, 30]);
    }

    #[test]
    fn the_least_loaded_is_chosen_and_a_dropped_lease_returns() {
        let pool = pool(&[1, 1], None);
        let first = pool.lease(&Decision::Free, &[], 0).unwrap();
        let second = pool.lease(&Decision::Free, &[], 0).unwrap();
        assert_ne!(id(&first), id(&second));
        let idle = id(&first);
        drop(first);
        assert_eq!(id(&pool.lease(&Decision::Free, &[], 0).unwrap()), idle);
    }

    #[test]
    fn a_pin_is_never_given_up() {
        let pool = pool(&[1, 1], Some(1));
        let pin = Decision::Pinned(vec![AccountId(1)]);
        let lease = pool.lease(&pin, &[AccountId(1)], 0).unwrap();
        let account = Some("account-1".to_owned());
        assert_eq!(
            pool.lease(&pin, &[], 0).unwrap_err(),
            NoLease::Full {
                account: account.clone()
            }
        );
        drop(lease);
        limit(&pool, 1, 5);
        assert_eq!(
            pool.lease(&pin, &[], 0).unwrap_err(),
            NoLease::CoolingDown {
                account,
                until_ms: 5000
            }
        );
        assert!(pool.lease(&pin, &[], 5000).is_ok());
    }

    #[test]
    fn a_preference_yields_to_health_and_capacity() {
        let pool = pool(&[1, 1], Some(1));
        let preferred = Decision::Preferred(AccountId(2));
        let lease = pool.lease(&preferred, &[], 0).unwrap();
        assert_eq!(id(&lease), 2);
        assert_eq!(id(&pool.lease(&preferred, &[], 0).unwrap()), 1);
        drop(lease);
        limit(&pool, 2, 5);
        assert_eq!(id(&pool.lease(&preferred, &[], 0).unwrap()), 1);
        assert_eq!(id(&pool.lease(&preferred, &[], 6000).unwrap()), 2);
    }

    #[test]
    fn without_a_pin_no_account_is_tried_twice() {
        let pool = pool(&[1, 1], None);
        let tried = [AccountId(1)];
        assert_eq!(id(&pool.lease(&Decision::Free, &tried, 0).unwrap()), 2);
        let tried = [AccountId(1), AccountId(2)];
        assert_eq!(
            pool.lease(&Decision::Free, &tried, 0).unwrap_err(),
            NoLease::Tried
        );
    }

    #[test]
    fn when_all_are_limited_the_first_return_is_told() {
        let pool = pool(&[1, 1], None);
        limit(&pool, 1, 9);
        limit(&pool, 2, 4);
        let none = pool.lease(&Decision::Free, &[], 0).unwrap_err();
        assert_eq!(
            none,
            NoLease::CoolingDown {
                account: None,
                until_ms: 4000
            }
        );
    }

    #[test]
    fn an_account_that_was_away_does_not_get_everything_at_once() {
        let pool = pool(&[1, 1], None);
        limit(&pool, 2, 10);
        for _ in 0..100 {
            pool.lease(&Decision::Free, &[], 0).unwrap();
        }
        let after: Vec<i64> = (0..4)
            .map(|_| id(&pool.lease(&Decision::Free, &[], 20_000).unwrap()))
            .collect();
        assert_eq!(after.iter().filter(|id| **id == 2).count(), 2, "{after:?}");
    }
}
