//! Standard output: data only. A reader that went away (`| head`) is not an error.

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;

use crate::error::{Error, Result};
use crate::run::streams;

/// Whether the reader of stdout is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipe {
    /// It took everything.
    Open,
    /// It closed the pipe.
    Closed,
}

/// Whether stdout was redirected to a file.
pub fn is_file() -> bool {
    let stdout = std::io::stdout();
    let file = stdout.as_fd().try_clone_to_owned().map(std::fs::File::from);
    file.and_then(|file| file.metadata())
        .is_ok_and(|there| there.is_file())
}

/// Writes all of `bytes` to stdout and flushes. An error, even for no bytes, if stdout is closed.
pub fn write(bytes: &[u8]) -> Result<Pipe> {
    streams::check_output()?;
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(Pipe::Open),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(Pipe::Closed),
        Err(e) => Err(Error::refused(format!("cannot write to stdout: {e}"))),
    }
}
