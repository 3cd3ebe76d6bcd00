//! Whether a row that the real-time store lacks has expired there. Pure.

use std::time::Duration;

use super::base::Base;
use super::search::Seen;
use super::{Class, Kind, classify};
use crate::time::format_ms;

/// How long the rows of the real-time store live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    /// Since they were written.
    pub(super) ttl: Duration,
    /// Now, in milliseconds since 1970 UTC.
    pub(super) now: i64,
}

impl Expiry {
    /// The judgement on a version of this event time that the real-time store lacks, which is another one if its row may
    /// have expired: a row is not written before its event is produced, so it cannot have expired sooner than the ttl
    /// after that.
    pub(super) fn or(
        &self,
        (class, evidence): (Class, String),
        kind: Kind,
        event_time: i64,
        seen: &Seen,
        trouble: Option<&str>,
        base: &Base,
    ) -> (Class, String) {
        // Where the store has an older version, the newer one was never written: it would hide that one even after it has
        // expired.
        let is_gone = kind == Kind::Extra;
        let is_unseen = seen.at.is_none() && trouble.is_none();
        let (since, what) = match class {
            Class::Lost if is_gone => match seen.produced_at {
                Some(at) => (at, "was produced at"),
                None => return (class, evidence),
            },
            Class::Unexplained if is_gone && is_unseen && classify::is_cut(base) => {
                (event_time, "has the event time")
            }
            _ => return (class, evidence),
        };
        let lives = shown(self.ttl);
        let ttl = i64::try_from(self.ttl.as_millis()).unwrap_or(i64::MAX);
        let until = since.saturating_add(ttl);
        let (since, shown_until) = (format_ms(since), format_ms(until));
        match until <= self.now {
            true => (
                Class::Expired,
                format!(
                    "{evidence}; it {what} {since}, and rows expire {lives} after they are written (ttl)"
                ),
            ),
            false => (
                class,
                format!(
                    "{evidence}; its row cannot have expired before {shown_until} (ttl {lives})"
                ),
            ),
        }
    }
}

/// A duration as a dataset declares it.
fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let unit = units
        .iter()
        .find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit));
    match unit {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::event_log::{Offsets, Span};
    use crate::verify::base::LogBase;

    /// A log whose oldest event has this offset.
    fn base(oldest: i64) -> Base {
        let at = |offset| Offsets::from_iter([(0, offset)]);
        Base {
            log: Ok(LogBase {
                has_committed: true,
                committed: at(50),
                bounds: Span {
                    from: at(oldest),
                    to: at(50),
                },
                after_load: at(50),
                writers: Ok(Vec::new()),
            }),
            loads: Ok(Vec::new()),
            newest: None,
            has_earlier: false,
        }
    }

    fn produced(at: Option<i64>) -> Seen {
        Seen {
            at: at.map(|_| (0, 7)),
            produced_at: at,
            ..Seen::default()
        }
    }

    #[test]
    fn only_what_may_have_expired_has() {
        const HOUR: i64 = 3_600_000;
        let expiry = Expiry {
            ttl: Duration::from_hours(1),
            now: 10 * HOUR,
        };
        let searched = produced(None);
        use Class::{DeadLetter, Expired, InFlight, Lost, Unexplained};
        use Kind::{Changed, Extra, Missing};
        // What was judged, the event time, what was seen in a log from that offset on, and what it is then.
        let table = [
            (Lost, Extra, 0, produced(Some(9 * HOUR)), 0, Expired),
            (Lost, Extra, 0, produced(Some(9 * HOUR + 1)), 0, Lost),
            (Lost, Changed, 0, produced(Some(0)), 0, Lost),
            (Lost, Missing, 0, produced(Some(0)), 0, Lost),
            // It was produced, but by another group or not committed.
            (Unexplained, Extra, 0, produced(Some(0)), 9, Unexplained),
            (InFlight, Extra, 0, produced(Some(0)), 0, InFlight),
            (DeadLetter, Extra, 0, produced(Some(0)), 0, DeadLetter),
            // Never produced; its event was perhaps deleted from the log; nobody knows.
            (Unexplained, Extra, 0, searched.clone(), 0, Unexplained),
            (Unexplained, Extra, 9 * HOUR, searched.clone(), 9, Expired),
            (Unexplained, Extra, 9 * HOUR + 1, searched, 9, Unexplained),
        ];
        for (judged, kind, time, seen, oldest, expected) in table {
            let base = base(oldest);
            let given = (judged, "why".to_string());
            let (class, evidence) = expiry.or(given, kind, time, &seen, None, &base);
            assert_eq!(class, expected, "{judged:?} {kind:?} {time} {seen:?}");
            assert!(evidence.starts_with("why"), "{evidence}");
        }
        // The log was not searched to its end.
        let (seen, given) = (produced(None), (Unexplained, "why".to_string()));
        let unread = expiry.or(given, Extra, 0, &seen, Some("away"), &base(9));
        assert_eq!(unread.0, Unexplained);
    }

    #[test]
    fn the_evidence_names_the_times() {
        let expiry = Expiry {
            ttl: Duration::from_hours(48),
            now: 1_764_000_000_000,
        };
        let lost = || (Class::Lost, "event 7 was read".to_string());
        let of = |at| {
            expiry
                .or(lost(), Kind::Extra, 0, &produced(Some(at)), None, &base(0))
                .1
        };
        assert_eq!(
            of(1_763_800_000_000),
            "event 7 was read; it was produced at 2025-11-22T08:26:40.000Z, and rows expire 2d after they are written (ttl)"
        );
        assert_eq!(
            of(1_763_999_000_000),
            "event 7 was read; its row cannot have expired before 2025-11-26T15:43:20.000Z (ttl 2d)"
        );
        let texts = [(90, "90s"), (120, "2m"), (3_600, "1h"), (604_800, "7d")];
        for (seconds, text) in texts {
            assert_eq!(shown(Duration::from_secs(seconds)), text);
        }
    }
}
