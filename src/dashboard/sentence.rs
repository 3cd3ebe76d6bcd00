//! The sentence at the top: whether all is right, and whether it is now.

use super::Seen;
use super::log_eye::LogSeen;
use super::missing::missing;
use super::words::{ago, moment, number, seconds};
use crate::ports::ledger::Verdict;
use crate::ports::monitor::RowCount;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// All is right.
    Ok,
    /// Events are waiting, or the servers have not all answered yet.
    Busy,
    /// The layers differ, or data is lost.
    Bad,
    /// Nothing is there yet.
    Empty,
    /// A server does not answer.
    Away,
}

/// A stream that is further behind is busy, in milliseconds.
const BUSY_MS: i64 = 10_000;

/// The sentence.
pub(super) fn sentence(seen: &Seen, now: i64) -> (Level, String) {
    away(seen, now)
        .or_else(|| bad(seen, now))
        .or_else(|| first_look(seen))
        .or_else(|| empty(seen))
        .unwrap_or_else(|| fine(seen, now))
}

fn away(seen: &Seen, now: i64) -> Option<(Level, String)> {
    let since = |since: Option<i64>| match since {
        Some(ms) => format!(" since {} UTC", moment(ms, now)),
        None => String::new(),
    };
    let servers = [
        (
            seen.log.is_away(),
            "event log",
            since(seen.log.since),
            "nothing new arrives",
        ),
        (
            seen.realtime.is_away(),
            "real-time store",
            since(seen.realtime.since),
            "events wait in the log",
        ),
        (
            seen.batch.is_away(),
            "batch store",
            since(seen.batch.since),
            "nothing can be loaded",
        ),
    ];
    let mut away: Vec<String> = servers
        .into_iter()
        .filter(|(is_away, ..)| *is_away)
        .map(|(_, name, since, so)| format!("the {name} has not answered{since}; {so}"))
        .collect();
    let first = away.first_mut()?;
    first.replace_range(..1, "T");
    Some((Level::Away, away.join("; ") + "."))
}

/// Until all servers have answered once: nothing is known to be right, and nothing to be empty.
fn first_look(seen: &Seen) -> Option<(Level, String)> {
    let servers = [
        (seen.log.seen.is_none(), "event log"),
        (seen.realtime.seen.is_none(), "real-time store"),
        (seen.batch.seen.is_none(), "batch store"),
    ];
    let unseen = servers.iter().filter(|(is_unseen, _)| *is_unseen);
    let unseen: Vec<&str> = unseen.map(|(_, name)| *name).collect();
    let text = match unseen[..] {
        [] => return None,
        [one] => format!("The {one} is being looked at for the first time."),
        [one, other] => {
            format!("The {one} and the {other} are being looked at for the first time.")
        }
        _ => "The servers are being looked at for the first time.".into(),
    };
    Some((Level::Busy, text))
}

fn empty(seen: &Seen) -> Option<(Level, String)> {
    let log = seen.log.seen.as_ref()?;
    let (realtime, batch) = (seen.realtime.seen.as_ref()?, seen.batch.seen.as_ref()?);
    let has_rows = |rows: Option<RowCount>| rows.is_some_and(|rows| rows.count > 0);
    let is_empty = log.produced == 0
        && log.dead_letters == 0
        && batch.loads.is_empty()
        && !has_rows(realtime.rows)
        && !has_rows(batch.rows);
    let says = "No record has arrived yet: fetch some, and send them to the log.";
    is_empty.then(|| (Level::Empty, says.into()))
}

/// Data that is missing, and the last verdict, if it is a bad one.
fn bad(seen: &Seen, now: i64) -> Option<(Level, String)> {
    let missing = seen.log.seen.as_ref().and_then(missing);
    let verdict = seen.batch.seen.as_ref();
    let verdict = verdict.and_then(|batch| batch.verdicts.first());
    let differ = verdict
        .filter(|verdict| !verdict.agrees)
        .map(|verdict| differ(verdict, now));
    let says = match (missing, differ) {
        (None, None) => return None,
        (None, Some(differ)) => format!("{differ}; {}", lag(seen)),
        // A lag of what is left to read would be beside the point.
        (Some(missing), None) => missing,
        (Some(missing), Some(differ)) => format!("{missing}; {differ}"),
    };
    Some((Level::Bad, format!("{says}.")))
}

fn differ(verdict: &Verdict, now: i64) -> String {
    let what = match differences(verdict) {
        (0, _) => "The layers do not agree, although no row differs".to_string(),
        (1, classes) => format!("1 row differs ({classes})"),
        (keys, classes) => format!("{} rows differ ({classes})", number(keys)),
    };
    let found = ago(now.saturating_sub(verdict.ended_at));
    format!("{what}{}, found {found}", compared_with(verdict))
}

fn fine(seen: &Seen, now: i64) -> (Level, String) {
    let keeps_up = |log: &LogSeen| match (log.lag_records(), log.lag_ms()) {
        (0, _) => true,
        (_, Some(ms)) => log.has_committed && ms <= BUSY_MS,
        (_, None) => false, // nobody knows how long they have been waiting
    };
    let keeps_up = |log: &LogSeen| keeps_up(log) && !only_letters(log);
    let level = match seen.log.seen.as_ref().is_some_and(keeps_up) {
        true => Level::Ok,
        false => Level::Busy,
    };
    let verdict = seen
        .batch
        .seen
        .as_ref()
        .and_then(|batch| batch.verdicts.first());
    let text = match verdict {
        Some(verdict) => format!("{}; {}.", agreed(verdict, now), lag(seen)),
        None => {
            let mut lag = lag(seen);
            lag[..1].make_ascii_uppercase();
            format!("{lag}; the layers were never compared.")
        }
    };
    (level, text)
}

fn agreed(verdict: &Verdict, now: i64) -> String {
    let rows = number(verdict.rows[1]);
    let explained = match differences(verdict) {
        (0, _) => String::new(),
        (1, classes) => format!(" and 1 explained difference ({classes})"),
        (keys, classes) => format!(" and {} explained differences ({classes})", number(keys)),
    };
    let (ago, with) = (
        ago(now.saturating_sub(verdict.ended_at)),
        compared_with(verdict),
    );
    format!("Both layers agree{with}: {rows} rows{explained}, checked {ago}")
}

/// What was tolerated or compared in addition.
fn compared_with(verdict: &Verdict) -> String {
    match verdict.options.is_empty() {
        true => String::new(),
        false => format!(", compared with {}", verdict.options.join(" ")),
    }
}

/// How many keys differ, and of which classes they are.
fn differences(verdict: &Verdict) -> (u64, String) {
    let known = verdict.classes.iter().filter(|(_, count)| **count > 0);
    let named =
        known.map(|(class, count)| format!("{} {}", number(*count), class.replace('_', " ")));
    let named: Vec<String> = named.collect();
    // What somebody has damaged may be any number.
    let keys = verdict
        .classes
        .values()
        .fold(0_u64, |sum, count| sum.saturating_add(*count));
    (keys, named.join(", "))
}

/// Whether all records that have arrived were bad.
fn only_letters(log: &LogSeen) -> bool {
    log.produced == 0 && log.dead_letters > 0
}

fn lag(seen: &Seen) -> String {
    match &seen.log.seen {
        None => "the stream's lag is not known".into(),
        Some(log) if only_letters(log) => {
            let (records, are) = match log.dead_letters {
                1 => ("record", "is"),
                _ => ("records", "are"),
            };
            format!(
                "no event has been accepted yet, and {} {records} {are} in the dead letters",
                number(log.dead_letters.unsigned_abs())
            )
        }
        Some(log) if !log.has_committed && log.lag_records() > 0 => {
            format!(
                "the stream has not begun, and {} events wait",
                number(log.lag_records().unsigned_abs())
            )
        }
        Some(log) => match (log.lag_records(), log.lag_ms()) {
            (0, _) => "the stream is up to date".into(),
            (_, Some(ms)) => format!("the stream is {} behind", seconds(ms)),
            (records, None) => format!(
                "the stream is {} events behind",
                number(records.unsigned_abs())
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::known::Known;
    use super::super::store_eyes::{BatchSeen, RealtimeSeen};
    use super::*;
    use crate::error::Error;
    use crate::ports::monitor::OutOfRange;

    const NOW: i64 = 1_795_500_000_000; // 2026-11-24T06:00:00Z

    fn seen(lag: i64, oldest: Option<i64>, verdict: Option<(bool, &[(&str, u64)])>) -> Seen {
        let mut seen = Seen::default();
        let log = LogSeen {
            at: NOW,
            produced: 1_000,
            committed: 1_000 - lag,
            has_committed: true,
            lag: vec![(0, lag)],
            oldest,
            ..LogSeen::default()
        };
        seen.log.look(Ok(log), NOW);
        seen.realtime.look(Ok(RealtimeSeen::default()), NOW);
        let verdicts = verdict.map(|(agrees, classes)| Verdict {
            run_id: "run".into(),
            started_at: NOW - 130_000,
            ended_at: NOW - 120_000,
            agrees,
            rows: [1_000_000, 1_000_000],
            classes: classes
                .iter()
                .map(|(name, n)| ((*name).to_string(), *n))
                .collect(),
            columns: Default::default(),
            samples: Default::default(),
            options: Vec::new(),
        });
        let batch = BatchSeen {
            verdicts: verdicts.into_iter().collect(),
            ..BatchSeen::default()
        };
        seen.batch.look(Ok(batch), NOW);
        seen
    }

    #[test]
    fn what_was_tolerated_is_said() {
        let agree = (true, &[][..]);
        for (verdict, text) in [
            (
                agree,
                "Both layers agree, compared with --tolerance a=1 --series: 1,000,000 rows, checked 2 minutes ago; the stream is up to date.",
            ),
            (
                (false, &[][..]),
                "The layers do not agree, although no row differs, compared with --tolerance a=1 --series, found 2 minutes ago; the stream is up to date.",
            ),
        ] {
            let mut seen = seen(0, None, Some(verdict));
            let mut batch = seen.batch.seen.take().unwrap();
            batch.verdicts[0].options = vec!["--tolerance a=1".into(), "--series".into()];
            seen.batch.look(Ok(batch), NOW);
            assert_eq!(sentence(&seen, NOW).1, text);
        }
    }

    #[test]
    fn the_sentence_says_what_matters_most() {
        let agree = Some((true, &[][..]));
        let explained = Some((true, &[("in_flight", 2)][..]));
        let differ = Some((false, &[("in_flight", 2), ("lost", 1), ("older", 0)][..]));
        for (seen, level, text) in [
            (
                seen(4, Some(NOW - 400), agree),
                Level::Ok,
                "Both layers agree: 1,000,000 rows, checked 2 minutes ago; the stream is 0.4 s behind.",
            ),
            (
                seen(0, None, agree),
                Level::Ok,
                "Both layers agree: 1,000,000 rows, checked 2 minutes ago; the stream is up to date.",
            ),
            (
                seen(0, None, explained),
                Level::Ok,
                "Both layers agree: 1,000,000 rows and 2 explained differences (2 in flight), checked 2 minutes ago; the stream is up to date.",
            ),
            (
                seen(9, Some(NOW - 400_000), agree),
                Level::Busy,
                "Both layers agree: 1,000,000 rows, checked 2 minutes ago; the stream is 6 minutes behind.",
            ),
            (
                seen(0, None, differ),
                Level::Bad,
                "3 rows differ (2 in flight, 1 lost), found 2 minutes ago; the stream is up to date.",
            ),
            (
                seen(0, None, None),
                Level::Ok,
                "The stream is up to date; the layers were never compared.",
            ),
            (
                Seen::default(),
                Level::Busy,
                "The servers are being looked at for the first time.",
            ),
        ] {
            assert_eq!(sentence(&seen, NOW), (level, text.to_string()));
        }
    }

    #[test]
    fn a_server_that_is_away_comes_first() {
        let mut seen = seen(0, None, Some((false, &[("lost", 1)])));
        seen.realtime
            .look(Err(Error::unavailable("gone")), NOW + 60_000);
        let away = "The real-time store has not answered since 06:01 UTC; events wait in the log.";
        assert_eq!(sentence(&seen, NOW), (Level::Away, away.into()));
        let tomorrow = sentence(&seen, NOW + 86_400_000).1;
        let away = "The real-time store has not answered since 2026-11-24 06:01 UTC; events wait in the log.";
        assert_eq!(tomorrow, away);
        seen.log.look(Err(Error::unavailable("gone")), NOW);
        let (_, text) = sentence(&seen, NOW);
        assert!(
            text.starts_with("The event log has not answered since 06:00 UTC; "),
            "{text}"
        );
        assert!(text.contains("; the real-time store has not"), "{text}");
    }

    #[test]
    fn without_records_it_says_so() {
        let mut seen = seen(0, None, None);
        seen.log.look(Ok(LogSeen::default()), NOW);
        assert_eq!(sentence(&seen, NOW).0, Level::Empty);
        let letters = LogSeen {
            dead_letters: 9,
            ..LogSeen::default()
        };
        seen.log.look(Ok(letters), NOW);
        let text = "No event has been accepted yet, and 9 records are in the dead letters; the layers were never compared.";
        assert_eq!(sentence(&seen, NOW), (Level::Busy, text.into()));
        seen.log.look(Ok(LogSeen::default()), NOW);
        let rows = RealtimeSeen {
            rows: Some(RowCount {
                count: 1,
                exact: true,
            }),
            ..RealtimeSeen::default()
        };
        seen.realtime.look(Ok(rows), NOW);
        assert_eq!(sentence(&seen, NOW).0, Level::Ok, "there are rows");
    }

    #[test]
    fn nothing_is_in_order_or_empty_before_all_servers_have_answered() {
        let log = || seen(0, None, None).log;
        let mut some = Seen {
            log: log(),
            ..Seen::default()
        };
        let text =
            "The real-time store and the batch store are being looked at for the first time.";
        assert_eq!(sentence(&some, NOW), (Level::Busy, text.into()));
        some.realtime.look(Ok(RealtimeSeen::default()), NOW);
        let text = "The batch store is being looked at for the first time.";
        assert_eq!(sentence(&some, NOW), (Level::Busy, text.into()));
        some.log.look(Ok(LogSeen::default()), NOW);
        assert_eq!(sentence(&some, NOW).0, Level::Busy);
        some.batch.look(Ok(BatchSeen::default()), NOW);
        assert_eq!(sentence(&some, NOW).0, Level::Empty);
    }

    #[test]
    fn a_failed_verdict_is_told_also_where_nothing_else_is() {
        let mut seen = seen(0, None, Some((false, &[("lost", 1)])));
        seen.log.look(Ok(LogSeen::default()), NOW);
        let text = "1 row differs (1 lost), found 2 minutes ago; the stream is up to date.";
        assert_eq!(sentence(&seen, NOW), (Level::Bad, text.into()));
        seen.log = Known::default();
        let text = "1 row differs (1 lost), found 2 minutes ago; the stream's lag is not known.";
        assert_eq!(sentence(&seen, NOW), (Level::Bad, text.into()));
    }

    #[test]
    fn missing_data_is_told() {
        let mut seen = seen(4, Some(NOW), Some((true, &[])));
        let deleted = |partition, offset, low| OutOfRange::find(partition, offset, low, 100);
        let log = |out_of_range: Vec<Option<OutOfRange>>| LogSeen {
            out_of_range: out_of_range.into_iter().flatten().collect(),
            ..seen.log.seen.clone().unwrap()
        };
        let [one, many] = [
            log(vec![deleted(0, 3, 4), deleted(1, 120, 0)]),
            log((0..5).map(|p| deleted(p, 0, 1_000)).collect()),
        ];
        seen.log.look(Ok(one), NOW);
        let text = "Data is missing: 1 event was deleted from the log before the stream had read it (partition 0, offsets 3 to 3); the stream has read up to offset 120 of partition 1, but the topic ends at 100.";
        assert_eq!(sentence(&seen, NOW), (Level::Bad, text.into()));
        seen.log.look(Ok(many), NOW);
        let text = "Data is missing: 5,000 events were deleted from the log before the stream had read them (partition 0, offsets 0 to 999; partition 1, offsets 0 to 999; partition 2, offsets 0 to 999; and 2 more).";
        assert_eq!(sentence(&seen, NOW), (Level::Bad, text.into()));
    }

    #[test]
    fn a_stream_that_has_not_begun_is_not_in_order() {
        let mut seen = seen(4, Some(NOW), None);
        let mut log = seen.log.seen.clone().unwrap();
        log.has_committed = false;
        seen.log.look(Ok(log), NOW);
        let text = "The stream has not begun, and 4 events wait; the layers were never compared.";
        assert_eq!(sentence(&seen, NOW), (Level::Busy, text.into()));
    }

    #[test]
    fn numbers_out_of_reach_are_told_too() {
        let all = &[("lost", u64::MAX), ("older", u64::MAX)];
        let (level, text) = sentence(&seen(0, None, Some((false, all))), NOW);
        assert_eq!(level, Level::Bad);
        let most = number(u64::MAX);
        assert!(
            text.starts_with(&format!("{most} rows differ ({most} lost, ")),
            "{text}"
        );
    }

    #[test]
    fn times_out_of_reach_are_told_too() {
        let mut seen = seen(0, None, Some((true, &[])));
        let mut batch = seen.batch.seen.clone().unwrap();
        batch.verdicts[0].ended_at = i64::MIN;
        seen.batch.look(Ok(batch), NOW);
        assert_eq!(sentence(&seen, NOW).0, Level::Ok);
    }
}
