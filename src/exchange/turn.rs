//! The attempts of one exchange: what is planned, leased and tried, and what comes after a failure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;

use crate::account::AccountId;
use crate::affinity::{self, Decision, Plan, Terms};
use crate::clock::now_ms;
use crate::error::Error;
use crate::limits;
use crate::pool::{Lease, NoLease, Ticket, Wish};
use crate::request::Envelope;
use crate::request::endpoint::Role;
use crate::response::refusal::{LOST, MODEL_NOT_FOUND};
use crate::retry::{self, Next, Spent};
use crate::store::Work;
use crate::store::requests::Affinity;

use super::attempt::{self, Attempt, Failed};
use super::reader::Reads;
use super::record::Record;
use super::references::{self, Located};
use super::way::Setting;
use super::{Content, Gateway, Question, asking, standing_row};

/// The attempts of one exchange.
pub(super) struct Turn<'a> {
    pub(super) gateway: &'a Arc<Gateway>,
    pub(super) question: &'a Question,
    pub(super) envelope: &'a Envelope,
    pub(super) located: &'a mut Located,
    pub(super) terms: Terms,
    /// Whether a new conversation begins.
    pub(super) begins: bool,
    /// Whether who asks may not see what the upstream says about its quota.
    pub(super) hides_quota: bool,
    pub(super) began: Instant,
    /// Attempts that failed by a fault of transport or server.
    pub(super) faults: u32,
    pub(super) tried: Vec<AccountId>,
    /// Those that have refused because they are limited.
    pub(super) refused: Vec<AccountId>,
    pub(super) waited: Duration,
    /// What the last attempt that failed would tell the client.
    pub(super) last: Option<Failed>,
}

impl Turn<'_> {
    /// Tries accounts until the answer of one can be passed on.
    pub(super) async fn attempts(
        &mut self,
        setting: Setting<'_>,
        record: &mut Record,
    ) -> Result<(Attempt, Plan), Error> {
        loop {
            let planned = self.plan(record).await?;
            let lease = match self.lease(&planned, record).await {
                Ok(Some(lease)) => lease,
                Ok(None) => return Ok((self.give_up(&planned, record)?, planned)),
                // What only the owner can read is left out, and the request goes elsewhere.
                Err(_) if planned.yields() => {
                    self.terms.without_reasoning = true;
                    continue;
                }
                // What an account answered says more than that no other can be asked.
                Err(_) if self.has_answer() => return Ok((self.give_up(&planned, record)?, planned)),
                Err(error) => return Err(error),
            };
            record.attempt(&lease, &planned);
            let scope = &self.question.scope;
            let turn_states = &self.gateway.turn_states;
            let account = lease.account().id;
            let in_event = turn_states.in_event(self.question, lease.account());
            let setting = Setting {
                speaks_websocket: !self.gateway.http_only.holds(lease.account()),
                turn_state: Some(&in_event),
                ..setting
            };
            let mut way = setting.way(lease.account(), planned.strip)?;
            way.change_headers(&|headers| turn_states.keep_own(headers, scope, account));
            record.add_overhead(
                self.began.elapsed().saturating_sub(self.waited),
                self.last.is_none(),
            );
            let movable = self.could_move(&planned);
            let sent = attempt::send(self.gateway, lease, way, self.reads(), movable).await;
            match sent {
                Ok(attempt) => {
                    self.gateway.pool.answered(attempt.account.id);
                    turn_states.note(&attempt.headers, scope, attempt.account.id);
                    return Ok((attempt, planned));
                }
                Err(failed) => {
                    if let Some(attempt) = self.failed(failed, &planned, record).await? {
                        return Ok((attempt, planned));
                    }
                }
            }
        }
    }

    /// Decides. A hard reference that nobody knows is asked for first.
    pub(super) async fn plan(&mut self, record: &mut Record) -> Result<Plan, Error> {
        loop {
            let accounts = self.gateway.view_for(self.question, self.envelope);
            let found = &self.located.found;
            let plan = affinity::plan(found, &accounts, self.terms);
            record.planned(&plan, affinity::short(&plan, found, &accounts));
            match plan.decision {
                Decision::Unknown(position) => {
                    record.row().affinity = Affinity::Unknown;
                    asking::find_owner(self.gateway, self.question, self.located, position).await?;
                }
                Decision::Conflict(first, second) => {
                    record.row().affinity = Affinity::Refused;
                    return Err(self.located.conflict(first, second, &accounts));
                }
                Decision::OwnerGone(account) => {
                    record.row().affinity = Affinity::Refused;
                    record.row().account = Some(account);
                    let name = accounts.name(account).unwrap_or("?");
                    return Err(Error::Unavailable {
                        account: None,
                        reason: format!("'{name}', which held what this points at, was removed"),
                    });
                }
                _ => return Ok(plan),
            }
        }
    }

    /// How the answer is read.
    pub(super) fn reads(&self) -> Reads {
        let stream = self.envelope.stream || self.question.on.is_some();
        match self.question.endpoint.role {
            Role::Generate(api) if api.is_chat() => Reads::Chat {
                stream,
                hides_usage: self.envelope.lacks_usage(),
            },
            Role::Generate(_) => Reads::Response {
                stream,
                hides_quota: self.hides_quota,
            },
            Role::Create => Reads::Object,
            _ if self.question.is_retrieval() => Reads::Response {
                stream: self.question.asks_for_stream(),
                hides_quota: self.hides_quota,
            },
            Role::Other if self.question.method == Method::POST => Reads::Object,
            _ => Reads::Nothing,
        }
    }

    /// Whether the request could still be made otherwise after an attempt: elsewhere, or without the
    /// reasoning that the account cannot read.
    pub(super) fn could_move(&self, plan: &Plan) -> bool {
        !plan.is_alone() || plan.yields() || self.could_strip()
    }

    /// Whether there is sealed reasoning that has not been given up. A compaction is the history.
    fn could_strip(&self) -> bool {
        let mut sealed = self.envelope.sealed.iter();
        !self.terms.without_reasoning && sealed.any(|sealed| !sealed.is_compaction)
    }

    /// Leases an account, waiting a bounded time for a cooldown, or in line for a free place.
    /// `None` if all that may serve have been tried.
    pub(super) async fn lease(&mut self, plan: &Plan, record: &mut Record) -> Result<Option<Lease>, Error> {
        let mut ticket: Option<Ticket> = None;
        loop {
            let pool = &self.gateway.pool;
            let freed = pool.freed();
            let now = now_ms();
            let none = match pool.lease(&self.wish(plan), ticket.as_ref(), now) {
                Ok(lease) => return Ok(Some(lease)),
                Err(NoLease::Tried) => return Ok(None),
                Err(none) => none,
            };
            let patience = self.gateway.settings.pin_wait.saturating_sub(self.waited);
            let begin = Instant::now();
            let wait = match &none {
                NoLease::CoolingDown { until_ms, .. } => {
                    Some(until(*until_ms, now)).filter(|wait| *wait <= patience)
                }
                NoLease::Full { .. } if !patience.is_zero() => {
                    ticket = ticket.or_else(|| pool.stand_in_line(&self.wish(plan)));
                    ticket.is_some().then_some(patience)
                }
                _ => None,
            };
            let Some(wait) = wait else {
                record.row().affinity = match plan.decision {
                    Decision::Pinned(_) => Affinity::Refused,
                    _ => record.row().affinity,
                };
                return Err(no_lease(none, now));
            };
            // Whatever it waits for: a person may change the accounts meanwhile.
            tokio::time::timeout(wait, freed).await.ok();
            self.waited += begin.elapsed();
        }
    }

    pub(super) fn wish<'b>(&'b self, plan: &'b Plan) -> Wish<'b> {
        Wish {
            decision: &plan.decision,
            tried: &self.tried,
            refused: &self.refused,
            model: self.envelope.model.as_deref(),
            without_model: &plan.without_model,
            begins: self.begins,
        }
    }

    /// Takes note of a failure and decides. Gives the failed attempt's answer if the client is to
    /// have it; nothing if another attempt is to be made.
    pub(super) async fn failed(
        &mut self,
        failed: Failed,
        plan: &Plan,
        record: &mut Record,
    ) -> Result<Option<Attempt>, Error> {
        record.attempt_failed(&failed);
        if let Content::Passing { body, .. } = &self.question.body
            && let Some(error) = body.why_stopped()
        {
            return Err(error);
        }
        if failed.seal_is_unreadable && self.could_strip() {
            self.terms.without_reasoning = true;
            self.last = Some(failed);
            return Ok(None);
        }
        if failed.code.as_deref() == Some(MODEL_NOT_FOUND) && self.may_try_another(plan, record) {
            if let Some(model) = &self.envelope.model {
                self.gateway.models.refused(failed.account.id, model, now_ms());
            }
            self.tried.push(failed.account.id);
            self.last = Some(failed);
            return Ok(None);
        }
        // An account that is limited is kept away by its status, and may be asked again after it.
        match failed.signal {
            None => self.tried.push(failed.account.id),
            Some(_) => self.refused.push(failed.account.id),
        }
        let pool = &self.gateway.pool;
        match failed.failure.is_fault() {
            true => {
                self.faults += 1;
                pool.fault(failed.account.id, now_ms());
            }
            false => pool.answered(failed.account.id),
        }
        if let Some(signal) = failed.signal.clone()
            && let Some(changed) = pool.note(
                failed.account.id,
                &signal.of_model(self.envelope.model.as_deref()),
                now_ms(),
            )
        {
            tracing::warn!(
                account = failed.account.name,
                status = changed.standing.word(failed.account.switch, now_ms()),
                code = failed.code,
                "account status changed"
            );
            self.gateway.metrics.met_limit(true);
            let work = Work {
                standing: Some(standing_row(changed)),
                ..Work::default()
            };
            self.gateway.store.write(work).await.ok();
        }
        self.forget_lost_response(&failed).await;
        let spent = Spent {
            attempts: record.row().attempts,
            faults: self.faults,
            time: self.began.elapsed(),
        };
        let next = match self.has_gone() {
            true => Next::GiveUp,
            false => retry::next(failed.failure, plan.is_alone(), spent),
        };
        // That nobody has the model says more than that one cannot be asked now.
        if failed.signal.is_none() || !self.nobody_has_the_model() {
            self.last = Some(failed);
        }
        match next {
            Next::Again => Ok(None),
            Next::GiveUp => self.give_up(plan, record).map(Some),
        }
    }

    /// Whether some of a body that passes has gone, and is not here any more: its client has it, and may
    /// send it anew.
    fn has_gone(&self) -> bool {
        matches!(&self.question.body, Content::Passing { body, .. } if body.has_begun())
    }

    /// Another account may have the model, whatever their lists say.
    fn may_try_another(&self, plan: &Plan, record: &mut Record) -> bool {
        let accounts = match &plan.decision {
            Decision::Pinned(members) => members.len(),
            _ => self.gateway.pool.len(),
        };
        !self.has_gone() && record.row().attempts < limits::ATTEMPTS_MAX && self.tried.len() + 1 < accounts
    }

    /// Whether an account has said that it does not have the model, and no other lists it.
    fn nobody_has_the_model(&self) -> bool {
        let code = self.last.as_ref().and_then(|last| last.code.as_deref());
        let accounts = || self.gateway.view(self.envelope.model.as_deref()).here;
        code == Some(MODEL_NOT_FOUND)
            && accounts()
                .iter()
                .all(|account| account.offers_model == Some(false))
    }

    /// Whether the last failure is one that the client can be told as it is.
    pub(super) fn has_answer(&self) -> bool {
        self.last.as_ref().is_some_and(|failed| failed.signal.is_none())
    }

    /// What the last failure tells the client: the upstream's own answer, unless that speaks of
    /// the account's credential or limits, which are not the client's.
    pub(super) fn give_up(&mut self, plan: &Plan, record: &mut Record) -> Result<Attempt, Error> {
        let Some(failed) = self.last.take() else {
            return Err(Error::NoAccounts);
        };
        record.row().error_code = failed.code;
        if failed.signal.is_none() {
            return failed.attempt.map_err(|error| *error);
        }
        let now = now_ms();
        let soon = NoLease::CoolingDown {
            account: None,
            until_ms: now + 1000,
        };
        Err(match self.gateway.pool.lease(&self.wish(plan), None, now) {
            Err(none) => no_lease(none, now),
            // One has come back in this moment, or there are more of them than attempts.
            Ok(_) => no_lease(soon, now),
        })
    }

    /// The owner itself says that it does not hold the response any more: so it is unknown.
    pub(super) async fn forget_lost_response(&self, failed: &Failed) {
        if let (Some(digest), Some(LOST)) =
            (references::followed(&self.located.found), failed.code.as_deref())
        {
            let work = Work {
                forget: Some(digest),
                ..Work::default()
            };
            self.gateway.store.write(work).await.ok();
        }
    }
}

fn until(until_ms: i64, now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(until_ms - now_ms).unwrap_or(0))
}

fn no_lease(none: NoLease, now_ms: i64) -> Error {
    match none {
        NoLease::NoAccounts | NoLease::Tried => Error::NoAccounts,
        NoLease::CoolingDown { account, until_ms } => Error::CoolingDown {
            account,
            retry_after: until(until_ms, now_ms),
        },
        NoLease::Full { account } => Error::Busy { account },
        NoLease::Unavailable { account, reason } => Error::Unavailable { account, reason },
    }
}
