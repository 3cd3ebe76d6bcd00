//! What a listing is asked for, as users write it.

use crate::dataset::{Dataset, Field, FieldType};
use crate::error::{Error, Result};
use crate::ports::page_reader::Filter;
use crate::record::value::Value;

/// A listing.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only rows that have all these values.
    pub filters: Vec<Filter>,
    /// Only keys that the real-time store has with a later event time, in milliseconds since 1970 UTC, besides all of
    /// the batch store; none: all keys of both stores.
    pub boundary: Option<i64>,
    /// Where it begins: behind this key.
    pub after: Option<Value<'static>>,
}

/// The boundary that a listing is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Boundary {
    /// Whichever [`View::boundary`](super::View::boundary) chooses.
    #[default]
    Unasked,
    /// None: all keys of both stores.
    Without,
    /// This event time, in milliseconds since 1970 UTC.
    At(i64),
}

impl Boundary {
    /// The word for a listing without a boundary.
    pub const WITHOUT: &str = "none";

    /// A time, or `none`.
    pub fn parse(text: &str) -> std::result::Result<Boundary, String> {
        if text == Self::WITHOUT {
            return Ok(Boundary::Without);
        }
        let time =
            crate::time::parse_time(text).map_err(|e| format!("{e}, or {}", Self::WITHOUT))?;
        Ok(Boundary::At(time.as_millisecond()))
    }
}

impl From<Option<i64>> for Boundary {
    fn from(boundary: Option<i64>) -> Self {
        boundary.map_or(Boundary::Without, Boundary::At)
    }
}

/// The condition that a field has this value.
pub fn filter(dataset: &Dataset, name: &str, text: &str) -> Result<Filter> {
    let field = dataset.field_index(name).ok_or_else(|| {
        Error::invalid(format!("unknown field `{name}`"))
            .hint(format!("the fields are {}", dataset.field_names()))
    })?;
    Ok(Filter {
        field,
        value: value(&dataset.fields[field], text)?,
    })
}

/// A condition as `FIELD=VALUE`.
pub fn parse_filter(dataset: &Dataset, text: &str) -> Result<Filter> {
    let expected = || {
        Error::invalid(format!("invalid condition `{text}`; expected FIELD=VALUE"))
            .hint(format!("the fields are {}", dataset.field_names()))
    };
    let (name, value) = text.split_once('=').ok_or_else(expected)?;
    filter(dataset, name, value)
}

/// A key.
pub fn key(dataset: &Dataset, text: &str) -> Result<Value<'static>> {
    value(dataset.key(), text)
}

/// The value of a field, as the view shows it or as events have it.
fn value(field: &Field, text: &str) -> Result<Value<'static>> {
    if field.kind == FieldType::Timestamp
        && let Ok(time) = crate::time::parse_time(text)
    {
        return Ok(Value::Timestamp(time.as_millisecond()));
    }
    match Value::from_text(field, text.into()) {
        Ok(value) => Ok(value.owned()),
        Err(fault) => Err(Error::invalid(format!(
            "`{text}` is not a value of {}: {}",
            field.name, fault.detail
        ))
        .hint(format!("{} has the type {}", field.name, field.kind.name()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_checked_by_the_declared_types() {
        let dataset = Dataset::load(None).unwrap();
        let field = |name: &str| dataset.field_index(name).unwrap();
        for (text, name, value) in [
            ("gender=female", "gender", Value::Text("female".into())),
            ("gender=a=b", "gender", Value::Text("a=b".into())),
            ("gender=", "gender", Value::Text("".into())),
            ("dob=1970-01-02", "dob", Value::Timestamp(86_400_000)),
            (
                "dob=1970-01-01T00:00:01.500Z",
                "dob",
                Value::Timestamp(1_500),
            ),
        ] {
            let field = field(name);
            let filter = parse_filter(&dataset, text).unwrap();
            assert_eq!(filter, Filter { field, value }, "{text}");
        }
        for (text, message, hint) in [
            ("gender", "expected FIELD=VALUE", "id, first_name"),
            ("sex=f", "unknown field `sex`", "id, first_name"),
            ("id=7", "`7` is not a value of id: expected a UUID", "uuid"),
            ("dob=soon", "`soon` is not a value of dob", "timestamp"),
        ] {
            let error = parse_filter(&dataset, text).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.hint_text().unwrap().contains(hint), "{error:?}");
        }
    }
}
