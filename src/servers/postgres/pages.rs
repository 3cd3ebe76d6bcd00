//! Keys of a table in pages, by the index on the key.

use ::postgres::Client;
use ::postgres::types::ToSql;

use crate::dataset::ddl::quoted;
use crate::dataset::{Field, FieldType};
use crate::error::{Error, Result};
use crate::ports::page_reader::{Filter, PageQuery};
use crate::record::value::Value;
use crate::servers::postgres::types::column_type;

/// What a page is read by.
#[derive(Debug)]
pub(super) struct Statements {
    /// Selects the keys as texts; the limit is to follow.
    keys: String,
    /// Counts the rows whose key is null, which a table of another program may have; none for a later page.
    nulls: Option<String>,
    /// The parameters of the keys.
    parameters: Vec<String>,
    /// Those of the count.
    null_parameters: Vec<String>,
    most: usize,
}

/// The conditions of a statement, and their parameters.
struct Conditions {
    all: Vec<String>,
    parameters: Vec<String>,
}

impl Conditions {
    fn add(&mut self, column: &str, is: &str, kind: FieldType, value: &Value<'_>) {
        self.parameters.push(value.to_string());
        let at = self.parameters.len();
        let kind = column_type(kind);
        self.all.push(format!("{column} {is} ${at}::text::{kind}"));
    }
}

impl Statements {
    pub(super) fn new(table: &str, query: &PageQuery<'_>) -> Statements {
        let dataset = query.dataset;
        let (name, key) = (quoted(&dataset.key().name), ordered(dataset.key()));
        let about_rows = |first: String, also_with: &[Filter]| {
            let mut conditions = Conditions {
                all: vec![first],
                parameters: Vec::new(),
            };
            if let Some(boundary) = query.newer_than {
                let time = dataset.time();
                let boundary = Value::Timestamp(boundary);
                conditions.add(&quoted(&time.name), ">", time.kind, &boundary);
            }
            for filter in query.filters.iter().chain(also_with) {
                let field = &dataset.fields[filter.field];
                conditions.add(&quoted(&field.name), "=", field.kind, &filter.value);
            }
            conditions
        };
        let table = quoted(table);
        let mut keys = about_rows(format!("{name} IS NOT NULL"), &[]);
        if let Some(after) = query.after {
            keys.add(&key, ">", dataset.key().kind, after);
        }
        let nulls = about_rows(format!("{name} IS NULL"), query.misfits_with);
        let count = format!(
            "SELECT count(*) FROM {table} WHERE {}",
            nulls.all.join(" AND ")
        );
        Statements {
            // Without a name of its own, the text would take the key's place in the order.
            keys: format!(
                "SELECT {name}::text AS rtp_key FROM {table} WHERE {} ORDER BY {key}",
                keys.all.join(" AND ")
            ),
            nulls: query.after.is_none().then_some(count),
            parameters: keys.parameters,
            null_parameters: nulls.parameters,
            most: query.most,
        }
    }

    /// The keys as texts, and the number of rows without one.
    pub(super) fn read(
        &self,
        client: &mut Client,
    ) -> Result<(Vec<String>, u64), ::postgres::Error> {
        let nulls: i64 = match &self.nulls {
            Some(count) => client
                .query_one(count, &lent(&self.null_parameters))?
                .try_get(0)?,
            None => 0,
        };
        let mut limit = self.most;
        loop {
            let select = format!("{} LIMIT {limit}", self.keys);
            let rows = client.query(&select, &lent(&self.parameters))?;
            let met = rows.len();
            let texts = rows.iter().map(|row| row.try_get(0));
            let mut texts = texts.collect::<Result<Vec<String>, _>>()?;
            texts.dedup(); // a table without a unique key
            texts.truncate(self.most);
            if texts.len() == self.most || met < limit {
                return Ok((texts, nulls.unsigned_abs()));
            }
            limit = limit.saturating_mul(2); // rows of one key took the places of others
        }
    }
}

fn lent(parameters: &[String]) -> Vec<&(dyn ToSql + Sync)> {
    let lent = |text| text as &(dyn ToSql + Sync);
    parameters.iter().map(lent).collect()
}

/// The key in the order of its bytes, which another collation may not keep.
fn ordered(key: &Field) -> String {
    match key.kind {
        FieldType::Text => format!("{} COLLATE \"C\"", quoted(&key.name)),
        _ => quoted(&key.name),
    }
}

/// Keys from their texts.
pub(super) fn keys(field: &Field, texts: Vec<String>) -> Result<Vec<Value<'static>>> {
    let key = |text: String| {
        Value::from_text(field, text.into()).map_err(|fault| {
            Error::refused(format!("malformed key from the server: {}", fault.detail))
        })
    };
    texts.into_iter().map(key).collect()
}
