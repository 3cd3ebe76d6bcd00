//! The marks that `fetch` writes among its records, so that a pipe cut short never passes for a
//! complete one: `{"_rtp":"end","records":N,"xxh3":"…"}` after the last record (`--trailer`), and
//! `{"_rtp":"page","records":N,"xxh3":"…","state":{…}}` after each page (`--state` on a pipe), which
//! carries the bookmark to whoever makes the records durable: a side file would have to be matched to what actually
//! arrived.

use serde::Deserialize;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};

/// Every mark starts like this, and no record does.
const MARK_START: &[u8] = br#"{"_rtp":"#;

/// The records since the last trailer: their number, and the XXH3-64 of their lines with newlines.
#[derive(Clone, Default)]
pub struct Tally {
    records: u64,
    hash: Box<Xxh3>,
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tally({}, {})", self.records, self.xxh3())
    }
}

/// The content of a mark.
#[derive(Clone, Debug)]
pub enum Mark {
    /// All records of one `fetch` came before this mark.
    End,
    /// A page ends here; save the bookmark once the records before it are durable.
    Page {
        /// The bookmark: one JSON object, as the file of `fetch --state` holds it.
        state: String,
    },
}

#[derive(Deserialize)]
struct Parsed<'a> {
    #[serde(rename = "_rtp")]
    kind: String,
    records: u64,
    xxh3: String,
    #[serde(borrow)]
    state: Option<&'a RawValue>,
}

impl Tally {
    /// Counts one record, whose line has no newline.
    pub fn add(&mut self, line: &[u8]) {
        self.records += 1;
        self.hash.update(line);
        self.hash.update(b"\n");
    }

    /// Counts whole lines, newlines included.
    pub fn add_lines(&mut self, records: u64, lines: &[u8]) {
        self.records += records;
        self.hash.update(lines);
    }

    fn xxh3(&self) -> String {
        format!("{:016x}", self.hash.digest())
    }

    /// The trailer after these records, as a line.
    pub fn end(&self) -> String {
        format!(
            "{{\"_rtp\":\"end\",\"records\":{},\"xxh3\":\"{}\"}}\n",
            self.records,
            self.xxh3()
        )
    }

    /// The mark after a page, as a line.
    pub fn page(&self, state: &str) -> String {
        format!(
            "{{\"_rtp\":\"page\",\"records\":{},\"xxh3\":\"{}\",\"state\":{state}}}\n",
            self.records,
            self.xxh3()
        )
    }

    /// Whether a line is a mark rather than a record.
    pub fn is_mark(line: &[u8]) -> bool {
        line.starts_with(MARK_START)
    }

    /// Reads a mark and compares it with the records counted; after a trailer, counting starts again.
    /// A mismatch is missing data, because something was lost on the way.
    pub fn check(&mut self, line: &[u8]) -> Result<Mark> {
        let mark: Parsed<'_> = serde_json::from_slice(line)
            .map_err(|e| Error::missing(format!("invalid trailer: {e}")))?;
        if (mark.records, &mark.xxh3) != (self.records, &self.xxh3()) {
            return Err(Error::missing(format!(
                "the trailer counts {} records with xxh3 {}, but {} with {} came before it",
                mark.records,
                mark.xxh3,
                self.records,
                self.xxh3()
            )));
        }
        match (mark.kind.as_str(), mark.state) {
            ("end", _) => {
                *self = Tally::default();
                Ok(Mark::End)
            }
            ("page", Some(state)) => Ok(Mark::Page {
                state: state.get().to_string(),
            }),
            _ => Err(Error::missing(format!("unknown trailer `{}`", mark.kind))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_back_and_what_does_not_fit_is_missing() {
        let mut writer = Tally::default();
        writer.add_lines(2, b"{\"a\":1}\n{\"a\":2}\n");
        let page = writer.page(r#"{"next":2}"#);
        let end = writer.end();
        let mut reader = Tally::default();
        reader.add(b"{\"a\":1}");
        assert!(Tally::is_mark(page.as_bytes()) && !Tally::is_mark(b"{\"a\":1}"));
        let short = reader.check(page.as_bytes()).unwrap_err();
        assert!(short.to_string().contains("but 1 with"), "{short}");
        reader.add(b"{\"a\":2}");
        match reader.check(page.as_bytes()).unwrap() {
            Mark::Page { state } => assert_eq!(state, r#"{"next":2}"#),
            Mark::End => panic!("a page is not the end"),
        }
        assert!(matches!(reader.check(end.as_bytes()).unwrap(), Mark::End));
        assert!(reader.check(end.as_bytes()).is_err());
        assert!(reader.check(br#"{"_rtp":"end","records"#).is_err());
    }
}
