//! Lists of requests and conversations, from the latest back, a page at a time.
//!
//! Whatever is looked for, one page costs a bounded amount of work: it looks at so many rows, and if
//! it has not found enough by then, it says how far it has come, and the next page goes on there.
//! Hours without a wanted request are known from the hourly sums and are passed over.

use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::Value;

use super::sums::HOUR_MS;
use super::{Rows, rows};
use crate::limits;
use crate::store::fold::Fold;
use crate::store::{StoreError, first_id_at};

/// What is looked for: all that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only before this request.
    pub before_id: Option<i64>,
    /// Not before that time, in milliseconds since 1970 UTC.
    pub from_ms: Option<i64>,
    /// Before that time.
    pub to_ms: Option<i64>,
    /// The name of the account.
    pub account: Option<String>,
    /// The name of the client key.
    pub client_key: Option<String>,
    /// The model that served, or was asked for.
    pub model: Option<String>,
    /// How the answer travelled.
    pub transport: Option<String>,
    /// How it ended; `errors` for all that did not end well.
    pub outcome: Option<String>,
    /// What became of the references; `astray` for all that did not go where they wanted.
    pub affinity: Option<String>,
    /// The conversation.
    pub conversation: Option<String>,
    /// A part of the error code.
    pub error: Option<String>,
}

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// The lines, the latest first.
    pub rows: Rows,
    /// Where the next page goes on: before this request. Nothing if there is no more.
    pub next_before_id: Option<i64>,
}

/// The word for all outcomes that are not well.
const ERRORS: &str = "errors";
/// The word for all requests that did not go where they wanted.
const ASTRAY: &str = "astray";

/// Requests, the latest first.
///
/// # Errors
/// If the database cannot be read.
pub fn requests(connection: &Connection, wanted: &Wanted, count: usize) -> Result<Page, StoreError> {
    let query = match (
        &wanted.conversation,
        wanted.outcome.as_deref(),
        wanted.affinity.as_deref(),
    ) {
        (Some(_), _, _) => include_str!("../../../sql/queries/walk_requests_of_conversation.sql"),
        (None, Some(outcome), _) if is_not_well(outcome) => {
            include_str!("../../../sql/queries/walk_requests_not_well.sql")
        }
        (None, None, None) if wanted.error.is_some() => {
            include_str!("../../../sql/queries/walk_requests_not_well.sql")
        }
        (None, _, Some(affinity)) if is_astray(affinity) => {
            include_str!("../../../sql/queries/walk_requests_astray.sql")
        }
        _ => include_str!("../../../sql/queries/walk_requests.sql"),
    };
    let Some(mut walk) = Walk::new(connection, wanted, count, limits::LIST_LOOKS_MAX)? else {
        return Ok(Page::nothing());
    };
    let next_before_id = walk.walk(query, wanted)?;
    let ids = walk.found.into_iter().map(|(id, _)| Value::from(id)).collect();
    let query = include_str!("../../../sql/queries/turns_among.sql");
    Ok(Page {
        rows: rows(connection, query, [Value::Array(ids).to_string()])?,
        next_before_id,
    })
}

/// Conversations, the one with the latest turn first.
///
/// # Errors
/// If the database cannot be read.
pub fn conversations(connection: &Connection, wanted: &Wanted, count: usize) -> Result<Page, StoreError> {
    let query = include_str!("../../../sql/queries/walk_conversations.sql");
    let Some(mut walk) = Walk::new(connection, wanted, count, limits::LIST_CONVERSATION_LOOKS_MAX)? else {
        return Ok(Page::nothing());
    };
    let next_before_id = walk.walk(query, wanted)?;
    let ids = walk
        .found
        .into_iter()
        .filter_map(|(_, conversation)| conversation);
    let ids = ids.map(Value::from).collect();
    let query = include_str!("../../../sql/queries/conversations_among.sql");
    Ok(Page {
        rows: rows(connection, query, [Value::Array(ids).to_string()])?,
        next_before_id,
    })
}

fn is_not_well(outcome: &str) -> bool {
    !["completed", "incomplete", "cancelled", "queued", "open"].contains(&outcome)
}

fn is_astray(affinity: &str) -> bool {
    !["none", "hit"].contains(&affinity)
}

impl Page {
    fn nothing() -> Page {
        Page {
            rows: Rows::default(),
            next_before_id: None,
        }
    }
}

struct Walk<'a> {
    connection: &'a Connection,
    fold: Fold,
    account_id: Option<i64>,
    client_key_id: Option<i64>,
    count: usize,
    /// How many rows may still be looked at.
    looks: u32,
    /// Ids, with their conversations where those are what is looked for.
    found: Vec<(i64, Option<String>)>,
}

impl<'a> Walk<'a> {
    /// Nothing if an account or client key is wanted that there never was.
    fn new(
        connection: &'a Connection,
        wanted: &Wanted,
        count: usize,
        looks: u32,
    ) -> Result<Option<Walk<'a>>, StoreError> {
        let (account_id, client_key_id): (Option<i64>, Option<i64>) = connection
            .prepare_cached(include_str!("../../../sql/queries/named_ids.sql"))?
            .query_row((&wanted.account, &wanted.client_key), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let unknown_account = wanted.account.is_some() && account_id.is_none();
        let unknown_key = wanted.client_key.is_some() && client_key_id.is_none();
        if unknown_account || unknown_key {
            return Ok(None);
        }
        Ok(Some(Walk {
            connection,
            fold: Fold::read(connection)?,
            account_id,
            client_key_id,
            count,
            looks,
            found: Vec::new(),
        }))
    }

    /// Walks back until enough is found, as much as may be was looked at, or there is no more. Tells
    /// where to go on.
    fn walk(&mut self, query: &str, wanted: &Wanted) -> Result<Option<i64>, StoreError> {
        let first_id = wanted.from_ms.map_or(0, first_id_at);
        let to_id = wanted.to_ms.map_or(i64::MAX, first_id_at);
        let mut before_id = wanted.before_id.unwrap_or(i64::MAX).min(to_id);
        let passes_over = self.account_id.is_some()
            || self.client_key_id.is_some()
            || wanted.model.is_some()
            || wanted.transport.is_some();
        loop {
            let mut floor_id = first_id;
            if passes_over && before_id > self.fold.below_id {
                floor_id = floor_id.max(self.fold.below_id);
            } else if passes_over {
                let Some(hour_ms) = self.hour_up_to(before_id - 1, first_id, wanted)? else {
                    return Ok(None);
                };
                floor_id = floor_id.max(first_id_at(hour_ms));
                before_id = before_id.min(first_id_at(hour_ms + HOUR_MS));
            }
            if let Some(next) = self.stretch(query, wanted, before_id, floor_id)? {
                return Ok(Some(next));
            }
            if floor_id <= first_id {
                return Ok(None);
            }
            before_id = floor_id;
        }
    }

    /// One stretch of it. Tells where to go on if that is before its end.
    fn stretch(
        &mut self,
        query: &str,
        wanted: &Wanted,
        before_id: i64,
        floor_id: i64,
    ) -> Result<Option<i64>, StoreError> {
        let mut statement = self.connection.prepare_cached(query)?;
        let is_conversations = statement.column_count() == 3;
        let outcome = wanted.outcome.as_ref().filter(|word| *word != ERRORS);
        let affinity = wanted.affinity.as_ref().filter(|word| *word != ASTRAY);
        let mut rows = match is_conversations {
            true => statement.query(params![before_id, floor_id, self.account_id, self.client_key_id])?,
            false => statement.query(params![
                before_id,
                floor_id,
                self.account_id,
                self.client_key_id,
                wanted.model,
                wanted.transport,
                outcome,
                affinity,
                wanted.conversation,
                wanted.error,
            ])?,
        };
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            if row.get(1)? {
                let conversation = if is_conversations { row.get(2)? } else { None };
                self.found.push((id, conversation));
            }
            self.looks = self.looks.saturating_sub(1);
            if self.found.len() == self.count || self.looks == 0 {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// The last hour with wanted requests, up to that of an id, as the hourly sums know it.
    fn hour_up_to(&self, id: i64, first_id: i64, wanted: &Wanted) -> Result<Option<i64>, StoreError> {
        let hour_of = |id: i64| id / first_id_at(HOUR_MS) * HOUR_MS;
        let hour_ms = self
            .connection
            .prepare_cached(include_str!("../../../sql/queries/hour_with_requests.sql"))?
            .query_row(
                params![
                    hour_of(id),
                    hour_of(first_id),
                    self.account_id,
                    self.client_key_id,
                    wanted.model,
                    wanted.transport
                ],
                |row| row.get(0),
            )
            .optional()?;
        Ok(hour_ms)
    }
}
