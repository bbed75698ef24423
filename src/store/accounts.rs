//! The accounts in the database: those of the configuration file and those of the command line.

use std::path::Path;

use rusqlite::{Connection, params};

use super::StoreError;
use super::seal::Seal;
use crate::account::{Account, AccountId, Kind, Secret, StateDomain, Status};

/// An account to put into the database.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// Unique.
    pub name: String,
    /// What its upstream is.
    pub kind: Kind,
    /// Where requests go.
    pub base_url: String,
    /// Who else holds its state.
    pub state_domain: String,
    /// Its share of the load.
    pub weight: u32,
    /// How many attempts may run on it at once.
    pub max_concurrent: Option<u32>,
}

/// Where an account was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In `moorage.toml`.
    File,
    /// With a command.
    Command,
}

impl Source {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::File => "file",
            Source::Command => "command",
        }
    }
}

/// An account as it stands in the database, its secret still sealed.
#[derive(Debug)]
pub struct StoredAccount {
    /// Its row.
    pub id: AccountId,
    /// What is known of it.
    pub account: NewAccount,
    /// `file` or `command`.
    pub source: String,
    /// What the last run knew of it.
    pub status: Status,
    sealed_secret: Option<Vec<u8>>,
}

impl StoredAccount {
    /// The account ready for use. `secret` is given for accounts of the file.
    ///
    /// # Errors
    /// If the sealed secret does not open.
    pub fn unlock(self, seal: &Seal, secret: Option<Secret>) -> Result<Option<Account>, StoreError> {
        let NewAccount {
            name,
            kind,
            base_url,
            state_domain,
            weight,
            max_concurrent,
        } = self.account;
        let secret = match (secret, self.sealed_secret) {
            (Some(secret), _) => Some(secret),
            (None, Some(sealed)) => Secret::new(&seal.open_secret(&name, &sealed)?),
            (None, None) => None,
        };
        Ok(secret.map(|secret| Account {
            id: self.id,
            name,
            kind,
            base_url,
            state_domain: StateDomain(state_domain),
            weight,
            max_concurrent,
            secret,
            status: self.status,
        }))
    }
}

/// Lists the accounts that are not removed.
///
/// # Errors
/// If the database cannot be read.
pub fn list(connection: &Connection) -> Result<Vec<StoredAccount>, StoreError> {
    let mut statement = connection.prepare(include_str!("../../sql/queries/list_accounts.sql"))?;
    let accounts = statement.query_map([], |row| {
        let kind: String = row.get("kind")?;
        let status: String = row.get("status")?;
        Ok(StoredAccount {
            id: AccountId(row.get("id")?),
            account: NewAccount {
                name: row.get("name")?,
                // The schema allows no other word than those that are known here.
                kind: kind.parse().unwrap_or(Kind::OpenAi),
                base_url: row.get("base_url")?,
                state_domain: row.get("state_domain")?,
                weight: row.get("weight")?,
                max_concurrent: row.get("max_concurrent")?,
            },
            source: row.get("source")?,
            status: Status::from_columns(&status, row.get("status_until_ms")?, row.get("status_reason")?),
            sealed_secret: row.get("sealed_secret")?,
        })
    })?;
    Ok(accounts.collect::<Result<_, _>>()?)
}

/// Adds an account of the command line, or brings it up to date.
///
/// # Errors
/// If the database cannot be written or the key file cannot be used.
pub fn add(
    connection: &Connection,
    database: &Path,
    account: &NewAccount,
    secret: &Secret,
    now_ms: i64,
) -> Result<(), StoreError> {
    let sealed = Seal::open(database)?.close(&account.name, secret.reveal())?;
    put(connection, account, Source::Command, Some(sealed), now_ms)
}

/// Makes the accounts of the file those of the database that come from a file; the secrets stay
/// where they are.
///
/// # Errors
/// If the database cannot be written.
pub fn reconcile(connection: &Connection, accounts: &[NewAccount], now_ms: i64) -> Result<(), StoreError> {
    for account in accounts {
        put(connection, account, Source::File, None, now_ms)?;
    }
    let names: Vec<&str> = accounts.iter().map(|account| account.name.as_str()).collect();
    let gone = include_str!("../../sql/queries/remove_accounts_gone_from_file.sql");
    connection.execute(gone, params![now_ms, serde_json::json!(names).to_string()])?;
    Ok(())
}

fn put(
    connection: &Connection,
    account: &NewAccount,
    source: Source,
    sealed: Option<Vec<u8>>,
    now_ms: i64,
) -> Result<(), StoreError> {
    connection.query_row(
        include_str!("../../sql/queries/put_account.sql"),
        params![
            account.name,
            account.kind.as_str(),
            account.base_url,
            account.state_domain,
            account.weight,
            account.max_concurrent,
            source.as_str(),
            sealed,
            now_ms
        ],
        |_| Ok(()),
    )?;
    Ok(())
}

/// Removes an account; its rows stay. Tells whether there was one.
///
/// # Errors
/// If the database cannot be written.
pub fn remove(connection: &Connection, name: &str, now_ms: i64) -> Result<bool, StoreError> {
    let removed = connection.execute(
        include_str!("../../sql/queries/remove_account.sql"),
        params![name, now_ms],
    )?;
    Ok(removed > 0)
}

/// Switches an account on or off. Tells whether there is one.
///
/// # Errors
/// If the database cannot be written.
pub fn enable(connection: &Connection, name: &str, enabled: bool) -> Result<bool, StoreError> {
    let (status, reason) = match enabled {
        true => ("active", None),
        false => ("disabled", Some("by the operator")),
    };
    let changed = connection.execute(
        include_str!("../../sql/queries/enable_account.sql"),
        params![name, status, reason],
    )?;
    Ok(changed > 0)
}
