//! The command line: the flags that every command takes, and what each of them does.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{CommandFactory, Parser};

use crate::commands::Command;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::exit::Exit;
use crate::run::exposition;
use crate::run::{LogFormat, Run};

/// Move records from an HTTP API into a real-time store (through an event log) and a batch store, and prove that
/// the two agree.
#[derive(Debug, Parser)]
#[command(
    name = "rtp",
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
#[command(after_help = AFTER_HELP)]
pub struct Cli {
    /// The flags that all commands share.
    #[command(flatten)]
    pub global: Global,
    /// The stage to run.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit status: 0 done; 1 done, but the answer is no (rejected rows, differences, stale); \
2 usage or configuration error; 3 error budget exceeded; 4 a dependency is down or refused the request; \
5 data is missing; 70 a bug in rtp; 130, 143 interrupted by a signal.

Durations are written as 250ms, 30s, 5m, 1h 30m or 7d. Server passwords are read from RTP_KAFKA_PASSWORD, \
RTP_CASSANDRA_PASSWORD and RTP_POSTGRES_PASSWORD, or from the files named by these with _FILE appended.

Example: rtp init && rtp fetch --count 500 | rtp produce && rtp stream --until-end";

/// Flags that every command takes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Dataset file that declares the records [default: the built-in `users`]
    #[arg(long, env = "RTP_DATASET", global = true, value_name = "FILE")]
    pub dataset: Option<PathBuf>,

    /// Format of the messages on stderr: text for people, or one JSON object per line
    #[arg(
        long,
        env = "RTP_LOG_FORMAT",
        global = true,
        value_enum,
        default_value = "text",
        hide_possible_values = true,
        value_name = "text|json"
    )]
    pub log_format: LogFormat,

    /// Print only warnings, errors and the summary on stderr
    #[arg(long, short, global = true)]
    pub quiet: bool,

    /// ID of this run in logs, headers and the summary [default: a new UUID]
    #[arg(long, env = "RTP_RUN_ID", global = true, value_name = "ID")]
    pub run_id: Option<String>,

    /// Serve metrics for Prometheus at /metrics, and probes at /healthz and /readyz, while the command runs
    #[arg(
        long,
        env = "RTP_METRICS_LISTEN",
        global = true,
        value_name = "ADDRESS:PORT",
        value_parser = socket
    )]
    pub metrics_listen: Option<SocketAddr>,

    /// Write the run's final metrics to this file, for node_exporter's textfile collector
    #[arg(
        long,
        env = "RTP_METRICS_FILE",
        global = true,
        value_name = "FILE.prom"
    )]
    pub metrics_file: Option<PathBuf>,
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected an IP address and a port, such as 127.0.0.1:9464".to_string())
}

impl Cli {
    /// An error if the command line names a file twice and one of its options would overwrite it.
    pub fn check_files(&self) -> Result<()> {
        let mut files = self.command.files();
        if let Some(path) = &self.global.dataset {
            files.read("--dataset", path);
        }
        if let Some(path) = &self.global.metrics_file {
            files.write("--metrics-file", path);
        }
        files.check()
    }

    /// Runs the command.
    pub async fn run(self, run: &Run) -> Result<Exit> {
        let (command, global) = (self.command, self.global);
        if !command.tells_when_ready() {
            run.metrics.set_ready();
        }
        if let Some(address) = global.metrics_listen {
            exposition::serve(address, run.clone()).await?;
        }
        let dataset = || {
            let dataset = Dataset::load(global.dataset.as_deref())?;
            run.metrics.set_dataset(&dataset.name);
            Ok(dataset)
        };
        command.run(dataset, run, Cli::command).await
    }
}
