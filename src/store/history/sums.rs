//! Sums over a range of time, in steps and by what they are split.

use rusqlite::{Connection, Row};
use serde::Serialize;

use crate::store::{StoreError, first_id_at};

/// The smallest step that is made of the hourly sums.
pub const HOUR_MS: i64 = 3_600_000;

/// Which sums are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The begin, in milliseconds since 1970 UTC. With steps of an hour and more, the begin of one.
    pub from_ms: i64,
    /// The end, which does not belong to it.
    pub to_ms: i64,
    /// The length of a step.
    pub step_ms: i64,
    /// How far the viewer's clock is ahead of UTC.
    pub ahead_ms: i64,
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

/// The cells of a range in the order of time, without empty ones.
///
/// # Errors
/// If the database cannot be read.
pub fn cells(connection: &Connection, range: Range, split: Split) -> Result<Vec<Cell>, StoreError> {
    let mut statement = connection.prepare_cached(include_str!("../../../sql/queries/usage_cells.sql"))?;
    let cells = statement.query_map(
        (
            range.from_ms,
            range.to_ms,
            range.step_ms,
            range.ahead_ms,
            split.as_str(),
            first_id_at(range.from_ms),
            first_id_at(range.to_ms),
        ),
        |row| {
            Ok(Cell {
                at_ms: row.get(0)?,
                part: row.get(1)?,
                sums: Sums::read(row)?,
            })
        },
    )?;
    Ok(cells.collect::<Result<_, _>>()?)
}
