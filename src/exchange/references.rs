//! What a request points with, and what is remembered of its answer.

use crate::account::AccountId;
use crate::affinity::{self, ConversationId, Decision, Found, Owner, Reference, ReferenceKind};
use crate::clock::now_ms;
use crate::error::Error;
use crate::limits;
use crate::request::Envelope;
use crate::response::Facts;
use crate::store::Remember;

use super::{Gateway, Question};

/// The references of a request, in the order in which they decide, with their owners.
pub(super) async fn find(
    gateway: &Gateway,
    question: &Question,
    envelope: &Envelope,
) -> Result<Vec<Found>, Error> {
    let references = references(gateway, question, envelope);
    let owners = gateway
        .store
        .owners(&references, now_ms())
        .await
        .map_err(|error| Error::StoreUnreadable(error.to_string()))?;
    let found = references.into_iter().zip(owners);
    Ok(found
        .map(|(reference, owner)| Found { reference, owner })
        .collect())
}

fn references(gateway: &Gateway, question: &Question, envelope: &Envelope) -> Vec<Reference> {
    let mut references = Vec::with_capacity(4);
    let mut add = |kind, value: &[u8]| references.push(Reference::new(&question.scope, kind, value));
    if let Some(id) = &envelope.previous_response_id {
        add(ReferenceKind::Response, id.as_bytes());
    }
    let session = gateway
        .settings
        .session_headers
        .iter()
        .find_map(|name| question.headers.get(name));
    if let Some(session) = session.filter(|session| !session.is_empty()) {
        add(ReferenceKind::Session, session.as_bytes());
    }
    if let Some(key) = &envelope.prompt_cache_key {
        add(ReferenceKind::CacheKey, key.as_bytes());
    }
    // A later turn of a chain has no head of its own: what it begins with is its newest message.
    if let (Some(prefix), None) = (&envelope.prefix, &envelope.previous_response_id) {
        add(ReferenceKind::Prefix, prefix);
    }
    references
}

/// What is written down once the answer's ids are known.
#[derive(Debug)]
pub struct ToRemember {
    scope: String,
    account: AccountId,
    conversation: ConversationId,
    response_expires_at_ms: i64,
    /// The soft references of the request, with their new owner. Written with the first id, so
    /// that an attempt that came to nothing leaves no trace.
    soft: Vec<Remember>,
    /// The response that the request follows, if its owner is known.
    pub follows: Option<[u8; 16]>,
    response_is_known: bool,
    items_known: usize,
}

/// Prepares what is to be remembered. A detour (a preference that was not honoured) moves nothing:
/// the cache stays warm where it is.
pub(super) fn to_remember(
    gateway: &Gateway,
    question: &Question,
    found: &[Found],
    account: AccountId,
    conversation: ConversationId,
) -> ToRemember {
    let now = now_ms();
    let lifetimes = &gateway.settings.lifetimes;
    let session_ms = millis(lifetimes.session);
    let is_detour = match affinity::plan(found, &gateway.pool.view(None, now)).decision {
        Decision::Preferred(preferred) => preferred != account,
        // One of the same state domain stood in.
        Decision::Pinned(members) => members.first().is_some_and(|home| *home != account),
        _ => false,
    };
    let soft = found
        .iter()
        .filter(|found| !found.reference.kind.is_hard() && !is_detour);
    let owner = Owner {
        account,
        conversation,
        expires_at_ms: expiry(now, lifetimes.session),
    };
    let fresh_until = now + session_ms - session_ms / i64::from(limits::SESSION_REFRESH_DIVISOR);
    let is_stale = |found: &&Found| {
        found.owner.is_none_or(|known| {
            known.account != account
                || known.conversation != conversation
                || known.expires_at_ms < fresh_until
        })
    };
    ToRemember {
        scope: question.scope.clone(),
        account,
        conversation,
        response_expires_at_ms: expiry(now, lifetimes.response),
        soft: soft
            .filter(is_stale)
            .map(|found| Remember {
                digest: found.reference.digest,
                owner,
            })
            .collect(),
        follows: followed(found),
        response_is_known: false,
        items_known: 0,
    }
}

/// The response that a request follows, as it is remembered.
pub(super) fn followed(found: &[Found]) -> Option<[u8; 16]> {
    let known = |found: &&Found| found.reference.kind.is_hard() && found.owner.is_some();
    Some(found.iter().find(known)?.reference.digest)
}

/// The end of a lifetime, rounded up by a small share of it: references of about the same time expire
/// together, and stand together in the index of the sweep.
fn expiry(now_ms: i64, lifetime: std::time::Duration) -> i64 {
    let lifetime_ms = millis(lifetime);
    let step_ms = (lifetime_ms / i64::from(limits::EXPIRY_STEPS)).max(1);
    let end_ms = now_ms.saturating_add(lifetime_ms);
    end_ms - end_ms % step_ms + step_ms
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

impl ToRemember {
    /// What the answer has told since the last call, ready to be written.
    pub(super) fn take_new(&mut self, facts: &Facts) -> Vec<Remember> {
        let new_response = facts.response_id.as_ref().filter(|_| !self.response_is_known);
        let new_items = &facts.items[self.items_known..];
        if new_response.is_none() && new_items.is_empty() {
            return Vec::new();
        }
        let owner = Owner {
            account: self.account,
            conversation: self.conversation,
            expires_at_ms: self.response_expires_at_ms,
        };
        let hard = |kind, id: &String| Remember {
            digest: Reference::new(&self.scope, kind, id.as_bytes()).digest,
            owner,
        };
        let response = new_response.map(|id| hard(ReferenceKind::Response, id));
        let items = new_items.iter().map(|id| hard(ReferenceKind::Item, id));
        let hard: Vec<Remember> = response.into_iter().chain(items).collect();
        self.response_is_known = facts.response_id.is_some();
        self.items_known = facts.items.len();
        self.soft.drain(..).chain(hard).collect()
    }
}
