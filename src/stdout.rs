//! Standard output: data only, and a reader that went away (`| head`) is no error.

use std::io::{ErrorKind, Write};

use crate::error::{Error, Result};

/// Whether the reader of stdout is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// It took everything.
    Here,
    /// It closed the pipe.
    Gone,
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
