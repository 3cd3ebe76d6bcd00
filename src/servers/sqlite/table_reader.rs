//! The table of either embedded store, read through a connection that cannot write.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Rows, params_from_iter};

use crate::dataset::ddl::quoted;
use crate::dataset::{Dataset, Field};
use crate::error::{Error, Result};
use crate::ports::INIT_FIRST;
use crate::ports::page_reader::{Page, PageQuery};
use crate::ports::table_reader::{
    EncodedRow, EncodedVisitor, Foreign, Provenance, StoredRow, TableReader, Visitor,
};
use crate::ports::table_schema::does_not_fit;
use crate::record::row::{Digest, Origin};
use crate::record::value::Value;
use crate::servers::sqlite;
use crate::servers::sqlite::ddl::rows_of;
use crate::servers::sqlite::pages;
use crate::servers::sqlite::types::{encode, parameter, value};

/// Number of keys in one statement.
const KEYS: usize = 256;

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
    provenance: String,
}

impl SqliteTable {
    /// Opens the rows behind the view `table`, which must have a column for every field.
    pub fn open(path: &Path, dataset: &Dataset, table: &str) -> Result<Self> {
        sqlite::must_exist(path)?;
        let db = sqlite::fail(sqlite::open_read_only(path), "open", path)?;
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
        let of_these = format!(
            "WHERE {} IN ({})",
            names[dataset.event.key],
            vec!["?"; KEYS].join(", ")
        );
        // A column that a table lacks is null.
        let own = sqlite::OWN_COLUMNS.map(|own| match columns.iter().any(|c| c == own) {
            true => quoted(own),
            false => "NULL".into(),
        });
        Ok(SqliteTable {
            db,
            path: path.into(),
            dataset: dataset.clone(),
            has_unique_keys,
            read: format!("{scan} {of_these}"),
            provenance: format!(
                "SELECT {}, {} FROM {} {of_these}",
                names[dataset.event.key],
                own.join(", "),
                quoted(&rows)
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
            let rows = select.query(params_from_iter(filled(keys).map(parameter)))?;
            if self.lend(rows, visitor)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read_provenance(&self, keys: &[Value<'_>]) -> rusqlite::Result<Vec<Provenance>> {
        let key = self.dataset.key();
        let mut select = self.db.prepare_cached(&self.provenance)?;
        let mut found = Vec::new();
        for keys in keys.chunks(KEYS) {
            let mut rows = select.query(params_from_iter(filled(keys).map(parameter)))?;
            while let Some(row) = rows.next()? {
                let Some(key) = value(key, &row.get_ref(0)?) else {
                    continue; // it is none of those that were asked about
                };
                let digest = match row.get_ref(1)? {
                    ValueRef::Blob(digest) => digest.try_into().ok().map(Digest),
                    _ => None,
                };
                let (partition, offset) = (row.get(2)?, row.get(3)?);
                found.push(Provenance {
                    key: key.owned(),
                    origin: Origin::of(partition, offset),
                    digest,
                    write_timestamps: None,
                });
            }
        }
        Ok(found)
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

    fn has_key_order(&self) -> bool {
        true
    }

    async fn page(&mut self, query: &PageQuery<'_>) -> Result<Page> {
        let read = tokio::task::block_in_place(|| pages::page(&self.db, &self.rows, query));
        sqlite::fail(read, "read", &self.path)
    }

    async fn provenance(&mut self, keys: &[Value<'_>]) -> Result<Vec<Provenance>> {
        let read = tokio::task::block_in_place(|| self.read_provenance(keys));
        sqlite::fail(read, "read", &self.path)
    }
}

/// Keys for all placeholders of a statement. A key given twice is found once, so the last one fills the rest.
fn filled<'k, 'v>(keys: &'k [Value<'v>]) -> impl Iterator<Item = &'k Value<'v>> {
    let rest = keys.last().into_iter().cycle();
    keys.iter().chain(rest).take(KEYS)
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
        Foreign {
            field,
            found: found(stored),
            between: None,
        }
    }
}

/// What is stored, for people.
pub(super) fn found(stored: &ValueRef<'_>) -> String {
    match stored {
        ValueRef::Null => "null".into(),
        ValueRef::Integer(n) => format!("integer {n}"),
        ValueRef::Real(n) => format!("real {n}"),
        ValueRef::Text(text) => format!("text {:?}", String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => format!("blob of {} bytes", bytes.len()),
    }
}

/// The same allocation without its values, free to borrow from the next row.
fn emptied<'b>(mut values: Vec<Value<'_>>) -> Vec<Value<'b>> {
    values.clear();
    values.into_iter().map(|_| Value::Null).collect()
}
