//! The accounts in the database: those of the configuration file and those of the command line.

use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::roster;
use super::seal::Seal;
use super::{StoreError, begin};
use crate::account::{
    Account, AccountId, Credential, Kind, Secret, Standing, StateDomain, Status, Switch, check_base_url,
    own_domain,
};
use crate::affinity::Gone;
use crate::quota::Quota;

/// What a person says of an account.
#[derive(Debug, Clone)]
pub struct Described {
    /// Unique.
    pub name: String,
    /// What its upstream is.
    pub kind: Kind,
    /// Where requests go.
    pub base_url: Option<String>,
    /// See [`Account::state_domain`].
    pub state_domain: Option<String>,
    /// See [`Account::weight`].
    pub weight: Option<u32>,
    /// See [`Account::priority`].
    pub priority: Option<i32>,
    /// See [`Account::max_concurrent`]; 0 takes the bound away.
    pub max_concurrent: Option<u32>,
    /// Where the login of a kind that has one is kept.
    pub auth_file: Option<PathBuf>,
}

impl Described {
    /// The account that is meant. What is not said stays as it was `before`, in an account of the same
    /// name and kind: a new key must not take away what it shares, or its bounds.
    ///
    /// # Errors
    /// If the base URL is none, in words for the person.
    pub fn over(self, before: Option<&NewAccount>) -> Result<NewAccount, String> {
        let before = before.filter(|before| before.kind == self.kind);
        let base_url = self
            .base_url
            .as_deref()
            .or(before.map(|before| &*before.base_url));
        let state_domain = self
            .state_domain
            .or(before.map(|before| before.state_domain.clone()));
        let max_concurrent = self
            .max_concurrent
            .or(before.and_then(|before| before.max_concurrent));
        Ok(NewAccount {
            kind: self.kind,
            base_url: check_base_url(self.kind, base_url)?,
            state_domain: state_domain.unwrap_or_else(|| own_domain(&self.name)),
            weight: self.weight.or(before.map(|before| before.weight)).unwrap_or(1),
            priority: self
                .priority
                .or(before.map(|before| before.priority))
                .unwrap_or(0),
            max_concurrent: max_concurrent.filter(|most| *most > 0),
            auth_file: self.auth_file,
            name: self.name,
        })
    }
}

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
    /// Those of the highest priority are used first.
    pub priority: i32,
    /// How many attempts may run on it at once.
    pub max_concurrent: Option<u32>,
    /// The file that holds its login, for those that have one.
    pub auth_file: Option<PathBuf>,
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
    /// What a person wants of it.
    pub switch: Switch,
    /// Why, if the person said so.
    pub switch_reason: Option<String>,
    /// See [`Account::revision`].
    pub revision: i64,
    /// Where it stood.
    pub standing: Standing,
    /// The number of the last change of its standing.
    pub sequence: i64,
    /// What was known of its quota.
    pub quota: Quota,
    /// Whose turn it was.
    pub rotation: u64,
    sealed_secret: Option<Vec<u8>>,
}

impl StoredAccount {
    /// The account to look at: without its credential it cannot be used.
    pub fn without_credential(&self) -> Account {
        self.with(Credential::None)
    }

    /// The account ready for use; `None` if it has no credential. `secret` is given for accounts of
    /// the file.
    ///
    /// # Errors
    /// If the sealed secret does not open.
    pub fn unlock(&self, seal: &Seal, secret: Option<Secret>) -> Result<Option<Account>, StoreError> {
        let account = &self.account;
        let credential = match (&account.auth_file, secret, &self.sealed_secret) {
            (Some(path), _, _) => Some(Credential::AuthFile(path.clone())),
            (None, Some(secret), _) => Some(Credential::Key(secret)),
            (None, None, Some(sealed)) => {
                Secret::new(&seal.open_secret(&account.name, sealed)?).map(Credential::Key)
            }
            (None, None, None) => None,
        };
        Ok(credential.map(|credential| self.with(credential)))
    }

    fn with(&self, credential: Credential) -> Account {
        let account = &self.account;
        Account {
            id: self.id,
            name: account.name.clone(),
            kind: account.kind,
            base_url: account.base_url.clone(),
            state_domain: StateDomain(account.state_domain.clone()),
            weight: account.weight,
            priority: account.priority,
            max_concurrent: account.max_concurrent,
            credential,
            switch: self.switch,
            revision: self.revision,
        }
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
        let limited_models: String = row.get("limited_models")?;
        Ok(StoredAccount {
            id: AccountId(row.get("id")?),
            account: NewAccount {
                name: row.get("name")?,
                // The schema allows no other word than those that are known here.
                kind: kind.parse().unwrap_or(Kind::OpenAi),
                base_url: row.get("base_url")?,
                state_domain: row.get("state_domain")?,
                weight: row.get("weight")?,
                priority: row.get("priority")?,
                max_concurrent: row.get("max_concurrent")?,
                auth_file: row.get::<_, Option<String>>("auth_file")?.map(PathBuf::from),
            },
            source: row.get("source")?,
            switch: Switch::from_word(&row.get::<_, String>("switch")?),
            switch_reason: row.get("switch_reason")?,
            revision: row.get("revision")?,
            standing: Standing {
                status: Status::from_columns(&status, row.get("status_until_ms")?, row.get("status_reason")?),
                // What is not understood is no limit.
                limited_models: serde_json::from_str(&limited_models).unwrap_or_default(),
            },
            sequence: row.get("status_sequence")?,
            quota: Quota::from_json(&row.get::<_, String>("quota")?),
            rotation: row.get::<_, i64>("rotation")?.unsigned_abs(),
            sealed_secret: row.get("sealed_secret")?,
        })
    })?;
    Ok(accounts.collect::<Result<_, _>>()?)
}

/// The account of that name, if there is one.
///
/// # Errors
/// If the database cannot be read.
pub fn named(connection: &Connection, name: &str) -> Result<Option<NewAccount>, StoreError> {
    let accounts = list(connection)?.into_iter().map(|stored| stored.account);
    Ok(accounts.into_iter().find(|account| account.name == name))
}

/// Lists the accounts that were removed: where they shared their state, others have it still.
///
/// # Errors
/// If the database cannot be read.
pub fn gone(connection: &Connection) -> Result<Vec<Gone>, StoreError> {
    let mut statement = connection.prepare(include_str!("../../sql/queries/gone_accounts.sql"))?;
    let gone = statement.query_map([], |row| {
        Ok(Gone {
            id: AccountId(row.get("id")?),
            name: row.get("name")?,
            state_domain: StateDomain(row.get("state_domain")?),
        })
    })?;
    Ok(gone.collect::<Result<_, _>>()?)
}

/// Adds an account, or brings one up to date that was added before. `secret` is sealed.
///
/// # Errors
/// If the database cannot be written.
pub fn add(
    connection: &Connection,
    seal: &Seal,
    account: &NewAccount,
    secret: Option<&Secret>,
    now_ms: i64,
) -> Result<Change, StoreError> {
    let sealed = secret
        .map(|secret| seal.close(&account.name, secret.reveal()))
        .transpose()?;
    let transaction = begin(connection)?;
    let is_in_file = |stored: &StoredAccount| {
        stored.account.name == account.name && stored.source == Source::File.as_str()
    };
    if list(&transaction)?.iter().any(is_in_file) {
        return Ok(Change::InFile);
    }
    put(&transaction, account, Source::Command, sealed, now_ms)?;
    let version = roster::bump(&transaction)?;
    transaction.commit()?;
    Ok(Change::Made(version))
}

/// Makes the accounts of the file those of the database that come from a file; the secrets stay
/// where they are.
///
/// # Errors
/// If the database cannot be written.
pub fn reconcile(connection: &Connection, accounts: &[NewAccount], now_ms: i64) -> Result<(), StoreError> {
    let transaction = begin(connection)?;
    for account in accounts {
        put(&transaction, account, Source::File, None, now_ms)?;
    }
    let names: Vec<&str> = accounts.iter().map(|account| account.name.as_str()).collect();
    let gone = include_str!("../../sql/queries/remove_accounts_gone_from_file.sql");
    transaction.execute(gone, params![now_ms, serde_json::json!(names).to_string()])?;
    Ok(transaction.commit()?)
}

fn put(
    connection: &Connection,
    account: &NewAccount,
    source: Source,
    sealed: Option<Vec<u8>>,
    now_ms: i64,
) -> Result<(), StoreError> {
    let auth_file = account.auth_file.as_ref().map(|path| path.to_string_lossy());
    connection.query_row(
        include_str!("../../sql/queries/put_account.sql"),
        params![
            account.name,
            account.kind.as_str(),
            account.base_url,
            account.state_domain,
            account.weight,
            account.priority,
            account.max_concurrent,
            source.as_str(),
            sealed,
            auth_file,
            now_ms
        ],
        |_| Ok(()),
    )?;
    Ok(())
}

/// What became of a change to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is made; this is the version of the roster.
    Made(i64),
    /// There is no account of that name.
    Unknown,
    /// The account is in the configuration file, and would be back at the next look at it.
    InFile,
    /// So many conversations live on it.
    InUse(i64),
}

/// Removes an account; its rows stay. One on which conversations live is removed only by `force`.
///
/// # Errors
/// If the database cannot be written.
pub fn remove(connection: &Connection, name: &str, force: bool, now_ms: i64) -> Result<Change, StoreError> {
    let transaction = begin(connection)?;
    let Some((live_conversations, source)) = transaction
        .query_row(
            include_str!("../../sql/queries/live_conversations.sql"),
            [name],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)),
        )
        .optional()?
    else {
        return Ok(Change::Unknown);
    };
    if source == Source::File.as_str() {
        return Ok(Change::InFile);
    }
    if live_conversations > 0 && !force {
        return Ok(Change::InUse(live_conversations));
    }
    transaction.execute(
        include_str!("../../sql/queries/remove_account.sql"),
        params![name, now_ms],
    )?;
    let version = roster::bump(&transaction)?;
    transaction.commit()?;
    Ok(Change::Made(version))
}

/// How many conversations live on an account.
///
/// # Errors
/// If the database cannot be read.
pub fn live_conversations(connection: &Connection, name: &str) -> Result<i64, StoreError> {
    let query = include_str!("../../sql/queries/live_conversations.sql");
    let live = connection.query_row(query, [name], |row| row.get(0)).optional()?;
    Ok(live.unwrap_or(0))
}

/// Turns the switch of an account. Enabling one gives it another chance, whatever was known of it.
///
/// # Errors
/// If the database cannot be written.
pub fn switch(
    connection: &Connection,
    name: &str,
    switch: Switch,
    reason: Option<&str>,
) -> Result<Change, StoreError> {
    let transaction = begin(connection)?;
    let changed = transaction.execute(
        include_str!("../../sql/queries/switch_account.sql"),
        params![name, switch.as_str(), reason],
    )?;
    if changed == 0 {
        return Ok(Change::Unknown);
    }
    let version = roster::bump(&transaction)?;
    transaction.commit()?;
    Ok(Change::Made(version))
}

/// Seals all secrets anew, with another key.
///
/// # Errors
/// If the database cannot be written, or a secret does not open with the key before.
pub fn reseal(connection: &Connection, before: &Seal, after: &Seal) -> Result<usize, StoreError> {
    let sealed: Vec<(String, Vec<u8>)> = list(connection)?
        .into_iter()
        .filter_map(|stored| Some((stored.account.name, stored.sealed_secret?)))
        .collect();
    for (name, secret) in &sealed {
        let anew = after.close(name, &before.open_secret(name, secret)?)?;
        connection.execute(
            include_str!("../../sql/queries/set_sealed_secret.sql"),
            params![name, anew],
        )?;
    }
    Ok(sealed.len())
}
