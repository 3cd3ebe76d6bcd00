//! Looks for versions of many keys at once: in the log and its dead letters, in the files that were loaded, and in those
//! that have what loads rejected. Memory grows with the keys that are looked for, up to a bound, not with what is read.

mod keys;
mod landing;
mod log;
mod rejects;
mod sample;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasherDefault;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub(super) use self::landing::{Landed, in_landing};
pub(super) use self::log::{Seen, in_log};
pub(super) use self::rejects::{Rejected, Rejects, in_rejects};
pub(super) use self::sample::waiting_keys;
use super::buckets::Hashed;
use super::classify::Version;
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

/// What stands for a version of a key, by the hash of the key.
pub(super) fn id_of(key: u64, (time, digest): Version) -> u64 {
    let mut bytes = time.to_le_bytes().to_vec();
    bytes.extend_from_slice(&digest.0);
    xxh3_64_with_seed(&bytes, key)
}

/// Versions that are looked for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// One version of each key.
    first: ByKey<Version>,
    /// The other versions of keys that have several, as landing files do.
    more: ByKey<Vec<Version>>,
    count: usize,
}

impl Wanted {
    /// Adds a version of a key.
    pub(super) fn add(&mut self, key: &Value<'_>, version: Version) {
        let hash = hash_of(key);
        if self.has(hash, version) {
            return;
        }
        match self.first.entry(hash) {
            Entry::Vacant(place) => {
                place.insert(version);
            }
            Entry::Occupied(_) => self.more.entry(hash).or_default().push(version),
        }
        self.count += 1;
    }

    /// Whether this version is looked for.
    pub(super) fn has(&self, key: u64, version: Version) -> bool {
        self.versions(key).any(|wanted| wanted == version)
    }

    /// Whether a version of this key is looked for.
    fn has_key(&self, key: u64) -> bool {
        self.first.contains_key(&key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of versions.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The versions of a key that are looked for.
    pub(super) fn versions(&self, key: u64) -> impl Iterator<Item = Version> {
        let more = self.more.get(&key).into_iter().flatten();
        self.first.get(&key).into_iter().chain(more).copied()
    }

    fn oldest(&self) -> i64 {
        let all = self.first.values().chain(self.more.values().flatten());
        all.map(|(time, _)| *time).min().unwrap_or(i64::MAX)
    }
}
