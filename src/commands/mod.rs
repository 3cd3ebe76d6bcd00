//! One command, one file: its `Args` (whose doc comments are the help), `run`, helpers in call order.

pub mod aggregate;
mod args;
pub mod completions;
pub mod dashboard;
pub mod explain;
pub mod fetch;
pub mod heartbeat;
pub mod init;
pub mod load_batch;
pub mod man;
pub mod mock_api;
pub mod produce;
pub mod stream;
pub mod transform;
pub mod verify;
pub mod view;

use clap::Subcommand;

use crate::dataset::Dataset;
use crate::error::Result;
use crate::exit::Exit;
use crate::run::Run;
use crate::run::files::Files;

/// The commands, in the order of the pipeline; their own files hold the help texts.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)] // a doc comment here would replace the help text of the command's `Args`
pub enum Command {
    Fetch(fetch::Args),
    Produce(produce::Args),
    Stream(stream::Args),
    LoadBatch(load_batch::Args),
    Transform(transform::Args),
    Verify(verify::Args),
    View(view::Args),
    Aggregate(aggregate::Args),
    Explain(Box<explain::Args>),
    Heartbeat(Box<heartbeat::Args>),
    Dashboard(Box<dashboard::Args>),
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
            Command::Transform(_) => "transform",
            Command::Verify(_) => "verify",
            Command::View(_) => "view",
            Command::Aggregate(_) => "aggregate",
            Command::Explain(_) => "explain",
            Command::Heartbeat(_) => "heartbeat",
            Command::Dashboard(_) => "dashboard",
            Command::Init(_) => "init",
            Command::MockApi(_) => "mock-api",
            Command::Completions(_) => "completions",
            Command::Man(_) => "man",
        }
    }

    /// The files that it reads and writes, by its own options.
    pub fn files(&self) -> Files {
        match self {
            Command::Fetch(args) => args.files(),
            Command::Produce(args) => args.files(),
            Command::LoadBatch(args) => args.files(),
            Command::Transform(args) => args.files(),
            Command::Verify(args) => args.files(),
            Command::Aggregate(args) => args.files(),
            Command::Explain(args) => args.files(),
            Command::Heartbeat(args) => args.files(),
            Command::Dashboard(args) => args.files(),
            _ => Files::default(),
        }
    }

    /// Whether its counts are worth drawing: not where records are printed, nor in the middle of a
    /// pipe, because the last command of the pipe draws its own.
    pub fn draws_progress(&self) -> bool {
        match self {
            Command::Fetch(args) => args.writes_a_file(),
            Command::Produce(_) | Command::Stream(_) | Command::LoadBatch(_) => true,
            _ => false,
        }
    }

    /// What is left when a signal ends it early, for people.
    pub fn kept_when_interrupted(&self) -> &'static str {
        match self {
            Command::Fetch(args) if args.has_out() => "the --out file is unchanged",
            Command::Fetch(_) => "the pages that were written are complete",
            Command::Produce(_) => {
                "the records that were read are kept; send the input again for the others, of which some may be kept, too"
            }
            Command::Stream(_) => {
                "the next run continues after the last commit, with what is not stored yet"
            }
            Command::LoadBatch(_) => {
                "nothing was kept, unless the connection was lost during the commit"
            }
            Command::Transform(_) => "the answers that were written are complete",
            Command::View(_) => "the rows that were written are complete",
            Command::Verify(_) => "there is no verdict",
            Command::Aggregate(_) => "the figures of each day are complete or as they were",
            Command::Explain(_) => "there is no answer",
            Command::Heartbeat(_) => "the checks are incomplete",
            Command::Dashboard(_) => "its history is kept",
            Command::Init(_) => "what was created stays; run it again for the rest",
            Command::MockApi(_) | Command::Completions(_) | Command::Man(_) => "nothing is kept",
        }
    }

    /// Whether the command itself says when it is ready.
    pub fn tells_when_ready(&self) -> bool {
        matches!(self, Command::Stream(_) | Command::Heartbeat(_))
    }

    /// Runs the command. `dataset` loads the dataset that the command line names, and `program` describes the
    /// whole command line.
    pub async fn run(
        self,
        dataset: impl Fn() -> Result<Dataset>,
        run: &Run,
        program: fn() -> clap::Command,
    ) -> Result<Exit> {
        match self {
            Command::Fetch(args) => fetch::run(&args, &dataset()?, run).await,
            Command::Produce(args) => produce::run(&args, &dataset()?, run).await,
            Command::Stream(args) => stream::run(&args, &dataset()?, run).await,
            Command::LoadBatch(args) => load_batch::run(&args, &dataset()?, run).await,
            Command::Transform(args) => transform::run(&args, &dataset()?, run).await,
            Command::Verify(args) => verify::run(&args, &dataset()?, run).await,
            Command::View(args) => view::run(&args, &dataset()?, run).await,
            Command::Aggregate(args) => aggregate::run(&args, &dataset()?, run).await,
            Command::Explain(args) => explain::run(&args, &dataset()?, run).await,
            Command::Heartbeat(args) => heartbeat::run(&args, &dataset()?, run).await,
            Command::Dashboard(args) => dashboard::run(&args, &dataset()?, run).await,
            Command::Init(args) => init::run(&args, &dataset()?, run).await,
            Command::MockApi(args) => mock_api::run(args, run).await,
            Command::Completions(args) => completions::run(&args, program()),
            Command::Man(args) => man::run(&args, program()),
        }
    }
}
