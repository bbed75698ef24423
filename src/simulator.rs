//! A pool of accounts that behaves like the real one, without any provider: for the demo, the tests,
//! the benchmarks, and for people who try their agents.
//!
//! Each account is a server on a port of its own. It knows only its own responses, conversations and
//! files, opens only what it has sealed itself, and has a prompt cache of its own, unless it shares
//! all of that with others of its state domain. It can be told to fail in every way that upstreams
//! are known to fail ([`Fault`]), and keeps a journal of what it received.

mod account;
mod cache;
mod canned;
mod chat;
pub mod client;
mod codex;
pub mod command;
mod events;
mod fault;
mod journal;
mod login;
mod play;
mod refusal;
mod response;
mod server;
mod socket;
mod things;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::account::Kind;
use crate::server::{Bounds, Server};

use account::{Domain, State};
pub use fault::Fault;
pub use journal::{Ending, JournalEntry};
use login::LoginServer;

/// What a simulated pool is made of.
#[derive(Debug, Clone)]
pub struct SimulatorConfig {
    /// The accounts.
    pub accounts: Vec<AccountConfig>,
    /// From a request to the beginning of its answer.
    pub reply_delay: Duration,
    /// Between two deltas of a stream.
    pub delta_delay: Duration,
    /// Whether requests are written into the journal.
    pub journal: bool,
    /// How long a WebSocket may live.
    pub socket_life: Duration,
}

/// As long as the real API lets a WebSocket live.
pub const SOCKET_LIFE: Duration = Duration::from_secs(60 * 60);

/// One simulated account.
#[derive(Debug, Clone)]
pub struct AccountConfig {
    /// Its name.
    pub name: String,
    /// What it is like: OpenAI's API, or the backend of ChatGPT logins.
    pub kind: Kind,
    /// The key that it accepts; of a ChatGPT login, the one of its controls.
    pub api_key: String,
    /// Where it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The models that it has; without, it takes any, and lists two.
    pub models: Vec<String>,
    /// Whether it speaks WebSocket, too.
    pub has_websocket: bool,
    /// Whether it tells which models it has; some servers do not.
    pub lists_models: bool,
    /// Those of one name share what they hold, as the keys of one project do.
    pub state_domain: Option<String>,
}

impl AccountConfig {
    /// An account on this machine, with a key after its name.
    pub fn named(name: &str) -> AccountConfig {
        AccountConfig {
            name: name.to_owned(),
            kind: Kind::OpenAi,
            api_key: format!("sk-{name}"),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            models: Vec::new(),
            has_websocket: true,
            lists_models: true,
            state_domain: None,
        }
    }
}

impl Default for SimulatorConfig {
    /// Two accounts that answer at once.
    fn default() -> Self {
        SimulatorConfig {
            accounts: vec![AccountConfig::named("sim-a"), AccountConfig::named("sim-b")],
            reply_delay: Duration::ZERO,
            delta_delay: Duration::ZERO,
            journal: true,
            socket_life: SOCKET_LIFE,
        }
    }
}

/// A running pool. It stops when it is dropped.
#[derive(Debug)]
pub struct Simulator {
    accounts: Vec<SimulatedAccount>,
}

impl Simulator {
    /// Starts all accounts.
    ///
    /// # Errors
    /// If an address cannot be listened on.
    pub async fn start(config: SimulatorConfig) -> std::io::Result<Simulator> {
        let mut accounts = Vec::with_capacity(config.accounts.len());
        let logins = Arc::new(LoginServer::default());
        let mut shared: HashMap<&str, Arc<Domain>> = HashMap::new();
        for account in &config.accounts {
            let domain = match &account.state_domain {
                None => Arc::new(Domain::of(&account.name)),
                Some(name) => shared
                    .entry(name)
                    .or_insert_with(|| Arc::new(Domain::of(name)))
                    .clone(),
            };
            accounts.push(SimulatedAccount::start(account, &config, &logins, domain).await?);
        }
        Ok(Simulator { accounts })
    }

    /// The accounts, in the order of the configuration.
    pub fn accounts(&self) -> &[SimulatedAccount] {
        &self.accounts
    }

    /// The account of this name.
    pub fn account(&self, name: &str) -> Option<&SimulatedAccount> {
        self.accounts.iter().find(|account| account.name() == name)
    }
}

/// A running simulated account.
#[derive(Debug)]
pub struct SimulatedAccount {
    name: String,
    api_key: String,
    base_url: String,
    token_url: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

/// Open connections to one account: enough for the largest benchmark.
const CONNECTIONS: usize = 16_384;

/// How long a connection is kept on which nothing is asked: like servers in the field, longer than a
/// gateway keeps it. Who closes it first could take a request with it.
const CONNECTION_IDLE: Duration = crate::limits::UPSTREAM_POOL_IDLE.saturating_mul(4);

impl SimulatedAccount {
    async fn start(
        account: &AccountConfig,
        config: &SimulatorConfig,
        logins: &Arc<LoginServer>,
        domain: Arc<Domain>,
    ) -> std::io::Result<SimulatedAccount> {
        let bounds = Bounds {
            connections: CONNECTIONS,
            shutdown_grace: Duration::ZERO,
            request_head: CONNECTION_IDLE,
            client_stall: crate::limits::CLIENT_STALL,
        };
        let listen = account.listen.to_string();
        let server = Server::bind(&listen, bounds).await;
        let server =
            server.map_err(|error| std::io::Error::new(error.kind(), format!("{listen}: {error}")))?;
        let root = format!("http://{}", server.address());
        let (base_url, logins) = match account.kind {
            Kind::OpenAi => (format!("{root}/v1"), None),
            Kind::Codex => (format!("{root}/backend-api/codex"), Some(logins.clone())),
        };
        let state = Arc::new(State::new(account, config, logins, domain));
        let router = server::router(state.clone());
        let task = tokio::spawn(server.serve(router.into(), std::future::pending()));
        Ok(SimulatedAccount {
            name: account.name.clone(),
            api_key: account.api_key.clone(),
            base_url,
            token_url: format!("{root}/oauth/token"),
            state,
            task,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is, with `/v1` at the end, or `/backend-api/codex`.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The key that it accepts.
    pub fn api_key(&self) -> &str {
        &self.api_key
    }

    /// What it received, oldest first.
    pub fn journal(&self) -> Vec<JournalEntry> {
        self.state.journal().entries()
    }

    /// Empties the journal.
    pub fn clear_journal(&self) {
        self.state.journal().clear();
    }

    /// Makes the next request fail like this; after earlier ones that were said before.
    pub fn script(&self, fault: Fault) {
        self.state.script(fault);
    }

    /// Forgets how it was told to fail.
    pub fn forget_faults(&self) {
        self.state.forget_faults();
    }

    /// Makes every request fail like this, until it is called again.
    pub fn always(&self, fault: Option<Fault>) {
        self.state.always(fault);
    }

    /// How many WebSockets to it are open.
    pub fn open_sockets(&self) -> usize {
        self.state.open_sockets.load(Ordering::Acquire)
    }
}

/// Of an account behind a ChatGPT login. On any other these do nothing.
impl SimulatedAccount {
    /// Where logins are renewed: those of all accounts of the simulator.
    pub fn token_url(&self) -> &str {
        &self.token_url
    }

    /// A new login, as Codex CLI writes it down, whose access token is valid for so long. What was
    /// there before is no good any more.
    pub fn log_in(&self, valid_for: Duration) -> Value {
        self.at_login(|server, id| server.log_in(id, valid_for))
    }

    /// Refuses every access token that was given so far.
    pub fn end_access(&self) {
        self.at_login(|server, id| server.end_access(id));
    }

    /// Refuses to renew the login, with this code.
    pub fn end_login(&self, code: &str) {
        self.at_login(|server, id| server.end(id, code));
    }

    /// Makes every renewal fail like this, until it is called again.
    pub fn fail_renewals(&self, fault: Option<Fault>) {
        self.at_login(|server, id| server.fail(id, fault));
    }

    /// How often its login was renewed.
    pub fn renewals(&self) -> usize {
        self.at_login(|server, id| server.renewals(id))
    }

    /// How often it was not, because the refresh token was no good.
    pub fn refused_renewals(&self) -> usize {
        self.at_login(|server, id| server.refused(id))
    }

    /// Uses the plan's first window up for so long.
    pub fn use_up(&self, wait: Duration) {
        self.state.plan.use_up(wait);
    }

    fn at_login<T: Default>(&self, ask: impl FnOnce(&LoginServer, &str) -> T) -> T {
        let id = codex::account_id(&self.name);
        self.state
            .login
            .as_ref()
            .map(|server| ask(server, &id))
            .unwrap_or_default()
    }
}

impl Drop for SimulatedAccount {
    fn drop(&mut self) {
        self.task.abort();
    }
}
