//! `rtp`: a real-time data pipeline as Unix commands.

pub mod ahead;
pub mod alert;
pub mod batch_store;
pub mod cassandra;
pub mod cli;
pub mod commands;
#[doc(hidden)]
pub mod conformance;
pub mod connect;
pub mod csv;
pub mod dataset;
pub mod durable;
pub mod error;
pub mod event;
pub mod event_log;
pub mod exit;
pub mod heartbeat;
pub mod input;
pub mod intake;
mod kafka;
pub mod metrics;
mod mock_api;
pub mod monitor;
pub mod postgres;
pub mod progress;
pub mod project;
pub mod realtime_store;
pub mod rejects;
pub mod retry;
pub mod row;
pub mod run;
pub mod secret;
pub mod source;
pub mod sqlite;
pub mod stdout;
pub mod table;
pub mod time;
pub mod trailer;
pub mod transform;
pub mod url;
pub mod value;
pub mod verify;

use std::ffi::OsString;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Cli;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::run::{Run, Signal, Stop};

/// Runs one command line and returns its exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(help_or_error) => return print_usage(&help_or_error),
    };
    let (stopper, stop) = Stop::channel();
    let id = cli
        .global
        .run_id
        .clone()
        .unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let mut run = Run::new(
        cli.command.name(),
        id,
        stop,
        cli.global.log_format,
        cli.global.quiet,
    );
    if cli.command.draws_progress() {
        run.start_progress();
    }
    let metrics_file = cli.global.metrics_file.clone();
    let exit = execute(cli, &run, stopper).unwrap_or_else(|error| {
        run.error(&error);
        error.kind().into()
    });
    // The run went as it went, whether or not this can be written.
    if let Some(file) = metrics_file
        && let Err(e) = metrics::write_file(&file, &run, exit)
    {
        run.warn(format!("--metrics-file: {e}"));
    }
    run.summary(exit);
    exit
}

/// Help and version go to stdout with status 0, usage errors to stderr with status 2.
fn print_usage(error: &clap::Error) -> Exit {
    if error.print().is_err() {
        return Exit::Usage; // nobody reads us; the status still tells
    }
    match error.exit_code() {
        0 => Exit::Done,
        _ => Exit::Usage,
    }
}

/// Runs the command on a thread of its own, which keeps it: a task would change threads with each call
/// that blocks, and pay for it in the allocator. The first signal asks it to stop; a second one ends
/// the process at once, whatever the command is waiting for.
fn execute(
    cli: Cli,
    run: &Run,
    stopper: tokio::sync::watch::Sender<Option<Signal>>,
) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::refused(format!("cannot start the runtime: {e}")))?;
    // Heard before the command does anything, so that it is never cut off by one.
    let signals = runtime.block_on(async { Signals::listen() })?;
    let command = {
        let (run, handle) = (run.clone(), runtime.handle().clone());
        runtime.spawn_blocking(move || handle.block_on(cli.command.run(&cli.global, &run)))
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            joined = command => joined.unwrap_or_else(|panic| {
                Err(Error::refused(format!("internal error: {panic}")))
            }),
            signal = signals.second(stopper) => Ok(signal.exit()),
        }
    });
    runtime.shutdown_background();
    outcome
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|e| Error::refused(format!("cannot listen for signals: {e}")))
        };
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Passes the first signal on, and resolves at the second.
    async fn second(mut self, stopper: tokio::sync::watch::Sender<Option<Signal>>) -> Signal {
        loop {
            let received = tokio::select! {
                _ = self.interrupt.recv() => Signal::Interrupt,
                _ = self.terminate.recv() => Signal::Terminate,
            };
            if stopper.send_replace(Some(received)).is_some() {
                return received;
            }
        }
    }
}
