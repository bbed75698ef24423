//! The schema: created, brought up to date, and its views kept as this program knows them.

use std::io;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use rusqlite_migration::{M, Migrations};

use super::{Durability, StoreError};
use crate::limits;

/// In the order in which they are applied. One that has been released never changes.
const MIGRATIONS: Migrations<'static> = Migrations::from_slice(STEPS);

const STEPS: &[M<'static>] = &[
    M::up(include_str!(
        "../../sql/migrations/0001_accounts_references_requests.sql"
    )),
    M::up(include_str!("../../sql/migrations/0002_prices_and_sums.sql")),
    M::up(include_str!("../../sql/migrations/0003_recent_references.sql")),
    M::up(include_str!("../../sql/migrations/0004_words_one_by_one.sql")),
    M::up(include_str!(
        "../../sql/migrations/0005_lives_of_accounts_and_keys.sql"
    )),
    M::up(include_str!("../../sql/migrations/0006_reasons_and_detours.sql")),
    M::up(include_str!(
        "../../sql/migrations/0007_attempts_and_comments.sql"
    )),
    M::up(include_str!("../../sql/migrations/0008_scope_of_references.sql")),
];

/// The views, each after those that it reads.
const VIEWS: [(&str, &str); 11] = [
    (
        "known_references",
        include_str!("../../sql/views/known_references.sql"),
    ),
    ("usage_facts", include_str!("../../sql/views/usage_facts.sql")),
    ("turns", include_str!("../../sql/views/turns.sql")),
    ("attempts", include_str!("../../sql/views/attempts.sql")),
    ("conversations", include_str!("../../sql/views/conversations.sql")),
    ("usage_by_hour", include_str!("../../sql/views/usage_by_hour.sql")),
    ("usage_by_day", include_str!("../../sql/views/usage_by_day.sql")),
    (
        "usage_by_account",
        include_str!("../../sql/views/usage_by_account.sql"),
    ),
    (
        "usage_by_model",
        include_str!("../../sql/views/usage_by_model.sql"),
    ),
    ("usage_by_key", include_str!("../../sql/views/usage_by_key.sql")),
    ("accounts_now", include_str!("../../sql/views/accounts_now.sql")),
];

/// Creates an empty file that only its owner can read, if there is none. SQLite gives its `-wal`
/// and `-shm` files the same mode.
///
/// One that is there is not even opened: when a process closes a file, the system takes all locks from
/// it that it has on that file, also those of SQLite. Other programs would believe to be alone with the
/// database then, and remove the log that the gateway goes on writing.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    match options.open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Sets a connection up to write, and the schema up to date.
pub(super) fn prepare(connection: &mut Connection, durability: Durability) -> Result<(), StoreError> {
    // First of all: even switching to WAL takes a lock that another process may hold.
    connection.busy_timeout(limits::BUSY_TIMEOUT)?;
    // Only an empty database takes this; it lets the sweep give pages back.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // NORMAL does not sync at a commit. What is written is the operating system's then, and safe
    // from the death of the process; only a loss of power can take the last commits.
    let synchronous = match durability {
        Durability::Process => "NORMAL",
        Durability::Full => "FULL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    // A log that has become longer than it should is cut when it begins anew.
    connection.pragma_update(None, "journal_size_limit", limits::WAL_BYTES.cast_signed())?;
    connection.set_prepared_statement_cache_capacity(64);
    // A migration may make a table anew that others point at: they must not be told meanwhile.
    connection.pragma_update(None, "foreign_keys", false)?;
    MIGRATIONS.to_latest(connection)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    refresh_views(connection)
}

/// Whether all migrations were applied.
pub(super) fn is_up_to_date(connection: &Connection) -> Result<bool, StoreError> {
    Ok(MIGRATIONS.pending_migrations(connection)? == 0)
}

/// Makes the views anew where they differ from this program's. A change of the schema makes every
/// other connection prepare its statements again, so nothing is touched that is right.
fn refresh_views(connection: &mut Connection) -> Result<(), StoreError> {
    let stale = VIEWS
        .iter()
        .any(|(name, sql)| view_sql(connection, name) != Some(definition(sql)));
    if !stale {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (name, _) in VIEWS.iter().rev() {
        transaction.execute_batch(&format!("DROP VIEW IF EXISTS {name};"))?;
    }
    for (_, sql) in VIEWS {
        transaction.execute_batch(sql)?;
    }
    transaction.commit()?;
    Ok(())
}

/// What SQLite keeps of a file: the statement from its `CREATE` to before its semicolon.
fn definition(sql: &str) -> String {
    let statement = sql.find("CREATE VIEW").map_or(sql, |start| &sql[start..]);
    statement.trim_end().trim_end_matches(';').to_owned()
}

fn view_sql(connection: &Connection, name: &str) -> Option<String> {
    let query = "SELECT sql FROM sqlite_schema WHERE type = 'view' AND name = ?1";
    connection
        .query_row(query, [name], |row| row.get(0))
        .optional()
        .ok()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moorage.db");
        let connection = super::super::open_writable(&path, Durability::Process).unwrap();
        (folder, connection)
    }

    #[test]
    fn migrations_are_valid() {
        MIGRATIONS.validate().unwrap();
    }

    #[test]
    fn a_second_open_changes_nothing() {
        let (_folder, mut connection) = database();
        let version = |connection: &Connection| -> i64 {
            connection
                .query_row("PRAGMA schema_version", [], |row| row.get(0))
                .unwrap()
        };
        let before = version(&connection);
        prepare(&mut connection, Durability::Process).unwrap();
        assert_eq!(version(&connection), before);
    }

    #[test]
    fn a_view_of_another_version_is_made_anew() {
        let (_folder, mut connection) = database();
        connection
            .execute_batch("DROP VIEW turns; CREATE VIEW turns AS SELECT 1 AS old;")
            .unwrap();
        prepare(&mut connection, Durability::Process).unwrap();
        connection
            .prepare("SELECT conversation_id, affinity_by FROM turns")
            .unwrap();
    }

    #[test]
    fn the_schema_says_of_every_table_and_view_what_it_is() {
        let (_folder, connection) = database();
        let query = "SELECT name, sql FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'";
        let mut statement = connection.prepare(query).unwrap();
        let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        let found: Vec<(String, String)> = found.unwrap().map(Result::unwrap).collect();
        assert!(found.len() > 20, "{found:?}");
        for (name, sql) in found {
            let second_line = sql.lines().nth(1).unwrap_or_default().trim_start();
            assert!(second_line.starts_with("-- "), "{name}: {sql}");
        }
        // What was written into the schema is what SQLite still reads.
        let check: String = connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
    }

    #[test]
    fn a_newer_database_is_refused() {
        let (_folder, mut connection) = database();
        connection.pragma_update(None, "user_version", 1000).unwrap();
        assert!(prepare(&mut connection, Durability::Process).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_can_read_the_database() {
        use std::os::unix::fs::PermissionsExt as _;
        let (folder, _connection) = database();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{:?}", entry.file_name());
        }
    }
}
