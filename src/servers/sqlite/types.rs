//! How the dataset's types are stored in SQLite.

use rusqlite::types::ValueRef;

use crate::dataset::{Field, FieldType};
use crate::record::value::{Value, encode_text};

/// The type of a column.
pub(super) fn column_type(kind: FieldType) -> &'static str {
    match kind {
        FieldType::Text | FieldType::Decimal => "TEXT",
        FieldType::Uuid => "BLOB",
        FieldType::Int
        | FieldType::BigInt
        | FieldType::Boolean
        | FieldType::Timestamp
        | FieldType::Date => "INTEGER",
        FieldType::Double => "REAL",
    }
}

/// The unit of the numbers in an INTEGER column, if they are not plain numbers.
pub(super) fn unit(kind: FieldType) -> &'static str {
    match kind {
        FieldType::Timestamp => " (milliseconds)",
        FieldType::Date => " (days)",
        FieldType::Text
        | FieldType::Uuid
        | FieldType::Int
        | FieldType::BigInt
        | FieldType::Double
        | FieldType::Decimal
        | FieldType::Boolean => "",
    }
}

/// A column of the readable view.
pub(super) fn readable(column: &str, kind: FieldType) -> String {
    match kind {
        FieldType::Uuid => {
            let part = |from: u8, n: u8| format!("substr(hex({column}), {from}, {n})");
            format!(
                "nullif(lower({} || '-' || {} || '-' || {} || '-' || {} || '-' || {}), '----') AS {column}",
                part(1, 8),
                part(9, 4),
                part(13, 4),
                part(17, 4),
                part(21, 12)
            )
        }
        FieldType::Timestamp => {
            format!("strftime('%Y-%m-%dT%H:%M:%fZ', {column} / 1000.0, 'unixepoch') AS {column}")
        }
        FieldType::Date => format!("date({column} * 86400, 'unixepoch') AS {column}"),
        _ => column.to_string(),
    }
}

/// Binds the values of a row, from the first parameter on.
pub(super) fn bind<'a>(
    statement: &mut rusqlite::Statement<'_>,
    values: impl Iterator<Item = Value<'a>>,
) -> rusqlite::Result<()> {
    for (at, value) in (1..).zip(values) {
        match value {
            Value::Null => statement.raw_bind_parameter(at, rusqlite::types::Null),
            Value::Text(text) | Value::Decimal(text) => statement.raw_bind_parameter(at, &*text),
            Value::Uuid(uuid) => statement.raw_bind_parameter(at, uuid.as_bytes().as_slice()),
            Value::Int(n) | Value::Timestamp(n) => statement.raw_bind_parameter(at, n),
            Value::Double(n) => statement.raw_bind_parameter(at, n),
            Value::Boolean(b) => statement.raw_bind_parameter(at, b),
            Value::Date(days) => statement.raw_bind_parameter(at, days),
        }?;
    }
    Ok(())
}

/// Appends the canonical encoding of a stored value; false, and nothing appended, if it does not fit the field's
/// type.
#[inline]
pub(super) fn encode(field: &Field, stored: &ValueRef<'_>, out: &mut Vec<u8>) -> bool {
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

/// Most texts are ASCII, which is faster to check.
#[inline]
fn is_utf8(text: &[u8]) -> bool {
    text.is_ascii() || std::str::from_utf8(text).is_ok()
}

/// The stored value converted to the field's type; none if it does not fit.
#[inline]
pub(super) fn value<'r>(field: &Field, stored: &ValueRef<'r>) -> Option<Value<'r>> {
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

/// A value as the parameter of a query.
pub(super) fn parameter(value: &Value<'_>) -> rusqlite::types::Value {
    use rusqlite::types::Value as Stored;
    match value {
        Value::Null => Stored::Null,
        Value::Uuid(uuid) => Stored::Blob(uuid.as_bytes().to_vec()),
        Value::Int(n) | Value::Timestamp(n) => Stored::Integer(*n),
        Value::Date(days) => Stored::Integer((*days).into()),
        Value::Boolean(b) => Stored::Integer((*b).into()),
        Value::Double(n) => Stored::Real(*n),
        Value::Text(text) | Value::Decimal(text) => Stored::Text(text.to_string()),
    }
}
