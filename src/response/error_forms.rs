//! The forms in which upstreams tell an error, read by one function: as the body of an answer, as an
//! event inside a 200 stream, as an event of a WebSocket.
//!
//! The forms are those of OpenAI's API and its SDKs, of the backend of ChatGPT logins, of FastAPI servers
//! (`detail`), and of gateways that put an HTTP status into the event. The tests hold one of each.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Word, lenient};

/// What an upstream says of an error, as far as it says so.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ErrorSaid {
    /// The exact code. A number, as vLLM writes it, is its digits.
    pub code: Option<String>,
    /// The `type`, where some upstreams put the code.
    pub kind: Option<String>,
    /// For people.
    pub message: Option<String>,
    /// The HTTP status that the error names itself.
    pub status: Option<u16>,
    /// How long the limit lasts, in seconds.
    pub resets_in_seconds: Option<f64>,
    /// When the limit ends, in seconds since 1970 UTC.
    pub resets_at_s: Option<f64>,
}

impl ErrorSaid {
    /// Reads an error from a document or from the data of an event. Empty if there is none in it.
    pub fn read(document: &[u8]) -> ErrorSaid {
        let Ok(outer) = serde_json::from_slice::<Outer>(document) else {
            return ErrorSaid::default();
        };
        let of_response = outer.response.and_then(|response| response.error);
        let inner = outer.error.or(of_response).unwrap_or_default();
        let first = outer.errors.and_then(|errors| errors.into_iter().next());
        let flat = ErrorSaid {
            code: outer.code.map(|Word(code)| code),
            // The type of an event is not that of its error.
            kind: outer
                .kind
                .filter(|kind| kind != "error" && !kind.starts_with("response.")),
            message: outer.message.or_else(|| outer.detail.as_deref().and_then(detail)),
            status: status(outer.status).or(status(outer.status_code)),
            resets_in_seconds: None,
            resets_at_s: None,
        };
        inner.or(first.unwrap_or_default()).or(flat)
    }

    /// What this says, and where it says nothing, what the other does.
    pub(super) fn or(self, other: ErrorSaid) -> ErrorSaid {
        ErrorSaid {
            code: self.code.or(other.code),
            kind: self.kind.or(other.kind),
            message: self.message.or(other.message),
            status: self.status.or(other.status),
            resets_in_seconds: self.resets_in_seconds.or(other.resets_in_seconds),
            resets_at_s: self.resets_at_s.or(other.resets_at_s),
        }
    }

    /// The code, or the type where the upstream puts it there.
    pub fn code_or_kind(&self) -> Option<&str> {
        self.code.as_deref().or(self.kind.as_deref())
    }

    /// The HTTP status that the same error has as an answer.
    pub fn status_as_answer(&self) -> u16 {
        let named = self.status.or_else(|| self.code.as_deref().and_then(number));
        let known = || self.code.as_deref().and_then(status_of_word);
        let by_kind = || self.kind.as_deref().and_then(status_of_word);
        named.or_else(known).or_else(by_kind).unwrap_or({
            // An error that is named, and by nobody known here, is most likely one in the request.
            match self.code_or_kind() {
                Some(_) => 400,
                None => 500,
            }
        })
    }
}

/// The statuses of codes and types, as OpenAI's API and its SDKs have them, and Anthropic's where a
/// gateway passes those on.
fn status_of_word(word: &str) -> Option<u16> {
    Some(match word {
        "rate_limit_exceeded"
        | "rate_limit_error"
        | "rate_limited"
        | "rate_limit_reached"
        | "too_many_requests"
        | "requests"
        | "tokens"
        | "slow_down"
        | "usage_limit_reached"
        | "usage_not_included"
        | "RateLimitError"
        | "resource_exhausted"
        | "RESOURCE_EXHAUSTED" => 429,
        word if super::refusal::is_quota(word) => 429,
        "authentication_error" | "invalid_api_key" | "AuthenticationError" => 401,
        "billing_error" => 402,
        "permission_error"
        | "permission_denied"
        | "account_deactivated"
        | "organization_deactivated"
        | "account_suspended" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "server_error" | "internal_server_error" | "internal_error" | "api_error" | "InternalServerError" => {
            500
        }
        "bad_gateway" => 502,
        "server_is_overloaded"
        | "overloaded_error"
        | "overloaded"
        | "service_unavailable"
        | "service_unavailable_error"
        | "ServiceUnavailableError"
        | "engine_overloaded"
        | "UNAVAILABLE" => 503,
        "timeout" | "timeout_error" | "gateway_timeout" => 504,
        _ => return None,
    })
}

fn number(code: &str) -> Option<u16> {
    code.parse().ok().filter(|status| (400..600).contains(status))
}

fn status(said: Option<Word>) -> Option<u16> {
    said.and_then(|Word(status)| number(&status))
}

/// `detail` is a text, or an error of its own, or a list of what is wrong with which field.
fn detail(detail: &RawValue) -> Option<String> {
    match serde_json::from_str::<ErrorSaid>(detail.get()) {
        Ok(said) if said.message.is_some() => said.message,
        _ if detail.get() == "null" => None,
        _ => Some(detail.get().to_owned()),
    }
}

/// A text counts as the message.
impl<'de> Deserialize<'de> for ErrorSaid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: Box<RawValue> = Deserialize::deserialize(deserializer)?;
        if let Ok(message) = serde_json::from_str::<String>(raw.get()) {
            return Ok(ErrorSaid {
                message: Some(message),
                ..ErrorSaid::default()
            });
        }
        let inner: Inner = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
        Ok(ErrorSaid {
            code: inner.code.map(|Word(code)| code),
            kind: inner.kind.map(|Word(kind)| kind),
            message: inner.message,
            status: status(inner.status).or(status(inner.status_code)),
            resets_in_seconds: inner.resets_in_seconds,
            resets_at_s: inner.resets_at,
        })
    }
}

/// Whether a document without a type of its own is an error: it has one of the members that nothing else
/// of the API has.
pub(super) fn is_error(document: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Members {
        #[serde(default)]
        error: Option<IgnoredAny>,
        #[serde(default)]
        errors: Option<IgnoredAny>,
        #[serde(default)]
        detail: Option<IgnoredAny>,
        #[serde(default, deserialize_with = "lenient")]
        object: Option<String>,
    }
    serde_json::from_slice::<Members>(document).is_ok_and(|members| {
        let is_told = members.error.or(members.errors).or(members.detail).is_some();
        is_told || members.object.as_deref() == Some("error")
    })
}

#[derive(Deserialize)]
struct Outer {
    #[serde(default, deserialize_with = "lenient")]
    error: Option<ErrorSaid>,
    #[serde(default, deserialize_with = "lenient")]
    errors: Option<Vec<ErrorSaid>>,
    #[serde(default, deserialize_with = "lenient")]
    response: Option<OfResponse>,
    #[serde(default)]
    detail: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "lenient")]
    code: Option<Word>,
    #[serde(default, rename = "type", deserialize_with = "lenient")]
    kind: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    message: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    status: Option<Word>,
    #[serde(default, deserialize_with = "lenient")]
    status_code: Option<Word>,
}

#[derive(Deserialize)]
struct OfResponse {
    #[serde(default, deserialize_with = "lenient")]
    error: Option<ErrorSaid>,
}

#[derive(Deserialize)]
struct Inner {
    #[serde(default, deserialize_with = "lenient")]
    code: Option<Word>,
    #[serde(default, rename = "type", deserialize_with = "lenient")]
    kind: Option<Word>,
    #[serde(default, deserialize_with = "lenient")]
    message: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    status: Option<Word>,
    #[serde(default, deserialize_with = "lenient")]
    status_code: Option<Word>,
    #[serde(default, deserialize_with = "lenient")]
    resets_in_seconds: Option<f64>,
    #[serde(default, deserialize_with = "lenient")]
    resets_at: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response::Outcome;
    use crate::response::events::{Meaning, events};

    /// Events as they were seen, each with the status that the error stands for, its code and its text.
    const FORMS: [(&str, u16, Option<&str>, Option<&str>); 24] = [
        (
            r#"{"type":"error","code":"rate_limit_exceeded","message":"m"}"#,
            429,
            Some("rate_limit_exceeded"),
            Some("m"),
        ),
        (
            r#"{"type":"error","error":{"type":"rate_limit_error","code":null,"message":"m"}}"#,
            429,
            Some("rate_limit_error"),
            Some("m"),
        ),
        (
            r#"{"type":"error","error":{"type":"requests","code":"429","message":"m"}}"#,
            429,
            Some("429"),
            Some("m"),
        ),
        (
            r#"{"type":"error","error":{"code":429,"message":"m"}}"#,
            429,
            Some("429"),
            Some("m"),
        ),
        (
            r#"{"type":"error","status":429,"error":{"message":"m"}}"#,
            429,
            None,
            Some("m"),
        ),
        (
            r#"{"type":"error","status_code":503,"message":"m"}"#,
            503,
            None,
            Some("m"),
        ),
        (r#"{"type":"error","status":"429"}"#, 429, None, None),
        (r#"{"type":"error","error":{"status":503}}"#, 503, None, None),
        (
            r#"{"type":"error","error":{"type":"service_unavailable_error","message":"m"}}"#,
            503,
            Some("service_unavailable_error"),
            Some("m"),
        ),
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#,
            503,
            Some("overloaded_error"),
            Some("m"),
        ),
        (
            r#"{"type":"error","error":{"type":"insufficient_quota","code":"insufficient_quota"}}"#,
            429,
            Some("insufficient_quota"),
            None,
        ),
        (
            r#"{"type":"error","error":{"type":"authentication_error"}}"#,
            401,
            Some("authentication_error"),
            None,
        ),
        (
            r#"{"error":{"message":"m","type":"server_error"}}"#,
            500,
            Some("server_error"),
            Some("m"),
        ),
        (r#"{"error":{"message":"m"}}"#, 500, None, Some("m")),
        (r#"{"error":"m"}"#, 500, None, Some("m")),
        (
            r#"{"errors":[{"code":"rate_limit_exceeded","message":"m"}]}"#,
            429,
            Some("rate_limit_exceeded"),
            Some("m"),
        ),
        (r#"{"detail":"m"}"#, 500, None, Some("m")),
        (r#"{"detail":{"message":"m"}}"#, 500, None, Some("m")),
        (
            r#"{"object":"error","message":"m","type":"BadRequestError","code":400}"#,
            400,
            Some("400"),
            Some("m"),
        ),
        (
            r#"{"type":"rate_limit_error","message":"m"}"#,
            429,
            Some("rate_limit_error"),
            Some("m"),
        ),
        (
            r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error","message":"m"}}}"#,
            500,
            Some("server_error"),
            Some("m"),
        ),
        (
            r#"{"type":"response.failed","response":{"error":{"code":"server_is_overloaded"}}}"#,
            503,
            Some("server_is_overloaded"),
            None,
        ),
        (
            r#"{"type":"response.failed","response":{"error":{"code":"invalid_prompt"}}}"#,
            400,
            Some("invalid_prompt"),
            None,
        ),
        (r#"{"type":"response.failed","response":{}}"#, 500, None, None),
    ];

    #[test]
    fn every_form_of_an_error_tells_status_code_and_text() {
        for (form, status, code, message) in FORMS {
            let said = ErrorSaid::read(form.as_bytes());
            assert_eq!(said.status_as_answer(), status, "{form}");
            assert_eq!(said.code_or_kind(), code, "{form}");
            assert_eq!(said.message.as_deref(), message, "{form}");
        }
    }

    #[test]
    fn every_form_of_an_error_ends_a_stream() {
        for (form, ..) in FORMS {
            let stream = format!("data: {form}\n\n");
            let meaning = events(stream.as_bytes()).next().unwrap().meaning();
            assert_eq!(meaning, Meaning::End(Outcome::Failed), "{form}");
        }
        let untyped = "event: error\ndata: {\"message\":\"m\"}\n\n";
        let meaning = events(untyped.as_bytes()).next().unwrap().meaning();
        assert_eq!(meaning, Meaning::End(Outcome::Failed));
        for other in [
            r#"{"type":"response.new","error":null}"#,
            r#"{"error":null,"x":1}"#,
            "7",
            "",
        ] {
            let stream = format!("data: {other}\n\n");
            let meaning = events(stream.as_bytes()).next().unwrap().meaning();
            assert_eq!(meaning, Meaning::Unknown, "{other}");
        }
    }
}
