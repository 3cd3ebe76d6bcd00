//! What is known before rows are read: where the group and the loads had got to. A row that is not there afterwards,
//! although they were past it, is not on its way.

use std::time::Duration;

use tokio::time::timeout;

use super::Witnesses;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::intake::loaded::{newest_before, newest_in};
use crate::ports::event_log::{Offsets, Span};
use crate::ports::ledger::{FileRead, LoadRecord, LoadedFile};
use crate::ports::realtime_store::continues;
use crate::run::retry::Retry;

/// How many loads are looked at; what was loaded by an earlier one is not known.
pub(super) const LOADS: u32 = crate::ports::ledger::LOOKED_AT;

/// Bytes of the names of their files that are kept, at most.
const NAME_BYTES: usize = 1 << 20;

/// How long each witness may take to answer before it is asked again. A difference without its evidence is unexplained, which is said.
const ANSWER: Duration = Duration::from_secs(20);

/// What the log and the batch store's ledger said before the rows were read; an error says why one of them is silent.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) log: Result<LogBase, String>,
    /// The last loads, the newest first.
    pub(super) loads: Result<Vec<LoadRecord>, String>,
    /// The newest event time that was loaded, in milliseconds since 1970 UTC; that which may have been loaded, where a load
    /// of an older version of rtp has not kept it.
    pub(super) newest: Option<i64>,
    /// Whether there were earlier loads, which are not looked at.
    pub(super) has_earlier: bool,
}

/// Where the log and the group stood.
#[derive(Clone, Debug)]
pub(super) struct LogBase {
    /// Whether the group has committed anything, to the log or to the real-time store. If not, the stream has another group.
    pub(super) has_committed: bool,
    /// Where the group continues: what it has committed, what a store that is behind that keeps, the oldest event in a
    /// partition without either.
    pub(super) committed: Offsets,
    /// Where the partitions begin and end.
    pub(super) bounds: Span,
    /// The first events that were produced after the last load had begun.
    pub(super) after_load: Offsets,
    /// How far the groups had got whose offsets the real-time store keeps, or why that is not known. Whatever they have
    /// read is in the store or among the dead letters, whoever they are.
    pub(super) writers: Result<Vec<Writer>, String>,
}

/// A group whose offsets the real-time store keeps.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    pub(super) group: String,
    pub(super) offsets: Offsets,
}

impl LogBase {
    /// Who has read this event, for people: the group, or one whose offsets in the real-time store are past it.
    pub(super) fn reader_of(&self, (partition, offset): (i32, i64)) -> Option<String> {
        let past = |offsets: &Offsets| offsets.get(partition).filter(|next| *next > offset);
        if let Some(committed) = past(&self.committed) {
            return Some(format!("the group, which continues at {committed}"));
        }
        let mut writers = self.writers.iter().flatten();
        writers.find_map(|Writer { group, offsets }| {
            let next = past(offsets)?;
            Some(format!(
                "group {group}, whose offset in the real-time store is {next} (--group names the one that is waited for)"
            ))
        })
    }
}

impl LogBase {
    /// The first events that the group has not read, as far as they are still there.
    pub(super) fn unread(&self) -> Offsets {
        let mut first = self.committed.clone();
        first.raise_to(&self.bounds.from);
        first
    }

    /// Why the stream never gets to the events that it has not read in this partition, if that is so.
    pub(super) fn gap(&self, partition: i32) -> Option<String> {
        let (next, oldest) = (
            self.committed.get(partition)?,
            self.bounds.from.get(partition)?,
        );
        (next < oldest).then(|| {
            format!(
                "the group continues at {next}, but the events before {oldest} were deleted from the log, so the stream cannot go on"
            )
        })
    }
}

impl Base {
    /// Asks both, and waits for whoever is away.
    pub(super) async fn take(
        witnesses: Option<&Witnesses>,
        dataset: &Dataset,
        retry: &Retry,
    ) -> Base {
        let Some(witnesses) = witnesses else {
            let nobody = "nobody was asked".to_string();
            return Base {
                log: Err(nobody.clone()),
                loads: Err(nobody),
                newest: None,
                has_earlier: false,
            };
        };
        let loads = answered(retry, async || {
            let mut ledger = witnesses.batch_store.ledger(dataset).await?;
            Ok((ledger.newest().await?.ever, ledger.loads(LOADS + 1).await?))
        });
        let (newest, mut loads) = match loads.await {
            Ok((newest, loads)) => (newest, Ok(loads)),
            Err(why) => (None, Err(why)),
        };
        let has_earlier = loads.as_mut().is_ok_and(keep_last);
        let kept = loads.as_deref().unwrap_or_default();
        let newest = newest.max(newest_of_unknown(kept, has_earlier));
        let begun = loads.as_ref().ok().and_then(|loads| loads.first());
        let begun = begun.map_or(i64::MAX, |load| load.info.started_at);
        let log = answered(retry, async || {
            let mut log = witnesses.event_log.reader(&dataset.event.topic).await?;
            let store = witnesses.realtime_store.as_deref();
            let committed = continues(&mut *log, store, dataset, &witnesses.group).await?;
            let bounds = log.bounds().await?;
            let after_load = match begun {
                i64::MAX => bounds.from.clone(),
                begun => log.at_time(begun).await?,
            };
            Ok(LogBase {
                has_committed: !committed.is_empty(),
                committed,
                bounds,
                after_load,
                writers: Ok(Vec::new()),
            })
        });
        let mut log = log.await;
        if let Ok(log) = &mut log {
            log.writers = answered(retry, async || writers(witnesses, dataset).await).await;
            log.committed.set_missing(&log.bounds.from);
        }
        Base {
            log,
            loads,
            newest,
            has_earlier,
        }
    }

    /// What a load, the newest being 0, has read of an input, or of its only one; none if that is not known.
    pub(super) fn read_by(&self, load: usize, input: Option<&str>) -> Option<&FileRead> {
        let inputs = &self.loads.as_ref().ok()?.get(load)?.info.inputs;
        let read = match (input, &inputs[..]) {
            (Some(path), inputs) => inputs.iter().find(|input| input.path == path),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        read?.read.as_ref()
    }

    /// The last load.
    pub(super) fn last_load(&self) -> Option<&LoadRecord> {
        self.loads.as_ref().ok()?.first()
    }
}

/// The groups whose offsets the real-time store keeps, as far as these are offsets of the topic that is there now.
async fn writers(witnesses: &Witnesses, dataset: &Dataset) -> Result<Vec<Writer>> {
    let Some(store) = &witnesses.realtime_store else {
        return Ok(Vec::new());
    };
    let groups = store.monitor(dataset).await?.groups().await?;
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let mut log = witnesses.event_log.reader(&dataset.event.topic).await?;
    let topic = log.identity().await?;
    let ours = groups.into_iter().filter_map(|(group, stored)| {
        let offsets = stored.of_topic(topic.as_deref())?.clone();
        Some(Writer { group, offsets })
    });
    Ok(ours.collect())
}

/// The newest event time of the loads that have not kept theirs.
fn newest_of_unknown(loads: &[LoadRecord], has_earlier: bool) -> Option<i64> {
    let unknown = loads.iter().filter(|load| load.info.newest.is_none());
    let earlier = loads.last().filter(|_| has_earlier).map(newest_before);
    unknown.filter_map(newest_in).max().max(earlier)
}

/// Keeps the newest loads, within bounded memory. Whether there are earlier ones.
fn keep_last(loads: &mut Vec<LoadRecord>) -> bool {
    let mut bytes = 0;
    let mut is_kept = |load: &LoadRecord| {
        let info = &load.info;
        let input = |input: &LoadedFile| {
            let read = input.read.as_ref();
            input.path.len() + read.map_or(0, |read| read.contents.xxh3.len() + read.null.len())
        };
        bytes += info.inputs.iter().map(input).sum::<usize>();
        bytes += info.rejects.as_ref().map_or(0, String::len);
        bytes <= NAME_BYTES
    };
    let kept = loads
        .iter()
        .take(LOADS as usize)
        .map_while(|load| is_kept(load).then_some(()))
        .count()
        .max(1); // however many inputs the last one has
    let has_earlier = kept < loads.len();
    loads.truncate(kept);
    has_earlier
}

/// An answer, which is waited for through an outage; or why there is none.
async fn answered<T>(retry: &Retry, ask: impl AsyncFn() -> Result<T>) -> Result<T, String> {
    let answer = retry.through_outage(async || {
        let answer = timeout(ANSWER, ask()).await;
        answer.unwrap_or_else(|_| Err(Error::unavailable(format!("no answer within {ANSWER:?}"))))
    });
    answer.await.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::ledger::LoadInfo;

    fn kept(count: u32, name_bytes: usize) -> (usize, bool) {
        let load = |n: u32| LoadRecord {
            info: LoadInfo {
                newest: Some(n.into()),
                inputs: vec![LoadedFile::at("x".repeat(name_bytes))],
                ..LoadInfo::default()
            },
            mode: String::new(),
            loaded_at: 0,
            written: 0,
        };
        let mut loads: Vec<LoadRecord> = (0..count).map(load).collect();
        let has_earlier = keep_last(&mut loads);
        (loads.len(), has_earlier)
    }

    #[test]
    fn loads_are_kept_within_a_bound_and_what_is_left_out_is_known() {
        assert_eq!(kept(10, 10), (10, false));
        assert_eq!(kept(LOADS, 10), (LOADS as usize, false));
        assert_eq!(kept(LOADS + 1, 10), (LOADS as usize, true));
        assert_eq!(kept(9, NAME_BYTES / 4), (4, true));
        assert_eq!(kept(2, NAME_BYTES + 1), (1, true));
        assert_eq!(kept(1, NAME_BYTES + 1), (1, false));
        assert_eq!(kept(0, 0), (0, false));
    }
}
