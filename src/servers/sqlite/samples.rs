//! The dashboard's samples, in a small file of their own or in memory.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, params};

use crate::error::{Error, Result};
use crate::ports::sample_store::{Sample, SampleStore, Scope};
use crate::servers::sqlite::{self, Missing};

/// Page cache.
const CACHE_KIB: u32 = 512;

/// The steps by which samples are kept, in milliseconds, and for how long; the last one for ever, which is 9,000 rows a
/// year.
const TIERS: [(i64, i64); 3] = [
    (5_000, 2 * 3_600_000),
    (60_000, 8 * 86_400_000),
    (3_600_000, i64::MAX),
];

/// The table of older versions of rtp, for whatever was looked at; nobody can tell what its figures are about.
const OLD: (&str, &str) = (
    "samples",
    "tier,step,at,produced,committed,lag_records,lag_ms",
);

/// The tables of a history, with their columns.
const OWN: [(&str, &str); 2] = [
    ("scopes", "id,dataset,event_log,topic,consumer_group"),
    (
        "scope_samples",
        "scope,tier,step,at,produced,committed,lag_records,lag_ms",
    ),
];

/// The samples of each scope.
const TABLES: &str = "CREATE TABLE IF NOT EXISTS scopes (
  id INTEGER PRIMARY KEY,
  dataset TEXT NOT NULL,
  event_log TEXT NOT NULL,
  topic TEXT NOT NULL,
  consumer_group TEXT NOT NULL,
  UNIQUE (dataset, event_log, topic, consumer_group)
);
CREATE TABLE IF NOT EXISTS scope_samples (
  scope INTEGER NOT NULL,
  tier INTEGER NOT NULL,
  step INTEGER NOT NULL,
  at INTEGER NOT NULL,
  produced INTEGER,
  committed INTEGER,
  lag_records INTEGER,
  lag_ms INTEGER,
  PRIMARY KEY (scope, tier, step)
) WITHOUT ROWID";

/// An open store.
#[derive(Debug)]
pub struct SqliteSamples {
    db: Connection,
    path: PathBuf,
    /// Number of the scope.
    scope: i64,
}

impl SqliteSamples {
    /// Opens a file for one scope, which is created if it is missing; none: in memory.
    pub fn open(path: Option<&Path>, scope: &Scope) -> Result<Self> {
        let (db, path) = match path {
            Some(path) => (sqlite::open(path, Missing::Create, CACHE_KIB)?, path),
            None => {
                let db = sqlite::fail(Connection::open_in_memory(), "open", Path::new("memory"));
                (db?, Path::new("memory"))
            }
        };
        let created = drop_old(&db).and_then(|()| db.execute_batch(TABLES));
        sqlite::fail(created, "create a table in", path)?;
        let scope = sqlite::fail(number(&db, scope), "write to", path)?;
        Ok(SqliteSamples {
            db,
            path: path.into(),
            scope,
        })
    }

    fn insert(&self, s: &Sample) -> rusqlite::Result<()> {
        let tx = self.db.unchecked_transaction()?;
        for (tier, (width, kept)) in (0_i64..).zip(TIERS) {
            tx.prepare_cached(
                "INSERT OR REPLACE INTO scope_samples VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                self.scope,
                tier,
                s.at.div_euclid(width),
                s.at,
                s.produced,
                s.committed,
                s.lag_records,
                s.lag_ms
            ])?;
            let oldest = s.at.saturating_sub(kept).div_euclid(width);
            tx.prepare_cached(
                "DELETE FROM scope_samples WHERE scope = ?1 AND tier = ?2 AND step < ?3",
            )?
            .execute([self.scope, tier, oldest])?;
        }
        tx.commit()
    }

    fn select(&self, from: i64, step: i64) -> rusqlite::Result<Vec<Sample>> {
        // The coarsest that is fine enough.
        let tier = TIERS.iter().rposition(|(width, _)| *width <= step);
        let tier = i64::try_from(tier.unwrap_or(0)).unwrap_or(0);
        // Beside max(at), SQLite gives the other columns of the row that has it.
        let select = "SELECT max(at), produced, committed, lag_records, lag_ms FROM scope_samples
            WHERE scope = ?1 AND tier = ?2 AND at >= max(?3, 0) GROUP BY at / ?4 ORDER BY 1";
        let mut select = self.db.prepare_cached(select)?;
        let rows = select.query_map([self.scope, tier, from, step.max(1)], |row| {
            Ok(Sample {
                at: row.get(0)?,
                produced: row.get(1)?,
                committed: row.get(2)?,
                lag_records: row.get(3)?,
                lag_ms: row.get(4)?,
            })
        })?;
        rows.collect()
    }
}

/// An error if a file is there that is no history: somebody's database, or none at all (`Invalid`). It is not changed. What
/// cannot be opened or read at all is for [`SqliteSamples::open`] to tell.
pub fn must_be_history(path: &Path) -> Result<()> {
    let foreign = |what: String| {
        Err(Error::invalid(format!(
            "{} is not a history of the dashboard: {what}",
            path.display()
        )))
    };
    if std::fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        return Ok(());
    }
    let tables = sqlite::open_read_only(path).and_then(|db| tables(&db));
    match tables {
        Ok(tables) => match foreign_table(&tables) {
            Some(table) => foreign(format!("it has the table {table}")),
            None => Ok(()),
        },
        Err(e) if e.sqlite_error_code() == Some(ErrorCode::NotADatabase) => foreign(e.to_string()),
        Err(_) => Ok(()), // opening it fails too, and says why
    }
}

/// A table that no version of rtp has made; none if the file has a history, beside which there may be others.
fn foreign_table(tables: &[(String, String)]) -> Option<&str> {
    let has = |(name, columns)| tables.iter().any(|(n, c)| n == name && c == columns);
    if OWN.into_iter().all(has) {
        return None;
    }
    let known = |(name, columns): &&(String, String)| {
        let is_known = |own: (&str, &str)| own == (name, columns);
        is_known(OLD) || OWN.into_iter().any(is_known)
    };
    let foreign = tables.iter().find(|table| !known(table))?;
    Some(&foreign.0)
}

/// The tables and views of a file, with the names of their columns.
fn tables(db: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let select = "SELECT name, (SELECT group_concat(name) FROM pragma_table_info(s.name)) FROM sqlite_schema AS s
        WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let mut select = db.prepare(select)?;
    let rows = select.query_map([], |row| {
        Ok((
            row.get(0)?,
            row.get::<_, Option<String>>(1)?.unwrap_or_default(),
        ))
    })?;
    rows.collect()
}

/// Drops the table of older versions, and no other one of that name.
fn drop_old(db: &Connection) -> rusqlite::Result<()> {
    let (name, columns) = OLD;
    let is_old = |(n, c): &(String, String)| n == name && c == columns;
    match tables(db)?.iter().any(is_old) {
        true => db.execute_batch("DROP TABLE samples"),
        false => Ok(()),
    }
}

/// The number of a scope, which gets one if it has none.
fn number(db: &Connection, scope: &Scope) -> rusqlite::Result<i64> {
    let names = [&scope.dataset, &scope.event_log, &scope.topic, &scope.group];
    let insert = "INSERT OR IGNORE INTO scopes (dataset, event_log, topic, consumer_group) VALUES (?1, ?2, ?3, ?4)";
    db.execute(insert, names)?;
    let select = "SELECT id FROM scopes WHERE dataset = ?1 AND event_log = ?2 AND topic = ?3 AND consumer_group = ?4";
    db.query_row(select, names, |row| row.get(0))
}

#[async_trait]
impl SampleStore for SqliteSamples {
    async fn add(&mut self, sample: &Sample) -> Result<()> {
        let added = tokio::task::block_in_place(|| self.insert(sample));
        sqlite::fail(added, "write to", &self.path)
    }

    async fn oldest(&mut self) -> Result<Option<i64>> {
        let select = || {
            // A damaged one may have any time.
            let oldest = "SELECT min(at) FROM scope_samples WHERE scope = ?1 AND at > 0";
            self.db.query_row(oldest, [self.scope], |row| row.get(0))
        };
        sqlite::fail(tokio::task::block_in_place(select), "read", &self.path)
    }

    async fn since(&mut self, from: i64, step_ms: i64) -> Result<Vec<Sample>> {
        let read = tokio::task::block_in_place(|| self.select(from, step_ms));
        sqlite::fail(read, "read", &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: i64) -> Sample {
        Sample {
            at,
            produced: Some(at / 1_000),
            ..Sample::default()
        }
    }

    fn scope() -> Scope {
        Scope {
            dataset: "users".into(),
            event_log: "sqlite:log.db".into(),
            topic: "users".into(),
            group: "rtp".into(),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn old_samples_are_thinned_and_new_ones_are_not() {
        let mut store = SqliteSamples::open(None, &scope()).unwrap();
        assert_eq!(store.oldest().await.unwrap(), None);
        let hours = 30;
        // One a minute; the bound would be the same for one a second.
        for minute in 0..hours * 60 {
            store.add(&sample(minute * 60_000)).await.unwrap();
        }
        let count = |sql: &str| -> i64 { store.db.query_row(sql, [], |r| r.get(0)).unwrap() };
        assert_eq!(
            count("SELECT count(*) FROM scope_samples WHERE tier = 0"),
            121
        );
        assert_eq!(
            count("SELECT count(*) FROM scope_samples WHERE tier = 1"),
            1_800
        );
        assert_eq!(
            count("SELECT count(*) FROM scope_samples WHERE tier = 2"),
            30
        );
        assert_eq!(
            store.oldest().await.unwrap(),
            Some(60_000),
            "not that at 0, which no clock tells"
        );
        let hourly = store.since(0, 3_600_000).await.unwrap();
        assert_eq!(hourly.len(), 30);
        assert_eq!(
            hourly[0],
            sample(59 * 60_000),
            "the last sample of the hour"
        );
        let quarters = store.since(3_600_000, 900_000).await.unwrap();
        assert_eq!((quarters.len(), quarters[0]), (29 * 4, sample(74 * 60_000)));
        let fine = store
            .since(hours * 3_600_000 - 600_000, 5_000)
            .await
            .unwrap();
        assert_eq!(fine.len(), 10);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn samples_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/dashboard.db");
        for at in [5_000, 10_000] {
            let mut store = SqliteSamples::open(Some(&path), &scope()).unwrap();
            store.add(&sample(at)).await.unwrap();
        }
        let mut store = SqliteSamples::open(Some(&path), &scope()).unwrap();
        let all = store.since(0, 5_000).await.unwrap();
        assert_eq!(all, [sample(5_000), sample(10_000)]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_a_history_is_taken_for_one_and_nobody_elses_table_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, script: &str| {
            let path = folder.path().join(name);
            let db = Connection::open(&path).unwrap();
            db.execute_batch(script).unwrap();
            path
        };
        let samples = "CREATE TABLE samples (blood TEXT); INSERT INTO samples VALUES ('A')";
        for (name, script, table) in [
            ("a.db", samples, "samples"),
            ("b.db", "CREATE TABLE scopes (id)", "scopes"),
            ("c.db", "CREATE VIEW v AS SELECT 1 AS one", "v"),
        ] {
            let path = file(name, script);
            let before = std::fs::read(&path).unwrap();
            let error = must_be_history(&path).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Invalid);
            let told = format!("is not a history of the dashboard: it has the table {table}");
            assert!(error.to_string().ends_with(&told), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), before, "{name}");
        }
        let text = folder.path().join("text");
        std::fs::write(
            &text,
            "a text that is long enough to be told from a database".repeat(20),
        )
        .unwrap();
        must_be_history(&text).unwrap_err();
        must_be_history(&folder.path().join("missing.db")).unwrap();
        must_be_history(&file("empty.db", "")).unwrap();
        // A history of ours, beside which somebody has put a table of that name.
        let path = folder.path().join("ours.db");
        drop(SqliteSamples::open(Some(&path), &scope()).unwrap());
        file("ours.db", samples);
        must_be_history(&path).unwrap();
        let store = SqliteSamples::open(Some(&path), &scope()).unwrap();
        let blood = store
            .db
            .query_row("SELECT blood FROM samples", [], |r| r.get::<_, String>(0));
        assert_eq!(blood.unwrap(), "A");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_samples_of_another_dataset_log_topic_or_group_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dashboard.db");
        // As an older version left it.
        let old = Connection::open(&path).unwrap();
        old.execute_batch(
            "CREATE TABLE samples (tier, step, at, produced, committed, lag_records, lag_ms);
             INSERT INTO samples (tier, step, at) VALUES (0, 1, 5000)",
        )
        .unwrap();
        must_be_history(&path).unwrap();
        let mut first = SqliteSamples::open(Some(&path), &scope()).unwrap();
        assert_eq!(first.oldest().await.unwrap(), None);
        first.add(&sample(5_000)).await.unwrap();
        let others = [
            Scope {
                dataset: "x".into(),
                ..scope()
            },
            Scope {
                event_log: "x".into(),
                ..scope()
            },
            Scope {
                topic: "x".into(),
                ..scope()
            },
            Scope {
                group: "x".into(),
                ..scope()
            },
        ];
        // So much later that the first one would be deleted, and at the same step.
        for (n, other) in (0..).zip(&others) {
            let mut store = SqliteSamples::open(Some(&path), other).unwrap();
            assert_eq!(store.oldest().await.unwrap(), None, "{other:?}");
            store.add(&sample(5_001 + n)).await.unwrap();
            store.add(&sample(30 * 86_400_000)).await.unwrap();
        }
        assert_eq!(first.since(0, 5_000).await.unwrap(), [sample(5_000)]);
        assert_eq!(first.oldest().await.unwrap(), Some(5_000));
    }
}
