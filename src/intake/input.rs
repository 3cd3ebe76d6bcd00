//! NDJSON or CSV from files or standard input, in chunks of whole records.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::error::{Context, Result, file_error};
use crate::intake::chunk::{Chunk, Ended, FileFormat};
use crate::intake::csv;
use crate::intake::marks::{Mark, Tally};
use crate::intake::sniff;
use crate::ports::ledger::Contents;
use crate::record::json::MAX_EVENT_BYTES;
use crate::run::streams;

/// Bytes requested in one read: few enough to stay in the processor's cache until the events are built from them.
const READ_BYTES: usize = 512 << 10;

/// The paths that mean standard input.
const STDIN: [&str; 4] = ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];

/// What is read, in order.
pub struct Input {
    waiting: VecDeque<PathBuf>,
    /// The format of all files; none chooses by each file's extension.
    forced: Option<FileFormat>,
    reader: Option<Box<dyn Read + Send>>,
    name: String,
    kept_path: String,
    format: FileFormat,
    carry: Vec<u8>,
    /// The buffer of a returned chunk.
    spare: Vec<u8>,
    /// Set while the rest of a line over the limit is skipped.
    overlong: bool,
    line: u64,
    offset: u64,
    at_start: bool,
    awaits_header: bool,
    since: Tally,
    complete: bool,
    /// Whether the last line so far has no newline.
    open: bool,
    records: u64,
    is_pipe: bool,
    /// The number and hash of the bytes of the file so far.
    bytes: u64,
    hash: Box<Xxh3>,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input")
            .field("name", &self.name)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

impl Input {
    /// Reads these files in order, in this format or in that of their extensions; `-` or no file means standard input.
    pub fn new(files: &[PathBuf], format: Option<FileFormat>) -> Self {
        let mut waiting: VecDeque<PathBuf> = files.to_vec().into();
        if waiting.is_empty() {
            waiting.push_back("-".into());
        }
        Input {
            waiting,
            forced: format,
            reader: None,
            name: String::new(),
            kept_path: String::new(),
            format: FileFormat::Ndjson,
            carry: Vec::new(),
            spare: Vec::new(),
            overlong: false,
            line: 0,
            offset: 0,
            at_start: true,
            awaits_header: false,
            since: Tally::default(),
            complete: false,
            open: false,
            records: 0,
            is_pipe: false,
            bytes: 0,
            hash: Box::default(),
        }
    }

    /// The file being read, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its [`kept_path`].
    pub fn kept_path(&self) -> &str {
        &self.kept_path
    }

    /// Whether the last record line of the file being read was followed by its trailer.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The next whole lines, or the end of a file; none at the end of the last one. Blocks until it has one of these.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        loop {
            let Some(reader) = &mut self.reader else {
                match self.waiting.pop_front() {
                    None => return Ok(None),
                    Some(path) => self.open(path)?,
                }
                continue;
            };
            let mut bytes = std::mem::take(&mut self.spare);
            let old = self.carry.len();
            bytes.resize(bytes.len().max(old + READ_BYTES), 0);
            bytes[..old].copy_from_slice(&self.carry);
            self.carry.clear();
            let read = loop {
                match reader.read(&mut bytes[old..]) {
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            let read = read.map_err(|e| file_error("read", Path::new(&self.name), &e))?;
            self.hash.update(&bytes[old..old + read]);
            self.bytes += read as u64;
            let ended = read == 0;
            if ended {
                self.reader = None;
            }
            let mut chunk = self.split(&bytes[..old + read], ended)?;
            chunk.bytes = bytes;
            if ended {
                chunk.ended = Some(Ended {
                    name: self.name.clone(),
                    records: self.records,
                    format: self.format,
                    is_complete: self.complete,
                    is_open: self.open || self.awaits_header,
                    is_pipe: self.is_pipe,
                    contents: Contents {
                        bytes: self.bytes,
                        xxh3: format!("{:032x}", self.hash.digest128()),
                    },
                });
                return Ok(Some(chunk));
            }
            if !chunk.is_empty() || chunk.skipped > 0 || chunk.header.is_some() {
                return Ok(Some(chunk));
            }
            self.spare = chunk.bytes;
        }
    }

    /// Takes back the buffer of a chunk for the next one; returns its bookmark.
    pub fn take_back(&mut self, chunk: Chunk) -> Option<String> {
        self.spare = chunk.bytes;
        chunk.state
    }

    fn open(&mut self, path: PathBuf) -> Result<()> {
        (self.line, self.offset, self.at_start) = (0, 0, true);
        // A trailer is about its own file only.
        (self.since, self.complete, self.records) = (Tally::default(), false, 0);
        self.open = false;
        self.bytes = 0;
        self.hash.reset();
        self.is_pipe = is_pipe(&path);
        self.format = self.forced.unwrap_or_else(|| FileFormat::of(&path));
        self.awaits_header = self.format == FileFormat::Csv;
        self.kept_path = kept_path(&path)?;
        if path.as_os_str() == "-" {
            self.name = "standard input".into();
            streams::check_input()?;
            self.reader = Some(Box::new(std::io::stdin()));
            return Ok(());
        }
        self.name = path.display().to_string();
        let file = File::open(&path).map_err(|e| file_error("read", &path, &e))?;
        self.reader = Some(Box::new(file));
        Ok(())
    }

    /// Splits off the whole lines; the rest is carried over to the next read.
    fn split(&mut self, bytes: &[u8], ended: bool) -> Result<Chunk> {
        let mut start = 0;
        if self.at_start && !ended && !sniff::can_tell(bytes, self.format) {
            self.carry.extend_from_slice(bytes);
            return Ok(Chunk::default());
        }
        if self.at_start {
            start = sniff::start(bytes, self.format, &self.name)?;
            self.offset = start as u64;
            self.at_start = false;
        }
        let mut chunk = Chunk {
            format: self.format,
            size: bytes.len(),
            ..Chunk::default()
        };
        while let Some(length) = self.line_length(&bytes[start..], ended) {
            self.take_line(bytes, start..start + length, 1, &mut chunk)?;
            start += length + 1;
        }
        let rest = bytes.len() - start;
        if ended && rest > 0 {
            let lines = chunk.len();
            self.take_line(bytes, start..bytes.len(), 0, &mut chunk)?;
            chunk.is_open = chunk.len() > lines;
        } else if rest > MAX_EVENT_BYTES {
            // One byte over the limit is kept, which is enough for the line to be rejected as too large.
            if !self.overlong {
                self.take_line(bytes, start..start + MAX_EVENT_BYTES + 1, 0, &mut chunk)?;
                self.overlong = true;
                self.offset += (rest - MAX_EVENT_BYTES - 1) as u64;
            } else {
                self.offset += rest as u64;
            }
        } else if rest > 0 {
            self.carry.extend_from_slice(&bytes[start..]);
            chunk.size = start;
        }
        Ok(chunk)
    }

    /// Bytes before the end of the first record. A CSV record that would be too long or run to the end of the
    /// file, because a quote is unclosed, ends at its first newline, so that only that line is lost.
    fn line_length(&self, bytes: &[u8], ended: bool) -> Option<usize> {
        let line = || memchr::memchr(b'\n', bytes);
        if self.format == FileFormat::Ndjson || self.overlong {
            return line();
        }
        match csv::record_end(bytes) {
            None if ended || bytes.len() > MAX_EVENT_BYTES => line(),
            Some(end) if end > MAX_EVENT_BYTES => line(),
            end => end,
        }
    }

    fn take_line(
        &mut self,
        bytes: &[u8],
        range: Range<usize>,
        end: u64,
        chunk: &mut Chunk,
    ) -> Result<()> {
        let length = range.len() as u64 + end;
        self.open = end == 0;
        if std::mem::take(&mut self.overlong) {
            self.offset += length; // the end of a line already handed out
            return Ok(());
        }
        let number = self.line + 1;
        self.line = match self.format {
            FileFormat::Ndjson => number,
            FileFormat::Csv => {
                number + memchr::memchr_iter(b'\n', &bytes[range.clone()]).count() as u64
            }
        };
        let at = self.offset;
        self.offset += length;
        let mut range = range;
        if bytes[range.clone()].ends_with(b"\r") {
            range.end -= 1;
        }
        let line = &bytes[range.clone()];
        if line.iter().all(|b| matches!(b, b' ' | b'\t')) {
            chunk.skipped += 1;
        } else if std::mem::take(&mut self.awaits_header) {
            chunk.header = Some(range);
        } else if self.format == FileFormat::Ndjson && Tally::is_mark(line) {
            self.check_mark(line, chunk)?;
        } else {
            self.complete = false;
            self.records += 1;
            self.since.add(line);
            chunk.lines.push((number, at, range));
        }
        Ok(())
    }

    fn check_mark(&mut self, line: &[u8], chunk: &mut Chunk) -> Result<()> {
        let mark = self
            .since
            .check(line)
            .context(format_args!("{} line {}", self.name, self.line))?;
        match mark {
            Mark::End => self.complete = true,
            Mark::Page { state } => chunk.state = Some(state),
        }
        chunk.skipped += 1;
        Ok(())
    }
}

/// Whether a path means standard input.
pub fn is_stdin(path: &Path) -> bool {
    STDIN.iter().any(|name| path.as_os_str() == *name)
}

/// The path of an input as loads and reject lines keep it: absolute, or `-` for standard input.
pub fn kept_path(path: &Path) -> Result<String> {
    match is_stdin(path) {
        true => Ok("-".into()),
        false => absolute(path),
    }
}

/// A path that means the same in every working directory.
pub fn absolute(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(|e| file_error("find", path, &e))?;
    Ok(absolute.to_string_lossy().into_owned())
}

/// Whether a path, or standard input for `-`, is a pipe or socket.
pub fn is_pipe(path: &Path) -> bool {
    let found = match path.as_os_str() == "-" {
        true => std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .and_then(|stdin| File::from(stdin).metadata()),
        false => std::fs::metadata(path),
    };
    found.is_ok_and(|found| {
        let kind = found.file_type();
        kind.is_fifo() || kind.is_socket()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(bytes: &[u8], step: usize) -> Input {
        struct Steps(Vec<u8>, usize);
        impl Read for Steps {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                let n = self.0.len().min(self.1).min(buffer.len());
                buffer[..n].copy_from_slice(&self.0[..n]);
                self.0.drain(..n);
                Ok(n)
            }
        }
        let mut input = Input::new(&[], None);
        input.waiting.clear();
        input.reader = Some(Box::new(Steps(bytes.to_vec(), step)));
        input
    }

    type Read3 = (Vec<(u64, u64, Vec<u8>)>, u64, bool);

    fn read_all(bytes: &[u8], step: usize) -> Result<Read3> {
        let mut input = input(bytes, step);
        let (mut lines, mut skipped) = (Vec::new(), 0);
        while let Some(chunk) = input.next_chunk()? {
            lines.extend(
                chunk
                    .lines()
                    .map(|l| (l.number, l.offset, l.bytes.to_vec())),
            );
            skipped += chunk.skipped;
        }
        Ok((lines, skipped, input.is_complete()))
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let text = b"\xef\xbb\xbf{\"a\":1}\r\n\n  \n{\"b\":2}\nlast";
        let expected = vec![
            (1, 3, b"{\"a\":1}".to_vec()),
            (4, 16, b"{\"b\":2}".to_vec()),
            (5, 24, b"last".to_vec()),
        ];
        for step in [1, 2, 3, 5, 1000] {
            assert_eq!(
                read_all(text, step).unwrap(),
                (expected.clone(), 2, false),
                "step {step}"
            );
        }
    }

    #[test]
    fn trailers_are_checked_and_dropped() {
        let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(b"{}\n"));
        let good = format!("{{}}\n{{\"_rtp\":\"end\",\"records\":1,\"xxh3\":\"{hash}\"}}\n");
        let (lines, skipped, complete) = read_all(good.as_bytes(), 7).unwrap();
        assert_eq!((lines.len(), skipped, complete), (1, 1, true));
        let twice = good.repeat(2);
        assert_eq!(read_all(twice.as_bytes(), 9).unwrap().0.len(), 2);
        let (_, _, complete) = read_all(format!("{good}{{}}\n").as_bytes(), 9).unwrap();
        assert!(!complete);
        let short = good.replace("{}\n", "");
        assert!(
            read_all(short.as_bytes(), 9)
                .unwrap_err()
                .to_string()
                .contains("came before it")
        );
    }

    #[test]
    fn a_line_over_the_limit_is_bounded_and_the_next_ones_come() {
        let mut text = vec![b'x'; 3 * MAX_EVENT_BYTES];
        text.extend_from_slice(b"\n{}\n");
        let (lines, ..) = read_all(&text, 1 << 20).unwrap();
        assert_eq!(lines[0].2.len(), MAX_EVENT_BYTES + 1);
        assert_eq!(lines[1], (2, text.len() as u64 - 3, b"{}".to_vec()));
    }

    #[test]
    fn what_is_no_text_is_refused_with_a_hint() {
        for start in [b"\x1f\x8b\x08", b"\xff\xfe{"] {
            let error = read_all(start, 10).unwrap_err();
            assert!(error.hint_text().is_some());
        }
    }
}
