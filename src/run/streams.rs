//! Whether a standard stream was closed (`>&-`) when rtp was started. Rust's runtime then opens /dev/null in its
//! place before `main`, so that no other file gets its number: records written there would be lost without an error, and
//! an input that cannot be read would look empty. Only a function that the loader calls before the runtime starts can
//! see it.
#![expect(unsafe_code, reason = "the runtime hides it from safe code")]

use std::ffi::c_int;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Error, Result};

/// A bit for each closed stream, by its number.
static CLOSED: AtomicU8 = AtomicU8::new(0);

const STDIN: c_int = 0;
const STDOUT: c_int = 1;
const STDERR: c_int = 2;

/// Linux's command to read a descriptor's flags, which fails only if the descriptor is not open.
const F_GETFD: c_int = 1;

unsafe extern "C" {
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
}

#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
static BEFORE_MAIN: extern "C" fn() = look;

extern "C" fn look() {
    for fd in [STDIN, STDOUT, STDERR] {
        // SAFETY: F_GETFD takes no argument, and any number may be asked about.
        if unsafe { fcntl(fd, F_GETFD) } == -1 {
            CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
        }
    }
}

fn was_closed(fd: c_int) -> bool {
    CLOSED.load(Ordering::Relaxed) & (1 << fd) != 0
}

/// An error if standard input was closed.
pub fn check_input() -> Result<()> {
    match was_closed(STDIN) {
        false => Ok(()),
        true => Err(
            Error::invalid("standard input is closed, so nothing can be read from it").hint(
                "name a file, or redirect standard input from /dev/null if it should be empty",
            ),
        ),
    }
}

/// An error if standard output was closed.
pub fn check_output() -> Result<()> {
    match was_closed(STDOUT) {
        false => Ok(()),
        true => Err(
            Error::invalid("standard output is closed, so nothing can be written to it")
                .hint("redirect it to a file, or to /dev/null to discard what is written"),
        ),
    }
}

/// An error if standard error was closed.
pub fn check_error_output() -> Result<()> {
    match was_closed(STDERR) {
        false => Ok(()),
        true => Err(
            Error::invalid("standard error is closed, so nothing can be written to it")
                .hint("name a file, or redirect standard error"),
        ),
    }
}
