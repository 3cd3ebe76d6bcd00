//! Keys of a table in pages, by the index on the key.

use ::postgres::Client;
use ::postgres::types::ToSql;

use crate::dataset::ddl::quoted;
use crate::dataset::{Field, FieldType};
use crate::error::{Error, Result};
use crate::ports::page_reader::PageQuery;
use crate::record::value::Value;
use crate::servers::postgres::types::column_type;

/// The statement that selects the keys of a page as texts, and its parameters.
pub(super) fn select(table: &str, query: &PageQuery<'_>) -> (String, Vec<String>) {
    let dataset = query.dataset;
    let key = ordered(dataset.key());
    let mut conditions = vec!["true".to_string()];
    let mut parameters: Vec<String> = Vec::new();
    let mut add = |column: &str, is: &str, kind: FieldType, value: &Value<'_>| {
        parameters.push(value.to_string());
        conditions.push(format!(
            "{column} {is} ${}::text::{}",
            parameters.len(),
            column_type(kind)
        ));
    };
    if let Some(after) = query.after {
        add(&key, ">", dataset.key().kind, after);
    }
    if let Some(boundary) = query.newer_than {
        let time = dataset.time();
        let boundary = Value::Timestamp(boundary);
        add(&quoted(&time.name), ">", time.kind, &boundary);
    }
    for filter in query.filters {
        let field = &dataset.fields[filter.field];
        add(&quoted(&field.name), "=", field.kind, &filter.value);
    }
    // Without a name of its own, the text would take the key's place in the order.
    let select = format!(
        "SELECT {}::text AS rtp_key FROM {} WHERE {} ORDER BY {key} LIMIT {}",
        quoted(&dataset.key().name),
        quoted(table),
        conditions.join(" AND "),
        query.most
    );
    (select, parameters)
}

/// The key in the order of its bytes, which another collation may not keep.
fn ordered(key: &Field) -> String {
    match key.kind {
        FieldType::Text => format!("{} COLLATE \"C\"", quoted(&key.name)),
        _ => quoted(&key.name),
    }
}

/// The first column of what is selected.
pub(super) fn texts(
    client: &mut Client,
    select: &str,
    parameters: &[String],
) -> Result<Vec<String>, ::postgres::Error> {
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters
        .iter()
        .map(|text| text as &(dyn ToSql + Sync))
        .collect();
    let rows = client.query(select, &parameters)?;
    rows.iter().map(|row| row.try_get(0)).collect()
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
