//! `/admin/api/v1`: the usage history, as the page and scripts read it.

use axum::Router;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use jiff::tz::{Offset, TimeZone};
use jiff::{Span, SpanRelativeTo, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::clock::now_ms;
use crate::limits;
use crate::store::history::search::{self, Wanted};
use crate::store::history::sums::{self, Cell, HOUR_MS, Range, Split, Sums};
use crate::store::history::{self, Rows};
use crate::store::{Connection, StoreError};

use super::super::{Front, errors};

/// The routes.
pub(super) fn routes() -> Router<Front> {
    Router::new()
        .route("/v1/usage", get(usage))
        .route("/v1/requests", get(requests))
        .route("/v1/requests/{id}", get(request))
        .route("/v1/conversations", get(conversations))
        .route("/v1/conversations/{id}", get(conversation))
        .route("/v1/live", get(live))
}

/// The query of a URL; one that is not understood says what is wrong.
struct Asked<T>(T);

impl<T: DeserializeOwned> FromRequestParts<Front> for Asked<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &Front) -> Result<Asked<T>, Response> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(asked)) => Ok(Asked(asked)),
            Err(error) => Err(errors::invalid_parameter(&root_cause(&error))),
        }
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageQuery {
    from: Option<String>,
    to: Option<String>,
    last: Option<String>,
    step: Option<String>,
    by: Option<String>,
    time_zone: Option<String>,
    ahead_minutes: Option<i64>,
    format: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Json,
    Csv,
}

/// The sums of a range, of the range before it, of its steps and of what they are split by.
async fn usage(State(front): State<Front>, Asked(query): Asked<UsageQuery>) -> Response {
    let split = match query.by.as_deref().map(Split::of_word) {
        None => Split::Nothing,
        Some(Some(split)) => split,
        Some(None) => {
            return errors::invalid_parameter("by is one of nothing, account, model, client_key, transport");
        }
    };
    let (range, step_ms) = match range(&query, now_ms()) {
        Ok(range) => range,
        Err(message) => return errors::invalid_parameter(&message),
    };
    let currency = front.gateway.settings.currency.clone();
    let read = move |connection: &Connection| {
        let found = sums::read(connection, &range, split)?;
        let cells = found.cells;
        if query.format == Some(Format::Csv) {
            return Ok(Shown::Csv(cells_as_rows(cells, split), "usage"));
        }
        let parts = parts(&cells);
        Ok(Shown::Json(json!({
            "from": range.steps.first().map(|at_ms| iso(*at_ms)),
            "to": iso(range.to_ms),
            "step_ms": step_ms,
            "steps": range.steps.iter().map(|at_ms| iso(*at_ms)).collect::<Vec<_>>(),
            "rounded_to_hours": found.rounded,
            "by": split.as_str(),
            "currency": currency,
            "totals": object(&total(&cells)),
            "before": object(&found.before),
            "parts": parts.iter().map(|(part, sums)| with("part", json!(part), sums)).collect::<Vec<_>>(),
            "cells": cells.iter().map(cell_object).collect::<Vec<_>>(),
        })))
    };
    answer(&front, read).await
}

/// The range that is asked for, and the length of its steps.
fn range(query: &UsageQuery, now_ms: i64) -> Result<(Range, i64), String> {
    let to_ms = query.to.as_deref().map_or(Ok(now_ms), |text| time("to", text))?;
    let from_ms = match (&query.from, &query.last) {
        (Some(_), Some(_)) => return Err("give from or last, one of them".to_owned()),
        (Some(from), None) => time("from", from)?,
        (None, last) => to_ms - duration("last", last.as_deref().unwrap_or("24h"))?,
    };
    if from_ms >= to_ms || from_ms < 0 {
        return Err("from must be before to".to_owned());
    }
    let length_ms = to_ms - from_ms;
    let step_ms = match &query.step {
        Some(step) => duration("step", step)?,
        None => step_for(length_ms),
    };
    let rows_max_ms = i64::try_from(limits::RANGE_OF_ROWS_MAX.as_millis()).unwrap_or(i64::MAX);
    if step_ms < HOUR_MS && length_ms > rows_max_ms {
        return Err("steps shorter than an hour are for ranges of up to 6h".to_owned());
    }
    if step_ms < 1000 || step_ms > HOUR_MS && step_ms % HOUR_MS != 0 {
        return Err("step is at least 1s, and from 1h on in whole hours".to_owned());
    }
    if length_ms / step_ms >= limits::RANGE_STEPS_MAX {
        return Err(format!("at most {} steps at once", limits::RANGE_STEPS_MAX));
    }
    let zone = zone(query);
    // Sums are by the hour: the hours at both ends, on the viewer's clock, count whole.
    let grid_ms = step_ms.min(HOUR_MS);
    let ahead_ms = |at_ms| match step_ms > HOUR_MS {
        true => ahead_ms(&zone, at_ms),
        false => 0,
    };
    let from_ms = from_ms - (from_ms + ahead_ms(from_ms)).rem_euclid(grid_ms);
    let to_ms = to_ms + (grid_ms - (to_ms + ahead_ms(to_ms)).rem_euclid(grid_ms)) % grid_ms;
    let range = Range {
        steps: match step_ms > HOUR_MS {
            true => steps(&zone, from_ms, to_ms, step_ms),
            false => (from_ms..to_ms)
                .step_by(usize::try_from(step_ms).unwrap_or(1))
                .collect(),
        },
        to_ms,
        before_ms: from_ms - (to_ms - from_ms),
        of_rows: step_ms < HOUR_MS,
    };
    Ok((range, step_ms))
}

/// The viewer's time zone: by its name, if it is known here, else by how far it is ahead of UTC now.
fn zone(query: &UsageQuery) -> TimeZone {
    let named = query
        .time_zone
        .as_deref()
        .and_then(|name| TimeZone::get(name).ok());
    named.unwrap_or_else(|| {
        let minutes = query.ahead_minutes.unwrap_or(0).clamp(-24 * 60, 24 * 60);
        let offset = Offset::from_seconds((minutes * 60) as i32).unwrap_or(Offset::UTC);
        TimeZone::fixed(offset)
    })
}

fn ahead_ms(zone: &TimeZone, at_ms: i64) -> i64 {
    let at = Timestamp::from_millisecond(at_ms).unwrap_or_default();
    i64::from(zone.to_offset(at).seconds()) * 1000
}

/// Where steps of more than an hour begin: on the viewer's clock, whatever its summer time does.
fn steps(zone: &TimeZone, from_ms: i64, to_ms: i64, step_ms: i64) -> Vec<i64> {
    let mut steps = vec![from_ms];
    let mut local_ms = from_ms + ahead_ms(zone, from_ms);
    loop {
        local_ms = local_ms - local_ms.rem_euclid(step_ms) + step_ms;
        let local = Offset::UTC.to_datetime(Timestamp::from_millisecond(local_ms).unwrap_or_default());
        let at_ms = match local.to_zoned(zone.clone()) {
            Ok(zoned) => zoned.timestamp().as_millisecond(),
            Err(_) => to_ms,
        };
        if at_ms >= to_ms {
            return steps;
        }
        if steps.last().is_some_and(|last| *last < at_ms) {
            steps.push(at_ms);
        }
    }
}

/// Some dozen steps for every range.
fn step_for(length_ms: i64) -> i64 {
    const MINUTE_MS: i64 = 60_000;
    match length_ms / HOUR_MS {
        0..2 => 2 * MINUTE_MS,
        2..=6 => 10 * MINUTE_MS,
        7..=72 => HOUR_MS,
        73..=240 => 6 * HOUR_MS,
        _ => 24 * HOUR_MS,
    }
}

fn time(name: &str, text: &str) -> Result<i64, String> {
    text.parse::<i64>()
        .ok()
        .or_else(|| text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond))
        .filter(|ms| (0..=MS_MAX).contains(ms))
        .ok_or_else(|| format!("{name} is a time as in 2026-10-01T12:00:00Z, or milliseconds since 1970"))
}

/// Some thousand years: far from where sums of times overflow.
const MS_MAX: i64 = 100_000_000_000_000;

fn duration(name: &str, text: &str) -> Result<i64, String> {
    let span = text.parse::<Span>().ok();
    let span = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let ms = span.and_then(|span| i64::try_from(span.as_millis()).ok());
    ms.filter(|ms| (1..=MS_MAX).contains(ms))
        .ok_or_else(|| format!("{name} is a duration as in 90m, 24h or 7d"))
}

fn total(cells: &[Cell]) -> Sums {
    let mut total = Sums::default();
    for cell in cells {
        total.add(&cell.sums);
    }
    total
}

/// The parts with their sums, the one with the most requests first.
fn parts(cells: &[Cell]) -> Vec<(Option<String>, Sums)> {
    let mut parts: Vec<(Option<String>, Sums)> = Vec::new();
    for cell in cells {
        match parts.iter_mut().find(|(part, _)| *part == cell.part) {
            Some((_, sums)) => sums.add(&cell.sums),
            None => parts.push((cell.part.clone(), cell.sums.clone())),
        }
    }
    parts.sort_by(|(a, x), (b, y)| y.requests.cmp(&x.requests).then(a.cmp(b)));
    parts
}

fn object(sums: &Sums) -> Value {
    let mut object = json!(sums);
    object["cached_percent"] = match (sums.cached_tokens, sums.input_tokens_with_cache_figure) {
        (Some(cached), Some(input)) if input > 0 => {
            json!((1000.0 * cached as f64 / input as f64).round() / 10.0)
        }
        _ => Value::Null,
    };
    object
}

fn with(name: &str, value: Value, sums: &Sums) -> Value {
    let mut object = object(sums);
    object[name] = value;
    object
}

fn cell_object(cell: &Cell) -> Value {
    let mut object = with("at", json!(iso(cell.at_ms)), &cell.sums);
    object["part"] = json!(cell.part);
    object
}

fn cells_as_rows(cells: Vec<Cell>, split: Split) -> Rows {
    let mut rows = Rows {
        columns: vec!["at".to_owned(), split.as_str().to_owned()],
        rows: Vec::new(),
    };
    let names = |sums: &Sums| match object(sums) {
        Value::Object(members) => members,
        _ => serde_json::Map::new(),
    };
    rows.columns
        .extend(names(&Sums::default()).into_iter().map(|(name, _)| name));
    for cell in cells {
        let mut line = vec![json!(iso(cell.at_ms)), json!(cell.part)];
        line.extend(names(&cell.sums).into_iter().map(|(_, value)| value));
        rows.rows.push(line);
    }
    rows
}

fn iso(ms: i64) -> String {
    let time = Timestamp::from_millisecond(ms).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    before_id: Option<i64>,
    count: Option<u32>,
    from: Option<String>,
    to: Option<String>,
    account: Option<String>,
    client_key: Option<String>,
    model: Option<String>,
    transport: Option<String>,
    outcome: Option<String>,
    affinity: Option<String>,
    conversation: Option<String>,
    error: Option<String>,
    format: Option<Format>,
}

impl ListQuery {
    fn count(&self) -> usize {
        self.count.unwrap_or(50).clamp(1, limits::PAGE_ROWS_MAX) as usize
    }

    fn wanted(self) -> Result<Wanted, String> {
        let at = |name: &str, text: Option<String>| text.map(|text| time(name, &text)).transpose();
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Wanted {
            before_id: self.before_id,
            from_ms: at("from", given(self.from))?,
            to_ms: at("to", given(self.to))?,
            account: given(self.account),
            client_key: given(self.client_key),
            model: given(self.model),
            transport: given(self.transport),
            outcome: given(self.outcome),
            affinity: given(self.affinity),
            conversation: given(self.conversation),
            error: given(self.error),
        })
    }
}

type Search = fn(&Connection, &Wanted, usize) -> Result<search::Page, StoreError>;

/// Requests, the latest first.
async fn requests(State(front): State<Front>, Asked(query): Asked<ListQuery>) -> Response {
    list(&front, query, "requests", search::requests).await
}

/// Conversations, the one with the latest turn first.
async fn conversations(State(front): State<Front>, Asked(query): Asked<ListQuery>) -> Response {
    list(&front, query, "conversations", search::conversations).await
}

async fn list(front: &Front, query: ListQuery, name: &'static str, search: Search) -> Response {
    let (count, format) = (query.count(), query.format);
    let wanted = match query.wanted() {
        Ok(wanted) => wanted,
        Err(message) => return errors::invalid_parameter(&message),
    };
    let read = move |connection: &Connection| {
        if format == Some(Format::Csv) {
            return Ok(Shown::Csv(searched(connection, search, wanted, count)?, name));
        }
        let page = search(connection, &wanted, count)?;
        Ok(Shown::Json(json!({
            name: page.rows.objects(),
            "next_before_id": page.next_before_id,
            // How far back the list has come, for those who wait for the next page.
            "next_before": page.next_before_id.map(|id| iso(id / crate::store::first_id_at(1))),
        })))
    };
    answer(front, read).await
}

/// As many lines as are asked for, from however many pages: CSV has no place to say where to go on.
fn searched(
    connection: &Connection,
    search: Search,
    mut wanted: Wanted,
    count: usize,
) -> Result<Rows, StoreError> {
    let mut all = search(connection, &wanted, count)?;
    for _ in 1..limits::CSV_PAGES_MAX {
        let missing = count - all.rows.rows.len();
        let Some(before_id) = all.next_before_id.filter(|_| missing > 0) else {
            break;
        };
        wanted.before_id = Some(before_id);
        let more = search(connection, &wanted, missing)?;
        all.rows.rows.extend(more.rows.rows);
        all.next_before_id = more.next_before_id;
    }
    Ok(all.rows)
}

/// A request with all that is kept of it.
async fn request(State(front): State<Front>, Path(id): Path<i64>) -> Response {
    let read = move |connection: &Connection| {
        Ok(match history::request(connection, id)? {
            Some(request) => Shown::Json(request),
            None => Shown::Nothing,
        })
    };
    answer(&front, read).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TurnsQuery {
    after_id: Option<i64>,
    format: Option<Format>,
}

/// A conversation with its turns, oldest first. It is named by its UUID or by one of its responses.
async fn conversation(
    State(front): State<Front>,
    Path(id): Path<String>,
    Asked(query): Asked<TurnsQuery>,
) -> Response {
    let read = move |connection: &Connection| {
        let Some(id) = history::conversation_of(connection, &id)? else {
            return Ok(Shown::Nothing);
        };
        let Some(conversation) = history::conversation(connection, &id)? else {
            return Ok(Shown::Nothing);
        };
        let after_id = query.after_id.unwrap_or(0);
        if query.format == Some(Format::Csv) {
            // It has no place to say where to go on.
            let turns = history::all_turns(connection, &id, after_id)?;
            return Ok(Shown::Csv(turns, "conversation"));
        }
        let turns = history::turns(connection, &id, after_id)?;
        let turns = turns.objects();
        let is_full = turns.len() == limits::PAGE_ROWS_MAX as usize;
        let last_id = turns.last().map(|turn| turn["request_id"].clone());
        Ok(Shown::Json(json!({
            "conversation": conversation,
            "next_after_id": last_id.filter(|_| is_full),
            "turns": turns,
        })))
    };
    answer(&front, read).await
}

/// What runs now. `ended` changes when there is something new to read.
async fn live(State(front): State<Front>) -> Response {
    let gateway = &front.gateway;
    let accounts = gateway.pool.now(now_ms()).into_iter().map(|account| {
        json!({
            "account": account.name,
            "status": account.status,
            "in_flight": account.in_flight,
            "until": account.usable_at_ms.map(iso),
        })
    });
    let live = json!({
        "now": iso(now_ms()),
        "open": gateway.metrics.open_count(),
        "ended": gateway.metrics.ended_count(),
        "accounts": accounts.collect::<Vec<_>>(),
        "store": gateway.store.trouble(),
    });
    Shown::Json(live).into_response()
}

/// What a call shows.
enum Shown {
    Json(Value),
    Csv(Rows, &'static str),
    Nothing,
}

async fn answer<F>(front: &Front, read: F) -> Response
where
    F: FnOnce(&Connection) -> Result<Shown, StoreError> + Send + 'static,
{
    match front.gateway.store.look(read).await {
        Ok(shown) => shown.into_response(),
        Err(error) => errors::unreadable(&error),
    }
}

impl IntoResponse for Shown {
    fn into_response(self) -> Response {
        match self {
            Shown::Json(value) => Json(value).into_response(),
            Shown::Nothing => errors::nothing_of_that_id(),
            Shown::Csv(rows, name) => match rows.csv() {
                Ok(text) => {
                    let file = format!("attachment; filename=\"moorage-{name}.csv\"");
                    let kind = "text/csv; charset=utf-8".to_owned();
                    ([(CONTENT_TYPE, kind), (CONTENT_DISPOSITION, file)], text).into_response()
                }
                Err(error) => {
                    tracing::error!(%error, "rows could not be written as CSV");
                    errors::internal()
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn days_begin_at_midnight_of_the_viewer_on_both_sides_of_a_change_of_the_clock() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let (from, to) = (ms("2026-10-23T22:00:00Z"), ms("2026-10-27T23:00:00Z"));
        let expected = [
            "2026-10-23T22:00:00Z",
            "2026-10-24T22:00:00Z",
            "2026-10-25T23:00:00Z",
            "2026-10-26T23:00:00Z",
        ];
        assert_eq!(steps(&berlin, from, to, 24 * HOUR_MS), expected.map(ms));
        // Parts of the longer day, too: it has 25 hours, and its second quarter begins at 6.
        let quarters = steps(
            &berlin,
            ms("2026-10-24T22:00:00Z"),
            ms("2026-10-25T23:00:00Z"),
            6 * HOUR_MS,
        );
        let expected = [
            "2026-10-24T22:00:00Z",
            "2026-10-25T05:00:00Z",
            "2026-10-25T11:00:00Z",
            "2026-10-25T17:00:00Z",
        ];
        assert_eq!(quarters, expected.map(ms));
    }

    #[test]
    fn a_zone_that_is_half_an_hour_off_has_its_days_whole() {
        let kolkata = TimeZone::fixed(Offset::from_seconds(19_800).unwrap());
        let (from, to) = (ms("2026-10-01T18:30:00Z"), ms("2026-10-03T18:30:00Z"));
        let expected = ["2026-10-01T18:30:00Z", "2026-10-02T18:30:00Z"];
        assert_eq!(steps(&kolkata, from, to, 24 * HOUR_MS), expected.map(ms));
    }
}
