//! Pure: the bytes of an event become a typed row or a reject. No I/O, no clock.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::dataset::Dataset;
use crate::row::{self, Origin, RowMeta, Rows};
use crate::value::{Fault, Rule, Value};

/// Longest event in bytes; Kafka's default limit of a message.
pub const MAX_EVENT_BYTES: usize = 1 << 20;

/// Longest key in bytes: Cassandra's limit of a partition key.
pub const MAX_KEY_BYTES: usize = 65_535;

/// How far in the future an event time may be, in milliseconds: Kafka's own bound (KIP-1030). A later
/// one would win over every honest event for ever.
const MAX_FUTURE_MS: i64 = 3_600_000;

/// Deepest nesting of an event.
const MAX_DEPTH: usize = 128;

/// Why an event was rejected, and by which field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Index of the field, if the fault is in one.
    pub field: Option<usize>,
    /// The rule and what was expected.
    pub fault: Fault,
}

impl Reject {
    /// An event that its topic does not take; sizes in bytes, with key and headers.
    pub fn too_large(size: usize, max_size: usize) -> Reject {
        let detail = format!("{size} bytes with key and headers, the topic takes {max_size}");
        whole(Rule::TooLarge, detail)
    }

    /// For messages: the field's name, then the fault.
    pub fn describe(&self, dataset: &Dataset) -> String {
        match self.field {
            Some(i) => format!("field {}: {}", dataset.fields[i].name, self.fault),
            None => self.fault.to_string(),
        }
    }
}

fn whole(rule: Rule, detail: impl Into<String>) -> Reject {
    Reject {
        field: None,
        fault: Fault::new(rule, detail),
    }
}

/// Reads events of one dataset, reusing its buffers.
#[derive(Debug)]
pub struct Transform<'d> {
    dataset: &'d Dataset,
    now: i64,
    scratch: Vec<u8>,
}

impl<'d> Transform<'d> {
    /// A transform that refuses event times more than an hour after `now`, in milliseconds since 1970 UTC.
    pub fn new(dataset: &'d Dataset, now: i64) -> Self {
        Transform {
            dataset,
            now,
            scratch: Vec::with_capacity(1024),
        }
    }

    /// The time it was made with, in milliseconds since 1970 UTC.
    pub fn now(&self) -> i64 {
        self.now
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

    /// The values of one event, in the dataset's order of fields, in place of those that are there.
    pub fn read<'a>(&self, bytes: &'a [u8], values: &mut Vec<Value<'a>>) -> Result<(), Reject> {
        let text = checked_text(bytes)?;
        values.clear();
        if plain_values(self.dataset, text, values).is_none() {
            *values = any_values(self.dataset, text)?;
        }
        Ok(())
    }

    /// The rules across a row; yields its event time in milliseconds since 1970 UTC.
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
                return Err(fault(
                    d.event.key,
                    Rule::KeyTooLong,
                    "a key has at most 65535 bytes",
                ));
            }
            _ => {}
        }
        match values[d.event.time] {
            Value::Timestamp(ms) if ms > self.now + MAX_FUTURE_MS => Err(fault(
                d.event.time,
                Rule::Future,
                "the event time is in the future",
            )),
            Value::Timestamp(ms) => Ok(ms),
            _ => Err(fault(d.event.time, Rule::Type, "expected timestamp")),
        }
    }
}

/// Appends the key of a row as the log keeps it: the canonical text.
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

/// A record as text: within the limit of length, and UTF-8.
pub fn checked_text(bytes: &[u8]) -> Result<&str, Reject> {
    if bytes.len() > MAX_EVENT_BYTES {
        let detail = format!("{} bytes, allowed are {MAX_EVENT_BYTES}", bytes.len());
        return Err(whole(Rule::TooLarge, detail));
    }
    simdutf8::compat::from_utf8(bytes).map_err(|e| {
        let detail = format!("no UTF-8 from byte {} on", e.valid_up_to());
        whole(Rule::InvalidUtf8, detail)
    })
}

/// Whether arrays and objects nest deeper than the limit. Most events do not even hold that many.
fn is_too_deep(bytes: &[u8]) -> bool {
    if memchr::memchr2_iter(b'[', b'{', bytes)
        .nth(MAX_DEPTH)
        .is_none()
    {
        return false;
    }
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for b in bytes {
        match b {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// The values of a good event as `fetch` writes it: fields of the dataset in its order, no white space,
/// texts without escapes, no nested values. None for any other, good or bad.
fn plain_values<'a>(dataset: &Dataset, text: &'a str, values: &mut Vec<Value<'a>>) -> Option<()> {
    // Without these a text ends at the next quote, and holds nothing that JSON forbids. Looking at all
    // bytes without a way out lets the compiler take many at once.
    let is_special = |found, b: &u8| found | (*b < b' ') | (*b == b'\\');
    if text.as_bytes().iter().fold(false, is_special) {
        return None;
    }
    values.reserve(dataset.fields.len());
    let mut fields = dataset.fields.iter();
    let mut rest = text.strip_prefix('{')?;
    loop {
        let field = loop {
            let field = fields.next()?;
            if let Some(value) = after_name(rest, &field.name) {
                rest = value;
                break field;
            }
            values.push(Value::Null);
        };
        // A fault may not be the first one: `any_values` says which it is.
        if let Some(text) = rest.strip_prefix('"') {
            let end = memchr::memchr(b'"', text.as_bytes())?;
            Value::push_plain_text(values, field, &text[..end])?;
            rest = &text[end + 1..];
        } else {
            let raw = &rest[..plain_length(rest)?];
            values.push(Value::from_json(field, raw).ok()?);
            rest = &rest[raw.len()..];
        }
        match rest.as_bytes() {
            [b',', ..] => rest = &rest[1..],
            b"}" => break,
            _ => return None,
        }
    }
    values.resize(dataset.fields.len(), Value::Null);
    Some(())
}

/// What follows the name of a field and its colon.
fn after_name<'a>(rest: &'a str, name: &str) -> Option<&'a str> {
    let after = rest.strip_prefix('"')?;
    match is_prefix(name.as_bytes(), after.as_bytes()) {
        true => after[name.len()..].strip_prefix("\":"),
        false => None,
    }
}

/// As `starts_with`, in two numbers instead of a call where the prefix is as long as most names.
fn is_prefix(prefix: &[u8], text: &[u8]) -> bool {
    let Some(start) = text.get(..prefix.len()) else {
        return false;
    };
    match prefix.len() {
        4..8 => ends::<4>(prefix) == ends::<4>(start),
        8..=16 => ends::<8>(prefix) == ends::<8>(start),
        _ => prefix == start,
    }
}

/// The first and the last bytes.
fn ends<const N: usize>(bytes: &[u8]) -> Option<(&[u8; N], &[u8; N])> {
    Some((bytes.first_chunk()?, bytes.last_chunk()?))
}

/// Length of the whole number or literal that begins here.
fn plain_length(rest: &str) -> Option<usize> {
    match rest.as_bytes().first()? {
        b'1'..=b'9' => rest.bytes().position(|b| !b.is_ascii_digit()),
        _ => {
            let literals = ["null", "true", "false"].iter();
            let found = literals.copied().find(|literal| rest.starts_with(literal));
            found.map(str::len)
        }
    }
}

/// The values of any event.
fn any_values<'a>(dataset: &Dataset, text: &'a str) -> Result<Vec<Value<'a>>, Reject> {
    let slots = slots(dataset, text)?;
    let mut values = Vec::with_capacity(slots.len());
    for (i, (field, slot)) in dataset.fields.iter().zip(&slots).enumerate() {
        // Not by `?` on a mapped result: a value would be moved three times.
        values.push(match slot.map(|raw| Value::from_json(field, raw)) {
            None => Value::Null,
            Some(Ok(value)) => value,
            Some(Err(fault)) => {
                let field = Some(i);
                return Err(Reject { field, fault });
            }
        });
    }
    Ok(values)
}

/// The raw JSON of each field of an event, by the dataset's order; none where it is absent.
fn slots<'a>(dataset: &Dataset, text: &'a str) -> Result<Vec<Option<&'a str>>, Reject> {
    if is_too_deep(text.as_bytes()) {
        let detail = format!("nested deeper than {MAX_DEPTH} levels");
        return Err(whole(Rule::Depth, detail));
    }
    let mut found = Found {
        slots: vec![None; dataset.fields.len()],
        duplicate: None,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let seed = EventSeed {
        dataset,
        found: &mut found,
    };
    let parsed = seed.deserialize(&mut json).and_then(|()| json.end());
    if let Err(e) = parsed {
        return Err(syntax(text, &e));
    }
    match found.duplicate {
        Some(i) => Err(Reject {
            field: Some(i),
            fault: Fault::new(Rule::DuplicateKey, "the field is given twice"),
        }),
        None => Ok(found.slots),
    }
}

/// Tells valid JSON that is no object, and data after the object, from broken JSON.
fn syntax(text: &str, error: &serde_json::Error) -> Reject {
    if error.is_data() && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return whole(Rule::NotObject, "expected a JSON object");
    }
    let message = error.to_string();
    let rule = match message.starts_with("trailing characters") {
        true => Rule::TrailingData,
        false => Rule::JsonSyntax,
    };
    whole(rule, message)
}

struct Found<'a> {
    slots: Vec<Option<&'a str>>,
    duplicate: Option<usize>,
}

struct EventSeed<'f, 'a> {
    dataset: &'f Dataset,
    found: &'f mut Found<'a>,
}

impl<'a> DeserializeSeed<'a> for EventSeed<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for EventSeed<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let mut expected = 0; // events mostly carry their fields in the dataset's order
        while let Some(index) = map.next_key_seed(KeySeed {
            dataset: self.dataset,
            expected,
        })? {
            match index {
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some(i) => {
                    let raw: &'a RawValue = map.next_value()?;
                    if self.found.slots[i].replace(raw.get()).is_some() {
                        self.found.duplicate.get_or_insert(i);
                    }
                    expected = i + 1;
                }
            }
        }
        Ok(())
    }
}

struct KeySeed<'f> {
    dataset: &'f Dataset,
    expected: usize,
}

impl<'a> DeserializeSeed<'a> for KeySeed<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        match self.dataset.fields.get(self.expected) {
            Some(field) if field.name == name => Ok(Some(self.expected)),
            _ => Ok(self.dataset.field_index(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_digest_depends_on_values_not_on_spelling() {
        let digest = |line: &str| read(line.as_bytes()).unwrap().1.digest;
        let a = digest(&event(r#","gender":"x","email":null"#));
        assert_eq!(a, digest(&event(r#", "unknown": 1, "gender" : "\u0078""#)));
        assert_ne!(a, digest(&event(r#","gender":"x","email":"""#)));
        assert_ne!(a, digest(&event(r#","email":"x""#)));
    }

    fn plain<'a>(dataset: &Dataset, text: &'a str) -> Option<Vec<Value<'a>>> {
        let mut values = Vec::new();
        plain_values(dataset, text, &mut values).map(|()| values)
    }

    proptest::proptest! {
        #[test]
        fn plain_events_are_read_as_all_others(
            text in r#"\{("(id|email|dob|gender|phone|fetched_at|registered|x)":("[a-zü:,{}]{0,3}"|-?[0-9]{1,3}(\.[0-9])?|null|true|nul|"2026-01-02T03:04:05Z"|"053a5780-3703-442c-a561-beda535af12c"|"\\n"|\[\]),?){0,4}\}? ?"#
        ) {
            let dataset = Dataset::load(None).unwrap();
            if let Some(plain) = plain(&dataset, &text) {
                proptest::prop_assert_eq!(Ok(plain), any_values(&dataset, &text), "{}", text);
            }
        }
    }

    #[test]
    fn events_as_fetch_writes_them_are_plain() {
        let dataset = Dataset::load(None).unwrap();
        for (text, is_plain) in [
            (event(r#","x":1"#), false),
            (event("").replace("Z\"", "Z\" "), false),
            (
                format!(r#"{{"id":"{ID}","post_code":10405,"email":null}}"#),
                true,
            ),
            (format!(r#"{{"email":"a","id":"{ID}"}}"#), false),
            (r#"{"email":"a","email":"b"}"#.into(), false),
            (r#"{"gender":"a","email":"\u0041"}"#.into(), false),
            (r#"{"post_code":01}"#.into(), false),
            (r#"{"email":"a"}"#.into(), true),
            (r#"{"email":"a",}"#.into(), false),
            (r#"{"email":"a"}}"#.into(), false),
            (r#"{"email":"a""#.into(), false),
            (r#"{"id":"a"}"#.into(), false),
        ] {
            let plain = plain(&dataset, &text);
            assert_eq!(plain.is_some(), is_plain, "{text}");
            if let Some(plain) = plain {
                assert_eq!(Ok(plain), any_values(&dataset, &text), "{text}");
            }
        }
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
