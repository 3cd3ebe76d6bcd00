//! Reads what did not fit again, from the series and from its table, and reports how it differs.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::ComparedSeries;
use crate::dataset::Series;
use crate::error::Result;
use crate::ports::series_reader::{Place, SeriesReader};
use crate::ports::table_reader::{StoredRow, TableReader, Visitor};
use crate::record::value::Value;
use crate::run::retry::Retry;
use crate::verify::recheck::{OwnedRow, content, differing, read_again};
use crate::verify::{Class, Comparison, Content, Difference, Kind, Report};

/// Suspects read again at once.
pub(super) const AT_ONCE: usize = 256;

/// Reads suspects again.
pub(super) struct Recheck<'a> {
    pub(super) comparison: &'a Comparison,
    pub(super) series: &'a Series,
    /// The hashes of the only keys that are compared, if only some are.
    pub(super) only: Option<&'a HashSet<u64>>,
    pub(super) reader: &'a mut dyn SeriesReader,
    pub(super) table: &'a mut dyn TableReader,
    pub(super) retry: &'a Retry,
}

impl Recheck<'_> {
    /// Rows of the series that did not fit.
    pub(super) async fn versions(
        &mut self,
        places: &[Place],
        report: &mut Report<'_>,
        compared: &mut ComparedSeries,
    ) -> Result<()> {
        // The series first: the table is written before it, so the row that is read from the table is not older.
        let stored = self.stored(places).await?;
        let keys: Vec<_> = stored.iter().map(|(place, _)| place.key.clone()).collect();
        let table = read_again(self.comparison, self.table, &keys, self.retry).await?;
        for (place, version) in &stored {
            let newest = table.row(&place.key);
            let newest_at = newest.and_then(|row| self.place(row));
            let is_placed = place.is_right(self.series);
            match (newest, newest_at) {
                (Some(newest), Some(at)) if is_placed && at == *place => {
                    self.tell_changes(&place.key, newest, version, report, compared)?;
                }
                // The table's row expires before it if it came late, and was older than that.
                (None, _) if is_placed && self.comparison.dataset.realtime.ttl.is_some() => {
                    compared.outlived += 1;
                }
                (_, at) => {
                    let newest = at.map(|at| at.time);
                    let is_older = newest.is_some_and(|newest| place.time < newest);
                    if !(is_placed && is_older) {
                        compared.extra += 1;
                        let times = [newest, Some(place.time)];
                        self.tell(Kind::Extra, &place.key, times, report)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Keys whose newest row was not found in the series.
    pub(super) async fn newest(
        &mut self,
        keys: &[Value<'static>],
        report: &mut Report<'_>,
        compared: &mut ComparedSeries,
    ) -> Result<()> {
        let table = read_again(self.comparison, self.table, keys, self.retry).await?;
        let rows = || keys.iter().filter_map(|key| Some((key, table.row(key)?)));
        let places: Vec<Place> = rows().filter_map(|(_, row)| self.place(row)).collect();
        let stored = self.stored(&places).await?;
        for (key, newest) in rows() {
            let at = self.place(newest);
            match stored.iter().find(|(place, _)| Some(place) == at.as_ref()) {
                Some((_, version)) => self.tell_changes(key, newest, version, report, compared)?,
                None => {
                    compared.missing += 1;
                    self.tell(Kind::Missing, key, [at.map(|at| at.time), None], report)?;
                }
            }
        }
        Ok(())
    }

    fn place(&self, row: &OwnedRow) -> Option<Place> {
        Place::of(&self.comparison.dataset, self.series, &row.values)
    }

    async fn stored(&mut self, places: &[Place]) -> Result<Vec<(Place, OwnedRow)>> {
        let mut rows = Stored {
            comparison: self.comparison,
            rows: Vec::new(),
        };
        let read = async || {
            rows.rows.clear();
            self.reader.read(places, &mut rows).await
        };
        self.retry.through_outage(read).await?;
        rows.rows.into_iter().collect()
    }

    fn tell_changes(
        &self,
        key: &Value<'_>,
        newest: &OwnedRow,
        version: &OwnedRow,
        report: &mut Report<'_>,
        compared: &mut ComparedSeries,
    ) -> Result<()> {
        let columns = differing(self.comparison, newest, version);
        compared.changed += u64::from(!columns.is_empty());
        for column in columns {
            report.add(&Difference {
                kind: Kind::Changed,
                class: Class::Unexplained,
                evidence: "",
                key: Content::Value(key),
                side: None,
                column: Some(&self.comparison.dataset.fields[column].name),
                cells: [content(newest, column), content(version, column)],
            })?;
        }
        Ok(())
    }

    /// Reports a row that only the table or only the series has, with the event times of both.
    fn tell(
        &self,
        kind: Kind,
        key: &Value<'_>,
        times: [Option<i64>; 2],
        report: &mut Report<'_>,
    ) -> Result<()> {
        let times = times.map(|time| time.map(Value::Timestamp));
        report.add(&Difference {
            kind,
            class: Class::Unexplained,
            evidence: "",
            key: Content::Value(key),
            side: None,
            column: Some(&self.comparison.dataset.time().name),
            cells: times
                .each_ref()
                .map(|time| time.as_ref().map_or(Content::Row, Content::Value)),
        })
    }
}

/// Rows of a series, by their place.
struct Stored<'a> {
    comparison: &'a Comparison,
    rows: Vec<Result<(Place, OwnedRow)>>,
}

impl Visitor for Stored<'_> {
    fn wants(&mut self, _: &Value<'_>) -> bool {
        true
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        let place = Place::stored(&self.comparison.dataset, row.values);
        self.rows
            .push(place.map(|place| (place, OwnedRow::of(&row))));
        ControlFlow::Continue(())
    }
}
