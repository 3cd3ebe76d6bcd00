//! The three checks: a probe through the server and back, and how far behind it is.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::offsets::{places, way_out};
use super::{Check, Status, Watched};
use crate::error::{Error, Kind, Result};
use crate::ports::monitor::{Lag, StoreMonitor, Stored};
use crate::run::task::Task;

/// Pause between two attempts at a busy server.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A check ends this long before its time limit, or after three quarters of it, so that it can still say why it failed.
const MARGIN: Duration = Duration::from_millis(250);

/// The time of a check.
#[derive(Clone, Copy)]
pub(super) struct Times {
    started: Instant,
    /// When its last attempt must have ended.
    pub(super) until: Instant,
}

impl Times {
    fn of(limit: Duration) -> Times {
        let started = Instant::now();
        Times {
            started,
            until: started + limit.saturating_sub(MARGIN.min(limit / 4)),
        }
    }
}

/// Also returns how far the group lags, if that is known.
pub(super) async fn check_log(watched: &Watched, run_id: &str) -> (Check, Option<Lag>) {
    let id = probe_id(run_id);
    let target = watched.clone();
    let seen = within(watched.timeout, &watched.event_log, move |times| {
        let (target, id) = (target.clone(), id.clone());
        async move {
            let mut log = target
                .event_log
                .monitor(&target.dataset.event.topic, times.until)
                .await?;
            log.probe(&id).await?;
            let latency = times.started.elapsed();
            let stored = target
                .realtime_store
                .kept_offsets(&target.dataset, &target.group)
                .await;
            let lag = log.lag(&target.group, stored.as_ref()).await?;
            Ok((latency, lag))
        }
    });
    let blank = Check::blank("event-log", &watched.event_log);
    let (latency, lag) = match seen.await {
        Ok(seen) => seen,
        Err(error) => return (blank.failed(&error), None),
    };
    let age = lag.oldest.map_or(Duration::ZERO, age_of);
    let (status, detail) = judge_lag(watched, &lag, age);
    let check = Check {
        status,
        latency_ms: Some(millis(latency)),
        group: Some(watched.group.clone()),
        group_started: Some(lag.started),
        lag_records: Some(lag.records()),
        lag_by_partition: lag.partitions.clone(),
        lag_seconds: Some(seconds(age)),
        detail: Some(detail),
        failed: (status == Status::Failed).then_some(Kind::Missing),
        ..blank
    };
    (check, Some(lag))
}

/// A group that has never committed is not ok once events wait for it, unless a limit allows that: no stream has run,
/// or it has another group.
fn judge_lag(watched: &Watched, lag: &Lag, age: Duration) -> (Status, String) {
    let group = &watched.group;
    if !lag.out_of_range.is_empty() {
        let (places, way_out) = (places(&lag.out_of_range), way_out(&lag.out_of_range));
        let detail = format!("group {group} cannot continue: {places}; {way_out}");
        return (Status::Failed, detail);
    }
    let state = match (lag.started, lag.records()) {
        (false, 0) => format!("group {group} has never committed, and there is nothing to read"),
        (false, n) => format!("group {group} has never committed, and {n} events are waiting"),
        (true, 0) => format!("group {group} is at the end"),
        (true, n) => format!("group {group} is {n} events behind"),
    };
    if let Some(most) = watched.max_lag.filter(|most| lag.records() > *most) {
        return (Status::Stale, format!("{state}, over the limit of {most}"));
    }
    if let Some(most) = watched.max_lag_age.filter(|most| age > *most) {
        let detail = format!("{state}, the first one for {age:.0?}, over the limit of {most:?}");
        return (Status::Stale, detail);
    }
    let is_limited = watched.max_lag.is_some() || watched.max_lag_age.is_some();
    if !lag.started && lag.records() > 0 && !is_limited {
        let detail = format!("{state}; a stream with this --group, or --max-lag, is needed");
        return (Status::Stale, detail);
    }
    (Status::Ok, state)
}

/// Also returns the group's offsets, if the store keeps them.
pub(super) async fn check_realtime_store(
    watched: &Watched,
    run_id: &str,
) -> (Check, Option<Stored>) {
    let (id, target) = (probe_id(run_id), watched.clone());
    let seen = within(watched.timeout, &watched.realtime_store, move |times| {
        let (target, id) = (target.clone(), id.clone());
        async move {
            let mut store = target.realtime_store.monitor(&target.dataset).await?;
            store.probe(&writer("realtime", &target.group), &id).await?;
            let seen = look(&mut *store, times.started).await?;
            Ok((seen, store.stored(&target.group).await?))
        }
    });
    let (seen, stored) = match seen.await {
        Ok((seen, stored)) => (Ok(seen), stored),
        Err(error) => (Err(error), None),
    };
    let blank = Check::blank("realtime-store", &watched.realtime_store);
    (judge_store(blank, seen, watched.max_age_realtime), stored)
}

pub(super) async fn check_batch_store(watched: &Watched, run_id: &str) -> Check {
    let (id, target) = (probe_id(run_id), watched.clone());
    let seen = within(watched.timeout, &watched.batch_store, move |times| {
        let (target, id) = (target.clone(), id.clone());
        async move {
            let mut store = target.batch_store.monitor(&target.dataset).await?;
            store.probe(&writer("batch", &target.group), &id).await?;
            look(&mut *store, times.started).await
        }
    });
    let blank = Check::blank("batch-store", &watched.batch_store);
    judge_store(blank, seen.await, watched.max_age_batch)
}

/// What a check found out about a store.
struct StoreSeen {
    latency: Duration,
    last_write: Option<i64>,
    remark: Option<String>,
}

/// Looks at a store that has returned a probe.
async fn look(store: &mut dyn StoreMonitor, started: Instant) -> Result<StoreSeen> {
    Ok(StoreSeen {
        latency: started.elapsed(),
        last_write: store.last_write().await?,
        remark: store.remark().await?,
    })
}

/// Both stores may be one file.
fn writer(store: &str, group: &str) -> String {
    format!("{store}/{group}")
}

fn judge_store(blank: Check, seen: Result<StoreSeen>, most: Option<Duration>) -> Check {
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => return blank.failed(&error),
    };
    let age = seen.last_write.map(age_of);
    let (status, detail) = match (age, most) {
        (None, Some(_)) => (Status::Stale, Some("nothing has been written yet".into())),
        (None, None) => (Status::Ok, Some("nothing has been written yet".into())),
        (Some(age), Some(most)) if age > most => {
            let detail = format!("the last write was {age:.0?} ago, over the limit of {most:?}");
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

/// Runs a check on a task of its own, so that one that blocks does not exceed its time limit. A busy server is
/// asked again until then; if the check fails, its last answer is the reason.
pub(super) async fn within<T, F>(
    timeout: Duration,
    address: &dyn std::fmt::Display,
    attempt: impl Fn(Times) -> F + Send + 'static,
) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send,
{
    let times = Times::of(timeout);
    let (says, said) = mpsc::channel();
    let mut task = Task::spawn(async move {
        loop {
            match attempt(times).await {
                Err(e) if e.is_retriable() && Instant::now() < times.until => {
                    says.send(e).ok(); // the time limit may have passed
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                other => return other,
            }
        }
    });
    match tokio::time::timeout(timeout, &mut task).await {
        Ok(done) => done,
        Err(_) => {
            let silent =
                || Error::unavailable(format!("no answer from {address} within {timeout:?}"));
            Err(said.try_iter().last().unwrap_or_else(silent))
        }
    }
}

fn probe_id(run_id: &str) -> String {
    format!("{run_id}/{}", uuid::Uuid::now_v7())
}

/// The age of a point in time; never negative, even if the clock was set back.
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
    use std::sync::Arc;

    use super::*;
    use crate::dataset::Dataset;
    use crate::ports::monitor::OutOfRange;

    fn watched() -> Watched {
        let url = "sqlite:x.db";
        Watched {
            dataset: Arc::new(Dataset::load(None).unwrap()),
            event_log: crate::servers::event_log(url).unwrap(),
            realtime_store: crate::servers::realtime_store(url).unwrap(),
            batch_store: crate::servers::batch_store(url).unwrap(),
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
                "is 11 events behind, over the limit of 10",
            ),
            (
                true,
                1,
                61,
                Status::Stale,
                "the first one for 61s, over the limit of 60s",
            ),
            (
                false,
                11,
                0,
                Status::Stale,
                "never committed, and 11 events are waiting, over the limit of 10",
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
                ..Lag::default()
            };
            let (got, detail) = judge_lag(&watched(), &lag, Duration::from_secs(age));
            assert_eq!(got, status, "{detail}");
            assert!(detail.contains(text), "{detail}");
        }
    }

    #[test]
    fn without_limits_only_a_group_that_never_committed_is_stale() {
        let watched = Watched {
            max_lag: None,
            max_lag_age: None,
            ..watched()
        };
        for (started, records, status) in [
            (true, 1_000, Status::Ok),
            (false, 0, Status::Ok),
            (false, 1, Status::Stale),
        ] {
            let lag = Lag {
                started,
                partitions: vec![(0, records)],
                ..Lag::default()
            };
            let (got, detail) = judge_lag(&watched, &lag, Duration::ZERO);
            assert_eq!(got, status, "{detail}");
        }
    }

    #[test]
    fn a_group_outside_of_its_topic_has_failed_whatever_the_limits() {
        let lag = |committed| Lag {
            started: true,
            partitions: vec![(0, 0)],
            out_of_range: OutOfRange::find(0, committed, 10, 20).into_iter().collect(),
            ..Lag::default()
        };
        for (committed, status, text) in [
            (
                9,
                Status::Failed,
                "its offset in partition 0 is 9, but the events from there to offset 9 were deleted",
            ),
            (10, Status::Ok, "is at the end"),
            (20, Status::Ok, "is at the end"),
            (
                21,
                Status::Failed,
                "its offset in partition 0 is 21, but the topic ends at 20",
            ),
        ] {
            let (got, detail) = judge_lag(&watched(), &lag(committed), Duration::ZERO);
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
            let blank = Check::blank("batch-store", &watched().batch_store);
            let seen = StoreSeen {
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
