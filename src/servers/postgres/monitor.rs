//! Watches a batch store in PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;

use crate::dataset::Dataset;
use crate::dataset::ddl::quoted;
use crate::error::{Context, Error, Result};
use crate::ports::monitor::{RowCount, StoreMonitor};
use crate::servers::address::Address;
use crate::servers::postgres::{Session, Target, open_tables};

/// The table of the heartbeat's probes.
pub const PROBES: &str = "CREATE TABLE IF NOT EXISTS rtp_heartbeat (
  writer text PRIMARY KEY,
  id text NOT NULL,
  probed_at timestamp(3) with time zone NOT NULL
)";

/// Keeps one row per writer; another heartbeat of the same name may write after us.
const PROBE: &str = "INSERT INTO rtp_heartbeat VALUES ($1, $2, clock_timestamp())
  ON CONFLICT (writer) DO UPDATE SET id = excluded.id, probed_at = excluded.probed_at
  RETURNING probed_at::text";
const READ: &str = "SELECT 1 FROM rtp_heartbeat
  WHERE writer = $1 AND (id = $2 OR probed_at >= $3::text::timestamp with time zone)";
const LAST_LOAD: &str =
    "SELECT (extract(epoch FROM max(loaded_at)) * 1000)::bigint FROM rtp_loads WHERE target = $1";

/// Rows up to which the table is counted.
const COUNTED: i64 = 100_000;

/// Pages that are read for an estimate of a table that was never analysed.
const SAMPLED_PAGES: f64 = 1_000.0;

const PAGES: &str =
    "SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint";

/// Negative for a table that was never analysed.
const ESTIMATE: &str = "SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass($1)";

/// The oldest transaction that locks the table against writers: its process, the lock, and since when.
const BLOCKER: &str = "SELECT l.pid, l.mode,
    to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
  FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
  WHERE l.granted AND l.relation = to_regclass($1) AND l.database = (SELECT oid FROM pg_database
    WHERE datname = current_database()) AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock',
    'ExclusiveLock', 'AccessExclusiveLock')
  ORDER BY a.xact_start LIMIT 1";

/// One batch store.
#[derive(Debug)]
pub struct PostgresStoreMonitor {
    target: Arc<Target>,
    session: Option<Session>,
    table: String,
}

impl PostgresStoreMonitor {
    /// Connects to a store that must have its tables.
    pub async fn open(server: &Address, dataset: &Dataset) -> Result<Self> {
        let mut monitor = PostgresStoreMonitor {
            target: Target::new(server)?,
            session: None,
            table: dataset.batch.table.clone(),
        };
        monitor.session().await?;
        Ok(monitor)
    }

    async fn session(&mut self) -> Result<&mut Session> {
        let session = match self.session.take() {
            Some(session) if session.is_open() => session,
            _ => {
                let tables = [&*self.table, "rtp_heartbeat", "rtp_loads"];
                open_tables(&self.target, &tables).await?
            }
        };
        Ok(self.session.insert(session))
    }

    fn context(&self) -> String {
        format!("cannot watch {}", self.target.address())
    }
}

/// The rows of a table by those on some of its pages.
fn sampled(client: &mut ::postgres::Client, table: &str) -> Result<i64, ::postgres::Error> {
    let pages: i64 = client.query_one(PAGES, &[&table])?.try_get(0)?;
    let percent = (100.0 * SAMPLED_PAGES / pages as f64).clamp(f64::MIN_POSITIVE, 100.0);
    let count = format!(
        "SELECT (count(*) * 100 / {percent}::float8)::bigint FROM {table} TABLESAMPLE SYSTEM ({percent}) REPEATABLE (0)"
    );
    client.query_one(&count, &[])?.try_get(0)
}

#[async_trait]
impl StoreMonitor for PostgresStoreMonitor {
    async fn probe(&mut self, writer: &str, id: &str) -> Result<()> {
        let (writer, id) = (writer.to_string(), id.to_string());
        let work = move |client: &mut ::postgres::Client| {
            let written = client.query_one(PROBE, &[&writer, &id])?;
            let at: String = written.try_get(0)?;
            Ok(client.query_opt(READ, &[&writer, &id, &at])?.is_some())
        };
        match self.session().await?.run(work).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::refused(format!(
                "a probe row written to {} cannot be read back",
                self.target.address()
            ))),
            Err(e) => Err(e.context(self.context())),
        }
    }

    async fn last_write(&mut self) -> Result<Option<i64>> {
        let table = self.table.clone();
        let work = move |client: &mut ::postgres::Client| {
            client.query_one(LAST_LOAD, &[&table])?.try_get(0)
        };
        let last = self.session().await?.run(work).await;
        last.context(self.context())
    }

    /// What the server's own maintenance has estimated, if that is much; otherwise counted up to a bound, and estimated
    /// beyond it.
    async fn rows(&mut self) -> Result<Option<RowCount>> {
        let table = quoted(&self.table);
        let work = move |client: &mut ::postgres::Client| {
            let estimated: i64 = client.query_one(ESTIMATE, &[&table])?.try_get(0)?;
            if estimated > COUNTED {
                return Ok((estimated, false));
            }
            let count = format!("SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT $1) AS counted");
            let counted: i64 = client.query_one(&count, &[&(COUNTED + 1)])?.try_get(0)?;
            match counted <= COUNTED {
                true => Ok((counted, true)),
                false => Ok((sampled(client, &table)?.max(counted), false)),
            }
        };
        let counted = self.session().await?.run(work).await;
        let (count, exact) = counted.context(self.context())?;
        let count = u64::try_from(count).unwrap_or(0);
        Ok(Some(RowCount { count, exact }))
    }

    /// A lock on the table that blocks writers, if any.
    async fn remark(&mut self) -> Result<Option<String>> {
        let table = quoted(&self.table);
        let name = self.table.clone();
        let work = move |client: &mut ::postgres::Client| {
            let Some(row) = client.query_opt(BLOCKER, &[&table])? else {
                return Ok(None);
            };
            let (pid, mode, since): (i32, String, Option<String>) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let since = since.map_or(String::new(), |since| format!(" since {since}"));
            Ok(Some(format!(
                "process {pid} of the server blocks writers of {name} ({mode}{since})"
            )))
        };
        let found = self.session().await?.run(work).await;
        found.context(self.context())
    }
}
