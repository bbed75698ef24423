//! Sums of all time: what the counters of `/metrics` are. They are in the database, so that a
//! restart does not set them back.

use rusqlite::Connection;

use crate::store::StoreError;

/// The sums of the requests that are alike in all of these.
#[derive(Debug, Clone)]
pub struct Total {
    /// The account, if they reached one.
    pub account: Option<String>,
    /// The client key, if they had a valid one.
    pub client_key: Option<String>,
    /// The model, if one was named.
    pub model: Option<String>,
    /// How they ended.
    pub outcome: String,
    /// What became of their references.
    pub affinity: String,
    /// How many they are.
    pub requests: u64,
    /// How often an account was asked for them.
    pub attempts: u64,
    /// Their tokens: input with the cached ones, those, written to the cache, output with
    /// reasoning, that.
    pub tokens: [Option<u64>; 5],
    /// What they cost, in millionths of the currency.
    pub cost_micros: Option<u64>,
    /// What the cache saved.
    pub saved_micros: Option<u64>,
    /// Tokens that moves lost.
    pub lost_tokens: Option<u64>,
}

/// Reads them.
///
/// # Errors
/// If the database cannot be read.
pub fn totals(connection: &Connection) -> Result<Vec<Total>, StoreError> {
    let mut statement = connection.prepare_cached(include_str!("../../../sql/queries/totals.sql"))?;
    let totals = statement.query_map([], |row| {
        let count = |index: usize| -> rusqlite::Result<u64> {
            Ok(u64::try_from(row.get::<_, i64>(index)?).unwrap_or(0))
        };
        let known = |index: usize| -> rusqlite::Result<Option<u64>> {
            Ok(row
                .get::<_, Option<i64>>(index)?
                .and_then(|sum| u64::try_from(sum).ok()))
        };
        Ok(Total {
            account: row.get(0)?,
            client_key: row.get(1)?,
            model: row.get(2)?,
            outcome: row.get(3)?,
            affinity: row.get(4)?,
            requests: count(5)?,
            attempts: count(6)?,
            tokens: [known(7)?, known(8)?, known(9)?, known(10)?, known(11)?],
            cost_micros: known(12)?,
            saved_micros: known(13)?,
            lost_tokens: known(14)?,
        })
    })?;
    Ok(totals.collect::<Result<_, _>>()?)
}
