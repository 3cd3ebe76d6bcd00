//! Looks for versions of many keys at once: in the log and its dead letters, in the files that were loaded, and in those
//! that have what loads rejected. Memory grows with the keys that are looked for, up to a bound, not with what is read.

mod keys;
mod landing;
mod log;
mod rejects;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

pub(super) use self::landing::{Landed, in_landing};
pub(super) use self::log::{Seen, in_log};
pub(super) use self::rejects::{Rejects, in_rejects};
use super::buckets::Hashed;
use super::classify::Version;
use crate::error::{Error, Result};
use crate::intake::chunk::FileFormat;
use crate::ports::ledger::LoadedFile;
use crate::record::transform::write_key;
use crate::record::value::Value;

/// What is looked for, or was found, by the hash of the key.
pub(super) type ByKey<T> = HashMap<u64, T, BuildHasherDefault<Hashed>>;

/// The hash of a key as the log has it: with 64 bits, that two of some ten thousand keys and millions of records have the
/// same is as unlikely as an error of the memory, and they would have to have the same version, too.
pub(super) fn key_hash(log_key: &[u8]) -> u64 {
    xxh3_64(log_key)
}

/// The hash of a key.
pub(super) fn hash_of(key: &Value<'_>) -> u64 {
    let mut text = Vec::new();
    write_key(key, &mut text);
    key_hash(&text)
}

/// Versions that are looked for, one of each key.
#[derive(Debug, Default)]
pub(super) struct Wanted(ByKey<Version>);

impl Wanted {
    /// Adds a version, unless another one of the key is looked for.
    pub(super) fn add(&mut self, key: &Value<'_>, version: Version) {
        self.0.entry(hash_of(key)).or_insert(version);
    }

    /// Whether this version is looked for.
    pub(super) fn has(&self, key: u64, version: Version) -> bool {
        self.0.get(&key) == Some(&version)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: u64) -> Option<Version> {
        self.0.get(&key).copied()
    }

    fn oldest(&self) -> i64 {
        let times = self.0.values().map(|(time, _)| *time);
        times.min().unwrap_or(i64::MAX)
    }
}

/// The format in which a file was loaded.
fn format_of(input: &LoadedFile) -> FileFormat {
    let kept = input.read.as_ref();
    let kept = kept.and_then(|read| FileFormat::of_option(&read.format));
    kept.unwrap_or_else(|| FileFormat::of(Path::new(&input.path)))
}

/// An error if this is not a regular file, or was written to after that time, in milliseconds since 1970 UTC.
fn check_unchanged(path: &Path, since: i64) -> Result<()> {
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
