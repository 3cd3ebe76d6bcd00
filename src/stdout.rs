//! Standard output: data only, and a reader that went away (`| head`) is no error.

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;

use crate::error::{Error, Result};

/// Whether the reader of stdout is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// It took everything.
    Here,
    /// It closed the pipe.
    Gone,
}

/// Whether stdout was redirected to a file.
pub fn is_file() -> bool {
    let stdout = std::io::stdout();
    let file = stdout.as_fd().try_clone_to_owned().map(std::fs::File::from);
    file.and_then(|file| file.metadata())
        .is_ok_and(|there| there.is_file())
}

/// Writes all of `bytes` to stdout and flushes.
pub fn write(bytes: &[u8]) -> Result<Reader> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Here),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(e) => Err(Error::refused(format!("cannot write to stdout: {e}"))),
    }
}
