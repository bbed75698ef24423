//! The usage history as people read it: rows of the views, with their column names.

#[cfg(test)]
mod plans;
pub mod search;
pub mod sums;
pub mod totals;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Params};
use serde_json::{Map, Number, Value};

use super::{StoreError, first_id_at};
use crate::affinity::{Reference, ReferenceKind};
use crate::limits;

/// The rows of a query: the names of the columns, and the values in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// As the view names them.
    pub columns: Vec<String>,
    /// A value a column; what is unknown is `null`.
    pub rows: Vec<Vec<Value>>,
}

impl Rows {
    /// As CSV, with a line of names, and an empty field for what is unknown.
    ///
    /// # Errors
    /// If a row has another number of fields.
    pub fn csv(&self) -> Result<String, csv::Error> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&self.columns)?;
        for row in &self.rows {
            writer.write_record(row.iter().map(|value| match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            }))?;
        }
        let bytes = writer
            .into_inner()
            .map_err(|error| csv::Error::from(error.into_error()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

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

/// The sums since a moment, by what is asked for. What takes long goes back in time, and tells
/// `progress` where it is, in milliseconds since 1970 UTC.
///
/// # Errors
/// If the database cannot be read.
pub fn usage(
    connection: &Connection,
    by: By,
    since: jiff::Timestamp,
    progress: impl FnMut(i64),
) -> Result<Rows, StoreError> {
    let since_ms = since.as_millisecond();
    if by == By::Conversation {
        return conversations_since(connection, since_ms, progress);
    }
    let query = include_str!("../../sql/queries/usage_since.sql");
    // The sums are by the hour: the first one counts whole.
    let hour_ms = since_ms - since_ms.rem_euclid(sums::HOUR_MS);
    let mut rows = rows(connection, query, (hour_ms, by.column()))?;
    rows.columns[0] = by.column().to_owned();
    Ok(rows)
}

fn conversations_since(
    connection: &Connection,
    since_ms: i64,
    mut progress: impl FnMut(i64),
) -> Result<Rows, StoreError> {
    let mut wanted = search::Wanted {
        from_ms: Some(since_ms),
        ..search::Wanted::default()
    };
    let page_rows = limits::PAGE_ROWS_MAX as usize;
    let mut all = search::conversations(connection, &wanted, page_rows)?;
    while let Some(before_id) = all.next_before_id {
        progress(before_id / first_id_at(1));
        wanted.before_id = Some(before_id);
        let more = search::conversations(connection, &wanted, page_rows)?;
        all.rows.rows.extend(more.rows.rows);
        all.next_before_id = more.next_before_id;
    }
    Ok(all.rows)
}

/// The accounts and what they do.
///
/// # Errors
/// If the database cannot be read.
pub fn accounts_now(connection: &Connection) -> Result<Rows, StoreError> {
    rows(connection, include_str!("../../sql/queries/accounts_now.sql"), [])
}

/// The conversation that is meant by its UUID, in whatever form, or by the id of one of its responses.
///
/// # Errors
/// If the database cannot be read.
pub fn conversation_of(connection: &Connection, id: &str) -> Result<Option<String>, StoreError> {
    // A UUID may come in capitals, from wherever it was copied.
    if let Ok(uuid) = uuid::Uuid::parse_str(id) {
        return Ok(Some(uuid.hyphenated().to_string()));
    }
    let scopes = rows(connection, include_str!("../../sql/queries/scopes.sql"), [])?;
    let mut find =
        connection.prepare_cached(include_str!("../../sql/queries/conversation_of_reference.sql"))?;
    for scope in scopes.rows.iter().flatten().filter_map(Value::as_str) {
        let reference = Reference::new(scope, ReferenceKind::Response, id.as_bytes());
        let conversation = find.query_row([&reference.digest[..]], |row| row.get("conversation"));
        if let Some(bytes) = conversation.optional()? {
            return Ok(Some(uuid::Uuid::from_bytes(bytes).hyphenated().to_string()));
        }
    }
    Ok(None)
}

/// The same for a response that is too old to be routed by: looks at every row.
///
/// # Errors
/// If the database cannot be read.
pub fn conversation_of_old_response(connection: &Connection, id: &str) -> Result<Option<String>, StoreError> {
    let query = include_str!("../../sql/queries/conversation_of_response.sql");
    Ok(connection.query_row(query, [id], |row| row.get(0)).optional()?)
}

/// The turns of a conversation after a request, oldest first, and no more than a page of them.
///
/// # Errors
/// If the database cannot be read.
pub fn turns(connection: &Connection, conversation: &str, after_id: i64) -> Result<Rows, StoreError> {
    let turns = include_str!("../../sql/queries/conversation_turns.sql");
    rows(connection, turns, (conversation, after_id, limits::PAGE_ROWS_MAX))
}

/// All turns of a conversation after a request, oldest first.
///
/// # Errors
/// If the database cannot be read.
pub fn all_turns(connection: &Connection, conversation: &str, mut after_id: i64) -> Result<Rows, StoreError> {
    let mut all = Rows::default();
    loop {
        let page = turns(connection, conversation, after_id)?;
        let is_full = page.rows.len() == limits::PAGE_ROWS_MAX as usize;
        let id = page.columns.iter().position(|column| column == "request_id");
        let last = page.rows.last().zip(id);
        let last = last.and_then(|(row, id)| row[id].as_i64());
        all.columns = page.columns;
        all.rows.extend(page.rows);
        match last.filter(|_| is_full) {
            Some(last) => after_id = last,
            None => return Ok(all),
        }
    }
}

/// One line about a conversation, or nothing if there is none.
///
/// # Errors
/// If the database cannot be read.
pub fn conversation(connection: &Connection, id: &str) -> Result<Option<Value>, StoreError> {
    let ids = Value::Array(vec![id.into()]).to_string();
    let query = include_str!("../../sql/queries/conversations_among.sql");
    Ok(rows(connection, query, [ids])?.objects().pop())
}

/// All that is kept of a request, names and all columns, with the price that was used; nothing if
/// there is no such request.
///
/// # Errors
/// If the database cannot be read.
pub fn request(connection: &Connection, id: i64) -> Result<Option<Value>, StoreError> {
    let named = rows(connection, include_str!("../../sql/queries/request.sql"), [id])?;
    let columns = rows(
        connection,
        include_str!("../../sql/queries/request_columns.sql"),
        [id],
    )?;
    let (Some(Value::Object(mut whole)), Some(Value::Object(columns))) =
        (named.objects().pop(), columns.objects().pop())
    else {
        return Ok(None);
    };
    let price = rows(
        connection,
        include_str!("../../sql/queries/price.sql"),
        [columns.get("price_id").and_then(Value::as_i64)],
    )?;
    for (name, value) in columns {
        whole.entry(name).or_insert(value);
    }
    let attempts = attempts(connection, id)?.objects();
    whole.insert("each_attempt".to_owned(), Value::Array(attempts));
    whole.insert("price".to_owned(), price.objects().pop().unwrap_or_default());
    Ok(Some(Value::Object(whole)))
}

/// The attempts of a request: who was asked, when, and what came of it.
///
/// # Errors
/// If the database cannot be read.
pub fn attempts(connection: &Connection, id: i64) -> Result<Rows, StoreError> {
    rows(connection, include_str!("../../sql/queries/attempts.sql"), [id])
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
