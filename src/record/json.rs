//! Pure: the text of an event becomes the values of its fields.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::dataset::{Dataset, TimeFormat};
use crate::record::reject::{Fault, Reject, Rule};
use crate::record::value::Value;

/// Longest event in bytes; Kafka's default limit for a message.
pub const MAX_EVENT_BYTES: usize = 1 << 20;

/// Deepest nesting of an event.
const MAX_DEPTH: usize = 128;

/// Replaces `values` with the values of an event, in the dataset's order of fields.
pub(super) fn read<'a>(
    dataset: &Dataset,
    event: &'a [u8],
    values: &mut Vec<Value<'a>>,
) -> Result<(), Reject> {
    let text = checked_text(event)?;
    values.clear();
    if plain_values(dataset, text, values).is_none() {
        *values = any_values(dataset, text)?;
    }
    Ok(())
}

/// The event with these values, from which they can be read again; a field that is null is left out.
pub fn event(dataset: &Dataset, values: &[Value<'_>]) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut event = String::from("{");
    for (field, value) in dataset.fields.iter().zip(values) {
        let text = match (value, field.format) {
            (Value::Null, _) => continue,
            (Value::Int(_) | Value::Decimal(_) | Value::Boolean(_), _) => value.to_string(),
            (Value::Double(n), _) => serde_json::Value::from(*n).to_string(),
            (Value::Timestamp(ms), TimeFormat::EpochMillis) => ms.to_string(),
            (Value::Timestamp(ms), TimeFormat::EpochSeconds) => ms.div_euclid(1_000).to_string(),
            (other, _) => quoted(&other.to_string()),
        };
        if event.len() > 1 {
            event.push(',');
        }
        event.push_str(&quoted(&field.name));
        event.push(':');
        event.push_str(&text);
    }
    event.push('}');
    event
}

/// A record as text: within the length limit, and UTF-8.
pub fn checked_text(bytes: &[u8]) -> Result<&str, Reject> {
    if bytes.len() > MAX_EVENT_BYTES {
        let detail = format!("{} bytes; the maximum is {MAX_EVENT_BYTES}", bytes.len());
        return Err(Reject::whole(Rule::TooLarge, detail));
    }
    simdutf8::compat::from_utf8(bytes).map_err(|e| {
        let detail = format!("invalid UTF-8 at byte {}", e.valid_up_to());
        Reject::whole(Rule::InvalidUtf8, detail)
    })
}

/// Whether arrays and objects nest deeper than the limit. Most events do not even contain that many.
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

/// The values of a good event in the form that `fetch` writes: the dataset's fields in order, no white space,
/// texts without escapes, no nested values. None for any other event, good or bad.
fn plain_values<'a>(dataset: &Dataset, text: &'a str, values: &mut Vec<Value<'a>>) -> Option<()> {
    // Without these, a text ends at the next quote and contains nothing that JSON forbids. Looking at all
    // bytes without an early exit lets the compiler process many at once.
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
        // This may not be the first fault; `any_values` finds out which one is.
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

/// Like `starts_with`, with two integers instead of a call if the prefix is as long as most names.
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
        // Not with `?` on a mapped result, which would move a value three times.
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

/// The raw JSON of each field of an event, in the dataset's order; none if it is absent.
fn slots<'a>(dataset: &Dataset, text: &'a str) -> Result<Vec<Option<&'a str>>, Reject> {
    if is_too_deep(text.as_bytes()) {
        let detail = format!("nested deeper than {MAX_DEPTH} levels");
        return Err(Reject::whole(Rule::Depth, detail));
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
            fault: Fault::new(Rule::DuplicateKey, "the field occurs twice"),
        }),
        None => Ok(found.slots),
    }
}

/// Distinguishes valid JSON that is not an object, and data after the object, from invalid JSON.
fn syntax(text: &str, error: &serde_json::Error) -> Reject {
    if error.is_data() && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return Reject::whole(Rule::NotObject, "expected a JSON object");
    }
    // An event is one line of a file, whose number stands elsewhere.
    let message = error
        .to_string()
        .replace(" at line 1 column ", " at column ");
    let rule = match message.starts_with("trailing characters") {
        true => Rule::TrailingData,
        false => Rule::JsonSyntax,
    };
    Reject::whole(rule, message)
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
        let mut expected = 0; // most events have their fields in the dataset's order
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

    const ID: &str = "053a5780-3703-442c-a561-beda535af12c";

    fn event(more: &str) -> String {
        format!(r#"{{"id":"{ID}","fetched_at":"2026-11-24T00:00:00Z"{more}}}"#)
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
}
