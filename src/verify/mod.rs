//! Compares the tables of both stores in memory that does not grow with them.
//!
//! Both are scanned at the same time into sums by bucket of the key, and into a sketch that shows the keys that differ
//! as long as they are not too many. The keys of buckets for which it is too small are collected by further scans, a
//! bounded group of buckets at a time. Rows of keys that perhaps differ are read again from both stores, after a grace if
//! one is asked for, and compared column by column, so that what has become equal in the meantime is not reported. What
//! still differs gets a class, by evidence: what the stores keep with the rows, the loads, the log, the dead letters,
//! the landing and reject files.
//!
//! Digests kept in a store are not trusted: the canonical one is computed from the values that are read. Duplicates
//! that are equal in both stores are looked for only if neither store rules them out by a unique index or key.

mod base;
mod buckets;
mod class;
mod classify;
mod compared;
mod expiry;
pub mod format;
mod kept;
mod landing;
mod outcome;
mod recheck;
mod repair;
mod report;
mod request;
mod rerun;
mod search;
mod series;
mod settle;
mod sketch;
mod tolerance;
mod verdict;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use self::buckets::{Keys, Sums, Suspects, differing_keys, groups, sketch_difference};
pub use self::class::{Class, Kind};
pub use self::compared::Compared;
pub use self::kept::{history, keep, newest_loaded};
pub use self::landing::{Landing, compare_landing};
pub use self::outcome::{DEFAULT_GROUP, Outcome};
use self::recheck::{AtOnce, rows_now};
pub use self::repair::Repair;
pub use self::report::{Content, Difference, Report, Sample};
pub use self::request::{Opened, Request, Scope};
use self::rerun::FOREIGN_KEY;
pub use self::rerun::{Listed, listed};
pub use self::series::{ComparedSeries, SeriesPart, compare_series};
use self::settle::Settle;
use self::sketch::Suspect;
pub use self::tolerance::Tolerances;
pub use self::verdict::{Compare, document, verdict};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::batch_store::BatchStores;
use crate::ports::event_log::EventLog;
use crate::ports::realtime_store::RealtimeStores;
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
    /// The dataset with all of its columns.
    whole: Dataset,
    /// How far the values of each column may differ.
    pub tolerances: Tolerances,
    /// How long a key that differs may still become equal.
    pub grace: Duration,
    /// How long a row of the real-time store lives after it was written, if rows expire there.
    pub ttl: Option<Duration>,
    /// Who is asked why a key differs; if nobody is, its class is found by the tables alone.
    pub witnesses: Option<Witnesses>,
    stop: Stop,
}

/// Who is asked why a key differs, besides the tables.
#[derive(Clone, Debug)]
pub struct Witnesses {
    /// The log that feeds the real-time store.
    pub event_log: Arc<dyn EventLog>,
    /// The store that keeps its loads.
    pub batch_store: Arc<dyn BatchStores>,
    /// The store that keeps the offsets of its writers, if it does.
    pub realtime_store: Option<Arc<dyn RealtimeStores>>,
    /// The consumer group of the stream.
    pub group: String,
}

impl Comparison {
    /// A comparison of the dataset's tables, without a grace and without anybody to ask why they differ.
    pub fn new(dataset: &Dataset, tolerances: Tolerances, stop: Stop) -> Self {
        let whole = dataset.clone();
        let mut dataset = dataset.clone();
        dataset.digest_order.retain(|i| !tolerances.ignores(*i));
        Comparison {
            dataset,
            whole,
            tolerances,
            grace: Duration::ZERO,
            ttl: None,
            witnesses: None,
            stop,
        }
    }

    /// Waits for the grace from then on, or for a stop.
    async fn wait(&self, since: Instant) {
        let until = since + self.grace;
        while self.stop.requested().is_none() && Instant::now() < until {
            sleep_until(until.min(Instant::now() + STOP_LOOK)).await;
        }
    }
}

/// How often a wait looks for a stop.
const STOP_LOOK: Duration = Duration::from_millis(100);

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
    let mut sums = scanner.scan(&mut tables, sums, Sums::restart).await?;
    let mut compared = Compared {
        rows: [sums[0].rows, sums[1].rows],
        bytes: sums[0].bytes + sums[1].bytes,
        ..Compared::default()
    };
    for (side, sums) in Side::BOTH.into_iter().zip(&sums) {
        if sums.foreign_keys > 0 && comparison.stop.requested().is_none() {
            let table = tables[side as usize].get()?;
            report_foreign_keys(table, comparison, side, None, report, &mut compared).await?;
        }
    }
    let mut suspects = match has_unique_keys {
        true => Suspects::Differing(sketch_difference(&mut sums)),
        false => Suspects::All,
    };
    let (rows, bytes) = (compared.rows[0] + compared.rows[1], compared.bytes);
    let mut settle = Settle::new(comparison, &mut tables, retry, report, &mut compared);
    settle.expect(rows, bytes);
    for suspect in suspects.take_keys() {
        settle.add(&suspect).await?;
    }
    let mut keys = Side::BOTH.map(|side| Keys::new(comparison, side));
    for group in groups([&sums[0], &sums[1]], &suspects) {
        if comparison.stop.requested().is_some() {
            return Ok(None);
        }
        let group = Arc::new(group);
        let restart = |keys: &mut Keys| keys.restart(&group);
        keys = scanner.scan(settle.tables, keys, restart).await?;
        settle.scanned();
        for suspect in differing_keys([&keys[0], &keys[1]]) {
            settle.add(&suspect).await?;
        }
    }
    drop((sums, keys)); // what follows needs memory, too
    settle.finish().await?;
    Ok(comparison.stop.requested().is_none().then_some(compared))
}

/// Compares the rows of these keys only, and looks whether the rows are still there whose keys are none. None if a stop was
/// requested before the end.
pub async fn compare_keys(
    comparison: &Arc<Comparison>,
    tables: [Box<dyn TableReader>; 2],
    Listed {
        keys,
        may_be_gone,
        foreign,
        ..
    }: Listed,
    retry: &Retry,
    report: &mut Report<'_>,
) -> Result<Option<Compared>> {
    let mut tables = tables.map(Table::new);
    let mut compared = Compared {
        is_partial: true,
        ..Compared::default()
    };
    let mut at_once = AtOnce::default();
    let mut rest = &keys[..];
    while !rest.is_empty() {
        let (keys, after) = rest.split_at(at_once.keys().min(rest.len()));
        rest = after;
        let now = rows_now(comparison, &mut tables, keys, &mut at_once, retry).await?;
        let rows = keys.iter().zip(&now);
        let absent = rows.filter(|(_, rows)| **rows == [None, None]);
        for (key, _) in absent {
            let mut encoding = Vec::new();
            key.encode(&mut encoding);
            compared.absent += 1;
            compared.gone += u64::from(!may_be_gone.contains(&encoding));
        }
        for side in Side::BOTH {
            let rows = now.iter().filter(|rows| rows[side as usize].is_some());
            compared.rows[side as usize] += rows.count() as u64;
        }
    }
    let mut settle = Settle::new(comparison, &mut tables, retry, report, &mut compared);
    for key in keys {
        settle.add(&Suspect::unseen(&key)).await?;
    }
    settle.finish().await?;
    for (side, table) in Side::BOTH.into_iter().zip(&mut tables) {
        if !foreign.is_empty() && comparison.stop.requested().is_none() {
            let (table, only) = (table.get()?, Some(&foreign));
            let found =
                report_foreign_keys(table, comparison, side, only, report, &mut compared).await?;
            compared.rows[side as usize] += found;
        }
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

    fn has_unique_keys(&self) -> bool {
        self.0.as_ref().is_some_and(|table| table.has_unique_keys())
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
/// there can be as many as the table has rows. With `only`, those that it does not name are left out. Returns their number.
async fn report_foreign_keys(
    table: &mut dyn TableReader,
    comparison: &Comparison,
    side: Side,
    only: Option<&BTreeSet<String>>,
    report: &mut Report<'_>,
    compared: &mut Compared,
) -> Result<u64> {
    let mut visitor = ForeignKeys {
        comparison,
        side,
        only,
        report,
        compared,
        found: 0,
        failed: None,
    };
    table
        .scan_encoded(&comparison.dataset, &mut visitor)
        .await?;
    let found = visitor.found;
    visitor.failed.map_or(Ok(found), Err)
}

struct ForeignKeys<'a, 'r> {
    comparison: &'a Comparison,
    side: Side,
    only: Option<&'a BTreeSet<String>>,
    report: &'a mut Report<'r>,
    compared: &'a mut Compared,
    found: u64,
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
        if self.only.is_some_and(|only| !only.contains(&foreign.found)) {
            return ControlFlow::Continue(());
        }
        self.found += 1;
        let kind = match self.side {
            Side::Realtime => Kind::Missing,
            Side::Batch => Kind::Extra,
        };
        match kind {
            Kind::Missing => self.compared.missing += 1,
            _ => self.compared.extra += 1,
        }
        self.compared.differing_rows += 1;
        let class = Class::ChangedOutside;
        self.compared.add_class(class, foreign.found.clone());
        let difference = Difference {
            kind,
            class,
            evidence: FOREIGN_KEY,
            key: Content::Foreign(&foreign.found),
            side: Some(Side::Batch),
            column: None,
            cells: [Content::Row; 2],
        };
        self.compared.show(&difference);
        self.report.leave_unrepaired();
        let added = self.report.add(&difference);
        match added {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                self.failed = Some(e);
                ControlFlow::Break(())
            }
        }
    }
}

#[cfg(test)]
mod fakes;
