//! `/admin/api`: what the page and scripts read and change. All of it needs the admin key, also from
//! this machine: in a header, or exchanged for a cookie by a login.

mod accounts;
mod explain;
mod history;
mod keys;
mod metrics;
mod session;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::{get, post, put};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::clock::now_ms;
use crate::limits;
use crate::store::StoreError;
use crate::store::accounts::Change;

use super::door::{Peer, is_of_own_page};
use super::{Front, errors};

/// All routes below `/admin/api`.
pub(super) fn router(front: &Front) -> Router<Front> {
    let behind_the_key = Router::new()
        .merge(history::routes())
        .route("/explain", post(explain::explain))
        .route("/v1/accounts", get(accounts::list).post(accounts::add))
        .route(
            "/v1/accounts/{name}",
            get(accounts::show).delete(accounts::remove),
        )
        .route("/v1/accounts/{name}/enable", post(accounts::enable))
        .route("/v1/accounts/{name}/disable", post(accounts::disable))
        .route("/v1/accounts/{name}/drain", post(accounts::drain))
        .route("/v1/keys", get(keys::list).post(keys::add))
        .route("/v1/keys/{name}/bounds", put(keys::set_bounds))
        .route("/v1/keys/{name}/rotate", post(keys::rotate))
        .route("/v1/keys/{name}/revoke", post(keys::revoke))
        .layer(middleware::from_fn_with_state(front.clone(), guard));
    let all = behind_the_key.route(
        "/v1/session",
        post(session::begin).get(session::show).delete(session::end),
    );
    Router::new().nest("/admin/api", all).layer(
        // What it tells is nobody else's, and tomorrow it is something else.
        middleware::map_response(async |mut response: Response| {
            let no_store = HeaderValue::from_static("no-store");
            response.headers_mut().insert(header::CACHE_CONTROL, no_store);
            response
        }),
    )
}

/// `/metrics`, behind the same key: it names accounts and tells what they do.
pub(super) fn metrics_router(front: &Front) -> Router<Front> {
    Router::new()
        .route("/metrics", get(metrics::metrics))
        .layer(middleware::from_fn_with_state(front.clone(), guard))
}

/// Lets in whoever has the admin key, or is logged in and asks from this server's own page.
async fn guard(State(front): State<Front>, request: Request, next: Next) -> Response {
    if let Some(presented) = super::keys::presented(request.headers()) {
        return match check_key(&front, Peer::of(request.extensions()), presented) {
            None => next.run(request).await,
            Some(refused) => refused,
        };
    }
    let token = session_token(&request);
    match session::is_valid(&front, token).await {
        Ok(true) => next.run(request).await,
        Ok(false) => errors::not_admin(),
        Err(error) => errors::unreadable(&error),
    }
}

/// What is answered to a key that is not the admin key; nothing to the one that is. Whoever is
/// wrong too often has to wait, and is not listened to meanwhile: that would tell whether the next
/// guess was right.
fn check_key(front: &Front, peer: Peer, presented: &str) -> Option<Response> {
    if let Some(wait) = front.door.must_wait(peer, now_ms()) {
        return Some(errors::too_many_wrong_keys(wait));
    }
    match front.keys.is_admin(presented) {
        true => {
            front.door.was_right(peer);
            None
        }
        false => {
            front.door.was_wrong(peer, now_ms());
            Some(errors::not_admin())
        }
    }
}

/// The token in the cookie, if the page that sends it is this server's own. What changes something
/// must say so itself; what only reads must not say otherwise.
fn session_token(request: &Request) -> Option<String> {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    is_of_own_page(request.headers(), request.uri(), changes)
        .then(|| session::token(request.headers()))
        .flatten()
}

/// Reads a small JSON object. It must say that it is one: no form of another page can. Whoever logs in has
/// shown no key yet, and must not keep a connection by being slow.
async fn read_json<T: DeserializeOwned>(request: Request) -> Result<T, Response> {
    let read = read_json_up_to(request, limits::ADMIN_BODY_BYTES_MAX);
    match tokio::time::timeout(limits::ADMIN_BODY, read).await {
        Ok(read) => read,
        Err(_) => Err(errors::admin_body_too_large()),
    }
}

/// The same, of another size.
async fn read_json_up_to<T: DeserializeOwned>(request: Request, most: usize) -> Result<T, Response> {
    let media_type = request.headers().get(header::CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = media_type.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(errors::not_json());
    }
    let body = to_bytes(request.into_body(), most).await;
    let body = body.map_err(|_| errors::admin_body_too_large())?;
    serde_json::from_slice(&body).map_err(|error| errors::invalid_request(error.to_string()))
}

/// What is answered to a change: once the gateway has taken it over, or knows why not.
async fn made(
    front: &Front,
    what: &'static str,
    name: &str,
    change: Result<Change, StoreError>,
    told: Value,
) -> Response {
    match change {
        Ok(Change::Made(version)) => match front.gateway.store.take_over.ask_for(version).await {
            true => Json(told).into_response(),
            false => errors::not_taken_over(),
        },
        Ok(Change::Unknown) => errors::unknown_name(what, name),
        Ok(Change::InFile) => errors::in_file(what, name),
        Ok(Change::InUse(live)) => errors::in_use(name, live),
        Err(error) => errors::unwritable(&error),
    }
}
