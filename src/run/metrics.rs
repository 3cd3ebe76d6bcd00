//! What a run counts besides its records: recorded where it happens, shown by [`exposition`](super::exposition).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// Histogram bounds for the duration of micro-batches, in seconds: from a few rows in SQLite to a backlog merged
/// on a slow server.
const BATCH_SECONDS: [f64; 13] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Names and values of a metric's labels.
pub type Labels = Vec<(&'static str, String)>;

/// What is counted besides the records of [`Counts`](super::Counts).
#[derive(Debug)]
pub struct Metrics {
    /// Name of the dataset, once it is known.
    pub(super) dataset: OnceLock<String>,
    pub(super) is_ready: AtomicBool,
    pub(super) started: SystemTime,
    /// Set once a command has said that it works in batches.
    pub(super) batches: OnceLock<Batches>,
    pub(super) figures: Mutex<Vec<Figure>>,
}

/// The progress of a command that works in batches.
#[derive(Debug)]
pub(super) struct Batches {
    pub(super) durations: Histogram,
    pub(super) in_flight: Gauge,
    /// In Unix time; 0 before the first one.
    pub(super) last_commit: Gauge<f64, AtomicU64>,
}

/// A metric of one command.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Name of the metric.
    pub name: &'static str,
    /// Its help text, the same for all figures of that name.
    pub help: &'static str,
    /// Its labels, where there are several figures of that name.
    pub labels: Labels,
    /// Its value.
    pub value: f64,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            dataset: OnceLock::new(),
            is_ready: AtomicBool::new(false),
            started: SystemTime::now(),
            batches: OnceLock::new(),
            figures: Mutex::default(),
        }
    }
}

impl Default for Batches {
    fn default() -> Self {
        Batches {
            durations: Histogram::new(BATCH_SECONDS),
            in_flight: Gauge::default(),
            last_commit: Gauge::default(),
        }
    }
}

impl Metrics {
    /// The dataset that the command works on.
    pub fn set_dataset(&self, name: &str) {
        self.dataset.get_or_init(|| name.to_string());
    }

    /// From now on `/readyz` says yes.
    pub fn set_ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
    }

    /// Events that were read and are not durable yet. The first call declares that the command works in batches.
    pub fn set_in_flight(&self, events: usize) {
        let events = i64::try_from(events).unwrap_or(i64::MAX);
        self.batches().in_flight.set(events);
    }

    /// Records that a micro-batch, or a backlog of them, is durable and committed this long after it was read.
    pub fn committed(&self, took: Duration) {
        let batches = self.batches();
        batches.durations.observe(took.as_secs_f64());
        batches.last_commit.set(unix_seconds(SystemTime::now()));
    }

    fn batches(&self) -> &Batches {
        self.batches.get_or_init(Batches::default)
    }

    /// Replaces all figures. Figures of the same name must be adjacent.
    pub fn set_figures(&self, figures: Vec<Figure>) {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }
}

/// A time as Prometheus expects it.
pub fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
