//! `/admin/api/v1/keys`: what `moorage key` does, for the page and for scripts.

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Json, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::account::check_name;
use crate::clock::now_ms;
use crate::store::accounts::Change;
use crate::store::client_keys::{self, ClientKey, KeyBounds, NewClientKey};

use super::super::{Front, errors};
use super::{made, read_json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    name: String,
    scope: Option<String>,
    #[serde(default)]
    bounds: KeyBounds,
}

/// All client keys; of the keys themselves only how they begin.
pub(super) async fn list(State(front): State<Front>) -> Response {
    match front.gateway.store.look(client_keys::list).await {
        Ok(keys) => {
            let keys: Vec<Value> = keys.iter().map(shown).collect();
            Json(json!({ "keys": keys })).into_response()
        }
        Err(error) => errors::unreadable(&error),
    }
}

fn shown(key: &ClientKey) -> Value {
    json!({
        "client_key": key.name,
        "scope": key.scope,
        "begins_with": key.visible_prefix,
        "source": key.source,
        "created_at_ms": key.created_at_ms,
        "bounds": key.bounds,
    })
}

/// Makes one. The answer is the only place where it is shown.
pub(super) async fn add(State(front): State<Front>, request: Request) -> Response {
    let described: Described = match read_json(request).await {
        Ok(described) => described,
        Err(refused) => return refused,
    };
    let checked = check_name(&described.name).and_then(|()| described.bounds.check());
    if let Err(message) = checked {
        return errors::invalid_request(message);
    }
    let Ok(key) = client_keys::generate("mk") else {
        return errors::internal();
    };
    let told = json!({ "client_key": described.name, "key": key });
    let name = described.name.clone();
    let added = front.gateway.store.change(move |connection| {
        let new = NewClientKey {
            name: &described.name,
            scope: described.scope.as_deref(),
            key: &key,
            bounds: &described.bounds,
        };
        client_keys::add(connection, &new, now_ms())
    });
    match added.await {
        Ok(Some(version)) => made(&front, "client key", &name, Ok(Change::Made(version)), told).await,
        Ok(None) => errors::name_taken("client key", &name),
        Err(error) => errors::unwritable(&error),
    }
}

/// Gives one a new secret, which is shown only here; its conversations stay.
pub(super) async fn rotate(State(front): State<Front>, Path(name): Path<String>) -> Response {
    let Ok(key) = client_keys::generate("mk") else {
        return errors::internal();
    };
    let told = json!({ "client_key": name, "key": key });
    let asked = name.clone();
    let change = front
        .gateway
        .store
        .change(move |connection| client_keys::rotate(connection, &asked, &key));
    made(&front, "client key", &name, change.await, told).await
}

/// Changes what one may do; what is not named is without bound.
pub(super) async fn set_bounds(
    State(front): State<Front>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let bounds: KeyBounds = match read_json(request).await {
        Ok(bounds) => bounds,
        Err(refused) => return refused,
    };
    if let Err(message) = bounds.check() {
        return errors::invalid_request(message);
    }
    let told = json!({ "client_key": name, "bounds": bounds });
    let asked = name.clone();
    let change = front
        .gateway
        .store
        .change(move |connection| client_keys::set_bounds(connection, &asked, &bounds));
    made(&front, "client key", &name, change.await, told).await
}

/// Lets one in no more.
pub(super) async fn revoke(State(front): State<Front>, Path(name): Path<String>) -> Response {
    let asked = name.clone();
    let change = front
        .gateway
        .store
        .change(move |connection| client_keys::revoke(connection, &asked, now_ms()));
    let told = json!({ "client_key": name });
    made(&front, "client key", &name, change.await, told).await
}
