//! The one place where causes become statuses and words for clients, in the shape of OpenAI's API.

use std::time::Duration;

use axum::http::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};

use crate::error::Error;

/// What a client is told.
#[derive(Debug)]
pub struct Told {
    /// The HTTP status.
    pub status: StatusCode,
    /// The `type` of the error.
    pub kind: &'static str,
    /// The `code`, by which programs know it.
    pub code: &'static str,
    /// The field of the request that it is about.
    pub param: Option<&'static str>,
    /// For people.
    pub message: String,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

const INVALID_REQUEST: &str = "invalid_request_error";
const SERVER: &str = "server_error";

/// What is told of an error.
pub fn told(error: &Error) -> Told {
    let (status, kind, code, message) = describe(error);
    Told {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        kind,
        code,
        param: match error {
            Error::PreviousResponseNotFound(_) => Some("previous_response_id"),
            Error::InvalidReference { parameter } => Some(parameter),
            _ => None,
        },
        message,
        retry_after: retry_after(error),
    }
}

fn retry_after(error: &Error) -> Option<Duration> {
    match error {
        Error::CoolingDown { retry_after, .. } => Some(*retry_after),
        Error::Busy { .. } => Some(Duration::from_secs(1)),
        Error::Unavailable { .. } | Error::StoreUnavailable => Some(Duration::from_secs(30)),
        _ => None,
    }
}

fn describe(error: &Error) -> (u16, &'static str, &'static str, String) {
    match error {
        Error::UnknownKey => (401, INVALID_REQUEST, "invalid_api_key", "The key is not a client key of this Moorage. Make one with: moorage key add NAME".into()),
        Error::BodyTooLarge(most) => (413, INVALID_REQUEST, "body_too_large", format!("The request body is larger than {most} bytes.")),
        Error::BodyUnreadable(reason) => (400, INVALID_REQUEST, "body_unreadable", format!("The request body could not be read: {reason}.")),
        Error::BodyTimeout => (408, INVALID_REQUEST, "request_timeout", "The request body did not arrive in time.".into()),
        Error::UnknownEncoding(encoding) => (415, INVALID_REQUEST, "unknown_encoding", format!("The request body is encoded as '{encoding}'; known are gzip and zstd.")),
        Error::BadJson { message, line, column } => (400, INVALID_REQUEST, "invalid_json", format!("The request body is not a JSON object: {message} (line {line}, column {column}).")),
        Error::InvalidReference { parameter } => (400, INVALID_REQUEST, "invalid_reference", format!("'{parameter}' is longer than any reference.")),
        Error::PreviousResponseNotFound(id) => (400, INVALID_REQUEST, "previous_response_not_found", format!("Previous response with id '{id}' not found.")),
        Error::NoAccounts => (503, SERVER, "no_accounts", "No account is set up yet. Add one with: moorage account add NAME --base-url URL --api-key-env VARIABLE".into()),
        Error::CoolingDown { account, retry_after } => (429, "rate_limit_error", "account_cooling_down", cooling_down(account.as_deref(), *retry_after)),
        Error::Busy { account } => (429, "rate_limit_error", "account_busy", match account {
            Some(account) => format!("The account '{account}', which holds this conversation, runs as many requests as it may."),
            None => "Every account runs as many requests as it may.".into(),
        }),
        Error::Unavailable { account, reason } => (503, SERVER, "account_unavailable", match account {
            Some(account) => format!("The account '{account}' cannot serve this request now ({reason}), and no other may."),
            None => format!("No account can serve this request now ({reason})."),
        }),
        Error::Unreachable { account, reason } => (502, SERVER, "upstream_unreachable", format!("The account '{account}' could not be reached: {reason}.")),
        Error::Unanswered { account, reason } => (502, SERVER, "upstream_cut", format!("The account '{account}' closed the connection before it answered ({reason}). The request may have run.")),
        Error::Timeout { account } => (504, SERVER, "upstream_timeout", format!("The account '{account}' did not answer in time. The request may still run.")),
        Error::UnaskedEncoding { account, encoding } => (502, SERVER, "upstream_encoding", format!("The account '{account}' sent an answer encoded as '{encoding}', which nobody asked for.")),
        Error::StoreUnavailable => (503, SERVER, "store_unavailable", "The database cannot be written, and this Moorage is set up not to go on without it.".into()),
        Error::StoreUnreadable(_) => (503, SERVER, "store_unreadable", "The database cannot be read.".into()),
    }
}

fn cooling_down(account: Option<&str>, retry_after: Duration) -> String {
    let seconds = retry_after.as_secs_f64();
    match account {
        Some(account) => format!(
            "The account '{account}', which holds this conversation, is limited by its upstream. Please try again in {seconds:.3}s."
        ),
        None => format!("Every account is limited by its upstream. Please try again in {seconds:.3}s."),
    }
}

impl IntoResponse for Told {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code },
        });
        let mut headers = HeaderMap::new();
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up: a client that waits them out is not too early.
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
            headers.insert(
                HeaderName::from_static("retry-after-ms"),
                HeaderValue::from(ms.max(1)),
            );
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        (self.status, headers, Json(body)).into_response()
    }
}

fn plain(status: StatusCode, kind: &'static str, code: &'static str, message: String) -> Told {
    Told {
        status,
        kind,
        code,
        param: None,
        message,
        retry_after: None,
    }
}

/// No such route.
pub(super) fn unknown_route(path: &str) -> Response {
    let message = format!("Moorage has nothing at {path}.");
    plain(StatusCode::NOT_FOUND, INVALID_REQUEST, "unknown_url", message).into_response()
}

/// The route exists, with another method.
pub(super) fn method_not_allowed() -> Response {
    let message = "This address does not take this method.".to_owned();
    plain(
        StatusCode::METHOD_NOT_ALLOWED,
        INVALID_REQUEST,
        "method_not_allowed",
        message,
    )
    .into_response()
}

/// WebSocket is not spoken here.
pub(super) fn upgrade_refused() -> Response {
    let message = "This Moorage speaks HTTP on this address; send POST.".to_owned();
    let told = plain(
        StatusCode::UPGRADE_REQUIRED,
        INVALID_REQUEST,
        "websocket_not_supported",
        message,
    );
    ([(ALLOW, "POST")], told).into_response()
}

/// The admin key is missing or wrong.
pub(super) fn not_admin() -> Response {
    let message =
        "This needs the admin key. It was printed at the first start; a new one: moorage admin-key reset"
            .to_owned();
    plain(
        StatusCode::UNAUTHORIZED,
        INVALID_REQUEST,
        "invalid_admin_key",
        message,
    )
    .into_response()
}

/// The database could not be read for the page.
pub(super) fn unreadable(error: &crate::store::StoreError) -> Response {
    tracing::error!(%error, "the database could not be read");
    told(&Error::StoreUnreadable(error.to_string())).into_response()
}

/// Something panicked; the log knows more.
pub(super) fn internal() -> Response {
    let message = "Something went wrong inside Moorage; its log says more.".to_owned();
    plain(
        StatusCode::INTERNAL_SERVER_ERROR,
        SERVER,
        "internal_error",
        message,
    )
    .into_response()
}
