//! What is particular to accounts that are ChatGPT logins: what they can serve, what becomes of a
//! request for them, and the state of a turn, which belongs to the account that gave it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use crate::account::{Account, AccountId, Kind};
use crate::affinity::{Accounts, ConversationId};
use crate::clock::now_ms;
use crate::error::Error;
use crate::limits;
use crate::request::codex::{self, Form, Unfit};
use crate::request::endpoint::Api;
use crate::request::{self, Envelope, Fill, Splice};
use crate::upstream::headers::TURN_STATE;

use super::{Gateway, Question};

impl Gateway {
    /// How the accounts look to the planner for a request: those that cannot serve what it asks for
    /// count as without the model.
    pub(super) fn view_for(&self, question: &Question, envelope: &Envelope) -> Accounts {
        let mut accounts = self.view(envelope.model.as_deref());
        for view in &mut accounts.here {
            if view.account.kind == Kind::Codex && codex::check(&question.endpoint, envelope).is_err() {
                view.offers_model = Some(false);
            }
        }
        accounts
    }
}

/// Whether an account can do what is asked.
///
/// # Errors
/// If it is of a kind that cannot. What a request follows can be written out for it where it is held
/// here.
pub(super) fn check(
    account: &Account,
    question: &Question,
    envelope: &Envelope,
    is_held: bool,
) -> Result<(), Error> {
    if account.kind != Kind::Codex {
        return Ok(());
    }
    match codex::check(&question.endpoint, envelope) {
        Ok(()) => Ok(()),
        Err(Unfit::Follows) if is_held => Ok(()),
        Err(unfit) => Err(Error::Unfit {
            account: account.name.clone(),
            unfit,
            id: envelope.previous_response_id.clone(),
        }),
    }
}

/// A body as the account takes it over HTTP; as it is for those that take any.
pub(super) fn fit(account: &Account, question: &Question, body: Vec<Bytes>) -> Vec<Bytes> {
    match (account.kind, question.endpoint.api()) {
        (Kind::Codex, Some(Api::Compact)) => fit_as(Form::Compaction, true, body).0,
        (Kind::Codex, Some(_)) => fit_as(Form::Body, true, body).0,
        _ => body,
    }
}

/// An event as the account takes it over WebSocket, and whether it got instructions of ours. What
/// goes on from another gets them if that one did: `instructs`.
pub(super) fn fit_event(
    account: &Account,
    question: &Question,
    instructs: bool,
    event: Vec<Bytes>,
) -> (Vec<Bytes>, bool) {
    match (account.kind, &question.on) {
        (Kind::Codex, Some(_)) => fit_as(Form::Event, instructs, event),
        (Kind::Codex, None) => fit_as(Form::EventOfBody, instructs, event),
        _ => (event, false),
    }
}

fn fit_as(form: Form, instructs: bool, body: Vec<Bytes>) -> (Vec<Bytes>, bool) {
    // In one piece, as what is to be changed stands anywhere in it. Codex CLI's mostly is one already.
    let body = match &body[..] {
        [whole] => whole.clone(),
        pieces => Bytes::from(pieces.concat()),
    };
    let Ok(envelope) = Envelope::read(&body) else {
        return (vec![body], false);
    };
    let fitted = codex::fit(&body, form, instructs);
    let mut splices = envelope.fill_in(Fill {
        members: &fitted.missing,
        nothing_stays: fitted.nothing_stays,
        ..Fill::default()
    });
    splices.extend(fitted.splices);
    splices.sort_by_key(|splice| splice.range.start);
    (request::spliced(&body, splices), fitted.is_instructed)
}

/// The headers that such an account needs besides those that say who asks.
pub(super) fn complete(
    headers: &mut HeaderMap,
    account: &Account,
    api: Option<Api>,
    conversation: ConversationId,
) {
    const SESSION: HeaderName = HeaderName::from_static("session-id");
    if account.kind != Kind::Codex {
        return;
    }
    if api == Some(Api::Responses) {
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if !headers.contains_key(&SESSION)
        && let Ok(session) = HeaderValue::try_from(conversation.0.hyphenated().to_string())
    {
        headers.insert(SESSION, session);
    }
}

/// The same for a WebSocket. Codex CLI names this version of the mode; others need not know it.
pub(super) fn complete_upgrade(headers: &mut HeaderMap, account: &Account, conversation: ConversationId) {
    const BETA: HeaderName = HeaderName::from_static("openai-beta");
    complete(headers, account, Some(Api::Responses), conversation);
    if account.kind == Kind::Codex && !headers.contains_key(&BETA) {
        headers.insert(BETA, HeaderValue::from_static("responses_websockets=2026-02-06"));
    }
}

/// The state of a turn that a request carries.
#[derive(Debug, Default)]
pub(super) struct InEvent {
    /// The account's own.
    header: Option<HeaderValue>,
    /// What leaves out one that is not.
    foreign: Option<Splice>,
}

impl InEvent {
    /// What leaves out of a client's event what is another account's.
    pub(super) fn without_foreign(&self) -> Option<Splice> {
        self.foreign.clone()
    }

    /// For HTTP, where it is a header.
    pub(super) fn to_header(&self, headers: &mut HeaderMap) {
        if let Some(state) = &self.header {
            headers.insert(TURN_STATE, state.clone());
        }
    }

    /// For WebSocket: of a client over HTTP, that has it as a header.
    pub(super) fn to_event(&self, body: &[u8]) -> Option<Splice> {
        codex::with_turn_state(body, self.header.as_ref()?.to_str().ok()?)
    }
}

/// Which account gave which state of a turn. A state goes back to its account and to no other; one of
/// which nothing is known, as after a restart, goes nowhere. Only digests are kept.
#[derive(Debug, Default)]
pub struct TurnStates(Mutex<HashMap<[u8; 16], (AccountId, i64)>>);

impl TurnStates {
    /// Takes note of the state that an answer carries.
    pub(super) fn note(&self, answer: &HeaderMap, scope: &str, account: AccountId) {
        let Some(state) = answer.get(TURN_STATE) else {
            return;
        };
        let now = now_ms();
        let lifetime_ms = i64::try_from(limits::TURN_STATE_TTL.as_millis()).unwrap_or(0);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= limits::TURN_STATES_MAX {
            known.retain(|_, (_, until_ms)| now < *until_ms);
        }
        if known.len() < limits::TURN_STATES_MAX {
            known.insert(digest(scope, state.as_bytes()), (account, now + lifetime_ms));
        }
    }

    /// Leaves out of a request the state that another account gave.
    pub(super) fn keep_own(&self, request: &mut HeaderMap, scope: &str, account: AccountId) {
        let state = request.get(TURN_STATE);
        if state.is_some_and(|state| !self.is_own(state.as_bytes(), scope, account)) {
            request.remove(TURN_STATE);
        }
    }

    /// What becomes of the state in a request for an account that is asked over WebSocket, or by a client
    /// that speaks it: there it is a part of the event.
    pub(super) fn in_event(&self, question: &Question, account: &Account) -> InEvent {
        let (scope, body) = (&question.scope, question.body.whole());
        let header = question.headers.get(TURN_STATE);
        match &question.on {
            None if account.kind != Kind::Codex => InEvent::default(),
            None => InEvent {
                header: header
                    .filter(|state| self.is_own(state.as_bytes(), scope, account.id))
                    .cloned(),
                foreign: None,
            },
            Some(_) => match codex::turn_state(body) {
                None => InEvent::default(),
                Some((state, _)) if self.is_own(state.as_bytes(), scope, account.id) => InEvent {
                    header: HeaderValue::try_from(state).ok(),
                    foreign: None,
                },
                Some((_, splice)) => InEvent {
                    header: None,
                    foreign: Some(splice),
                },
            },
        }
    }

    fn is_own(&self, state: &[u8], scope: &str, account: AccountId) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(&digest(scope, state))
            .is_some_and(|(owner, _)| *owner == account)
    }
}

fn digest(scope: &str, state: &[u8]) -> [u8; 16] {
    let digest = Sha256::new()
        .chain_update((scope.len() as u64).to_le_bytes())
        .chain_update(scope)
        .chain_update(state)
        .finalize();
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_turn_goes_back_to_its_account_and_to_no_other() {
        let states = TurnStates::default();
        let with = |state: &str| HeaderMap::from_iter([(TURN_STATE, HeaderValue::try_from(state).unwrap())]);
        states.note(&with("one"), "home", AccountId(1));
        for (state, scope, account, stays) in [
            ("one", "home", 1, true),
            ("one", "home", 2, false),
            ("one", "away", 1, false),
            ("two", "home", 1, false),
        ] {
            let mut request = with(state);
            states.keep_own(&mut request, scope, AccountId(account));
            assert_eq!(
                request.contains_key(TURN_STATE),
                stays,
                "{state} {scope} {account}"
            );
        }
    }
}
