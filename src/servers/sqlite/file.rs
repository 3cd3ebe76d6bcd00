//! The file that an adapter has open. Somebody may delete it or put another one in its place, which SQLite does not notice:
//! what is written then is in no folder any more.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, file_error};

/// A file that was opened.
#[derive(Debug)]
pub(super) struct OpenFile {
    path: PathBuf,
    /// Device and inode number, which identify it among others with the same name.
    number: (u64, u64),
}

impl OpenFile {
    /// The file that has this path now.
    pub(super) fn at(path: &Path) -> Result<Self> {
        Ok(OpenFile {
            path: path.into(),
            number: number(path).map_err(|e| file_error("read", path, &e))?,
        })
    }

    /// An error if another file has taken the path, or none is there; `what` was in use.
    pub(super) fn check(&self, what: &str) -> Result<()> {
        let path = self.path.display();
        match number(&self.path) {
            Ok(number) if number == self.number => Ok(()),
            Ok(_) => Err(Error::missing(format!(
                "{path} was replaced by another file while {what} was in use"
            ))
            .hint("restart the command to continue with the new file")),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(Error::missing(format!("{path} no longer exists: {e}")))
            }
            Err(e) => Err(file_error("read", &self.path, &e)),
        }
    }
}

fn number(path: &Path) -> std::io::Result<(u64, u64)> {
    let file = std::fs::metadata(path)?;
    Ok((file.dev(), file.ino()))
}
