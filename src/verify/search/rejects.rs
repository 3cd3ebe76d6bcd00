//! Records that loads have rejected, in the files that keep them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;

use super::log::time_of;
use super::{ByKey, Wanted, check_unchanged, format_of, hash_of};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::intake::chunk::{FileFormat, Line};
use crate::intake::csv::Columns;
use crate::intake::dead_letter::{DeadLetters, RejectLine};
use crate::intake::lookup::{Seeker, each_record};
use crate::ports::ledger::{LoadRecord, LoadedFile};
use crate::record::json::MAX_EVENT_BYTES;
use crate::record::value::Value;
use crate::run::Stop;

/// Maximum rejected records whose places are kept, of 25 bytes each in a hash table: just below the size at which it would
/// double.
const MOST: usize = (1 << 16) / 8 * 7;

/// How long after the commit the load may have written to its reject file, in milliseconds.
const CLOCKS: i64 = 60_000;

/// Where records that were rejected are.
#[derive(Debug)]
pub(in crate::verify) struct Rejects {
    /// By the hash of key and event time.
    found: ByKey<Place>,
    files: Vec<String>,
    most: usize,
    /// Whether there are more than the places that are kept: one that is not among them is to be looked for.
    pub(in crate::verify) is_cut: bool,
    /// Why not every file was read.
    pub(in crate::verify) unread: Option<String>,
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

/// A record that was rejected.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::verify) struct Rejected {
    /// File, line and reason, for people.
    pub(in crate::verify) why: String,
    /// The index of the load, the newest being 0.
    pub(in crate::verify) load: usize,
    /// Whether it has the event time that was looked for; if not, it may be another version of the key.
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
        files: Vec::new(),
        most,
        is_cut: false,
        unread: None,
    };
    let letters = DeadLetters::of(dataset);
    let mut seen = BTreeSet::new();
    for (load, record) in loads.iter().enumerate() {
        // A later load to the same file has replaced what an earlier one rejected.
        let Some(path) = record
            .info
            .rejects
            .as_ref()
            .filter(|path| seen.insert(*path))
        else {
            continue;
        };
        if rejects.is_cut || check_unchanged(Path::new(path), written_by(record)).is_err() {
            // The user has deleted it, as they may, or it is another file by now; a pipe cannot be read again.
            continue;
        }
        rejects.files.push(path.clone());
        let mut file = RejectFile {
            dataset,
            letters: &letters,
            cells: header(&record.info.inputs, stop).and_then(|h| Cells::of(&h, dataset, &letters)),
            wanted,
            rejects: &mut rejects,
            load: load as u32,
        };
        let read = each_record(Path::new(path), Some(FileFormat::Ndjson), stop, &mut file);
        if let Err(why) = read {
            rejects.unread.get_or_insert(why.to_string());
        }
    }
    rejects
}

impl Rejects {
    /// Why a load has rejected the record of this key and event time, if one did.
    pub(in crate::verify) fn of(
        &self,
        dataset: &Dataset,
        key: &Value<'_>,
        time: i64,
    ) -> Option<Rejected> {
        let hash = hash_of(key);
        let place = |time| {
            let place = self.found.get(&with_time(hash, time))?;
            self.rejected(dataset, key, *place)
        };
        place(Some(time)).or_else(|| {
            let unsure = place(None)?;
            Some(Rejected {
                is_sure: false,
                why: format!("{}, but its event time cannot be read", unsure.why),
                ..unsure
            })
        })
    }

    fn rejected(&self, dataset: &Dataset, key: &Value<'_>, place: Place) -> Option<Rejected> {
        let path = self.files.get(place.file as usize)?;
        let reject = read_at(Path::new(path), place.offset).ok()?;
        let raw = reject.raw.as_deref()?;
        let letters = DeadLetters::of(dataset);
        let text = || raw.contains(&key.to_string());
        (letters.key_in(raw.as_bytes()).as_ref() == Some(key) || text()).then(|| Rejected {
            why: format!(
                "{path}: line {} of the input, {}: {}",
                reject.line.unwrap_or_default(),
                reject.rule,
                reject.reason
            ),
            load: place.load as usize,
            is_sure: true,
        })
    }
}

/// When the load's reject file was written to for the last time, at most; clocks of a server and of this machine differ a
/// bit, and the end of the file may be written after the commit.
fn written_by(load: &LoadRecord) -> i64 {
    load.loaded_at.saturating_add(CLOCKS)
}

/// An older record of a key may have been rejected, and a newer one not.
fn with_time(key: u64, time: Option<i64>) -> u64 {
    match time {
        None => key,
        Some(time) => xxhash_rust::xxh3::xxh3_64_with_seed(&time.to_le_bytes(), key),
    }
}

fn read_at(path: &Path, offset: u64) -> std::io::Result<RejectLine> {
    let mut file = BufReader::new(File::open(path)?);
    file.seek(SeekFrom::Start(offset))?;
    let mut line = Vec::new();
    file.take(MAX_EVENT_BYTES as u64)
        .read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

/// A reject file, while it is read.
struct RejectFile<'a> {
    dataset: &'a Dataset,
    letters: &'a DeadLetters,
    cells: Option<Cells>,
    wanted: Option<&'a [&'a Wanted]>,
    rejects: &'a mut Rejects,
    load: u32,
}

impl RejectFile<'_> {
    /// Key and event time of a rejected record, which may still have them.
    fn read(&self, raw: &str) -> Option<(u64, Option<i64>)> {
        if let Some(key) = self.letters.key_in(raw.as_bytes()) {
            return Some((hash_of(&key), time_of(self.dataset, raw.as_bytes())));
        }
        self.cells.as_ref()?.read(raw.as_bytes())
    }
}

impl Seeker for RejectFile<'_> {
    fn header(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn record(&mut self, record: Line<'_>, _: FileFormat) -> Result<ControlFlow<()>> {
        let reject = serde_json::from_slice::<RejectLine>(record.bytes).ok();
        let raw = reject.and_then(|reject| reject.raw);
        let Some((key, time)) = raw.and_then(|raw| self.read(&raw)) else {
            return Ok(ControlFlow::Continue(()));
        };
        let is_other = |wanted: &Wanted| {
            wanted
                .versions(key)
                .all(|(wanted, _)| time.is_some_and(|time| time != wanted))
        };
        let all_other = |wanted: &[&Wanted]| wanted.iter().all(|wanted| is_other(wanted));
        if self.wanted.is_some_and(all_other) {
            return Ok(ControlFlow::Continue(()));
        }
        let rejects = &mut *self.rejects;
        if rejects.found.len() >= rejects.most {
            rejects.is_cut = true;
            return Ok(ControlFlow::Break(()));
        }
        let place = Place {
            file: rejects.files.len() as u32 - 1,
            load: self.load,
            offset: record.offset,
        };
        rejects.found.entry(with_time(key, time)).or_insert(place);
        Ok(ControlFlow::Continue(()))
    }
}

/// Where key and event time are in the records of a CSV file.
pub(super) struct Cells {
    key_only: Dataset,
    key: Columns,
    time_only: Dataset,
    time: Columns,
}

impl Cells {
    pub(super) fn of(header: &[u8], dataset: &Dataset, letters: &DeadLetters) -> Option<Cells> {
        let key_only = letters.key_only().clone();
        let mut time_only = key_only.clone();
        time_only.fields = vec![dataset.time().clone()];
        Some(Cells {
            key: Columns::read(header, &key_only, "").ok()?,
            time: Columns::read(header, &time_only, "").ok()?,
            key_only,
            time_only,
        })
    }

    pub(super) fn read(&self, record: &[u8]) -> Option<(u64, Option<i64>)> {
        let key = self.key.values(record, &self.key_only).ok()?;
        let time = self.time.values(record, &self.time_only).ok();
        let time = time.and_then(|values| match values.first() {
            Some(Value::Timestamp(time)) => Some(*time),
            _ => None,
        });
        let key = key.first().filter(|key| **key != Value::Null)?;
        Some((hash_of(key), time))
    }
}

/// The header of the first of these files, if it is CSV.
fn header(inputs: &[LoadedFile], stop: &Stop) -> Option<Vec<u8>> {
    struct Header(Option<Vec<u8>>);
    impl Seeker for Header {
        fn header(&mut self, header: &[u8]) -> Result<()> {
            self.0 = Some(header.to_vec());
            Ok(())
        }

        fn record(&mut self, _: Line<'_>, _: FileFormat) -> Result<ControlFlow<()>> {
            Ok(ControlFlow::Break(()))
        }
    }
    let input = inputs.first()?;
    let path = Path::new(&input.path);
    let format = format_of(input);
    let is_csv = format == FileFormat::Csv;
    let mut found = Header(None);
    let is_file = is_csv && check_unchanged(path, i64::MAX).is_ok();
    // Without a header, the records of the file are not told apart.
    is_file.then(|| each_record(path, Some(format), stop, &mut found).ok())??;
    found.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::rejects as writer;
    use crate::ports::ledger::LoadInfo;
    use crate::record::reject::{Fault, Reject, Rule};

    const DAY: i64 = 1_793_491_200_000; // 2026-11-01

    fn key(n: usize) -> Value<'static> {
        Value::Uuid(uuid::Uuid::from_u128(n as u128))
    }

    /// A reject file with these records, as `load-batch` writes it, and the load.
    fn load(folder: &Path, name: &str, records: &[String], inputs: &[String]) -> LoadRecord {
        let dataset = Dataset::load(None).unwrap();
        let reject = Reject {
            field: None,
            fault: Fault::new(Rule::Type, "expected text, got a number"),
        };
        let mut lines = Vec::new();
        for (n, record) in records.iter().enumerate() {
            let rejected = writer::Rejected {
                source: "batch_users",
                partition: None,
                offset: 0,
                line: Some(n as u64 + 1),
                key: None,
                value: Some(record.as_bytes()),
                headers: &[],
                reject: &reject,
            };
            writer::push_line(&mut lines, &dataset, &rejected);
        }
        let path = folder.join(name);
        std::fs::write(&path, lines).unwrap();
        LoadRecord {
            info: LoadInfo {
                inputs: inputs.iter().map(LoadedFile::at).collect(),
                rejects: Some(path.display().to_string()),
                ..LoadInfo::default()
            },
            mode: String::new(),
            loaded_at: crate::time::now_ms(),
            written: 0,
        }
    }

    fn json(n: usize, second: usize) -> String {
        format!(
            "{{\"id\":\"{}\",\"email\":7,\"fetched_at\":\"2026-11-01T00:00:0{second}Z\"}}",
            key(n)
        )
    }

    #[test]
    fn a_reject_is_that_of_its_version_however_many_there_are() {
        let dataset = Dataset::load(None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (_stop, stop) = Stop::channel();
        // Of the first key, an older version was rejected later.
        let older: Vec<String> = (0..3).map(|n| json(n, 1)).collect();
        let newer: Vec<String> = (0..50).map(|n| json(n, 2)).collect();
        let loads = [
            load(folder.path(), "b", &older, &[]),
            load(folder.path(), "a", &newer, &[]),
        ];
        let why = |rejects: &Rejects, n: usize, second: i64| {
            let rejected = rejects.of(&dataset, &key(n), DAY + second * 1_000);
            rejected.map(|rejected| (rejected.why, rejected.load))
        };
        let expected = |file: &str, line: usize, load: usize| {
            let path = folder.path().join(file).display().to_string();
            let why = "type: expected text, got a number";
            Some((format!("{path}: line {line} of the input, {why}"), load))
        };
        let all = find(&dataset, &loads, None, &stop, 53);
        assert!(!all.is_cut);
        let mut wanted = Wanted::default();
        wanted.add(&key(0), (DAY + 2_000, Default::default()));
        wanted.add(&key(49), (DAY + 2_000, Default::default()));
        wanted.add(&key(50), (DAY + 2_000, Default::default()));
        let few = in_rejects(&dataset, &loads, Some(&[&wanted]), &stop);
        assert_eq!(few.found.len(), 2, "only what is looked for is kept");
        for rejects in [&all, &few] {
            assert_eq!(why(rejects, 0, 2), expected("a", 1, 1));
            assert_eq!(why(rejects, 49, 2), expected("a", 50, 1));
            assert_eq!(why(rejects, 50, 2), None);
            assert_eq!(why(rejects, 49, 1), None);
        }
        assert_eq!(why(&all, 0, 1), expected("b", 1, 0));
        let mut rewritten = load(folder.path(), "c", &newer, &[]);
        rewritten.loaded_at -= 2 * CLOCKS;
        let other = in_rejects(&dataset, &[rewritten], None, &stop);
        assert_eq!(
            why(&other, 0, 2),
            None,
            "it is not the file that the load wrote"
        );
        let cut = find(&dataset, &loads, None, &stop, 52);
        assert_eq!((cut.is_cut, cut.found.len()), (true, 52));
    }

    #[test]
    fn a_rejected_csv_record_has_its_key_where_the_header_of_the_input_says() {
        let dataset = Dataset::load(None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (_stop, stop) = Stop::channel();
        let input = folder.path().join("day.csv");
        std::fs::write(&input, "email,fetched_at,id,dob\n").unwrap();
        let input = input.display().to_string();
        let records = [
            format!("a,2026-11-01T00:00:02Z,{},soon", key(1)),
            format!("{},2026-11-01T00:00:02Z,none,soon", key(2)),
        ];
        let loads = [load(folder.path(), "r", &records, &[input])];
        let rejects = in_rejects(&dataset, &loads, None, &stop);
        let is_known = |n: usize, ms: i64| rejects.of(&dataset, &key(n), ms).is_some();
        assert!(is_known(1, DAY + 2_000));
        assert!(!is_known(1, DAY) && !is_known(2, DAY + 2_000));
    }
}
