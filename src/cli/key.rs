//! `moorage key …` and `moorage admin-key …`.

use clap::{Args, Subcommand};

use crate::account::check_name;
use crate::clock::now_ms;
use crate::config::{Config, parse_duration, parse_moment};
use crate::store::accounts::Change;
use crate::store::client_keys::{self, KeyBounds, NewClientKey};
use crate::store::history::Rows;
use crate::store::{self};

use super::history::{Format, print};
use super::tell_taken_over;

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a client key; it is shown once
    Add {
        /// A name of your choice
        name: String,
        /// Keys of one scope share conversations; without, the key has its own
        #[arg(long)]
        scope: Option<String>,
        #[command(flatten)]
        bounds: BoundArgs,
    },
    /// Change what a client key may do: all of it; what is not named is without bound
    Bounds {
        /// Its name
        name: String,
        /// Take all bounds away
        #[arg(long, conflicts_with = "BoundArgs")]
        unbounded: bool,
        #[command(flatten)]
        bounds: BoundArgs,
    },
    /// The client keys
    List,
    /// Give a client key a new secret; its conversations stay
    Rotate {
        /// Its name
        name: String,
    },
    /// Let a client key in no more
    Revoke {
        /// Its name
        name: String,
    },
}

/// What a client key may do.
#[derive(Debug, Args)]
pub(super) struct BoundArgs {
    /// Until when it is valid: 30d, 2027-01-31 or 2027-01-31T18:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = parse_expiry)]
    expires: Option<i64>,
    /// A model that it may ask for; one that ends with * stands for all that begin so. May be repeated
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// How many requests it may run at once
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max_concurrent: Option<u32>,
    /// Tokens in and out that it may use in a day (UTC)
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    tokens_per_day: Option<i64>,
    /// Tokens in and out that it may use in a month (UTC)
    #[arg(long, value_name = "TOKENS", value_parser = parse_tokens)]
    tokens_per_month: Option<i64>,
    /// What it may cost in a day (UTC), by the prices of the configuration
    #[arg(long, value_name = "AMOUNT", value_parser = parse_amount)]
    cost_per_day: Option<f64>,
    /// What it may cost in a month (UTC), by the prices of the configuration
    #[arg(long, value_name = "AMOUNT", value_parser = parse_amount)]
    cost_per_month: Option<f64>,
    /// Let the client see what the upstream says about its quota
    #[arg(long)]
    show_quota: bool,
}

impl BoundArgs {
    fn bounds(self) -> anyhow::Result<KeyBounds> {
        let bounds = KeyBounds {
            expires_at_ms: self.expires,
            models: Some(self.models).filter(|models| !models.is_empty()),
            max_concurrent: self.max_concurrent,
            tokens_per_day: self.tokens_per_day,
            tokens_per_month: self.tokens_per_month,
            cost_per_day: self.cost_per_day,
            cost_per_month: self.cost_per_month,
            shows_quota: self.show_quota,
        };
        bounds.check().map_err(anyhow::Error::msg)?;
        Ok(bounds)
    }
}

/// A time from now, or a moment.
fn parse_expiry(text: &str) -> Result<i64, String> {
    match parse_duration(text) {
        Ok(duration) => i64::try_from(duration.as_millis())
            .ok()
            .and_then(|ms| now_ms().checked_add(ms))
            .ok_or_else(|| format!("'{text}' is too long")),
        Err(_) => parse_moment(text),
    }
}

fn parse_tokens(text: &str) -> Result<i64, String> {
    let tokens = text.replace('_', "").parse().ok().filter(|tokens| *tokens >= 0);
    tokens.ok_or_else(|| format!("'{text}' is no number of tokens; write for example 2000000 or 2_000_000"))
}

fn parse_amount(text: &str) -> Result<f64, String> {
    let amount = text.parse().ok().filter(|amount: &f64| amount.is_finite());
    amount.ok_or_else(|| format!("'{text}' is no amount; write for example 5 or 2.50"))
}

#[derive(Debug, Subcommand)]
pub(super) enum AdminKeyCommand {
    /// Make a new admin key; the old one is valid no more
    Reset,
}

pub(super) fn run(command: KeyCommand, config: &Config) -> anyhow::Result<()> {
    let connection = store::open_writable(&config.database, config.file.durability)?;
    match command {
        KeyCommand::Add { name, scope, bounds } => {
            check_name(&name).map_err(anyhow::Error::msg)?;
            let bounds = bounds.bounds()?;
            anyhow::ensure!(
                bounds.expires_at_ms.is_none_or(|at_ms| at_ms > now_ms()),
                "--expires is over already: nobody could use this key"
            );
            let key = client_keys::generate("mk")?;
            let new = NewClientKey {
                name: &name,
                scope: scope.as_deref(),
                key: &key,
                bounds: &bounds,
            };
            let Some(version) = client_keys::add(&connection, &new, now_ms())? else {
                anyhow::bail!(
                    "there is a client key '{name}' already; 'moorage key rotate {name}' gives it a new secret"
                );
            };
            show_once(&name, &key);
            tell_taken_over(config, version, &format!("{name}: added."))
        }
        KeyCommand::Bounds {
            name,
            unbounded,
            bounds,
        } => {
            let bounds = bounds.bounds()?;
            anyhow::ensure!(
                unbounded || bounds != KeyBounds::default(),
                "say what '{name}' may do, as in --max-concurrent 2; --unbounded takes all bounds away"
            );
            let change = client_keys::set_bounds(&connection, &name, &bounds)?;
            let version = made(&connection, &name, change)?;
            let now = match said(&bounds) {
                none if none == "-" => "without bound".to_owned(),
                words => words,
            };
            tell_taken_over(config, version, &format!("{name}: changed, now {now}."))
        }
        KeyCommand::List => print(list(&connection)?, Format::Table),
        KeyCommand::Rotate { name } => {
            let key = client_keys::generate("mk")?;
            let version = made(&connection, &name, client_keys::rotate(&connection, &name, &key)?)?;
            show_once(&name, &key);
            tell_taken_over(config, version, &format!("{name}: rotated."))
        }
        KeyCommand::Revoke { name } => {
            let version = made(
                &connection,
                &name,
                client_keys::revoke(&connection, &name, now_ms())?,
            )?;
            tell_taken_over(config, version, &format!("{name}: revoked."))
        }
    }
}

fn made(connection: &store::Connection, name: &str, change: Change) -> anyhow::Result<i64> {
    match change {
        Change::Made(version) => Ok(version),
        Change::InFile => anyhow::bail!(
            "the client key '{name}' is in the configuration file; change it there, and send SIGHUP to the gateway"
        ),
        _ => {
            let known = client_keys::list(connection)?.into_iter();
            let known: Vec<String> = known.map(|key| key.name).collect();
            Err(super::no_such("client key", name, &known))
        }
    }
}

pub(super) fn run_admin(command: &AdminKeyCommand, config: &Config) -> anyhow::Result<()> {
    let AdminKeyCommand::Reset = command;
    let connection = store::open_writable(&config.database, config.file.durability)?;
    let key = client_keys::generate("ma")?;
    let version = client_keys::set_admin(&connection, &key)?;
    println!("The admin key, for the page; it is shown only now:\n\n    {key}\n");
    tell_taken_over(
        config,
        version,
        "The old one is valid no more, and nobody is logged in.",
    )
}

fn show_once(name: &str, key: &str) {
    println!("{name}: the key is shown only now:\n\n    {key}\n");
}

fn list(connection: &store::Connection) -> anyhow::Result<Rows> {
    let keys = client_keys::list(connection)?;
    let moment = |ms| jiff::Timestamp::from_millisecond(ms).map_or("-".to_owned(), |at| at.to_string());
    let rows = keys.into_iter().map(|key| {
        [
            key.name,
            key.scope.strip_prefix("scope/").unwrap_or("its own").to_owned(),
            key.visible_prefix,
            key.source,
            moment(key.created_at_ms),
            key.bounds.expires_at_ms.map_or("-".to_owned(), moment),
            said(&key.bounds),
        ]
        .map(serde_json::Value::from)
        .to_vec()
    });
    Ok(Rows {
        columns: [
            "client_key",
            "scope",
            "begins_with",
            "source",
            "created_at",
            "expires_at",
            "bounds",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows: rows.collect(),
    })
}

/// The bounds in words.
fn said(bounds: &KeyBounds) -> String {
    let mut words = Vec::new();
    words.extend(bounds.models.as_ref().map(|models| models.join(" ")));
    words.extend(bounds.max_concurrent.map(|most| format!("{most} at once")));
    words.extend(bounds.tokens_per_day.map(|most| format!("{most} tokens a day")));
    words.extend(
        bounds
            .tokens_per_month
            .map(|most| format!("{most} tokens a month")),
    );
    words.extend(bounds.cost_per_day.map(|most| format!("{most} a day")));
    words.extend(bounds.cost_per_month.map(|most| format!("{most} a month")));
    words.extend(bounds.shows_quota.then(|| "sees quota".to_owned()));
    match words.is_empty() {
        true => "-".to_owned(),
        false => words.join(", "),
    }
}
