//! What names and addresses of accounts may be, wherever they come from.

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

/// The base URL of an account, without a slash at its end.
///
/// # Errors
/// If it is no http(s) URL, or holds credentials or a query.
pub fn check_base_url(url: &str) -> Result<String, String> {
    let uri: http::Uri = url.parse().map_err(|_| format!("base_url '{url}' is no URL"))?;
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
