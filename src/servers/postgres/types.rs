//! How the dataset's types are stored in PostgreSQL, and sent in its binary copies.

use crate::dataset::{Field, FieldType};
use crate::record::value::Value;

/// Microseconds from 1970 to 2000, the epoch of PostgreSQL's timestamps.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Days from 1970 to 2000, the epoch of PostgreSQL's dates.
const EPOCH_DAYS: i32 = 10_957;

/// The type of a column of PostgreSQL.
pub(super) fn column_type(kind: FieldType) -> &'static str {
    match kind {
        FieldType::Text => "text",
        FieldType::Uuid => "uuid",
        FieldType::Int => "integer",
        FieldType::BigInt => "bigint",
        FieldType::Double => "double precision",
        FieldType::Decimal => "numeric",
        FieldType::Boolean => "boolean",
        FieldType::Timestamp => "timestamp(3) with time zone",
        FieldType::Date => "date",
    }
}

/// Appends a field of a binary copy.
pub(super) fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    // A field is part of an event, whose size is limited far below this.
    let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a value of a binary copy.
pub(super) fn encode_value(out: &mut Vec<u8>, value: &Value<'_>, kind: FieldType) {
    match value {
        Value::Null => out.extend_from_slice(&(-1_i32).to_be_bytes()),
        Value::Text(text) | Value::Decimal(text) => field(out, text.as_bytes()),
        Value::Uuid(uuid) => field(out, uuid.as_bytes()),
        // The value has been checked to fit an int.
        Value::Int(n) if kind == FieldType::Int => field(out, &n.to_be_bytes()[4..]),
        Value::Int(n) => field(out, &n.to_be_bytes()),
        Value::Double(n) => field(out, &n.to_be_bytes()),
        Value::Boolean(b) => field(out, &[u8::from(*b)]),
        Value::Timestamp(ms) => field(out, &(ms * 1_000 - EPOCH_MICROS).to_be_bytes()),
        Value::Date(days) => field(out, &(days - EPOCH_DAYS).to_be_bytes()),
    }
}

/// A stored value converted to the field's type; none if it does not fit.
pub(super) fn value<'p>(field: &Field, bytes: &'p [u8]) -> Option<Value<'p>> {
    let text = || std::str::from_utf8(bytes).ok();
    match field.kind {
        FieldType::Text => Some(Value::Text(text()?.into())),
        FieldType::Decimal => Value::from_text(field, text()?.into()).ok(),
        FieldType::Uuid => uuid::Uuid::from_slice(bytes).ok().map(Value::Uuid),
        FieldType::Int => Some(Value::Int(
            i32::from_be_bytes(bytes.try_into().ok()?).into(),
        )),
        FieldType::BigInt => Some(Value::Int(i64::from_be_bytes(bytes.try_into().ok()?))),
        FieldType::Double => {
            let n = f64::from_be_bytes(bytes.try_into().ok()?);
            n.is_finite().then_some(Value::Double(n + 0.0)) // -0 is 0
        }
        FieldType::Boolean => match bytes {
            [b @ (0 | 1)] => Some(Value::Boolean(*b == 1)),
            _ => None,
        },
        // A row written by rtp has no finer digits than milliseconds.
        FieldType::Timestamp => {
            let micros = micros(bytes)?;
            (micros % 1_000 == 0).then_some(Value::Timestamp(micros / 1_000))
        }
        FieldType::Date => {
            let days = i32::from_be_bytes(bytes.try_into().ok()?);
            (days != i32::MIN)
                .then(|| days.checked_add(EPOCH_DAYS))?
                .map(Value::Date)
        }
    }
}

/// A stored time in microseconds since 1970; none if it is infinite.
fn micros(bytes: &[u8]) -> Option<i64> {
    let micros = i64::from_be_bytes(bytes.try_into().ok()?).checked_add(EPOCH_MICROS)?;
    (micros > i64::MIN + EPOCH_MICROS).then_some(micros)
}

/// The milliseconds below and above a stored time that is finer.
pub(super) fn between(field: &Field, bytes: &[u8]) -> Option<[Value<'static>; 2]> {
    if field.kind != FieldType::Timestamp {
        return None;
    }
    let below = micros(bytes)?.div_euclid(1_000);
    Some([below, below + 1].map(Value::Timestamp))
}

/// Describes a value that does not fit the field's type, for people.
pub(super) fn describe(field: &Field, bytes: &[u8]) -> String {
    let kind = field.kind.name();
    match field.kind {
        FieldType::Decimal => format!("{kind} {}", String::from_utf8_lossy(bytes)),
        FieldType::Double => match bytes.try_into() {
            Ok(bytes) => format!("{kind} {}", f64::from_be_bytes(bytes)),
            Err(_) => kind.into(),
        },
        FieldType::Timestamp => match micros(bytes) {
            None => format!("{kind} that is infinite"),
            Some(micros) => {
                let below = Value::Timestamp(micros.div_euclid(1_000)).to_string();
                let digits = micros.rem_euclid(1_000);
                format!("{kind} {}{digits:03}Z", below.trim_end_matches('Z'))
            }
        },
        FieldType::Date => format!("{kind} that is infinite"),
        _ => format!("{kind} of {} bytes", bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Dataset;

    #[test]
    fn a_time_with_microseconds_lies_between_two_values_and_is_shown_whole() {
        let dataset = Dataset::load(None).unwrap();
        let dob = dataset.field_index("dob").unwrap();
        let field = &dataset.fields[dob];
        let stored = |micros: i64| (micros - EPOCH_MICROS).to_be_bytes();
        assert_eq!(value(field, &stored(5_000)), Some(Value::Timestamp(5)));
        for (micros, below, shown) in [
            (5_001, 5, "timestamp 1970-01-01T00:00:00.005001Z"),
            (-1, -1, "timestamp 1969-12-31T23:59:59.999999Z"),
        ] {
            let bytes = stored(micros);
            assert_eq!(value(field, &bytes), None);
            assert_eq!(
                between(field, &bytes),
                Some([below, below + 1].map(Value::Timestamp))
            );
            assert_eq!(describe(field, &bytes), shown);
        }
        for infinite in [i64::MIN, i64::MAX] {
            let bytes = infinite.to_be_bytes();
            assert_eq!((value(field, &bytes), between(field, &bytes)), (None, None));
            assert_eq!(describe(field, &bytes), "timestamp that is infinite");
        }
    }
}
