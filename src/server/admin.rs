//! `/admin/api`: what the page and scripts read. Needs the admin key, also from this machine.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Json, Response};
use serde_json::{Value, json};

use crate::store::{Connection, StoreError, history};

use super::{Front, errors};

/// Turns that the overview shows.
const OVERVIEW_TURNS: u32 = 100;

/// The sums of today, the accounts, and the last turns.
pub(super) async fn overview(State(front): State<Front>, headers: HeaderMap) -> Response {
    if !front.keys.is_admin(&headers) {
        return errors::not_admin();
    }
    match front.gateway.store.read(read_overview).await {
        Ok(overview) => {
            let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
            (no_store, Json(overview)).into_response()
        }
        Err(error) => errors::unreadable(&error),
    }
}

fn read_overview(connection: &Connection) -> Result<Value, StoreError> {
    Ok(json!({
        "today": history::today(connection)?.objects().into_iter().next(),
        "accounts": history::accounts_now(connection)?.objects(),
        "turns": history::recent_turns(connection, OVERVIEW_TURNS)?.objects(),
    }))
}
