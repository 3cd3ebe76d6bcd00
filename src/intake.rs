//! What `produce` and `load-batch` share: records in, checked ahead of their use; bad ones kept aside
//! within a budget; and `fetch`'s bookmark, saved once the records before it are durable.

use std::fs::File;
use std::path::PathBuf;

use crate::ahead::Ahead;
use crate::csv::Columns;
use crate::dataset::Dataset;
use crate::durable;
use crate::error::{Context, Error, Result};
use crate::event::MicroBatch;
use crate::exit::Exit;
use crate::input::{Chunk, Format, Input, Line};
use crate::rejects::{self, Budget, RejectFile, Rejected};
use crate::run::{Run, add, get};
use crate::transform::{Reject, Transform};
use crate::value::{Rule, Value};

/// The input, and what is asked of it.
#[derive(Clone, Debug, clap::Args)]
pub struct IntakeArgs {
    /// Files to read; `-` or none is standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Write bad records to this file: line, byte offset, field, rule, reason and the record itself
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,
    /// End with status 3 after more bad records than this
    #[arg(long, value_name = "N|P%")]
    pub max_rejects: Option<Budget>,
    /// End with status 5 unless the input ends with the trailer of `fetch --trailer`
    #[arg(long)]
    pub require_complete: bool,
    /// End with status 1 if there is no record
    #[arg(long)]
    pub require_records: bool,
    /// Save here the bookmark that `fetch --state` sends along, once all records before it are durable
    #[arg(long, value_name = "FILE")]
    pub commit_state: Option<PathBuf>,
}

impl IntakeArgs {
    /// Whether a second reading finds the same: of files, not of pipes.
    pub fn can_be_read_again(&self) -> bool {
        let is_file = |path: &PathBuf| path.as_os_str() != "-" && path.is_file();
        !self.files.is_empty() && self.files.iter().all(is_file)
    }
}

/// How the input is to be read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The format of all files; none goes by each file's ending.
    pub format: Option<Format>,
    /// What a CSV cell without quotes says for null.
    pub null: String,
    /// What bad records were meant for: a topic or table.
    pub destination: String,
    /// Where they go instead.
    pub aside: Aside,
}

/// Where bad records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// To the dead-letter topic.
    DeadLetters,
    /// To the reject file.
    File,
}

/// The records of a chunk, checked.
#[derive(Debug)]
pub struct Checked<T> {
    /// The good ones.
    pub good: T,
    /// The bad ones as dead letters.
    pub dead_letters: MicroBatch,
    /// The bad ones as lines of the reject file.
    pub reject_lines: Vec<u8>,
    /// Number of bad ones.
    pub rejected: u64,
    /// The first bad one: line and reason.
    pub first_bad: Option<String>,
    records: u64,
    skipped: u64,
    bytes: u64,
    state: Option<String>,
    is_complete: bool,
    /// A last record that is cut short: its file and line.
    cut: Option<String>,
}

impl<T> Checked<T> {
    /// The same chunk with what `change` makes of its good records.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Checked<U> {
        Checked {
            good: change(self.good),
            dead_letters: self.dead_letters,
            reject_lines: self.reject_lines,
            rejected: self.rejected,
            first_bad: self.first_bad,
            records: self.records,
            skipped: self.skipped,
            bytes: self.bytes,
            state: self.state,
            is_complete: self.is_complete,
            cut: self.cut,
        }
    }

    /// Whether nothing is bad but a last record that is cut short.
    pub fn is_only_cut(&self) -> bool {
        self.cut.is_some() && self.rejected == 1
    }
}

/// Reads and checks chunks, one ahead of what is used. `take` adds a good record, given as its line and
/// its values, to what `empty` makes for a chunk, after the checks across the row that it wants.
pub fn read<T, E, F>(
    args: &IntakeArgs,
    reading: Reading,
    dataset: &Dataset,
    run: &Run,
    empty: E,
    take: F,
) -> Ahead<Checked<T>>
where
    T: Send + 'static,
    E: Fn(&Chunk) -> T + Send + 'static,
    F: FnMut(&mut T, &mut Transform<'_>, Line<'_>, &[Value<'_>]) -> Result<(), Reject>
        + Send
        + 'static,
{
    let mut reader = Reader {
        input: Input::new(&args.files, reading.format),
        reading,
        dataset: dataset.clone(),
        run: run.clone(),
        columns: None,
        empty,
        take,
    };
    Ahead::start(move || reader.next())
}

struct Reader<E, F> {
    input: Input,
    reading: Reading,
    dataset: Dataset,
    run: Run,
    columns: Option<Columns>,
    empty: E,
    take: F,
}

impl<E, F> Reader<E, F> {
    fn next<T>(&mut self) -> Result<Option<Checked<T>>>
    where
        E: Fn(&Chunk) -> T,
        F: FnMut(&mut T, &mut Transform<'_>, Line<'_>, &[Value<'_>]) -> Result<(), Reject>,
    {
        let Some(chunk) = self.input.next_chunk()? else {
            return Ok(None);
        };
        if let Some(header) = chunk.header() {
            self.read_header(header)?;
        }
        let mut checked = Checked {
            good: (self.empty)(&chunk),
            dead_letters: MicroBatch::default(),
            reject_lines: Vec::new(),
            rejected: 0,
            first_bad: None,
            records: chunk.len() as u64,
            skipped: chunk.skipped,
            bytes: chunk.size() as u64,
            state: None,
            is_complete: self.input.is_complete(),
            cut: None,
        };
        let mut transform = Transform::new(&self.dataset, crate::time::now_ms());
        let mut last_bad = None;
        let mut values = Vec::new();
        for line in chunk.lines() {
            let read = match (&self.columns, chunk.format) {
                (Some(columns), Format::Csv) => columns
                    .values(line.bytes, &self.dataset)
                    .map(|cells| values = cells),
                _ => transform.read(line.bytes, &mut values),
            };
            let taken =
                read.and_then(|()| (self.take)(&mut checked.good, &mut transform, line, &values));
            if let Err(reject) = taken {
                self.set_aside(&mut checked, line, &reject);
                last_bad = Some((line.number, reject.fault.rule));
            }
        }
        let last = chunk.lines().last().map(|line| line.number);
        if let Some((number, rule)) = last_bad
            && chunk.is_open
            && last == Some(number)
            && may_be_cut(rule)
        {
            checked.cut = Some(format!("{} line {number}", self.input.name()));
        }
        checked.state = self.input.take_back(chunk);
        Ok(Some(checked))
    }

    fn read_header(&mut self, header: &[u8]) -> Result<()> {
        let columns =
            Columns::read(header, &self.dataset, &self.reading.null).context(self.input.name())?;
        if !columns.unknown.is_empty() {
            self.run.warn(format!(
                "{}: columns that the dataset {} does not have are passed over: {}",
                self.input.name(),
                self.dataset.name,
                columns.unknown.join(", ")
            ));
        }
        self.columns = Some(columns);
        Ok(())
    }

    fn set_aside<T>(&self, checked: &mut Checked<T>, line: Line<'_>, reject: &Reject) {
        checked.rejected += 1;
        let reason = || format!("line {}: {}", line.number, reject.describe(&self.dataset));
        checked.first_bad.get_or_insert_with(reason);
        let rejected = Rejected {
            source: &self.reading.destination,
            partition: None,
            offset: i64::try_from(line.offset).unwrap_or(i64::MAX),
            line: Some(line.number),
            key: None,
            value: Some(line.bytes),
            headers: &[],
            reject,
        };
        match self.reading.aside {
            Aside::File => {
                rejects::push_line(&mut checked.reject_lines, &self.dataset, &rejected);
            }
            Aside::DeadLetters => rejects::push_dead_letter(
                &mut checked.dead_letters,
                &self.dataset,
                self.run.command,
                &self.run.id,
                &rejected,
            ),
        }
    }
}

/// Whether a last record without line end that broke this rule looks like the first part of a good one.
fn may_be_cut(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::JsonSyntax | Rule::InvalidUtf8 | Rule::Quote | Rule::Columns
    )
}

/// Keeps the books of one input.
#[derive(Debug)]
pub struct Intake<'a> {
    args: &'a IntakeArgs,
    run: &'a Run,
    reject_file: Option<RejectFile>,
    _held_state: Option<File>,
    state: Option<String>,
    had_state: bool,
    records: u64,
    is_complete: bool,
    cut: Option<String>,
}

impl<'a> Intake<'a> {
    /// Opens the reject file, and holds the state file for this process.
    pub fn open(args: &'a IntakeArgs, run: &'a Run) -> Result<Self> {
        Ok(Intake {
            args,
            run,
            reject_file: args
                .rejects
                .as_deref()
                .map(RejectFile::create)
                .transpose()?,
            _held_state: args
                .commit_state
                .as_deref()
                .map(durable::hold)
                .transpose()?,
            state: None,
            had_state: false,
            records: 0,
            is_complete: false,
            cut: None,
        })
    }

    /// Counts a chunk as read, and writes its bad records to the reject file.
    pub fn enter<T>(&mut self, checked: &Checked<T>) -> Result<()> {
        if let Some(file) = &mut self.reject_file {
            file.write(&checked.reject_lines)?;
        }
        let counts = &self.run.counts;
        add(&counts.read, checked.records + checked.skipped);
        add(&counts.bytes, checked.bytes);
        add(&counts.skipped, checked.skipped);
        add(&counts.rejected, checked.rejected);
        self.records += checked.records;
        self.is_complete = checked.is_complete;
        if checked.cut.is_some() {
            self.cut.clone_from(&checked.cut);
        }
        if checked.state.is_some() {
            self.state.clone_from(&checked.state);
        }
        self.check_budget(At::Chunk)
    }

    /// What must hold before the last records count: an error if they do not suffice, a status if a
    /// signal cut the reading short. Bad records are durable then.
    pub fn close(&mut self) -> Result<Option<Exit>> {
        self.sync()?;
        if let Some(signal) = self.run.stop.requested() {
            return Ok(Some(signal.exit()));
        }
        if let Some(place) = &self.cut {
            return Err(Error::missing(format!(
                "the input is cut short: {place} ends inside its record"
            )));
        }
        self.check_budget(At::End)?;
        if self.args.require_complete && !self.is_complete {
            return Err(Error::missing(
                "the input does not end with a trailer, so it may be cut short",
            )
            .hint("write it with `rtp fetch --trailer`, or leave out --require-complete"));
        }
        Ok(None)
    }

    /// Saves the last bookmark; everything before it must be durable.
    pub fn save_state(&mut self) -> Result<()> {
        let (Some(path), Some(state)) = (&self.args.commit_state, self.state.take()) else {
            return Ok(());
        };
        self.had_state = true;
        self.sync()?;
        durable::replace(path, format!("{state}\n").as_bytes())
    }

    /// The status of a run that came to its end.
    pub fn verdict(&self) -> Exit {
        if let (Some(path), false) = (&self.args.commit_state, self.had_state) {
            self.run.warn(format!(
                "no bookmark came with the input, {} is left as it was; `rtp fetch --state` sends it along",
                path.display()
            ));
        }
        if self.records == 0 {
            self.run.warn("there was no record in the input");
            return Exit::verdict(!self.args.require_records);
        }
        Exit::verdict(get(&self.run.counts.rejected) == 0)
    }

    fn sync(&mut self) -> Result<()> {
        self.reject_file.as_mut().map_or(Ok(()), RejectFile::sync)
    }

    fn check_budget(&self, at: At) -> Result<()> {
        let rejected = get(&self.run.counts.rejected);
        self.args.max_rejects.map_or(Ok(()), |budget| {
            budget.check(rejected, self.records, at == At::End)
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Chunk,
    End,
}
