//! `moorage demo`: a real gateway over simulated accounts, killed in the middle of a conversation,
//! beside a line that rotates accounts without affinity.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::simulator::client::{Client, Reply, Turn};
use crate::simulator::{Simulator, SimulatorConfig};

use super::serve::stop_signal;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Exit at the end: with status 1 if affinity, cache or restart did not hold
    #[arg(long)]
    once: bool,
}

/// How long the gateway has to start, at the most.
const START: Duration = Duration::from_secs(20);

/// The cache rate that the last turn must reach, in percent. The system that Moorage descends from
/// measured 93.4.
const LAST_TURN_CACHED_PERCENT: f64 = 80.0;

/// What the user of the demo says. The first answer is long, so that there is something to cache.
const TURNS: [(&str, &str); 4] = [
    (
        "Write me a long guide to mooring a boat in a tideway.",
        "output_bytes=14000",
    ),
    ("How long should the lines be?", "output_bytes=600"),
    ("And with a falling tide?", "output_bytes=560"),
    (
        "Sum it all up for a card that I can keep on board.",
        "output_bytes=5600",
    ),
];

pub(super) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let stop = stop_signal()?;
    let simulator = Simulator::start(SimulatorConfig::default()).await?;
    let folder = tempfile::Builder::new().prefix("moorage-demo-").tempdir()?;
    let config = write_config(folder.path(), &simulator)?;
    let mut gateway = Running::start(&config, None).await?;
    introduce(&simulator, &gateway);

    let mut naive = Naive::new(&simulator);
    let mut replies: Vec<Reply> = Vec::new();
    for (index, (text, simulate)) in TURNS.iter().enumerate() {
        if index == 2 {
            gateway = gateway.kill_and_restart(&config).await?;
        }
        let client = Client::new(&gateway.url(), CLIENT_KEY);
        let previous = replies.last().and_then(|reply| reply.response_id.clone());
        let reply = client
            .ask(&Turn::new(text, previous.as_deref(), simulate))
            .await?;
        let rotated = naive.ask(text, simulate).await?;
        println!("{}", line(index + 1, &reply, &rotated));
        replies.push(reply);
    }
    let failures = failures(&replies);
    conclude(&failures, &gateway, folder.path());
    if !args.once {
        println!("\nIt stays up until Ctrl-C.");
        stop.await;
    }
    gateway.stop().await;
    match failures.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}

/// Only for the demo, whose gateway listens on this machine and ends with it.
const CLIENT_KEY: &str = "mk-of-the-demo-and-of-nothing-else";

/// The same files that a user would write.
fn write_config(folder: &Path, simulator: &Simulator) -> anyhow::Result<PathBuf> {
    let mut text = String::from("database = \"moorage.db\"\n");
    for account in simulator.accounts() {
        let key_file = folder.join(format!("{}.key", account.name()));
        std::fs::write(&key_file, account.api_key())?;
        text += &format!(
            "\n[[account]]\nname = {:?}\nbase_url = {:?}\napi_key_file = {:?}\n",
            account.name(),
            account.base_url(),
            key_file
        );
    }
    let key_file = folder.join("client.key");
    std::fs::write(&key_file, CLIENT_KEY)?;
    text += &format!("\n[[client_key]]\nname = \"demo\"\nkey_file = {key_file:?}\n");
    let path = folder.join("moorage.toml");
    std::fs::write(&path, text)?;
    Ok(path)
}

/// A gateway in a process of its own, so that it can be killed.
struct Running {
    process: Child,
    address: String,
    admin_key: Option<String>,
}

impl Running {
    async fn start(config: &Path, address: Option<&str>) -> anyhow::Result<Running> {
        let mut command = Command::new(std::env::current_exe()?);
        for variable in ["MOORAGE_CONFIG", "MOORAGE_DATABASE", "MOORAGE_LISTEN"] {
            command.env_remove(variable);
        }
        command
            .arg("serve")
            .arg("--config")
            .arg(config)
            .args(["--listen", address.unwrap_or("127.0.0.1:0")])
            .env("MOORAGE_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().context("starting the gateway")?;
        let out = process.stdout.take().context("the gateway has no output")?;
        let listening = tokio::time::timeout(START, read_start(BufReader::new(out)));
        let (address, admin_key) = listening.await.context("the gateway did not start in time")??;
        Ok(Running {
            process,
            address,
            admin_key,
        })
    }

    fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    async fn kill_and_restart(mut self, config: &Path) -> anyhow::Result<Running> {
        self.process.start_kill()?;
        self.process.wait().await?;
        let begin = Instant::now();
        let restarted = Running::start(config, Some(&self.address)).await?;
        let took = begin.elapsed().as_millis();
        println!("     ── gateway killed with SIGKILL, started again in {took} ms, same database ──");
        Ok(Running {
            admin_key: restarted.admin_key.or(self.admin_key),
            ..restarted
        })
    }

    async fn stop(mut self) {
        self.process.start_kill().ok();
        self.process.wait().await.ok();
    }
}

/// Reads what `serve` prints up to the address, and the admin key on the way.
async fn read_start(
    mut out: BufReader<tokio::process::ChildStdout>,
) -> anyhow::Result<(String, Option<String>)> {
    let mut admin_key = None;
    let mut text = String::new();
    while out.read_line(&mut text).await? > 0 {
        let word = text.trim();
        if let Some(address) = word.strip_prefix("moorage listening on http://") {
            return Ok((address.to_owned(), admin_key));
        }
        if word.starts_with("ma-") {
            admin_key = Some(word.to_owned());
        }
        text.clear();
    }
    anyhow::bail!("the gateway ended before it listened")
}

/// The line that Moorage is compared with: the next account at each turn, whoever it is.
struct Naive {
    accounts: Vec<Client>,
    turn: usize,
    last_response_id: Option<String>,
}

impl Naive {
    fn new(simulator: &Simulator) -> Naive {
        let client =
            |account: &crate::simulator::SimulatedAccount| Client::new(account.base_url(), account.api_key());
        Naive {
            accounts: simulator.accounts().iter().map(client).collect(),
            turn: 0,
            last_response_id: None,
        }
    }

    async fn ask(&mut self, text: &str, simulate: &str) -> anyhow::Result<Reply> {
        let client = &self.accounts[self.turn % self.accounts.len()];
        self.turn += 1;
        let reply = client
            .ask(&Turn::new(text, self.last_response_id.as_deref(), simulate))
            .await?;
        self.last_response_id = reply.response_id.clone().or(self.last_response_id.take());
        Ok(reply)
    }
}

fn introduce(simulator: &Simulator, gateway: &Running) {
    let names: Vec<&str> = simulator
        .accounts()
        .iter()
        .map(|account| account.name())
        .collect();
    println!(
        "A simulation: the accounts {} are simulated on this machine, no provider is asked.\n\
         The gateway at http://{} and its database are real.\n",
        names.join(" and "),
        gateway.address
    );
    println!(
        "turn  {:<6} {:<30} {:>6} {:>6} {:>7} {:>8} {:>6}  | without affinity",
        "account", "affinity", "in", "out", "cached", "cache %", "ms"
    );
}

fn line(turn: usize, reply: &Reply, rotated: &Reply) -> String {
    let figure = |figure: Option<i64>| figure.map_or("-".to_owned(), |figure| figure.to_string());
    format!(
        "{turn:>4}  {:<7} {:<30} {:>6} {:>6} {:>7} {:>8} {:>6}  | {}",
        reply.account.as_deref().unwrap_or("-"),
        reply
            .error_code
            .as_deref()
            .or(reply.affinity.as_deref())
            .unwrap_or("-"),
        figure(reply.usage.input),
        figure(reply.usage.output),
        figure(reply.usage.cached),
        percent(reply),
        reply.elapsed.as_millis(),
        match &rotated.error_code {
            Some(code) => format!("{} {code}", rotated.status),
            None => format!("{} {} % cached", rotated.status, percent(rotated)),
        }
    )
}

fn percent(reply: &Reply) -> String {
    reply
        .cached_percent()
        .map_or("-".to_owned(), |percent| format!("{percent:.1}"))
}

/// What did not hold, in words.
fn failures(replies: &[Reply]) -> Vec<String> {
    let mut failures = Vec::new();
    let home = replies.first().and_then(|reply| reply.account.as_deref());
    for (index, reply) in replies.iter().enumerate() {
        let turn = index + 1;
        if reply.status != 200 {
            failures.push(format!("turn {turn} was answered with {}", reply.status));
        }
        if reply.account.as_deref() != home {
            failures.push(format!("turn {turn} went to another account"));
        }
        if index > 0 && reply.affinity.as_deref() != Some("hit; by=previous_response_id") {
            failures.push(format!("turn {turn} was not routed by its previous response"));
        }
    }
    let cached = replies.last().and_then(Reply::cached_percent).unwrap_or(0.0);
    if cached < LAST_TURN_CACHED_PERCENT {
        failures.push(format!("the last turn had only {cached:.1} % from the cache"));
    }
    failures
}

fn conclude(failures: &[String], gateway: &Running, folder: &Path) {
    println!();
    match failures {
        [] => println!("Every turn stayed on its account, through a SIGKILL, and the cache held."),
        failures => println!("It did not hold: {}.", failures.join("; ")),
    }
    let database = folder.join("moorage.db");
    println!("\nThe page      http://{}/", gateway.address);
    if let Some(key) = &gateway.admin_key {
        println!("  admin key   {key}");
    }
    println!(
        "The database  sqlite3 {} 'select * from turns'",
        database.display()
    );
    println!(
        "Next          moorage account add NAME --base-url https://api.openai.com/v1 --api-key-env VARIABLE"
    );
}
