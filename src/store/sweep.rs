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
    let pages_left = give_space_back(connection)?;
    let full = limits::SWEEP_BATCH_ROWS as usize;
    Ok(references == full || rows == full || pages_left)
}

/// Gives some free pages back to the file system; tells whether there are more.
fn give_space_back(connection: &Connection) -> rusqlite::Result<bool> {
    let free = || connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, i64>(0));
    if free()? == 0 {
        return Ok(false);
    }
    let pages = limits::SWEEP_BATCH_PAGES;
    let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    // It frees one page a step.
    let mut rows = vacuum.query([])?;
    while rows.next()?.is_some() {}
    Ok(free()? > 0)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Durability, open_writable};

    #[test]
    fn what_has_expired_goes_and_its_space_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut connection = open_writable(&folder.path().join("m.db"), Durability::Process).unwrap();
        let account = "INSERT INTO accounts (id, name, kind, base_url, state_domain, source, created_at_ms) VALUES (1, 'a', 'openai', 'x', 'a', 'file', 0)";
        connection.execute(account, []).unwrap();
        let references = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
            INSERT INTO known_references SELECT randomblob(16), 1, randomblob(16), i % 2 FROM n";
        connection.execute(references, []).unwrap();
        let lifetimes = Lifetimes {
            response: Duration::ZERO,
            session: Duration::ZERO,
            usage: Duration::from_secs(1),
        };
        while batch(&mut connection, lifetimes, 1).unwrap() {}
        let one = |query: &str| {
            connection
                .query_row(query, [], |row| row.get::<_, i64>(0))
                .unwrap()
        };
        assert_eq!(one("SELECT count(*) FROM known_references"), 0);
        assert_eq!(one("PRAGMA freelist_count"), 0);
        assert!(one("PRAGMA page_count") < 100);
    }
}
