//! What the SQLite adapters share: opening a file, and what its errors mean.

pub mod aggregates;
pub mod batch_store;
pub mod ddl;
pub mod event_log;
mod file;
mod history;
pub mod ledger;
pub mod monitor;
mod pages;
pub mod realtime_store;
pub mod samples;
mod schema;
mod server;
pub mod table_reader;
mod types;

pub use server::{KIND, Sqlite};

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};

use crate::dataset::Dataset;
use crate::dataset::ddl::quoted;
use crate::error::{Context, Error, Kind, Result, file_error};
use crate::ports::INIT_FIRST;
use crate::ports::batch_store::Merged;
use crate::record::row::Rows;

/// How long a statement waits for another process's lock before it counts as unavailable.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Page cache of a connection that only reads: a scan reads each page once.
const READING_CACHE_KIB: u32 = 4_096;

/// Size of the write-ahead log, in pages of 4 KiB, at which it is moved into the file. A page that many commits
/// change is then written there less often, and synced less often, than with SQLite's default of 1,000.
const CHECKPOINT_PAGES: u32 = 4_000;

/// Whether a missing file is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Yes, and its folder as well.
    Create,
    /// No: the user has not run `rtp init` here.
    Refuse,
}

/// Opens a file in WAL mode with synchronous=NORMAL: safe against any process's crash, not against
/// power loss. `cache_kib` bounds the page cache, which is most of a connection's memory.
pub fn open(path: &Path, missing: Missing, cache_kib: u32) -> Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match missing {
        Missing::Create => {
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
            create_folder(path)?;
            create_file(path)?;
        }
        Missing::Refuse => must_exist(path)?,
    }
    Connection::open_with_flags(path, flags)
        .and_then(|c| {
            c.busy_timeout(BUSY_TIMEOUT)?;
            c.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?; // a missing column is not a text
            c.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
            c.execute_batch(&format!(
                "PRAGMA synchronous = NORMAL; PRAGMA cache_size = -{cache_kib}; PRAGMA temp_store = FILE; PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};"
            ))?;
            Ok(c)
        })
        .map_err(|e| error(&e))
        .context(format_args!("cannot open {}", path.display()))
}

/// Opens a file through a connection that cannot write. In WAL mode only a recovery after a crash makes it wait.
fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?; // as above
    db.execute_batch(&format!("PRAGMA cache_size = -{READING_CACHE_KIB}"))?;
    Ok(db)
}

/// An error if the file is missing, or if nobody lets us see whether it is: those are different mistakes.
fn must_exist(path: &Path) -> Result<()> {
    let found = std::fs::metadata(path);
    match found {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::invalid(format!("{} does not exist", path.display())).hint(INIT_FIRST))
        }
        Err(e) => Err(file_error("open", path, &e)),
    }
}

/// The folder contains personal data, so nobody else may read it.
fn create_folder(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match path
        .parent()
        .filter(|p| !p.as_os_str().is_empty() && !p.exists())
    {
        None => Ok(()),
        Some(folder) => std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|e| file_error("create the folder", folder, &e)),
    }
}

/// An existing folder may be open to everybody, so the file must not be; SQLite gives its other files the same mode.
fn create_file(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let created = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match created {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(file_error("create", path, &e))
        }
        _ => Ok(()),
    }
}

/// What an error of SQLite means for the caller.
pub fn error(error: &rusqlite::Error) -> Error {
    let message = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull) => {
            Error::unavailable(message)
        }
        // SQLite does not tell the system's reason, but nothing that it does after a failed write fails again.
        Some(ErrorCode::SystemIoFailure) => {
            let reason = std::io::Error::last_os_error().kind();
            io_failure(message, reason, file_size_limit)
        }
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
            Error::data(message)
        }
        Some(
            ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::NotADatabase,
        ) => Error::invalid(message),
        _ => Error::refused(message),
    }
}

/// An I/O error for this reason. Waiting makes room on a full disk, but raises no limit.
fn io_failure(
    message: String,
    reason: std::io::ErrorKind,
    limit: impl FnOnce() -> Option<u64>,
) -> Error {
    if reason != std::io::ErrorKind::FileTooLarge {
        return Error::unavailable(message);
    }
    match limit() {
        Some(limit) => Error::refused(format!(
            "{message}; no file of this process may grow beyond {limit} bytes"
        ))
        .hint("raise the limit with `ulimit -f`"),
        None => Error::refused(format!("{message}; the file system allows no larger file")),
    }
}

/// The number of bytes beyond which no file of this process may grow, if there is a limit and the system tells it.
fn file_size_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let limits = limits.lines().find_map(|l| l.strip_prefix("Max file size"));
    limits?.split_whitespace().next()?.parse().ok() // `unlimited` is not a number
}

/// The result, or an error that says what failed for which file.
pub fn fail<T>(result: rusqlite::Result<T>, doing: &str, path: &Path) -> Result<T> {
    result
        .map_err(|e| error(&e))
        .context(format_args!("cannot {doing} {}", path.display()))
}

/// Adds columns, each with its type, to a table that was created before it had them.
pub fn add_columns(path: &Path, table: &str, columns: &[&str]) -> Result<()> {
    let mut db = open(path, Missing::Refuse, 2_048)?;
    add_missing(&mut db, table, columns)
        .map_err(|e| error(&e))
        .context(format_args!("cannot change {table} in {}", path.display()))
}

/// In one transaction, which begins before it looks: another process may be adding them, too.
fn add_missing(db: &mut Connection, table: &str, columns: &[&str]) -> rusqlite::Result<()> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for column in columns {
        let (name, _) = column.split_once(' ').unwrap_or((column, ""));
        if !has_column(&tx, table, name)? {
            tx.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column}"))?;
        }
    }
    tx.commit()
}

/// Whether a table has a column.
pub fn has_column(db: &Connection, table: &str, column: &str) -> rusqlite::Result<bool> {
    let known = "SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2";
    let known = db
        .query_row(known, [table, column], |_| Ok(()))
        .optional()?;
    Ok(known.is_some())
}

/// Opens a file that must hold these tables.
pub fn open_tables(path: &Path, tables: &[&str], cache_kib: u32) -> Result<Connection> {
    let db = open(path, Missing::Refuse, cache_kib)?;
    for table in tables {
        let there = db
            .query_row(
                "SELECT 1 FROM sqlite_schema WHERE name = ?1",
                [table],
                |_| Ok(()),
            )
            .optional()
            .map_err(|e| error(&e))?;
        if there.is_none() {
            return Err(
                Error::invalid(format!("there is no table {table} in {}", path.display()))
                    .hint(INIT_FIRST),
            );
        }
    }
    Ok(db)
}

/// What an upsert does with a key that is already in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// It fails.
    Fail,
    /// The stored row stays.
    Keep,
    /// The new row replaces it.
    Overwrite,
    /// The newer row by (event time, digest) stays.
    KeepNewest,
}

/// The upsert of all fields and of further columns, including the digest.
pub fn upsert(dataset: &Dataset, table: &str, further: &[&str], conflict: OnConflict) -> String {
    let names = dataset
        .fields
        .iter()
        .map(|f| f.name.as_str())
        .chain(further.iter().copied());
    let columns: Vec<String> = names.map(quoted).collect();
    let (key, time) = (quoted(&dataset.key().name), quoted(&dataset.time().name));
    let table = quoted(table);
    let insert = format!(
        "INSERT INTO {table} ({}) VALUES ({})",
        columns.join(", "),
        vec!["?"; columns.len()].join(", "),
    );
    let updates: Vec<String> = columns
        .iter()
        .filter(|c| **c != key)
        .map(|c| format!("{c} = excluded.{c}"))
        .collect();
    let update = format!(
        "{insert} ON CONFLICT ({key}) DO UPDATE SET {}",
        updates.join(", ")
    );
    match conflict {
        OnConflict::Fail => insert,
        OnConflict::Keep => format!("{insert} ON CONFLICT ({key}) DO NOTHING"),
        OnConflict::Overwrite => update,
        OnConflict::KeepNewest => format!(
            "{update} WHERE (excluded.{time}, excluded.\"rtp_digest\") > ({table}.{time}, {table}.\"rtp_digest\")"
        ),
    }
}

/// Columns that the stores add to a dataset's fields; a table has the first few of them.
pub const OWN_COLUMNS: [&str; 3] = ["rtp_digest", "rtp_partition", "rtp_offset"];

/// Binds a row and the first `own` of [`OWN_COLUMNS`], from the first parameter on.
pub fn bind_row(
    statement: &mut rusqlite::Statement<'_>,
    rows: &Rows,
    i: usize,
    own: usize,
) -> rusqlite::Result<()> {
    types::bind(statement, rows.values(i))?;
    let (meta, after) = (rows.meta(i), rows.width() + 1);
    statement.raw_bind_parameter(after, meta.digest.0.as_slice())?;
    if own > 1 {
        statement.raw_bind_parameter(after + 1, meta.origin.partition)?;
        statement.raw_bind_parameter(after + 2, meta.origin.offset)?;
    }
    Ok(())
}

/// Creates the staging table: a temporary file, outside the database and its log.
pub fn create_stage(db: &Connection, dataset: &Dataset) -> rusqlite::Result<()> {
    let fields = dataset.fields.iter().map(|f| f.name.as_str());
    let columns: Vec<String> = fields.chain(OWN_COLUMNS).map(quoted).collect();
    db.execute_batch(&format!(
        "CREATE TEMP TABLE rtp_stage (rtp_record INTEGER PRIMARY KEY, {})",
        columns.join(", ")
    ))
}

/// Adds rows to the staging table, all or none, without locking the database.
pub fn stage(db: &Connection, rows: &Rows) -> rusqlite::Result<()> {
    rollback_open(db)?;
    db.execute_batch("BEGIN")?;
    let places = vec!["?"; rows.width() + OWN_COLUMNS.len()].join(", ");
    let mut insert = db.prepare_cached(&format!(
        "INSERT INTO temp.rtp_stage VALUES (NULL, {places})"
    ))?;
    for i in 0..rows.len() {
        bind_row(&mut insert, rows, i, OWN_COLUMNS.len())?;
        insert.raw_execute()?;
    }
    drop(insert);
    db.execute_batch("COMMIT")
}

/// Empties the staging table.
pub fn clear_stage(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch("DELETE FROM temp.rtp_stage")
}

/// Why a merge failed: the error, and the number of the staged record that the table rejects.
#[derive(Debug)]
pub struct MergeError {
    /// SQLite's error.
    pub error: rusqlite::Error,
    /// 1-based; none if it was not due to a record.
    pub record: Option<i64>,
}

impl From<rusqlite::Error> for MergeError {
    fn from(error: rusqlite::Error) -> Self {
        MergeError {
            error,
            record: None,
        }
    }
}

/// Writes the newest staged row of each key into a table with the first `own` of [`OWN_COLUMNS`],
/// inside the open transaction. In key order, the index is traversed once; rows in arrival order would write all
/// over it. The row of record `first`, which must be the newest of its key, goes before all others.
pub fn merge_stage(
    db: &Connection,
    dataset: &Dataset,
    table: &str,
    own: usize,
    conflict: OnConflict,
    first: Option<i64>,
) -> Result<Merged, MergeError> {
    let mut upsert = db.prepare_cached(&upsert(dataset, table, &OWN_COLUMNS[..own], conflict))?;
    let (key, time) = (quoted(&dataset.key().name), quoted(&dataset.time().name));
    let (those, before) = match first {
        None => (String::new(), String::new()),
        Some(first) => (
            format!(
                "WHERE rtp_record = {first} OR {key} <> (SELECT {key} FROM temp.rtp_stage WHERE rtp_record = {first})"
            ),
            format!("rtp_record = {first} DESC, "),
        ),
    };
    let mut select = db.prepare_cached(&format!(
        "SELECT * FROM temp.rtp_stage {those} ORDER BY {before}{key}, {time} DESC, rtp_digest DESC"
    ))?;
    let key_column = 1 + dataset.event.key;
    let columns = dataset.fields.len() + own;
    let mut last_key: Option<rusqlite::types::Value> = None;
    let mut merged = Merged::default();
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let this_key = row.get(key_column)?;
        if last_key.as_ref() == Some(&this_key) {
            merged.deduplicated += 1;
            continue;
        }
        for column in 1..=columns {
            upsert.raw_bind_parameter(column, ToSqlOutput::Borrowed(row.get_ref(column)?))?;
        }
        match upsert.raw_execute() {
            Ok(0) => merged.skipped += 1,
            Ok(_) => merged.written += 1,
            Err(error) => {
                let record = Some(row.get(0)?);
                return Err(MergeError { error, record });
            }
        }
        last_key = Some(this_key);
    }
    Ok(merged)
}

/// Whether SQLite rejects the row itself.
pub fn is_bad_row(e: &rusqlite::Error) -> bool {
    error(e).kind() == Kind::Data
}

/// Ends a transaction that an error or a dropped future left open.
pub fn rollback_open(db: &Connection) -> rusqlite::Result<()> {
    match db.is_autocommit() {
        true => Ok(()),
        false => db.execute_batch("ROLLBACK"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use rusqlite::ffi;

    use super::*;

    #[test]
    fn the_limit_of_files_is_named_only_if_a_write_has_reached_it() {
        let fail = |reason, limit| io_failure("disk I/O error".into(), reason, || limit);
        for reason in [
            ErrorKind::Other,
            ErrorKind::InvalidInput,
            ErrorKind::NotFound,
        ] {
            let other = fail(reason, Some(600));
            assert_eq!(other.kind(), Kind::Unavailable);
            assert_eq!(
                (other.to_string().as_str(), other.hint_text()),
                ("disk I/O error", None)
            );
        }
        let reached = fail(ErrorKind::FileTooLarge, Some(600));
        assert_eq!(reached.kind(), Kind::Refused);
        assert!(reached.to_string().contains("beyond 600 bytes"));
        assert!(reached.hint_text().unwrap().contains("ulimit -f"));
        let largest = fail(ErrorKind::FileTooLarge, None);
        assert_eq!((largest.kind(), largest.hint_text()), (Kind::Refused, None));
    }

    /// Another process that has added a column, and commits as soon as somebody waits for its lock.
    static OTHER: std::sync::Mutex<Option<Connection>> = std::sync::Mutex::new(None);

    #[test]
    fn a_column_that_another_process_is_adding_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let open = || open(&path, Missing::Create, 64).unwrap();
        let (mut db, other) = (open(), open());
        db.execute_batch("CREATE TABLE t (a INTEGER)").unwrap();
        let add = "BEGIN IMMEDIATE; ALTER TABLE t ADD COLUMN mark INTEGER";
        other.execute_batch(add).unwrap();
        *OTHER.lock().unwrap() = Some(other);
        let commits = |_| {
            let other = OTHER.lock().unwrap().take();
            other.is_some_and(|other| other.execute_batch("COMMIT").is_ok())
        };
        db.busy_handler(Some(commits)).unwrap();
        add_missing(&mut db, "t", &["mark INTEGER", "more TEXT"]).unwrap();
        assert!(OTHER.lock().unwrap().is_none(), "nobody waited");
        for column in ["mark", "more"] {
            assert!(has_column(&db, "t", column).unwrap(), "{column}");
        }
    }

    #[test]
    fn full_disks_and_locks_are_outages_and_no_bad_rows() {
        let kind = |code| {
            let code = ffi::Error::new(code);
            error(&rusqlite::Error::SqliteFailure(code, None)).kind()
        };
        for (code, expected) in [
            (ffi::SQLITE_FULL, Kind::Unavailable),
            (ffi::SQLITE_BUSY, Kind::Unavailable),
            (ffi::SQLITE_LOCKED, Kind::Unavailable),
            (ffi::SQLITE_CONSTRAINT, Kind::Data),
            (ffi::SQLITE_TOOBIG, Kind::Data),
            (ffi::SQLITE_READONLY, Kind::Invalid),
            (ffi::SQLITE_NOTADB, Kind::Invalid),
            (ffi::SQLITE_CORRUPT, Kind::Refused),
            (ffi::SQLITE_NOMEM, Kind::Refused),
        ] {
            assert_eq!(kind(code), expected, "{code}");
        }
    }
}
