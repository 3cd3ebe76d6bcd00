//! Compares the tables of both stores in memory that does not grow with them.
//!
//! Both are scanned at the same time into sums by bucket of the key. The keys of buckets that differ
//! are collected by further scans, a bounded group of buckets at a time; keys whose rows differ are
//! read again from both stores and compared column by column, so that what has become equal meanwhile
//! is not reported.

mod buckets;
mod recheck;
mod report;
mod tolerance;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use self::buckets::{Keys, Sums, Suspects, differing_keys, groups};
use self::recheck::Recheck;
pub use self::report::{Cell, Class, Difference, Format, Report, Sample};
pub use self::tolerance::Tolerances;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::retry::through_outage;
use crate::run::{Run, Stop};
use crate::table::{EncodedRow, EncodedVisitor, TableReader};

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
pub struct Plan {
    /// The dataset; columns that are not compared have no part in its digest.
    dataset: Dataset,
    tolerances: Tolerances,
    stop: Stop,
}

impl Plan {
    /// A comparison of the dataset's tables.
    pub fn new(dataset: &Dataset, tolerances: Tolerances, stop: Stop) -> Self {
        let mut dataset = dataset.clone();
        dataset.digest_order.retain(|i| !tolerances.ignores(*i));
        Plan {
            dataset,
            tolerances,
            stop,
        }
    }
}

/// What came of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Rows of the real-time and of the batch store, as the first scan saw them.
    pub rows: [u64; 2],
    /// Bytes of their encodings.
    pub bytes: u64,
    /// Keys in the real-time store only.
    pub missing: u64,
    /// Keys in the batch store only.
    pub extra: u64,
    /// Keys in both with different values.
    pub changed: u64,
    /// Keys that are more than once in a store.
    pub duplicates: u64,
    /// Rows of both stores that differ.
    pub differing_rows: u64,
    /// Rows beyond the first of their key.
    pub surplus_rows: u64,
}

impl Outcome {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.missing + self.extra + self.changed + self.duplicates == 0
    }
}

/// The tables of both stores, the real-time store's first.
pub type Tables = [Arc<Mutex<Box<dyn TableReader>>>; 2];

/// Compares; none if a stop was requested before the end. `max_outage` is how long each reading waits
/// for a store that is down.
pub async fn compare(
    plan: &Arc<Plan>,
    tables: &Tables,
    run: &Run,
    max_outage: Duration,
    report: &mut Report<'_>,
) -> Result<Option<Outcome>> {
    let scanner = Scanner {
        plan,
        tables,
        run,
        max_outage,
    };
    let sums = Side::BOTH.map(|side| Arc::new(Mutex::new(Sums::new(plan, side))));
    scanner.scan(&sums, Sums::restart).await?;
    let sums = [sums[0].lock().await, sums[1].lock().await];
    let mut outcome = Outcome {
        rows: [sums[0].rows, sums[1].rows],
        bytes: sums[0].bytes + sums[1].bytes,
        ..Outcome::default()
    };
    for (side, sums) in Side::BOTH.into_iter().zip(&sums) {
        if sums.foreign_keys > 0 && plan.stop.requested().is_none() {
            let mut table = tables[side as usize].lock().await;
            report_foreign_keys(table.as_mut(), plan, side, report, &mut outcome).await?;
        }
    }
    let mut suspects = Suspects::All;
    for table in tables {
        if table.lock().await.has_unique_keys() {
            suspects = Suspects::Differing;
        }
    }
    let keys = Side::BOTH.map(|side| Arc::new(Mutex::new(Keys::new(plan, side))));
    for group in groups([&*sums[0], &*sums[1]], suspects) {
        if plan.stop.requested().is_some() {
            return Ok(None);
        }
        let group = Arc::new(group);
        scanner.scan(&keys, |keys| keys.restart(&group)).await?;
        let keys = [keys[0].lock().await, keys[1].lock().await];
        let mut recheck = Recheck::new(plan, tables, run, max_outage);
        for key in differing_keys([&*keys[0], &*keys[1]]) {
            recheck.add(key, report, &mut outcome).await?;
        }
        recheck.finish(report, &mut outcome).await?;
    }
    Ok(plan.stop.requested().is_none().then_some(outcome))
}

struct Scanner<'a> {
    plan: &'a Arc<Plan>,
    tables: &'a Tables,
    run: &'a Run,
    max_outage: Duration,
}

impl Scanner<'_> {
    /// Scans both tables at the same time, each with its visitor, which is restarted first; a scan
    /// that fails for an outage starts over.
    async fn scan<V>(&self, visitors: &[Arc<Mutex<V>>; 2], restart: impl Fn(&mut V)) -> Result<()>
    where
        V: EncodedVisitor + 'static,
    {
        let restart = &restart;
        let [realtime, batch] = Side::BOTH.map(|side| {
            through_outage(self.run, self.max_outage, move || async move {
                let mut visitor = visitors[side as usize].clone().lock_owned().await;
                restart(&mut visitor);
                let (table, plan) = (self.tables[side as usize].clone(), self.plan.clone());
                let scan = tokio::spawn(async move {
                    let mut table = table.lock().await;
                    table.scan_encoded(&plan.dataset, &mut *visitor).await
                });
                scan.await
                    .map_err(|e| Error::refused(format!("internal error: {e}")))?
            })
        });
        tokio::try_join!(realtime, batch).map(|_| ())
    }
}

/// Rows whose key is no key match none of the other store; they are found by a scan of their own, for
/// they can be as many as the table has.
async fn report_foreign_keys(
    table: &mut dyn TableReader,
    plan: &Plan,
    side: Side,
    report: &mut Report<'_>,
    outcome: &mut Outcome,
) -> Result<()> {
    let mut visitor = ForeignKeys {
        plan,
        side,
        report,
        outcome,
        failed: None,
    };
    table.scan_encoded(&plan.dataset, &mut visitor).await?;
    visitor.failed.map_or(Ok(()), Err)
}

struct ForeignKeys<'a, 'r> {
    plan: &'a Plan,
    side: Side,
    report: &'a mut Report<'r>,
    outcome: &'a mut Outcome,
    failed: Option<Error>,
}

impl EncodedVisitor for ForeignKeys<'_, '_> {
    fn wants(&mut self, _: &[u8]) -> bool {
        false
    }

    fn row(&mut self, row: EncodedRow<'_>) -> ControlFlow<()> {
        let key = self.plan.dataset.event.key;
        let Some(foreign) = row.foreign.iter().find(|f| f.field == key) else {
            return ControlFlow::Continue(());
        };
        let class = match self.side {
            Side::Realtime => Class::Missing,
            Side::Batch => Class::Extra,
        };
        match class {
            Class::Missing => self.outcome.missing += 1,
            _ => self.outcome.extra += 1,
        }
        self.outcome.differing_rows += 1;
        let added = self.report.add(&Difference {
            class,
            key: Cell::Foreign(&foreign.found),
            side: Some(Side::Batch),
            column: None,
            cells: [Cell::Row; 2],
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
