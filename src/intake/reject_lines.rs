//! The lines of reject files: written, and read back, whole, with the keys of the records in them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;

use base64::Engine;

use super::chunk::{FileFormat, Line};
use super::dead_letter::DeadLetters;
use super::loaded::{check_unchanged, is_same, may_be_same};
use super::lookup::whole;
use super::record_key::KeyCells;
use super::rejects::Rejected;
use crate::dataset::Dataset;
use crate::error::{Error, Result, file_error};
use crate::ports::ledger::{LoadRecord, LoadedFile};
use crate::record::json::MAX_EVENT_BYTES;
use crate::record::value::Value;
use crate::run::Stop;
use crate::time::format_ms;

/// Maximum bytes of a line that are read: a record of the maximum size, of which each byte is escaped as `\u0000`, and
/// what is said about it.
const MAX_LINE_BYTES: usize = 7 * MAX_EVENT_BYTES;

/// Who writes a line of a reject file. The runs of a day may have the same id, but not the same beginning.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The run.
    pub run_id: &'a str,
    /// When it began, in milliseconds since 1970 UTC.
    pub started_at: i64,
}

impl<'a> Writer<'a> {
    /// The run of this load.
    fn of(load: &'a LoadRecord) -> Writer<'a> {
        Writer {
            run_id: &load.info.run_id,
            started_at: load.info.started_at,
        }
    }
}

/// Appends a rejected record as a line of a reject file: the run and when it began, the absolute path of its input, or
/// `-`, line, byte offset, field, rule, reason, and the record as `raw`, or as `raw_base64` if it is not valid UTF-8.
pub fn push_line(
    lines: &mut Vec<u8>,
    dataset: &Dataset,
    writer: Writer<'_>,
    input: &str,
    rejected: &Rejected<'_>,
) {
    let raw = rejected.value.unwrap_or_default();
    let mut object = serde_json::json!({
        "run_id": writer.run_id,
        "started_at": format_ms(writer.started_at),
        "input": input,
        "line": rejected.line,
        "offset": rejected.offset,
        "field": rejected.reject.field.map(|i| &dataset.fields[i].name),
        "rule": rejected.reject.fault.rule.name(),
        "reason": rejected.reject.fault.detail,
    });
    let (name, raw) = match std::str::from_utf8(raw) {
        Ok(text) => ("raw", text.to_string()),
        Err(_) => (
            "raw_base64",
            base64::engine::general_purpose::STANDARD.encode(raw),
        ),
    };
    object[name] = raw.into();
    lines.extend_from_slice(object.to_string().as_bytes());
    lines.push(b'\n');
}

/// A line of a reject file, as [`push_line`] has written it.
#[derive(Debug, serde::Deserialize)]
pub struct RejectLine {
    /// The run that wrote the line; none if that was an older version of rtp.
    run_id: Option<String>,
    /// When that run began, in RFC 3339.
    started_at: Option<String>,
    /// The absolute path of the input, or `-` for standard input; none if an older version of rtp wrote the line.
    pub input: Option<String>,
    /// The 1-based line of the input.
    pub line: Option<u64>,
    /// The field that is to blame, if it is a single one.
    pub field: Option<String>,
    /// The rule that the record broke, by its name.
    pub rule: String,
    /// What was expected, for people.
    pub reason: String,
    raw: Option<String>,
    raw_base64: Option<String>,
}

impl RejectLine {
    /// Reads a line. An error says what is wrong with it, but not where it is.
    pub fn read(line: &[u8]) -> Result<RejectLine> {
        serde_json::from_slice(line)
            .map_err(|e| Error::invalid(format!("is not as load-batch writes it: {e}")))
    }

    /// The record, byte for byte, as far as the line has it; none if the line has none.
    pub fn record(&self) -> Option<Cow<'_, [u8]>> {
        let engine = base64::engine::general_purpose::STANDARD;
        match (&self.raw, &self.raw_base64) {
            (Some(text), _) => Some(text.as_bytes().into()),
            (None, Some(encoded)) => Some(engine.decode(encoded).ok()?.into()),
            (None, None) => None,
        }
    }

    /// Whether this run wrote the line; none if the line does not say who did.
    pub fn is_by(&self, writer: Writer<'_>) -> Option<bool> {
        let (run_id, started_at) = (self.run_id.as_ref()?, self.started_at.as_ref()?);
        Some(*run_id == writer.run_id && *started_at == format_ms(writer.started_at))
    }

    /// Whether a line may have its record in base64, in which no key can be searched for.
    pub fn may_be_encoded(line: &[u8]) -> bool {
        memchr::memmem::find(line, b"\"raw_base64\"").is_some()
    }
}

/// Lends the lines of a reject file to `see` until that breaks off or a stop is requested. A line that is longer than
/// `load-batch` can have written is cut. Blocks; an error names the file.
pub fn each_line(
    path: &Path,
    stop: &Stop,
    see: &mut dyn FnMut(Line<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let fail = |e: io::Error| file_error("read", path, &e);
    let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(fail)?);
    let (mut bytes, mut offset, mut number) = (Vec::new(), 0, 0);
    while stop.requested().is_none() {
        bytes.clear();
        let length = read_line(&mut file, &mut bytes).map_err(fail)?;
        if length == 0 {
            break;
        }
        number += 1;
        let line = Line {
            number,
            offset,
            bytes: &bytes,
        };
        offset += length;
        if !bytes.trim_ascii().is_empty() && see(line).is_break() {
            break;
        }
    }
    Ok(())
}

/// Reads the line that begins at this byte of a reject file.
pub fn line_at(path: &Path, offset: u64) -> Result<RejectLine> {
    let fail = |e: io::Error| file_error("read", path, &e);
    let mut file = BufReader::new(File::open(path).map_err(fail)?);
    file.seek(SeekFrom::Start(offset)).map_err(fail)?;
    let mut bytes = Vec::new();
    read_line(&mut file, &mut bytes).map_err(fail)?;
    RejectLine::read(&bytes)
}

/// Reads a line without its newline, or its first bytes, and skips the others; returns how many it has. Without any, the
/// file has ended.
fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    let read = file.take(MAX_LINE_BYTES as u64).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(read as u64);
    }
    let rest = match read < MAX_LINE_BYTES {
        true => 0,
        false => file.skip_until(b'\n')?,
    };
    Ok((read + rest) as u64)
}

/// How long after its commit a load may have written to its reject file, in milliseconds: clocks of a server and of this
/// machine differ a bit, and the end of the file may be written after the commit.
const CLOCKS: i64 = 60_000;

/// What is at the path of a load's reject file, which may be another file by now.
#[derive(Debug)]
pub struct RejectsOf<'a> {
    /// The load.
    pub writer: Writer<'a>,
    /// Its path.
    pub path: &'a Path,
    /// Whether it may be the one that the load wrote, by its time.
    is_old: bool,
}

impl<'a> RejectsOf<'a> {
    /// None if the load has no reject file, or nothing is there: the user may have deleted it, and a pipe cannot be read
    /// again.
    pub fn of(load: &'a LoadRecord) -> Option<RejectsOf<'a>> {
        let path = Path::new(load.info.rejects.as_ref()?);
        check_unchanged(path, i64::MAX).ok()?;
        Some(RejectsOf {
            writer: Writer::of(load),
            path,
            is_old: check_unchanged(path, load.loaded_at.saturating_add(CLOCKS)).is_ok(),
        })
    }

    /// Reads a line of it; none if another run wrote that. A line that does not say who wrote it, such as one of an older
    /// version of rtp or one that cannot be read, is taken for the load's if the file is old enough.
    pub fn read(&self, line: &[u8]) -> Option<Result<RejectLine>> {
        let read = RejectLine::read(line);
        let said = read.as_ref().ok().and_then(|line| line.is_by(self.writer));
        said.unwrap_or(self.is_old).then_some(read)
    }
}

/// The reject files of these loads, the newest first, each with the index of the load that wrote it: a load without records
/// leaves the file of an earlier one as it is. If the first line does not say who wrote it, that is the last load.
pub fn reject_files(loads: &[LoadRecord]) -> Vec<(usize, RejectsOf<'_>)> {
    let mut by_path: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, load) in loads.iter().enumerate() {
        if let Some(path) = &load.info.rejects {
            by_path.entry(path).or_default().push(index);
        }
    }
    let file = |(path, indexes): (&str, Vec<usize>)| {
        let first = line_at(Path::new(path), 0).ok();
        let wrote = |index: &&usize| {
            let said = first
                .as_ref()
                .and_then(|line| line.is_by(Writer::of(&loads[**index])));
            said == Some(true)
        };
        let index = *indexes.iter().find(wrote).or(indexes.first())?;
        Some((index, RejectsOf::of(&loads[index])?))
    };
    let mut files: Vec<_> = by_path.into_iter().filter_map(file).collect();
    files.sort_by_key(|(index, _)| *index);
    files
}

/// A header, and the text of an unquoted cell that means null.
type Head = (Vec<u8>, String);

/// Reads the keys of the records that a load has rejected, for which a CSV record needs the header of its input.
#[derive(Debug)]
pub struct RejectKeys<'a> {
    dataset: &'a Dataset,
    letters: &'a DeadLetters,
    load: &'a LoadRecord,
    stop: &'a Stop,
    /// The headers of the inputs, by their paths, from when they are needed; none if it is not known.
    heads: BTreeMap<&'a str, Option<Head>>,
    /// The columns by the last header, because neighbours mostly come from the same input.
    cells: Option<(Head, Option<KeyCells>)>,
}

impl<'a> RejectKeys<'a> {
    /// Those of this load.
    pub fn of(
        dataset: &'a Dataset,
        letters: &'a DeadLetters,
        load: &'a LoadRecord,
        stop: &'a Stop,
    ) -> RejectKeys<'a> {
        RejectKeys {
            dataset,
            letters,
            load,
            stop,
            heads: BTreeMap::new(),
            cells: None,
        }
    }

    /// The key of a rejected record, and its event time in milliseconds since 1970 UTC, whatever else is wrong with it.
    /// None if the key cannot be read: the record may be of any key, then.
    pub fn read(&mut self, reject: &RejectLine) -> Option<(Value<'static>, Option<i64>)> {
        let record = reject.record()?;
        let mut inputs = self.load.info.inputs.iter();
        let path = reject.input.as_deref();
        let input = path.and_then(|path| inputs.find(|input| input.path == path));
        let read = input.and_then(|input| input.read.as_ref());
        let format = read.and_then(|read| FileFormat::of_option(&read.format));
        if format != Some(FileFormat::Csv)
            && let Some(key) = self.letters.key_in(&record)
        {
            return Some((key, self.letters.time_in(&record)));
        }
        let head = match (path, input) {
            _ if format == Some(FileFormat::Ndjson) => None,
            (None, _) => self.only_head(),
            (Some(_), input) => self.head(input?),
        };
        self.cells(head?)?.read(&record)
    }

    fn cells(&mut self, head: Head) -> Option<&KeyCells> {
        if !matches!(&self.cells, Some((known, _)) if *known == head) {
            let cells = KeyCells::read_header(&head.0, self.dataset, &head.1).ok();
            self.cells = Some((head, cells));
        }
        self.cells.as_ref()?.1.as_ref()
    }

    /// The header of all inputs that may be CSV; none if they have different ones, or one of them is not known.
    fn only_head(&mut self) -> Option<Head> {
        let load = self.load;
        let inputs = load.info.inputs.iter();
        let may_be_csv = |input: &&LoadedFile| {
            input.path == "-" || FileFormat::of_loaded(input) == FileFormat::Csv
        };
        let mut heads = inputs.filter(may_be_csv).map(|input| self.head(input));
        let first = heads.next()??;
        heads
            .all(|head| head.as_ref() == Some(&first))
            .then_some(first)
    }

    fn head(&mut self, input: &'a LoadedFile) -> Option<Head> {
        let (load, stop) = (self.load, self.stop);
        let head = self.heads.entry(&input.path);
        let read = || {
            let null = input.read.as_ref().map_or("", |read| &read.null);
            Some((header_of(load, input, stop)?, null.to_string()))
        };
        head.or_insert_with(read).clone()
    }
}

/// The header of a CSV file, if the file is still what the load has read: it is read to its end, because another one may
/// have the same length.
fn header_of(load: &LoadRecord, input: &LoadedFile, stop: &Stop) -> Option<Vec<u8>> {
    may_be_same(load, input).ok()?;
    // Without a header, the records of the file are of unknown keys.
    let found = whole(Path::new(&input.path), FileFormat::Csv, stop).ok()?;
    is_same(load, input, found.contents.as_ref()).ok()?;
    found.header
}
