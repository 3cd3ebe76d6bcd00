//! `rtp load-batch`: NDJSON or CSV into the batch store, one transaction or nothing.

use tokio::sync::Mutex;

use crate::ahead::Ahead;
use crate::batch_store::{BatchStore, Mode};
use crate::connect;
use crate::dataset::Dataset;
use crate::error::{Context, Error, Result};
use crate::exit::Exit;
use crate::input::{Chunk, Format, Line};
use crate::intake::{self, Aside, Checked, Intake, IntakeArgs, Reading};
use crate::retry::{MaxOutage, through_outage};
use crate::row::{Origin, Rows};
use crate::run::{Run, add, get};
use crate::transform::Transform;
use crate::url::BatchStoreArg;
use crate::value::Value;

/// Load NDJSON or CSV into the batch store, in one transaction or not at all
///
/// Bad records go to the file of --rejects, and the command ends 1; without that file the first one
/// ends it with status 3. Whatever stops it, nothing is kept. The header of a CSV file names the fields.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    intake: IntakeArgs,
    #[command(flatten)]
    batch_store: BatchStoreArg,
    /// What to do with a key that is already there
    #[arg(long, value_enum, default_value = "update-if-newer")]
    mode: Mode,
    /// How all files are written [default: csv for files that end so, ndjson for others and standard input]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What a CSV cell without quotes says for null; one in quotes is never null
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    null: String,
    #[command(flatten)]
    outage: MaxOutage,
}

impl Args {
    fn check(&self) -> Result<()> {
        let files = &self.intake.files;
        let is_csv = match self.format {
            Some(format) => format == Format::Csv,
            None => files.iter().any(|file| Format::of(file) == Format::Csv),
        };
        if is_csv && self.intake.require_complete {
            return Err(Error::invalid(
                "--require-complete does not go with CSV, which has no trailers",
            ));
        }
        if self.intake.max_rejects.is_some() && self.intake.rejects.is_none() {
            return Err(Error::invalid(
                "--max-rejects needs --rejects, without which no bad record is let pass",
            ));
        }
        Ok(())
    }
}

/// How often a load starts over when the server has lost what was staged.
const RESTARTS: u32 = 5;

/// Reads, checks, stages and merges.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    args.check()?;
    let outcome = load_again(args, dataset, run).await;
    // Where nothing is kept, every good record was passed over.
    let c = &run.counts;
    let accounted = [&c.written, &c.rejected, &c.deduplicated, &c.skipped]
        .map(get)
        .iter()
        .sum::<u64>();
    add(&c.skipped, get(&c.read).saturating_sub(accounted));
    outcome
}

/// Loads, and starts over where the server has lost what was staged, if the input can be read again.
async fn load_again(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let max_outage = args.outage.bounded();
    for _ in 0..RESTARTS {
        let store = open(args, dataset, run).await?;
        let error = match load(args, dataset, run, &store).await {
            Err(error) if store.lock().await.has_lost_stage() => error,
            outcome => return outcome,
        };
        if max_outage.is_zero() || run.stop.requested().is_some() {
            return Err(error);
        }
        if !args.intake.can_be_read_again() {
            return Err(error.hint(
                "nothing is kept, and this input cannot be read twice: run it again, or load from files",
            ));
        }
        run.warn(format!("{error}; reading the files again"));
        add(&run.counts.retries, 1);
        run.counts.start_over();
    }
    let store = open(args, dataset, run).await?;
    load(args, dataset, run, &store).await
}

async fn open(args: &Args, dataset: &Dataset, run: &Run) -> Result<Mutex<Box<dyn BatchStore>>> {
    let url = &args.batch_store.batch_store;
    through_outage(run, args.outage.bounded(), || {
        connect::batch_store(url, dataset)
    })
    .await
    .map(Mutex::new)
}

/// Stages a chunk while the next one is read and checked, then merges all.
async fn load(
    args: &Args,
    dataset: &Dataset,
    run: &Run,
    store: &Mutex<Box<dyn BatchStore>>,
) -> Result<Exit> {
    let mut intake = Intake::open(&args.intake, run)?;
    let mut chunks = read(args, dataset, run);
    while let Some(chunk) = chunks.next(&run.stop).await? {
        intake.enter(&chunk).context("nothing is kept")?;
        refuse_bad(args, &chunk)?;
        through_outage(run, args.outage.bounded(), || async {
            store.lock().await.stage(&chunk.good).await
        })
        .await?;
    }
    if let Some(interrupted) = intake.close().context("nothing is kept")? {
        return Ok(interrupted);
    }
    let merged = through_outage(run, args.outage.bounded(), || async {
        store.lock().await.merge(args.mode, &run.id).await
    })
    .await?;
    let counts = &run.counts;
    add(&counts.written, merged.written);
    add(&counts.deduplicated, merged.deduplicated);
    add(&counts.skipped, merged.skipped);
    intake.save_state()?;
    Ok(intake.verdict())
}

/// The good records as rows.
fn read(args: &Args, dataset: &Dataset, run: &Run) -> Ahead<Checked<Rows>> {
    let reading = Reading {
        format: args.format,
        null: args.null.clone(),
        destination: dataset.batch.table.clone(),
        aside: Aside::File,
    };
    let width = dataset.fields.len();
    let empty = move |_: &Chunk| Rows::new(width);
    let take =
        |rows: &mut Rows, transform: &mut Transform<'_>, line: Line<'_>, values: &[Value<'_>]| {
            let origin = Origin {
                partition: 0,
                offset: i64::try_from(line.number).unwrap_or(i64::MAX),
            };
            transform.values(values, origin, rows)
        };
    intake::read(&args.intake, reading, dataset, run, empty, take)
}

/// Without a reject file the first bad record ends the load. One that is cut short is missing data,
/// which the end of the input tells.
fn refuse_bad(args: &Args, chunk: &Checked<Rows>) -> Result<()> {
    match &chunk.first_bad {
        Some(bad) if args.intake.rejects.is_none() && !chunk.is_only_cut() => {
            Err(Error::budget(format!("{bad}; nothing is kept"))
                .hint("--rejects FILE keeps bad records aside and loads the others"))
        }
        _ => Ok(()),
    }
}
