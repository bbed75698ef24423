//! The composition root: from a configuration to a gateway that serves. The binary and the tests
//! start it the same way.

mod roster;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::clock::now_ms;
use crate::config::{Config, ConfigError, OnStoreFailure};
use crate::exchange::logins::Ended;
use crate::exchange::{Connections, Gateway, HttpOnly, Kept, Models, Settings, TurnStates, Unfound, models};
use crate::limits;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::server::door::Door;
use crate::server::keys::Keys;
use crate::server::{self, Bounds, Front, Server, Tls};
use crate::store::client_keys;
use crate::store::{self, AccountRow, Connection, Store, StoreError, Work, prices};
use crate::upstream::http::Upstream;

use roster::Roster;

/// What a person does so that it can be listened on.
fn what_to_do_about(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            "; another program listens there: stop it, or choose another port with --listen"
        }
        std::io::ErrorKind::InvalidInput => "; write it as in 127.0.0.1:8440",
        std::io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 are for root: choose a higher one",
        _ => "",
    }
}

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
    #[error("cannot listen on {address}: {source}{}", what_to_do_about(source))]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// Signals cannot be listened to.
    #[error("signals cannot be listened to: {0}")]
    Signals(std::io::Error),
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
    roster: Roster,
    sweep_interval: Duration,
    new_admin_key: Option<String>,
}

impl App {
    /// Opens the database, takes accounts and keys from it and from the file, and begins to listen.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config) -> Result<App, StartError> {
        // What is missing is told before anything is changed.
        let secrets = roster::secrets(&config)?;
        for doubt in config.doubts() {
            tracing::warn!("{doubt}");
        }
        let path = &config.database;
        let metrics = Arc::new(Metrics::default());
        let store = Store::open(path, config.file.durability, metrics.clone())?;
        let connection = store::open_writable(path, config.file.durability)?;
        let mut found = roster::read(&connection, &config, secrets)?;
        let pool = Pool::new(
            std::mem::take(&mut found.accounts),
            std::mem::take(&mut found.gone),
            config.file.pool.rotation,
        );
        let prices = prices::keep(&connection, config.file.prices())?;

        let limits = &config.file.limits;
        let upstream = Upstream::new(
            limits.upstream_connect,
            limits.upstream_first_byte,
            limits.socket_ping,
            &config.file.codex.token_url,
        )
        .map_err(|error| StartError::Client(error.to_string()))?;
        let bounds = Bounds {
            connections: limits.connections,
            shutdown_grace: limits.shutdown_grace,
            request_head: limits.request_head,
            client_stall: limits.client_stall,
        };
        let tls = match &config.file.tls {
            Some(tls) => Some(Arc::new(
                Tls::read(&tls.certificate, &tls.key).map_err(StartError::Tls)?,
            )),
            None => None,
        };
        let server = Server::bind(&config.listen, bounds)
            .await
            .map_err(|source| StartError::Listen {
                address: config.listen.clone(),
                source,
            })?
            .with_tls(tls.clone());
        let hang_up = signal(SignalKind::hangup()).map_err(StartError::Signals)?;
        // Last, because it is shown only once: what goes wrong from here on is no reason to end.
        let new_admin_key = ensure_admin_key(&connection)?;
        found.admin = client_keys::admin_digest(&connection)?;
        let keys = Arc::new(Keys::default());
        keys.replace(found.clients, found.admin);
        store::roster::applied(&connection, found.version, None)?;
        drop(connection);
        let settings = Settings {
            lifetimes: config.lifetimes(),
            object_ttl: config.file.affinity.object_ttl,
            detour_max: config.file.affinity.detour_max,
            ask_around: config.file.affinity.ask_around,
            pin_wait: config.file.affinity.pin_wait,
            session_headers: config.file.affinity.session_headers.clone(),
            upstream_idle: limits.upstream_idle,
            stream_comment: limits.stream_comment,
            socket_age: limits.socket_age,
            socket_idle: limits.socket_idle,
            currency: config.file.usage.currency.clone(),
            refuse_without_store: config.file.on_store_failure == OnStoreFailure::Refuse,
        };
        let gateway = Gateway {
            store,
            pool,
            upstream,
            metrics,
            settings,
            prices: RwLock::new(Arc::new(prices)),
            models: Models::default(),
            unfound: Unfound::default(),
            http_only: HttpOnly::default(),
            turn_states: TurnStates::default(),
            connections: Connections::default(),
            kept: Kept::default(),
            stopping: watch::Sender::new(false),
        };
        let gateway = Arc::new(gateway);
        let web = &config.file.web;
        Ok(App {
            server,
            front: Front {
                gateway: gateway.clone(),
                keys: keys.clone(),
                door: Arc::new(Door::new(web.allowed_hosts.clone(), web.allowed_origins.clone())),
                seal_key: Arc::new(config.seal_key()),
                is_tls: tls.is_some(),
                request_body_bytes_max: limits.request_body_bytes,
                upload_bytes_max: limits.upload_bytes,
                socket_ping: limits.socket_ping,
                routing_headers: config.file.answers.routing_headers,
            },
            sweep_interval: config.file.affinity.sweep_interval,
            roster: Roster {
                gateway,
                keys,
                config,
                version: found.version,
                in_order: true,
                hang_up,
                tls,
            },
            new_admin_key,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Whether clients speak TLS with it.
    pub fn is_tls(&self) -> bool {
        self.front.is_tls
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
        let tasks = [
            tokio::spawn(sweep(gateway.clone(), self.sweep_interval)),
            tokio::spawn(fold(gateway.clone())),
            tokio::spawn(refresh_models(gateway.clone())),
            tokio::spawn(save(gateway.clone())),
            tokio::spawn(look_at_logins(gateway.clone())),
            tokio::spawn(close_idle(gateway.clone())),
            tokio::spawn(self.roster.watch()),
        ];
        let stopping = gateway.clone();
        let stop = async move {
            stop.await;
            stopping.stopping.send_replace(true);
            tracing::info!("stopping: nothing new is taken, what runs may end");
        };
        self.server.serve(server::routes(self.front), stop).await;
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        gateway.upstream.settled().await;
        gateway.store.write_later(to_save(&gateway));
        let closed = tokio::task::spawn_blocking(move || gateway.store.close()).await;
        if closed.is_err() {
            tracing::error!("the store did not close in good order");
        }
    }
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

/// Fetches the lists of models, at the start and then now and again.
async fn refresh_models(gateway: Arc<Gateway>) {
    loop {
        models::refresh(&gateway).await;
        tokio::time::sleep(limits::MODELS_REFRESH).await;
    }
}

/// Closes connections that are kept for nobody any more.
async fn close_idle(gateway: Arc<Gateway>) {
    let Settings {
        socket_idle,
        socket_age,
        ..
    } = gateway.settings;
    let mut ticks = tokio::time::interval((socket_idle / 8).clamp(limits::KEPT_LOOK_MIN, limits::KEPT_LOOK));
    loop {
        ticks.tick().await;
        gateway.kept.close_idle(socket_idle, socket_age);
    }
}

/// Looks now and again whether a person has logged in again.
async fn look_at_logins(gateway: Arc<Gateway>) {
    let mut ended = Ended::default();
    loop {
        tokio::time::sleep(limits::LOGIN_LOOK).await;
        ended.look(&gateway).await;
    }
}

/// Removes what has expired, in batches with room for clients' work in between.
async fn sweep(gateway: Arc<Gateway>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(10)));
    loop {
        ticks.tick().await;
        match sweep_all(&gateway).await {
            // Much is gone: what SQLite knows of the tables may be out of date.
            Ok(batches) if batches > 1 => gateway.store.optimize().await.unwrap_or_else(|error| {
                tracing::debug!(%error, "the statistics stay as they were");
            }),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the sweep has to wait"),
        }
    }
}

/// One sweep; gives how many batches there were.
async fn sweep_all(gateway: &Gateway) -> Result<u64, StoreError> {
    let mut batches = 0;
    let mut ended = gateway.metrics.ended_count();
    loop {
        let lifetimes = gateway.settings.lifetimes;
        let has_more = gateway.store.sweep(lifetimes, now_ms(), batches == 0).await?;
        batches += 1;
        if !has_more {
            return Ok(batches);
        }
        let before = std::mem::replace(&mut ended, gateway.metrics.ended_count());
        let is_busy = ended != before || gateway.metrics.open_count() > 0;
        // What was removed is written back meanwhile.
        tokio::time::sleep(match is_busy {
            true => limits::SWEEP_PAUSE_BUSY,
            false => limits::SWEEP_PAUSE,
        })
        .await;
    }
}

/// Writes down, every now and then, whose turn it is and what was said about quotas.
async fn save(gateway: Arc<Gateway>) {
    let mut ticks = tokio::time::interval(limits::STANDING_SAVE);
    loop {
        ticks.tick().await;
        let work = to_save(&gateway);
        if !work.accounts.is_empty() {
            gateway.store.write(work).await.ok();
        }
    }
}

fn to_save(gateway: &Gateway) -> Work {
    let changed = gateway.pool.to_save().into_iter();
    Work {
        accounts: changed
            .map(|changed| AccountRow {
                account: changed.account,
                rotation: changed.rotation,
                quota: changed.quota,
            })
            .collect(),
        ..Work::default()
    }
}
