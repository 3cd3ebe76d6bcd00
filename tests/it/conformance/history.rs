//! The history of the embedded batch store, intact and broken.

use std::path::PathBuf;

use async_trait::async_trait;
use rtp::dataset::Dataset;
use rtp::dataset::ddl::quoted;
use rtp::error::{Error, Result};
use rtp::ports::batch_store::{BatchStore, Merged, Mode};
use rtp::ports::conformance::batch_store::Harness;
use rtp::ports::conformance::history::CASES;
use rtp::ports::conformance::{Abilities, load_of};
use rtp::ports::ledger::LoadInfo;
use rtp::ports::table_reader::TableReader;
use rtp::record::row::Rows;
use rtp::servers::sqlite::batch_store::{SqliteBatchStore, create};
use rtp::servers::sqlite::ddl::rows_of;
use rtp::servers::sqlite::table_reader::SqliteTable;

use super::rows::{CONSTRAINT, object};
use super::{each_case_can_fail, keeps_all};

/// One way to break the promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    RecordsNothing,
    /// Forgets, before each load, what is recorded.
    ForgetsEarlierLoads,
    /// Records after each load that the rows are of the day after.
    TakesTheNextDay,
    /// Records the last load of a day, whatever its version.
    TakesTheLastLoad,
    /// Keeps the newer version of a day, whatever the mode.
    GoesByVersionOnly,
    /// Records what the mode has ignored.
    RecordsWhatIsIgnored,
    /// Records once more what is there already.
    ChangesTheRest,
    EmptiesTheHistoryToo,
    RecordsFailedLoads,
    LoadsWithoutHistory,
    TakesAnyTable,
}

const BREAKERS: &[(Break, &str)] = &[
    (
        Break::RecordsNothing,
        "every_mode_records_the_newest_of_each_day",
    ),
    (
        Break::ForgetsEarlierLoads,
        "every_mode_records_the_newest_of_each_day",
    ),
    (
        Break::TakesTheLastLoad,
        "each_mode_treats_the_recorded_row_as_the_stored_one",
    ),
    (
        Break::GoesByVersionOnly,
        "each_mode_treats_the_recorded_row_as_the_stored_one",
    ),
    (
        Break::RecordsWhatIsIgnored,
        "each_mode_treats_the_recorded_row_as_the_stored_one",
    ),
    (
        Break::GoesByVersionOnly,
        "what_a_replacement_left_gives_way_to_the_stored_row",
    ),
    (
        Break::TakesTheLastLoad,
        "a_load_of_several_days_records_each_by_its_mode",
    ),
    (
        Break::GoesByVersionOnly,
        "a_load_of_several_days_records_each_by_its_mode",
    ),
    (
        Break::RecordsWhatIsIgnored,
        "every_mode_records_the_newest_of_each_day",
    ),
    (Break::TakesTheLastLoad, "versions_of_one_time_go_by_digest"),
    (Break::ChangesTheRest, "the_same_load_again_changes_nothing"),
    (Break::TakesTheNextDay, "days_are_those_of_utc"),
    (
        Break::EmptiesTheHistoryToo,
        "a_replacement_deletes_no_history",
    ),
    (Break::RecordsFailedLoads, "a_failed_load_records_nothing"),
    (
        Break::LoadsWithoutHistory,
        "what_the_history_refuses_is_loaded_nowhere",
    ),
    (
        Break::TakesAnyTable,
        "a_missing_history_is_told_and_created",
    ),
    (Break::TakesAnyTable, "a_history_that_does_not_fit_is_told"),
];

/// The embedded store in its own folder.
struct Store {
    folder: tempfile::TempDir,
    broken: Option<Break>,
}

impl Store {
    fn new(broken: Option<Break>) -> Store {
        Store {
            folder: tempfile::tempdir().unwrap(),
            broken,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("batch.db")
    }
}

impl Abilities for Store {}

fn without_history(dataset: &Dataset) -> Dataset {
    let mut dataset = dataset.clone();
    dataset.batch.history = false;
    dataset
}

#[async_trait]
impl Harness for Store {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        create(&self.path(), dataset)
    }

    async fn open(&self, dataset: &Dataset) -> Result<Box<dyn BatchStore>> {
        let path = self.path();
        let inner = match self.broken {
            None => return Ok(Box::new(SqliteBatchStore::open(&path, dataset)?)),
            Some(Break::TakesAnyTable) => {
                let dataset = without_history(dataset);
                return Ok(Box::new(SqliteBatchStore::open(&path, &dataset)?));
            }
            Some(Break::RecordsNothing) => {
                SqliteBatchStore::open(&path, &without_history(dataset))?
            }
            Some(_) => SqliteBatchStore::open(&path, dataset)?,
        };
        Ok(Box::new(BrokenStore {
            inner,
            broken: self.broken.unwrap(),
            dataset: dataset.clone(),
            path,
            staged: None,
        }))
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        let table = &dataset.batch.table;
        Ok(Box::new(SqliteTable::open(&self.path(), dataset, table)?))
    }

    async fn loads(&self, _: &Dataset) -> Result<Vec<String>> {
        unreachable!("no case of the history asks for them")
    }

    async fn refuse(&self, dataset: &Dataset, title: &str) -> Result<()> {
        let table = &dataset.batch.table;
        object(&self.path(), table, title, CONSTRAINT).map_err(|e| Error::refused(e.to_string()))
    }

    async fn make_titles_unique(&self, _: &Dataset) -> Result<()> {
        unreachable!("no case of the history needs it")
    }
}

struct BrokenStore {
    inner: SqliteBatchStore,
    broken: Break,
    dataset: Dataset,
    path: PathBuf,
    staged: Option<Rows>,
}

impl BrokenStore {
    /// Runs a statement about the tables of the history and of the current rows.
    fn change(&self, statement: &str) {
        let history = self.dataset.history().unwrap();
        let [history, batch] =
            [&history, &self.dataset].map(|table| quoted(&rows_of(&table.batch.table)));
        let statement = statement.replace("HISTORY", &history);
        let db = rusqlite::Connection::open(&self.path).unwrap();
        db.execute_batch(&statement.replace("BATCH", &batch))
            .unwrap();
    }

    /// Loads the first staged rows after all.
    async fn load_again(&mut self, dataset: &Dataset, rows: usize) -> Result<Merged> {
        let mut other = SqliteBatchStore::open(&self.path, dataset)?;
        if let Some(staged) = &self.staged {
            other.stage(&first(staged, rows)).await?;
        }
        other.merge(Mode::Upsert, &load_of("again")).await
    }
}

/// A copy of the first rows.
fn first(rows: &Rows, most: usize) -> Rows {
    let mut copy = Rows::new(rows.width());
    for i in 0..rows.len().min(most) {
        let values: Vec<_> = rows.values(i).collect();
        copy.push(&values, *rows.meta(i));
    }
    copy
}

#[async_trait]
impl BatchStore for BrokenStore {
    async fn stage(&mut self, rows: &Rows) -> Result<()> {
        self.staged = Some(first(rows, rows.len()));
        self.inner.stage(rows).await
    }

    async fn merge(&mut self, mode: Mode, load: &LoadInfo) -> Result<Merged> {
        match self.broken {
            Break::ForgetsEarlierLoads | Break::TakesTheLastLoad => {
                self.change("DELETE FROM HISTORY");
            }
            Break::EmptiesTheHistoryToo if matches!(mode, Mode::Replace | Mode::ReplaceOrEmpty) => {
                self.change("DELETE FROM HISTORY");
            }
            Break::ChangesTheRest => self.change("UPDATE HISTORY SET title = title || '!'"),
            Break::GoesByVersionOnly => {
                self.change(
                    "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT * FROM HISTORY",
                );
            }
            Break::RecordsWhatIsIgnored => {
                self.change("DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT * FROM BATCH");
            }
            _ => {}
        }
        let is_recorded = self.broken == Break::RecordsWhatIsIgnored && mode == Mode::Ignore;
        let by = if is_recorded { Mode::Upsert } else { mode };
        let merged = self.inner.merge(by, load).await;
        match (self.broken, &merged) {
            (Break::GoesByVersionOnly, _) => self.change(
                "REPLACE INTO HISTORY SELECT kept.* FROM kept JOIN HISTORY AS h ON h.id = kept.id AND h.as_of = kept.as_of
                 WHERE kept.at > h.at",
            ),
            (Break::RecordsWhatIsIgnored, _) if is_recorded => self.change("REPLACE INTO BATCH SELECT * FROM kept"),
            (Break::TakesTheNextDay, _) => self.change("UPDATE HISTORY SET as_of = as_of + 1"),
            (Break::RecordsFailedLoads, Err(_)) => {
                let dataset = self.dataset.clone();
                self.load_again(&dataset, 1).await?;
            }
            (Break::LoadsWithoutHistory, Err(_)) => {
                let dataset = without_history(&self.dataset);
                return self.load_again(&dataset, usize::MAX).await;
            }
            _ => {}
        }
        merged
    }

    async fn count(&mut self) -> Result<u64> {
        self.inner.count().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_keeps_every_guarantee_of_a_history() {
    keeps_all(CASES, &Store::new(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_case_of_the_history_can_fail() {
    each_case_can_fail(CASES, BREAKERS, async |broken, case| {
        case.check(&Store::new(Some(broken)) as &dyn Harness).await
    })
    .await;
}
