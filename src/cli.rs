//! The command line: global flags and one line for each command.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands::*;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::metrics;
use crate::run::{LogFormat, Run};

/// Move the records of an HTTP API through an event log into a real-time store and a batch store, and prove that both agree.
#[derive(Debug, Parser)]
#[command(
    name = "rtp",
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
#[command(after_help = AFTER_HELP)]
pub struct Cli {
    /// What all commands share.
    #[command(flatten)]
    pub global: Global,
    /// The stage to run.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit status: 0 done; 1 done, and the answer is no (rejected rows, differences, stale); \
2 usage or configuration; 3 error budget exceeded; 4 a dependency is down or refused us; \
5 data is missing; 130, 143 interrupted by a signal.

Example: rtp init && rtp fetch --count 500 | rtp produce && rtp stream --until-end";

/// Flags that every command takes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Dataset file that declares the records [default: the built-in `users`]
    #[arg(long, env = "RTP_DATASET", global = true, value_name = "FILE")]
    pub dataset: Option<PathBuf>,

    /// How stderr speaks: lines for people, or one JSON object a line
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

    /// Say nothing on stderr but warnings, errors and the summary
    #[arg(long, short, global = true)]
    pub quiet: bool,

    /// Name of this run, in logs, headers and the summary [default: a new UUID]
    #[arg(long, env = "RTP_RUN_ID", global = true, value_name = "ID")]
    pub run_id: Option<String>,

    /// Answer Prometheus at /metrics while the command runs, and probes at /healthz and /readyz
    #[arg(
        long,
        env = "RTP_METRICS_LISTEN",
        global = true,
        value_name = "ADDRESS:PORT",
        value_parser = socket
    )]
    pub metrics_listen: Option<SocketAddr>,

    /// Write what became of the run to this file at its end, for node_exporter's textfile collector
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

/// The commands, in the order of the pipeline; their own files hold the help texts.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)] // a doc comment here would replace the help text of the command's `Args`
pub enum Command {
    Fetch(fetch::Args),
    Produce(produce::Args),
    Stream(stream::Args),
    LoadBatch(load_batch::Args),
    Verify(verify::Args),
    Heartbeat(Box<heartbeat::Args>),
    Init(init::Args),
    MockApi(mock_api::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    /// The command's name, as typed.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Fetch(_) => "fetch",
            Command::Produce(_) => "produce",
            Command::Stream(_) => "stream",
            Command::LoadBatch(_) => "load-batch",
            Command::Verify(_) => "verify",
            Command::Heartbeat(_) => "heartbeat",
            Command::Init(_) => "init",
            Command::MockApi(_) => "mock-api",
            Command::Completions(_) => "completions",
            Command::Man(_) => "man",
        }
    }

    /// Whether its counts are worth drawing: not where records are printed, nor in the middle of a
    /// pipe, whose last command draws its own.
    pub fn draws_progress(&self) -> bool {
        match self {
            Command::Fetch(args) => args.writes_a_file(),
            Command::Produce(_) | Command::Stream(_) | Command::LoadBatch(_) => true,
            _ => false,
        }
    }

    /// Whether it says itself from when on it is at work.
    fn tells_when_ready(&self) -> bool {
        matches!(self, Command::Stream(_) | Command::Heartbeat(_))
    }

    /// Runs the command.
    pub async fn run(self, global: &Global, run: &Run) -> Result<Exit> {
        if !self.tells_when_ready() {
            run.metrics.set_ready();
        }
        if let Some(address) = global.metrics_listen {
            metrics::serve(address, run.clone()).await?;
        }
        let dataset = || {
            let dataset = Dataset::load(global.dataset.as_deref())?;
            run.metrics.set_dataset(&dataset.name);
            Ok::<_, Error>(dataset)
        };
        match self {
            Command::Fetch(args) => fetch::run(&args, &dataset()?, run).await,
            Command::Produce(args) => produce::run(&args, &dataset()?, run).await,
            Command::Stream(args) => stream::run(&args, &dataset()?, run).await,
            Command::LoadBatch(args) => load_batch::run(&args, &dataset()?, run).await,
            Command::Verify(args) => verify::run(&args, &dataset()?, run).await,
            Command::Heartbeat(args) => heartbeat::run(&args, &dataset()?, run).await,
            Command::Init(args) => init::run(&args, &dataset()?, run).await,
            Command::MockApi(args) => mock_api::run(args, run).await,
            Command::Completions(args) => completions::run(&args),
            Command::Man(args) => man::run(&args),
        }
    }
}
