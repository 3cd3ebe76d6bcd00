//! Durations and points in time, as users write them.

use std::borrow::Cow;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Parses `5m`, `300s`, `1h 30m`, `250ms` or `7d`; a plain number is refused because it has no unit.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("invalid duration `{text}`; expected for example 250ms, 30s, 5m, 1h 30m or 7d");
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    // jiff's durations end at hours, because days vary in a time zone; here a day is 24 hours.
    let (days, rest) = match text.split_once('d') {
        Some((days, rest)) => {
            let days: u64 = days.trim().parse().map_err(|_| wrong())?;
            (
                Duration::from_secs(days.checked_mul(86_400).ok_or_else(wrong)?),
                rest,
            )
        }
        None => (Duration::ZERO, text),
    };
    if rest.trim().is_empty() && text.contains('d') {
        return Ok(days);
    }
    let rest: SignedDuration = rest.trim().parse().map_err(|_| wrong())?;
    let rest = Duration::try_from(rest).map_err(|_| wrong())?;
    days.checked_add(rest).ok_or_else(wrong)
}

/// The same where zero would make no sense.
pub fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err(format!(
            "invalid duration `{text}`; expected one above 0, for example 250ms, 30s or 5m"
        )),
        duration => Ok(duration),
    }
}

/// Parses an RFC 3339 time such as `2026-11-24T00:00:00Z`, or a date, which means its midnight in UTC.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    let day = text
        .parse::<jiff::civil::Date>()
        .ok()
        .filter(|_| text.len() == 10);
    match day {
        Some(day) => jiff::tz::TimeZone::UTC
            .to_timestamp(day.at(0, 0, 0, 0))
            .map_err(|_| format!("invalid time `{text}`; the last one is {}", Timestamp::MAX)),
        None if is_leap_second(text) => Err(format!(
            "invalid time `{text}`: leap seconds cannot be stored"
        )),
        None => without_finer_digits(text).parse().map_err(|_| {
            format!(
                "invalid time `{text}`; expected for example 2026-11-24T06:30:00Z or 2026-11-24"
            )
        }),
    }
}

/// Whether the second of a time is 60, in any layout: `23:59:60`, `235960`. jiff reads it as 59.
pub fn is_leap_second(text: &str) -> bool {
    let Some((_, clock)) = text.split_once(['T', 't', ' ']) else {
        return false;
    };
    let clock = clock
        .bytes()
        .take_while(|b| b.is_ascii_digit() || *b == b':');
    let digits = clock.filter(u8::is_ascii_digit);
    digits.skip(4).take(2).eq(*b"60")
}

/// A time without the digits of its second that are finer than nanoseconds: RFC 3339 allows any number of them, jiff
/// nine.
pub fn without_finer_digits(text: &str) -> Cow<'_, str> {
    let Some(point) = text.find(['.', ',']) else {
        return text.into();
    };
    let fraction = &text[point + 1..];
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    match digits > 9 {
        true => format!("{}{}", &text[..point + 10], &fraction[digits..]).into(),
        false => text.into(),
    }
}

/// The current time in milliseconds since 1970 UTC.
pub fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// `2026-11-24T06:30:00.000Z`: milliseconds since 1970 as RFC 3339.
pub fn format_ms(ms: i64) -> String {
    // A civil time, because jiff's instants end before the year 9999 does.
    let epoch = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0);
    match epoch.checked_add(SignedDuration::from_millis(ms)) {
        Ok(t) => format!("{t:.3}Z"),
        Err(_) => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        let table = [
            ("250ms", 250),
            ("300s", 300_000),
            ("5m", 300_000),
            ("1h 30m", 5_400_000),
            ("7d", 604_800_000),
            ("1d 12h", 129_600_000),
            ("0", 0),
            ("0s", 0),
        ];
        for (text, ms) in table {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in ["", "5", "soon", "-5s", "1x", "d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_instants() {
        let ms = |t: &str| parse_time(t).unwrap().as_millisecond();
        assert_eq!(ms("1970-01-02"), 86_400_000);
        assert_eq!(ms("1970-01-01T01:00:00.5+01:00"), 500);
        assert!(parse_time("2026-02-30").is_err());
        assert!(parse_time("2026-01-01T00:00:00").is_err());
        assert_eq!(ms("1970-01-01T00:00:00.50000000001Z"), 500);
        for leap in ["2016-12-31T23:59:60Z", "20161231T235960Z"] {
            assert!(parse_time(leap).unwrap_err().contains("leap"), "{leap}");
        }
        assert_eq!(format_ms(500), "1970-01-01T00:00:00.500Z");
        assert_eq!(format_ms(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(format_ms(-62_135_596_800_000), "0001-01-01T00:00:00.000Z");
        assert_eq!(format_ms(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
    }
}
