//! Folding: rows that have ended are added to sums that are kept for ever.
//!
//! A mark says how far the sums are: rows with a smaller id that have ended are in them, all others
//! are not. The mark moves in the transaction that adds the rows, so whenever the gateway is killed,
//! no row counts twice and none is left out. A row that ends when the mark has passed it is added in
//! the transaction that writes its end.

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use super::requests::Row;
use super::sweep::Lifetimes;
use super::{StoreError, first_id_at};
use crate::limits;

/// The mark, as the one who writes knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fold {
    /// Rows with a smaller id that have ended are in the sums.
    pub(super) below_id: i64,
    /// How many of them are still there.
    pub(super) rows: i64,
}

impl Fold {
    /// The mark in the database.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Fold> {
        connection
            .prepare_cached(include_str!("../../sql/queries/get_fold.sql"))?
            .query_row([], |row| {
                Ok(Fold {
                    below_id: row.get(0)?,
                    rows: row.get(1)?,
                })
            })
    }

    /// Writes the mark, after so many rows were added to the sums, removed from the table, or both.
    pub(super) fn write(self, connection: &Connection, rows: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached(include_str!("../../sql/queries/move_fold.sql"))?
            .execute((self.below_id, rows))?;
        Ok(())
    }
}

/// Folds so many rows below an id; tells whether there may be more.
pub(super) fn batch(connection: &mut Connection, before_id: i64, most: u32) -> rusqlite::Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let fold = Fold::read(&transaction)?;
    let (last, rows, ended): (Option<i64>, u32, i64) = transaction
        .prepare_cached(include_str!("../../sql/queries/fold_next.sql"))?
        .query_row((fold.below_id, before_id, most), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let Some(last) = last else { return Ok(false) };
    let next = Fold {
        below_id: last + 1,
        ..fold
    };
    add(&transaction, fold.below_id, next.below_id, 1)?;
    next.write(&transaction, ended)?;
    transaction.commit()?;
    Ok(rows == most)
}

/// Writes a row. One that the mark has passed is taken out of the sums as it was and added as it is.
pub(super) fn write_row(connection: &Connection, fold: Fold, row: &Row) -> rusqlite::Result<()> {
    if row.id >= fold.below_id {
        return row.record(connection);
    }
    add_late(connection, fold, row.id, -1)?;
    row.record(connection)?;
    add_late(connection, fold, row.id, 1)
}

/// Adds a row that the mark has passed, or takes it out: if it is there, and has ended.
fn add_late(connection: &Connection, fold: Fold, id: i64, sign: i64) -> rusqlite::Result<()> {
    let has_ended = connection
        .prepare_cached(include_str!("../../sql/queries/is_folded.sql"))?
        .exists((id, fold.below_id))?;
    if has_ended {
        add(connection, id, id + 1, sign)?;
        fold.write(connection, sign)?;
    }
    Ok(())
}

/// Marks the rows as lost that a killed gateway left open; gives how many they are.
pub(super) fn mark_lost(connection: &mut Connection) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let fold = Fold::read(&transaction)?;
    let lost: Vec<i64> = transaction
        .prepare(include_str!("../../sql/queries/mark_lost_requests.sql"))?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in &lost {
        add_late(&transaction, fold, *id, 1)?;
    }
    transaction.commit()?;
    Ok(lost.len())
}

fn add(connection: &Connection, from_id: i64, below_id: i64, sign: i64) -> rusqlite::Result<()> {
    for query in [
        include_str!("../../sql/queries/fold_into_hours.sql"),
        include_str!("../../sql/queries/fold_into_totals.sql"),
    ] {
        connection
            .prepare_cached(query)?
            .execute((from_id, below_id, sign))?;
    }
    Ok(())
}

/// Below which id rows are due: those that began some minutes ago and will hardly change any more,
/// and under load as many as it takes to leave few.
///
/// # Errors
/// If the database cannot be read.
pub(super) fn due_below(
    connection: &Connection,
    lifetimes: Lifetimes,
    now_ms: i64,
) -> Result<i64, StoreError> {
    // Nothing is removed that is not in the sums: a short life of rows makes the sums follow closely.
    let lag = limits::FOLD_LAG.min(lifetimes.usage);
    let lag_ms = i64::try_from(lag.as_millis()).unwrap_or(i64::MAX);
    let of_age = first_id_at(now_ms.saturating_sub(lag_ms));
    let fold = Fold::read(connection)?;
    let many: Option<i64> = connection
        .prepare_cached(include_str!("../../sql/queries/fold_limit.sql"))?
        .query_row((fold.below_id, limits::UNFOLDED_ROWS_MAX), |row| row.get(0))
        .optional()?;
    Ok(many.map_or(of_age, |many| of_age.max(many)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::AccountId;
    use crate::affinity::ConversationId;
    use crate::price::Cost;
    use crate::response::{Outcome, Usage};
    use crate::store::requests::Affinity;
    use crate::store::{Durability, open_writable};

    fn database() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let connection = open_writable(&folder.path().join("m.db"), Durability::Process).unwrap();
        for id in [1, 2] {
            let account = "INSERT INTO accounts (id, name, kind, base_url, state_domain, source, created_at_ms) VALUES (?1, 'a' || ?1, 'openai', 'x', 'a', 'file', 0)";
            connection.execute(account, [id]).unwrap();
        }
        connection
            .execute(
                "INSERT INTO prices VALUES (1, 'm', '', 0, 1000000, 100000, 1000000, 2000000)",
                [],
            )
            .unwrap();
        (folder, connection)
    }

    fn row(id: i64, outcome: Outcome, input: Option<i64>) -> Row {
        let mut row = Row::new(id, 1000, "/responses");
        row.account = Some(AccountId(1));
        row.outcome = outcome;
        row.ended_at_ms = (outcome != Outcome::Open).then_some(2000);
        row.usage = input.map(|input| Usage {
            input: Some(input),
            cached: Some(input / 2),
            output: Some(1),
            ..Usage::default()
        });
        row
    }

    fn write(connection: &Connection, row: &Row) {
        write_row(connection, Fold::read(connection).unwrap(), row).unwrap();
    }

    fn sums(connection: &Connection) -> (i64, i64, i64, Option<i64>) {
        let query =
            "SELECT sum(requests), sum(errors), sum(without_usage), sum(input_tokens) FROM usage_facts";
        connection
            .query_row(query, [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .unwrap()
    }

    fn totals(connection: &Connection, outcome: &str) -> i64 {
        let query = "SELECT coalesce(sum(requests), 0) FROM usage_totals WHERE outcome = ?1";
        connection.query_row(query, [outcome], |row| row.get(0)).unwrap()
    }

    #[test]
    fn each_row_counts_once_before_while_and_after_it_is_folded() {
        let (_folder, mut connection) = database();
        for id in 1..=600 {
            write(&connection, &row(id, Outcome::Completed, Some(10)));
        }
        write(&connection, &row(601, Outcome::Failed, None));
        let expected = (601, 1, 1, Some(6000));
        assert_eq!(sums(&connection), expected);
        let mut batches = 0;
        while batch(&mut connection, i64::MAX, 250).unwrap() {
            batches += 1;
            assert_eq!(sums(&connection), expected);
        }
        assert_eq!(batches, 2);
        assert_eq!(sums(&connection), expected);
        assert_eq!(
            (totals(&connection, "completed"), totals(&connection, "failed")),
            (600, 1)
        );
        assert_eq!(
            Fold::read(&connection).unwrap(),
            Fold {
                below_id: 602,
                rows: 601
            }
        );
        assert!(!batch(&mut connection, i64::MAX, 250).unwrap());
        assert_eq!(sums(&connection), expected);
    }

    #[test]
    fn a_row_that_ends_late_or_changes_late_counts_as_it_is_in_the_end() {
        let (_folder, mut connection) = database();
        write(&connection, &row(1, Outcome::Open, None));
        write(&connection, &row(2, Outcome::Completed, Some(10)));
        batch(&mut connection, i64::MAX, 250).unwrap();
        assert_eq!(sums(&connection), (1, 0, 0, Some(10)));
        let later = |outcome| Row {
            was_written: true,
            ..row(1, outcome, Some(7))
        };
        write(&connection, &later(Outcome::Completed));
        assert_eq!(sums(&connection), (2, 0, 0, Some(17)));
        write(&connection, &later(Outcome::Refused));
        assert_eq!(sums(&connection), (2, 1, 0, Some(17)));
        assert_eq!(
            (totals(&connection, "completed"), totals(&connection, "refused")),
            (1, 1)
        );
        // One that comes as new, with an id that the mark has passed.
        let (_folder, mut connection) = database();
        write(&connection, &row(5, Outcome::Completed, None));
        batch(&mut connection, i64::MAX, 250).unwrap();
        write(&connection, &row(3, Outcome::Completed, None));
        assert_eq!(sums(&connection), (2, 0, 2, None));
        assert_eq!(Fold::read(&connection).unwrap().rows, 2);
    }

    #[test]
    fn a_request_that_was_lost_counts_when_that_is_known() {
        let (_folder, mut connection) = database();
        for id in 1..=3 {
            write(&connection, &row(id, Outcome::Open, None));
        }
        batch(&mut connection, 3, 250).unwrap();
        assert_eq!(Fold::read(&connection).unwrap(), Fold { below_id: 3, rows: 0 });
        assert_eq!(mark_lost(&mut connection).unwrap(), 3);
        assert_eq!(sums(&connection), (3, 3, 3, None));
        assert_eq!(totals(&connection, "lost"), 2);
        batch(&mut connection, i64::MAX, 250).unwrap();
        assert_eq!(sums(&connection), (3, 3, 3, None));
    }

    #[test]
    fn a_turn_that_moved_tells_what_the_other_cache_did_not_have() {
        let (_folder, connection) = database();
        let conversation = Some(ConversationId::new());
        let turn = |id, account, affinity, usage: (i64, i64)| Row {
            conversation,
            account: Some(AccountId(account)),
            affinity,
            usage: Some(Usage {
                input: Some(usage.0),
                cached: Some(usage.1),
                output: Some(1),
                ..Usage::default()
            }),
            cost: Some(Cost {
                price_id: 1,
                cost_micros: 1,
                saved_micros: Some(1),
            }),
            ..row(id, Outcome::Completed, None)
        };
        write(&connection, &turn(1, 1, Affinity::None, (1000, 0)));
        write(&connection, &turn(2, 2, Affinity::Moved, (1500, 200)));
        // It has moved already: nothing is lost again.
        write(&connection, &turn(3, 2, Affinity::Moved, (1600, 1500)));
        write(&connection, &turn(4, 2, Affinity::Hit, (1700, 0)));
        let lost = |id: i64| -> (Option<i64>, Option<i64>) {
            let query = "SELECT lost_tokens, lost_micros FROM requests WHERE id = ?1";
            connection
                .query_row(query, [id], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap()
        };
        assert_eq!(lost(1), (None, None));
        assert_eq!(lost(2), (Some(800), Some(720)));
        assert_eq!(lost(3), (None, None));
        assert_eq!(lost(4), (None, None));
    }
}
