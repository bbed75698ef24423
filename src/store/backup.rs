//! An online copy of the database: of one moment, in one file, looked through before it gets its name.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::{READ_WRITE, StoreError, looks, open_readable};
use crate::clock::now_ms;
use crate::limits;

/// Why there is no copy. Nothing is left of it then.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file of that name is there.
    #[error("{path} is there already, and a copy overwrites nothing; give it another name", path = .0.display())]
    Exists(PathBuf),
    /// There is no such folder.
    #[error("there is no folder {path}", path = .0.display())]
    NoFolder(PathBuf),
    /// The path names no file.
    #[error("{path} names no file", path = .0.display())]
    NoName(PathBuf),
    /// The disk has too little room.
    #[error("the copy needs {} MiB, and the disk of {folder} has {} MiB free", .needed.div_ceil(1 << 20), .free >> 20, folder = folder.display())]
    NoRoom {
        /// Where it was to be.
        folder: PathBuf,
        /// In bytes.
        needed: u64,
        /// In bytes.
        free: u64,
    },
    /// The copy could not be written, or the database not be read.
    #[error("the copy in {folder} could not be made: {source}; look at the room on its disk", folder = folder.display())]
    Unwritten {
        /// Where it was to be.
        folder: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The folder cannot be written into.
    #[error("{folder} cannot be written into: {source}", folder = folder.display())]
    Folder {
        /// Where it was to be.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was copied does not hold together.
    #[error("the copy is damaged, as the database is then: {0}; 'moorage doctor' looks at it")]
    Damaged(String),
    /// Somebody has stopped it.
    #[error("stopped; nothing of the copy is left")]
    Stopped,
    /// The database cannot be read.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// What a copy is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes of so many are copied.
    Copied(u64, u64),
    /// All are; it is looked through.
    Checking,
}

/// The last copy that was made, as it is written down for the doctor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBackup {
    /// The moment that it is of, in milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// Where it was put.
    pub file: PathBuf,
    /// How large it is.
    pub bytes: u64,
}

/// The name of the setting that holds it.
const LAST_BACKUP: &str = "last_backup";

/// Copies the database at `source` into a new file, whatever is written meanwhile. It is stopped by
/// setting `stop`. The copy knows of itself: who goes back to it is not told that there is none.
///
/// # Errors
/// See [`BackupError`].
pub fn copy(
    source: &Path,
    target: &Path,
    stop: &Arc<AtomicBool>,
    mut progress: impl FnMut(Progress),
) -> Result<LastBackup, BackupError> {
    looks::step_back();
    let folder = folder_of(target)?;
    let origin = open_readable(source)?;
    let part = part_beside(target, &folder)?;
    let unwritten = |error| match error {
        BackupFailure::Sqlite(source) => BackupError::Unwritten {
            folder: folder.clone(),
            source,
        },
        BackupFailure::Stopped => BackupError::Stopped,
        BackupFailure::Damaged(how) => BackupError::Damaged(how),
        BackupFailure::NoRoom { needed, free } => BackupError::NoRoom {
            folder: folder.clone(),
            needed,
            free,
        },
    };
    let free = free_bytes(&folder);
    let at_ms = now_ms();
    let bytes = copy_pages(&origin, part.path(), free, stop, &mut progress).map_err(unwritten)?;
    progress(Progress::Checking);
    let made = LastBackup {
        at_ms,
        file: target.to_owned(),
        bytes,
    };
    finish(part.path(), &made, stop).map_err(unwritten)?;
    put_in_place(part, target, &folder)?;
    Ok(made)
}

enum BackupFailure {
    Sqlite(rusqlite::Error),
    Stopped,
    Damaged(String),
    NoRoom { needed: u64, free: u64 },
}

impl From<rusqlite::Error> for BackupFailure {
    fn from(error: rusqlite::Error) -> Self {
        BackupFailure::Sqlite(error)
    }
}

/// The folder of a file that is not there yet.
fn folder_of(target: &Path) -> Result<PathBuf, BackupError> {
    if target.file_name().is_none() {
        return Err(BackupError::NoName(target.to_owned()));
    }
    if target.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(target.to_owned()));
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    match folder.is_dir() {
        true => Ok(folder.to_owned()),
        false => Err(BackupError::NoFolder(folder.to_owned())),
    }
}

/// A file that only its owner can read, and that goes if it does not become the copy.
fn part_beside(target: &Path, folder: &Path) -> Result<NamedTempFile, BackupError> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".part")
        .tempfile_in(folder)
        .map_err(|source| BackupError::Folder {
            folder: folder.to_owned(),
            source,
        })
}

/// The room that a disk has for whoever asks; unknown where the system does not say.
fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Copies all pages as they are at one moment. The reader's transaction holds that moment: without it,
/// SQLite would begin the copy anew at every commit of the gateway.
fn copy_pages(
    origin: &Connection,
    part: &Path,
    free: Option<u64>,
    stop: &AtomicBool,
    progress: &mut impl FnMut(Progress),
) -> Result<u64, BackupFailure> {
    let pragma = |name: &str| -> rusqlite::Result<u64> {
        let value = origin.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0))?;
        Ok(value.unsigned_abs())
    };
    let moment = origin.unchecked_transaction()?;
    // It begins with the first look.
    moment.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
        row.get::<_, i64>(0)
    })?;
    let page_bytes = pragma("page_size")?;
    let needed = pragma("page_count")? * page_bytes;
    if let Some(free) = free.filter(|free| *free < needed) {
        return Err(BackupFailure::NoRoom { needed, free });
    }
    let mut copy = Connection::open(part)?;
    // What goes wrong costs the whole file: there is nothing to roll back.
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
    let backup = Backup::new(&moment, &mut copy)?;
    loop {
        let step = backup.step(limits::BACKUP_STEP_PAGES)?;
        let now = backup.progress();
        let done = u64::from((now.pagecount - now.remaining).unsigned_abs());
        progress(Progress::Copied(done * page_bytes, needed));
        match step {
            StepResult::Done => return Ok(needed),
            _ if stop.load(Ordering::Relaxed) => return Err(BackupFailure::Stopped),
            _ => {}
        }
    }
}

/// Makes it one file that needs no log beside it, and looks it through.
fn finish(part: &Path, made: &LastBackup, stop: &Arc<AtomicBool>) -> Result<(), BackupFailure> {
    let copy = Connection::open(part)?;
    let _: String = copy.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))?;
    write_down(&copy, made)?;
    let stopped = stop.clone();
    copy.progress_handler(
        limits::BACKUP_CHECK_STEPS,
        Some(move || stopped.load(Ordering::Relaxed)),
    )?;
    let word: rusqlite::Result<String> = copy.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    match word {
        Ok(word) if word == "ok" => Ok(()),
        Ok(word) => Err(BackupFailure::Damaged(word)),
        Err(_) if stop.load(Ordering::Relaxed) => Err(BackupFailure::Stopped),
        Err(error) => Err(error.into()),
    }
}

/// Gives it its name once it is on the disk, if nobody has taken that name meanwhile.
fn put_in_place(part: NamedTempFile, target: &Path, folder: &Path) -> Result<(), BackupError> {
    let at = |source| BackupError::Folder {
        folder: folder.to_owned(),
        source,
    };
    part.as_file().sync_all().map_err(at)?;
    part.persist_noclobber(target)
        .map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => BackupError::Exists(target.to_owned()),
            _ => at(error.error),
        })?;
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(at)
}

/// Writes down that a copy was made.
///
/// # Errors
/// If the database cannot be written.
pub fn made(database: &Path, last: &LastBackup) -> Result<(), StoreError> {
    // A gateway of an earlier version may serve it: its schema stays as it is.
    let connection = Connection::open_with_flags(database, READ_WRITE)?;
    connection.busy_timeout(limits::BUSY_TIMEOUT)?;
    Ok(write_down(&connection, last)?)
}

fn write_down(connection: &Connection, last: &LastBackup) -> rusqlite::Result<()> {
    let query = include_str!("../../sql/queries/put_setting.sql");
    let value = serde_json::json!(last).to_string();
    connection.execute(query, (LAST_BACKUP, value.as_bytes()))?;
    Ok(())
}

/// The last copy that was made.
///
/// # Errors
/// If the database cannot be read.
pub fn last(connection: &Connection) -> Result<Option<LastBackup>, StoreError> {
    use rusqlite::OptionalExtension as _;
    let query = include_str!("../../sql/queries/get_setting.sql");
    let value = connection.query_row(query, [LAST_BACKUP], |row| row.get::<_, Vec<u8>>(0));
    Ok(value
        .optional()?
        .and_then(|value| serde_json::from_slice(&value).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Durability, open_writable};

    fn database() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.db");
        drop(open_writable(&path, Durability::Process).unwrap());
        (folder, path)
    }

    #[test]
    fn a_copy_for_which_there_is_no_room_is_not_begun() {
        let (folder, path) = database();
        let origin = open_readable(&path).unwrap();
        let part = folder.path().join("part");
        let stop = AtomicBool::new(false);
        let refused = copy_pages(&origin, &part, Some(4096), &stop, &mut |_| {});
        let Err(BackupFailure::NoRoom { needed, free }) = refused else {
            panic!("it was begun")
        };
        assert!(needed > free && !part.exists());
        let error = BackupError::NoRoom {
            folder: folder.path().to_owned(),
            needed: 5 << 20,
            free,
        };
        assert!(error.to_string().contains("needs 5 MiB"), "{error}");
    }

    #[test]
    fn what_was_written_after_it_began_is_not_in_it() {
        let (folder, path) = database();
        let writer = open_writable(&path, Durability::Process).unwrap();
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
            INSERT INTO settings SELECT 'before ' || i, randomblob(900) FROM n";
        writer.execute(fill, []).unwrap();
        let target = folder.path().join("copy.db");
        let stop = Arc::default();
        let mut steps = 0;
        copy(&path, &target, &stop, |_| {
            steps += 1;
            let after = "INSERT INTO settings VALUES ('after ' || ?1, randomblob(9000))";
            writer.execute(after, [steps]).unwrap();
        })
        .unwrap();
        assert!(steps > 3, "{steps}");
        let copied = open_readable(&target).unwrap();
        assert_eq!(last(&copied).unwrap().unwrap().file, target);
        let counts = "SELECT sum(name LIKE 'before %'), sum(name LIKE 'after %') FROM settings";
        let counts: (i64, i64) = copied
            .query_row(counts, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(counts, (3000, 0));
    }
}
