//! What the SQLite adapters share: opening a file, and what its errors mean.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{Context, Error, Result, file_error};

/// How long a statement waits for another process's lock before it counts as unavailable.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a missing file is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Yes, with its folder.
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
        }
        Missing::Refuse if !path.exists() => {
            return Err(Error::invalid(format!("{} does not exist", path.display()))
                .hint("run `rtp init` first, with the same addresses"));
        }
        Missing::Refuse => {}
    }
    let connection = Connection::open_with_flags(path, flags)
        .and_then(|c| {
            c.busy_timeout(BUSY_TIMEOUT)?;
            c.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
            c.execute_batch(&format!(
                "PRAGMA synchronous = NORMAL; PRAGMA cache_size = -{cache_kib}; PRAGMA temp_store = FILE;"
            ))?;
            Ok(c)
        })
        .map_err(|e| error(&e))
        .context(format_args!("cannot open {}", path.display()))?;
    Ok(connection)
}

/// The folder holds records of people: nobody else may read it.
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

/// What an error of SQLite asks of the caller.
pub fn error(error: &rusqlite::Error) -> Error {
    let message = error.to_string();
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure,
        ) => Error::unavailable(message),
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
