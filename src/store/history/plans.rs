//! Every query of the page finds its rows by an index. What SQLite plans is asked of SQLite itself,
//! over a history that it has statistics of.

use rusqlite::types::Null;
use rusqlite::{Connection, params_from_iter};

use crate::store::{fill, open_readable};

/// All that the page and the admin API ask of the history.
const QUERIES: [(&str, &str); 22] = [
    ("attempts", include_str!("../../../sql/queries/attempts.sql")),
    (
        "hours_between",
        include_str!("../../../sql/queries/hours_between.sql"),
    ),
    (
        "rows_between",
        include_str!("../../../sql/queries/rows_between.sql"),
    ),
    (
        "requests_of_hours",
        include_str!("../../../sql/queries/requests_of_hours.sql"),
    ),
    ("part_names", include_str!("../../../sql/queries/part_names.sql")),
    ("totals", include_str!("../../../sql/queries/totals.sql")),
    (
        "accounts_now",
        include_str!("../../../sql/queries/accounts_now.sql"),
    ),
    (
        "walk_requests",
        include_str!("../../../sql/queries/walk_requests.sql"),
    ),
    (
        "walk_requests_not_well",
        include_str!("../../../sql/queries/walk_requests_not_well.sql"),
    ),
    (
        "walk_requests_astray",
        include_str!("../../../sql/queries/walk_requests_astray.sql"),
    ),
    (
        "walk_requests_of_conversation",
        include_str!("../../../sql/queries/walk_requests_of_conversation.sql"),
    ),
    (
        "walk_conversations",
        include_str!("../../../sql/queries/walk_conversations.sql"),
    ),
    (
        "hour_with_requests",
        include_str!("../../../sql/queries/hour_with_requests.sql"),
    ),
    (
        "turns_among",
        include_str!("../../../sql/queries/turns_among.sql"),
    ),
    (
        "conversations_among",
        include_str!("../../../sql/queries/conversations_among.sql"),
    ),
    (
        "conversation_turns",
        include_str!("../../../sql/queries/conversation_turns.sql"),
    ),
    ("request", include_str!("../../../sql/queries/request.sql")),
    (
        "request_columns",
        include_str!("../../../sql/queries/request_columns.sql"),
    ),
    ("price", include_str!("../../../sql/queries/price.sql")),
    (
        "conversation_of_reference",
        include_str!("../../../sql/queries/conversation_of_reference.sql"),
    ),
    (
        "usage_since",
        include_str!("../../../sql/queries/usage_since.sql"),
    ),
    ("fold_limit", include_str!("../../../sql/queries/fold_limit.sql")),
];

/// What may be read whole: tables with a line for each account, key or kind of request, results of
/// inner queries, and the mark. Never rows of requests.
const SMALL: [&str; 23] = [
    "accounts",
    "client_keys",
    "summed",
    "CONSTANT ROW",
    "a",
    "c",
    "clock",
    "k",
    "f",
    "t",
    "cells",
    "facts",
    "s",
    "steps",
    "wanted",
    "json_each",
    // The attempts of one request.
    "attempts",
    "e",
    "usage_fold",
    // The limited models of an account.
    "m",
    // Bounded: it settles all the time.
    "recent_references",
    "usage_totals",
    "live",
];

fn plan(connection: &Connection, query: &str) -> Vec<String> {
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {query}"))
        .unwrap();
    let nulls = std::iter::repeat_n(Null, statement.parameter_count());
    let details = statement.query_map(params_from_iter(nulls), |row| row.get(3));
    details.unwrap().map(Result::unwrap).collect()
}

#[test]
fn no_query_of_the_page_reads_the_requests_from_end_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.db");
    fill::fill(&path, 3000, 1_795_000_000_000, |_| {}).unwrap();
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("ANALYZE")
        .unwrap();
    let connection = open_readable(&path).unwrap();
    for (name, query) in QUERIES {
        for step in plan(&connection, query) {
            let Some(scanned) = step.strip_prefix("SCAN ") else {
                continue;
            };
            let is_small = SMALL
                .iter()
                .any(|small| scanned == *small || scanned.starts_with(&format!("{small} ")))
                || scanned.starts_with("(subquery");
            assert!(is_small, "{name}: {step}");
        }
    }
    // The test sees a scan where there is one.
    assert_eq!(
        plan(
            &connection,
            "SELECT count(*) FROM requests AS r WHERE r.model_asked = ''"
        ),
        ["SCAN r"]
    );
}
