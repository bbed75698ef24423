//! The accounts and client keys of the file, where their secrets come from, and what names and
//! addresses may be: also for those that are added on the command line.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;
use crate::account::{Kind, Secret};
use crate::store::accounts::NewAccount;

/// An account in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountSettings {
    pub(super) name: String,
    #[serde(default = "default_kind")]
    kind: Kind,
    base_url: String,
    api_key_env: Option<String>,
    api_key_file: Option<PathBuf>,
    /// Only there to be refused with a better word than "unknown".
    pub(super) api_key: Option<serde::de::IgnoredAny>,
    state_domain: Option<String>,
    #[serde(default = "default_weight")]
    weight: u32,
    max_concurrent: Option<u32>,
}

fn default_kind() -> Kind {
    Kind::OpenAi
}

fn default_weight() -> u32 {
    1
}

/// A client key in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientKeySettings {
    /// Unique.
    pub name: String,
    /// Keys of one scope share conversations.
    pub scope: Option<String>,
    key_env: Option<String>,
    key_file: Option<PathBuf>,
    /// Only there to be refused with a better word than "unknown".
    pub(super) key: Option<serde::de::IgnoredAny>,
}

impl AccountSettings {
    /// The account as the database keeps it, without its secret.
    pub fn checked(&self) -> Result<NewAccount, String> {
        check_name(&self.name)?;
        if self.weight == 0 {
            return Err(format!("account '{}': weight must be at least 1", self.name));
        }
        Ok(NewAccount {
            name: self.name.clone(),
            kind: self.kind,
            base_url: check_base_url(&self.base_url)
                .map_err(|message| format!("account '{}': {message}", self.name))?,
            state_domain: self
                .state_domain
                .clone()
                .unwrap_or_else(|| own_domain(&self.name)),
            weight: self.weight,
            max_concurrent: self.max_concurrent.filter(|most| *most > 0),
        })
    }

    /// The credential, from where the file says.
    ///
    /// # Errors
    /// If it is not there.
    pub fn secret(&self) -> Result<Secret, ConfigError> {
        let secret = match (&self.api_key_env, &self.api_key_file) {
            (Some(variable), None) => from_environment(variable),
            (None, Some(path)) => from_file(path),
            _ => Err("give api_key_env or api_key_file, one of them".to_owned()),
        };
        secret.map_err(|message| ConfigError::Secret {
            what: "account",
            name: self.name.clone(),
            message,
        })
    }
}

impl ClientKeySettings {
    /// The key, from where the file says.
    ///
    /// # Errors
    /// If it is not there.
    pub fn secret(&self) -> Result<Secret, ConfigError> {
        let secret = match (&self.key_env, &self.key_file) {
            (Some(variable), None) => from_environment(variable),
            (None, Some(path)) => from_file(path),
            _ => Err("give key_env or key_file, one of them".to_owned()),
        };
        secret.map_err(|message| ConfigError::Secret {
            what: "client_key",
            name: self.name.clone(),
            message,
        })
    }
}

/// A secret from an environment variable.
///
/// # Errors
/// If it is not set, or holds nothing that can be sent in a header.
pub fn from_environment(variable: &str) -> Result<Secret, String> {
    let text =
        std::env::var(variable).map_err(|_| format!("the environment variable {variable} is not set"))?;
    Secret::new(&text).ok_or_else(|| format!("the environment variable {variable} holds no usable key"))
}

/// A secret from a file.
///
/// # Errors
/// If it cannot be read, or holds nothing that can be sent in a header.
pub fn from_file(path: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Secret::new(&text).ok_or_else(|| format!("{} holds no usable key", path.display()))
}

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
