//! One round of checks of the event log and both stores, all at the same time, and its verdict.

mod alerts;

use std::future::Future;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde::Serialize;

pub use self::alerts::Alerts;
use crate::connect;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::monitor::{Lag, StoreMonitor};
use crate::url::ServerUrl;

/// Between two attempts at a server that is busy.
const PAUSE: Duration = Duration::from_millis(50);

/// What is left of a check's time when its last attempt must have begun.
const MARGIN: Duration = Duration::from_millis(250);

/// What is watched, and what is too late.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The dataset.
    pub dataset: Arc<Dataset>,
    /// Event log.
    pub event_log: ServerUrl,
    /// Real-time store.
    pub realtime_store: ServerUrl,
    /// Batch store.
    pub batch_store: ServerUrl,
    /// Consumer group whose lag counts.
    pub group: String,
    /// Limit of each check.
    pub timeout: Duration,
    /// Most events that the group may be behind.
    pub max_lag: Option<u64>,
    /// Highest age of the first event not committed.
    pub max_lag_age: Option<Duration>,
    /// Highest age of the real-time store's last write.
    pub max_age_realtime: Option<Duration>,
    /// Highest age of the batch store's last load.
    pub max_age_batch: Option<Duration>,
}

/// How a check, or a round of them, went; the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Ok,
    /// It works, and is further behind than allowed.
    Stale,
    /// It does not work.
    Failed,
}

impl Status {
    /// The name in every output.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Stale => "stale",
            Status::Failed => "failed",
        }
    }

    /// The exit status of a single round.
    pub fn exit(self) -> Exit {
        match self {
            Status::Ok => Exit::Done,
            Status::Stale => Exit::No,
            Status::Failed => Exit::Dependency,
        }
    }
}

/// One check's result; its JSON is part of the contract.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// `event-log`, `realtime-store` or `batch-store`.
    pub check: &'static str,
    /// Where it is.
    pub address: String,
    /// How it went.
    pub status: Status,
    /// From the start to the probe read back.
    pub latency_ms: Option<f64>,
    /// The consumer group, and whether it has ever committed: the event log's.
    pub group: Option<String>,
    /// See `group`.
    pub group_started: Option<bool>,
    /// Events not yet committed.
    pub lag_records: Option<u64>,
    /// The same of each partition, for metrics only.
    #[serde(skip)]
    pub lag_by_partition: Vec<(i32, u64)>,
    /// Age of the first of them; 0 if there is none.
    pub lag_seconds: Option<f64>,
    /// Age of the last write or load: the stores'.
    pub age_seconds: Option<f64>,
    /// Why it is stale or failed, or what else is to say.
    pub detail: Option<String>,
}

/// All checks of one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// RFC 3339.
    pub time: String,
    /// The run that made it.
    pub run_id: String,
    /// The dataset's name.
    pub dataset: String,
    /// The worst of the checks.
    pub status: Status,
    /// Event log, real-time store, batch store.
    pub checks: Vec<Check>,
}

/// Checks all three at the same time; a check that fails does not keep the others from reporting.
pub async fn round(watch: &Watch, run_id: &str) -> Round {
    let (log, realtime, batch) = tokio::join!(
        check_log(watch, run_id),
        check_realtime_store(watch, run_id),
        check_batch_store(watch, run_id),
    );
    let checks = vec![log, realtime, batch];
    Round {
        time: crate::time::format_ms(crate::time::now_ms()),
        run_id: run_id.into(),
        dataset: watch.dataset.name.clone(),
        status: checks.iter().map(|c| c.status).max().unwrap_or(Status::Ok),
        checks,
    }
}

async fn check_log(watch: &Watch, run_id: &str) -> Check {
    let id = probe_id(run_id);
    let target = watch.clone();
    let seen = within(watch.timeout, &watch.event_log, move |started| {
        let (target, id) = (target.clone(), id.clone());
        async move {
            let mut log = connect::log_monitor(&target.event_log, &target.dataset).await?;
            log.probe(&id).await?;
            Ok((started.elapsed(), log.lag(&target.group).await?))
        }
    });
    let blank = Check::blank("event-log", &watch.event_log);
    let (latency, lag) = match seen.await {
        Ok(seen) => seen,
        Err(error) => return blank.failed(&error),
    };
    let age = lag.oldest.map_or(Duration::ZERO, age_of);
    let (status, detail) = judge_lag(watch, &lag, age);
    Check {
        status,
        latency_ms: Some(millis(latency)),
        group: Some(watch.group.clone()),
        group_started: Some(lag.started),
        lag_records: Some(lag.records()),
        lag_by_partition: lag.partitions,
        lag_seconds: Some(seconds(age)),
        detail: Some(detail),
        ..blank
    }
}

fn judge_lag(watch: &Watch, lag: &Lag, age: Duration) -> (Status, String) {
    let group = &watch.group;
    let state = match (lag.started, lag.records()) {
        (false, 0) => format!("group {group} has never committed, and there is nothing to read"),
        (false, n) => format!("group {group} has never committed, {n} events wait for it"),
        (true, 0) => format!("group {group} is at the end"),
        (true, n) => format!("group {group} is {n} events behind"),
    };
    if let Some(most) = watch.max_lag.filter(|most| lag.records() > *most) {
        return (Status::Stale, format!("{state}, more than {most}"));
    }
    if let Some(most) = watch.max_lag_age.filter(|most| age > *most) {
        let detail = format!("{state}, the first since {age:.0?}, longer than {most:?}");
        return (Status::Stale, detail);
    }
    (Status::Ok, state)
}

async fn check_realtime_store(watch: &Watch, run_id: &str) -> Check {
    let (id, target) = (probe_id(run_id), watch.clone());
    let seen = within(watch.timeout, &watch.realtime_store, move |started| {
        let (target, id) = (target.clone(), id.clone());
        async move {
            let mut store =
                connect::realtime_monitor(&target.realtime_store, &target.dataset).await?;
            store.probe(&writer("realtime", &target.group), &id).await?;
            look(&mut *store, started).await
        }
    });
    let blank = Check::blank("realtime-store", &watch.realtime_store);
    judge_store(blank, seen.await, watch.max_age_realtime)
}

async fn check_batch_store(watch: &Watch, run_id: &str) -> Check {
    let (id, target) = (probe_id(run_id), watch.clone());
    let seen = within(watch.timeout, &watch.batch_store, move |started| {
        let (target, id) = (target.clone(), id.clone());
        async move {
            let mut store = connect::batch_monitor(&target.batch_store, &target.dataset).await?;
            store.probe(&writer("batch", &target.group), &id).await?;
            look(&mut *store, started).await
        }
    });
    let blank = Check::blank("batch-store", &watch.batch_store);
    judge_store(blank, seen.await, watch.max_age_batch)
}

/// What was seen of a store.
struct Seen {
    latency: Duration,
    last_write: Option<i64>,
    remark: Option<String>,
}

/// Looks at a store that has given a probe back.
async fn look(store: &mut dyn StoreMonitor, started: Instant) -> Result<Seen> {
    Ok(Seen {
        latency: started.elapsed(),
        last_write: store.last_write().await?,
        remark: store.remark().await?,
    })
}

/// Both stores may be one file.
fn writer(store: &str, group: &str) -> String {
    format!("{store}/{group}")
}

fn judge_store(blank: Check, seen: Result<Seen>, most: Option<Duration>) -> Check {
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => return blank.failed(&error),
    };
    let age = seen.last_write.map(age_of);
    let (status, detail) = match (age, most) {
        (None, Some(_)) => (Status::Stale, Some("nothing was written yet".into())),
        (None, None) => (Status::Ok, Some("nothing was written yet".into())),
        (Some(age), Some(most)) if age > most => {
            let detail = format!("the last write was {age:.0?} ago, longer than {most:?}");
            (Status::Stale, Some(detail))
        }
        _ => (Status::Ok, None),
    };
    let details: Vec<String> = detail.into_iter().chain(seen.remark).collect();
    Check {
        status,
        latency_ms: Some(millis(seen.latency)),
        age_seconds: age.map(seconds),
        detail: (!details.is_empty()).then(|| details.join("; ")),
        ..blank
    }
}

impl Check {
    fn blank(check: &'static str, address: &ServerUrl) -> Check {
        Check {
            check,
            address: address.to_string(),
            status: Status::Ok,
            latency_ms: None,
            group: None,
            group_started: None,
            lag_records: None,
            lag_by_partition: Vec::new(),
            lag_seconds: None,
            age_seconds: None,
            detail: None,
        }
    }

    fn failed(self, error: &Error) -> Check {
        let hint = error
            .hint_text()
            .map_or(String::new(), |h| format!("; {h}"));
        Check {
            status: Status::Failed,
            detail: Some(format!("{error}{hint}")),
            ..self
        }
    }
}

/// Runs a check on a task of its own, so that one that blocks does not outlast its time; a server
/// that is busy is asked again until then, and what it said last is why it failed.
async fn within<T, F>(
    timeout: Duration,
    address: &ServerUrl,
    attempt: impl Fn(Instant) -> F + Send + 'static,
) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send,
{
    let started = Instant::now();
    let (says, said) = mpsc::channel();
    let mut task = tokio::spawn(async move {
        loop {
            match attempt(started).await {
                Err(e) if e.is_retriable() && started.elapsed() + MARGIN < timeout => {
                    says.send(e).ok(); // the time may be over
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    });
    match tokio::time::timeout(timeout, &mut task).await {
        Ok(joined) => joined.map_err(|e| Error::refused(format!("internal error: {e}")))?,
        Err(_) => {
            task.abort();
            let silent =
                || Error::unavailable(format!("no answer of {address} within {timeout:?}"));
            Err(said.try_iter().last().unwrap_or_else(silent))
        }
    }
}

fn probe_id(run_id: &str) -> String {
    format!("{run_id}/{}", uuid::Uuid::now_v7())
}

/// The age of a point in time; a clock that was set back makes nothing younger than new.
fn age_of(ms: i64) -> Duration {
    let age = crate::time::now_ms().saturating_sub(ms);
    Duration::from_millis(u64::try_from(age).unwrap_or(0))
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        let url = ServerUrl::Sqlite("x.db".into());
        Watch {
            dataset: Arc::new(Dataset::load(None).unwrap()),
            event_log: url.clone(),
            realtime_store: url.clone(),
            batch_store: url,
            group: "rtp".into(),
            timeout: Duration::from_secs(5),
            max_lag: Some(10),
            max_lag_age: Some(Duration::from_secs(60)),
            max_age_realtime: None,
            max_age_batch: None,
        }
    }

    #[test]
    fn lag_is_judged_by_records_and_by_age() {
        let table = [
            (true, 0, 0, Status::Ok, "is at the end"),
            (true, 10, 60, Status::Ok, "is 10 events behind"),
            (
                true,
                11,
                0,
                Status::Stale,
                "is 11 events behind, more than 10",
            ),
            (
                true,
                1,
                61,
                Status::Stale,
                "the first since 61s, longer than 60s",
            ),
            (
                false,
                11,
                0,
                Status::Stale,
                "never committed, 11 events wait for it, more than 10",
            ),
            (
                false,
                0,
                0,
                Status::Ok,
                "never committed, and there is nothing",
            ),
        ];
        for (started, records, age, status, text) in table {
            let lag = Lag {
                started,
                partitions: vec![(0, 0), (1, records)],
                oldest: None,
            };
            let (got, detail) = judge_lag(&watch(), &lag, Duration::from_secs(age));
            assert_eq!(got, status, "{detail}");
            assert!(detail.contains(text), "{detail}");
        }
    }

    #[test]
    fn a_store_is_judged_by_its_last_write() {
        let now = crate::time::now_ms();
        let hour = Some(Duration::from_secs(3_600));
        let table = [
            (Some(now - 7_200_000), hour, Status::Stale),
            (Some(now - 7_200_000), None, Status::Ok),
            (Some(now + 60_000), hour, Status::Ok),
            (None, hour, Status::Stale),
            (None, None, Status::Ok),
        ];
        for (last, most, status) in table {
            let blank = Check::blank("batch-store", &watch().batch_store);
            let seen = Seen {
                latency: Duration::ZERO,
                last_write: last,
                remark: Some("a remark".into()),
            };
            let check = judge_store(blank, Ok(seen), most);
            assert!(check.detail.is_some_and(|text| text.ends_with("a remark")));
            assert_eq!(check.status, status, "{last:?} {most:?}");
            assert!(check.age_seconds.is_none_or(|age| age >= 0.0));
        }
        assert!(Status::Failed > Status::Stale && Status::Stale > Status::Ok);
    }
}
