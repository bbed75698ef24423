//! Which account an attempt gets: those that may serve, those that can now, and whose turn it is.

use std::sync::Arc;

use crate::account::{Account, AccountId, Switch, Usability};
use crate::affinity::Decision;

use super::rotation::{self, Turn};
use super::{Member, Members, NoLease, Wish};

impl Members {
    pub(super) fn get(&mut self, id: AccountId) -> Option<&mut Member> {
        self.list.iter_mut().find(|member| member.account.id == id)
    }

    /// The members that may serve, the first before the others if the request is pinned.
    pub(super) fn candidates(&self, wish: &Wish<'_>) -> (Vec<usize>, bool) {
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
    pub(super) fn untried(&self, wish: &Wish<'_>, home: Option<AccountId>) -> Vec<usize> {
        let may_serve = |index: &usize| {
            let account = &self.list[*index].account;
            let goes_on = home == Some(account.id) && !wish.begins;
            let has_model = !wish.without_model.contains(&account.id);
            has_model && !wish.tried.contains(&account.id) && (account.switch != Switch::Draining || goes_on)
        };
        (0..self.list.len()).filter(may_serve).collect()
    }

    pub(super) fn choose(&self, wish: &Wish<'_>, place: u64, now_ms: i64) -> Result<usize, NoLease> {
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
        let fresh = |index: &usize| untried(index) && !wish.refused.contains(&self.list[*index].account.id);
        let first = match wish.decision {
            Decision::Preferred(id) => candidates
                .iter()
                .copied()
                .find(|index| self.list[*index].account.id == *id),
            _ => candidates.first().copied().filter(|_| pinned),
        };
        let all = || candidates.iter().copied();
        first
            .filter(|home| ready(home) && fresh(home))
            .or_else(|| self.next_of(all().filter(|index| ready(index) && fresh(index))))
            .or_else(|| self.next_of(all().filter(|index| ready(index) && untried(index))))
            // A pinned request may ask again where it was refused: there is nowhere else.
            .or_else(|| all().find(ready).filter(|_| pinned))
            .ok_or_else(|| self.why_none(wish, &candidates, pinned, now_ms))
    }

    /// Whether one who came before could take a place on this member. A place that is bound by
    /// nothing is nobody's to wait for.
    pub(super) fn is_waited_for(&self, member: &Member, place: u64, now_ms: i64) -> bool {
        member.account.max_concurrent.is_some()
            && self.line.iter().any(|before| {
                before.ticket < place
                    && before.candidates.contains(&member.account.id)
                    && member.usability(before.model.as_deref(), now_ms) == Usability::Usable
            })
    }

    pub(super) fn next_of(&self, ready: impl Iterator<Item = usize>) -> Option<usize> {
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

    pub(super) fn why_none(
        &self,
        wish: &Wish<'_>,
        candidates: &[usize],
        pinned: bool,
        now_ms: i64,
    ) -> NoLease {
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

    pub(super) fn take(&mut self, index: usize) -> (Arc<Account>, bool) {
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
