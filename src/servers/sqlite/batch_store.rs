//! The embedded batch store: rows are staged in a temporary file, then merged in key order, which appends to the
//! index instead of writing all over it.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::Connection;

use crate::dataset::Dataset;
use crate::dataset::ddl::quoted;
use crate::error::{Context, Error, Kind, Result};
use crate::ports::batch_store::{BatchStore, Merged, Mode};
use crate::ports::ledger::LoadInfo;
use crate::record::row::Rows;
use crate::servers::sqlite::aggregates::FIGURES;
use crate::servers::sqlite::file::OpenFile;
use crate::servers::sqlite::history::History;
use crate::servers::sqlite::ledger::{LOADS, VERDICTS};
use crate::servers::sqlite::monitor::PROBES;
use crate::servers::sqlite::schema::DatasetTable;
use crate::servers::sqlite::{self, MergeError, OnConflict, ddl, ledger};

/// Page cache, for the table and for the sort each.
const CACHE_KIB: u32 = 16_384;

/// Creates the file and the tables where they are missing.
pub fn create(path: &Path, dataset: &Dataset) -> Result<()> {
    let mut statements = ddl::batch_table(dataset, None);
    statements.extend([LOADS.into(), VERDICTS.into(), PROBES.into()]);
    statements.extend(FIGURES.map(String::from));
    table(dataset).create(path, &statements)?;
    ledger::upgrade(path)?;
    match History::of(dataset) {
        Some(history) => history.create(path),
        None => Ok(()),
    }
}

/// An error if a table of the dataset is missing, or cannot take its rows.
pub(super) fn check(db: &Connection, path: &Path, dataset: &Dataset) -> Result<()> {
    table(dataset).check(db, path)?;
    match History::of(dataset) {
        Some(history) => history.check(db, path),
        None => Ok(()),
    }
}

fn table(dataset: &Dataset) -> DatasetTable<'_> {
    DatasetTable {
        dataset,
        name: &dataset.batch.table,
        own: 1,
        also_by: None,
    }
}

/// An open store.
#[derive(Debug)]
pub struct SqliteBatchStore {
    db: Connection,
    path: PathBuf,
    file: OpenFile,
    dataset: Dataset,
    table: String,
    history: Option<History>,
}

impl SqliteBatchStore {
    /// Opens the store with an empty staging table.
    pub fn open(path: &Path, dataset: &Dataset) -> Result<Self> {
        let rows = ddl::rows_of(&dataset.batch.table);
        let history = History::of(dataset);
        let history_rows = history.as_ref().map(History::rows);
        let mut tables = vec![&*rows, "rtp_loads"];
        tables.extend(history_rows.as_deref());
        let db = sqlite::open_tables(path, &tables, CACHE_KIB)?;
        ledger::must_be_current(&db, path)?;
        check(&db, path, dataset)?;
        let store = SqliteBatchStore {
            db,
            path: path.into(),
            file: OpenFile::at(path)?,
            dataset: dataset.clone(),
            table: rows,
            history,
        };
        sqlite::fail(
            sqlite::create_stage(&store.db, dataset),
            "stage rows for",
            path,
        )?;
        Ok(store)
    }

    fn load(&mut self, mode: Mode, info: &LoadInfo) -> Result<Merged> {
        let loaded = self.load_once(mode, info);
        // Not before: what is committed is in the file that was there then, or nobody will find it. If another file has
        // taken its place, that is also what an error means.
        self.file.check("the batch store")?;
        loaded
    }

    fn load_once(&mut self, mode: Mode, info: &LoadInfo) -> Result<Merged> {
        sqlite::rollback_open(&self.db).map_err(|e| sqlite::error(&e))?;
        self.db
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(|e| sqlite::error(&e))?;
        let merged = self.load_open(mode, info);
        match merged {
            Ok(merged) => {
                self.db
                    .execute_batch("COMMIT")
                    .and_then(|()| sqlite::clear_stage(&self.db))
                    .map_err(|e| sqlite::error(&e))?;
                Ok(merged)
            }
            Err(e) => {
                sqlite::rollback_open(&self.db).map_err(|e| sqlite::error(&e))?;
                Err(e)
            }
        }
    }

    fn load_open(&self, mode: Mode, info: &LoadInfo) -> Result<Merged> {
        let merged = match self.merge_after(None, mode) {
            Ok(merged) => merged,
            Err(e) => return Err(self.refused(&e, mode)?),
        };
        mode.check_written(merged.written, &self.dataset.batch.table)?;
        if let Some(history) = &self.history {
            let recorded = history.record(&self.db, mode);
            recorded.map_err(|e| sqlite::error(&e))?;
        }
        ledger::record(&self.db, &self.dataset, mode, info, merged.written)?;
        Ok(merged)
    }

    /// Merges the staged rows, one of them before the others.
    fn merge_after(&self, first: Option<i64>, mode: Mode) -> Result<Merged, MergeError> {
        if mode.clears() {
            let clear = format!("DELETE FROM {}", quoted(&self.table));
            self.db.execute_batch(&clear)?;
        }
        let conflict = match mode {
            Mode::Insert | Mode::Replace | Mode::ReplaceOrEmpty => OnConflict::Fail,
            Mode::Upsert => OnConflict::Overwrite,
            Mode::Ignore => OnConflict::Keep,
            Mode::UpdateIfNewer => OnConflict::KeepNewest,
        };
        sqlite::merge_stage(&self.db, &self.dataset, &self.table, 1, conflict, first)
    }

    /// Names the record that the table refuses; and if it does not refuse that record alone, the other record of the
    /// load that is then refused after it.
    fn refused(&self, e: &MergeError, mode: Mode) -> Result<Error> {
        let error = sqlite::error(&e.error);
        let Some(record) = e.record.filter(|_| error.kind() == Kind::Data) else {
            return Ok(error);
        };
        let again =
            sqlite::rollback_open(&self.db).and_then(|()| self.db.execute_batch("BEGIN IMMEDIATE"));
        again.map_err(|e| sqlite::error(&e))?;
        let other = match self.merge_after(Some(record), mode) {
            Err(MergeError { record: other, .. }) => other.filter(|other| *other != record),
            Ok(_) => None, // it depends on the order of the rows, as a trigger may
        };
        Ok(mode.refused(&self.dataset.batch.table, error, record, other))
    }
}

#[async_trait]
impl BatchStore for SqliteBatchStore {
    async fn stage(&mut self, rows: &Rows) -> Result<()> {
        let staged = tokio::task::block_in_place(|| sqlite::stage(&self.db, rows));
        sqlite::fail(staged, "stage rows for", &self.path)
    }

    async fn merge(&mut self, mode: Mode, load: &LoadInfo) -> Result<Merged> {
        tokio::task::block_in_place(|| self.load(mode, load))
            .context(format_args!("cannot load {}", self.path.display()))
    }

    async fn count(&mut self) -> Result<u64> {
        let count = format!("SELECT count(*) FROM {}", quoted(&self.table));
        let counted =
            tokio::task::block_in_place(|| self.db.query_row(&count, [], |row| row.get(0)));
        sqlite::fail(counted, "count the rows of", &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_into_a_file_that_was_replaced_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("batch.db");
        let dataset = Dataset::load(None).unwrap();
        let info = LoadInfo::default();
        let open = || SqliteBatchStore::open(&path, &dataset).unwrap();
        create(&path, &dataset).unwrap();
        let mut store = open();
        assert_eq!(store.load(Mode::Upsert, &info).unwrap().written, 0);
        std::fs::remove_file(&path).unwrap();
        create(&path, &dataset).unwrap();
        let told = store.load(Mode::Upsert, &info).unwrap_err();
        assert_eq!(told.kind(), Kind::Missing);
        assert!(told.to_string().contains("was replaced"), "{told}");
        assert!(open().load(Mode::Upsert, &info).is_ok());
    }
}
