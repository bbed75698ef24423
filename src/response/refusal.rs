//! An upstream's error: what it says about the request, and what about the account.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};

use super::{ErrorSaid, Facts};
use crate::account::Signal;

/// The code by which an upstream says that it does not hold, or no longer holds, a response.
pub const LOST: &str = "previous_response_not_found";

/// The code by which an upstream says that it does not have the model.
pub const MODEL_NOT_FOUND: &str = "model_not_found";

/// An error as an upstream gave it, with a status or as an event inside a 200 stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status; for an event, the one that the same error has as an answer.
    pub status: u16,
    /// The exact code, or the type where the upstream puts it there.
    pub code: Option<String>,
    /// How long to stay away, if the upstream said so.
    pub retry_after: Option<Duration>,
    /// Whether it cannot read what another organization has sealed.
    pub seal_is_unreadable: bool,
}

impl Refusal {
    /// Reads an answer with an error status. `now_ms` is for limits that name a moment.
    pub fn of_answer(status: StatusCode, headers: &HeaderMap, body: &[u8], now_ms: i64) -> Refusal {
        let said = ErrorSaid::read(body);
        let code = said.code_or_kind().map(str::to_owned);
        let code = code
            .or_else(|| header_code(headers))
            .or_else(|| code_of_detail(said.message.as_deref()?).map(str::to_owned));
        Refusal {
            seal_is_unreadable: is_unreadable_seal(said.code.as_deref(), said.message.as_deref()),
            status: status.as_u16(),
            retry_after: header_wait(headers, now_ms).or_else(|| stated(&said, now_ms)),
            code,
        }
    }

    /// Reads an error that came as an event, or as a document with a status that says that all is well.
    pub fn of_event(facts: &Facts, now_ms: i64) -> Refusal {
        let said = &facts.error;
        Refusal {
            seal_is_unreadable: is_unreadable_seal(facts.error_code.as_deref(), said.message.as_deref()),
            status: said.status_as_answer(),
            code: facts.error_code.clone(),
            retry_after: stated(said, now_ms),
        }
    }

    /// What the refusal says about the account; `None` where it is about the request, or about
    /// nobody: a server's fault is not the account's.
    pub fn signal(&self) -> Option<Signal> {
        let code = self.code.clone().unwrap_or_else(|| self.status.to_string());
        let retry_after = self.retry_after;
        match self.status {
            402 => Some(Signal::QuotaExhausted { code, retry_after }),
            429 if is_quota(&code) => Some(Signal::QuotaExhausted { code, retry_after }),
            429 => Some(Signal::RateLimited {
                code,
                retry_after,
                model: None,
            }),
            401 => Some(Signal::CredentialRefused { code }),
            403 if is_deactivation(&code) => Some(Signal::Deactivated { code }),
            _ => None,
        }
    }
}

/// By its code; or, where the upstream gives none, by its words. The ChatGPT backend and Azure are
/// seen to leave the code out.
fn is_unreadable_seal(code: Option<&str>, message: Option<&str>) -> bool {
    let said = || {
        let message = message.unwrap_or_default().to_ascii_lowercase();
        message.contains("encrypted content") && message.contains("could not be verified")
    };
    match code {
        Some("invalid_encrypted_content") => true,
        None | Some("invalid_request_error") => said(),
        Some(_) => false,
    }
}

/// The code that the backend of ChatGPT logins puts into a header, in base64, where the body is a page
/// for people.
fn header_code(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let in_json =
        text("x-error-json").and_then(|encoded| ErrorSaid::read(&STANDARD.decode(encoded).ok()?).code);
    in_json.or_else(|| text("x-openai-authorization-error").map(str::to_owned))
}

/// The one refusal of that backend that says something about the account without a code.
fn code_of_detail(detail: &str) -> Option<&'static str> {
    let about_model = detail.contains("model is not supported when using Codex");
    about_model.then_some(MODEL_NOT_FOUND)
}

/// Codes of the Responses API that mean money or plan, not pace.
pub(super) fn is_quota(code: &str) -> bool {
    matches!(
        code,
        "insufficient_quota"
            | "credit_balance_exhausted"
            | "organization_usage_limit_exceeded"
            | "organization_spend_limit_exceeded"
            | "project_spend_limit_exceeded"
            | "usage_limit_reached"
            | "usage_not_included"
    )
}

fn is_deactivation(code: &str) -> bool {
    matches!(
        code,
        "account_deactivated" | "organization_deactivated" | "account_suspended"
    )
}

/// The wait that the headers state. `retry-after-ms` is finer than `Retry-After`; the reset times
/// count only where nothing remains of what they reset.
fn header_wait(headers: &HeaderMap, now_ms: i64) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(wait) = text("retry-after-ms").and_then(|ms| ms.trim().parse::<f64>().ok()) {
        return seconds(wait / 1000.0);
    }
    if let Some(value) = text("retry-after") {
        return match value.trim().parse::<f64>() {
            Ok(wait) => seconds(wait),
            Err(_) => jiff::fmt::rfc2822::parse(value)
                .ok()
                .and_then(|at| until_ms(at.timestamp().as_millisecond(), now_ms)),
        };
    }
    ["requests", "tokens"]
        .iter()
        .filter(|what| text(&format!("x-ratelimit-remaining-{what}")) == Some("0"))
        .filter_map(|what| text(&format!("x-ratelimit-reset-{what}")))
        .filter_map(|reset| reset.parse::<jiff::SignedDuration>().ok())
        .filter_map(|reset| Duration::try_from(reset).ok())
        .max()
}

/// The wait that the error itself states.
fn stated(said: &ErrorSaid, now_ms: i64) -> Option<Duration> {
    said.resets_in_seconds
        .and_then(seconds)
        .or_else(|| said.resets_at_s.and_then(|at| until(at, now_ms)))
        .or_else(|| said.message.as_deref().and_then(stated_in_text))
}

fn seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

/// The wait until a moment in seconds since 1970 UTC.
fn until(at_s: f64, now_ms: i64) -> Option<Duration> {
    let at_ms = at_s * 1000.0;
    (at_ms.is_finite() && at_ms < 9e15)
        .then_some(at_ms as i64)
        .and_then(|at_ms| until_ms(at_ms, now_ms))
}

fn until_ms(at_ms: i64, now_ms: i64) -> Option<Duration> {
    Some(Duration::from_millis(
        u64::try_from(at_ms.saturating_sub(now_ms)).unwrap_or(0),
    ))
}

/// The wait in "… Please try again in 1.2s": inside a stream there are no headers, and this text is
/// where clients such as Codex read it, too.
fn stated_in_text(message: &str) -> Option<Duration> {
    let (_, after) = message.split_once("try again in ")?;
    let word = after.split_whitespace().next()?.trim_end_matches('.');
    let wait: jiff::SignedDuration = word.parse().ok()?;
    Duration::try_from(wait).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_795_400_000_000;

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Refusal {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    http::HeaderValue::from_static(value),
                )
            })
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        Refusal::of_answer(status, &headers, body.as_bytes(), NOW_MS)
    }

    #[test]
    fn the_wait_is_read_wherever_upstreams_put_it() {
        type Case = (&'static [(&'static str, &'static str)], &'static str, Option<u64>);
        let limit = r#"{"error":{"message":"slow","type":"requests","code":"rate_limit_exceeded"}}"#;
        let cases: [Case; 10] = [
            (&[("retry-after", "2")], limit, Some(2000)),
            (
                &[("retry-after-ms", "1500"), ("retry-after", "2")],
                limit,
                Some(1500),
            ),
            (
                &[("retry-after", "Mon, 23 Nov 2026 02:13:30 GMT")],
                limit,
                Some(10_000),
            ),
            (
                &[("retry-after", "Mon, 23 Nov 2020 02:13:30 GMT")],
                limit,
                Some(0),
            ),
            (
                &[
                    ("x-ratelimit-remaining-requests", "0"),
                    ("x-ratelimit-reset-requests", "1m3.5s"),
                ],
                limit,
                Some(63_500),
            ),
            (
                &[
                    ("x-ratelimit-remaining-requests", "5"),
                    ("x-ratelimit-reset-requests", "1m3.5s"),
                ],
                limit,
                None,
            ),
            (
                &[],
                r#"{"error":{"type":"usage_limit_reached","resets_in_seconds":9000}}"#,
                Some(9_000_000),
            ),
            (
                &[],
                r#"{"error":{"type":"usage_limit_reached","resets_at":1795400009}}"#,
                Some(9000),
            ),
            (
                &[],
                r#"{"error":{"code":"rate_limit_exceeded","message":"Please try again in 120ms."}}"#,
                Some(120),
            ),
            (&[("retry-after", "soon")], "<html>", None),
        ];
        for (headers, body, expected) in cases {
            let refusal = answer(429, headers, body);
            assert_eq!(
                refusal.retry_after,
                expected.map(Duration::from_millis),
                "{headers:?} {body}"
            );
        }
    }

    #[test]
    fn an_error_is_about_the_account_or_not() {
        let body = |code: &str| format!(r#"{{"error":{{"message":"m","type":"t","code":"{code}"}}}}"#);
        type Check = fn(&Option<Signal>) -> bool;
        let cases: [(u16, &str, Check); 8] = [
            (429, "rate_limit_exceeded", |s| {
                matches!(s, Some(Signal::RateLimited { .. }))
            }),
            (429, "insufficient_quota", |s| {
                matches!(s, Some(Signal::QuotaExhausted { .. }))
            }),
            (402, "payment", |s| {
                matches!(s, Some(Signal::QuotaExhausted { .. }))
            }),
            (401, "invalid_api_key", |s| {
                matches!(s, Some(Signal::CredentialRefused { .. }))
            }),
            (403, "account_deactivated", |s| {
                matches!(s, Some(Signal::Deactivated { .. }))
            }),
            (403, "unsupported_country_region_territory", |s| s.is_none()),
            (400, "invalid_prompt", |s| s.is_none()),
            (503, "server_is_overloaded", |s| s.is_none()),
        ];
        for (status, code, check) in cases {
            let signal = answer(status, &[], &body(code)).signal();
            assert!(check(&signal), "{status} {code}: {signal:?}");
        }
    }

    #[test]
    fn integer_codes_and_codes_in_the_type_are_read() {
        assert_eq!(
            answer(404, &[], r#"{"error":{"code":404}}"#).code.as_deref(),
            Some("404")
        );
        let spent = answer(
            429,
            &[],
            r#"{"error":{"type":"usage_limit_reached","code":null}}"#,
        );
        assert_eq!(spent.code.as_deref(), Some("usage_limit_reached"));
    }
}
