//! Versions in the files that were loaded.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::path::Path;

use super::keys::KeyFinder;
use super::{ByKey, Wanted, hash_of, id_of, key_hash};
use crate::dataset::{Dataset, Nulls};
use crate::error::{Error, Result};
use crate::intake::chunk::{Ended, FileFormat, Line};
use crate::intake::csv::Columns;
use crate::intake::dead_letter::DeadLetters;
use crate::intake::loaded::{is_same, may_be_same, newest_before, newest_in};
use crate::intake::lookup::{Seeker, each_record};
use crate::intake::record_key::KeyCells;
use crate::ports::batch_store::Mode;
use crate::ports::ledger::{Contents, FileRead, LoadRecord, LoadedFile};
use crate::record::row::{Origin, Rows};
use crate::record::transform::Transform;
use crate::run::Stop;
use crate::verify::classify::Version;

/// Where versions are in files that were loaded, by their ids.
#[derive(Debug, Default)]
pub(in crate::verify) struct Landed {
    found: ByKey<Place>,
    /// The newest loads that had them and do not leave stored rows as they are: the index, the newest load's being 0.
    written: ByKey<usize>,
    /// The newest loads that had exactly these versions.
    exact: ByKey<usize>,
    /// Records that do not read as they did when they were loaded: one that may be the version.
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
    /// The path of the input, `-` for standard input; none for whatever was loaded before.
    input: Option<String>,
    /// What was read of it, if that is known.
    read: Option<FileRead>,
    /// The newest event time that it may have loaded.
    newest: i64,
    why: String,
}

impl Landed {
    /// File and line of the version with this id or of a newer one of its key, for people.
    pub(in crate::verify) fn place(&self, id: u64) -> Option<String> {
        let place = self.found.get(&id)?;
        let file = self.files.get(place.file as usize)?;
        Some(format!("{file}, line {},", place.line))
    }

    /// The index of the newest load that had it, the newest of all being 0.
    pub(in crate::verify) fn load(&self, id: u64) -> Option<usize> {
        self.found.get(&id).map(|place| place.load)
    }

    /// Like `load`, of loads that do not leave stored rows as they are.
    pub(in crate::verify) fn written_by(&self, id: u64) -> Option<usize> {
        self.written.get(&id).copied()
    }

    /// Like `load`, of exactly this version, not of a newer one of its key.
    pub(in crate::verify) fn exactly(&self, id: u64) -> Option<usize> {
        self.exact.get(&id).copied()
    }

    /// Whether one of these loads may have had the version with this id and event time, because not all that they read is
    /// known.
    pub(in crate::verify) fn may_be_in(&self, id: u64, time: i64, loads: Range<usize>) -> bool {
        let may_have = |unread: &Unread| loads.contains(&unread.load) && unread.newest >= time;
        let line = self.unreadable.get(&id);
        self.unread.iter().any(may_have) || line.is_some_and(|line| loads.contains(&line.load))
    }

    /// Whether something other than this load, or another input of it than the one in which it rejected a record, may have
    /// had the version with this id and event time, because not all that was read is known. The same bytes, of which as many
    /// records were rejected, had it no more than that input.
    pub(in crate::verify) fn may_be_elsewhere(
        &self,
        id: u64,
        time: i64,
        (load, input): (usize, Option<&str>),
        read: Option<&FileRead>,
    ) -> bool {
        let read = read.filter(|read| read.rejected.is_some());
        let is_own = |unread: &Unread| {
            let is_input = input.is_none() || input == unread.input.as_deref();
            let is_same = read.is_some() && read == unread.read.as_ref();
            is_same || unread.load == load && is_input
        };
        let is_other = |unread: &Unread| !is_own(unread) && unread.newest >= time;
        let line = self.unreadable.get(&id);
        self.unread.iter().any(is_other) || line.is_some_and(|line| line.load != load)
    }

    /// Why whatever may have had the version with this id and event time was not read: of the newest load of which that is
    /// so. A record that cannot be read is no riddle in the load that is known to have rejected a record of the key.
    pub(in crate::verify) fn unread(
        &self,
        id: u64,
        time: i64,
        rejected_by: Option<usize>,
    ) -> Option<String> {
        let loads = self.unread.iter().filter(|unread| unread.newest >= time);
        let load = loads.min_by_key(|unread| unread.load);
        let line = self.unreadable.get(&id);
        let line = line.filter(|line| rejected_by != Some(line.load));
        match (load, line) {
            (Some(unread), line) if line.is_none_or(|line| unread.load <= line.load) => {
                Some(unread.why.clone())
            }
            (_, line) => {
                let line = line?;
                let file = self.files.get(line.file as usize)?;
                let number = line.line;
                Some(format!(
                    "{file}, line {number}, has its key, but is not a valid record now"
                ))
            }
        }
    }

    /// Whether versions were found in this number, and no load before this one can be a newer one that had them.
    fn is_complete(&self, count: usize, load: usize) -> bool {
        self.written.len() == count && self.written.values().all(|written| *written <= load)
    }

    /// Adds what the loads have read of a file: nothing, unless it is still the same.
    fn add(&mut self, loads: &[LoadRecord], group: &Group<'_>, file: SearchedFile<'_>) {
        let is_understood = file.has_records || !file.has_lines;
        let (mut read, mut written, mut kept_all) = (None, None, None);
        for (load, input) in &group.loads {
            match is_same(&loads[*load], input, file.contents.as_ref()) {
                // Whose contents and format are known is read as it was then.
                Ok(()) if is_understood || input.read.is_some() => {
                    let writes = loads[*load].mode != Mode::Ignore.name();
                    read = read.or(Some(*load));
                    written = written.or(Some(*load).filter(|_| writes));
                    kept_all = kept_all.or(Some((*load, writes)).filter(|_| input.has_kept_all()));
                }
                Ok(()) => {
                    let why = format!("{} has no record of the dataset", input.path);
                    self.add_unread(*load, &loads[*load], input, why);
                }
                Err(why) => self.add_unread_file(*load, &loads[*load], input, &why),
            }
        }
        let Some(load) = read else { return };
        let newest = |known: &mut ByKey<usize>, id: u64, load: usize| {
            let known = known.entry(id).or_insert(load);
            *known = load.min(*known);
        };
        if let Some(written) = written {
            for id in file.found.keys() {
                newest(&mut self.written, *id, written);
            }
        }
        for id in file.exact.keys() {
            newest(&mut self.exact, *id, load);
        }
        let number = self.files.len() as u32;
        self.files.push(group.path.into());
        let add = |known: &mut ByKey<Place>, id: u64, load: usize, line: u64| {
            let file = number;
            let place = Place { load, file, line };
            let known = known.entry(id).or_insert(place);
            // A file that was read first may be one that only an older load has read as it is.
            if load < known.load {
                *known = place;
            }
        };
        for (id, line) in file.found {
            add(&mut self.found, id, load, line);
        }
        for (id, Invalid { line, has_time }) in file.invalid {
            match kept_all.filter(|_| has_time) {
                None => add(&mut self.unreadable, id, load, line),
                Some((load, writes)) => {
                    add(&mut self.found, id, load, line);
                    if writes {
                        newest(&mut self.written, id, load);
                    }
                }
            }
        }
    }

    fn add_unread_file(&mut self, at: usize, load: &LoadRecord, input: &LoadedFile, why: &Error) {
        let why = format!("cannot read {}: {why}", input.path);
        self.add_unread(at, load, input, why);
    }

    fn add_unread(&mut self, load: usize, record: &LoadRecord, input: &LoadedFile, why: String) {
        let Some(newest) = newest_in(record) else {
            return;
        };
        self.unread.push(Unread {
            load,
            input: Some(input.path.clone()),
            read: input.read.clone(),
            newest,
            why,
        });
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
        let newest = group.loads.first().map_or(0, |(load, _)| *load);
        if landed.is_complete(wanted.len(), newest) || stop.requested().is_some() {
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
            Some(FileFormat::of_loaded(first)),
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
            input: None,
            read: None,
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
            landed.add_unread(at, load, &LoadedFile::at("-"), why);
        }
        for input in &info.inputs {
            if input.path == "-" {
                let why = format!("load {} has read standard input, too", info.run_id);
                landed.add_unread(at, load, input, why);
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

/// A line that is not valid, of a key that is looked for.
struct Invalid {
    line: u64,
    /// Whether its event time can be read, which is not older than what is looked for.
    has_time: bool,
}

/// A file that was loaded, while it is read.
struct SearchedFile<'a> {
    dataset: &'a Dataset,
    wanted: &'a Wanted,
    transform: Transform<'a>,
    keys: KeyFinder,
    letters: DeadLetters,
    rows: Rows,
    /// The text of a CSV cell that meant null, if the load has kept it.
    null: Option<&'a str>,
    columns: Option<Columns>,
    cells: Option<KeyCells>,
    has_lines: bool,
    has_records: bool,
    /// The lines of what is looked for, by the ids of the versions.
    found: ByKey<u64>,
    /// Those of exactly these versions.
    exact: ByKey<u64>,
    /// The lines that are not valid and may be what is looked for.
    invalid: ByKey<Invalid>,
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
            null: input.read.as_ref().map(|read| &*read.null),
            columns: None,
            cells: None,
            has_lines: false,
            has_records: false,
            found: ByKey::default(),
            exact: ByKey::default(),
            invalid: ByKey::default(),
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
    fn is_loaded(&self, wanted: Version, format: FileFormat) -> bool {
        let version = self.rows.meta(0).version();
        match self.has_digests(format) {
            true => version >= wanted,
            false => version.0 >= wanted.0,
        }
    }

    /// Whether the row is this version, as far as that can be told.
    fn is_exactly(&self, wanted: Version, format: FileFormat) -> bool {
        let version = self.rows.meta(0).version();
        version.0 == wanted.0 && (version.1 == wanted.1 || !self.has_digests(format))
    }

    /// Whether a record has the digest of the row that it became. Where absent fields leave values alone, the row is a
    /// mixture, whose digest is that of no record; and of a load of an older version of rtp, which text of a CSV cell meant
    /// null is not known any more.
    fn has_digests(&self, format: FileFormat) -> bool {
        let is_read_as_loaded = self.null.is_some() || format == FileFormat::Ndjson;
        self.dataset.nulls == Nulls::Write && is_read_as_loaded
    }

    /// Key and event time of a record that is not valid, which may still have them.
    fn key_of_invalid(&self, record: &[u8], format: FileFormat) -> Option<(u64, Option<i64>)> {
        match format {
            FileFormat::Ndjson => {
                let key = self.letters.key_in(record)?;
                Some((hash_of(&key), self.letters.time_in(record)))
            }
            FileFormat::Csv => {
                let (key, time) = self.cells.as_ref()?.read(record)?;
                Some((hash_of(&key), time))
            }
        }
    }
}

impl Seeker for SearchedFile<'_> {
    fn header(&mut self, header: &[u8]) -> Result<()> {
        let null = self.null.unwrap_or_default();
        self.columns = Some(Columns::read(header, self.dataset, null)?);
        self.cells = KeyCells::read_header(header, self.dataset, null).ok();
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
            for version in self.wanted.versions(key) {
                if self.is_loaded(version, format) {
                    let id = id_of(key, version);
                    self.found.entry(id).or_insert(record.number);
                    if self.is_exactly(version, format) {
                        self.exact.entry(id).or_insert(record.number);
                    }
                }
            }
        } else if let Some((key, time)) = self.key_of_invalid(record.bytes, format) {
            for version in self.wanted.versions(key) {
                if time.is_none_or(|time| time >= version.0) {
                    let id = id_of(key, version);
                    let (line, has_time) = (record.number, time.is_some());
                    let invalid = Invalid { line, has_time };
                    self.invalid.entry(id).or_insert(invalid);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn end(&mut self, ended: &Ended) {
        self.contents = Some(ended.contents.clone());
    }
}

#[cfg(test)]
mod tests;
