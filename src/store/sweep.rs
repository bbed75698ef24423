//! The sweep: what has expired is removed in small batches, and space given back.

use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::first_id_at;
use super::fold::Fold;
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
    /// How many usage rows are kept, whatever their age.
    pub usage_rows: u64,
}

/// Takes one step, and tells whether there may be more: removes a batch of references, or of rows, or
/// gives pages back. That comes last: a page is given back by moving the last one of the file into
/// its place, and what would be moved now may be what is removed next.
pub(super) fn batch(
    connection: &mut Connection,
    lifetimes: Lifetimes,
    now_ms: i64,
) -> rusqlite::Result<bool> {
    let full = limits::SWEEP_BATCH_ROWS as usize;
    if sweep_references(connection, now_ms)? == full {
        return Ok(true);
    }
    let usage_ms = i64::try_from(lifetimes.usage.as_millis()).unwrap_or(i64::MAX);
    let before_id = first_id_at(now_ms.saturating_sub(usage_ms));
    let rows_max = i64::try_from(lifetimes.usage_rows).unwrap_or(i64::MAX);
    if sweep_requests(connection, before_id, rows_max)? == full {
        return Ok(true);
    }
    give_space_back(connection)
}

/// Gives some free pages back to the file system; tells whether there are more. Some stay for what is
/// written next: it would only have to be given back again tomorrow.
fn give_space_back(connection: &Connection) -> rusqlite::Result<bool> {
    let count = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    let excess = || -> rusqlite::Result<i64> {
        let free = count("PRAGMA freelist_count")?;
        let used = count("PRAGMA page_count")? - free;
        Ok(free - used / limits::FREE_PAGES_DIVISOR)
    };
    let pages = excess()?.min(limits::SWEEP_BATCH_PAGES);
    if pages <= 0 {
        return Ok(false);
    }
    let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    // It frees one page a step.
    let mut rows = vacuum.query([])?;
    while rows.next()?.is_some() {}
    Ok(excess()? > 0)
}

fn sweep_references(connection: &Connection, now_ms: i64) -> rusqlite::Result<usize> {
    let mut statement = connection.prepare_cached(include_str!("../../sql/queries/sweep_references.sql"))?;
    statement.execute((now_ms, limits::SWEEP_BATCH_ROWS))
}

/// Removes the oldest rows: those before an id, and those that are too many. Only rows that are in
/// the sums go.
fn sweep_requests(connection: &mut Connection, before_id: i64, rows_max: i64) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let fold = Fold::read(&transaction)?;
    let remove = |below_id: i64, most: i64| {
        transaction
            .prepare_cached(include_str!("../../sql/queries/sweep_requests.sql"))?
            .execute((below_id, most))
    };
    let batch = i64::from(limits::SWEEP_BATCH_ROWS);
    let old = remove(before_id.min(fold.below_id), batch)?;
    let left = batch - old as i64;
    let too_many = (fold.rows - old as i64 - rows_max).clamp(0, left);
    let removed = match too_many {
        0 => old,
        _ => old + remove(fold.below_id, too_many)?,
    };
    if removed > 0 {
        fold.write(&transaction, -(removed as i64))?;
    }
    transaction.commit()?;
    Ok(removed)
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
            INSERT INTO settled_references (digest, account_id, conversation, expires_at_ms) SELECT randomblob(16), 1, randomblob(16), i % 2 FROM n";
        connection.execute(references, []).unwrap();
        let lifetimes = Lifetimes {
            response: Duration::ZERO,
            session: Duration::ZERO,
            usage: Duration::from_secs(1),
            usage_rows: 10,
        };
        while batch(&mut connection, lifetimes, 1).unwrap() {}
        let one = |query: &str| {
            connection
                .query_row(query, [], |row| row.get::<_, i64>(0))
                .unwrap()
        };
        assert_eq!(one("SELECT count(*) FROM known_references"), 0);
        let (free, whole) = (one("PRAGMA freelist_count"), one("PRAGMA page_count"));
        assert!(free <= whole / limits::FREE_PAGES_DIVISOR, "{free} of {whole}");
        assert!(whole < 100, "{whole}");
    }

    #[test]
    fn rows_go_by_age_and_by_number_and_never_before_they_are_in_the_sums() {
        let folder = tempfile::tempdir().unwrap();
        let mut connection = open_writable(&folder.path().join("m.db"), Durability::Process).unwrap();
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)
            INSERT INTO requests (id, started_at_ms, endpoint, transport, outcome)
            SELECT i * 1024, i, '/responses', 'json', CASE i WHEN 7 THEN 'open' ELSE 'completed' END FROM n";
        connection.execute(rows, []).unwrap();
        let lifetimes = |usage_ms, usage_rows| Lifetimes {
            response: Duration::ZERO,
            session: Duration::ZERO,
            usage: Duration::from_millis(usage_ms),
            usage_rows,
        };
        let count = |connection: &Connection, query: &str| -> i64 {
            connection.query_row(query, [], |row| row.get(0)).unwrap()
        };
        let rows = "SELECT count(*) FROM requests";
        let sums = "SELECT sum(requests) FROM usage_facts";
        while batch(&mut connection, lifetimes(0, 0), 5000).unwrap() {}
        assert_eq!(count(&connection, rows), 1200, "none is in the sums");
        while crate::store::fold::batch(&mut connection, 1001 * 1024, 250).unwrap() {}
        while batch(&mut connection, lifetimes(1000, u64::MAX), 1101).unwrap() {}
        // Those of the first hundred milliseconds, but for the one that runs.
        assert_eq!(count(&connection, rows), 1101);
        while batch(&mut connection, lifetimes(u64::MAX, 300), 5000).unwrap() {}
        // 300 of those that are in the sums, the 200 that are not, and the one that runs.
        assert_eq!(count(&connection, rows), 501);
        assert_eq!(count(&connection, sums), 1199);
    }
}
