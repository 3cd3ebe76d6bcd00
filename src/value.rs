//! One typed value, and how it is read from JSON or from text.

use std::borrow::Cow;
use std::fmt;

use uuid::Uuid;

use crate::dataset::{Field, FieldType, TimeFormat};

/// The value of one field, borrowed from the event where it can be.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Absent or null.
    Null,
    /// Text without U+0000.
    Text(Cow<'a, str>),
    /// UUID.
    Uuid(Uuid),
    /// Integer of 32 or 64 bits.
    Int(i64),
    /// Finite, and never -0.
    Double(f64),
    /// Plain decimal notation without superfluous zeros: `-12.5`.
    Decimal(Cow<'a, str>),
    /// true or false.
    Boolean(bool),
    /// Milliseconds since 1970 UTC.
    Timestamp(i64),
    /// Days since 1970-01-01.
    Date(i32),
}

/// The rule that a bad record broke; its name is part of every dead letter and reject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The line is not JSON.
    JsonSyntax,
    /// The line is JSON, but no object.
    NotObject,
    /// Something follows the object on its line.
    TrailingData,
    /// A field is given twice.
    DuplicateKey,
    /// A CSV record with more or fewer cells than the header.
    Columns,
    /// A quote of a CSV record that is not closed.
    Quote,
    /// Nested deeper than 128 levels.
    Depth,
    /// The line is not UTF-8.
    InvalidUtf8,
    /// The line is longer than the limit.
    TooLarge,
    /// A text holds U+0000, which not every store can keep.
    Nul,
    /// A required field is absent or null.
    Required,
    /// The key is empty.
    EmptyKey,
    /// The key is longer than 65,535 bytes, Cassandra's limit.
    KeyTooLong,
    /// A value of another type.
    Type,
    /// A number or time outside of what the type holds.
    OutOfRange,
    /// No UUID.
    BadUuid,
    /// No point in time or day.
    BadTime,
    /// A time in another unit than declared.
    BadUnit,
    /// An event time in the future.
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

/// Why a value or record is bad: the rule, and what was expected. It holds no payload, so that it
/// can be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The rule broken.
    pub rule: Rule,
    /// What was expected, and what kind of thing came instead.
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

/// Earliest and latest time a store holds: years 1 to 9999.
const TIME_RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// Most digits of a decimal, before and after the point together.
const MAX_DECIMAL_DIGITS: usize = 1_000;

impl<'a> Value<'a> {
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

    /// Reads a JSON text without escapes, given without its quotes, and adds it; none if it is no value of
    /// the field.
    #[inline]
    pub fn push_plain_text(
        values: &mut Vec<Value<'a>>,
        field: &Field,
        text: &'a str,
    ) -> Option<()> {
        // There is room, or whoever asks reads the event in the other way. What may have to be dropped
        // when the list cannot grow is put together elsewhere and moved, and what was just written in
        // parts cannot be moved as a whole until all of them have reached the cache.
        if values.len() == values.capacity() {
            return None;
        }
        match field.kind {
            FieldType::Text => values.push(Value::Text(Cow::Borrowed(text))),
            FieldType::Uuid => values.push(Value::Uuid(Uuid::try_parse(text).ok()?)),
            FieldType::Timestamp if field.format == TimeFormat::Rfc3339 => {
                match plain_utc(text.as_bytes()) {
                    Some(ms) => values.push(Value::Timestamp(ms)),
                    None => values.push(timestamp_value(text).ok()?),
                }
            }
            _ => values.push(Value::from_json_text(field, text.into()).ok()?),
        }
        Some(())
    }

    /// Reads what a JSON text says, borrowed if it has no escapes.
    fn from_json_text(field: &Field, text: Cow<'a, str>) -> Result<Value<'a>, Fault> {
        match (text, field.kind) {
            // JSON text without escapes holds no control character.
            (Cow::Borrowed(text), FieldType::Text) => Ok(Value::Text(text.into())),
            (text, FieldType::Text) => text_value(text),
            (text, FieldType::Uuid) => uuid_value(&text),
            (text, FieldType::Date) => date_value(&text),
            (text, FieldType::Timestamp) if field.format == TimeFormat::Rfc3339 => {
                timestamp_value(&text)
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
            FieldType::Date => date_value(&text),
            FieldType::Timestamp if field.format == TimeFormat::Rfc3339 => timestamp_value(&text),
            FieldType::Boolean => match &*text {
                "true" => Ok(Value::Boolean(true)),
                "false" => Ok(Value::Boolean(false)),
                _ => Err(Fault::new(Rule::Type, "expected true or false")),
            },
            _ => number_value(field, text),
        }
    }

    /// Appends the canonical encoding: a tag, then the value, length-prefixed where it varies. Equal
    /// values of every store have equal encodings, different ones different encodings.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.push(0),
            Value::Text(text) => encode_text(text.as_bytes(), out),
            Value::Uuid(uuid) => fixed(out, 2, uuid.as_bytes()),
            Value::Int(n) => fixed(out, 3, &n.to_be_bytes()),
            Value::Double(n) => fixed(out, 4, &n.to_bits().to_be_bytes()),
            Value::Decimal(text) => sized(out, 5, text.as_bytes()),
            Value::Boolean(b) => fixed(out, 6, &[u8::from(*b)]),
            Value::Timestamp(ms) => fixed(out, 7, &ms.to_be_bytes()),
            Value::Date(days) => fixed(out, 8, &days.to_be_bytes()),
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
                f.write_str(&crate::time::format_ms(i64::from(*days) * 86_400_000)[..10])
            }
        }
    }
}

/// Appends the canonical encoding of a text, given as bytes that are known to be UTF-8.
#[inline]
pub fn encode_text(text: &[u8], out: &mut Vec<u8>) {
    sized(out, 1, text);
}

#[inline]
fn fixed<const N: usize>(out: &mut Vec<u8>, tag: u8, bytes: &[u8; N]) {
    out.reserve(1 + N);
    out.push(tag);
    out.extend_from_slice(bytes);
}

#[inline]
fn sized(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    let mut head = [tag; 9];
    head[1..].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
    out.reserve(head.len() + bytes.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(bytes);
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

fn date_value(text: &str) -> Result<Value<'static>, Fault> {
    let bad = || Fault::new(Rule::BadTime, "expected a day such as 2026-11-24");
    if text.len() != 10 {
        return Err(bad());
    }
    let date: jiff::civil::Date = text.parse().map_err(|_| bad())?;
    let days = days_since_1970(date).ok_or_else(bad)?;
    in_range(i64::from(days) * DAY_MS)?;
    Ok(Value::Date(days))
}

fn timestamp_value(text: &str) -> Result<Value<'static>, Fault> {
    if let Some(ms) = plain_utc(text.as_bytes()) {
        return Ok(Value::Timestamp(ms));
    }
    let bad = || {
        Fault::new(
            Rule::BadTime,
            "expected RFC 3339 with an offset, such as 2026-11-24T06:30:00Z",
        )
    };
    if text.as_bytes().get(17..19) == Some(b"60") {
        return Err(Fault::new(Rule::BadTime, "leap seconds cannot be stored"));
    }
    let ms = match text.parse::<jiff::Timestamp>() {
        Ok(instant) => i64::try_from(instant.as_nanosecond().div_euclid(1_000_000)).ok(),
        Err(_) => millis_of_parts(text),
    };
    in_range(ms.ok_or_else(bad)?).map(Value::Timestamp)
}

/// Milliseconds since 1970 UTC of a time whose parts are valid: jiff's own instants end 26 hours
/// before the year 9999 does, and 9999-12-31T23:59:59Z is what many write for "never".
fn millis_of_parts(text: &str) -> Option<i64> {
    let parts = jiff::fmt::temporal::Pieces::parse(text).ok()?;
    let (time, offset) = (parts.time()?, parts.to_numeric_offset()?);
    let seconds =
        i64::from(time.hour()) * 3_600 + i64::from(time.minute()) * 60 + i64::from(time.second())
            - i64::from(offset.seconds());
    let days = i64::from(days_since_1970(parts.date())?);
    Some(days * DAY_MS + seconds * 1_000 + i64::from(time.millisecond()))
}

fn days_since_1970(date: jiff::civil::Date) -> Option<i32> {
    let span = jiff::civil::date(1970, 1, 1).until(date).ok()?;
    Some(span.get_days())
}

/// Milliseconds of `YYYY-MM-DDTHH:MM:SS[.mmm]Z` in the years 1 to 9999, which is how nearly every time is
/// written; none for whatever else, valid or not.
fn plain_utc(text: &[u8]) -> Option<i64> {
    let (date, rest) = text.split_first_chunk()?;
    let (time, rest) = rest.split_first_chunk()?;
    let end = match *rest {
        [colon, s1, s2, b'Z'] => [colon, s1, s2, b'.', b'0', b'0', b'0', b'Z'],
        _ => rest.try_into().ok()?,
    };
    let (date, is_date) = digits(*date, b"0000-00-");
    let (time, is_time) = digits(*time, b"00T00:00");
    let (end, is_end) = digits(end, b":00.000Z");
    if !(is_date & is_time & is_end) {
        return None;
    }
    // Each byte is ten times the digit there and the next.
    let pairs = |digits: u64| (digits * 10 + (digits >> 8)).to_le_bytes().map(u32::from);
    let [century, _, years, _, _, month, ..] = pairs(date);
    let [day, _, _, hour, _, _, minute, _] = pairs(time);
    let [_, second, _, _, hundredths, ..] = pairs(end);
    let year = century * 100 + years;
    let ms = hundredths * 10 + u32::from(end.to_le_bytes()[6]);
    // Without a way out at each: which month it is cannot be foreseen.
    let is_leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0));
    let days_in_month = DAYS_IN_MONTH.get(month as usize)? + u32::from((month == 2) & is_leap);
    let is_day = (day != 0) & (day <= days_in_month) & (year != 0);
    if !(is_day & (hour < 24) & (minute < 60) & (second < 60)) {
        return None;
    }
    // Years from March on, so that the leap day comes last; 719,468 days from 0000-03-01 to 1970.
    let is_early = u32::from(month < 3);
    let (y, m) = (year - is_early, month + 12 * is_early - 3);
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    let seconds = (hour * 60 + minute) * 60 + second;
    let days = i64::from(days) - 719_468;
    Some((days * 86_400 + i64::from(seconds)) * 1_000 + i64::from(ms))
}

/// Of a year that is no leap year, by the month's number.
const DAYS_IN_MONTH: [u32; 13] = [0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// The digits where the pattern has a 0, the first one in the lowest byte, and whether the text has digits
/// there and is the pattern elsewhere. All eight bytes are looked at in one number.
fn digits(text: [u8; 8], pattern: &[u8; 8]) -> (u64, bool) {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let digits = u64::from_le_bytes(text) ^ u64::from_le_bytes(*pattern);
    // What is added takes a byte over 0x7f if it is more than 9, or than 0 where there is no digit.
    let room = pattern.map(|b| if b == b'0' { 0x76 } else { 0x7f });
    let over = (digits & !HIGH) + u64::from_le_bytes(room);
    (digits, (digits | over) & HIGH == 0)
}

fn in_range(ms: i64) -> Result<i64, Fault> {
    if TIME_RANGE.contains(&ms) {
        return Ok(ms);
    }
    Err(Fault::new(
        Rule::OutOfRange,
        "expected a time in the years 1 to 9999",
    ))
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
            decimal(&text)?; // the grammar: Rust's own parser also takes inf, nan and 1.
            let n: f64 = text.parse().map_err(|_| out_of_range())?;
            match n.is_finite() {
                true => Ok(Value::Double(if n == 0.0 { 0.0 } else { n })),
                false => Err(out_of_range()),
            }
        }
        FieldType::Decimal => Ok(Value::Decimal(match decimal(&text)? {
            Cow::Borrowed(_) => text,
            Cow::Owned(canonical) => Cow::Owned(canonical),
        })),
        FieldType::Timestamp => {
            let n = integer(&text).ok_or_else(out_of_range)?;
            // Seconds of the years 1 to 9999 have 12 digits at most; a 13-digit value is milliseconds.
            match field.format {
                TimeFormat::EpochSeconds if n.unsigned_abs() >= 1_000_000_000_000 => {
                    Err(Fault::new(
                        Rule::BadUnit,
                        "expected seconds, got what looks like milliseconds",
                    ))
                }
                TimeFormat::EpochSeconds => in_range(n * 1_000).map(Value::Timestamp),
                _ => in_range(n).map(Value::Timestamp),
            }
        }
        _ => {
            decimal(&text)?;
            let n = integer(&text).ok_or_else(|| match decimal(&text) {
                Ok(d) if d.contains('.') => Fault::new(
                    Rule::Type,
                    format!("expected {}, got a fraction", field.kind.name()),
                ),
                _ => out_of_range(),
            })?;
            match field.kind {
                FieldType::Int if i32::try_from(n).is_err() => Err(out_of_range()),
                _ => Ok(Value::Int(n)),
            }
        }
    }
}

/// An integer, also written as `1.0` or `1e3`.
fn integer(text: &str) -> Option<i64> {
    text.parse()
        .ok()
        .filter(|_| !text.starts_with('+'))
        .or_else(|| decimal(text).ok()?.parse().ok())
}

/// The canonical form of a JSON number: plain notation, no exponent, no superfluous zeros, no `-0`.
/// Borrowed if `text` is canonical already.
fn decimal(text: &str) -> Result<Cow<'_, str>, Fault> {
    let bad = || Fault::new(Rule::Type, "expected a number");
    let range = || {
        Fault::new(
            Rule::OutOfRange,
            format!("a decimal has at most {MAX_DECIMAL_DIGITS} digits"),
        )
    };
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        None => (rest, 0),
        Some(at) => {
            let digits = rest[at + 1..].trim_start_matches(['+', '-']);
            let signs = rest.len() - at - 1 - digits.len();
            if signs > 1 || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(bad());
            }
            (
                &rest[..at],
                rest[at + 1..].parse::<i64>().map_err(|_| range())?,
            )
        }
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((_, "")) => return Err(bad()),
        Some((whole, fraction)) => (whole, fraction),
        None => (mantissa, ""),
    };
    if whole.is_empty()
        || !whole
            .bytes()
            .chain(fraction.bytes())
            .all(|b| b.is_ascii_digit())
    {
        return Err(bad());
    }
    let is_plain = mantissa.len() == rest.len();
    let canonical_whole = whole == "0" || !whole.starts_with('0');
    if is_plain
        && canonical_whole
        && !fraction.ends_with('0')
        && !(negative && whole == "0" && fraction.is_empty())
        && whole.len() + fraction.len() <= MAX_DECIMAL_DIGITS
    {
        return Ok(Cow::Borrowed(text));
    }
    let digits = format!("{whole}{fraction}");
    let leading = digits.len() - digits.trim_start_matches('0').len();
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Ok(Cow::Owned("0".into()));
    }
    // The value is 0.SIGNIFICANT times ten to the power of `point`.
    let point = (whole.len() as i64 - leading as i64)
        .checked_add(exponent)
        .ok_or_else(range)?;
    let width = significant.len() as i64;
    let size = point.max(width).max(width.saturating_sub(point));
    if size > MAX_DECIMAL_DIGITS as i64 {
        return Err(range());
    }
    let zeros = |n: i64| "0".repeat(usize::try_from(n).unwrap_or(0));
    let plain = if point <= 0 {
        format!("0.{}{significant}", zeros(-point))
    } else if point >= width {
        format!("{significant}{}", zeros(point - width))
    } else {
        let (a, b) = significant.split_at(usize::try_from(point).unwrap_or(0));
        format!("{a}.{b}")
    };
    Ok(Cow::Owned(if negative {
        format!("-{plain}")
    } else {
        plain
    }))
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
    fn the_short_way_to_read_times_agrees_with_the_long_one() {
        let long = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let mut ms = *TIME_RANGE.start();
        while ms <= *TIME_RANGE.end() {
            let text = crate::time::format_ms(ms);
            assert_eq!(plain_utc(text.as_bytes()), Some(ms), "{text}");
            let seconds = format!("{}Z", &text[..19]);
            assert_eq!(
                plain_utc(seconds.as_bytes()),
                Some(long(&seconds)),
                "{seconds}"
            );
            ms += 86_400_000 * 17 + 3_723_457;
        }
        for day in [
            "1900-02-28",
            "2000-02-29",
            "2024-02-29",
            "2026-12-31",
            "0001-01-01",
        ] {
            let text = format!("{day}T23:59:59.999Z");
            assert_eq!(plain_utc(text.as_bytes()), Some(long(&text)), "{text}");
        }
        for other in [
            "1900-02-29T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "0000-01-01T00:00:00Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00z",
            "2026-01-01T00:00:00+",
            "2026-01-01T00:00:00,000Z",
            "2026-01-01T00:00:00.00Z",
            "2026-01-01T00:00:0-Z",
            "",
        ] {
            assert_eq!(plain_utc(other.as_bytes()), None, "{other}");
        }
        // Whatever stands in one place: what is taken is written the same.
        for (place, byte) in (0..24).flat_map(|place| (0..=255).map(move |byte| (place, byte))) {
            let mut text = *b"2026-01-01T00:00:00.000Z";
            text[place] = byte;
            if let Some(ms) = plain_utc(&text) {
                assert_eq!(
                    crate::time::format_ms(ms).as_bytes(),
                    text,
                    "{byte} in {place}"
                );
            }
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

    #[test]
    fn decimals_have_one_form() {
        let table = [
            ("1", "1"),
            ("1.00", "1"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0.10", "0.1"),
            ("1e3", "1000"),
            ("1.5E-3", "0.0015"),
            ("12.34e1", "123.4"),
            ("12345678901234567890.1234", "12345678901234567890.1234"),
            (
                "0.100000000000000000000000000001",
                "0.100000000000000000000000000001",
            ),
            ("-120", "-120"),
            ("0e99999", "0"),
            ("1E+0", "1"),
        ];
        for (text, canonical) in table {
            assert_eq!(decimal(text).as_deref(), Ok(canonical), "{text}");
            assert_eq!(decimal(canonical).as_deref(), Ok(canonical), "{canonical}");
        }
        for (bad, rule) in [
            ("", Rule::Type),
            ("1.", Rule::Type),
            (".5", Rule::Type),
            ("NaN", Rule::Type),
            ("1e", Rule::Type),
            ("1e+-5", Rule::Type),
            ("1e400000", Rule::OutOfRange),
            ("1e99999999999999999999", Rule::OutOfRange),
            ("1e-1001", Rule::OutOfRange),
        ] {
            assert_eq!(decimal(bad).unwrap_err().rule, rule, "{bad}");
        }
    }

    #[test]
    fn encodings_tell_values_apart() {
        let values = [
            Value::Null,
            Value::Text("".into()),
            Value::Text("a".into()),
            Value::Text("a ".into()),
            Value::Decimal("1".into()),
            Value::Int(1),
            Value::Timestamp(1),
            Value::Date(1),
            Value::Boolean(true),
            Value::Double(1.0),
        ];
        let mut seen = std::collections::HashSet::new();
        for value in &values {
            let mut out = Vec::new();
            value.encode(&mut out);
            assert!(seen.insert(out), "{value:?}");
        }
    }
}
