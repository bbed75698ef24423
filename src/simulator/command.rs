//! `moorage simulate`: a simulated pool alone, for people who try their agents and gateways.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{AccountConfig, Simulator, SimulatorConfig};
use crate::account::Kind;
use crate::config::parse_duration;

/// What `moorage simulate` takes.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// How many accounts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=26))]
    accounts: u8,
    /// What they are like: openai, or codex for the backend of ChatGPT logins
    #[arg(long, default_value = "openai")]
    kind: Kind,
    /// The port of the first account, the others follow; 0 lets the system choose
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port_base: u16,
    /// Wait before each answer
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    reply_delay: Duration,
    /// Wait between two deltas of a stream
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    delta_delay: Duration,
    /// Let all accounts share what they hold, as the keys of one project do
    #[arg(long)]
    shared_state: bool,
    /// Write a made-up history of N requests in 90 days into the database, and end
    #[arg(long, value_name = "N")]
    pub fill: Option<u64>,
    /// Close a WebSocket when it has lived so long
    #[arg(long, value_name = "TIME", default_value = "60m", value_parser = parse_duration)]
    socket_life: Duration,
    /// Speak HTTP only, as most servers do
    #[arg(long)]
    no_websocket: bool,
    /// Keep no journal of what was received
    #[arg(long)]
    no_journal: bool,
}

impl SimulateArgs {
    fn config(&self) -> anyhow::Result<SimulatorConfig> {
        let accounts = (0..self.accounts).map(|index| {
            let mut account = AccountConfig::named(&format!("sim-{}", char::from(b'a' + index)));
            account.has_websocket = !self.no_websocket;
            account.kind = self.kind;
            account.state_domain = self.shared_state.then(|| "sim".to_owned());
            if self.port_base > 0 {
                let port = self.port_base.checked_add(u16::from(index));
                let port = port.ok_or_else(|| anyhow::anyhow!("there is no port after 65535"))?;
                account.listen = SocketAddr::from(([127, 0, 0, 1], port));
            }
            Ok(account)
        });
        Ok(SimulatorConfig {
            accounts: accounts.collect::<anyhow::Result<_>>()?,
            reply_delay: self.reply_delay,
            delta_delay: self.delta_delay,
            journal: !self.no_journal,
            socket_life: self.socket_life,
        })
    }
}

/// Runs the pool until Ctrl-C.
///
/// # Errors
/// If a port is taken.
pub async fn run(args: SimulateArgs) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let simulator = Simulator::start(args.config()?).await?;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "A simulation: these accounts are on this machine, no provider is asked."
    )?;
    for account in simulator.accounts() {
        writeln!(
            out,
            "simulated account {} listening on {}  key {}",
            account.name(),
            account.base_url(),
            account.api_key()
        )?;
        if args.kind == Kind::Codex {
            let root = account.token_url().trim_end_matches("/oauth/token");
            writeln!(
                out,
                "  its login: curl -X POST {root}/_simulator/login -H 'authorization: Bearer {}' >auth.json\n  \
                 renewed at: {}",
                account.api_key(),
                account.token_url()
            )?;
        }
    }
    out.flush()?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
