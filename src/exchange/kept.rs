//! Connections to accounts that are kept for clients that speak HTTP.
//!
//! The backend of ChatGPT logins knows a response only on the WebSocket that made it, and only the
//! newest one. So that a client over HTTP can go on from what it was told, the connection stays open:
//! one for each chain, for no other scope of client keys, bounded in number, in idle time and in age.
//! When it is lost, so is the chain, and its client is told that at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::account::AccountId;
use crate::affinity::{ConnectionId, ConversationId};
use crate::limits;
use crate::upstream::socket::{Socket, Turn};

use super::connection::Lost;

/// The connections that are kept.
#[derive(Debug, Default)]
pub struct Kept {
    lines: Mutex<Vec<Line>>,
    /// How many more each account can have here, with those that are about to be.
    rooms: Mutex<HashMap<AccountId, Arc<Semaphore>>>,
}

/// The room of one of them, taken before it is opened. It is given back when it is dropped.
pub(super) type Room = OwnedSemaphorePermit;

/// Whose a chain is. Agents that share a conversation are told apart by what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) scope: String,
    pub(super) conversation: ConversationId,
    pub(super) shape: [u8; 32],
}

/// A connection that is kept.
#[derive(Debug)]
struct Line {
    chain: Chain,
    socket: Arc<Socket>,
    /// One request at a time: what follows waits for what it follows.
    turns: Arc<Semaphore>,
    used: Instant,
    /// Held for as long as it is kept.
    room: Room,
}

/// A connection with the right to ask on it.
#[derive(Debug, Clone)]
pub(super) struct OnLine {
    pub(super) socket: Arc<Socket>,
    /// Nothing on a client's own connection, whose lanes keep their order themselves.
    pub(super) turn: Option<Turn>,
}

impl Line {
    fn is_idle(&self) -> bool {
        self.turns.available_permits() > 0
    }

    /// The right to ask on it, if nobody else has it.
    fn try_take(&mut self) -> Option<OnLine> {
        let turn = self.turns.clone().try_acquire_owned().ok()?;
        self.used = Instant::now();
        Some(OnLine {
            socket: self.socket.clone(),
            turn: Some(Arc::new(turn)),
        })
    }
}

impl Kept {
    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        // A list is whole between any two calls.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that holds a response, once what runs on it has ended.
    ///
    /// # Errors
    /// If it is lost, or if what it holds is not this any more.
    pub(super) async fn holding(
        &self,
        connection: ConnectionId,
        scope: &str,
        response_id: &str,
        patience: Duration,
    ) -> Result<OnLine, Lost> {
        let turns = {
            let lines = self.lines();
            let line = lines.iter().find(|line| line.socket.id == connection);
            let line = line.filter(|line| line.chain.scope == scope);
            line.ok_or(Lost::ConnectionEnded)?.turns.clone()
        };
        let turn = tokio::time::timeout(patience, turns.acquire_owned()).await;
        let turn = turn
            .map_err(|_| Lost::ConnectionBusy)?
            .map_err(|_| Lost::ConnectionEnded)?;
        let mut lines = self.lines();
        let line = lines
            .iter_mut()
            .find(|line| line.socket.id == connection && line.socket.is_open());
        let line = line.ok_or(Lost::ConnectionEnded)?;
        line.used = Instant::now();
        match line.socket.newest() {
            Some(newest) if newest == response_id => Ok(OnLine {
                socket: line.socket.clone(),
                turn: Some(Arc::new(turn)),
            }),
            Some(_) => Err(Lost::Replaced),
            None => Err(Lost::Dropped),
        }
    }

    /// A connection of this chain on which nothing runs, for a request that brings its history along:
    /// its client goes on from no response.
    pub(super) fn idle(&self, account: AccountId, chain: &Chain, age_max: Duration) -> Option<OnLine> {
        let mut lines = self.lines();
        let serves = |line: &&mut Line| {
            line.socket.account == account
                && line.chain == *chain
                && line.socket.is_open()
                && line.socket.age() < age_max
        };
        lines.iter_mut().filter(serves).find_map(Line::try_take)
    }

    fn free_room(&self, account: AccountId) -> Option<Room> {
        // A map is whole between any two calls.
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let of_account = rooms
            .entry(account)
            .or_insert_with(|| Arc::new(Semaphore::new(limits::KEPT_SOCKETS_PER_ACCOUNT_MAX)));
        of_account.clone().try_acquire_owned().ok()
    }

    /// Room for another connection to an account. The one that was not used for the longest time gives
    /// way. `None` if all are busy, or not open yet.
    pub(super) fn room_for(&self, account: AccountId) -> Option<Room> {
        let mut lines = self.lines();
        lines.retain(|line| line.socket.is_open());
        self.free_room(account).or_else(|| {
            let of_account = lines.iter().enumerate();
            let idle = of_account.filter(|(_, line)| line.socket.account == account && line.is_idle());
            let (oldest, _) = idle.min_by_key(|(_, line)| line.used)?;
            Some(lines.swap_remove(oldest).room)
        })
    }

    /// Keeps a connection that has just been opened, and gives the right to ask first.
    pub(super) fn keep(&self, room: Room, chain: Chain, socket: Arc<Socket>) -> OnLine {
        let mut line = Line {
            chain,
            socket: socket.clone(),
            turns: Arc::new(Semaphore::new(1)),
            used: Instant::now(),
            room,
        };
        let first = line.try_take();
        self.lines().push(line);
        first.unwrap_or(OnLine { socket, turn: None })
    }

    /// Closes those that nobody has used for so long, and those that are too old for another turn.
    pub fn close_idle(&self, idle_max: Duration, age_max: Duration) {
        let goes_on = |line: &Line| line.used.elapsed() < idle_max && line.socket.age() < age_max;
        self.lines()
            .retain(|line| line.socket.is_open() && (!line.is_idle() || goes_on(line)));
    }
}
