//! Looks for versions of a few keys in the log and its dead letters, and for keys in files that were loaded or that have
//! what loads rejected. Memory grows with the keys that are looked for, not with what is read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;

use super::Witnesses;
use super::base::{Base, LOADS, LogBase};
use super::classify::Version;
use crate::dataset::{Dataset, FieldType, Nulls};
use crate::error::Result;
use crate::intake::dead_letter::{DeadLetter, DeadLetters, RejectLine};
use crate::ports::event_log::{Offsets, Span};
use crate::ports::ledger::LoadRecord;
use crate::ports::log_reader::EventVisitor;
use crate::record::event::Event;
use crate::record::row::{Origin, Rows};
use crate::record::transform::{Transform, write_key};
use crate::record::value::Value;

/// Longest line of a file that is read; a longer one is passed over, as `load-batch` does not load it.
const LINE_BYTES: u64 = 64 << 20;

/// Dead letters kept for a key.
const LETTERS: usize = 8;

/// What was seen of a version.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sighting {
    /// Partition and offset of its event: of the last one, if it was produced more than once.
    pub(super) at: Option<(i32, i64)>,
    /// When it was produced, the last time if that happened more than once, in milliseconds since 1970 UTC.
    pub(super) produced_at: Option<i64>,
    /// Dead letters of its key, with the event time of their record, if it has one.
    pub(super) letters: Vec<(DeadLetter, Option<i64>)>,
    /// Why not everything was read.
    pub(super) trouble: Option<String>,
}

/// The key as the log has it.
pub(super) fn log_key(key: &Value<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    write_key(key, &mut text);
    text
}

/// Looks for versions of keys in the log: first in what the group has not committed, then among the dead letters, and for
/// what is still not found in what the group has committed. One sighting for each version.
pub(super) async fn in_log(
    witnesses: Option<&Witnesses>,
    dataset: &Dataset,
    base: &Base,
    wanted: &[(Value<'static>, Version)],
) -> Vec<Sighting> {
    let mut search = Search::new(dataset, wanted);
    let trouble = match (&base.log, witnesses) {
        (Err(why), _) => Some(why.clone()),
        (Ok(_), None) => Some("nobody was asked".into()),
        (Ok(log), Some(witnesses)) => {
            let read = search.read(witnesses, log).await;
            read.err().map(|e| e.to_string())
        }
    };
    for seen in &mut search.seen {
        seen.trouble.clone_from(&trouble);
    }
    search.seen
}

struct Search<'d> {
    dataset: &'d Dataset,
    transform: Transform<'d>,
    letters: DeadLetters,
    rows: Rows,
    versions: Vec<Version>,
    /// The versions that are wanted of each key.
    wanted: HashMap<Vec<u8>, Vec<usize>>,
    seen: Vec<Sighting>,
    /// How many have no event yet.
    open: usize,
    keys: KeyFinder,
    /// Whether an event's key may be another one than its record's.
    is_unsure: bool,
    /// Whether events are told by the keys of their records, which takes longer.
    reads_records: bool,
}

impl<'d> Search<'d> {
    fn new(dataset: &'d Dataset, wanted: &[(Value<'static>, Version)]) -> Self {
        let mut by_key: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for (i, (key, _)) in wanted.iter().enumerate() {
            by_key.entry(log_key(key)).or_default().push(i);
        }
        Search {
            dataset,
            // No event is too far in the future: what the stream took at its time is in question.
            transform: Transform::new(dataset, i64::MAX),
            letters: DeadLetters::of(dataset),
            rows: Rows::new(dataset.fields.len()),
            versions: wanted.iter().map(|(_, version)| *version).collect(),
            wanted: by_key,
            seen: vec![Sighting::default(); wanted.len()],
            open: wanted.len(),
            keys: KeyFinder::new(dataset),
            is_unsure: false,
            reads_records: false,
        }
    }

    async fn read(&mut self, witnesses: &Witnesses, base: &LogBase) -> Result<()> {
        let event = &self.dataset.event;
        let mut log = witnesses.event_log.reader(&event.topic).await?;
        // To where it ends now: what was loaded may have been produced since.
        let end = log.bounds().await?.to;
        let waiting = span(&base.committed, &end);
        log.read(&waiting, &mut Events(self)).await?;
        let mut letters = witnesses
            .event_log
            .reader(&event.dead_letter_topic())
            .await?;
        let all = letters.bounds().await?;
        letters.read(&all, &mut Letters(self)).await?;
        let committed = span(&base.bounds.from, &base.committed);
        if self.open > 0 {
            log.read(&committed, &mut Events(self)).await?;
        }
        if self.open > 0 && self.is_unsure {
            self.reads_records = true;
            log.read(&waiting, &mut Events(self)).await?;
            log.read(&committed, &mut Events(self)).await?;
        }
        Ok(())
    }

    /// The versions that are wanted of the key of an event's record, by which the stream writes it. Another producer may
    /// have given the event another key, or none.
    fn wanted(&mut self, event: &Event<'_>) -> Option<Vec<usize>> {
        let record = event.value?;
        if let Some(key) = self.keys.plain(record) {
            return self.wanted.get(key).cloned();
        }
        match event.key {
            Some(key) if !self.reads_records => {
                self.is_unsure = true;
                self.wanted.get(key).cloned()
            }
            _ => {
                let key = key_of(self.dataset, &self.transform, record)?;
                self.wanted.get(&key).cloned()
            }
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

/// The key of a record, as the log would have it; none if it cannot be read.
fn key_of(dataset: &Dataset, transform: &Transform<'_>, record: &[u8]) -> Option<Vec<u8>> {
    let mut values = Vec::new();
    transform.read(record, &mut values).ok()?;
    Some(log_key(&values[dataset.event.key]))
}

struct Events<'a, 'd>(&'a mut Search<'d>);

impl EventVisitor for Events<'_, '_> {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        let search = &mut *self.0;
        let Some((wanted, value)) = search.wanted(&event).zip(event.value) else {
            return ControlFlow::Continue(());
        };
        search.rows.clear();
        let read = search
            .transform
            .event(value, Origin::default(), &mut search.rows);
        if read.is_err() {
            return ControlFlow::Continue(());
        }
        let version = search.rows.meta(0).version();
        for i in wanted {
            if search.versions[i] == version {
                let seen = &mut search.seen[i];
                search.open -= usize::from(seen.at.is_none());
                // What was not committed is read first, and counts.
                seen.at.get_or_insert((event.partition, event.offset));
                seen.produced_at = seen.produced_at.max(Some(event.timestamp));
            }
        }
        ControlFlow::Continue(())
    }
}

struct Letters<'a, 'd>(&'a mut Search<'d>);

impl EventVisitor for Letters<'_, '_> {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        let search = &mut *self.0;
        let Some(letter) = search.letters.read(&event) else {
            return ControlFlow::Continue(());
        };
        let time = event
            .value
            .and_then(|record| time_of(search.dataset, record));
        let key = letter.key.as_ref().map(log_key);
        let wanted = key.and_then(|key| search.wanted.get(&key));
        for &i in wanted.into_iter().flatten() {
            let letters = &mut search.seen[i].letters;
            letters.truncate(LETTERS - 1);
            letters.insert(0, (letter.clone(), time));
        }
        ControlFlow::Continue(())
    }
}

/// Where keys are in files.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Each key that was found.
    pub(super) found: HashMap<Vec<u8>, Place>,
    /// Why not every file was read: of the newest load of which that is so, by its index, the newest being 0.
    pub(super) unread: Option<(usize, String)>,
}

impl Places {
    fn unread(&mut self, load: usize, why: String) {
        self.unread.get_or_insert((load, why));
    }
}

/// Where a key is in a file.
#[derive(Debug)]
pub(super) struct Place {
    /// File and line, and what else the line says, for people.
    pub(super) text: String,
    /// The event time of the record, if it has one, in milliseconds since 1970 UTC.
    pub(super) time: Option<i64>,
    /// The index of the load, the newest being 0.
    pub(super) load: usize,
}

/// Looks for versions of keys in the files that were loaded, or newer ones.
pub(super) fn in_landing(
    dataset: &Dataset,
    loads: &[LoadRecord],
    wanted: &HashMap<Vec<u8>, Version>,
) -> Places {
    // Where absent fields leave values alone, the row is a mixture, whose digest is that of no record.
    let is_loaded = |version: Version, wanted: Version| match dataset.nulls {
        Nulls::Write => version >= wanted,
        Nulls::Unset => version.0 >= wanted.0,
    };
    let mut transform = Transform::new(dataset, i64::MAX);
    let mut rows = Rows::new(dataset.fields.len());
    let keys = KeyFinder::new(dataset);
    let mut places = Places::default();
    for (at, load) in loads.iter().enumerate() {
        if load.info.inputs.is_empty() {
            let run = &load.info.run_id;
            places.unread(at, format!("load {run} did not read files"));
        }
        for path in &load.info.inputs {
            let found = &mut places.found;
            let (mut records, mut lines) = (false, false);
            let read = each_line(path, load.info.started_at, |line, text| {
                lines |= !text.is_empty();
                // Most records are told by their key not to be wanted, without being read.
                if keys
                    .plain(text)
                    .is_some_and(|key| !wanted.contains_key(key))
                {
                    records = true;
                    return;
                }
                rows.clear();
                if transform.event(text, Origin::default(), &mut rows).is_err() {
                    return;
                }
                records = true;
                let key = log_key(&rows.value(0, dataset.event.key));
                let version = rows.meta(0).version();
                if wanted
                    .get(&key)
                    .is_some_and(|wanted| is_loaded(version, *wanted))
                {
                    let text = format!("{path}, line {line},");
                    found.entry(key).or_insert(Place {
                        text,
                        time: None,
                        load: at,
                    });
                }
            });
            match read {
                Ok(()) if records || !lines => {}
                Ok(()) => places.unread(at, format!("{path} is not NDJSON")),
                Err(why) => places.unread(at, format!("cannot read {path}: {why}")),
            }
        }
    }
    if loads.len() >= LOADS as usize {
        places.unread(
            loads.len(),
            format!("only the last {LOADS} loads are looked at"),
        );
    }
    places
}

/// Finds the key in the text of a record.
struct KeyFinder {
    /// The name of the key as rtp writes it, in quotes; none if the key may have another name.
    name: Option<memchr::memmem::Finder<'static>>,
}

impl KeyFinder {
    fn new(dataset: &Dataset) -> Self {
        let field = dataset.key();
        let name = format!("\"{}\"", field.name);
        let is_plain = field.aliases.is_empty() && field.kind == FieldType::Uuid;
        let finder = || memchr::memmem::Finder::new(&name).into_owned();
        KeyFinder {
            name: is_plain.then(finder),
        }
    }

    /// The key of a record, in the form that the log keeps; none if the record has to be read for it, because the name is
    /// there more than once, or may be there in another form.
    fn plain<'t>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        let name = self.name.as_ref()?;
        let at = name.find(text)? + name.needle().len();
        let key = text[at..].strip_prefix(b":\"")?;
        let (key, rest) = key.split_at_checked(36)?;
        let is_canonical = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-');
        let is_plain = rest.first() == Some(&b'"')
            && key.iter().all(is_canonical)
            && name.find(rest).is_none()
            && memchr::memchr(b'\\', text).is_none();
        is_plain.then_some(key)
    }
}

/// Where the files of what loads rejected have which keys, with the reason.
pub(super) fn in_rejects(dataset: &Dataset, loads: &[LoadRecord]) -> Places {
    let letters = DeadLetters::of(dataset);
    let mut places = Places::default();
    let mut seen = std::collections::BTreeSet::new();
    for (at, load) in loads.iter().enumerate() {
        // A later load to the same file has replaced what an earlier one rejected.
        let Some(path) = load.info.rejects.as_ref().filter(|path| seen.insert(*path)) else {
            continue;
        };
        let found = &mut places.found;
        let read = each_line(path, i64::MAX, |_, text| {
            let Ok(reject) = serde_json::from_slice::<RejectLine>(text) else {
                return;
            };
            // A record that broke a rule may still have its key and event time.
            let raw = reject.raw.as_deref().map(str::as_bytes);
            let key = raw.and_then(|raw| letters.key_in(raw));
            if let Some((raw, key)) = raw.zip(key) {
                let (line, rule) = (reject.line.unwrap_or_default(), &reject.rule);
                let text = format!(
                    "{path}: line {line} of the input, {rule}: {}",
                    reject.reason
                );
                found.entry(log_key(&key)).or_insert(Place {
                    text,
                    time: time_of(dataset, raw),
                    load: at,
                });
            }
        });
        if let Err(why) = read {
            places.unread(at, format!("cannot read {path}: {why}"));
        }
    }
    places
}

/// The event time of a record that may be bad otherwise.
fn time_of(dataset: &Dataset, record: &[u8]) -> Option<i64> {
    let record: serde_json::Value = serde_json::from_slice(record).ok()?;
    let field = dataset.time();
    let text = match record.get(&field.name)? {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Number(number) => number.to_string(),
        _ => return None,
    };
    match Value::from_text(field, text.into()).ok()? {
        Value::Timestamp(time) => Some(time),
        _ => None,
    }
}

/// Calls `take` with the number and text of each line of a regular file that was not written to after this time, in
/// milliseconds since 1970 UTC.
fn each_line(
    path: &str,
    unchanged_since: i64,
    mut take: impl FnMut(u64, &[u8]),
) -> std::io::Result<()> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let written = found.modified()?.duration_since(std::time::UNIX_EPOCH);
    let written = written.map_or(0, |since| since.as_millis());
    if i128::from(unchanged_since) < i128::try_from(written).unwrap_or(i128::MAX) {
        return Err(std::io::Error::other(
            "it was written to after that load began",
        ));
    }
    let mut file = BufReader::with_capacity(1 << 18, File::open(path)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if (&mut file).take(LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        take(number, line.trim_ascii_end());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::ledger::LoadInfo;

    #[test]
    fn a_file_that_was_loaded_counts_only_if_it_has_the_version_or_a_newer_one() {
        let dataset = Dataset::load(None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("day.ndjson").display().to_string();
        let id = |n: u32| format!("00000000-0000-0000-0000-00000000000{n}");
        let line = |id: &str, second: u32| {
            format!(
                "{{\"id\":\"{id}\",\"email\":\"a\",\"fetched_at\":\"2026-11-01T00:00:0{second}Z\"}}\n"
            )
        };
        // The third key is not in its canonical form.
        let odd = id(3).replace("-0000-0000-0000-", "-0000-0000-000A-");
        let text = [line(&id(1), 5), line(&id(2), 5), line(&odd, 5)].concat();
        std::fs::write(&path, format!("{text}not a record\n")).unwrap();
        let load = |inputs: Vec<String>| LoadRecord {
            info: LoadInfo {
                inputs,
                started_at: i64::MAX,
                ..LoadInfo::default()
            },
            mode: String::new(),
            loaded_at: 0,
            written: 0,
        };
        let at = |second: i64| (1_793_491_200_000 + second * 1_000, Default::default());
        let wanted = HashMap::from([
            (id(1).into_bytes(), at(4)),
            (id(2).into_bytes(), at(6)),
            (odd.to_lowercase().into_bytes(), at(5)),
            (id(4).into_bytes(), at(0)),
        ]);
        let places = in_landing(&dataset, &[load(vec![path.clone()])], &wanted);
        assert_eq!(places.unread, None);
        let mut found: Vec<String> = places.found.into_values().map(|place| place.text).collect();
        found.sort();
        assert_eq!(
            found,
            [format!("{path}, line 1,"), format!("{path}, line 3,")]
        );
        for (inputs, why) in [
            (vec![], "did not read files"),
            (vec![format!("{path}.gone")], "cannot read"),
        ] {
            let places = in_landing(&dataset, &[load(inputs)], &wanted);
            assert!(places.unread.unwrap().1.contains(why));
        }
    }
}
