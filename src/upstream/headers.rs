//! Which headers cross the gateway. Everything does, but for what belongs to one connection, to
//! one credential, or to the gateway itself.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::auth_file::Login;

/// Belong to one connection (RFC 9110 §7.6.1), with those that name others in `Connection`.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
];

/// Of a request: the client's credentials and identity, what describes its connection to us, and
/// what is made anew.
const FROM_CLIENT_ONLY: [HeaderName; 18] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    // An account's own organization and project belong to its key; the client's do not.
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
    HeaderName::from_static("chatgpt-account-id"),
    header::HOST,
    header::CONTENT_LENGTH,
    header::EXPECT,
    // The answer is read while it passes, so it must come as it is.
    header::ACCEPT_ENCODING,
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
    header::VIA,
];

/// Of an answer: what belongs to the account, or to the host that answered. Cookies bind to it, the
/// organization names it; that it is to be spoken to in TLS or HTTP/3 only is not said of this host.
const FROM_UPSTREAM_ONLY: [HeaderName; 6] = [
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    header::ALT_SVC,
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
    header::WWW_AUTHENTICATE,
];

/// The limits of the account, which are not the client's.
const QUOTA_PREFIXES: [&str; 2] = ["x-ratelimit-", "x-codex-"];

/// The state of a turn, as the backend of ChatGPT logins gives it and wants it back.
pub const TURN_STATE: HeaderName = HeaderName::from_static("x-codex-turn-state");

/// What Moorage itself says; a client or an upstream cannot speak in its name.
const OWN_PREFIX: &str = "x-moorage-";

/// What Moorage calls itself where it must say who it is.
pub(super) const OWN_NAME: HeaderValue =
    HeaderValue::from_static(concat!("moorage/", env!("CARGO_PKG_VERSION")));

/// Makes a request one of Moorage for a ChatGPT login: it says whose it is, and that it is Moorage who
/// asks, whoever asked Moorage.
pub(super) fn identify(headers: &mut HeaderMap, login: &Login) -> Result<(), header::InvalidHeaderValue> {
    let account_id = HeaderValue::try_from(&login.account_id)?;
    headers.insert(HeaderName::from_static("chatgpt-account-id"), account_id);
    headers.insert(
        HeaderName::from_static("originator"),
        HeaderValue::from_static("moorage"),
    );
    headers.insert(header::USER_AGENT, OWN_NAME);
    // The version of Codex CLI, which this is not.
    headers.remove("version");
    Ok(())
}

/// The headers of a request as the upstream gets them; the credential is added where it is sent.
pub fn for_upstream(mut headers: HeaderMap) -> HeaderMap {
    keep_end_to_end(&mut headers);
    for name in FROM_CLIENT_ONLY {
        headers.remove(name);
    }
    headers
}

/// The headers of an answer as the client gets them; those about the account's quota only if its key
/// shows them.
pub fn for_client(mut headers: HeaderMap, shows_quota: bool) -> HeaderMap {
    keep_end_to_end(&mut headers);
    for name in FROM_UPSTREAM_ONLY {
        headers.remove(name);
    }
    if !shows_quota {
        let is_quota = |name: &str| {
            QUOTA_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && name != TURN_STATE.as_str()
        };
        remove_where(&mut headers, is_quota);
    }
    headers
}

fn keep_end_to_end(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    remove_where(headers, |name| name.starts_with(OWN_PREFIX));
}

fn remove_where(headers: &mut HeaderMap, goes: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| goes(name.as_str()))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn credentials_and_connection_headers_do_not_cross() {
        let out = for_upstream(map(&[
            ("authorization", "Bearer mk-x"),
            ("cookie", "a=b"),
            ("openai-organization", "org"),
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("host", "here"),
            ("x-forwarded-for", "10.0.0.1"),
            ("accept-encoding", "gzip"),
            ("x-moorage-account", "me"),
            ("session-id", "s"),
            ("x-stainless-lang", "python"),
            ("openai-beta", "x"),
        ]));
        let mut names: Vec<_> = out.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["openai-beta", "session-id", "x-stainless-lang"]);
    }

    #[test]
    fn what_belongs_to_the_account_does_not_reach_the_client() {
        let answer = map(&[
            ("set-cookie", "__cf_bm=1"),
            ("strict-transport-security", "max-age=31536000; includeSubDomains"),
            ("alt-svc", "h3=\":443\""),
            ("openai-organization", "org"),
            ("x-ratelimit-remaining-requests", "1"),
            ("x-codex-primary-used-percent", "4"),
            ("x-codex-turn-state", "opaque"),
            ("x-request-id", "req_1"),
            ("openai-processing-ms", "12"),
            ("transfer-encoding", "chunked"),
        ]);
        let back = for_client(answer.clone(), false);
        let mut names: Vec<_> = back.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["openai-processing-ms", "x-codex-turn-state", "x-request-id"]
        );
        let shown = for_client(answer, true);
        assert!(shown.contains_key("x-ratelimit-remaining-requests"));
        assert!(shown.contains_key("x-codex-primary-used-percent"));
        assert!(!shown.contains_key("set-cookie") && !shown.contains_key("openai-organization"));
    }

    #[test]
    fn repeated_headers_stay_repeated() {
        let mut headers = map(&[("openai-beta", "a")]);
        headers.append("openai-beta", "b".parse().unwrap());
        assert_eq!(for_upstream(headers).get_all("openai-beta").iter().count(), 2);
    }
}
