//! Opens a WebSocket to an account with its credential, within a bound on how many there are.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Socket;
use crate::account::{Account, AccountId, Credential, Secret};
use crate::affinity::ConnectionId;
use crate::limits;
use crate::upstream::auth_file::Login;
use crate::upstream::client::{ClientError, ResponseBody};
use crate::upstream::headers;
use crate::upstream::http::{Incoming, IncomingBody, SendError, Upstream, bearer};
use crate::upstream::together::Together;

/// The WebSockets that are open or about to be, by account.
#[derive(Debug, Default, Clone)]
pub struct OpenSockets(Arc<Mutex<HashMap<AccountId, HashSet<ConnectionId>>>>);

/// The place of one among them. It is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    all: OpenSockets,
    account: AccountId,
    pub(super) id: ConnectionId,
}

impl OpenSockets {
    fn ids(&self) -> MutexGuard<'_, HashMap<AccountId, HashSet<ConnectionId>>> {
        // A map is whole between any two calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more, if there is room.
    pub(super) fn take(&self, account: AccountId) -> Option<Place> {
        let mut ids = self.ids();
        let of_account = ids.entry(account).or_default();
        (of_account.len() < limits::SOCKETS_PER_ACCOUNT_MAX).then(|| {
            let id = ConnectionId::new();
            of_account.insert(id);
            Place {
                all: self.clone(),
                account,
                id,
            }
        })
    }

    fn has(&self, id: ConnectionId) -> bool {
        self.ids().values().any(|ids| ids.contains(&id))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut ids = self.all.ids();
        if let Some(of_account) = ids.get_mut(&self.account) {
            of_account.remove(&self.id);
            if of_account.is_empty() {
                ids.remove(&self.account);
            }
        }
    }
}

/// What became of an upgrade.
#[derive(Debug)]
pub enum Opened {
    /// It is open.
    Socket(Arc<Socket>),
    /// The account said no: about itself, as it would to any request.
    Refused(Incoming),
    /// The account's upstream speaks HTTP only, or cannot be reached by WebSocket from here.
    HttpOnly,
    /// There is no room for another, or something failed that says nothing about the account.
    NotNow,
}

impl Upstream {
    /// Whether a WebSocket to an account is open.
    pub fn has_socket(&self, id: ConnectionId) -> bool {
        self.sockets.has(id)
    }

    /// Opens a WebSocket to an account with its credential; where that is a login, with another than
    /// the one that was `refused`.
    ///
    /// # Errors
    /// If no answer came.
    pub async fn open_socket(
        &self,
        account: &Account,
        path: &str,
        mut headers: HeaderMap,
        refused: Option<&Login>,
    ) -> Result<Opened, SendError> {
        let Some(place) = self.sockets.take(account.id) else {
            return Ok(Opened::NotNow);
        };
        for name in [CONTENT_TYPE, CONTENT_LENGTH, ACCEPT] {
            headers.remove(name);
        }
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        let upgrade = Upgrade {
            address: Uri::try_from(format!("{}{path}", account.base_url))
                .map_err(|error| SendError::NotSent(error.to_string()))?,
            headers,
        };
        let (answered, login) = match &account.credential {
            Credential::Key(secret) => (self.upgrade(&upgrade, secret).await?, None),
            Credential::AuthFile(file) => {
                let (answered, login) = Box::pin(self.upgrade_as(file, upgrade, refused)).await?;
                (answered, Some(login))
            }
            Credential::None => return Err(SendError::NotSent("this account has no key".to_owned())),
        };
        let Some((response, is_accepted)) = answered else {
            return Ok(Opened::HttpOnly);
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(refusal_of_upgrade(response));
        }
        if !is_accepted {
            return Ok(Opened::HttpOnly);
        }
        let greeting = response.headers().clone();
        match hyper::upgrade::on(response).await {
            Ok(upgraded) => {
                let socket = Socket::start(upgraded, greeting, account.id, login, place, self.ping).await;
                Ok(Opened::Socket(socket))
            }
            Err(error) => Err(SendError::NotSent(error.to_string())),
        }
    }

    /// Asks with the login of a file; with another where its access token is refused, as over HTTP.
    async fn upgrade_as(
        &self,
        file: &Path,
        mut upgrade: Upgrade,
        refused: Option<&Login>,
    ) -> Result<(Answered, Arc<Login>), SendError> {
        let mut login = match refused {
            None => self.login(file).await?,
            Some(refused) => self.login_after_refusal(file, refused).await?,
        };
        let mut tries = 1;
        loop {
            headers::identify(&mut upgrade.headers, &login)
                .map_err(|_| SendError::NotSent("the id of the login is no header value".to_owned()))?;
            let answered = self.upgrade(&upgrade, &login.access_token).await?;
            let is_refused = |(response, _): &(Response<ResponseBody>, bool)| {
                response.status() == StatusCode::UNAUTHORIZED
            };
            if !answered.as_ref().is_some_and(is_refused) || tries == limits::LOGIN_TRIES {
                return Ok((answered, login));
            }
            login = self.login_after_refusal(file, &login).await?;
            tries += 1;
        }
    }

    /// Asks once. `None` if there is no way from here on which an upgrade can be asked for.
    async fn upgrade(&self, upgrade: &Upgrade, secret: &Secret) -> Result<Answered, SendError> {
        let key = generate_key();
        let mut request = Request::new(Empty::new().map_err(|never| match never {}).boxed());
        *request.uri_mut() = upgrade.address.clone();
        *request.headers_mut() = upgrade.headers.clone();
        request.headers_mut().insert(
            SEC_WEBSOCKET_KEY,
            HeaderValue::try_from(&key).map_err(|error| SendError::NotSent(error.to_string()))?,
        );
        request.headers_mut().insert(AUTHORIZATION, bearer(secret)?);
        let answered = tokio::time::timeout(limits::SOCKET_HANDSHAKE, self.client.upgrade(request)).await;
        match answered {
            Err(_) => Err(SendError::NotSent("the upgrade took too long".to_owned())),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(response))) => {
                let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT);
                let expected = derive_accept_key(key.as_bytes());
                let is_accepted = accepted.map(HeaderValue::as_bytes) == Some(expected.as_bytes());
                Ok(Some((response, is_accepted)))
            }
            // Nothing was asked yet.
            Ok(Err(ClientError::NotSent(reason) | ClientError::Unanswered(reason))) => {
                Err(SendError::NotSent(reason))
            }
        }
    }
}

/// A request for an upgrade, without who asks.
struct Upgrade {
    address: Uri,
    headers: HeaderMap,
}

/// The answer to an upgrade, and whether its key is the one that was asked for.
type Answered = Option<(Response<ResponseBody>, bool)>;

/// An upstream that knows no upgrade says so in one of many ways; what is about the account is like
/// any other answer of it.
fn refusal_of_upgrade(response: Response<ResponseBody>) -> Opened {
    let status = response.status();
    match status.as_u16() {
        // About the account: over HTTP it would say the same.
        401 | 402 | 429 => {}
        // A fault, or somebody in between: HTTP tells what it is.
        403 | 408 | 409 | 500 | 502.. => return Opened::NotNow,
        _ => return Opened::HttpOnly,
    }
    let (head, body) = response.into_parts();
    Opened::Refused(Incoming {
        status: head.status,
        headers: head.headers,
        body: IncomingBody::Http(Together::new(body)),
    })
}
