//! A client's WebSocket as its exchanges see it: what can be continued on it alone, and where that
//! is held.
//!
//! Its own connections to accounts are one each, by the client's connection and not by conversation:
//! its lanes may fork from each other, which upstreams allow within one connection only, and a client
//! opens a connection for each of its sessions anyway.
//!
//! A response that is not stored lives in the memory of one connection. Where the account's
//! upstream speaks HTTP only, that memory is here: the items of the newest response of each lane,
//! written out in full when the next request follows it. It ends with the connection, and is never
//! written down.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::account::AccountId;
use crate::affinity::ConnectionId;
use crate::request::event::{ClientEvent, History, Lane};
use crate::response::events::Event;
use crate::upstream::socket::Socket;

/// The clients' WebSockets that are open.
#[derive(Debug, Default, Clone)]
pub struct Connections(Arc<Mutex<HashSet<ConnectionId>>>);

impl Connections {
    fn ids(&self) -> MutexGuard<'_, HashSet<ConnectionId>> {
        // A set is whole between any two calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this one is open.
    pub(super) fn has(&self, id: ConnectionId) -> bool {
        self.ids().contains(&id)
    }
}

/// A client's WebSocket.
#[derive(Debug)]
pub struct Connection {
    /// Its identity.
    pub id: ConnectionId,
    /// The newest response of each lane that is held here.
    held: Mutex<HashMap<Lane, Held>>,
    /// How many bytes the histories of all lanes may have.
    history_bytes_max: usize,
    /// Its own connections to accounts: one each, shared by its lanes.
    sockets: Mutex<HashMap<AccountId, Arc<Socket>>>,
    all: Connections,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.ids().remove(&self.id);
    }
}

/// A response that is held here, with all that came before it.
#[derive(Debug)]
struct Held {
    response_id: String,
    history: Arc<History>,
}

/// What a request brings that came over a WebSocket.
#[derive(Debug, Clone)]
pub struct OnConnection {
    /// Which one.
    pub connection: Arc<Connection>,
    /// What was read of its event.
    pub event: Arc<ClientEvent>,
}

impl Connection {
    /// A connection that has just begun.
    pub fn new(all: &Connections, history_bytes_max: usize) -> Connection {
        let id = ConnectionId::new();
        all.ids().insert(id);
        Connection {
            id,
            all: all.clone(),
            held: Mutex::default(),
            sockets: Mutex::default(),
            history_bytes_max,
        }
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<AccountId, Arc<Socket>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its connection to an account, if it is open and young enough for another turn.
    pub(super) fn socket_to(&self, account: AccountId, age_max: Duration) -> Option<Arc<Socket>> {
        let mut sockets = self.sockets();
        let serves = |socket: &&Arc<Socket>| socket.is_open() && socket.age() < age_max;
        let socket = sockets.get(&account).filter(serves).cloned();
        if socket.is_none() {
            // What runs on it keeps it until it ends.
            sockets.remove(&account);
        }
        socket
    }

    /// The connection of this identity, if it is one of those.
    pub(super) fn socket(&self, id: ConnectionId, age_max: Duration) -> Option<Arc<Socket>> {
        let account = self.sockets().values().find(|socket| socket.id == id)?.account;
        self.socket_to(account, age_max)
    }

    /// Keeps a connection that was opened for it. One that another lane has opened meanwhile stays.
    pub(super) fn keep_socket(&self, opened: Arc<Socket>) -> Arc<Socket> {
        let mut sockets = self.sockets();
        let kept = sockets.entry(opened.account).or_insert_with(|| opened.clone());
        if !kept.is_open() {
            *kept = opened;
        }
        kept.clone()
    }

    /// The connection on which a response runs.
    pub fn running(&self, response_id: &str) -> Option<Arc<Socket>> {
        let sockets = self.sockets();
        sockets.values().find(|socket| socket.runs(response_id)).cloned()
    }

    /// Whether it is connected to any account itself.
    pub fn has_sockets(&self) -> bool {
        self.sockets().values().any(|socket| socket.is_open())
    }

    /// A connection that can be spoken to, if there is only one.
    pub fn only_socket(&self) -> Option<Arc<Socket>> {
        let sockets = self.sockets();
        let mut open = sockets.values().filter(|socket| socket.is_open());
        let first = open.next()?;
        open.next().is_none().then(|| first.clone())
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Lane, Held>> {
        // A map is whole between any two calls.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands for a response that is held here.
    pub(super) fn history(&self, response_id: &str) -> Option<Arc<History>> {
        let held = self.held();
        let found = held.values().find(|held| held.response_id == response_id)?;
        Some(found.history.clone())
    }

    /// Holds a response instead of the one before it in its lane. Where there is no room for all lanes,
    /// the others give way; what alone is too large could not be sent any more. The client is told that
    /// it is not here, and sends all of it anew, or shorter.
    fn hold(&self, lane: Lane, new: Held) {
        let mut held = self.held();
        held.remove(&lane);
        let others: usize = held.values().map(Held::bytes).sum();
        if new.bytes() + others > self.history_bytes_max {
            held.clear();
        }
        if new.bytes() <= self.history_bytes_max {
            held.insert(lane, new);
        }
    }
}

impl Held {
    fn bytes(&self) -> usize {
        self.history.items.iter().map(Bytes::len).sum()
    }
}

/// Why a response that one connection alone knew cannot be gone on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// The connection has ended; every one does with the gateway.
    ConnectionEnded,
    /// It is a connection that others speak on.
    OtherConnection,
    /// What runs on it took too long.
    ConnectionBusy,
    /// A newer one has taken its place, or its room.
    Replaced,
    /// What went on from it failed, and took it along.
    Dropped,
    /// The account cannot serve now, and on a WebSocket it is as good as lost: all of it can be sent again.
    AccountLimited,
}

impl Lost {
    /// As the row says it.
    pub(super) fn reason(self) -> String {
        let why = match self {
            Lost::ConnectionEnded => "connection_ended",
            Lost::OtherConnection => "other_connection",
            Lost::ConnectionBusy => "connection_busy",
            Lost::Replaced => "replaced",
            Lost::Dropped => "dropped",
            Lost::AccountLimited => "account_limited",
        };
        format!("lost={why}")
    }
}

/// A response that will be held here, while it comes.
#[derive(Debug)]
pub struct Keeping {
    connection: Arc<Connection>,
    lane: Lane,
    /// What was sent: the items before, and those of the request.
    history: History,
    /// What is answered, by its place.
    output: Vec<(u64, Bytes)>,
}

impl Keeping {
    /// The answer to a request with these items, which follows what `before` stands for; without
    /// that, what the upstream holds, or nothing.
    pub(super) fn new(on: &OnConnection, before: Option<&History>, items: Bytes) -> Keeping {
        let follows = || History {
            root: on.event.previous_response_id.clone(),
            items: Vec::new(),
        };
        let mut history = before.cloned().unwrap_or_else(follows);
        // A copy: the event that it stands in has much else.
        history.items.push(Bytes::copy_from_slice(&items));
        Keeping {
            connection: on.connection.clone(),
            lane: on.event.lane.clone(),
            history,
            output: Vec::new(),
        }
    }

    /// Takes an item of the answer.
    pub fn take_item(&mut self, event: &Event<'_>) {
        self.output.extend(event.item_done());
    }

    /// Holds the response from now on. To be called before its last event leaves.
    pub fn hold(mut self, response_id: String) {
        self.output.sort_by_key(|(place, _)| *place);
        let output = self.output.into_iter().map(|(_, item)| item);
        self.history.items.extend(output);
        let held = Held {
            response_id,
            history: Arc::new(self.history),
        };
        self.connection.hold(self.lane, held);
    }
}
