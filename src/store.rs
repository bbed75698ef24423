//! SQLite: what must survive a restart. One writer, several readers.
//!
//! All writes of the running gateway go through one thread that commits in groups
//! ([`writer`]); reads go through a pool of read-only connections, off the runtime's threads. A
//! small map of what was written last ([`recent`]) stands in front of the references.

pub mod accounts;
pub mod admin_sessions;
pub mod backup;
mod checkpoint;
pub mod client_keys;
pub mod fill;
mod fold;
pub mod history;
mod looks;
mod lookups;
pub mod prices;
mod recent;
pub mod requests;
pub mod roster;
mod schema;
pub mod seal;
mod settling;
mod sizes;
mod sweep;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use r2d2_sqlite::SqliteConnectionManager;
pub use rusqlite::Connection;
use rusqlite::{OpenFlags, OptionalExtension as _};

use crate::affinity::{Owner, Reference};
use crate::clock::now_ms;
use crate::limits;
use crate::metrics::Metrics;

use checkpoint::Checkpoints;
use looks::Looks;
use lookups::Lookups;
pub use lookups::known_owners;
use recent::Recent;
use settling::Settling;
pub use sizes::{Sizes, sizes};
pub use sweep::Lifetimes;
pub use writer::{AccountRow, Remember, StandingRow, Work};

/// What went wrong with the database, in words for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite says so.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// No connection could be opened in time.
    #[error("{0}")]
    Readers(#[from] r2d2::Error),
    /// The schema could not be brought up to date.
    #[error("{0}")]
    Migration(rusqlite_migration::Error),
    /// The schema is newer than this program.
    #[error("a newer moorage has used this database; use that one, or go back to a copy from before")]
    Newer,
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system has no room for another thread.
    #[error("a thread cannot be started: {source}")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
    /// Another gateway serves this database.
    #[error("another moorage serves {path}; stop it first, or give this one a database of its own", path = .0.display())]
    InUse(PathBuf),
    /// A sealed secret does not open with this key file.
    #[error("the sealed secret of account {0} does not open with this key file")]
    Sealed(String),
    /// There is no key to seal secrets with.
    #[error("{0}")]
    SealKey(String),
    /// More people look at the history than can be served.
    #[error("too many queries of the history wait")]
    Busy,
    /// The database cannot be written now; the work is kept in memory and tried again.
    #[error("the database cannot be written now")]
    Unwritten,
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
}

impl From<rusqlite_migration::Error> for StoreError {
    fn from(error: rusqlite_migration::Error) -> StoreError {
        use rusqlite_migration::{Error, MigrationDefinitionError};
        match error {
            Error::MigrationDefinition(MigrationDefinitionError::DatabaseTooFarAhead) => StoreError::Newer,
            error => StoreError::Migration(error),
        }
    }
}

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The death of the process. A commit is in the operating system's hands.
    #[default]
    Process,
    /// The loss of power. A commit waits for the disk.
    Full,
}

/// The open store of a running gateway.
#[derive(Debug)]
pub struct Store {
    readers: r2d2::Pool<SqliteConnectionManager>,
    lookups: Lookups,
    looks: Looks,
    writer: writer::Writer,
    recent: Arc<Recent>,
    last_request_id: AtomicI64,
    /// Between those who change accounts and keys and the one who takes that over.
    pub take_over: roster::TakeOver,
    path: PathBuf,
    durability: Durability,
    /// Held as long as this gateway serves the database; the system lets go of it at any death.
    _lock: std::fs::File,
}

impl Store {
    /// Opens the database, creating it or bringing its schema up to date, and starts the writer.
    ///
    /// # Errors
    /// If the file cannot be opened, is served by another gateway, or is newer than this program.
    pub fn open(path: &Path, durability: Durability, metrics: Arc<Metrics>) -> Result<Store, StoreError> {
        let lock = lock(path)?;
        let mut connection = open_writable(path, durability)?;
        let lost = fold::mark_lost(&mut connection)?;
        if lost > 0 {
            tracing::warn!(requests = lost, "the gateway was killed while these requests ran");
        }
        let last_id: i64 =
            connection.query_row(include_str!("../sql/queries/last_request_id.sql"), [], |row| {
                row.get(0)
            })?;
        let readers = r2d2::Pool::builder()
            .max_size(limits::READERS)
            .min_idle(Some(1))
            .build(reader_manager(path))?;
        connection.pragma_update(None, "cache_size", -limits::WRITER_CACHE_KIB)?;
        let settling = Settling::load(&connection)?;
        let recent = Arc::new(Recent::default());
        recent.written(settling.waiting().iter().map(Remember::as_pair));
        let beside = open_writable(path, durability)?;
        let thread = |source| StoreError::Thread { source };
        let checkpoints = Checkpoints::start(&connection, beside)?;
        let looking = (0..limits::LOOKS).map(|_| open_looking(path));
        let looking: Vec<Connection> = looking.collect::<Result<_, _>>()?;
        Ok(Store {
            lookups: Lookups::start(open_readable(path)?).map_err(thread)?,
            looks: Looks::start(looking).map_err(thread)?,
            readers,
            writer: writer::Writer::start(connection, checkpoints, recent.clone(), settling, metrics)
                .map_err(thread)?,
            recent,
            // Behind all that ever were, also those that are swept or were never written.
            last_request_id: AtomicI64::new(last_id.max(first_id_at(now_ms()))),
            take_over: roster::TakeOver::default(),
            path: path.to_owned(),
            durability,
            _lock: lock,
        })
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An id for the row of an exchange that starts now. Ids begin at the time of the start, so that
    /// a range of time is a range of ids; see [`first_id_at`].
    pub fn next_request_id(&self, now_ms: i64) -> i64 {
        let next = |last: i64| (last + 1).max(first_id_at(now_ms));
        let before = self
            .last_request_id
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(before.unwrap_or_else(|last| last))
    }

    /// Looks up who owns the references, in their order. What has expired at `now_ms` is unknown.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn owners(
        &self,
        references: &[Reference],
        now_ms: i64,
    ) -> Result<Vec<Option<Owner>>, StoreError> {
        let mut owners: Vec<Option<Owner>> = references
            .iter()
            .map(|reference| self.recent.get(&reference.digest))
            .collect();
        let missing = references
            .iter()
            .zip(&owners)
            .filter(|(_, owner)| owner.is_none());
        let missing: Vec<Reference> = missing.map(|(reference, _)| *reference).collect();
        if !missing.is_empty() {
            let found = self.lookups.owners(missing).await?;
            let unknown = owners.iter_mut().filter(|owner| owner.is_none());
            for (owner, found) in unknown.zip(found) {
                *owner = found;
            }
        }
        let live = |owner: &Owner| owner.expires_at_ms > now_ms;
        Ok(owners.into_iter().map(|owner| owner.filter(live)).collect())
    }

    /// Which of these ids is the first that is known in any scope, also where it has expired in it.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn first_known_in_any_scope(&self, ids: Vec<Reference>) -> Result<Option<usize>, StoreError> {
        let recent = self.recent.clone();
        self.read(move |connection| {
            let query = include_str!("../sql/queries/is_known_in_any_scope.sql");
            let mut statement = connection.prepare_cached(query)?;
            for (position, id) in ids.iter().enumerate() {
                let [first, last] = id.in_any_scope();
                let written: bool = statement.query_row([&first[..], &last[..]], |row| row.get(0))?;
                if written || recent.knows_unwritten(&first, &last) {
                    return Ok(Some(position));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Commits a piece of work; returns when it is written.
    ///
    /// # Errors
    /// [`StoreError::Unwritten`] if the database cannot be written now. The work is not lost: it
    /// is kept in memory, where lookups find it, and written as soon as it can be.
    pub async fn write(&self, work: Work) -> Result<(), StoreError> {
        self.writer.write(work).await
    }

    /// Hands a piece of work over without waiting: for what must be written when its owner is dropped.
    pub fn write_later(&self, work: Work) {
        self.writer.write_later(work);
    }

    /// Why the database cannot be written, while it cannot.
    pub fn trouble(&self) -> Option<String> {
        self.writer.trouble()
    }

    /// Removes one batch of what has expired; tells whether there may be more. `begins` says that it is
    /// the first one of a sweep.
    ///
    /// # Errors
    /// As for [`Store::write`].
    pub async fn sweep(&self, lifetimes: Lifetimes, now_ms: i64, begins: bool) -> Result<bool, StoreError> {
        self.writer.sweep(lifetimes, now_ms, begins).await
    }

    /// Lets SQLite count anew what its plans go by, where the tables have changed much. It looks at a
    /// sample of them.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn optimize(&self) -> Result<(), StoreError> {
        // Of all tables, not only of those that this connection has asked.
        self.change(|connection| Ok(connection.execute_batch("PRAGMA optimize = 0x10002")?))
            .await
    }

    /// Below which id rows are to be added to the sums now.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn fold_due(&self, lifetimes: Lifetimes, now_ms: i64) -> Result<i64, StoreError> {
        let due = move |connection: &Connection| fold::due_below(connection, lifetimes, now_ms);
        self.read(due).await
    }

    /// Adds one batch of rows that have ended to the sums, below an id; tells whether there may be more.
    ///
    /// # Errors
    /// As for [`Store::write`].
    pub async fn fold(&self, before_id: i64) -> Result<bool, StoreError> {
        self.writer.fold(before_id).await
    }

    /// Runs a query on a read-only connection, on a thread where it may take its time.
    ///
    /// # Errors
    /// What the query says, or that no connection could be had.
    pub async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let readers = self.readers.clone();
        let task = tokio::task::spawn_blocking(move || query(&*readers.get()?));
        task.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs a query for a person who looks at the history: it may take its time, and lets all others go
    /// first.
    ///
    /// # Errors
    /// What the query says, or that too many wait.
    pub async fn look<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.looks.look(query).await
    }

    /// Makes a change that is no client's work, on a connection of its own and on a thread where it
    /// may take its time: what a person does to accounts, keys and sessions.
    ///
    /// # Errors
    /// What the change says, or that the database cannot be written.
    pub async fn change<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (path, durability) = (self.path.clone(), self.durability);
        let task = tokio::task::spawn_blocking(move || change(&open_writable(&path, durability)?));
        task.await.map_err(|_| StoreError::Closed)?
    }

    /// Writes what is left and ends the writer. Blocks until that is done.
    pub fn close(&self) {
        self.writer.close();
    }
}

/// Begins a transaction that will write. It takes the lock at once: one that has read before it wants
/// to write is refused without a wait if the gateway has committed meanwhile.
fn begin(connection: &Connection) -> rusqlite::Result<rusqlite::Transaction<'_>> {
    rusqlite::Transaction::new_unchecked(connection, rusqlite::TransactionBehavior::Immediate)
}

/// Whether a gateway serves this database now.
pub fn is_served(path: &Path) -> bool {
    matches!(lock(path), Err(StoreError::InUse(_)))
}

/// One gateway at a time: what it keeps in memory must not be changed behind its back.
fn lock(path: &Path) -> Result<std::fs::File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let at = |source| StoreError::File {
        path: lock_path.clone(),
        source,
    };
    schema::create_private(&lock_path).map_err(at)?;
    let file = std::fs::File::open(&lock_path).map_err(at)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse(path.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(at(source)),
    }
}

/// Opens a connection that may write, with the schema up to date: for the writer and for commands.
///
/// # Errors
/// If the file cannot be opened or its schema is newer than this program.
pub fn open_writable(path: &Path, durability: Durability) -> Result<Connection, StoreError> {
    schema::create_private(path).map_err(|source| StoreError::File {
        path: path.to_owned(),
        source,
    })?;
    let mut connection = Connection::open(path)?;
    schema::prepare(&mut connection, durability)?;
    Ok(connection)
}

/// Opens a connection that only reads, for commands.
///
/// # Errors
/// If there is no database.
pub fn open_readable(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, READ_ONLY)?;
    connection.busy_timeout(limits::BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Whether the schema of a database is the one that this program reads.
///
/// # Errors
/// If the database cannot be read.
pub fn is_up_to_date(connection: &Connection) -> Result<bool, StoreError> {
    schema::is_up_to_date(connection)
}

/// The smallest id of a request that starts in that millisecond or later. There are 1024 for each;
/// they stay below 2^53, where JavaScript still counts by one. Should a millisecond have more
/// requests, or the clock step back, ids run ahead of the clock.
pub fn first_id_at(ms: i64) -> i64 {
    ms.saturating_mul(1024)
}

fn open_looking(path: &Path) -> Result<Connection, StoreError> {
    let connection = open_readable(path)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "cache_size", -limits::LOOKS_CACHE_KIB)?;
    Ok(connection)
}

const READ_ONLY: OpenFlags = OpenFlags::SQLITE_OPEN_READ_ONLY.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

const READ_WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

fn reader_manager(path: &Path) -> SqliteConnectionManager {
    SqliteConnectionManager::file(path)
        .with_flags(READ_ONLY)
        .with_init(|connection| {
            connection.busy_timeout(limits::BUSY_TIMEOUT)?;
            connection.set_prepared_statement_cache_capacity(32);
            Ok(())
        })
}

/// Looks a database through; says what is damaged.
///
/// # Errors
/// If it cannot be read at all.
pub fn check(connection: &Connection) -> Result<Option<String>, StoreError> {
    let query = include_str!("../sql/queries/quick_check.sql");
    let word: String = connection.query_row(query, [], |row| row.get(0))?;
    Ok((word != "ok").then_some(word))
}

/// When the last request began, in milliseconds since 1970 UTC.
///
/// # Errors
/// If the database cannot be read.
pub fn last_request_at_ms(connection: &Connection) -> Result<Option<i64>, StoreError> {
    let query = include_str!("../sql/queries/last_request_at.sql");
    Ok(connection.query_row(query, [], |row| row.get(0)).optional()?)
}
