//! Why a key differs, from what the stores keep with its rows. Pure; what the stores cannot tell is asked of the log or
//! of the landing files.

use super::base::{Base, LogBase};
use super::recheck::{Found, OwnedRow};
use super::search::Seen;
use super::{Class, Kind, Side};
use crate::dataset::{Dataset, Nulls};
use crate::ports::ledger::LoadRecord;
use crate::ports::table_reader::Provenance;
use crate::record::row::{self, Digest, Origin, RowMeta};
use crate::record::value::Value;
use crate::time::format_ms;

/// A version of a row: event time in milliseconds since 1970 UTC, and canonical digest.
pub(super) type Version = (i64, Digest);

/// A class with its evidence, or what has to be asked for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Known(Class, String),
    /// Whether the log or its dead letters have this version.
    AskLog(Version),
    /// Whether a file that was loaded has the version. If none has, it is of this class, for this reason, if there is one
    /// besides that.
    AskLanding(Class, Option<String>),
}

impl Judged {
    /// Whether the batch store lacks a version that the real-time store has, and that no load can have read.
    pub(super) fn was_not_loaded(&self) -> bool {
        matches!(
            self,
            Judged::Known(Class::NotLoadedYet | Class::OlderVersion, _)
        )
    }
}

/// The version of a row as its values are now; none if some do not fit their columns.
pub(super) fn version(dataset: &Dataset, row: &OwnedRow) -> Option<Version> {
    let Value::Timestamp(time) = row.values[dataset.event.time] else {
        return None;
    };
    let digest = row::digest(dataset, &row.values, &mut Vec::new());
    row.foreign.is_empty().then_some((time, digest))
}

/// Judges a difference by the rows and what the stores keep with them.
pub(super) fn by_stores(
    dataset: &Dataset,
    base: &Base,
    found: &Found,
    provenance: [Option<&Provenance>; 2],
) -> Judged {
    if found.kind == Kind::Duplicate {
        return Judged::Known(Class::Duplicate, String::new());
    }
    for (side, row) in [Side::Realtime, Side::Batch].into_iter().zip(&found.rows) {
        let kept = provenance[side as usize];
        if let Some((row, kept)) = row.as_ref().zip(kept)
            && let Some(why) = changed_outside(dataset, side, row, kept)
        {
            return Judged::Known(Class::ChangedOutside, why);
        }
    }
    let versions = found
        .rows
        .each_ref()
        .map(|row| row.as_ref().map(|row| version(dataset, row)));
    let origin = provenance[Side::Realtime as usize].and_then(|kept| kept.origin);
    match versions {
        [Some(Some(realtime)), None] => not_in_batch(base, realtime, origin, Class::NotLoadedYet),
        [Some(Some(realtime)), Some(Some(batch))] if realtime > batch => {
            not_in_batch(base, realtime, origin, Class::OlderVersion)
        }
        [_, Some(Some(batch))] if versions[0] != versions[1] => Judged::AskLog(batch),
        _ => Judged::Known(
            Class::Unexplained,
            "the rows have the same version, or values that no version has".into(),
        ),
    }
}

/// Why a row is not what rtp wrote.
pub(super) fn changed_outside(
    dataset: &Dataset,
    side: Side,
    row: &OwnedRow,
    kept: &Provenance,
) -> Option<String> {
    let store = side.name();
    let Some((event_time, digest)) = version(dataset, row) else {
        return Some(format!(
            "the {store} store has a value that does not fit its column"
        ));
    };
    if kept.digest.is_some_and(|kept| kept != digest) {
        return Some(format!(
            "the digest kept in the {store} store is not that of the row's values"
        ));
    }
    if side == Side::Realtime && kept.origin.is_none() {
        return Some(format!(
            "the row of the {store} store is not from an event of the log"
        ));
    }
    let [oldest, newest] = kept.write_timestamps?;
    let origin = Origin::default();
    let meta = RowMeta {
        event_time,
        digest,
        origin,
    };
    let written = meta.write_timestamp();
    let is_ours = match dataset.nulls {
        Nulls::Write => oldest == written && newest == written,
        // Older events may have written what the newest one leaves alone, so the digest is not that of one event.
        Nulls::Unset => newest.div_euclid(1_000) == event_time,
    };
    (!is_ours).then(|| {
        let other = if newest == written { oldest } else { newest };
        format!(
            "the {store} store has values with write timestamp {other}, but the stream writes this row at {written}"
        )
    })
}

/// The real-time store has a version that the batch store lacks: is it on its way?
fn not_in_batch(base: &Base, version: Version, origin: Option<Origin>, class: Class) -> Judged {
    let load = match (&base.loads, base.last_load()) {
        (Err(why), _) => {
            return Judged::Known(
                Class::Unexplained,
                format!("the batch store does not tell its loads: {why}"),
            );
        }
        (_, None) => return Judged::Known(class, "no load has been committed".into()),
        (_, Some(load)) => load,
    };
    let time = format_ms(version.0);
    if let Some(boundary) = base.newest.filter(|boundary| version.0 > *boundary) {
        let boundary = format_ms(boundary);
        return Judged::Known(
            class,
            format!("event time {time} is after {boundary}, and no load had a newer record"),
        );
    }
    let came_later = match (origin, &base.log) {
        (Some(origin), Ok(log)) => {
            let first = log.after_load.get(origin.partition);
            first.is_some_and(|first| origin.offset >= first).then(|| {
                format!(
                    "its event, partition {} offset {}, was produced after load {} had begun",
                    origin.partition, origin.offset, load.info.run_id
                )
            })
        }
        _ => None,
    };
    // A file may be loaded before it is produced.
    Judged::AskLanding(class, came_later)
}

/// The verdict on a version that the batch store lacks, once the landing and reject files were read: where it is in a file
/// that was loaded, why a load rejected it, and why not every file could be read.
pub(super) fn by_landing(
    base: &Base,
    (class, came_later): (Class, Option<String>),
    place: Option<&str>,
    rejected: Option<&str>,
    unread: Option<&str>,
) -> (Class, String) {
    let run = base
        .last_load()
        .map_or("", |load: &LoadRecord| &load.info.run_id);
    match (place, rejected, unread) {
        (Some(place), ..) => (Class::Lost, format!("{place} was loaded, and has it")),
        (None, Some(why), _) => (Class::Rejected, why.into()),
        (None, None, None) => {
            let none_has = "no file that was loaded has it";
            let came_later = came_later.map(|why| format!("{why}; {none_has}"));
            (class, came_later.unwrap_or(none_has.into()))
        }
        (None, None, Some(unread)) => match (came_later, &base.log) {
            // Nor does that tell whether a file had it before.
            (Some(why), _) => (
                Class::Unexplained,
                format!(
                    "{why}, but a file may be loaded first, and whether that happened is not known: {unread}"
                ),
            ),
            (None, Ok(_)) => (
                Class::Lost,
                format!(
                    "its event was produced before load {run} began; whether it was loaded is not known: {unread}"
                ),
            ),
            (None, Err(why)) => (
                Class::Unexplained,
                format!(
                    "whether it was loaded is not known: {unread}; the log does not tell when its event was produced: {why}"
                ),
            ),
        },
    }
}

/// The verdict on a version that the real-time store lacks, once the log was read.
pub(super) fn by_log(
    dataset: &Dataset,
    base: &Base,
    seen: &Seen,
    trouble: Option<&str>,
) -> (Class, String) {
    let log = match &base.log {
        Ok(log) => log,
        Err(why) => {
            return (
                Class::Unexplained,
                format!("the event log does not tell: {why}"),
            );
        }
    };
    let topic = &dataset.event.topic;
    let in_letters = seen.letter.as_ref().map(|letter| {
        let (topic, (partition, offset)) = (dataset.event.dead_letter_topic(), letter.at);
        let why = match letter.reason.is_empty() {
            true => String::new(),
            false => format!(": {}", letter.reason),
        };
        let place = format!("{topic}, partition {partition} offset {offset}{why}");
        (Class::DeadLetter, place)
    });
    let Some(at) = seen.at else {
        return match (in_letters, trouble) {
            (Some((class, letter)), _) if is_cut(base) => {
                let gone = "older events were deleted from the log, perhaps one that was read";
                (class, format!("{letter}; {gone}"))
            }
            (Some(letter), _) => letter,
            (None, Some(why)) => (
                Class::Unexplained,
                format!("the event log could not be searched: {why}"),
            ),
            (None, None) => (Class::Unexplained, not_in_log(dataset, base, seen)),
        };
    };
    let event = |(partition, offset)| format!("{topic}, partition {partition} offset {offset}");
    if !log.has_committed {
        let why = "but the group has never committed anything; --group names that of the stream";
        return (Class::Unexplained, format!("{}, {why}", event(at)));
    }
    let Some(reader) = log.reader_of(at) else {
        return in_flight(log, &event(at), at);
    };
    // That one event of it was refused does not explain what became of another one.
    let mut without = seen
        .without_letter
        .iter()
        .map(|at| (*at, log.reader_of(*at)));
    let read = match (without.find(|(_, reader)| reader.is_some()), in_letters) {
        (Some((at, Some(reader))), _) => format!("{} was read by {reader}", event(at)),
        (_, Some(letter)) if !seen.has_more => return letter,
        _ => format!("{} was read by {reader}", event(at)),
    };
    match trouble {
        None => (Class::Lost, read),
        Some(why) => (
            Class::Unexplained,
            format!("{read}; the dead letters could not be searched: {why}"),
        ),
    }
}

/// The verdict on an event that nobody has read.
pub(super) fn in_flight(
    log: &LogBase,
    event: &str,
    (partition, offset): (i32, i64),
) -> (Class, String) {
    if let Some(gap) = log.gap(partition) {
        return (Class::Unexplained, format!("{event} was not read: {gap}"));
    }
    let ahead = offset - log.committed.get(partition).unwrap_or(0);
    let unsure = match &log.writers {
        Ok(_) => String::new(),
        Err(why) => format!("; whether another group writes the store is not known: {why}"),
    };
    let evidence = format!("{event}: {ahead} events after where the group continues{unsure}");
    (Class::InFlight, evidence)
}

/// Whether the oldest events were deleted from the log.
pub(super) fn is_cut(base: &Base) -> bool {
    base.log.as_ref().is_ok_and(|log| {
        let mut first = log.bounds.from.iter();
        first.any(|(_, offset)| offset > 0)
    })
}

fn not_in_log(dataset: &Dataset, base: &Base, seen: &Seen) -> String {
    let topic = &dataset.event.topic;
    let why = match is_cut(base) {
        true => format!("no event of {topic} has this version; older events were deleted from it"),
        false => format!("no event of {topic} has this version: it was never produced"),
    };
    let Some(letter) = &seen.unsure_letter else {
        return why;
    };
    let (topic, (partition, offset)) = (dataset.event.dead_letter_topic(), letter.at);
    format!(
        "{why}; {topic}, partition {partition} offset {offset} is of this key, but its event time cannot be read"
    )
}
