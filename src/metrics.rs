//! What Prometheus is told: by an endpoint while a command runs (`--metrics-listen`), or by a text file at its
//! end (`--metrics-file`), for node_exporter's textfile collector. docs/metrics.md lists every name.
//!
//! Things are counted where they happen, in [`Run`]'s counts and here; the text is made when it is asked for.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::durable;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::run::{Run, get};

/// OpenMetrics 1.0, which Prometheus asks for and what the encoder writes.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of the micro-batches' durations, in seconds: from a few rows in SQLite to a backlog merged on a slow
/// server.
const BATCH_SECONDS: [f64; 13] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Ticks of a second in /proc/self/stat: USER_HZ, which Linux keeps at 100 for programs (time(7)).
const USER_HZ: f64 = 100.0;

type Labels = Vec<(&'static str, String)>;
type Number = Gauge<f64, AtomicU64>;
type Gauges = Family<Labels, Number>;

/// What is counted beside the records of [`Counts`](crate::run::Counts).
#[derive(Debug)]
pub struct Metrics {
    /// Name of the dataset, once it is known.
    dataset: OnceLock<String>,
    is_ready: AtomicBool,
    started: SystemTime,
    micro_batches: Histogram,
    in_flight: Gauge,
    /// In Unix time; 0 before the first one.
    last_commit: Number,
    heartbeat: OnceLock<Heartbeat>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            dataset: OnceLock::new(),
            is_ready: AtomicBool::new(false),
            started: SystemTime::now(),
            micro_batches: Histogram::new(BATCH_SECONDS),
            in_flight: Gauge::default(),
            last_commit: Number::default(),
            heartbeat: OnceLock::new(),
        }
    }
}

/// One check of a heartbeat's round.
#[derive(Clone, Copy, Debug)]
pub struct Checked<'a> {
    /// `event-log`, `realtime-store` or `batch-store`.
    pub check: &'static str,
    /// Whether it works.
    pub is_up: bool,
    /// Whether it works and is not further behind than allowed.
    pub is_ok: bool,
    /// Seconds until the probe was read back.
    pub latency: Option<f64>,
    /// Seconds since the last write: the stores'.
    pub age: Option<f64>,
    /// The event log's.
    pub lag: Option<GroupLag<'a>>,
}

/// How far a consumer group is behind.
#[derive(Clone, Copy, Debug)]
pub struct GroupLag<'a> {
    /// The group.
    pub group: &'a str,
    /// Its topic.
    pub topic: &'a str,
    /// Age in seconds of the first event that is not committed.
    pub seconds: f64,
    /// Events that are not, by partition.
    pub partitions: &'a [(i32, u64)],
}

/// What a heartbeat found in its last round.
#[derive(Debug, Default)]
struct Heartbeat {
    up: Gauges,
    ok: Gauges,
    latency: Gauges,
    age: Gauges,
    lag_seconds: Gauges,
    lag: Gauges,
    /// The same by the names of kafka_exporter, so that its dashboards and alerts work.
    lag_as_exported: Gauges,
    last_round: Gauges,
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

    /// Events that were read and are not durable yet.
    pub fn set_in_flight(&self, events: usize) {
        self.in_flight
            .set(i64::try_from(events).unwrap_or(i64::MAX));
    }

    /// A micro-batch, or a backlog of them, is durable and committed, so long after it was read.
    pub fn committed(&self, took: Duration) {
        self.micro_batches.observe(took.as_secs_f64());
        self.last_commit.set(unix_seconds(SystemTime::now()));
    }

    /// What a round of a heartbeat has found, in the place of the round before.
    pub fn set_round(&self, checks: &[Checked<'_>]) {
        let of = self.heartbeat.get_or_init(Heartbeat::default);
        let set = |gauges: &Gauges, labels: &Labels, value: Option<f64>| match value {
            Some(value) => {
                gauges.get_or_create(labels).set(value);
            }
            // What is not known now is not said, rather than what it was.
            None => {
                gauges.remove(labels);
            }
        };
        for check in checks {
            let labels = vec![("check", check.check.to_string())];
            let number = |is_so: bool| Some(f64::from(u8::from(is_so)));
            set(&of.up, &labels, number(check.is_up));
            set(&of.ok, &labels, number(check.is_ok));
            set(&of.latency, &labels, check.latency);
            if check.check != "event-log" {
                set(&of.age, &labels, check.age);
                continue;
            }
            of.lag.clear();
            of.lag_as_exported.clear();
            of.lag_seconds.clear();
            let Some(lag) = check.lag else { continue };
            let group = |name| vec![(name, lag.group.to_string()), ("topic", lag.topic.into())];
            set(&of.lag_seconds, &group("group"), Some(lag.seconds));
            for (partition, events) in lag.partitions {
                let partition = ("partition", partition.to_string());
                for (gauges, name) in [(&of.lag, "group"), (&of.lag_as_exported, "consumergroup")] {
                    let labels = [group(name), vec![partition.clone()]].concat();
                    set(gauges, &labels, Some(*events as f64));
                }
            }
        }
        set(
            &of.last_round,
            &Labels::new(),
            Some(unix_seconds(SystemTime::now())),
        );
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// A registry whose metrics all name the command and the dataset.
fn registry(run: &Run) -> Registry {
    let labels = [
        ("command", Some(run.command)),
        ("dataset", run.metrics.dataset.get().map(String::as_str)),
    ];
    let known = labels
        .into_iter()
        .filter_map(|(name, value)| Some((name.into(), value?.to_string().into())));
    Registry::with_labels(known)
}

/// What the endpoint answers.
fn text(run: &Run) -> Result<String> {
    let metrics = &*run.metrics;
    let mut registry = registry(run);
    let counts = &run.counts;
    for (name, help, count) in [
        (
            "rtp_records_read",
            "Records read, blank lines and trailers included",
            &counts.read,
        ),
        (
            "rtp_records_written",
            "Records that reached their destination",
            &counts.written,
        ),
        (
            "rtp_records_rejected",
            "Records that broke a rule",
            &counts.rejected,
        ),
        (
            "rtp_records_deduplicated",
            "Records superseded by a newer one of the same key in the same input",
            &counts.deduplicated,
        ),
        (
            "rtp_records_skipped",
            "Blank lines, trailers, and rows not newer than the stored one",
            &counts.skipped,
        ),
        (
            "rtp_dead_letters",
            "Events appended to the dead-letter topic",
            &counts.dead_letters,
        ),
        (
            "rtp_retries",
            "Attempts repeated after a dependency failed",
            &counts.retries,
        ),
    ] {
        registry.register(name, help, ConstCounter::new(get(count)));
    }
    registry.register_with_unit(
        "rtp_read",
        "Bytes of records read",
        Unit::Bytes,
        ConstCounter::new(get(&counts.bytes)),
    );
    if run.command == "stream" {
        registry.register_with_unit(
            "rtp_micro_batch_duration",
            "From a micro-batch, or a backlog of them, read to its rows, dead letters and offsets durable",
            Unit::Seconds,
            metrics.micro_batches.clone(),
        );
        registry.register(
            "rtp_in_flight_records",
            "Events that were read and are not durable yet",
            metrics.in_flight.clone(),
        );
        registry.register_with_unit(
            "rtp_last_commit_timestamp",
            "When offsets were last committed, in Unix time; 0 before the first time",
            Unit::Seconds,
            metrics.last_commit.clone(),
        );
    }
    if let Some(heartbeat) = metrics.heartbeat.get() {
        heartbeat.register(&mut registry);
    }
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_string())];
    let build = Gauges::default();
    build.get_or_create(&version).set(1.0);
    registry.register("rtp_build_info", "The version that runs; always 1", build);
    register_process(&mut registry, metrics.started);
    encode(&registry)
}

impl Heartbeat {
    fn register(&self, registry: &mut Registry) {
        for (name, help, gauges) in [
            (
                "rtp_heartbeat_up",
                "1 if the log or store took a probe and gave it back",
                &self.up,
            ),
            (
                "rtp_heartbeat_ok",
                "1 if the check is ok, 0 if it is stale or failed",
                &self.ok,
            ),
            (
                "rtp_heartbeat_latency_seconds",
                "Until the probe was read back",
                &self.latency,
            ),
            (
                "rtp_store_age_seconds",
                "Since the store's last commit by stream or load-batch",
                &self.age,
            ),
            (
                "rtp_consumer_lag_seconds",
                "Age of the first event that the group has not committed",
                &self.lag_seconds,
            ),
            (
                "rtp_consumer_lag_records",
                "Events that the group has not committed",
                &self.lag,
            ),
            (
                "kafka_consumergroup_lag",
                "The same as rtp_consumer_lag_records, as kafka_exporter names it",
                &self.lag_as_exported,
            ),
            (
                "rtp_heartbeat_round_timestamp_seconds",
                "When the last round of checks ended, in Unix time",
                &self.last_round,
            ),
        ] {
            registry.register(name, help, gauges.clone());
        }
    }
}

/// Under the names that Prometheus' own client libraries give them.
fn register_process(registry: &mut Registry, started: SystemTime) {
    if let Some(seconds) = cpu_seconds() {
        registry.register(
            "process_cpu_seconds",
            "User and system processor time",
            ConstCounter::new(seconds),
        );
    }
    register_known(
        registry,
        "process_resident_memory_bytes",
        "Resident memory",
        memory("VmRSS:"),
    );
    register_known(
        registry,
        "process_start_time_seconds",
        "Start of the process, in Unix time",
        Some(unix_seconds(started)),
    );
}

fn register_known(registry: &mut Registry, name: &str, help: &str, value: Option<f64>) {
    if let Some(value) = value {
        registry.register(name, help, ConstGauge::new(value));
    }
}

/// None where there is no procfs.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name before the last bracket may hold spaces; utime and stime are the 14th and 15th field (proc(5)).
    let fields = stat.rsplit_once(')')?.1;
    let ticks = |n: usize| fields.split_whitespace().nth(n)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / USER_HZ)
}

/// Bytes of a line of /proc/self/status, which is in KiB.
fn memory(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024.0)
}

fn encode(registry: &Registry) -> Result<String> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)
        .map_err(|e| Error::refused(format!("internal error: {e}")))?;
    Ok(text)
}

/// What the text file says of a run that has ended.
fn text_of_run(run: &Run, exit: Exit) -> Result<String> {
    let mut registry = registry(run);
    let counts = &run.counts;
    let records = Gauges::default();
    for (result, count) in [
        ("read", &counts.read),
        ("written", &counts.written),
        ("rejected", &counts.rejected),
        ("deduplicated", &counts.deduplicated),
        ("skipped", &counts.skipped),
    ] {
        let labels = vec![("result", result.to_string())];
        records.get_or_create(&labels).set(get(count) as f64);
    }
    registry.register(
        "rtp_run_records",
        "Records of the last run, by what became of them",
        records,
    );
    for (name, help, value) in [
        (
            "rtp_run_exit_status",
            "Exit status of the last run",
            Some(exit.code().into()),
        ),
        (
            "rtp_run_start_timestamp_seconds",
            "When the last run began, in Unix time",
            Some(unix_seconds(run.metrics.started)),
        ),
        (
            "rtp_run_end_timestamp_seconds",
            "When the last run ended, in Unix time",
            Some(unix_seconds(SystemTime::now())),
        ),
        (
            "rtp_run_read_bytes",
            "Bytes of records that the last run read",
            Some(get(&counts.bytes) as f64),
        ),
        (
            "rtp_run_dead_letters",
            "Events that the last run appended to the dead-letter topic",
            Some(get(&counts.dead_letters) as f64),
        ),
        (
            "rtp_run_retries",
            "Attempts that the last run repeated after a dependency failed",
            Some(get(&counts.retries) as f64),
        ),
        (
            "rtp_run_cpu_seconds",
            "Processor time of the last run",
            cpu_seconds(),
        ),
        (
            "rtp_run_peak_memory_bytes",
            "Most resident memory of the last run",
            memory("VmHWM:"),
        ),
    ] {
        register_known(&mut registry, name, help, value);
    }
    encode(&registry)
}

/// Writes the text file of a run that has ended, whole or not at all, readable by everybody: whoever collects it
/// is another user.
pub fn write_file(path: &Path, run: &Run, exit: Exit) -> Result<()> {
    durable::replace_readable(path, text_of_run(run, exit)?.as_bytes())
}

/// Answers `/metrics`, `/healthz` (the process lives) and `/readyz` (the command is at work) until the process ends.
pub async fn serve(address: SocketAddr, run: Run) -> Result<()> {
    let fail = |e: std::io::Error| {
        Error::invalid(format!("--metrics-listen: cannot listen on {address}: {e}"))
    };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    run.info(format!("metrics at http://{bound}/metrics"));
    let (scraped, ready) = (run.clone(), run);
    let router = Router::new()
        .route(
            "/metrics",
            routing::get(async move || match text(&scraped) {
                Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, CONTENT_TYPE)], text),
                Err(e) => (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
                    e.to_string(),
                ),
            }),
        )
        .route("/healthz", routing::get(async || "ok\n"))
        .route(
            "/readyz",
            routing::get(
                async move || match ready.metrics.is_ready.load(Ordering::Relaxed) {
                    true => (StatusCode::OK, "ready\n"),
                    false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
                },
            ),
        );
    tokio::spawn(async move {
        let served = axum::serve(listener, router).await;
        // It ends only with the process.
        served.unwrap_or_default();
    });
    Ok(())
}
