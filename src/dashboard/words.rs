//! Numbers and times in words, for the sentence.

/// `0.4 s`, `42 s`, `3 minutes`, from milliseconds.
pub(super) fn seconds(ms: i64) -> String {
    match ms {
        _ if ms < 10_000 => format!("{:.1} s", ms as f64 / 1e3),
        _ if ms < 120_000 => format!("{} s", ms / 1_000),
        _ => long(ms),
    }
}

/// `5 s ago`, `3 minutes ago`; times are in milliseconds.
pub(super) fn ago(ms: i64) -> String {
    match ms {
        _ if ms < 60_000 => format!("{} s ago", ms.max(0) / 1_000),
        _ => format!("{} ago", long(ms)),
    }
}

/// `14:02`, or `2026-11-27 14:02` if that was another day than `now`; times are in milliseconds since 1970 UTC.
pub(super) fn moment(ms: i64, now: i64) -> String {
    let [at, now] = [ms, now].map(crate::time::format_ms);
    match at[..10] == now[..10] {
        true => at[11..16].into(),
        false => format!("{} {}", &at[..10], &at[11..16]),
    }
}

fn long(ms: i64) -> String {
    let (count, unit) = match ms / 60_000 {
        minutes if minutes < 120 => (minutes, "minute"),
        minutes if minutes < 48 * 60 => (minutes / 60, "hour"),
        minutes => (minutes / 1_440, "day"),
    };
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{s}")
}

/// With commas between thousands.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_are_short() {
        for (ms, text) in [
            (0, "0.0 s"),
            (9_949, "9.9 s"),
            (119_999, "119 s"),
            (120_000, "2 minutes"),
            (7_200_000, "2 hours"),
            (i64::MAX, "106751991167 days"),
        ] {
            assert_eq!(seconds(ms), text, "{ms}");
        }
        let noon = 1_795_521_600_000;
        assert_eq!(moment(noon, noon + 43_199_999), "12:00");
        assert_eq!(moment(noon, noon + 43_200_000), "2026-11-24 12:00");
        assert_eq!(ago(-5), "0 s ago");
        assert_eq!(ago(60_000), "1 minute ago");
        assert_eq!(
            [number(999), number(1_000), number(1_234_567)],
            ["999", "1,000", "1,234,567"]
        );
    }
}
