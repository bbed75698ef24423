//! An attempt over a WebSocket of the client's connection: over the one that is open, or a new one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::account::{Account, AccountId, Credential};
use crate::affinity::ConnectionId;
use crate::clock::now_ms;
use crate::limits;
use crate::upstream::http::{Incoming, SendError};
use crate::upstream::socket::Opened;

use super::Gateway;
use super::way::{OverSocket, Way};

/// Accounts that refused an upgrade, and until when that is believed. A new base URL is a new try.
#[derive(Debug, Default)]
pub struct HttpOnly(Mutex<HashMap<AccountId, (String, i64)>>);

impl HttpOnly {
    fn known(&self) -> MutexGuard<'_, HashMap<AccountId, (String, i64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an account is known to speak HTTP only. To those that are no bearer keys WebSockets are
    /// not opened.
    pub fn holds(&self, account: &Account) -> bool {
        if !matches!(account.credential, Credential::Key(_)) {
            return true;
        }
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

/// Sends a request over the connection that holds what it follows, or over the client's own to this
/// account. Where the account speaks HTTP only, it goes that way.
pub(super) async fn send(gateway: &Gateway, account: &Account, asked: OverSocket) -> Sent {
    let first_event = gateway.upstream.first_byte();
    let lane = asked.on.event.lane.clone();
    if let Some(socket) = &asked.held_by {
        // Another account of the same state domain does not have what one connection alone holds.
        if socket.account != account.id {
            let reason = "it is held by a connection to another account".to_owned();
            return (Err(SendError::NotSent(reason)), None);
        }
        return (socket.ask(lane, &asked.event, first_event).await, Some(socket.id));
    }
    let connection = &asked.on.connection;
    if let Some(socket) = connection.socket_to(account.id, gateway.settings.socket_age) {
        match socket.ask(lane.clone(), &asked.event, first_event).await {
            // It was lost meanwhile: a new one takes its place.
            Err(SendError::NotSent(_)) => {}
            sent => return (sent, Some(socket.id)),
        }
    }
    let opened = gateway
        .upstream
        .open_socket(account, "/responses", asked.headers)
        .await;
    match opened {
        Ok(Opened::Socket(socket)) => {
            let socket = connection.keep_socket(socket);
            (socket.ask(lane, &asked.event, first_event).await, Some(socket.id))
        }
        Ok(Opened::Refused(incoming)) => (Ok(incoming), None),
        Ok(opened @ (Opened::HttpOnly | Opened::NotNow)) => {
            if matches!(opened, Opened::HttpOnly) {
                gateway.http_only.add(account);
            }
            match asked.otherwise {
                Some(Way::Http(outgoing)) => (gateway.upstream.send(account, outgoing).await, None),
                Some(Way::Here(events)) => (Ok(Incoming::of_events(events)), None),
                Some(Way::Socket(_)) | None => {
                    let reason = "no connection could be opened".to_owned();
                    (Err(SendError::NotSent(reason)), None)
                }
            }
        }
        Err(error) => (Err(error), None),
    }
}
