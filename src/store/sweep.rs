//! The sweep: what has expired is removed in small batches, and space given back.

use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use crate::limits;

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Hard references, from their creation.
    pub response: Duration,
    /// Soft references, from their last use.
    pub session: Duration,
    /// Usage rows, from their start.
    pub usage: Duration,
}

/// Removes one batch; tells whether there may be more.
pub(super) fn batch(
    connection: &mut Connection,
    lifetimes: Lifetimes,
    now_ms: i64,
) -> rusqlite::Result<bool> {
    let references = sweep_references(connection, now_ms)?;
    let usage_ms = i64::try_from(lifetimes.usage.as_millis()).unwrap_or(i64::MAX);
    let rows = fold_requests(connection, now_ms.saturating_sub(usage_ms))?;
    if references + rows > 0 {
        let pages = limits::SWEEP_BATCH_PAGES;
        connection.execute_batch(&format!("PRAGMA incremental_vacuum({pages});"))?;
    }
    let full = limits::SWEEP_BATCH_ROWS as usize;
    Ok(references == full || rows == full)
}

fn sweep_references(connection: &Connection, now_ms: i64) -> rusqlite::Result<usize> {
    let mut statement = connection.prepare_cached(include_str!("../../sql/queries/sweep_references.sql"))?;
    statement.execute((now_ms, limits::SWEEP_BATCH_ROWS))
}

/// Adds the oldest rows to the hourly sums and removes them, in one transaction.
fn fold_requests(connection: &mut Connection, before_ms: i64) -> rusqlite::Result<usize> {
    let query = include_str!("../../sql/queries/last_request_to_sweep.sql");
    let last: Option<i64> = connection
        .prepare_cached(query)?
        .query_row((before_ms, limits::SWEEP_BATCH_ROWS), |row| row.get(0))?;
    let Some(last) = last else { return Ok(0) };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(include_str!("../../sql/queries/fold_requests.sql"), [last])?;
    let rows = transaction.execute(include_str!("../../sql/queries/delete_requests.sql"), [last])?;
    transaction.commit()?;
    Ok(rows)
}
