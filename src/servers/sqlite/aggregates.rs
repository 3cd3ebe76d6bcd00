//! The figures in SQLite: the rows of a day are counted into a temporary table, one statement a dimension, and what
//! differs from the stored figures is changed.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use jiff::civil::Date;
use rusqlite::{Connection, params};

use crate::dataset::ddl::quoted;
use crate::dataset::{
    AS_OF, Aggregate, By, Dataset, Field, FieldType, LATENESS, UNBORN, VERY_LATE,
};
use crate::error::{Context, Error, Result};
use crate::ports::aggregates::{
    Aggregates, Computed, Fewer, Figure, INVALID, MAX_VALUES, Summary, Top, bounds, names, number,
    too_many,
};
use crate::servers::sqlite::ddl::rows_of;
use crate::servers::sqlite::{self, batch_store};

/// Page cache: each dimension reads the table once.
const CACHE_KIB: u32 = 16_384;

/// The table of figures, and what keeps a second figure of a value out of it.
pub const FIGURES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS rtp_aggregates (
  dataset TEXT NOT NULL,
  aggregate TEXT NOT NULL,
  day TEXT NOT NULL,
  value TEXT,
  count INTEGER NOT NULL,
  run_id TEXT NOT NULL,
  computed_at INTEGER NOT NULL
)",
    "CREATE UNIQUE INDEX IF NOT EXISTS rtp_aggregates_key
  ON rtp_aggregates (dataset, day, aggregate, (value IS NULL), ifnull(value, ''))",
];

const COUNTED: &str = "CREATE TEMP TABLE rtp_figures (value TEXT, count INTEGER NOT NULL);
  CREATE INDEX temp.rtp_figures_value ON rtp_figures (value)";

const REMOVE: &str = "DELETE FROM rtp_aggregates WHERE dataset = ?1 AND day = ?2 AND aggregate = ?3
  AND NOT EXISTS (SELECT 1 FROM temp.rtp_figures AS f WHERE f.value IS rtp_aggregates.value)";

const WRITE: &str =
    "INSERT INTO rtp_aggregates (dataset, day, aggregate, value, count, run_id, computed_at)
  SELECT ?1, ?2, ?3, value, count, ?4, ?5 FROM temp.rtp_figures WHERE true
  ON CONFLICT (dataset, day, aggregate, (value IS NULL), ifnull(value, '')) DO UPDATE
  SET count = excluded.count, run_id = excluded.run_id, computed_at = excluded.computed_at
  WHERE rtp_aggregates.count <> excluded.count";

const READ: &str = "SELECT aggregate, value, count, run_id, computed_at FROM rtp_aggregates
  WHERE dataset = ?1 AND day = ?2 ORDER BY aggregate, value";

const TOP: &str = "SELECT value, count, count(*) OVER (), sum(count) OVER () FROM rtp_aggregates
  WHERE dataset = ?1 AND day = ?2 AND aggregate = ?3 ORDER BY count DESC, value LIMIT ?4";

const SUMMARY: &str = "SELECT count(*), ifnull(sum(count), 0), max(computed_at) FROM rtp_aggregates
  WHERE dataset = ?1 AND day = ?2";

const LAST_DAY: &str = "SELECT max(day) FROM rtp_aggregates WHERE dataset = ?1";

/// The figures of one dataset.
#[derive(Debug)]
pub struct SqliteAggregates {
    db: Connection,
    path: PathBuf,
    dataset: Dataset,
}

impl SqliteAggregates {
    /// Opens a file that must have the tables.
    pub fn open(path: &Path, dataset: &Dataset) -> Result<Self> {
        let rows = rows_of(&dataset.batch.table);
        let history = dataset
            .history()
            .map(|history| rows_of(&history.batch.table));
        let mut tables = vec![&*rows, "rtp_aggregates"];
        tables.extend(history.as_deref());
        let db = sqlite::open_tables(path, &tables, CACHE_KIB)?;
        batch_store::check(&db, path, dataset)?;
        sqlite::fail(db.execute_batch(COUNTED), "count the rows of", path)?;
        Ok(SqliteAggregates {
            db,
            path: path.into(),
            dataset: dataset.clone(),
        })
    }

    /// Counts in one transaction, which nobody else may write in.
    fn compute_day(&self, day: Date, fewer: Fewer, run_id: &str) -> Result<Computed> {
        let plain = |e: rusqlite::Error| sqlite::error(&e);
        sqlite::rollback_open(&self.db).map_err(plain)?;
        self.db.execute_batch("BEGIN IMMEDIATE").map_err(plain)?;
        match self.compute_open(day, fewer, run_id) {
            Ok(computed) => {
                self.db.execute_batch("COMMIT").map_err(plain)?;
                Ok(computed)
            }
            Err(e) => {
                sqlite::rollback_open(&self.db).map_err(plain)?;
                Err(e)
            }
        }
    }

    fn compute_open(&self, day: Date, fewer: Fewer, run_id: &str) -> Result<Computed> {
        let plain = |e: rusqlite::Error| sqlite::error(&e);
        let mut done = self.rows(day).map_err(plain)?;
        done.stored_rows = self.stored_rows(day).map_err(plain)?;
        done.is_kept = fewer == Fewer::Keep && done.rows < done.stored_rows;
        if done.is_kept {
            return Ok(done);
        }
        for aggregate in &self.dataset.aggregates {
            let figures = self.count(aggregate, &done.table, day).map_err(plain)?;
            if figures > MAX_VALUES {
                return Err(too_many(aggregate, day));
            }
            let (removed, written) = self.store(aggregate, day, run_id).map_err(plain)?;
            done.figures += figures;
            done.removed += removed;
            done.written += written;
        }
        Ok(done)
    }

    /// The table that has the rows of a day, and how many.
    fn rows(&self, day: Date) -> rusqlite::Result<Computed> {
        let count = |table: &str| {
            let count = format!("SELECT count(*) {}", self.of_day(table));
            self.db.query_row(&count, bounds(day), |row| row.get(0))
        };
        let table = self.dataset.batch.table.clone();
        let rows = count(&table)?;
        let mut counted = Computed::of_table(table, rows);
        if let Some(history) = self.dataset.history().map(|history| history.batch.table) {
            let unrecorded = self.unrecorded(&history, day)?;
            let rows = count(&history)?;
            counted.prefer(history, rows, unrecorded);
        }
        Ok(counted)
    }

    /// How many of the batch table's rows of a day the history lacks.
    fn unrecorded(&self, history: &str, day: Date) -> rusqlite::Result<u64> {
        let (key, as_of) = (quoted(&self.dataset.key().name), quoted(AS_OF));
        let count = format!(
            "SELECT count(*) {} AND NOT EXISTS (SELECT 1 FROM {} AS h
               WHERE h.{key} = b.{key} AND h.{as_of} = ?1 / 86400000 AND h.rtp_digest = b.rtp_digest)",
            self.of_day(&self.dataset.batch.table),
            quoted(&rows_of(history))
        );
        self.db.query_row(&count, bounds(day), |row| row.get(0))
    }

    fn of_day(&self, table: &str) -> String {
        let time = quoted(&self.dataset.time().name);
        format!(
            "FROM {} AS b WHERE {time} >= ?1 AND {time} < ?2",
            quoted(&rows_of(table))
        )
    }

    /// Every dimension counts all rows, so the largest sum is the number of rows.
    fn stored_rows(&self, day: Date) -> rusqlite::Result<u64> {
        let select = format!(
            "SELECT ifnull(max(rows), 0) FROM (SELECT sum(count) AS rows FROM rtp_aggregates
             WHERE dataset = ?1 AND day = ?2 AND aggregate IN ({}) GROUP BY aggregate)",
            names(&self.dataset)
        );
        let of = params![self.dataset.name, day.to_string()];
        self.db.query_row(&select, of, |row| row.get(0))
    }

    /// The number of figures, and at most one more than a dimension may have.
    fn count(&self, aggregate: &Aggregate, table: &str, day: Date) -> rusqlite::Result<u64> {
        self.db.execute_batch("DELETE FROM temp.rtp_figures")?;
        let count = format!(
            "INSERT INTO temp.rtp_figures SELECT {}, count(*) {} GROUP BY 1 LIMIT {}",
            expression(&self.dataset, aggregate, day),
            self.of_day(table),
            MAX_VALUES + 1
        );
        let figures = self.db.execute(&count, bounds(day))?;
        Ok(figures as u64)
    }

    /// The number of figures removed, and of those inserted or replaced.
    fn store(&self, of: &Aggregate, day: Date, run_id: &str) -> rusqlite::Result<(u64, u64)> {
        let (dataset, day) = (&self.dataset.name, day.to_string());
        let removed = self.db.execute(REMOVE, params![dataset, day, of.name])?;
        let now = crate::time::now_ms();
        let values = params![dataset, day, of.name, run_id, now];
        let written = self.db.execute(WRITE, values)?;
        Ok((removed as u64, written as u64))
    }

    fn read_top(&self, day: Date, aggregate: &str, most: u32) -> rusqlite::Result<Top> {
        let mut select = self.db.prepare_cached(TOP)?;
        let of = params![self.dataset.name, day.to_string(), aggregate, most];
        let mut rows = select.query(of)?;
        let mut top = Top::default();
        while let Some(row) = rows.next()? {
            top.values.push((row.get(0)?, row.get(1)?));
            (top.distinct, top.rows) = (row.get(2)?, row.get(3)?);
        }
        Ok(top)
    }

    fn read_summary(&self, day: Date) -> rusqlite::Result<Summary> {
        let mut select = self.db.prepare_cached(SUMMARY)?;
        select.query_row(params![self.dataset.name, day.to_string()], |row| {
            Ok(Summary {
                figures: row.get(0)?,
                rows: row.get(1)?,
                computed_at: row.get(2)?,
            })
        })
    }

    fn read_day(&self, day: Date) -> rusqlite::Result<Vec<Figure>> {
        let mut select = self.db.prepare_cached(READ)?;
        let of = params![self.dataset.name, day.to_string()];
        let figures = select.query_map(of, |row| {
            Ok(Figure {
                aggregate: row.get(0)?,
                value: row.get(1)?,
                count: row.get(2)?,
                run_id: row.get(3)?,
                computed_at: row.get(4)?,
            })
        })?;
        figures.collect()
    }
}

#[async_trait]
impl Aggregates for SqliteAggregates {
    async fn compute(&mut self, day: Date, fewer: Fewer, run_id: &str) -> Result<Computed> {
        tokio::task::block_in_place(|| self.compute_day(day, fewer, run_id)).context(format_args!(
            "cannot compute the figures of {day} in {}",
            self.path.display()
        ))
    }

    async fn read(&mut self, day: Date) -> Result<Vec<Figure>> {
        let read = tokio::task::block_in_place(|| self.read_day(day));
        sqlite::fail(read, "read the figures in", &self.path)
    }

    async fn last_day(&mut self) -> Result<Option<Date>> {
        let name = [&self.dataset.name];
        let day: rusqlite::Result<Option<String>> =
            self.db.query_row(LAST_DAY, name, |row| row.get(0));
        let day = sqlite::fail(day, "read the figures in", &self.path)?;
        let parsed = day.map(|day| day.parse()).transpose();
        parsed.map_err(|e| Error::internal(format!("a figure's day: {e}")))
    }

    async fn top(&mut self, day: Date, aggregate: &str, most: u32) -> Result<Top> {
        let read = tokio::task::block_in_place(|| self.read_top(day, aggregate, most));
        sqlite::fail(read, "read the figures in", &self.path)
    }

    async fn summary(&mut self, day: Date) -> Result<Summary> {
        let read = tokio::task::block_in_place(|| self.read_summary(day));
        sqlite::fail(read, "read the figures in", &self.path)
    }
}

/// The group of a row, as text.
fn expression(dataset: &Dataset, aggregate: &Aggregate, day: Date) -> String {
    let field = &dataset.fields[aggregate.field];
    let column = quoted(&field.name);
    match aggregate.by {
        By::Value => value(field, &column),
        By::Band { width } => {
            let born = of_time(field, &column, "%Y%m%d");
            let (born, day) = (format!("CAST({born} AS INTEGER)"), number(day));
            let age = format!("({day} - {born}) / 10000");
            let low = format!("({age} / {width} * {width})");
            let band = match width {
                1 => format!("printf('%d', {low})"),
                _ => format!("printf('%d-%d', {low}, {low} + {})", width - 1),
            };
            let band = format!("CASE WHEN {born} > {day} THEN '{UNBORN}' ELSE {band} END");
            dated(field, &band)
        }
        // Without the characters other than @ at its end, the text ends with its last @.
        By::Domain => {
            let start = format!("length(rtrim({column}, replace({column}, '@', ''))) + 1");
            let domain = format!(
                "CASE WHEN instr({column}, '@') > 0 THEN lower(substr({column}, {start})) END"
            );
            fitting(&column, "text", &domain)
        }
        By::Month => dated(field, &of_time(field, &column, "%Y-%m")),
        By::Hour => dated(field, &of_time(field, &column, "%H")),
        By::Lateness => {
            let late = format!("{column} - {}", quoted(&dataset.time().name));
            let buckets =
                LATENESS.map(|(below, name)| format!("WHEN {late} < {below} THEN '{name}'"));
            let bucket = format!("CASE {} ELSE '{VERY_LATE}' END", buckets.join(" "));
            dated(field, &bucket)
        }
    }
}

fn value(field: &Field, column: &str) -> String {
    match field.kind {
        FieldType::Boolean => {
            let words = format!(
                "CASE {column} WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE '{INVALID}' END"
            );
            fitting(column, "integer", &words)
        }
        FieldType::Date => dated(field, &of_time(field, column, "%Y-%m-%d")),
        FieldType::Text => fitting(column, "text", column),
        _ => fitting(column, "integer", &format!("CAST({column} AS TEXT)")),
    }
}

/// A part of a timestamp or date; SQLite's division rounds toward zero, which would be later before 1970.
fn of_time(field: &Field, column: &str, format: &str) -> String {
    let seconds = match field.kind {
        FieldType::Date => format!("{column} * 86400"),
        _ => format!("({column} - ({column} % 1000 + 1000) % 1000) / 1000"),
    };
    format!("strftime('{format}', {seconds}, 'unixepoch')")
}

/// The expression, for times and dates of the years that the dataset's types have.
fn dated(field: &Field, expression: &str) -> String {
    let column = quoted(&field.name);
    let [first, last] = match field.kind {
        FieldType::Date => [-719_162, 2_932_896],
        _ => [-62_135_596_800_000_i64, 253_402_300_799_999],
    };
    let dated = format!(
        "CASE WHEN {column} BETWEEN {first} AND {last} THEN {expression} ELSE '{INVALID}' END"
    );
    fitting(&column, "integer", &dated)
}

/// The expression, for values of this type: a column of SQLite can hold any.
fn fitting(column: &str, stored: &str, expression: &str) -> String {
    format!(
        "CASE typeof({column}) WHEN '{stored}' THEN {expression} WHEN 'null' THEN NULL ELSE '{INVALID}' END"
    )
}
