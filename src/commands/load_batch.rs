//! `rtp load-batch`: NDJSON or CSV into the batch store, one transaction or nothing.

use std::path::{Path, PathBuf};

use crate::commands::args::{BatchStoreArg, IntakeArgs, MaxOutage, RunsUntil};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::intake::chunk::FileFormat;
use crate::intake::input;
use crate::intake::to_table::Load;
use crate::ports::batch_store::Mode;
use crate::run::Run;
use crate::run::files::Files;

/// Load NDJSON or CSV into the batch store, in one transaction or not at all
///
/// Bad records go to the --rejects file, and the command ends with status 1; without --rejects, the first bad
/// record ends it with status 3, as does one that the table refuses, and an input whose records are all bad. If
/// anything stops the load, nothing is kept. The header of a CSV file names the fields.
///
/// With --mode replace, input that is empty, or truncated because its writer failed, does not empty the table:
/// each file must have a record, a pipe must end with the trailer that `fetch --trailer` writes, and at least
/// one record must be good. Otherwise the table stays as it is, and the status is 5, or 3 if all records are
/// bad.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    intake: IntakeArgs,
    #[command(flatten)]
    batch_store: BatchStoreArg,
    /// What to do with a record whose key is already in the table
    #[arg(long, value_enum, default_value = "update-if-newer")]
    mode: Mode,
    /// With --mode replace: accept files without records, even if that leaves the table empty
    #[arg(long, conflicts_with = "require_records")]
    allow_empty: bool,
    /// Format of all files [default: csv for files named *.csv, ndjson for other files and standard input]
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
    /// Text of an unquoted CSV cell that means null; a quoted cell is never null
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

const TO_A_FILE_FIRST: &str =
    "write it to a file first, and load the file once its writer has succeeded";

impl Args {
    /// The files that it reads and writes.
    pub fn files(&self) -> Files {
        let mut files = self.intake.named_files();
        if let Some(path) = self.batch_store.batch_store.file() {
            files.read("the batch store", path);
        }
        files
    }

    fn check(&self) -> Result<()> {
        let is_csv_pipe = self.paths().any(|path| self.is_csv_pipe(path));
        if is_csv_pipe && self.intake.require_complete {
            return Err(Error::invalid(
                "--require-complete does not accept CSV from a pipe, because no trailer shows that it is complete",
            )
            .hint(TO_A_FILE_FIRST));
        }
        if self.intake.max_rejects.is_some() && self.intake.rejects.is_none() {
            return Err(Error::invalid(
                "--max-rejects needs --rejects; without it, the first bad record ends the load",
            ));
        }
        if self.allow_empty && self.mode != Mode::Replace {
            return Err(Error::invalid(
                "--allow-empty works only with --mode replace; other modes delete no rows",
            ));
        }
        if is_csv_pipe && self.mode == Mode::Replace {
            return Err(Error::invalid(
                "--mode replace does not accept CSV from a pipe, because no trailer shows that it is complete",
            )
            .hint(TO_A_FILE_FIRST));
        }
        Ok(())
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let files = &self.intake.files;
        let stdin = files.is_empty().then_some(Path::new("-"));
        files.iter().map(PathBuf::as_path).chain(stdin)
    }

    fn is_csv_pipe(&self, path: &Path) -> bool {
        let format = self.format.unwrap_or_else(|| FileFormat::of(path));
        format == FileFormat::Csv && input::is_pipe(path)
    }
}

/// Reads, checks, stages and merges.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    args.check()?;
    let load = Load {
        options: args.intake.options(),
        mode: match args.allow_empty {
            true => Mode::ReplaceOrEmpty,
            false => args.mode,
        },
        format: args.format,
        null: args.null.clone(),
        dataset,
        retry: args.outage.retry(run, RunsUntil::Done),
    };
    let store = &args.batch_store.batch_store;
    load.run(async || store.open(dataset).await).await
}
