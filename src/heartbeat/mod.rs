//! One round of checks of the event log and both stores, all at the same time, and its verdict.

mod alerts;
mod checks;
mod figures;
mod offsets;
pub mod report;
pub mod webhook;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use self::alerts::Alerts;
use self::checks::{check_batch_store, check_log, check_realtime_store};
use self::offsets::{judge_offsets, judge_topic};
use crate::dataset::Dataset;
use crate::error::{Error, Kind};
use crate::exit::Exit;
use crate::ports::batch_store::BatchStores;
use crate::ports::event_log::EventLog;
use crate::ports::realtime_store::RealtimeStores;

/// What is watched, and the limits.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The dataset.
    pub dataset: Arc<Dataset>,
    /// Event log.
    pub event_log: Arc<dyn EventLog>,
    /// Real-time store.
    pub realtime_store: Arc<dyn RealtimeStores>,
    /// Batch store.
    pub batch_store: Arc<dyn BatchStores>,
    /// Consumer group whose lag is checked.
    pub group: String,
    /// Time limit of each check.
    pub timeout: Duration,
    /// Maximum number of events that the group may lag by.
    pub max_lag: Option<u64>,
    /// Maximum age of the first event not committed.
    pub max_lag_age: Option<Duration>,
    /// Maximum age of the real-time store's last write.
    pub max_age_realtime: Option<Duration>,
    /// Maximum age of the batch store's last load.
    pub max_age_batch: Option<Duration>,
}

/// The result of a check, or of a round of them; the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Ok,
    /// It works, but lags more than allowed.
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
}

/// One check's result; its JSON is part of the contract.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// `event-log`, `realtime-store` or `batch-store`.
    pub check: &'static str,
    /// Its address.
    pub address: String,
    /// The result.
    pub status: Status,
    /// Time from the start until the probe was read back.
    pub latency_ms: Option<f64>,
    /// The consumer group, and whether it has ever committed; for the event log only.
    pub group: Option<String>,
    /// See `group`.
    pub group_started: Option<bool>,
    /// Events not yet committed.
    pub lag_records: Option<u64>,
    /// The same for each partition, for metrics only.
    #[serde(skip)]
    pub lag_by_partition: Vec<(i32, u64)>,
    /// Age of the first of them; 0 if there is none.
    pub lag_seconds: Option<f64>,
    /// Age of the last write or load; for the stores only.
    pub age_seconds: Option<f64>,
    /// Why it is stale or failed, or any other remark.
    pub detail: Option<String>,
    /// What kind of error it failed with.
    #[serde(skip)]
    pub failed: Option<Kind>,
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

impl Round {
    /// The exit status, if it is the only round.
    pub fn exit(&self) -> Exit {
        let has = |kind| self.checks.iter().any(|check| check.failed == Some(kind));
        match self.status {
            Status::Ok => Exit::Done,
            Status::Stale => Exit::No,
            Status::Failed if has(Kind::Internal) => Exit::Internal,
            // A server that is down may come back; what is missing does not, and only the user can mend a setting.
            Status::Failed if has(Kind::Missing) => Exit::Missing,
            Status::Failed if has(Kind::Invalid) => Exit::Usage,
            Status::Failed => Exit::Dependency,
        }
    }
}

/// Checks all three at the same time; a check that fails does not keep the others from reporting.
pub async fn round(watched: &Watched, run_id: &str) -> Round {
    let ((log, lag), (realtime, stored), batch) = tokio::join!(
        check_log(watched, run_id),
        check_realtime_store(watched, run_id),
        check_batch_store(watched, run_id),
    );
    let realtime = judge_topic(realtime, &watched.group, stored.as_ref(), lag.as_ref());
    let realtime = match stored.filter(|stored| {
        let is_known = realtime.failed.is_none() && lag.is_some();
        is_known && !stored.offsets.is_empty()
    }) {
        Some(stored) => judge_offsets(watched, realtime, stored).await,
        None => realtime,
    };
    let checks = vec![log, realtime, batch];
    Round {
        time: crate::time::format_ms(crate::time::now_ms()),
        run_id: run_id.into(),
        dataset: watched.dataset.name.clone(),
        status: checks.iter().map(|c| c.status).max().unwrap_or(Status::Ok),
        checks,
    }
}

impl Check {
    fn blank(check: &'static str, address: &dyn std::fmt::Display) -> Check {
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
            failed: None,
        }
    }

    fn failed(self, error: &Error) -> Check {
        let hint = error
            .hint_text()
            .map_or(String::new(), |h| format!("; {h}"));
        Check {
            status: Status::Failed,
            detail: Some(format!("{error}{hint}")),
            failed: Some(error.kind()),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_of_ours_and_missing_data_are_not_told_as_an_outage() {
        let address = "sqlite:x.db";
        let failed = |error| Check::blank("batch-store", &address).failed(&error);
        let table = [
            (vec![failed(Error::refused("no"))], Exit::Dependency),
            (
                vec![
                    failed(Error::missing("gone")),
                    failed(Error::unavailable("down")),
                ],
                Exit::Missing,
            ),
            (
                vec![
                    failed(Error::unavailable("down")),
                    failed(Error::invalid("no table")),
                ],
                Exit::Usage,
            ),
            (
                vec![
                    failed(Error::missing("gone")),
                    failed(Error::invalid("no table")),
                ],
                Exit::Missing,
            ),
            (
                vec![
                    failed(Error::refused("no")),
                    failed(Error::internal("a panic")),
                ],
                Exit::Internal,
            ),
        ];
        for (checks, exit) in table {
            let round = Round {
                time: String::new(),
                run_id: String::new(),
                dataset: String::new(),
                status: Status::Failed,
                checks,
            };
            assert_eq!(round.exit(), exit);
        }
    }
}
