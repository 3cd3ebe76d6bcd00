//! Versions in the files that were loaded.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use super::keys::KeyFinder;
use super::log::time_of;
use super::rejects::Cells;
use super::{ByKey, Wanted, check_unchanged, format_of, hash_of, key_hash};
use crate::dataset::{Dataset, Nulls};
use crate::error::{Error, Result};
use crate::intake::chunk::{Ended, FileFormat, Line};
use crate::intake::csv::Columns;
use crate::intake::dead_letter::DeadLetters;
use crate::intake::lookup::{Seeker, each_record};
use crate::ports::ledger::{Contents, LoadRecord, LoadedFile};
use crate::record::row::{Origin, Rows};
use crate::record::transform::Transform;
use crate::run::Stop;
use crate::verify::base::{newest_before, newest_in};

/// Where versions are in files that were loaded.
#[derive(Debug, Default)]
pub(in crate::verify) struct Landed {
    found: ByKey<Place>,
    /// The keys of records that do not read as they did when they were loaded: one that may be the version.
    unreadable: ByKey<Place>,
    files: Vec<String>,
    unread: Vec<Unread>,
}

/// Where a record is.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The index of the load, the newest being 0.
    load: usize,
    file: u32,
    line: u64,
}

/// What was loaded and could not be read again.
#[derive(Debug)]
struct Unread {
    /// The index of the load, the newest being 0.
    load: usize,
    /// The newest event time that it may have loaded.
    newest: i64,
    why: String,
}

impl Landed {
    /// File and line of a key's version or of a newer one, for people.
    pub(in crate::verify) fn place(&self, key: u64) -> Option<String> {
        let place = self.found.get(&key)?;
        let file = self.files.get(place.file as usize)?;
        Some(format!("{file}, line {},", place.line))
    }

    /// Why whatever may have had a key's version of this event time was not read: of the newest load of which that is so,
    /// by its index, the newest being 0.
    pub(in crate::verify) fn unread(&self, key: u64, time: i64) -> Option<(usize, String)> {
        let loads = self.unread.iter().filter(|unread| unread.newest >= time);
        let load = loads.min_by_key(|unread| unread.load);
        let line = self.unreadable.get(&key);
        match (load, line) {
            (Some(unread), line) if line.is_none_or(|line| unread.load <= line.load) => {
                Some((unread.load, unread.why.clone()))
            }
            (_, line) => {
                let line = line?;
                let file = self.files.get(line.file as usize)?;
                let number = line.line;
                Some((
                    line.load,
                    format!("{file}, line {number}, has its key, but is not a valid record now"),
                ))
            }
        }
    }

    /// Adds what the loads have read of a file: nothing, unless it is still the same.
    fn add(&mut self, loads: &[LoadRecord], group: &Group<'_>, file: SearchedFile<'_>) {
        let is_understood = file.has_records || !file.has_lines;
        let mut read = None;
        for (load, input) in &group.loads {
            match is_same(&loads[*load], input, file.contents.as_ref()) {
                Ok(()) if is_understood => read = read.or(Some(*load)),
                Ok(()) => {
                    let why = format!("{} has no record of the dataset", input.path);
                    self.add_unread(*load, &loads[*load], why);
                }
                Err(why) => self.add_unread_file(*load, &loads[*load], input, &why),
            }
        }
        let Some(load) = read else { return };
        let number = self.files.len() as u32;
        self.files.push(group.path.into());
        let all = [
            (file.found, &mut self.found),
            (file.unreadable, &mut self.unreadable),
        ];
        for (lines, known) in all {
            for (key, line) in lines {
                let file = number;
                known.entry(key).or_insert(Place { load, file, line });
            }
        }
    }

    fn add_unread_file(&mut self, at: usize, load: &LoadRecord, input: &LoadedFile, why: &Error) {
        self.add_unread(at, load, format!("cannot read {}: {why}", input.path));
    }

    fn add_unread(&mut self, load: usize, record: &LoadRecord, why: String) {
        // Of a load, one reason is enough.
        if let Some(newest) = newest_in(record)
            && !self.unread.iter().rev().any(|unread| unread.load == load)
        {
            self.unread.push(Unread { load, newest, why });
        }
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
    for group in groups(loads, wanted.oldest(), &mut landed) {
        if landed.found.len() == wanted.len() || stop.requested().is_some() {
            break;
        }
        let (mut same, mut other) = (Vec::new(), Vec::new());
        for (load, input) in &group.loads {
            match may_be_same(&loads[*load], input) {
                Ok(()) => same.push((*load, *input)),
                Err(why) => other.push((*load, *input, why)),
            }
        }
        for (load, input, why) in other {
            landed.add_unread_file(load, &loads[load], input, &why);
        }
        let Some((_, first)) = same.first() else {
            continue;
        };
        let mut file = SearchedFile::new(dataset, wanted, first);
        let read = each_record(
            Path::new(group.path),
            Some(format_of(first)),
            stop,
            &mut file,
        );
        let group = Group {
            loads: same,
            ..group
        };
        match read {
            Ok(()) => landed.add(loads, &group, file),
            Err(why) => {
                for (load, input) in &group.loads {
                    landed.add_unread_file(*load, &loads[*load], input, &why);
                }
            }
        }
    }
    if let Some(last) = loads.last().filter(|_| has_earlier) {
        let load = loads.len();
        landed.unread.push(Unread {
            load,
            newest: newest_before(last),
            why: format!("only the last {load} loads are looked at"),
        });
    }
    landed
}

/// A file, with the loads that have read it in the same way, the newest first.
struct Group<'a> {
    path: &'a str,
    loads: Vec<(usize, &'a LoadedFile)>,
}

/// The files of the loads that may have records as new as that, those of the newest loads first: each is read once, however
/// many loads have read it.
fn groups<'a>(loads: &'a [LoadRecord], oldest: i64, landed: &mut Landed) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut known = HashMap::new();
    for (at, load) in loads.iter().enumerate() {
        // A load whose newest record is older than all of them has none of them, whatever became of its files, nor has one
        // without records.
        if newest_in(load).is_none_or(|newest| newest < oldest) {
            continue;
        }
        let info = &load.info;
        if info.inputs.is_empty() {
            let why = format!("load {} did not read files", info.run_id);
            landed.add_unread(at, load, why);
        }
        for input in &info.inputs {
            if input.path == "-" {
                let why = format!("load {} has read standard input, too", info.run_id);
                landed.add_unread(at, load, why);
                continue;
            }
            let how = input.read.as_ref().map(|read| (&read.format, &read.null));
            let group = *known.entry((&input.path, how)).or_insert(groups.len());
            if group == groups.len() {
                groups.push(Group {
                    path: &input.path,
                    loads: Vec::new(),
                });
            }
            groups[group].loads.push((at, input));
        }
    }
    groups
}

/// An error if a file is certainly not what a load has read.
fn may_be_same(load: &LoadRecord, input: &LoadedFile) -> Result<()> {
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
fn is_same(load: &LoadRecord, input: &LoadedFile, contents: Option<&Contents>) -> Result<()> {
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

/// A file that was loaded, while it is read.
struct SearchedFile<'a> {
    dataset: &'a Dataset,
    wanted: &'a Wanted,
    transform: Transform<'a>,
    keys: KeyFinder,
    letters: DeadLetters,
    rows: Rows,
    /// The text of a CSV cell that meant null.
    null: &'a str,
    columns: Option<Columns>,
    cells: Option<Cells>,
    has_lines: bool,
    has_records: bool,
    /// The lines of what is looked for.
    found: ByKey<u64>,
    /// The lines that may be what is looked for.
    unreadable: ByKey<u64>,
    /// What the file held, once it was read to its end.
    contents: Option<Contents>,
}

impl<'a> SearchedFile<'a> {
    fn new(dataset: &'a Dataset, wanted: &'a Wanted, input: &'a LoadedFile) -> Self {
        SearchedFile {
            dataset,
            wanted,
            transform: Transform::new(dataset, i64::MAX),
            keys: KeyFinder::new(dataset),
            letters: DeadLetters::of(dataset),
            rows: Rows::new(dataset.fields.len()),
            null: input.read.as_ref().map_or("", |read| &read.null),
            columns: None,
            cells: None,
            has_lines: false,
            has_records: false,
            found: ByKey::default(),
            unreadable: ByKey::default(),
            contents: None,
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
    fn is_loaded(&self, key: u64, format: FileFormat) -> bool {
        let version = self.rows.meta(0).version();
        let Some(wanted) = self.wanted.get(key) else {
            return false;
        };
        match (self.dataset.nulls, format) {
            (Nulls::Write, FileFormat::Ndjson) => version >= wanted,
            // Where absent fields leave values alone, the row is a mixture, whose digest is that of no record; and of a
            // load of an older version of rtp, which text of a CSV cell meant null is not known any more.
            (Nulls::Unset, _) | (_, FileFormat::Csv) => version.0 >= wanted.0,
        }
    }

    /// The key that is looked for, in a record that is not valid, unless it is older than what is looked for.
    fn key_of_invalid(&self, record: &[u8], format: FileFormat) -> Option<u64> {
        let (key, time) = match format {
            FileFormat::Ndjson => {
                let key = self.letters.key_in(record)?;
                (hash_of(&key), time_of(self.dataset, record))
            }
            FileFormat::Csv => self.cells.as_ref()?.read(record)?,
        };
        let wanted = self.wanted.get(key)?;
        time.is_none_or(|time| time >= wanted.0).then_some(key)
    }
}

impl Seeker for SearchedFile<'_> {
    fn header(&mut self, header: &[u8]) -> Result<()> {
        self.columns = Some(Columns::read(header, self.dataset, self.null)?);
        self.cells = Cells::of(header, self.dataset, &self.letters);
        Ok(())
    }

    fn record(&mut self, record: Line<'_>, format: FileFormat) -> Result<ControlFlow<()>> {
        self.has_lines = true;
        // Most records are told by their key not to be looked for, without being read.
        let plain = match format {
            FileFormat::Ndjson => self.keys.plain(record.bytes).map(key_hash),
            FileFormat::Csv => None,
        };
        if plain.is_some_and(|key| self.wanted.get(key).is_none()) {
            self.has_records = true;
        } else if self.read(record.bytes, format) {
            self.has_records = true;
            let key = hash_of(&self.rows.value(0, self.dataset.event.key));
            if self.is_loaded(key, format) {
                self.found.entry(key).or_insert(record.number);
            }
        } else if let Some(key) = self.key_of_invalid(record.bytes, format) {
            self.unreadable.entry(key).or_insert(record.number);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn end(&mut self, ended: &Ended) {
        self.contents = Some(ended.contents.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::ledger::{FileRead, LoadInfo};
    use crate::record::value::Value;

    fn load(inputs: Vec<String>, newest: i64) -> LoadRecord {
        LoadRecord {
            info: LoadInfo {
                inputs: inputs.into_iter().map(LoadedFile::at).collect(),
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
        for (n, second) in [(1, 4), (2, 6), (3, 5), (4, 0)] {
            wanted.add(&key(n), at(second));
        }
        let (_stop, stop) = Stop::channel();
        let found = |load: LoadRecord| in_landing(&dataset, &[load], false, &wanted, &stop);
        for (path, third) in [(&json, 3), (&csv, 6)] {
            let landed = found(load(vec![path.clone()], at(5).0));
            assert!(landed.unread.is_empty());
            let places = [1, 2, 3, 4].map(|n| landed.place(hash_of(&key(n))));
            let line = |n: u32| Some(format!("{path}, line {n},"));
            let first = if third == 3 { 1 } else { 2 };
            assert_eq!(places, [line(first), None, line(third), None]);
        }
        for (inputs, why) in [
            (vec![], "did not read files"),
            (vec![format!("{json}.gone")], "cannot read"),
        ] {
            let landed = found(load(inputs.clone(), at(5).0));
            let unread = |second| landed.unread(hash_of(&key(4)), at(second).0);
            assert!(unread(5).unwrap().1.contains(why));
            // Of what was looked for, that may be newer than the load.
            assert_eq!(unread(6), None);
            // Nothing that is looked for can have been in an older load.
            assert!(found(load(inputs, at(-1).0)).unread.is_empty());
        }
    }

    #[test]
    fn a_file_that_many_loads_name_is_read_once() {
        let dataset = Dataset::load(None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("day.ndjson").display().to_string();
        std::fs::write(&path, "{}\n{}\n").unwrap();
        let of = |xxh3: &str| {
            let mut load = load(vec![path.clone()], at(9).0);
            load.info.inputs[0].read = Some(FileRead {
                contents: Contents {
                    bytes: 6,
                    xxh3: xxh3.into(),
                },
                ..FileRead::default()
            });
            load
        };
        let same = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(b"{}\n{}\n"));
        let mut loads = vec![of(&same); 200];
        loads[7] = of("0");
        let mut wanted = Wanted::default();
        wanted.add(&key(1), at(0));
        let groups = groups(&loads, at(0).0, &mut Landed::default());
        let members: Vec<usize> = groups.iter().map(|group| group.loads.len()).collect();
        assert_eq!(members, [200]);
        // What is in it is no record, which tells of each load whether its contents were those.
        let (_stop, stop) = Stop::channel();
        let landed = in_landing(&dataset, &loads, false, &wanted, &stop);
        let is_other = |unread: &Unread| unread.why.contains("it is not the file");
        let other: Vec<usize> = landed
            .unread
            .iter()
            .filter(|unread| is_other(unread))
            .map(|unread| unread.load)
            .collect();
        assert_eq!((landed.unread.len(), other), (200, vec![7]));
    }
}
