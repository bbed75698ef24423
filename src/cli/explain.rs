//! `moorage explain`: where a request would go, and why. Reads the database; sends nothing.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;

use crate::affinity::{AccountView, Accounts, Owner, Reference};
use crate::clock::now_ms;
use crate::config::Config;
use crate::exchange::explain::explain_from;
use crate::exchange::{Content, Question};
use crate::request::endpoint::Endpoint;
use crate::store::client_keys::{self, ClientKey};
use crate::store::history::Rows;
use crate::store::{self, Connection, accounts};

use super::history::{open, table};

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The body of the request, as JSON; - reads standard input
    request: PathBuf,
    /// The client key that would send it; may be left out where there is only one
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Where it would be sent
    #[arg(long, default_value = "/v1/responses")]
    path: String,
    /// How it would be sent
    #[arg(long, default_value = "POST")]
    method: Method,
    /// A header that it would have, for example 'session-id: 1234'; may be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// JSON, as POST /admin/api/explain answers it
    #[arg(long)]
    json: bool,
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'name: value'")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| format!("'{name}' is no header name"))?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| format!("'{value}' is no header value"))?;
    Ok((name, value))
}

pub(super) fn run(args: ExplainArgs, config: &Config) -> anyhow::Result<()> {
    let connection = open(config)?;
    let body = read(&args.request)?;
    let keys = client_keys::list(&connection)?;
    let path = args.path.strip_prefix("/v1").unwrap_or(&args.path);
    let question = Question {
        scope: key(&keys, args.key.as_deref())?.scope.clone(),
        one_scope: keys.windows(2).all(|pair| pair[0].scope == pair[1].scope),
        endpoint: Endpoint::of(&args.method, path)
            .with_context(|| format!("{} is no path of the API", args.path))?,
        method: args.method,
        path: path.to_owned(),
        query: None,
        headers: args.header.into_iter().collect::<HeaderMap>(),
        body: Content::Whole(body),
        on: None,
    };
    let session_headers = &config.file.affinity.session_headers;
    let views = |model: Option<&str>| views(&connection, model);
    let owners = |references: &[Reference]| live_owners(&connection, references);
    let told = explain_from(session_headers, &question, views, owners)??;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        print(&told);
    }
    Ok(())
}

fn read(request: &PathBuf) -> anyhow::Result<Bytes> {
    let mut bytes = Vec::new();
    match request.to_str() {
        Some("-") => std::io::stdin().read_to_end(&mut bytes).map(drop),
        _ => std::fs::File::open(request).and_then(|mut file| file.read_to_end(&mut bytes).map(drop)),
    }
    .with_context(|| format!("reading {}", request.display()))?;
    Ok(bytes.into())
}

fn key<'a>(keys: &'a [ClientKey], name: Option<&str>) -> anyhow::Result<&'a ClientKey> {
    let names = || {
        let names = keys.iter().map(|key| key.name.clone());
        names.collect::<Vec<_>>()
    };
    match (name, keys) {
        (None, [key]) => Ok(key),
        (None, []) => anyhow::bail!("no client key is set up yet; make one: moorage key add NAME"),
        (None, _) => anyhow::bail!(
            "say which client key would send it, with --key: {}",
            names().join(", ")
        ),
        (Some(name), _) => keys
            .iter()
            .find(|key| key.name == name)
            .ok_or_else(|| super::no_such("client key", name, &names())),
    }
}

fn live_owners(
    connection: &Connection,
    references: &[Reference],
) -> Result<Vec<Option<Owner>>, store::StoreError> {
    let now = now_ms();
    let owners = store::known_owners(connection, references)?;
    let live = |owner: &Owner| owner.expires_at_ms > now;
    Ok(owners.into_iter().map(|owner| owner.filter(live)).collect())
}

fn views(connection: &Connection, model: Option<&str>) -> Result<Accounts, store::StoreError> {
    let now = now_ms();
    let view = |stored: accounts::StoredAccount| AccountView {
        usability: stored.standing.usability(stored.switch, model, now),
        account: Arc::new(stored.without_credential()),
        offers_model: None,
    };
    Ok(Accounts {
        here: accounts::list(connection)?.into_iter().map(view).collect(),
        gone: accounts::gone(connection)?.into(),
    })
}

fn print(told: &Value) {
    println!("{}", told["says"].as_str().unwrap_or_default());
    if told["stripped"].is_string() {
        println!("Sealed reasoning that the account cannot read is left out.");
    }
    let lists = [
        ("references", &["kind", "strength", "id", "owner", "decides"][..]),
        ("accounts", &["account", "may_serve", "why", "now", "until"]),
    ];
    for (name, columns) in lists {
        let list = told[name].as_array().map_or(&[][..], Vec::as_slice);
        if list.is_empty() {
            println!("\nNo {name}.");
            continue;
        }
        let cell = |row: &Value, column: &&str| match &row[*column] {
            Value::Bool(true) => Value::from("yes"),
            Value::Bool(false) => Value::from("no"),
            other => other.clone(),
        };
        let row = |row: &Value| columns.iter().map(|column| cell(row, column)).collect();
        let rows = Rows {
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            rows: list.iter().map(row).collect(),
        };
        println!("\n{}", table(&rows));
    }
}
