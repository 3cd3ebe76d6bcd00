//! Whole lines of one file, in one buffer.

use std::ops::Range;
use std::path::Path;

use crate::error::Error;
use crate::ports::ledger::{Contents, LoadedFile};

/// The format of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum FileFormat {
    /// One JSON object per line.
    #[default]
    Ndjson,
    /// RFC 4180, with a header.
    Csv,
}

impl FileFormat {
    /// By the file's extension: `.csv` is CSV, anything else is NDJSON.
    pub fn of(path: &Path) -> FileFormat {
        match path.extension() {
            Some(ending) if ending.eq_ignore_ascii_case("csv") => FileFormat::Csv,
            _ => FileFormat::Ndjson,
        }
    }

    /// That in which a file was loaded.
    pub fn of_loaded(input: &LoadedFile) -> FileFormat {
        let kept = input.read.as_ref();
        let kept = kept.and_then(|read| FileFormat::of_option(&read.format));
        kept.unwrap_or_else(|| FileFormat::of(Path::new(&input.path)))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            FileFormat::Ndjson => "NDJSON",
            FileFormat::Csv => "CSV",
        }
    }

    /// Its name on the command line.
    pub fn option(self) -> &'static str {
        match self {
            FileFormat::Ndjson => "ndjson",
            FileFormat::Csv => "csv",
        }
    }

    /// The format of this name on the command line.
    pub fn of_option(name: &str) -> Option<FileFormat> {
        let mut all = [FileFormat::Ndjson, FileFormat::Csv].into_iter();
        all.find(|format| format.option() == name)
    }
}

/// One line, or one CSV record (which may span several lines), without its newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// 1-based line number in its file; for a CSV record, that of its first line.
    pub number: u64,
    /// Byte offset of its start in its file.
    pub offset: u64,
    /// Its bytes; only the first ones if the line is over the limit.
    pub bytes: &'a [u8],
}

/// Whole lines of one file, in one buffer.
#[derive(Debug, Default)]
pub struct Chunk {
    /// The lines, and whatever follows them in the buffer.
    pub(super) bytes: Vec<u8>,
    pub(super) size: usize,
    pub(super) lines: Vec<(u64, u64, Range<usize>)>,
    pub(super) header: Option<Range<usize>>,
    /// The format of the file.
    pub format: FileFormat,
    /// Whether the last line has no newline: it is the last of its file, and may be cut short.
    pub is_open: bool,
    /// Number of blank lines and trailers, which are skipped.
    pub skipped: u64,
    /// The last bookmark among the lines: `--commit-state` saves it once all of them are durable.
    pub state: Option<String>,
    /// Set in the last chunk of each file, which may have no lines.
    pub ended: Option<Ended>,
}

/// A file, or standard input, that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its name, for messages.
    pub name: String,
    /// Its format.
    pub format: FileFormat,
    /// Number of its records, good and bad.
    pub records: u64,
    /// Whether its last record was followed by its trailer; without records, whether it has one.
    pub is_complete: bool,
    /// Whether its last line has no newline, or a CSV file has no header: its writer may not have been done.
    pub is_open: bool,
    /// Whether it was a pipe, which also ends when its writer dies.
    pub is_pipe: bool,
    /// What it held, to the last byte.
    pub contents: Contents,
}

impl Ended {
    /// The error about a CSV file that is open at its end.
    pub(super) fn may_be_cut(&self) -> Error {
        let last = match self.records {
            0 => "header",
            _ => "last record",
        };
        Error::missing(format!(
            "{} does not end with a newline, so its {last} may be cut short",
            self.name
        ))
    }
}

impl Chunk {
    /// The lines that hold records.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.lines.iter().map(|(number, offset, range)| Line {
            number: *number,
            offset: *offset,
            bytes: &self.bytes[range.clone()],
        })
    }

    /// The header of a CSV file, in its first chunk.
    pub fn header(&self) -> Option<&[u8]> {
        self.header.clone().map(|range| &self.bytes[range])
    }

    /// Number of lines that hold records.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether no line holds a record.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Bytes of the lines, newlines included.
    pub fn size(&self) -> usize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_its_format() {
        assert_eq!(FileFormat::of(Path::new("d.CSV")), FileFormat::Csv);
        assert_eq!(FileFormat::of(Path::new("-")), FileFormat::Ndjson);
    }
}
