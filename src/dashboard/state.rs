//! The state that the dashboard shows, as JSON: what was seen, under the names that docs/serving.md lists.

use serde_json::{Value, json};

use super::known::Known;
use super::log_eye::LogSeen;
use super::rates::load_rate;
use super::sentence::sentence;
use super::{Seen, Sources, advice, pipeline};
use crate::ports::monitor::Why;

/// Version of the form. It grows with a change that a reader has to know about.
const VERSION: u32 = 1;

/// Dead letters that the state has; the series have more.
const LETTERS: usize = 20;

/// The state now.
pub(super) fn compose(sources: &Sources, seen: &Seen, started: i64) -> Value {
    let now = crate::time::now_ms();
    let (level, text) = sentence(seen, now);
    json!({
        "version": VERSION,
        "rtp": env!("CARGO_PKG_VERSION"),
        "dataset": sources.dataset.name,
        "zone": "UTC",
        "now": now,
        "started": started,
        "sentence": {"level": level, "text": text},
        "headline": headline(seen),
        "servers": servers(sources, seen),
        "ingestion": ingestion(seen),
        "event_time": seen.log.seen.as_ref().map(|log| log.times.json()),
        "layers": layers(sources, seen),
        "profiles": profiles(seen),
        "pipeline": {"stages": pipeline::stages(seen, now), "heartbeat": pipeline::heartbeat(seen)},
        "next": advice::next(sources, seen),
    })
}

fn headline(seen: &Seen) -> Value {
    let log = seen.log.seen.as_ref();
    let [produced, _] = seen.recent.rates();
    json!({
        "events_per_second": produced,
        "lag_seconds": log.and_then(lag_seconds),
        "lag_records": log.map(LogSeen::lag_records),
        "rows": {
            "realtime": seen.realtime.seen.as_ref().and_then(|store| store.rows),
            "batch": seen.batch.seen.as_ref().and_then(|store| store.rows),
        },
        "dead_letters": log.map(|log| log.dead_letters),
    })
}

fn lag_seconds(log: &LogSeen) -> Option<f64> {
    log.lag_ms().map(|ms| ms as f64 / 1e3)
}

fn servers(sources: &Sources, seen: &Seen) -> Value {
    json!({
        "event_log": server(&seen.log, &sources.event_log),
        "realtime_store": server(&seen.realtime, &sources.realtime),
        "batch_store": server(&seen.batch, &sources.batch),
    })
}

/// An address is shown without a password, because it has none.
fn server<T>(known: &Known<T>, address: &(impl std::fmt::Display + ?Sized)) -> Value {
    json!({
        "address": address.to_string(),
        "up": known.is_up,
        "since": known.since,
        "message": known.message,
    })
}

fn ingestion(seen: &Seen) -> Value {
    let log = seen.log.seen.as_ref();
    let [produced, committed] = seen.recent.rates();
    let (letters, known_after) = log.map_or((&[][..], None), |log| log.newest_letters(LETTERS));
    json!({
        "rates": {
            "produce": produced,
            "stream": committed,
            "load": seen.batch.seen.as_ref().and_then(load_rate),
        },
        "lag": {
            "records": log.map(LogSeen::lag_records),
            "seconds": log.and_then(lag_seconds),
            "partitions": log.map(|log| &log.lag),
            "missing": log.map(missing),
        },
        "dead_letters": letters,
        "dead_letters_known_after": known_after,
    })
}

/// What the group cannot read any more, by partition.
fn missing(log: &LogSeen) -> Vec<Value> {
    let missing = log.missing();
    let missing = missing.iter().map(|out| {
        let events = match out.why {
            Why::Deleted { low } => Some(low.saturating_sub(out.offset)),
            Why::Beyond { .. } | Why::OtherEvents => None,
        };
        json!({"partition": out.partition, "offset": out.offset, "events": events, "message": out.to_string()})
    });
    missing.collect()
}

fn layers(sources: &Sources, seen: &Seen) -> Value {
    let (realtime, batch) = (seen.realtime.seen.as_ref(), seen.batch.seen.as_ref());
    let rows = |rows: Option<crate::ports::monitor::RowCount>| json!({"count": rows.map(|rows| rows.count), "exact": rows.map(|rows| rows.exact)});
    let mut speed = rows(realtime.and_then(|store| store.rows));
    speed["last_write"] = json!(realtime.and_then(|store| store.last_write));
    let mut loaded = rows(batch.and_then(|store| store.rows));
    let mut loads = batch.into_iter().flat_map(|batch| &batch.loads);
    loaded["last_write"] = json!(batch.and_then(|store| store.last_write));
    // The newest event of either store is not known without reading it.
    loaded["boundary"] = json!(batch.and_then(|seen| seen.newest_loaded));
    loaded["last_load"] = json!(loads.next().map(|load| json!({
        "run_id": load.info.run_id,
        "mode": load.mode,
        "loaded_at": load.loaded_at,
        "written": load.written,
    })));
    json!({
        "realtime": speed,
        "batch": loaded,
        "verdict": batch.and_then(|batch| batch.verdicts.first()),
        "classes": sources.classes,
    })
}

/// The stored figures, and those of the newest events.
fn profiles(seen: &Seen) -> Option<Value> {
    let stored = seen
        .batch
        .seen
        .as_ref()
        .and_then(|batch| batch.profiles.as_ref());
    let live = seen.log.seen.as_ref().and_then(|log| log.live.as_ref());
    if stored.is_none() && live.is_none() {
        return None;
    }
    let mut profiles = match stored {
        Some(stored) => stored.json(),
        None => json!({"day": null, "aggregates": null}),
    };
    profiles["live"] = json!(live.map(|live| Value::clone(live)));
    Some(profiles)
}
