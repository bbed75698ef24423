//! ChatGPT logins: the access token that is good now, and its renewal.
//!
//! A refresh token works once, and whoever uses it a second time loses the login. So one renewal runs
//! at a time: within the process behind a mutex, among processes behind a lock beside the file, and the
//! file is read again before the token is spent. The new tokens are on the disk before they are used. A
//! renewal that has begun is carried through, whatever becomes of the request that needed it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::Deserialize;
use tokio::sync::Mutex as Turns;
use tokio::task::JoinHandle;

use super::auth_file::{self, Document, Locked, Login, Renewed, Successor, Unusable};
use super::client::{Client, ClientError};
use crate::account::Secret;
use crate::clock::now_ms;
use crate::limits;

/// Where ChatGPT logins are renewed, unless the configuration says otherwise.
pub const TOKEN_URL: &str = "https://auth.openai.com/oauth/token";

/// For whom Codex CLI's logins are made: a refresh token is good for no other.
const CLIENT_ID: &str = "app_EMoamEEZ73f0CkXaXp7hrann";

/// The codes after which only a person can log in again.
const ENDED: [&str; 3] = [
    "refresh_token_expired",
    "refresh_token_reused",
    "refresh_token_invalidated",
];

/// Why there is no access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoToken {
    /// A person must log in again. Why, as a code.
    Ended(String),
    /// It may go better later. Why, in words for the operator.
    NotNow(String),
}

/// The logins of all accounts that have one.
#[derive(Debug)]
pub struct Logins {
    client: Client,
    token_url: String,
    held: Mutex<HashMap<PathBuf, Arc<Held>>>,
}

/// The login of one file.
#[derive(Debug, Default)]
struct Held {
    path: PathBuf,
    login: Mutex<Option<Arc<Login>>>,
    /// One renewal at a time.
    renewing: Turns<Renewing>,
}

/// What the renewals before left behind.
#[derive(Debug, Default)]
struct Renewing {
    /// Why the last one failed, and when.
    failure: Option<(Instant, String)>,
    /// The refresh token with which nothing can be had any more, and why.
    ended: Option<(Secret, String)>,
    /// What a refresh token was spent for, and could not be written.
    unwritten: Option<(Secret, Renewed)>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logins {
    pub(super) fn new(client: Client, token_url: String) -> Logins {
        Logins {
            client,
            token_url,
            held: Mutex::default(),
        }
    }

    fn held(&self, path: &Path) -> Arc<Held> {
        let mut all = locked(&self.held);
        if let Some(held) = all.get(path) {
            return held.clone();
        }
        let held = Arc::new(Held {
            path: path.to_owned(),
            ..Held::default()
        });
        all.insert(path.to_owned(), held.clone());
        held
    }

    /// The login to use now. One that is about to end is renewed meanwhile.
    ///
    /// # Errors
    /// If there is none.
    pub(super) async fn current(&self, path: &Path) -> Result<Arc<Login>, NoToken> {
        let held = self.held(path);
        if let Some(login) = held.good(None) {
            return Ok(login);
        }
        match held.known().filter(|login| is_valid(login, None)) {
            Some(login) => {
                if held.renewing.try_lock().is_ok() {
                    drop(self.begin(held, None));
                }
                Ok(login)
            }
            None => ended(self.begin(held, None).await),
        }
    }

    /// The login to use instead of one whose token was refused: somebody else's who has renewed it
    /// meanwhile, or a renewed one.
    ///
    /// # Errors
    /// If there is none.
    pub(super) async fn after_refusal(&self, path: &Path, refused: &Login) -> Result<Arc<Login>, NoToken> {
        ended(
            self.begin(self.held(path), Some(refused.access_token.clone()))
                .await,
        )
    }

    /// Waits until no renewal runs: a process that ends in its middle would lose the new tokens.
    pub async fn settled(&self) {
        let all: Vec<Arc<Held>> = locked(&self.held).values().cloned().collect();
        for held in all {
            let wait = limits::LOGIN_RENEWAL + limits::AUTH_FILE_LOCK;
            tokio::time::timeout(wait, held.renewing.lock()).await.ok();
        }
    }

    /// Begins to renew, in a task of its own: the request may be given up, the renewal must not.
    fn begin(&self, held: Arc<Held>, refused: Option<Secret>) -> JoinHandle<Result<Arc<Login>, NoToken>> {
        let place = Place {
            client: self.client.clone(),
            token_url: self.token_url.clone(),
        };
        tokio::spawn(async move { held.renew(&place, refused.as_ref()).await })
    }
}

fn ended(
    renewed: Result<Result<Arc<Login>, NoToken>, tokio::task::JoinError>,
) -> Result<Arc<Login>, NoToken> {
    renewed.unwrap_or_else(|error| Err(NoToken::NotNow(error.to_string())))
}

/// Where logins are renewed, and how it is reached.
struct Place {
    client: Client,
    token_url: String,
}

impl Held {
    fn known(&self) -> Option<Arc<Login>> {
        locked(&self.login).clone()
    }

    /// The login that is known, if its token is not about to end and is not the one that was refused.
    fn good(&self, refused: Option<&Secret>) -> Option<Arc<Login>> {
        self.known().filter(|login| is_good(login, refused))
    }

    fn keep(&self, login: Login) -> Arc<Login> {
        let login = Arc::new(login);
        *locked(&self.login) = Some(login.clone());
        login
    }

    async fn renew(&self, place: &Place, refused: Option<&Secret>) -> Result<Arc<Login>, NoToken> {
        let mut renewing = self.renewing.lock().await;
        if let Some(login) = self.good(refused) {
            return Ok(login);
        }
        let failed = renewing.failure.clone();
        let pause = failed.filter(|(at, _)| at.elapsed() < limits::LOGIN_RENEWAL_PAUSE);
        let is_pause = pause.is_some();
        let result = match pause {
            Some((_, reason)) => self.look_only(refused, reason).await,
            None => self.look_and_renew(place, refused, &mut renewing).await,
        };
        match result {
            Ok(login) => {
                renewing.failure = None;
                Ok(login)
            }
            Err(NoToken::NotNow(reason)) => {
                if !is_pause {
                    tracing::warn!(path = %self.path.display(), reason, "a login could not be renewed now");
                    renewing.failure = Some((Instant::now(), reason.clone()));
                }
                // What is good for some minutes still serves, and a later request tries again.
                let valid = self.known().filter(|login| is_valid(login, refused));
                valid.ok_or(NoToken::NotNow(reason))
            }
            Err(ended) => Err(ended),
        }
    }

    /// Reads the file soon after a failure: somebody may have put it right, or renewed it, meanwhile.
    /// Nothing is asked for, and nothing waited for.
    async fn look_only(&self, refused: Option<&Secret>, reason: String) -> Result<Arc<Login>, NoToken> {
        match self.read_once().await? {
            Ok(login) if is_good(&login, refused) => Ok(self.keep(login)),
            _ => Err(NoToken::NotNow(reason)),
        }
    }

    /// Reads the file, and renews what it holds only if that is not good.
    async fn look_and_renew(
        &self,
        place: &Place,
        refused: Option<&Secret>,
        renewing: &mut Renewing,
    ) -> Result<Arc<Login>, NoToken> {
        let login = self.read().await?;
        if is_valid(&login, refused) {
            self.keep(login.clone());
        }
        if is_good(&login, refused) {
            return Ok(self.keep(login));
        }
        let path = self.path.clone();
        let lock = blocking(move || Locked::wait(&path)).await?;
        // Whoever had the lock before may have renewed it.
        let login = self.read().await?;
        if is_good(&login, refused) {
            return Ok(self.keep(login));
        }
        let Some(refresh_token) = login.refresh_token else {
            return Err(NoToken::Ended("no_refresh_token".to_owned()));
        };
        if let Some((_, code)) = renewing
            .ended
            .as_ref()
            .filter(|(spent, _)| *spent == refresh_token)
        {
            return Err(NoToken::Ended(code.clone()));
        }
        // What cannot be written must not be asked for.
        let successor = blocking(move || lock.successor()).await?;
        let unwritten = renewing
            .unwritten
            .take()
            .filter(|(spent, _)| *spent == refresh_token);
        let renewed = match unwritten {
            Some((_, renewed)) => renewed,
            None => {
                let why = refused.map_or("proactive_expiry", |_| "unauthorized_recovery");
                match place.ask(&refresh_token, why).await {
                    Ok(renewed) => renewed,
                    Err(NoToken::Ended(code)) => return self.look_again(refresh_token, code, renewing).await,
                    Err(not_now) => return Err(not_now),
                }
            }
        };
        match self.write(successor, renewed.clone()).await {
            Ok(login) => {
                tracing::info!(path = %self.path.display(), "login renewed");
                Ok(self.keep(login))
            }
            Err(error) => {
                // Not used before it is written: it is kept, and written by the next who comes.
                renewing.unwritten = Some((refresh_token, renewed));
                Err(error)
            }
        }
    }

    async fn write(&self, successor: Successor, renewed: Renewed) -> Result<Login, NoToken> {
        let path = self.path.clone();
        blocking(move || {
            let mut document = Document::read(&path).map_err(std::io::Error::other)?;
            document.renew(&renewed, &jiff::Timestamp::now().to_string());
            successor.write(&document)?;
            document.login(&path).map_err(std::io::Error::other)
        })
        .await
    }

    /// After a refusal: Codex itself takes no lock, may have been faster, and be writing now.
    async fn look_again(
        &self,
        refresh_token: Secret,
        code: String,
        renewing: &mut Renewing,
    ) -> Result<Arc<Login>, NoToken> {
        for _ in 0..limits::AUTH_FILE_LOOKS {
            match self.read().await {
                Ok(login) if login.refresh_token.as_ref() != Some(&refresh_token) => {
                    return Ok(self.keep(login));
                }
                _ => tokio::time::sleep(limits::AUTH_FILE_LOOK).await,
            }
        }
        renewing.ended = Some((refresh_token, code.clone()));
        Err(NoToken::Ended(code))
    }

    /// Reads the file. One that is in the middle of being written is looked at again: Codex CLI empties it
    /// before it writes it.
    async fn read(&self) -> Result<Login, NoToken> {
        for _ in 1..limits::AUTH_FILE_LOOKS {
            match self.read_once().await? {
                Err(Unusable::Unreadable(..)) => tokio::time::sleep(limits::AUTH_FILE_LOOK).await,
                read => return read.map_err(no_login),
            }
        }
        self.read_once().await?.map_err(no_login)
    }

    async fn read_once(&self) -> Result<Result<Login, Unusable>, NoToken> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || auth_file::read(&path));
        read.await.map_err(not_now)
    }
}

fn no_login(unusable: Unusable) -> NoToken {
    match unusable {
        Unusable::Missing(_) => NoToken::Ended("auth_file_missing".to_owned()),
        Unusable::NoLogin(_) => NoToken::Ended("no_chatgpt_login".to_owned()),
        other => NoToken::NotNow(other.to_string()),
    }
}

fn not_now(error: impl std::fmt::Display) -> NoToken {
    NoToken::NotNow(error.to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, NoToken> {
    let done = tokio::task::spawn_blocking(work);
    done.await.map_err(not_now)?.map_err(not_now)
}

/// Whether the token can be used without a second thought.
fn is_good(login: &Login, refused: Option<&Secret>) -> bool {
    let ahead_ms = i64::try_from(limits::LOGIN_RENEWED_AHEAD.as_millis()).unwrap_or(0);
    refused != Some(&login.access_token)
        && login
            .expires_at_ms
            .is_none_or(|end_ms| now_ms() < end_ms - ahead_ms)
}

/// Whether the token can still be used.
fn is_valid(login: &Login, refused: Option<&Secret>) -> bool {
    refused != Some(&login.access_token) && login.expires_at_ms.is_none_or(|end_ms| now_ms() < end_ms)
}

impl Place {
    /// Asks for new tokens.
    async fn ask(&self, refresh_token: &Secret, why: &str) -> Result<Renewed, NoToken> {
        let body = serde_json::json!({
            "client_id": CLIENT_ID, "grant_type": "refresh_token",
            "refresh_token": refresh_token.reveal(), "refresh_reason": why,
        });
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {});
        let mut request = Request::new(body.boxed());
        *request.method_mut() = Method::POST;
        *request.uri_mut() =
            Uri::try_from(&self.token_url).map_err(|error| NoToken::NotNow(error.to_string()))?;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(http::header::USER_AGENT, super::headers::OWN_NAME);
        let answered = async {
            let answer = self.client.send(request).await;
            let (head, body) = answer
                .map_err(|error| {
                    let (ClientError::NotSent(reason) | ClientError::Unanswered(reason)) = error;
                    NoToken::NotNow(format!("the place of renewal gave no answer: {reason}"))
                })?
                .into_parts();
            let body = Limited::new(body, limits::ERROR_BODY_BYTES_MAX).collect().await;
            let body = body.map_err(|error| NoToken::NotNow(error.to_string()))?;
            Ok((head.status, body.to_bytes()))
        };
        let Ok(answered) = tokio::time::timeout(limits::LOGIN_RENEWAL, answered).await else {
            return Err(NoToken::NotNow(
                "the place of renewal did not answer in time".to_owned(),
            ));
        };
        let (status, body) = answered?;
        if status.is_success() {
            let tokens: Tokens = serde_json::from_slice(&body)
                .map_err(|_| NoToken::NotNow("the place of renewal gave no tokens".to_owned()))?;
            return Ok(tokens.renewed());
        }
        match code(&body) {
            Some(code) if status.is_client_error() && ENDED.contains(&code.as_str()) => {
                Err(NoToken::Ended(code))
            }
            _ => Err(NoToken::NotNow(format!(
                "the place of renewal answered with status {}",
                status.as_u16()
            ))),
        }
    }
}

#[derive(Deserialize)]
struct Tokens {
    id_token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
}

impl Tokens {
    fn renewed(self) -> Renewed {
        let secret = |token: Option<String>| token.as_deref().and_then(Secret::new);
        Renewed {
            id_token: secret(self.id_token),
            access_token: secret(self.access_token),
            refresh_token: secret(self.refresh_token),
        }
    }
}

/// The code of an error: beside it, or within it, or all that it is.
fn code(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = &body["error"];
    let found = [&error["code"], error, &body["code"]];
    found
        .into_iter()
        .find_map(|code| code.as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_found_wherever_it_stands() {
        for body in [
            r#"{"error":{"code":"refresh_token_reused","message":"m"}}"#,
            r#"{"error":"refresh_token_reused"}"#,
            r#"{"code":"refresh_token_reused"}"#,
        ] {
            assert_eq!(code(body.as_bytes()).as_deref(), Some(ENDED[1]), "{body}");
        }
        assert_eq!(code(b"<html>"), None);
    }
}
