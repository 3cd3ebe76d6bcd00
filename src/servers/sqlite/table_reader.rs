//! The table of either embedded store, read through a connection that cannot write.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row, Rows, params_from_iter};

use crate::dataset::ddl::quoted;
use crate::dataset::{Dataset, Field};
use crate::error::{Error, Result};
use crate::ports::INIT_FIRST;
use crate::ports::page_reader::PageQuery;
use crate::ports::table_reader::{
    EncodedRow, EncodedVisitor, Foreign, StoredRow, TableReader, Visitor,
};
use crate::ports::table_schema::does_not_fit;
use crate::record::value::Value;
use crate::servers::sqlite;
use crate::servers::sqlite::ddl::rows_of;
use crate::servers::sqlite::pages;
use crate::servers::sqlite::types::{encode, parameter, value};

/// Page cache: a scan reads each page once.
const CACHE_KIB: u32 = 4_096;

/// Number of keys in one statement.
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
    rows: String,
    scan: String,
    read: String,
}

impl SqliteTable {
    /// Opens the rows behind the view `table`, which must have a column for every field.
    pub fn open(path: &Path, dataset: &Dataset, table: &str) -> Result<Self> {
        sqlite::must_exist(path)?;
        let db = sqlite::fail(open_read_only(path), "open", path)?;
        let rows = rows_of(table);
        let shape = shape(&db, &rows, &dataset.key().name);
        let (columns, has_unique_keys) = sqlite::fail(shape, "read", path)?;
        if columns.is_empty() {
            let missing = Error::invalid(format!("there is no table {rows} in {}", path.display()));
            return Err(missing.hint(INIT_FIRST));
        }
        if let Some(field) = dataset.fields.iter().find(|f| !columns.contains(&f.name)) {
            let lacks = format!("it has no column {}", field.name);
            return Err(does_not_fit(&rows, &path.display(), &lacks));
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
            rows,
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
                // Examined in place, because moving what was just written in parts costs time.
                match &row.get_ref(i) {
                    Ok(stored) if encode(&fields[i], stored, &mut encoding) => {}
                    Ok(stored) => {
                        Value::Null.encode(&mut encoding);
                        if i != key {
                            foreign.push(Foreign::new(i, stored));
                        }
                    }
                    Err(_) => return row.get_ref(i).map(|_| ()), // the error itself, to pass it on
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
            // A key given twice is found once, so the last one fills the remaining placeholders.
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
                    between: None,
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
}

#[async_trait]
impl TableReader for SqliteTable {
    fn has_unique_keys(&self) -> bool {
        self.has_unique_keys
    }

    async fn scan(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        let scanned = tokio::task::block_in_place(|| self.scan_rows(visitor));
        sqlite::fail(scanned, "read", &self.path)
    }

    async fn scan_encoded(
        &mut self,
        dataset: &Dataset,
        visitor: &mut dyn EncodedVisitor,
    ) -> Result<()> {
        let columns = &dataset.digest_order;
        let scanned = tokio::task::block_in_place(|| self.encode_rows(columns, visitor));
        sqlite::fail(scanned, "read", &self.path)
    }

    async fn read(&mut self, keys: &[Value<'_>], visitor: &mut dyn Visitor) -> Result<()> {
        let read = tokio::task::block_in_place(|| {
            let _state = self.db.unchecked_transaction()?; // all keys at the same moment
            self.read_rows(keys, visitor)
        });
        sqlite::fail(read, "read", &self.path)
    }

    async fn page(&mut self, query: &PageQuery<'_>) -> Result<Vec<Value<'static>>> {
        let read = tokio::task::block_in_place(|| pages::keys(&self.db, &self.rows, query));
        sqlite::fail(read, "read", &self.path)
    }
}

fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.execute_batch(&format!("PRAGMA cache_size = -{CACHE_KIB}"))?;
    Ok(db)
}

/// The table's columns, none if it does not exist; and whether an index keeps its key unique.
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

impl Foreign {
    fn new(field: usize, stored: &ValueRef<'_>) -> Self {
        let found = match stored {
            ValueRef::Null => "null".into(),
            ValueRef::Integer(n) => format!("integer {n}"),
            ValueRef::Real(n) => format!("real {n}"),
            ValueRef::Text(text) => format!("text {:?}", String::from_utf8_lossy(text)),
            ValueRef::Blob(bytes) => format!("blob of {} bytes", bytes.len()),
        };
        Foreign {
            field,
            found,
            between: None,
        }
    }
}

/// The same allocation without its values, free to borrow from the next row.
fn emptied<'b>(mut values: Vec<Value<'_>>) -> Vec<Value<'b>> {
    values.clear();
    values.into_iter().map(|_| Value::Null).collect()
}
