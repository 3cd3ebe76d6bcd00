//! Where bad records go: the dead-letter topic, or a file of NDJSON; and how many are too many.

use std::fs::{File, Metadata, Permissions, TryLockError};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::oversized;
use crate::dataset::Dataset;
use crate::durable::{self, Appending, Aside};
use crate::error::{Error, Kind, Result, file_error, write_error};
use crate::ports::event_log::Producer;
use crate::record::event::{Event, EventBatch, Headers};
use crate::record::reject::Reject;
use crate::run::retry::Retry;
use crate::run::{Run, add, streams};

/// A bad record, and where it was found.
#[derive(Clone, Copy, Debug)]
pub struct Rejected<'a> {
    /// Topic or file.
    pub source: &'a str,
    /// Partition, for an event from the log.
    pub partition: Option<i32>,
    /// Offset in the partition, or byte offset in the file.
    pub offset: i64,
    /// 1-based line, for a file.
    pub line: Option<u64>,
    /// Key, unchanged.
    pub key: Option<&'a [u8]>,
    /// The record, byte for byte.
    pub value: Option<&'a [u8]>,
    /// Headers, unchanged.
    pub headers: &'a [u8],
    /// Why.
    pub reject: &'a Reject,
}

/// The dead letter of a rejected record, with Kafka Connect's error headers and our own.
pub fn push_dead_letter(
    batch: &mut EventBatch,
    dataset: &Dataset,
    stage: &str,
    run_id: &str,
    rejected: &Rejected<'_>,
) {
    let mut headers = Headers::default();
    for (name, value) in Headers::parts(rejected.headers) {
        headers.push_bytes(name, value);
    }
    let mut text = |name: &str, value: &str| headers.push(name, value.as_bytes());
    text("__connect.errors.topic", rejected.source);
    if let Some(partition) = rejected.partition {
        text("__connect.errors.partition", &partition.to_string());
    }
    text("__connect.errors.offset", &rejected.offset.to_string());
    text("__connect.errors.stage", stage);
    text(
        "__connect.errors.exception.class.name",
        rejected.reject.fault.rule.name(),
    );
    text(
        "__connect.errors.exception.message",
        &rejected.reject.describe(dataset),
    );
    text("rtp.rule", rejected.reject.fault.rule.name());
    if let Some(field) = rejected.reject.field {
        text("rtp.field", &dataset.fields[field].name);
    }
    if let Some(line) = rejected.line {
        text("rtp.line", &line.to_string());
    }
    text("rtp.run_id", run_id);
    batch.push(Event::new(rejected.key, rejected.value, headers.bytes()));
}

/// Sends dead letters and waits until they are acknowledged, through outages: none is sent twice. One that is too large
/// for its topic is shortened; a header gives its full size.
pub async fn send(retry: &Retry, producer: &mut dyn Producer, batch: &EventBatch) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let letters = batch.len() as u64;
    let max_size = producer.max_size().unwrap_or(usize::MAX);
    let batch = &Arc::new(match batch.iter().all(|letter| letter.size() <= max_size) {
        true => batch.clone(),
        false => oversized::fitting(batch, max_size),
    });
    // Two steps, so that an outage during the flush does not send again what is still in flight.
    retry
        .through_outage(async || producer.send(batch).await)
        .await?;
    let acknowledged = retry
        .through_outage(async || producer.flush().await)
        .await?;
    if acknowledged == batch.len() as u64 {
        add(&retry.run.counts.dead_letters, letters);
        return Ok(());
    }
    Err(Error::refused(format!(
        "only {acknowledged} of {} dead letters were acknowledged",
        batch.len()
    )))
}

/// Bytes of a reject file that are worth a write: not many, because somebody may be reading a pipe.
const PIECE: usize = 1 << 13;

/// A reject file: one JSON object per line, readable only by its owner. A pipe works, too.
///
/// What an older file holds is not overwritten but replaced by a new file of that name, so that whoever still reads the
/// old one, such as the program that sends the input, reads all of it. That happens with the first bad record, or at the
/// end of an input without any, and all bad records are in the named file from then on, even if the process is killed.
/// Only a file that cannot be replaced is overwritten. No other run can write the file meanwhile.
#[derive(Debug)]
pub struct RejectFile {
    path: PathBuf,
    out: Appending,
    /// Whether it is a regular file, rather than a pipe or a terminal.
    is_file: bool,
    /// Whether this run has read something: until then, an older file stays.
    has_read: bool,
    /// The older file, if it holds something.
    old: Option<Older>,
}

/// A reject file that was there before the run.
#[derive(Debug)]
struct Older {
    there: Metadata,
    /// Whether its folder lets a new file take its name. If not, the old one is emptied.
    is_replaceable: bool,
}

impl RejectFile {
    /// Creates or opens the file. A symbolic link to a file is refused, because whoever made it would choose the file
    /// that is replaced.
    pub fn create(path: &Path, run: &Run) -> Result<Self> {
        let fail = |e: std::io::Error| file_error("write the reject file", path, &e);
        if let Some(stream) = standard_stream(path) {
            return Ok(RejectFile::new(path, stream?, false, None)); // synced by whoever opened it
        }
        let is_link = std::fs::symlink_metadata(path).is_ok_and(|there| there.is_symlink());
        // /dev/fd/63 and the like are links to pipes.
        if is_link && std::fs::metadata(path).map_or(true, |there| there.is_file()) {
            return Err(is_a_link(path));
        }
        let file = match std::fs::metadata(path) {
            Ok(there) if there.file_type().is_fifo() => open_pipe(path)?,
            _ => File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(fail)?,
        };
        let mut opened = file.metadata().map_err(fail)?;
        if opened.is_file() {
            check_alone(&file, &opened, path)?;
            close_to_others(&file, &opened, path, run)?;
            opened = file.metadata().map_err(fail)?;
        }
        let is_file = opened.is_file();
        let old = match is_file && opened.len() > 0 {
            true => Some(Older::new(path, opened)?),
            false => None,
        };
        Ok(RejectFile::new(path, file, is_file, old))
    }

    fn new(path: &Path, file: File, is_file: bool, old: Option<Older>) -> Self {
        RejectFile {
            path: path.into(),
            out: Appending::new(file, PIECE),
            is_file,
            has_read: false,
            old,
        }
    }

    /// Adds the bad ones of the records that were read, as [`push_line`](super::reject_lines::push_line) writes them.
    pub fn add(&mut self, lines: &[u8]) {
        self.has_read = true;
        self.out.add(lines);
    }

    /// Writes the added records if they are enough. After `Unavailable`, the next call goes on where this one stopped.
    pub fn flush(&mut self) -> Result<()> {
        if self.out.is_waiting() {
            self.replace_old()?;
        }
        match self.out.is_due() {
            true => self.out.flush().map_err(|e| write_error(&self.path, &e)),
            false => Ok(()),
        }
    }

    /// Makes all added records durable. After `Unavailable`, the next call goes on where this one stopped.
    pub fn sync(&mut self) -> Result<()> {
        if self.has_read {
            self.replace_old()?;
        }
        let written = self.out.flush();
        let synced = written.and_then(|()| match self.is_file {
            true => self.out.file().sync_data(),
            false => Ok(()), // a pipe has nothing to sync
        });
        synced.map_err(|e| write_error(&self.path, &e))
    }

    /// Puts an empty file in the place of an older one, with the same access for its owner and its group. One that
    /// cannot be replaced is emptied.
    fn replace_old(&mut self) -> Result<()> {
        let Some(old) = &self.old else {
            return Ok(());
        };
        let new = match old.is_replaceable {
            true => old.successor(&self.path)?,
            false => None,
        };
        match new {
            Some(new) => self.out.go_on_in(new),
            None => {
                let emptied = self.out.file().set_len(0);
                emptied.map_err(|e| write_error(&self.path, &e))?;
            }
        }
        self.old = None;
        Ok(())
    }

    /// Keeps what was found, as far as that is possible.
    fn keep(&mut self) -> Result<()> {
        match self.out.is_waiting() {
            true => self.sync(),
            false => Ok(()),
        }
    }
}

impl Older {
    /// Whether its folder can be written is known before anything is read.
    fn new(path: &Path, there: Metadata) -> Result<Self> {
        let is_replaceable = match Aside::create(path) {
            Ok(_) => true,
            // The file may be written, but its folder belongs to somebody else.
            Err(e) if e.kind() == Kind::Invalid => false,
            Err(e) => return Err(e),
        };
        Ok(Older {
            there,
            is_replaceable,
        })
    }

    /// The empty file that takes its name; none if it cannot be replaced, as in a container that was given this one file.
    fn successor(&self, path: &Path) -> Result<Option<File>> {
        let new = Aside::create(path)?;
        let mode = self.there.permissions().mode();
        let owner = fchown(new.file(), Some(self.there.uid()), Some(self.there.gid()));
        let mode = match owner {
            Ok(()) => mode & 0o770,
            Err(_) => mode & 0o700, // another group than the old one's must not get in
        };
        new.file()
            .set_permissions(Permissions::from_mode(mode))
            .map_err(|e| file_error("set the access of", path, &e))?;
        // Nobody else knows this file yet, so only a file system without locks refuses, where there are no others, either.
        new.file().try_lock().ok();
        new.publish_open()
    }
}

/// A run that ends early keeps what it has found.
impl Drop for RejectFile {
    fn drop(&mut self) {
        self.keep().ok(); // whatever ended the run is reported
    }
}

/// The paths that mean standard output, and standard error.
const STANDARD_STREAMS: [&[&str]; 2] = [
    &["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"],
    &["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"],
];

/// Whether a path means standard output or standard error: what was written there cannot be taken back.
pub fn is_standard_stream(path: &Path) -> bool {
    let names = STANDARD_STREAMS.concat();
    names.iter().any(|name| path.as_os_str() == *name)
}

/// Standard output or standard error, if the path means one of them: opened by its path once more, a file behind it would
/// be overwritten from its start.
fn standard_stream(path: &Path) -> Option<Result<File>> {
    let fail = |e: std::io::Error| file_error("write the reject file", path, &e);
    let means = |names: &[&str]| names.iter().any(|name| path.as_os_str() == *name);
    let (closed, stream) = if means(STANDARD_STREAMS[0]) {
        let stream = std::io::stdout().as_fd().try_clone_to_owned();
        (streams::check_output(), stream)
    } else if means(STANDARD_STREAMS[1]) {
        let stream = std::io::stderr().as_fd().try_clone_to_owned();
        (streams::check_error_output(), stream)
    } else {
        return None;
    };
    Some(closed.and_then(|()| stream.map(File::from).map_err(fail)))
}

/// Opens a pipe that something reads from; opening one that nothing reads from would wait for ever.
fn open_pipe(path: &Path) -> Result<File> {
    let opened = tokio::net::unix::pipe::OpenOptions::new().open_sender(path);
    let blocking = opened.and_then(|pipe| pipe.into_blocking_fd());
    blocking.map(File::from).map_err(|e| {
        Error::invalid(format!(
            "cannot write the reject file {}: nothing reads from this pipe ({e})",
            path.display()
        ))
        .hint("start its reader first")
    })
}

fn is_a_link(path: &Path) -> Error {
    Error::invalid(format!(
        "the reject file {} is a symbolic link, so the file behind it will not be replaced",
        path.display()
    ))
    .hint("name the file itself")
}

/// An error if another run writes this file, because each would lose what the other one finds, or if it is no longer the
/// one of its name. The lock ends with the file.
fn check_alone(file: &File, opened: &Metadata, path: &Path) -> Result<()> {
    let in_use = || {
        Error::refused(durable::in_use(path)).hint("name another file for the rejects of this run")
    };
    // A file system without locks is no reason to refuse.
    if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        return Err(in_use());
    }
    let named = std::fs::symlink_metadata(path);
    let named = named.map_err(|e| file_error("write the reject file", path, &e))?;
    if named.is_symlink() {
        return Err(is_a_link(path)); // somebody has put it there meanwhile
    }
    match (named.dev(), named.ino()) == (opened.dev(), opened.ino()) {
        true => Ok(()),
        false => Err(in_use()),
    }
}

/// Bad records are people's data like the good ones, so everybody's access to an older file ends before it gets them. Its
/// owner gets no access that they did not have.
fn close_to_others(file: &File, opened: &Metadata, path: &Path, run: &Run) -> Result<()> {
    let mode = opened.permissions().mode();
    if mode & 0o007 == 0 {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(mode & 0o700))
        .map_err(|e| file_error("take everybody's access from", path, &e))?;
    run.warn(format!(
        "{} was open to everybody; now it is open to its owner only",
        path.display()
    ));
    Ok(())
}

/// How many bad records are too many: a number, or a share of what was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// More than this many.
    Count(u64),
    /// More than this percentage, checked from the thousandth record on and at the end.
    Percent(f64),
}

impl Budget {
    /// An error if the budget is exceeded.
    pub fn check(self, rejected: u64, read: u64, at_end: bool) -> Result<()> {
        let exceeded = match self {
            Budget::Count(most) => rejected > most,
            Budget::Percent(most) => {
                (at_end || read >= 1_000) && rejected as f64 * 100.0 > most * read as f64
            }
        };
        match exceeded {
            false => Ok(()),
            true => Err(Error::budget(format!(
                "{rejected} of {read} records are bad; the limit is {self}"
            ))),
        }
    }
}

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Budget::Count(n) => write!(f, "{n}"),
            Budget::Percent(p) => write!(f, "{p}%"),
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "invalid limit `{text}`; expected a number such as 100, or a percentage such as 0.5%"
            )
        };
        match text.strip_suffix('%') {
            None => text.parse().map(Budget::Count).map_err(|_| wrong()),
            Some(share) => match share.parse::<f64>() {
                Ok(p) if (0.0..=100.0).contains(&p) => Ok(Budget::Percent(p)),
                _ => Err(wrong()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{LogFormat, Stop};

    #[test]
    fn budgets_are_counts_or_shares() {
        assert_eq!("5".parse(), Ok(Budget::Count(5)));
        assert_eq!("0.5%".parse(), Ok(Budget::Percent(0.5)));
        for bad in ["", "-1", "x%", "101%"] {
            assert!(bad.parse::<Budget>().is_err(), "{bad}");
        }
        assert!(Budget::Count(5).check(5, 5, true).is_ok());
        assert!(Budget::Count(5).check(6, 9, false).is_err());
        assert!(Budget::Percent(10.0).check(9, 10, false).is_ok());
        assert!(Budget::Percent(10.0).check(9, 10, true).is_err());
        assert!(Budget::Percent(10.0).check(1, 10, true).is_ok());
    }

    #[test]
    fn an_older_file_that_cannot_be_replaced_is_emptied() {
        for is_replaceable in [true, false] {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("bad");
            std::fs::write(&path, "a longer line of an older run\n").unwrap();
            let mut older = File::open(&path).unwrap();
            let (_stopper, stop) = Stop::channel();
            let run = Run::new("test", "1".into(), stop, LogFormat::Text, true);
            let mut rejects = RejectFile::create(&path, &run).unwrap();
            rejects.old.as_mut().unwrap().is_replaceable = is_replaceable;
            rejects.add(b"new\n");
            rejects.sync().unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
            let mut left = String::new();
            std::io::Read::read_to_string(&mut older, &mut left).unwrap();
            assert_eq!(left.starts_with("a longer"), is_replaceable);
        }
    }
}
