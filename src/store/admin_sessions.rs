//! Who is logged in on the page: only digests of the tokens are kept.

use rusqlite::{Connection, params};

use super::StoreError;
use super::client_keys::digest;
use crate::limits;

/// Begins a session with this token. Those that have expired go, and so does the oldest if there
/// are too many.
///
/// # Errors
/// If the database cannot be written.
pub fn begin(connection: &Connection, token: &str, now_ms: i64) -> Result<(), StoreError> {
    let lifetime_ms = i64::try_from(limits::ADMIN_SESSION.as_millis()).unwrap_or(i64::MAX);
    let transaction = super::begin(connection)?;
    transaction.execute(
        include_str!("../../sql/queries/add_admin_session.sql"),
        params![digest(token), now_ms.saturating_add(lifetime_ms)],
    )?;
    transaction.execute(
        include_str!("../../sql/queries/sweep_admin_sessions.sql"),
        params![now_ms, limits::ADMIN_SESSIONS_MAX],
    )?;
    Ok(transaction.commit()?)
}

/// Whether the token is that of a session that lasts.
///
/// # Errors
/// If the database cannot be read.
pub fn is_valid(connection: &Connection, token: &str, now_ms: i64) -> Result<bool, StoreError> {
    let mut statement = connection.prepare_cached(include_str!("../../sql/queries/admin_session.sql"))?;
    Ok(statement.exists(params![digest(token), now_ms])?)
}

/// Ends a session.
///
/// # Errors
/// If the database cannot be written.
pub fn end(connection: &Connection, token: &str) -> Result<(), StoreError> {
    connection.execute(
        include_str!("../../sql/queries/end_admin_session.sql"),
        [digest(token)],
    )?;
    Ok(())
}
