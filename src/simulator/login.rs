//! Where simulated ChatGPT logins are renewed: like the real place, it takes every refresh token once.
//!
//! Whoever shows a refresh token a second time is taken for a thief, and the whole login ends: what a
//! careless holder of a copy does to the owner.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Request, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::account::State;
use super::fault::Fault;
use super::play::{Sending, Step, play};
use crate::clock::now_ms;

/// The client for which ChatGPT logins of Codex CLI are made (openai/codex, `codex-rs/login`).
const CLIENT_ID: &str = "app_EMoamEEZ73f0CkXaXp7hrann";

/// How long an access token is valid that a renewal gave.
const RENEWED_FOR: Duration = Duration::from_secs(3600);

/// The largest request for a renewal.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The logins of all accounts of one simulator: a gateway has one address for renewals.
#[derive(Debug, Default)]
pub(super) struct LoginServer {
    logins: Mutex<HashMap<String, Login>>,
}

#[derive(Debug, Default)]
struct Login {
    /// The one refresh token that is good.
    refresh_token: String,
    /// Those that were good before.
    used: HashSet<String>,
    /// Access tokens, each with its end in milliseconds since 1970 UTC.
    access: HashMap<String, i64>,
    /// Why it can be renewed no more.
    ended: Option<String>,
    renewals: usize,
    refused: usize,
    fault: Option<Fault>,
}

impl LoginServer {
    fn logins(&self) -> MutexGuard<'_, HashMap<String, Login>> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, account_id: &str, change: impl FnOnce(&mut Login) -> T) -> T {
        change(self.logins().entry(account_id.to_owned()).or_default())
    }

    /// A new login, as Codex CLI writes it down. What was there before is no good any more.
    pub(super) fn log_in(&self, account_id: &str, valid_for: Duration) -> Value {
        let tokens = self.change(account_id, |login| {
            *login = Login {
                renewals: login.renewals,
                refused: login.refused,
                ..Login::default()
            };
            login.issue(account_id, valid_for)
        });
        let mut tokens = tokens;
        tokens["account_id"] = account_id.into();
        json!({
            "auth_mode": "chatgpt",
            "OPENAI_API_KEY": null,
            "tokens": tokens,
            "last_refresh": "2026-11-20T10:11:12.123456Z",
        })
    }

    /// Whether the access token is one of this account, and still good.
    pub(super) fn accepts(&self, account_id: &str, access_token: &str) -> bool {
        let logins = self.logins();
        let login = logins.get(account_id);
        let end = login.and_then(|login| login.access.get(access_token));
        end.is_some_and(|end_ms| now_ms() < *end_ms)
    }

    pub(super) fn end_access(&self, account_id: &str) {
        self.change(account_id, |login| login.access.clear());
    }

    pub(super) fn end(&self, account_id: &str, code: &str) {
        self.change(account_id, |login| login.ended = Some(code.to_owned()));
    }

    pub(super) fn fail(&self, account_id: &str, fault: Option<Fault>) {
        self.change(account_id, |login| login.fault = fault);
    }

    pub(super) fn renewals(&self, account_id: &str) -> usize {
        self.change(account_id, |login| login.renewals)
    }

    pub(super) fn refused(&self, account_id: &str) -> usize {
        self.change(account_id, |login| login.refused)
    }

    /// Whose refresh token it is, or was.
    fn holder(&self, refresh_token: &str) -> Option<String> {
        let logins = self.logins();
        let holds =
            |login: &Login| login.refresh_token == refresh_token || login.used.contains(refresh_token);
        let found = logins.iter().find(|(_, login)| holds(login));
        found.map(|(account_id, _)| account_id.clone())
    }

    fn renew(&self, account_id: &str, refresh_token: &str) -> Result<Value, String> {
        self.change(account_id, |login| {
            if login.used.contains(refresh_token) {
                login.ended.get_or_insert("refresh_token_invalidated".to_owned());
                login.access.clear();
                login.refused += 1;
                return Err("refresh_token_reused".to_owned());
            }
            if let Some(code) = login.ended.clone() {
                login.refused += 1;
                return Err(code);
            }
            login.renewals += 1;
            Ok(login.issue(account_id, RENEWED_FOR))
        })
    }
}

impl Login {
    fn issue(&mut self, account_id: &str, valid_for: Duration) -> Value {
        let end_ms = now_ms() + i64::try_from(valid_for.as_millis()).unwrap_or(0);
        let access = token(account_id, end_ms);
        let refresh_token = format!("rt-{account_id}-{}", uuid::Uuid::new_v4().simple());
        let before = std::mem::replace(&mut self.refresh_token, refresh_token);
        self.used.insert(before);
        self.access.insert(access.clone(), end_ms);
        json!({
            "id_token": token(account_id, end_ms),
            "access_token": access,
            "refresh_token": self.refresh_token,
        })
    }
}

/// A token with the claims of the real ones, and without a signature: nobody but its maker checks it.
fn token(account_id: &str, end_ms: i64) -> String {
    let claims = json!({
        "email": format!("{account_id}@example.org"),
        "exp": end_ms / 1000,
        "iat": now_ms() / 1000,
        "jti": uuid::Uuid::new_v4(),
        "https://api.openai.com/auth": { "chatgpt_account_id": account_id, "chatgpt_plan_type": "plus" },
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = json!({ "alg": "none", "typ": "JWT" });
    format!(
        "{}.{}.{}",
        part(&head),
        part(&claims),
        URL_SAFE_NO_PAD.encode("unsigned")
    )
}

pub(super) fn router() -> Router<Arc<State>> {
    Router::new().route("/oauth/token", routing::post(renew))
}

/// `POST /oauth/token`.
async fn renew(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let Some(server) = &state.login else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let body = to_bytes(request.into_body(), BODY_BYTES_MAX)
        .await
        .unwrap_or_default();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    if asked["client_id"] != CLIENT_ID || asked["grant_type"] != "refresh_token" {
        return refused(StatusCode::BAD_REQUEST, "invalid_request");
    }
    let refresh_token = asked["refresh_token"].as_str().unwrap_or_default();
    let Some(account_id) = server.holder(refresh_token) else {
        return refused(StatusCode::UNAUTHORIZED, "refresh_token_invalidated");
    };
    let fault = server
        .change(&account_id, |login| login.fault.clone())
        .unwrap_or_default();
    if let Some(wait) = fault.slow {
        tokio::time::sleep(wait).await;
    }
    if fault.hang {
        std::future::pending::<()>().await;
    }
    if fault.cut_before {
        return Response::new(play(vec![Step::Cut], Sending::new(state.clone(), None)));
    }
    if let Some(status) = fault.status.and_then(|status| u16::try_from(status).ok()) {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return refused(status, fault.code.as_deref().unwrap_or("server_error"));
    }
    match server.renew(&account_id, refresh_token) {
        Ok(tokens) => Json(tokens).into_response(),
        Err(code) => refused(StatusCode::UNAUTHORIZED, &code),
    }
}

fn refused(status: StatusCode, code: &str) -> Response {
    let message = "Your refresh token is no good. Please log in again.";
    let error = json!({ "message": message, "type": "invalid_request_error", "param": null, "code": code });
    (status, Json(json!({ "error": error }))).into_response()
}
