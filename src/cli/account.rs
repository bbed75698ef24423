//! `moorage account …`.

use clap::{Args, Subcommand};

use crate::account::Kind;
use crate::clock::now_ms;
use crate::config::{Config, check_base_url, check_name, own_domain};
use crate::store::accounts::{self, NewAccount};
use crate::store::{self};

use super::SecretSource;
use super::history::{self, print};

#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// Add an account, or give one a new key or address
    Add(AddArgs),
    /// The accounts, their status and what they did today
    List,
    /// Everything that is known of one account, but for its key
    Show {
        /// Its name
        name: String,
    },
    /// Use an account again
    Enable {
        /// Its name
        name: String,
    },
    /// Use an account no more, until it is enabled
    Disable {
        /// Its name
        name: String,
    },
    /// Remove an account; its history stays
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// A name of your choice
    name: String,
    /// What its upstream is
    #[arg(long, default_value = "openai")]
    kind: Kind,
    /// Where its upstream is, for example https://api.openai.com/v1
    #[arg(long)]
    base_url: String,
    #[command(flatten)]
    secret: SecretSource,
    /// Accounts of one domain share server-side state, as the keys of one project do
    #[arg(long)]
    state_domain: Option<String>,
    /// Its share of the load, relative to the others
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    weight: u32,
    /// How many requests may run on it at once
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max_concurrent: Option<u32>,
}

pub(super) fn run(command: AccountCommand, config: &Config) -> anyhow::Result<()> {
    let open = || store::open_writable(&config.database, config.file.durability);
    let known = |name: &str, found: bool, done: &str| match found {
        true => {
            println!("{name}: {done}. A gateway that runs takes it over at its next start.");
            Ok(())
        }
        false => Err(anyhow::anyhow!("no account is named '{name}'")),
    };
    match command {
        AccountCommand::Add(args) => add(args, config),
        AccountCommand::List => print(history::accounts(&open()?)?, history::Format::Table),
        AccountCommand::Show { name } => show(&name, config),
        AccountCommand::Enable { name } => known(&name, accounts::enable(&open()?, &name, true)?, "enabled"),
        AccountCommand::Disable { name } => {
            known(&name, accounts::enable(&open()?, &name, false)?, "disabled")
        }
        AccountCommand::Remove { name } => {
            if is_in_file(&name, config) {
                anyhow::bail!("the account '{name}' is in the configuration file; remove it there");
            }
            known(&name, accounts::remove(&open()?, &name, now_ms())?, "removed")
        }
    }
}

fn add(args: AddArgs, config: &Config) -> anyhow::Result<()> {
    check_name(&args.name).map_err(anyhow::Error::msg)?;
    if is_in_file(&args.name, config) {
        anyhow::bail!(
            "the account '{}' is in the configuration file; change it there",
            args.name
        );
    }
    let account = NewAccount {
        kind: args.kind,
        base_url: check_base_url(&args.base_url).map_err(anyhow::Error::msg)?,
        state_domain: args.state_domain.unwrap_or_else(|| own_domain(&args.name)),
        weight: args.weight,
        max_concurrent: args.max_concurrent,
        name: args.name,
    };
    let secret = args.secret.read()?;
    let connection = store::open_writable(&config.database, config.file.durability)?;
    accounts::add(&connection, &config.database, &account, &secret, now_ms())?;
    println!(
        "{}: added. Its key is sealed in {}.",
        account.name,
        config.database.display()
    );
    println!("A gateway that runs takes it over at its next start.");
    Ok(())
}

fn is_in_file(name: &str, config: &Config) -> bool {
    let mut accounts = config.file.account.iter();
    accounts.any(|account| account.checked().is_ok_and(|account| account.name == name))
}

fn show(name: &str, config: &Config) -> anyhow::Result<()> {
    let connection = store::open_readable(&config.database)?;
    let stored = accounts::list(&connection)?
        .into_iter()
        .find(|stored| stored.account.name == name);
    let Some(stored) = stored else {
        anyhow::bail!("no account is named '{name}'");
    };
    let account = &stored.account;
    let (status, until_ms, reason) = stored.status.columns();
    let until = until_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let lines = [
        ("name", account.name.clone()),
        ("kind", account.kind.as_str().to_owned()),
        ("base_url", account.base_url.clone()),
        ("state_domain", account.state_domain.clone()),
        ("weight", account.weight.to_string()),
        (
            "max_concurrent",
            account
                .max_concurrent
                .map_or("no bound".to_owned(), |most| most.to_string()),
        ),
        ("source", stored.source.clone()),
        ("status", status.to_owned()),
        ("until", until.map_or("-".to_owned(), |until| until.to_string())),
        ("reason", reason.unwrap_or("-").to_owned()),
    ];
    for (word, value) in lines {
        println!("{word:<15} {value}");
    }
    Ok(())
}
