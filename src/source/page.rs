//! Pure: a response becomes a page of lines, or an error that says what is wrong with it.

use xxhash_rust::xxh3::xxh3_64;

use super::Response;
use super::pagination::Hint;
use crate::dataset::{Dataset, PageStyle, Pointer, SourceSpec};
use crate::error::{Error, Result};
use crate::source::projection::{Pointers, Projection, elements};

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
}

impl Page {
    /// Number of records.
    pub fn records(&self) -> u64 {
        self.ends.len() as u64
    }

    /// The lines of the first `records` records.
    pub fn first(&self, records: u64) -> &[u8] {
        let last = usize::try_from(records).ok().and_then(|n| n.checked_sub(1));
        let end = last.map_or(0, |i| self.ends.get(i).copied().unwrap_or(self.lines.len()));
        &self.lines[..end]
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
        PageReader {
            places: Pointers::new(places),
            records_at: source.records.clone(),
            has_error: source.error.is_some(),
            style: source.pagination.style.clone(),
            projection: Projection::new(dataset),
            shape,
        }
    }

    /// Reads one response. A body that the source itself calls an error, or that is not a page of records, is
    /// `Unavailable`: APIs respond like that while they are down, even with status 200.
    pub fn read(&self, response: &Response) -> Result<Page> {
        let body = response.body.trim_ascii();
        if body.is_empty() {
            return Err(Error::unavailable("the response is empty"));
        }
        let found = self.places.find(body).map_err(|e| no_json(body, &e))?;
        if let (true, Some(Some(error))) = (self.has_error, found.last())
            && *error != "null"
        {
            let text: String = error.chars().take(200).collect();
            return Err(Error::unavailable(format!(
                "the source reports an error: {text}"
            )));
        }
        let Some(records) = found.first().copied().flatten() else {
            return Err(Error::unavailable(format!(
                "the response has no `{}`",
                self.records_at
            )));
        };
        let mut lines = Vec::with_capacity(records.len() / 2);
        let mut ends = Vec::new();
        let is_array = elements(records, |record| {
            match &self.shape {
                Shape::Event { as_of } => self.projection.event(record, as_of, &mut lines)?,
                Shape::Raw => self.projection.raw(record, &mut lines)?,
            }
            ends.push(lines.len());
            Ok(())
        })
        .map_err(|e| no_json(body, &e))?;
        if !is_array {
            return Err(Error::unavailable(format!(
                "`{}` in the response is not an array",
                self.records_at
            )));
        }
        let hint = match &self.style {
            PageStyle::Cursor { .. } | PageStyle::NextUrl { .. } => {
                Hint::of_json(found.get(1).copied().flatten())?
            }
            PageStyle::Link => response.next_link.clone().map_or(Hint::None, Hint::Next),
            _ => Hint::None,
        };
        Ok(Page {
            lines,
            ends,
            fingerprint: xxh3_64(records.as_bytes()),
            hint,
        })
    }
}

fn no_json(body: &str, error: &serde_json::Error) -> Error {
    match body.starts_with('<') {
        true => Error::unavailable("the response is a web page, not JSON"),
        false => Error::unavailable(format!("the response is invalid JSON: {error}")),
    }
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
        assert_eq!(page.first(2), page.lines);
        assert!(page.first(1).ends_with(b"\n") && page.first(1).len() < page.lines.len());
        assert!(page.first(0).is_empty());
        let other = read(r#"{"results":[{"gender":"male"}]}"#).unwrap();
        assert_ne!(page.fingerprint, other.fingerprint);
        assert_eq!(read(r#"{"results":[]}"#).unwrap().records(), 0);
    }

    #[test]
    fn what_is_no_page_is_worth_another_try() {
        for (body, message) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("<html></html>", "a web page"),
            (r#"{"results":[{"a":1}"#, "invalid JSON"),
            (r#"{"results":[]} x"#, "invalid JSON"),
            (r#"{"error":"Uh oh"}"#, "reports an error: \"Uh oh\""),
            (r#"{"other":[]}"#, "has no `/results`"),
            (r#"{"results":{}}"#, "is not an array"),
            (r#"{"results":null}"#, "is not an array"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.is_retriable(), "{body}");
            assert!(error.to_string().contains(message), "{body}: {error}");
        }
        assert!(read(r#"{"error":null,"results":[]}"#).is_ok());
    }
}
