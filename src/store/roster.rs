//! The roster: which accounts and keys there are. People change it with commands and on the page,
//! while a gateway runs over it; its version says that there is something to take over, and the
//! gateway writes down which version it has.

use rusqlite::{Connection, params};
use tokio::sync::{Notify, watch};

use super::StoreError;
use crate::limits;

/// How far a change of the roster has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// How often people have changed it.
    pub version: i64,
    /// Which of these changes the gateway that runs has taken over.
    pub applied: i64,
    /// What was wrong about it.
    pub trouble: Option<String>,
}

/// Notes that the roster has changed; part of the transaction that changes it. Gives its version.
pub(super) fn bump(connection: &Connection) -> Result<i64, StoreError> {
    let query = include_str!("../../sql/queries/bump_roster.sql");
    Ok(connection
        .prepare_cached(query)?
        .query_row([], |row| row.get(0))?)
}

/// Reads it.
///
/// # Errors
/// If the database cannot be read.
pub fn read(connection: &Connection) -> Result<Roster, StoreError> {
    let query = include_str!("../../sql/queries/roster.sql");
    Ok(connection.prepare_cached(query)?.query_row([], |row| {
        Ok(Roster {
            version: row.get(0)?,
            applied: row.get(1)?,
            trouble: row.get(2)?,
        })
    })?)
}

/// Writes down which version the gateway that runs has taken over, and what was wrong about it.
///
/// # Errors
/// If the database cannot be written.
pub fn applied(connection: &Connection, version: i64, trouble: Option<&str>) -> Result<(), StoreError> {
    let query = include_str!("../../sql/queries/roster_applied.sql");
    connection.execute(query, params![version, trouble])?;
    Ok(())
}

/// Between those who change the roster inside this gateway and the one who takes changes over.
#[derive(Debug)]
pub struct TakeOver {
    wanted: Notify,
    applied: watch::Sender<(i64, bool)>,
}

impl Default for TakeOver {
    fn default() -> Self {
        TakeOver {
            wanted: Notify::new(),
            applied: watch::Sender::new((0, true)),
        }
    }
}

impl TakeOver {
    /// Asks for a version to be taken over and waits a bounded time for it. Tells whether it was.
    pub async fn ask_for(&self, version: i64) -> bool {
        let mut applied = self.applied.subscribe();
        self.wanted.notify_one();
        let reached = applied.wait_for(|(applied, _)| *applied >= version);
        match tokio::time::timeout(limits::ROSTER_APPLIED, reached).await {
            Ok(Ok(applied)) => applied.1,
            _ => false,
        }
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        self.wanted.notified().await;
    }

    /// Says which version has been looked at, and whether it could be taken over.
    pub fn done(&self, version: i64, in_order: bool) {
        self.applied.send_replace((version, in_order));
    }
}
