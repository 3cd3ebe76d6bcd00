//! Keys of a table in pages, by the index on the key.
//!
//! SQLite orders whatever is in a column: nulls, numbers, texts, blobs, each in the order of keys of that type. So a
//! walk through the index meets every row, also those whose key does not fit the declared type, which are counted on the
//! way. A condition that leaves them out would hide them.
//!
//! A decimal is a text here, and another program may have written 1.50 where rtp writes 1.5. So a wanted decimal is compared
//! as what it is read as, not by SQLite.

use rusqlite::types::Value as Stored;
use rusqlite::{Connection, params_from_iter};

use crate::dataset::FieldType;
use crate::dataset::ddl::quoted;
use crate::ports::page_reader::{Filter, Page, PageQuery};
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
        // Misfits, rows of one key, or other decimals took the places of others. The limit stays a number in the statement, because
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
        let mut has_all = true;
        let has = |(at, filter): (usize, &Filter)| -> rusqlite::Result<bool> {
            let field = &query.dataset.fields[filter.field];
            let stored = row.get_ref(at)?;
            Ok(value(field, &stored).as_ref() == Some(&filter.value))
        };
        for filter in (1..).zip(decimals(query)) {
            has_all &= has(filter)?;
        }
        if !has_all {
            continue;
        }
        let stored = row.get_ref(0)?;
        match value(query.dataset.key(), &stored) {
            None | Some(Value::Null) => {
                for filter in (1 + decimals(query).count()..).zip(query.misfits_with) {
                    has_all &= has(filter)?;
                }
                if has_all {
                    page.meet(|| found(&stored));
                }
            }
            Some(key) if page.keys.last() == Some(&key) => {} // a table without a unique key
            Some(key) => page.keys.push(key.owned()),
        }
    }
    Ok((page, met))
}

/// The wanted decimals.
fn decimals<'q>(query: &PageQuery<'q>) -> impl Iterator<Item = &'q Filter> {
    let fields = &query.dataset.fields;
    let filters = query.filters.iter();
    filters.filter(|filter| fields[filter.field].kind == FieldType::Decimal)
}

/// Selects the keys, the columns of the wanted decimals, and those of the values that misfits must have.
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
        let field = &dataset.fields[filter.field];
        if field.kind != FieldType::Decimal {
            let is_equal = format!("{} = ?", quoted(&field.name));
            add(is_equal, parameter(&filter.value));
        }
    }
    let compared = decimals(query).chain(query.misfits_with);
    let compared = compared.map(|filter| quoted(&dataset.fields[filter.field].name));
    let columns: Vec<String> = std::iter::once(key.clone()).chain(compared).collect();
    let select = format!(
        "SELECT {} FROM {} WHERE {} ORDER BY {key} LIMIT {limit}",
        columns.join(", "),
        quoted(rows),
        conditions.join(" AND "),
    );
    (select, parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Dataset;

    const DATASET: &str = r#"
name = "things"
[source]
url = "http://localhost/"
records = ""
[source.pagination]
style = "none"
[event]
topic = "things"
key = "id"
time = "at"
[realtime]
keyspace = "things"
table = "things"
[batch]
table = "batch_things"
[[field]]
name = "id"
type = "text"
from = "/id"
required = true
[[field]]
name = "price"
type = "decimal"
from = "/price"
[[field]]
name = "at"
type = "timestamp"
from = "/at"
required = true
"#;

    /// The keys of all pages of so many, and what does not fit.
    fn walk(
        db: &Connection,
        filters: &[Filter],
        misfits_with: &[Filter],
        most: usize,
    ) -> (String, u64) {
        let dataset = Dataset::parse(DATASET, "things").unwrap();
        let (mut keys, mut misfits): (Vec<Value<'static>>, u64) = (Vec::new(), 0);
        loop {
            let after = keys.last().cloned();
            let query = PageQuery {
                dataset: &dataset,
                after: after.as_ref(),
                filters,
                misfits_with,
                newer_than: None,
                most,
            };
            let page = page(db, "things", &query).unwrap();
            misfits += page.among.iter().map(|(_, met)| met.count).sum::<u64>();
            let is_last = page.keys.len() < most;
            keys.extend(page.keys);
            if is_last {
                return (keys.iter().map(ToString::to_string).collect(), misfits);
            }
        }
    }

    #[test]
    fn whatever_is_among_them_every_key_is_met_once() {
        let db = Connection::open_in_memory().unwrap();
        let rows = "CREATE TABLE things (id, price, at);
            INSERT INTO things VALUES (NULL, '1.5', 1), (7, '1.5', 1), (2.5, '2', 1), ('a', '1.5', 1), ('b', '1.50', 1),
                ('b', '1.5', 2), ('b', '1.5', 3), ('c', '2', 1), ('d', 1.5, 1), ('e', NULL, 1), (CAST(x'65ff' AS TEXT), '1.5', 1),
                ('f', '01.5', 1), ('g', '1.500', 1), (x'61', '1.5', 1), (x'62', 'x', 1)";
        db.execute_batch(rows).unwrap();
        let price = [Filter {
            field: 1,
            value: Value::Decimal("1.5".into()),
        }];
        for most in 1..9 {
            let all: [Filter; 0] = [];
            for (filters, with, keys, misfits) in [
                (&all[..], &all[..], "abcdefg", 6),
                (&price, &all, "abfg", 4),
                (&all, &price, "abcdefg", 4),
                (&price, &price, "abfg", 4),
            ] {
                let met = walk(&db, filters, with, most);
                assert_eq!(met, (keys.into(), misfits), "{most}");
            }
        }
    }
}
