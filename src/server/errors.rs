//! The one place where causes become statuses and words for clients, in the shape of OpenAI's API.

use std::time::Duration;

use axum::http::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};

use crate::error::Error;
use crate::request::codex::Unfit;

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
            Error::ModelNotAllowed(_) => Some("model"),
            Error::Parameter { parameter, .. } => Some(parameter),
            Error::ItemNotFound(_) => Some("input"),
            Error::InvalidLane | Error::TooManyLanes(_) => Some("stream_id"),
            Error::UnknownEvent => Some("type"),
            Error::NotFound { parameter, .. } => *parameter,
            Error::Unfit { unfit, .. } => match unfit {
                Unfit::Follows => Some("previous_response_id"),
                Unfit::Conversation => Some("conversation"),
                Unfit::Background => Some("background"),
                Unfit::Endpoint => None,
            },
            _ => None,
        },
        message,
        retry_after: retry_after(error),
    }
}

fn retry_after(error: &Error) -> Option<Duration> {
    match error {
        Error::CoolingDown { retry_after, .. } | Error::TooManyWrongKeys { retry_after } => {
            Some(*retry_after)
        }
        Error::Busy { .. } | Error::KeyBusy(_) => Some(Duration::from_secs(1)),
        Error::BudgetSpent { until_ms, now_ms, .. } => {
            let wait_ms = until_ms.saturating_sub(*now_ms);
            Some(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)))
        }
        Error::Unavailable { .. } | Error::StoreUnavailable => Some(Duration::from_secs(30)),
        _ => None,
    }
}

fn describe(error: &Error) -> (u16, &'static str, &'static str, String) {
    match error {
        Error::UnknownKey => (401, INVALID_REQUEST, "invalid_api_key", "The key is not a client key of this Moorage. Make one with: moorage key add NAME".into()),
        Error::TooManyWrongKeys { .. } => (429, "rate_limit_error", "too_many_wrong_keys", "The key is not a client key of this Moorage, and too many such requests came from this address. Make one with: moorage key add NAME".into()),
        Error::KeyExpired => (401, INVALID_REQUEST, "key_expired", "This client key of Moorage has expired. Ask for a new one.".into()),
        Error::ModelNotAllowed(model) => (403, INVALID_REQUEST, "model_not_allowed", format!("This client key may not ask for the model '{model}'.")),
        Error::KeyBusy(most) => (429, "rate_limit_error", "key_busy", format!("This client key may run {most} requests at once, and does.")),
        Error::BudgetSpent { period, until_ms, .. } => (429, "insufficient_quota", "insufficient_quota", format!("This client key has spent its budget of the {period}. The next begins at {}.", moment(*until_ms))),
        Error::UnknownKeyName => (400, INVALID_REQUEST, "unknown_client_key", "Name one of the client keys in 'key'.".into()),
        Error::BodyTooLarge(most) => (413, INVALID_REQUEST, "body_too_large", format!("The request body is larger than {most} bytes.")),
        Error::UploadTooLarge(most) => (413, INVALID_REQUEST, "body_too_large", format!("The upload is larger than {most} bytes.")),
        Error::BodyUnreadable(reason) => (400, INVALID_REQUEST, "body_unreadable", format!("The request body could not be read: {reason}.")),
        Error::UnreadableAnswer => (502, SERVER, "upstream_unreadable", "The account sent an answer that cannot be read.".into()),
        Error::BinaryMessage => (400, INVALID_REQUEST, "binary_message", "Messages are text, one JSON object each.".into()),
        Error::UnknownEvent => (400, INVALID_REQUEST, "unknown_event", "This type of event is not known here, and no upstream connection is there to take it.".into()),
        Error::InvalidLane => (400, INVALID_REQUEST, "invalid_stream_id", "'stream_id' is 1 to 256 characters of [A-Za-z0-9_.-].".into()),
        Error::TooManyLanes(most) => (400, INVALID_REQUEST, "websocket_stream_limit_reached", format!("This connection has had {most} lanes with a name. Create a new websocket connection for more.")),
        Error::BodyTimeout => (408, INVALID_REQUEST, "request_timeout", "The request body did not arrive in time.".into()),
        Error::UnknownEncoding(encoding) => (415, INVALID_REQUEST, "unknown_encoding", format!("The request body is encoded as '{encoding}'; known are gzip and zstd.")),
        Error::BadJson { message, line, column } => (400, INVALID_REQUEST, "invalid_json", format!("The request body is not a JSON object: {message} (line {line}, column {column}).")),
        Error::InvalidReference { parameter } => (400, INVALID_REQUEST, "invalid_reference", format!("'{parameter}' is longer than any reference.")),
        Error::Extravagant(how) => (400, INVALID_REQUEST, "invalid_reference", format!("The request body {how} than any real request.")),
        Error::Conflict { first, second } => (400, INVALID_REQUEST, "affinity_conflict", format!("The request points at things that no single account holds: {first} and {second}.")),
        Error::Parameter { parameter, reason } => (400, INVALID_REQUEST, "invalid_parameter", format!("'{parameter}' {reason}.")),
        Error::ItemNotFound(id) => (404, INVALID_REQUEST, "not_found", format!("Item with id '{id}' not found. Items are not persisted when `store` is set to false.")),
        Error::NotFound { thing, id, .. } => (404, INVALID_REQUEST, "not_found", format!("{thing} with id '{id}' not found.")),
        Error::Unfit { account, unfit, id } => unfit_for(account, *unfit, id.as_deref().unwrap_or_default()),
        Error::ListNotWhole { account, reason } => (503, SERVER, "account_unavailable", format!("The account '{}' did not tell its part of this list: {reason}. Without it, it would look as if something had been deleted. Try again, or disable the account to do without what it holds.", account.as_deref().unwrap_or("?"))),
        Error::LateReference => (400, INVALID_REQUEST, "invalid_reference", "A field that names an id stands behind the file; put it before.".into()),
        Error::ListTooLong => (503, SERVER, "list_too_long", "Between this page and the one before there is too much that is not for this client.".into()),
        Error::NoSuchPath => (404, INVALID_REQUEST, "unknown_url", "This is no path of the API.".into()),
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
        Error::Redirected { account, status } => (502, SERVER, "upstream_redirect", format!("The address of the account '{account}' answered with a redirect (status {status}), which is not followed: a key goes only where its account says. Give the account the address that the redirect leads to.")),
        Error::UnaskedEncoding { account, encoding } => (502, SERVER, "upstream_encoding", format!("The account '{account}' sent an answer encoded as '{encoding}', which nobody asked for.")),
        Error::StoreUnavailable => (503, SERVER, "store_unavailable", "The database cannot be written, and this Moorage is set up not to go on without it.".into()),
        Error::StoreUnreadable(_) => (503, SERVER, "store_unreadable", "The database cannot be read.".into()),
    }
}

/// What a ChatGPT login cannot do, and what to do instead.
fn unfit_for(account: &str, unfit: Unfit, id: &str) -> (u16, &'static str, &'static str, String) {
    let login = format!("The account '{account}' is a ChatGPT login, which");
    match unfit {
        Unfit::Follows => (
            400,
            INVALID_REQUEST,
            "previous_response_not_found",
            format!(
                "Previous response with id '{id}' not found. {login} keeps no responses: send the whole conversation as input."
            ),
        ),
        Unfit::Conversation => (
            400,
            INVALID_REQUEST,
            "unsupported_parameter",
            format!("{login} keeps no conversations: send the whole conversation as input."),
        ),
        Unfit::Background => (
            400,
            INVALID_REQUEST,
            "unsupported_parameter",
            format!("{login} answers nothing in the background."),
        ),
        Unfit::Endpoint => (
            404,
            INVALID_REQUEST,
            "unknown_url",
            format!("{login} serves POST /v1/responses, and nothing else of the API."),
        ),
    }
}

/// A moment as people write it.
fn moment(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(|_| "a later time".to_owned(), |at| at.to_string())
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

impl Told {
    /// The whole seconds to wait, rounded up: a client that waits them out is not too early.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let ms = u64::try_from(self.retry_after?.as_millis()).unwrap_or(u64::MAX);
        Some(ms.div_ceil(1000).max(1))
    }

    /// The error as clients read it.
    pub fn object(&self) -> serde_json::Value {
        serde_json::json!({ "message": self.message, "type": self.kind, "param": self.param, "code": self.code })
    }
}

impl IntoResponse for Told {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.object() });
        let mut headers = HeaderMap::new();
        if let (Some(wait), Some(seconds)) = (self.retry_after, self.retry_after_seconds()) {
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
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
    let message = format!("Moorage has nothing at {path}; the API is below /v1, the page at /.");
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
    let message = "WebSocket is spoken at /v1/responses only; send POST here.".to_owned();
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

/// Whoever was wrong about the admin key too often has to wait.
pub(super) fn too_many_wrong_keys(wait: Duration) -> Response {
    Told {
        retry_after: Some(wait),
        ..plain(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_error",
            "too_many_wrong_keys",
            "The admin key was wrong too often. No key is looked at until the time is over.".to_owned(),
        )
    }
    .into_response()
}

/// The request names a host that this server is not known as.
pub(super) fn unknown_host() -> Response {
    let message = "This server is not called by this name. If it should be: allowed_hosts in the section \
                   [web] of moorage.toml."
        .to_owned();
    let status = StatusCode::MISDIRECTED_REQUEST;
    plain(status, INVALID_REQUEST, "unknown_host", message).into_response()
}

/// The path holds dots or slashes that could mean something else to someone else.
pub(super) fn odd_path() -> Response {
    let message = "The path has parts that are empty, '.' or '..', or hides a slash.".to_owned();
    plain(StatusCode::BAD_REQUEST, INVALID_REQUEST, "invalid_path", message).into_response()
}

/// A request to the admin API is not as it should be.
pub(super) fn invalid_request(message: String) -> Response {
    plain(
        StatusCode::BAD_REQUEST,
        INVALID_REQUEST,
        "invalid_request",
        message,
    )
    .into_response()
}

/// A request to the admin API does not say that it is JSON.
pub(super) fn not_json() -> Response {
    let message = "Send JSON, with the header 'content-type: application/json'.".to_owned();
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    plain(status, INVALID_REQUEST, "not_json", message).into_response()
}

/// A request to the admin API is larger than any that makes sense.
pub(super) fn admin_body_too_large() -> Response {
    let message = format!(
        "The request body did not arrive whole, or is larger than {} bytes.",
        crate::limits::ADMIN_BODY_BYTES_MAX
    );
    let status = StatusCode::PAYLOAD_TOO_LARGE;
    plain(status, INVALID_REQUEST, "body_too_large", message).into_response()
}

/// Nothing is named so.
pub(super) fn unknown_name(what: &str, name: &str) -> Response {
    let message = format!("No {what} is named '{name}'.");
    plain(StatusCode::NOT_FOUND, INVALID_REQUEST, "unknown_name", message).into_response()
}

/// Something is named so already.
pub(super) fn name_taken(what: &str, name: &str) -> Response {
    let message = format!("There is a {what} '{name}' already.");
    plain(StatusCode::CONFLICT, INVALID_REQUEST, "name_taken", message).into_response()
}

/// It is kept in the configuration file.
pub(super) fn in_file(what: &str, name: &str) -> Response {
    let message = format!("The {what} '{name}' is in the configuration file; change it there.");
    plain(StatusCode::CONFLICT, INVALID_REQUEST, "in_file", message).into_response()
}

/// Conversations live on the account.
pub(super) fn in_use(name: &str, live: i64) -> Response {
    let message = format!(
        "{live} conversations live on the account '{name}'. Drain it first, or remove it with force: they \
         will be answered that their account is gone."
    );
    plain(StatusCode::CONFLICT, INVALID_REQUEST, "account_in_use", message).into_response()
}

/// The change is in the database, and the gateway did not take it over.
pub(super) fn not_taken_over() -> Response {
    let message = "The change is written, and not in effect yet; the log says why.".to_owned();
    plain(StatusCode::ACCEPTED, SERVER, "not_taken_over", message).into_response()
}

/// The database could not be written for the page.
pub(super) fn unwritable(error: &crate::store::StoreError) -> Response {
    tracing::error!(%error, "a change could not be written");
    let message = "The change could not be written; the log says why.".to_owned();
    plain(
        StatusCode::SERVICE_UNAVAILABLE,
        SERVER,
        "store_unavailable",
        message,
    )
    .into_response()
}

/// The database could not be read for the page.
pub(super) fn unreadable(error: &crate::store::StoreError) -> Response {
    tracing::error!(%error, "the database could not be read");
    told(&Error::StoreUnreadable(error.to_string())).into_response()
}

/// A query that is not understood.
pub(super) fn invalid_parameter(message: &str) -> Response {
    let message = format!("The query is not understood: {message}.");
    plain(
        StatusCode::BAD_REQUEST,
        INVALID_REQUEST,
        "invalid_parameter",
        message,
    )
    .into_response()
}

/// The history has nothing of that id.
pub(super) fn nothing_of_that_id() -> Response {
    let message = "The history has nothing of that id; rows go after their retention.".to_owned();
    plain(StatusCode::NOT_FOUND, INVALID_REQUEST, "not_found", message).into_response()
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
