//! The usage history as people read it: rows of the views, with their column names.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Params};
use serde_json::{Map, Number, Value};

use super::StoreError;
use crate::limits;

/// The rows of a query: the names of the columns, and the values in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// As the view names them.
    pub columns: Vec<String>,
    /// A value a column; what is unknown is `null`.
    pub rows: Vec<Vec<Value>>,
}

impl Rows {
    /// The rows as JSON objects.
    pub fn objects(self) -> Vec<Value> {
        let columns = self.columns;
        let object = |row: Vec<Value>| Value::Object(columns.iter().cloned().zip(row).collect::<Map<_, _>>());
        self.rows.into_iter().map(object).collect()
    }
}

/// What usage can be summed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// The day, UTC.
    Day,
    /// The hour, UTC.
    Hour,
    /// The account that answered.
    Account,
    /// The model that served.
    Model,
    /// The client key.
    Key,
    /// The conversation.
    Conversation,
}

impl By {
    /// The name of the column that says what the sums are of.
    fn column(self) -> &'static str {
        match self {
            By::Day => "day",
            By::Hour => "hour",
            By::Account => "account",
            By::Model => "model",
            By::Key => "client_key",
            By::Conversation => "conversation_id",
        }
    }
}

/// The sums since a moment, by what is asked for.
///
/// # Errors
/// If the database cannot be read.
pub fn usage(connection: &Connection, by: By, since: jiff::Timestamp) -> Result<Rows, StoreError> {
    if by == By::Conversation {
        let since = since.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
        return rows(
            connection,
            include_str!("../../sql/queries/conversations_since.sql"),
            [since],
        );
    }
    let query = include_str!("../../sql/queries/usage_since.sql");
    // The sums are by the hour: the first one counts whole.
    let since_ms = since.as_millisecond();
    let hour_ms = since_ms - since_ms.rem_euclid(3_600_000);
    let mut rows = rows(connection, query, (hour_ms, by.column()))?;
    rows.columns[0] = by.column().to_owned();
    Ok(rows)
}

/// The sums of today, UTC.
///
/// # Errors
/// If the database cannot be read.
pub fn today(connection: &Connection) -> Result<Rows, StoreError> {
    rows(connection, include_str!("../../sql/queries/usage_today.sql"), [])
}

/// The last turns, newest first.
///
/// # Errors
/// If the database cannot be read.
pub fn recent_turns(connection: &Connection, count: u32) -> Result<Rows, StoreError> {
    let count = count.min(limits::PAGE_ROWS_MAX);
    rows(
        connection,
        include_str!("../../sql/queries/recent_turns.sql"),
        [count],
    )
}

/// The accounts and what they do.
///
/// # Errors
/// If the database cannot be read.
pub fn accounts_now(connection: &Connection) -> Result<Rows, StoreError> {
    rows(connection, include_str!("../../sql/queries/accounts_now.sql"), [])
}

/// The turns of a conversation, oldest first. `id` is its UUID, or the id of one of its responses.
///
/// # Errors
/// If the database cannot be read.
pub fn conversation(connection: &Connection, id: &str) -> Result<Rows, StoreError> {
    let query = include_str!("../../sql/queries/conversation_of_response.sql");
    let by_response: Option<String> = connection.query_row(query, [id], |row| row.get(0)).optional()?;
    let conversation = by_response.unwrap_or_else(|| id.to_owned());
    let turns = include_str!("../../sql/queries/conversation_turns.sql");
    rows(connection, turns, (conversation, limits::PAGE_ROWS_MAX))
}

fn rows(connection: &Connection, query: &str, parameters: impl Params) -> Result<Rows, StoreError> {
    let mut statement = connection.prepare_cached(query)?;
    let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let width = columns.len();
    let rows = statement.query_map(parameters, |row| {
        (0..width)
            .map(|column| Ok(value(row.get_ref(column)?)))
            .collect::<rusqlite::Result<Vec<_>>>()
    })?;
    Ok(Rows {
        rows: rows.collect::<Result<_, _>>()?,
        columns,
    })
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null | ValueRef::Blob(_) => Value::Null,
        ValueRef::Integer(number) => Value::from(number),
        ValueRef::Real(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
        ValueRef::Text(text) => Value::from(String::from_utf8_lossy(text)),
    }
}
