//! Pure: a response becomes a page of lines, or an error that says what is wrong with it.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use super::Response;
use super::pagination::Hint;
use crate::dataset::{Dataset, From, PageStyle, Pointer, SourceSpec};
use crate::error::{Error, Result};
use crate::source::pointers::{Pointers, elements, instead_of};
use crate::source::projection::Projection;

/// What a record is turned into.
#[derive(Clone, Debug)]
pub enum Shape {
    /// An event: the dataset's fields, with this time in fields taken from `as-of`.
    Event {
        /// RFC 3339 with milliseconds.
        as_of: String,
    },
    /// The record as received, minus the dataset's secrets.
    Raw,
}

/// One page, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// One line of JSON per record.
    pub lines: Vec<u8>,
    /// End of each line in `lines`, in bytes.
    pub ends: Vec<usize>,
    /// XXH3-64 of the records as received: two equal pages mean a loop.
    pub fingerprint: u64,
    /// Where the next page is, according to the source.
    pub hint: Hint,
    /// Which of the dataset's fields at least one record has; empty for records as received.
    pub present: Vec<bool>,
}

impl Page {
    /// Number of records.
    pub fn records(&self) -> u64 {
        self.ends.len() as u64
    }

    /// The lines of these records, counted from 0.
    pub fn lines_of(&self, records: Range<u64>) -> &[u8] {
        let start_of = |record: u64| {
            let before = usize::try_from(record).ok().and_then(|n| n.checked_sub(1));
            before.map_or(0, |i| self.ends.get(i).copied().unwrap_or(self.lines.len()))
        };
        &self.lines[start_of(records.start)..start_of(records.end)]
    }
}

/// Reads the pages of one dataset's source.
#[derive(Clone, Debug)]
pub struct PageReader {
    places: Pointers,
    records_at: Pointer,
    has_error: bool,
    style: PageStyle,
    projection: Projection,
    shape: Shape,
    /// Name of the key field.
    key: String,
    /// Names of the fields that hold the time of the run.
    times_of_run: Vec<String>,
}

impl PageReader {
    /// A reader for the dataset's source, which turns records into `shape`.
    pub fn new(dataset: &Dataset, source: &SourceSpec, shape: Shape) -> Self {
        let next = match &source.pagination.style {
            PageStyle::Cursor { next, .. } | PageStyle::NextUrl { next } => Some(next),
            _ => None,
        };
        let places = std::iter::once(&source.records)
            .chain(next)
            .chain(&source.error);
        let fields = dataset.fields.iter();
        let of_run = fields.filter(|field| matches!(field.from, From::AsOf));
        PageReader {
            places: Pointers::new(places),
            records_at: source.records.clone(),
            has_error: source.error.is_some(),
            style: source.pagination.style.clone(),
            projection: Projection::new(dataset),
            shape,
            key: dataset.fields[dataset.event.key].name.clone(),
            times_of_run: of_run.map(|field| field.name.clone()).collect(),
        }
    }

    /// Where responses have their records.
    pub fn records_at(&self) -> &Pointer {
        &self.records_at
    }

    /// What identifies the record of a line: a hash of its key, which stays the same if the record's other fields change
    /// and in whichever shape it was fetched. Records without a key would all be the same one, so all that they say
    /// counts.
    pub fn identity(&self, line: &[u8]) -> Result<String> {
        let unreadable = |e| Error::internal(format!("a line of a page is not JSON: {e}"));
        let line = std::str::from_utf8(line).map_err(Error::internal)?;
        let mut event = Vec::new();
        if let Shape::Raw = self.shape {
            let mut present = vec![false; self.projection.fields()];
            self.projection
                .event(line, "", &mut present, &mut event)
                .map_err(unreadable)?;
        } else {
            event.extend_from_slice(line.as_bytes());
        }
        let mut event: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(&event).map_err(unreadable)?;
        let key = event.get(&self.key).map(|key| key.get());
        let told = match (key.filter(|key| *key != "null"), &self.shape) {
            (Some(key), _) => key.to_string(),
            (None, Shape::Raw) => line.to_string(),
            (None, Shape::Event { .. }) => {
                event.retain(|name, _| !self.times_of_run.contains(name)); // another run has another one
                serde_json::to_string(&event).map_err(unreadable)?
            }
        };
        Ok(format!("{:016x}", xxh3_64(told.as_bytes())))
    }

    /// Reads one response. A body that the source itself calls an error, or that is not JSON, is `Data`: APIs respond like
    /// that while they are down, even with status 200, but also for ever. JSON without records where the dataset says
    /// that they are is `Invalid`.
    pub fn read(&self, response: &Response) -> Result<Page> {
        let body = std::str::from_utf8(&response.body).map_err(|e| {
            let at = e.valid_up_to();
            Error::data(format!("the response is not valid UTF-8 at byte {at}"))
        })?;
        let body = body.strip_prefix('\u{feff}').unwrap_or(body).trim_ascii();
        if body.is_empty() {
            return Err(Error::data("the response is empty"));
        }
        let found = self.places.find(body).map_err(|e| no_json(body, &e))?;
        if let (true, Some(Some(error))) = (self.has_error, found.last())
            && *error != "null"
        {
            let text: String = error.chars().take(200).collect();
            return Err(Error::data(format!("the source reports an error: {text}")));
        }
        let Some(records) = found.first().copied().flatten() else {
            let there = instead_of(&self.records_at, body).map_err(|e| no_json(body, &e))?;
            return Err(Error::invalid(format!(
                "the response has no `{}`: {there}",
                self.records_at
            ))
            .hint(RECORDS_HINT));
        };
        let mut lines = Vec::with_capacity(records.len() / 2);
        let mut ends = Vec::new();
        let mut present = match self.shape {
            Shape::Event { .. } => vec![false; self.projection.fields()],
            Shape::Raw => Vec::new(),
        };
        let is_array = elements(records, |record| {
            match &self.shape {
                Shape::Event { as_of } => {
                    let present = &mut present;
                    self.projection.event(record, as_of, present, &mut lines)?;
                }
                Shape::Raw => self.projection.raw(record, &mut lines)?,
            }
            ends.push(lines.len());
            Ok(())
        })
        .map_err(|e| no_json(body, &e))?;
        if !is_array {
            return Err(Error::invalid(format!(
                "`{}` in the response is not an array",
                self.records_at
            ))
            .hint(RECORDS_HINT));
        }
        let hint = match &self.style {
            PageStyle::Cursor { next, .. } | PageStyle::NextUrl { next } => {
                match found.get(1).copied().flatten() {
                    Some(raw) => Hint::of_json(raw)?,
                    None => Hint::Absent(instead_of(next, body).map_err(|e| no_json(body, &e))?),
                }
            }
            PageStyle::Link => response.next_link.clone().map_or(Hint::None, Hint::Next),
            _ => Hint::None,
        };
        Ok(Page {
            lines,
            ends,
            fingerprint: xxh3_64(records.as_bytes()),
            hint,
            present,
        })
    }
}

const RECORDS_HINT: &str =
    "`records` in the dataset's [source] says where a response has its records";

fn no_json(body: &str, error: &serde_json::Error) -> Error {
    if body.starts_with('<') {
        let start: String = body.chars().take(60).collect();
        return Error::data(format!(
            "the response is a web page, not JSON; it begins with `{start}`"
        ));
    }
    Error::data(format!("the response is invalid JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Page> {
        let dataset = Dataset::load(None).unwrap();
        let as_of = "2026-11-24T00:00:00.000Z".into();
        PageReader::new(&dataset, &dataset.source, Shape::Event { as_of }).read(&Response {
            body: body.into(),
            next_link: None,
        })
    }

    #[test]
    fn a_page_has_a_line_for_each_record() {
        let page = read(r#"{"results":[{"gender":"male"},{"gender":"female"}]}"#).unwrap();
        assert_eq!(page.records(), 2);
        assert_eq!(page.lines_of(0..2), page.lines);
        let (first, second) = (page.lines_of(0..1), page.lines_of(1..2));
        assert!(first.ends_with(b"\n") && [first, second].concat() == page.lines);
        assert!(page.lines_of(0..0).is_empty() && page.lines_of(2..2).is_empty());
        let other = read(r#"{"results":[{"gender":"male"}]}"#).unwrap();
        assert_ne!(page.fingerprint, other.fingerprint);
        for empty in [
            r#"{"results":[]}"#,
            r#"{"results":null}"#,
            "\u{feff}{\"results\":[]}",
        ] {
            assert_eq!(read(empty).unwrap().records(), 0);
        }
    }

    #[test]
    fn what_is_no_page_is_data_that_cannot_be_read() {
        for (body, message) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("<html></html>", "a web page"),
            (r#"{"results":[{"a":1}"#, "invalid JSON"),
            (r#"{"results":[]} x"#, "invalid JSON"),
            (r#"{"error":"Uh oh"}"#, "reports an error: \"Uh oh\""),
        ] {
            let error = read(body).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Data, "{body}");
            assert!(error.to_string().contains(message), "{body}: {error}");
        }
        assert!(read(r#"{"error":null,"results":[]}"#).is_ok());
    }

    #[test]
    fn records_in_another_place_are_a_mistake_in_the_dataset() {
        for (body, message) in [
            (
                r#"{"other":[]}"#,
                "has no `/results`: the response has the keys other",
            ),
            ("[]", "has no `/results`: the response has no keys"),
            (r#"{"results":{}}"#, "is not an array"),
        ] {
            let error = read(body).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Invalid, "{body}");
            assert!(error.to_string().contains(message), "{body}: {error}");
        }
    }
}
