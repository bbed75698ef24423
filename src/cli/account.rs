//! `moorage account …`.

use clap::{Args, Subcommand};

use crate::account::{Kind, Switch, check_credential, check_name, doubt_about_base_url};
use crate::clock::now_ms;
use crate::config::{Config, absolute};
use crate::store::accounts::{self, Change, Described};
use crate::store::seal::Seal;
use crate::store::{self};
use crate::upstream::auth_file;

use super::history::{self, print};
use super::{SecretSource, tell_taken_over};

#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// Add an account, or give one a new key: what is not named stays as it was
    Add(AddArgs),
    /// The accounts, their status and what they did today
    List,
    /// Everything that is known of one account, but for its key
    Show {
        /// Its name
        name: String,
    },
    /// Use an account again, and forget what kept it away
    Enable {
        /// Its name
        name: String,
    },
    /// Use an account no more, until it is enabled
    Disable {
        /// Its name
        name: String,
        /// Why, for those who read the list
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let nothing new begin on an account; what lives there goes on
    Drain {
        /// Its name
        name: String,
        /// Why, for those who read the list
        #[arg(long)]
        reason: Option<String>,
    },
    /// Remove an account; its history stays
    Remove {
        /// Its name
        name: String,
        /// Also if conversations live on it: their next turns are refused
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// A name of your choice
    name: String,
    /// What its upstream is: openai for any server that speaks the Responses API, codex for your own
    /// ChatGPT login
    #[arg(long, default_value = "openai")]
    kind: Kind,
    /// Where its upstream is, for example https://api.openai.com/v1
    #[arg(long)]
    base_url: Option<String>,
    #[command(flatten)]
    secret: SecretSource,
    /// Accounts of one domain share server-side state, as the keys of one project do
    #[arg(long)]
    state_domain: Option<String>,
    /// Its share of the load, relative to the others; without, 1
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    weight: Option<u32>,
    /// Those of the highest priority are used first; without, 0
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,
    /// How many requests may run on it at once; 0 for no bound
    #[arg(long)]
    max_concurrent: Option<u32>,
}

pub(super) fn run(command: AccountCommand, config: &Config) -> anyhow::Result<()> {
    let open = || store::open_writable(&config.database, config.file.durability);
    let turn = |name: &str, to, reason: Option<&str>, done| {
        let change = accounts::switch(&open()?, name, to, reason)?;
        changed(config, name, change, done)
    };
    match command {
        AccountCommand::Add(args) => add(args, config),
        AccountCommand::List => print(history::accounts(&open()?)?, history::Format::Table),
        AccountCommand::Show { name } => show(&name, config),
        AccountCommand::Enable { name } => turn(&name, Switch::On, None, "enabled"),
        AccountCommand::Disable { name, reason } => turn(&name, Switch::Off, reason.as_deref(), "disabled"),
        AccountCommand::Drain { name, reason } => {
            turn(&name, Switch::Draining, reason.as_deref(), "draining")?;
            let live = accounts::live_conversations(&open()?, &name)?;
            println!("{live} conversations live on it; 'moorage account list' shows how many remain.");
            Ok(())
        }
        AccountCommand::Remove { name, force } => {
            let change = accounts::remove(&open()?, &name, force, now_ms())?;
            changed(config, &name, change, "removed")
        }
    }
}

fn add(args: AddArgs, config: &Config) -> anyhow::Result<()> {
    check_name(&args.name).map_err(anyhow::Error::msg)?;
    let secret = args.secret.read()?;
    let auth_file = args.secret.auth_file().map(absolute).transpose();
    let auth_file = auth_file.map_err(anyhow::Error::msg)?;
    check_credential(args.kind, secret.is_some(), auth_file.as_deref()).map_err(anyhow::Error::msg)?;
    let described = Described {
        name: args.name,
        kind: args.kind,
        base_url: args.base_url,
        state_domain: args.state_domain,
        weight: args.weight,
        priority: args.priority,
        max_concurrent: args.max_concurrent,
        auth_file,
    };
    let open = || store::open_writable(&config.database, config.file.durability);
    let before = match config.database.exists() {
        true => accounts::named(&open()?, &described.name)?,
        false => None,
    };
    let account = described.over(before.as_ref()).map_err(anyhow::Error::msg)?;
    let login = account.auth_file.as_deref().map(auth_file::read).transpose()?;
    let connection = open()?;
    let seal = Seal::open(&config.seal_key())?;
    if let Some(doubt) = doubt_about_base_url(account.kind, &account.base_url) {
        eprintln!("Are you sure? Its {doubt}.");
    }
    let change = accounts::add(&connection, &seal, &account, secret.as_ref(), now_ms())?;
    let done = if before.is_some() { "changed" } else { "added" };
    changed(config, &account.name, change, done)?;
    match (login, &account.auth_file) {
        (Some(login), Some(path)) => println!(
            "It is the ChatGPT login in {} (plan: {}). The login stays there, and is renewed there.\n\
             It is yours, for your own use: its provider's terms apply to what you do with it here.",
            path.display(),
            login.plan.as_deref().unwrap_or("unknown")
        ),
        _ => println!("Its key is sealed in {}.", config.database.display()),
    }
    if let Some(file) = args.secret.open_file() {
        eprintln!(
            "Others can read {0}; run chmod 600 on it, or remove it.",
            file.display()
        );
    }
    Ok(())
}

/// Tells what became of a change.
fn changed(config: &Config, name: &str, change: Change, done: &str) -> anyhow::Result<()> {
    match change {
        Change::Made(version) => tell_taken_over(config, version, &format!("{name}: {done}.")),
        Change::Unknown => Err(no_account(name, &store::open_readable(&config.database)?)?),
        Change::InFile => anyhow::bail!(
            "the account '{name}' is in the configuration file; change it there, and send SIGHUP to the gateway"
        ),
        Change::InUse(live) => anyhow::bail!(
            "{live} conversations live on the account '{name}'; 'moorage account drain {name}' lets them end, \
             and --force removes it all the same"
        ),
    }
}

fn no_account(name: &str, connection: &store::Connection) -> anyhow::Result<anyhow::Error> {
    let known = accounts::list(connection)?.into_iter();
    let known: Vec<String> = known.map(|stored| stored.account.name).collect();
    Ok(super::no_such("account", name, &known))
}

fn show(name: &str, config: &Config) -> anyhow::Result<()> {
    let connection = store::open_readable(&config.database)?;
    let stored = accounts::list(&connection)?
        .into_iter()
        .find(|stored| stored.account.name == name);
    let Some(stored) = stored else {
        return Err(no_account(name, &connection)?);
    };
    let account = &stored.account;
    let (_, until_ms, reason) = stored.standing.status.columns();
    let at = |ms| jiff::Timestamp::from_millisecond(ms).map_or("-".to_owned(), |at| at.to_string());
    let status = stored.standing.word(stored.switch, now_ms());
    let lines = [
        ("name", account.name.clone()),
        ("kind", account.kind.as_str().to_owned()),
        ("base_url", account.base_url.clone()),
        (
            "auth_file",
            account
                .auth_file
                .as_ref()
                .map_or("-".to_owned(), |path| path.display().to_string()),
        ),
        ("state_domain", account.state_domain.clone()),
        ("weight", account.weight.to_string()),
        ("priority", account.priority.to_string()),
        (
            "max_concurrent",
            account
                .max_concurrent
                .map_or("no bound".to_owned(), |most| most.to_string()),
        ),
        ("source", stored.source.clone()),
        ("status", status.to_owned()),
        ("until", until_ms.map_or("-".to_owned(), at)),
        (
            "reason",
            stored
                .switch_reason
                .as_deref()
                .or(reason)
                .unwrap_or("-")
                .to_owned(),
        ),
    ];
    for (word, value) in lines {
        println!("{word:<15} {value}");
    }
    for limited in &stored.standing.limited_models {
        println!(
            "limited         {} until {} ({})",
            limited.model,
            at(limited.until_ms),
            limited.reason
        );
    }
    for window in &stored.quota.windows {
        let percent = window
            .used_percent
            .map_or("-".to_owned(), |percent| format!("{percent:.1} %"));
        let resets = window.resets_at_ms.map_or("-".to_owned(), at);
        println!(
            "quota           {}: used {percent}, begins anew {resets}",
            window.name
        );
    }
    Ok(())
}
