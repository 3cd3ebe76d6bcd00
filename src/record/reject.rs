//! Why a record is refused: the rule, what was expected, and in which field.

use std::fmt;

use crate::dataset::Dataset;

/// The rule that a bad record broke; its name is part of every dead letter and reject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The line is not JSON.
    JsonSyntax,
    /// The line is JSON, but not an object.
    NotObject,
    /// Something follows the object on its line.
    TrailingData,
    /// A field occurs twice.
    DuplicateKey,
    /// A CSV record with more or fewer cells than the header.
    Columns,
    /// An unclosed quote in a CSV record.
    Quote,
    /// Nested deeper than 128 levels.
    Depth,
    /// The line is not UTF-8.
    InvalidUtf8,
    /// The line is longer than the limit.
    TooLarge,
    /// A text contains U+0000, which not every store accepts.
    Nul,
    /// A required field is absent or null.
    Required,
    /// The key is empty.
    EmptyKey,
    /// The key is longer than [`MAX_KEY_BYTES`](crate::record::transform::MAX_KEY_BYTES).
    KeyTooLong,
    /// A value of the wrong type.
    Type,
    /// A number or time outside the range of the type.
    OutOfRange,
    /// Not a UUID.
    BadUuid,
    /// Not a time or a date.
    BadTime,
    /// A time in a different unit than declared.
    BadUnit,
    /// An event time in the future: more than an hour after our clock, and after the event's timestamp in the log.
    Future,
    /// An event without a value.
    Tombstone,
    /// The store refused the row.
    Store,
}

impl Rule {
    /// The name in dead letters and rejects.
    pub fn name(self) -> &'static str {
        match self {
            Rule::JsonSyntax => "json_syntax",
            Rule::NotObject => "not_object",
            Rule::TrailingData => "trailing_data",
            Rule::DuplicateKey => "duplicate_key",
            Rule::Columns => "columns",
            Rule::Quote => "quote",
            Rule::Depth => "depth",
            Rule::InvalidUtf8 => "invalid_utf8",
            Rule::TooLarge => "too_large",
            Rule::Nul => "nul",
            Rule::Required => "required",
            Rule::EmptyKey => "empty_key",
            Rule::KeyTooLong => "key_too_long",
            Rule::Type => "type",
            Rule::OutOfRange => "out_of_range",
            Rule::BadUuid => "bad_uuid",
            Rule::BadTime => "bad_time",
            Rule::BadUnit => "bad_unit",
            Rule::Future => "future",
            Rule::Tombstone => "tombstone",
            Rule::Store => "store",
        }
    }
}

/// Why a value or record is bad: the rule, and what was expected. It contains no payload, so that it
/// can be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The rule broken.
    pub rule: Rule,
    /// What was expected, and what kind of value was found instead.
    pub detail: String,
}

impl Fault {
    /// A broken rule.
    pub fn new(rule: Rule, detail: impl Into<String>) -> Self {
        Fault {
            rule,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule.name(), self.detail)
    }
}

/// Why an event was rejected, and because of which field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Index of the field, if the fault is in one.
    pub field: Option<usize>,
    /// The rule and what was expected.
    pub fault: Fault,
}

impl Reject {
    /// An event that its topic does not accept; sizes in bytes, with key and headers.
    pub fn too_large(size: usize, max_size: usize) -> Reject {
        let detail =
            format!("{size} bytes with key and headers; the topic accepts at most {max_size}");
        Reject::whole(Rule::TooLarge, detail)
    }

    /// A fault that is not in a single field.
    pub(crate) fn whole(rule: Rule, detail: impl Into<String>) -> Reject {
        Reject {
            field: None,
            fault: Fault::new(rule, detail),
        }
    }

    /// For messages: the field's name, then the fault.
    pub fn describe(&self, dataset: &Dataset) -> String {
        match self.field {
            Some(i) => format!("field {}: {}", dataset.fields[i].name, self.fault),
            None => self.fault.to_string(),
        }
    }
}
