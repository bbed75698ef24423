//! `/admin/api/v1/accounts`: what `moorage account` does, for the page and for scripts.

use std::path::PathBuf;

use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse as _, Json, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::account::{Kind, Secret, Switch, check_credential, check_name};
use crate::clock::now_ms;
use crate::store::accounts;
use crate::store::seal::Seal;
use crate::store::{Connection, StoreError, history};
use crate::upstream::auth_file;

use super::super::{Front, errors};
use super::{made, read_json};

/// An account as the page or a script describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    name: String,
    #[serde(default = "default_kind")]
    kind: Kind,
    base_url: Option<String>,
    api_key: Option<String>,
    auth_file: Option<PathBuf>,
    state_domain: Option<String>,
    weight: Option<u32>,
    priority: Option<i32>,
    max_concurrent: Option<u32>,
}

fn default_kind() -> Kind {
    Kind::OpenAi
}

impl Described {
    fn checked(self) -> Result<(accounts::Described, Option<Secret>), String> {
        check_name(&self.name)?;
        if self.weight == Some(0) {
            return Err("weight is at least 1".to_owned());
        }
        let secret = self.api_key.as_deref().map(Secret::new);
        let secret = secret
            .map(|secret| secret.ok_or("api_key is no usable key"))
            .transpose()?;
        check_credential(self.kind, secret.is_some(), self.auth_file.as_deref())?;
        let described = accounts::Described {
            name: self.name,
            kind: self.kind,
            base_url: self.base_url,
            state_domain: self.state_domain,
            weight: self.weight,
            priority: self.priority,
            max_concurrent: self.max_concurrent,
            auth_file: self.auth_file,
        };
        Ok((described, secret))
    }
}

/// All accounts, with where each stands.
pub(super) async fn list(State(front): State<Front>) -> Response {
    match front.gateway.store.look(read_all).await {
        Ok(accounts) => Json(json!({ "accounts": accounts })).into_response(),
        Err(error) => errors::unreadable(&error),
    }
}

/// One of them.
pub(super) async fn show(State(front): State<Front>, Path(name): Path<String>) -> Response {
    match front.gateway.store.look(read_all).await {
        Ok(accounts) => match accounts.into_iter().find(|account| account["account"] == name) {
            Some(account) => Json(account).into_response(),
            None => errors::unknown_name("account", &name),
        },
        Err(error) => errors::unreadable(&error),
    }
}

/// What `accounts_now` shows, and how each is set up.
fn read_all(connection: &Connection) -> Result<Vec<Value>, StoreError> {
    let stored = accounts::list(connection)?;
    let mut now = history::accounts_now(connection)?.objects();
    for account in &mut now {
        let Some(stored) = stored
            .iter()
            .find(|stored| account["account"] == stored.account.name)
        else {
            continue;
        };
        account["base_url"] = json!(stored.account.base_url);
        account["auth_file"] = json!(stored.account.auth_file);
        account["state_domain"] = json!(stored.account.state_domain);
        account["weight"] = json!(stored.account.weight);
        account["priority"] = json!(stored.account.priority);
        account["max_concurrent"] = json!(stored.account.max_concurrent);
        account["source"] = json!(stored.source);
        account["switch"] = json!(stored.switch);
        account["quota"] = json!(stored.quota);
    }
    Ok(now)
}

/// Adds one, or gives one a new key or address.
pub(super) async fn add(State(front): State<Front>, request: Request) -> Response {
    let described: Described = match read_json(request).await {
        Ok(described) => described,
        Err(refused) => return refused,
    };
    let (described, secret) = match described.checked() {
        Ok(checked) => checked,
        Err(message) => return errors::invalid_request(message),
    };
    let name = described.name.clone();
    let before = front
        .gateway
        .store
        .look(move |connection| accounts::named(connection, &name));
    let before = match before.await {
        Ok(before) => before,
        Err(error) => return errors::unreadable(&error),
    };
    let account = match described.over(before.as_ref()) {
        Ok(account) => account,
        Err(message) => return errors::invalid_request(message),
    };
    if let Some(path) = account.auth_file.clone() {
        let read = move || path.is_absolute() && auth_file::read(&path).is_ok();
        // What else is at a path of this machine is not told.
        if !tokio::task::spawn_blocking(read).await.unwrap_or(false) {
            let message = "auth_file is no absolute path of a file that holds a ChatGPT login, and that only \
                           its owner can read";
            return errors::invalid_request(message.to_owned());
        }
    }
    let name = account.name.clone();
    let seal_key = front.seal_key.clone();
    let change = front.gateway.store.change(move |connection| {
        let seal = Seal::open(&seal_key)?;
        accounts::add(connection, &seal, &account, secret.as_ref(), now_ms())
    });
    let told = json!({ "account": name });
    made(&front, "account", &name, change.await, told).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    #[serde(default)]
    force: bool,
}

/// Removes one; one on which conversations live, only with `?force=true`.
pub(super) async fn remove(
    State(front): State<Front>,
    Path(name): Path<String>,
    removal: Result<Query<Removal>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let force = match removal {
        Ok(Query(removal)) => removal.force,
        Err(error) => return errors::invalid_request(error.body_text()),
    };
    let asked = name.clone();
    let change = front
        .gateway
        .store
        .change(move |connection| accounts::remove(connection, &asked, force, now_ms()));
    let told = json!({ "account": name });
    made(&front, "account", &name, change.await, told).await
}

/// Uses it again, and forgets what kept it away.
pub(super) async fn enable(State(front): State<Front>, Path(name): Path<String>) -> Response {
    switch(&front, name, Switch::On).await
}

/// Uses it no more.
pub(super) async fn disable(State(front): State<Front>, Path(name): Path<String>) -> Response {
    switch(&front, name, Switch::Off).await
}

/// Lets nothing new begin on it.
pub(super) async fn drain(State(front): State<Front>, Path(name): Path<String>) -> Response {
    switch(&front, name, Switch::Draining).await
}

async fn switch(front: &Front, name: String, switch: Switch) -> Response {
    let asked = name.clone();
    let change = front
        .gateway
        .store
        .change(move |connection| accounts::switch(connection, &asked, switch, None));
    let told = json!({ "account": name, "switch": switch });
    made(front, "account", &name, change.await, told).await
}
