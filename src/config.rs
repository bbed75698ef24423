//! The configuration: defaults, then the file, then environment and command line; checked whole
//! before anything starts.

mod entries;
mod prices;
mod settings;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::account::check_name;
use crate::price::Price;
use crate::store::seal::KeySource;
use crate::store::{Durability, Lifetimes};

pub use entries::{AccountSettings, ClientKeySettings};
pub use entries::{absolute, from_environment, from_file, parse_moment};
pub use prices::PriceSettings;
pub use settings::{
    AffinitySettings, AnswerSettings, CodexSettings, LimitSettings, PoolSettings, TlsSettings, UsageSettings,
    WebSettings, parse_duration,
};

/// What a gateway needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub listen: String,
    /// Where its database is.
    pub database: PathBuf,
    /// What the file says, or would say by default.
    pub file: File,
    /// The file, if there is one.
    pub path: Option<PathBuf>,
    /// Where it was looked for.
    pub places: Places,
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
#[derive(Debug, Default, Clone, Deserialize)]
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
    /// What tokens cost.
    pub price: Vec<PriceSettings>,
    /// How accounts take turns.
    pub pool: PoolSettings,
    /// Who may open the page and the admin API.
    pub web: WebSettings,
    /// How the server proves who it is; without, clients speak to it in clear.
    pub tls: Option<TlsSettings>,
    /// Where the key is that secrets are sealed with, instead of beside the database.
    pub secret_key_file: Option<PathBuf>,
    /// The environment variable that holds it, in base64.
    pub secret_key_env: Option<String>,
    /// Where accounts of kind `codex` have their logins renewed.
    pub codex: CodexSettings,
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
    /// What is odd about accounts and client keys of the file, though it may be right: for whoever starts
    /// the gateway, and for the doctor.
    pub fn doubts(&self) -> Vec<String> {
        let accounts = self.file.account.iter().filter_map(AccountSettings::doubt);
        let keys = self.file.client_key.iter().filter_map(ClientKeySettings::doubt);
        accounts.chain(keys).collect()
    }

    /// Reads the configuration. A file that was named must be there; the one in the XDG directory
    /// need not.
    ///
    /// # Errors
    /// If the file cannot be read or says something that is not understood.
    pub fn load(places: Places) -> Result<Config, ConfigError> {
        let path = places
            .config
            .clone()
            .or_else(|| xdg("XDG_CONFIG_HOME", ".config", "moorage.toml").filter(|path| path.exists()));
        let file = match &path {
            Some(path) => File::read(path)?,
            None => File::default(),
        };
        let beside = path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let database = places
            .database
            .clone()
            .or_else(|| file.database.as_ref().map(|database| beside.join(database)))
            .or_else(|| xdg("XDG_DATA_HOME", ".local/share", "moorage.db"))
            .ok_or(ConfigError::NoHome)?;
        let listen = places
            .listen
            .clone()
            .or_else(|| file.listen.clone())
            .unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
        Ok(Config {
            listen,
            database,
            file,
            path,
            places,
        })
    }

    /// Where the key is that secrets are sealed with.
    pub fn seal_key(&self) -> KeySource {
        match (&self.file.secret_key_env, &self.file.secret_key_file) {
            (Some(variable), _) => KeySource::Environment(variable.clone()),
            (None, Some(path)) => KeySource::File(path.clone()),
            (None, None) => KeySource::beside(&self.database),
        }
    }

    /// How long things are kept.
    pub fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            response: self.file.affinity.response_ttl,
            session: self.file.affinity.session_ttl,
            usage: self.file.usage.retention,
            usage_rows: self.file.usage.rows,
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

    /// The prices, checked when the file was read.
    pub fn prices(&self) -> Vec<Price> {
        let prices = self.price.iter().map(PriceSettings::checked);
        prices.filter_map(Result::ok).collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.secret_key_env.is_some() && self.secret_key_file.is_some() {
            return Err("give secret_key_env or secret_key_file, one of them".to_owned());
        }
        self.limits.check()?;
        for price in &self.price {
            price.checked()?;
        }
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
            key.bounds()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use std::time::Duration;

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
    fn the_example_of_a_price_table_is_understood() {
        let file = File::parse(include_str!("config/prices.toml")).unwrap();
        assert_eq!(file.prices().len(), 5);
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
            ("[limits]\nsocket_ping = \"0s\"".to_owned(), "limits.socket_ping"),
            ("[limits]\nconnections = 0".to_owned(), "limits.connections"),
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
