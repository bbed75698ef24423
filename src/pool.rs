//! The accounts now: who is usable, who is busy, whose turn it is, and who waits.
//!
//! A lease is the right to run one attempt. It returns itself when it is dropped, so no place is
//! ever lost and none is freed twice, however an exchange ends. Whoever finds no free place may
//! wait in line with a [`Ticket`]: nobody who came later takes a place that one before could use.

mod rotation;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::account::{Account, AccountId, Signal, Standing, Switch, Usability};
use crate::affinity::{AccountView, Decision};
use crate::breaker::Breaker;
use crate::limits;
use crate::quota::Quota;

pub use rotation::Rotation;
use rotation::Turn;

/// The accounts of a running gateway. Locked for moments only, never over an await.
#[derive(Debug)]
pub struct Pool {
    members: Mutex<Members>,
    freed: Notify,
}

#[derive(Debug)]
struct Members {
    list: Vec<Member>,
    rotation: Rotation,
    /// The virtual time of the member that was chosen last. See [`Turn`].
    virtual_time: u64,
    /// Those who wait for a place, in the order in which they came.
    line: Vec<Waiting>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Member {
    account: Arc<Account>,
    standing: Standing,
    /// The number of the last change of the standing.
    sequence: i64,
    breaker: Breaker,
    quota: Quota,
    in_flight: u32,
    /// Rises with every lease. See [`Turn`].
    virtual_time: u64,
    /// What is not written down yet.
    unsaved: Unsaved,
}

#[derive(Debug, Default, Clone, Copy)]
struct Unsaved {
    rotation: bool,
    quota: bool,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    candidates: Vec<AccountId>,
    model: Option<String>,
}

/// An account as it was left: what a pool begins with.
#[derive(Debug, Clone)]
pub struct Known {
    /// The account.
    pub account: Account,
    /// Where it stood.
    pub standing: Standing,
    /// The number of the last change of the standing.
    pub sequence: i64,
    /// What was known of its quota.
    pub quota: Quota,
    /// Whose turn it was.
    pub rotation: u64,
}

/// What a request wants.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Where it is to go.
    pub decision: &'a Decision,
    /// Those that were tried before.
    pub tried: &'a [AccountId],
    /// The model that it names.
    pub model: Option<&'a str>,
    /// Those that do not have it, while others do.
    pub without_model: &'a [AccountId],
    /// Whether a new conversation begins: that is not for a draining account.
    pub begins: bool,
}

/// A new standing, to be written down.
#[derive(Debug, Clone)]
pub struct Changed {
    /// Whose it is.
    pub account: AccountId,
    /// The account's revision that it belongs to.
    pub revision: i64,
    /// Rises with every change of the account.
    pub sequence: i64,
    /// The standing.
    pub standing: Standing,
}

/// What has changed of an account since it was last written down, but for its standing.
#[derive(Debug, Clone)]
pub struct ToSave {
    /// Whose it is.
    pub account: AccountId,
    /// Whose turn it is.
    pub rotation: Option<u64>,
    /// What its upstream said about its quota.
    pub quota: Option<Quota>,
}

/// An account at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountNow {
    /// Its name.
    pub name: String,
    /// Attempts that run on it.
    pub in_flight: u32,
    /// When it comes back, if it is limited, in milliseconds since 1970 UTC.
    pub usable_at_ms: Option<i64>,
}

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
    /// All that may serve run as many attempts as they may, or others are before in line.
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
    /// A pool of these accounts, each as it was left.
    pub fn new(accounts: Vec<Known>, rotation: Rotation) -> Arc<Pool> {
        let list: Vec<Member> = accounts.into_iter().map(Member::new).collect();
        let latest = list.iter().map(|member| member.virtual_time).max().unwrap_or(0);
        Arc::new(Pool {
            members: Mutex::new(Members {
                list,
                rotation,
                virtual_time: latest.saturating_sub(rotation::STRIDE),
                line: Vec::new(),
                next_ticket: 0,
            }),
            freed: Notify::new(),
        })
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // The members are whole between any two calls, whatever panicked in between.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes these accounts instead of those before. One that stays keeps its running attempts and,
    /// unless a person has given it another chance since, its standing.
    pub fn replace(&self, accounts: Vec<Known>) {
        let mut members = self.members();
        let mut before = std::mem::take(&mut members.list);
        for known in accounts {
            let position = before
                .iter()
                .position(|member| member.account.id == known.account.id);
            let member = match position.map(|index| before.swap_remove(index)) {
                None => Member {
                    // Who is new does not get everything until it has caught up.
                    virtual_time: known.rotation.max(members.virtual_time),
                    ..Member::new(known)
                },
                Some(member) if member.account.revision == known.account.revision => Member {
                    account: Arc::new(known.account),
                    ..member
                },
                Some(member) => Member {
                    account: Arc::new(known.account),
                    standing: known.standing,
                    sequence: member.sequence.max(known.sequence),
                    breaker: Breaker::default(),
                    ..member
                },
            };
            members.list.push(member);
        }
        drop(members);
        self.freed.notify_waiters();
    }

    /// How the accounts look to the planner, for a request that names a model.
    pub fn view(&self, model: Option<&str>, now_ms: i64) -> Vec<AccountView> {
        let view = |member: &Member| AccountView {
            account: member.account.clone(),
            usability: member.standing.usability(member.account.switch, model, now_ms),
            offers_model: None,
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

    /// The accounts and how busy they are.
    pub fn now(&self, now_ms: i64) -> Vec<AccountNow> {
        let now = |member: &Member| AccountNow {
            name: member.account.name.clone(),
            in_flight: member.in_flight,
            usable_at_ms: match member.standing.usability(member.account.switch, None, now_ms) {
                Usability::UsableAt(ms) => Some(ms),
                _ => None,
            },
        };
        self.members().list.iter().map(now).collect()
    }

    /// Leases an account as the wish says. Of those that may serve, one that was tried before is
    /// not taken again, unless the request is pinned to it. With a ticket, those who came later are
    /// not waited for.
    ///
    /// # Errors
    /// Why none is to be had.
    pub fn lease(
        self: &Arc<Self>,
        wish: &Wish<'_>,
        ticket: Option<&Ticket>,
        now_ms: i64,
    ) -> Result<Lease, NoLease> {
        let mut members = self.members();
        let place = ticket.map_or(members.next_ticket, |ticket| ticket.number);
        let chosen = members.choose(wish, place, now_ms)?;
        let (account, is_probe) = members.take(chosen);
        Ok(Lease {
            pool: self.clone(),
            account,
            is_probe,
        })
    }

    /// Waits in line for a place on one of the accounts that may serve. Nothing if the line is as
    /// long as it may be.
    pub fn stand_in_line(self: &Arc<Self>, wish: &Wish<'_>) -> Option<Ticket> {
        let mut members = self.members();
        if members.line.len() >= limits::QUEUE_MAX {
            return None;
        }
        let (candidates, _) = members.candidates(wish);
        let candidates = candidates.into_iter().map(|index| members.list[index].account.id);
        let candidates = candidates.collect();
        let number = members.next_ticket;
        members.next_ticket += 1;
        members.line.push(Waiting {
            ticket: number,
            candidates,
            model: wish.model.map(str::to_owned),
        });
        Some(Ticket {
            pool: self.clone(),
            number,
        })
    }

    /// Waits until something has changed: a lease was returned, the line has moved, or the accounts
    /// are others. Ask for it before trying for a lease, so that nothing in between is missed.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Takes note of what an upstream said about its account; gives the new standing if it changed.
    pub fn note(&self, id: AccountId, signal: &Signal, now_ms: i64) -> Option<Changed> {
        self.members().get(id)?.note(signal, now_ms)
    }

    /// Takes note of an answer, whatever it said: the way to the account and its server work.
    pub fn answered(&self, id: AccountId) {
        let mut members = self.members();
        if let Some(member) = members.get(id)
            && member.breaker.answered()
        {
            tracing::info!(account = member.account.name, "account answers again");
        }
    }

    /// Takes note of a fault of transport or server. It never changes where the account stands.
    pub fn fault(&self, id: AccountId, now_ms: i64) {
        let mut members = self.members();
        if let Some(member) = members.get(id)
            && member.breaker.fault(now_ms)
        {
            tracing::warn!(
                account = member.account.name,
                "account fails time after time; it is left alone for a moment"
            );
        }
    }

    /// Takes note of what an upstream said about its quota. A plan's window that is used up keeps
    /// requests away until it begins anew; gives the new standing then.
    pub fn note_quota(&self, id: AccountId, quota: Quota, now_ms: i64) -> Option<Changed> {
        if quota.windows.is_empty() {
            return None;
        }
        let mut members = self.members();
        let member = members.get(id)?;
        member.unsaved.quota |= member.quota.update(quota);
        let signal = Signal::QuotaExhausted {
            code: "usage_limit_reached".to_owned(),
            retry_after: Some(member.quota.used_up(now_ms)?),
        };
        member.note(&signal, now_ms)
    }

    /// What has changed since the last call and is not written down.
    pub fn to_save(&self) -> Vec<ToSave> {
        let mut members = self.members();
        let changed = members.list.iter_mut().filter_map(|member| {
            let unsaved = std::mem::take(&mut member.unsaved);
            (unsaved.rotation || unsaved.quota).then(|| ToSave {
                account: member.account.id,
                rotation: unsaved.rotation.then_some(member.virtual_time),
                quota: unsaved.quota.then(|| member.quota.clone()),
            })
        });
        changed.collect()
    }

    fn give_back(&self, id: AccountId, is_probe: bool) {
        if let Some(member) = self.members().get(id) {
            member.in_flight = member.in_flight.saturating_sub(1);
            if is_probe {
                member.breaker.probe_ended();
            }
        }
        self.freed.notify_waiters();
    }
}

impl Members {
    fn get(&mut self, id: AccountId) -> Option<&mut Member> {
        self.list.iter_mut().find(|member| member.account.id == id)
    }

    /// The members that may serve, the first before the others if the request is pinned.
    fn candidates(&self, wish: &Wish<'_>) -> (Vec<usize>, bool) {
        let position = |id: &AccountId| self.list.iter().position(|member| member.account.id == *id);
        match wish.decision {
            Decision::Pinned(ids) => (ids.iter().filter_map(position).collect(), true),
            Decision::Preferred(home) => (self.untried(wish, Some(*home)), false),
            Decision::Free => (self.untried(wish, None), false),
            Decision::OwnerGone(_) | Decision::Unknown(_) | Decision::Conflict(..) => (Vec::new(), true),
        }
    }

    /// Those that a request may be sent to that is not pinned: on a draining account only what
    /// lives there goes on.
    fn untried(&self, wish: &Wish<'_>, home: Option<AccountId>) -> Vec<usize> {
        let may_serve = |index: &usize| {
            let account = &self.list[*index].account;
            let goes_on = home == Some(account.id) && !wish.begins;
            let has_model = !wish.without_model.contains(&account.id);
            has_model && !wish.tried.contains(&account.id) && (account.switch != Switch::Draining || goes_on)
        };
        (0..self.list.len()).filter(may_serve).collect()
    }

    fn choose(&self, wish: &Wish<'_>, place: u64, now_ms: i64) -> Result<usize, NoLease> {
        if self.list.is_empty() {
            return Err(NoLease::NoAccounts);
        }
        let (candidates, pinned) = self.candidates(wish);
        let ready = |index: &usize| {
            let member = &self.list[*index];
            member.usability(wish.model, now_ms) == Usability::Usable
                && member.has_room()
                && !self.is_waited_for(member, place, now_ms)
        };
        let untried = |index: &usize| !wish.tried.contains(&self.list[*index].account.id);
        let first = match wish.decision {
            Decision::Preferred(id) => candidates
                .iter()
                .copied()
                .find(|index| self.list[*index].account.id == *id),
            _ => candidates.first().copied().filter(|_| pinned),
        };
        let all = || candidates.iter().copied();
        first
            .filter(|home| ready(home) && untried(home))
            .or_else(|| self.next_of(all().filter(|index| ready(index) && untried(index))))
            // A pinned request may ask again where it was refused: there is nowhere else.
            .or_else(|| all().find(ready).filter(|_| pinned))
            .ok_or_else(|| self.why_none(wish, &candidates, pinned, now_ms))
    }

    /// Whether one who came before could take a place on this member. A place that is bound by
    /// nothing is nobody's to wait for.
    fn is_waited_for(&self, member: &Member, place: u64, now_ms: i64) -> bool {
        member.account.max_concurrent.is_some()
            && self.line.iter().any(|before| {
                before.ticket < place
                    && before.candidates.contains(&member.account.id)
                    && member.usability(before.model.as_deref(), now_ms) == Usability::Usable
            })
    }

    fn next_of(&self, ready: impl Iterator<Item = usize>) -> Option<usize> {
        ready.min_by(|a, b| {
            let turn = |index: usize| {
                let member = &self.list[index];
                Turn {
                    position: index,
                    priority: member.account.priority,
                    weight: member.account.weight,
                    in_flight: member.in_flight,
                    virtual_time: member.virtual_time,
                }
            };
            self.rotation.compare(&turn(*a), &turn(*b))
        })
    }

    fn why_none(&self, wish: &Wish<'_>, candidates: &[usize], pinned: bool, now_ms: i64) -> NoLease {
        let members = || candidates.iter().map(|index| &self.list[*index]);
        let Some(first) = members().next() else {
            let is_draining = |member: &Member| member.account.switch == Switch::Draining;
            return match !pinned && wish.tried.is_empty() && self.list.iter().all(is_draining) {
                true => NoLease::Unavailable {
                    account: None,
                    reason: "draining: no new conversation begins".to_owned(),
                },
                false => NoLease::Tried,
            };
        };
        let account = (pinned || self.list.len() == 1).then(|| first.account.name.clone());
        if members().any(|member| member.usability(wish.model, now_ms) == Usability::Usable) {
            return NoLease::Full { account };
        }
        let returns = members().filter_map(|member| match member.usability(wish.model, now_ms) {
            Usability::UsableAt(until_ms) => Some(until_ms),
            _ => None,
        });
        match returns.min() {
            Some(until_ms) => NoLease::CoolingDown { account, until_ms },
            None => NoLease::Unavailable {
                account,
                reason: first.reason(now_ms),
            },
        }
    }

    fn take(&mut self, index: usize) -> (Arc<Account>, bool) {
        let member = &mut self.list[index];
        // Who was away does not come back with a claim on all that it missed.
        let begin = member.virtual_time.max(self.virtual_time);
        self.virtual_time = begin;
        member.virtual_time = begin + rotation::STRIDE / u64::from(member.account.weight.max(1));
        member.unsaved.rotation = true;
        member.in_flight += 1;
        (member.account.clone(), member.breaker.begin())
    }
}

impl Member {
    fn new(known: Known) -> Member {
        Member {
            account: Arc::new(known.account),
            standing: known.standing,
            sequence: known.sequence,
            breaker: Breaker::default(),
            quota: known.quota,
            in_flight: 0,
            virtual_time: known.rotation,
            unsaved: Unsaved::default(),
        }
    }

    fn usability(&self, model: Option<&str>, now_ms: i64) -> Usability {
        self.standing
            .usability(self.account.switch, model, now_ms)
            .and(self.breaker.usability(now_ms))
    }

    fn has_room(&self) -> bool {
        self.account
            .max_concurrent
            .is_none_or(|most| self.in_flight < most)
    }

    fn note(&mut self, signal: &Signal, now_ms: i64) -> Option<Changed> {
        let after = self.standing.after(signal, now_ms);
        if after == self.standing {
            return None;
        }
        self.standing = after.clone();
        self.sequence += 1;
        Some(Changed {
            account: self.account.id,
            revision: self.account.revision,
            sequence: self.sequence,
            standing: after,
        })
    }

    fn reason(&self, now_ms: i64) -> String {
        let word = self.standing.word(self.account.switch, now_ms);
        match (self.account.switch, self.standing.status.columns().2) {
            (Switch::Off, _) => format!("{word} by the operator"),
            (_, Some(reason)) => format!("{word}: {reason}"),
            (_, None) => word.to_owned(),
        }
    }
}

/// The right to run one attempt on an account.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    account: Arc<Account>,
    is_probe: bool,
}

impl Lease {
    /// The account.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.give_back(self.account.id, self.is_probe);
    }
}

/// A place in the line of those who wait. Given up when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    pool: Arc<Pool>,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.pool
            .members()
            .line
            .retain(|waiting| waiting.ticket != self.number);
        self.pool.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Credential, Kind, Secret, StateDomain};
    use std::time::Duration;

    fn known(id: i64, weight: u32, max_concurrent: Option<u32>) -> Known {
        Known {
            account: Account {
                id: AccountId(id),
                name: format!("account-{id}"),
                kind: Kind::OpenAi,
                base_url: String::new(),
                state_domain: StateDomain(id.to_string()),
                weight,
                priority: 0,
                max_concurrent,
                credential: Credential::Key(Secret::new("k").unwrap()),
                switch: Switch::On,
                revision: 0,
            },
            standing: Standing::active(),
            sequence: 0,
            quota: Quota::default(),
            rotation: 0,
        }
    }

    fn knowns(weights: &[u32], max_concurrent: Option<u32>) -> Vec<Known> {
        let ids = 1..;
        ids.zip(weights)
            .map(|(id, weight)| known(id, *weight, max_concurrent))
            .collect()
    }

    fn pool(weights: &[u32], max_concurrent: Option<u32>) -> Arc<Pool> {
        Pool::new(knowns(weights, max_concurrent), Rotation::LeastLoaded)
    }

    fn wish<'a>(decision: &'a Decision, tried: &'a [AccountId]) -> Wish<'a> {
        Wish {
            without_model: &[],
            decision,
            tried,
            model: Some("m"),
            begins: true,
        }
    }

    fn lease(pool: &Arc<Pool>, decision: &Decision, now_ms: i64) -> Result<Lease, NoLease> {
        pool.lease(&wish(decision, &[]), None, now_ms)
    }

    fn id(lease: &Lease) -> i64 {
        lease.account().id.0
    }

    fn limit(pool: &Pool, account: i64, seconds: u64) {
        let signal = Signal::RateLimited {
            code: "x".into(),
            retry_after: Some(Duration::from_secs(seconds)),
            model: None,
        };
        pool.note(AccountId(account), &signal, 0);
    }

    #[test]
    fn idle_accounts_take_turns_in_the_share_of_their_weights() {
        let pool = pool(&[1, 3], None);
        let mut counts = [0, 0];
        for _ in 0..40 {
            let held = lease(&pool, &Decision::Free, 0).unwrap();
            counts[id(&held) as usize - 1] += 1;
        }
        assert_eq!(counts, [10, 30]);
    }

    #[test]
    fn the_least_loaded_is_chosen_and_a_dropped_lease_returns() {
        let pool = pool(&[1, 1], None);
        let first = lease(&pool, &Decision::Free, 0).unwrap();
        let second = lease(&pool, &Decision::Free, 0).unwrap();
        assert_ne!(id(&first), id(&second));
        let idle = id(&first);
        drop(first);
        assert_eq!(id(&lease(&pool, &Decision::Free, 0).unwrap()), idle);
    }

    #[test]
    fn a_pin_is_never_given_up() {
        let pool = pool(&[1, 1], Some(1));
        let pin = Decision::Pinned(vec![AccountId(1)]);
        let held = pool.lease(&wish(&pin, &[AccountId(1)]), None, 0).unwrap();
        let account = Some("account-1".to_owned());
        assert_eq!(
            lease(&pool, &pin, 0).unwrap_err(),
            NoLease::Full {
                account: account.clone()
            }
        );
        drop(held);
        limit(&pool, 1, 5);
        assert_eq!(
            lease(&pool, &pin, 0).unwrap_err(),
            NoLease::CoolingDown {
                account,
                until_ms: 5000
            }
        );
        assert!(lease(&pool, &pin, 5000).is_ok());
    }

    #[test]
    fn a_preference_yields_to_health_and_capacity() {
        let pool = pool(&[1, 1], Some(1));
        let preferred = Decision::Preferred(AccountId(2));
        let held = lease(&pool, &preferred, 0).unwrap();
        assert_eq!(id(&held), 2);
        assert_eq!(id(&lease(&pool, &preferred, 0).unwrap()), 1);
        drop(held);
        limit(&pool, 2, 5);
        assert_eq!(id(&lease(&pool, &preferred, 0).unwrap()), 1);
        assert_eq!(id(&lease(&pool, &preferred, 6000).unwrap()), 2);
    }

    #[test]
    fn without_a_pin_no_account_is_tried_twice() {
        let pool = pool(&[1, 1], None);
        let tried = [AccountId(1)];
        assert_eq!(
            id(&pool.lease(&wish(&Decision::Free, &tried), None, 0).unwrap()),
            2
        );
        let tried = [AccountId(1), AccountId(2)];
        assert_eq!(
            pool.lease(&wish(&Decision::Free, &tried), None, 0).unwrap_err(),
            NoLease::Tried
        );
    }

    #[test]
    fn when_all_are_limited_the_first_return_is_told() {
        let pool = pool(&[1, 1], None);
        limit(&pool, 1, 9);
        limit(&pool, 2, 4);
        let none = lease(&pool, &Decision::Free, 0).unwrap_err();
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
            lease(&pool, &Decision::Free, 0).unwrap();
        }
        let after: Vec<i64> = (0..4)
            .map(|_| id(&lease(&pool, &Decision::Free, 20_000).unwrap()))
            .collect();
        assert_eq!(after.iter().filter(|id| **id == 2).count(), 2, "{after:?}");
    }

    #[test]
    fn one_models_limit_keeps_no_other_model_away() {
        let pool = pool(&[1], None);
        let signal = Signal::RateLimited {
            code: "x".into(),
            retry_after: Some(Duration::from_secs(5)),
            model: Some("m".into()),
        };
        let changed = pool.note(AccountId(1), &signal, 0).unwrap();
        assert_eq!((changed.sequence, changed.standing.limited_models.len()), (1, 1));
        assert!(matches!(
            lease(&pool, &Decision::Free, 0),
            Err(NoLease::CoolingDown { .. })
        ));
        let other = Wish {
            model: Some("n"),
            ..wish(&Decision::Free, &[])
        };
        assert!(pool.lease(&other, None, 0).is_ok());
        assert!(lease(&pool, &Decision::Free, 5000).is_ok());
    }

    #[test]
    fn on_a_draining_account_what_lives_there_goes_on_and_nothing_begins() {
        let mut accounts = knowns(&[1, 1], None);
        accounts[0].account.switch = Switch::Draining;
        let pool = Pool::new(accounts, Rotation::LeastLoaded);
        for _ in 0..4 {
            assert_eq!(id(&lease(&pool, &Decision::Free, 0).unwrap()), 2);
        }
        let preferred = Decision::Preferred(AccountId(1));
        assert_eq!(id(&lease(&pool, &preferred, 0).unwrap()), 2);
        let goes_on = Wish {
            begins: false,
            ..wish(&preferred, &[])
        };
        assert_eq!(id(&pool.lease(&goes_on, None, 0).unwrap()), 1);
        let pin = Decision::Pinned(vec![AccountId(1)]);
        assert_eq!(id(&lease(&pool, &pin, 0).unwrap()), 1);
        let detour = Decision::Preferred(AccountId(2));
        limit(&pool, 2, 5);
        let goes_on = Wish {
            begins: false,
            ..wish(&detour, &[])
        };
        assert!(pool.lease(&goes_on, None, 0).is_err());
    }

    #[test]
    fn whoever_stands_in_line_is_not_overtaken() {
        let pool = pool(&[1], Some(1));
        let held = lease(&pool, &Decision::Free, 0).unwrap();
        let want = wish(&Decision::Free, &[]);
        let first = pool.stand_in_line(&want).unwrap();
        let second = pool.stand_in_line(&want).unwrap();
        drop(held);
        assert!(pool.lease(&want, None, 0).is_err(), "who came last");
        assert!(pool.lease(&want, Some(&second), 0).is_err());
        let held = pool.lease(&want, Some(&first), 0).unwrap();
        drop(first);
        drop(held);
        assert!(pool.lease(&want, None, 0).is_err());
        // Who gives up waiting is in nobody's way.
        drop(second);
        assert!(pool.lease(&want, None, 0).is_ok());
    }

    #[test]
    fn the_line_is_bounded() {
        let pool = pool(&[1], Some(1));
        let want = wish(&Decision::Free, &[]);
        let tickets: Vec<_> = (0..limits::QUEUE_MAX)
            .map(|_| pool.stand_in_line(&want))
            .collect();
        assert!(tickets.iter().all(Option::is_some));
        assert!(pool.stand_in_line(&want).is_none());
    }

    #[test]
    fn faults_in_a_row_keep_requests_away_for_a_moment_and_change_no_standing() {
        let pool = pool(&[1, 1], None);
        for _ in 0..limits::BREAKER_FAULTS {
            pool.fault(AccountId(1), 0);
        }
        for _ in 0..4 {
            assert_eq!(id(&lease(&pool, &Decision::Free, 0).unwrap()), 2);
        }
        let pin = Decision::Pinned(vec![AccountId(1)]);
        assert!(
            matches!(lease(&pool, &pin, 0), Err(NoLease::CoolingDown { until_ms, .. })
            if until_ms == limits::BREAKER_OPEN_MS)
        );
        // One request probes; the next waits for what it finds.
        let after = limits::BREAKER_OPEN_MS;
        let probe = lease(&pool, &pin, after).unwrap();
        assert!(lease(&pool, &pin, after).is_err());
        drop(probe);
        let _probe = lease(&pool, &pin, after).unwrap();
        pool.answered(AccountId(1));
        assert!(lease(&pool, &pin, after).is_ok());
    }

    #[test]
    fn other_accounts_take_their_places_while_attempts_run() {
        let pool = pool(&[1, 1], Some(1));
        limit(&pool, 1, 50);
        let held = lease(&pool, &Decision::Free, 0).unwrap();
        assert_eq!(id(&held), 2);
        let mut accounts = knowns(&[1, 1, 1], Some(1));
        // A person has given the first another chance; the second is gone.
        accounts[0].account.revision = 1;
        accounts.remove(1);
        pool.replace(accounts);
        assert_eq!(pool.len(), 2);
        drop(held);
        let ids = [0, 0].map(|now| lease(&pool, &Decision::Free, now));
        let mut ids: Vec<i64> = ids.iter().map(|lease| id(lease.as_ref().unwrap())).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 3]);
    }

    #[test]
    fn the_order_of_turns_is_kept_over_a_restart() {
        let first = pool(&[1, 1, 1], None);
        for _ in 0..2 {
            lease(&first, &Decision::Free, 0).unwrap();
        }
        let mut accounts = knowns(&[1, 1, 1], None);
        for saved in first.to_save() {
            let account = accounts
                .iter_mut()
                .find(|known| known.account.id == saved.account);
            account.unwrap().rotation = saved.rotation.unwrap();
        }
        assert!(first.to_save().is_empty());
        let second = Pool::new(accounts, Rotation::LeastLoaded);
        assert_eq!(id(&lease(&second, &Decision::Free, 0).unwrap()), 3);
    }
}
