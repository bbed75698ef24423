//! How large a database is, and what is in it.

use std::path::Path;

use rusqlite::Connection;

use super::StoreError;

/// What is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The file, in bytes.
    pub file_bytes: u64,
    /// What of it is free for what is written next.
    pub free_bytes: u64,
    /// The write-ahead log beside it.
    pub log_bytes: u64,
    /// Rows of requests.
    pub requests: i64,
    /// When the oldest of them began, in milliseconds since 1970 UTC.
    pub oldest_ms: Option<i64>,
    /// References, those that have not settled included.
    pub references: i64,
    /// Hours with sums.
    pub hours: i64,
}

/// Looks at a database.
///
/// # Errors
/// If it cannot be read.
pub fn sizes(connection: &Connection, path: &Path) -> Result<Sizes, StoreError> {
    let bytes = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        std::fs::metadata(name).map_or(0, |file| file.len())
    };
    let pragma = |name: &str| -> rusqlite::Result<u64> {
        let value = connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0))?;
        Ok(value.unsigned_abs())
    };
    let free_bytes = pragma("freelist_count")? * pragma("page_size")?;
    let query = include_str!("../../sql/queries/sizes.sql");
    Ok(connection.query_row(query, [], |row| {
        Ok(Sizes {
            file_bytes: bytes(""),
            free_bytes,
            log_bytes: bytes("-wal"),
            requests: row.get(0)?,
            oldest_ms: row.get(1)?,
            references: row.get(2)?,
            hours: row.get(3)?,
        })
    })?)
}
