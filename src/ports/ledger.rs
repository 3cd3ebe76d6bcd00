//! What rtp itself keeps in the batch store, besides the rows: its loads, and the verdicts of `verify`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Error, Result};

/// How many loads are looked at where their files may be evidence; what was loaded by an earlier one is not known then.
pub const LOOKED_AT: u32 = 4_096;

/// Reads and extends rtp's own records about one dataset.
#[async_trait]
pub trait Ledger: Send {
    /// The last loads of the dataset's table that were committed, the newest first, at most this many.
    async fn loads(&mut self, most: u32) -> Result<Vec<LoadRecord>>;

    /// The newest event times among the records of the loads of the dataset's table. Not those of the last load: a later
    /// one may bring older records.
    async fn newest(&mut self) -> Result<Newest>;

    /// Keeps a verdict.
    async fn add_verdict(&mut self, verdict: &Verdict) -> Result<()>;

    /// The last verdicts on the dataset, the newest first, at most this many.
    async fn verdicts(&mut self, most: u32) -> Result<Vec<Verdict>>;
}

/// Newest event times of loaded records, in milliseconds since 1970 UTC; none without records, or if only older versions
/// of rtp have loaded any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newest {
    /// Of all loads.
    pub ever: Option<i64>,
    /// Of the last load that replaced the table and those after it, of all without such a load: the rest may have been
    /// removed.
    pub in_table: Option<i64>,
}

/// A load, as it is about to be committed. What older versions of rtp did not keep is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadInfo {
    /// The run.
    pub run_id: String,
    /// When it began, in milliseconds since 1970 UTC; when it was committed, if an older version of rtp loaded it.
    pub started_at: i64,
    /// The newest event time among the records that were staged, in milliseconds since 1970 UTC; none without records.
    pub newest: Option<i64>,
    /// The input files in order, with standard input among them; none if it is the only input.
    pub inputs: Vec<LoadedFile>,
    /// The reject file, as an absolute path, if one was named.
    pub rejects: Option<String>,
}

/// An input file of a load. An older version of rtp kept its path only, and a store that it wrote to still has that: a
/// text instead of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "KeptFile", into = "KeptFile")]
pub struct LoadedFile {
    /// Its absolute path, or `-` for standard input.
    pub path: String,
    /// What was read of it, if that is known.
    pub read: Option<FileRead>,
}

/// What a load read of a file, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileRead {
    /// Its bytes.
    #[serde(flatten)]
    pub contents: Contents,
    /// Its format, by its name on the command line.
    pub format: String,
    /// The text of an unquoted CSV cell that means null.
    pub null: String,
    /// How many of its records were rejected, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<u64>,
}

/// The bytes of a file: two with equal ones are the same for every purpose but that of somebody who forges them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Contents {
    /// Their number.
    pub bytes: u64,
    /// Their XXH3 of 128 bits, in hexadecimal.
    pub xxh3: String,
}

/// A file as a store keeps it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum KeptFile {
    Path(String),
    Read {
        path: String,
        #[serde(flatten)]
        read: FileRead,
    },
}

impl From<KeptFile> for LoadedFile {
    fn from(kept: KeptFile) -> LoadedFile {
        match kept {
            KeptFile::Path(path) => LoadedFile { path, read: None },
            KeptFile::Read { path, read } => LoadedFile {
                path,
                read: Some(read),
            },
        }
    }
}

impl From<LoadedFile> for KeptFile {
    fn from(LoadedFile { path, read }: LoadedFile) -> KeptFile {
        match read {
            None => KeptFile::Path(path),
            Some(read) => KeptFile::Read { path, read },
        }
    }
}

impl LoadedFile {
    /// A file of which only the path is known.
    pub fn at(path: impl Into<String>) -> LoadedFile {
        LoadedFile {
            path: path.into(),
            read: None,
        }
    }

    /// Whether it is known that every record was loaded: one that is not valid now was by the rules of then.
    pub fn has_kept_all(&self) -> bool {
        let read = self.read.as_ref();
        read.is_some_and(|read| read.rejected == Some(0))
    }

    /// The file as one text, for a store that keeps a list of texts: its path if nothing else is known, which is absolute
    /// and thus never looks like JSON.
    pub(crate) fn to_text(&self) -> String {
        match &self.read {
            None => self.path.clone(),
            Some(read) => {
                let mut known = json!({
                    "path": self.path,
                    "bytes": read.contents.bytes,
                    "xxh3": read.contents.xxh3,
                    "format": read.format,
                    "null": read.null,
                });
                if let Some(rejected) = read.rejected {
                    known["rejected"] = rejected.into();
                }
                known.to_string()
            }
        }
    }

    /// Reads it back; an error (`Invalid`) if somebody else changed it.
    pub(crate) fn from_text(text: String) -> Result<LoadedFile> {
        match text.starts_with('{') {
            true => from_json(&text),
            false => Ok(LoadedFile::at(text)),
        }
    }
}

/// A load that was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadRecord {
    /// What was known before the commit.
    #[serde(flatten)]
    pub info: LoadInfo,
    /// The mode, by its name on the command line.
    pub mode: String,
    /// When it was committed, in milliseconds since 1970 UTC.
    pub loaded_at: i64,
    /// Rows inserted or replaced.
    pub written: u64,
}

/// What `verify` found, as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The run.
    pub run_id: String,
    /// When the comparison began, in milliseconds since 1970 UTC.
    pub started_at: i64,
    /// When it ended.
    pub ended_at: i64,
    /// Whether both layers agree: no difference is left that fails.
    pub agrees: bool,
    /// Rows of the real-time and of the batch store.
    pub rows: [u64; 2],
    /// Number of keys that differ, by the name of their class.
    pub classes: BTreeMap<String, u64>,
    /// Number of differing values by column.
    pub columns: BTreeMap<String, u64>,
    /// Some keys of each class, as text.
    pub samples: BTreeMap<String, Vec<String>>,
    /// How the comparison was other than one of every value of both tables and nothing else, as on the command line or in
    /// the dataset: `--tolerance price=0.01`. What an older version of rtp kept has none.
    #[serde(default)]
    pub options: Vec<String>,
}

impl Verdict {
    /// The same verdict with its maps and options, which a store keeps as JSON; an error (`Invalid`) if that is not what rtp writes.
    pub(crate) fn with_maps(
        mut self,
        classes: &str,
        columns: &str,
        samples: &str,
        options: Option<&str>,
    ) -> Result<Verdict> {
        self.classes = from_json(classes)?;
        self.columns = from_json(columns)?;
        self.samples = from_json(samples)?;
        self.options = options.map(from_json).transpose()?.unwrap_or_default();
        Ok(self)
    }
}

/// A list or map as the text that a store keeps.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal(e.to_string()))
}

/// Reads it back; an error (`Invalid`) if somebody else changed it.
pub(crate) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::invalid(format!("unexpected JSON: {e}")))
}
