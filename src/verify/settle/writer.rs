//! Whether somebody else than the group writes a real-time store that keeps no offsets: rows of events that the group
//! has not committed are there, and it does not go on.

use std::collections::BTreeMap;

use tokio::time::{Duration, Instant, sleep};

use super::{Settle, known};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::ports::event_log::Offsets;
use crate::ports::table_reader::Provenance;
use crate::verify::Class;
use crate::verify::Witnesses;
use crate::verify::base::LogBase;
use crate::verify::recheck::KEYS_AT_ONCE;
use crate::verify::search::{ByKey, Seen, waiting_keys};

/// How long a group may take to commit what is in the store: a stream writes a batch before it commits it.
const COMMITS: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 5_000 });

/// Pause between two looks at what it has committed.
const PAUSE: Duration = Duration::from_millis(100);

/// An offset of each partition whose event is in the store, although the group has not committed it and does not go on;
/// or why that is not known.
pub(super) type Ahead = Result<BTreeMap<i32, i64>, String>;

impl Settle<'_, '_> {
    /// Looks for rows that somebody else has written, if something waits for the group.
    pub(super) async fn ahead(&mut self, seen: &ByKey<Seen>) -> Result<Ahead> {
        let (base, comparison) = (known(self.base.as_ref())?, self.comparison);
        let (Ok(log), Some(witnesses)) = (&base.log, &comparison.witnesses) else {
            return Ok(Ok(BTreeMap::new()));
        };
        let waits = |seen: &Seen| seen.at.is_some_and(|at| log.reader_of(at).is_none());
        // A store that keeps offsets has told who has read what.
        let is_told = log
            .writers
            .as_ref()
            .is_ok_and(|writers| !writers.is_empty());
        if is_told || !log.has_committed || !seen.values().any(waits) {
            return Ok(Ok(BTreeMap::new()));
        }
        let (log, dataset) = (log.clone(), &comparison.whole);
        let retry = self.retry;
        let keys = async || waiting_keys(witnesses, dataset, &log).await;
        let keys = match retry.through_outage(keys).await {
            Ok(keys) => keys,
            Err(e) => return Ok(Err(e.to_string())),
        };
        let mut rows = Vec::new();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            let table = self.tables[0].get()?;
            let ask = async || table.provenance(keys).await;
            rows.extend(self.retry.through_outage(ask).await?);
        }
        let ahead = not_committed(&log.committed, &rows);
        let left = async || standing(witnesses, dataset, &log, ahead.clone()).await;
        let left = retry.through_outage(left).await;
        Ok(left.map_err(|e| e.to_string()))
    }
}

/// The last offset of each partition that rows come from and the group has not committed.
fn not_committed(committed: &Offsets, rows: &[Provenance]) -> BTreeMap<i32, i64> {
    let mut ahead = BTreeMap::new();
    for origin in rows.iter().filter_map(|row| row.origin) {
        let next = committed.get(origin.partition);
        if next.is_some_and(|next| origin.offset >= next) {
            let last = ahead.entry(origin.partition).or_insert(origin.offset);
            *last = origin.offset.max(*last);
        }
    }
    ahead
}

/// Those of the partitions in which the group does not go on: no member of it reads them, nor has any committed for a while.
/// A member gets to whatever is waiting, however slowly the store takes its rows.
async fn standing(
    witnesses: &Witnesses,
    dataset: &Dataset,
    log: &LogBase,
    mut ahead: BTreeMap<i32, i64>,
) -> Result<BTreeMap<i32, i64>> {
    let until = Instant::now() + COMMITS;
    let mut reader = witnesses.event_log.reader(&dataset.event.topic).await?;
    if !ahead.is_empty() {
        let followed = reader.followed(&witnesses.group).await?;
        ahead.retain(|partition, _| !followed.contains(partition));
    }
    while !ahead.is_empty() {
        let now = reader.committed(&witnesses.group).await?;
        ahead.retain(|partition, _| now.get(*partition) <= log.committed.get(*partition));
        if Instant::now() >= until {
            break;
        }
        sleep(PAUSE).await;
    }
    Ok(ahead)
}

/// The judgement on an event, which is another one if it is said to be waited for, and nobody may be waiting.
pub(super) fn or_ahead(
    (class, evidence): (Class, String),
    seen: &Seen,
    ahead: &Ahead,
) -> (Class, String) {
    match (class, seen.at, ahead) {
        (Class::InFlight, Some((partition, _)), Ok(ahead)) => match ahead.get(&partition) {
            None => (class, evidence),
            Some(offset) => (
                Class::Unexplained,
                format!(
                    "{evidence}, but the real-time store has the event at offset {offset}, and the group does not commit it: another group writes the store (--group names it), or the stream stopped within a batch"
                ),
            ),
        },
        (Class::InFlight, _, Err(why)) => (
            class,
            format!("{evidence}; whether another group writes the store is not known: {why}"),
        ),
        _ => (class, evidence),
    }
}
