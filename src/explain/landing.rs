//! Where the record stands in the landing files, and in the reject files of the loads.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::Asked;
use super::log::{checked, read};
use super::model::{Landed, Part, Rejected, Time, Trouble};
use crate::error::{Error, Result};
use crate::intake::chunk::{Ended, FileFormat, Line};
use crate::intake::csv::Columns;
use crate::intake::lookup::{Seeker, each_record};
use crate::intake::record_key::KeyCells;
use crate::intake::reject_lines::{RejectKeys, RejectLine, RejectsOf, each_line};
use crate::ports::ledger::{Contents, LoadRecord, LoadedFile};
use crate::record::transform::Transform;

/// How many lines are kept for the answer.
const MOST: usize = 100;

/// How a file is read: its format, and the text of a CSV cell that means null; none if no load has kept that.
type How<'a> = Option<(&'a str, &'a str)>;

/// What loads have read of a file.
type Inputs<'a> = Vec<(&'a LoadRecord, &'a LoadedFile)>;

/// Searches the inputs of the loads that are still there, and the files that were named.
pub(super) fn search(
    asked: &Asked<'_>,
    loads: &[LoadRecord],
    troubles: &mut Vec<Trouble>,
) -> Vec<Landed> {
    let mut files: BTreeMap<(PathBuf, How<'_>), Inputs<'_>> = BTreeMap::new();
    for load in loads {
        for input in &load.info.inputs {
            let path = PathBuf::from(&input.path);
            let is_named = |named: &&PathBuf| is_same(named, &path);
            let named = asked.landing.iter().find(is_named).cloned();
            if named.is_none() && !is_still_there(&path, input) {
                continue; // the user has deleted or replaced it, as they may; a pipe cannot be read again
            }
            let read = input.read.as_ref();
            let how = read.map(|read| (&*read.format, &*read.null));
            let inputs = files.entry((named.unwrap_or(path), how)).or_default();
            inputs.push((load, input));
        }
    }
    for path in asked.landing {
        if !files.keys().any(|(known, _)| known == path) {
            files.insert((path.clone(), None), Vec::new());
        }
    }
    let mut found = Vec::new();
    for ((path, how), inputs) in &files {
        if let Err(e) = search_file(asked, path, *how, inputs, &mut found) {
            troubles.push(Trouble::new(Part::Landing, &e));
        }
    }
    found
}

/// Whether it may be the file that a load has read.
fn is_still_there(path: &Path, input: &LoadedFile) -> bool {
    let length = input.read.as_ref().map(|read| read.contents.bytes);
    let found = std::fs::metadata(path);
    found.is_ok_and(|found| found.is_file() && length.is_none_or(|length| length == found.len()))
}

fn is_same(named: &Path, path: &Path) -> bool {
    named.canonicalize().is_ok_and(|named| named == path)
}

/// Searches a file. Its lines are told with those of the loads that have read what it holds now, as far as that is known.
fn search_file(
    asked: &Asked<'_>,
    path: &Path,
    how: How<'_>,
    inputs: &Inputs<'_>,
    found: &mut Vec<Landed>,
) -> Result<()> {
    let mut lines = Lines {
        asked,
        transform: Transform::new(asked.dataset, crate::time::now_ms()),
        null: how.map_or("", |(_, null)| null),
        columns: None,
        contents: None,
        file: path.display().to_string(),
        room: MOST.saturating_sub(found.len()),
        found: Vec::new(),
    };
    let format = how.and_then(|(format, _)| FileFormat::of_option(format));
    let read = each_record(path, format, asked.stop, &mut lines);
    let is_same_file = |input: &LoadedFile| {
        let known = input.read.as_ref().zip(lines.contents.as_ref());
        known.is_none_or(|(read, contents)| read.contents == *contents)
    };
    let same = inputs.iter().filter(|(_, input)| is_same_file(input));
    let runs: Vec<String> = same.map(|(load, _)| load.info.run_id.clone()).collect();
    if !runs.is_empty() || asked.landing.iter().any(|named| named == path) {
        let lines = lines.found.into_iter();
        found.extend(lines.map(|line| Landed {
            loads: runs.clone(),
            ..line
        }));
    }
    read
}

/// Finds the key in lines.
struct Lines<'a> {
    asked: &'a Asked<'a>,
    transform: Transform<'a>,
    /// The text of a CSV cell that means null.
    null: &'a str,
    columns: Option<Both>,
    /// What the file holds, once it was read to its end.
    contents: Option<Contents>,
    file: String,
    /// How many lines may still be found.
    room: usize,
    found: Vec<Landed>,
}

/// The columns of a CSV file: that of the key, and all of them.
struct Both {
    key: KeyCells,
    all: Columns,
}

/// The event time of a line that has the key, and why it is not a row, if it is not.
type Found = (Option<Time>, Option<String>);

impl Lines<'_> {
    fn find(&self, line: &[u8], format: FileFormat) -> Option<Found> {
        let (key, dataset) = (self.asked.key, self.asked.dataset);
        if !key.may_be_in(line) {
            return None;
        }
        match (format, &self.columns) {
            (FileFormat::Csv, Some(columns)) => {
                // A line is found although it is bad.
                let found = columns.key.read(line);
                found.is_some_and(|(found, _)| found == key.value).then(|| {
                    let values = columns.all.values(line, dataset);
                    checked(&self.transform, dataset, values)
                })
            }
            _ => key
                .is_in(line)
                .then(|| read(&self.transform, dataset, line)),
        }
    }
}

impl Seeker for Lines<'_> {
    fn header(&mut self, header: &[u8]) -> Result<()> {
        self.columns = Some(Both {
            all: Columns::read(header, self.asked.dataset, self.null)?,
            key: KeyCells::read_header(header, self.asked.dataset, self.null)?,
        });
        Ok(())
    }

    fn record(&mut self, line: Line<'_>, format: FileFormat) -> Result<ControlFlow<()>> {
        if self.found.len() < self.room
            && let Some((event_time, invalid)) = self.find(line.bytes, format)
        {
            self.found.push(Landed {
                file: self.file.clone(),
                line: line.number,
                event_time,
                invalid,
                loads: Vec::new(),
            });
        }
        Ok(ControlFlow::Continue(()))
    }

    fn end(&mut self, ended: &Ended) {
        self.contents = Some(ended.contents.clone());
    }
}

/// Searches the reject files of the loads that are still there.
pub(super) fn rejects(
    asked: &Asked<'_>,
    loads: &[LoadRecord],
    troubles: &mut Vec<Trouble>,
) -> Vec<Rejected> {
    let mut found = Vec::new();
    let mut known = BTreeSet::new();
    for load in loads {
        // A later load has replaced what an earlier one had in the same file.
        let there = RejectsOf::of(load).filter(|there| known.insert(there.path));
        let Some(there) = there else { continue };
        if let Err(e) = search_rejects(asked, &there, load, &mut found) {
            troubles.push(Trouble::new(Part::Rejects, &e));
        }
    }
    found
}

fn search_rejects(
    asked: &Asked<'_>,
    there: &RejectsOf<'_>,
    load: &LoadRecord,
    found: &mut Vec<Rejected>,
) -> Result<()> {
    let mut rejects = RejectLines {
        asked,
        keys: RejectKeys::of(asked.dataset, asked.key.letters(), load, asked.stop),
        there,
        run_id: &load.info.run_id,
        found,
        trouble: None,
    };
    each_line(there.path, asked.stop, &mut |line| rejects.see(line))?;
    rejects.trouble.map_or(Ok(()), Err)
}

/// Finds the key in the lines of a reject file.
struct RejectLines<'a> {
    asked: &'a Asked<'a>,
    keys: RejectKeys<'a>,
    there: &'a RejectsOf<'a>,
    run_id: &'a str,
    found: &'a mut Vec<Rejected>,
    /// The first line that may be about the key, but cannot be read.
    trouble: Option<Error>,
}

impl RejectLines<'_> {
    fn see(&mut self, line: Line<'_>) -> ControlFlow<()> {
        let key = &self.asked.key;
        if !key.may_be_in(line.bytes) && !RejectLine::may_be_encoded(line.bytes) {
            return ControlFlow::Continue(());
        }
        let path = self.there.path.display();
        let reject = match self.there.read(line.bytes) {
            None => return ControlFlow::Continue(()),
            Some(Ok(reject)) => reject,
            Some(Err(e)) => {
                let place = format!("{path} line {}", line.number);
                // The other lines can be read all the same.
                self.trouble
                    .get_or_insert_with(|| Error::missing(format!("{place} {e}")));
                return ControlFlow::Continue(());
            }
        };
        let reason = match self.keys.read(&reject) {
            Some((found, _)) => (found == key.value).then(|| reject.reason.clone()),
            None => {
                let record = reject.record().unwrap_or_default();
                key.may_be_a_value_in(&record).then(|| {
                    let reason = &reject.reason;
                    format!("{reason}; its key cannot be read, but this key is in its text")
                })
            }
        };
        if let Some(reason) = reason {
            self.found.push(Rejected {
                file: path.to_string(),
                input: reject.input,
                line: reject.line,
                rule: reject.rule,
                field: reject.field,
                reason,
                run_id: self.run_id.into(),
            });
        }
        match self.found.len() < MOST {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}
