//! What rtp keeps about its loads and verdicts in a batch store in PostgreSQL.

use std::sync::Arc;

use ::postgres::{Client, Row, Transaction};
use async_trait::async_trait;

use crate::dataset::Dataset;
use crate::error::{Context, Error, Result};
use crate::ports::ledger::{Ledger, LoadInfo, LoadRecord, LoadedFile, Newest, Verdict, to_json};
use crate::servers::address::Address;
use crate::servers::postgres::{Session, Target, columns, open_tables};

/// The table of the loads.
pub(super) const LOADS: &str = "CREATE TABLE IF NOT EXISTS rtp_loads (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run_id text NOT NULL,
  target text NOT NULL,
  mode text NOT NULL,
  loaded_at timestamp(3) with time zone NOT NULL,
  written bigint NOT NULL,
  started_at timestamp(3) with time zone,
  newest timestamp(3) with time zone,
  inputs text[],
  rejects text
)";

/// The table of the verdicts.
pub(super) const VERDICTS: &str = "CREATE TABLE IF NOT EXISTS rtp_verdicts (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run_id text NOT NULL,
  dataset text NOT NULL,
  started_at timestamp(3) with time zone NOT NULL,
  ended_at timestamp(3) with time zone NOT NULL,
  agrees boolean NOT NULL,
  realtime_rows bigint NOT NULL,
  batch_rows bigint NOT NULL,
  classes text NOT NULL,
  columns text NOT NULL,
  samples text NOT NULL,
  options text
)";

/// Adds to a store what the version of rtp that created it did not keep. Only the owner of a table may alter it, so one
/// that lacks nothing is left alone.
pub(super) const UPGRADE: &str = "DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('rtp_loads') AND attname = 'rejects') THEN
    ALTER TABLE rtp_loads ADD COLUMN IF NOT EXISTS started_at timestamp(3) with time zone,
      ADD COLUMN IF NOT EXISTS newest timestamp(3) with time zone,
      ADD COLUMN IF NOT EXISTS inputs text[], ADD COLUMN IF NOT EXISTS rejects text;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('rtp_verdicts') AND attname = 'options') THEN
    ALTER TABLE rtp_verdicts ADD COLUMN IF NOT EXISTS options text;
  END IF;
END $$";

const RECORD: &str = "INSERT INTO rtp_loads
    (run_id, target, mode, loaded_at, written, started_at, newest, inputs, rejects)
  VALUES ($1, $2, $3, clock_timestamp(), $4, 'epoch'::timestamptz + $5::bigint * interval '1 millisecond',
    'epoch'::timestamptz + $6::bigint * interval '1 millisecond', $7, $8)";

const ADD_VERDICT: &str = "INSERT INTO rtp_verdicts
    (run_id, dataset, started_at, ended_at, agrees, realtime_rows, batch_rows, classes, columns, samples, options)
  VALUES ($1, $2, 'epoch'::timestamptz + $3::bigint * interval '1 millisecond',
    'epoch'::timestamptz + $4::bigint * interval '1 millisecond', $5, $6, $7, $8, $9, $10, $11)";

const LAST_LOADS: &str = "SELECT run_id, mode, (extract(epoch FROM loaded_at) * 1000)::bigint, written,
    (extract(epoch FROM coalesce(started_at, loaded_at)) * 1000)::bigint, (extract(epoch FROM newest) * 1000)::bigint,
    coalesce(inputs, '{}'), rejects
  FROM rtp_loads WHERE target = $1 ORDER BY id DESC LIMIT $2";

const NEWEST: &str =
    "WITH replaced AS (SELECT max(id) AS id FROM rtp_loads WHERE target = $1 AND mode = 'replace')
  SELECT (extract(epoch FROM max(newest)) * 1000)::bigint,
    (extract(epoch FROM max(newest) FILTER (WHERE l.id >= coalesce(r.id, l.id))) * 1000)::bigint
  FROM rtp_loads l CROSS JOIN replaced r WHERE target = $1 LIMIT $2";

const LAST_VERDICTS: &str = "SELECT run_id, (extract(epoch FROM started_at) * 1000)::bigint,
    (extract(epoch FROM ended_at) * 1000)::bigint, agrees, realtime_rows, batch_rows, classes, columns, samples,
    options
  FROM rtp_verdicts WHERE dataset = $1 ORDER BY id DESC LIMIT $2";

/// Records a load of a table, in the open transaction.
pub(super) fn record(
    transaction: &mut Transaction<'_>,
    table: &str,
    mode: &str,
    info: &LoadInfo,
    written: u64,
) -> Result<(), ::postgres::Error> {
    let inputs: Vec<String> = info.inputs.iter().map(LoadedFile::to_text).collect();
    let values: [&(dyn ::postgres::types::ToSql + Sync); 8] = [
        &info.run_id,
        &table,
        &mode,
        &signed(written),
        &info.started_at,
        &info.newest,
        &inputs,
        &info.rejects,
    ];
    transaction.execute(RECORD, &values).map(|_| ())
}

/// An error if the table of the loads lacks what this version keeps about them.
pub(super) async fn must_be_current(session: &mut Session, target: &Target) -> Result<()> {
    must_have(session, target, "rtp_loads", "rejects").await
}

async fn must_have(
    session: &mut Session,
    target: &Target,
    table: &'static str,
    column: &str,
) -> Result<()> {
    let there = session.run(move |client| columns(client, table)).await;
    let there = there.context(format_args!("cannot open {}", target.address()))?;
    match there.iter().any(|(name, _)| name == column) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{} was set up by an older version of rtp",
            target.address()
        ))
        .hint("run `rtp init` to upgrade it; that does not change the rows")),
    }
}

/// A ledger, and the session that reads and extends it.
#[derive(Debug)]
pub struct PostgresLedger {
    target: Arc<Target>,
    session: Option<Session>,
    dataset: String,
    table: String,
}

impl PostgresLedger {
    /// Connects to a store that must have its tables.
    pub async fn open(server: &Address, dataset: &Dataset) -> Result<Self> {
        let mut ledger = PostgresLedger {
            target: Target::new(server)?,
            session: None,
            dataset: dataset.name.clone(),
            table: dataset.batch.table.clone(),
        };
        ledger.session().await?;
        Ok(ledger)
    }

    async fn session(&mut self) -> Result<&mut Session> {
        let session = match self.session.take() {
            Some(session) if session.is_open() => session,
            _ => {
                let mut session = open_tables(&self.target, &["rtp_loads"]).await?;
                must_be_current(&mut session, &self.target).await?;
                let mut session = open_tables(&self.target, &["rtp_verdicts"]).await?;
                must_have(&mut session, &self.target, "rtp_verdicts", "options").await?;
                session
            }
        };
        Ok(self.session.insert(session))
    }

    /// The last rows of a table about `of`.
    async fn last(&mut self, select: &'static str, of: String, most: u32) -> Result<Vec<Row>> {
        let most = i64::from(most);
        let work = move |client: &mut Client| client.query(select, &[&of, &most]);
        let rows = self.session().await?.run(work).await;
        rows.context(self.unread())
    }

    fn unread(&self) -> String {
        format!("cannot read the ledger in {}", self.target.address())
    }
}

/// A load without its inputs, and they as text.
fn load(row: &Row) -> Result<(LoadRecord, Vec<String>), ::postgres::Error> {
    let record = LoadRecord {
        info: LoadInfo {
            run_id: row.try_get(0)?,
            started_at: row.try_get(4)?,
            newest: row.try_get(5)?,
            inputs: Vec::new(),
            rejects: row.try_get(7)?,
        },
        mode: row.try_get(1)?,
        loaded_at: row.try_get(2)?,
        written: unsigned(row.try_get(3)?),
    };
    Ok((record, row.try_get(6)?))
}

/// A verdict without its maps and options, and they as text.
type Parts = (Verdict, [String; 3], Option<String>);

fn verdict(row: &Row) -> Result<Parts, ::postgres::Error> {
    let verdict = Verdict {
        run_id: row.try_get(0)?,
        started_at: row.try_get(1)?,
        ended_at: row.try_get(2)?,
        agrees: row.try_get(3)?,
        rows: [unsigned(row.try_get(4)?), unsigned(row.try_get(5)?)],
        ..Verdict::default()
    };
    let maps = [row.try_get(6)?, row.try_get(7)?, row.try_get(8)?];
    Ok((verdict, maps, row.try_get(9)?))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[async_trait]
impl Ledger for PostgresLedger {
    async fn loads(&mut self, most: u32) -> Result<Vec<LoadRecord>> {
        let rows = self.last(LAST_LOADS, self.table.clone(), most).await?;
        let read = rows.iter().map(|row| {
            let (mut record, inputs) = load(row).map_err(|e| super::error(&e))?;
            let inputs = inputs.into_iter().map(LoadedFile::from_text);
            record.info.inputs = inputs.collect::<Result<_>>()?;
            Ok(record)
        });
        read.collect::<Result<_>>().context(self.unread())
    }

    async fn newest(&mut self) -> Result<Newest> {
        let rows = self.last(NEWEST, self.table.clone(), 1).await?;
        let read = |row: &Row| -> Result<Newest, ::postgres::Error> {
            Ok(Newest {
                ever: row.try_get(0)?,
                in_table: row.try_get(1)?,
            })
        };
        let newest = rows.first().map_or(Ok(Newest::default()), read);
        newest.map_err(|e| super::error(&e)).context(self.unread())
    }

    async fn add_verdict(&mut self, verdict: &Verdict) -> Result<()> {
        let (dataset, v) = (self.dataset.clone(), verdict.clone());
        let maps = [
            to_json(&v.classes)?,
            to_json(&v.columns)?,
            to_json(&v.samples)?,
            to_json(&v.options)?,
        ];
        let work = move |client: &mut Client| {
            let rows = v.rows.map(signed);
            client.execute(
                ADD_VERDICT,
                &[
                    &v.run_id,
                    &dataset,
                    &v.started_at,
                    &v.ended_at,
                    &v.agrees,
                    &rows[0],
                    &rows[1],
                    &maps[0],
                    &maps[1],
                    &maps[2],
                    &maps[3],
                ],
            )
        };
        let added = self.session().await?.run(work).await;
        let address = self.target.address();
        added
            .map(|_| ())
            .context(format_args!("cannot keep the verdict in {address}"))
    }

    async fn verdicts(&mut self, most: u32) -> Result<Vec<Verdict>> {
        let rows = self.last(LAST_VERDICTS, self.dataset.clone(), most).await?;
        let read = rows.iter().map(|row| {
            let (verdict, [classes, columns, samples], options) =
                verdict(row).map_err(|e| super::error(&e))?;
            verdict.with_maps(&classes, &columns, &samples, options.as_deref())
        });
        let read: Result<_> = read.collect();
        read.context(self.unread())
    }
}
