//! What names, addresses and credentials of accounts may be, wherever they come from.

use std::path::Path;

use super::Kind;

/// The state domain of an account that shares with none. Names cannot hold the slash, so it is no
/// domain that somebody gave.
pub fn own_domain(name: &str) -> String {
    format!("account/{name}")
}

/// Names stand in headers, logs and commands: they are plain words.
///
/// # Errors
/// If this one is not.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    match !name.is_empty() && name.len() <= 64 && name.chars().all(plain) {
        true => Ok(()),
        false => Err(format!(
            "'{name}' is no name: use up to 64 letters, digits and . _ - @"
        )),
    }
}

/// Only accounts of kind `codex` have a file with a login, and they have nothing else.
///
/// # Errors
/// If an account has the credential of another kind.
pub fn check_credential(kind: Kind, has_key: bool, auth_file: Option<&Path>) -> Result<(), String> {
    match (kind, has_key, auth_file) {
        (Kind::OpenAi, true, None) | (Kind::Codex, false, Some(_)) => Ok(()),
        (Kind::OpenAi, _, Some(_)) => Err("only an account of kind codex has an auth_file".to_owned()),
        (Kind::OpenAi, false, None) => Err("an account of kind openai has an api_key".to_owned()),
        (Kind::Codex, ..) => Err(
            "an account of kind codex has the login that 'codex login' keeps, and no key: give its auth_file, \
             mostly ~/.codex/auth.json"
                .to_owned(),
        ),
    }
}

/// What is odd about a base URL that may yet be right: nearly all servers have the API below a path, and
/// without it every request is answered with 404.
pub fn doubt_about_base_url(kind: Kind, base_url: &str) -> Option<String> {
    let uri: http::Uri = base_url.parse().ok()?;
    let is_bare = kind == Kind::OpenAi && matches!(uri.path(), "" | "/");
    is_bare.then(|| format!("base_url {base_url} has no path; that of most servers ends with /v1"))
}

/// The base URL of an account, without a slash at its end. Some kinds have a usual one.
///
/// # Errors
/// If it is no http(s) URL, or holds credentials or a query, or is missing.
pub fn check_base_url(kind: Kind, base_url: Option<&str>) -> Result<String, String> {
    let Some(url) = base_url.or(kind.usual_base_url()) else {
        return Err("give a base_url, for example https://api.openai.com/v1".to_owned());
    };
    let uri: http::Uri = url
        .parse()
        .map_err(|_| format!("base_url '{url}' is no URL; write for example https://api.openai.com/v1"))?;
    let scheme = uri.scheme_str().unwrap_or_default();
    if !matches!(scheme, "http" | "https") || uri.host().is_none_or(str::is_empty) {
        return Err(format!(
            "base_url '{url}' must begin with https:// (or http://) and a host"
        ));
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err("base_url must not hold credentials".to_owned());
    }
    if uri.query().is_some() {
        return Err(format!("base_url '{url}' must not have a query"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}
