//! Writes the write-ahead log back into the database, beside the writer.
//!
//! A checkpoint syncs the disk, which takes milliseconds: nobody's commit is to wait for that. So a
//! thread of its own does the bulk of it while commits go on. What they have added meanwhile is
//! little, and the writer writes it back itself: then nothing is left, and SQLite begins the log anew.
//!
//! It does so only at a moment when nobody reads from the log. Readers that come one after the other
//! without a pause leave no such moment, and the log would grow for ever. So a log that has become long
//! is cut with a short wait for those who read just then: whoever begins meanwhile finds all in the
//! database and is not in the way.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::StoreError;
use crate::limits;

const IDLE: u8 = 0;
const RUNS: u8 = 1;
const DONE: u8 = 2;

thread_local! {
    /// The pages that are in the log since it was begun anew, after the last commit of this thread. Its
    /// file says nothing about that: to write over what is there costs less than to make it longer, so
    /// it is not cut each time.
    static PAGES: Cell<u64> = const { Cell::new(0) };
}

/// The writer's side.
#[derive(Debug)]
pub(super) struct Checkpoints {
    page_bytes: u64,
    /// The size of the log from which those who read are waited for.
    wait_bytes: u64,
    state: Arc<AtomicU8>,
    begin: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// Takes the checkpoints over from `writer`. `beside` is another connection to its database.
    pub(super) fn start(writer: &Connection, beside: Connection) -> Result<Checkpoints, StoreError> {
        writer.pragma_update(None, "wal_autocheckpoint", 0)?;
        // SQLite calls this on the thread that commits.
        writer.wal_hook(Some(|_, pages| {
            PAGES.set(u64::try_from(pages).unwrap_or(0));
            Ok(())
        }));
        let page_bytes = writer.query_row("PRAGMA page_size", [], |row| row.get::<_, u32>(0))?;
        let (begin, begins) = channel();
        let state = Arc::new(AtomicU8::new(IDLE));
        let done = state.clone();
        let thread = std::thread::Builder::new()
            .name("store-log".to_owned())
            .spawn(move || {
                while begins.recv().is_ok() {
                    write_back(&beside);
                    done.store(DONE, Ordering::Release);
                }
            })
            .map_err(|source| StoreError::Thread { source })?;
        Ok(Checkpoints {
            page_bytes: page_bytes.into(),
            wait_bytes: limits::WAL_WAIT_BYTES,
            state,
            begin: Some(begin),
            thread: Some(thread),
        })
    }

    /// After a commit of the writer, on its thread.
    pub(super) fn committed(&mut self, writer: &Connection) {
        match self.state.load(Ordering::Acquire) {
            DONE => {
                let is_nearly_done = write_back(writer);
                let log_bytes = self.log_bytes();
                if log_bytes >= self.wait_bytes {
                    self.cut(writer, log_bytes, is_nearly_done);
                }
                self.state.store(IDLE, Ordering::Relaxed);
            }
            IDLE if self.log_bytes() >= limits::WAL_BYTES => {
                self.state.store(RUNS, Ordering::Relaxed);
                self.begin.as_ref().map(|begin| begin.send(()));
            }
            IDLE => self.wait_bytes = limits::WAL_WAIT_BYTES,
            _ => {}
        }
    }

    fn log_bytes(&self) -> u64 {
        PAGES.get() * self.page_bytes
    }

    /// Begins the log anew, with a bounded wait for those who read from it. Where somebody stays, as one
    /// who copies the database does, most of it could not be written back, and the wait would be for
    /// nothing. The next one is for a log that has grown by half: whoever stays costs the clients few
    /// waits, not one after the other.
    fn cut(&mut self, writer: &Connection, log_bytes: u64, is_nearly_done: bool) {
        if is_nearly_done {
            writer.busy_timeout(limits::WAL_WAIT).ok();
            let cut = writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
            writer.busy_timeout(limits::BUSY_TIMEOUT).ok();
            if cut == Ok(0) {
                self.wait_bytes = limits::WAL_WAIT_BYTES;
                return;
            }
        }
        tracing::debug!(log_bytes, "somebody reads from the write-ahead log for long");
        self.wait_bytes = log_bytes + log_bytes / 2;
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.begin = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// As far as it can be done without waiting for anybody; tells whether most of the log is written back.
/// What fails here fails again at the next commit, where it is told.
fn write_back(connection: &Connection) -> bool {
    let pages = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
    });
    match pages {
        Ok((in_log, written_back)) => in_log - written_back <= in_log / 4,
        Err(error) => {
            tracing::debug!(%error, "the write-ahead log could not be written back");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, AtomicU64};

    use super::*;
    use crate::store::{Durability, open_writable};

    /// Commits until the log has begun anew some times, and gives the largest size that it had.
    fn largest_log(path: &Path) -> u64 {
        let open = || open_writable(path, Durability::Process).unwrap();
        let writer = open();
        let mut checkpoints = Checkpoints::start(&writer, open()).unwrap();
        let (mut largest, mut before, mut begun_anew) = (0, 0, 0);
        let mut commits = 0;
        while begun_anew < 3 {
            commits += 1;
            writer
                .execute(
                    "INSERT OR REPLACE INTO settings VALUES (?1, randomblob(9000))",
                    [commits % 50],
                )
                .unwrap();
            checkpoints.committed(&writer);
            let size = checkpoints.log_bytes();
            begun_anew += usize::from(size < before);
            before = size;
            largest = largest.max(size);
            assert!(commits < 100_000, "the log grew to {size} bytes");
        }
        drop(checkpoints);
        let log = std::fs::metadata(path.with_extension("db-wal")).unwrap();
        assert!(log.len() <= largest, "what was long is cut: {} bytes", log.len());
        let rows: i64 = writer
            .query_row("SELECT count(*) FROM settings", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 50);
        largest
    }

    #[test]
    fn the_log_is_begun_anew_while_the_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let largest = largest_log(&folder.path().join("m.db"));
        assert!(largest < 4 * limits::WAL_BYTES, "{largest}");
    }

    /// Two readers, of which one always reads: neither ends before the other has begun anew.
    #[test]
    fn the_log_is_begun_anew_under_readers_that_never_pause() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.db");
        drop(open_writable(&path, Durability::Process).unwrap());
        let begun = [AtomicU64::new(0), AtomicU64::new(0)];
        let stop = AtomicBool::new(false);
        let read = |me: usize| {
            let reader = crate::store::open_readable(&path).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let moment = reader.unchecked_transaction().unwrap();
                let query = "SELECT count(*) FROM settings";
                moment.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap();
                let other = begun[1 - me].load(Ordering::SeqCst);
                begun[me].fetch_add(1, Ordering::SeqCst);
                while begun[1 - me].load(Ordering::SeqCst) == other && !stop.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| read(0));
            scope.spawn(|| read(1));
            let written = std::panic::catch_unwind(|| largest_log(&path));
            stop.store(true, Ordering::Relaxed);
            let largest = written.unwrap();
            assert!(largest < 3 * limits::WAL_WAIT_BYTES, "{largest}");
        });
    }

    #[test]
    fn a_reader_that_stays_is_waited_for_less_and_less() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.db");
        let open = || open_writable(&path, Durability::Process).unwrap();
        let writer = open();
        let mut checkpoints = Checkpoints::start(&writer, open()).unwrap();
        let stays = open();
        let moment = stays.unchecked_transaction().unwrap();
        moment
            .query_row("SELECT count(*) FROM settings", [], |row| row.get::<_, i64>(0))
            .unwrap();
        for number in 0..200 {
            let much = "INSERT INTO settings VALUES (?1, randomblob(9000))";
            writer.execute(much, [number]).unwrap();
        }
        // Nothing is waited for that will not come; else for a bounded time.
        assert!(!write_back(&writer));
        checkpoints.cut(&writer, 1000, false);
        assert_eq!(checkpoints.wait_bytes, 1500);
        checkpoints.cut(&writer, 1500, true);
        assert_eq!(checkpoints.wait_bytes, 2250);
        drop(moment);
        assert!(write_back(&writer));
        checkpoints.cut(&writer, 2250, true);
        assert_eq!(checkpoints.wait_bytes, limits::WAL_WAIT_BYTES);
        let log = std::fs::metadata(folder.path().join("m.db-wal")).unwrap();
        assert_eq!(log.len(), 0);
    }
}
