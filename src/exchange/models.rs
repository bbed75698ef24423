//! Which account has which model, and the union of all.
//!
//! The lists are fetched when the gateway starts and when accounts are added, and again in the
//! background now and then; the old ones hold as long as an account does not answer. What an upstream
//! says of itself goes before its list, and where nobody lists a model, the upstreams have the word.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Method};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::account::{Account, AccountId, Kind, Usability};
use crate::clock::now_ms;
use crate::error::Error;
use crate::limits;
use crate::upstream::http::{Outgoing, OutgoingBody};

use super::Gateway;

/// The lists of all accounts, as far as they are known.
#[derive(Debug, Default)]
pub struct Models {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By account and the query of the list: Codex asks with its version, and gets another shape.
    lists: HashMap<(AccountId, Option<String>), Arc<List>>,
    /// Models that an account said it does not have, until then.
    refused: HashMap<(AccountId, String), i64>,
}

/// The list of one account.
#[derive(Debug)]
struct List {
    models: Vec<Model>,
    fetched_at_ms: i64,
}

#[derive(Debug)]
struct Model {
    id: String,
    /// The entry as the account wrote it.
    entry: Box<RawValue>,
}

impl Models {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an account has a model; `None` where nobody has said.
    pub(super) fn offers(&self, account: AccountId, model: &str, now_ms: i64) -> Option<bool> {
        let known = self.read();
        if known.lists.is_empty() && known.refused.is_empty() {
            return None;
        }
        let refused = known.refused.get(&(account, model.to_owned()));
        if refused.is_some_and(|until_ms| now_ms < *until_ms) {
            return Some(false);
        }
        // Some servers list nothing, and have models all the same.
        let list = known.lists.get(&(account, None));
        let list = list.filter(|list| !list.models.is_empty())?;
        Some(list.models.iter().any(|known| known.id == model))
    }

    /// Takes note that an account said it does not have a model.
    pub(super) fn refused(&self, account: AccountId, model: &str, now_ms: i64) {
        let mut known = self.write();
        if known.refused.len() >= limits::REFUSED_MODELS_MAX {
            known.refused.retain(|_, until_ms| now_ms < *until_ms);
        }
        if known.refused.len() < limits::REFUSED_MODELS_MAX {
            let lifetime_ms = i64::try_from(limits::MODELS_REFRESH.as_millis()).unwrap_or(0);
            known
                .refused
                .insert((account, model.to_owned()), now_ms + lifetime_ms);
        }
    }

    fn list(&self, account: AccountId, version: Option<&str>) -> Option<Arc<List>> {
        let key = (account, version.map(str::to_owned));
        self.read().lists.get(&key).cloned()
    }

    fn put(&self, account: AccountId, version: Option<&str>, list: List) {
        let mut known = self.write();
        let versions = known
            .lists
            .keys()
            .filter(|(_, version)| version.is_some())
            .count();
        if version.is_some() && versions >= limits::MODEL_LISTS_MAX {
            known.lists.retain(|(_, version), _| version.is_none());
        }
        known
            .lists
            .insert((account, version.map(str::to_owned)), Arc::new(list));
    }
}

/// The union of what the accounts offer, in the order of the accounts; an entry of the first that has
/// it. `version` is what Codex asks with; then only what accounts themselves list in its shape is
/// there, because an entry with something missing would cost Codex the whole list.
///
/// # Errors
/// If no account has ever answered.
pub async fn union(gateway: &Arc<Gateway>, version: Option<&str>) -> Result<Bytes, Error> {
    let accounts = serving(gateway);
    if accounts.is_empty() {
        return Err(Error::NoAccounts);
    }
    let now = now_ms();
    let refresh_ms = i64::try_from(limits::MODELS_REFRESH.as_millis()).unwrap_or(i64::MAX);
    let list = |account: &Arc<Account>| gateway.models.list(account.id, version);
    let missing: Vec<Arc<Account>> = accounts
        .iter()
        .filter(|account| list(account).is_none())
        .cloned()
        .collect();
    let failures = join_all(missing.iter().map(|account| fetch(gateway, account, version))).await;
    let stale: Vec<Arc<Account>> = accounts
        .iter()
        .filter(|account| list(account).is_some_and(|list| now - list.fetched_at_ms > refresh_ms))
        .cloned()
        .collect();
    if !stale.is_empty() {
        let (gateway, version) = (gateway.clone(), version.map(str::to_owned));
        tokio::spawn(async move {
            join_all(
                stale
                    .iter()
                    .map(|account| fetch(&gateway, account, version.as_deref())),
            )
            .await;
        });
    }
    let lists: Vec<Arc<List>> = accounts.iter().filter_map(list).collect();
    if lists.is_empty() {
        let failure = failures.into_iter().find_map(Result::err);
        return Err(failure.unwrap_or(Error::NoAccounts));
    }
    let mut seen = HashSet::new();
    let entries: Vec<&str> = lists
        .iter()
        .flat_map(|list| &list.models)
        .filter(|model| seen.insert(&model.id))
        .map(|model| model.entry.get())
        .collect();
    let entries = entries.join(",");
    Ok(match version {
        Some(_) => format!("{{\"models\":[{entries}]}}"),
        None => format!("{{\"object\":\"list\",\"data\":[{entries}]}}"),
    }
    .into())
}

/// Fetches the lists of all accounts: for the background.
pub async fn refresh(gateway: &Gateway) {
    let accounts = serving(gateway);
    join_all(accounts.iter().map(|account| fetch(gateway, account, None))).await;
}

/// Fetches the lists that are missing, because their accounts are new.
pub async fn refresh_missing(gateway: &Gateway) {
    let is_missing = |account: &Arc<Account>| gateway.models.list(account.id, None).is_none();
    let accounts: Vec<Arc<Account>> = serving(gateway).into_iter().filter(is_missing).collect();
    join_all(accounts.iter().map(|account| fetch(gateway, account, None))).await;
}

fn serving(gateway: &Gateway) -> Vec<Arc<Account>> {
    let views = gateway.view(None).here.into_iter();
    let serves = |view: &crate::affinity::AccountView| view.usability != Usability::Never;
    views.filter(serves).map(|view| view.account).collect()
}

/// Fetches the list of one account. What is known stays if it does not answer.
async fn fetch(gateway: &Gateway, account: &Account, version: Option<&str>) -> Result<(), Error> {
    // The backend of ChatGPT logins lists them for versions of Codex CLI only.
    let asked = version.or((account.kind == Kind::Codex).then_some(CODEX_VERSION));
    let query = asked.map_or(String::new(), |version| format!("?client_version={version}"));
    let path = format!("/models{query}");
    let body = fetched(gateway, account, path, limits::ASKING).await?;
    let entries: Entries<'_> = serde_json::from_slice(&body).unwrap_or_default();
    let entries = match asked {
        Some(_) => entries.models,
        None => entries.data,
    };
    let model = |entry: &RawValue| {
        let named: Named = serde_json::from_str(entry.get()).ok()?;
        let id = named.id.or(named.slug)?;
        let entry = match asked == version {
            true => entry.to_owned(),
            false => openai_entry(&id)?,
        };
        Some(Model { id, entry })
    };
    let list = List {
        models: entries.into_iter().filter_map(model).collect(),
        fetched_at_ms: now_ms(),
    };
    gateway.models.put(account.id, version, list);
    Ok(())
}

/// The version of Codex CLI whose list of models is asked for where the client names none.
pub const CODEX_VERSION: &str = "0.169.0";

/// A model of a ChatGPT login, in the shape of OpenAI's list.
fn openai_entry(id: &str) -> Option<Box<RawValue>> {
    let entry = serde_json::json!({ "id": id, "object": "model", "created": 0, "owned_by": "openai" });
    RawValue::from_string(entry.to_string()).ok()
}

/// A small document of an account, read whole.
///
/// # Errors
/// If the account does not give it.
pub(super) async fn fetched(
    gateway: &Gateway,
    account: &Account,
    path_and_query: String,
    patience: std::time::Duration,
) -> Result<Bytes, Error> {
    let outgoing = Outgoing {
        method: Method::GET,
        path_and_query,
        headers: HeaderMap::new(),
        body: OutgoingBody::Pieces(Vec::new()),
    };
    let unavailable = |reason: String| Error::Unavailable {
        account: Some(account.name.clone()),
        reason,
    };
    let read = async {
        let mut incoming = gateway
            .upstream
            .send(account, outgoing)
            .await
            .map_err(|_| unavailable("it did not answer".to_owned()))?;
        if !incoming.status.is_success() {
            let status = incoming.status.as_u16();
            return match status {
                // Servers other than OpenAI's have not everything.
                404 | 405 | 501 => Err(Error::NoSuchPath),
                _ => Err(unavailable(format!("it answered with status {status}"))),
            };
        }
        let mut body = Vec::new();
        while let Some(piece) = incoming.body.next().await {
            body.extend_from_slice(&piece.map_err(unavailable)?);
            if body.len() > limits::LIST_PAGE_BYTES_MAX {
                return Err(unavailable("its list is too large".to_owned()));
            }
        }
        Ok(Bytes::from(body))
    };
    match tokio::time::timeout(patience, read).await {
        Ok(read) => read,
        Err(_) => Err(unavailable("it did not answer in time".to_owned())),
    }
}

#[derive(Deserialize, Default)]
struct Entries<'a> {
    #[serde(default, borrow)]
    data: Vec<&'a RawValue>,
    #[serde(default, borrow)]
    models: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Named {
    id: Option<String>,
    slug: Option<String>,
}
