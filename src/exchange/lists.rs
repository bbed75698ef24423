//! Lists that no single account owns: `GET /v1/files` and the like are the union of all accounts, in
//! order, page by page.
//!
//! A page ends with an id, and the next one begins after it. In the account that holds it, that is a
//! place; in the others it is a time, up to which they are skipped. Nothing is kept between two pages,
//! so a list goes on after a restart. A page before an id is the page after it in the other order,
//! turned round.
//!
//! A list is whole or it is an error: with something missing it would look as if that had been
//! deleted, and who keeps their own books by it would delete, too. Only what a person has switched
//! off is left out.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::account::{Account, Kind, Switch, Usability};
use crate::affinity::{AccountView, Reference, ReferenceKind};
use crate::clock::now_ms;
use crate::error::Error;
use crate::limits;
use crate::request::endpoint::Endpoint;

use super::models::fetched;
use super::{Gateway, Question};

/// What a client asks of a list.
struct Wanted {
    /// All of the query but for order, and where the page begins and how long it is.
    filters: Vec<String>,
    limit: usize,
    ascending: bool,
    /// Whether the list can be had either way round.
    is_ordered: bool,
    /// The id that the page follows, in the direction in which it is read.
    after: Option<String>,
    /// Whether it is read against its order, because it is to end before an id.
    is_turned: bool,
}

/// An item of a list, as its account wrote it.
struct Item {
    id: String,
    created_at: i64,
    entry: Box<RawValue>,
}

/// The items of one state domain, from where the page begins.
struct Source {
    /// Those that can tell them, each as well as the others.
    accounts: Vec<Arc<Account>>,
    /// Its place among the domains, which orders what was made in the same second.
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
/// If a state domain that could hold some of it does not answer.
pub async fn page(gateway: &Gateway, question: &Question) -> Result<Bytes, Error> {
    let wanted = Wanted::read(question)?;
    let mut sources = sources(gateway);
    if sources.is_empty() {
        return Err(Error::NoAccounts);
    }
    let end = match &wanted.after {
        None => None,
        Some(after) => Some(find_end(gateway, question, &wanted, &mut sources, after).await?),
    };
    let mut page: Vec<Item> = Vec::new();
    let mut fetches = 0;
    while fill(
        gateway,
        question,
        &wanted,
        end.as_ref(),
        &mut sources,
        &mut fetches,
    )
    .await?
    {
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
    if page.is_empty() && has_more {
        return Err(Error::ListTooLong);
    }
    if wanted.is_turned {
        page.reverse();
    }
    Ok(told(&page, has_more))
}

/// Fetches until every domain has an item to compare, or no more. Not so, if that takes too many
/// fetches: then nobody knows which item is the next.
async fn fill(
    gateway: &Gateway,
    question: &Question,
    wanted: &Wanted,
    end: Option<&End>,
    sources: &mut [Source],
    fetches: &mut usize,
) -> Result<bool, Error> {
    loop {
        let is_empty = |source: &&mut Source| source.items.is_empty() && source.has_more;
        let empty: Vec<&mut Source> = sources.iter_mut().filter(is_empty).collect();
        if empty.is_empty() {
            return Ok(true);
        }
        *fetches += empty.len();
        if *fetches > limits::LIST_FETCHES_MAX {
            return Ok(false);
        }
        let fetched = empty
            .into_iter()
            .map(|source| source.fetch(gateway, question, wanted, end));
        try_join_all(fetched).await?;
    }
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

/// The accounts of every state domain, those first that can be used now: all of them list the same.
/// What a person has switched off is not there for clients, and logins have no lists.
fn sources(gateway: &Gateway) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    let mut views = gateway.view(None).here;
    let lists = |account: &Account| account.switch != Switch::Off && account.kind != Kind::Codex;
    views.retain(|view| lists(&view.account));
    // In the order of the accounts, whoever is away: a page must begin where the one before ended.
    for view in &views {
        let domain = &view.account.state_domain;
        if sources
            .iter()
            .any(|source| source.accounts[0].state_domain == *domain)
        {
            continue;
        }
        let of_domain = views.iter().filter(|other| other.account.state_domain == *domain);
        let (usable, others): (Vec<&AccountView>, Vec<&AccountView>) =
            of_domain.partition(|other| other.usability == Usability::Usable);
        let accounts = usable.into_iter().chain(others);
        sources.push(Source {
            accounts: accounts.map(|view| view.account.clone()).collect(),
            position: sources.len(),
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
    wanted: &Wanted,
    sources: &mut [Source],
    after: &str,
) -> Result<End, Error> {
    let unknown = || Error::NotFound {
        thing: question.endpoint.thing(),
        id: after.to_owned(),
        parameter: Some(if wanted.is_turned { "before" } else { "after" }),
    };
    let reference = Reference::new(&question.scope, ReferenceKind::Path, after.as_bytes());
    let owner = gateway.store.owners(&[reference], now_ms()).await;
    let owner = owner.map_err(|error| Error::StoreUnreadable(error.to_string()))?[0];
    if owner.is_none() && !question.one_scope {
        return Err(unknown());
    }
    let path = format!("{}/{after}", question.path);
    // A path that leads elsewhere is none.
    let path_is_plain =
        Endpoint::of(&Method::GET, &path).is_some_and(|endpoint| endpoint.id.as_deref() == Some(after));
    if !path_is_plain {
        return Err(unknown());
    }
    let accounts = gateway.view(None);
    let home = owner.and_then(|owner| accounts.state_domain(owner.account));
    for source in sources {
        if home.is_some_and(|home| *home != source.accounts[0].state_domain) {
            continue;
        }
        match source.told(gateway, &path).await {
            Ok(body) => {
                if let Some(item) = Item::read(serde_json::from_slice(&body).ok()) {
                    source.after = Some(item.id);
                    return Ok(End {
                        position: source.position,
                        created_at: item.created_at,
                    });
                }
            }
            Err(Error::NoSuchPath) => {}
            Err(error) => return Err(error),
        }
    }
    Err(unknown())
}

/// Takes the item that comes next of all. What was made in the same second is in the order of the
/// domains, or against it: either way round it is one order.
fn next(sources: &mut [Source], ascending: bool) -> Option<Item> {
    let first = sources
        .iter_mut()
        .filter(|source| !source.items.is_empty())
        .min_by_key(|source| {
            let created_at = source.items.front().map_or(0, |item| item.created_at);
            let position = i64::try_from(source.position).unwrap_or(i64::MAX);
            match ascending {
                true => (created_at, position),
                false => (created_at.saturating_neg(), -position),
            }
        })?;
    first.items.pop_front()
}

impl Source {
    /// What the first account of the domain that answers says.
    async fn told(&self, gateway: &Gateway, path: &str) -> Result<Bytes, Error> {
        let mut last = Error::NoAccounts;
        for account in &self.accounts {
            match fetched(gateway, account, path.to_owned(), limits::ASKING).await {
                Err(Error::Unavailable { account, reason }) => last = Error::ListNotWhole { account, reason },
                // That it has no such thing is an answer, too.
                told => return told,
            }
        }
        Err(last)
    }

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
        if wanted.is_ordered {
            let order = if wanted.ascending { "asc" } else { "desc" };
            query.push(format!("order={order}"));
        }
        if let Some(after) = &self.after {
            query.push(format!("after={after}"));
        }
        let path = format!("{}?{}", question.path, query.join("&"));
        let body = match self.told(gateway, &path).await {
            // Servers other than OpenAI's have not everything.
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
            end.is_none_or(|end| {
                let place = (item.created_at, self.position).cmp(&(end.created_at, end.position));
                // Behind the end itself its own account begins.
                place.is_eq() || place.is_gt() == wanted.ascending
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
    fn read(question: &Question) -> Result<Wanted, Error> {
        let mut wanted = Wanted {
            filters: Vec::new(),
            limit: limits::LIST_LIMIT,
            ascending: question.endpoint.oldest_first().unwrap_or(false),
            is_ordered: question.endpoint.oldest_first().is_some(),
            after: None,
            is_turned: false,
        };
        let query = question.query.as_deref().unwrap_or_default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let refused = |reason| Error::Parameter {
                parameter: match name {
                    "limit" => "limit",
                    "before" => "before",
                    _ => "after",
                },
                reason,
            };
            match name {
                "limit" => {
                    let limit: usize = value.parse().map_err(|_| refused("is no number"))?;
                    wanted.limit = limit.clamp(1, limits::LIST_LIMIT_MAX);
                }
                "before" if !wanted.is_ordered => {
                    return Err(refused("is not known to this list: it has one order only"));
                }
                "after" | "before" if wanted.after.is_some() => {
                    return Err(refused("can be there once, and not together with the other"));
                }
                "after" | "before" => {
                    wanted.after = Some(value.to_owned());
                    wanted.is_turned = name == "before";
                }
                "order" if wanted.is_ordered => wanted.ascending = value == "asc",
                _ => wanted.filters.push(pair.to_owned()),
            }
        }
        wanted.ascending ^= wanted.is_turned;
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
