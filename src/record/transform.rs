//! Pure: the bytes of an event become a typed row or a reject. No I/O, no clock.

use crate::dataset::Dataset;
use crate::record::json;
use crate::record::reject::{Fault, Reject, Rule};
use crate::record::row::{self, Origin, RowMeta, Rows};
use crate::record::value::Value;

/// Longest key in bytes, the same for every store, so that none refuses what another one holds. The smallest limit is
/// that of PostgreSQL's indexes: 2,704 bytes with the headers. Cassandra's is 65,535.
pub const MAX_KEY_BYTES: usize = 2_600;

/// How far in the future an event time may be, in milliseconds: Kafka's own bound (KIP-1030). A later
/// one would win over every correct event forever.
pub(crate) const MAX_FUTURE_MS: i64 = 3_600_000;

/// Reads events of one dataset, reusing its buffers.
#[derive(Debug)]
pub struct Transform<'d> {
    dataset: &'d Dataset,
    now: i64,
    /// The later of `now` and the time at which the current event was in the log.
    latest: i64,
    scratch: Vec<u8>,
}

impl<'d> Transform<'d> {
    /// A transform that rejects event times more than an hour after `now`, in milliseconds since 1970 UTC.
    pub fn new(dataset: &'d Dataset, now: i64) -> Self {
        Transform {
            dataset,
            now,
            latest: now,
            scratch: Vec::with_capacity(1024),
        }
    }

    /// The next event has this timestamp in the log. It is no earlier than that by the log's clock, so if ours is behind,
    /// the timestamp takes the place of `now`: otherwise every event would be rejected.
    pub fn logged_at(&mut self, timestamp: Option<i64>) {
        self.latest = timestamp.map_or(self.now, |logged| logged.max(self.now));
    }

    /// Reads one event, checks it and adds it to `rows`.
    pub fn event(&mut self, bytes: &[u8], origin: Origin, rows: &mut Rows) -> Result<(), Reject> {
        let mut values = Vec::new();
        self.read(bytes, &mut values)?;
        self.values(&values, origin, rows)
    }

    /// Checks a row and adds it to `rows`.
    pub fn values(
        &mut self,
        values: &[Value<'_>],
        origin: Origin,
        rows: &mut Rows,
    ) -> Result<(), Reject> {
        let event_time = self.check(values)?;
        let meta = RowMeta {
            event_time,
            digest: row::digest(self.dataset, values, &mut self.scratch),
            origin,
        };
        rows.push(values, meta);
        Ok(())
    }

    /// Replaces `values` with the values of one event, in the dataset's order of fields.
    pub fn read<'a>(&self, bytes: &'a [u8], values: &mut Vec<Value<'a>>) -> Result<(), Reject> {
        json::read(self.dataset, bytes, values)
    }

    /// Checks the rules across a row; returns its event time in milliseconds since 1970 UTC.
    pub fn check(&self, values: &[Value<'_>]) -> Result<i64, Reject> {
        let d = self.dataset;
        let fault = |i: usize, rule, detail: &str| Reject {
            field: Some(i),
            fault: Fault::new(rule, detail),
        };
        for (i, (field, value)) in d.fields.iter().zip(values).enumerate() {
            if field.required && *value == Value::Null {
                return Err(fault(
                    i,
                    Rule::Required,
                    "a required field is absent or null",
                ));
            }
        }
        match &values[d.event.key] {
            Value::Text(key) if key.is_empty() => {
                return Err(fault(d.event.key, Rule::EmptyKey, "the key is empty"));
            }
            Value::Text(key) if key.len() > MAX_KEY_BYTES => {
                let detail = format!("a key can have at most {MAX_KEY_BYTES} bytes");
                return Err(fault(d.event.key, Rule::KeyTooLong, &detail));
            }
            _ => {}
        }
        match values[d.event.time] {
            Value::Timestamp(ms) if ms > self.latest.saturating_add(MAX_FUTURE_MS) => Err(fault(
                d.event.time,
                Rule::Future,
                "the event time is in the future",
            )),
            Value::Timestamp(ms) => Ok(ms),
            _ => Err(fault(d.event.time, Rule::Type, "expected timestamp")),
        }
    }
}

/// Replaces `rows` with rows of the good events, each given with its timestamp in the log if it has one; returns the bad
/// ones: index and reason. `now` is that of [`Transform::new`].
pub fn events<'a>(
    dataset: &Dataset,
    now: i64,
    events: impl Iterator<Item = (Option<i64>, Option<&'a [u8]>)>,
    rows: &mut Rows,
) -> Vec<(usize, Reject)> {
    let mut transform = Transform::new(dataset, now);
    let mut rejects = Vec::new();
    rows.clear();
    for (i, (timestamp, value)) in events.enumerate() {
        transform.logged_at(timestamp);
        let read = match value {
            Some(value) => transform.event(value, Origin::default(), rows),
            None => Err(Reject::whole(Rule::Tombstone, "the event has no value")),
        };
        if let Err(reject) = read {
            rejects.push((i, reject));
        }
    }
    rejects
}

/// Appends the key of a row in the form that the log keeps: the canonical text.
pub fn write_key(key: &Value<'_>, out: &mut Vec<u8>) {
    match key {
        Value::Text(text) => out.extend_from_slice(text.as_bytes()),
        Value::Uuid(uuid) => {
            let mut buffer = uuid::Uuid::encode_buffer();
            out.extend_from_slice(uuid.hyphenated().encode_lower(&mut buffer).as_bytes());
        }
        other => out.extend_from_slice(other.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::json::MAX_EVENT_BYTES;

    const NOW: i64 = 1_795_500_000_000;
    const ID: &str = "053a5780-3703-442c-a561-beda535af12c";

    fn read(line: &[u8]) -> Result<(Rows, RowMeta), Reject> {
        let dataset = Dataset::load(None).unwrap();
        let mut rows = Rows::new(dataset.fields.len());
        Transform::new(&dataset, NOW).event(line, Origin::default(), &mut rows)?;
        let meta = *rows.meta(0);
        Ok((rows, meta))
    }

    fn event(more: &str) -> String {
        format!(r#"{{"id":"{ID}","fetched_at":"2026-11-24T00:00:00Z"{more}}}"#)
    }

    #[test]
    fn an_event_becomes_a_row() {
        let line =
            event(r#","last_name":"Müller","registered":"2020-01-01T00:00:00Z","extra":[{}]"#);
        let (rows, meta) = read(line.as_bytes()).unwrap();
        let values: Vec<Value<'_>> = rows.values(0).collect();
        assert_eq!(values[1], Value::Null);
        assert_eq!(values[2], Value::Text("Müller".into()));
        assert_eq!(values[9], Value::Timestamp(1_577_836_800_000));
        assert_eq!(meta.event_time, 1_795_478_400_000);
        let mut key = Vec::new();
        write_key(&values[0], &mut key);
        assert_eq!(key, ID.as_bytes());
    }

    #[test]
    fn an_event_is_future_only_by_our_clock_and_by_the_logs() {
        let dataset = Dataset::load(None).unwrap();
        let value = event("").replace("2026-11-24T00", "2026-11-24T10"); // 3.9 h after NOW
        let time = 1_795_514_400_000;
        let mut rows = Rows::new(dataset.fields.len());
        for (logged, is_future) in [
            (None, true),
            (Some(-1), true), // an event of Kafka without a timestamp
            (Some(NOW), true),
            (Some(time - MAX_FUTURE_MS - 1), true),
            (Some(time - MAX_FUTURE_MS), false),
            (Some(i64::MAX), false),
        ] {
            let one = std::iter::once((logged, Some(value.as_bytes())));
            let rejects = events(&dataset, NOW, one, &mut rows);
            let rules: Vec<Rule> = rejects.iter().map(|(_, r)| r.fault.rule).collect();
            let expected = if is_future {
                vec![Rule::Future]
            } else {
                vec![]
            };
            assert_eq!(rules, expected, "{logged:?}");
        }
        // The timestamp of one event says nothing about the next.
        let both = [
            (Some(time), Some(value.as_bytes())),
            (None, Some(value.as_bytes())),
        ];
        let rejects = events(&dataset, NOW, both.into_iter(), &mut rows);
        assert_eq!(rejects.len(), 1, "{rejects:?}");
    }

    #[test]
    fn the_digest_depends_on_values_not_on_spelling() {
        let digest = |line: &str| read(line.as_bytes()).unwrap().1.digest;
        let a = digest(&event(r#","gender":"x","email":null"#));
        assert_eq!(a, digest(&event(r#", "unknown": 1, "gender" : "\u0078""#)));
        assert_ne!(a, digest(&event(r#","gender":"x","email":"""#)));
        assert_ne!(a, digest(&event(r#","email":"x""#)));
    }

    #[test]
    fn bad_events_are_named_by_rule_and_field() {
        let deep = event(&format!(r#","x":{}1{}"#, "[".repeat(128), "]".repeat(128)));
        let big = event(&format!(r#","email":"{}""#, "x".repeat(MAX_EVENT_BYTES)));
        let table: Vec<(Vec<u8>, Option<&str>, Rule)> = vec![
            (b"{\"a\":".to_vec(), None, Rule::JsonSyntax),
            (b"null".to_vec(), None, Rule::NotObject),
            (b"[1,2]".to_vec(), None, Rule::NotObject),
            (b"42".to_vec(), None, Rule::NotObject),
            (b"{'a':1}".to_vec(), None, Rule::JsonSyntax),
            (b"{\"a\":1,}".to_vec(), None, Rule::JsonSyntax),
            (b"{\"a\":NaN}".to_vec(), None, Rule::JsonSyntax),
            (b"{\"a\":\"\x01\"}".to_vec(), None, Rule::JsonSyntax),
            (b"{\"a\":\"\xc3\x28\"}".to_vec(), None, Rule::InvalidUtf8),
            (
                format!("{} {{}}", event("")).into(),
                None,
                Rule::TrailingData,
            ),
            (
                event(r#","email":"a","email":"b""#).into(),
                Some("email"),
                Rule::DuplicateKey,
            ),
            (
                event(r#","registered":null,"registered_date":null"#).into(),
                Some("registered_date"),
                Rule::DuplicateKey,
            ),
            (deep.into(), None, Rule::Depth),
            (big.into(), None, Rule::TooLarge),
            (
                br#"{"fetched_at":"2026-11-24T00:00:00Z"}"#.to_vec(),
                Some("id"),
                Rule::Required,
            ),
            (event(r#","dob":"1970""#).into(), Some("dob"), Rule::BadTime),
            (
                event("").replace("2026", "2027").into(),
                Some("fetched_at"),
                Rule::Future,
            ),
        ];
        let dataset = Dataset::load(None).unwrap();
        for (line, field, rule) in table {
            let reject = read(&line).unwrap_err();
            let name = reject.field.map(|i| dataset.fields[i].name.as_str());
            assert_eq!(
                (name, reject.fault.rule),
                (field, rule),
                "{}",
                reject.describe(&dataset)
            );
        }
        let nested = event(&format!(r#","x":{}1{}"#, "[".repeat(127), "]".repeat(127)));
        assert!(read(nested.as_bytes()).is_ok());
    }
}
