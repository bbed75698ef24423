//! `moorage usage` and `moorage conversation`: the history as tables.

use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use serde_json::Value;

use crate::clock::now_ms;
use crate::config::{Config, parse_duration};
use crate::store::history::{self, By, Rows};
use crate::store::{self, Connection, StoreError};

#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    /// What to sum by
    #[arg(long, value_enum, default_value_t = By::Day)]
    by: By,
    /// How far back, for example 24h, 7d
    #[arg(long, value_parser = parse_duration, default_value = "30d")]
    since: Duration,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Args)]
pub(super) struct ConversationArgs {
    /// The UUID of the conversation, or the id of one of its responses
    id: String,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Args)]
pub(super) struct RequestArgs {
    /// Its id, as in x-moorage-request-id and in the log
    #[arg(value_parser = parse_request_id)]
    id: i64,
    /// JSON, one object
    #[arg(long)]
    json: bool,
}

fn parse_request_id(text: &str) -> Result<i64, String> {
    let id = text
        .parse()
        .map_err(|_| "it is a number, as in x-moorage-request-id and in the log");
    Ok(id?)
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct FormatArgs {
    /// JSON, one array of objects
    #[arg(long)]
    json: bool,
    /// CSV with a line of names
    #[arg(long)]
    csv: bool,
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Table,
    Json,
    Csv,
}

impl FormatArgs {
    fn format(&self) -> Format {
        match (self.json, self.csv) {
            (true, _) => Format::Json,
            (_, true) => Format::Csv,
            _ => Format::Table,
        }
    }
}

pub(super) fn usage(args: &UsageArgs, config: &Config) -> anyhow::Result<()> {
    let since_ms = now_ms().saturating_sub(i64::try_from(args.since.as_millis())?);
    let since = jiff::Timestamp::from_millisecond(since_ms)?;
    // On standard error, and only where that is a terminal.
    let span = now_ms() - since_ms;
    let bar = indicatif::ProgressBar::new(span.unsigned_abs()).with_style(
        indicatif::ProgressStyle::with_template("{bar:40} {percent} % of the time, {eta} left")?,
    );
    let rows = history::usage(&open(config)?, args.by, since, |at_ms| {
        bar.set_position((since_ms + span - at_ms).max(0).unsigned_abs());
    })?;
    bar.finish_and_clear();
    if rows.rows.is_empty() && args.format.format() == Format::Table {
        println!("Nothing was used since {since}.");
        return Ok(());
    }
    match args.format.format() {
        Format::Table => print(with_bars(rows_for_terminal(rows), "input_tokens"), Format::Table),
        format => print(rows, format),
    }
}

/// The columns that fit on a terminal.
fn rows_for_terminal(rows: Rows) -> Rows {
    let label = rows.columns[0].clone();
    only(rows, &[&[label.as_str()], &USAGE_COLUMNS[..]].concat())
}

/// What fits on a terminal of the columns of sums.
const USAGE_COLUMNS: [&str; 8] = [
    "requests",
    "turns",
    "errors",
    "input_tokens",
    "cached_percent",
    "output_tokens",
    "cost",
    "cost_saved",
];

/// A bar behind each row, as long as its figure is beside the largest: what is looked for is seen.
fn with_bars(mut rows: Rows, name: &str) -> Rows {
    let Some(index) = column(&rows, name) else {
        return rows;
    };
    let figure = |row: &[Value]| row[index].as_f64().unwrap_or(0.0);
    let largest = rows.rows.iter().map(|row| figure(row)).fold(0.0, f64::max);
    for row in &mut rows.rows {
        let share = if largest > 0.0 { figure(row) / largest } else { 0.0 };
        row.push(Value::from(bar(share)));
    }
    rows.columns.push("share of tokens in".to_owned());
    rows
}

/// A bar of up to twelve cells, in eighths of a cell.
fn bar(share: f64) -> String {
    const CELLS: f64 = 12.0;
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * CELLS * 8.0).round() as usize;
    "█".repeat(eighths / 8) + PARTS[eighths % 8]
}

pub(super) fn conversation(args: &ConversationArgs, config: &Config) -> anyhow::Result<()> {
    let connection = open(config)?;
    let id = match history::conversation_of(&connection, &args.id)? {
        Some(id) => Some(id),
        None => {
            // It is in no index any more.
            let looks = indicatif::ProgressBar::new_spinner().with_message("looking through all requests");
            looks.enable_steady_tick(Duration::from_millis(100));
            let found = history::conversation_of_old_response(&connection, &args.id);
            looks.finish_and_clear();
            found?
        }
    };
    let rows = match id {
        Some(id) => history::all_turns(&connection, &id, 0)?,
        None => Rows::default(),
    };
    anyhow::ensure!(
        !rows.rows.is_empty(),
        "no conversation '{}' is known, and no response of that id",
        args.id
    );
    match args.format.format() {
        Format::Table => {
            if let Some(id) = column(&rows, "conversation_id").and_then(|index| rows.rows[0][index].as_str())
            {
                println!("conversation {id}");
            }
            print(only(rows, &TURN_COLUMNS), Format::Table)
        }
        format => print(rows, format),
    }
}

pub(super) fn request(args: &RequestArgs, config: &Config) -> anyhow::Result<()> {
    let connection = open(config)?;
    let found = history::request(&connection, args.id)?;
    let request = found.ok_or_else(|| anyhow::anyhow!("there is no request {}", args.id))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&request)?);
        return Ok(());
    }
    for (name, value) in request.as_object().into_iter().flatten() {
        let shown = match value {
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => continue,
            _ if TOLD_OTHERWISE.contains(&name.as_str()) => continue,
            Value::Number(number) if !["request_id", "status"].contains(&name.as_str()) => grouped(number),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        println!("{:<22} {shown}", name.replace('_', " "));
    }
    println!();
    print(history::attempts(&connection, args.id)?, Format::Table)
}

/// Columns of a request that others tell in a person's words.
const TOLD_OTHERWISE: [&str; 8] = [
    "id",
    "started_at_ms",
    "client_key_id",
    "account_id",
    "price_id",
    "cost_micros",
    "saved_micros",
    "lost_micros",
];

/// Writes a made-up history, to see what the page and the database do with much of it.
pub(super) fn fill(count: u64, config: &Config) -> anyhow::Result<()> {
    let bar = indicatif::ProgressBar::new(count).with_style(indicatif::ProgressStyle::with_template(
        "{bar:40} {human_pos} of {human_len} requests, {eta} left",
    )?);
    store::fill::fill(&config.database, count, now_ms(), |done| bar.set_position(done))?;
    bar.finish();
    println!(
        "{} has {count} made-up requests of the last 90 days.",
        config.database.display()
    );
    Ok(())
}

/// What fits on a terminal of a turn's columns.
const TURN_COLUMNS: [&str; 12] = [
    "started_at",
    "account",
    "affinity",
    "affinity_by",
    "outcome",
    "error_code",
    "model",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "duration_ms",
    "reasons",
];

pub(super) fn open(config: &Config) -> anyhow::Result<Connection> {
    anyhow::ensure!(
        config.database.exists(),
        "there is no database at {}; 'moorage serve' makes one",
        config.database.display()
    );
    let connection = store::open_readable(&config.database)?;
    if !store::is_up_to_date(&connection)? {
        drop(connection);
        anyhow::ensure!(
            !store::is_served(&config.database),
            "the gateway that runs is an earlier version of Moorage; stop it and start this one"
        );
        drop(store::open_writable(&config.database, config.file.durability)?);
        return Ok(store::open_readable(&config.database)?);
    }
    Ok(connection)
}

pub(super) fn accounts(connection: &Connection) -> Result<Rows, StoreError> {
    history::accounts_now(connection)
}

fn column(rows: &Rows, name: &str) -> Option<usize> {
    rows.columns.iter().position(|column| column == name)
}

fn only(rows: Rows, names: &[&str]) -> Rows {
    let indexes: Vec<usize> = names.iter().filter_map(|name| column(&rows, name)).collect();
    Rows {
        columns: indexes.iter().map(|index| rows.columns[*index].clone()).collect(),
        rows: rows
            .rows
            .iter()
            .map(|row| indexes.iter().map(|index| row[*index].clone()).collect())
            .collect(),
    }
}

pub(super) fn print(rows: Rows, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Table => println!("{}", table(&rows)),
        Format::Json => println!("{}", serde_json::to_string_pretty(&rows.objects())?),
        Format::Csv => print!("{}", rows.csv()?),
    }
    Ok(())
}

/// A line below the names is enough: rows are read one below the other.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table with its numbers aligned. What is unknown is a dash, never a zero.
pub(super) fn table(rows: &Rows) -> Table {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Dynamic);
    let side = |column: usize| match rows.rows.iter().any(|row| row[column].is_number()) {
        true => CellAlignment::Right,
        false => CellAlignment::Left,
    };
    let sides: Vec<CellAlignment> = (0..rows.columns.len()).map(side).collect();
    let names = rows.columns.iter().zip(&sides);
    table.set_header(names.map(|(name, side)| Cell::new(name.replace('_', " ")).set_alignment(*side)));
    for row in &rows.rows {
        let cells = row.iter().zip(&rows.columns).zip(&sides);
        table.add_row(cells.map(|((value, name), side)| Cell::new(shown(name, value)).set_alignment(*side)));
    }
    table
}

/// A value as people read it, amounts and shares with as many digits in every row.
fn shown(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Number(number) => match number.as_f64() {
            Some(amount) if name.starts_with("cost") => format!("{amount:.4}"),
            Some(share) if name.contains("percent") => format!("{share:.1}"),
            _ => grouped(number),
        },
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Thousands apart, as people compare them.
fn grouped(number: &serde_json::Number) -> String {
    let Some(integer) = number.as_u64() else {
        return number.to_string();
    };
    let digits = integer.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        assert_eq!(bar(0.0), "");
        assert_eq!(bar(1.0), "█".repeat(12));
        assert_eq!(bar(0.5), "█".repeat(6));
        assert_eq!(bar(1.0 / 96.0), "▏");
        assert_eq!(bar(f64::NAN), "");
    }
}
