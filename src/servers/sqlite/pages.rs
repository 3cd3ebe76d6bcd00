//! Keys of a table in pages, by the index on the key.

use rusqlite::types::Value as Stored;
use rusqlite::{Connection, params_from_iter};

use crate::dataset::ddl::quoted;
use crate::ports::page_reader::PageQuery;
use crate::record::value::Value;
use crate::servers::sqlite::types::{parameter, stored_as, value};

/// The keys of a page, in one statement.
pub(super) fn keys(
    db: &Connection,
    rows: &str,
    query: &PageQuery<'_>,
) -> rusqlite::Result<Vec<Value<'static>>> {
    let (select, parameters) = select(rows, query);
    let mut select = db.prepare_cached(&select)?;
    let mut rows = select.query(params_from_iter(parameters))?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        // One that does not fit is left out, as the port says.
        keys.extend(value(query.dataset.key(), &row.get_ref(0)?).map(|key| key.owned()));
    }
    Ok(keys)
}

fn select(rows: &str, query: &PageQuery<'_>) -> (String, Vec<Stored>) {
    let dataset = query.dataset;
    let key = quoted(&dataset.key().name);
    let mut conditions = vec![format!(
        "typeof({key}) = '{}'",
        stored_as(dataset.key().kind)
    )];
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
        "SELECT {key} FROM {} WHERE {} ORDER BY {key} LIMIT {}",
        quoted(rows),
        conditions.join(" AND "),
        query.most
    );
    (select, parameters)
}
