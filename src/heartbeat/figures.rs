//! A round as metrics for Prometheus. docs/metrics.md lists the names.

use std::time::SystemTime;

use super::{Check, Round, Status};
use crate::run::metrics::{Figure, unix_seconds};

/// Name, help and value for each check. A value that is not known now is omitted, rather than repeated from before.
type OfCheck = (&'static str, &'static str, fn(&Check) -> Option<f64>);

const OF_CHECKS: [OfCheck; 4] = [
    (
        "rtp_heartbeat_up",
        "1 if the log or store accepted a probe and returned it",
        |check| Some(number(check.latency_ms.is_some())),
    ),
    (
        "rtp_heartbeat_ok",
        "1 if the check is ok, 0 if it is stale or failed",
        |check| Some(number(check.status == Status::Ok)),
    ),
    (
        "rtp_heartbeat_latency_seconds",
        "Time until the probe was read back",
        |check| check.latency_ms.map(|ms| ms / 1e3),
    ),
    (
        "rtp_store_age_seconds",
        "Time since the store's last commit by stream or load-batch",
        |check| check.age_seconds,
    ),
];

/// The lag in events: name of the metric, help, and name of the group's label. The second entry uses the names of
/// kafka_exporter, so that its dashboards and alerts work.
const OF_PARTITIONS: [(&str, &str, &str); 2] = [
    (
        "rtp_consumer_lag_records",
        "Events that the group has not committed, or that the real-time store's own offset says it lacks",
        "group",
    ),
    (
        "kafka_consumergroup_lag",
        "The same as rtp_consumer_lag_records, under the name that kafka_exporter uses",
        "consumergroup",
    ),
];

/// The figures of a round that has just ended.
pub(super) fn figures(round: &Round, topic: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (name, help, of) in OF_CHECKS {
        figures.extend(round.checks.iter().filter_map(|check| {
            Some(Figure {
                name,
                help,
                labels: vec![("check", check.check.to_string())],
                value: of(check)?,
            })
        }));
    }
    for check in &round.checks {
        push_lag(&mut figures, check, topic);
    }
    figures.push(Figure {
        name: "rtp_heartbeat_round_timestamp_seconds",
        help: "When the last round of checks ended, in Unix time",
        labels: Vec::new(),
        value: unix_seconds(SystemTime::now()),
    });
    figures
}

/// How far the group lags, if this is the check of the event log.
fn push_lag(figures: &mut Vec<Figure>, check: &Check, topic: &str) {
    let (Some(seconds), Some(group)) = (check.lag_seconds, &check.group) else {
        return;
    };
    let labels = |name| vec![(name, group.clone()), ("topic", topic.to_string())];
    figures.push(Figure {
        name: "rtp_consumer_lag_seconds",
        help: "Age of the first of the events that rtp_consumer_lag_records counts",
        labels: labels("group"),
        value: seconds,
    });
    for (name, help, group) in OF_PARTITIONS {
        for (partition, events) in &check.lag_by_partition {
            let mut labels = labels(group);
            labels.push(("partition", partition.to_string()));
            figures.push(Figure {
                name,
                help,
                labels,
                value: *events as f64,
            });
        }
    }
}

fn number(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}
