//! The accounts and client keys of the file, and where their secrets come from.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;
use crate::account::{
    Kind, Secret, check_base_url, check_credential, check_name, doubt_about_base_url, own_domain,
};
use crate::store::accounts::NewAccount;
use crate::store::client_keys::KeyBounds;

/// An account in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountSettings {
    pub(super) name: String,
    #[serde(default = "default_kind")]
    kind: Kind,
    base_url: Option<String>,
    auth_file: Option<PathBuf>,
    api_key_env: Option<String>,
    api_key_file: Option<PathBuf>,
    /// Only there to be refused with a better word than "unknown".
    pub(super) api_key: Option<serde::de::IgnoredAny>,
    state_domain: Option<String>,
    #[serde(default = "default_weight")]
    weight: u32,
    #[serde(default)]
    priority: i32,
    max_concurrent: Option<u32>,
}

fn default_kind() -> Kind {
    Kind::OpenAi
}

fn default_weight() -> u32 {
    1
}

/// A client key in the file.
#[derive(Debug, Clone, Deserialize)]
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
    expires: Option<String>,
    models: Option<Vec<String>>,
    max_concurrent: Option<u32>,
    tokens_per_day: Option<i64>,
    tokens_per_month: Option<i64>,
    cost_per_day: Option<f64>,
    cost_per_month: Option<f64>,
    #[serde(default)]
    shows_quota: bool,
}

/// The shortest client key of one's own choice.
const CLIENT_KEY_BYTES_MIN: usize = 20;

/// The shortest client key of one's own choice about which nobody is warned: with fewer characters, one
/// that a person made up is easier to guess than it looks.
const CLIENT_KEY_BYTES_FINE: usize = 32;

/// A moment as people write it: a day (its beginning, UTC), or a day and a time.
///
/// # Errors
/// If it is none.
pub fn parse_moment(text: &str) -> Result<i64, String> {
    let day = || {
        text.parse::<jiff::civil::Date>()
            .ok()?
            .to_zoned(jiff::tz::TimeZone::UTC)
            .ok()
    };
    let moment = text.parse::<jiff::Timestamp>().ok();
    moment
        .or_else(|| Some(day()?.timestamp()))
        .map(jiff::Timestamp::as_millisecond)
        .ok_or_else(|| format!("'{text}' is no moment; write for example 2027-01-31 or 2027-01-31T18:00:00Z"))
}

impl AccountSettings {
    /// The account as the database keeps it, without its secret.
    pub fn checked(&self) -> Result<NewAccount, String> {
        check_name(&self.name)?;
        let wrong = |message: String| format!("account '{}': {message}", self.name);
        if self.weight == 0 {
            return Err(wrong("weight must be at least 1".to_owned()));
        }
        let has_key = self.api_key_env.is_some() || self.api_key_file.is_some();
        let auth_file = self
            .auth_file
            .as_deref()
            .map(absolute)
            .transpose()
            .map_err(wrong)?;
        if self.kind == Kind::Codex || auth_file.is_some() {
            check_credential(self.kind, has_key, auth_file.as_deref()).map_err(wrong)?;
        }
        Ok(NewAccount {
            name: self.name.clone(),
            kind: self.kind,
            base_url: check_base_url(self.kind, self.base_url.as_deref()).map_err(wrong)?,
            state_domain: self
                .state_domain
                .clone()
                .unwrap_or_else(|| own_domain(&self.name)),
            weight: self.weight,
            priority: self.priority,
            max_concurrent: self.max_concurrent.filter(|most| *most > 0),
            auth_file,
        })
    }

    /// What is odd about it, though it may be right.
    pub fn doubt(&self) -> Option<String> {
        let doubt = doubt_about_base_url(self.kind, self.base_url.as_deref()?)?;
        Some(format!("account '{}': {doubt}", self.name))
    }

    /// The credential, from where the file says; none for a login, which stays in a file of its own.
    ///
    /// # Errors
    /// If it is not there.
    pub fn secret(&self) -> Result<Option<Secret>, ConfigError> {
        let secret = match (&self.api_key_env, &self.api_key_file) {
            (None, None) if self.kind == Kind::Codex => return Ok(None),
            (Some(variable), None) => from_environment(variable),
            (None, Some(path)) => from_file(path),
            _ => Err("give api_key_env or api_key_file, one of them".to_owned()),
        };
        secret.map(Some).map_err(|message| ConfigError::Secret {
            what: "account",
            name: self.name.clone(),
            message,
        })
    }
}

impl ClientKeySettings {
    /// What the key may do.
    ///
    /// # Errors
    /// If that makes no sense.
    pub fn bounds(&self) -> Result<KeyBounds, String> {
        let expires_at_ms = self.expires.as_deref().map(parse_moment).transpose();
        let bounds = KeyBounds {
            expires_at_ms: expires_at_ms
                .map_err(|message| format!("client key '{}': {message}", self.name))?,
            models: self.models.clone(),
            max_concurrent: self.max_concurrent,
            tokens_per_day: self.tokens_per_day,
            tokens_per_month: self.tokens_per_month,
            cost_per_day: self.cost_per_day,
            cost_per_month: self.cost_per_month,
            shows_quota: self.shows_quota,
        };
        bounds
            .check()
            .map_err(|message| format!("client key '{}': {message}", self.name))?;
        Ok(bounds)
    }

    /// What is odd about the key, though it is taken.
    pub fn doubt(&self) -> Option<String> {
        let secret = self.secret().ok()?;
        (secret.reveal().len() < CLIENT_KEY_BYTES_FINE).then(|| {
            format!(
                "client key '{}': it is shorter than {CLIENT_KEY_BYTES_FINE} characters, and could be guessed if it \
                 is no random one; 'moorage key add' and 'openssl rand -base64 32' make better ones",
                self.name
            )
        })
    }

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
        let long_enough = |secret: Secret| match secret.reveal().len() >= CLIENT_KEY_BYTES_MIN {
            true => Ok(secret),
            false => Err(format!(
                "the key is shorter than {CLIENT_KEY_BYTES_MIN} characters and could be guessed; \
                 'openssl rand -base64 32' makes one"
            )),
        };
        secret
            .and_then(long_enough)
            .map_err(|message| ConfigError::Secret {
                what: "client_key",
                name: self.name.clone(),
                message,
            })
    }
}

/// A path that means the same to every process, wherever it was started.
///
/// # Errors
/// If there is no folder that it could be relative to.
pub fn absolute(path: &Path) -> Result<PathBuf, String> {
    let path = match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    };
    std::path::absolute(&path).map_err(|error| format!("{}: {error}", path.display()))
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
