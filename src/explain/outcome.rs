//! The short answer: what became of the record, in plain words.

use super::model::{Explained, Outcome, Part, State};
use super::reason::{dead_letter, not_in_batch, not_in_realtime, rejected};

/// The short answer to what was found; `newest` is the newest event time of all loads, if one is known.
pub(super) fn outcome(found: &Explained, newest: Option<i64>) -> Outcome {
    let (state, mut text) = match (&found.realtime, &found.batch) {
        (Some(_), Some(_)) => in_both(found),
        (Some(row), None) => {
            let is_new = row
                .event_time
                .zip(newest)
                .is_some_and(|(time, newest)| time.0 > newest);
            let not_loaded = is_new.then(|| "no load has had records as new as this one".into());
            let why = match not_in_batch(found, row.event_time) {
                Some(reject) if reject.is_sure => Some(reject.text),
                unsure => not_loaded.or(unsure.map(|reject| reject.text)),
            };
            in_one(found, State::RealtimeOnly, Part::Batch, why)
        }
        (None, Some(row)) => {
            let why = not_in_realtime(found, row.event_time).map(|letter| letter.text);
            in_one(found, State::BatchOnly, Part::Realtime, why)
        }
        (None, None) => in_neither(found),
    };
    let is_told = matches!(state, State::Waiting);
    if let Some(waiting) = waiting(found).filter(|_| !is_told) {
        text = format!("{text}; a version is {waiting}");
    }
    Outcome { state, text }
}

fn in_both(found: &Explained) -> (State, String) {
    if found.differences.is_empty() {
        return (
            State::Equal,
            "in both stores, with the same values".to_string(),
        );
    }
    let columns: Vec<&str> = found.differences.iter().map(|d| &*d.column).collect();
    let time = |row: &Option<super::model::Row>| row.as_ref().and_then(|row| row.event_time);
    let (realtime, batch) = (time(&found.realtime), time(&found.batch));
    let newer = match realtime.cmp(&batch) {
        std::cmp::Ordering::Greater => "the real-time row is newer",
        std::cmp::Ordering::Less => "the batch row is newer",
        std::cmp::Ordering::Equal => "both rows have the same event time",
    };
    let text = format!(
        "in both stores, with different values in {}; {newer}",
        columns.join(", ")
    );
    (State::Different, text)
}

fn in_one(found: &Explained, state: State, other: Part, why: Option<String>) -> (State, String) {
    let has = match other {
        Part::Batch => Part::Realtime.name(),
        _ => Part::Batch.name(),
    };
    if found.lacks(other) {
        let text = format!("in {has}; {} could not be read", other.name());
        return (State::OneStore, text);
    }
    let text = format!("in {has}, but not in {}", other.name());
    let text = match why {
        Some(why) => format!("{text}: {why}"),
        None => text,
    };
    (state, text)
}

fn in_neither(found: &Explained) -> (State, String) {
    if let Some(waiting) = waiting(found) {
        return (State::Waiting, waiting);
    }
    if let Some(letter) = dead_letter(found) {
        return (State::DeadLetter, letter);
    }
    if let Some(rejected) = rejected(found) {
        return (State::Rejected, rejected);
    }
    let stores = stores_without_it(found);
    let log = found.log.as_ref();
    if let Some((log, last)) = log.and_then(|log| Some((log, log.versions.last()?))) {
        let (group, at) = (&log.group, last.at);
        let text = format!("read from the log by group {group} at {at}, but {stores}");
        return (State::Read, text);
    }
    if let Some(landed) = found.landing.last() {
        let (file, line) = (&landed.file, landed.line);
        let text = format!("in {file} line {line} only; {stores}");
        return (State::Landed, text);
    }
    if found.troubles.is_empty() {
        let text = "unknown: neither store, log, dead letters nor landing files have it";
        return (State::Unknown, text.into());
    }
    let mut silent: Vec<&str> = found.troubles.iter().map(|t| t.part.name()).collect();
    silent.dedup();
    let text = format!(
        "not found, but not everything could be read: {}",
        silent.join(", ")
    );
    (State::Incomplete, text)
}

fn stores_without_it(found: &Explained) -> &'static str {
    match (found.lacks(Part::Realtime), found.lacks(Part::Batch)) {
        (false, false) => "neither store has it",
        (true, false) => {
            "the batch store does not have it, and the real-time store could not be read"
        }
        (false, true) => {
            "the real-time store does not have it, and the batch store could not be read"
        }
        (true, true) => "neither store could be read",
    }
}

/// The first version that the group has not read.
fn waiting(found: &Explained) -> Option<String> {
    let log = found.log.as_ref()?;
    let (partition, ahead) = log.waiting?;
    let mut partitions = log.partitions.iter();
    let at = partitions.find(|p| p.partition == partition);
    if let Some((next, oldest)) = at.and_then(|p| Some((p.committed?, p.oldest)))
        && next < oldest
    {
        return Some(format!(
            "waiting in the log, where the stream cannot go on: it continues at partition {partition} offset {next}, but the events before {oldest} were deleted"
        ));
    }
    Some(match ahead {
        0 => "waiting in the log: it is the next one to be read".into(),
        1 => "waiting in the log: 1 event ahead of it".into(),
        n => format!("waiting in the log: {n} events ahead of it"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::model::{
        Difference, InLog, Landed, LeftOut, Letter, Partition, Place, Rejected, Row, Time, Trouble,
        Version,
    };
    use super::*;
    use crate::error::Error;
    use crate::exit::Exit;
    use crate::record::value::Value;

    fn nothing() -> Explained {
        Explained {
            dataset: "users".into(),
            key: Value::Int(1),
            outcome: Outcome {
                state: State::Unknown,
                text: String::new(),
            },
            differences: Vec::new(),
            realtime: None,
            batch: None,
            history: Vec::new(),
            loads: Vec::new(),
            log: None,
            dead_letters: Vec::new(),
            landing: Vec::new(),
            rejects: Vec::new(),
            left_out: LeftOut::default(),
            verdict: None,
            troubles: Vec::new(),
            unknown_loads: Vec::new(),
        }
    }

    fn row(event_time: i64) -> Option<Row> {
        Some(Row {
            store: "sqlite:a".into(),
            table: "t".into(),
            rows: 1,
            values: Vec::new(),
            event_time: Some(Time(event_time)),
            origin: None,
            write_timestamps: None,
            is_as_written: None,
        })
    }

    /// A log with one version, and this many events before it that the group has not read; none if it has read it.
    fn log(ahead: Option<u64>) -> Option<InLog> {
        Some(InLog {
            topic: "events".into(),
            group: "rtp".into(),
            partitions: vec![Partition {
                partition: 2,
                oldest: 0,
                end: 9,
                committed: None,
            }],
            count: 1,
            waiting: ahead.map(|ahead| (2, ahead)),
            versions: vec![Version {
                at: Place {
                    partition: 2,
                    offset: 5,
                },
                produced_at: Time(0),
                event_time: None,
                run_id: None,
                is_waiting: ahead.is_some(),
                ahead: ahead.unwrap_or_default(),
                invalid: None,
            }],
        })
    }

    fn letter() -> Letter {
        Letter {
            topic: "events.dlq".into(),
            at: Place {
                partition: 0,
                offset: 1,
            },
            written_at: Time(0),
            origin: None,
            line: Some(3),
            event_time: Some(Time(5)),
            stage: "produce".into(),
            run_id: "r".into(),
            rule: "type".into(),
            field: None,
            message: "type: expected text".into(),
        }
    }

    fn reject() -> Rejected {
        Rejected {
            file: "bad".into(),
            input: None,
            line: Some(7),
            event_time: Some(Time(101)),
            rule: "type".into(),
            field: Some("a".into()),
            reason: "expected text".into(),
            is_of_key: true,
            run_id: "r".into(),
            load: 0,
        }
    }

    fn landed() -> Landed {
        Landed {
            file: "in.csv".into(),
            line: 4,
            event_time: None,
            invalid: None,
            loads: Vec::new(),
            read_by: Vec::new(),
            was_valid: false,
        }
    }

    fn down(part: Part) -> Trouble {
        Trouble::new(part, &Error::unavailable("down"))
    }

    /// State, text and status of what was found.
    fn said(found: Explained) -> (State, String, Exit) {
        let outcome = outcome(&found, Some(100));
        let found = Explained { outcome, ..found };
        let exit = found.exit();
        (found.outcome.state, found.outcome.text, exit)
    }

    #[test]
    fn what_both_stores_have_is_compared() {
        let both = |realtime, batch, columns: &[&str]| Explained {
            realtime: row(realtime),
            batch: row(batch),
            differences: columns
                .iter()
                .map(|column| Difference {
                    column: (*column).into(),
                    realtime: 1.into(),
                    batch: 2.into(),
                })
                .collect(),
            ..nothing()
        };
        let same = both(5, 5, &[]);
        let text = "in both stores, with the same values";
        assert_eq!(said(same), (State::Equal, text.into(), Exit::Done));
        let waiting = Explained {
            log: log(Some(2)),
            ..both(5, 5, &[])
        };
        let text = format!("{text}; a version is waiting in the log: 2 events ahead of it");
        assert_eq!(said(waiting), (State::Equal, text, Exit::Done));
        for (realtime, batch, newer) in [
            (6, 5, "the real-time row is newer"),
            (5, 6, "the batch row is newer"),
            (5, 5, "both rows have the same event time"),
        ] {
            let (state, text, exit) = said(both(realtime, batch, &["a", "b"]));
            assert_eq!((state, exit), (State::Different, Exit::Done));
            let expected = format!("in both stores, with different values in a, b; {newer}");
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn what_one_store_has_is_told_with_the_reason_of_the_other() {
        let realtime = |time| Explained {
            realtime: row(time),
            ..nothing()
        };
        let only = "in the real-time store, but not in the batch store";
        for (found, text) in [
            (realtime(5), only.into()),
            (
                realtime(101),
                format!("{only}: no load has had records as new as this one"),
            ),
            (
                Explained {
                    rejects: vec![reject()],
                    ..realtime(101)
                },
                format!("{only}: rejected by load-batch at line 7: field a: type: expected text"),
            ),
        ] {
            assert_eq!(said(found), (State::RealtimeOnly, text, Exit::Done));
        }
        let batch = Explained {
            batch: row(5),
            dead_letters: vec![letter()],
            ..nothing()
        };
        let text = "in the batch store, but not in the real-time store: in the dead letters since 1970-01-01T00:00:00.000Z: type: expected text";
        assert_eq!(said(batch), (State::BatchOnly, text.into(), Exit::Done));
        let found = Explained {
            troubles: vec![down(Part::Realtime)],
            batch: row(5),
            ..nothing()
        };
        let text = "in the batch store; the real-time store could not be read";
        assert_eq!(
            said(found),
            (State::OneStore, text.into(), Exit::Dependency)
        );
    }

    #[test]
    fn what_was_refused_is_a_reason_for_its_own_version_only() {
        let of_reject = |reject: Rejected, landing: Vec<Landed>, time| {
            let found = Explained {
                realtime: row(time),
                rejects: vec![reject],
                landing,
                ..nothing()
            };
            said(found).1
        };
        let of = |event_time: Option<i64>| Rejected {
            event_time: event_time.map(Time),
            ..reject()
        };
        let only = "in the real-time store, but not in the batch store";
        let why = "rejected by load-batch at line 7: field a: type: expected text";
        let sure = format!("{only}: {why}");
        let perhaps = format!("{only}: perhaps {why}; it may be another version");
        let new = format!("{only}: no load has had records as new as this one");
        assert_eq!(of_reject(of(Some(5)), vec![], 5), sure);
        assert_eq!(of_reject(of(Some(4)), vec![], 5), only);
        assert_eq!(of_reject(of(None), vec![], 5), perhaps);
        assert_eq!(of_reject(of(None), vec![], 101), new);
        let keyless = Rejected {
            is_of_key: false,
            ..of(Some(5))
        };
        assert_eq!(of_reject(keyless, vec![], 5), only);
        // Another load has read the version, or this one elsewhere; the line itself may be valid by now.
        let line = |line: u64, load: usize| Landed {
            line,
            event_time: Some(Time(5)),
            read_by: vec![(load, "/in.csv".into())],
            ..landed()
        };
        let invalid = |number: u64, was_valid: bool| Landed {
            invalid: Some("required".into()),
            was_valid,
            ..line(number, 1)
        };
        for (landed, expected) in [
            (line(7, 0), &*sure),
            (line(7, 1), only),
            (line(8, 0), only),
            // It is not valid, nor was it; or it was, by the rules of another load.
            (invalid(8, false), &sure),
            (invalid(8, true), only),
            (
                Landed {
                    read_by: Vec::new(),
                    ..line(8, 0)
                },
                &sure,
            ),
            (
                Landed {
                    event_time: Some(Time(4)),
                    ..line(8, 0)
                },
                &sure,
            ),
        ] {
            assert_eq!(of_reject(of(Some(5)), vec![landed], 5), expected);
        }
        let of_letter = |event_time: Option<i64>| {
            let letter = Letter {
                event_time: event_time.map(Time),
                ..letter()
            };
            let found = Explained {
                batch: row(5),
                dead_letters: vec![letter],
                ..nothing()
            };
            said(found).1
        };
        let only = "in the batch store, but not in the real-time store";
        assert_eq!(of_letter(Some(4)), only);
        let perhaps = format!("{only}: perhaps in the dead letters since ");
        assert!(of_letter(None).starts_with(&perhaps));
    }

    #[test]
    fn what_no_store_has_is_looked_for_along_the_pipeline() {
        let all = || Explained {
            log: log(Some(37)),
            dead_letters: vec![letter()],
            rejects: vec![reject()],
            landing: vec![landed()],
            ..nothing()
        };
        let waiting = "waiting in the log: 37 events ahead of it";
        let dead = "in the dead letters since 1970-01-01T00:00:00.000Z: type: expected text";
        let rejected = "rejected by load-batch at line 7: field a: type: expected text";
        let read =
            "read from the log by group rtp at partition 2 offset 5, but neither store has it";
        let only = "in in.csv line 4 only; neither store has it";
        let unknown = "unknown: neither store, log, dead letters nor landing files have it";
        let mut found = all();
        assert_eq!(said(all()), (State::Waiting, waiting.into(), Exit::Done));
        found.log = log(None);
        let (state, text, _) = said(found);
        assert_eq!((state, &*text), (State::DeadLetter, dead));
        let mut found = all();
        (found.log, found.dead_letters) = (log(None), Vec::new());
        let (state, text, _) = said(found);
        assert_eq!((state, &*text), (State::Rejected, rejected));
        let found = Explained {
            log: log(None),
            landing: vec![landed()],
            ..nothing()
        };
        assert_eq!(said(found), (State::Read, read.into(), Exit::Done));
        let found = Explained {
            landing: vec![landed()],
            ..nothing()
        };
        assert_eq!(said(found), (State::Landed, only.into(), Exit::Done));
        assert_eq!(said(nothing()), (State::Unknown, unknown.into(), Exit::No));
    }

    #[test]
    fn nothing_is_called_unknown_while_something_could_not_be_read() {
        for (part, error, exit) in [
            (Part::Log, Error::unavailable("down"), Exit::Dependency),
            (Part::Batch, Error::invalid("no table"), Exit::Usage),
        ] {
            let found = Explained {
                troubles: vec![Trouble::new(part, &error)],
                ..nothing()
            };
            let (state, text, status) = said(found);
            assert_eq!((state, status), (State::Incomplete, exit));
            let expected = format!(
                "not found, but not everything could be read: {}",
                part.name()
            );
            assert_eq!(text, expected);
        }
    }
}
