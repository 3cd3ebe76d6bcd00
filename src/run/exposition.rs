//! What Prometheus reads: an endpoint while a command runs (`--metrics-listen`), or a text file written at its end
//! (`--metrics-file`) for node_exporter's textfile collector. docs/metrics.md lists every name.
//!
//! The text is made on request, from [`Run`]'s counts and [metrics](super::metrics).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use crate::durable;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::run::metrics::{Batches, Figure, Labels, unix_seconds};
use crate::run::{Counts, Run, get};

/// OpenMetrics 1.0, which Prometheus asks for and what the encoder writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Ticks per second in /proc/self/stat: USER_HZ, which Linux keeps at 100 for programs (time(7)).
const USER_HZ: f64 = 100.0;

type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// Serves `/metrics`, `/healthz` (the process is alive) and `/readyz` (the command is at work) until the process
/// ends.
pub async fn serve(address: SocketAddr, run: Run) -> Result<()> {
    let fail = |e: std::io::Error| {
        Error::invalid(format!(
            "cannot listen on {address} for metrics (--metrics-listen or RTP_METRICS_LISTEN): {e}"
        ))
    };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    let place = format!("metrics at http://{bound}/metrics");
    match address.port() {
        0 => run.notice(place), // nobody else knows the port
        _ => run.info(place),
    }
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
        // It runs until the process ends.
        served.unwrap_or_default();
    });
    Ok(())
}

/// Writes the text file of a run that has ended, whole or not at all. Everybody may read it, because the collector
/// runs as another user.
pub fn write_file(path: &Path, run: &Run, exit: Exit) -> Result<()> {
    durable::replace_readable(path, text_of_run(run, exit)?.as_bytes())
}

/// What the endpoint serves.
pub fn text(run: &Run) -> Result<String> {
    let metrics = &*run.metrics;
    let mut registry = registry(run);
    register_counts(&mut registry, &run.counts);
    if let Some(batches) = metrics.batches.get() {
        register_batches(&mut registry, batches);
    }
    let figures = metrics.figures.lock();
    register_figures(
        &mut registry,
        &figures.unwrap_or_else(PoisonError::into_inner),
    );
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_string())];
    let build = Gauges::default();
    build.get_or_create(&version).set(1.0);
    registry.register("rtp_build_info", "Version that is running; always 1", build);
    register_process(&mut registry, metrics.started);
    encode(&registry)
}

fn register_counts(registry: &mut Registry, counts: &Counts) {
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
}

fn register_batches(registry: &mut Registry, batches: &Batches) {
    registry.register_with_unit(
        "rtp_micro_batch_duration",
        "From a micro-batch, or a backlog of them, read to its rows, dead letters and offsets durable",
        Unit::Seconds,
        batches.durations.clone(),
    );
    registry.register(
        "rtp_in_flight_records",
        "Events that were read and are not durable yet",
        batches.in_flight.clone(),
    );
    registry.register_with_unit(
        "rtp_last_commit_timestamp",
        "When offsets were last committed, in Unix time; 0 before the first time",
        Unit::Seconds,
        batches.last_commit.clone(),
    );
}

fn register_figures(registry: &mut Registry, figures: &[Figure]) {
    for of_name in figures.chunk_by(|a, b| a.name == b.name) {
        let gauges = Gauges::default();
        for figure in of_name {
            gauges.get_or_create(&figure.labels).set(figure.value);
        }
        registry.register(of_name[0].name, of_name[0].help, gauges);
    }
}

/// The text file of a run that has ended.
fn text_of_run(run: &Run, exit: Exit) -> Result<String> {
    let mut registry = registry(run);
    let counts = &run.counts;
    register_records(&mut registry, counts);
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
            "Peak resident memory of the last run",
            memory("VmHWM:"),
        ),
    ] {
        register_known(&mut registry, name, help, value);
    }
    encode(&registry)
}

fn register_records(registry: &mut Registry, counts: &Counts) {
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
        "Records of the last run, by result",
        records,
    );
}

/// A registry whose metrics are all labelled with the command and the dataset.
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
    // The name before the last bracket may contain spaces; utime and stime are fields 14 and 15 (proc(5)).
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
    prometheus_client::encoding::text::encode(&mut text, registry).map_err(Error::internal)?;
    Ok(text)
}
