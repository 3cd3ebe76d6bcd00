//! Compares a landing file with both stores: each must have every record of it, or a newer version of its key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::block_in_place;

use super::recheck::{AtOnce, Found, OwnedRow, differing, read_again};
use super::{Compared, Comparison, Kind, Report, Settle, Side, Table, classify};
use crate::error::{Error, Result};
use crate::intake::IntakeOptions;
use crate::intake::check::{self, CheckedChunk, InputSpec, RejectsTo};
use crate::intake::chunk::{Chunk, FileFormat};
use crate::intake::lookup::whole;
use crate::ports::ledger::{FileRead, LOOKED_AT, LoadRecord};
use crate::ports::table_reader::TableReader;
use crate::record::row::{Origin, Rows};
use crate::record::value::Value;
use crate::run::Run;
use crate::run::read_ahead::Ahead;
use crate::run::retry::Retry;

/// Records looked up at once.
const AT_ONCE: usize = 256;

/// Compares the records of these files with both tables, which have the names that the report began with; bad records are
/// counted, and told. None if a stop was requested before the end.
pub async fn compare_landing(
    comparison: &Arc<Comparison>,
    tables: [Box<dyn TableReader>; 2],
    names: &[String; 2],
    files: &[PathBuf],
    retry: &Retry,
    report: &mut Report<'_>,
) -> Result<Option<(Compared, Landing)>> {
    let mut tables = tables.map(Table::new);
    let mut compared = Compared {
        is_partial: true,
        ..Compared::default()
    };
    let mut landing = Landing::default();
    let mut looked_up = 0;
    let shown: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let (name, [realtime, batch]) = (shown.join(", "), names.clone());
    let mut settle = Settle::new(comparison, &mut tables, retry, report, &mut compared);
    settle.name_tables([[realtime, name.clone()], [name, batch]]);
    let loads = loads(comparison, retry).await;
    for file in files {
        let (format, null) = as_loaded(&loads, file, &retry.run);
        let mut chunks = records(comparison, file, format, null, retry);
        while let Some(chunk) = chunks.next(&retry.run.stop).await? {
            landing.rejected += chunk.rejected;
            landing.first_bad = landing.first_bad.take().or(chunk.first_bad);
            landing.records += chunk.good.len() as u64;
            let newest = chunk.good.newest_by_key(comparison.whole.event.key);
            looked_up += newest.len() as u64;
            for side in Side::BOTH {
                for some in newest.chunks(AT_ONCE) {
                    let records = owned(&chunk.good, some);
                    settle.add_records(side, records).await?;
                }
            }
            if comparison.stop.requested().is_some() {
                return Ok(None);
            }
        }
    }
    settle.finish().await?;
    let lacked = [compared.extra, compared.missing];
    compared.rows = lacked.map(|lacked| looked_up.saturating_sub(lacked));
    Ok(comparison
        .stop
        .requested()
        .is_none()
        .then_some((compared, landing)))
}

/// What was read of the files.
#[derive(Debug, Default)]
pub struct Landing {
    /// Good records.
    pub records: u64,
    /// Bad ones.
    pub rejected: u64,
    /// The first bad one: file, line and reason.
    pub first_bad: Option<String>,
}

/// The last loads, which know how they have read their files.
async fn loads(comparison: &Comparison, retry: &Retry) -> Vec<LoadRecord> {
    let Some(witnesses) = &comparison.witnesses else {
        return Vec::new();
    };
    let asked = retry.through_outage(async || {
        let mut ledger = witnesses.batch_store.ledger(&comparison.whole).await?;
        ledger.loads(LOOKED_AT).await
    });
    asked.await.unwrap_or_else(|e: Error| {
        retry.run.warn(format!(
            "how loads have read the files of --against is not known: {e}"
        ));
        Vec::new()
    })
}

/// Format and null text with which the last load of these contents has read them; without such a load, those by default.
/// Blocks while the file is read.
fn as_loaded(loads: &[LoadRecord], file: &Path, run: &Run) -> (FileFormat, String) {
    let format = FileFormat::of(file);
    let by_name = (format, String::new());
    let how = |read: &FileRead| {
        let format = FileFormat::of_option(&read.format).unwrap_or(format);
        (format, read.null.clone())
    };
    // Whatever cannot be read is told when its records are read.
    let Some(size) = std::fs::metadata(file)
        .ok()
        .filter(std::fs::Metadata::is_file)
        .map(|found| found.len())
    else {
        return by_name;
    };
    let inputs = loads.iter().flat_map(|load| &load.info.inputs);
    let alike: Vec<&FileRead> = inputs
        .filter_map(|input| input.read.as_ref())
        .filter(|read| read.contents.bytes == size)
        .collect();
    if alike.iter().all(|read| how(read) == by_name) {
        return by_name;
    }
    for format in [FileFormat::Ndjson, FileFormat::Csv] {
        let mut of_format = alike.iter().filter(|read| how(read).0 == format).peekable();
        if of_format.peek().is_some()
            && let Ok(found) = block_in_place(|| whole(file, format, &run.stop))
            && let Some(same) =
                of_format.find(|read| found.contents.as_ref() == Some(&read.contents))
        {
            return how(same);
        }
    }
    by_name
}

fn records(
    comparison: &Comparison,
    file: &Path,
    format: FileFormat,
    null: String,
    retry: &Retry,
) -> Ahead<CheckedChunk<Rows>> {
    let options = IntakeOptions {
        files: vec![file.into()],
        rejects: None,
        max_rejects: None,
        require_complete: false,
        require_records: false,
        commit_state: None,
    };
    let dataset = &comparison.whole;
    let spec = InputSpec {
        format: Some(format),
        null,
        destination: dataset.batch.table.clone(),
        rejects_to: RejectsTo::File,
    };
    let width = dataset.fields.len();
    check::read(
        &options,
        spec,
        dataset,
        &retry.run,
        move |_: &Chunk| Rows::new(width),
        |rows, transform, _, values: &[Value<'_>]| {
            transform.values(values, Origin::default(), rows)
        },
    )
}

fn owned(rows: &Rows, some: &[usize]) -> Vec<OwnedRow> {
    let row = |i: &usize| OwnedRow {
        values: rows.values(*i).map(|value| value.owned()).collect(),
        foreign: Vec::new(),
    };
    some.iter().map(row).collect()
}

/// The records that a table does not have, or only an older or another version of them. Says how many to look up next.
pub(super) async fn lacking(
    comparison: &Comparison,
    side: Side,
    table: &mut dyn TableReader,
    records: Vec<OwnedRow>,
    at_once: &mut AtOnce,
    retry: &Retry,
) -> Result<Vec<Found>> {
    let dataset = &comparison.whole;
    let keys: Vec<Value<'static>> = records
        .iter()
        .map(|record| record.values[dataset.event.key].clone())
        .collect();
    let mut stored = read_again(comparison, table, &keys, retry).await?;
    at_once.learn(keys.len(), 2 * stored.bytes());
    let lacking = keys.into_iter().zip(records).filter_map(|(key, record)| {
        let row = stored.take(&key);
        let [wanted, there] = [Some(&record), row.as_ref()]
            .map(|row| row.and_then(|row| classify::version(dataset, row)));
        // Another version of the same time may be a row that was changed.
        let is_there =
            there > wanted && there.map(|(time, _)| time) != wanted.map(|(time, _)| time);
        let is_tolerated = row
            .as_ref()
            .is_some_and(|row| is_tolerated(comparison, side, row, &record));
        let is_there = is_there || is_tolerated || there == wanted;
        (!is_there).then(|| found(comparison, side, key, record, row))
    });
    Ok(lacking.collect())
}

/// Whether a row has all that a record has, as far as something is tolerated.
fn is_tolerated(comparison: &Comparison, side: Side, row: &OwnedRow, record: &OwnedRow) -> bool {
    // Only a real-time store may leave absent fields alone.
    let is_lax = !comparison.tolerances.are_strict() || side == Side::Realtime;
    is_lax && differing(comparison, row, record).is_empty()
}

/// A record of a landing file in place of the other store's row.
fn found(
    comparison: &Comparison,
    side: Side,
    key: Value<'static>,
    record: OwnedRow,
    row: Option<OwnedRow>,
) -> Found {
    let columns = row.as_ref().map(|row| differing(comparison, row, &record));
    let stored = u64::from(row.is_some());
    let kind = match (&row, side) {
        (Some(_), _) => Kind::Changed,
        (None, Side::Realtime) => Kind::Extra,
        (None, Side::Batch) => Kind::Missing,
    };
    let (rows, counts, of_record) = match side {
        Side::Realtime => ([row, Some(record)], [stored, 1], Side::Batch),
        Side::Batch => ([Some(record), row], [1, stored], Side::Realtime),
    };
    Found {
        key,
        kind,
        rows,
        counts,
        columns: columns.unwrap_or_default(),
        record: Some(of_record),
        is_meant: false,
    }
}
