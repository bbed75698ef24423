//! The errors of a simulated account, in the words of the real API.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::fault::Fault;

/// Why a request was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    kind: &'static str,
    code: Option<String>,
    param: Option<&'static str>,
    message: String,
    retry_after: Option<String>,
}

impl Refusal {
    fn new(status: StatusCode, code: Option<&str>, param: Option<&'static str>, message: String) -> Refusal {
        let kind = match status.as_u16() {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        Refusal {
            status,
            kind,
            code: code.map(str::to_owned),
            param,
            message,
            retry_after: None,
        }
    }

    /// A 400 about one field.
    pub(super) fn bad_request(code: Option<&str>, param: Option<&'static str>, message: String) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, code, param, message)
    }

    pub(super) fn wrong_key() -> Refusal {
        let message = "Incorrect API key provided.".to_owned();
        Refusal::new(StatusCode::UNAUTHORIZED, Some("invalid_api_key"), None, message)
    }

    pub(super) fn not_found(message: String, param: Option<&'static str>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, None, param, message)
    }

    pub(super) fn no_model(model: &str) -> Refusal {
        let message = format!("The model `{model}` does not exist or you do not have access to it.");
        Refusal::new(StatusCode::NOT_FOUND, Some("model_not_found"), None, message)
    }

    pub(super) fn unknown_url(path: &str) -> Refusal {
        let message = format!("Invalid URL ({path})");
        Refusal::new(StatusCode::NOT_FOUND, Some("unknown_url"), None, message)
    }

    pub(super) fn upgrade() -> Refusal {
        let message = "This simulated account speaks HTTP only.".to_owned();
        Refusal::new(StatusCode::UPGRADE_REQUIRED, None, None, message)
    }

    /// The error that a fault asks for.
    pub(super) fn told(status: usize, fault: &Fault) -> Refusal {
        let status = u16::try_from(status)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = fault.code.as_deref().or(match status.as_u16() {
            401 => Some("invalid_api_key"),
            402 => Some("insufficient_quota"),
            403 => Some("account_deactivated"),
            429 => Some("rate_limit_exceeded"),
            503 => Some("server_is_overloaded"),
            500.. => Some("server_error"),
            _ => None,
        });
        let message = format!("The simulated account was told to answer {status}.");
        Refusal {
            retry_after: fault.retry_after.clone(),
            ..Refusal::new(status, code, None, message)
        }
    }

    /// The same as a frame of a WebSocket.
    pub(super) fn frame(&self) -> Value {
        let mut frame = json!({ "type": "error", "status": self.status.as_u16() });
        frame["error"] = self.body()["error"].take();
        if let Some(seconds) = &self.retry_after {
            frame["headers"] = json!({ "retry-after": seconds });
        }
        frame
    }

    /// A WebSocket has lived as long as it may.
    pub(super) fn connection_limit(life: Duration) -> Refusal {
        let minutes = life.as_secs_f64() / 60.0;
        let message = format!(
            "Responses websocket connection limit reached ({minutes} minutes). Create a new websocket \
             connection to continue."
        );
        Refusal::bad_request(Some("websocket_connection_limit_reached"), None, message)
    }

    /// What is wrong, as an event inside a stream says it.
    pub(super) fn error(&self) -> Value {
        json!({ "code": self.code, "message": self.message, "param": self.param, "type": self.kind })
    }

    fn body(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code } })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self
            .retry_after
            .and_then(|text| HeaderValue::from_str(&text).ok())
        {
            response.headers_mut().insert("retry-after", seconds);
        }
        response
    }
}

/// How long a message says to wait, as the real API words it.
pub(super) fn try_again_in(wait: Duration) -> String {
    format!(
        "Rate limit reached. Please try again in {:.3}s.",
        wait.as_secs_f64()
    )
}
