//! What a request points with, and what is remembered of its answer.

use std::time::Duration;

use http::HeaderName;

use crate::account::{Account, AccountId, Kind};
use crate::affinity::{
    ConnectionId, ConversationId, Decision, Found, Owner, Plan, Reference, ReferenceKind, Strength,
};
use crate::clock::now_ms;
use crate::error::Error;
use crate::limits;
use crate::request::endpoint::{Api, Role};
use crate::request::{Envelope, Named, SealedBy};
use crate::response::Facts;
use crate::store::Remember;

use super::{Gateway, Question};

/// A reference as it stands in a request.
#[derive(Debug, Clone)]
pub struct Pointer {
    /// What is looked up.
    pub reference: Reference,
    /// Of sealed content: which item of the input holds it.
    pub position: usize,
    /// The id, for errors and for people; empty for what is no id.
    pub text: String,
}

/// What a request points with, and who owns it.
#[derive(Debug, Default)]
pub struct Located {
    /// In the order in which they decide.
    pub found: Vec<Found>,
    /// The ids, in the same order.
    pub texts: Vec<String>,
}

/// The references of a request, in the order in which they decide.
pub fn pointers(session_headers: &[HeaderName], question: &Question, envelope: &Envelope) -> Vec<Pointer> {
    let mut pointers = Pointers {
        scope: &question.scope,
        list: Vec::with_capacity(4),
    };
    let api = question.endpoint.api();
    if let Some(id) = &question.endpoint.id {
        pointers.id(ReferenceKind::Path, id);
    }
    if let Some(id) = envelope.previous_response_id.as_ref().filter(|_| api.is_some()) {
        pointers.id(ReferenceKind::Response, id);
    }
    if let Some(id) = envelope.conversation.as_ref().filter(|_| api.is_some()) {
        pointers.id(ReferenceKind::Conversation, id);
    }
    pointers.ids(&envelope.ids);
    if api.is_some() {
        pointers.sealed(envelope);
        for id in envelope.item_ids.iter().rev() {
            pointers.id(ReferenceKind::ItemId, id);
        }
    }
    pointers.soft(session_headers, question, envelope);
    pointers.list
}

struct Pointers<'a> {
    scope: &'a str,
    list: Vec<Pointer>,
}

impl Pointers<'_> {
    fn add(&mut self, kind: ReferenceKind, value: &[u8], position: usize, text: &str) {
        self.list.push(Pointer {
            reference: Reference::new(self.scope, kind, value),
            position,
            text: text.to_owned(),
        });
    }

    fn id(&mut self, kind: ReferenceKind, id: &str) {
        self.add(kind, id.as_bytes(), 0, id);
    }

    fn ids(&mut self, ids: &[Named]) {
        let first = self.list.len();
        for Named { kind, id } in ids {
            self.id(*kind, id);
        }
        self.list[first..].sort_by_key(|pointer| pointer.reference.kind);
    }

    /// Newest first, compaction before reasoning.
    fn sealed(&mut self, envelope: &Envelope) {
        for is_compaction in [true, false] {
            let of_kind = envelope.sealed.iter().rev();
            for sealed in of_kind.filter(|sealed| sealed.is_compaction == is_compaction) {
                match &sealed.by {
                    SealedBy::Content(digest) if is_compaction => {
                        self.add(ReferenceKind::Compaction, digest, sealed.position, "");
                    }
                    SealedBy::Content(digest) => {
                        self.add(ReferenceKind::Reasoning, digest, sealed.position, "");
                    }
                    SealedBy::Id(id) => {
                        self.add(ReferenceKind::ItemId, id.as_bytes(), sealed.position, id);
                        // Found as an id, and as firm as what it stands for.
                        if let Some(last) = self.list.last_mut() {
                            last.reference.kind = ReferenceKind::Reasoning;
                        }
                    }
                }
            }
        }
    }

    fn soft(&mut self, session_headers: &[HeaderName], question: &Question, envelope: &Envelope) {
        let said = session_headers
            .iter()
            .filter_map(|name| question.headers.get(name));
        // A blank one names no session.
        let session = said
            .map(|value| value.as_bytes())
            .find(|value| !value.trim_ascii().is_empty());
        if let Some(session) = session {
            // Agents that share a session are told apart by what they are.
            let value = [session, &envelope.lane].concat();
            self.add(ReferenceKind::Session, &value, 0, "");
        }
        let api = question.endpoint.api();
        if let Some(key) = envelope.prompt_cache_key.as_ref().filter(|_| api.is_some()) {
            self.add(ReferenceKind::CacheKey, key.as_bytes(), 0, "");
        }
        // A later turn of a chain has no head of its own: what it begins with is its newest message.
        let is_chain = envelope.previous_response_id.is_some() || envelope.conversation.is_some();
        if let (Some(prefix), false, true) = (&envelope.prefix, is_chain, api.is_some_and(Api::converses)) {
            self.add(ReferenceKind::Prefix, prefix, 0, "");
        }
        let makes = question.endpoint.role == Role::Create && question.endpoint.id.is_none();
        if makes && question.endpoint.name != "/conversations" {
            self.add(ReferenceKind::Objects, b"", 0, "");
        }
    }
}

/// The references of a request with their owners.
pub(super) async fn locate(
    gateway: &Gateway,
    question: &Question,
    envelope: &Envelope,
) -> Result<Located, Error> {
    let pointers = pointers(&gateway.settings.session_headers, question, envelope);
    if pointers.is_empty() {
        return Ok(Located::default());
    }
    let references: Vec<Reference> = pointers.iter().map(|pointer| pointer.reference).collect();
    let owners = gateway
        .store
        .owners(&references, now_ms())
        .await
        .map_err(|error| Error::StoreUnreadable(error.to_string()))?;
    Ok(Located::new(pointers, owners))
}

impl Located {
    /// Puts references and owners together.
    pub fn new(pointers: Vec<Pointer>, owners: Vec<Option<Owner>>) -> Located {
        let mut located = Located::default();
        for (pointer, owner) in pointers.into_iter().zip(owners) {
            located.found.push(Found {
                reference: pointer.reference,
                owner,
                position: pointer.position,
            });
            located.texts.push(pointer.text);
        }
        located
    }
}

impl Located {
    /// The response that the request follows, and the connection that alone knows it.
    pub(super) fn on_connection(&self) -> Option<(ConnectionId, &str)> {
        let follows = |found: &Found| found.kind() == ReferenceKind::Response;
        let position = self.found.iter().position(follows)?;
        let connection = self.found[position].owner?.connection?;
        Some((connection, &self.texts[position]))
    }
}

/// Whether the figures of a response that is asked for have not been counted yet: they are still to
/// come if it was made in the background.
pub(super) async fn owed(gateway: &Gateway, question: &Question) -> Option<[u8; 16]> {
    let id = question.endpoint.id.as_ref()?;
    let owed = Reference::owed_figures(&question.scope, id);
    let known = gateway.store.owners(&[owed], now_ms()).await.ok()?;
    known[0].map(|_| owed.digest)
}

/// What is written down once the answer's ids are known.
#[derive(Debug)]
pub struct ToRemember {
    scope: String,
    account: AccountId,
    conversation: ConversationId,
    expires_at_ms: i64,
    keeps: Keeps,
    /// The soft references of the request, with their new owner. Written with the first id, so
    /// that an attempt that came to nothing leaves no trace.
    soft: Vec<Remember>,
    /// The response that the request follows, if its owner is known.
    pub follows: Option<[u8; 16]>,
    /// What the request deletes.
    pub deletes: Option<[u8; 16]>,
    /// The connection that alone will know the response, where it is not stored.
    pub connection: Option<ConnectionId>,
    /// Whether the answer is made in the background.
    in_background: bool,
    /// The figures that were still to come, and are told here, if they are.
    pub owed: Option<[u8; 16]>,
    response_is_known: bool,
    other_ids_known: usize,
    items_known: usize,
    sealed_known: usize,
}

/// What of an answer can be pointed at later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Nothing,
    /// The response. Its items are not kept by the upstream, but what it sealed may come back.
    Response,
    /// The response or the thing, and what it holds.
    All,
}

impl Keeps {
    fn of(question: &Question, envelope: &Envelope, kind: Kind) -> Keeps {
        match question.endpoint.role {
            Role::Generate(Api::Responses | Api::Compact) => match kind.stores(envelope.store) {
                true => Keeps::All,
                false => Keeps::Response,
            },
            Role::Generate(Api::Chat) if envelope.store == Some(true) => Keeps::Response,
            Role::Create => Keeps::All,
            // What was made in the background is told here first.
            _ if question.is_retrieval() => Keeps::All,
            Role::Other if question.method == http::Method::POST => Keeps::Response,
            _ => Keeps::Nothing,
        }
    }
}

/// Prepares what is to be remembered, and tells whether a preference moves with it. A detour (a
/// preference that was not honoured) moves nothing: the cache stays warm where it is. Unless the
/// detour has lasted longer than that.
pub(super) fn to_remember(
    gateway: &Gateway,
    question: &Question,
    envelope: &Envelope,
    located: &Located,
    plan: &Plan,
    account: &Account,
    conversation: ConversationId,
) -> (ToRemember, bool) {
    let now = now_ms();
    let soft = Soft {
        now,
        session_ttl: gateway.settings.lifetimes.session,
        object_ttl: gateway.settings.object_ttl,
        detour_ms: millis(gateway.settings.detour_max),
        plan,
        account: account.id,
        conversation,
    };
    let mut remember: Vec<Remember> = Vec::new();
    let mut moves = false;
    for found in &located.found {
        let owner = match found.kind().strength() {
            Strength::Soft => soft.after(found),
            _ => soft.renewed(found, question),
        };
        if let Some(owner) = owner {
            moves |= found.kind().strength() == Strength::Soft
                && plan.by.is_none_or(|by| by == found.kind())
                && found.owner.is_some_and(|before| before.account != owner.account);
            remember.push(Remember {
                digest: found.reference.digest,
                owner,
            });
        }
    }
    let is_response = matches!(question.endpoint.role, Role::Generate(_));
    let lifetime = match is_response {
        true => gateway.settings.lifetimes.response,
        false => soft.object_ttl,
    };
    let path = located
        .found
        .first()
        .filter(|found| found.kind() == ReferenceKind::Path);
    let deletes = path.filter(|_| question.endpoint.role == Role::Delete);
    let remember = ToRemember {
        scope: question.scope.clone(),
        account: account.id,
        conversation,
        expires_at_ms: expiry(now, lifetime),
        keeps: Keeps::of(question, envelope, account.kind),
        soft: remember,
        follows: followed(&located.found),
        deletes: deletes.map(|found| found.reference.digest),
        connection: None,
        in_background: envelope.background && question.endpoint.api() == Some(Api::Responses),
        owed: None,
        response_is_known: false,
        other_ids_known: 0,
        items_known: 0,
        sealed_known: 0,
    };
    (remember, moves)
}

/// What becomes of preferences after a turn on an account.
struct Soft<'a> {
    now: i64,
    session_ttl: Duration,
    object_ttl: Duration,
    detour_ms: i64,
    plan: &'a Plan,
    account: AccountId,
    conversation: ConversationId,
}

impl Soft<'_> {
    /// The new owner of a soft reference; `None` where the old one stays as it is written.
    fn after(&self, found: &Found) -> Option<Owner> {
        if found.kind() == ReferenceKind::ItemId {
            return None;
        }
        let lifetime = match found.kind() {
            ReferenceKind::Objects => self.object_ttl,
            _ => self.session_ttl,
        };
        let here = Owner {
            account: self.account,
            conversation: self.conversation,
            expires_at_ms: expiry(self.now, lifetime),
            detour_since_ms: None,
            connection: None,
        };
        let Some(before) = found.owner else {
            // A detour of another preference leaves no trace of its own.
            return (!self.is_detour()).then_some(here);
        };
        if before.account == self.account {
            let is_stale = self.is_stale(&before, lifetime);
            let changed = before.conversation != self.conversation || before.detour_since_ms.is_some();
            return (is_stale || changed).then_some(here);
        }
        if self.is_detour() {
            if self.plan.by != Some(found.kind()) {
                return None;
            }
            return match before.detour_since_ms {
                Some(since) if self.now - since >= self.detour_ms => Some(here),
                Some(_) => None,
                None => Some(Owner {
                    detour_since_ms: Some(self.now),
                    ..before
                }),
            };
        }
        // Something stronger led here, or its home is gone: a weaker preference follows only where
        // it is alone, so that agents that share a key do not pull it to and fro.
        let leads = self.plan.by.is_none_or(|by| by.strength() != Strength::Soft);
        leads.then_some(here)
    }

    fn is_detour(&self) -> bool {
        match &self.plan.decision {
            Decision::Preferred(preferred) => *preferred != self.account,
            // One of the same state domain stood in.
            Decision::Pinned(members) => members.first().is_some_and(|home| *home != self.account),
            _ => false,
        }
    }

    /// A thing that is used lives on.
    fn renewed(&self, found: &Found, question: &Question) -> Option<Owner> {
        let lives_on = match found.kind() {
            ReferenceKind::Path => {
                question.endpoint.role != Role::Delete && !question.endpoint.name.starts_with("/responses")
            }
            ReferenceKind::Conversation | ReferenceKind::File | ReferenceKind::VectorStore => true,
            _ => false,
        };
        let before = found.owner.filter(|_| lives_on)?;
        self.is_stale(&before, self.object_ttl).then(|| Owner {
            expires_at_ms: expiry(self.now, self.object_ttl),
            ..before
        })
    }

    /// Whether so much of its life has passed that it is written down anew.
    fn is_stale(&self, before: &Owner, lifetime: Duration) -> bool {
        let lifetime_ms = millis(lifetime);
        before.expires_at_ms - self.now
            < lifetime_ms - lifetime_ms / i64::from(limits::SESSION_REFRESH_DIVISOR)
    }
}

/// The response that a request follows, as it is remembered.
pub(super) fn followed(found: &[Found]) -> Option<[u8; 16]> {
    let known = |found: &&Found| found.kind() == ReferenceKind::Response && found.owner.is_some();
    Some(found.iter().find(known)?.reference.digest)
}

/// The end of a lifetime, rounded up by a small share of it: references of about the same time expire
/// together, and stand together in the index of the sweep.
fn expiry(now_ms: i64, lifetime: Duration) -> i64 {
    let lifetime_ms = millis(lifetime);
    let step_ms = (lifetime_ms / i64::from(limits::EXPIRY_STEPS)).max(1);
    let end_ms = now_ms.saturating_add(lifetime_ms);
    end_ms - end_ms % step_ms + step_ms
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

impl ToRemember {
    /// Another response follows in the same answer.
    pub(super) fn goes_on(&mut self) {
        self.response_is_known = false;
        self.other_ids_known = 0;
        self.items_known = 0;
        self.sealed_known = 0;
    }

    /// What the answer has told since the last call, ready to be written.
    pub(super) fn take_new(&mut self, facts: &Facts) -> Vec<Remember> {
        let new_response = facts.response_id.as_ref().filter(|_| !self.response_is_known);
        let new_ids = &facts.other_ids[self.other_ids_known..];
        let new_items = &facts.items[self.items_known..];
        let new_sealed = &facts.sealed[self.sealed_known..];
        if new_response.is_none() && new_ids.is_empty() && new_items.is_empty() && new_sealed.is_empty() {
            return Vec::new();
        }
        let owner = Owner {
            account: self.account,
            conversation: self.conversation,
            expires_at_ms: self.expires_at_ms,
            detour_since_ms: None,
            connection: None,
        };
        let scope = &self.scope;
        let remember = |kind, value: &[u8]| Remember {
            digest: Reference::new(scope, kind, value).digest,
            owner,
        };
        let mut list: Vec<Remember> = self.soft.drain(..).collect();
        if self.keeps != Keeps::Nothing {
            list.extend(new_response.into_iter().chain(new_ids).map(|id| {
                let mut response = remember(ReferenceKind::Response, id.as_bytes());
                response.owner.connection = self.connection;
                response
            }));
            list.extend(
                new_sealed
                    .iter()
                    .map(|digest| remember(ReferenceKind::Reasoning, digest)),
            );
        }
        if let Some(id) = new_response.filter(|_| self.in_background) {
            let digest = Reference::owed_figures(scope, id).digest;
            list.push(Remember { digest, owner });
            self.owed = Some(digest);
        }
        if self.keeps == Keeps::All {
            list.extend(
                new_items
                    .iter()
                    .map(|id| remember(ReferenceKind::Item, id.as_bytes())),
            );
        }
        self.response_is_known = facts.response_id.is_some();
        self.other_ids_known = facts.other_ids.len();
        self.items_known = facts.items.len();
        self.sealed_known = facts.sealed.len();
        list
    }
}
