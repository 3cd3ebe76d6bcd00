//! `rtp load-batch`: NDJSON into the batch store, one transaction or nothing.

use std::path::PathBuf;

use tokio::sync::Mutex;

use crate::batch_store::Mode;
use crate::connect;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::input::{Chunk, Input};
use crate::rejects::{Budget, RejectFile, Rejected};
use crate::retry::{MaxOutage, through_outage};
use crate::row::{Origin, Rows};
use crate::run::{Run, add, get};
use crate::transform::Transform;
use crate::url::BatchStoreArg;

/// Load NDJSON into the batch store, in one transaction or not at all
///
/// Bad lines go to the file of --rejects, and the command ends 1; without that file the first bad
/// line ends it with status 3 and nothing is kept.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files to read; `-` or none is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    batch_store: BatchStoreArg,
    /// What to do with a key that is already there
    #[arg(long, value_enum, default_value = "update-if-newer")]
    mode: Mode,
    /// Write bad lines to this file: line, byte offset, field, rule, reason and the line itself
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Keep nothing and end with status 3 after more bad lines than this
    #[arg(long, value_name = "N|P%", requires = "rejects")]
    max_rejects: Option<Budget>,
    /// Keep nothing and end with status 5 unless the input ends with the trailer of `fetch --trailer`
    #[arg(long)]
    require_complete: bool,
    /// End with status 1 if there is no record
    #[arg(long)]
    require_records: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

/// Reads, checks, stages and merges.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let outcome = load(args, dataset, run).await;
    // Where nothing is kept, every good record was passed over.
    let c = &run.counts;
    let accounted = [&c.written, &c.rejected, &c.deduplicated, &c.skipped]
        .map(get)
        .iter()
        .sum::<u64>();
    add(&c.skipped, get(&c.read).saturating_sub(accounted));
    outcome
}

async fn load(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let mut input = Input::new(&args.files);
    let mut rejects = args
        .rejects
        .as_deref()
        .map(RejectFile::create)
        .transpose()?;
    let store = Mutex::new(connect::batch_store(
        &args.batch_store.batch_store,
        dataset,
    )?);
    let counts = &run.counts;
    while let Some(chunk) = tokio::task::block_in_place(|| input.next_chunk())? {
        if let Some(signal) = run.stop.requested() {
            return Ok(signal.exit());
        }
        add(&counts.read, chunk.len() as u64 + chunk.skipped);
        add(&counts.bytes, chunk.size() as u64);
        add(&counts.skipped, chunk.skipped);
        let rows = check(&chunk, dataset, run, rejects.as_mut())?;
        check_budget(args, run, false)?;
        through_outage(run, args.outage.bounded(), || async {
            store.lock().await.stage(&rows).await
        })
        .await?;
    }
    if let Some(file) = &mut rejects {
        file.sync()?;
    }
    check_budget(args, run, true)?;
    if args.require_complete && !input.is_complete() {
        return Err(Error::missing(
            "the input does not end with a trailer, so it may be cut short; nothing is kept",
        )
        .hint("write it with `rtp fetch --trailer`, or leave out --require-complete"));
    }
    let merged = through_outage(run, args.outage.bounded(), || async {
        store.lock().await.merge(args.mode, &run.id).await
    })
    .await?;
    add(&counts.written, merged.written);
    add(&counts.deduplicated, merged.deduplicated);
    add(&counts.skipped, merged.skipped);
    if merged == Default::default() && get(&counts.rejected) == 0 {
        run.warn("there was no record in the input");
        return Ok(Exit::verdict(!args.require_records));
    }
    Ok(Exit::verdict(get(&counts.rejected) == 0))
}

/// The rows of the good lines; the bad ones go to the file, or end the load where there is none.
fn check(
    chunk: &Chunk,
    dataset: &Dataset,
    run: &Run,
    mut rejects: Option<&mut RejectFile>,
) -> Result<Rows> {
    let mut transform = Transform::new(dataset, crate::time::now_ms());
    let mut rows = Rows::new(dataset.fields.len());
    for line in chunk.lines() {
        let origin = Origin {
            partition: 0,
            offset: i64::try_from(line.number).unwrap_or(i64::MAX),
        };
        let Err(reject) = transform.event(line.bytes, origin, &mut rows) else {
            continue;
        };
        add(&run.counts.rejected, 1);
        let Some(file) = &mut rejects else {
            let what = format!(
                "line {}: {}; nothing is kept",
                line.number,
                reject.describe(dataset)
            );
            return Err(Error::budget(what)
                .hint("--rejects FILE keeps bad lines aside and loads the others"));
        };
        file.write(
            dataset,
            &Rejected {
                source: &dataset.batch.table,
                partition: None,
                offset: i64::try_from(line.offset).unwrap_or(i64::MAX),
                line: Some(line.number),
                key: None,
                value: Some(line.bytes),
                headers: &[],
                reject: &reject,
            },
        )?;
    }
    Ok(rows)
}

fn check_budget(args: &Args, run: &Run, at_end: bool) -> Result<()> {
    let rejected = get(&run.counts.rejected);
    args.max_rejects.map_or(Ok(()), |budget| {
        budget.check(
            rejected,
            get(&run.counts.read) - get(&run.counts.skipped),
            at_end,
        )
    })
}
