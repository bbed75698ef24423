//! Lists that no single account owns: `GET /v1/files` and the like are the union of all accounts, in
//! order, page by page.
//!
//! A page ends with an id, and the next one begins after it. In the account that holds it, that is a
//! place; in the others it is a time, up to which they are skipped. Nothing is kept between two pages,
//! so a list goes on after a restart.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::account::{Account, Kind, Usability};
use crate::affinity::{Reference, ReferenceKind};
use crate::clock::now_ms;
use crate::error::Error;
use crate::limits;

use super::models::fetched;
use super::{Gateway, Question};

/// What a client asks of a list.
struct Wanted {
    /// All of the query but for where the page begins and how long it is.
    filters: Vec<String>,
    limit: usize,
    ascending: bool,
    after: Option<String>,
}

/// An item of a list, as its account wrote it.
struct Item {
    id: String,
    created_at: i64,
    entry: Box<RawValue>,
}

/// The items of one account, from where the page begins.
struct Source {
    account: Arc<Account>,
    /// Its place among the accounts, which orders what was made in the same second.
    position: usize,
    items: VecDeque<Item>,
    after: Option<String>,
    has_more: bool,
}

/// Where the page before ended.
struct End {
    position: usize,
    created_at: i64,
}

/// Whether one account's list is the whole list, so that it can pass as it is.
pub fn is_whole(gateway: &Gateway, question: &Question) -> bool {
    question.one_scope && sources(gateway).len() <= 1
}

/// One page of the union.
///
/// # Errors
/// If an account that could hold some of it does not answer: a list with something missing would
/// look like one from which it was deleted.
pub async fn page(gateway: &Gateway, question: &Question) -> Result<Bytes, Error> {
    let wanted = Wanted::read(question.query.as_deref().unwrap_or_default())?;
    let mut sources = sources(gateway);
    if sources.is_empty() {
        return Err(Error::NoAccounts);
    }
    let end = match &wanted.after {
        None => None,
        Some(after) => Some(find_end(gateway, question, &mut sources, after).await?),
    };
    let mut page: Vec<Item> = Vec::new();
    let mut fetches = 0;
    loop {
        for source in &mut sources {
            while source.items.is_empty() && source.has_more && fetches < limits::LIST_FETCHES_MAX {
                fetches += 1;
                source.fetch(gateway, question, &wanted, end.as_ref()).await?;
            }
        }
        if page.len() == wanted.limit {
            break;
        }
        let Some(item) = next(&mut sources, wanted.ascending) else {
            break;
        };
        page.push(item);
    }
    let has_more = sources
        .iter()
        .any(|source| !source.items.is_empty() || source.has_more);
    Ok(told(&page, has_more))
}

fn told(page: &[Item], has_more: bool) -> Bytes {
    let entries: Vec<&str> = page.iter().map(|item| item.entry.get()).collect();
    let id = |item: Option<&Item>| serde_json::Value::from(item.map(|item| item.id.clone()));
    format!(
        "{{\"object\":\"list\",\"data\":[{}],\"first_id\":{},\"last_id\":{},\"has_more\":{has_more}}}",
        entries.join(","),
        id(page.first()),
        id(page.last()),
    )
    .into()
}

/// One account of every state domain: those of one domain list the same.
fn sources(gateway: &Gateway) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for view in gateway.view(None) {
        let domain = &view.account.state_domain;
        let known = sources
            .iter()
            .any(|source| source.account.state_domain == *domain);
        let lists = view.account.kind != Kind::Codex;
        if known || !lists || view.usability == Usability::Never {
            continue;
        }
        sources.push(Source {
            position: sources.len(),
            account: view.account,
            items: VecDeque::new(),
            after: None,
            has_more: true,
        });
    }
    sources
}

/// Finds the item that the page before ended with, and lets its account go on behind it.
async fn find_end(
    gateway: &Gateway,
    question: &Question,
    sources: &mut [Source],
    after: &str,
) -> Result<End, Error> {
    let unknown = || Error::NotFound {
        thing: question.endpoint.thing(),
        id: after.to_owned(),
        parameter: Some("after"),
    };
    let reference = Reference::new(&question.scope, ReferenceKind::Path, after.as_bytes());
    let owner = gateway.store.owners(&[reference], now_ms()).await;
    let owner = owner.map_err(|error| Error::StoreUnreadable(error.to_string()))?[0];
    if owner.is_none() && !question.one_scope {
        return Err(unknown());
    }
    let path = format!("{}/{after}", question.path);
    // A path that leads elsewhere is none.
    let path_is_plain = crate::request::endpoint::Endpoint::of(&Method::GET, &path)
        .is_some_and(|endpoint| endpoint.id.as_deref() == Some(after));
    if !path_is_plain {
        return Err(unknown());
    }
    for source in sources {
        let is_owner = owner.is_none_or(|owner| owner.account == source.account.id);
        if !is_owner && owner.is_some() {
            continue;
        }
        if let Ok(body) = fetched(gateway, &source.account, path.clone(), limits::ASKING).await
            && let Some(item) = Item::read(serde_json::from_slice(&body).ok())
        {
            source.after = Some(item.id);
            return Ok(End {
                position: source.position,
                created_at: item.created_at,
            });
        }
    }
    Err(unknown())
}

/// Takes the item that comes next of all.
fn next(sources: &mut [Source], ascending: bool) -> Option<Item> {
    let first = sources
        .iter_mut()
        .filter(|source| !source.items.is_empty())
        .min_by_key(|source| {
            let created_at = source.items.front().map_or(0, |item| item.created_at);
            (if ascending { created_at } else { -created_at }, source.position)
        })?;
    first.items.pop_front()
}

impl Source {
    /// Fetches the next page, without what comes before the end of the last one, and without what
    /// is another scope's.
    async fn fetch(
        &mut self,
        gateway: &Gateway,
        question: &Question,
        wanted: &Wanted,
        end: Option<&End>,
    ) -> Result<(), Error> {
        let mut query = wanted.filters.clone();
        query.push(format!("limit={}", limits::LIST_PAGE));
        if let Some(after) = &self.after {
            query.push(format!("after={after}"));
        }
        let path = format!("{}?{}", question.path, query.join("&"));
        let body = match fetched(gateway, &self.account, path, limits::ASKING).await {
            Err(Error::NoSuchPath) => Bytes::from_static(b"{}"),
            body => body?,
        };
        let read: Page<'_> = serde_json::from_slice(&body).unwrap_or_default();
        let items: Vec<Item> = read
            .data
            .into_iter()
            .filter_map(|entry| Item::read(Some(entry)))
            .collect();
        let last = items.last().map(|item| item.id.clone());
        self.has_more = read.has_more && last.is_some() && last != self.after;
        self.after = last.or(self.after.take());
        let is_later = |item: &Item| {
            end.is_none_or(|end| match item.created_at.cmp(&end.created_at) {
                std::cmp::Ordering::Equal => self.position >= end.position,
                order => (order == std::cmp::Ordering::Greater) == wanted.ascending,
            })
        };
        let items: Vec<Item> = items.into_iter().filter(is_later).collect();
        self.items = match question.one_scope {
            true => items.into(),
            false => own(gateway, question, items).await?,
        };
        Ok(())
    }
}

/// The items that were made in the client's scope.
async fn own(gateway: &Gateway, question: &Question, items: Vec<Item>) -> Result<VecDeque<Item>, Error> {
    let reference = |item: &Item| Reference::new(&question.scope, ReferenceKind::Path, item.id.as_bytes());
    let references: Vec<Reference> = items.iter().map(reference).collect();
    let owners = gateway.store.owners(&references, now_ms()).await;
    let owners = owners.map_err(|error| Error::StoreUnreadable(error.to_string()))?;
    let items = items.into_iter().zip(owners);
    Ok(items.filter_map(|(item, owner)| owner.map(|_| item)).collect())
}

impl Wanted {
    fn read(query: &str) -> Result<Wanted, Error> {
        let mut wanted = Wanted {
            filters: Vec::new(),
            limit: limits::LIST_LIMIT,
            ascending: false,
            after: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("limit", limit) => {
                    let limit: usize = limit.parse().map_err(|_| Error::Parameter {
                        parameter: "limit",
                        reason: "is no number",
                    })?;
                    wanted.limit = limit.clamp(1, limits::LIST_LIMIT_MAX);
                }
                ("after", after) => wanted.after = Some(after.to_owned()),
                ("before", _) => {
                    return Err(Error::Parameter {
                        parameter: "before",
                        reason: "is not known to a list of several accounts; page with 'after'",
                    });
                }
                (name, value) => {
                    wanted.ascending |= (name, value) == ("order", "asc");
                    wanted.filters.push(pair.to_owned());
                }
            }
        }
        Ok(wanted)
    }
}

impl Item {
    fn read(entry: Option<&RawValue>) -> Option<Item> {
        let entry = entry?;
        let head: Head = serde_json::from_str(entry.get()).ok()?;
        Some(Item {
            id: head.id,
            created_at: head.created_at.or(head.created).unwrap_or(0),
            entry: entry.to_owned(),
        })
    }
}

#[derive(Deserialize)]
struct Head {
    id: String,
    created_at: Option<i64>,
    created: Option<i64>,
}

#[derive(Deserialize, Default)]
struct Page<'a> {
    #[serde(default, borrow)]
    data: Vec<&'a RawValue>,
    #[serde(default)]
    has_more: bool,
}
