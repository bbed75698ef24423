//! Client keys and the admin key: only their digests are kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::accounts::{Change, Source};
use super::roster;
use super::{StoreError, begin};

/// A client key as the gateway knows it.
#[derive(Debug, Clone)]
pub struct ClientKey {
    /// Its row.
    pub id: i64,
    /// The name that people gave it.
    pub name: String,
    /// Keys of one scope share conversations.
    pub scope: String,
    /// SHA-256 of the key.
    pub digest: [u8; 32],
    /// Its first characters, to recognise it by.
    pub visible_prefix: String,
    /// `file` or `command`.
    pub source: String,
    /// Milliseconds since 1970 UTC.
    pub created_at_ms: i64,
    /// What it may do.
    pub bounds: KeyBounds,
}

/// What a client key may do; `None` is without bound.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyBounds {
    /// From then on it lets nobody in, in milliseconds since 1970 UTC.
    pub expires_at_ms: Option<i64>,
    /// The models that it may ask for; one that ends with `*` stands for all that begin so.
    pub models: Option<Vec<String>>,
    /// Requests that may run at once.
    pub max_concurrent: Option<u32>,
    /// Tokens, in and out, in a day (UTC).
    pub tokens_per_day: Option<i64>,
    /// Tokens, in and out, in a month (UTC).
    pub tokens_per_month: Option<i64>,
    /// Money in a day (UTC), in the currency of the prices.
    pub cost_per_day: Option<f64>,
    /// Money in a month (UTC), in the currency of the prices.
    pub cost_per_month: Option<f64>,
    /// Whether the upstream's quota headers reach the client.
    pub shows_quota: bool,
}

impl KeyBounds {
    fn models_column(&self) -> Option<String> {
        let models = self.models.as_ref()?;
        Some(serde_json::json!(models).to_string())
    }

    /// Whether they make sense.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        let costs = [self.cost_per_day, self.cost_per_month];
        let tokens = [self.tokens_per_day, self.tokens_per_month];
        let below_zero = costs
            .into_iter()
            .flatten()
            .any(|cost| !cost.is_finite() || cost < 0.0)
            || tokens.into_iter().flatten().any(|tokens| tokens < 0);
        if below_zero {
            return Err("a budget is a number from 0 on".to_owned());
        }
        if self.max_concurrent == Some(0) {
            return Err("max_concurrent is at least 1".to_owned());
        }
        Ok(())
    }
}

/// A client key to put into the database.
#[derive(Debug)]
pub struct NewClientKey<'a> {
    /// Unique.
    pub name: &'a str,
    /// The scope that the operator gave; without, the key has its own.
    pub scope: Option<&'a str>,
    /// The key itself; only its digest is kept.
    pub key: &'a str,
    /// What it may do.
    pub bounds: &'a KeyBounds,
}

/// What a client key has spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Tokens, in and out, where the upstream told them.
    pub tokens: i64,
    /// Money, in millionths of the currency of the prices, where a price is known.
    pub cost_micros: i64,
}

/// How many characters of a key may be shown. The rest holds over 200 random bits.
const VISIBLE_CHARS: usize = 7;

const ADMIN_KEY: &str = "admin_key_digest";

/// A new random key of 256 bits, with a word in front by which people and scanners know it.
///
/// # Errors
/// If the system has no randomness.
pub fn generate(word: &str) -> Result<String, getrandom::Error> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    Ok(format!("{word}-{}", URL_SAFE_NO_PAD.encode(random)))
}

/// What is kept of a key.
pub fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Lists the keys that are not revoked.
///
/// # Errors
/// If the database cannot be read.
pub fn list(connection: &Connection) -> Result<Vec<ClientKey>, StoreError> {
    let mut statement = connection.prepare(include_str!("../../sql/queries/list_client_keys.sql"))?;
    let keys = statement.query_map([], |row| {
        Ok(ClientKey {
            id: row.get("id")?,
            name: row.get("name")?,
            scope: row.get("scope")?,
            digest: row.get("digest")?,
            visible_prefix: row.get("visible_prefix")?,
            source: row.get("source")?,
            created_at_ms: row.get("created_at_ms")?,
            bounds: KeyBounds {
                expires_at_ms: row.get("expires_at_ms")?,
                // A list that is not understood allows nothing.
                models: row
                    .get::<_, Option<String>>("models")?
                    .map(|models| serde_json::from_str(&models).unwrap_or_default()),
                max_concurrent: row.get("max_concurrent")?,
                tokens_per_day: row.get("tokens_per_day")?,
                tokens_per_month: row.get("tokens_per_month")?,
                cost_per_day: row.get("cost_per_day")?,
                cost_per_month: row.get("cost_per_month")?,
                shows_quota: row.get("shows_quota")?,
            },
        })
    })?;
    Ok(keys.collect::<Result<_, _>>()?)
}

/// Adds a key by command, if there is none of that name. One that was revoked comes back with its
/// identity.
///
/// # Errors
/// If the database cannot be written.
pub fn add(connection: &Connection, key: &NewClientKey<'_>, now_ms: i64) -> Result<Option<i64>, StoreError> {
    let transaction = begin(connection)?;
    if list(&transaction)?.iter().any(|known| known.name == key.name) {
        return Ok(None);
    }
    put(&transaction, key, Source::Command, now_ms)?;
    let version = roster::bump(&transaction)?;
    transaction.commit()?;
    Ok(Some(version))
}

fn put(
    connection: &Connection,
    key: &NewClientKey<'_>,
    source: Source,
    now_ms: i64,
) -> Result<(), StoreError> {
    // A scope that was given and one that was not can never be the same word.
    let scope = match key.scope {
        Some(scope) => format!("scope/{scope}"),
        None => format!("key/{}", key.name),
    };
    let KeyBounds {
        expires_at_ms,
        models: _,
        max_concurrent,
        tokens_per_day,
        tokens_per_month,
        cost_per_day,
        cost_per_month,
        shows_quota,
    } = key.bounds;
    connection.execute(
        include_str!("../../sql/queries/put_client_key.sql"),
        params![
            key.name,
            scope,
            digest(key.key),
            visible_prefix(key.key),
            source.as_str(),
            now_ms,
            expires_at_ms,
            key.bounds.models_column(),
            max_concurrent,
            tokens_per_day,
            tokens_per_month,
            cost_per_day,
            cost_per_month,
            shows_quota,
        ],
    )?;
    Ok(())
}

/// Makes the keys of the file those of the database that come from a file.
///
/// # Errors
/// If the database cannot be written.
pub fn reconcile(connection: &Connection, keys: &[NewClientKey<'_>], now_ms: i64) -> Result<(), StoreError> {
    let transaction = begin(connection)?;
    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
    let gone = include_str!("../../sql/queries/revoke_client_keys_gone_from_file.sql");
    transaction.execute(gone, params![now_ms, serde_json::json!(names).to_string()])?;
    // Names may have changed places: no key of the file stands in the way of another.
    let clear = include_str!("../../sql/queries/clear_client_keys_of_file.sql");
    transaction.execute(clear, [])?;
    for key in keys {
        put(&transaction, key, Source::File, now_ms)?;
    }
    Ok(transaction.commit()?)
}

/// Gives a key a new secret; its identity, and so its conversations, stay.
///
/// # Errors
/// If the database cannot be written.
pub fn rotate(connection: &Connection, name: &str, key: &str) -> Result<Change, StoreError> {
    change(connection, name, |connection| {
        let query = include_str!("../../sql/queries/rotate_client_key.sql");
        connection.execute(query, params![name, digest(key), visible_prefix(key)])
    })
}

/// Changes what a key may do; the key itself stays.
///
/// # Errors
/// If the database cannot be written.
pub fn set_bounds(connection: &Connection, name: &str, bounds: &KeyBounds) -> Result<Change, StoreError> {
    change(connection, name, |connection| {
        let query = include_str!("../../sql/queries/set_key_bounds.sql");
        connection.execute(
            query,
            params![
                name,
                bounds.expires_at_ms,
                bounds.models_column(),
                bounds.max_concurrent,
                bounds.tokens_per_day,
                bounds.tokens_per_month,
                bounds.cost_per_day,
                bounds.cost_per_month,
                bounds.shows_quota,
            ],
        )
    })
}

/// What a key has spent since a moment at which an hour begins.
///
/// # Errors
/// If the database cannot be read.
pub fn spent(connection: &Connection, id: i64, since_ms: i64) -> Result<Spent, StoreError> {
    let query = include_str!("../../sql/queries/spent_by_key.sql");
    Ok(connection.query_row(query, [id, since_ms], |row| {
        Ok(Spent {
            tokens: row.get(0)?,
            cost_micros: row.get(1)?,
        })
    })?)
}

/// Revokes a key.
///
/// # Errors
/// If the database cannot be written.
pub fn revoke(connection: &Connection, name: &str, now_ms: i64) -> Result<Change, StoreError> {
    change(connection, name, |connection| {
        let query = include_str!("../../sql/queries/revoke_client_key.sql");
        connection.execute(query, params![name, now_ms])
    })
}

fn change(
    connection: &Connection,
    name: &str,
    change: impl FnOnce(&Connection) -> rusqlite::Result<usize>,
) -> Result<Change, StoreError> {
    let transaction = begin(connection)?;
    match list(&transaction)?.iter().find(|known| known.name == name) {
        None => return Ok(Change::Unknown),
        Some(known) if known.source == Source::File.as_str() => return Ok(Change::InFile),
        Some(_) => {}
    }
    change(&transaction)?;
    let version = roster::bump(&transaction)?;
    transaction.commit()?;
    Ok(Change::Made(version))
}

/// The digest of the admin key, if there is one yet.
///
/// # Errors
/// If the database cannot be read.
pub fn admin_digest(connection: &Connection) -> Result<Option<[u8; 32]>, StoreError> {
    let query = include_str!("../../sql/queries/get_setting.sql");
    Ok(connection
        .query_row(query, [ADMIN_KEY], |row| row.get(0))
        .optional()?)
}

/// Sets the admin key. Whoever is logged in on the page is so no more. Gives the version of the
/// roster.
///
/// # Errors
/// If the database cannot be written.
pub fn set_admin(connection: &Connection, key: &str) -> Result<i64, StoreError> {
    let transaction = begin(connection)?;
    transaction.execute(
        include_str!("../../sql/queries/put_setting.sql"),
        params![ADMIN_KEY, digest(key)],
    )?;
    transaction.execute(include_str!("../../sql/queries/end_admin_sessions.sql"), [])?;
    let version = roster::bump(&transaction)?;
    transaction.commit()?;
    Ok(version)
}

fn visible_prefix(key: &str) -> String {
    // A key that people chose may be short: then nothing of it is shown.
    match key.chars().count() >= 4 * VISIBLE_CHARS {
        true => key.chars().take(VISIBLE_CHARS).chain(['…']).collect(),
        false => "…".to_owned(),
    }
}
