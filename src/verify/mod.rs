//! Compares the tables of both stores in memory that does not grow with them.
//!
//! Both are scanned at the same time into sums by bucket of the key. The keys of buckets that differ
//! are collected by further scans, a bounded group of buckets at a time. Rows of keys that differ are
//! read again from both stores and compared column by column, so that what has become equal in the
//! meantime is not reported.
//!
//! Digests kept in a store are not trusted: the canonical one is computed from the values that are read. Duplicates
//! that are equal in both stores are looked for only if neither store rules them out by a unique index or key.

mod buckets;
mod compared;
pub mod format;
mod recheck;
mod report;
mod series;
mod tolerance;

use std::ops::ControlFlow;
use std::sync::Arc;

use self::buckets::{Keys, Sums, Suspects, differing_keys, groups};
pub use self::compared::Compared;
use self::recheck::Recheck;
pub use self::report::{Class, Content, Difference, Report, Sample};
pub use self::series::{ComparedSeries, compare_series};
pub use self::tolerance::Tolerances;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::table_reader::{EncodedRow, EncodedVisitor, TableReader};
use crate::run::Stop;
use crate::run::retry::Retry;
use crate::run::task::Task;

/// One of the two stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The real-time store, fed by the log.
    Realtime = 0,
    /// The batch store.
    Batch = 1,
}

impl Side {
    const BOTH: [Side; 2] = [Side::Realtime, Side::Batch];

    /// The name in every output.
    pub fn name(self) -> &'static str {
        match self {
            Side::Realtime => "realtime",
            Side::Batch => "batch",
        }
    }
}

/// What is compared, and how strictly.
#[derive(Debug)]
pub struct Comparison {
    /// The dataset; columns that are not compared are left out of its digest.
    dataset: Dataset,
    /// How far the values of each column may differ.
    pub tolerances: Tolerances,
    stop: Stop,
}

impl Comparison {
    /// A comparison of the dataset's tables.
    pub fn new(dataset: &Dataset, tolerances: Tolerances, stop: Stop) -> Self {
        let mut dataset = dataset.clone();
        dataset.digest_order.retain(|i| !tolerances.ignores(*i));
        Comparison {
            dataset,
            tolerances,
            stop,
        }
    }
}

/// Compares the table of the real-time store with that of the batch store. None if a stop was requested
/// before the end.
pub async fn compare(
    comparison: &Arc<Comparison>,
    tables: [Box<dyn TableReader>; 2],
    retry: &Retry,
    report: &mut Report<'_>,
) -> Result<Option<Compared>> {
    let has_unique_keys = tables.iter().any(|table| table.has_unique_keys());
    let mut tables = tables.map(Table::new);
    let scanner = Scanner { comparison, retry };
    let sums = Side::BOTH.map(|side| Sums::new(comparison, side));
    let sums = scanner.scan(&mut tables, sums, Sums::restart).await?;
    let mut compared = Compared {
        rows: [sums[0].rows, sums[1].rows],
        bytes: sums[0].bytes + sums[1].bytes,
        ..Compared::default()
    };
    for (side, sums) in Side::BOTH.into_iter().zip(&sums) {
        if sums.foreign_keys > 0 && comparison.stop.requested().is_none() {
            let table = tables[side as usize].get()?;
            report_foreign_keys(table, comparison, side, report, &mut compared).await?;
        }
    }
    let suspects = match has_unique_keys {
        true => Suspects::Differing,
        false => Suspects::All,
    };
    let mut keys = Side::BOTH.map(|side| Keys::new(comparison, side));
    for group in groups([&sums[0], &sums[1]], suspects) {
        if comparison.stop.requested().is_some() {
            return Ok(None);
        }
        let group = Arc::new(group);
        let restart = |keys: &mut Keys| keys.restart(&group);
        keys = scanner.scan(&mut tables, keys, restart).await?;
        let mut recheck = Recheck::new(comparison, &mut tables, retry);
        for key in differing_keys([&keys[0], &keys[1]]) {
            recheck.add(key, report, &mut compared).await?;
        }
        recheck.finish(report, &mut compared).await?;
    }
    Ok(comparison.stop.requested().is_none().then_some(compared))
}

/// A table, unless a scan is using it.
struct Table(Option<Box<dyn TableReader>>);

impl Table {
    fn new(reader: Box<dyn TableReader>) -> Self {
        Table(Some(reader))
    }

    fn get(&mut self) -> Result<&mut (dyn TableReader + 'static)> {
        self.0.as_deref_mut().ok_or_else(lost_table)
    }
}

fn lost_table() -> Error {
    Error::internal("a scan did not return its table")
}

struct Scanner<'a> {
    comparison: &'a Arc<Comparison>,
    retry: &'a Retry,
}

impl Scanner<'_> {
    /// Scans both tables at the same time, each with its visitor, and returns the visitors.
    async fn scan<V>(
        &self,
        [realtime, batch]: &mut [Table; 2],
        [sees_realtime, sees_batch]: [V; 2],
        restart: impl Fn(&mut V),
    ) -> Result<[V; 2]>
    where
        V: EncodedVisitor + 'static,
    {
        let (a, b) = tokio::try_join!(
            self.scan_one(realtime, sees_realtime, &restart),
            self.scan_one(batch, sees_batch, &restart),
        )?;
        Ok([a, b])
    }

    /// Scans a table on a task of its own, because a driver may block. The visitor is restarted first; a scan that
    /// fails because of an outage starts over.
    async fn scan_one<V>(
        &self,
        table: &mut Table,
        visitor: V,
        restart: impl Fn(&mut V),
    ) -> Result<V>
    where
        V: EncodedVisitor + 'static,
    {
        let mut visitor = Some(visitor);
        let scan = async || {
            let (reader, sees) = (table.0.take(), visitor.take());
            let (mut reader, mut sees) = reader.zip(sees).ok_or_else(lost_table)?;
            restart(&mut sees);
            let comparison = self.comparison.clone();
            let (reader, sees, scanned) = Task::spawn(async move {
                let scanned = reader.scan_encoded(&comparison.dataset, &mut sees).await;
                Ok((reader, sees, scanned))
            })
            .await?;
            (table.0, visitor) = (Some(reader), Some(sees));
            scanned
        };
        self.retry.through_outage(scan).await?;
        visitor.ok_or_else(lost_table)
    }
}

/// Rows whose key is not a valid key match none of the other store. They are found by a separate scan, because
/// there can be as many as the table has rows.
async fn report_foreign_keys(
    table: &mut dyn TableReader,
    comparison: &Comparison,
    side: Side,
    report: &mut Report<'_>,
    compared: &mut Compared,
) -> Result<()> {
    let mut visitor = ForeignKeys {
        comparison,
        side,
        report,
        compared,
        failed: None,
    };
    table
        .scan_encoded(&comparison.dataset, &mut visitor)
        .await?;
    visitor.failed.map_or(Ok(()), Err)
}

struct ForeignKeys<'a, 'r> {
    comparison: &'a Comparison,
    side: Side,
    report: &'a mut Report<'r>,
    compared: &'a mut Compared,
    failed: Option<Error>,
}

impl EncodedVisitor for ForeignKeys<'_, '_> {
    fn wants(&mut self, _: &[u8]) -> bool {
        false
    }

    fn row(&mut self, row: EncodedRow<'_>) -> ControlFlow<()> {
        let key = self.comparison.dataset.event.key;
        let Some(foreign) = row.foreign.iter().find(|f| f.field == key) else {
            return ControlFlow::Continue(());
        };
        let class = match self.side {
            Side::Realtime => Class::Missing,
            Side::Batch => Class::Extra,
        };
        match class {
            Class::Missing => self.compared.missing += 1,
            _ => self.compared.extra += 1,
        }
        self.compared.differing_rows += 1;
        let added = self.report.add(&Difference {
            class,
            key: Content::Foreign(&foreign.found),
            side: Some(Side::Batch),
            column: None,
            cells: [Content::Row; 2],
        });
        match added {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                self.failed = Some(e);
                ControlFlow::Break(())
            }
        }
    }
}
