//! `rtp`: a real-time data pipeline as Unix commands.

pub mod aggregate;
pub mod cli;
pub mod commands;
mod dashboard;
pub mod dataset;
pub mod durable;
pub mod error;
pub mod exit;
pub mod explain;
pub mod heartbeat;
pub mod intake;
mod mock_api;
pub mod ports;
pub mod record;
pub mod run;
pub mod secret;
mod serve;
pub mod servers;
pub mod source;
pub mod stream;
pub mod time;
pub mod transform;
pub mod verify;
pub mod view;

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
    let args: Vec<OsString> = args.into_iter().collect();
    match catch(|| Ok(Cli::try_parse_from(&args))) {
        Ok(Ok(cli)) => run_command(cli),
        Ok(Err(help_or_error)) => print_usage(&cli::explained(help_or_error, &args)),
        Err(bug) => {
            run::to_stderr(&format!("rtp: error: {}", run::printable(&bug.to_string())));
            Exit::Internal
        }
    }
}

fn run_command(cli: Cli) -> Exit {
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
    let are_distinct = cli.files().check();
    // Not where it would overwrite another file of the command line.
    let metrics_file = cli.global.metrics_file.clone();
    let kept = cli.command.kept_when_interrupted();
    let metrics_file = metrics_file.filter(|_| are_distinct.is_ok());
    let outcome = are_distinct.and_then(|()| catch(|| execute(cli, &run, stopper)));
    let exit = conclude(&run, kept, outcome);
    // The outcome of the run is the same whether or not this can be written.
    if let Some(file) = metrics_file
        && let Err(e) = catch(|| run::exposition::write_file(&file, &run, exit))
    {
        run.warn(format!(
            "no metrics (--metrics-file or RTP_METRICS_FILE): {e}"
        ));
    }
    let exit = or_bug(&run, exit);
    run.summary(exit);
    servers::finish(); // after everything was told, because no signal ends it
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

/// The status of an outcome; an error is reported. What failed because a signal ended the wait for a server was
/// interrupted, and `kept` says what is left of it.
fn conclude(run: &Run, kept: &str, outcome: Result<Exit>) -> Exit {
    let signal = run.stop.requested();
    let (exit, waited) = match (outcome, signal) {
        (Ok(exit), _) => (exit, String::new()),
        (Err(error), Some(signal)) if error.is_retriable() => {
            (signal.exit(), format!(" while waiting ({error})"))
        }
        (Err(error), _) => {
            run.error(&error);
            (error.kind().into(), String::new())
        }
    };
    if let Some(signal) = signal.filter(|signal| signal.exit() == exit) {
        run.warn(format!("interrupted by {}{waited}; {kept}", signal.name()));
    }
    or_bug(run, exit)
}

/// The status of a panic, if there was one, even where nobody waited for its outcome.
fn or_bug(run: &Run, exit: Exit) -> Exit {
    match run.panics.first() {
        Some((bug, must_be_told)) if exit != Exit::Internal => {
            if must_be_told {
                run.error(&bug);
            }
            Exit::Internal
        }
        _ => exit,
    }
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

/// The signal for a file that grows beyond the process's limit, on Linux and macOS.
const SIGXFSZ: i32 = 25;

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|e| Error::refused(format!("cannot listen for signals: {e}")))
        };
        // A file that may not grow further (`ulimit -f`) is an error of the write, which says what was kept, and not the
        // end of the process: from now on, this signal is taken and means nothing.
        drop(listen(SignalKind::from_raw(SIGXFSZ))?);
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
    use std::process::Command;

    use super::*;
    use crate::run::LogFormat;

    fn test_run() -> (tokio::sync::watch::Sender<Option<Signal>>, Run) {
        let (stopper, stop) = Stop::channel();
        let run = Run::new("test", "1".into(), stop, LogFormat::Text, false);
        (stopper, run)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_command_that_panics_ends_with_the_status_of_a_mistake_of_ours() {
        let place = format!("as planned (src/lib.rs:{})", line!() + 1);
        let outcome = on_its_own_thread(async || panic!("as planned")).await;
        let text = outcome.as_ref().unwrap_err().to_string();
        assert!(text.ends_with(&place), "{text}");
        let (_stopper, run) = test_run();
        assert_eq!(conclude(&run, "", outcome).code(), 70);
    }

    #[test]
    fn what_a_signal_ends_while_it_waits_is_interrupted_not_down() {
        for signal in [Signal::Interrupt, Signal::Terminate] {
            let (stopper, run) = test_run();
            let down = || Err(Error::unavailable("down"));
            assert_eq!(conclude(&run, "", down()), Exit::Dependency);
            stopper.send_replace(Some(signal));
            assert_eq!(conclude(&run, "", down()), signal.exit());
            let refused = Err(Error::refused("no"));
            assert_eq!(conclude(&run, "", refused), Exit::Dependency);
            let drained = Ok(Exit::Done);
            assert_eq!(conclude(&run, "", drained), Exit::Done);
        }
    }

    /// The ways to panic where no result of the command shows it.
    const PANICS: [&str; 4] = ["thread", "task", "unseen", "callback"];

    /// Each in a process of its own, because it belongs to the process: its status, and the last line.
    #[test]
    fn a_panic_that_nobody_waits_for_has_its_status_and_the_summary() {
        if let Ok(how) = std::env::var("RTP_TEST_PANIC") {
            panic_somewhere(&how);
        }
        for how in PANICS {
            let out = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg("tests::a_panic_that_nobody_waits_for_has_its_status_and_the_summary")
                .env("RTP_TEST_PANIC", how)
                .env_remove("RUST_BACKTRACE")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), Some(70), "{how}: {said}");
            let told = format!("internal error, a bug in rtp: in a {how} (src/lib.rs:");
            assert_eq!(said.matches(&told).count(), 1, "{how}: {said}");
            let last = said.lines().last().unwrap();
            assert!(last.ends_with("; exit 70"), "{how}: {said}");
        }
    }

    #[expect(clippy::exit, reason = "the test is this process's end")]
    fn panic_somewhere(how: &str) -> ! {
        extern "C" fn callback() {
            panic!("in a callback");
        }
        let (_stopper, run) = test_run();
        report_panics(&run);
        match how {
            "thread" => drop(std::thread::spawn(|| panic!("in a thread")).join()),
            "task" => {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let task = runtime.spawn(async { panic!("in a task") });
                drop(runtime.block_on(task));
            }
            "unseen" => drop(catch::<()>(|| panic!("in a unseen"))),
            _ => callback(),
        }
        let exit = conclude(&run, "", Ok(Exit::Done));
        run.summary(exit);
        std::process::exit(exit.code().into())
    }
}
