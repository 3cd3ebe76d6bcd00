//! One error type for the whole crate. A kind exists only where a caller acts differently on it.

use std::fmt;
use std::time::Duration;

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A dependency is down or busy: wait and retry, up to `--max-outage`; then exit status 4.
    Unavailable,
    /// A dependency refused the request or broke its own contract; a retry will not help. Exit status 4.
    Refused,
    /// Usage, configuration or input that the user must fix. Exit status 2.
    Invalid,
    /// One record is bad: reject it and go on. Exit status 1.
    Data,
    /// Data that should be there is gone: offset gap, truncated input. Exit status 5.
    Missing,
    /// More bad records than the error budget allows. Exit status 3.
    Budget,
    /// A bug in rtp: report it. Exit status 70.
    Internal,
}

/// An error: its kind, a message for people, and what to do about it where we know.
///
/// Messages are lowercase, without final period, and name the path, address, topic or table.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    retry_after: Option<Duration>,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
            hint: None,
            retry_after: None,
        }
    }

    /// See [`Kind::Unavailable`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// See [`Kind::Refused`].
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// See [`Kind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// See [`Kind::Data`].
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(Kind::Data, message)
    }

    /// See [`Kind::Missing`].
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(Kind::Missing, message)
    }

    /// See [`Kind::Budget`].
    pub fn budget(message: impl Into<String>) -> Self {
        Self::new(Kind::Budget, message)
    }

    /// See [`Kind::Internal`]: a panic or a broken invariant, described for those who will fix it.
    pub fn internal(what: impl fmt::Display) -> Self {
        Self::new(
            Kind::Internal,
            format!("internal error, a bug in rtp: {what}"),
        )
        .hint("please report it with this message and the command line")
    }

    /// The same error with another kind, where the caller knows what it means for the whole command.
    pub fn as_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Adds what the user can do about it, shown on a separate line.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds how long the dependency asks to be left alone, for example by HTTP's `Retry-After`.
    pub fn retry_after(mut self, pause: Option<Duration>) -> Self {
        self.retry_after = pause;
        self
    }

    /// Puts what was being done in front of the message: `context: message`.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// What the caller does next.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether waiting and trying again can help.
    pub fn is_retriable(&self) -> bool {
        matches!(self.kind, Kind::Unavailable)
    }

    /// How long the dependency asks to be left alone.
    pub fn asked_pause(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What the user can do about it.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Adds context to the error of any result of this crate.
pub trait Context<T> {
    /// Puts `context` in front of the error's message.
    fn context(self, context: impl fmt::Display) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, context: impl fmt::Display) -> Result<T> {
        self.map_err(|e| e.context(context))
    }
}

/// A path, unless it is an address that was given in place of one: it may have a password before its last `@`.
fn without_password(path: &str) -> String {
    let address = path.split_once("://");
    match address.and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, host)) => format!("{scheme}://***@{host}"),
        None => path.into(),
    }
}

/// An I/O error on a named file: a wrong path or a missing permission is for the user to fix (`Invalid`); anything
/// else, such as a full disk or a failing device, is `Refused`.
pub fn file_error(action: &str, path: &std::path::Path, error: &std::io::Error) -> Error {
    use std::io::ErrorKind as K;
    let path = without_password(&path.display().to_string());
    let message = format!("cannot {action} {path}: {error}");
    match error.kind() {
        K::NotFound
        | K::PermissionDenied
        | K::AlreadyExists
        | K::IsADirectory
        | K::NotADirectory
        | K::ReadOnlyFilesystem => Error::invalid(message),
        K::FileTooLarge => Error::refused(message)
            .hint("`ulimit -f` shows how large a file of this process may be, and sets it"),
        _ => Error::refused(message),
    }
}

/// Like [`file_error`], for what can be written again: a full disk may have room by then (`Unavailable`).
pub fn write_error(path: &std::path::Path, error: &std::io::Error) -> Error {
    use std::io::ErrorKind as K;
    let known = file_error("write", path, error);
    match error.kind() {
        K::StorageFull | K::QuotaExceeded => known.as_kind(Kind::Unavailable),
        _ => known,
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind as K;
    use std::path::Path;

    use super::*;

    #[test]
    fn only_a_full_disk_is_waited_for() {
        for (reason, expected) in [
            (K::StorageFull, Kind::Unavailable),
            (K::QuotaExceeded, Kind::Unavailable),
            (K::FileTooLarge, Kind::Refused),
            (K::Other, Kind::Refused),
            (K::PermissionDenied, Kind::Invalid),
        ] {
            let error = write_error(Path::new("a"), &reason.into());
            assert_eq!(error.kind(), expected, "{reason:?}");
            let is_limit = error
                .hint_text()
                .is_some_and(|hint| hint.contains("ulimit -f"));
            assert_eq!(is_limit, reason == K::FileTooLarge, "{reason:?}");
        }
    }
}
