//! The dataset: one declaration of the records from which everything else is derived.
//!
//! `parse` reads the TOML file, `check`, `source` and `aggregate` validate it, `ddl` has what the tables of all stores
//! have in common, `history` derives the table of the days' versions, and `json_schema` the event's schema.

mod aggregate;
mod check;
mod checker;
pub mod ddl;
mod field;
mod history;
mod json_schema;
mod parse;
mod pointer;
mod source;

use std::path::Path;

pub use aggregate::{Aggregate, By, EARLY, LATENESS, UNBORN, VERY_LATE};
pub use field::{Field, FieldType, From, TimeFormat};
pub use history::AS_OF;
pub use json_schema::event_schema;
pub use pointer::{Pointer, Template, TemplatePart};
pub use source::{Auth, Limit, LimitUnit, PageStyle, Pagination, SecretRef, SourceSpec};

use crate::error::{Result, file_error};

/// The built-in `users` dataset, compiled in.
pub const BUILT_IN: &str = include_str!("../../schema/users.toml");

/// A checked dataset declaration.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The dataset's name.
    pub name: String,
    /// The file that it was read from; none if it is compiled in.
    pub file: Option<std::path::PathBuf>,
    /// Where records come from.
    pub source: SourceSpec,
    /// Places in a source record that never leave `fetch`.
    pub secrets: Vec<Pointer>,
    /// The fields of an event and the columns of every table, in declared order.
    pub fields: Vec<Field>,
    /// The event log's part.
    pub event: EventSpec,
    /// The real-time store's part.
    pub realtime: RealtimeSpec,
    /// The batch store's part.
    pub batch: BatchSpec,
    /// What an absent optional field means to the real-time store.
    pub nulls: Nulls,
    /// By what the rows of a day are counted, in declared order.
    pub aggregates: Vec<Aggregate>,
    /// Field indices sorted by name: the order of columns in the canonical row encoding.
    pub digest_order: Vec<usize>,
}

/// What an absent optional field means to the real-time store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nulls {
    /// It is NULL, as in every other store.
    #[default]
    Write,
    /// It leaves the stored value alone if the store can do that; `verify` then says so.
    Unset,
}

/// The event log's part of a dataset.
#[derive(Clone, Debug)]
pub struct EventSpec {
    /// Topic.
    pub topic: String,
    /// Index of the key field.
    pub key: usize,
    /// Index of the event-time field.
    pub time: usize,
    /// Partitions of a topic that `init` creates.
    pub partitions: u32,
    /// Replicas of each partition, if the log has replicas.
    pub replication: u16,
    /// How long events are kept; none means forever.
    pub retention: Option<std::time::Duration>,
    /// How long dead letters are kept; none means forever.
    pub dead_letter_retention: Option<std::time::Duration>,
}

impl EventSpec {
    /// The dead-letter topic: `<topic>.dlq`.
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dlq", self.topic)
    }
}

/// The real-time store's part of a dataset.
#[derive(Clone, Debug)]
pub struct RealtimeSpec {
    /// Keyspace, if the store has keyspaces.
    pub keyspace: String,
    /// Table.
    pub table: String,
    /// How long a row lives after its write; none means forever.
    pub ttl: Option<std::time::Duration>,
    /// Additional tables for reads by time.
    pub series: Vec<Series>,
}

/// A time-series table, ((bucket, shard), event time, key).
#[derive(Clone, Debug)]
pub struct Series {
    /// Table.
    pub table: String,
    /// Width of a bucket.
    pub bucket: Bucket,
    /// Number of partitions that a bucket is spread over.
    pub shards: u16,
}

/// Width of a time-series bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// 3,600 seconds, from the full hour UTC.
    Hour,
    /// 86,400 seconds, from midnight UTC.
    Day,
}

impl Bucket {
    /// The name in a dataset file and of the column.
    pub fn name(self) -> &'static str {
        match self {
            Bucket::Hour => "hour",
            Bucket::Day => "day",
        }
    }

    /// Width in milliseconds.
    pub fn millis(self) -> i64 {
        match self {
            Bucket::Hour => 3_600_000,
            Bucket::Day => 86_400_000,
        }
    }
}

/// The batch store's part of a dataset.
#[derive(Clone, Debug)]
pub struct BatchSpec {
    /// Table.
    pub table: String,
    /// Whether a second table keeps the versions of each day, see [`Dataset::history`].
    pub history: bool,
}

impl Dataset {
    /// The dataset of `--dataset`, or the built-in one.
    pub fn load(path: Option<&Path>) -> Result<Dataset> {
        match path {
            None => Dataset::parse(BUILT_IN, "schema/users.toml"),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|e| file_error("read the dataset", path, &e))?;
                let dataset = Dataset::parse(&text, &path.display().to_string())?;
                Ok(Dataset {
                    file: Some(path.into()),
                    ..dataset
                })
            }
        }
    }

    /// Reads a declaration; `origin` names it in errors, which give the line and what was expected.
    pub fn parse(text: &str, origin: &str) -> Result<Dataset> {
        check::dataset(parse::raw(text, origin)?, text, origin)
    }

    /// The key field.
    pub fn key(&self) -> &Field {
        &self.fields[self.event.key]
    }

    /// The event-time field.
    pub fn time(&self) -> &Field {
        &self.fields[self.event.time]
    }

    /// The index of the field with this name or alias.
    pub fn field_index(&self, name: &str) -> Option<usize> {
        self.fields
            .iter()
            .position(|f| f.name == name || f.aliases.iter().any(|a| a == name))
    }

    /// Field names, for messages.
    pub fn field_names(&self) -> String {
        self.fields
            .iter()
            .map(|f| f.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    }
}
