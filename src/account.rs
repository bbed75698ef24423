//! What an account is, and how its status follows from what its upstream says.

use std::fmt;
use std::time::Duration;

use crate::limits;

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
}

impl Kind {
    /// The word for it in SQL, configuration and CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::OpenAi => "openai",
        }
    }

    /// Whether a request that reasons should ask for the reasoning in sealed form, when the client
    /// named no `include`. With `store: false` the upstream keeps nothing, and reasoning that the
    /// client cannot send back is lost at the next turn.
    pub fn wants_sealed_reasoning(self, store: bool) -> bool {
        match self {
            Kind::OpenAi => !store,
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "openai" => Ok(Kind::OpenAi),
            other => Err(format!("unknown kind of account '{other}'; known: openai")),
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
    /// How many attempts may run on it at once; `None` for no bound.
    pub max_concurrent: Option<u32>,
    /// What is sent as the bearer key.
    pub secret: Secret,
    /// Its status at the start, as the last run left it.
    pub status: Status,
}

/// Whether an account can be used, and if not, until when and why. Times are milliseconds since
/// 1970 UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Takes requests.
    Active,
    /// Limited by the upstream until then.
    CoolingDown {
        /// From then on it is tried again.
        until_ms: i64,
        /// The upstream's error code.
        reason: String,
    },
    /// Out of quota; probed again at that time.
    Exhausted {
        /// From then on it is tried again.
        until_ms: i64,
        /// The upstream's error code.
        reason: String,
    },
    /// The credential was refused. Only a new credential, or a restart, helps.
    Expired {
        /// The upstream's error code.
        reason: String,
    },
    /// Switched off, by the upstream or by a person.
    Disabled {
        /// Who and why.
        reason: String,
    },
}

/// What an upstream's answer says about its account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// An answer that shows that the account works.
    Worked,
    /// 429: too many requests or tokens; `None` where no time was named.
    RateLimited {
        /// The upstream's error code.
        code: String,
        /// How long to stay away.
        retry_after: Option<Duration>,
    },
    /// 429 or 402 for want of money or plan.
    QuotaExhausted {
        /// The upstream's error code.
        code: String,
        /// How long to stay away.
        retry_after: Option<Duration>,
    },
    /// 401: the credential is not accepted.
    CredentialRefused {
        /// The upstream's error code.
        code: String,
    },
    /// 403 that names the account as deactivated.
    Deactivated {
        /// The upstream's error code.
        code: String,
    },
}

impl Status {
    /// The word for it in SQL, logs, CLI and page.
    pub fn word(&self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::CoolingDown { .. } => "cooling_down",
            Status::Exhausted { .. } => "exhausted",
            Status::Expired { .. } => "expired",
            Status::Disabled { .. } => "disabled",
        }
    }

    /// The status in columns: word, end and reason.
    pub fn columns(&self) -> (&'static str, Option<i64>, Option<&str>) {
        match self {
            Status::Active => (self.word(), None, None),
            Status::CoolingDown { until_ms, reason } | Status::Exhausted { until_ms, reason } => {
                (self.word(), Some(*until_ms), Some(reason))
            }
            Status::Expired { reason } | Status::Disabled { reason } => (self.word(), None, Some(reason)),
        }
    }

    /// The status from its columns. An end that is missing is one that has passed: an account is
    /// never locked for want of a time.
    pub fn from_columns(word: &str, until_ms: Option<i64>, reason: Option<String>) -> Status {
        let reason = reason.unwrap_or_default();
        let until_ms = until_ms.unwrap_or(0);
        match word {
            "cooling_down" => Status::CoolingDown { until_ms, reason },
            "exhausted" => Status::Exhausted { until_ms, reason },
            "expired" => Status::Expired { reason },
            "disabled" => Status::Disabled { reason },
            _ => Status::Active,
        }
    }

    /// Whether the account may be used at that time.
    pub fn usability(&self, now_ms: i64) -> Usability {
        match self {
            Status::Active => Usability::Usable,
            Status::CoolingDown { until_ms, .. } | Status::Exhausted { until_ms, .. } => {
                if *until_ms <= now_ms {
                    Usability::Usable
                } else {
                    Usability::UsableAt(*until_ms)
                }
            }
            Status::Expired { .. } | Status::Disabled { .. } => Usability::Never,
        }
    }

    /// The status after a signal. A limit with no stated end gets a short one, a stated one is
    /// bounded: either way the account is tried again.
    pub fn after(&self, signal: &Signal, now_ms: i64) -> Status {
        let until = |stated: &Option<Duration>, unstated: Duration| {
            let wait = stated.unwrap_or(unstated).min(limits::COOLDOWN_MAX);
            now_ms.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
        };
        match (self, signal) {
            // A person's word is not overridden by an answer.
            (Status::Disabled { .. }, _) => self.clone(),
            (_, Signal::Worked) => match self.usability(now_ms) {
                // A request that began before the limit was met says nothing about it.
                Usability::UsableAt(_) => self.clone(),
                _ => Status::Active,
            },
            (_, Signal::RateLimited { code, retry_after }) => {
                let until_ms = until(retry_after, limits::COOLDOWN_UNSTATED);
                match self {
                    // The longer of two limits holds.
                    Status::CoolingDown { until_ms: now, .. } | Status::Exhausted { until_ms: now, .. }
                        if *now > until_ms =>
                    {
                        self.clone()
                    }
                    Status::Expired { .. } => self.clone(),
                    _ => Status::CoolingDown {
                        until_ms,
                        reason: code.clone(),
                    },
                }
            }
            (Status::Expired { .. }, Signal::QuotaExhausted { .. }) => self.clone(),
            (_, Signal::QuotaExhausted { code, retry_after }) => Status::Exhausted {
                until_ms: until(retry_after, limits::EXHAUSTED_PROBE),
                reason: code.clone(),
            },
            (_, Signal::CredentialRefused { code }) => Status::Expired { reason: code.clone() },
            (_, Signal::Deactivated { code }) => Status::Disabled {
                reason: format!("by the upstream: {code}"),
            },
        }
    }
}

/// Whether an account may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usability {
    /// Now.
    Usable,
    /// From that time on, in milliseconds since 1970 UTC.
    UsableAt(i64),
    /// Not before a person has done something.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn limited(seconds: u64) -> Signal {
        Signal::RateLimited {
            code: "rate_limit_exceeded".into(),
            retry_after: Some(Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn a_limit_ends_at_the_stated_time() {
        let status = Status::Active.after(&limited(30), NOW);
        assert_eq!(status.usability(NOW), Usability::UsableAt(NOW + 30_000));
        assert_eq!(status.usability(NOW + 30_000), Usability::Usable);
    }

    #[test]
    fn a_limit_without_a_time_ends_by_itself() {
        for signal in [
            Signal::RateLimited {
                code: "x".into(),
                retry_after: None,
            },
            Signal::QuotaExhausted {
                code: "insufficient_quota".into(),
                retry_after: None,
            },
        ] {
            let status = Status::Active.after(&signal, NOW);
            let Usability::UsableAt(at) = status.usability(NOW) else {
                panic!("{status:?} must end");
            };
            assert!(at > NOW && at <= NOW + 3_600_000);
        }
    }

    #[test]
    fn an_absurd_limit_is_bounded() {
        let status = Status::Active.after(&limited(u64::MAX / 2000), NOW);
        let Usability::UsableAt(at) = status.usability(NOW) else {
            panic!("{status:?} must end");
        };
        assert!(at <= NOW + 9 * 24 * 3_600_000);
    }

    #[test]
    fn an_older_request_that_works_does_not_end_a_limit() {
        let status = Status::Active.after(&limited(30), NOW);
        assert_eq!(status.after(&Signal::Worked, NOW + 1000), status);
        assert_eq!(status.after(&Signal::Worked, NOW + 31_000), Status::Active);
    }

    #[test]
    fn a_shorter_limit_does_not_cut_a_longer_one() {
        let status = Status::Active.after(&limited(60), NOW);
        assert_eq!(status.after(&limited(1), NOW), status);
    }

    #[test]
    fn what_a_person_switched_off_stays_off() {
        let off = Status::Disabled {
            reason: "by the operator".into(),
        };
        assert_eq!(off.after(&Signal::Worked, NOW), off);
        assert_eq!(off.after(&limited(1), NOW), off);
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("sk-very-secret\n").unwrap();
        assert_eq!(secret.reveal(), "sk-very-secret");
        assert!(!format!("{secret:?}").contains("very"));
        assert!(Secret::new("two words").is_none());
        assert!(Secret::new(" \n").is_none());
    }

    #[test]
    fn a_status_survives_its_columns() {
        for status in [
            Status::Active,
            Status::Active.after(&limited(30), NOW),
            Status::Expired { reason: "a".into() },
            Status::Disabled { reason: "b".into() },
        ] {
            let (word, until_ms, reason) = status.columns();
            let back = Status::from_columns(word, until_ms, reason.map(str::to_owned));
            assert_eq!(back, status);
        }
    }
}
