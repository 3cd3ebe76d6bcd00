//! The stages of the pipeline with their last runs, and the checks of the servers.

use serde_json::{Value, json};

use super::Seen;
use super::known::Known;
use super::store_eyes::BatchSeen;
use crate::ports::monitor::OutOfRange;

/// A stage that did something within this time is running, in milliseconds.
const RUNNING_MS: u64 = 10_000;

/// What became of a stage. Times are in milliseconds.
#[derive(Default)]
struct Stage {
    /// `never`, `running`, `done`, `failed`, or `unknown` as long as nobody could ask.
    status: &'static str,
    at: Option<i64>,
    took: Option<i64>,
    note: Option<String>,
}

impl Stage {
    /// A stage that a server tells of, if it has answered.
    fn of<T>(seen: Option<&T>, stage: impl FnOnce(&T) -> Stage) -> Stage {
        let unknown = || Stage {
            status: "unknown",
            ..Stage::default()
        };
        seen.map_or_else(unknown, stage)
    }

    /// A stage of which only a trace is known, whenever it was.
    fn trace(at: Option<i64>, now: i64) -> Stage {
        let status = match at {
            None => "never",
            Some(at) if now.abs_diff(at) < RUNNING_MS => "running",
            Some(_) => "done",
        };
        Stage {
            status,
            at,
            ..Stage::default()
        }
    }

    fn json(self, name: &str) -> Value {
        let seconds = self.took.map(|ms| ms as f64 / 1e3);
        json!({"name": name, "status": self.status, "at": self.at, "seconds": seconds, "note": self.note})
    }
}

/// The stages, in the order of the pipeline.
pub(super) fn stages(seen: &Seen, now: i64) -> Value {
    let (log, batch) = (seen.log.seen.as_ref(), seen.batch.seen.as_ref());
    let produce = Stage::of(log, |log| match log.newest {
        None if log.produced > 0 => done("its events have been deleted since"),
        newest => Stage::trace(newest, now),
    });
    let mut stream = Stage::of(seen.realtime.seen.as_ref(), |store| {
        Stage::trace(store.last_write, now)
    });
    stream.note = log.and_then(|log| {
        let place = log.missing().first().map(ToString::to_string);
        place.or_else(|| log.other_topic.as_deref().map(other_topic))
    });
    json!([
        fetch(seen).json("fetch"),
        produce.json("produce"),
        stream.json("stream"),
        Stage::of(batch, load).json("load-batch"),
        Stage::of(batch, verify).json("verify"),
        Stage::of(batch, aggregate).json("aggregate"),
    ])
}

fn done(note: &str) -> Stage {
    Stage {
        status: "done",
        note: Some(note.into()),
        ..Stage::default()
    }
}

/// Nothing keeps what was fetched, except for what became of it.
fn fetch(seen: &Seen) -> Stage {
    let (log, batch) = (seen.log.seen.as_ref(), seen.batch.seen.as_ref());
    let has_records = log.is_some_and(|log| log.produced > 0)
        || batch.is_some_and(|batch| !batch.loads.is_empty());
    match (has_records, log, batch) {
        (true, ..) => done("known by its records only"),
        (false, Some(_), Some(_)) => Stage::trace(None, 0),
        (false, ..) => Stage::of(None::<&()>, |()| Stage::default()),
    }
}

fn load(batch: &BatchSeen) -> Stage {
    let Some(load) = batch.loads.first() else {
        return Stage::trace(None, 0);
    };
    Stage {
        status: "done",
        at: Some(load.loaded_at),
        took: Some(load.loaded_at.saturating_sub(load.info.started_at)),
        note: Some(format!("{} rows, {}", load.written, load.mode)),
    }
}

fn verify(batch: &BatchSeen) -> Stage {
    let Some(verdict) = batch.verdicts.first() else {
        return Stage::trace(None, 0);
    };
    Stage {
        status: if verdict.agrees { "done" } else { "failed" },
        at: Some(verdict.ended_at),
        took: Some(verdict.ended_at.saturating_sub(verdict.started_at)),
        note: None,
    }
}

fn aggregate(batch: &BatchSeen) -> Stage {
    let Some(figures) = &batch.profiles else {
        return Stage::trace(None, 0);
    };
    Stage {
        status: "done",
        at: figures.computed_at,
        ..Stage::default()
    }
}

/// What `rtp heartbeat` checks, as far as it can be seen without writing.
pub(super) fn heartbeat(seen: &Seen) -> Value {
    let log = seen.log.seen.as_ref();
    let missing = log.map(|log| &log.out_of_range[..]).unwrap_or_default();
    let in_store = log.and_then(|log| match &log.other_topic {
        Some(topic) => Some(other_topic(topic)),
        None => Some(places(&log.out_in_store)).filter(|places| !places.is_empty()),
    });
    let realtime = seen.realtime.seen.as_ref();
    let batch = seen.batch.seen.as_ref();
    let mut log = check("event-log", &seen.log, None);
    if seen.log.is_up == Some(true) && !missing.is_empty() {
        log["ok"] = false.into();
        log["message"] = places(missing).into();
    }
    let remark = realtime.and_then(|store| store.remark.as_ref());
    let mut realtime = check("realtime-store", &seen.realtime, remark);
    if let (Some(true), Some(in_store)) = (seen.realtime.is_up, in_store) {
        realtime["ok"] = false.into();
        realtime["message"] = in_store.into();
    }
    json!([
        log,
        realtime,
        check(
            "batch-store",
            &seen.batch,
            batch.and_then(|store| store.remark.as_ref())
        ),
    ])
}

fn check<T>(name: &str, known: &Known<T>, remark: Option<&String>) -> Value {
    let said = match (known.is_up, &known.message) {
        (None, _) => "not looked at yet",
        (_, Some(message)) => message,
        (_, None) => remark.map_or("answers", String::as_str),
    };
    json!({"check": name, "ok": known.is_up, "message": said})
}

fn other_topic(topic: &str) -> String {
    format!("its offsets belong to `{topic}`, but this log has another topic")
}

fn places(missing: &[OutOfRange]) -> String {
    let places: Vec<String> = missing.iter().map(ToString::to_string).collect();
    places.join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::log_eye::LogSeen;
    use super::super::store_eyes::RealtimeSeen;
    use super::*;
    use crate::ports::ledger::{LoadInfo, LoadRecord};

    fn statuses(seen: &Seen, now: i64) -> Vec<String> {
        let stages = stages(seen, now);
        let stages = stages.as_array().unwrap().iter();
        stages
            .map(|stage| stage["status"].as_str().unwrap().to_string())
            .collect()
    }

    #[test]
    fn a_stage_that_nobody_could_be_asked_about_is_unknown() {
        let mut seen = Seen::default();
        assert_eq!(statuses(&seen, 0), ["unknown"; 6]);
        assert_eq!(heartbeat(&seen)[0]["message"], "not looked at yet");
        seen.log.look(Ok(LogSeen::default()), 0);
        seen.realtime.look(Ok(RealtimeSeen::default()), 0);
        let known = ["unknown", "never", "never", "unknown", "unknown", "unknown"];
        assert_eq!(statuses(&seen, 0), known);
        seen.batch.look(Ok(BatchSeen::default()), 0);
        assert_eq!(statuses(&seen, 0), ["never"; 6]);
    }

    #[test]
    fn a_stage_is_running_as_long_as_its_traces_are_fresh() {
        let status = |at, now| Stage::trace(Some(at), now).status;
        assert_eq!(status(1_000, 10_999), "running");
        assert_eq!(status(1_000, 11_000), "done");
        assert_eq!(status(11_000, 1_001), "running", "another machine's clock");
        assert_eq!(status(i64::MIN, i64::MAX), "done");
    }

    #[test]
    fn offsets_that_are_not_in_the_topic_fail_the_check_of_the_log() {
        let mut seen = Seen::default();
        let mut log = LogSeen {
            produced: 9,
            ..LogSeen::default()
        };
        log.out_of_range.extend(OutOfRange::find(0, 3, 5, 9));
        seen.log.look(Ok(log), 0);
        let check = heartbeat(&seen)[0].clone();
        assert_eq!(check["ok"], false);
        let message =
            "its offset in partition 0 is 3, but the events from there to offset 4 were deleted";
        assert_eq!(check["message"], message);
        let stages = stages(&seen, 0);
        assert_eq!(stages[2]["note"], message);
        assert_eq!(stages[1]["status"], "done", "all its events are gone");
    }

    #[test]
    fn a_load_at_an_impossible_time_is_shown_as_it_is() {
        let record = LoadRecord {
            info: LoadInfo {
                started_at: i64::MAX,
                ..LoadInfo::default()
            },
            mode: "upsert".into(),
            loaded_at: i64::MIN,
            written: 5,
        };
        let mut seen = Seen::default();
        let batch = BatchSeen {
            loads: vec![record],
            ..BatchSeen::default()
        };
        seen.batch.look(Ok(batch), 0);
        assert_eq!(stages(&seen, 0)[3]["at"], i64::MIN);
    }
}
