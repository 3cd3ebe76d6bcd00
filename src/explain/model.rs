//! What is known about one record: for people as a table, for machines and the dashboard as JSON.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::error::{Error, Kind};
use crate::exit::Exit;
use crate::record::value::Value;

/// What became of one record.
#[derive(Debug, Serialize)]
pub struct Explained {
    /// The dataset.
    pub dataset: String,
    /// The key.
    pub key: Value<'static>,
    /// The short answer.
    pub outcome: Outcome,
    /// The columns in which both stores differ.
    pub differences: Vec<Difference>,
    /// The real-time store's row; none if it has none, or is in trouble.
    pub realtime: Option<Row>,
    /// The batch store's row.
    pub batch: Option<Row>,
    /// Its versions of each day, the oldest first, if the dataset keeps a history.
    pub history: Vec<DayVersion>,
    /// The loads that may have written the batch store's row.
    pub loads: Vec<PossibleLoad>,
    /// What the topic has of the record.
    pub log: Option<InLog>,
    /// The dead letters about it, the oldest first.
    pub dead_letters: Vec<Letter>,
    /// Where it stands in the landing files.
    pub landing: Vec<Landed>,
    /// What the loads have rejected of it, the newest load first; then the records that may be of it.
    pub rejects: Vec<Rejected>,
    /// How many more of these were found.
    pub left_out: LeftOut,
    /// The last verdict of `verify`.
    pub verdict: Option<LastVerdict>,
    /// What could not be found out, and why.
    pub troubles: Vec<Trouble>,
    /// The loads of which not all that they read can be read again: their indexes, the newest being 0, and how new their
    /// records can be.
    #[serde(skip)]
    pub unknown_loads: Vec<(usize, Time)>,
}

/// What was found, but is not listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Number of older dead letters.
    pub dead_letters: u64,
    /// Number of lines of landing files, mostly of those whose names come first.
    pub landing: u64,
    /// Number of rejected records.
    pub rejects: u64,
}

/// The short answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// For machines.
    pub state: State,
    /// In plain words.
    pub text: String,
}

/// What became of a record, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Both stores have the same values.
    Equal,
    /// Both stores have it, with different values.
    Different,
    /// Only the real-time store has it.
    RealtimeOnly,
    /// Only the batch store has it.
    BatchOnly,
    /// One store has it, and the other one is in trouble.
    OneStore,
    /// It is in the log, and the group has not read it.
    Waiting,
    /// It is in the dead letters.
    DeadLetter,
    /// A load has rejected it.
    Rejected,
    /// The group has read it, and no store has it.
    Read,
    /// Only a landing file has it.
    Landed,
    /// Nothing has it.
    Unknown,
    /// Nothing that answered has it.
    Incomplete,
}

/// A time in milliseconds since 1970 UTC, in RFC 3339 for everybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub i64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::time::format_ms(self.0))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A place in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} offset {}", self.partition, self.offset)
    }
}

/// A column and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// The column.
    pub name: String,
    /// The value; null in place of a foreign one.
    pub value: Value<'static>,
    /// What is there that does not fit the column's type.
    pub foreign: Option<String>,
}

/// What a store has.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The store's address.
    pub store: String,
    /// The table.
    pub table: String,
    /// How many rows it has of the key.
    pub rows: u64,
    /// The columns of the first one.
    #[serde(serialize_with = "as_object")]
    pub values: Vec<Cell>,
    /// The event time.
    pub event_time: Option<Time>,
    /// Where its event stands in the log, if the store keeps that.
    pub origin: Option<Place>,
    /// The oldest and the newest write timestamp of its columns, in microseconds, if the store keeps them.
    pub write_timestamps: Option<[i64; 2]>,
    /// Whether its values are those that rtp wrote, by what the store keeps besides them; none if that is not known.
    pub is_as_written: Option<bool>,
}

fn as_object<S: Serializer>(cells: &[Cell], serializer: S) -> Result<S::Ok, S::Error> {
    let mut object = serializer.serialize_map(Some(cells.len()))?;
    for cell in cells {
        match &cell.foreign {
            Some(found) => object.serialize_entry(&cell.name, found)?,
            None => object.serialize_entry(&cell.name, &cell.value)?,
        }
    }
    object.end()
}

/// The newest version of a day.
#[derive(Debug, Serialize)]
pub struct DayVersion {
    /// The UTC date of the event time.
    pub as_of: Value<'static>,
    /// The event time.
    pub event_time: Option<Time>,
    /// The columns.
    #[serde(serialize_with = "as_object")]
    pub values: Vec<Cell>,
}

/// A column in which both stores differ.
#[derive(Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The column.
    pub column: String,
    /// The real-time store's value.
    pub realtime: serde_json::Value,
    /// The batch store's value.
    pub batch: serde_json::Value,
}

/// A load that may have written a row. That its time fits, or even that its input has the record, is evidence, not proof:
/// another load may have had the same record.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct PossibleLoad {
    /// The run.
    pub run_id: String,
    /// When it was committed.
    pub loaded_at: Time,
    /// The mode, by its name on the command line.
    pub mode: String,
    /// Why it may have been this one.
    pub evidence: String,
}

/// What a topic has of the record.
#[derive(Debug, Serialize)]
pub struct InLog {
    /// The topic.
    pub topic: String,
    /// The consumer group that it is compared with.
    pub group: String,
    /// What was looked at: the partitions that the record's key belongs to; all, if those have nothing of it.
    pub partitions: Vec<Partition>,
    /// Number of its versions.
    pub count: u64,
    /// The partition of the first of them that the group has not read, and the number of events before it there.
    #[serde(skip)]
    pub waiting: Option<(i32, u64)>,
    /// The last ones, the oldest first.
    pub versions: Vec<Version>,
}

/// A partition that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// The partition.
    pub partition: i32,
    /// The offset of its oldest event.
    pub oldest: i64,
    /// The offset that the next event will get.
    pub end: i64,
    /// Where the group continues; none if it has committed nothing.
    pub committed: Option<i64>,
}

/// A version of the record in the log.
#[derive(Debug, Serialize)]
pub struct Version {
    /// Where.
    #[serde(flatten)]
    pub at: Place,
    /// When it was produced.
    pub produced_at: Time,
    /// Its event time.
    pub event_time: Option<Time>,
    /// The run that produced it, if it says so.
    pub run_id: Option<String>,
    /// Whether the group has not committed it.
    pub is_waiting: bool,
    /// How many offsets are before it that the group has not committed.
    pub ahead: u64,
    /// Why it is not a row, if it is not.
    pub invalid: Option<String>,
}

/// A dead letter about the record.
#[derive(Debug, Serialize)]
pub struct Letter {
    /// The dead-letter topic.
    pub topic: String,
    /// Where the letter stands in it.
    #[serde(flatten)]
    pub at: Place,
    /// When it was written.
    pub written_at: Time,
    /// Where the record stands in the topic, if it was there.
    pub origin: Option<Place>,
    /// Its line in the input, if it was not.
    pub line: Option<u64>,
    /// The record's event time, if it can be read.
    pub event_time: Option<Time>,
    /// The command that refused it.
    pub stage: String,
    /// The run that refused it.
    pub run_id: String,
    /// The rule that it broke.
    pub rule: String,
    /// The field that is to blame.
    pub field: Option<String>,
    /// What was expected.
    pub message: String,
}

/// A line of a landing file.
#[derive(Debug, Serialize)]
pub struct Landed {
    /// The file.
    pub file: String,
    /// 1-based line.
    pub line: u64,
    /// The record's event time.
    pub event_time: Option<Time>,
    /// Why it is not a row, if it is not.
    pub invalid: Option<String>,
    /// The loads that have read the file.
    pub loads: Vec<String>,
    /// The same loads by their indexes, the newest being 0, and the path by which each has read the file.
    #[serde(skip)]
    pub read_by: Vec<(usize, String)>,
    /// Whether one of them has rejected no record of it, so that the line was valid then.
    #[serde(skip)]
    pub was_valid: bool,
}

/// A line of a reject file.
#[derive(Debug, Serialize)]
pub struct Rejected {
    /// The reject file.
    pub file: String,
    /// The input that had the record, or `-` for standard input; none if an older version of rtp loaded it.
    pub input: Option<String>,
    /// The record's line in the input.
    pub line: Option<u64>,
    /// The record's event time, if it can be read.
    pub event_time: Option<Time>,
    /// The rule that it broke.
    pub rule: String,
    /// The field that is to blame.
    pub field: Option<String>,
    /// What was expected.
    pub reason: String,
    /// Whether it certainly is about the key; if not, its key cannot be read, and this key is in its text.
    pub is_of_key: bool,
    /// The load that has rejected it.
    pub run_id: String,
    /// Its index, the newest load being 0.
    #[serde(skip)]
    pub load: usize,
}

/// The last verdict of `verify`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct LastVerdict {
    /// The run.
    pub run_id: String,
    /// When it ended.
    pub ended_at: Time,
    /// Whether the stores agree.
    pub agrees: bool,
    /// The classes that have the key among their samples.
    pub classes: Vec<String>,
    /// What was tolerated or compared in addition, as on the command line of `verify`.
    pub options: Vec<String>,
}

/// What could not be found out.
#[derive(Debug, Serialize)]
pub struct Trouble {
    /// The part that is missing from the answer, or is not complete.
    pub part: Part,
    /// Why.
    pub message: String,
    #[serde(skip)]
    kind: Kind,
}

/// A part of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The real-time store's row.
    Realtime,
    /// The batch store's row.
    Batch,
    /// The batch store's versions of each day.
    History,
    /// The loads and the verdicts.
    Ledger,
    /// The topic.
    Log,
    /// The dead letters.
    DeadLetters,
    /// The landing files.
    Landing,
    /// The reject files.
    Rejects,
}

impl Part {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Part::Realtime => "the real-time store",
            Part::Batch => "the batch store",
            Part::History => "the batch store's history",
            Part::Ledger => "the batch store's ledger",
            Part::Log => "the log",
            Part::DeadLetters => "the dead letters",
            Part::Landing => "the landing files",
            Part::Rejects => "the reject files",
        }
    }
}

impl Trouble {
    /// An error in place of a part of the answer.
    pub fn new(part: Part, error: &Error) -> Trouble {
        Trouble {
            part,
            message: error.to_string(),
            kind: error.kind(),
        }
    }
}

impl Explained {
    /// Whether a part is missing, or not complete.
    pub fn lacks(&self, part: Part) -> bool {
        self.troubles.iter().any(|trouble| trouble.part == part)
    }

    /// The status of a run that gives this answer: what did not answer counts more than the answer.
    pub fn exit(&self) -> Exit {
        let statuses = || self.troubles.iter().map(|t| Exit::from(t.kind));
        let dependency = statuses().find(|status| *status == Exit::Dependency);
        match dependency.or_else(|| statuses().next()) {
            Some(status) => status,
            None => Exit::verdict(self.outcome.state != State::Unknown),
        }
    }
}
