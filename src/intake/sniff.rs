//! What the first bytes of an input tell: a compressed file, a JSON array or any other text is the wrong input, not
//! an input of bad records. It is refused before anything is read, so that no line of it becomes a reject.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::chunk::FileFormat;
use crate::error::{Error, Result, file_error};

/// How much is looked at.
const HEAD_BYTES: usize = 64 << 10;

/// Bytes after which every signature below can be recognized.
const SIGNATURE_BYTES: usize = 16;

/// How files that are not text start, and what to do with them.
const SIGNATURES: [(&[u8], &str); 16] = [
    (b"\xff\xfe", UTF_16),
    (b"\xfe\xff", UTF_16),
    (b"\x1f\x8b", "it is gzip; pipe it through gunzip"),
    (b"\x28\xb5\x2f\xfd", "it is zstd; pipe it through zstdcat"),
    (b"\xfd7zXZ\0", "it is xz; pipe it through xzcat"),
    (b"BZh", "it is bzip2; pipe it through bzcat"),
    (b"\x04\x22\x4d\x18", "it is lz4; pipe it through lz4cat"),
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", ZIP),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive; unpack it first"),
    (b"PAR1", "it is Parquet; convert it to NDJSON"),
    (b"Obj\x01", "it is Avro; convert it to NDJSON"),
    (b"ARROW1", "it is Arrow; convert it to NDJSON"),
    (
        b"\xff\xff\xff\xff",
        "it is an Arrow stream; convert it to NDJSON",
    ),
    (b"SQLite format 3\0", "it is an SQLite database"),
    (b"%PDF-", "it is PDF"),
];

const UTF_16: &str = "it is UTF-16; convert it to UTF-8, for example with iconv";
const ZIP: &str = "it is a zip archive; pipe it through unzip -p";

/// Refuses files that are missing, may not be read, or are not what the command reads. A pipe can be read only
/// once, so it is checked when it is read.
pub fn check_files(files: &[PathBuf], forced: Option<FileFormat>) -> Result<()> {
    for path in existing(files)? {
        let head = head(path).map_err(|e| file_error("read", path, &e))?;
        let format = forced.unwrap_or_else(|| FileFormat::of(path));
        start(&head, format, &path.display())?;
    }
    Ok(())
}

/// The regular files among the inputs; an error if one does not exist or is a folder.
pub fn existing(files: &[PathBuf]) -> Result<Vec<&Path>> {
    let mut regular = Vec::new();
    for path in files.iter().filter(|path| path.as_os_str() != "-") {
        let there = std::fs::metadata(path).map_err(|e| file_error("read", path, &e))?;
        if there.is_dir() {
            return Err(Error::invalid(format!(
                "cannot read {}: it is a folder; expected a file",
                path.display()
            )));
        }
        if there.is_file() {
            regular.push(path.as_path());
        }
    }
    Ok(regular)
}

fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?
        .take(HEAD_BYTES as u64)
        .read_to_end(&mut head)?;
    Ok(head)
}

/// Bytes of a byte order mark to skip; an error for an input in another format.
pub(super) fn start(
    bytes: &[u8],
    format: FileFormat,
    name: &impl std::fmt::Display,
) -> Result<usize> {
    let bytes = &bytes[..bytes.len().min(HEAD_BYTES)];
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let signature = SIGNATURES
        .iter()
        .find(|(start, _)| bytes.starts_with(start));
    let hint = match (signature, format) {
        (Some((_, hint)), _) => Some(*hint),
        (None, FileFormat::Ndjson) => not_ndjson(text),
        (None, FileFormat::Csv) => None, // its header is checked
    };
    match hint {
        None => Ok(bytes.len() - text.len()),
        Some(hint) => Err(Error::invalid(format!("{name} is not {}", format.name())).hint(hint)),
    }
}

/// Whether the first bytes of a pipe are enough for the verdict that a file of the same content would get: a whole record
/// has come, or as much as is looked at.
pub(super) fn can_tell(bytes: &[u8], format: FileFormat) -> bool {
    if bytes.len() >= HEAD_BYTES {
        return true;
    }
    if format == FileFormat::Csv {
        return bytes.len() >= SIGNATURE_BYTES || memchr::memchr(b'\n', bytes).is_some();
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    if matches!(values.next(), Some(Err(e)) if e.is_eof()) {
        return false; // it may still become one value over several lines
    }
    let is_record = |line: &[u8]| {
        let is_object = line.trim_ascii_start().starts_with(b"{");
        is_object && serde_json::from_slice::<IgnoredAny>(line).is_ok()
    };
    let mut lines = text.split_inclusive(|b| *b == b'\n');
    lines.any(|line| line.ends_with(b"\n") && is_record(line))
}

/// What a text is instead of NDJSON; none if it may be NDJSON. One line that starts like an object is enough: bad
/// lines are rejected one by one.
fn not_ndjson(text: &[u8]) -> Option<&'static str> {
    let text = text.trim_ascii_start();
    let first = *text.first()?;
    if spans_lines(text) {
        return Some(
            "it is JSON over several lines; `jq -c .` writes an object on one line, and `jq -c '.[]'` those of an array",
        );
    }
    let mut lines = text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii_start);
    if lines.any(|line| line.starts_with(b"{")) {
        return None;
    }
    let mut further = text.split(|b| *b == b'\n').skip(1);
    match first {
        b'[' => Some("it is a JSON array; `jq -c '.[]'` writes its records one per line"),
        b'<' => Some("it is HTML or XML"),
        _ if text.contains(&0) => Some("it is binary"),
        _ if further.any(|line| !line.trim_ascii().is_empty()) => Some(
            "none of its first lines is a JSON object; CSV is read by `rtp load-batch --format csv`",
        ),
        _ => None, // a single bad record, as far as anybody can tell
    }
}

/// Whether the first JSON value goes on after its line. A line that was torn apart is followed by another record, so
/// that it is invalid JSON instead.
fn spans_lines(text: &[u8]) -> bool {
    let Some(end) = memchr::memchr(b'\n', text).filter(|_| matches!(text[0], b'{' | b'[')) else {
        return false;
    };
    if text[1..end].trim_ascii().is_empty() {
        return true; // a bracket alone on its line
    }
    let goes_on = !text[end..].trim_ascii().is_empty();
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => values.byte_offset() > end,
        Some(Err(e)) => e.is_eof() && goes_on,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(bytes: &[u8]) -> Option<String> {
        let refused = start(bytes, FileFormat::Ndjson, &"f").err()?;
        assert_eq!(refused.kind(), crate::error::Kind::Invalid);
        refused.hint_text().map(String::from)
    }

    #[test]
    fn other_formats_are_told_from_bad_records() {
        let table: [(&[u8], &str); 18] = [
            (b"[{\"a\":1},{\"a\":2}]", "JSON array"),
            (b" \n[1,2]\n", "JSON array"),
            (b"[\n{\"a\":1},\n{\"a\":2}\n]\n", "several lines"),
            (b"[{\"a\":1},\n{\"a\":2}]\n", "several lines"),
            (b"{\n  \"a\": 1\n}", "several lines"),
            (b"\xef\xbb\xbf{\n  \"a\": 1,\n  \"b\":", "several lines"),
            (
                b"{\"results\":[\n{\"a\":1},\n{\"a\":2}\n]}\n",
                "several lines",
            ),
            (
                b"root:x:0:0::/root:/bin/sh\nbin:x:1:1::/:/bin/false\n",
                "none of its first lines",
            ),
            (b"id,email\n1,a@example.com\n", "--format csv"),
            (b"<!doctype html><html></html>", "HTML"),
            (b"\x7fELF\x02\x01\0\0", "binary"),
            (b"\xfd7zXZ\0\0\x04", "xzcat"),
            (b"BZh91AY&SY", "bzcat"),
            (b"PK\x03\x04\0\0", "unzip"),
            (b"\x1f\x8b\x08", "gunzip"),
            (b"\x28\xb5\x2f\xfd", "zstdcat"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"SQLite format 3\0", "SQLite"),
        ];
        for (bytes, says) in table {
            let hint = hint(bytes).unwrap_or_default();
            assert!(hint.contains(says), "{}: {hint}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_pipe_is_judged_like_a_file_however_it_arrives() {
        let texts = [
            "bad one\nbad two\n{\"a\":1}\n",
            "{\"a\":\n{\"b\":1}\n{\"c\":1}\n",
            "{\"id\":\"1\",\n\"b\":2}\n",
            "[1,\n2]\n",
            "{\"a\":1}\nbad\n",
            "\n{\"a\":1}\n",
        ];
        for text in texts {
            let whole = hint(text.as_bytes());
            let told =
                (1..text.len()).find(|n| can_tell(&text.as_bytes()[..*n], FileFormat::Ndjson));
            let early = hint(&text.as_bytes()[..told.unwrap_or(text.len())]);
            assert_eq!(early, whole, "{text}");
        }
        // A feed that begins with a record is not kept waiting.
        assert!(can_tell(b"{\"a\":1}\n", FileFormat::Ndjson));
        assert!(!can_tell(b"{\"a\":1}", FileFormat::Ndjson));
    }

    #[test]
    fn bad_records_among_others_are_left_to_the_rules() {
        for text in [
            "",
            "\n \n",
            "not json",
            "not json\n",
            "42\n\n",
            "not json\n{}\n",
            "[1,2]\n{}\n",
            "{\"id\":\"0000",
            "{\"id\":\"0000\n{\"id\":1}\n{\"id\":2}\n",
            "{\"id\":1,\n{\"id\":1}\n{\"id\":2}\n",
            "{\"id\":1\n",
            "{'a':1}\n{'a':2}\n",
            "\u{feff}{}\n{}\n",
        ] {
            assert_eq!(hint(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn all_files_are_looked_at_before_any_is_read() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        std::fs::write(path("good"), "{}\n").unwrap();
        std::fs::write(path("array"), "[]").unwrap();
        std::fs::write(path("a.csv"), "id\n1\n").unwrap();
        let check = |names: &[&str]| {
            let files: Vec<PathBuf> = names.iter().map(|name| path(name)).collect();
            check_files(&files, None)
        };
        check(&["good", "a.csv"]).unwrap();
        for (name, says) in [
            ("none", "cannot read"),
            ("array", "is not NDJSON"),
            (".", "it is a folder"),
        ] {
            let error = check(&["good", name]).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Invalid, "{name}");
            assert!(error.to_string().contains(says), "{name}: {error}");
        }
    }
}
