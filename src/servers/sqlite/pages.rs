//! Keys of a table in pages, by the index on the key.
//!
//! SQLite orders whatever is in a column: nulls, numbers, texts, blobs, each in the order of keys of that type. So a
//! walk through the index meets every row, also those whose key does not fit the declared type, which are counted on the
//! way. A condition that leaves them out would hide them.

use rusqlite::types::Value as Stored;
use rusqlite::{Connection, params_from_iter};

use crate::dataset::ddl::quoted;
use crate::ports::page_reader::{Page, PageQuery};
use crate::record::value::Value;
use crate::servers::sqlite::table_reader::found;
use crate::servers::sqlite::types::{parameter, value};

/// A page, by one statement.
pub(super) fn page(db: &Connection, rows: &str, query: &PageQuery<'_>) -> rusqlite::Result<Page> {
    let mut limit = query.most;
    loop {
        let (page, met) = first(db, rows, query, limit)?;
        if page.keys.len() >= query.most || met < limit {
            return Ok(page);
        }
        // Misfits or rows of one key took the places of others. The limit stays a number in the statement, because
        // without it the planner may prefer to sort the whole table.
        limit = limit.saturating_mul(2);
    }
}

/// The page among the first so many rows, and how many of them were met.
fn first(
    db: &Connection,
    rows: &str,
    query: &PageQuery<'_>,
    limit: usize,
) -> rusqlite::Result<(Page, usize)> {
    let (select, parameters) = select(rows, query, limit);
    let mut select = db.prepare_cached(&select)?;
    let mut rows = select.query(params_from_iter(parameters))?;
    let mut page = Page::default();
    let mut met = 0;
    while page.keys.len() < query.most
        && let Some(row) = rows.next()?
    {
        met += 1;
        let stored = row.get_ref(0)?;
        match value(query.dataset.key(), &stored) {
            None | Some(Value::Null) => page.misfits.add(|| found(&stored)),
            Some(key) if page.keys.last() == Some(&key) => {} // a table without a unique key
            Some(key) => page.keys.push(key.owned()),
        }
    }
    Ok((page, met))
}

fn select(rows: &str, query: &PageQuery<'_>, limit: usize) -> (String, Vec<Stored>) {
    let dataset = query.dataset;
    let key = quoted(&dataset.key().name);
    let mut conditions = vec!["true".to_string()];
    let mut parameters = Vec::new();
    let mut add = |condition: String, value: Stored| {
        conditions.push(condition);
        parameters.push(value);
    };
    if let Some(after) = query.after {
        add(format!("{key} > ?"), parameter(after));
    }
    if let Some(boundary) = query.newer_than {
        let time = quoted(&dataset.time().name);
        add(format!("{time} > ?"), Stored::Integer(boundary));
    }
    for filter in query.filters {
        let column = quoted(&dataset.fields[filter.field].name);
        add(format!("{column} = ?"), parameter(&filter.value));
    }
    let select = format!(
        "SELECT {key} FROM {} WHERE {} ORDER BY {key} LIMIT {limit}",
        quoted(rows),
        conditions.join(" AND "),
    );
    (select, parameters)
}
