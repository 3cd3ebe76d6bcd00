//! The batch store in PostgreSQL: rows are copied into a temporary table, then merged by one sorted
//! statement, so that loads of the same keys lock them in the same order.

use std::io::Write;
use std::sync::Arc;

use ::postgres::Client;
use async_trait::async_trait;

use crate::dataset::ddl::quoted;
use crate::dataset::{Dataset, FieldType};
use crate::error::{Context, Error, Result};
use crate::ports::batch_store::{BatchStore, Merged, Mode};
use crate::ports::ledger::LoadInfo;
use crate::record::row::Rows;
use crate::servers::address::Address;
use crate::servers::postgres::aggregates::FIGURES;
use crate::servers::postgres::ledger::{LOADS, UPGRADE, VERDICTS, must_be_current};
use crate::servers::postgres::merge::{Done, InDoubt, Plan};
use crate::servers::postgres::monitor::PROBES;
use crate::servers::postgres::types::{column_type, encode_value, field};
use crate::servers::postgres::{Session, Target, create_tables, ddl, open_tables, schema};

/// Bytes in one piece of a copy.
const COPY_PIECE_BYTES: usize = 256 << 10;

/// The header of a binary copy: signature, no flags, no extension.
const COPY_HEAD: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// All statements that create a dataset's tables where they are missing.
pub fn statements(dataset: &Dataset) -> Vec<String> {
    let mut statements = ddl::tables(dataset);
    statements.extend([LOADS.into(), VERDICTS.into(), PROBES.into()]);
    statements.extend(FIGURES.map(String::from));
    statements
}

/// Creates the tables where they are missing.
pub async fn create(server: &Address, dataset: &Dataset) -> Result<()> {
    let target = Target::new(server)?;
    let mut statements = statements(dataset);
    statements.push(UPGRADE.into());
    let mut session = create_tables(&target, &statements).await?;
    schema::check(&mut session, &target, dataset).await
}

/// A store and its staged rows, which are lost when the connection is.
#[derive(Debug)]
pub struct PostgresBatchStore {
    target: Arc<Target>,
    dataset: Dataset,
    session: Option<Session>,
    staged: u64,
    is_lost: bool,
    in_doubt: InDoubt,
}

impl PostgresBatchStore {
    /// Connects to a store that must have its tables.
    pub async fn open(server: &Address, dataset: &Dataset) -> Result<Self> {
        let mut store = PostgresBatchStore {
            target: Target::new(server)?,
            dataset: dataset.clone(),
            session: None,
            staged: 0,
            is_lost: false,
            in_doubt: InDoubt::default(),
        };
        store.connect().await?;
        Ok(store)
    }

    /// An open session with a staging table; an error if the session before it took staged rows with it.
    async fn connect(&mut self) -> Result<&mut Session> {
        let session = match self.session.take() {
            Some(session) if session.is_open() => session,
            _ if self.staged > 0 => {
                self.is_lost = true;
                return Err(Error::refused(
                    "the connection was lost, and the staged rows with it",
                ));
            }
            _ => {
                let history = self.dataset.history().map(|history| history.batch.table);
                let mut tables = vec![&*self.dataset.batch.table, "rtp_loads"];
                tables.extend(history.as_deref());
                let mut session = open_tables(&self.target, &tables).await?;
                must_be_current(&mut session, &self.target).await?;
                schema::check(&mut session, &self.target, &self.dataset).await?;
                let stage = stage_table(&self.dataset);
                session
                    .run(move |client| client.batch_execute(&stage))
                    .await?;
                session
            }
        };
        Ok(self.session.insert(session))
    }

    /// The error of a call, which is final if the staged rows were lost.
    fn check_lost(&mut self, e: Error) -> Error {
        let has_session = self.session.as_ref().is_some_and(Session::is_open);
        if has_session || self.staged == 0 || self.is_lost {
            return e;
        }
        self.is_lost = true;
        Error::refused(format!(
            "{e}; the staged rows were lost with the connection"
        ))
    }

    async fn copy(&mut self, pieces: Vec<Vec<u8>>) -> Result<u64> {
        let work = move |client: &mut Client| {
            let mut copy = client.copy_in("COPY pg_temp.rtp_stage FROM STDIN (FORMAT binary)")?;
            for piece in pieces {
                if copy.write_all(&piece).is_err() {
                    break; // the end of the copy reports why
                }
            }
            copy.finish()
        };
        self.connect().await?.run(work).await
    }

    async fn load(&mut self, mode: Mode, info: &LoadInfo) -> Result<Merged> {
        let mut plan = Plan::new(&self.dataset, mode, info, self.staged);
        plan.in_doubt = self.in_doubt.clone();
        match self
            .connect()
            .await?
            .run(move |client| plan.run(client))
            .await?
        {
            Done::Merged(merged) => Ok(merged),
            Done::Refused(refused) => Err(refused),
        }
    }

    /// Asks the server for the outcome of a load whose connection was lost during the commit; `cause` if it was not
    /// committed. `Unavailable` until the server knows.
    async fn settle(&mut self, cause: Error) -> Result<Merged> {
        let Some((transaction, merged)) = self.in_doubt.get() else {
            return Err(cause);
        };
        let mut session = Session::open(&self.target).await?;
        let ask = move |client: &mut Client| {
            let status = "SELECT pg_xact_status($1::text::xid8)";
            client.query_one(status, &[&transaction])?.try_get(0)
        };
        let status: Option<String> = session.run(ask).await?;
        if status.as_deref() == Some("in progress") {
            let open = "the server does not know yet whether the load was committed";
            return Err(Error::unavailable(open));
        }
        self.in_doubt.set(None);
        match status.as_deref() {
            Some("committed") => Ok(merged),
            _ => Err(cause),
        }
    }
}

#[async_trait]
impl BatchStore for PostgresBatchStore {
    async fn stage(&mut self, rows: &Rows) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let kinds: Vec<FieldType> = self.dataset.fields.iter().map(|f| f.kind).collect();
        let pieces = tokio::task::block_in_place(|| encode(rows, &kinds, self.staged));
        match self.copy(pieces).await {
            Ok(copied) => {
                self.staged += copied;
                Ok(())
            }
            Err(e) => Err(self.check_lost(e)),
        }
        .context(format_args!(
            "cannot stage rows in {}",
            self.target.address()
        ))
    }

    async fn merge(&mut self, mode: Mode, load: &LoadInfo) -> Result<Merged> {
        let mut loaded = match self.in_doubt.get().is_some() {
            true => Err(Error::refused("the connection was lost during the commit")),
            false => self.load(mode, load).await,
        };
        if let Err(cause) = loaded {
            loaded = self.settle(cause).await;
        }
        match loaded {
            Ok(merged) => {
                self.staged = 0;
                Ok(merged)
            }
            Err(e) if self.in_doubt.get().is_some() => Err(e),
            Err(e) => Err(self.check_lost(e)),
        }
        .context(format_args!("cannot load {}", self.target.address()))
    }

    /// On a session of its own, because the other one may be lost, together with the staged rows.
    async fn count(&mut self) -> Result<u64> {
        let mut session = Session::open(&self.target).await?;
        let count = format!("SELECT count(*) FROM {}", quoted(&self.dataset.batch.table));
        let work = move |client: &mut Client| client.query_one(&count, &[])?.try_get(0);
        let rows: i64 = session.run(work).await?;
        Ok(u64::try_from(rows).unwrap_or(0))
    }

    fn has_lost_stage(&self) -> bool {
        self.is_lost
    }
}

/// Decimals are staged as text, which a binary copy can write unchanged.
fn stage_table(dataset: &Dataset) -> String {
    let columns: Vec<String> = dataset
        .fields
        .iter()
        .map(|f| {
            let kind = match f.kind {
                FieldType::Decimal => "text",
                other => column_type(other),
            };
            format!("{} {kind}", quoted(&f.name))
        })
        .collect();
    format!(
        "CREATE TEMP TABLE rtp_stage (rtp_line bigint NOT NULL, {}, rtp_digest bytea NOT NULL)",
        columns.join(", ")
    )
}

/// The rows as a binary copy, in pieces; `staged` rows precede them.
fn encode(rows: &Rows, kinds: &[FieldType], staged: u64) -> Vec<Vec<u8>> {
    let columns = i16::try_from(rows.width() + 2).unwrap_or(i16::MAX);
    let mut pieces = Vec::new();
    let mut out = Vec::with_capacity(COPY_PIECE_BYTES + COPY_PIECE_BYTES / 4);
    out.extend_from_slice(COPY_HEAD);
    for (i, line) in (0..rows.len()).zip(staged + 1..) {
        out.extend_from_slice(&columns.to_be_bytes());
        field(&mut out, &line.to_be_bytes());
        for (value, kind) in rows.values(i).zip(kinds) {
            encode_value(&mut out, &value, *kind);
        }
        field(&mut out, &rows.meta(i).digest.0);
        if out.len() >= COPY_PIECE_BYTES {
            pieces.push(std::mem::replace(
                &mut out,
                Vec::with_capacity(COPY_PIECE_BYTES + COPY_PIECE_BYTES / 4),
            ));
        }
    }
    out.extend_from_slice(&(-1_i16).to_be_bytes());
    pieces.push(out);
    pieces
}
