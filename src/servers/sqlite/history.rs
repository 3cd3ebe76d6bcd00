//! The history of the embedded batch store: written in the transaction of the load, by one statement over the staged
//! rows.

use std::path::Path;

use rusqlite::Connection;

use crate::dataset::ddl::quoted;
use crate::dataset::{AS_OF, Dataset};
use crate::error::Result;
use crate::servers::sqlite::ddl::{self, rows_of};
use crate::servers::sqlite::schema::DatasetTable;

/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// The history table of a dataset that keeps one.
#[derive(Debug)]
pub(super) struct History {
    /// The history as a dataset's table.
    history: Dataset,
    insert: String,
}

impl History {
    /// That of this dataset, if it keeps one.
    pub(super) fn of(dataset: &Dataset) -> Option<History> {
        dataset.history().map(|history| History {
            insert: insert(dataset, &history.batch.table),
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

    /// Records the staged rows, in the open transaction.
    pub(super) fn record(&self, db: &Connection) -> rusqlite::Result<()> {
        db.execute(&self.insert, []).map(|_| ())
    }
}

/// Of each key and day the newest staged row counts, and the stored one if that is newer. The others of a day come after
/// the newest, and find it stored. In key order, the index is traversed once.
fn insert(dataset: &Dataset, table: &str) -> String {
    let (key, time) = (quoted(&dataset.key().name), quoted(&dataset.time().name));
    let (rows, as_of) = (quoted(&rows_of(table)), quoted(AS_OF));
    let fields = dataset.fields.iter().map(|f| quoted(&f.name));
    let columns: Vec<String> = fields.chain(["\"rtp_digest\"".into()]).collect();
    let updates: Vec<String> = columns
        .iter()
        .filter(|column| **column != key)
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    let (columns, updates) = (columns.join(", "), updates.join(", "));
    // SQLite's division rounds toward zero, which is a later day before 1970.
    let day = format!("({time} - ({time} % {DAY} + {DAY}) % {DAY}) / {DAY}");
    format!(
        "INSERT INTO {rows} ({columns}, {as_of}) SELECT {columns}, {day} FROM temp.rtp_stage WHERE true \
         ORDER BY {key}, {time} DESC, \"rtp_digest\" DESC ON CONFLICT ({key}, {as_of}) DO UPDATE SET {updates} \
         WHERE (excluded.{time}, excluded.\"rtp_digest\") > ({rows}.{time}, {rows}.\"rtp_digest\")"
    )
}
