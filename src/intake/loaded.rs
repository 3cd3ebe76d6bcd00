//! What is known of what a load has read: whether a file is still that, and how new its records can be.

use std::path::Path;

use crate::error::{Error, Result};
use crate::ports::ledger::{Contents, LoadRecord, LoadedFile};
use crate::record::transform::MAX_FUTURE_MS;

/// An error if this is not a regular file, or was written to after that time, in milliseconds since 1970 UTC.
pub fn check_unchanged(path: &Path, since: i64) -> Result<()> {
    let found = std::fs::metadata(path).map_err(|e| Error::missing(e.to_string()))?;
    if !found.is_file() {
        return Err(Error::invalid("it is not a regular file"));
    }
    let written = found
        .modified()
        .map_err(|e| Error::missing(e.to_string()))?;
    let written = written.duration_since(std::time::UNIX_EPOCH);
    let written = written.map_or(0, |since| since.as_millis());
    match i128::from(since) < i128::try_from(written).unwrap_or(i128::MAX) {
        true => Err(Error::invalid("it was written to after that load began")),
        false => Ok(()),
    }
}

/// An error if a file is certainly not what a load has read.
pub fn may_be_same(load: &LoadRecord, input: &LoadedFile) -> Result<()> {
    let path = Path::new(&input.path);
    let Some(read) = &input.read else {
        return check_unchanged(path, load.info.started_at);
    };
    check_unchanged(path, i64::MAX)?;
    let found = std::fs::metadata(path).map_err(|e| Error::missing(e.to_string()))?;
    match found.len() == read.contents.bytes {
        true => Ok(()),
        false => Err(is_another(load)),
    }
}

/// An error if a file whose contents are these is not what a load has read.
pub fn is_same(load: &LoadRecord, input: &LoadedFile, contents: Option<&Contents>) -> Result<()> {
    let Some(contents) = contents else {
        return Err(Error::missing("it was not read to its end"));
    };
    match &input.read {
        // It may have been written to meanwhile.
        None => check_unchanged(Path::new(&input.path), load.info.started_at),
        Some(read) if read.contents == *contents => Ok(()),
        Some(_) => Err(is_another(load)),
    }
}

fn is_another(load: &LoadRecord) -> Error {
    Error::invalid(format!(
        "it is not the file that load {} has read, or was written to after that",
        load.info.run_id
    ))
}

/// The newest event time that a load may have loaded, in milliseconds since 1970 UTC; none if it had no records. What an older
/// version of rtp loaded is bounded by when it was committed, because no later events are valid.
pub fn newest_in(load: &LoadRecord) -> Option<i64> {
    let bound = || (load.written > 0).then(|| newest_before(load));
    load.info.newest.or_else(bound)
}

/// The newest event time that this load, or one before it, may have loaded.
pub fn newest_before(load: &LoadRecord) -> i64 {
    load.loaded_at.saturating_add(MAX_FUTURE_MS)
}

/// Whether not all that a load has read can be read again.
pub fn is_unknown(load: &LoadRecord) -> bool {
    let inputs = &load.info.inputs;
    let is_gone = |input: &LoadedFile| input.path == "-" || may_be_same(load, input).is_err();
    inputs.is_empty() || inputs.iter().any(is_gone)
}
