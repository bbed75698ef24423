//! The commands: what a person types, and what they read.

mod account;
mod backup;
mod demo;
mod doctor;
mod explain;
mod history;
mod key;
mod secret;
mod serve;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::account::Secret;
use crate::config::{Config, Places, from_environment, from_file};
use crate::limits;
use crate::simulator::command::SimulateArgs;
use crate::store;

/// A gateway for the OpenAI Responses API that keeps every conversation on the account that holds
/// its history.
#[derive(Debug, Parser)]
#[command(version, subcommand_required = false)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What every command has, listed behind its own options.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
struct Common {
    /// The configuration file; without, moorage.toml in the XDG directory, if it is there
    #[arg(long, global = true, env = "MOORAGE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The database; without, the one that the configuration names, or moorage.db in the XDG directory
    #[arg(long, global = true, env = "MOORAGE_DATABASE", value_name = "FILE")]
    database: Option<PathBuf>,
    /// Where to listen; port 0 lets the system choose
    #[arg(long, global = true, env = "MOORAGE_LISTEN", value_name = "ADDR")]
    listen: Option<String>,
    /// How log lines look
    #[arg(long, global = true, env = "MOORAGE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Pretty)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    Pretty,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway (also without a command)
    Serve,
    /// The gateway over two simulated accounts: a conversation of four turns, its table, and the page
    Demo(demo::DemoArgs),
    /// A simulated pool of accounts alone, one port an account
    Simulate(SimulateArgs),
    /// Add, list and change upstream accounts
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Add, list and change client keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// The key of the page
    #[command(subcommand)]
    AdminKey(key::AdminKeyCommand),
    /// The key that upstream credentials are sealed with
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// An online copy of the database, while the gateway runs
    Backup(backup::BackupArgs),
    /// What is right and what is not, each with what to do about it
    Doctor(doctor::DoctorArgs),
    /// What was used, as a table
    Usage(history::UsageArgs),
    /// The turns of a conversation: where each went, and why
    Conversation(history::ConversationArgs),
    /// One request: all that is kept of it, and its attempts
    Request(history::RequestArgs),
    /// Where a request would go, and why; sends nothing
    Explain(explain::ExplainArgs),
}

impl Arguments {
    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong, for the terminal.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let places = Places {
            config: self.common.config,
            database: self.common.database,
            listen: self.common.listen,
        };
        let log_format = self.common.log_format;
        let load = || Config::load(places.clone());
        let command = self.command.unwrap_or(Command::Serve);
        if command.only_prints() {
            // `moorage usage | head` ends when nobody reads on, as other tools do.
            sigpipe::reset();
        }
        match command {
            Command::Serve => {
                let _log = log_to_stderr(log_format);
                block_on(serve::run(load()?))?;
            }
            Command::Demo(args) => return block_on(demo::run(args)),
            Command::Simulate(args) if args.fill.is_some() => {
                history::fill(args.fill.unwrap_or_default(), &load()?)?;
            }
            Command::Simulate(args) => {
                let _log = log_to_stderr(log_format);
                block_on(crate::simulator::command::run(args))?;
            }
            Command::Account(command) => account::run(command, &load()?)?,
            Command::Key(command) => key::run(command, &load()?)?,
            Command::AdminKey(command) => key::run_admin(&command, &load()?)?,
            Command::Secret(command) => secret::run(&command, &load()?)?,
            Command::Backup(args) => backup::run(&args, &load()?)?,
            Command::Doctor(args) => return doctor::run(&args, places.clone()),
            Command::Usage(args) => history::usage(&args, &load()?)?,
            Command::Conversation(args) => history::conversation(&args, &load()?)?,
            Command::Request(args) => history::request(&args, &load()?)?,
            Command::Explain(args) => explain::run(args, &load()?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Command {
    /// Whether it opens no socket: one that is closed at the other end must not end a program that
    /// has others.
    fn only_prints(&self) -> bool {
        matches!(
            self,
            Command::Account(_)
                | Command::Key(_)
                | Command::Usage(_)
                | Command::Conversation(_)
                | Command::Request(_)
                | Command::Explain(_)
        )
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // As far as the system lets; where it does not, connections wait.
    rlimit::increase_nofile_limit(u64::MAX).ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(work)
}

/// Log lines go to standard error, written by a thread of their own. The guard writes out what is
/// left when it is dropped. It writes what has come together, as soon as nothing more comes.
fn log_to_stderr(format: LogFormat) -> tracing_appender::non_blocking::WorkerGuard {
    let together = std::io::BufWriter::with_capacity(64 * 1024, std::io::stderr());
    let (writer, guard) = tracing_appender::non_blocking::NonBlockingBuilder::default()
        .buffered_lines_limit(limits::LOG_LINES_MAX)
        .finish(together);
    let filter = EnvFilter::try_from_env("MOORAGE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_target(false);
    match format {
        LogFormat::Pretty => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_ansi(colours).init();
        }
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    guard
}

/// There is no thing of that name; what there is instead.
fn no_such(thing: &str, name: &str, known: &[String]) -> anyhow::Error {
    match known {
        [] => anyhow::anyhow!("no {thing} is named '{name}'; there is none yet"),
        _ => anyhow::anyhow!("no {thing} is named '{name}'; there are: {}", known.join(", ")),
    }
}

/// Tells what was done and, if a gateway runs over the database, waits until it has taken it over.
fn tell_taken_over(config: &Config, version: i64, done: &str) -> anyhow::Result<()> {
    if !store::is_served(&config.database) {
        println!("{done}");
        return Ok(());
    }
    let connection = store::open_readable(&config.database)?;
    let begin = Instant::now();
    loop {
        let roster = store::roster::read(&connection)?;
        if roster.applied >= version {
            return match roster.trouble {
                None => {
                    println!("{done} The running gateway has taken it over.");
                    Ok(())
                }
                Some(trouble) => {
                    anyhow::bail!("{done} But the running gateway could not take it over: {trouble}")
                }
            };
        }
        anyhow::ensure!(
            begin.elapsed() < limits::ROSTER_APPLIED,
            "{done} But the running gateway has not taken it over yet; its log may say why"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Where a secret comes from: never from an argument, which every user of the machine can see.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SecretSource {
    /// The environment variable that holds the key
    #[arg(long, value_name = "VARIABLE")]
    api_key_env: Option<String>,
    /// Read the key from standard input
    #[arg(long)]
    api_key_stdin: bool,
    /// The file that holds the key
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The file in which Codex CLI keeps your ChatGPT login, mostly ~/.codex/auth.json
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,
}

impl SecretSource {
    /// The file of a login.
    fn auth_file(&self) -> Option<&Path> {
        self.auth_file.as_deref()
    }

    /// The file with the key, if not only its owner can read it.
    fn open_file(&self) -> Option<&Path> {
        use std::os::unix::fs::MetadataExt as _;
        let path = self.api_key_file.as_deref()?;
        let mode = std::fs::metadata(path).ok()?.mode();
        (mode & 0o077 != 0).then_some(path)
    }

    /// The key; none where there is a login.
    fn read(&self) -> anyhow::Result<Option<Secret>> {
        if self.auth_file.is_some() {
            return Ok(None);
        }
        let secret = match (&self.api_key_env, &self.api_key_file) {
            (Some(variable), _) => from_environment(variable),
            (None, Some(path)) => from_file(path),
            (None, None) => {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .context("reading the key from standard input")?;
                Secret::new(&text).ok_or_else(|| "standard input held no usable key".to_owned())
            }
        };
        secret.map(Some).map_err(anyhow::Error::msg)
    }
}
