//! The errors that upstreams are known to give, word for word, and what becomes of each: what is learned
//! about the account, how long it rests, and whether the request is made again.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::*;
use crate::account::Signal;
use crate::response::Facts;
use crate::response::events::events;
use crate::response::refusal::Refusal;

const NOW_MS: i64 = 1_795_403_345_000;

/// What is learned about the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Learned {
    Nothing,
    Limited,
    OutOfQuota,
    Refused,
    Deactivated,
}
use Learned::*;
use Next::*;

fn learned(signal: Option<&Signal>) -> Learned {
    match signal {
        None => Nothing,
        Some(Signal::RateLimited { .. }) => Limited,
        Some(Signal::QuotaExhausted { .. }) => OutOfQuota,
        Some(Signal::CredentialRefused { .. }) => Refused,
        Some(Signal::Deactivated { .. }) => Deactivated,
        Some(Signal::Worked) => unreachable!("no refusal says that"),
    }
}

/// Decides as an exchange does after its first attempt.
fn decide(refusal: &Refusal, pinned: bool) -> Next {
    let failure = Failure::Refused {
        status: refusal.status,
        about_account: refusal.signal().is_some(),
    };
    let spent = Spent {
        attempts: 1,
        faults: u32::from(failure.is_fault()),
        time: Duration::ZERO,
    };
    next(failure, pinned, spent)
}

type Case = (
    u16,
    &'static [(&'static str, &'static str)],
    &'static str,
    Option<&'static str>,
    Learned,
    Option<u64>,
    [Next; 2],
);

/// Status, headers, body; the code that is kept; what is learned, and for how many seconds; what is done
/// with a request that may go anywhere, and with one that is pinned.
const ANSWERS: &[Case] = &[
    (
        400,
        &[],
        r#"{"error":{"message":"Invalid value: 'x'.","type":"invalid_request_error","param":"model","code":"invalid_value"}}"#,
        Some("invalid_value"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        400,
        &[],
        r#"{"error":{"message":"Previous response with id 'resp_w1' not found.","type":"invalid_request_error","param":"previous_response_id","code":"previous_response_not_found"}}"#,
        Some("previous_response_not_found"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        400,
        &[],
        r#"{"error":{"message":"Another process is currently operating on this conversation.","type":"invalid_request_error","param":null,"code":"conversation_locked"}}"#,
        Some("conversation_locked"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        400,
        &[],
        r#"{"error":{"message":"Your input exceeds the context window.","type":"invalid_request_error","param":"input","code":"context_length_exceeded"}}"#,
        Some("context_length_exceeded"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        400,
        &[],
        r#"{"error":{"message":"Invalid prompt.","type":"invalid_request_error","param":null,"code":"invalid_prompt"}}"#,
        Some("invalid_prompt"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        400,
        &[],
        r#"{"error":{"message":"Refused.","type":"invalid_request_error","param":null,"code":"cyber_policy"}}"#,
        Some("cyber_policy"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        400,
        &[],
        r#"{"error":{"message":"Invalid 'prompt_cache_key': string too long. Expected a string with maximum length 64, but got a string with length 72 instead.","type":"invalid_request_error","param":"prompt_cache_key","code":"string_above_max_length"}}"#,
        Some("string_above_max_length"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        401,
        &[],
        r#"{"error":{"message":"Incorrect API key provided.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
        Some("invalid_api_key"),
        Refused,
        None,
        [Again, Again],
    ),
    (
        403,
        &[],
        r#"{"error":{"message":"Country, region, or territory not supported","type":"request_forbidden","param":null,"code":"unsupported_country_region_territory"}}"#,
        Some("unsupported_country_region_territory"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        403,
        &[],
        r#"{"error":{"message":"This account has been deactivated.","type":"invalid_request_error","param":null,"code":"account_deactivated"}}"#,
        Some("account_deactivated"),
        Deactivated,
        None,
        [Again, Again],
    ),
    (
        404,
        &[],
        r#"{"error":{"message":"Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.","type":"invalid_request_error","param":"input","code":null}}"#,
        Some("invalid_request_error"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        404,
        &[],
        r#"{"error":{"message":"Response with id 'resp_x' not found.","type":"invalid_request_error","param":"response_id","code":404}}"#,
        Some("404"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    // Clients try these two again by themselves, in their own time; elsewhere a conflict is the same, and
    // what was too slow may have run.
    (
        408,
        &[],
        r#"{"error":{"message":"Request timed out.","type":"invalid_request_error","param":null,"code":"request_timeout"}}"#,
        Some("request_timeout"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        409,
        &[("retry-after", "3")],
        r#"{"error":{"message":"The container is busy.","type":"invalid_request_error","param":null,"code":"conflict"}}"#,
        Some("conflict"),
        Nothing,
        Some(3),
        [GiveUp, GiveUp],
    ),
    (413, &[], "", None, Nothing, None, [GiveUp, GiveUp]),
    (
        415,
        &[],
        r#"{"error":{"message":"Unsupported content type.","type":"invalid_request_error","param":null,"code":"unsupported_content_type"}}"#,
        Some("unsupported_content_type"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        422,
        &[],
        r#"{"error":{"message":"m","type":"invalid_request_error","param":null,"code":null}}"#,
        Some("invalid_request_error"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        429,
        &[("retry-after", "2")],
        r#"{"error":{"message":"Rate limit reached for gpt-5.6 in organization org-1 on tokens per min (TPM): Limit 30000.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#,
        Some("rate_limit_exceeded"),
        Limited,
        Some(2),
        [Again, Again],
    ),
    (
        429,
        &[
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "6m0s"),
        ],
        r#"{"error":{"message":"Rate limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#,
        Some("rate_limit_exceeded"),
        Limited,
        Some(360),
        [Again, Again],
    ),
    (
        429,
        &[],
        r#"{"error":{"message":"Slow down.","type":"rate_limit_error","param":null,"code":"slow_down"}}"#,
        Some("slow_down"),
        Limited,
        None,
        [Again, Again],
    ),
    (
        429,
        &[("retry-after", "344874")],
        "",
        None,
        Limited,
        Some(344_874),
        [Again, Again],
    ),
    (
        429,
        &[],
        r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
        Some("insufficient_quota"),
        OutOfQuota,
        None,
        [Again, Again],
    ),
    (
        429,
        &[],
        r#"{"error":{"message":"m","type":"insufficient_quota","param":null,"code":"credit_balance_exhausted"}}"#,
        Some("credit_balance_exhausted"),
        OutOfQuota,
        None,
        [Again, Again],
    ),
    (
        429,
        &[],
        r#"{"error":{"message":"m","type":"insufficient_quota","param":null,"code":"organization_usage_limit_exceeded"}}"#,
        Some("organization_usage_limit_exceeded"),
        OutOfQuota,
        None,
        [Again, Again],
    ),
    (
        429,
        &[],
        r#"{"error":{"message":"m","type":"insufficient_quota","param":null,"code":"organization_spend_limit_exceeded"}}"#,
        Some("organization_spend_limit_exceeded"),
        OutOfQuota,
        None,
        [Again, Again],
    ),
    (
        429,
        &[],
        r#"{"error":{"message":"m","type":"insufficient_quota","param":null,"code":"project_spend_limit_exceeded"}}"#,
        Some("project_spend_limit_exceeded"),
        OutOfQuota,
        None,
        [Again, Again],
    ),
    (
        402,
        &[],
        r#"{"error":{"message":"Payment required.","type":"insufficient_quota","param":null,"code":null}}"#,
        Some("insufficient_quota"),
        OutOfQuota,
        None,
        [Again, Again],
    ),
    (
        500,
        &[],
        r#"{"error":{"message":"The server had an error.","type":"server_error","param":null,"code":"server_error"}}"#,
        Some("server_error"),
        Nothing,
        None,
        [Again, GiveUp],
    ),
    (
        502,
        &[],
        "<html>502 Bad Gateway</html>",
        None,
        Nothing,
        None,
        [Again, GiveUp],
    ),
    (
        503,
        &[],
        r#"{"error":{"message":"The model is overloaded.","type":"service_unavailable_error","param":null,"code":"server_is_overloaded"}}"#,
        Some("server_is_overloaded"),
        Nothing,
        None,
        [Again, GiveUp],
    ),
    (504, &[], "", None, Nothing, None, [Again, GiveUp]),
    // The backend of ChatGPT logins.
    (
        429,
        &[],
        r#"{"error":{"type":"usage_limit_reached","message":"The usage limit has been reached","plan_type":"plus","resets_at":1795412345,"resets_in_seconds":9000,"eligible_promo":null}}"#,
        Some("usage_limit_reached"),
        OutOfQuota,
        Some(9000),
        [Again, Again],
    ),
    (
        429,
        &[],
        r#"{"error":{"type":"usage_not_included","message":"To use Codex with your ChatGPT plan, upgrade to Plus.","plan_type":"free"}}"#,
        Some("usage_not_included"),
        OutOfQuota,
        None,
        [Again, Again],
    ),
    (
        401,
        &[],
        r#"{"error":{"message":"Provided authentication token is expired. Please try signing in again.","type":null,"code":"token_expired","param":null},"status":401}"#,
        Some("token_expired"),
        Refused,
        None,
        [Again, Again],
    ),
    (
        403,
        &[("cf-ray", "8f00aa11bb22cc33-FRA")],
        "<html><title>Just a moment...</title></html>",
        None,
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        403,
        &[
            (
                "x-error-json",
                "eyJlcnJvciI6eyJjb2RlIjoiYWNjb3VudF9zdXNwZW5kZWQifX0=",
            ),
            ("x-openai-authorization-error", "x"),
        ],
        "",
        Some("account_suspended"),
        Deactivated,
        None,
        [Again, Again],
    ),
    (
        403,
        &[("x-openai-authorization-error", "no_access")],
        "",
        Some("no_access"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        400,
        &[],
        r#"{"detail":"Store must be set to false"}"#,
        None,
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        400,
        &[],
        r#"{"detail":"Unsupported parameter: previous_response_id"}"#,
        None,
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        400,
        &[],
        r#"{"detail":"The 'gpt-5.6' model is not supported when using Codex with a ChatGPT account."}"#,
        Some("model_not_found"),
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        422,
        &[],
        r#"{"detail":[{"type":"missing","loc":["body","model"],"msg":"Field required"}]}"#,
        None,
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
];

#[test]
fn every_error_answer_is_understood_and_acted_upon() {
    for (status, headers, body, code, about, wait_s, [free, pinned]) in ANSWERS {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let status = StatusCode::from_u16(*status).unwrap();
        let refusal = Refusal::of_answer(status, &headers, body.as_bytes(), NOW_MS);
        let told = format!("{status} {body}");
        assert_eq!(refusal.code.as_deref(), *code, "{told}");
        assert_eq!(learned(refusal.signal().as_ref()), *about, "{told}");
        assert_eq!(refusal.retry_after, wait_s.map(Duration::from_secs), "{told}");
        assert_eq!(
            (decide(&refusal, false), decide(&refusal, true)),
            (*free, *pinned),
            "{told}"
        );
    }
}

type EventCase = (&'static str, u16, Learned, Option<u64>, [Next; 2]);

/// The same, told by an event inside a 200 stream before its output.
const EVENTS: &[EventCase] = &[
    (
        r#"{"type":"response.failed","sequence_number":2,"response":{"id":"resp_b3","object":"response","status":"failed","error":{"code":"rate_limit_exceeded","message":"Rate limit reached for gpt-5.6 … Please try again in 2s."},"output":[],"usage":null}}"#,
        429,
        Limited,
        Some(2),
        [Again, Again],
    ),
    (
        r#"{"type":"error","code":"server_error","message":"…","param":null,"sequence_number":3}"#,
        500,
        Nothing,
        None,
        [Again, GiveUp],
    ),
    (
        r#"{"type":"error","sequence_number":2,"error":{"type":"service_unavailable_error","code":"server_is_overloaded","message":"…","param":null,"headers":{"x-retry-metadata":"NO_MORE_RETRY"}}}"#,
        503,
        Nothing,
        None,
        [Again, GiveUp],
    ),
    (
        r#"{"type":"response.failed","response":{"error":{"code":"insufficient_quota","message":"m"}}}"#,
        429,
        OutOfQuota,
        None,
        [Again, Again],
    ),
    (
        r#"{"type":"response.failed","response":{"error":{"code":"usage_not_included","message":"m"}}}"#,
        429,
        OutOfQuota,
        None,
        [Again, Again],
    ),
    (
        r#"{"type":"response.failed","response":{"error":{"code":"slow_down","message":"m"}}}"#,
        429,
        Limited,
        None,
        [Again, Again],
    ),
    (
        r#"{"type":"response.failed","response":{"error":{"code":"invalid_prompt","message":"m"}}}"#,
        400,
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        r#"{"type":"response.failed","response":{"error":{"code":"cyber_policy","message":"m"}}}"#,
        400,
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
    (
        r#"{"type":"response.failed","response":{"error":{"code":"context_length_exceeded","message":"m"}}}"#,
        400,
        Nothing,
        None,
        [GiveUp, GiveUp],
    ),
];

#[test]
fn every_error_event_is_understood_and_acted_upon() {
    for (event, status, about, wait_s, [free, pinned]) in EVENTS {
        let mut facts = Facts::default();
        for event in events(format!("data: {event}\n\n").as_bytes()) {
            event.read_into(event.meaning(), &mut facts);
        }
        let refusal = Refusal::of_event(&facts, NOW_MS);
        assert_eq!(
            (refusal.status, learned(refusal.signal().as_ref())),
            (*status, *about),
            "{event}"
        );
        assert_eq!(refusal.retry_after, wait_s.map(Duration::from_secs), "{event}");
        assert_eq!(
            (decide(&refusal, false), decide(&refusal, true)),
            (*free, *pinned),
            "{event}"
        );
    }
}
