//! Versions in the files that were loaded.

use std::ops::ControlFlow;
use std::path::Path;

use super::keys::KeyFinder;
use super::{ByKey, Wanted, check_unchanged, hash_of, id_of, key_hash};
use crate::dataset::{Dataset, Nulls};
use crate::error::Result;
use crate::intake::chunk::{FileFormat, Line};
use crate::intake::csv::Columns;
use crate::intake::lookup::{Seeker, each_record};
use crate::ports::ledger::LoadRecord;
use crate::record::row::{Origin, Rows};
use crate::record::transform::Transform;
use crate::run::Stop;
use crate::verify::classify::Version;

/// Where versions are in files that were loaded.
#[derive(Debug, Default)]
pub(in crate::verify) struct Landed {
    found: ByKey<(u32, u64)>,
    /// The files, with the indexes of their loads.
    files: Vec<(String, usize)>,
    /// Why not every file was read: of the newest load of which that is so, by its index, the newest being 0.
    pub(in crate::verify) unread: Option<(usize, String)>,
    /// All of these loads, with the newest event time of each.
    unread_loads: Vec<(usize, Option<i64>)>,
}

impl Landed {
    /// File and line of the version with this id or of a newer one of its key, for people.
    pub(in crate::verify) fn place(&self, id: u64) -> Option<String> {
        let (file, line) = self.found.get(&id)?;
        let (file, _) = self.files.get(*file as usize)?;
        Some(format!("{file}, line {line},"))
    }

    /// The index of the load that had it, the newest being 0.
    pub(in crate::verify) fn load(&self, id: u64) -> Option<usize> {
        let (file, _) = self.found.get(&id)?;
        let (_, load) = self.files.get(*file as usize)?;
        Some(*load)
    }

    /// Whether a load other than this one may have had a version of this event time, because not all that it read is known.
    pub(in crate::verify) fn may_be_elsewhere(&self, time: i64, load: usize) -> bool {
        let mut loads = self.unread_loads.iter();
        loads.any(|(unread, newest)| *unread != load && newest.is_none_or(|newest| newest >= time))
    }

    fn unread(&mut self, load: usize, newest: Option<i64>, why: String) {
        self.unread.get_or_insert((load, why));
        self.unread_loads.push((load, newest));
    }
}

/// Looks for versions of keys in the files that were loaded, or newer ones, in one pass over the files. Blocks.
pub(in crate::verify) fn in_landing(
    dataset: &Dataset,
    loads: &[LoadRecord],
    has_earlier: bool,
    wanted: &Wanted,
    stop: &Stop,
) -> Landed {
    let mut landed = Landed::default();
    let oldest = wanted.oldest();
    for (at, load) in loads.iter().enumerate() {
        // A load whose newest record is older than all of them has none of them, whatever became of its files.
        if load.info.newest.is_some_and(|newest| newest < oldest) {
            continue;
        }
        if landed.found.len() == wanted.len() || stop.requested().is_some() {
            break;
        }
        if load.info.inputs.is_empty() {
            let run = &load.info.run_id;
            landed.unread(
                at,
                load.info.newest,
                format!("load {run} did not read files"),
            );
        }
        for path in &load.info.inputs {
            let mut file = LoadedFile::new(dataset, wanted, &mut landed, (path, at));
            let read = check_unchanged(Path::new(path), load.info.started_at)
                .and_then(|()| each_record(Path::new(path), None, stop, &mut file));
            let is_understood = file.has_records || !file.has_lines;
            match read {
                Ok(()) if is_understood => {}
                Ok(()) => landed.unread(
                    at,
                    load.info.newest,
                    format!("{path} has no record of the dataset"),
                ),
                Err(why) => {
                    landed.unread(at, load.info.newest, format!("cannot read {path}: {why}"))
                }
            }
        }
    }
    if has_earlier {
        let looked_at = loads.len();
        landed.unread(
            looked_at,
            None,
            format!("only the last {looked_at} loads are looked at"),
        );
    }
    landed
}

/// A file that was loaded, while it is read.
struct LoadedFile<'a> {
    dataset: &'a Dataset,
    wanted: &'a Wanted,
    landed: &'a mut Landed,
    transform: Transform<'a>,
    keys: KeyFinder,
    rows: Rows,
    columns: Option<Columns>,
    has_lines: bool,
    has_records: bool,
}

impl<'a> LoadedFile<'a> {
    fn new(
        dataset: &'a Dataset,
        wanted: &'a Wanted,
        landed: &'a mut Landed,
        (path, load): (&str, usize),
    ) -> Self {
        landed.files.push((path.into(), load));
        LoadedFile {
            dataset,
            wanted,
            landed,
            transform: Transform::new(dataset, i64::MAX),
            keys: KeyFinder::new(dataset),
            rows: Rows::new(dataset.fields.len()),
            columns: None,
            has_lines: false,
            has_records: false,
        }
    }

    /// Reads a record into a row. Whether it is one.
    fn read(&mut self, record: &[u8], format: FileFormat) -> bool {
        self.rows.clear();
        let read = match (format, &self.columns) {
            (FileFormat::Csv, Some(columns)) => columns
                .values(record, self.dataset)
                .and_then(|v| self.transform.values(&v, Origin::default(), &mut self.rows)),
            _ => self
                .transform
                .event(record, Origin::default(), &mut self.rows),
        };
        read.is_ok()
    }

    /// Whether the row is the version that is looked for, or a newer one.
    fn is_loaded(&self, wanted: Version, format: FileFormat) -> bool {
        let version = self.rows.meta(0).version();
        match (self.dataset.nulls, format) {
            (Nulls::Write, FileFormat::Ndjson) => version >= wanted,
            // Where absent fields leave values alone, the row is a mixture, whose digest is that of no record; and which
            // text of a CSV cell meant null is not known any more.
            (Nulls::Unset, _) | (_, FileFormat::Csv) => version.0 >= wanted.0,
        }
    }
}

impl Seeker for LoadedFile<'_> {
    fn header(&mut self, header: &[u8]) -> Result<()> {
        self.columns = Some(Columns::read(header, self.dataset, "")?);
        Ok(())
    }

    fn record(&mut self, record: Line<'_>, format: FileFormat) -> Result<ControlFlow<()>> {
        self.has_lines = true;
        // Most records are told by their key not to be looked for, without being read.
        let plain = match format {
            FileFormat::Ndjson => self.keys.plain(record.bytes).map(key_hash),
            FileFormat::Csv => None,
        };
        if plain.is_some_and(|key| !self.wanted.has_key(key)) {
            self.has_records = true;
        } else if self.read(record.bytes, format) {
            self.has_records = true;
            let key = hash_of(&self.rows.value(0, self.dataset.event.key));
            let place = (self.landed.files.len() as u32 - 1, record.number);
            for version in self.wanted.versions(key) {
                if self.is_loaded(version, format) {
                    let id = id_of(key, version);
                    self.landed.found.entry(id).or_insert(place);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::ledger::LoadInfo;
    use crate::record::value::Value;

    fn load(inputs: Vec<String>, newest: i64) -> LoadRecord {
        LoadRecord {
            info: LoadInfo {
                inputs,
                started_at: i64::MAX,
                newest: Some(newest),
                ..LoadInfo::default()
            },
            mode: String::new(),
            loaded_at: 0,
            written: 0,
        }
    }

    fn id(n: u32) -> String {
        format!("00000000-0000-0000-000a-00000000000{n}")
    }

    fn key(n: u32) -> Value<'static> {
        Value::Uuid(id(n).parse().unwrap())
    }

    /// 2026-11-01 and some seconds.
    fn at(second: i64) -> (i64, crate::record::row::Digest) {
        (1_793_491_200_000 + second * 1_000, Default::default())
    }

    #[test]
    fn a_file_that_was_loaded_counts_only_if_it_has_the_version_or_a_newer_one() {
        let dataset = Dataset::load(None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let line = |id: &str, second: u32| {
            format!(
                "{{\"id\":\"{id}\",\"email\":\"a\",\"fetched_at\":\"2026-11-01T00:00:0{second}Z\"}}\n"
            )
        };
        // The third key is not in its canonical form.
        let odd = id(3).to_uppercase();
        let text = [line(&id(1), 5), line(&id(2), 5), line(&odd, 5)].concat();
        let json = path("day.ndjson");
        std::fs::write(&json, format!("{text}not a record\n")).unwrap();
        let cells = |n: u32| format!("2026-11-01T00:00:05Z,\"a\nb\",{}\n", id(n));
        let csv = path("day.csv");
        let text = format!("fetched_at,email,id\n{}{}", cells(1), cells(2)) + &cells(3);
        std::fs::write(&csv, text).unwrap();
        let mut wanted = Wanted::default();
        let version_of = |n: u32| at([4, 6, 5, 0][n as usize - 1]);
        for n in 1..=4 {
            wanted.add(&key(n), version_of(n));
        }
        let (_stop, stop) = Stop::channel();
        let found = |load: LoadRecord| in_landing(&dataset, &[load], false, &wanted, &stop);
        for (path, third) in [(&json, 3), (&csv, 6)] {
            let landed = found(load(vec![path.clone()], at(5).0));
            assert_eq!(landed.unread, None);
            let places = [1, 2, 3, 4].map(|n| landed.place(id_of(hash_of(&key(n)), version_of(n))));
            let line = |n: u32| Some(format!("{path}, line {n},"));
            let first = if third == 3 { 1 } else { 2 };
            assert_eq!(places, [line(first), None, line(third), None]);
        }
        for (inputs, why) in [
            (vec![], "did not read files"),
            (vec![format!("{json}.gone")], "cannot read"),
        ] {
            let landed = found(load(inputs.clone(), at(5).0));
            assert!(landed.unread.unwrap().1.contains(why));
            // Nothing that is looked for can have been in an older load.
            assert_eq!(found(load(inputs, at(-1).0)).unread, None);
        }
    }
}
