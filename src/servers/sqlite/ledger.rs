//! What rtp keeps about its loads and verdicts in the embedded batch store.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};

use crate::dataset::Dataset;
use crate::error::{Context, Result};
use crate::ports::batch_store::Mode;
use crate::ports::ledger::{Ledger, LoadInfo, LoadRecord, Newest, Verdict, from_json, to_json};
use crate::servers::sqlite;
use crate::servers::sqlite::realtime_store::must_have;

/// Page cache; a ledger is read and extended by a few rows.
const CACHE_KIB: u32 = 256;

/// The table of the loads.
pub(super) const LOADS: &str = "CREATE TABLE IF NOT EXISTS rtp_loads (
  id INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL,
  target TEXT NOT NULL,
  mode TEXT NOT NULL,
  loaded_at INTEGER NOT NULL,
  written INTEGER NOT NULL,
  started_at INTEGER,
  newest INTEGER,
  inputs TEXT,
  rejects TEXT
)";

/// The columns that a store lacks if an older version of rtp created it.
const LATER_COLUMNS: [&str; 4] = [
    "started_at INTEGER",
    "newest INTEGER",
    "inputs TEXT",
    "rejects TEXT",
];

/// The table of the verdicts.
pub(super) const VERDICTS: &str = "CREATE TABLE IF NOT EXISTS rtp_verdicts (
  id INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL,
  dataset TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  ended_at INTEGER NOT NULL,
  agrees INTEGER NOT NULL,
  realtime_rows INTEGER NOT NULL,
  batch_rows INTEGER NOT NULL,
  classes TEXT NOT NULL,
  columns TEXT NOT NULL,
  samples TEXT NOT NULL,
  options TEXT
)";

/// Adds to a store what the version of rtp that created it did not keep.
pub(super) fn upgrade(path: &Path) -> Result<()> {
    sqlite::add_columns(path, "rtp_loads", &LATER_COLUMNS)?;
    sqlite::add_columns(path, "rtp_verdicts", &["options TEXT"])
}

/// An error if the table of the loads lacks what this version keeps about them.
pub(super) fn must_be_current(db: &Connection, path: &Path) -> Result<()> {
    must_have(db, path, "rtp_loads", "rejects")
}

/// Records a load of the dataset's table, in the open transaction.
pub(super) fn record(
    db: &Connection,
    dataset: &Dataset,
    mode: Mode,
    info: &LoadInfo,
    written: u64,
) -> Result<()> {
    let insert = "INSERT INTO rtp_loads
        (run_id, target, mode, loaded_at, written, started_at, newest, inputs, rejects)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let values = params![
        info.run_id,
        dataset.batch.table,
        mode.name(),
        crate::time::now_ms(),
        written,
        info.started_at,
        info.newest,
        to_json(&info.inputs)?,
        info.rejects,
    ];
    let recorded = db.execute(insert, values);
    recorded.map(|_| ()).map_err(|e| sqlite::error(&e))
}

/// An open ledger.
#[derive(Debug)]
pub struct SqliteLedger {
    db: Connection,
    path: PathBuf,
    dataset: String,
    table: String,
}

impl SqliteLedger {
    /// Opens the ledger of a store that must have its tables.
    pub fn open(path: &Path, dataset: &Dataset) -> Result<Self> {
        let db = sqlite::open_tables(path, &["rtp_loads"], CACHE_KIB)?;
        must_be_current(&db, path)?;
        let db = sqlite::open_tables(path, &["rtp_verdicts"], CACHE_KIB)?;
        must_have(&db, path, "rtp_verdicts", "options")?;
        Ok(SqliteLedger {
            db,
            path: path.into(),
            dataset: dataset.name.clone(),
            table: dataset.batch.table.clone(),
        })
    }

    /// The last rows of a table about `of`, as a function reads them.
    fn last<T>(
        &self,
        select: &str,
        of: &str,
        most: u32,
        read: impl Fn(&Row<'_>) -> rusqlite::Result<Result<T>>,
    ) -> Result<Vec<T>> {
        let rows = || -> rusqlite::Result<Vec<Result<T>>> {
            let mut select = self.db.prepare_cached(select)?;
            select
                .query_map(params![of, most], |row| read(row))?
                .collect()
        };
        let rows = tokio::task::block_in_place(rows);
        let rows = sqlite::fail(rows, "read the ledger in", &self.path)?;
        let read: Result<Vec<T>> = rows.into_iter().collect();
        read.context(format_args!(
            "cannot read the ledger in {}",
            self.path.display()
        ))
    }

    fn add(&self, v: &Verdict) -> Result<()> {
        let insert = "INSERT INTO rtp_verdicts
            (run_id, dataset, started_at, ended_at, agrees, realtime_rows, batch_rows, classes, columns, samples, options)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        let values = params![
            v.run_id,
            self.dataset,
            v.started_at,
            v.ended_at,
            v.agrees,
            v.rows[0],
            v.rows[1],
            to_json(&v.classes)?,
            to_json(&v.columns)?,
            to_json(&v.samples)?,
            to_json(&v.options)?,
        ];
        let added = tokio::task::block_in_place(|| self.db.execute(insert, values));
        sqlite::fail(added, "keep the verdict in", &self.path).map(|_| ())
    }
}

fn load(row: &Row<'_>) -> rusqlite::Result<Result<LoadRecord>> {
    let inputs: Option<String> = row.get(6)?;
    let mut record = LoadRecord {
        info: LoadInfo {
            run_id: row.get(0)?,
            started_at: row.get(4)?,
            newest: row.get(5)?,
            inputs: Vec::new(),
            rejects: row.get(7)?,
        },
        mode: row.get(1)?,
        loaded_at: row.get(2)?,
        written: row.get(3)?,
    };
    Ok(match inputs.as_deref().map(from_json).transpose() {
        Ok(inputs) => {
            record.info.inputs = inputs.unwrap_or_default(); // an older version of rtp kept none
            Ok(record)
        }
        Err(e) => Err(e),
    })
}

fn verdict(row: &Row<'_>) -> rusqlite::Result<Result<Verdict>> {
    let (classes, columns, samples): (String, String, String) =
        (row.get(6)?, row.get(7)?, row.get(8)?);
    let options: Option<String> = row.get(9)?;
    let v = Verdict {
        run_id: row.get(0)?,
        started_at: row.get(1)?,
        ended_at: row.get(2)?,
        agrees: row.get(3)?,
        rows: [row.get(4)?, row.get(5)?],
        ..Verdict::default()
    };
    Ok(v.with_maps(&classes, &columns, &samples, options.as_deref()))
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn loads(&mut self, most: u32) -> Result<Vec<LoadRecord>> {
        let select = "SELECT run_id, mode, loaded_at, written, ifnull(started_at, loaded_at), newest, inputs, rejects
            FROM rtp_loads WHERE target = ?1 ORDER BY id DESC LIMIT ?2";
        self.last(select, &self.table, most, load)
    }

    async fn newest(&mut self) -> Result<Newest> {
        let select = "WITH replaced AS (SELECT max(id) AS id FROM rtp_loads WHERE target = ?1 AND mode = 'replace')
            SELECT max(newest), max(newest) FILTER (WHERE l.id >= ifnull(r.id, l.id))
            FROM rtp_loads l CROSS JOIN replaced r WHERE target = ?1 LIMIT ?2";
        let newest = self.last(select, &self.table, 1, |row| {
            let (ever, in_table) = (row.get(0)?, row.get(1)?);
            Ok(Ok(Newest { ever, in_table }))
        });
        Ok(newest?.pop().unwrap_or_default())
    }

    async fn add_verdict(&mut self, verdict: &Verdict) -> Result<()> {
        self.add(verdict)
    }

    async fn verdicts(&mut self, most: u32) -> Result<Vec<Verdict>> {
        let select = "SELECT run_id, started_at, ended_at, agrees, realtime_rows, batch_rows, classes, columns, samples, options
            FROM rtp_verdicts WHERE dataset = ?1 ORDER BY id DESC LIMIT ?2";
        self.last(select, &self.dataset, most, verdict)
    }
}
