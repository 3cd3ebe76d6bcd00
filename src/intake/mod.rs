//! Records in: read and checked ahead of their use, then sent to the log (`produce`) or loaded into the batch
//! store (`load-batch`). Bad ones are set aside within a budget, and `fetch`'s bookmark is saved once the
//! records before it are durable.

pub mod check;
pub mod chunk;
pub mod csv;
pub mod dead_letter;
pub mod input;
pub mod loaded;
pub mod lookup;
pub mod marks;
mod oversized;
pub mod record_key;
pub mod reject_lines;
pub mod rejects;
pub mod sniff;
pub mod to_log;
pub mod to_table;

use std::fs::File;
use std::path::PathBuf;

use crate::durable;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::intake::check::CheckedChunk;
use crate::intake::chunk::{Ended, FileFormat};
use crate::intake::rejects::{Budget, RejectFile};
use crate::run::retry::Retry;
use crate::run::{add, get};

/// The input, and what is required of it.
#[derive(Clone, Debug)]
pub struct IntakeOptions {
    /// Files to read; `-` or no file means standard input.
    pub files: Vec<PathBuf>,
    /// Where bad records are written.
    pub rejects: Option<PathBuf>,
    /// How many bad records are too many.
    pub max_rejects: Option<Budget>,
    /// Whether each file must end with a trailer.
    pub require_complete: bool,
    /// Whether there must be at least one record.
    pub require_records: bool,
    /// Where to save the bookmark that comes with the records.
    pub commit_state: Option<PathBuf>,
}

impl IntakeOptions {
    /// Whether the input can be read a second time: true for files, not for pipes. Nor can rejects be taken back from
    /// a pipe.
    pub fn can_be_read_again(&self) -> bool {
        let is_file = |path: &PathBuf| path.is_file() && !rejects::is_standard_stream(path);
        let mut files = self.files.iter().chain(&self.rejects);
        !self.files.is_empty() && files.all(is_file)
    }
}

/// Does the bookkeeping of one input: counts, rejects, budget and bookmark.
#[derive(Debug)]
pub struct Intake<'a> {
    options: &'a IntakeOptions,
    retry: Retry,
    reject_file: Option<RejectFile>,
    _held_state: Option<File>,
    state: Option<String>,
    had_state: bool,
    records: u64,
    ended: Vec<Ended>,
    /// How many records of each of these were rejected; then, of the file that is read now.
    rejected: Vec<u64>,
    cut: Option<String>,
}

impl<'a> Intake<'a> {
    /// Looks at all input files, opens the reject file, and reserves the state file for this process.
    pub fn open(
        options: &'a IntakeOptions,
        format: Option<FileFormat>,
        retry: &Retry,
    ) -> Result<Self> {
        sniff::check_files(&options.files, format)?;
        let reject_path = options.rejects.as_deref();
        Ok(Intake {
            options,
            retry: retry.clone(),
            reject_file: reject_path
                .map(|path| RejectFile::create(path, &retry.run))
                .transpose()?,
            _held_state: options
                .commit_state
                .as_deref()
                .map(durable::hold)
                .transpose()?,
            state: None,
            had_state: false,
            records: 0,
            ended: Vec::new(),
            rejected: vec![0],
            cut: None,
        })
    }

    /// Counts a chunk as read, and writes its bad records to the reject file.
    pub async fn enter<T>(&mut self, checked: &CheckedChunk<T>) -> Result<()> {
        let kept = match &mut self.reject_file {
            None => Ok(()),
            // An input without records leaves what an earlier run has rejected.
            Some(_) if checked.records == 0 => Ok(()),
            Some(file) => {
                file.add(&checked.reject_lines);
                self.retry.through_outage(async || file.flush()).await
            }
        };
        let counts = &self.retry.run.counts;
        add(&counts.read, checked.records + checked.skipped);
        add(&counts.bytes, checked.bytes);
        add(&counts.skipped, checked.skipped);
        add(&counts.rejected, checked.rejected);
        kept?; // they count all the same, so that the summary balances
        counts.add_rejected(&checked.groups);
        self.records += checked.records;
        if let Some(rejected) = self.rejected.last_mut() {
            *rejected += checked.rejected;
        }
        if let Some(ended) = &checked.ended {
            self.ended.push(ended.clone());
            self.rejected.push(0);
        }
        if checked.cut.is_some() {
            self.cut.clone_from(&checked.cut);
        }
        if checked.state.is_some() {
            self.state.clone_from(&checked.state);
        }
        self.check_budget(At::Chunk)
    }

    /// Checks the whole input before its last records count: an error if a requirement is not met, a status if a
    /// signal interrupted the reading. Bad records are durable afterwards.
    pub async fn close(&mut self) -> Result<Option<Exit>> {
        self.sync().await?;
        if let Some(signal) = self.retry.run.stop.requested() {
            self.check_budget(At::End)?;
            return Ok(Some(signal.exit()));
        }
        if let Some(place) = &self.cut {
            return Err(Error::missing(format!(
                "the input is cut short: {place} ends in the middle of a record"
            )));
        }
        self.check_budget(At::End)?;
        self.check_complete()?;
        Ok(None)
    }

    /// NDJSON is complete by its trailer. CSV has none: only its last record can be checked, which may be cut inside
    /// its last cell and still look whole.
    fn check_complete(&self) -> Result<()> {
        if !self.options.require_complete {
            return Ok(());
        }
        for input in &self.ended {
            match input.format {
                FileFormat::Ndjson if !input.is_complete => {
                    return Err(Error::missing(format!(
                        "{} does not end with a trailer, so it may be cut short",
                        input.name
                    ))
                    .hint("write it with `rtp fetch --trailer`, or omit --require-complete"));
                }
                FileFormat::Csv if input.is_open => {
                    return Err(input.may_be_cut().hint(
                        "if it is complete, add a newline at its end, or omit --require-complete",
                    ));
                }
                FileFormat::Ndjson | FileFormat::Csv => {}
            }
        }
        Ok(())
    }

    /// The files that were read to their end.
    pub fn ended(&self) -> &[Ended] {
        &self.ended
    }

    /// The same, each with how many of its records were rejected.
    pub fn ended_with_rejected(&self) -> impl Iterator<Item = (&Ended, u64)> {
        self.ended.iter().zip(self.rejected.iter().copied())
    }

    /// Whether there are no records although there must be some.
    pub fn lacks_records(&self) -> bool {
        self.options.require_records && self.records == 0
    }

    /// Saves the last bookmark; everything before it must be durable.
    pub async fn save_state(&mut self) -> Result<()> {
        if self.lacks_records() {
            return Ok(());
        }
        let (Some(path), Some(state)) = (&self.options.commit_state, self.state.take()) else {
            return Ok(());
        };
        self.had_state = true;
        self.sync().await?;
        let state = format!("{state}\n");
        self.retry
            .through_outage(async || durable::replace(path, state.as_bytes()))
            .await
    }

    /// The status of a run that reached the end of its input.
    pub fn verdict(&self) -> Exit {
        if let (Some(path), false, None) = (&self.options.commit_state, self.had_state, &self.state)
        {
            self.retry.run.warn(format!(
                "no bookmark came with the input, so {} is unchanged; `rtp fetch --state` sends one along",
                path.display()
            ));
        }
        if self.records == 0 {
            self.retry.run.warn("there are no records in the input");
            return Exit::verdict(!self.lacks_records());
        }
        Exit::verdict(get(&self.retry.run.counts.rejected) == 0)
    }

    async fn sync(&mut self) -> Result<()> {
        match &mut self.reject_file {
            None => Ok(()),
            Some(file) => self.retry.through_outage(async || file.sync()).await,
        }
    }

    fn check_budget(&self, at: At) -> Result<()> {
        let rejected = get(&self.retry.run.counts.rejected);
        self.options.max_rejects.map_or(Ok(()), |budget| {
            budget.check(rejected, self.records, at == At::End)
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Chunk,
    End,
}
