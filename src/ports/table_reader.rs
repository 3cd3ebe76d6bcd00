//! The reading port of both stores: the rows of one dataset's table, for comparing or showing them.

use std::ops::ControlFlow;
use std::time::Duration;

use async_trait::async_trait;

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::page_reader::{FirstKeys, Page, PageQuery};
use crate::record::row::{Digest, Origin};
use crate::record::value::Value;

/// Reads the table of one dataset, whatever store it is in.
///
/// Guarantees: nothing is written, and no writer is blocked; a scan passes on every row that stays in the
/// table throughout the scan exactly once, in no particular order, and as one snapshot if the store has
/// snapshots; rows are what the columns hold now, never a digest or copy kept besides them; a value that does
/// not fit its column's type is passed on as [`Foreign`], and is not an error; a missing table or column is an
/// error (`Invalid`).
///
/// Rows are lent to a visitor one at a time, so that a store can pass on what its driver has in memory,
/// and neither side ever holds more than a page of rows.
#[async_trait]
pub trait TableReader: Send {
    /// Whether the store itself rules out two rows of one key.
    fn has_unique_keys(&self) -> bool;

    /// Lends every row to the visitor. An error may occur after some rows were lent.
    async fn scan(&mut self, visitor: &mut dyn Visitor) -> Result<()>;

    /// Like [`TableReader::scan`], but lends canonical encodings: of the key, and of the columns in the
    /// dataset's `digest_order`. Comparing tables needs no values, and an adapter can encode what its
    /// driver has in memory, without an intermediate value for each column.
    async fn scan_encoded(
        &mut self,
        dataset: &Dataset,
        visitor: &mut dyn EncodedVisitor,
    ) -> Result<()> {
        self.scan(&mut Encoder::new(dataset, visitor)).await
    }

    /// Lends the rows of these keys as they are now, in any order; a key that is not in the table has none.
    async fn read(&mut self, keys: &[Value<'_>], visitor: &mut dyn Visitor) -> Result<()>;

    /// Whether the store keeps its keys in order, so that a page costs no more than its own keys; if not, each page
    /// costs a scan of the table.
    fn has_key_order(&self) -> bool {
        false
    }

    /// The first keys of rows that the query asks for, in the order of
    /// [`compare_keys`](crate::record::row::compare_keys), each once, as one committed state if the store has
    /// snapshots. A key that does not fit its column's type has no place in that order: it is told as one of the
    /// page's misfits, by at least one page of a listing.
    ///
    /// A store that keeps its keys in another order reads the whole table for that; or, if only newer rows are wanted,
    /// the dataset's first series. Rows that are missing there are then missing in the page.
    async fn page(&mut self, query: &PageQuery<'_>) -> Result<Page> {
        let mut first = FirstKeys::new(query);
        self.scan(&mut first).await?;
        Ok(first.into_page())
    }

    /// How long a row lives after it was written, for those that are written now; none if rows do not expire.
    async fn time_to_live(&mut self) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// What the store keeps besides the values of the rows of these keys, in any order; a key that is not in the table
    /// has none.
    async fn provenance(&mut self, _keys: &[Value<'_>]) -> Result<Vec<Provenance>> {
        Err(Error::internal("this table has no provenance yet"))
    }
}

/// What a store keeps about a row besides its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Provenance {
    /// The row's key.
    pub key: Value<'static>,
    /// Where its event stands in the log; none in a store that is not fed by the log.
    pub origin: Option<Origin>,
    /// The canonical digest of the row as rtp wrote it, if the store keeps digests. Another one than that of the values
    /// shows that they were changed by somebody else.
    pub digest: Option<Digest>,
    /// The oldest and the newest write timestamp among its columns, in microseconds, if the store keeps them. Another
    /// one than [`RowMeta::write_timestamp`](crate::record::row::RowMeta::write_timestamp) shows the same.
    pub write_timestamps: Option<[i64; 2]>,
}

/// Takes the rows of a table, one at a time.
pub trait Visitor: Send {
    /// Whether a scan should lend the row of this key; if not, it need not read the other columns. A
    /// row whose key is foreign is lent without asking.
    fn wants(&mut self, key: &Value<'_>) -> bool;

    /// Takes a row; `Break` ends the reading early, without an error.
    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()>;
}

/// Takes the encoded rows of a table, one at a time.
pub trait EncodedVisitor: Send {
    /// Like [`Visitor::wants`], for the key with this encoding.
    fn wants(&mut self, key: &[u8]) -> bool;

    /// Takes a row; `Break` ends the reading early, without an error.
    fn row(&mut self, row: EncodedRow<'_>) -> ControlFlow<()>;
}

/// A row as its canonical encoding, by [`Value::encode`].
#[derive(Clone, Copy, Debug)]
pub struct EncodedRow<'a> {
    /// The key's encoding; empty if the key is foreign.
    pub key: &'a [u8],
    /// The encodings of the requested columns, with null in place of a foreign value.
    pub columns: &'a [u8],
    /// The values that do not fit their column's type.
    pub foreign: &'a [Foreign],
}

/// A row as a store has it.
#[derive(Clone, Copy, Debug)]
pub struct StoredRow<'a> {
    /// The values, in the dataset's order of fields, with null in place of a foreign one.
    pub values: &'a [Value<'a>],
    /// The values that do not fit their column's type.
    pub foreign: &'a [Foreign],
}

/// A value that does not fit its column's type, which a store without strict types accepts, or a finer one than the
/// dataset's.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreign {
    /// Index of the field.
    pub field: usize,
    /// What is there instead, for people: `text "abc"`.
    pub found: String,
    /// The nearest values below and above it, if only its precision does not fit: a time with microseconds.
    pub between: Option<[Value<'static>; 2]>,
}

/// Encodes rows on their way to a visitor.
struct Encoder<'a> {
    dataset: &'a Dataset,
    visitor: &'a mut dyn EncodedVisitor,
    key: Vec<u8>,
    columns: Vec<u8>,
}

impl<'a> Encoder<'a> {
    fn new(dataset: &'a Dataset, visitor: &'a mut dyn EncodedVisitor) -> Self {
        Encoder {
            dataset,
            visitor,
            key: Vec::new(),
            columns: Vec::new(),
        }
    }
}

impl Visitor for Encoder<'_> {
    fn wants(&mut self, key: &Value<'_>) -> bool {
        self.key.clear();
        key.encode(&mut self.key);
        self.visitor.wants(&self.key)
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        let key = self.dataset.event.key;
        self.key.clear();
        if !row.foreign.iter().any(|f| f.field == key) {
            row.values[key].encode(&mut self.key);
        }
        self.columns.clear();
        for &i in &self.dataset.digest_order {
            row.values[i].encode(&mut self.columns);
        }
        self.visitor.row(EncodedRow {
            key: &self.key,
            columns: &self.columns,
            foreign: row.foreign,
        })
    }
}
