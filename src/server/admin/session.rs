//! The login of the page: the admin key against a cookie that no script can read and no other site
//! can have sent.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Json, Response};
use serde::Deserialize;
use serde_json::json;

use crate::clock::now_ms;
use crate::limits;
use crate::store::{StoreError, admin_sessions, client_keys};

use super::super::door::{Peer, is_of_own_page};
use super::super::{Front, errors};
use super::{check_key, read_json, session_token};

const COOKIE: &str = "moorage_session";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    key: String,
}

/// `POST /admin/api/v1/session`: the admin key, for a cookie.
pub(super) async fn begin(State(front): State<Front>, request: Request) -> Response {
    if !is_of_own_page(request.headers(), request.uri(), false) {
        return errors::not_admin();
    }
    let peer = Peer::of(request.extensions());
    let login: Login = match read_json(request).await {
        Ok(login) => login,
        Err(refused) => return refused,
    };
    if let Some(refused) = check_key(&front, peer, login.key.trim()) {
        return refused;
    }
    let Ok(token) = client_keys::generate("ms") else {
        return errors::internal();
    };
    let cookie = cookie(&front, &token, limits::ADMIN_SESSION.as_secs());
    let begun = front
        .gateway
        .store
        .change(move |connection| admin_sessions::begin(connection, &token, now_ms()));
    match begun.await {
        Ok(()) => ([(header::SET_COOKIE, cookie)], StatusCode::NO_CONTENT).into_response(),
        Err(error) => errors::unwritable(&error),
    }
}

/// `GET /admin/api/v1/session`: whether the page has to ask for the key.
pub(super) async fn show(State(front): State<Front>, request: Request) -> Response {
    let token = session_token(&request);
    match is_valid(&front, token).await {
        Ok(true) => Json(json!({ "logged_in": true })).into_response(),
        Ok(false) => errors::not_admin(),
        Err(error) => errors::unreadable(&error),
    }
}

/// `DELETE /admin/api/v1/session`: the end of it.
pub(super) async fn end(State(front): State<Front>, request: Request) -> Response {
    let Some(token) = session_token(&request) else {
        return errors::not_admin();
    };
    let cookie = cookie(&front, "", 0);
    let ended = front
        .gateway
        .store
        .change(move |connection| admin_sessions::end(connection, &token));
    match ended.await {
        Ok(()) => ([(header::SET_COOKIE, cookie)], StatusCode::NO_CONTENT).into_response(),
        Err(error) => errors::unwritable(&error),
    }
}

/// Whether a token is that of a session that lasts.
pub(super) async fn is_valid(front: &Front, token: Option<String>) -> Result<bool, StoreError> {
    let Some(token) = token else { return Ok(false) };
    let valid = front
        .gateway
        .store
        .read(move |connection| admin_sessions::is_valid(connection, &token, now_ms()));
    valid.await
}

/// The token in the cookie of a request.
pub(super) fn token(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let mut pairs = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, token)| *name == COOKIE && !token.is_empty())
        .map(|(_, token)| token.to_owned())
}

fn cookie(front: &Front, token: &str, seconds: u64) -> HeaderValue {
    let secure = if front.is_tls { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    // A token is made of letters, digits, dash and underscore.
    HeaderValue::try_from(cookie).unwrap_or(HeaderValue::from_static(""))
}
