//! The figures of the embedded store, intact and broken.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use jiff::civil::Date;
use rtp::dataset::Dataset;
use rtp::error::{Error, Kind, Result};
use rtp::ports::aggregates::{Aggregates, Computed, Fewer, Figure, Summary, Top};
use rtp::ports::batch_store::BatchStore;
use rtp::ports::conformance::Abilities;
use rtp::ports::conformance::aggregates::{CASES, Harness};
use rtp::servers::sqlite::aggregates::SqliteAggregates;
use rtp::servers::sqlite::batch_store::{SqliteBatchStore, create};
use rusqlite::Connection;

use super::{each_case_can_fail, keeps_all};

/// One way to break the port's promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Nothing,
    LeavesNullOut,
    CountsOneMore,
    WritesAll,
    RemovesNothing,
    AlwaysReplaces,
    NeverReplaces,
    InventsFigures,
    TakesTooMany,
    RemovesOtherDays,
    IgnoresTheHistory,
    TakesAnyHistory,
    TakesAnOutdatedHistory,
    TakesAnyTable,
    KnowsNoLastDay,
    SumsOnlyTheLargest,
    SumsUpNothing,
}

const BREAKERS: &[(Break, &str)] = &[
    (Break::LeavesNullOut, "every_dimension_is_counted"),
    (Break::CountsOneMore, "only_rows_of_the_day_count"),
    (Break::WritesAll, "a_day_computed_again_is_not_touched"),
    (
        Break::RemovesNothing,
        "what_no_longer_holds_is_replaced_or_removed",
    ),
    (Break::AlwaysReplaces, "fewer_rows_keep_the_stored_figures"),
    (Break::NeverReplaces, "told_to_replace_it_does"),
    (Break::InventsFigures, "a_day_without_rows_has_no_figures"),
    (
        Break::TakesTooMany,
        "too_many_values_are_an_error_and_change_nothing",
    ),
    (
        Break::RemovesOtherDays,
        "other_days_datasets_and_dimensions_are_left_alone",
    ),
    (
        Break::IgnoresTheHistory,
        "a_history_has_the_rows_of_a_former_day",
    ),
    (
        Break::TakesAnyHistory,
        "a_history_that_is_not_declared_does_not_count",
    ),
    (
        Break::TakesAnOutdatedHistory,
        "a_history_that_lacks_a_row_does_not_count",
    ),
    (Break::TakesAnyTable, "a_table_that_lacks_a_column_is_told"),
    (Break::KnowsNoLastDay, "the_last_day_with_figures_is_known"),
    (
        Break::SumsOnlyTheLargest,
        "the_largest_figures_come_with_the_sum_of_all",
    ),
    (
        Break::SumsUpNothing,
        "a_summary_tells_whether_figures_changed",
    ),
];

/// The embedded store in a folder of its own.
struct Embedded {
    folder: tempfile::TempDir,
    is: Break,
}

impl Embedded {
    fn new(is: Break) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Embedded { folder, is }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("batch.db")
    }
}

impl Abilities for Embedded {}

#[async_trait]
impl Harness for Embedded {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        create(&self.path(), dataset)
    }

    async fn open(&self, dataset: &Dataset) -> Result<Box<dyn BatchStore>> {
        Ok(Box::new(SqliteBatchStore::open(&self.path(), dataset)?))
    }

    async fn aggregates(&self, dataset: &Dataset) -> Result<Box<dyn Aggregates>> {
        let mut dataset = dataset.clone();
        match self.is {
            Break::IgnoresTheHistory => dataset.batch.history = false,
            Break::TakesAnyHistory => dataset.batch.history = true,
            _ => {}
        }
        if self.is == Break::TakesAnyTable {
            let table = &dataset.batch.table;
            let add = format!("ALTER TABLE {table}_rows ADD COLUMN title TEXT");
            run(&self.path(), &add)?;
        }
        let intact = SqliteAggregates::open(&self.path(), &dataset)?;
        Ok(match self.is {
            Break::Nothing => Box::new(intact),
            is => Box::new(Broken {
                intact,
                is,
                path: self.path(),
                dataset,
            }),
        })
    }
}

fn run(path: &Path, script: &str) -> Result<()> {
    let db = Connection::open(path).unwrap();
    let ran = db.execute_batch(script);
    ran.map_err(|e| Error::internal(format!("{script}: {e}")))
}

struct Broken {
    intact: SqliteAggregates,
    is: Break,
    path: PathBuf,
    dataset: Dataset,
}

impl Broken {
    fn run(&self, script: &str) -> Result<()> {
        run(&self.path, script)
    }

    /// Makes the history look complete.
    fn pretend(&self) -> Result<()> {
        let table = &self.dataset.batch.table;
        self.run(&format!(
            "INSERT OR IGNORE INTO {table}_history_rows (id, at, rtp_digest, as_of)
               SELECT id, at, rtp_digest, at / 86400000 FROM {table}_rows;
             UPDATE {table}_history_rows AS h SET rtp_digest = b.rtp_digest FROM {table}_rows AS b
               WHERE h.id = b.id AND h.as_of = b.at / 86400000"
        ))
    }

    fn insert(&self, day: Date, value: &str) -> Result<()> {
        let (name, aggregate) = (&self.dataset.name, &self.dataset.aggregates[0].name);
        self.run(&format!(
            "INSERT OR IGNORE INTO rtp_aggregates VALUES ('{name}', '{aggregate}', '{day}', '{value}', 1, 'first', 0)"
        ))
    }
}

#[async_trait]
impl Aggregates for Broken {
    async fn compute(&mut self, day: Date, fewer: Fewer, run_id: &str) -> Result<Computed> {
        let fewer = match self.is {
            Break::AlwaysReplaces => Fewer::Replace,
            Break::NeverReplaces => Fewer::Keep,
            _ => fewer,
        };
        match self.is {
            Break::WritesAll => self.run("DELETE FROM rtp_aggregates")?,
            Break::RemovesOtherDays => {
                self.run(&format!("DELETE FROM rtp_aggregates WHERE day <> '{day}'"))?;
            }
            Break::TakesAnOutdatedHistory if self.dataset.batch.history => self.pretend()?,
            _ => {}
        }
        let computed = match self.intact.compute(day, fewer, run_id).await {
            Err(e) if self.is == Break::TakesTooMany && e.kind() == Kind::Invalid => {
                Ok(Computed::default())
            }
            computed => computed,
        };
        match self.is {
            Break::RemovesNothing => self.insert(day, "gone")?,
            Break::InventsFigures => self.insert(day, "invented")?,
            Break::CountsOneMore => self.run("UPDATE rtp_aggregates SET count = count + 1")?,
            _ => {}
        }
        computed
    }

    async fn read(&mut self, day: Date) -> Result<Vec<Figure>> {
        let mut figures = self.intact.read(day).await?;
        figures.retain(|figure| self.is != Break::LeavesNullOut || figure.value.is_some());
        Ok(figures)
    }

    async fn last_day(&mut self) -> Result<Option<Date>> {
        match self.is {
            Break::KnowsNoLastDay => Ok(None),
            _ => self.intact.last_day().await,
        }
    }

    async fn top(&mut self, day: Date, aggregate: &str, most: u32) -> Result<Top> {
        let mut top = self.intact.top(day, aggregate, most).await?;
        if self.is == Break::SumsOnlyTheLargest {
            top.rows = top.values.iter().map(|(_, count)| count).sum();
        }
        Ok(top)
    }

    async fn summary(&mut self, day: Date) -> Result<Summary> {
        match self.is {
            Break::SumsUpNothing => Ok(Summary::default()),
            _ => self.intact.summary(day).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_keep_every_guarantee() {
    keeps_all(CASES, &Embedded::new(Break::Nothing) as &dyn Harness).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_case_of_the_figures_can_fail() {
    each_case_can_fail(CASES, BREAKERS, async |is, case| {
        case.check(&Embedded::new(is) as &dyn Harness).await
    })
    .await;
}
