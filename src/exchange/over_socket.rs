//! An attempt over a WebSocket to the account: over the one that is open, or a new one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, StatusCode};

use crate::account::{Account, AccountId};
use crate::affinity::ConnectionId;
use crate::clock::now_ms;
use crate::limits;
use crate::upstream::auth_file::Login;
use crate::upstream::http::{Incoming, SendError};
use crate::upstream::socket::{Opened, Socket};

use super::Gateway;
use super::connection::Connection;
use super::kept::{Chain, OnLine, Room};
use super::way::{OverSocket, Place, Way};

/// Accounts that refused an upgrade, and until when that is believed. A new base URL is a new try.
#[derive(Debug, Default)]
pub struct HttpOnly(Mutex<HashMap<AccountId, (String, i64)>>);

impl HttpOnly {
    fn known(&self) -> MutexGuard<'_, HashMap<AccountId, (String, i64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an account is known to speak HTTP only.
    pub fn holds(&self, account: &Account) -> bool {
        let known = self.known();
        let known = known.get(&account.id);
        known.is_some_and(|(base_url, until_ms)| *base_url == account.base_url && now_ms() < *until_ms)
    }

    fn add(&self, account: &Account) {
        let lifetime_ms = i64::try_from(limits::HTTP_ONLY_FOR.as_millis()).unwrap_or(0);
        let until_ms = now_ms() + lifetime_ms;
        self.known()
            .insert(account.id, (account.base_url.clone(), until_ms));
    }
}

type Sent = (Result<Incoming, SendError>, Option<ConnectionId>);

/// Sends a request over the connection that holds what it follows, or over one to this account that
/// serves it. Where the account speaks HTTP only, or no further connection is to be had, it goes that
/// way.
pub(super) async fn send(gateway: &Gateway, account: &Account, asked: OverSocket) -> Sent {
    let first_event = gateway.upstream.first_byte();
    let ask = async |line: OnLine| {
        if asked.is_instructed {
            line.socket.instruct();
        }
        let id = line.socket.id;
        let lane = asked.lane.clone();
        let answer = line.socket.ask(lane, &asked.event, first_event, line.turn).await;
        (answer, Some(id))
    };
    if let Some(line) = asked.held_by {
        let forgotten = || SendError::Forgotten(asked.follows.clone().unwrap_or_default());
        // Another account of the same state domain does not have what one connection alone holds.
        if line.socket.account != account.id {
            return (Err(forgotten()), None);
        }
        return match ask(line).await {
            (Err(SendError::NotSent(_)), _) => (Err(forgotten()), None),
            sent => sent,
        };
    }
    if let Some(line) = asked.place.open(gateway, account) {
        match ask(line).await {
            // It was lost meanwhile: a new one takes its place.
            (Err(SendError::NotSent(_)), _) => {}
            sent => return sent,
        }
    }
    let mut refused: Option<Arc<Login>> = None;
    let mut tries = 1;
    loop {
        let headers = asked.headers.clone();
        let line = match open(gateway, account, &asked.place, headers, refused.as_deref()).await {
            Ok(Fresh::Line(line)) => line,
            Ok(Fresh::Refused(incoming)) => return (Ok(incoming), None),
            Ok(Fresh::Nothing) => return (otherwise(gateway, account, asked.otherwise).await, None),
            Err(error) => return (Err(error), None),
        };
        let login = line.socket.login();
        match ask(line).await {
            sent if tries == limits::LOGIN_TRIES => return sent,
            // As over HTTP: it was not looked at, and is sent again with another access token.
            (Ok(incoming), _) if incoming.status == StatusCode::UNAUTHORIZED && login.is_some() => {
                refused = login;
            }
            // It is the connection of another lane, which has just learnt that.
            (Err(SendError::NotSent(_)), _) => {}
            sent => return sent,
        }
        tries += 1;
    }
}

/// Sends a request that no WebSocket could be opened for.
async fn otherwise(gateway: &Gateway, account: &Account, way: Option<Way>) -> Result<Incoming, SendError> {
    match way {
        Some(Way::Http(outgoing)) => gateway.upstream.send(account, outgoing).await,
        Some(Way::Here(events)) => Ok(Incoming::of_events(events)),
        Some(Way::Socket(_)) | None => Err(SendError::NotSent("no connection could be opened".to_owned())),
    }
}

/// What became of a connection that was to be opened.
enum Fresh {
    Line(OnLine),
    /// The account said no, as it would to any request.
    Refused(Incoming),
    /// There is none: the account speaks HTTP only, or no further one is to be had.
    Nothing,
}

async fn open(
    gateway: &Gateway,
    account: &Account,
    place: &Place,
    headers: HeaderMap,
    refused: Option<&Login>,
) -> Result<Fresh, SendError> {
    let Some(reserved) = place.reserve(gateway, account) else {
        return Ok(Fresh::Nothing);
    };
    let opened = gateway
        .upstream
        .open_socket(account, "/responses", headers, refused);
    Ok(match opened.await? {
        Opened::Socket(socket) => Fresh::Line(reserved.keep(gateway, socket)),
        Opened::Refused(incoming) => Fresh::Refused(incoming),
        Opened::NotNow => Fresh::Nothing,
        Opened::HttpOnly => {
            gateway.http_only.add(account);
            Fresh::Nothing
        }
    })
}

/// Where a connection is kept that is about to be opened.
enum Reserved<'a> {
    Client(&'a Connection),
    Kept(&'a Chain, Room),
}

impl Place {
    /// A connection to the account that is open and may serve.
    fn open(&self, gateway: &Gateway, account: &Account) -> Option<OnLine> {
        let age_max = gateway.settings.socket_age;
        match self {
            Place::Client(connection) => {
                let socket = connection.socket_to(account.id, age_max)?;
                Some(OnLine { socket, turn: None })
            }
            Place::Kept { chain, replaces } => {
                let may_serve = replaces.then(|| gateway.kept.idle(account.id, chain, age_max));
                may_serve.flatten()
            }
        }
    }

    /// Room for another connection. `None` if there is none.
    fn reserve(&self, gateway: &Gateway, account: &Account) -> Option<Reserved<'_>> {
        Some(match self {
            Place::Client(connection) => Reserved::Client(connection),
            Place::Kept { chain, .. } => Reserved::Kept(chain, gateway.kept.room_for(account.id)?),
        })
    }
}

impl Reserved<'_> {
    fn keep(self, gateway: &Gateway, socket: Arc<Socket>) -> OnLine {
        match self {
            Reserved::Client(connection) => OnLine {
                socket: connection.keep_socket(socket),
                turn: None,
            },
            Reserved::Kept(chain, room) => gateway.kept.keep(room, chain.clone(), socket),
        }
    }
}
