//! `rtp`: a real-time data pipeline as Unix commands.

pub mod cli;
pub mod commands;
pub mod dataset;
pub mod durable;
pub mod error;
pub mod exit;
pub mod heartbeat;
pub mod intake;
mod mock_api;
pub mod ports;
pub mod record;
pub mod run;
pub mod secret;
pub mod servers;
pub mod source;
pub mod stream;
pub mod time;
pub mod transform;
pub mod verify;

/// The examples of the guide for contributors compile.
#[cfg(doctest)]
#[doc = include_str!("../docs/contributing.md")]
pub struct Contributing;

use std::ffi::OsString;
use std::io::ErrorKind;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Cli;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::run::task::{catch, report_panics};
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
    report_panics(&run);
    let are_distinct = cli.check_files();
    // Not where it would overwrite another file of the command line.
    let metrics_file = cli.global.metrics_file.clone();
    let metrics_file = metrics_file.filter(|_| are_distinct.is_ok());
    let outcome = are_distinct.and_then(|()| catch(|| execute(cli, &run, stopper)));
    let exit = conclude(&run, outcome);
    // The outcome of the run is the same whether or not this can be written.
    if let Some(file) = metrics_file
        && let Err(e) = run::exposition::write_file(&file, &run, exit)
    {
        run.warn(format!("--metrics-file: {e}"));
    }
    run.summary(exit);
    exit
}

/// Help and version go to stdout with status 0, usage errors to stderr with status 2.
fn print_usage(error: &clap::Error) -> Exit {
    let is_for_stdout = !error.use_stderr();
    if let Err(closed) = run::streams::check_output()
        && is_for_stdout
    {
        run::to_stderr(&format!("rtp: error: {closed}"));
        return Exit::Usage;
    }
    match error.print() {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Exit::Usage, // the status still tells
        _ if is_for_stdout => Exit::Done,
        _ => Exit::Usage,
    }
}

/// The status of an outcome; an error is reported.
fn conclude(run: &Run, outcome: Result<Exit>) -> Exit {
    outcome.unwrap_or_else(|error| {
        run.error(&error);
        error.kind().into()
    })
}

/// Runs the command. The first signal asks it to stop; a second one ends the process at once, whatever
/// the command is waiting for.
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
    // Installed before the command does anything, so that no signal kills it unhandled.
    let signals = runtime.block_on(async { Signals::listen() })?;
    let command = {
        let run = run.clone();
        on_its_own_thread(async move || cli.run(&run).await)
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = command => outcome,
            signal = signals.second(stopper) => Ok(signal.exit()),
        }
    });
    // A thread that still reads ahead would panic in a runtime that has shut down; the end of the process ends both.
    std::mem::forget(runtime);
    outcome
}

/// Runs a command on a thread of its own, where it stays: a task would change threads at each blocking call, and
/// pay for that in the allocator.
async fn on_its_own_thread<F>(command: F) -> Result<Exit>
where
    F: AsyncFnOnce() -> Result<Exit> + Send + 'static,
{
    let handle = tokio::runtime::Handle::current();
    let ran = tokio::task::spawn_blocking(move || catch(|| handle.block_on(command())));
    ran.await.unwrap_or_else(|lost| Err(Error::internal(lost)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::LogFormat;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_command_that_panics_ends_with_the_status_of_a_mistake_of_ours() {
        let place = format!("as planned (src/lib.rs:{})", line!() + 1);
        let outcome = on_its_own_thread(async || panic!("as planned")).await;
        let text = outcome.as_ref().unwrap_err().to_string();
        assert!(text.ends_with(&place), "{text}");
        let (_, stop) = Stop::channel();
        let run = Run::new("test", "1".into(), stop, LogFormat::Text, false);
        assert_eq!(conclude(&run, outcome).code(), 70);
    }
}
