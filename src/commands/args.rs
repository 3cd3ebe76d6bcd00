//! Flags that several commands share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;

use crate::error::{Error, Result};
use crate::intake::IntakeOptions;
use crate::intake::rejects::Budget;
use crate::ports::batch_store::BatchStores;
use crate::ports::event_log::{EventLog, Setting};
use crate::ports::realtime_store::RealtimeStores;
use crate::run::Run;
use crate::run::files::{Files, is_same_file};
use crate::run::retry::Retry;
use crate::servers;

/// `--api`: the address, if there is one, and where it comes from, for messages.
#[derive(Clone, Debug)]
pub(super) struct ApiArg(Option<(String, &'static str)>);

/// How it is declared.
#[derive(clap::Args)]
struct DeclaredApi {
    /// Address of the API; file:// reads a saved response, or a folder of *.json [default: the dataset's source.url]
    #[arg(long, env = "RTP_API_URL", hide_env_values = true, value_name = "URL")]
    api: Option<String>,
}

impl ApiArg {
    /// The address and its place.
    pub(super) fn given(&self) -> Option<(&str, &'static str)> {
        self.0.as_ref().map(|(api, place)| (api.as_str(), *place))
    }
}

impl clap::FromArgMatches for ApiArg {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let place = match matches.value_source("api") {
            Some(ValueSource::EnvVariable) => "RTP_API_URL",
            _ => "--api",
        };
        let DeclaredApi { api } = DeclaredApi::from_arg_matches(matches)?;
        Ok(ApiArg(api.map(|api| (api, place))))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for ApiArg {
    fn augment_args(command: clap::Command) -> clap::Command {
        DeclaredApi::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        DeclaredApi::augment_args_for_update(command)
    }
}

/// The addresses that are used if none is given.
const EVENT_LOG: &str = "sqlite:.rtp/log.db";
const REALTIME_STORE: &str = "sqlite:.rtp/realtime.db";
const BATCH_STORE: &str = "sqlite:.rtp/batch.db";

/// `--event-log`, and the settings of its client.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct EventLogArgs {
    /// Event log: sqlite:PATH or kafka://HOST:PORT[,HOST:PORT]
    #[arg(
        long,
        env = "RTP_EVENT_LOG",
        hide_env_values = true,
        value_name = "URL",
        default_value = EVENT_LOG,
        value_parser = servers::event_log
    )]
    event_log: Arc<dyn EventLog>,
    /// Set a property of the Kafka client, librdkafka, for example linger.ms=1; repeatable (Kafka only)
    #[arg(short = 'X', value_name = "NAME=VALUE")]
    settings: Vec<String>,
}

/// Parsed only after the command line, whose errors repeat the text: it may be a secret.
fn setting(text: &str) -> Result<Setting> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(Setting::new("-X", name, value)),
        _ => Err(Error::invalid(
            "-X: expected NAME=VALUE, for example linger.ms=1",
        )),
    }
}

impl EventLogArgs {
    /// Adds the log's file, if it is one, which nothing may overwrite.
    pub(super) fn read_by(&self, files: &mut Files) {
        if let Some(path) = self.event_log.file() {
            files.read("the event log", path);
        }
    }

    /// The address, with the settings of its client: those of `-X` after those of the command's own options.
    pub(super) fn with(&self, own: impl IntoIterator<Item = Setting>) -> Result<Arc<dyn EventLog>> {
        let own = own.into_iter().map(Ok);
        let given = self.settings.iter().map(|text| setting(text));
        let settings = own.chain(given).collect::<Result<Vec<Setting>>>()?;
        let Some(last) = settings.last() else {
            return Ok(Arc::clone(&self.event_log));
        };
        self.event_log.with_settings(&settings).ok_or_else(|| {
            let (option, log) = (last.option, &self.event_log);
            Error::invalid(format!(
                "{option} works only with Kafka, but the event log is {log}"
            ))
        })
    }
}

/// `--realtime-store`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct RealtimeStoreArg {
    /// Real-time store: sqlite:PATH or cassandra://HOST:PORT[,HOST:PORT]
    #[arg(
        long,
        env = "RTP_REALTIME_STORE",
        hide_env_values = true,
        value_name = "URL",
        default_value = REALTIME_STORE,
        value_parser = servers::realtime_store
    )]
    pub(super) realtime_store: Arc<dyn RealtimeStores>,
}

/// `--batch-store`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct BatchStoreArg {
    /// Batch store: sqlite:PATH or postgres://USER@HOST:PORT/DATABASE
    #[arg(
        long,
        env = "RTP_BATCH_STORE",
        hide_env_values = true,
        value_name = "URL",
        default_value = BATCH_STORE,
        value_parser = servers::batch_store
    )]
    pub(super) batch_store: Arc<dyn BatchStores>,
}

/// An error if the log and the real-time store are one file: the stream sends dead letters while it holds the store's
/// write lock, so it would wait for itself.
pub(super) fn apart(log: &dyn EventLog, store: &dyn RealtimeStores) -> Result<()> {
    match (log.file(), store.file()) {
        (Some(a), Some(b)) if is_same_file(a, b) => Err(Error::invalid(format!(
            "the event log and the real-time store are the same file, {}",
            a.display()
        ))
        .hint("give each a file of its own, with --event-log and --realtime-store")),
        _ => Ok(()),
    }
}

/// All three servers.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ServerArgs {
    #[command(flatten)]
    pub(super) log: EventLogArgs,
    #[command(flatten)]
    pub(super) realtime: RealtimeStoreArg,
    #[command(flatten)]
    pub(super) batch: BatchStoreArg,
}

impl ServerArgs {
    /// The addresses of the event log, the real-time and the batch store that other commands do not use by themselves.
    pub(super) fn not_default(&self) -> [Option<String>; 3] {
        let given = |address: String, default| Some(address).filter(|address| address != default);
        [
            given(self.log.event_log.to_string(), EVENT_LOG),
            given(self.realtime.realtime_store.to_string(), REALTIME_STORE),
            given(self.batch.batch_store.to_string(), BATCH_STORE),
        ]
    }
}

/// `--max-outage`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct MaxOutage {
    /// How long to wait for a dependency that is down; 0 fails at once, or after 10s if the dependency hangs
    /// rather than refuses [default: 5m, or no limit for a stream that follows its topic]
    #[arg(long, value_name = "DURATION", value_parser = crate::time::parse_duration)]
    max_outage: Option<Duration>,
}

/// How long a command runs, which decides the default of `--max-outage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunsUntil {
    /// Until its work is done: an outage may last 5 minutes.
    Done,
    /// Until it is told to stop: through any outage.
    Told,
}

impl MaxOutage {
    /// How a run handles outages.
    pub(super) fn retry(self, run: &Run, until: RunsUntil) -> Retry {
        let by_default = match until {
            RunsUntil::Done => Duration::from_secs(300),
            RunsUntil::Told => Duration::MAX,
        };
        Retry {
            run: run.clone(),
            max_outage: self.max_outage.unwrap_or(by_default),
        }
    }
}

/// The input, and what is required of it.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct IntakeArgs {
    /// Files to read; `-` or no file means standard input
    #[arg(value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// Write bad records to this file, or to standard output for `-`, each with its run, input, line, byte offset,
    /// field, rule and reason
    #[arg(long, value_name = "FILE")]
    pub(super) rejects: Option<PathBuf>,
    /// End with status 3 if there are more bad records than this; a percentage is checked at the end, and from the
    /// 1,000th record on
    #[arg(long, value_name = "N|P%")]
    pub(super) max_rejects: Option<Budget>,
    /// End with status 5 unless each file ends with the trailer that `fetch --trailer` writes; CSV has no trailer, so
    /// a CSV file must end with a newline
    #[arg(long)]
    pub(super) require_complete: bool,
    /// End with status 1, and save no bookmark, if there are no records
    #[arg(long)]
    pub(super) require_records: bool,
    /// Save the bookmark that `fetch --state` sends along to this file, once all records before it are durable
    #[arg(long, value_name = "FILE")]
    pub(super) commit_state: Option<PathBuf>,
}

impl IntakeArgs {
    /// The files that are read and written.
    pub(super) fn named_files(&self) -> Files {
        let mut files = Files::default();
        files.read_inputs(&self.files);
        for (option, path) in [
            ("--rejects", &self.rejects),
            ("--commit-state", &self.commit_state),
        ] {
            if let Some(path) = path {
                files.write(option, path);
            }
        }
        files
    }

    /// The same options for code that knows nothing of command lines.
    pub(super) fn options(&self) -> IntakeOptions {
        IntakeOptions {
            files: self.files.clone(),
            rejects: self.rejects.clone(),
            max_rejects: self.max_rejects,
            require_complete: self.require_complete,
            require_records: self.require_records,
            commit_state: self.commit_state.clone(),
        }
    }
}
