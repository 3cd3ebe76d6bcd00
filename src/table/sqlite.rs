//! The table of either embedded store, read through a connection that cannot write.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row, Rows, params_from_iter};

use super::{EncodedRow, EncodedVisitor, Foreign, StoredRow, TableReader, Visitor};
use crate::dataset::ddl::{quoted, sqlite_rows};
use crate::dataset::{Dataset, Field, FieldType};
use crate::error::{Context, Error, Result};
use crate::sqlite;
use crate::value::{Value, encode_text};

/// Page cache: a scan reads each page once.
const CACHE_KIB: u32 = 4_096;

/// Keys of one statement.
const KEYS: usize = 256;

/// How long a statement waits for a lock; in WAL mode only a recovery after a crash holds one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// One table, open for reading.
#[derive(Debug)]
pub struct SqliteTable {
    db: Connection,
    path: PathBuf,
    dataset: Dataset,
    has_unique_keys: bool,
    scan: String,
    read: String,
}

impl SqliteTable {
    /// Opens the rows behind the view `table`, which must have a column for every field.
    pub fn open(path: &Path, dataset: &Dataset, table: &str) -> Result<Self> {
        let hint = "run `rtp init` first, with the same dataset and addresses";
        if !path.exists() {
            let missing = Error::invalid(format!("{} does not exist", path.display()));
            return Err(missing.hint(hint));
        }
        let db = open_read_only(path)
            .map_err(|e| sqlite::error(&e))
            .context(format_args!("cannot open {}", path.display()))?;
        let rows = sqlite_rows(table);
        let (columns, has_unique_keys) = shape(&db, &rows, &dataset.key().name)
            .map_err(|e| sqlite::error(&e))
            .context(format_args!("cannot read {}", path.display()))?;
        if columns.is_empty() {
            let missing = Error::invalid(format!("no table {rows} in {}", path.display()));
            return Err(missing.hint(hint));
        }
        if let Some(field) = dataset.fields.iter().find(|f| !columns.contains(&f.name)) {
            return Err(Error::invalid(format!(
                "table {rows} in {} has no column {}",
                path.display(),
                field.name
            )));
        }
        let names: Vec<String> = dataset.fields.iter().map(|f| quoted(&f.name)).collect();
        let scan = format!("SELECT {} FROM {}", names.join(", "), quoted(&rows));
        Ok(SqliteTable {
            db,
            path: path.into(),
            dataset: dataset.clone(),
            has_unique_keys,
            read: format!(
                "{scan} WHERE {} IN ({})",
                names[dataset.event.key],
                vec!["?"; KEYS].join(", ")
            ),
            scan,
        })
    }

    fn scan_rows(&self, visitor: &mut dyn Visitor) -> rusqlite::Result<()> {
        let mut select = self.db.prepare_cached(&self.scan)?;
        self.lend(select.query([])?, visitor).map(|_| ())
    }

    fn encode_rows(
        &self,
        columns: &[usize],
        visitor: &mut dyn EncodedVisitor,
    ) -> rusqlite::Result<()> {
        let (fields, key) = (&self.dataset.fields, self.dataset.event.key);
        let (mut key_encoding, mut encoding) = (Vec::new(), Vec::new());
        let mut foreign = Vec::new();
        let mut select = self.db.prepare_cached(&self.scan)?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            foreign.clear();
            key_encoding.clear();
            let stored = row.get_ref(key)?;
            if matches!(stored, ValueRef::Null) || !encode(&fields[key], &stored, &mut key_encoding)
            {
                foreign.push(Foreign::new(key, &stored));
            } else if !visitor.wants(&key_encoding) {
                continue;
            }
            encoding.clear();
            for &i in columns {
                if i == key && !key_encoding.is_empty() {
                    encoding.extend_from_slice(&key_encoding);
                    continue;
                }
                // Looked at in its place: to move what was just written in parts costs time.
                match &row.get_ref(i) {
                    Ok(stored) if encode(&fields[i], stored, &mut encoding) => {}
                    Ok(stored) => {
                        Value::Null.encode(&mut encoding);
                        if i != key {
                            foreign.push(Foreign::new(i, stored));
                        }
                    }
                    Err(_) => return row.get_ref(i).map(|_| ()), // the error itself, to hand it on
                }
            }
            let row = EncodedRow {
                key: &key_encoding,
                columns: &encoding,
                foreign: &foreign,
            };
            if visitor.row(row).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read_rows(&self, keys: &[Value<'_>], visitor: &mut dyn Visitor) -> rusqlite::Result<()> {
        let mut select = self.db.prepare_cached(&self.read)?;
        for keys in keys.chunks(KEYS) {
            // A key given twice is found once, so the last one fills the places that are left.
            let filled = keys.iter().chain(keys.last().into_iter().cycle());
            let rows = select.query(params_from_iter(filled.take(KEYS).map(parameter)))?;
            if self.lend(rows, visitor)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn lend(
        &self,
        mut rows: Rows<'_>,
        visitor: &mut dyn Visitor,
    ) -> rusqlite::Result<ControlFlow<()>> {
        let (fields, key) = (&self.dataset.fields, self.dataset.event.key);
        let mut spare = Vec::with_capacity(fields.len());
        let mut foreign = Vec::new();
        while let Some(row) = rows.next()? {
            let wanted = match value(&fields[key], &row.get_ref(key)?) {
                Some(Value::Null) | None => true,
                Some(key) => visitor.wants(&key),
            };
            if !wanted {
                continue;
            }
            let mut values = emptied(spare);
            foreign.clear();
            read(row, fields, &mut values, &mut foreign)?;
            if values[key] == Value::Null && !foreign.iter().any(|f| f.field == key) {
                foreign.push(Foreign {
                    field: key,
                    found: "null".into(),
                });
            }
            let row = StoredRow {
                values: &values,
                foreign: &foreign,
            };
            if visitor.row(row).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            spare = emptied(values);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn fail<T>(&self, result: rusqlite::Result<T>) -> Result<T> {
        result
            .map_err(|e| sqlite::error(&e))
            .context(format_args!("cannot read {}", self.path.display()))
    }
}

#[async_trait]
impl TableReader for SqliteTable {
    fn has_unique_keys(&self) -> bool {
        self.has_unique_keys
    }

    async fn scan(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        let scanned = tokio::task::block_in_place(|| self.scan_rows(visitor));
        self.fail(scanned)
    }

    async fn scan_encoded(
        &mut self,
        dataset: &Dataset,
        visitor: &mut dyn EncodedVisitor,
    ) -> Result<()> {
        let columns = &dataset.digest_order;
        let scanned = tokio::task::block_in_place(|| self.encode_rows(columns, visitor));
        self.fail(scanned)
    }

    async fn read(&mut self, keys: &[Value<'_>], visitor: &mut dyn Visitor) -> Result<()> {
        let read = tokio::task::block_in_place(|| self.read_rows(keys, visitor));
        self.fail(read)
    }
}

fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.execute_batch(&format!("PRAGMA cache_size = -{CACHE_KIB}"))?;
    Ok(db)
}

/// The table's columns, none if it is not there; and whether an index keeps its key unique.
fn shape(db: &Connection, table: &str, key: &str) -> rusqlite::Result<(Vec<String>, bool)> {
    let columns = db
        .prepare("SELECT name FROM pragma_table_info(?1)")?
        .query_map([table], |r| r.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    let unique =
        "SELECT count(*) FROM pragma_index_list(?1) AS i WHERE i.\"unique\" AND NOT i.partial
                  AND (SELECT group_concat(name) FROM pragma_index_info(i.name)) = ?2";
    let unique: u32 = db.query_row(unique, [table, key], |r| r.get(0))?;
    Ok((columns, unique > 0))
}

fn read<'r>(
    row: &'r Row<'_>,
    fields: &[Field],
    values: &mut Vec<Value<'r>>,
    foreign: &mut Vec<Foreign>,
) -> rusqlite::Result<()> {
    for (i, field) in fields.iter().enumerate() {
        let stored = row.get_ref(i)?;
        values.push(value(field, &stored).unwrap_or_else(|| {
            foreign.push(Foreign::new(i, &stored));
            Value::Null
        }));
    }
    Ok(())
}

/// Appends the canonical encoding of a stored value; false, and nothing appended, if the field's type
/// cannot hold it.
#[inline]
fn encode(field: &Field, stored: &ValueRef<'_>, out: &mut Vec<u8>) -> bool {
    match (field.kind, stored) {
        (FieldType::Text, ValueRef::Text(text)) => {
            let is_text = is_utf8(text);
            if is_text {
                encode_text(text, out);
            }
            is_text
        }
        _ => match value(field, stored) {
            Some(value) => {
                value.encode(out);
                true
            }
            None => false,
        },
    }
}

/// Most texts are ASCII, which is told faster.
#[inline]
fn is_utf8(text: &[u8]) -> bool {
    text.is_ascii() || std::str::from_utf8(text).is_ok()
}

/// The stored value as the field's type has it; none if it cannot hold it.
#[inline]
fn value<'r>(field: &Field, stored: &ValueRef<'r>) -> Option<Value<'r>> {
    use FieldType as T;
    match (field.kind, stored) {
        (_, ValueRef::Null) => Some(Value::Null),
        (T::Text, ValueRef::Text(text)) => {
            let text = std::str::from_utf8(text).ok()?;
            Some(Value::Text(text.into()))
        }
        (T::Uuid, ValueRef::Blob(bytes)) => uuid::Uuid::from_slice(bytes).ok().map(Value::Uuid),
        (T::Int, ValueRef::Integer(n)) => i32::try_from(*n).is_ok().then_some(Value::Int(*n)),
        (T::BigInt, ValueRef::Integer(n)) => Some(Value::Int(*n)),
        (T::Double, ValueRef::Real(n)) => n.is_finite().then_some(Value::Double(n + 0.0)), // -0 is 0
        (T::Decimal, ValueRef::Text(text)) => {
            let text = std::str::from_utf8(text).ok()?;
            Value::from_text(field, text.into()).ok()
        }
        (T::Boolean, ValueRef::Integer(n @ (0 | 1))) => Some(Value::Boolean(*n == 1)),
        (T::Timestamp, ValueRef::Integer(n)) => Some(Value::Timestamp(*n)),
        (T::Date, ValueRef::Integer(n)) => i32::try_from(*n).ok().map(Value::Date),
        _ => None,
    }
}

impl Foreign {
    fn new(field: usize, stored: &ValueRef<'_>) -> Self {
        let found = match stored {
            ValueRef::Null => "null".into(),
            ValueRef::Integer(n) => format!("integer {n}"),
            ValueRef::Real(n) => format!("real {n}"),
            ValueRef::Text(text) => format!("text {:?}", String::from_utf8_lossy(text)),
            ValueRef::Blob(bytes) => format!("blob of {} bytes", bytes.len()),
        };
        Foreign { field, found }
    }
}

fn parameter(key: &Value<'_>) -> rusqlite::types::Value {
    use rusqlite::types::Value as Stored;
    match key {
        Value::Uuid(uuid) => Stored::Blob(uuid.as_bytes().to_vec()),
        Value::Int(n) => Stored::Integer(*n),
        other => Stored::Text(other.to_string()), // a key is text, uuid, int or bigint
    }
}

/// The same allocation without its values, free to borrow from the next row.
fn emptied<'b>(mut values: Vec<Value<'_>>) -> Vec<Value<'b>> {
    values.clear();
    values.into_iter().map(|_| Value::Null).collect()
}
