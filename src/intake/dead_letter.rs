//! A dead letter read back: what [`push_dead_letter`](super::rejects::push_dead_letter) has written.

use std::borrow::Cow;

use super::record_key::{as_text, known, with_only};
use crate::dataset::{Dataset, Field, TimeFormat};
use crate::record::event::{Event, Headers};
use crate::record::transform::Transform;
use crate::record::value::Value;

/// The first of the headers that say why an event is a dead letter. An event that was a dead letter before has some
/// more of them, in front.
const FIRST: &str = "__connect.errors.topic";

/// Why a record is in the dead-letter topic, and where it was before.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Where the letter itself stands in the dead-letter topic: partition and offset.
    pub at: (i32, i64),
    /// When it was written, in milliseconds since 1970 UTC.
    pub written_at: i64,
    /// The topic that the record comes from, or was meant for.
    pub source: String,
    /// Its partition there; none for a record that never was in the topic.
    pub partition: Option<i32>,
    /// Its offset in the partition, or its byte offset in the input.
    pub offset: Option<i64>,
    /// Its 1-based line in the input; none for an event of the topic.
    pub line: Option<u64>,
    /// The command that refused it.
    pub stage: String,
    /// The run that refused it.
    pub run_id: String,
    /// The rule that it broke, by its name.
    pub rule: String,
    /// The field that is to blame, if it is a single one.
    pub field: Option<String>,
    /// What was expected, for people.
    pub message: String,
    /// The record's key: the event's, or that in the record itself. None if neither can be read.
    pub key: Option<Value<'static>>,
}

/// Reads the dead letters of a dataset.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    /// The dataset as if its key were its only field: whatever else is wrong with a record does not matter.
    key_only: Dataset,
    /// The same with its event time.
    time_only: Dataset,
}

impl DeadLetters {
    /// Those of this dataset.
    pub fn of(dataset: &Dataset) -> DeadLetters {
        DeadLetters {
            key_only: with_only(dataset, dataset.event.key),
            time_only: with_only(dataset, dataset.event.time),
        }
    }

    /// The dataset with its key as the only field.
    pub fn key_only(&self) -> &Dataset {
        &self.key_only
    }

    /// What the event of a dead-letter topic says; none if it is not a letter of rtp, or only continues one that was too
    /// large for the topic.
    pub fn read(&self, event: &Event<'_>) -> Option<DeadLetter> {
        let headers: Vec<(&[u8], &[u8])> = Headers::parts(event.headers).collect();
        let first = headers
            .iter()
            .rposition(|(name, _)| *name == FIRST.as_bytes())?;
        let told = |wanted: &str| {
            let of_this = headers.iter().skip(first);
            let mut found = of_this.filter(|(name, _)| *name == wanted.as_bytes());
            found
                .next()
                .map(|(_, value)| String::from_utf8_lossy(value))
        };
        let text = |wanted: &str| told(wanted).map(Cow::into_owned).unwrap_or_default();
        if told("rtp.part_of").is_some() {
            return None;
        }
        Some(DeadLetter {
            at: (event.partition, event.offset),
            written_at: event.timestamp,
            source: text(FIRST),
            partition: told("__connect.errors.partition").and_then(|p| p.parse().ok()),
            offset: told("__connect.errors.offset").and_then(|at| at.parse().ok()),
            line: told("rtp.line").and_then(|line| line.parse().ok()),
            stage: text("__connect.errors.stage"),
            run_id: text("rtp.run_id"),
            rule: told("rtp.rule")?.into_owned(),
            field: told("rtp.field").map(Cow::into_owned),
            message: text("__connect.errors.exception.message"),
            key: self.key(event, told("rtp.key_bytes").is_some()),
        })
    }

    fn key(&self, event: &Event<'_>, is_cut: bool) -> Option<Value<'static>> {
        let whole = event.key.filter(|_| !is_cut);
        let in_log = whole.and_then(|key| read_key(self.key_only.key(), key));
        in_log.or_else(|| self.key_in(event.value?))
    }

    /// The key in a record, whatever else is wrong with it, if it is JSON, even in another encoding than UTF-8.
    pub fn key_in(&self, record: &[u8]) -> Option<Value<'static>> {
        let text = as_text(record);
        let mut values = Vec::new();
        let read = Transform::new(&self.key_only, 0).read(&text, &mut values);
        let key = read.ok().and(values.first())?;
        known(key, matches!(text, Cow::Borrowed(_)))
    }

    /// The event time in such a record, in milliseconds since 1970 UTC.
    pub fn time_in(&self, record: &[u8]) -> Option<i64> {
        let text = as_text(record);
        let mut values = Vec::new();
        let read = Transform::new(&self.time_only, 0).read(&text, &mut values);
        match read.ok().and(values.first())? {
            Value::Timestamp(time) => Some(*time),
            _ => None,
        }
    }
}

/// A key in the form that the log keeps: the canonical text.
pub fn read_key(field: &Field, key: &[u8]) -> Option<Value<'static>> {
    let text = std::str::from_utf8(key).ok()?;
    // The canonical text of a time is the same, however the source writes times.
    let field = Field {
        format: TimeFormat::Rfc3339,
        ..field.clone()
    };
    let key = Value::from_text(&field, text.into()).ok()?;
    Some(key.owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::oversized;
    use crate::intake::rejects::{Rejected, push_dead_letter};
    use crate::record::event::EventBatch;
    use crate::record::reject::{Fault, Reject, Rule};

    const ID: &str = "053a5780-3703-442c-a561-beda535af12c";

    fn dataset() -> Dataset {
        Dataset::load(None).unwrap()
    }

    /// The letter of a record as the writer writes it, and what is read back.
    fn letter(rejected: &Rejected<'_>) -> (EventBatch, Option<DeadLetter>) {
        let dataset = dataset();
        let mut batch = EventBatch::default();
        push_dead_letter(&mut batch, &dataset, "stream", "r1", rejected);
        let read = DeadLetters::of(&dataset).read(&batch.last().unwrap());
        (batch, read)
    }

    fn reject(field: Option<usize>) -> Reject {
        Reject {
            field,
            fault: Fault::new(Rule::Type, "expected text, got a number"),
        }
    }

    #[test]
    fn what_was_written_about_an_event_is_read_back() {
        let mut headers = Headers::default();
        headers.push("rtp.run_id", b"of the producer");
        // An event that was a dead letter before.
        headers.push(FIRST, b"another");
        headers.push("rtp.rule", b"another");
        headers.push("rtp.field", b"another");
        headers.push("rtp.line", b"17");
        let reject = reject(None);
        let rejected = Rejected {
            source: "user_events",
            partition: Some(2),
            offset: 41,
            line: None,
            key: Some(ID.as_bytes()),
            value: Some(b"{"),
            headers: headers.bytes(),
            reject: &reject,
        };
        let (batch, read) = letter(&rejected);
        let event = batch.last().unwrap();
        let expected = DeadLetter {
            at: (event.partition, event.offset),
            written_at: event.timestamp,
            source: "user_events".into(),
            partition: Some(2),
            offset: Some(41),
            line: None,
            stage: "stream".into(),
            run_id: "r1".into(),
            rule: "type".into(),
            field: None,
            message: "type: expected text, got a number".into(),
            key: Some(Value::Uuid(ID.parse().unwrap())),
        };
        assert_eq!(read, Some(expected));
    }

    #[test]
    fn what_was_written_about_a_line_is_read_back_with_the_key_in_it() {
        let dataset = dataset();
        let field = dataset.field_index("gender").unwrap();
        let reject = reject(Some(field));
        for (line, key) in [
            (format!(r#"{{"id":"{ID}","gender":7}}"#), true),
            (format!(r#"{{"id":"{ID}","gender":7"#), false),
            (r#"{"id":"no uuid"}"#.into(), false),
            (r#"{"id":null}"#.into(), false),
            ("[]".into(), false),
        ] {
            let rejected = Rejected {
                source: "user_events",
                partition: None,
                offset: 900,
                line: Some(12),
                key: None,
                value: Some(line.as_bytes()),
                headers: &[],
                reject: &reject,
            };
            let (_, read) = letter(&rejected);
            let read = read.unwrap();
            assert_eq!(
                (read.partition, read.offset, read.line),
                (None, Some(900), Some(12))
            );
            assert_eq!(read.field.as_deref(), Some("gender"));
            assert_eq!(
                read.message,
                "field gender: type: expected text, got a number"
            );
            assert_eq!(read.key.is_some(), key, "{line}: {:?}", read.key);
        }
    }

    #[test]
    fn a_letter_that_was_shortened_is_read_once_and_with_no_part_of_its_key() {
        let reject = reject(None);
        let key = "k".repeat(9_000);
        let rejected = Rejected {
            source: "user_events",
            partition: Some(0),
            offset: 5,
            line: None,
            key: Some(key.as_bytes()),
            value: Some(b"v"),
            headers: &[],
            reject: &reject,
        };
        let (batch, _) = letter(&rejected);
        let mut dataset = dataset();
        dataset.fields[dataset.event.key].kind = crate::dataset::FieldType::Text;
        let letters = DeadLetters::of(&dataset);
        let fitting = oversized::fitting(&batch, 4_000);
        assert!(fitting.len() > 1);
        let read: Vec<DeadLetter> = fitting.iter().filter_map(|e| letters.read(&e)).collect();
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].offset, &read[0].key), (Some(5), &None));
        assert_eq!(
            letters.read(&batch.last().unwrap()).unwrap().key,
            Some(Value::Text(key.into()))
        );
    }

    #[test]
    fn what_others_wrote_is_no_letter() {
        let letters = DeadLetters::of(&dataset());
        assert_eq!(letters.read(&Event::new(Some(b"k"), Some(b"v"), b"")), None);
        let mut headers = Headers::default();
        headers.push(FIRST, b"of Kafka Connect");
        let event = Event::new(Some(b"k"), Some(b"v"), headers.bytes());
        assert_eq!(letters.read(&event), None);
    }
}
