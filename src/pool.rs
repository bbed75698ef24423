//! The accounts now: who is usable, who is busy, whose turn it is, and who waits.
//!
//! A lease is the right to run one attempt. It returns itself when it is dropped, so no place is
//! ever lost and none is freed twice, however an exchange ends. Whoever finds no free place may
//! wait in line with a [`Ticket`]: nobody who came later takes a place that one before could use.

mod choice;
mod rotation;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::account::{Account, AccountId, Signal, Standing, Status, Switch, Usability};
use crate::affinity::{AccountView, Accounts, Decision, Gone};
use crate::breaker::Breaker;
use crate::limits;
use crate::quota::Quota;

pub use rotation::Rotation;

/// The accounts of a running gateway. Locked for moments only, never over an await.
#[derive(Debug)]
pub struct Pool {
    members: Mutex<Members>,
    freed: Notify,
}

#[derive(Debug)]
struct Members {
    list: Vec<Member>,
    /// Those that were removed.
    gone: Arc<[Gone]>,
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
    /// Those that have refused it because they are limited: they are asked again when that is over, and
    /// no other can.
    pub refused: &'a [AccountId],
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
    /// Where it stands, as a word.
    pub status: &'static str,
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
    /// A pool of these accounts, each as it was left; `gone` are those that were removed.
    pub fn new(accounts: Vec<Known>, gone: Vec<Gone>, rotation: Rotation) -> Arc<Pool> {
        let list: Vec<Member> = accounts.into_iter().map(Member::new).collect();
        let latest = list.iter().map(|member| member.virtual_time).max().unwrap_or(0);
        Arc::new(Pool {
            members: Mutex::new(Members {
                list,
                gone: gone.into(),
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
    pub fn replace(&self, accounts: Vec<Known>, gone: Vec<Gone>) {
        let mut members = self.members();
        members.gone = gone.into();
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
    pub fn view(&self, model: Option<&str>, now_ms: i64) -> Accounts {
        let view = |member: &Member| AccountView {
            account: member.account.clone(),
            usability: member.standing.usability(member.account.switch, model, now_ms),
            offers_model: None,
        };
        let members = self.members();
        Accounts {
            here: members.list.iter().map(view).collect(),
            gone: members.gone.clone(),
        }
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
            status: member.standing.word(member.account.switch, now_ms),
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

    /// The accounts whose credential was refused, but for those that a person has switched off.
    pub fn expired(&self) -> Vec<Arc<Account>> {
        let members = self.members();
        let expired = members.list.iter().filter(|member| {
            matches!(member.standing.status, Status::Expired { .. }) && member.account.switch != Switch::Off
        });
        expired.map(|member| member.account.clone()).collect()
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
mod tests;
