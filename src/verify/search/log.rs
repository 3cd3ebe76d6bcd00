//! Versions in the log and its dead letters.

use std::ops::ControlFlow;

use super::keys::KeyFinder;
use super::{ByKey, Wanted, hash_of, id_of, key_hash};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::intake::dead_letter::{DeadLetter, DeadLetters};
use crate::ports::event_log::{Offsets, Span};
use crate::ports::log_reader::EventVisitor;
use crate::record::event::Event;
use crate::record::row::{Origin, Rows};
use crate::record::transform::Transform;
use crate::run::Stop;
use crate::run::retry::Retry;
use crate::run::task::Task;
use crate::verify::Witnesses;
use crate::verify::base::LogBase;

/// Bytes of the reasons of dead letters that are kept; the others are told without them.
const REASON_BYTES: usize = 1 << 20;

/// Events whose dead letters are looked for.
const EVENTS: usize = 1 << 18;

/// What was seen of a version.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::verify) struct Seen {
    /// Partition and offset of its event: of the first one that the group has not committed, else of the first one.
    pub(in crate::verify) at: Option<(i32, i64)>,
    /// When it was produced, the last time if that happened more than once, in milliseconds since 1970 UTC.
    pub(in crate::verify) produced_at: Option<i64>,
    /// A dead letter of one of its events; without an event, the last one of the version.
    pub(in crate::verify) letter: Option<SeenLetter>,
    /// Its events that have no dead letter.
    pub(in crate::verify) without_letter: Vec<(i32, i64)>,
    /// Whether there was no room for all of these.
    pub(in crate::verify) has_more: bool,
    /// A dead letter of the key that may be of another version, because its record has no event time.
    pub(in crate::verify) unsure_letter: Option<SeenLetter>,
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::verify) struct SeenLetter {
    /// Its partition and offset in the dead-letter topic.
    pub(in crate::verify) at: (i32, i64),
    /// Why the record is there; empty if there is no room for it.
    pub(in crate::verify) reason: Box<str>,
}

/// Looks for versions of keys in the log: first in what the group has not committed, for what is still not found in what
/// it has committed, and among the dead letters. Those that were seen, and why not everything was read.
pub(in crate::verify) async fn in_log(
    witnesses: Option<&Witnesses>,
    dataset: &Dataset,
    log: &Result<LogBase, String>,
    wanted: &Wanted,
    retry: &Retry,
) -> (ByKey<Seen>, Option<String>) {
    let mut search = Search {
        dataset,
        // No event is too far in the future: what the stream took at its time is in question.
        transform: Transform::new(dataset, i64::MAX),
        letters: DeadLetters::of(dataset),
        rows: Rows::new(dataset.fields.len()),
        wanted,
        seen: ByKey::default(),
        reason_bytes: 0,
        events: 0,
        keys: KeyFinder::new(dataset),
        is_unsure: false,
        reads_records: false,
        stop: &retry.run.stop,
    };
    let trouble = match (log, witnesses) {
        (Err(why), _) => Some(why.clone()),
        (Ok(_), None) => Some("nobody was asked".into()),
        (Ok(log), Some(witnesses)) => {
            let read = async || search.start_over().read(witnesses, log).await;
            let read = retry.through_outage(read).await;
            read.err().map(|e| e.to_string())
        }
    };
    (search.seen, trouble)
}

struct Search<'d> {
    dataset: &'d Dataset,
    transform: Transform<'d>,
    letters: DeadLetters,
    rows: Rows,
    wanted: &'d Wanted,
    seen: ByKey<Seen>,
    reason_bytes: usize,
    /// Number of events whose dead letters are looked for.
    events: usize,
    keys: KeyFinder,
    /// Whether an event's key may be another one than its record's.
    is_unsure: bool,
    /// Whether events are told by the keys of their records, which takes longer.
    reads_records: bool,
    stop: &'d Stop,
}

impl Search<'_> {
    /// Forgets what was read before an outage.
    fn start_over(&mut self) -> &mut Self {
        self.seen.clear();
        (self.reason_bytes, self.events) = (0, 0);
        (self.is_unsure, self.reads_records) = (false, false);
        self
    }

    async fn read(&mut self, witnesses: &Witnesses, base: &LogBase) -> Result<()> {
        let event = &self.dataset.event;
        let (event_log, topic) = (witnesses.event_log.clone(), event.dead_letter_topic());
        let opening = Task::spawn(async move { event_log.reader(&topic).await });
        let mut log = witnesses.event_log.reader(&event.topic).await?;
        // To where it ends now: what was loaded may have been produced since.
        let end = log.bounds().await?.to;
        let unread = base.unread();
        let waiting = span(&unread, &end);
        log.read(&waiting, &mut Events(self)).await?;
        let committed = span(&base.bounds.from, &unread);
        if self.is_open() {
            log.read(&committed, &mut Events(self)).await?;
        }
        if self.is_open() && self.is_unsure {
            self.reads_records = true;
            log.read(&waiting, &mut Events(self)).await?;
            log.read(&committed, &mut Events(self)).await?;
        }
        let mut letters = opening.await?;
        let all = letters.bounds().await?;
        letters.read(&all, &mut Letters(self)).await
    }

    /// Whether a version has no event yet.
    fn is_open(&self) -> bool {
        self.seen.len() < self.wanted.len() && self.stop.requested().is_none()
    }

    /// The hash of the key of an event's record, by which the stream writes it, if it is looked for. Another producer may
    /// have given the event another key, or none.
    fn wanted(&mut self, event: &Event<'_>) -> Option<u64> {
        let record = event.value?;
        let key = match (self.keys.plain(record), event.key) {
            (Some(key), _) => key_hash(key),
            (None, Some(key)) if !self.reads_records => {
                self.is_unsure = true;
                key_hash(key)
            }
            _ => key_of(self.dataset, &self.transform, record)?,
        };
        self.wanted.has_key(key).then_some(key)
    }

    /// Notes an event of a version. What was not committed is read first, and counts.
    fn see(&mut self, id: u64, event: &Event<'_>) {
        let at = (event.partition, event.offset);
        let seen = self.seen.entry(id).or_default();
        seen.at.get_or_insert(at);
        seen.produced_at = seen.produced_at.max(Some(event.timestamp));
        match self.events < EVENTS {
            // Events are perhaps read again, by the keys of their records.
            true if self.reads_records && seen.without_letter.contains(&at) => {}
            true => {
                seen.without_letter.push(at);
                self.events += 1;
            }
            false => seen.has_more = true,
        }
    }

    /// Notes a dead letter of this key, for each version that it is about.
    fn see_letter(&mut self, letter: DeadLetter, record: Option<&[u8]>, key: u64) {
        let time = record.and_then(|record| self.letters.time_in(record));
        let place = letter.partition.zip(letter.offset);
        let place = place.filter(|_| letter.source == self.dataset.event.topic);
        let mut reason = letter.message.into_boxed_str();
        self.reason_bytes += reason.len();
        if self.reason_bytes > REASON_BYTES {
            reason = Box::default();
        }
        let letter = SeenLetter {
            at: letter.at,
            reason,
        };
        for version in self.wanted.versions(key) {
            let seen = self.seen.entry(id_of(key, version)).or_default();
            let is_about = match (seen.at, time) {
                // About one of its events.
                (Some(_), _) => seen.without_letter.iter().position(|at| Some(*at) == place),
                // A letter of another version of the key explains nothing.
                (None, Some(time)) => (time == version.0).then_some(0),
                (None, None) => {
                    seen.unsure_letter.get_or_insert_with(|| letter.clone());
                    None
                }
            };
            if let Some(event) = is_about {
                seen.letter = Some(letter.clone());
                if seen.at.is_some() {
                    seen.without_letter.swap_remove(event);
                }
            }
        }
    }

    fn goes_on(&self) -> ControlFlow<()> {
        match self.stop.requested() {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    }
}

/// The partitions that both have.
fn span(from: &Offsets, to: &Offsets) -> Span {
    let both = from
        .iter()
        .filter(|(partition, _)| to.get(*partition).is_some());
    let from: Offsets = both.collect();
    let ends = from
        .iter()
        .filter_map(|(partition, from)| Some((partition, to.get(partition)?.max(from))));
    Span {
        to: ends.collect(),
        from,
    }
}

/// The hash of the key of a record, as the log would have it; none if it cannot be read.
fn key_of(dataset: &Dataset, transform: &Transform<'_>, record: &[u8]) -> Option<u64> {
    let mut values = Vec::new();
    transform.read(record, &mut values).ok()?;
    Some(hash_of(&values[dataset.event.key]))
}

struct Events<'a, 'd>(&'a mut Search<'d>);

impl EventVisitor for Events<'_, '_> {
    fn wants_headers(&self) -> bool {
        false
    }

    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        let search = &mut *self.0;
        let Some((key, value)) = search.wanted(&event).zip(event.value) else {
            return search.goes_on();
        };
        search.rows.clear();
        let read = search
            .transform
            .event(value, Origin::default(), &mut search.rows);
        if read.is_ok() {
            let version = search.rows.meta(0).version();
            if search.wanted.has(key, version) {
                search.see(id_of(key, version), &event);
            }
        }
        search.goes_on()
    }
}

struct Letters<'a, 'd>(&'a mut Search<'d>);

impl EventVisitor for Letters<'_, '_> {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        let letter = self.0.letters.read(&event);
        if let Some(letter) = letter
            && let Some(key) = letter.key.as_ref().map(hash_of)
            && self.0.wanted.has_key(key)
        {
            self.0.see_letter(letter, event.value, key);
        }
        self.0.goes_on()
    }
}
