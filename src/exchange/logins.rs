//! A login that has ended, until a person has logged in again: that is seen in its file, and nobody
//! needs to tell.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method, StatusCode};

use crate::account::{Account, AccountId, Credential, Signal};
use crate::clock::now_ms;
use crate::limits;
use crate::store::Work;
use crate::upstream::auth_file::Stamp;
use crate::upstream::http::{Outgoing, OutgoingBody, SendError};

use super::models::{self, CODEX_VERSION};
use super::{Gateway, standing_row};

/// What was seen of the logins that have ended. Belongs to the one task that looks at them.
#[derive(Debug, Default)]
pub struct Ended(HashMap<AccountId, Seen>);

#[derive(Debug)]
struct Seen {
    file: Option<Stamp>,
    /// When the same file is worth another try; `None` if its login is known to be no good.
    again: Option<Instant>,
}

/// What an upstream says of a login.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    NoGood,
    Unknown,
}

impl Ended {
    /// Looks at the files of all logins that have ended, and asks the upstreams of those that were
    /// written anew. An account whose login is taken is used again.
    pub async fn look(&mut self, gateway: &Gateway) {
        let expired = gateway.pool.expired();
        self.0
            .retain(|known, _| expired.iter().any(|account| account.id == *known));
        for account in expired {
            if let Credential::AuthFile(path) = &account.credential {
                self.look_at(gateway, &account, path).await;
            }
        }
    }

    async fn look_at(&mut self, gateway: &Gateway, account: &Arc<Account>, path: &Path) {
        let path = path.to_owned();
        // Before the login is read: what is written meanwhile is seen at the next look.
        let looked = tokio::task::spawn_blocking(move || Stamp::of(&path)).await;
        let Ok(file) = looked else { return };
        if self.0.get(&account.id).is_some_and(|seen| seen.knows(file)) {
            return;
        }
        let verdict = ask(gateway, account).await;
        if verdict == Verdict::Good {
            return use_again(gateway, account).await;
        }
        tracing::info!(
            account = account.name,
            "there is no login in its file that is good"
        );
        let again = (verdict == Verdict::Unknown).then(|| Instant::now() + limits::LOGIN_LOOK_AGAIN);
        self.0.insert(account.id, Seen { file, again });
    }
}

impl Seen {
    fn knows(&self, file: Option<Stamp>) -> bool {
        self.file == file && self.again.is_none_or(|again| Instant::now() < again)
    }
}

/// Asks for the list of models, which costs nothing: whoever gets it is let in.
async fn ask(gateway: &Gateway, account: &Account) -> Verdict {
    let models = Outgoing {
        method: Method::GET,
        path_and_query: format!("/models?client_version={CODEX_VERSION}"),
        headers: HeaderMap::new(),
        body: OutgoingBody::Pieces(Vec::new()),
    };
    let sent = tokio::time::timeout(limits::ASKING, gateway.upstream.send(account, models));
    match sent.await {
        Ok(Ok(answer)) => match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Verdict::NoGood,
            // Who is limited is known.
            status if status.is_success() || status == StatusCode::TOO_MANY_REQUESTS => Verdict::Good,
            _ => Verdict::Unknown,
        },
        Ok(Err(SendError::LoginEnded(_))) => Verdict::NoGood,
        Ok(Err(_)) | Err(_) => Verdict::Unknown,
    }
}

async fn use_again(gateway: &Gateway, account: &Account) {
    tracing::info!(
        account = account.name,
        "logged in again; the account is used again"
    );
    let Some(changed) = gateway.pool.note(account.id, &Signal::Worked, now_ms()) else {
        return;
    };
    let work = Work {
        standing: Some(standing_row(changed)),
        ..Work::default()
    };
    // What cannot be written now is kept, and written later.
    gateway.store.write(work).await.ok();
    models::refresh_missing(gateway).await;
}
