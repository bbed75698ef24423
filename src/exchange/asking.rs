//! Ids that nobody knows: whose they may be, and how their owner is found.
//!
//! An id that is known in another scope is as unknown as one that never existed: the accounts are
//! asked for both alike, and both get the same answer in the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use http::{HeaderMap, Method};

use crate::account::{Account, AccountId, Kind, Usability};
use crate::affinity::{AccountView, Accounts, ConversationId, Owner, Reference, ReferenceKind};
use crate::clock::now_ms;
use crate::error::Error;
use crate::limits;
use crate::request::Named;
use crate::store::requests::Affinity;
use crate::store::{Remember, Work};
use crate::upstream::http::{Outgoing, OutgoingBody};

use super::references::Located;
use super::{Gateway, Question, Record};

/// Ids that were asked for and not found, for a short while, so that a client that tries again and
/// again does not make the accounts pay for it.
#[derive(Debug, Default)]
pub struct Unfound(Mutex<HashMap<[u8; 16], i64>>);

impl Unfound {
    fn holds(&self, id: &Reference, now_ms: i64) -> bool {
        let unfound = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unfound.get(&id.digest).is_some_and(|until_ms| now_ms < *until_ms)
    }

    fn add(&self, id: &Reference, now_ms: i64) {
        let mut unfound = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if unfound.len() >= limits::UNFOUND_MAX {
            unfound.retain(|_, until_ms| now_ms < *until_ms);
        }
        if unfound.len() < limits::UNFOUND_MAX {
            let lifetime_ms = i64::try_from(limits::UNFOUND_TTL.as_millis()).unwrap_or(0);
            unfound.insert(id.digest, now_ms + lifetime_ms);
        }
    }
}

/// Whether any of these ids is known, in whatever scope.
///
/// # Errors
/// If the database cannot be read.
pub async fn is_anyones(gateway: &Gateway, ids: &[Named]) -> Result<bool, Error> {
    let references = ids.iter().map(|id| Reference::new("", id.kind, id.id.as_bytes()));
    let known = gateway.store.first_known_in_any_scope(references.collect()).await;
    let known = known.map_err(|error| Error::StoreUnreadable(error.to_string()))?;
    Ok(known.is_some())
}

/// Refuses a request that points at what is known in another scope only, wherever in it that is:
/// beside references of its own it would come to the account that holds it.
pub(super) async fn shield(
    gateway: &Gateway,
    question: &Question,
    located: &Located,
    record: &mut Record,
) -> Result<(), Error> {
    // An item that is sent whole gives nothing away by its id.
    let is_unknown = |position: &usize| {
        let found = &located.found[*position];
        let is_id = !located.texts[*position].is_empty();
        found.owner.is_none() && is_id && found.kind() != ReferenceKind::ItemId
    };
    let unknown: Vec<usize> = (0..located.found.len()).filter(is_unknown).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let ids = unknown.iter().map(|position| located.found[*position].reference);
    let foreign = gateway.store.first_known_in_any_scope(ids.collect()).await;
    let foreign = foreign.map_err(|error| Error::StoreUnreadable(error.to_string()))?;
    let Some(position) = foreign.map(|index| unknown[index]) else {
        return Ok(());
    };
    let row = record.row();
    row.affinity = Affinity::Unknown;
    row.affinity_by = Some(located.found[position].kind());
    // As for an id that never existed, and to the same end.
    ask(gateway, question, located, position).await;
    // Also where it is known to exist: asked again, it takes no longer than one that never did.
    gateway.unfound.add(&located.found[position].reference, now_ms());
    Err(located.not_found(position, question))
}

/// Asks the accounts who holds the id at this position, and writes down who does.
///
/// # Errors
/// If nobody does, in the words of the upstream.
pub(super) async fn find_owner(
    gateway: &Gateway,
    question: &Question,
    located: &mut Located,
    position: usize,
) -> Result<(), Error> {
    let Some(account) = ask(gateway, question, located, position).await else {
        return Err(located.not_found(position, question));
    };
    let lifetime = match located.found[position].kind() {
        ReferenceKind::Response | ReferenceKind::Item => gateway.settings.lifetimes.response,
        _ => gateway.settings.object_ttl,
    };
    let owner = Owner {
        account,
        conversation: ConversationId::new(),
        expires_at_ms: now_ms() + i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX / 4),
        detour_since_ms: None,
        connection: None,
    };
    let remember = Remember {
        digest: located.found[position].reference.digest,
        owner,
    };
    let work = Work {
        remember: vec![remember],
        ..Work::default()
    };
    gateway.store.write(work).await.ok();
    located.found[position].owner = Some(owner);
    Ok(())
}

/// Asks one account of every state domain at once, for a bounded time.
async fn ask(
    gateway: &Gateway,
    question: &Question,
    located: &Located,
    position: usize,
) -> Option<AccountId> {
    let found = &located.found[position];
    let now = now_ms();
    if !gateway.settings.ask_around || gateway.unfound.holds(&found.reference, now) {
        return None;
    }
    let path = path_of(found.kind(), &located.texts[position], question)?;
    let asked = one_of_each_domain(&gateway.view(None).here);
    let answers = join_all(asked.iter().map(async |account| {
        let outgoing = Outgoing {
            method: Method::GET,
            path_and_query: path.clone(),
            headers: HeaderMap::new(),
            body: OutgoingBody::Pieces(Vec::new()),
        };
        let answer = tokio::time::timeout(limits::ASKING, gateway.upstream.send(account, outgoing)).await;
        matches!(answer, Ok(Ok(incoming)) if incoming.status.is_success())
    }));
    let holds = answers.await;
    let owner = asked.iter().zip(holds).find(|(_, holds)| *holds);
    if owner.is_none() {
        gateway.unfound.add(&found.reference, now);
    }
    owner.map(|(account, _)| account.id)
}

fn one_of_each_domain(accounts: &[AccountView]) -> Vec<Arc<Account>> {
    let mut asked: Vec<Arc<Account>> = Vec::new();
    let usable = accounts
        .iter()
        // A ChatGPT login keeps nothing that could be asked for.
        .filter(|view| view.usability != Usability::Never && view.account.kind != Kind::Codex);
    for AccountView { account, .. } in usable {
        let known = asked
            .iter()
            .any(|other| other.state_domain == account.state_domain);
        if !known && asked.len() < limits::ASKED_MAX {
            asked.push(account.clone());
        }
    }
    asked
}

/// Where an account tells whether it holds an id; `None` where there is no such place.
fn path_of(kind: ReferenceKind, id: &str, question: &Question) -> Option<String> {
    let collection = match kind {
        ReferenceKind::Path => question.endpoint.name.split("/{id}").next()?,
        ReferenceKind::Response => "/responses",
        ReferenceKind::Conversation => "/conversations",
        ReferenceKind::File => "/files",
        ReferenceKind::VectorStore => "/vector_stores",
        ReferenceKind::Container => "/containers",
        _ => return None,
    };
    let mut path = format!("{collection}/");
    for byte in id.bytes() {
        match byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            true => path.push(char::from(byte)),
            false => path.push_str(&format!("%{byte:02X}")),
        }
    }
    // A segment of dots only would lead elsewhere, however it is written.
    (id.bytes().any(|byte| byte != b'.')).then_some(path)
}

impl Located {
    /// That nobody knows the id at this position.
    fn not_found(&self, position: usize, question: &Question) -> Error {
        let id = self.texts[position].clone();
        let kind = self.found[position].kind();
        let (thing, parameter) = match kind {
            ReferenceKind::Response => return Error::PreviousResponseNotFound(id),
            ReferenceKind::Item | ReferenceKind::ItemId | ReferenceKind::Reasoning => {
                return Error::ItemNotFound(id);
            }
            ReferenceKind::Path => (question.endpoint.thing(), None),
            ReferenceKind::Conversation => ("Conversation", Some("conversation")),
            ReferenceKind::File => ("File", Some("input")),
            ReferenceKind::VectorStore => ("Vector store", Some("tools")),
            ReferenceKind::Container => ("Container", Some("tools")),
            _ => ("Object", None),
        };
        let parameter = parameter.filter(|_| question.endpoint.api().is_some());
        Error::NotFound { thing, id, parameter }
    }

    /// That two references name different places.
    pub(super) fn conflict(&self, first: usize, second: usize, accounts: &Accounts) -> Error {
        let side = |position: usize| {
            let found = &self.found[position];
            let account = found.owner.and_then(|owner| accounts.name(owner.account));
            let account = account.unwrap_or("an account");
            let text = match self.texts[position].as_str() {
                "" => String::new(),
                id => format!(" '{id}'"),
            };
            format!("{}{text} (on '{account}')", found.kind().as_str())
        };
        Error::Conflict {
            first: side(first),
            second: side(second),
        }
    }
}
