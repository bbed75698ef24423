//! What an account is. How its standing follows from what people and upstreams say is in
//! [`standing`].

mod checks;
mod standing;

use std::fmt;
use std::path::PathBuf;

pub use checks::{check_base_url, check_credential, check_name, doubt_about_base_url, own_domain};
pub use standing::{LimitedModel, Signal, Standing, Status, Switch, Usability};

/// Identity of an account: the key of its row, never an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(pub i64);

/// Accounts that share server-side state have one. By default it is the account's own name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StateDomain(pub String);

/// What kind of server an account's upstream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Any server that speaks the Responses API and takes a bearer key.
    OpenAi,
    /// The backend of a ChatGPT login, as Codex CLI keeps it.
    Codex,
}

impl Kind {
    /// The word for it in SQL, configuration and CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::OpenAi => "openai",
            Kind::Codex => "codex",
        }
    }

    /// Where it is, unless a person says otherwise.
    pub fn usual_base_url(self) -> Option<&'static str> {
        match self {
            Kind::OpenAi => None,
            Kind::Codex => Some("https://chatgpt.com/backend-api/codex"),
        }
    }

    /// Whether its upstream keeps a response, where the request says so, says not, or says nothing.
    pub fn stores(self, asked: Option<bool>) -> bool {
        match self {
            Kind::OpenAi => asked.unwrap_or(true),
            Kind::Codex => false,
        }
    }

    /// Whether a request that reasons should ask for the reasoning in sealed form, when the client
    /// named no `include`. With `store: false` the upstream keeps nothing, and reasoning that the
    /// client cannot send back is lost at the next turn.
    pub fn wants_sealed_reasoning(self, store: Option<bool>) -> bool {
        !self.stores(store)
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "openai" => Ok(Kind::OpenAi),
            "codex" => Ok(Kind::Codex),
            other => Err(format!("unknown kind of account '{other}'; known: openai, codex")),
        }
    }
}

/// An upstream credential. Shown as dots wherever it is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text as it is, without the white space around it: files end with a line break.
    pub fn new(text: &str) -> Option<Secret> {
        let text = text.trim();
        let usable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        usable.then(|| Secret(text.to_owned()))
    }

    /// The credential itself, for the header that carries it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// With what an account proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// Sent as the bearer key.
    Key(Secret),
    /// The file in which Codex CLI keeps a ChatGPT login. It is read where it is, and written back
    /// when its tokens are renewed: a copy would be a second holder of tokens that work once.
    AuthFile(PathBuf),
    /// None: the account is only looked at.
    None,
}

/// An upstream credential and where to use it.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its row.
    pub id: AccountId,
    /// The name that people gave it.
    pub name: String,
    /// What its upstream is.
    pub kind: Kind,
    /// Where requests go: the path after `/v1` is put behind it.
    pub base_url: String,
    /// Who else holds its state.
    pub state_domain: StateDomain,
    /// Its share of the load, relative to the others; at least 1.
    pub weight: u32,
    /// Those of the highest priority are used first.
    pub priority: i32,
    /// How many attempts may run on it at once; `None` for no bound.
    pub max_concurrent: Option<u32>,
    /// With what it proves who it is.
    pub credential: Credential,
    /// What a person wants of it.
    pub switch: Switch,
    /// Rises when a person has given it a new credential or another chance: what was learned about
    /// it before does not count any more.
    pub revision: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("sk-very-secret\n").unwrap();
        assert_eq!(secret.reveal(), "sk-very-secret");
        assert!(!format!("{secret:?}").contains("very"));
        assert!(Secret::new("two words").is_none());
        assert!(Secret::new(" \n").is_none());
    }
}
