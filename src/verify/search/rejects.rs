//! Records that loads have rejected, in the files that keep them.

use std::ops::ControlFlow;
use std::path::Path;

use super::{ByKey, Wanted, hash_of};
use crate::dataset::Dataset;
use crate::intake::chunk::Line;
use crate::intake::dead_letter::DeadLetters;
use crate::intake::loaded::newest_before;
use crate::intake::reject_lines::{
    RejectKeys, RejectLine, RejectsOf, Writer, each_line, line_at, reject_files,
};
use crate::ports::ledger::LoadRecord;
use crate::record::value::Value;
use crate::run::Stop;

/// Maximum rejected records whose places are kept, of 25 bytes each in a hash table: just below the size at which it would
/// double.
const MOST: usize = (1 << 16) / 8 * 7;

/// Where records that were rejected are.
#[derive(Debug)]
pub(in crate::verify) struct Rejects {
    /// By the hash of key and event time.
    found: ByKey<Place>,
    /// A record whose key cannot be read, of the newest load that has one.
    keyless: Option<Keyless>,
    files: Vec<ReadFile>,
    most: usize,
    /// Whether there are more than the places that are kept: one that is not among them is to be looked for.
    pub(in crate::verify) is_cut: bool,
    /// Why not every file was read.
    pub(in crate::verify) unread: Option<String>,
}

/// A reject file that was read.
#[derive(Debug)]
struct ReadFile {
    path: String,
    /// The load that wrote it, and when that began, in milliseconds since 1970 UTC.
    run_id: String,
    started_at: i64,
}

/// Where a record that was rejected is.
#[derive(Clone, Copy, Debug)]
struct Place {
    file: u32,
    /// The index of the load, the newest being 0.
    load: u32,
    /// The byte at which its line begins.
    offset: u64,
}

/// A record that was rejected and may be of any key.
#[derive(Debug)]
struct Keyless {
    /// The index of the load, the newest being 0.
    load: usize,
    /// The newest event time that it can have: what was fetched later was not there to be loaded.
    newest: i64,
    why: String,
}

/// A record that was rejected.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::verify) struct Rejected {
    /// File, line and reason, for people.
    pub(in crate::verify) why: String,
    /// The index of the load, the newest being 0.
    pub(in crate::verify) load: usize,
    /// The input that it was in, if its line says so.
    pub(in crate::verify) input: Option<String>,
    /// Whether it has the key that was looked for; if not, its key cannot be read.
    pub(in crate::verify) is_of_key: bool,
    /// Whether it has the event time, too, that was looked for; if not, it may be another version of the key.
    pub(in crate::verify) is_sure: bool,
}

/// Looks for these versions among the rejected records, or, without any, for the first ones of all. Blocks.
pub(in crate::verify) fn in_rejects(
    dataset: &Dataset,
    loads: &[LoadRecord],
    wanted: Option<&[&Wanted]>,
    stop: &Stop,
) -> Rejects {
    let most = wanted.map_or(MOST, |_| usize::MAX);
    find(dataset, loads, wanted, stop, most)
}

fn find(
    dataset: &Dataset,
    loads: &[LoadRecord],
    wanted: Option<&[&Wanted]>,
    stop: &Stop,
    most: usize,
) -> Rejects {
    let mut rejects = Rejects {
        found: ByKey::default(),
        keyless: None,
        files: Vec::new(),
        most,
        is_cut: false,
        unread: None,
    };
    let letters = DeadLetters::of(dataset);
    for (load, there) in reject_files(loads) {
        if rejects.is_cut {
            break;
        }
        let record = &loads[load];
        let path = there.path.display().to_string();
        rejects.files.push(ReadFile {
            path: path.clone(),
            run_id: there.writer.run_id.into(),
            started_at: there.writer.started_at,
        });
        let mut file = RejectFile {
            keys: RejectKeys::of(dataset, &letters, record, stop),
            wanted,
            rejects: &mut rejects,
            load,
            record,
            there: &there,
            path: &path,
        };
        let read = each_line(there.path, stop, &mut |line| file.see(line));
        if let Err(why) = read {
            rejects.unread.get_or_insert(why.to_string());
        }
    }
    rejects
}

impl Rejects {
    /// Why a load has rejected the record of this key and event time, if one did, or may have done so.
    pub(in crate::verify) fn of(&self, key: &Value<'_>, time: i64) -> Option<Rejected> {
        let hash = hash_of(key);
        let place = |time| Some(self.rejected(*self.found.get(&with_time(hash, time))?));
        let of_key = place(Some(time)).or_else(|| {
            let unsure = place(None)?;
            Some(Rejected {
                is_sure: false,
                why: format!("{}, but its event time cannot be read", unsure.why),
                ..unsure
            })
        });
        of_key.or_else(|| {
            let keyless = self.keyless.as_ref().filter(|any| any.newest >= time)?;
            Some(Rejected {
                why: keyless.why.clone(),
                load: keyless.load,
                input: None,
                is_of_key: false,
                is_sure: false,
            })
        })
    }

    fn rejected(&self, place: Place) -> Rejected {
        let file = &self.files[place.file as usize];
        let (path, offset) = (&file.path, place.offset);
        let writer = Writer {
            run_id: &file.run_id,
            started_at: file.started_at,
        };
        let line = line_at(Path::new(path), offset);
        let input = line.as_ref().ok().and_then(|line| line.input.clone());
        let why = match line {
            Ok(reject) if reject.is_by(writer) == Some(false) => {
                format!("{path}: another run has since replaced what was at byte {offset}")
            }
            Ok(reject) => why(path, &reject),
            Err(e) => {
                format!("{path}: what was at byte {offset} cannot be read again: {e}")
            }
        };
        Rejected {
            why,
            load: place.load as usize,
            input,
            is_of_key: true,
            is_sure: true,
        }
    }
}

/// File, line and reason.
fn why(path: &str, reject: &RejectLine) -> String {
    let input = reject.input.as_deref().filter(|input| *input != "-");
    let (line, input) = (
        reject.line.unwrap_or_default(),
        input.unwrap_or("the input"),
    );
    let (rule, reason) = (&reject.rule, &reject.reason);
    format!("{path}: line {line} of {input}, {rule}: {reason}")
}

/// An older record of a key may have been rejected, and a newer one not.
fn with_time(key: u64, time: Option<i64>) -> u64 {
    match time {
        None => key,
        Some(time) => xxhash_rust::xxh3::xxh3_64_with_seed(&time.to_le_bytes(), key),
    }
}

/// A reject file, while it is read.
struct RejectFile<'a> {
    keys: RejectKeys<'a>,
    wanted: Option<&'a [&'a Wanted]>,
    rejects: &'a mut Rejects,
    load: usize,
    record: &'a LoadRecord,
    there: &'a RejectsOf<'a>,
    path: &'a str,
}

impl RejectFile<'_> {
    fn see(&mut self, line: Line<'_>) -> ControlFlow<()> {
        let Some(reject) = self.there.read(line.bytes) else {
            return ControlFlow::Continue(());
        };
        let read = reject
            .as_ref()
            .ok()
            .and_then(|reject| self.keys.read(reject));
        let Some((key, time)) = read else {
            let path = self.path;
            self.add_keyless(match reject {
                Ok(reject) => format!("{}, whose key cannot be read", why(path, &reject)),
                Err(e) => format!("{path} line {}, which {e}", line.number),
            });
            return ControlFlow::Continue(());
        };
        let key = hash_of(&key);
        let is_other = |wanted: &Wanted| {
            wanted
                .versions(key)
                .all(|(wanted, _)| time.is_some_and(|time| time != wanted))
        };
        let all_other = |wanted: &[&Wanted]| wanted.iter().all(|wanted| is_other(wanted));
        if self.wanted.is_some_and(all_other) {
            return ControlFlow::Continue(());
        }
        let rejects = &mut *self.rejects;
        if rejects.found.len() >= rejects.most {
            rejects.is_cut = true;
            return ControlFlow::Break(());
        }
        let place = Place {
            file: rejects.files.len() as u32 - 1,
            load: self.load as u32,
            offset: line.offset,
        };
        rejects.found.entry(with_time(key, time)).or_insert(place);
        ControlFlow::Continue(())
    }

    /// Notes a record that may be any. The newest load's stands for all, because it may be the newest record.
    fn add_keyless(&mut self, why: String) {
        let (load, record) = (self.load, self.record);
        self.rejects.keyless.get_or_insert_with(|| Keyless {
            load,
            newest: newest_before(record),
            why,
        });
    }
}

#[cfg(test)]
mod tests;
