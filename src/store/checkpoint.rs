//! Writes the write-ahead log back into the database, beside the writer.
//!
//! A checkpoint syncs the disk, which takes milliseconds: nobody's commit is to wait for that. So a
//! thread of its own does the bulk of it while commits go on. What they have added meanwhile is
//! little, and the writer writes it back itself: then nothing is left, and SQLite begins the log anew.

use std::path::{Path, PathBuf};
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

/// The writer's side.
#[derive(Debug)]
pub(super) struct Checkpoints {
    log: PathBuf,
    commits: u32,
    state: Arc<AtomicU8>,
    begin: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// Takes the checkpoints over from `writer`. `beside` is another connection to its database.
    pub(super) fn start(
        path: &Path,
        writer: &Connection,
        beside: Connection,
    ) -> Result<Checkpoints, StoreError> {
        writer.pragma_update(None, "wal_autocheckpoint", 0)?;
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
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
            log: log.into(),
            commits: 0,
            state,
            begin: Some(begin),
            thread: Some(thread),
        })
    }

    /// After a commit of much: the log may have grown by a large part of its size.
    pub(super) fn committed_much(&mut self, writer: &Connection) {
        self.commits = limits::WAL_LOOK_COMMITS;
        self.committed(writer);
    }

    /// After a commit of the writer.
    pub(super) fn committed(&mut self, writer: &Connection) {
        self.commits += 1;
        match self.state.load(Ordering::Acquire) {
            DONE => {
                write_back(writer);
                self.state.store(IDLE, Ordering::Relaxed);
            }
            IDLE if self.commits >= limits::WAL_LOOK_COMMITS => {
                self.commits = 0;
                if std::fs::metadata(&self.log).is_ok_and(|log| log.len() >= limits::WAL_BYTES) {
                    self.state.store(RUNS, Ordering::Relaxed);
                    self.begin.as_ref().map(|begin| begin.send(()));
                }
            }
            _ => {}
        }
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

/// As far as it can be done without waiting for anybody. What fails here fails again at the next
/// commit, where it is told.
fn write_back(connection: &Connection) {
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
        tracing::debug!(%error, "the write-ahead log could not be written back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Durability, open_writable};

    #[test]
    fn the_log_is_begun_anew_while_the_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.db");
        let open = || open_writable(&path, Durability::Process).unwrap();
        let writer = open();
        let mut checkpoints = Checkpoints::start(&path, &writer, open()).unwrap();
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
            let size = std::fs::metadata(&checkpoints.log).unwrap().len();
            begun_anew += usize::from(size < before);
            before = size;
            largest = largest.max(size);
            assert!(commits < 100_000, "the log grew to {size} bytes");
        }
        assert!(largest < 8 * limits::WAL_BYTES, "{largest}");
        drop(checkpoints);
        let rows: i64 = writer
            .query_row("SELECT count(*) FROM settings", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 50);
    }
}
