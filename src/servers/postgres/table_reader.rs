//! Reads a table in PostgreSQL: by a binary copy of one snapshot, or by key.

use std::io::BufRead;
use std::ops::ControlFlow;
use std::sync::Arc;

use ::postgres::types::{FromSql, Type};
use ::postgres::{Client, IsolationLevel};
use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::dataset::ddl::quoted;
use crate::dataset::{Dataset, Field, FieldType};
use crate::error::{Context, Error, Result};
use crate::ports::page_reader::{Misfits, Page, PageQuery};
use crate::ports::table_reader::{Foreign, Provenance, StoredRow, TableReader, Visitor};
use crate::ports::table_schema::{ColumnSchema, TableSchema};
use crate::record::row::Digest;
use crate::record::value::Value;
use crate::servers::address::Address;
use crate::servers::postgres::types::{between, column_type, describe, value};
use crate::servers::postgres::{
    ANSWER_TIMEOUT, Failure, Session, Target, Watch, columns, missing_table, pages,
};

/// Bytes of rows that are passed on at once.
const COPY_PIECE_BYTES: usize = 256 << 10;

/// Number of keys in one statement.
const KEYS: usize = 1_000;

/// Bytes before the first row of a binary copy.
const COPY_HEAD: usize = 19;

/// One table.
#[derive(Debug)]
pub struct PostgresTable {
    target: Arc<Target>,
    session: Option<Session>,
    fields: Arc<[Field]>,
    key: usize,
    has_unique_keys: bool,
    table: String,
    select: String,
    /// The columns of the key and of the digest, in place of all.
    provenance: String,
}

impl PostgresTable {
    /// Connects, and checks that the table has a column of the right type for every field.
    pub async fn open(server: &Address, dataset: &Dataset, table: &str) -> Result<Self> {
        let target = Target::new(server)?;
        let mut session = Session::open(&target).await?;
        let (name, key) = (table.to_string(), dataset.key().name.clone());
        let (there, has_unique_keys) = session
            .run(move |client| Ok((columns(client, &name)?, is_unique(client, &name, &key)?)))
            .await
            .context(format_args!("cannot read {}", target.address()))?;
        if there.is_empty() {
            return Err(missing_table(&target, table));
        }
        let there = TableSchema {
            columns: there
                .iter()
                .map(|(name, kind)| ColumnSchema::new(name, kind, false))
                .collect(),
            keys: Vec::new(),
        };
        there.check(&readable(dataset), table, &target.address())?;
        let columns: Vec<String> = dataset
            .fields
            .iter()
            .map(|f| match f.kind {
                FieldType::Decimal => format!("{}::text", quoted(&f.name)),
                _ => quoted(&f.name),
            })
            .collect();
        let digest = match there.columns.iter().any(|c| c.name == "rtp_digest") {
            true => "\"rtp_digest\"",
            false => "NULL::bytea",
        };
        let provenance = format!(
            "SELECT {}, {digest} FROM {}",
            columns[dataset.event.key],
            quoted(table)
        );
        Ok(PostgresTable {
            target,
            provenance,
            session: Some(session),
            fields: dataset.fields.clone().into(),
            key: dataset.event.key,
            has_unique_keys,
            table: table.into(),
            select: format!("SELECT {} FROM {}", columns.join(", "), quoted(table)),
        })
    }

    /// An open session; the caller puts it back if it may be used again.
    async fn session(&mut self) -> Result<Session> {
        match self.session.take() {
            Some(session) if session.is_open() => Ok(session),
            _ => Session::open(&self.target).await,
        }
    }

    /// The condition for the keys that are the first parameter, as texts.
    fn of_these(&self) -> String {
        let key = &self.fields[self.key];
        let (name, kind) = (quoted(&key.name), column_type(key.kind));
        format!("WHERE {name} = ANY ($1::text[]::{kind}[])")
    }

    async fn read_provenance(&mut self, keys: &[Value<'_>]) -> Result<Vec<Provenance>> {
        let mut session = self.session().await?;
        let select = format!("{} {}", self.provenance, self.of_these());
        let key = self.fields[self.key].clone();
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let read = session.run(move |client| {
            let mut found = Vec::new();
            for row in client.query(&select, &[&keys])? {
                let cell: CopiedValue<'_> = row.try_get(0)?;
                let Some(key) = value(&key, cell.0) else {
                    continue; // it is none of those that were asked about
                };
                let digest: Option<&[u8]> = row.try_get(1)?;
                found.push(Provenance {
                    key: key.owned(),
                    origin: None,
                    digest: digest.and_then(|digest| digest.try_into().ok().map(Digest)),
                    write_timestamps: None,
                });
            }
            Ok(found)
        });
        let found = read.await?;
        self.session = Some(session);
        Ok(found)
    }

    /// Lends the rows that a piece of work sends.
    async fn lend(
        &mut self,
        visitor: &mut dyn Visitor,
        work: impl FnOnce(&mut Client, &mpsc::Sender<Vec<u8>>) -> Result<(), Failure> + Send + 'static,
    ) -> Result<ControlFlow<()>> {
        let mut session = self.session().await?;
        let (sender, mut pieces) = mpsc::channel(2);
        let answer = session.start(move |client| work(client, &sender))?;
        let mut watch = Watch::default();
        loop {
            match timeout(ANSWER_TIMEOUT, pieces.recv()).await {
                Err(_) => session.look(&mut watch).await?,
                Ok(None) => break,
                Ok(Some(piece)) => {
                    watch = Watch::default();
                    let lent = tokio::task::block_in_place(|| self.lend_piece(&piece, visitor))?;
                    if lent.is_break() {
                        // The rest of the copy would have to be read, so the connection is abandoned.
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        session.finish(answer).await?;
        self.session = Some(session);
        Ok(ControlFlow::Continue(()))
    }

    fn lend_piece(&self, piece: &[u8], visitor: &mut dyn Visitor) -> Result<ControlFlow<()>> {
        let mut values = Vec::with_capacity(self.fields.len());
        let mut foreign = Vec::new();
        let mut rest = piece;
        while !rest.is_empty() {
            values.clear();
            foreign.clear();
            for (i, field) in self.fields.iter().enumerate() {
                let cell = take_cell(&mut rest)
                    .ok_or_else(|| Error::refused("malformed COPY data from the server"))?;
                let value = match cell {
                    None => Some(Value::Null),
                    Some(bytes) => value(field, bytes),
                };
                values.push(value.unwrap_or_else(|| {
                    let found = describe(field, cell.unwrap_or_default());
                    let between = cell.and_then(|bytes| between(field, bytes));
                    foreign.push(Foreign {
                        field: i,
                        found,
                        between,
                    });
                    Value::Null
                }));
            }
            let is_foreign = foreign.iter().any(|f| f.field == self.key);
            match &values[self.key] {
                Value::Null if is_foreign => {}
                Value::Null => foreign.push(Foreign {
                    field: self.key,
                    found: "null".into(),
                    between: None,
                }),
                key if visitor.wants(key) => {}
                _ => continue,
            }
            let row = StoredRow {
                values: &values,
                foreign: &foreign,
            };
            if visitor.row(row).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[async_trait]
impl TableReader for PostgresTable {
    fn has_unique_keys(&self) -> bool {
        self.has_unique_keys
    }

    async fn scan(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        let copy = format!("COPY ({}) TO STDOUT (FORMAT binary)", self.select);
        let lent = self
            .lend(visitor, move |client, pieces| scan(client, &copy, pieces))
            .await;
        lent.map(|_| ())
            .context(format_args!("cannot read {}", self.target.address()))
    }

    async fn read(&mut self, keys: &[Value<'_>], visitor: &mut dyn Visitor) -> Result<()> {
        let select = format!("{} {}", self.select, self.of_these());
        for keys in keys.chunks(KEYS) {
            let (select, width) = (select.clone(), self.fields.len());
            let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
            let lent = self
                .lend(visitor, move |client, pieces| {
                    let mut piece = Vec::new();
                    for row in client.query(&select, &[&keys])? {
                        for i in 0..width {
                            push_cell(&mut piece, row.try_get::<_, Option<CopiedValue<'_>>>(i)?);
                        }
                    }
                    // If nobody takes it any more, the reader was told to stop.
                    pieces.blocking_send(piece).unwrap_or_default();
                    Ok(())
                })
                .await
                .context(format_args!("cannot read {}", self.target.address()))?;
            if lent.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn has_key_order(&self) -> bool {
        true
    }

    async fn page(&mut self, query: &PageQuery<'_>) -> Result<Page> {
        let statements = pages::Statements::new(&self.table, query);
        let mut session = self.session().await?;
        let read = session.run(move |client| statements.read(client)).await;
        let (texts, nulls) = read.context(format_args!("cannot read {}", self.target.address()))?;
        self.session = Some(session);
        let samples = (nulls > 0).then(|| "null".to_string());
        Ok(Page {
            keys: pages::keys(&self.fields[self.key], texts)?,
            misfits: Misfits {
                count: nulls,
                samples: samples.into_iter().collect(),
            },
            among: Vec::new(),
        })
    }

    async fn provenance(&mut self, keys: &[Value<'_>]) -> Result<Vec<Provenance>> {
        let mut found = Vec::new();
        for keys in keys.chunks(KEYS) {
            let read = self.read_provenance(keys).await;
            found.extend(read.context(format_args!("cannot read {}", self.target.address()))?);
        }
        Ok(found)
    }
}

/// What reading needs: columns of the right types, of whatever precision.
fn readable(dataset: &Dataset) -> TableSchema {
    let columns = dataset.fields.iter().map(|field| {
        let kind = match field.kind {
            FieldType::Timestamp => "timestamp with time zone",
            other => column_type(other),
        };
        ColumnSchema::new(&field.name, kind, false)
    });
    TableSchema {
        columns: columns.collect(),
        keys: Vec::new(),
    }
}

/// Whether an index keeps the key unique.
fn is_unique(client: &mut Client, table: &str, key: &str) -> Result<bool, ::postgres::Error> {
    let select = "SELECT count(*) > 0 FROM pg_index AS i
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid
          AND i.indpred IS NULL AND i.indnkeyatts = 1 AND a.attname = $2";
    client
        .query_one(select, &[&quoted(table), &key])?
        .try_get(0)
}

/// Sends the rows of a copy, without what surrounds them, in pieces of whole rows.
fn scan(client: &mut Client, copy: &str, pieces: &mpsc::Sender<Vec<u8>>) -> Result<(), Failure> {
    let mut transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()?;
    let mut out = transaction.copy_out(copy)?;
    let mut piece = Vec::with_capacity(COPY_PIECE_BYTES + COPY_PIECE_BYTES / 4);
    let mut head = COPY_HEAD;
    loop {
        // The server sends the header with the first row, and each row in a message of its own.
        let message = out.fill_buf().map_err(Failure::of_copy)?;
        let length = message.len();
        if length == 0 {
            break;
        }
        let row = message.get(head..).unwrap_or_default();
        head = 0;
        // Every row starts with its number of cells, the end of all rows with -1.
        if let Some(cells @ [_, ..]) = row.get(2..) {
            piece.extend_from_slice(cells);
        }
        out.consume(length);
        if piece.len() >= COPY_PIECE_BYTES {
            let full = std::mem::replace(
                &mut piece,
                Vec::with_capacity(COPY_PIECE_BYTES + COPY_PIECE_BYTES / 4),
            );
            if pieces.blocking_send(full).is_err() {
                return Ok(());
            }
        }
    }
    drop(out);
    transaction.commit()?;
    if !piece.is_empty() {
        pieces.blocking_send(piece).unwrap_or_default();
    }
    Ok(())
}

/// A cell as the driver provides it.
struct CopiedValue<'a>(&'a [u8]);

impl<'a> FromSql<'a> for CopiedValue<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(CopiedValue(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Appends a cell in the format of a binary copy.
fn push_cell(piece: &mut Vec<u8>, cell: Option<CopiedValue<'_>>) {
    match cell {
        None => piece.extend_from_slice(&(-1_i32).to_be_bytes()),
        Some(CopiedValue(bytes)) => {
            // The server limits a cell to 1 GiB.
            let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
            piece.extend_from_slice(&length.to_be_bytes());
            piece.extend_from_slice(bytes);
        }
    }
}

/// The next cell, `Some(None)` for null; none if the bytes do not contain one.
fn take_cell<'p>(rest: &mut &'p [u8]) -> Option<Option<&'p [u8]>> {
    let (length, after) = rest.split_first_chunk()?;
    let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
        *rest = after;
        return Some(None);
    };
    let (cell, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(Some(cell))
}
