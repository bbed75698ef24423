//! Sums over a range of time, in steps and by what they are split.

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Rows};
use serde::Serialize;

use crate::limits;
use crate::store::fold::Fold;
use crate::store::{StoreError, first_id_at};

/// The smallest step that is made of the hourly sums.
pub const HOUR_MS: i64 = 3_600_000;

/// Which sums are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Where each step begins, in milliseconds since 1970 UTC, in the order of time; the first is the
    /// begin of the range.
    pub steps: Vec<i64>,
    /// The end, which does not belong to it.
    pub to_ms: i64,
    /// Where the range before begins, of which only the whole is summed.
    pub before_ms: i64,
    /// Whether a step can be shorter than an hour: then all is made of rows.
    pub of_rows: bool,
}

impl Range {
    fn begin_ms(&self) -> i64 {
        self.steps.first().copied().unwrap_or(self.to_ms)
    }

    /// The begin of the step that a time is in, the first one for what is earlier.
    fn step(&self, at_ms: i64) -> i64 {
        let after = self.steps.partition_point(|begin| *begin <= at_ms);
        self.steps
            .get(after.saturating_sub(1))
            .copied()
            .unwrap_or(self.to_ms)
    }

    /// The hours that belong to two steps, or that the range begins or ends in.
    fn torn_hours(&self) -> Vec<i64> {
        let ends = self.steps.iter().chain([&self.before_ms, &self.to_ms]);
        let torn = ends.filter(|at_ms| **at_ms % HOUR_MS != 0);
        let mut hours: Vec<i64> = torn.map(|at_ms| at_ms - at_ms.rem_euclid(HOUR_MS)).collect();
        hours.sort_unstable();
        hours.dedup();
        hours
    }
}

/// What sums can be split by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Not at all.
    Nothing,
    /// The account that answered.
    Account,
    /// The model that served.
    Model,
    /// The client key that asked.
    ClientKey,
    /// How the answer travelled.
    Transport,
}

impl Split {
    /// The word for it, in the API and in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Split::Nothing => "nothing",
            Split::Account => "account",
            Split::Model => "model",
            Split::ClientKey => "client_key",
            Split::Transport => "transport",
        }
    }

    /// What a word stands for.
    pub fn of_word(word: &str) -> Option<Split> {
        [
            Split::Nothing,
            Split::Account,
            Split::Model,
            Split::ClientKey,
            Split::Transport,
        ]
        .into_iter()
        .find(|split| split.as_str() == word)
    }
}

/// Sums of requests. A figure that none of them had is `None`; amounts are millionths of the currency.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[expect(
    missing_docs,
    reason = "the names are those of the columns, which the schema explains"
)]
pub struct Sums {
    pub requests: i64,
    pub errors: i64,
    pub without_usage: i64,
    pub without_price: i64,
    pub moves: i64,
    pub input_tokens: Option<i64>,
    pub input_tokens_with_cache_figure: Option<i64>,
    pub cached_tokens: Option<i64>,
    pub cache_write_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub reasoning_tokens: Option<i64>,
    pub cost_micros: Option<i64>,
    pub saved_micros: Option<i64>,
    pub lost_tokens: Option<i64>,
    pub lost_micros: Option<i64>,
}

impl Sums {
    /// Adds others. Unknown and known make known; only unknown stays unknown.
    pub fn add(&mut self, other: &Sums) {
        let add = |sum: &mut Option<i64>, other: Option<i64>| {
            *sum = match (*sum, other) {
                (Some(sum), Some(other)) => Some(sum + other),
                (sum, other) => sum.or(other),
            };
        };
        self.requests += other.requests;
        self.errors += other.errors;
        self.without_usage += other.without_usage;
        self.without_price += other.without_price;
        self.moves += other.moves;
        add(&mut self.input_tokens, other.input_tokens);
        add(
            &mut self.input_tokens_with_cache_figure,
            other.input_tokens_with_cache_figure,
        );
        add(&mut self.cached_tokens, other.cached_tokens);
        add(&mut self.cache_write_tokens, other.cache_write_tokens);
        add(&mut self.output_tokens, other.output_tokens);
        add(&mut self.reasoning_tokens, other.reasoning_tokens);
        add(&mut self.cost_micros, other.cost_micros);
        add(&mut self.saved_micros, other.saved_micros);
        add(&mut self.lost_tokens, other.lost_tokens);
        add(&mut self.lost_micros, other.lost_micros);
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Sums> {
        Ok(Sums {
            requests: row.get(2)?,
            errors: row.get(3)?,
            without_usage: row.get(4)?,
            without_price: row.get(5)?,
            moves: row.get(6)?,
            input_tokens: row.get(7)?,
            input_tokens_with_cache_figure: row.get(8)?,
            cached_tokens: row.get(9)?,
            cache_write_tokens: row.get(10)?,
            output_tokens: row.get(11)?,
            reasoning_tokens: row.get(12)?,
            cost_micros: row.get(13)?,
            saved_micros: row.get(14)?,
            lost_tokens: row.get(15)?,
            lost_micros: row.get(16)?,
        })
    }
}

/// The sums of one step and one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// When the step begins, in milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// The account, model, client key or transport; `None` for requests that had none.
    pub part: Option<String>,
    /// The sums.
    pub sums: Sums,
}

/// What a range has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The cells in the order of time, without empty ones.
    pub cells: Vec<Cell>,
    /// The whole of the range before.
    pub before: Sums,
    /// Whether hours that belong to two steps were counted whole to the one that they begin in.
    pub rounded: bool,
}

/// Adds up what a range has, and the one before it.
///
/// # Errors
/// If the database cannot be read.
pub fn read(connection: &Connection, range: &Range, split: Split) -> Result<Found, StoreError> {
    // One state of the database: what is folded meanwhile counts once.
    let transaction = connection.unchecked_transaction()?;
    let mut sums = Adding::new(range);
    if range.of_rows {
        sums.add_rows(&transaction, (first_id_at(range.before_ms), i64::MAX), split)?;
        return sums.found(&transaction, split, false);
    }
    let torn = range.torn_hours();
    let apart = are_few(&transaction, &torn)?;
    let without = if apart { torn.as_slice() } else { &[] };
    sums.add_hours(&transaction, without, split)?;
    let fold = Fold::read(&transaction)?;
    for hour_ms in without {
        let end = fold.below_id.min(first_id_at(hour_ms + HOUR_MS));
        sums.add_rows(&transaction, (first_id_at(*hour_ms), end), split)?;
    }
    let unfolded = (fold.below_id.max(first_id_at(range.before_ms)), i64::MAX);
    sums.add_rows(&transaction, unfolded, split)?;
    let rounded = !apart && !torn.is_empty();
    sums.found(&transaction, split, rounded)
}

/// Whether the rows of these hours are there, and few enough to be added up one by one.
fn are_few(connection: &Connection, hours: &[i64]) -> Result<bool, StoreError> {
    if hours.is_empty() {
        return Ok(true);
    }
    let (summed, there): (i64, Option<i64>) = connection
        .prepare_cached(include_str!("../../../sql/queries/requests_of_hours.sql"))?
        .query_row((json(hours), limits::TORN_HOURS_ROWS_MAX), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(there == Some(summed))
}

fn json(hours: &[i64]) -> String {
    serde_json::json!(hours).to_string()
}

/// A part as the rows name it: the id of an account or client key, or a text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    None,
    Id(i64),
    Text(Box<str>),
}

impl Part {
    fn is(&self, value: ValueRef<'_>) -> bool {
        match (self, value) {
            (Part::Id(id), ValueRef::Integer(other)) => *id == other,
            (Part::Text(text), ValueRef::Text(other)) => text.as_bytes() == other,
            (Part::None, ValueRef::Null) => true,
            _ => false,
        }
    }

    fn of(value: ValueRef<'_>) -> Part {
        match value {
            ValueRef::Integer(id) => Part::Id(id),
            ValueRef::Text(text) => Part::Text(String::from_utf8_lossy(text).into()),
            _ => Part::None,
        }
    }
}

/// Sums on their way. Adding here, and not in SQL, spares SQLite to sort what comes in order.
struct Adding<'a> {
    range: &'a Range,
    parts: Vec<Part>,
    /// By the begin of the step and the index of the part.
    cells: BTreeMap<(i64, usize), Sums>,
    before: Sums,
}

impl<'a> Adding<'a> {
    fn new(range: &'a Range) -> Adding<'a> {
        Adding {
            range,
            parts: Vec::new(),
            cells: BTreeMap::new(),
            before: Sums::default(),
        }
    }

    fn add_hours(
        &mut self,
        connection: &Connection,
        without: &[i64],
        split: Split,
    ) -> Result<(), StoreError> {
        let mut hours = connection.prepare_cached(include_str!("../../../sql/queries/hours_between.sql"))?;
        // Hours that one of the ranges begins in count whole to it, if they are not left out.
        let [before_ms, from_ms] =
            [self.range.before_ms, self.range.begin_ms()].map(|ms| ms - ms.rem_euclid(HOUR_MS));
        let rows = hours.query((before_ms, self.range.to_ms, split.as_str(), json(without)))?;
        self.add(rows, before_ms, from_ms)
    }

    /// Adds rows with ids from one to before another.
    fn add_rows(
        &mut self,
        connection: &Connection,
        (from_id, end): (i64, i64),
        split: Split,
    ) -> Result<(), StoreError> {
        let mut requests =
            connection.prepare_cached(include_str!("../../../sql/queries/rows_between.sql"))?;
        let end = end.min(first_id_at(self.range.to_ms));
        let rows = requests.query((from_id, end, split.as_str()))?;
        self.add(rows, self.range.before_ms, self.range.begin_ms())
    }

    /// Adds what began at `before_ms` or later; what began at `from_ms` or later is of the range itself.
    fn add(&mut self, mut rows: Rows<'_>, before_ms: i64, from_ms: i64) -> Result<(), StoreError> {
        while let Some(row) = rows.next()? {
            let at_ms: i64 = row.get(0)?;
            if at_ms < before_ms || at_ms >= self.range.to_ms {
                continue;
            }
            let sums = Sums::read(row)?;
            if at_ms < from_ms {
                self.before.add(&sums);
                continue;
            }
            let part = self.part(row.get_ref(1)?);
            let step = self.range.step(at_ms);
            self.cells.entry((step, part)).or_default().add(&sums);
        }
        Ok(())
    }

    fn part(&mut self, value: ValueRef<'_>) -> usize {
        let known = self.parts.iter().position(|part| part.is(value));
        known.unwrap_or_else(|| {
            self.parts.push(Part::of(value));
            self.parts.len() - 1
        })
    }

    fn found(self, connection: &Connection, split: Split, rounded: bool) -> Result<Found, StoreError> {
        let mut names = connection.prepare_cached(include_str!("../../../sql/queries/part_names.sql"))?;
        let names = names.query_map([split.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let names: BTreeMap<i64, String> = names.collect::<Result<_, _>>()?;
        let parts: Vec<Option<String>> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::None => None,
                Part::Id(id) => names.get(id).cloned(),
                Part::Text(text) => Some(text.to_string()),
            })
            .collect();
        // What was folded and taken out again has sums of nothing.
        let cells = self.cells.into_iter().filter(|(_, sums)| sums.requests != 0);
        let cells = cells.map(|((at_ms, part), sums)| Cell {
            at_ms,
            part: parts[part].clone(),
            sums,
        });
        Ok(Found {
            cells: cells.collect(),
            before: self.before,
            rounded,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Durability, fold, open_writable};

    const DAY_MS: i64 = 24 * HOUR_MS;
    /// A midnight, half an hour off the hours of UTC.
    const MIDNIGHT_MS: i64 = 20_000 * DAY_MS + 18 * HOUR_MS + HOUR_MS / 2;

    /// One request ten minutes before each of three midnights, two ten minutes after them.
    fn history() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let connection = open_writable(&folder.path().join("m.db"), Durability::Process).unwrap();
        let insert = "INSERT INTO requests (id, started_at_ms, ended_at_ms, endpoint, transport, outcome) VALUES (?1, ?2, ?2, '/responses', 'json', 'completed')";
        for day in 0..3 {
            for (number, minutes) in [(0, -10), (1, 10), (2, 10)] {
                let at_ms = MIDNIGHT_MS + day * DAY_MS + minutes * 60_000;
                connection
                    .execute(insert, (first_id_at(at_ms) + number, at_ms))
                    .unwrap();
            }
        }
        (folder, connection)
    }

    fn two_days() -> Range {
        Range {
            steps: vec![MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS],
            to_ms: MIDNIGHT_MS + 2 * DAY_MS,
            before_ms: MIDNIGHT_MS - 2 * DAY_MS,
            of_rows: false,
        }
    }

    fn counts(found: &Found) -> (i64, Vec<i64>) {
        let cells = found.cells.iter().map(|cell| cell.sums.requests);
        (found.before.requests, cells.collect())
    }

    #[test]
    fn a_day_that_begins_within_an_hour_has_its_own_part_of_it() {
        let (_folder, mut connection) = history();
        let expected = (1, vec![3, 3]);
        for _ in 0..2 {
            let found = read(&connection, &two_days(), Split::Transport).unwrap();
            assert_eq!((counts(&found), found.rounded), (expected.clone(), false));
            // The same from the rows and from the sums.
            while fold::batch(&mut connection, i64::MAX, 250).unwrap() {}
        }
        // Where the rows are gone, the hour counts where it begins, and the answer says so.
        connection.execute("DELETE FROM requests", []).unwrap();
        let found = read(&connection, &two_days(), Split::Nothing).unwrap();
        assert!(found.rounded);
        let (before, cells) = counts(&found);
        assert_eq!(before + cells.iter().sum::<i64>(), 9);
    }

    /// What SQLite does, in its own small steps.
    fn steps(connection: &Connection, work: impl FnOnce()) -> usize {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let count = std::sync::Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let step = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            false
        };
        connection.progress_handler(1, Some(step)).unwrap();
        work();
        count.load(Ordering::Relaxed)
    }

    #[test]
    fn days_that_begin_within_an_hour_cost_the_rows_of_those_hours_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.db");
        crate::store::fill::fill(&path, 20_000, MIDNIGHT_MS, |_| {}).unwrap();
        let connection = open_writable(&path, Durability::Process).unwrap();
        let begins: Vec<i64> = (1..=30).map(|day| MIDNIGHT_MS - day * DAY_MS).collect();
        let whole = |at_ms: &i64| at_ms - at_ms.rem_euclid(HOUR_MS);
        let hours: Vec<i64> = begins.iter().map(whole).collect();
        let mut few = false;
        let steps = steps(&connection, || few = are_few(&connection, &hours).unwrap());
        assert!(few);
        // Some hundred rows of twenty thousand, and their sums.
        assert!(steps < 30_000, "{steps}");
    }
}
