//! The history of the embedded batch store: written in the transaction of the load, by one statement over the staged
//! rows.

use std::path::Path;

use rusqlite::Connection;

use crate::dataset::ddl::quoted;
use crate::dataset::{AS_OF, Dataset};
use crate::error::Result;
use crate::ports::batch_store::Mode;
use crate::servers::sqlite::ddl::{self, rows_of};
use crate::servers::sqlite::schema::DatasetTable;

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// The history table of a dataset that keeps one.
#[derive(Debug)]
pub(super) struct History {
    /// The history as a dataset's table.
    history: Dataset,
    /// The table of the current rows.
    batch: String,
}

impl History {
    /// That of this dataset, if it keeps one.
    pub(super) fn of(dataset: &Dataset) -> Option<History> {
        dataset.history().map(|history| History {
            batch: quoted(&rows_of(&dataset.batch.table)),
            history,
        })
    }

    fn table(&self) -> DatasetTable<'_> {
        DatasetTable {
            dataset: &self.history,
            name: &self.history.batch.table,
            own: 1,
            also_by: Some(AS_OF),
        }
    }

    /// Creates the table where it is missing.
    pub(super) fn create(&self, path: &Path) -> Result<()> {
        self.table()
            .create(path, &ddl::history_table(&self.history))
    }

    /// The table behind the view.
    pub(super) fn rows(&self) -> String {
        rows_of(&self.history.batch.table)
    }

    /// An error if the table cannot take the dataset's rows.
    pub(super) fn check(&self, db: &Connection, path: &Path) -> Result<()> {
        self.table().check(db, path)
    }

    /// Records the staged rows, in the open transaction, after the batch table has taken those that it takes.
    pub(super) fn record(&self, db: &Connection, mode: Mode) -> rusqlite::Result<()> {
        let insert = self.insert(mode);
        db.prepare_cached(&insert)?.execute([]).map(|_| ())
    }

    /// Of each key and day the newest staged row counts; what becomes of the recorded one depends on the mode, as in the
    /// batch table.
    fn insert(&self, mode: Mode) -> String {
        let (key, time) = (
            quoted(&self.history.key().name),
            quoted(&self.history.time().name),
        );
        let (rows, as_of, digest) = (quoted(&self.rows()), quoted(AS_OF), "\"rtp_digest\"");
        let fields = self.history.fields.iter().map(|f| quoted(&f.name));
        let columns: Vec<String> = fields
            .filter(|c| *c != as_of)
            .chain([digest.into()])
            .collect();
        let updates: Vec<String> = columns
            .iter()
            .filter(|column| **column != key)
            .map(|column| format!("{column} = excluded.{column}"))
            .collect();
        let (columns, updates) = (columns.join(", "), updates.join(", "));
        // SQLite's division rounds toward zero, which is a later day before 1970.
        let day = format!("({time} - ({time} % {DAY} + {DAY}) % {DAY}) / {DAY}");
        let batch = &self.batch;
        let differs = format!("excluded.{digest} <> {rows}.{digest}");
        let is_current = format!(
            "{differs} AND EXISTS (SELECT 1 FROM {batch} AS b WHERE b.{key} = excluded.{key} AND b.{digest} = excluded.{digest})"
        );
        let all = format!("SELECT {columns}, {day} FROM temp.rtp_stage AS s");
        // The others of a day come after the newest, and find it recorded. In key order, the index is traversed once.
        let order = format!("ORDER BY {key}, {time} DESC, {digest} DESC");
        let (staged, replaces) = match mode {
            Mode::UpdateIfNewer => (
                format!("{all} WHERE true {order}"),
                format!(
                    "(excluded.{time}, excluded.{digest}) > ({rows}.{time}, {rows}.{digest}) OR ({is_current})"
                ),
            ),
            Mode::Ignore => (
                format!(
                    "{all} WHERE ({time}, {digest}) <= (SELECT b.{time}, b.{digest} FROM {batch} AS b WHERE b.{key} = s.{key}) {order}"
                ),
                is_current,
            ),
            Mode::Insert | Mode::Upsert | Mode::Replace | Mode::ReplaceOrEmpty => (
                format!(
                    "SELECT {columns}, rtp_day FROM (SELECT *, {day} AS rtp_day, \
                     row_number() OVER (PARTITION BY {key}, {day} ORDER BY {time} DESC, {digest} DESC) AS rtp_rank \
                     FROM temp.rtp_stage) WHERE rtp_rank = 1"
                ),
                differs,
            ),
        };
        format!(
            "INSERT INTO {rows} ({columns}, {as_of}) {staged} \
             ON CONFLICT ({key}, {as_of}) DO UPDATE SET {updates} WHERE {replaces}"
        )
    }
}
