//! One typed value, and how it is read from JSON or from text.

mod decimal;
mod encoding;
mod time;

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};
use uuid::Uuid;

pub use self::encoding::encode_text;
use crate::dataset::{Field, FieldType, TimeFormat};
use crate::record::reject::{Fault, Rule};

/// The value of one field, its text borrowed from the event if possible.
pub type Value<'a> = ValueOf<Cow<'a, str>>;

/// The value of one field, with text of type `T`: [`Value`] has the text itself,
/// [`Rows`](crate::record::row::Rows) keeps its position.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueOf<T> {
    /// Absent or null.
    Null,
    /// Text without U+0000.
    Text(T),
    /// UUID.
    Uuid(Uuid),
    /// Integer of 32 or 64 bits.
    Int(i64),
    /// Finite, and never -0.
    Double(f64),
    /// Plain decimal notation without superfluous zeros: `-12.5`.
    Decimal(T),
    /// true or false.
    Boolean(bool),
    /// Milliseconds since 1970 UTC.
    Timestamp(i64),
    /// Days since 1970-01-01.
    Date(i32),
}

impl<T> ValueOf<T> {
    /// The same value with its text, if any, converted to another type.
    #[inline]
    pub fn map_text<U>(&self, map: impl FnOnce(&T) -> U) -> ValueOf<U> {
        match self {
            ValueOf::Null => ValueOf::Null,
            ValueOf::Text(text) => ValueOf::Text(map(text)),
            ValueOf::Uuid(uuid) => ValueOf::Uuid(*uuid),
            ValueOf::Int(n) => ValueOf::Int(*n),
            ValueOf::Double(n) => ValueOf::Double(*n),
            ValueOf::Decimal(text) => ValueOf::Decimal(map(text)),
            ValueOf::Boolean(b) => ValueOf::Boolean(*b),
            ValueOf::Timestamp(ms) => ValueOf::Timestamp(*ms),
            ValueOf::Date(days) => ValueOf::Date(*days),
        }
    }
}

impl<'a> Value<'a> {
    /// A copy that borrows nothing.
    pub fn owned(&self) -> Value<'static> {
        self.map_text(|text| Cow::Owned(text.to_string()))
    }

    /// Reads the raw JSON text of one value, which must be valid JSON.
    pub fn from_json(field: &Field, raw: &'a str) -> Result<Value<'a>, Fault> {
        match raw.as_bytes().first() {
            Some(b'n') => Ok(Value::Null),
            Some(b'"') => Value::from_json_text(field, json_text(raw)?),
            Some(b't' | b'f') => match field.kind {
                FieldType::Boolean => Ok(Value::Boolean(raw == "true")),
                FieldType::Text if field.coerce => Ok(Value::Text(raw.into())),
                _ => Err(wrong_type(field, "a boolean")),
            },
            Some(b'[' | b'{') => match field.kind {
                FieldType::Text if field.coerce => text_value(raw.into()),
                _ => Err(wrong_type(field, "an array or object")),
            },
            _ => match field.kind {
                FieldType::Text if field.coerce => Ok(Value::Text(raw.into())),
                FieldType::Text | FieldType::Uuid | FieldType::Date | FieldType::Boolean => {
                    Err(wrong_type(field, "a number"))
                }
                FieldType::Timestamp if field.format == TimeFormat::Rfc3339 => {
                    Err(wrong_type(field, "a number"))
                }
                _ => number_value(field, raw.into()),
            },
        }
    }

    /// Reads a JSON text without escapes, given without its quotes, and adds it; none if it is not a value of
    /// the field.
    #[inline]
    pub fn push_plain_text(
        values: &mut Vec<Value<'a>>,
        field: &Field,
        text: &'a str,
    ) -> Option<()> {
        // If there is no room, the caller reads the event the other way. A value that may have to be dropped
        // because the list cannot grow would be composed elsewhere and moved, and what was just written in
        // parts cannot be moved as a whole until all of them have reached the cache.
        if values.len() == values.capacity() {
            return None;
        }
        match field.kind {
            FieldType::Text => values.push(Value::Text(Cow::Borrowed(text))),
            FieldType::Uuid => values.push(Value::Uuid(Uuid::try_parse(text).ok()?)),
            FieldType::Timestamp if field.format == TimeFormat::Rfc3339 => {
                match time::plain_utc(text.as_bytes()) {
                    Some(ms) => values.push(Value::Timestamp(ms)),
                    None => values.push(Value::Timestamp(time::timestamp(text).ok()?)),
                }
            }
            _ => values.push(Value::from_json_text(field, text.into()).ok()?),
        }
        Some(())
    }

    /// Reads the content of a JSON text, borrowed if it has no escapes.
    fn from_json_text(field: &Field, text: Cow<'a, str>) -> Result<Value<'a>, Fault> {
        match (text, field.kind) {
            // JSON text without escapes contains no control characters.
            (Cow::Borrowed(text), FieldType::Text) => Ok(Value::Text(text.into())),
            (text, FieldType::Text) => text_value(text),
            (text, FieldType::Uuid) => uuid_value(&text),
            (text, FieldType::Date) => time::date(&text).map(Value::Date),
            (text, FieldType::Timestamp) if field.format == TimeFormat::Rfc3339 => {
                time::timestamp(&text).map(Value::Timestamp)
            }
            (text, _) if field.coerce => Value::from_text(field, text),
            _ => Err(wrong_type(field, "a text")),
        }
    }

    /// Reads a value written as text: a CSV cell, or a JSON text of a field with `coerce`.
    pub fn from_text(field: &Field, text: Cow<'a, str>) -> Result<Value<'a>, Fault> {
        match field.kind {
            FieldType::Text => text_value(text),
            FieldType::Uuid => uuid_value(&text),
            FieldType::Date => time::date(&text).map(Value::Date),
            FieldType::Timestamp if field.format == TimeFormat::Rfc3339 => {
                time::timestamp(&text).map(Value::Timestamp)
            }
            FieldType::Boolean => match &*text {
                "true" => Ok(Value::Boolean(true)),
                "false" => Ok(Value::Boolean(false)),
                _ => Err(Fault::new(Rule::Type, "expected true or false")),
            },
            _ => number_value(field, text),
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Text(text) | Value::Decimal(text) => f.write_str(text),
            Value::Uuid(uuid) => write!(f, "{uuid}"),
            Value::Int(n) => write!(f, "{n}"),
            Value::Double(n) => write!(f, "{n}"),
            Value::Boolean(b) => write!(f, "{b}"),
            Value::Timestamp(ms) => f.write_str(&crate::time::format_ms(*ms)),
            Value::Date(days) => {
                f.write_str(&crate::time::format_ms(i64::from(*days) * time::DAY_MS)[..10])
            }
        }
    }
}

/// As JSON: everything but numbers and booleans is a string, including decimals, so that none is rounded.
impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_none(),
            Value::Int(n) => serializer.serialize_i64(*n),
            Value::Double(n) => serializer.serialize_f64(*n),
            Value::Boolean(b) => serializer.serialize_bool(*b),
            Value::Text(text) | Value::Decimal(text) => serializer.serialize_str(text),
            other => serializer.collect_str(other),
        }
    }
}

fn wrong_type(field: &Field, got: &str) -> Fault {
    Fault::new(
        Rule::Type,
        format!("expected {}, got {got}", field.kind.name()),
    )
}

fn json_text(raw: &str) -> Result<Cow<'_, str>, Fault> {
    let inner = &raw[1..raw.len() - 1];
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Ok(inner.into());
    }
    serde_json::from_str::<String>(raw)
        .map(Cow::Owned)
        .map_err(|e| Fault::new(Rule::JsonSyntax, e.to_string()))
}

fn text_value(text: Cow<'_, str>) -> Result<Value<'_>, Fault> {
    match memchr::memchr(0, text.as_bytes()) {
        None => Ok(Value::Text(text)),
        Some(at) => Err(Fault::new(
            Rule::Nul,
            format!("U+0000 at byte {at} of the text"),
        )),
    }
}

fn uuid_value(text: &str) -> Result<Value<'static>, Fault> {
    Uuid::try_parse(text)
        .map(Value::Uuid)
        .map_err(|_| Fault::new(Rule::BadUuid, "expected a UUID of 32 hexadecimal digits"))
}

fn number_value<'a>(field: &Field, text: Cow<'a, str>) -> Result<Value<'a>, Fault> {
    let out_of_range = || {
        Fault::new(
            Rule::OutOfRange,
            format!("the number does not fit {}", field.kind.name()),
        )
    };
    match field.kind {
        FieldType::Double => {
            decimal::canonical(&text)?; // the grammar: Rust's own parser also takes inf, nan and 1.
            let n: f64 = text.parse().map_err(|_| out_of_range())?;
            match n.is_finite() {
                true => Ok(Value::Double(if n == 0.0 { 0.0 } else { n })),
                false => Err(out_of_range()),
            }
        }
        FieldType::Decimal => Ok(Value::Decimal(match decimal::canonical(&text)? {
            Cow::Borrowed(_) => text,
            Cow::Owned(canonical) => Cow::Owned(canonical),
        })),
        FieldType::Timestamp => {
            let n = decimal::integer(&text).ok_or_else(out_of_range)?;
            time::of_epoch(n, field.format).map(Value::Timestamp)
        }
        _ => {
            let canonical = decimal::canonical(&text)?;
            let n = decimal::integer(&text).ok_or_else(|| match canonical.contains('.') {
                true => Fault::new(
                    Rule::Type,
                    format!("expected {}, got a fraction", field.kind.name()),
                ),
                false => out_of_range(),
            })?;
            match field.kind {
                FieldType::Int if i32::try_from(n).is_err() => Err(out_of_range()),
                _ => Ok(Value::Int(n)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: FieldType) -> Field {
        Field {
            name: "f".into(),
            kind,
            from: crate::dataset::From::AsOf,
            required: false,
            aliases: Vec::new(),
            coerce: false,
            format: TimeFormat::Rfc3339,
        }
    }

    #[test]
    fn values_are_read_by_type() {
        use FieldType as T;
        let table = [
            (T::Text, r#""Zoë""#, Ok(Value::Text("Zoë".into()))),
            (
                T::Text,
                r#""a\nb\ud83d\ude00""#,
                Ok(Value::Text("a\nb😀".into())),
            ),
            (T::Text, r#""\ud800""#, Err(Rule::JsonSyntax)),
            (T::Text, r#""a\u0000""#, Err(Rule::Nul)),
            (T::Text, "11549", Err(Rule::Type)),
            (T::Text, "null", Ok(Value::Null)),
            (T::Int, "2147483647", Ok(Value::Int(2_147_483_647))),
            (T::Int, "2147483648", Err(Rule::OutOfRange)),
            (T::Int, "1.0", Ok(Value::Int(1))),
            (T::Int, "1.5", Err(Rule::Type)),
            (T::Int, "-0", Ok(Value::Int(0))),
            (T::Int, "\"12\"", Err(Rule::Type)),
            (
                T::BigInt,
                "9007199254740993",
                Ok(Value::Int(9_007_199_254_740_993)),
            ),
            (T::BigInt, "9223372036854775808", Err(Rule::OutOfRange)),
            (T::BigInt, "1e3", Ok(Value::Int(1_000))),
            (T::BigInt, "1e0", Ok(Value::Int(1))),
            (T::Decimal, "-0", Ok(Value::Decimal("0".into()))),
            (T::Decimal, "0e5", Ok(Value::Decimal("0".into()))),
            (T::Decimal, "1.5e0", Ok(Value::Decimal("1.5".into()))),
            (T::Double, "-0.0", Ok(Value::Double(0.0))),
            (T::Double, "1e400", Err(Rule::OutOfRange)),
            (T::Boolean, "true", Ok(Value::Boolean(true))),
            (T::Boolean, "\"yes\"", Err(Rule::Type)),
            (
                T::Timestamp,
                "\"1969-12-31T23:59:59.9999Z\"",
                Ok(Value::Timestamp(-1)),
            ),
            (
                T::Timestamp,
                "\"2026-11-24T06:30:00+01:00\"",
                Ok(Value::Timestamp(1_795_498_200_000)),
            ),
            (T::Timestamp, "\"2026-11-24T06:30:00\"", Err(Rule::BadTime)),
            (T::Timestamp, "\"2026-02-30T00:00:00Z\"", Err(Rule::BadTime)),
            (T::Timestamp, "\"2016-12-31T23:59:60Z\"", Err(Rule::BadTime)),
            (
                T::Timestamp,
                "\"0000-01-01T00:00:00Z\"",
                Err(Rule::OutOfRange),
            ),
            (
                T::Timestamp,
                "\"9999-12-31T23:59:59.9999Z\"",
                Ok(Value::Timestamp(253_402_300_799_999)),
            ),
            (
                T::Timestamp,
                "\"9999-12-31T23:59:59+01:00\"",
                Ok(Value::Timestamp(253_402_297_199_000)),
            ),
            (
                T::Timestamp,
                "\"9999-12-31T23:59:59-01:00\"",
                Err(Rule::OutOfRange),
            ),
            (T::Timestamp, "\"9999-12-31T23:59:59\"", Err(Rule::BadTime)),
            (T::Timestamp, "\"9999-12-31\"", Err(Rule::BadTime)),
            (T::Timestamp, "\"9999-12-32T00:00:00Z\"", Err(Rule::BadTime)),
            (T::Date, "\"1970-01-02\"", Ok(Value::Date(1))),
            (T::Date, "\"0001-01-01\"", Ok(Value::Date(-719_162))),
            (T::Date, "\"9999-12-31\"", Ok(Value::Date(2_932_896))),
            (T::Date, "\"0000-12-31\"", Err(Rule::OutOfRange)),
            (T::Date, "\"2026-02-30\"", Err(Rule::BadTime)),
            (T::Uuid, "\"not\"", Err(Rule::BadUuid)),
        ];
        for (kind, raw, expected) in table {
            let got = Value::from_json(&field(kind), raw).map_err(|f| f.rule);
            assert_eq!(got, expected, "{} from {raw}", kind.name());
        }
        let id = Value::Uuid(Uuid::from_u128(0x053a5780_3703_442c_a561_beda535af12c));
        for raw in [
            "\"053A5780-3703-442c-a561-beda535af12c\"",
            "\"{053a5780-3703-442c-a561-beda535af12c}\"",
        ] {
            assert_eq!(Value::from_json(&field(T::Uuid), raw), Ok(id.clone()));
        }
    }

    #[test]
    fn epochs_are_checked_for_their_unit() {
        let mut f = field(FieldType::Timestamp);
        f.format = TimeFormat::EpochSeconds;
        assert_eq!(
            Value::from_json(&f, "1764000000"),
            Ok(Value::Timestamp(1_764_000_000_000))
        );
        for raw in ["1764000000000", "1764000000000000"] {
            assert_eq!(
                Value::from_json(&f, raw).unwrap_err().rule,
                Rule::BadUnit,
                "{raw}"
            );
        }
    }

    #[test]
    fn coercion_is_a_choice_of_the_dataset() {
        let mut f = field(FieldType::Text);
        f.coerce = true;
        assert_eq!(
            Value::from_json(&f, "11549"),
            Ok(Value::Text("11549".into()))
        );
        assert_eq!(
            Value::from_json(&f, "[1, 2]"),
            Ok(Value::Text("[1, 2]".into()))
        );
        f.kind = FieldType::Int;
        assert_eq!(Value::from_json(&f, "\"12\""), Ok(Value::Int(12)));
    }
}
