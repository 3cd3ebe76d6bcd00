//! Records checked before they are used: the good ones for the consumer, the bad ones with their reasons.

use super::IntakeOptions;
use super::chunk::{Chunk, Ended, FileFormat, Line};
use super::csv::Columns;
use super::input::Input;
use super::reject_lines::{self, Writer};
use super::rejects::{self, Rejected};
use crate::dataset::Dataset;
use crate::error::{Context, Result};
use crate::record::event::EventBatch;
use crate::record::reject::{Reject, Rule};
use crate::record::transform::Transform;
use crate::record::value::Value;
use crate::run::Run;
use crate::run::read_ahead::Ahead;
use crate::run::rejected::{Groups, Place};

/// How the input is to be read.
#[derive(Clone, Debug)]
pub struct InputSpec {
    /// The format of all files; none chooses by each file's extension.
    pub format: Option<FileFormat>,
    /// The text of an unquoted CSV cell that means null.
    pub null: String,
    /// The topic or table that bad records were meant for.
    pub destination: String,
    /// Where they go instead.
    pub rejects_to: RejectsTo,
}

/// Where bad records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectsTo {
    /// To the dead-letter topic.
    DeadLetters,
    /// To the reject file.
    File,
}

/// The records of a chunk, checked.
#[derive(Debug)]
pub struct CheckedChunk<T> {
    /// The good ones.
    pub good: T,
    /// The bad ones as dead letters.
    pub dead_letters: EventBatch,
    /// The bad ones as lines of the reject file.
    pub reject_lines: Vec<u8>,
    /// Number of bad ones.
    pub rejected: u64,
    /// The bad ones, by the rules that they broke.
    pub groups: Groups,
    /// The first bad one: file, line and reason.
    pub first_bad: Option<String>,
    pub(super) records: u64,
    pub(super) skipped: u64,
    pub(super) bytes: u64,
    pub(super) state: Option<String>,
    /// Set where a file ends.
    pub(super) ended: Option<Ended>,
    /// A last record that is cut short: its file and line.
    pub(super) cut: Option<String>,
}

impl<T> CheckedChunk<T> {
    /// The same chunk, with its good records replaced by the result of `change`.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> CheckedChunk<U> {
        CheckedChunk {
            good: change(self.good),
            dead_letters: self.dead_letters,
            reject_lines: self.reject_lines,
            rejected: self.rejected,
            groups: self.groups,
            first_bad: self.first_bad,
            records: self.records,
            skipped: self.skipped,
            bytes: self.bytes,
            state: self.state,
            ended: self.ended,
            cut: self.cut,
        }
    }

    /// Whether the only bad record is a last one that is cut short.
    pub fn is_only_cut(&self) -> bool {
        self.cut.is_some() && self.rejected == 1
    }
}

/// Reads and checks chunks, one ahead of the one in use. `take` does any checks across the whole row, and adds a
/// good record, given as its line and its values, to what `empty` made for the chunk.
pub fn read<T, E, F>(
    options: &IntakeOptions,
    spec: InputSpec,
    dataset: &Dataset,
    run: &Run,
    empty: E,
    take: F,
) -> Ahead<CheckedChunk<T>>
where
    T: Send + 'static,
    E: Fn(&Chunk) -> T + Send + 'static,
    F: FnMut(&mut T, &mut Transform<'_>, Line<'_>, &[Value<'_>]) -> Result<(), Reject>
        + Send
        + 'static,
{
    let mut checker = RecordChecks {
        input: Input::new(&options.files, spec.format),
        kept_in: match spec.rejects_to {
            RejectsTo::DeadLetters => Some(format!("topic {}", dataset.event.dead_letter_topic())),
            RejectsTo::File => options
                .rejects
                .as_ref()
                .map(|file| file.display().to_string()),
        },
        spec,
        dataset: dataset.clone(),
        run: run.clone(),
        columns: None,
        empty,
        take,
    };
    Ahead::start(move || checker.next())
}

struct RecordChecks<E, F> {
    input: Input,
    spec: InputSpec,
    /// Where bad records are written, for messages; none if they are not kept.
    kept_in: Option<String>,
    dataset: Dataset,
    run: Run,
    columns: Option<Columns>,
    empty: E,
    take: F,
}

impl<E, F> RecordChecks<E, F> {
    fn next<T>(&mut self) -> Result<Option<CheckedChunk<T>>>
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
        let mut checked = CheckedChunk {
            good: (self.empty)(&chunk),
            dead_letters: EventBatch::default(),
            reject_lines: Vec::new(),
            rejected: 0,
            groups: Groups::default(),
            first_bad: None,
            records: chunk.len() as u64,
            skipped: chunk.skipped,
            bytes: chunk.size() as u64,
            state: None,
            ended: chunk.ended.clone(),
            cut: None,
        };
        let mut transform = Transform::new(&self.dataset, crate::time::now_ms());
        let mut last_bad = None;
        let mut values = Vec::new();
        for line in chunk.lines() {
            let read = match (&self.columns, chunk.format) {
                (Some(columns), FileFormat::Csv) => columns
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
        if let Some((number, rule)) = last_bad
            && let Some(last) = chunk.lines().last().filter(|_| chunk.is_open)
            && last.number == number
            && may_be_cut(rule, last.bytes, chunk.format)
        {
            checked.cut = Some(format!("{} line {number}", self.input.name()));
        }
        checked.state = self.input.take_back(chunk);
        Ok(Some(checked))
    }

    fn read_header(&mut self, header: &[u8]) -> Result<()> {
        let columns =
            Columns::read(header, &self.dataset, &self.spec.null).context(self.input.name())?;
        if !columns.unknown.is_empty() {
            self.run.warn(format!(
                "{}: ignoring columns that the dataset {} does not have: {}",
                self.input.name(),
                self.dataset.name,
                columns.unknown.join(", ")
            ));
        }
        self.columns = Some(columns);
        Ok(())
    }

    fn set_aside<T>(&self, checked: &mut CheckedChunk<T>, line: Line<'_>, reject: &Reject) {
        checked.rejected += 1;
        let offset = i64::try_from(line.offset).unwrap_or(i64::MAX);
        let place = || Place {
            source: self.input.name().into(),
            line: Some(line.number),
            partition: None,
            offset,
        };
        let field = reject.field.map(|i| &*self.dataset.fields[i].name);
        checked.groups.count(reject.fault.rule.name(), field, || {
            (place(), reject.fault.detail.clone(), self.kept_in.clone())
        });
        let reason = || format!("{}: {}", place(), reject.describe(&self.dataset));
        checked.first_bad.get_or_insert_with(reason);
        let rejected = Rejected {
            source: &self.spec.destination,
            partition: None,
            offset,
            line: Some(line.number),
            key: None,
            value: Some(line.bytes),
            headers: &[],
            reject,
        };
        match self.spec.rejects_to {
            RejectsTo::File => {
                let (lines, input) = (&mut checked.reject_lines, self.input.kept_path());
                let writer = Writer {
                    run_id: &self.run.id,
                    started_at: self.run.started_at,
                };
                reject_lines::push_line(lines, &self.dataset, writer, input, &rejected);
            }
            RejectsTo::DeadLetters => rejects::push_dead_letter(
                &mut checked.dead_letters,
                &self.dataset,
                self.run.command,
                &self.run.id,
                &rejected,
            ),
        }
    }
}

/// Whether a last record that has no newline and broke this rule looks like the first part of a good one.
pub fn may_be_cut(rule: Rule, record: &[u8], format: FileFormat) -> bool {
    let is_start = format == FileFormat::Csv || record.trim_ascii_start().starts_with(b"{");
    is_start
        && matches!(
            rule,
            Rule::JsonSyntax | Rule::InvalidUtf8 | Rule::Quote | Rule::Columns
        )
}
