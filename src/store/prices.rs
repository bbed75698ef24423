//! The prices that rows were written with.

use rusqlite::{Connection, params};

use super::StoreError;
use crate::price::{Price, Prices};

/// Writes the prices of the configuration down, those that are new, and gives them their rows.
///
/// # Errors
/// If the database cannot be written.
pub fn keep(connection: &Connection, prices: Vec<Price>) -> Result<Prices, StoreError> {
    let mut put = connection.prepare(include_str!("../../sql/queries/put_price.sql"))?;
    let mut find = connection.prepare(include_str!("../../sql/queries/find_price.sql"))?;
    let mut kept = Vec::with_capacity(prices.len());
    for price in prices {
        let columns = params![
            price.model,
            price.service_tier,
            price.valid_from_ms,
            price.input_micros,
            price.cached_micros,
            price.cache_write_micros,
            price.output_micros,
        ];
        put.execute(columns)?;
        let id = find.query_row(columns, |row| row.get(0))?;
        kept.push(Price { id, ..price });
    }
    Ok(Prices::new(kept))
}
