//! The one state machine of an account: where it stands, and how that follows from what people
//! and its upstream say.
//!
//! A standing has three parts, each of which can keep a request away: the [`Switch`] that people
//! turn, the [`Status`] that follows from the upstream's answers, and the models that are limited
//! though the account is not. The word that people read ([`Standing::word`]) is the first of
//! these that is not in order.
//!
//! What a signal makes of a status, row by row; `=` keeps it:
//!
//! | | worked | limited | out of quota | credential refused | deactivated |
//! |---|---|---|---|---|---|
//! | active | = | cooling down | exhausted | expired | disabled |
//! | cooling down | = until it ends, then active | the longer one | exhausted | expired | disabled |
//! | exhausted | = until it ends, then active | the longer one | exhausted | expired | disabled |
//! | expired | active | = | = | = | disabled |
//! | disabled | = | = | = | = | = |
//!
//! A limit of one model changes no status: it is written beside it, and ends by itself. A person
//! who enables an account sets all of it back to active. What an upstream names as the end of a
//! limit is believed up to [`limits::COOLDOWN_MAX`]; where it names none, the account is tried
//! again after a short while: nothing is locked for ever.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits;

/// What a person wants of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// It serves.
    #[default]
    On,
    /// What lives there goes on; nothing new begins.
    Draining,
    /// It is not used.
    Off,
}

impl Switch {
    /// The word for it in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Switch::On => "on",
            Switch::Draining => "draining",
            Switch::Off => "off",
        }
    }

    /// The switch from its word.
    pub fn from_word(word: &str) -> Switch {
        match word {
            "draining" => Switch::Draining,
            "off" => Switch::Off,
            _ => Switch::On,
        }
    }
}

/// What follows from the upstream's answers. Times are milliseconds since 1970 UTC.
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
    /// The credential was refused. Only a new credential, or a person, helps.
    Expired {
        /// The upstream's error code.
        reason: String,
    },
    /// Switched off by the upstream.
    Disabled {
        /// Who and why.
        reason: String,
    },
}

/// A model that is limited though its account is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitedModel {
    /// As the request named it.
    pub model: String,
    /// From then on it is tried again, in milliseconds since 1970 UTC.
    pub until_ms: i64,
    /// The upstream's error code.
    pub reason: String,
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
        /// The model that is limited; `None` for the whole account.
        model: Option<String>,
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

impl Signal {
    /// The signal of a request that named a model: limits of pace are kept by model.
    pub fn of_model(mut self, asked: Option<&str>) -> Signal {
        if let Signal::RateLimited { model, code, .. } = &mut self
            // The window of a plan is that of all its models.
            && code != "usage_limit_reached"
        {
            *model = asked.map(str::to_owned);
        }
        self
    }
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

    /// Whether the account may be used at that time, as far as its status goes.
    fn usability(&self, now_ms: i64) -> Usability {
        match self {
            Status::Active => Usability::Usable,
            Status::CoolingDown { until_ms, .. } | Status::Exhausted { until_ms, .. } => {
                Usability::from(*until_ms, now_ms)
            }
            Status::Expired { .. } | Status::Disabled { .. } => Usability::Never,
        }
    }

    /// The status after a signal: the table above.
    fn after(&self, signal: &Signal, now_ms: i64) -> Status {
        match (self, signal) {
            (Status::Disabled { .. }, _) => self.clone(),
            (_, Signal::Deactivated { code }) => Status::Disabled {
                reason: format!("by the upstream: {code}"),
            },
            // A request that began before the limit was met says nothing about it.
            (Status::CoolingDown { .. } | Status::Exhausted { .. }, Signal::Worked)
                if self.usability(now_ms) != Usability::Usable =>
            {
                self.clone()
            }
            (_, Signal::Worked) => Status::Active,
            (Status::Expired { .. }, _) => self.clone(),
            (_, Signal::CredentialRefused { code }) => Status::Expired { reason: code.clone() },
            (_, Signal::QuotaExhausted { code, retry_after }) => Status::Exhausted {
                until_ms: until(*retry_after, limits::EXHAUSTED_PROBE, now_ms),
                reason: code.clone(),
            },
            (_, Signal::RateLimited { model: Some(_), .. }) => self.clone(),
            (
                _,
                Signal::RateLimited {
                    code, retry_after, ..
                },
            ) => {
                let until_ms = until(*retry_after, limits::COOLDOWN_UNSTATED, now_ms);
                match self {
                    Status::CoolingDown { until_ms: now, .. } | Status::Exhausted { until_ms: now, .. }
                        if *now > until_ms && self.usability(now_ms) != Usability::Usable =>
                    {
                        self.clone()
                    }
                    _ => Status::CoolingDown {
                        until_ms,
                        reason: code.clone(),
                    },
                }
            }
        }
    }
}

/// The end of a limit. A stated one is bounded on both sides, and one that was not stated is short:
/// either way the account is tried again.
fn until(stated: Option<Duration>, unstated: Duration, now_ms: i64) -> i64 {
    let stated = stated.unwrap_or(unstated);
    let wait = match stated < limits::COOLDOWN_MIN {
        true => limits::COOLDOWN_MIN + jitter(now_ms),
        false => stated.min(limits::COOLDOWN_MAX),
    };
    now_ms.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
}

/// Between nothing and [`limits::COOLDOWN_JITTER`], different from one millisecond to the next.
fn jitter(now_ms: i64) -> Duration {
    let most_ms = limits::COOLDOWN_JITTER.as_millis() as u64;
    // A multiplier of Fibonacci hashing: neighbours come out far apart.
    let mixed = now_ms.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Duration::from_millis(mixed % (most_ms + 1))
}

/// Where an account stands with its upstream, as a whole and by model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What follows from the upstream's answers.
    pub status: Status,
    /// The models that are limited though the account is not.
    pub limited_models: Vec<LimitedModel>,
}

impl Standing {
    /// That of an account of which nothing is known.
    pub fn active() -> Standing {
        Standing {
            status: Status::Active,
            limited_models: Vec::new(),
        }
    }

    /// The word that people read.
    pub fn word(&self, switch: Switch, now_ms: i64) -> &'static str {
        match (switch, &self.status) {
            (Switch::Off, _) => "disabled",
            (_, Status::Expired { .. } | Status::Disabled { .. }) => self.status.word(),
            (Switch::Draining, _) => "draining",
            (Switch::On, status) if status.usability(now_ms) == Usability::Usable => "active",
            (Switch::On, status) => status.word(),
        }
    }

    /// Whether the account may be used for a model at that time. Whether something new may begin on
    /// a draining one is for the pool to decide.
    pub fn usability(&self, switch: Switch, model: Option<&str>, now_ms: i64) -> Usability {
        let of_model = model
            .and_then(|model| self.limited_models.iter().find(|limited| limited.model == model))
            .map_or(Usability::Usable, |limited| {
                Usability::from(limited.until_ms, now_ms)
            });
        match switch {
            Switch::Off => Usability::Never,
            Switch::On | Switch::Draining => self.status.usability(now_ms).and(of_model),
        }
    }

    /// The standing after a signal. Limits of models that are over are forgotten on the way.
    pub fn after(&self, signal: &Signal, now_ms: i64) -> Standing {
        let mut limited_models = self.limited_models.clone();
        limited_models.retain(|limited| Usability::from(limited.until_ms, now_ms) != Usability::Usable);
        if let Signal::RateLimited {
            code,
            retry_after,
            model: Some(model),
        } = signal
        {
            let until_ms = until(*retry_after, limits::COOLDOWN_UNSTATED, now_ms);
            let has_room = limited_models.len() < limits::LIMITED_MODELS_MAX;
            let before = limited_models.iter_mut().find(|limited| limited.model == *model);
            match before {
                // The longer of two limits holds.
                Some(before) if before.until_ms >= until_ms => {}
                Some(before) => {
                    before.until_ms = until_ms;
                    before.reason.clone_from(code);
                }
                None if has_room => {
                    limited_models.push(LimitedModel {
                        model: model.clone(),
                        until_ms,
                        reason: code.clone(),
                    });
                }
                None => {}
            }
        }
        Standing {
            status: self.status.after(signal, now_ms),
            limited_models,
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

impl Usability {
    /// Usable from that time on. One that is farther away than any limit was set by a clock that has been
    /// put right since: it is over.
    pub fn from(until_ms: i64, now_ms: i64) -> Usability {
        let longest_ms = i64::try_from(limits::COOLDOWN_MAX.as_millis()).unwrap_or(i64::MAX);
        match until_ms <= now_ms || until_ms.saturating_sub(now_ms) > longest_ms {
            true => Usability::Usable,
            false => Usability::UsableAt(until_ms),
        }
    }

    /// Usable when both are.
    pub fn and(self, other: Usability) -> Usability {
        match (self, other) {
            (Usability::Never, _) | (_, Usability::Never) => Usability::Never,
            (Usability::UsableAt(a), Usability::UsableAt(b)) => Usability::UsableAt(a.max(b)),
            (Usability::UsableAt(at), _) | (_, Usability::UsableAt(at)) => Usability::UsableAt(at),
            (Usability::Usable, Usability::Usable) => Usability::Usable,
        }
    }
}

#[cfg(test)]
mod tests;
