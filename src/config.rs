//! The configuration: defaults, then the file, then environment and command line; checked whole
//! before anything starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;
use jiff::{Span, SpanRelativeTo};
use serde::{Deserialize, Deserializer};

use crate::account::{Kind, Secret};
use crate::limits;
use crate::store::accounts::NewAccount;
use crate::store::{Durability, Lifetimes};

/// What a gateway needs to know before it starts.
#[derive(Debug)]
pub struct Config {
    /// Where it listens.
    pub listen: String,
    /// Where its database is.
    pub database: PathBuf,
    /// What the file says, or would say by default.
    pub file: File,
}

/// Why there is no configuration, in words that say what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that is not understood.
    #[error("{path}: {message}", path = path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What, and where.
        message: String,
    },
    /// A secret is not where the file says.
    #[error("{what} '{name}': {message}")]
    Secret {
        /// `account` or `client_key`.
        what: &'static str,
        /// Its name.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// There is no home to look in.
    #[error("no home directory is known; give --database (or MOORAGE_DATABASE)")]
    NoHome,
}

/// The file `moorage.toml`. Every setting has a default; an unknown one is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// Where to listen.
    pub listen: Option<String>,
    /// Where the database is, relative to the file.
    pub database: Option<PathBuf>,
    /// What a commit survives.
    pub durability: Durability,
    /// What happens while the database cannot be written.
    pub on_store_failure: OnStoreFailure,
    /// How conversations are kept together.
    pub affinity: AffinitySettings,
    /// How long the history is kept.
    pub usage: UsageSettings,
    /// Caps and timeouts.
    pub limits: LimitSettings,
    /// What clients are told.
    pub answers: AnswerSettings,
    /// The accounts.
    pub account: Vec<AccountSettings>,
    /// The client keys.
    pub client_key: Vec<ClientKeySettings>,
}

/// What happens while the database cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStoreFailure {
    /// Requests are served; what is to be written is kept in memory.
    #[default]
    GoOn,
    /// Requests get 503.
    Refuse,
}

/// How conversations are kept together.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AffinitySettings {
    /// Lifetime of responses and other hard references.
    #[serde(deserialize_with = "duration")]
    pub response_ttl: Duration,
    /// Lifetime of sessions, cache keys and prefixes after their last use.
    #[serde(deserialize_with = "duration")]
    pub session_ttl: Duration,
    /// How often what has expired is looked for.
    #[serde(deserialize_with = "duration")]
    pub sweep_interval: Duration,
    /// How long a request waits for the account it is pinned to.
    #[serde(deserialize_with = "duration")]
    pub pin_wait: Duration,
    /// Headers that name a session, the first that is there counts.
    #[serde(deserialize_with = "header_names")]
    pub session_headers: Vec<HeaderName>,
}

impl Default for AffinitySettings {
    fn default() -> Self {
        AffinitySettings {
            response_ttl: limits::RESPONSE_TTL,
            session_ttl: limits::SESSION_TTL,
            sweep_interval: limits::SWEEP_INTERVAL,
            pin_wait: limits::PIN_WAIT,
            session_headers: SESSION_HEADERS.map(HeaderName::from_static).to_vec(),
        }
    }
}

/// The headers by which the clients in the field name a session: Codex CLI, older and newer, and
/// what other gateways have taught their users.
const SESSION_HEADERS: [&str; 6] = [
    "session-id",
    "session_id",
    "thread-id",
    "conversation_id",
    "x-session-id",
    "x-session-affinity",
];

/// How long the history is kept.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsageSettings {
    /// Usage rows; after it they are folded into the hourly sums.
    #[serde(deserialize_with = "duration")]
    pub retention: Duration,
}

impl Default for UsageSettings {
    fn default() -> Self {
        UsageSettings {
            retention: limits::USAGE_RETENTION,
        }
    }
}

/// Caps and timeouts that an operator may need to change.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// A request body, after decompression.
    pub request_body_bytes: usize,
    /// To connect to an upstream.
    #[serde(deserialize_with = "duration")]
    pub upstream_connect: Duration,
    /// From a sent request to the head of its answer.
    #[serde(deserialize_with = "duration")]
    pub upstream_first_byte: Duration,
    /// Between two pieces of an answer.
    #[serde(deserialize_with = "duration")]
    pub upstream_idle: Duration,
    /// The silence of an upstream after which a comment goes into an open stream.
    #[serde(deserialize_with = "duration")]
    pub stream_comment: Duration,
    /// For running exchanges after the signal to stop.
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Duration,
    /// Open client connections.
    pub connections: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        LimitSettings {
            request_body_bytes: limits::REQUEST_BODY_BYTES_MAX,
            upstream_connect: limits::UPSTREAM_CONNECT,
            upstream_first_byte: limits::UPSTREAM_FIRST_BYTE,
            upstream_idle: limits::UPSTREAM_IDLE,
            stream_comment: limits::STREAM_COMMENT,
            shutdown_grace: limits::SHUTDOWN_GRACE,
            connections: limits::CONNECTIONS_MAX,
        }
    }
}

/// What clients are told.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerSettings {
    /// Whether answers carry `x-moorage-request-id`, `-account` and `-affinity`.
    pub routing_headers: bool,
}

impl Default for AnswerSettings {
    fn default() -> Self {
        AnswerSettings {
            routing_headers: true,
        }
    }
}

/// An account in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountSettings {
    name: String,
    #[serde(default = "default_kind")]
    kind: Kind,
    base_url: String,
    api_key_env: Option<String>,
    api_key_file: Option<PathBuf>,
    /// Only there to be refused with a better word than "unknown".
    api_key: Option<serde::de::IgnoredAny>,
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
    key: Option<serde::de::IgnoredAny>,
}

/// Where the command line and the environment say things are.
#[derive(Debug, Default, Clone)]
pub struct Places {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--database`
    pub database: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<String>,
}

const DEFAULT_LISTEN: &str = "127.0.0.1:8440";

impl Config {
    /// Reads the configuration. A file that was named must be there; the one in the XDG directory
    /// need not.
    ///
    /// # Errors
    /// If the file cannot be read or says something that is not understood.
    pub fn load(places: Places) -> Result<Config, ConfigError> {
        let path = places
            .config
            .or_else(|| xdg("XDG_CONFIG_HOME", ".config", "moorage.toml").filter(|path| path.exists()));
        let file = match &path {
            Some(path) => File::read(path)?,
            None => File::default(),
        };
        let beside = path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let database = places
            .database
            .or_else(|| file.database.as_ref().map(|database| beside.join(database)))
            .or_else(|| xdg("XDG_DATA_HOME", ".local/share", "moorage.db"))
            .ok_or(ConfigError::NoHome)?;
        let listen = places
            .listen
            .or_else(|| file.listen.clone())
            .unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
        Ok(Config {
            listen,
            database,
            file,
        })
    }

    /// How long things are kept.
    pub fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            response: self.file.affinity.response_ttl,
            session: self.file.affinity.session_ttl,
            usage: self.file.usage.retention,
        }
    }
}

fn xdg(variable: &str, below_home: &str, name: &str) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let folder = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(absolute)
        .or_else(|| Some(std::env::home_dir()?.join(below_home)))?;
    Some(folder.join("moorage").join(name))
}

impl File {
    fn read(path: &Path) -> Result<File, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        File::parse(&text).map_err(|message| ConfigError::Invalid {
            path: path.to_owned(),
            message,
        })
    }

    fn parse(text: &str) -> Result<File, String> {
        let reader = toml::Deserializer::parse(text).map_err(|error| error.to_string())?;
        let file: File = serde_path_to_error::deserialize(reader).map_err(|error| explain(&error))?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        let mut names = std::collections::HashSet::new();
        for account in &self.account {
            if !names.insert(("account", &account.name)) {
                return Err(format!("two accounts are named '{}'", account.name));
            }
            if account.api_key.is_some() {
                return Err(format!(
                    "account '{}': a key in the file can be read by whoever reads the file; \
                     name an environment variable (api_key_env) or a file (api_key_file)",
                    account.name
                ));
            }
            account.checked()?;
        }
        for key in &self.client_key {
            if !names.insert(("client_key", &key.name)) {
                return Err(format!("two client keys are named '{}'", key.name));
            }
            check_name(&key.name)?;
            if key.key.is_some() {
                return Err(format!(
                    "client key '{}': name an environment variable (key_env) or a file (key_file)",
                    key.name
                ));
            }
        }
        Ok(())
    }
}

/// serde's message with the setting's path, and the nearest known name for an unknown one.
fn explain(error: &serde_path_to_error::Error<toml::de::Error>) -> String {
    let message = error.inner().message();
    let path = error.path().to_string();
    let hint = nearest(message)
        .map(|name| format!("; did you mean '{name}'?"))
        .unwrap_or_default();
    match path.as_str() {
        "." => format!("{message}{hint}"),
        path => format!("{path}: {message}{hint}"),
    }
}

/// The known name that is nearest to the unknown one in serde's "unknown field `x`, expected …".
fn nearest(message: &str) -> Option<&str> {
    let mut names = message
        .strip_prefix("unknown field ")?
        .split('`')
        .skip(1)
        .step_by(2);
    let unknown = names.next()?;
    let distance = |name: &&str| strsim::damerau_levenshtein(unknown, name);
    names.min_by_key(distance).filter(|name| distance(name) <= 3)
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

/// A duration as people write it: `30d`, `4h`, `10m`, `1h 30m`, `250ms`. Days have 24 hours.
///
/// # Errors
/// If it is none, or negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("'{text}' is no duration; write for example 30d, 4h, 10m or 15s");
    let span: Span = text.parse().map_err(|_| invalid())?;
    let duration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| invalid())?;
    Duration::try_from(duration).map_err(|_| invalid())
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

fn header_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HeaderName>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let parse = |name: String| {
        name.parse::<HeaderName>()
            .map_err(|_| serde::de::Error::custom(format!("'{name}' is no header name")))
    };
    names.into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let file = File::parse("").unwrap();
        assert_eq!(file.affinity.response_ttl, limits::RESPONSE_TTL);
        assert_eq!(file.durability, Durability::Process);
        assert!(file.answers.routing_headers);
    }

    #[test]
    fn the_documented_file_is_understood() {
        let file = File::parse(
            r#"
            listen = "127.0.0.1:8440"
            database = "moorage.db"
            durability = "full"
            on_store_failure = "refuse"
            [affinity]
            response_ttl = "30d"
            session_ttl = "4h"
            sweep_interval = "10m"
            pin_wait = "10s"
            session_headers = ["x-my-session"]
            [usage]
            retention = "90d"
            [[account]]
            name = "alice"
            kind = "openai"
            base_url = "https://api.openai.com/v1/"
            api_key_env = "ALICE_OPENAI_API_KEY"
            state_domain = "acme-project"
            weight = 2
            max_concurrent = 8
            [[client_key]]
            name = "laptop"
            scope = "home"
            key_env = "MOORAGE_LAPTOP_KEY"
            "#,
        )
        .unwrap();
        let account = file.account[0].checked().unwrap();
        assert_eq!(account.base_url, "https://api.openai.com/v1");
        assert_eq!((account.weight, account.max_concurrent), (2, Some(8)));
        assert_eq!(file.affinity.session_headers, ["x-my-session"]);
        assert_eq!(file.affinity.session_ttl, Duration::from_secs(4 * 3600));
    }

    #[test]
    fn an_unknown_setting_names_the_nearest_known_one() {
        let error = File::parse("[affinity]\npin_wiat = \"10s\"").unwrap_err();
        assert!(
            error.contains("pin_wiat") && error.contains("did you mean 'pin_wait'?"),
            "{error}"
        );
        let error = File::parse("zzzzzzzzzzz = 1").unwrap_err();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        let account = |line: &str| {
            format!("[[account]]\nname = \"a\"\nbase_url = \"http://h/v1\"\napi_key_env = \"X\"\n{line}")
        };
        for (text, word) in [
            (account("api_key = \"sk-1\""), "api_key_env"),
            (account("weight = 0"), "weight"),
            (account("kind = \"other\""), "other"),
            (account("") + &account(""), "two accounts"),
            ("[affinity]\npin_wait = \"soon\"".to_owned(), "duration"),
            ("[affinity]\npin_wait = \"-4s\"".to_owned(), "duration"),
            ("durability = \"maybe\"".to_owned(), "maybe"),
            (
                "[[account]]\nname = \"a b\"\nbase_url = \"http://h\"".to_owned(),
                "name",
            ),
            (
                "[[account]]\nname = \"a\"\nbase_url = \"ftp://h\"".to_owned(),
                "http",
            ),
            (
                "[[account]]\nname = \"a\"\nbase_url = \"http://u:p@h\"".to_owned(),
                "credentials",
            ),
        ] {
            let error = File::parse(&text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
            assert!(!error.contains("sk-1"), "{error}");
        }
    }
}
