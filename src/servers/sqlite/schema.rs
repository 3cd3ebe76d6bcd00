//! A dataset's table as a file has it, compared with what the dataset needs; and the creation of what is missing.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use crate::dataset::ddl::quoted;
use crate::dataset::{Dataset, FieldType};
use crate::error::{Context, Error, Kind, Result};
use crate::ports::table_schema::{ColumnSchema, TableSchema};
use crate::servers::sqlite::ddl::rows_of;
use crate::servers::sqlite::types::{column_type, readable, unit};
use crate::servers::sqlite::{self, Missing, OWN_COLUMNS};

/// The types of [`OWN_COLUMNS`].
const OWN_TYPES: [&str; 3] = ["BLOB", "INTEGER", "INTEGER"];

/// The start of the statements that create views.
const CREATE_VIEW: &str = "CREATE VIEW IF NOT EXISTS ";

/// A table of a dataset, which has the first `own` of rtp's own columns, and its views.
#[derive(Clone, Copy, Debug)]
pub(super) struct DatasetTable<'a> {
    /// The dataset.
    pub(super) dataset: &'a Dataset,
    /// The name in the dataset, which is that of the readable view.
    pub(super) name: &'a str,
    /// Number of [`OWN_COLUMNS`] that it has.
    pub(super) own: usize,
    /// A column that identifies a row together with the dataset's key, if that alone does not.
    pub(super) also_by: Option<&'a str>,
}

impl DatasetTable<'_> {
    /// Creates in one transaction what these statements create and the file lacks, and the file if it is missing. The
    /// views hold no data, so those of another version or dataset are replaced.
    pub(super) fn create(&self, path: &Path, statements: &[String]) -> Result<()> {
        let db = sqlite::open(path, Missing::Create, 2_048)?;
        let result = self.create_in(&db, path, statements);
        if result.is_err() {
            sqlite::rollback_open(&db).ok(); // the first error is the one to report
        }
        result.map_err(|e| match e.kind() {
            // An index that cannot be unique is for the user to see to, like a table without it.
            Kind::Data => Error::invalid(e.to_string()),
            _ => e,
        })
    }

    fn create_in(&self, db: &Connection, path: &Path, statements: &[String]) -> Result<()> {
        let run = |script: &str| {
            let ran = db.execute_batch(script).map_err(|e| sqlite::error(&e));
            ran.context(format_args!("cannot create tables in {}", path.display()))
        };
        run("BEGIN IMMEDIATE")?;
        let there = self.read(db, path)?;
        if !there.columns.is_empty() {
            let columns = TableSchema {
                keys: Vec::new(), // an index that is missing is created below
                ..self.needed()
            };
            there.check(&columns, &rows_of(self.name), &path.display())?;
        }
        let (views, tables): (Vec<&String>, Vec<&String>) = statements
            .iter()
            .partition(|statement| statement.starts_with(CREATE_VIEW));
        for statement in tables {
            run(statement)?;
        }
        self.check(db, path)?;
        for statement in views {
            self.create_view(db, path, statement)?;
        }
        run("COMMIT")
    }

    /// An error if the table cannot take the dataset's rows.
    pub(super) fn check(&self, db: &Connection, path: &Path) -> Result<()> {
        let there = self.read(db, path)?;
        there.check(&self.needed(), &rows_of(self.name), &path.display())
    }

    fn needed(&self) -> TableSchema {
        let dataset = self.dataset;
        let fields = dataset.fields.iter().map(|f| {
            let kind = format!("{}{}", column_type(f.kind), unit(f.kind));
            ColumnSchema::new(&f.name, &kind, f.required)
        });
        let own = OWN_COLUMNS.iter().zip(OWN_TYPES).take(self.own);
        let own = own.map(|(name, kind)| ColumnSchema::new(name, kind, true));
        let key = std::iter::once(dataset.key().name.as_str()).chain(self.also_by);
        TableSchema {
            columns: fields.chain(own).collect(),
            keys: vec![key.map(String::from).collect()],
        }
    }

    fn read(&self, db: &Connection, path: &Path) -> Result<TableSchema> {
        let rows = rows_of(self.name);
        let read = || -> rusqlite::Result<TableSchema> {
            let (_, view) = object(db, self.name)?.unwrap_or_default();
            let columns = "SELECT name, upper(type), \"notnull\" AND dflt_value IS NULL FROM pragma_table_info(?1)";
            let columns = db
                .prepare(columns)?
                .query_map([&rows], |row| {
                    let (name, kind): (String, String) = (row.get(0)?, row.get(1)?);
                    let kind = self.with_unit(&name, kind, &view);
                    Ok(ColumnSchema::new(&name, &kind, row.get(2)?))
                })?
                .collect::<rusqlite::Result<_>>()?;
            Ok(TableSchema {
                columns,
                keys: keys(db, &rows)?,
            })
        };
        sqlite::fail(read(), "read", path)
    }

    /// A column's type, and the unit of its numbers if the view shows it.
    fn with_unit(&self, name: &str, kind: String, view: &str) -> String {
        let field = self.dataset.fields.iter().find(|f| f.name == name);
        let Some(field) = field.filter(|_| kind == "INTEGER") else {
            return kind;
        };
        let shows = |kind: &FieldType| {
            let shown = readable(&quoted(name), *kind);
            view.lines()
                .any(|line| line.trim().trim_end_matches(',') == shown)
        };
        let kinds = [FieldType::Timestamp, FieldType::Date, FieldType::BigInt];
        let shown = kinds.into_iter().find(shows).unwrap_or(field.kind);
        kind + unit(shown)
    }

    fn create_view(&self, db: &Connection, path: &Path, statement: &str) -> Result<()> {
        let name = statement.split('"').nth(1).unwrap_or_default();
        let there = sqlite::fail(object(db, name), "read", path)?;
        let replace = match there {
            None => String::new(),
            Some((_, sql)) if sql == statement.replacen(CREATE_VIEW, "CREATE VIEW ", 1) => {
                return Ok(());
            }
            Some((kind, sql)) if kind == "view" && sql.contains(&quoted(&rows_of(self.name))) => {
                format!("DROP VIEW {};", quoted(name))
            }
            Some((kind, _)) => {
                return Err(Error::invalid(format!(
                    "{} already has a {kind} named {name}, which is not the view that shows the rows of {}",
                    path.display(),
                    rows_of(self.name)
                ))
                .hint("name another table in the dataset, or use another file"));
            }
        };
        let created = db.execute_batch(&format!("{replace}{statement}"));
        sqlite::fail(created, "create views in", path)
    }
}

/// The kind and the statement of what has this name.
fn object(db: &Connection, name: &str) -> rusqlite::Result<Option<(String, String)>> {
    let select = "SELECT type, ifnull(sql, '') FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
    db.query_row(select, [name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// The columns of each index that keeps them unique in all rows.
fn keys(db: &Connection, table: &str) -> rusqlite::Result<Vec<Vec<String>>> {
    let select = "SELECT i.seq, ifnull(x.name, 'an expression')
         FROM pragma_index_list(?1) AS i, pragma_index_info(i.name) AS x
         WHERE i.\"unique\" AND NOT i.partial ORDER BY i.seq, x.seqno";
    let mut keys: Vec<Vec<String>> = Vec::new();
    let mut last = None;
    let mut select = db.prepare(select)?;
    let mut rows = select.query([table])?;
    while let Some(row) = rows.next()? {
        let index: i64 = row.get(0)?;
        if last.replace(index) != Some(index) {
            keys.push(Vec::new());
        }
        if let Some(key) = keys.last_mut() {
            key.push(row.get(1)?);
        }
    }
    Ok(keys)
}
