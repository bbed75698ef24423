//! The accounts and keys, as file and database say: at the start, and again whenever a person has
//! changed them while the gateway runs. No stream ends by that.

use std::sync::Arc;

use tokio::signal::unix::Signal;

use crate::account::Secret;
use crate::affinity::Gone;
use crate::clock::now_ms;
use crate::config::{Config, ConfigError};
use crate::exchange::client::{Calendar, Client};
use crate::exchange::{Gateway, models};
use crate::limits;
use crate::pool::Known;
use crate::server::Tls;
use crate::server::keys::Keys;
use crate::store::accounts::{self, NewAccount};
use crate::store::client_keys::{self, ClientKey, KeyBounds, NewClientKey, Spent};
use crate::store::seal::Seal;
use crate::store::{Connection, prices, roster};

use super::StartError;

/// What file and database say.
pub(super) struct Found {
    pub(super) accounts: Vec<Known>,
    pub(super) gone: Vec<Gone>,
    pub(super) clients: Vec<Client>,
    pub(super) admin: Option<[u8; 32]>,
    pub(super) version: i64,
}

/// The secrets of the file, from where it says they are.
pub(super) struct Secrets {
    accounts: Vec<Option<Secret>>,
    client_keys: Vec<Secret>,
}

/// Reads the secrets of the file. It is done first: what is missing is told before anything is
/// changed.
pub(super) fn secrets(config: &Config) -> Result<Secrets, ConfigError> {
    let accounts = config.file.account.iter();
    let client_keys = config.file.client_key.iter();
    Ok(Secrets {
        accounts: accounts
            .map(|account| account.secret())
            .collect::<Result<_, _>>()?,
        client_keys: client_keys.map(|key| key.secret()).collect::<Result<_, _>>()?,
    })
}

/// Makes accounts and keys of the file those of the database, and reads all that are there.
pub(super) fn read(connection: &Connection, config: &Config, secrets: Secrets) -> Result<Found, StartError> {
    // Before all else: what changes from here on is taken over the next time.
    let version = roster::read(connection)?.version;
    Ok(Found {
        accounts: read_accounts(connection, config, secrets.accounts)?,
        // After those of the file: what is not in it any more was removed just now.
        gone: accounts::gone(connection)?,
        clients: read_clients(connection, config, &secrets.client_keys)?,
        admin: client_keys::admin_digest(connection)?,
        version,
    })
}

fn read_accounts(
    connection: &Connection,
    config: &Config,
    mut secrets: Vec<Option<Secret>>,
) -> Result<Vec<Known>, StartError> {
    let from_file = config
        .file
        .account
        .iter()
        .map(|account| account.checked().map_err(invalid(config)));
    let from_file: Vec<NewAccount> = from_file.collect::<Result<_, _>>()?;
    accounts::reconcile(connection, &from_file, now_ms())?;
    let seal = Seal::open(&config.seal_key())?;
    let mut found = Vec::new();
    for stored in accounts::list(connection)? {
        let position = from_file
            .iter()
            .position(|account| account.name == stored.account.name);
        let secret = position.and_then(|index| secrets[index].take());
        found.extend(stored.unlock(&seal, secret)?.map(|account| Known {
            account,
            standing: stored.standing,
            sequence: stored.sequence,
            quota: stored.quota,
            rotation: stored.rotation,
        }));
    }
    Ok(found)
}

fn invalid(config: &Config) -> impl Fn(String) -> ConfigError {
    let path = config.path.clone().unwrap_or_default();
    move |message| ConfigError::Invalid {
        path: path.clone(),
        message,
    }
}

fn read_clients(
    connection: &Connection,
    config: &Config,
    secrets: &[Secret],
) -> Result<Vec<Client>, StartError> {
    let settings = &config.file.client_key;
    let bounds = settings.iter().map(|key| key.bounds().map_err(invalid(config)));
    let bounds: Vec<KeyBounds> = bounds.collect::<Result<_, _>>()?;
    let keys: Vec<NewClientKey<'_>> = settings
        .iter()
        .zip(secrets)
        .zip(&bounds)
        .map(|((key, secret), bounds)| NewClientKey {
            name: &key.name,
            scope: key.scope.as_deref(),
            key: secret.reveal(),
            bounds,
        })
        .collect();
    client_keys::reconcile(connection, &keys, now_ms())?;
    let calendar = Calendar::at(now_ms());
    let client = |key: ClientKey| {
        let spent = |since_ms| match Client::has_budget(&key) {
            true => client_keys::spent(connection, key.id, since_ms),
            false => Ok(Spent::default()),
        };
        let (today, this_month) = (spent(calendar.day_ms)?, spent(calendar.month_ms)?);
        Ok(Client::new(key, calendar, today, this_month))
    };
    client_keys::list(connection)?.into_iter().map(client).collect()
}

/// Takes over what people change while the gateway runs.
#[derive(Debug)]
pub(super) struct Roster {
    pub(super) gateway: Arc<Gateway>,
    pub(super) keys: Arc<Keys>,
    pub(super) config: Config,
    pub(super) version: i64,
    /// Whether the last change could be taken over.
    pub(super) in_order: bool,
    /// Listened to before anybody is told that the gateway is there: unheard, it would end it.
    pub(super) hang_up: Signal,
    /// Its certificates are read again, too.
    pub(super) tls: Option<Arc<Tls>>,
}

impl Roster {
    /// Looks for changes until it is dropped. A hang-up signal has the file read again, too: its
    /// accounts, client keys and prices, that is; the other settings count from the next start on.
    pub(super) async fn watch(mut self) {
        let mut ticks = tokio::time::interval(limits::ROSTER_LOOK);
        loop {
            let file_too = tokio::select! {
                _ = self.hang_up.recv() => true,
                () = self.gateway.store.take_over.asked() => false,
                _ = ticks.tick() => false,
            };
            if file_too {
                self.read_file().await;
            }
            let version = self.gateway.store.read(roster::read).await;
            let version = version.map_or(self.version, |roster| roster.version);
            if file_too || version != self.version {
                self.take_over(version).await;
            }
            self.gateway.store.take_over.done(self.version, self.in_order);
        }
    }

    async fn read_file(&mut self) {
        if let Some(Err(error)) = self.tls.as_ref().map(|tls| tls.read_again()) {
            tracing::error!(error, "the certificate stays as it was");
        }
        match Config::load(self.config.places.clone()) {
            Ok(config) => self.config = config,
            Err(error) => return tracing::error!(%error, "the configuration stays as it was"),
        }
        let listed = self.config.file.prices();
        let count = listed.len();
        let kept = self
            .gateway
            .store
            .change(move |connection| prices::keep(connection, listed));
        match kept.await {
            Ok(prices) => {
                self.gateway.replace_prices(prices);
                tracing::info!(prices = count, "prices taken over");
            }
            Err(error) => tracing::error!(%error, "the prices stay as they were"),
        }
    }

    /// Takes over what is there now. What is wrong leaves everything as it was.
    async fn take_over(&mut self, version: i64) {
        match self.read().await {
            Ok(found) => {
                self.version = found.version;
                self.in_order = true;
                let (accounts, keys) = (found.accounts.len(), found.clients.len());
                self.gateway.pool.replace(found.accounts, found.gone);
                self.keys.replace(found.clients, found.admin);
                self.tell_applied(None).await;
                let gateway = self.gateway.clone();
                tokio::spawn(async move { models::refresh_missing(&gateway).await });
                tracing::info!(accounts, client_keys = keys, "accounts and keys taken over");
            }
            Err(error) => {
                // It is not tried again before the next change: nothing would be different.
                self.version = version;
                self.in_order = false;
                tracing::error!(%error, "accounts and keys stay as they were");
                self.tell_applied(Some(error.to_string())).await;
            }
        }
    }

    /// Tells the commands that wait for it. Not before it is so: their users go on at once.
    async fn tell_applied(&self, trouble: Option<String>) {
        let version = self.version;
        let store = &self.gateway.store;
        let told = store.change(move |connection| roster::applied(connection, version, trouble.as_deref()));
        told.await.ok();
    }

    async fn read(&self) -> Result<Found, StartError> {
        let secrets = secrets(&self.config)?;
        let config = self.config.clone();
        let read = self
            .gateway
            .store
            .change(move |connection| Ok(read(connection, &config, secrets)));
        read.await?
    }
}
