//! The ranges that the dashboard's charts can show.

/// A day in milliseconds.
const DAY: i64 = 86_400_000;

/// The names of the ranges.
pub(super) const NAMES: [&str; 5] = ["15m", "1h", "24h", "7d", "all"];

/// A range in milliseconds, `None` for all that is known; an error if it has another name.
pub(super) fn parse(name: &str) -> Option<Option<i64>> {
    Some(match name {
        "15m" => Some(900_000),
        "1h" => Some(3_600_000),
        "24h" => Some(DAY),
        "7d" => Some(7 * DAY),
        "all" => None,
        _ => return None,
    })
}
