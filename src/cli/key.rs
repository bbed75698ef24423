//! `moorage key …` and `moorage admin-key …`.

use clap::Subcommand;

use crate::clock::now_ms;
use crate::config::{Config, check_name};
use crate::store::accounts::Source;
use crate::store::client_keys::{self, NewClientKey};
use crate::store::history::Rows;
use crate::store::{self};

use super::history::{Format, print};

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

const TAKES_EFFECT: &str = "A gateway that runs takes it over at its next start.";

pub(super) fn run(command: KeyCommand, config: &Config) -> anyhow::Result<()> {
    let connection = store::open_writable(&config.database, config.file.durability)?;
    let unknown = |name: &str| anyhow::anyhow!("no client key is named '{name}'");
    match command {
        KeyCommand::Add { name, scope } => {
            check_name(&name).map_err(anyhow::Error::msg)?;
            let names = client_keys::list(&connection)?;
            if names.iter().any(|key| key.name == name)
                || config.file.client_key.iter().any(|key| key.name == name)
            {
                anyhow::bail!(
                    "there is a client key '{name}' already; 'moorage key rotate {name}' gives it a new secret"
                );
            }
            let key = client_keys::generate("mk")?;
            let new = NewClientKey {
                name: &name,
                scope: scope.as_deref(),
                key: &key,
            };
            client_keys::add(&connection, &new, Source::Command, now_ms())?;
            show_once(&name, &key);
        }
        KeyCommand::List => print(list(&connection)?, Format::Table)?,
        KeyCommand::Rotate { name } => {
            if config.file.client_key.iter().any(|key| key.name == name) {
                anyhow::bail!("the client key '{name}' is in the configuration file; change it there");
            }
            let key = client_keys::generate("mk")?;
            if !client_keys::rotate(&connection, &name, &key)? {
                return Err(unknown(&name));
            }
            show_once(&name, &key);
        }
        KeyCommand::Revoke { name } => {
            if config.file.client_key.iter().any(|key| key.name == name) {
                anyhow::bail!("the client key '{name}' is in the configuration file; remove it there");
            }
            if !client_keys::revoke(&connection, &name, now_ms())? {
                return Err(unknown(&name));
            }
            println!("{name}: revoked. {TAKES_EFFECT}");
        }
    }
    Ok(())
}

pub(super) fn run_admin(command: &AdminKeyCommand, config: &Config) -> anyhow::Result<()> {
    let AdminKeyCommand::Reset = command;
    let connection = store::open_writable(&config.database, config.file.durability)?;
    let key = client_keys::generate("ma")?;
    client_keys::set_admin(&connection, &key)?;
    show_once("admin key", &key);
    Ok(())
}

fn show_once(name: &str, key: &str) {
    println!("{name}: the key is shown only now. {TAKES_EFFECT}\n\n    {key}\n");
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
