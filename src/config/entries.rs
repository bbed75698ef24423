//! The accounts and client keys of the file, and where their secrets come from.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;
use crate::account::{Kind, Secret, check_base_url, check_name, own_domain};
use crate::store::accounts::NewAccount;
use crate::store::client_keys::KeyBounds;

/// An account in the file.
#[derive(Debug, Clone, Deserialize)]
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
    /// What it may do.
    #[serde(skip)]
    pub bounds: KeyBounds,
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
            priority: self.priority,
            max_concurrent: self.max_concurrent.filter(|most| *most > 0),
            auth_file: None,
        })
    }

    /// The credential, from where the file says.
    ///
    /// # Errors
    /// If it is not there.
    pub fn secret(&self) -> Result<Option<Secret>, ConfigError> {
        let secret = match (&self.api_key_env, &self.api_key_file) {
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
