//! Where the record stands in the landing files, and in the reject files of the loads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Asked;
use super::log::{checked, read};
use super::model::{Landed, Part, Rejected, Time, Trouble};
use crate::dataset::Dataset;
use crate::error::{Context, Error, Result};
use crate::intake::chunk::{Chunk, FileFormat};
use crate::intake::csv::Columns;
use crate::intake::dead_letter::RejectLine;
use crate::intake::input::Input;
use crate::ports::ledger::LoadRecord;
use crate::record::transform::Transform;

/// How many lines are kept for the answer.
const MOST: usize = 100;

/// Searches the inputs of the loads that are still there, and the files that were named.
pub(super) fn search(
    asked: &Asked<'_>,
    loads: &[LoadRecord],
    troubles: &mut Vec<Trouble>,
) -> Vec<Landed> {
    let mut files: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for path in asked.landing {
        files.entry(path.clone()).or_default();
    }
    for load in loads {
        for input in &load.info.inputs {
            let path = PathBuf::from(input);
            let is_named = |named: &&PathBuf| is_same(named, &path);
            let named = asked.landing.iter().find(is_named).cloned();
            if named.is_none() && !path.is_file() {
                continue; // the user has deleted it, as they may; a pipe cannot be read again
            }
            let runs = files.entry(named.unwrap_or(path)).or_default();
            runs.push(load.info.run_id.clone());
        }
    }
    let mut found = Vec::new();
    for (path, runs) in &files {
        if let Err(e) = search_file(asked, path, runs, &mut found) {
            troubles.push(Trouble::new(Part::Landing, &e));
        }
    }
    found
}

fn is_same(named: &Path, path: &Path) -> bool {
    named.canonicalize().is_ok_and(|named| named == path)
}

fn search_file(
    asked: &Asked<'_>,
    path: &Path,
    runs: &[String],
    found: &mut Vec<Landed>,
) -> Result<()> {
    let mut input = Input::new(&[path.to_path_buf()], None);
    let mut lines = Lines::of(asked);
    while let Some(chunk) = input.next_chunk()? {
        if asked.stop.requested().is_some() || found.len() >= MOST {
            return Ok(());
        }
        if let Some(header) = chunk.header() {
            lines.columns = Some(Both::read(header, &lines).context(path.display())?);
        }
        for (line, event_time, invalid) in lines.found(&chunk) {
            found.push(Landed {
                file: path.display().to_string(),
                line,
                event_time,
                invalid,
                loads: runs.to_vec(),
            });
        }
        input.take_back(chunk);
    }
    Ok(())
}

/// Finds the key in lines.
struct Lines<'a> {
    asked: &'a Asked<'a>,
    /// The dataset as if its key were its only field, so that a line is found although it is bad.
    key_only: Dataset,
    transform: Transform<'a>,
    columns: Option<Both>,
}

/// The columns of a CSV file: that of the key, and all of them.
struct Both {
    key: Columns,
    all: Columns,
}

impl Both {
    fn read(header: &[u8], lines: &Lines<'_>) -> Result<Both> {
        Ok(Both {
            key: Columns::read(header, &lines.key_only, "")?,
            all: Columns::read(header, lines.asked.dataset, "")?,
        })
    }
}

/// A line that has the key: its number, its event time, and why it is not a row, if it is not.
type Found = (u64, Option<Time>, Option<String>);

impl<'a> Lines<'a> {
    fn of(asked: &'a Asked<'a>) -> Self {
        Lines {
            asked,
            key_only: asked.key.letters().key_only().clone(),
            transform: Transform::new(asked.dataset, crate::time::now_ms()),
            columns: None,
        }
    }

    fn found(&self, chunk: &Chunk) -> Vec<Found> {
        let (key, dataset) = (self.asked.key, self.asked.dataset);
        let mut found = Vec::new();
        for line in chunk.lines().filter(|line| key.may_be_in(line.bytes)) {
            let (event_time, invalid) = match (chunk.format, &self.columns) {
                (FileFormat::Csv, Some(columns)) => {
                    let values = columns.key.values(line.bytes, &self.key_only);
                    if !values.is_ok_and(|values| values[0] == key.value) {
                        continue;
                    }
                    let values = columns.all.values(line.bytes, dataset);
                    checked(&self.transform, dataset, values)
                }
                _ if key.is_in(line.bytes) => read(&self.transform, dataset, line.bytes),
                _ => continue,
            };
            found.push((line.number, event_time, invalid));
        }
        found
    }
}

/// Searches the reject files of the loads that are still there.
pub(super) fn rejects(
    asked: &Asked<'_>,
    loads: &[LoadRecord],
    troubles: &mut Vec<Trouble>,
) -> Vec<Rejected> {
    let mut found = Vec::new();
    let mut known: Vec<&str> = Vec::new();
    for load in loads {
        // A later load has replaced what an earlier one had in the same file.
        let Some(path) = load
            .info
            .rejects
            .as_deref()
            .filter(|path| !known.contains(path))
        else {
            continue;
        };
        known.push(path);
        // A pipe cannot be read again.
        if !Path::new(path).is_file() {
            continue;
        }
        if let Err(e) = search_rejects(asked, path, &load.info.run_id, &mut found) {
            troubles.push(Trouble::new(Part::Rejects, &e));
        }
    }
    found
}

fn search_rejects(
    asked: &Asked<'_>,
    path: &str,
    run_id: &str,
    found: &mut Vec<Rejected>,
) -> Result<()> {
    let mut input = Input::new(&[path.into()], Some(FileFormat::Ndjson));
    while let Some(chunk) = input.next_chunk()? {
        if asked.stop.requested().is_some() || found.len() >= MOST {
            return Ok(());
        }
        for line in chunk.lines().filter(|line| asked.key.may_be_in(line.bytes)) {
            let reject: RejectLine = serde_json::from_slice(line.bytes).map_err(|e| {
                Error::invalid(format!(
                    "{path} line {} is not as load-batch writes it: {e}",
                    line.number
                ))
            })?;
            let raw = reject.raw.as_deref().unwrap_or_default();
            if !has_key(asked, raw) {
                continue;
            }
            found.push(Rejected {
                file: path.into(),
                line: reject.line,
                rule: reject.rule,
                field: reject.field,
                reason: reject.reason,
                run_id: run_id.into(),
            });
        }
        input.take_back(chunk);
    }
    Ok(())
}

/// Whether a rejected record has the key. Of a CSV record the header is missing, so that a cell that is the key counts.
fn has_key(asked: &Asked<'_>, raw: &str) -> bool {
    let key = asked.key.value.to_string();
    let is_cell = || raw.split(',').any(|cell| cell.trim_matches('"') == key);
    asked.key.is_in(raw.as_bytes()) || (!raw.trim_start().starts_with('{') && is_cell())
}
