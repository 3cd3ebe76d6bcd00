//! The state that the dashboard shows, as JSON: what was seen, under the names that docs/serving.md lists.

use serde_json::{Value, json};

use super::known::Known;
use super::log_eye::LogSeen;
use super::rates::load_rate;
use super::sentence::sentence;
use super::{Seen, Sources};

/// Version of the form. It grows with a change that a reader has to know about.
const VERSION: u32 = 1;

/// Dead letters that the state has; the series have more.
const LETTERS: usize = 20;

/// A stage that did something within this time is running, in milliseconds.
const RUNNING_MS: i64 = 10_000;

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
        "ingestion": ingestion(seen, now),
        "event_time": seen.log.seen.as_ref().map(|log| log.times.json()),
        "layers": layers(sources, seen),
        "profiles": profiles(seen),
        "pipeline": {"stages": stages(seen, now), "heartbeat": heartbeat(seen)},
        "next": next(sources, seen),
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

fn ingestion(seen: &Seen, now: i64) -> Value {
    let log = seen.log.seen.as_ref();
    let [produced, committed] = seen.recent.rates();
    let letters = log.map(|log| &log.letters[..]).unwrap_or_default();
    json!({
        "rates": {
            "fetch": Value::Null, // nothing keeps what was fetched
            "produce": produced,
            "stream": committed,
            "load": seen.batch.seen.as_ref().map(|batch| load_rate(&batch.loads, now)),
        },
        "lag": {
            "records": log.map(LogSeen::lag_records),
            "seconds": log.and_then(lag_seconds),
            "partitions": log.map(|log| &log.lag),
        },
        "dead_letters": letters.iter().take(LETTERS).collect::<Vec<_>>(),
    })
}

fn layers(sources: &Sources, seen: &Seen) -> Value {
    let (realtime, batch) = (seen.realtime.seen.as_ref(), seen.batch.seen.as_ref());
    let rows = |rows: Option<crate::ports::monitor::RowCount>| json!({"count": rows.map(|rows| rows.count), "exact": rows.map(|rows| rows.exact)});
    let mut speed = rows(realtime.and_then(|store| store.rows));
    // Only if all events are stored, the newest one is.
    let newest = seen.log.seen.as_ref().filter(|log| log.lag_records() == 0);
    speed["newest"] = json!(newest.and_then(|log| log.times.newest()));
    speed["last_write"] = json!(realtime.and_then(|store| store.last_write));
    let mut loaded = rows(batch.and_then(|store| store.rows));
    let loads = || batch.into_iter().flat_map(|batch| &batch.loads);
    loaded["newest"] = json!(loads().filter_map(|load| load.info.newest).max());
    loaded["last_write"] = json!(batch.and_then(|store| store.last_write));
    loaded["boundary"] = json!(batch.and_then(|batch| batch.boundary()));
    loaded["last_load"] = json!(loads().next().map(|load| json!({
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

fn profiles(seen: &Seen) -> Option<Value> {
    let profiles = seen.batch.seen.as_ref()?.profiles.as_ref()?;
    Some(profiles.json())
}

/// The stages, in the order of the pipeline.
fn stages(seen: &Seen, now: i64) -> Value {
    let log = seen.log.seen.as_ref();
    let batch = seen.batch.seen.as_ref();
    let appended = log.and_then(|log| log.newest);
    let stored = seen
        .realtime
        .seen
        .as_ref()
        .and_then(|store| store.last_write);
    let load = batch.and_then(|batch| batch.loads.first());
    let verdict = batch.and_then(|batch| batch.verdicts.first());
    let figures = batch.and_then(|batch| batch.profiles.as_ref());
    let running = |at: Option<i64>| running(at, now);
    let stage =
        |name: &str, status: &str, at: Option<i64>, ms: Option<i64>, note: Option<String>| {
            let seconds = ms.map(|ms| ms as f64 / 1e3);
            json!({"name": name, "status": status, "at": at, "seconds": seconds, "note": note})
        };
    let has_records = appended.is_some() || load.is_some();
    let fetched = if has_records { "done" } else { "never" };
    let checked = match verdict {
        None => "never",
        Some(verdict) if verdict.agrees => "done",
        Some(_) => "failed",
    };
    json!([
        stage(
            "fetch",
            fetched,
            None,
            None,
            has_records.then(|| "known by its records only".into())
        ),
        stage("produce", running(appended), appended, None, None),
        stage("stream", running(stored), stored, None, None),
        stage(
            "load-batch",
            if load.is_some() { "done" } else { "never" },
            load.map(|load| load.loaded_at),
            load.map(|load| load.loaded_at - load.info.started_at),
            load.map(|load| format!("{} rows, {}", load.written, load.mode)),
        ),
        stage(
            "verify",
            checked,
            verdict.map(|verdict| verdict.ended_at),
            verdict.map(|verdict| verdict.ended_at - verdict.started_at),
            None,
        ),
        stage(
            "aggregate",
            if figures.is_some() { "done" } else { "never" },
            figures.and_then(|figures| figures.computed_at),
            None,
            None,
        ),
    ])
}

/// The status of a stage that last did something then.
fn running(at: Option<i64>, now: i64) -> &'static str {
    match at {
        None => "never",
        Some(at) if now - at < RUNNING_MS => "running",
        Some(_) => "done",
    }
}

/// What `rtp heartbeat` checks, as far as it can be seen without writing.
fn heartbeat(seen: &Seen) -> Value {
    let check =
        |name: &str, is_up: Option<bool>, message: Option<&String>, remark: Option<&String>| {
            let said = message.or(remark).map_or("answers", String::as_str);
            json!({"check": name, "ok": is_up, "message": said})
        };
    let realtime = seen
        .realtime
        .seen
        .as_ref()
        .and_then(|store| store.remark.as_ref());
    let batch = seen
        .batch
        .seen
        .as_ref()
        .and_then(|store| store.remark.as_ref());
    json!([
        check("event-log", seen.log.is_up, seen.log.message.as_ref(), None),
        check(
            "realtime-store",
            seen.realtime.is_up,
            seen.realtime.message.as_ref(),
            realtime
        ),
        check(
            "batch-store",
            seen.batch.is_up,
            seen.batch.message.as_ref(),
            batch
        ),
    ])
}

/// What fills the panels that are empty.
fn next(sources: &Sources, seen: &Seen) -> Value {
    let log = seen.log.seen.as_ref();
    let batch = seen.batch.seen.as_ref();
    let no_events = log.is_some_and(|log| log.produced == 0);
    let no_stream = log.is_some_and(|log| log.produced > 0 && !log.has_committed);
    let no_load = batch.is_some_and(|batch| batch.loads.is_empty());
    let no_verdict = batch.is_some_and(|batch| batch.verdicts.is_empty());
    let no_figures = batch.is_some_and(|batch| batch.profiles.is_none());
    let group = match sources.group.as_str() {
        "rtp" => String::new(),
        other => format!(" --group {other}"),
    };
    let fetch = "rtp fetch --count 1000";
    let all = [
        (
            no_events,
            "ingestion",
            format!("{fetch} | rtp produce"),
            "no event has arrived yet",
        ),
        (
            no_events,
            "event_time",
            format!("{fetch} | rtp produce"),
            "no event has arrived yet",
        ),
        (
            no_stream,
            "ingestion",
            format!("rtp stream --until-end{group}"),
            "no stream has read the events yet",
        ),
        (
            no_load,
            "layers",
            format!("{fetch} | rtp load-batch"),
            "nothing was loaded into the batch store yet",
        ),
        (
            no_verdict,
            "layers",
            "rtp verify".into(),
            "the layers were never compared",
        ),
        (
            no_figures,
            "profiles",
            "rtp aggregate --date today".into(),
            "no figures were computed yet",
        ),
    ];
    let shown = all.into_iter().filter(|(is_empty, ..)| *is_empty);
    shown
        .map(|(_, panel, command, why)| json!({"panel": panel, "command": command, "why": why}))
        .collect()
}
