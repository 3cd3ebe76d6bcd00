//! The embedded batch store, intact and broken.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rtp::dataset::Dataset;
use rtp::dataset::ddl::quoted;
use rtp::error::{Error, Result};
use rtp::ports::batch_store::{BatchStore, Merged, Mode};
use rtp::ports::conformance::batch_store::{CASES, Harness};
use rtp::ports::conformance::{Abilities, Stored, load_of, stored};
use rtp::ports::ledger::LoadInfo;
use rtp::ports::table_reader::TableReader;
use rtp::record::row::{RowMeta, Rows};
use rtp::servers::sqlite::batch_store::{SqliteBatchStore, create};
use rtp::servers::sqlite::ddl::rows_of;
use rtp::servers::sqlite::table_reader::SqliteTable;

use super::rows::{CONSTRAINT, Mangle, Mangler, object};
use super::{each_case_can_fail, keeps_all};

/// One way to break the port's promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Rows(Mangle),
    /// Merges with another mode than requested.
    Takes(Mode, Mode),
    ShowsStagedRows,
    LoadsNothing,
    KeepsHalfOfAFailedLoad,
    CountsSkippedAsWritten,
    LeavesRefusedRowsOut,
    HidesWhichRowIsRefused,
    RecordsAnotherRun,
    RecordsFailedLoads,
    ForgetsTheStageAfterAnError,
    KeepsTheStage,
    StagesUnderALock,
    EmptiesFirst,
    CountsStagedRows,
    TakesAnyTable,
}

const BREAKERS: &[(Break, &str)] = &[
    (Break::TakesAnyTable, "a_table_that_does_not_fit_is_told"),
    (Break::ShowsStagedRows, "staged_rows_are_not_visible"),
    (
        Break::HidesWhichRowIsRefused,
        "rows_that_exclude_each_other_are_both_named",
    ),
    (Break::LoadsNothing, "a_load_survives_a_crash"),
    (
        Break::Takes(Mode::Insert, Mode::Ignore),
        "insert_fails_on_a_stored_key_and_keeps_nothing",
    ),
    (
        Break::KeepsHalfOfAFailedLoad,
        "insert_fails_on_a_stored_key_and_keeps_nothing",
    ),
    (
        Break::Takes(Mode::Upsert, Mode::UpdateIfNewer),
        "upsert_replaces_the_stored_row",
    ),
    (
        Break::Takes(Mode::Ignore, Mode::Upsert),
        "ignore_leaves_the_stored_row",
    ),
    (
        Break::Takes(Mode::UpdateIfNewer, Mode::Upsert),
        "update_if_newer_goes_by_event_time_then_digest",
    ),
    (
        Break::Rows(Mangle::LowerDigestWins),
        "update_if_newer_goes_by_event_time_then_digest",
    ),
    (
        Break::Takes(Mode::Replace, Mode::Upsert),
        "replace_leaves_only_the_loaded_rows",
    ),
    (
        Break::Takes(Mode::Replace, Mode::ReplaceOrEmpty),
        "replace_by_no_row_fails_and_keeps_the_stored_ones",
    ),
    (
        Break::EmptiesFirst,
        "replace_by_no_row_fails_and_keeps_the_stored_ones",
    ),
    (
        Break::RecordsFailedLoads,
        "replace_by_no_row_fails_and_keeps_the_stored_ones",
    ),
    (
        Break::KeepsTheStage,
        "replace_by_no_row_fails_and_keeps_the_stored_ones",
    ),
    (
        Break::Takes(Mode::ReplaceOrEmpty, Mode::Replace),
        "replace_by_no_row_is_done_when_told_so",
    ),
    (
        Break::Takes(Mode::ReplaceOrEmpty, Mode::Upsert),
        "replace_by_no_row_is_done_when_told_so",
    ),
    (
        Break::EmptiesFirst,
        "a_failed_replacement_keeps_the_stored_rows",
    ),
    (
        Break::CountsStagedRows,
        "stored_rows_are_counted_and_staged_ones_are_not",
    ),
    (
        Break::Rows(Mangle::FirstOfABatchWins),
        "the_newest_of_a_key_counts_in_every_mode",
    ),
    (
        Break::Rows(Mangle::LowerDigestWins),
        "the_newest_of_a_key_counts_in_every_mode",
    ),
    (Break::CountsSkippedAsWritten, "counts_add_up_in_every_mode"),
    (
        Break::LeavesRefusedRowsOut,
        "a_refused_row_fails_the_load_and_is_named",
    ),
    (
        Break::HidesWhichRowIsRefused,
        "a_refused_row_fails_the_load_and_is_named",
    ),
    (
        Break::KeepsHalfOfAFailedLoad,
        "a_refused_row_fails_the_load_and_is_named",
    ),
    (
        Break::RecordsAnotherRun,
        "a_load_is_recorded_with_its_run_id",
    ),
    (
        Break::RecordsFailedLoads,
        "a_load_is_recorded_with_its_run_id",
    ),
    (
        Break::ForgetsTheStageAfterAnError,
        "a_failed_merge_can_be_tried_again",
    ),
    (Break::KeepsTheStage, "the_next_load_starts_empty"),
    (Break::StagesUnderALock, "staging_does_not_lock_the_table"),
    (
        Break::Rows(Mangle::KeepsOldValues),
        "an_absent_field_replaces_a_value",
    ),
    (Break::Rows(Mangle::TrimsTexts), "every_type_round_trips"),
    (
        Break::Rows(Mangle::EmptyTextIsNull),
        "every_type_round_trips",
    ),
    (
        Break::Rows(Mangle::RoundsDecimals),
        "every_type_round_trips",
    ),
    (
        Break::Rows(Mangle::RoundsIntegers),
        "every_type_round_trips",
    ),
    (
        Break::Rows(Mangle::CutsMilliseconds),
        "every_type_round_trips",
    ),
    (Break::Rows(Mangle::LosesBooleans), "every_type_round_trips"),
    (
        Break::Rows(Mangle::FoldsCase),
        "keys_are_told_apart_by_their_bytes",
    ),
    (
        Break::Rows(Mangle::RoundsIntegers),
        "keys_are_told_apart_by_their_bytes",
    ),
];

/// The embedded store in its own folder.
struct Store {
    folder: tempfile::TempDir,
    broken: Option<Break>,
    /// How often a store was opened; each has its number.
    opened: Mutex<u32>,
    /// The number of the store that holds the lock.
    holder: Arc<Mutex<Option<u32>>>,
}

impl Store {
    fn new(broken: Option<Break>) -> Store {
        Store {
            folder: tempfile::tempdir().unwrap(),
            broken,
            opened: Mutex::default(),
            holder: Arc::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("batch.db")
    }
}

impl Abilities for Store {}

fn sql<T>(result: rusqlite::Result<T>) -> Result<T> {
    result.map_err(|e| Error::refused(e.to_string()))
}

#[async_trait]
impl Harness for Store {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        match self.broken {
            Some(Break::TakesAnyTable) => create(&self.path(), dataset).or(Ok(())),
            _ => create(&self.path(), dataset),
        }
    }

    async fn open(&self, dataset: &Dataset) -> Result<Box<dyn BatchStore>> {
        let inner = SqliteBatchStore::open(&self.path(), dataset)?;
        let Some(broken) = self.broken else {
            return Ok(Box::new(inner));
        };
        let mut opened = self.opened.lock().unwrap();
        *opened += 1;
        Ok(Box::new(BrokenStore {
            inner,
            broken,
            dataset: dataset.clone(),
            path: self.path(),
            mangler: Mangler::default(),
            staged: Vec::new(),
            number: *opened,
            holder: self.holder.clone(),
        }))
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        let table = &dataset.batch.table;
        Ok(Box::new(SqliteTable::open(&self.path(), dataset, table)?))
    }

    async fn loads(&self, _: &Dataset) -> Result<Vec<String>> {
        sql(loads(&self.path()))
    }

    async fn refuse(&self, dataset: &Dataset, title: &str) -> Result<()> {
        sql(object(
            &self.path(),
            &dataset.batch.table,
            title,
            CONSTRAINT,
        ))
    }

    async fn make_titles_unique(&self, dataset: &Dataset) -> Result<()> {
        let table = &dataset.batch.table;
        let rows = quoted(&rows_of(table));
        let index = quoted(&format!("{table}_titles"));
        let unique = format!("CREATE UNIQUE INDEX {index} ON {rows} (title)");
        sql(rusqlite::Connection::open(self.path()).and_then(|db| db.execute_batch(&unique)))
    }
}

fn loads(path: &Path) -> rusqlite::Result<Vec<String>> {
    let db = rusqlite::Connection::open(path)?;
    let mut select = db.prepare("SELECT run_id FROM rtp_loads")?;
    select.query_map([], |row| row.get(0))?.collect()
}

struct BrokenStore {
    inner: SqliteBatchStore,
    broken: Break,
    dataset: Dataset,
    path: PathBuf,
    mangler: Mangler,
    staged: Vec<(Stored, RowMeta)>,
    number: u32,
    holder: Arc<Mutex<Option<u32>>>,
}

impl BrokenStore {
    fn reopen(&self) -> Result<SqliteBatchStore> {
        SqliteBatchStore::open(&self.path, &self.dataset)
    }

    async fn restage(&mut self) -> Result<()> {
        let mut rows = Rows::new(self.dataset.fields.len());
        for (values, meta) in &self.staged {
            rows.push(values, *meta);
        }
        self.inner.stage(&rows).await
    }

    fn take_lock(&self) -> Result<()> {
        match self.holder.lock().unwrap().replace(self.number) {
            Some(other) if other != self.number => Err(Error::unavailable("the table is locked")),
            _ => Ok(()),
        }
    }
}

/// Loads the rows one by one, even if others fail.
async fn load_parts(path: &Path, dataset: &Dataset, rows: &[(Stored, RowMeta)]) -> Result<Merged> {
    let mut merged = Merged::default();
    for (values, meta) in rows {
        let mut row = Rows::new(dataset.fields.len());
        row.push(values, *meta);
        let mut store = SqliteBatchStore::open(path, dataset)?;
        store.stage(&row).await?;
        if store.merge(Mode::Upsert, &load_of("part")).await.is_ok() {
            merged.written += 1;
        }
    }
    Ok(merged)
}

#[async_trait]
impl BatchStore for BrokenStore {
    async fn stage(&mut self, rows: &Rows) -> Result<()> {
        for i in 0..rows.len() {
            self.staged.push((stored(rows.values(i)), *rows.meta(i)));
        }
        match self.broken {
            Break::Rows(mangle) => {
                let mangled = self.mangler.rows(&self.dataset, rows, mangle);
                self.inner.stage(&mangled).await
            }
            Break::ShowsStagedRows => {
                self.inner.stage(rows).await?;
                self.inner
                    .merge(Mode::Upsert, &load_of("early"))
                    .await
                    .map(|_| ())
            }
            Break::StagesUnderALock => {
                self.take_lock()?;
                self.inner.stage(rows).await
            }
            _ => self.inner.stage(rows).await,
        }
    }

    async fn merge(&mut self, mode: Mode, load: &LoadInfo) -> Result<Merged> {
        let mode = match self.broken {
            Break::Takes(told, taken) if told == mode => taken,
            _ => mode,
        };
        let load = &match self.broken {
            Break::RecordsAnotherRun => load_of("another"),
            _ => load.clone(),
        };
        if self.broken == Break::LoadsNothing {
            return Ok(Merged::default());
        }
        if self.broken == Break::EmptiesFirst && mode == Mode::Replace {
            self.reopen()?.merge(Mode::ReplaceOrEmpty, load).await?;
        }
        let merged = match self.inner.merge(mode, load).await {
            Ok(merged) => merged,
            Err(e) => {
                return match self.broken {
                    Break::KeepsHalfOfAFailedLoad => {
                        let half = &self.staged[..self.staged.len() / 2];
                        load_parts(&self.path, &self.dataset, half).await?;
                        Err(e)
                    }
                    Break::LeavesRefusedRowsOut => {
                        load_parts(&self.path, &self.dataset, &self.staged).await
                    }
                    Break::HidesWhichRowIsRefused => Err(Error::data("a row is refused")),
                    Break::RecordsFailedLoads => {
                        self.reopen()?.merge(Mode::Upsert, load).await?;
                        Err(e)
                    }
                    Break::ForgetsTheStageAfterAnError => {
                        self.inner = self.reopen()?;
                        Err(e)
                    }
                    _ => Err(e),
                };
            }
        };
        if self.broken == Break::KeepsTheStage {
            self.restage().await?;
        }
        if self.broken == Break::Rows(Mangle::FirstOfABatchWins) {
            self.mangler.forget();
        }
        self.staged.clear();
        Ok(match self.broken {
            Break::CountsSkippedAsWritten => Merged {
                written: merged.written + merged.skipped,
                skipped: 0,
                ..merged
            },
            _ => merged,
        })
    }

    async fn count(&mut self) -> Result<u64> {
        let staged = match self.broken {
            Break::CountsStagedRows => self.staged.len() as u64,
            _ => 0,
        };
        Ok(self.inner.count().await? + staged)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_keeps_every_guarantee() {
    keeps_all(CASES, &Store::new(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_case_of_the_batch_store_can_fail() {
    each_case_can_fail(CASES, BREAKERS, async |broken, case| {
        case.check(&Store::new(Some(broken)) as &dyn Harness).await
    })
    .await;
}
