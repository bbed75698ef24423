//! The row of an exchange while it is being made. Dropped unfinished, it is written as what that
//! means: the client hung up, or the gateway was stopped.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::affinity::{Decision, Plan, ReferenceKind, Strip};
use crate::clock::now_ms;
use crate::error::Error;
use crate::limits;
use crate::pool::Lease;
use crate::price::Cost;
use crate::request::Envelope;
use crate::response::{Facts, Outcome};
use crate::store::client_keys::Spent;
use crate::store::requests::{Affinity, AttemptFailed, AttemptMade, Row, Transport};
use crate::store::{Remember, Work};

use super::attempt::Failed;
use super::client::{Client, Place};
use super::{Content, Gateway, Question, Routing};

/// The row of an exchange, and who writes it.
#[derive(Debug)]
pub struct Record {
    gateway: Arc<Gateway>,
    /// `None` once the row is final, or has been handed on.
    row: Option<Box<Row>>,
    started: Instant,
    account: Option<String>,
    /// What the header says besides outcome and reason.
    affinity_note: Option<&'static str>,
    /// Whether the row has what the answer tells.
    tells: bool,
    overhead: Duration,
    /// The client's place, until the answer has ended.
    place: Option<Place>,
}

impl Record {
    /// Opens the row of a request whose head has just arrived.
    pub fn open(gateway: &Arc<Gateway>, endpoint: impl Into<Cow<'static, str>>) -> Record {
        gateway.metrics.begun();
        let now_ms = now_ms();
        let row = Row::new(gateway.store.next_request_id(now_ms), now_ms, endpoint);
        Record {
            gateway: gateway.clone(),
            row: Some(Box::new(row)),
            started: Instant::now(),
            account: None,
            affinity_note: None,
            tells: true,
            overhead: Duration::ZERO,
            place: None,
        }
    }

    /// Says that the request came over a WebSocket, and whose it is. It may have to wait for its turn
    /// before it is let in.
    pub fn on_websocket(&mut self, client_key_id: Option<i64>) {
        let row = self.row();
        row.transport = Transport::Websocket;
        row.client_key_id = client_key_id;
    }

    /// The record of a response that follows this one by itself, because that was steered.
    pub(super) fn successor(&mut self, before: &Row) -> Record {
        let mut next = Record::open(&self.gateway, before.endpoint.clone());
        next.account = self.account.clone();
        next.place = self.place.take();
        let row = next.row();
        row.client_key_id = before.client_key_id;
        row.account = before.account;
        row.conversation = before.conversation;
        row.previous_response_id = before.response_id.clone();
        row.transport = before.transport;
        row.model_asked = before.model_asked.clone();
        row.affinity = Affinity::Hit;
        row.affinity_by = Some(ReferenceKind::Response);
        row.attempts = before.attempts;
        row.status = before.status;
        next
    }

    /// Leaves no row: it was no request.
    pub fn withdraw(mut self) {
        self.row = None;
    }

    /// Notes who asks, and lets them in.
    ///
    /// # Errors
    /// If they may not ask now: see [`Client::admit`].
    pub fn asked_by(&mut self, client: &Arc<Client>) -> Result<(), Error> {
        self.row().client_key_id = Some(client.key.id);
        self.place = Some(client.admit()?);
        Ok(())
    }

    /// Whether who asks may ask for this model.
    pub(super) fn check_model(&self, model: Option<&str>) -> Result<(), Error> {
        match &self.place {
            Some(place) => place.client().check_model(model),
            None => Ok(()),
        }
    }

    /// Whether who asks may see what the upstream says about its quota.
    pub(super) fn shows_quota(&self) -> bool {
        let place = self.place.as_ref();
        place.is_some_and(|place| place.client().key.bounds.shows_quota)
    }

    /// Writes the row of a request that Moorage itself answered, with what the client is told.
    pub async fn refuse(mut self, error: &Error, status: u16, code: &str) {
        let Some(mut row) = self.row.take() else { return };
        row.status = Some(status);
        row.error_code.get_or_insert_with(|| code.to_owned());
        let outcome = match error {
            Error::Timeout { .. } => Outcome::Timeout,
            Error::Unanswered { .. } => Outcome::UpstreamCut,
            Error::Unreachable { .. } | Error::UnaskedEncoding { .. } => Outcome::Rejected,
            _ => Outcome::Refused,
        };
        self.complete(&mut row, outcome);
        let work = Work {
            row: Some(row),
            ..Work::default()
        };
        // A failure to write is told by the writer; the client gets its error all the same.
        self.gateway.store.write(work).await.ok();
    }

    /// Writes the row of an answer that was put together here, of so many bytes.
    pub async fn composed(mut self, bytes: usize) {
        let Some(mut row) = self.row.take() else { return };
        row.status = Some(200);
        row.response_bytes = Some(bytes as u64);
        self.complete(&mut row, Outcome::Completed);
        let work = Work {
            row: Some(row),
            ..Work::default()
        };
        // A failure to write is told by the writer; the client gets its answer all the same.
        self.gateway.store.write(work).await.ok();
    }

    /// How the request was routed so far.
    pub fn routing(&self) -> Routing {
        let row = self.row.as_deref();
        let affinity = row.map_or("none", |row| row.affinity.as_str());
        Routing {
            request_id: row.map_or(0, |row| row.id),
            account: self.account.clone(),
            affinity: {
                let by = row.and_then(|row| row.affinity_by);
                let by = by.map(|by| format!("by={}", by.as_str()));
                let parts = [Some(affinity), by.as_deref(), self.affinity_note];
                let parts: Vec<&str> = parts.into_iter().flatten().collect();
                parts.join("; ")
            },
        }
    }

    /// Says whether the row is to have what the answer tells: a response that is only asked for again
    /// is not counted again.
    pub(super) fn tells(&mut self, tells: bool) {
        self.tells = tells;
    }

    /// Fills in what the answer has told so far.
    pub(super) fn tell(&mut self, facts: &Facts) {
        if self.tells {
            self.row().tell(facts);
        }
    }

    /// The row, to fill in what is known.
    pub(super) fn row(&mut self) -> &mut Row {
        // Nobody holds a record whose row has been handed on: `take` leaves it to be dropped.
        self.row
            .as_mut()
            .unwrap_or_else(|| unreachable!("the row was handed on"))
    }

    pub(super) fn describe(&mut self, question: &Question, envelope: &Envelope) {
        let row = self.row();
        row.request_bytes = match &question.body {
            Content::Whole(body) => Some(body.len() as u64),
            Content::Passing { body, .. } => body.announced_bytes(),
        };
        row.transport = question.transport(envelope);
        row.model_asked = envelope.model.clone();
        if question.endpoint.api().is_some() {
            row.previous_response_id = envelope.previous_response_id.clone();
            row.service_tier = envelope.service_tier.clone();
            row.input_items = Some(envelope.input_items);
        }
    }

    pub(super) fn planned(&mut self, plan: &Plan, reasons: Option<String>) {
        let row = self.row();
        row.affinity_by = plan.by;
        row.reasons = reasons;
    }

    /// Notes that a preference has moved to where the request was served.
    pub(super) fn moves(&mut self, moves: bool) {
        if !moves {
            return;
        }
        self.affinity_note = Some("rehomed");
        let account = self.account.clone().unwrap_or_default();
        self.row().add_reason(&format!("rehomed to {account}"));
    }

    pub(super) fn attempt(&mut self, lease: &Lease, plan: &Plan) {
        let account = lease.account();
        self.account = Some(account.name.clone());
        let after_ms = self.elapsed_ms();
        let row = self.row();
        row.attempts += 1;
        row.account = Some(account.id);
        if row.each_attempt.len() < limits::ATTEMPTS_KEPT_MAX {
            row.each_attempt.push(AttemptMade {
                account_id: account.id,
                after_ms,
                failed: None,
            });
        }
        let is_stripped = plan.strip != Strip::Nothing;
        row.affinity = match &plan.decision {
            // What only its owner could read was given up.
            Decision::Preferred(_) | Decision::Free if is_stripped => Affinity::Moved,
            Decision::Preferred(preferred) if *preferred != account.id => Affinity::Moved,
            Decision::Pinned(_) if !plan.is_known() => Affinity::Unknown,
            Decision::Pinned(_) | Decision::Preferred(_) => Affinity::Hit,
            _ => Affinity::None,
        };
        if is_stripped {
            row.affinity_by.get_or_insert(ReferenceKind::Reasoning);
        }
        self.affinity_note = is_stripped.then_some("stripped=reasoning");
    }

    /// Notes how the attempt that runs has failed.
    pub(super) fn attempt_failed(&mut self, failed: &Failed) {
        let now_ms = self.elapsed_ms();
        let Some(attempt) = self.row().each_attempt.last_mut() else {
            return;
        };
        if attempt.failed.is_none() {
            let code = failed.code.as_deref();
            attempt.failed = Some(AttemptFailed {
                duration_ms: now_ms - attempt.after_ms,
                how: failed.failure.as_str(),
                status: failed.failure.status(),
                error_code: code.map(|code| code.chars().take(limits::ATTEMPT_CODE_CHARS_MAX).collect()),
            });
        }
    }

    /// Adds time that the request spent in the gateway, if it counts.
    pub(super) fn add_overhead(&mut self, spent: Duration, counts: bool) {
        if counts {
            self.overhead += spent;
        }
    }

    pub(super) fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Writes references down, and with them the row as it stands, so that an id that a client has
    /// seen has a row even if the gateway is killed in the next moment.
    pub(super) fn progress(&mut self, remember: Vec<Remember>) -> Work {
        let row = self.row.clone();
        self.row().was_written = true;
        Work {
            remember,
            row,
            ..Work::default()
        }
    }

    /// The final row, with what the answer told. Nothing if it was final before.
    pub(super) fn finish(&mut self, outcome: Outcome, facts: &Facts, remember: Vec<Remember>) -> Work {
        let Some(mut row) = self.row.take() else {
            return Work {
                remember,
                ..Work::default()
            };
        };
        if self.tells {
            row.tell(facts);
            self.note_withheld(&mut row, facts);
        }
        row.error_code = facts.error_code.clone().or(row.error_code);
        self.complete(&mut row, outcome);
        Work {
            remember,
            row: Some(row),
            ..Work::default()
        }
    }

    /// The row in this work, where it may have to be written differently: a client that is refused
    /// because it could not be written has not got what the row says.
    pub(super) fn for_refusal(&self, work: &Work) -> Option<Box<Row>> {
        let may_be_refused = self.gateway.settings.refuse_without_store;
        let mut row = work.row.clone().filter(|_| may_be_refused)?;
        row.was_written = true;
        Some(row)
    }

    /// Takes the row back that could not be written.
    pub(super) fn take_back(&mut self, row: Option<Box<Row>>) {
        self.row = row.or(self.row.take());
    }

    /// The row of an answer that Moorage has cut, because it could not be written down.
    pub(super) fn cut_unwritten(&mut self) {
        let Some(mut row) = self.row.take() else { return };
        row.error_code = Some("store_unavailable".to_owned());
        self.complete(&mut row, Outcome::Refused);
        self.gateway.store.write_later(Work {
            row: Some(row),
            ..Work::default()
        });
    }

    /// The upstream did not let its model read what another account had sealed: a turn came to the
    /// wrong one, or what is known of it is not so.
    fn note_withheld(&self, row: &mut Row, facts: &Facts) {
        let Some(reason) = &facts.withheld else { return };
        row.add_reason(&format!("withheld={reason}"));
        tracing::warn!(
            request = row.id,
            account = self.account,
            reason,
            "the upstream withheld reasoning from its model"
        );
    }

    fn complete(&self, row: &mut Row, outcome: Outcome) {
        row.outcome = outcome;
        row.ended_at_ms = Some(now_ms());
        row.duration_ms = Some(self.elapsed_ms());
        row.overhead_us = i64::try_from(self.overhead.as_micros()).ok();
        row.cost = self.cost(row);
        self.gateway.metrics.ended(self.overhead, row.first_byte_ms);
        if let (Some(place), Some(usage)) = (&self.place, row.usage) {
            place.count(Spent {
                tokens: usage.input.unwrap_or(0).saturating_add(usage.output.unwrap_or(0)),
                cost_micros: row.cost.map_or(0, |cost| cost.cost_micros),
            });
        }
        log(row, self.account.as_deref());
    }
}

impl Record {
    /// What the request cost by the price of its start, if the figures and a price are known.
    fn cost(&self, row: &Row) -> Option<Cost> {
        let usage = row.usage.as_ref()?;
        let prices = self.gateway.prices();
        let tier = row.service_tier.as_deref();
        [&row.model_served, &row.model_asked]
            .into_iter()
            .flatten()
            .find_map(|model| prices.find(model, tier, row.started_at_ms))?
            .cost(usage)
    }
}

impl Row {
    /// One more reason, or one more thing that came of them.
    pub(super) fn add_reason(&mut self, reason: &str) {
        let reasons = self.reasons.get_or_insert_default();
        if !reasons.is_empty() {
            reasons.push_str("; ");
        }
        reasons.push_str(reason);
        reasons.truncate(reasons.floor_char_boundary(2 * limits::REASONS_BYTES_MAX));
    }

    /// Fills in what an answer has told so far.
    pub(super) fn tell(&mut self, facts: &Facts) {
        self.response_id = facts.response_id.clone().or(self.response_id.take());
        self.model_served = facts.model.clone().or(self.model_served.take());
        self.service_tier = facts.service_tier.clone().or(self.service_tier.take());
        self.usage = facts.usage.or(self.usage);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.gateway.metrics.let_go();
        let Some(mut row) = self.row.take() else { return };
        let outcome = if std::thread::panicking() {
            row.error_code = Some("internal_error".to_owned());
            Outcome::Failed
        } else if self.gateway.is_stopping() {
            Outcome::Shutdown
        } else {
            Outcome::ClientGone
        };
        self.complete(&mut row, outcome);
        self.gateway.store.write_later(Work {
            row: Some(row),
            ..Work::default()
        });
    }
}

/// One line a request, in the words of the row.
fn log(row: &Row, account: Option<&str>) {
    let usage = row.usage.unwrap_or_default();
    let payload = row.request_bytes.unwrap_or(0);
    tracing::info!(
        request = row.id,
        client_key = row.client_key_id,
        account,
        conversation = row
            .conversation
            .map(|conversation| tracing::field::display(conversation.0)),
        affinity = %row.affinity.as_str(),
        by = row.affinity_by.map(|by| tracing::field::display(by.as_str())),
        attempts = row.attempts,
        model = row.model_served.as_deref().or(row.model_asked.as_deref()),
        payload,
        "in" = usage.input,
        out = usage.output,
        cached = usage.cached,
        reasoning = usage.reasoning,
        status = row.status,
        outcome = %row.outcome.as_str(),
        error = row.error_code,
        ms = row.duration_ms,
        overhead_us = row.overhead_us,
        "request"
    );
    if payload > limits::LARGE_PAYLOAD_BYTES as u64 {
        tracing::warn!(
            request = row.id,
            payload,
            items = row.input_items,
            "large payload"
        );
    }
}
