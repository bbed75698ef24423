//! References on their way from where they are written at once to where they stay.
//!
//! A commit that a client waits for only appends to `recent_references`. When many have come together
//! they settle: they go into `settled_references` in the order of their digests, a batch at a time,
//! so that those of one page are written with one write of it. Until then they are found in memory
//! ([`super::recent`]), which is filled from the table at the start.

use std::collections::BTreeMap;

use rusqlite::{Connection, TransactionBehavior, params};
use uuid::Uuid;

use super::writer::{Remember, is_refusal, tell_refusal};
use crate::account::AccountId;
use crate::affinity::{ConnectionId, ConversationId, Owner};
use crate::limits;

type Digest = [u8; 16];

/// What has not settled yet. Belongs to the writer.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// In the order in which they were committed.
    waiting: Vec<Remember>,
    /// The number of the last of them in `recent_references`.
    waiting_to: i64,
    /// Those that settle now, by their digests.
    moving: BTreeMap<Digest, Owner>,
    /// All up to this number of `recent_references` have settled when `moving` is empty.
    moving_to: Option<i64>,
}

impl Settling {
    /// Takes over what an earlier run left.
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Settling> {
        let mut statement = connection.prepare(include_str!("../../sql/queries/recent_references.sql"))?;
        let waiting = statement.query_map([], |row| {
            Ok(Remember {
                digest: row.get(0)?,
                owner: Owner {
                    account: AccountId(row.get(1)?),
                    conversation: ConversationId(Uuid::from_bytes(row.get(2)?)),
                    expires_at_ms: row.get(3)?,
                    detour_since_ms: row.get(4)?,
                    connection: row.get::<_, Option<i64>>(5)?.map(ConnectionId),
                },
            })
        })?;
        let query = include_str!("../../sql/queries/last_recent_reference.sql");
        Ok(Settling {
            waiting: waiting.collect::<Result<_, _>>()?,
            waiting_to: connection.query_row(query, [], |row| row.get(0))?,
            ..Settling::default()
        })
    }

    /// All that is to settle.
    pub(super) fn waiting(&self) -> &[Remember] {
        &self.waiting
    }

    /// Takes note of what was committed, in the order of its numbers; `last` is that of the last of it.
    pub(super) fn committed(&mut self, remember: &[Remember], last: Option<i64>) {
        self.waiting.extend_from_slice(remember);
        let Some(last) = last else { return };
        self.waiting_to = last;
        // Where the last rows were deleted, SQLite gives their numbers again: these have not settled.
        let before = last - i64::try_from(remember.len()).unwrap_or(0);
        self.moving_to = self.moving_to.map(|to| to.min(before));
    }

    /// Leaves a reference out that is not to be known any more.
    pub(super) fn forget(&mut self, digest: &Digest) {
        self.waiting.retain(|remember| remember.digest != *digest);
        self.moving.remove(digest);
    }

    /// Whether so many have come together that it is worth while to settle them.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= limits::SETTLE_REFERENCES
    }

    /// After a commit: settles a batch of those that have come together.
    pub(super) fn after_commit(&mut self, connection: &mut Connection) -> rusqlite::Result<()> {
        if self.is_full() {
            // The memory in front holds no more than two loads of them: the first must be gone
            // before the second begins.
            while self.moving_to.is_some() {
                self.step(connection)?;
            }
            self.begin();
        }
        self.step(connection)
    }

    /// In the sweep: settles a batch of what was there when it began; tells whether there is more.
    pub(super) fn in_sweep(&mut self, connection: &mut Connection, begins: bool) -> rusqlite::Result<bool> {
        if begins && self.moving_to.is_none() && !self.waiting.is_empty() {
            self.begin();
        }
        self.step(connection)?;
        Ok(self.moving_to.is_some())
    }

    /// All that was taken note of settles. What was committed together with the last of it, and is still
    /// to be taken note of, stands behind it.
    fn begin(&mut self) {
        self.moving_to = Some(self.waiting_to);
        let waiting = self.waiting.drain(..);
        // Of two with the same digest the later one stays.
        self.moving = waiting
            .map(|Remember { digest, owner }| (digest, owner))
            .collect();
    }

    fn step(&mut self, connection: &mut Connection) -> rusqlite::Result<()> {
        let Some(last) = self.moving_to else { return Ok(()) };
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if self.moving.is_empty() {
            let query = include_str!("../../sql/queries/delete_settled.sql");
            let deleted = transaction
                .prepare_cached(query)?
                .execute((last, limits::SETTLE_BATCH_DELETED))?;
            transaction.commit()?;
            if deleted < limits::SETTLE_BATCH_DELETED as usize {
                self.moving_to = None;
            }
            return Ok(());
        }
        let after_batch = self.moving.keys().nth(limits::SETTLE_BATCH).copied();
        let later = after_batch.map_or_else(BTreeMap::new, |digest| self.moving.split_off(&digest));
        let settled = settle(&transaction, &self.moving).and_then(|()| transaction.commit());
        match settled {
            Ok(()) => self.moving = later,
            // Tried again: what is there already is only written once more.
            Err(_) => self.moving.extend(later),
        }
        settled
    }
}

fn settle(connection: &Connection, references: &BTreeMap<Digest, Owner>) -> rusqlite::Result<()> {
    let mut first = connection.prepare_cached(include_str!("../../sql/queries/settle_reference.sql"))?;
    let mut again = connection.prepare_cached(include_str!("../../sql/queries/settle_again.sql"))?;
    for (digest, owner) in references {
        let conversation = owner.conversation.0.as_bytes();
        let columns = params![
            digest,
            owner.account.0,
            conversation,
            owner.expires_at_ms,
            owner.detour_since_ms,
            owner.connection.map(|connection| connection.0)
        ];
        let settled = match first.execute(columns) {
            Ok(0) => again.execute(columns),
            settled => settled,
        };
        match settled {
            Err(error) if is_refusal(&error) => tell_refusal(&error),
            settled => drop(settled?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::join_all;

    use super::*;
    use crate::store::{Durability, Store, Work, open_writable};

    fn remember(n: u64, account: i64) -> Remember {
        Remember {
            digest: u128::from(n).to_be_bytes(),
            owner: Owner {
                account: AccountId(account),
                conversation: ConversationId(Uuid::nil()),
                expires_at_ms: 9,
                detour_since_ms: None,
                connection: None,
            },
        }
    }

    fn append(connection: &Connection, settling: &mut Settling, references: &[Remember]) {
        let query = include_str!("../../sql/queries/remember_reference.sql");
        for Remember { digest, owner } in references {
            let conversation = owner.conversation.0.as_bytes();
            connection
                .execute(
                    query,
                    params![
                        digest,
                        owner.account.0,
                        conversation,
                        owner.expires_at_ms,
                        owner.detour_since_ms,
                        None::<i64>
                    ],
                )
                .unwrap();
        }
        settling.committed(references, Some(connection.last_insert_rowid()));
    }

    fn owners(connection: &Connection, table: &str) -> Vec<(Digest, i64)> {
        let query = format!("SELECT digest, account_id FROM {table} ORDER BY digest");
        let mut statement = connection.prepare(&query).unwrap();
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn database() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let connection = open_writable(&folder.path().join("m.db"), Durability::Process).unwrap();
        let account = "INSERT INTO accounts (id, name, kind, base_url, state_domain, source, created_at_ms) VALUES (?1, ?1, 'openai', 'x', 'a', 'file', 0)";
        for id in [1, 2] {
            connection.execute(account, [id]).unwrap();
        }
        (folder, connection)
    }

    #[test]
    fn what_settles_is_seen_at_every_step_and_stands_in_one_place_at_the_end() {
        let (_folder, mut connection) = database();
        let mut settling = Settling::default();
        let many: Vec<Remember> = (0..1000).map(|n| remember(n, 1)).collect();
        append(&connection, &mut settling, &many);
        // The later one of two holds.
        append(&connection, &mut settling, &[remember(7, 2)]);
        let before = owners(&connection, "known_references");
        assert_eq!(before.len(), 1000);
        assert_eq!(before[7].1, 2);
        while settling.in_sweep(&mut connection, true).unwrap() {
            assert_eq!(owners(&connection, "known_references"), before);
        }
        assert_eq!(owners(&connection, "settled_references"), before);
        assert!(owners(&connection, "recent_references").is_empty());
    }

    #[test]
    fn what_was_killed_in_the_middle_of_it_settles_at_the_next_start() {
        let (_folder, mut connection) = database();
        let mut settling = Settling::default();
        let many: Vec<Remember> = (0..300).map(|n| remember(n, 1)).collect();
        append(&connection, &mut settling, &many);
        assert!(settling.in_sweep(&mut connection, true).unwrap());
        append(&connection, &mut settling, &[remember(0, 2)]);
        let before = owners(&connection, "known_references");
        drop(settling);
        let mut settling = Settling::load(&connection).unwrap();
        assert_eq!(settling.waiting().len(), 301);
        while settling.in_sweep(&mut connection, true).unwrap() {}
        assert_eq!(owners(&connection, "settled_references"), before);
        assert_eq!(before[0].1, 2);
    }

    #[test]
    fn what_is_forgotten_does_not_come_back() {
        let (_folder, mut connection) = database();
        let mut settling = Settling::default();
        let many: Vec<Remember> = (0..300).map(|n| remember(n, 1)).collect();
        append(&connection, &mut settling, &many);
        assert!(settling.in_sweep(&mut connection, true).unwrap());
        for n in [0, 299] {
            let digest = remember(n, 1).digest;
            settling.forget(&digest);
            for table in ["recent_references", "settled_references"] {
                let query = format!("DELETE FROM {table} WHERE digest = ?1");
                connection.execute(&query, [digest]).unwrap();
            }
        }
        while settling.in_sweep(&mut connection, true).unwrap() {}
        let left = owners(&connection, "known_references");
        assert_eq!(left.len(), 298);
    }

    #[test]
    fn a_full_load_settles_with_the_commits_that_follow() {
        let (_folder, mut connection) = database();
        let mut settling = Settling::default();
        let many: Vec<Remember> = (0..limits::SETTLE_REFERENCES as u64)
            .map(|n| remember(n, 1))
            .collect();
        append(&connection, &mut settling, &many);
        assert!(settling.is_full());
        let commits = limits::SETTLE_REFERENCES / limits::SETTLE_BATCH + 10;
        for _ in 0..commits {
            settling.after_commit(&mut connection).unwrap();
        }
        assert!(owners(&connection, "recent_references").is_empty());
        assert_eq!(owners(&connection, "settled_references").len(), many.len());
    }

    #[tokio::test]
    async fn what_is_committed_together_with_what_begins_to_settle_stays_written() {
        let (folder, connection) = database();
        let path = folder.path().join("m.db");
        let store = Store::open(&path, Durability::Process, Arc::default()).unwrap();
        // Handed over at once, so that they are committed in few groups, one of which fills the load.
        let works = (0..500).map(|work| Work {
            remember: (0..20).map(|n| remember(work * 20 + n, 1)).collect(),
            ..Work::default()
        });
        join_all(works.map(|work| store.write(work))).await;
        for n in 0..200 {
            let work = Work {
                remember: vec![remember(10_000 + n, 1)],
                ..Work::default()
            };
            store.write(work).await.unwrap();
        }
        assert_eq!(owners(&connection, "known_references").len(), 10_200);
    }
}
