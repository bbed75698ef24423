//! `moorage key …` and `moorage admin-key …`.

use clap::Subcommand;

use crate::account::check_name;
use crate::clock::now_ms;
use crate::config::Config;
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

#[derive(Debug, Subcommand)]
pub(super) enum AdminKeyCommand {
    /// Make a new admin key; the old one is valid no more
    Reset,
}

pub(super) fn run(command: KeyCommand, config: &Config) -> anyhow::Result<()> {
    let connection = store::open_writable(&config.database, config.file.durability)?;
    match command {
        KeyCommand::Add { name, scope } => {
            check_name(&name).map_err(anyhow::Error::msg)?;
            let key = client_keys::generate("mk")?;
            let new = NewClientKey {
                name: &name,
                scope: scope.as_deref(),
                key: &key,
                bounds: &KeyBounds::default(),
            };
            let Some(version) = client_keys::add(&connection, &new, now_ms())? else {
                anyhow::bail!(
                    "there is a client key '{name}' already; 'moorage key rotate {name}' gives it a new secret"
                );
            };
            show_once(&name, &key);
            tell_taken_over(config, version, &format!("{name}: added."))
        }
        KeyCommand::List => print(list(&connection)?, Format::Table),
        KeyCommand::Rotate { name } => {
            let key = client_keys::generate("mk")?;
            let version = made(&name, client_keys::rotate(&connection, &name, &key)?)?;
            show_once(&name, &key);
            tell_taken_over(config, version, &format!("{name}: rotated."))
        }
        KeyCommand::Revoke { name } => {
            let version = made(&name, client_keys::revoke(&connection, &name, now_ms())?)?;
            tell_taken_over(config, version, &format!("{name}: revoked."))
        }
    }
}

fn made(name: &str, change: Change) -> anyhow::Result<i64> {
    match change {
        Change::Made(version) => Ok(version),
        Change::InFile => anyhow::bail!(
            "the client key '{name}' is in the configuration file; change it there, and send SIGHUP to the gateway"
        ),
        _ => anyhow::bail!("no client key is named '{name}'"),
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
    let created = |ms| jiff::Timestamp::from_millisecond(ms).map_or("-".to_owned(), |at| at.to_string());
    let rows = keys.into_iter().map(|key| {
        [
            key.name,
            key.scope,
            key.visible_prefix,
            key.source,
            created(key.created_at_ms),
        ]
        .map(serde_json::Value::from)
        .to_vec()
    });
    Ok(Rows {
        columns: ["client_key", "scope", "begins_with", "source", "created_at"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
    })
}
