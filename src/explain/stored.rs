//! What the stores have of the record, and the batch store's ledger.

use std::ops::ControlFlow;

use super::Asked;
use super::model::{
    Cell, DayVersion, Difference, Landed, LastVerdict, Place, PossibleLoad, Row, Time,
};
use crate::dataset::{Dataset, Nulls};
use crate::error::{Error, Result};
use crate::ports::ledger::{LOOKED_AT, LoadRecord, Verdict};
use crate::ports::table_reader::{Provenance, StoredRow, TableReader, Visitor};
use crate::record::row::{Digest, Origin, RowMeta, digest};
use crate::record::value::Value;

/// The real-time store's row.
pub(super) async fn realtime(asked: &Asked<'_>) -> Result<Option<Row>> {
    let table = asked.realtime.table(asked.dataset).await?;
    let spec = &asked.dataset.realtime;
    row(asked, table, asked.realtime.to_string(), &spec.table).await
}

/// The batch store's row.
pub(super) async fn batch(asked: &Asked<'_>) -> Result<Option<Row>> {
    let table = asked.batch.table(asked.dataset).await?;
    let spec = &asked.dataset.batch;
    row(asked, table, asked.batch.to_string(), &spec.table).await
}

/// The first row of the key, and how many there are.
struct First<'a> {
    dataset: &'a Dataset,
    cells: Vec<Cell>,
    rows: u64,
}

impl Visitor for First<'_> {
    fn wants(&mut self, _: &Value<'_>) -> bool {
        true
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        self.rows += 1;
        if self.rows == 1 {
            self.cells = cells(self.dataset, &row);
        }
        ControlFlow::Continue(())
    }
}

fn cells(dataset: &Dataset, row: &StoredRow<'_>) -> Vec<Cell> {
    let foreign = |i: usize| row.foreign.iter().find(|foreign| foreign.field == i);
    let fields = dataset.fields.iter().enumerate();
    fields
        .map(|(i, field)| Cell {
            name: field.name.clone(),
            value: row.values[i].owned(),
            foreign: foreign(i).map(|foreign| foreign.found.clone()),
        })
        .collect()
}

fn event_time(dataset: &Dataset, cells: &[Cell]) -> Option<i64> {
    match cells[dataset.event.time].value {
        Value::Timestamp(time) => Some(time),
        _ => None,
    }
}

/// The last versions of the days.
struct Days<'a> {
    history: &'a Dataset,
    found: Vec<DayVersion>,
}

impl Visitor for Days<'_> {
    fn wants(&mut self, _: &Value<'_>) -> bool {
        true
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        let mut values = cells(self.history, &row);
        let event_time = event_time(self.history, &values).map(Time);
        // The date is the last field of a history.
        let as_of = values.pop().map_or(Value::Null, |cell| cell.value);
        self.found.push(DayVersion {
            as_of,
            event_time,
            values,
        });
        ControlFlow::Continue(())
    }
}

/// The batch store's versions of each day, if the dataset keeps a history.
pub(super) async fn history(asked: &Asked<'_>) -> Result<Vec<DayVersion>> {
    let Some(history) = asked.dataset.history() else {
        return Ok(Vec::new());
    };
    let mut table = asked.batch.table(&history).await?;
    let mut days = Days {
        history: &history,
        found: Vec::new(),
    };
    let keys = std::slice::from_ref(&asked.key.value);
    table.read(keys, &mut days).await?;
    let mut found = days.found;
    found.sort_by_key(|day| day.as_of.to_string());
    Ok(found)
}

async fn row(
    asked: &Asked<'_>,
    mut table: Box<dyn TableReader>,
    store: String,
    name: &str,
) -> Result<Option<Row>> {
    let keys = std::slice::from_ref(&asked.key.value);
    let mut first = First {
        dataset: asked.dataset,
        cells: Vec::new(),
        rows: 0,
    };
    table.read(keys, &mut first).await?;
    if first.rows == 0 {
        return Ok(None);
    }
    let kept = table.provenance(keys).await?.into_iter().next();
    let event_time = event_time(asked.dataset, &first.cells);
    let origin = kept.as_ref().and_then(|kept| kept.origin);
    Ok(Some(Row {
        store,
        table: name.into(),
        rows: first.rows,
        event_time: event_time.map(Time),
        origin: origin.map(|Origin { partition, offset }| Place { partition, offset }),
        write_timestamps: kept.as_ref().and_then(|kept| kept.write_timestamps),
        is_as_written: kept
            .and_then(|kept| is_as_written(asked.dataset, &first.cells, event_time, &kept)),
        values: first.cells,
    }))
}

/// Whether the values are those that rtp wrote; none if the store keeps nothing that tells.
fn is_as_written(
    dataset: &Dataset,
    cells: &[Cell],
    event_time: Option<i64>,
    kept: &Provenance,
) -> Option<bool> {
    // What an event leaves alone has the write timestamp of an older one.
    let written = kept
        .write_timestamps
        .filter(|_| dataset.nulls == Nulls::Write);
    if kept.digest.is_none() && written.is_none() {
        return None;
    }
    let is_foreign = cells.iter().any(|cell| cell.foreign.is_some());
    let Some(event_time) = event_time.filter(|_| !is_foreign) else {
        return Some(false);
    };
    let values: Vec<Value<'_>> = cells.iter().map(|cell| cell.value.clone()).collect();
    let meta = RowMeta {
        event_time,
        digest: digest(dataset, &values, &mut Vec::new()),
        origin: Origin::default(),
    };
    let has_digest = |known: Digest| known == meta.digest;
    let has_time = |[oldest, newest]: [i64; 2]| {
        let expected = meta.write_timestamp();
        oldest == expected && newest == expected
    };
    Some(kept.digest.is_none_or(has_digest) && written.is_none_or(has_time))
}

/// The columns in which both rows differ.
pub(super) fn differences(dataset: &Dataset, realtime: &Row, batch: &Row) -> Vec<Difference> {
    let shown = |cell: &Cell| match &cell.foreign {
        Some(found) => found.clone().into(),
        None => serde_json::to_value(&cell.value).unwrap_or_default(),
    };
    let both = realtime.values.iter().zip(&batch.values);
    let differ = both.filter(|(a, b)| {
        let is_left_alone = dataset.nulls == Nulls::Unset && b.value == Value::Null;
        (&a.value, &a.foreign) != (&b.value, &b.foreign) && !is_left_alone
    });
    differ
        .map(|(a, b)| Difference {
            column: a.name.clone(),
            realtime: shown(a),
            batch: shown(b),
        })
        .collect()
}

/// The last loads, the newest record of all of them, and the last verdict.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) loads: Vec<LoadRecord>,
    /// Its event time, in milliseconds since 1970 UTC.
    pub(super) newest: Option<i64>,
    pub(super) verdict: Option<LastVerdict>,
    /// Whether there were earlier loads, which are not looked at.
    pub(super) has_earlier: bool,
}

impl Kept {
    /// That the files of the earlier loads were not searched, if there are some.
    pub(super) fn cut(&self) -> Option<Error> {
        self.has_earlier.then(|| {
            Error::missing(format!(
                "only the files of the last {LOOKED_AT} loads were searched, and there are earlier ones"
            ))
        })
    }
}

pub(super) async fn ledger(asked: &Asked<'_>) -> Result<Kept> {
    let mut ledger = asked.batch.ledger(asked.dataset).await?;
    let mut loads = ledger.loads(LOOKED_AT + 1).await?;
    let has_earlier = loads.len() > LOOKED_AT as usize;
    loads.truncate(LOOKED_AT as usize);
    let newest = ledger.newest().await?.ever;
    let verdict = ledger.verdicts(1).await?.into_iter().next();
    let key = asked.key.value.to_string();
    Ok(Kept {
        loads,
        newest,
        verdict: verdict.map(|verdict| last_verdict(&key, &verdict)),
        has_earlier,
    })
}

fn last_verdict(key: &str, verdict: &Verdict) -> LastVerdict {
    let named = verdict.samples.iter();
    let named = named.filter(|(_, keys)| keys.iter().any(|sample| sample == key));
    LastVerdict {
        run_id: verdict.run_id.clone(),
        ended_at: Time(verdict.ended_at),
        agrees: verdict.agrees,
        classes: named.map(|(class, _)| class.clone()).collect(),
        options: verdict.options.clone(),
    }
}

/// The loads that may have written the batch store's row: those whose input has the record with the row's event time; if
/// no file is left that shows it, the first one that had records as new as the row.
pub(super) fn possible_loads(
    row: &Row,
    loads: &[LoadRecord],
    landing: &[Landed],
) -> Vec<PossibleLoad> {
    let Some(Time(time)) = row.event_time else {
        return Vec::new();
    };
    let possible = |load: &LoadRecord, evidence: String| PossibleLoad {
        run_id: load.info.run_id.clone(),
        loaded_at: Time(load.loaded_at),
        mode: load.mode.clone(),
        evidence,
    };
    // The runs of a day may have the same id.
    let has_read = |line: &Landed, load: usize| line.read_by.iter().any(|(by, _)| *by == load);
    let has_it = |(index, load): (usize, &LoadRecord)| {
        let mut landed = landing.iter();
        let line = landed.find(|l| l.event_time == row.event_time && has_read(l, index))?;
        let evidence = format!("{} line {} has this version", line.file, line.line);
        Some(possible(load, evidence))
    };
    let sure: Vec<PossibleLoad> = loads.iter().enumerate().filter_map(has_it).collect();
    if !sure.is_empty() {
        return sure;
    }
    let fits = |load: &&LoadRecord| load.info.newest.is_some_and(|newest| newest >= time);
    let first = loads.iter().rev().find(fits); // the newest comes first in the list
    let evidence = "it is the first known load with records as new as this one";
    first
        .map(|load| possible(load, evidence.into()))
        .into_iter()
        .collect()
}
