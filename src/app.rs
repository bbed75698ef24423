//! The composition root: from a configuration to a gateway that serves. The binary and the tests
//! start it the same way.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::account::{Account, Secret};
use crate::clock::now_ms;
use crate::config::{Config, ConfigError, OnStoreFailure};
use crate::exchange::{Gateway, Settings};
use crate::limits;
use crate::pool::Pool;
use crate::server::keys::Keys;
use crate::server::{self, Bounds, Front, Server};
use crate::store::client_keys::{self, ClientKey, NewClientKey};
use crate::store::seal::Seal;
use crate::store::{self, Connection, Store, StoreError, accounts, prices};
use crate::upstream::http::Upstream;

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is not right.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database cannot be used.
    #[error("the database cannot be used: {0}")]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The client side of HTTP cannot be set up.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
    /// The system has no randomness for the admin key.
    #[error("no randomness: {0}")]
    Randomness(String),
}

/// A gateway that listens and is ready to serve.
#[derive(Debug)]
pub struct App {
    server: Server,
    front: Front,
    sweep_interval: Duration,
    new_admin_key: Option<String>,
}

impl App {
    /// Opens the database, takes accounts and keys from it and from the file, and begins to listen.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config) -> Result<App, StartError> {
        check_secrets(&config)?;
        let path = &config.database;
        let store = Store::open(path, config.file.durability)?;
        let connection = store::open_writable(path, config.file.durability)?;
        let pool = Pool::new(accounts(&connection, &config)?);
        let client_keys = keys(&connection, &config)?;
        let prices = prices::keep(&connection, config.file.prices())?;

        let limits = &config.file.limits;
        let upstream = Upstream::new(limits.upstream_connect, limits.upstream_first_byte)
            .map_err(|error| StartError::Client(error.to_string()))?;
        let bounds = Bounds {
            connections: limits.connections,
            shutdown_grace: limits.shutdown_grace,
        };
        let server = Server::bind(&config.listen, bounds)
            .await
            .map_err(|source| StartError::Listen {
                address: config.listen.clone(),
                source,
            })?;
        // Last, because it is shown only once: what goes wrong from here on is no reason to end.
        let new_admin_key = ensure_admin_key(&connection)?;
        let keys = Keys::new(client_keys, client_keys::admin_digest(&connection)?);
        drop(connection);
        let settings = Settings {
            lifetimes: config.lifetimes(),
            pin_wait: config.file.affinity.pin_wait,
            session_headers: config.file.affinity.session_headers.clone(),
            upstream_idle: limits.upstream_idle,
            stream_comment: limits.stream_comment,
            prices,
            refuse_without_store: config.file.on_store_failure == OnStoreFailure::Refuse,
        };
        let gateway = Gateway {
            store,
            pool,
            upstream,
            settings,
            stopping: AtomicBool::new(false),
        };
        Ok(App {
            server,
            front: Front {
                gateway: Arc::new(gateway),
                keys: Arc::new(keys),
                request_body_bytes_max: limits.request_body_bytes,
                routing_headers: config.file.answers.routing_headers,
            },
            sweep_interval: config.file.affinity.sweep_interval,
            new_admin_key,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The admin key, if this start has made it. It is nowhere else.
    pub fn new_admin_key(&self) -> Option<&str> {
        self.new_admin_key.as_deref()
    }

    /// Whether no account is there yet.
    pub fn has_no_accounts(&self) -> bool {
        self.front.gateway.pool.is_empty()
    }

    /// Whether no client key is there yet.
    pub fn has_no_client_keys(&self) -> bool {
        self.front.keys.is_empty()
    }

    /// Serves until `stop`, then ends in good order: running streams get their time, and the
    /// store is flushed.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let gateway = self.front.gateway.clone();
        let sweeper = tokio::spawn(sweep(gateway.clone(), self.sweep_interval));
        let folder = tokio::spawn(fold(gateway.clone()));
        let stopping = gateway.clone();
        let stop = async move {
            stop.await;
            stopping.stopping.store(true, Ordering::Relaxed);
            tracing::info!("stopping: nothing new is taken, what runs may end");
        };
        self.server.serve(server::router(self.front), stop).await;
        sweeper.abort();
        folder.abort();
        let closed = tokio::task::spawn_blocking(move || gateway.store.close()).await;
        if closed.is_err() {
            tracing::error!("the store did not close in good order");
        }
    }
}

/// What is missing is told before anything is changed.
fn check_secrets(config: &Config) -> Result<(), StartError> {
    for account in &config.file.account {
        account.secret()?;
    }
    for key in &config.file.client_key {
        key.secret()?;
    }
    Ok(())
}

/// The accounts of the file become those of the database; then all are unlocked.
fn accounts(connection: &Connection, config: &Config) -> Result<Vec<Account>, StartError> {
    let invalid = |message| ConfigError::Invalid {
        path: config.database.clone(),
        message,
    };
    let from_file = config
        .file
        .account
        .iter()
        .map(|account| account.checked().map_err(invalid));
    let from_file: Vec<_> = from_file.collect::<Result<_, _>>()?;
    accounts::reconcile(connection, &from_file, now_ms())?;
    let mut unlocked = Vec::new();
    let seal = Seal::open(&config.database)?;
    for stored in accounts::list(connection)? {
        let position = from_file
            .iter()
            .position(|account| account.name == stored.account.name);
        let secret: Option<Secret> = match position {
            Some(index) => Some(config.file.account[index].secret()?),
            None => None,
        };
        unlocked.extend(stored.unlock(&seal, secret)?);
    }
    Ok(unlocked)
}

/// The client keys of the file become those of the database; then all are listed.
fn keys(connection: &Connection, config: &Config) -> Result<Vec<ClientKey>, StartError> {
    let settings = &config.file.client_key;
    let secrets: Vec<Secret> = settings
        .iter()
        .map(|key| key.secret())
        .collect::<Result<_, _>>()?;
    let keys: Vec<NewClientKey<'_>> = settings
        .iter()
        .zip(&secrets)
        .map(|(key, secret)| NewClientKey {
            name: &key.name,
            scope: key.scope.as_deref(),
            key: secret.reveal(),
        })
        .collect();
    client_keys::reconcile(connection, &keys, now_ms())?;
    Ok(client_keys::list(connection)?)
}

fn ensure_admin_key(connection: &Connection) -> Result<Option<String>, StartError> {
    if client_keys::admin_digest(connection)?.is_some() {
        return Ok(None);
    }
    let key = client_keys::generate("ma").map_err(|error| StartError::Randomness(error.to_string()))?;
    client_keys::set_admin(connection, &key)?;
    Ok(Some(key))
}

/// Adds rows that have ended to the sums, in batches with room for clients' work in between.
async fn fold(gateway: Arc<Gateway>) {
    let mut ticks = tokio::time::interval(limits::FOLD_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = fold_due(&gateway).await {
            tracing::debug!(%error, "the sums have to wait");
        }
    }
}

async fn fold_due(gateway: &Gateway) -> Result<(), StoreError> {
    // Asked once: to count the rows that wait means to read through them.
    let before_id = gateway
        .store
        .fold_due(gateway.settings.lifetimes, now_ms())
        .await?;
    while gateway.store.fold(before_id).await? {
        tokio::time::sleep(limits::FOLD_PAUSE).await;
    }
    Ok(())
}

/// Removes what has expired, in batches with room for clients' work in between.
async fn sweep(gateway: Arc<Gateway>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(10)));
    loop {
        ticks.tick().await;
        loop {
            match gateway.store.sweep(gateway.settings.lifetimes, now_ms()).await {
                // What was removed is written back meanwhile.
                Ok(true) => tokio::time::sleep(limits::SWEEP_PAUSE).await,
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "the sweep has to wait");
                    break;
                }
            }
        }
    }
}
