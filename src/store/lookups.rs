//! Looks owners up: one thread takes all questions that wait and answers them together.
//!
//! Every request asks, and an answer takes microseconds: a thread for each would cost more than
//! the answer. One wake serves all who have asked meanwhile.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::StoreError;
use crate::account::AccountId;
use crate::affinity::{ConnectionId, ConversationId, Owner, Reference};

type Owners = Vec<Option<Owner>>;

#[derive(Debug)]
struct Question {
    references: Vec<Reference>,
    answer: oneshot::Sender<Result<Owners, StoreError>>,
}

/// The handle of the thread, which ends when it is dropped.
#[derive(Debug)]
pub(super) struct Lookups {
    questions: Mutex<Sender<Question>>,
}

impl Lookups {
    /// The connection is for lookups alone: they wait for nobody who reads the history.
    pub(super) fn start(connection: Connection) -> std::io::Result<Lookups> {
        let (sender, questions) = channel();
        std::thread::Builder::new()
            .name("store-lookups".to_owned())
            .spawn(move || answer_all(&connection, &questions))?;
        Ok(Lookups {
            questions: Mutex::new(sender),
        })
    }

    /// The owners in the database, in the order of the references.
    pub(super) async fn owners(&self, references: Vec<Reference>) -> Result<Owners, StoreError> {
        let (answer, answered) = oneshot::channel();
        let question = Question { references, answer };
        let sent = self
            .questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(question);
        sent.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

fn answer_all(connection: &Connection, questions: &Receiver<Question>) {
    while let Ok(first) = questions.recv() {
        // Where threads share a core, whoever was about to ask does so now.
        std::thread::yield_now();
        for question in std::iter::once(first).chain(questions.try_iter()) {
            let owners = find_owners(connection, &question.references);
            question.answer.send(owners).ok();
        }
    }
}

/// The owners in the database, in the order of the references, also those that have expired: for
/// commands, which have nothing in memory.
///
/// # Errors
/// If the database cannot be read.
pub fn known_owners(
    connection: &Connection,
    references: &[Reference],
) -> Result<Vec<Option<Owner>>, StoreError> {
    owners_by(
        connection,
        include_str!("../../sql/queries/find_known_owner.sql"),
        references,
    )
}

/// Those that have settled. The others are in memory.
fn find_owners(connection: &Connection, references: &[Reference]) -> Result<Owners, StoreError> {
    owners_by(
        connection,
        include_str!("../../sql/queries/find_owner.sql"),
        references,
    )
}

fn owners_by(connection: &Connection, query: &str, references: &[Reference]) -> Result<Owners, StoreError> {
    let mut statement = connection.prepare_cached(query)?;
    let mut find = |reference: &Reference| {
        statement
            .query_row([&reference.digest[..]], |row| {
                Ok(Owner {
                    account: AccountId(row.get(0)?),
                    conversation: ConversationId(Uuid::from_bytes(row.get(1)?)),
                    expires_at_ms: row.get(2)?,
                    detour_since_ms: row.get(3)?,
                    connection: row.get::<_, Option<i64>>(4)?.map(ConnectionId),
                })
            })
            .optional()
    };
    let owners: Result<_, rusqlite::Error> = references.iter().map(&mut find).collect();
    Ok(owners?)
}
