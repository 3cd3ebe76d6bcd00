//! The reading port of both stores: the rows of one dataset's table, for whoever compares or shows them.

#[doc(hidden)]
pub mod conformance;
pub mod sqlite;

use std::ops::ControlFlow;

use async_trait::async_trait;

use crate::error::Result;
use crate::value::Value;

/// Reads the table of one dataset, whatever store it is in.
///
/// Guarantees: nothing is written, and no writer is made to wait; a scan hands over every row that
/// rests in the table all through it exactly once, in no particular order, and as one snapshot where
/// the store has them; rows are what the columns hold now, never a digest or copy kept beside them;
/// a value that a column's type cannot hold is handed over as [`Foreign`], not an error; a missing
/// table or column is one (`Invalid`).
///
/// Rows are lent to a visitor one at a time: a store can then pass on what its driver has in hand,
/// and neither side ever holds more than a page of rows.
#[async_trait]
pub trait TableReader: Send {
    /// Whether the store itself rules out two rows of one key.
    fn has_unique_keys(&self) -> bool;

    /// Lends every row to the visitor. An error may come after some rows were lent.
    async fn scan(&mut self, visitor: &mut dyn Visitor) -> Result<()>;

    /// Lends the rows of these keys as they are now, in any order; a key that is not there has none.
    async fn read(&mut self, keys: &[Value<'_>], visitor: &mut dyn Visitor) -> Result<()>;
}

/// Takes the rows of a table, one at a time.
pub trait Visitor: Send {
    /// Whether a scan should lend the row of this key; it then need not read the other columns. A
    /// row whose key is foreign is lent without asking.
    fn wants(&mut self, key: &Value<'_>) -> bool;

    /// Takes a row; `Break` ends the reading early, without an error.
    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()>;
}

/// A row as a store holds it.
#[derive(Clone, Copy, Debug)]
pub struct StoredRow<'a> {
    /// The values, in the dataset's order of fields; null in place of a foreign one.
    pub values: &'a [Value<'a>],
    /// The values that their column's type cannot hold.
    pub foreign: &'a [Foreign],
}

/// A value that its column's type cannot hold, which a store without strict types lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Index of the field.
    pub field: usize,
    /// What is there instead, for people: `text "abc"`.
    pub found: String,
}
