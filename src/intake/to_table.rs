//! Records on their way into the batch store: staged chunk by chunk, then merged in one transaction or not at all.

use std::path::PathBuf;

use super::check::{self, CheckedChunk, InputSpec, RejectsTo};
use super::chunk::{Chunk, Ended, FileFormat, Line};
use super::rejects::is_standard_stream;
use super::{Intake, IntakeOptions, input, sniff};
use crate::dataset::Dataset;
use crate::error::{Error, Kind, Result};
use crate::exit::Exit;
use crate::ports::batch_store::{BatchStore, Mode};
use crate::ports::ledger::{FileRead, LoadInfo, LoadedFile};
use crate::record::row::{Origin, Rows};
use crate::record::transform::Transform;
use crate::record::value::Value;
use crate::run::read_ahead::Ahead;
use crate::run::retry::Retry;
use crate::run::{add, get};

/// How often a load starts over when the server has lost the staged rows.
const MAX_RESTARTS: u32 = 5;

/// What to load, and how.
#[derive(Debug)]
pub struct Load<'a> {
    /// The input, and what is required of it.
    pub options: IntakeOptions,
    /// What to do with a record whose key is already in the table.
    pub mode: Mode,
    /// The format of all files; none chooses by each file's extension.
    pub format: Option<FileFormat>,
    /// The text of an unquoted CSV cell that means null.
    pub null: String,
    /// The dataset.
    pub dataset: &'a Dataset,
    /// How outages of the store are handled.
    pub retry: Retry,
}

impl Load<'_> {
    /// Loads into the store that `open` opens. Starts over if the server has lost the staged rows and the input can
    /// be read again.
    pub async fn run(&self, open: impl AsyncFn() -> Result<Box<dyn BatchStore>>) -> Result<Exit> {
        sniff::check_files(&self.options.files, self.format)?;
        let outcome = self.load_again(open).await;
        // If nothing is kept, every good record counts as skipped.
        let c = &self.retry.run.counts;
        let accounted = [&c.written, &c.rejected, &c.deduplicated, &c.skipped]
            .map(get)
            .iter()
            .sum::<u64>();
        add(&c.skipped, get(&c.read).saturating_sub(accounted));
        outcome
    }

    async fn load_again(
        &self,
        open: impl AsyncFn() -> Result<Box<dyn BatchStore>>,
    ) -> Result<Exit> {
        let run = &self.retry.run;
        for _ in 0..MAX_RESTARTS {
            let mut store = self.retry.through_outage(&open).await?;
            let error = match self.load(store.as_mut()).await {
                Err(error) if error.kind() != Kind::Internal && store.has_lost_stage() => error,
                outcome => return outcome,
            };
            if self.retry.max_outage.is_zero() || run.stop.requested().is_some() {
                return Err(error);
            }
            if !self.options.can_be_read_again() {
                return Err(error.hint(
                    "nothing was kept, and this input cannot be read twice; run the command again, or load from files",
                ));
            }
            run.warn(format!("{error}; reading the files again"));
            add(&run.counts.retries, 1);
            run.counts.start_over();
        }
        let mut store = self.retry.through_outage(&open).await?;
        self.load(store.as_mut()).await
    }

    /// Stages everything, then merges it.
    async fn load(&self, store: &mut dyn BatchStore) -> Result<Exit> {
        let run = &self.retry.run;
        let mut intake = Intake::open(&self.options, self.format, &self.retry)?;
        let mut info = self.info()?;
        match self.stage(store, &mut intake, &mut info).await {
            Ok(None) => self.add_contents(&mut info, &intake),
            Ok(Some(interrupted)) => return Ok(interrupted),
            Err(e) => return Err(self.say_what_is_kept(e, store).await),
        }
        let merged = self
            .retry
            .through_outage(async || store.merge(self.mode, &info).await)
            .await
            .map_err(nothing_kept)?;
        let counts = &run.counts;
        add(&counts.written, merged.written);
        add(&counts.deduplicated, merged.deduplicated);
        add(&counts.skipped, merged.skipped);
        intake.save_state().await?;
        Ok(intake.verdict())
    }

    /// What the store keeps about the load, as far as it is known before the input is read.
    fn info(&self) -> Result<LoadInfo> {
        let files = &self.options.files;
        let inputs = match files.iter().all(|path| input::is_stdin(path)) {
            true => &[],
            false => files.as_slice(),
        };
        let input = |path: &PathBuf| input::kept_path(path).map(LoadedFile::at);
        let rejects = self.options.rejects.iter();
        let mut rejects = rejects.filter(|path| !is_standard_stream(path));
        Ok(LoadInfo {
            run_id: self.retry.run.id.to_string(),
            started_at: self.retry.run.started_at,
            newest: None,
            inputs: inputs.iter().map(input).collect::<Result<_>>()?,
            rejects: rejects
                .next()
                .map(|path| input::absolute(path))
                .transpose()?,
        })
    }

    /// Adds what was read of the files, so that `verify` can tell whether they are still the same.
    fn add_contents(&self, info: &mut LoadInfo, intake: &Intake<'_>) {
        let inputs = info.inputs.iter_mut();
        for (input, (ended, rejected)) in inputs.zip(intake.ended_with_rejected()) {
            if input.path != "-" && !ended.is_pipe {
                input.read = Some(FileRead {
                    contents: ended.contents.clone(),
                    format: ended.format.option().into(),
                    null: self.null.clone(),
                    rejected: Some(rejected),
                });
            }
        }
    }

    /// Stages a chunk while the next one is read and checked, and notes the newest event time. Every error in the input
    /// is reported here, before anything is merged.
    async fn stage(
        &self,
        store: &mut dyn BatchStore,
        intake: &mut Intake<'_>,
        info: &mut LoadInfo,
    ) -> Result<Option<Exit>> {
        let mut chunks = self.read();
        let mut staged = 0;
        while let Some(chunk) = chunks.next(&self.retry.run.stop).await? {
            intake.enter(&chunk).await?;
            self.refuse_bad(&chunk)?;
            self.retry
                .through_outage(async || store.stage(&chunk.good).await)
                .await
                .map_err(nothing_kept)?;
            staged += chunk.good.len();
            let times = (0..chunk.good.len()).map(|i| chunk.good.meta(i).event_time);
            info.newest = info.newest.max(times.max());
        }
        let interrupted = intake.close().await?;
        if interrupted.is_none() {
            self.check_whole(intake, staged)?;
        }
        Ok(interrupted)
    }

    /// The good records as rows.
    fn read(&self) -> Ahead<CheckedChunk<Rows>> {
        let spec = InputSpec {
            format: self.format,
            null: self.null.clone(),
            destination: self.dataset.batch.table.clone(),
            rejects_to: RejectsTo::File,
        };
        let width = self.dataset.fields.len();
        let empty = move |_: &Chunk| Rows::new(width);
        let take = |rows: &mut Rows,
                    transform: &mut Transform<'_>,
                    line: Line<'_>,
                    values: &[Value<'_>]| {
            let origin = Origin {
                partition: 0,
                offset: i64::try_from(line.number).unwrap_or(i64::MAX),
            };
            transform.values(values, origin, rows)
        };
        let run = &self.retry.run;
        check::read(&self.options, spec, self.dataset, run, empty, take)
    }

    /// Without a reject file, the first bad record ends the load. One that is cut short is missing data instead,
    /// which is reported at the end of the input.
    fn refuse_bad(&self, chunk: &CheckedChunk<Rows>) -> Result<()> {
        match &chunk.first_bad {
            Some(bad) if self.options.rejects.is_none() && !chunk.is_only_cut() => {
                Err(Error::budget(bad)
                    .hint("--rejects FILE sets bad records aside and loads the others"))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the input may replace everything that is stored, and has records where it must.
    fn check_whole(&self, intake: &Intake<'_>, staged: usize) -> Result<()> {
        let ended = intake.ended();
        if let Some(pipe) = ended.iter().find(|i| i.is_pipe && !i.is_complete)
            && self.mode.clears()
        {
            return Err(Error::missing(format!(
                "{} is a pipe that does not end with a trailer, so it may be cut short",
                pipe.name
            ))
            .hint("write it with `rtp fetch --trailer`, or write it to a file first and load the file once its writer has succeeded"));
        }
        if intake.lacks_records() {
            return Err(Error::data("there are no records in the input"));
        }
        let is_open = |i: &&Ended| i.format == FileFormat::Csv && i.is_open && i.records > 0;
        for csv in ended.iter().filter(is_open) {
            let error = csv.may_be_cut();
            if self.mode.clears() {
                return Err(error.hint(
                    "if it is complete, add a newline at its end; --mode replace deletes every row that is not in it",
                ));
            }
            self.retry.run.warn(error.to_string());
        }
        let records: u64 = ended.iter().map(|i| i.records).sum();
        if records > 0 && staged == 0 {
            return Err(Error::budget(format!(
                "every record in the input is bad ({records} read)"
            ))
            .hint("the --rejects file says why"));
        }
        if !self.mode.clears() {
            return Ok(());
        }
        let is_empty = |i: &&Ended| i.records == 0 && (records == 0 || !i.is_complete);
        match ended.iter().find(is_empty) {
            Some(empty) if self.mode == Mode::Replace => Err(Error::missing(format!(
                "there are no records in {}, and --mode replace needs at least one",
                empty.name
            ))
            .hint("--allow-empty accepts that, even if it leaves the table empty")),
            _ => Ok(()),
        }
    }

    /// Adds to an error in the input what remains in the table.
    async fn say_what_is_kept(&self, error: Error, store: &mut dyn BatchStore) -> Error {
        if matches!(
            error.kind(),
            Kind::Unavailable | Kind::Refused | Kind::Internal
        ) {
            return error;
        }
        if !self.mode.clears() {
            return error.context("nothing was kept");
        }
        let rows = match store.count().await {
            Ok(1) => "1 row".into(),
            Ok(rows) => format!("{rows} rows"),
            Err(_) => "rows".into(), // a failure to count them is not the error to report
        };
        error.context(format_args!(
            "nothing was loaded, {} keeps its {rows}",
            self.dataset.batch.table
        ))
    }
}

/// A row that the store refuses is one bad record, but it ends the load, so that nothing is kept.
fn nothing_kept(error: Error) -> Error {
    match error.kind() {
        Kind::Data => error.as_kind(Kind::Budget),
        _ => error,
    }
}
