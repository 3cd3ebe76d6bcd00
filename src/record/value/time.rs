//! Parses times and dates to milliseconds and days since 1970 UTC.

use std::ops::RangeInclusive;

use crate::dataset::TimeFormat;
use crate::record::reject::{Fault, Rule};
use crate::time::{is_leap_second, without_finer_digits};

/// Earliest and latest time that a store accepts: years 1 to 9999.
const TIME_RANGE: RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// Milliseconds of a day.
pub(super) const DAY_MS: i64 = 86_400_000;

/// Days since 1970 of a date such as `2026-11-24`.
pub(super) fn date(text: &str) -> Result<i32, Fault> {
    let bad = || Fault::new(Rule::BadTime, "expected a date such as 2026-11-24");
    if text.len() != 10 {
        return Err(bad());
    }
    let date: jiff::civil::Date = text.parse().map_err(|_| bad())?;
    let days = days_since_1970(date).ok_or_else(bad)?;
    in_range(i64::from(days) * DAY_MS)?;
    Ok(days)
}

/// Milliseconds since 1970 UTC of an RFC 3339 time.
pub(super) fn timestamp(text: &str) -> Result<i64, Fault> {
    if let Some(ms) = plain_utc(text.as_bytes()) {
        return Ok(ms);
    }
    let bad = || {
        Fault::new(
            Rule::BadTime,
            "expected an RFC 3339 time with an offset, such as 2026-11-24T06:30:00Z",
        )
    };
    if is_leap_second(text) {
        return Err(Fault::new(Rule::BadTime, "leap seconds cannot be stored"));
    }
    let text = &*without_finer_digits(text);
    let ms = match text.parse::<jiff::Timestamp>() {
        Ok(instant) => i64::try_from(instant.as_nanosecond().div_euclid(1_000_000)).ok(),
        Err(_) => millis_of_parts(text),
    };
    in_range(ms.ok_or_else(bad)?)
}

/// Milliseconds since 1970 UTC of a number in the unit of the format.
pub(super) fn of_epoch(n: i64, format: TimeFormat) -> Result<i64, Fault> {
    match format {
        // Seconds of the years 1 to 9999 have at most 12 digits; a 13-digit value is in milliseconds.
        TimeFormat::EpochSeconds if n.unsigned_abs() >= 1_000_000_000_000 => Err(Fault::new(
            Rule::BadUnit,
            "expected seconds, got what looks like milliseconds",
        )),
        TimeFormat::EpochSeconds => in_range(n * 1_000),
        _ => in_range(n),
    }
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

/// Milliseconds of `YYYY-MM-DDTHH:MM:SS[.mmm]Z` in the years 1 to 9999, the form of nearly every time; none
/// for anything else, valid or not.
pub(super) fn plain_utc(text: &[u8]) -> Option<i64> {
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
    // Without an early exit at each one, because the month cannot be predicted.
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

/// Days in each month of a year that is not a leap year, by the month's number.
const DAYS_IN_MONTH: [u32; 13] = [0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// The digits where the pattern has a 0, the first one in the lowest byte, and whether the text has digits
/// there and equals the pattern elsewhere. All eight bytes are processed as one number.
fn digits(text: [u8; 8], pattern: &[u8; 8]) -> (u64, bool) {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let digits = u64::from_le_bytes(text) ^ u64::from_le_bytes(*pattern);
    // The addition takes a byte over 0x7f if it is more than 9, or more than 0 where there is no digit.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_finer_than_nanoseconds_are_cut_off() {
        for (text, ms) in [
            ("1970-01-01T00:00:00.1234567890Z", 123),
            ("1970-01-01T00:00:00.12345678901234567890123456789Z", 123),
            ("1970-01-01T00:00:00,1239999999999+00:00", 123),
            ("1970-01-01 01:00:00.0019999999999+01:00", 1),
            ("1969-12-31T23:59:59.99999999999z", -1),
            ("9999-12-31T23:59:59.99999999999Z", *TIME_RANGE.end()),
        ] {
            assert_eq!(timestamp(text), Ok(ms), "{text}");
        }
        for bad in ["1970-01-01T00:00:00.Z", "1970-01-01T00:00:00.12345678901x"] {
            assert_eq!(
                timestamp(bad).map_err(|f| f.rule),
                Err(Rule::BadTime),
                "{bad}"
            );
        }
    }

    #[test]
    fn leap_seconds_are_rejected_in_every_layout() {
        for text in [
            "2016-12-31T23:59:60Z",
            "2016-12-31t23:59:60z",
            "2016-12-31 23:59:60.5+00:00",
            "20161231T235960Z",
            "2016-12-31T235960Z",
            "20161231T235960,25Z",
            "+002016-12-31T23:59:60Z",
            "9999-12-31T23:59:60Z",
            "2017-01-01T00:59:60.12345678901+01:00",
        ] {
            let fault = timestamp(text).unwrap_err();
            assert!(fault.detail.contains("leap second"), "{text}: {fault}");
        }
        for text in ["2016-12-31T23:59:59+00:60", "2016-12-31T23:60:00Z"] {
            let fault = timestamp(text).unwrap_err();
            assert!(!fault.detail.contains("leap second"), "{text}: {fault}");
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
}
