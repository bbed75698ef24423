//! A pool of accounts that behaves like the real one, without any provider: for the demo, the tests,
//! the benchmarks, and for people who try their agents.
//!
//! Each account is a server on a port of its own. It knows only its own responses, conversations and
//! files, opens only what it has sealed itself, has a prompt cache of its own, and can be told to fail in every way that
//! upstreams are known to fail ([`Fault`]). It keeps a journal of what it received.

mod account;
mod cache;
mod canned;
mod chat;
pub mod client;
pub mod command;
mod events;
mod fault;
mod journal;
mod play;
mod refusal;
mod response;
mod server;
mod things;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::server::{Bounds, Server};

use account::State;
pub use fault::Fault;
pub use journal::{Ending, JournalEntry};

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
}

/// One simulated account.
#[derive(Debug, Clone)]
pub struct AccountConfig {
    /// Its name.
    pub name: String,
    /// The key that it accepts.
    pub api_key: String,
    /// Where it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The models that it has; without, it takes any, and lists two.
    pub models: Vec<String>,
}

impl AccountConfig {
    /// An account on this machine, with a key after its name.
    pub fn named(name: &str) -> AccountConfig {
        AccountConfig {
            name: name.to_owned(),
            api_key: format!("sk-{name}"),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            models: Vec::new(),
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
        for account in &config.accounts {
            accounts.push(SimulatedAccount::start(account, &config).await?);
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
    state: Arc<State>,
    task: JoinHandle<()>,
}

/// Open connections to one account: enough for the largest benchmark.
const CONNECTIONS: usize = 16_384;

impl SimulatedAccount {
    async fn start(account: &AccountConfig, config: &SimulatorConfig) -> std::io::Result<SimulatedAccount> {
        let bounds = Bounds {
            connections: CONNECTIONS,
            shutdown_grace: Duration::ZERO,
            request_head: crate::limits::REQUEST_HEAD,
        };
        let server = Server::bind(&account.listen.to_string(), bounds).await?;
        let base_url = format!("http://{}/v1", server.address());
        let state = Arc::new(State::new(account, config));
        let router = server::router(state.clone());
        let task = tokio::spawn(server.serve(router, std::future::pending()));
        Ok(SimulatedAccount {
            name: account.name.clone(),
            api_key: account.api_key.clone(),
            base_url,
            state,
            task,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is, with `/v1` at the end.
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
}

impl Drop for SimulatedAccount {
    fn drop(&mut self) {
        self.task.abort();
    }
}
