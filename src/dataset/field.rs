//! A field: its type, where it comes from, how it is written.

use serde_json::json;

use super::{Pointer, Template};

/// One field of the event and column of the tables.
#[derive(Clone, Debug)]
pub struct Field {
    /// Name in the event and in every table.
    pub name: String,
    /// Type.
    pub kind: FieldType,
    /// Where `fetch` takes it from.
    pub from: From,
    /// Whether a record without it is rejected.
    pub required: bool,
    /// Other names under which an event may have it.
    pub aliases: Vec<String>,
    /// Whether to accept numbers, booleans, arrays and objects as text, and texts as numbers or booleans.
    pub coerce: bool,
    /// How a timestamp is written.
    pub format: TimeFormat,
}

impl Field {
    /// The type of its JSON, and what else a JSON Schema says about it.
    pub(super) fn json_type(&self) -> (Vec<&'static str>, serde_json::Value) {
        match self.kind {
            FieldType::Text => (vec!["string"], json!({})),
            FieldType::Uuid => (vec!["string"], json!({"format": "uuid"})),
            FieldType::Int => (
                vec!["integer"],
                json!({"minimum": i32::MIN, "maximum": i32::MAX}),
            ),
            FieldType::BigInt => (
                vec!["integer"],
                json!({"minimum": i64::MIN, "maximum": i64::MAX}),
            ),
            FieldType::Double => (vec!["number"], json!({})),
            FieldType::Decimal => (vec!["number"], json!({})),
            FieldType::Boolean => (vec!["boolean"], json!({})),
            FieldType::Timestamp => match self.format {
                TimeFormat::Rfc3339 => (vec!["string"], json!({"format": "date-time"})),
                TimeFormat::EpochSeconds | TimeFormat::EpochMillis => (vec!["number"], json!({})),
            },
            FieldType::Date => (vec!["string"], json!({"format": "date"})),
        }
    }
}

/// The types a field can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// UTF-8 text without U+0000.
    Text,
    /// UUID, stored as 16 bytes.
    Uuid,
    /// 32-bit integer.
    Int,
    /// 64-bit integer.
    BigInt,
    /// 64-bit IEEE 754, finite.
    Double,
    /// Exact decimal, up to 1,000 digits.
    Decimal,
    /// true or false.
    Boolean,
    /// Point in time, in milliseconds since 1970 UTC; years 1 to 9999.
    Timestamp,
    /// Calendar day; years 1 to 9999.
    Date,
}

impl FieldType {
    /// All types with the names a dataset file uses.
    pub const ALL: [(&'static str, FieldType); 9] = [
        ("text", FieldType::Text),
        ("uuid", FieldType::Uuid),
        ("int", FieldType::Int),
        ("bigint", FieldType::BigInt),
        ("double", FieldType::Double),
        ("decimal", FieldType::Decimal),
        ("boolean", FieldType::Boolean),
        ("timestamp", FieldType::Timestamp),
        ("date", FieldType::Date),
    ];

    /// The name in a dataset file.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }
}

/// Where `fetch` takes a field from.
#[derive(Clone, Debug)]
pub enum From {
    /// A place in the source's record.
    Pointer(Pointer),
    /// A text composed of several places. If any of them is absent or null, so is the field.
    Template(Template),
    /// The run's `--as-of` time.
    AsOf,
}

/// How a timestamp is written in an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeFormat {
    /// RFC 3339 text with an offset; digits beyond milliseconds are cut off.
    #[default]
    Rfc3339,
    /// Seconds since 1970 UTC, as a number.
    EpochSeconds,
    /// Milliseconds since 1970 UTC, as a number.
    EpochMillis,
}
