//! Why a store lacks a version: whether a load has rejected it, or it is in the dead letters. What was rejected of another
//! version is no reason, nor is it one for a version that was loaded or read all the same.

use super::model::{Explained, Landed, Letter, Rejected, Time, Version};

/// A reason in plain words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) text: String,
    /// Whether it is one of the version; if not, it may be one of another version of the key.
    pub(super) is_sure: bool,
}

/// Why the batch store lacks the version that the real-time store has, which has this event time.
pub(super) fn not_in_batch(found: &Explained, time: Option<Time>) -> Option<Reason> {
    let is_loaded = |line: &Landed| line.event_time == time && was_loaded(found, line);
    if found.landing.iter().any(is_loaded) || found.left_out.landing > 0 {
        return None;
    }
    let of_key = found.rejects.iter().filter(|reject| reject.is_of_key);
    let reason = by_version(
        of_key.clone(),
        |reject| reject.event_time,
        time,
        rejected_text,
    )?;
    let is_by = |load: usize| of_key.clone().any(|reject| reject.load == load);
    let may_have = |(load, newest): &(usize, Time)| Some(*newest) >= time && !is_by(*load);
    match reason.is_sure && found.unknown_loads.iter().any(may_have) {
        true => Some(Reason {
            text: format!(
                "perhaps {}; another load, whose files are not all there, may have had the record",
                reason.text
            ),
            is_sure: false,
        }),
        false => Some(reason),
    }
}

/// Why the real-time store lacks the version that the batch store has, which has this event time.
pub(super) fn not_in_realtime(found: &Explained, time: Option<Time>) -> Option<Reason> {
    let left = found.dead_letters.iter().rev();
    let left = left.filter(|letter| !was_read_since(found, letter));
    by_version(left, |letter| letter.event_time, time, letter_text)
}

/// The first one of the version; without one, the first one that may be of the version.
fn by_version<'a, T: 'a>(
    all: impl Iterator<Item = &'a T> + Clone,
    time_of: impl Fn(&T) -> Option<Time>,
    time: Option<Time>,
    text: impl Fn(&T) -> String,
) -> Option<Reason> {
    let sure = all
        .clone()
        .find(|one| time.is_some() && time_of(one) == time);
    if let Some(sure) = sure {
        return Some(Reason {
            text: text(sure),
            is_sure: true,
        });
    }
    let mut all = all;
    let unsure = all.find(|one| time.is_none() || time_of(one).is_none())?;
    Some(Reason {
        text: format!("perhaps {}; it may be another version", text(unsure)),
        is_sure: false,
    })
}

/// The reject that tells why neither store has the record: one of the newest version that is known.
pub(super) fn rejected(found: &Explained) -> Option<String> {
    let loaded = || found.landing.iter().filter(|line| was_loaded(found, line));
    let is_last = |reject: &&Rejected| {
        let time = reject.event_time;
        let was_read = |version: &Version| time.is_none() || version.event_time >= time;
        let is_loaded = |line: &Landed| time.is_none() || line.event_time >= time;
        reject.is_of_key && !loaded().any(is_loaded) && !read(found).any(was_read)
    };
    found.rejects.iter().find(is_last).map(rejected_text)
}

/// The dead letter that tells why neither store has the record.
pub(super) fn dead_letter(found: &Explained) -> Option<String> {
    let loaded = || found.landing.iter().filter(|line| was_loaded(found, line));
    let is_last = |letter: &&Letter| {
        let is_loaded = |line: &Landed| {
            letter
                .event_time
                .is_some_and(|time| line.event_time >= Some(time))
        };
        !was_read_since(found, letter) && !loaded().any(is_loaded)
    };
    found
        .dead_letters
        .iter()
        .rev()
        .find(is_last)
        .map(letter_text)
}

/// Whether a load has read this line and not rejected it. A rule may have been another one by then, and the clock was.
fn was_loaded(found: &Explained, line: &Landed) -> bool {
    let has_rejected = |(load, path): &(usize, String)| {
        let mut rejects = found.rejects.iter();
        rejects.any(|reject| {
            let is_its_input = reject.input.as_ref().is_none_or(|input| input == path);
            reject.load == *load && reject.line == Some(line.line) && is_its_input
        })
    };
    let was_valid = line.invalid.is_none() || line.was_valid;
    was_valid && !line.read_by.iter().all(has_rejected)
}

/// The versions that the group has read and that are not in the dead letters.
fn read(found: &Explained) -> impl Iterator<Item = &Version> {
    let is_letter = |version: &Version| {
        let mut letters = found.dead_letters.iter();
        letters.any(|letter| letter.origin == Some(version.at))
    };
    let versions = found.log.iter().flat_map(|log| &log.versions);
    let read = versions.filter(|version| !version.is_waiting && version.invalid.is_none());
    read.filter(move |version| !is_letter(version))
}

/// Whether the group has read this version or a newer one without refusing it. If it is not known which one is newer, the
/// one that was produced later is.
fn was_read_since(found: &Explained, letter: &Letter) -> bool {
    let is_later = |version: &Version| match letter.origin {
        Some(origin) if origin.partition == version.at.partition => {
            version.at.offset > origin.offset
        }
        _ => version.produced_at > letter.written_at,
    };
    read(found).any(|version| match (version.event_time, letter.event_time) {
        (Some(version), Some(letter)) => version >= letter,
        _ => is_later(version),
    })
}

fn letter_text(letter: &Letter) -> String {
    let (since, message) = (letter.written_at, &letter.message);
    format!("in the dead letters since {since}: {message}")
}

fn rejected_text(reject: &Rejected) -> String {
    let line = reject.line.map(|line| format!(" at line {line}"));
    let field = reject
        .field
        .as_ref()
        .map(|field| format!("field {field}: "));
    format!(
        "rejected by load-batch{}: {}{}: {}",
        line.unwrap_or_default(),
        field.unwrap_or_default(),
        reject.rule,
        reject.reason
    )
}
