//! The command line: the flags that every command takes, and what each of them does.

use std::error::Error as _;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, CommandFactory, Parser};

use crate::commands::Command;
use crate::dataset::{Dataset, SecretRef};
use crate::error::Result;
use crate::exit::Exit;
use crate::run::exposition;
use crate::run::files::Files;
use crate::run::{LogFormat, Run};
use crate::secret::MASK;

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

/// The variables that name a file with the password of a server.
const PASSWORD_FILES: [&str; 3] = [
    "RTP_KAFKA_PASSWORD_FILE",
    "RTP_CASSANDRA_PASSWORD_FILE",
    "RTP_POSTGRES_PASSWORD_FILE",
];

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
    /// The files that the command line and the environment name.
    pub fn files(&self) -> Files {
        let mut files = self.command.files();
        for variable in PASSWORD_FILES {
            if let Some(path) = std::env::var_os(variable) {
                files.read(variable, Path::new(&path));
            }
        }
        if let Some(path) = &self.global.dataset {
            files.read("--dataset", path);
        }
        if let Some(path) = &self.global.metrics_file {
            files.write("--metrics-file", path);
        }
        files
    }

    /// Runs the command.
    pub async fn run(self, run: &Run) -> Result<Exit> {
        let files = self.files();
        let (command, global) = (self.command, self.global);
        if !command.tells_when_ready() {
            run.metrics.set_ready();
        }
        if let Some(address) = global.metrics_listen {
            exposition::serve(address, run.clone()).await?;
        }
        let dataset = || {
            let dataset = Dataset::load(global.dataset.as_deref())?;
            if let Some(SecretRef::File(path)) = dataset.source.auth.secret() {
                let mut files = files.clone();
                files.read("the secret of [source.auth]", path);
                files.check()?;
            }
            run.metrics.set_dataset(&dataset.name);
            Ok(dataset)
        };
        command.run(dataset, run, Cli::command).await
    }
}

/// What the values of these options may contain, by the name of their value, is not repeated in an error: a password
/// in a mistyped address, a setting, a credential.
const SECRET_VALUES: [&str; 3] = ["URL", "NAME=VALUE", "KIND:..."];

/// An error about a command line, as users may see it: it names the variable if the value comes from there, and repeats
/// nothing that may be a password.
pub fn explained(mut error: clap::Error, args: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else {
        return without_addresses(error, args);
    };
    let option = shown.split(' ').next().unwrap_or_default().to_string();
    let Some(arg) = find(&Cli::command(), &option) else {
        return without_addresses(error, args);
    };
    let variable = arg.get_env().filter(|_| !is_given(&option, args));
    let place = match variable {
        Some(variable) => variable.to_string_lossy().into_owned(),
        None => shown.clone(),
    };
    let is_secret = |name: &str| SECRET_VALUES.contains(&name);
    let names = arg.get_value_names().unwrap_or_default();
    if error.kind() == ErrorKind::ValueValidation && names.iter().any(|name| is_secret(name)) {
        let reason = error.source().map_or_else(String::new, ToString::to_string);
        let message = format!("invalid value for {place}: {reason}");
        return Cli::command().error(ErrorKind::ValueValidation, message);
    }
    error.insert(ContextKind::InvalidArg, ContextValue::String(place));
    match variable.and_then(std::env::var_os) {
        Some(value) => without_addresses(error, &[value]),
        None => without_addresses(error, args),
    }
}

/// The option of this name, such as `--event-log` or `-X`, of rtp or of one of its commands.
fn find(command: &clap::Command, option: &str) -> Option<Arg> {
    let has_name = |arg: &&Arg| {
        let long = arg.get_long().map(|long| format!("--{long}"));
        let short = arg.get_short().map(|short| format!("-{short}"));
        [long, short].iter().flatten().any(|name| name == option)
    };
    let own = command.get_arguments().find(has_name).cloned();
    own.or_else(|| {
        command
            .get_subcommands()
            .find_map(|command| find(command, option))
    })
}

/// Whether the command line has this option.
fn is_given(option: &str, args: &[OsString]) -> bool {
    let has_it = |arg: &OsString| {
        let arg = arg.to_string_lossy();
        arg == option
            || arg
                .strip_prefix(option)
                .is_some_and(|rest| rest.starts_with('='))
    };
    args.iter().any(has_it)
}

/// The same error without any of these values that looks like an address, wherever the error repeats it.
fn without_addresses(error: clap::Error, values: &[OsString]) -> clap::Error {
    let values = values.iter().map(|value| value.to_string_lossy());
    let values: Vec<String> = values
        .flat_map(|value| {
            let of_option = value.split_once('=').map(|(_, value)| value.to_string());
            [Some(value.into_owned()), of_option]
        })
        .flatten()
        .filter(|value| value.contains('@') || value.contains("://"))
        .collect();
    let told = error.to_string();
    if !values.iter().any(|value| told.contains(value)) {
        return error;
    }
    let message = told.split("\n\nUsage:").next().unwrap_or_default();
    let message = message.split("\n\nFor more").next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let masked = values.iter().fold(message.to_string(), |message, value| {
        message.replace(value, MASK)
    });
    Cli::command().error(error.kind(), masked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(args: &[&str]) -> String {
        let args: Vec<OsString> = [&["rtp"], args]
            .concat()
            .iter()
            .map(OsString::from)
            .collect();
        let error = Cli::try_parse_from(&args).unwrap_err();
        explained(error, &args).to_string()
    }

    #[test]
    fn no_error_repeats_what_may_be_a_password() {
        let addresses = [
            "kafka://me:hunter2@h:9092",
            "kafka:/me:hunter2@h",
            "kafka//me:hunter2@h",
            "kafka:me:hunter2@h",
            "postgress://me:hunter2@h/db",
            "kafka://me:hunter2@x@h",
            "kafka://me:x@hunter2@h",
            "kafka://me%3Ahunter2@h",
            "kafka://me%3ahunter2@h",
            "kafka://me:hunter2/x@h",
            "kafka://me:x/hunter2@h",
            "kafka://me:hunter2?x@h",
            "kafka://me:x?hunter2@h",
            "kafka://me:hunter2#h:9092",
            "kafka://me:hunter2",
            "kafka://h:9092@me:hunter2",
            "kafka://me/hunter2@h",
            "kafka://h?sasl.password=hunter2",
            "sqlite://me:hunter2@h/db",
            "sqlite:postgres://me:hunter2@h/db",
            "hunter2@h:9092",
            "hunter2@h",
            "me:hunter2@h",
        ];
        for address in addresses {
            for (command, option) in [
                ("init", "--event-log"),
                ("init", "--realtime-store"),
                ("init", "--batch-store"),
                ("init", "--event-logs"),
            ] {
                for args in [
                    &[command, option, address][..],
                    &[command, &format!("{option}={address}")],
                ] {
                    let told = told(args);
                    assert!(!told.contains("hunter2"), "{args:?}: {told}");
                }
            }
            for args in [
                &["init", address][..],
                &[address],
                &["completions", address],
                &["init", "--log-format", address],
                &["init", "--metrics-listen", address],
                &["heartbeat", "--timeout", address],
                &["heartbeat", &format!("--format={address}")],
                &["fetch", "--count", address],
                &["fetch", "--as-of", address],
                &["fetch", "--limit", address],
                &["produce", "--max-rejects", address],
                &["mock-api", "--fault", address],
            ] {
                let told = told(args);
                assert!(!told.contains("hunter2"), "{args:?}: {told}");
            }
        }
        for args in [
            &["heartbeat", "--alert-url", "htps:/hooks/hunter2"][..],
            &["mock-api", "--require-auth", "hunter2"],
        ] {
            let told = told(args);
            assert!(!told.contains("hunter2"), "{args:?}: {told}");
        }
    }

    #[test]
    fn an_error_names_its_option_and_the_reason() {
        let told = told(&["init", "--event-log", "mysql://h"]);
        let expected =
            "invalid value for --event-log <URL>: unknown scheme `mysql`; supported: sqlite";
        assert!(told.contains(expected), "{told}");
    }
}
