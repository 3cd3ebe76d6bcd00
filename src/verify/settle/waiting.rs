//! Differences that wait: for the end of a grace, or for a search of the log or of files.

use super::writer::Ahead;
use crate::error::{Error, Result};
use crate::record::value::Value;
use crate::verify::Side;
use crate::verify::classify::Version;
use crate::verify::recheck::{Found, OwnedRow};
use crate::verify::search::{ByKey, Landed, Rejects, Seen, Wanted, hash_of};
use crate::verify::sketch::Suspect;

/// Maximum keys that wait for one search. They, what is looked for and what is found take some 10 MB.
pub(super) const ASKED: usize = (1 << 16) / 8 * 7;

/// Maximum bytes of these keys.
const ASKED_BYTES: usize = 4 << 20;

/// Maximum records of landing files that wait for one search, or for the end of a grace.
pub(super) const ASKED_RECORDS: usize = 4_096;

/// Maximum bytes of these records.
const ASKED_RECORD_BYTES: usize = 8 << 20;

/// Keys that perhaps differ, one after the other, because many may wait.
#[derive(Default)]
pub(super) struct KeyList {
    bytes: Vec<u8>,
    count: usize,
}

impl KeyList {
    pub(super) fn add(&mut self, Suspect { key, seen }: &Suspect) {
        let len = key.len() as u32; // a key has at most 65,535 bytes
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(key);
        // A digest of 0 counts as unknown, so that its rows are read again.
        self.bytes
            .extend_from_slice(&seen.unwrap_or(0).to_le_bytes());
        self.count += 1;
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The keys, each with what [`Suspect::seen`] says.
    pub(super) fn iter(&self) -> impl Iterator<Item = Result<(Value<'static>, Option<u64>)>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (len, after) = rest.split_first_chunk()?;
            let (key, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            let (seen, after) = after.split_first_chunk()?;
            rest = after;
            let seen = Some(u64::from_le_bytes(*seen)).filter(|seen| *seen != 0);
            let key = Value::decode_key(key);
            let key = key.ok_or_else(|| Error::internal("a key is not a valid encoding"));
            Some(key.map(|key| (key, seen)))
        })
    }
}

/// Who is asked about a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Witness {
    /// The log and its dead letters.
    Log,
    /// The files that were loaded, and what the loads rejected.
    Landing,
    /// Only what the loads rejected.
    Rejects,
}

/// Differences whose class a search has to find. Their rows are read again after it, because it may take long.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) keys: KeyList,
    pub(super) records: Records,
    pub(super) asked: Asked,
}

/// The versions that are looked for.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) log: Wanted,
    pub(super) landing: Wanted,
    pub(super) rejects: Wanted,
}

impl Asked {
    fn of(&mut self, witness: Witness) -> &mut Wanted {
        match witness {
            Witness::Log => &mut self.log,
            Witness::Landing => &mut self.landing,
            Witness::Rejects => &mut self.rejects,
        }
    }
}

impl Waiting {
    /// Adds a difference, and what is asked about it.
    pub(super) fn add(&mut self, found: Found, witness: Witness, version: Version) {
        self.asked.of(witness).add(&found.key, version);
        match found.record {
            None => self.keys.add(&Suspect::unseen(&found.key)),
            Some(_) => self.records.add(found),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.count == 0 && self.records.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.keys.count >= ASKED || self.keys.bytes() >= ASKED_BYTES || self.records.are_many()
    }
}

/// Records of landing files, each with the store that lacks it.
#[derive(Default)]
pub(super) struct Records {
    all: Vec<(Side, OwnedRow)>,
    bytes: usize,
}

impl Records {
    /// Adds the record of a difference, if it is about one.
    pub(super) fn add(&mut self, found: Found) {
        let [realtime, batch] = found.rows;
        let (side, record) = match found.record {
            Some(Side::Batch) => (Side::Realtime, batch),
            Some(Side::Realtime) => (Side::Batch, realtime),
            None => return,
        };
        if let Some(record) = record {
            self.bytes += record.bytes();
            self.all.push((side, record));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn are_many(&self) -> bool {
        self.all.len() >= ASKED_RECORDS || self.bytes >= ASKED_RECORD_BYTES
    }

    pub(super) fn into_vec(self) -> Vec<(Side, OwnedRow)> {
        self.all
    }
}

/// What a search found.
pub(super) struct Answers {
    pub(super) asked: Asked,
    pub(super) seen: ByKey<Seen>,
    /// Why the log was not searched to its end.
    pub(super) trouble: Option<String>,
    /// What is in the store of what the group has not committed.
    pub(super) ahead: Ahead,
    pub(super) landed: Landed,
    /// None if all rejected records are known anyway.
    pub(super) rejects: Option<Rejects>,
}

impl Answers {
    /// Whether this version was looked for there.
    pub(super) fn has(&self, key: &Value<'_>, witness: Witness, version: Version) -> bool {
        let asked = match witness {
            Witness::Log => &self.asked.log,
            Witness::Landing => &self.asked.landing,
            Witness::Rejects => &self.asked.rejects,
        };
        asked.has(hash_of(key), version)
    }
}
