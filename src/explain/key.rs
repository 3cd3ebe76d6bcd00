//! The key that is asked about, and how it is found in records.

use std::borrow::Cow;

use memchr::memmem::Finder;

use crate::dataset::{Dataset, Field, FieldType, TimeFormat};
use crate::error::{Error, Result};
use crate::intake::dead_letter::DeadLetters;
use crate::record::event::Event;
use crate::record::transform::write_key;
use crate::record::value::Value;

/// A key, and what is known about the records that have it.
#[derive(Debug)]
pub struct Key {
    /// The key.
    pub value: Value<'static>,
    /// As the log keeps it.
    text: Vec<u8>,
    /// A record that has it contains one of these texts, or a backslash; none if it may be written in many ways.
    needles: Vec<Finder<'static>>,
    /// The longest part of the key that is the same in upper and lower case, if it is looked for in both.
    caseless: Option<Finder<'static>>,
    records: DeadLetters,
}

impl Key {
    /// Reads a key by the type of the dataset's key field; `Invalid` if it is not one.
    pub fn parse(dataset: &Dataset, text: &str) -> Result<Key> {
        let field = dataset.key();
        let canonical = Field {
            format: TimeFormat::Rfc3339,
            ..field.clone()
        };
        let invalid = |why: &str| {
            let (name, kind) = (&field.name, field.kind.name());
            Error::invalid(format!("invalid key `{text}`: {why}")).hint(format!(
                "the key of dataset {} is {name}, of type {kind}",
                dataset.name
            ))
        };
        let value = Value::from_text(&canonical, Cow::Borrowed(text))
            .map_err(|fault| invalid(&fault.detail))?
            .owned();
        if text.is_empty() {
            return Err(invalid("the key is empty"));
        }
        let mut written = Vec::new();
        write_key(&value, &mut written);
        let text = String::from_utf8_lossy(&written).into_owned();
        let needles = match field.kind {
            FieldType::Uuid => {
                let plain = text.replace('-', "");
                vec![text.clone(), plain]
            }
            // A quote is doubled in CSV.
            FieldType::Text if !text.contains('"') => vec![text.clone()],
            _ => Vec::new(),
        };
        let digits = text.split(|c: char| !c.is_ascii_digit());
        let digits = digits.max_by_key(|run| run.len()).unwrap_or_default();
        let caseless = (field.kind == FieldType::Uuid).then(|| Finder::new(digits).into_owned());
        Ok(Key {
            value,
            caseless,
            text: written,
            needles: needles
                .iter()
                .map(|text| Finder::new(text.as_bytes()).into_owned())
                .collect(),
            records: DeadLetters::of(dataset),
        })
    }

    /// The bytes that the log keeps as the key.
    pub fn bytes(&self) -> &[u8] {
        &self.text
    }

    /// Whether a record may have this key; most that have another one do not.
    pub fn may_be_in(&self, record: &[u8]) -> bool {
        let has = |record: &[u8]| self.needles.iter().any(|text| text.find(record).is_some());
        let is_there = match &self.caseless {
            None => self.needles.is_empty() || has(record),
            Some(part) => part.find(record).is_some() && has(&record.to_ascii_lowercase()),
        };
        is_there || memchr::memchr(b'\\', record).is_some()
    }

    /// Whether a JSON record has this key, whatever else is wrong with it.
    pub fn is_in(&self, record: &[u8]) -> bool {
        self.may_be_in(record) && self.records.key_in(record).as_ref() == Some(&self.value)
    }

    /// Whether a record whose key cannot be read has something in it that reads as this key.
    pub fn may_be_a_value_in(&self, record: &[u8]) -> bool {
        let field = self.records.key_only().key();
        let is_other = |c: char| c.is_whitespace() || matches!(c, '{' | '}' | ':');
        String::from_utf8_lossy(record)
            .split([',', '"'])
            .any(|text| {
                let text = text.trim_matches(is_other);
                let value = Value::from_text(field, text.into());
                !text.is_empty() && value.is_ok_and(|value| value == self.value)
            })
    }

    /// Whether an event is about this key: by its own key, or if another program has written it without one or with
    /// another one, by its value.
    pub fn is_of(&self, event: &Event<'_>) -> bool {
        event.key == Some(&self.text) || event.value.is_some_and(|value| self.is_in(value))
    }

    /// Reads dead letters of the dataset.
    pub fn letters(&self) -> &DeadLetters {
        &self.records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    const ID: &str = "053a5780-3703-442c-a561-beda535af12c";

    fn dataset(kind: FieldType) -> Dataset {
        let mut dataset = Dataset::load(None).unwrap();
        let key = dataset.event.key;
        dataset.fields[key].kind = kind;
        dataset
    }

    #[test]
    fn a_key_is_found_however_it_is_written() {
        let plain = ID.replace('-', "");
        for (kind, text, record, is_in) in [
            (FieldType::Uuid, ID, format!(r#"{{"id":"{ID}"}}"#), true),
            (
                FieldType::Uuid,
                &*ID.to_uppercase(),
                format!(r#"{{"id":"{ID}","gender":7}}"#),
                true,
            ),
            (FieldType::Uuid, ID, format!(r#"{{"id":"{plain}"}}"#), true),
            (
                FieldType::Uuid,
                &plain,
                format!(r#"{{"id":"{}"}}"#, ID.to_uppercase()),
                true,
            ),
            (
                FieldType::Uuid,
                ID,
                r#"{"id":"053A5780-3703-442c-a561-BEDA535af12c"}"#.into(),
                true,
            ),
            // In another field.
            (FieldType::Uuid, ID, format!(r#"{{"email":"{ID}"}}"#), false),
            (FieldType::Uuid, ID, format!(r#"{{"id":"{ID}""#), false),
            (FieldType::Text, "ä/b", r#"{"id":"\u00e4\/b"}"#.into(), true),
            (FieldType::Text, "b", r#"{"id":"ab"}"#.into(), false),
            (FieldType::Text, "a\"", r#"{"id":"a\""}"#.into(), true),
            (FieldType::BigInt, "100", r#"{"id":1e2}"#.into(), true),
            (FieldType::BigInt, "-7", r#"{"id":-7}"#.into(), true),
            (FieldType::BigInt, "7", r#"{"id":77}"#.into(), false),
        ] {
            let key = Key::parse(&dataset(kind), text).unwrap();
            assert_eq!(key.is_in(record.as_bytes()), is_in, "{text} in {record}");
        }
    }

    #[test]
    fn an_event_is_about_the_key_by_its_own_or_by_its_value() {
        let key = Key::parse(&dataset(FieldType::Uuid), &ID.to_uppercase()).unwrap();
        let value = format!(r#"{{"id":"{ID}"}}"#);
        for (of, value, is_of) in [
            (Some(ID), "{", true),
            (None, &*value, true),
            (Some("another"), &*value, true),
            (Some("another"), "{", false),
        ] {
            let event = Event::new(of.map(str::as_bytes), Some(value.as_bytes()), b"");
            assert_eq!(key.is_of(&event), is_of, "{of:?} {value}");
        }
    }

    #[test]
    fn a_text_that_is_no_key_is_refused_with_its_type() {
        for (kind, text) in [
            (FieldType::Uuid, "053a"),
            (FieldType::BigInt, "1.5"),
            (FieldType::Text, ""),
        ] {
            let error = Key::parse(&dataset(kind), text).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{error}");
            let hint = error.hint_text().unwrap().to_string();
            assert!(
                hint.ends_with(&format!("of type {}", kind.name())),
                "{hint}"
            );
        }
    }
}
