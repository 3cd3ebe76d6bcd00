//! Where the record stands in the landing files.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::Asked;
use super::log::{checked, read};
use super::model::{Landed, Part, Time, Trouble};
use crate::error::{Error, Result};
use crate::intake::chunk::{Ended, FileFormat, Line};
use crate::intake::csv::Columns;
use crate::intake::loaded::{is_same, may_be_same};
use crate::intake::lookup::{Seeker, each_record};
use crate::intake::record_key::KeyCells;
use crate::ports::ledger::{Contents, LoadRecord, LoadedFile};
use crate::record::transform::Transform;

/// How many lines are kept.
const KEPT: usize = 10_000;

/// How a file is read: its format, and the text of a CSV cell that means null; none if no load has kept that.
type How<'a> = Option<(&'a str, &'a str)>;

/// A load by its index, the newest being 0, and a file as it has read it.
type Input<'a> = (usize, &'a LoadRecord, &'a LoadedFile);

/// A file to search.
#[derive(Debug, Default)]
struct ToSearch<'a> {
    /// Its name: the one on the command line, if it has one there.
    name: PathBuf,
    is_named: bool,
    /// What loads have read of it, by how they did.
    inputs: BTreeMap<How<'a>, Vec<Input<'a>>>,
}

/// What was found in a file.
#[derive(Debug, Default)]
struct Found {
    lines: Vec<Landed>,
    /// Number of further lines.
    more: u64,
    trouble: Option<Error>,
}

/// Searches the inputs of the loads that are still there, and the files that were named. Also tells how many lines were
/// found that are not kept.
pub(super) fn search(
    asked: &Asked<'_>,
    loads: &[LoadRecord],
    troubles: &mut Vec<Trouble>,
) -> (Vec<Landed>, u64) {
    let (mut found, mut left_out) = (Vec::new(), 0);
    for file in files(asked, loads).values() {
        let mut of_file = search_file(asked, file);
        troubles.extend(of_file.trouble.map(|e| Trouble::new(Part::Landing, &e)));
        let room = KEPT - found.len();
        left_out += of_file.more + of_file.lines.len().saturating_sub(room) as u64;
        of_file.lines.truncate(room);
        found.append(&mut of_file.lines);
    }
    (found, left_out)
}

/// The files by their true paths: a load may have got to one through a link.
fn files<'a>(asked: &Asked<'_>, loads: &'a [LoadRecord]) -> BTreeMap<PathBuf, ToSearch<'a>> {
    let mut files: BTreeMap<PathBuf, ToSearch<'_>> = BTreeMap::new();
    for name in asked.landing {
        let file = files.entry(true_path(name)).or_default();
        if !file.is_named {
            (file.name, file.is_named) = (name.clone(), true);
        }
    }
    for (index, load) in loads.iter().enumerate() {
        for input in load.info.inputs.iter().filter(|input| input.path != "-") {
            let path = true_path(Path::new(&input.path));
            let is_named = files.get(&path).is_some_and(|file| file.is_named);
            if !is_named && may_be_same(load, input).is_err() {
                continue; // the user has deleted or replaced it, as they may; a pipe cannot be read again
            }
            let file = files.entry(path).or_default();
            if file.name.as_os_str().is_empty() {
                file.name = PathBuf::from(&input.path);
            }
            let read = input.read.as_ref();
            let how = read.map(|read| (&*read.format, &*read.null));
            let inputs = file.inputs.entry(how).or_default();
            inputs.push((index, load, input));
        }
    }
    files
}

fn true_path(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.into())
}

/// Searches a file in each way in which it was loaded. A line that reads the same in several ways is told once.
fn search_file(asked: &Asked<'_>, file: &ToSearch<'_>) -> Found {
    let (mut all, mut unclaimed) = (Found::default(), None);
    let mut inputs = file.inputs.clone();
    if inputs.is_empty() {
        inputs.insert(None, Vec::new());
    }
    for (how, inputs) in &inputs {
        let mut found = search_as(asked, &file.name, *how, inputs);
        all.trouble = all.trouble.or(found.trouble.take());
        match found.lines.first() {
            Some(line) if line.read_by.is_empty() => {
                unclaimed.get_or_insert(found);
            }
            _ => {
                all.lines.append(&mut found.lines);
                all.more = all.more.max(found.more);
            }
        }
    }
    // What was named is searched whether or not a load has read it.
    if let Some(found) = unclaimed.filter(|_| all.lines.is_empty() && file.is_named) {
        (all.lines, all.more) = (found.lines, found.more);
    }
    all.lines.sort_by(|a, b| reading(a).cmp(&reading(b)));
    all.lines.dedup_by(|line, first| {
        let is_same = reading(line) == reading(first);
        if is_same {
            first.loads.append(&mut line.loads);
            first.read_by.append(&mut line.read_by);
            first.was_valid |= line.was_valid;
        }
        is_same
    });
    all
}

fn reading(line: &Landed) -> (u64, Option<Time>, Option<&str>) {
    (line.line, line.event_time, line.invalid.as_deref())
}

/// Searches a file as these loads have read it. Its lines are told with those of them that have read what it holds now.
fn search_as(asked: &Asked<'_>, path: &Path, how: How<'_>, inputs: &[Input<'_>]) -> Found {
    let mut lines = Lines {
        asked,
        transform: Transform::new(asked.dataset, crate::time::now_ms()),
        null: how.map_or("", |(_, null)| null),
        columns: None,
        contents: None,
        file: path.display().to_string(),
        found: Found::default(),
    };
    let format = how.and_then(|(format, _)| FileFormat::of_option(format));
    let read = each_record(path, format, asked.stop, &mut lines);
    let contents = lines.contents.as_ref();
    let same = inputs
        .iter()
        .filter(|(_, load, input)| is_same(load, input, contents).is_ok());
    let (mut loads, mut read_by, mut was_valid) = (Vec::new(), Vec::new(), false);
    for (index, load, input) in same {
        was_valid |= input.has_kept_all();
        loads.push(load.info.run_id.clone());
        read_by.push((*index, input.path.clone()));
    }
    let mut found = lines.found;
    for line in &mut found.lines {
        (line.loads, line.read_by) = (loads.clone(), read_by.clone());
        line.was_valid = was_valid;
    }
    found.trouble = read.err();
    found
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
    found: Found,
}

/// The columns of a CSV file: that of the key, and all of them.
struct Both {
    key: KeyCells,
    all: Columns,
}

/// The event time of a line that has the key, and why it is not a row, if it is not.
type Read = (Option<Time>, Option<String>);

impl Lines<'_> {
    fn find(&self, line: &[u8], format: FileFormat) -> Option<Read> {
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
        let Some((event_time, invalid)) = self.find(line.bytes, format) else {
            return Ok(ControlFlow::Continue(()));
        };
        if self.found.lines.len() >= KEPT {
            self.found.more += 1;
        } else {
            self.found.lines.push(Landed {
                file: self.file.clone(),
                line: line.number,
                event_time,
                invalid,
                loads: Vec::new(),
                read_by: Vec::new(),
                was_valid: false,
            });
        }
        Ok(ControlFlow::Continue(()))
    }

    fn end(&mut self, ended: &Ended) {
        self.contents = Some(ended.contents.clone());
    }
}
