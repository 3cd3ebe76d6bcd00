//! Reads what did not fit again, from the series and from its table, and reports how it differs.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::ComparedSeries;
use super::evidence::Extra;
use crate::dataset::Series;
use crate::error::Result;
use crate::ports::series_reader::{Place, SeriesReader};
use crate::ports::table_reader::{StoredRow, TableReader, Visitor};
use crate::record::value::Value;
use crate::run::retry::Retry;
use crate::verify::base::Base;
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
    /// What was known before the first row was read again.
    pub(super) base: Option<Base>,
    /// Rows of the series that the log may explain.
    pub(super) extra: Vec<Extra>,
}

/// A row that does not fit.
enum Unfit {
    /// The newest row of a key is not in the series.
    Missing(Value<'static>, OwnedRow, Option<i64>),
    /// It is, with other values.
    Changed(Value<'static>, OwnedRow, OwnedRow),
    /// A row of the series that does not belong there, and the event time of the table's row.
    Extra(Place, OwnedRow, Option<i64>),
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
        let mut unfit = Vec::new();
        for (place, version) in stored {
            let newest = table.row(&place.key);
            let newest_at = newest.and_then(|row| self.place(row));
            let is_placed = place.is_right(self.series);
            match (newest, newest_at) {
                (Some(newest), Some(at)) if is_placed && at == place => {
                    unfit.push(Unfit::Changed(place.key, newest.clone(), version));
                }
                // The table's row expires before it if it came late, and was older than that.
                (None, _) if is_placed && self.comparison.dataset.realtime.ttl.is_some() => {
                    compared.outlived += 1;
                }
                (_, at) => {
                    let newest = at.map(|at| at.time);
                    let is_older = newest.is_some_and(|newest| place.time < newest);
                    if !(is_placed && is_older) {
                        unfit.push(Unfit::Extra(place, version, newest));
                    }
                }
            }
        }
        self.judge(unfit, report, compared).await
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
        let mut unfit = Vec::new();
        for (key, newest) in rows() {
            let at = self.place(newest);
            let (key, newest) = (key.clone(), newest.clone());
            let version = stored.iter().find(|(place, _)| Some(place) == at.as_ref());
            unfit.push(match version {
                Some((_, version)) => Unfit::Changed(key, newest, version.clone()),
                None => Unfit::Missing(key, newest, at.map(|at| at.time)),
            });
        }
        self.judge(unfit, report, compared).await
    }

    /// Reports rows that do not fit, but those that the log may explain.
    async fn judge(
        &mut self,
        mut unfit: Vec<Unfit>,
        report: &mut Report<'_>,
        compared: &mut ComparedSeries,
    ) -> Result<()> {
        let comparison = self.comparison;
        unfit.retain(|unfit| match unfit {
            Unfit::Changed(_, newest, version) => {
                !differing(comparison, newest, version).is_empty()
            }
            Unfit::Missing(..) | Unfit::Extra(..) => true,
        });
        let keys = unfit.iter().filter_map(|unfit| match unfit {
            Unfit::Missing(key, ..) | Unfit::Changed(key, ..) => Some(key.clone()),
            Unfit::Extra(..) => None,
        });
        let keys: Vec<_> = keys.collect();
        let kept = self.kept(&keys).await?;
        let kept = kept.as_ref();
        for unfit in unfit {
            match unfit {
                Unfit::Missing(key, newest, at) => {
                    let judged = self.of_table(Kind::Missing, &newest, &key, kept);
                    compared.missing += 1;
                    self.tell(Kind::Missing, &judged, &key, [at, None], report, compared)?;
                }
                Unfit::Changed(key, newest, version) => {
                    let judged = self.of_table(Kind::Changed, &newest, &key, kept);
                    compared.changed += 1;
                    compared.explained += u64::from(!judged.0.fails());
                    self.tell_changes(&key, &judged, [&newest, &version], report)?;
                }
                Unfit::Extra(place, version, newest) => {
                    compared.extra += 1;
                    if let Some(judged) = self.of_extra(&place, newest, &version) {
                        let times = [newest, Some(place.time)];
                        self.tell(Kind::Extra, &judged, &place.key, times, report, compared)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks the log about the rows that it may explain, and reports them.
    pub(super) async fn finish(
        &mut self,
        report: &mut Report<'_>,
        compared: &mut ComparedSeries,
    ) -> Result<()> {
        for (extra, class, why) in self.of_log().await {
            let times = [extra.newest, Some(extra.place.time)];
            let (judged, key) = ((class, why), &extra.place.key);
            self.tell(Kind::Extra, &judged, key, times, report, compared)?;
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
        (class, evidence): &(Class, String),
        [newest, version]: [&OwnedRow; 2],
        report: &mut Report<'_>,
    ) -> Result<()> {
        for column in differing(self.comparison, newest, version) {
            report.add(&Difference {
                kind: Kind::Changed,
                class: *class,
                evidence,
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
        (class, evidence): &(Class, String),
        key: &Value<'_>,
        times: [Option<i64>; 2],
        report: &mut Report<'_>,
        compared: &mut ComparedSeries,
    ) -> Result<()> {
        compared.explained += u64::from(!class.fails());
        let times = times.map(|time| time.map(Value::Timestamp));
        report.add(&Difference {
            kind,
            class: *class,
            evidence,
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
