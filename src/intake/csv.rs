//! CSV records to values, as PostgreSQL's `COPY … (FORMAT csv, HEADER)` reads them: the header names
//! the fields, quotes may enclose any part of a cell, and only an unquoted cell can be null.
//!
//! The `csv` crate cannot distinguish an empty cell from an empty quoted text, as `COPY` does, and does not expose a
//! record's bytes for the reject file (the tests compare with its writer). An unclosed quote costs only its own line,
//! not the rest of the file.

use std::borrow::Cow;

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::record::reject::{Fault, Reject, Rule};
use crate::record::value::Value;

/// The columns of one file.
#[derive(Clone, Debug)]
pub struct Columns {
    /// The field of each column, as an index into the dataset's fields; none for an unknown one.
    fields: Vec<Option<usize>>,
    /// Names of the unknown columns, which are ignored.
    pub unknown: Vec<String>,
    null: String,
}

impl Columns {
    /// Reads a header. `null` is the text of an unquoted cell that means null. A required field without
    /// a column is an error, and so is a field with two.
    pub fn read(header: &[u8], dataset: &Dataset, null: &str) -> Result<Columns> {
        let names = std::str::from_utf8(header)
            .map_err(|_| Error::invalid("the header is not valid UTF-8"))
            .and_then(|text| {
                cells(text).map_err(|fault| Error::invalid(format!("invalid header: {fault}")))
            })?;
        let names: Vec<Cow<'_, str>> = names.into_iter().map(|cell| cell.text).collect();
        let fields: Vec<Option<usize>> =
            names.iter().map(|name| dataset.field_index(name)).collect();
        for (i, field) in dataset.fields.iter().enumerate() {
            let columns = fields.iter().filter(|f| **f == Some(i)).count();
            let fault = match columns {
                0 if field.required => "there is no column for the required field",
                0 | 1 => continue,
                _ => "there is more than one column for the field",
            };
            return Err(Error::invalid(format!(
                "{fault} {}; the header has: {}",
                field.name,
                names.join(", ")
            ))
            .hint("the first record must name the columns as the dataset names its fields"));
        }
        let unknown = names
            .iter()
            .zip(&fields)
            .filter(|(_, field)| field.is_none())
            .map(|(name, _)| name.to_string())
            .collect();
        Ok(Columns {
            fields,
            unknown,
            null: null.into(),
        })
    }

    /// The values of a record, in the dataset's order of fields; a field without a column is null.
    pub fn values<'a>(
        &self,
        record: &'a [u8],
        dataset: &Dataset,
    ) -> Result<Vec<Value<'a>>, Reject> {
        let whole = |fault| Reject { field: None, fault };
        let text = crate::record::json::checked_text(record)?;
        let cells = cells(text).map_err(whole)?;
        if cells.len() != self.fields.len() {
            let detail = format!(
                "{} cells, but the header has {}",
                cells.len(),
                self.fields.len()
            );
            return Err(whole(Fault::new(Rule::Columns, detail)));
        }
        let mut values = vec![Value::Null; dataset.fields.len()];
        for (cell, field) in cells.into_iter().zip(&self.fields) {
            let Some(i) = *field else { continue };
            if !cell.quoted && cell.text == self.null {
                continue;
            }
            values[i] =
                Value::from_text(&dataset.fields[i], cell.text).map_err(|fault| Reject {
                    field: Some(i),
                    fault,
                })?;
        }
        Ok(values)
    }
}

/// Where the first record in `bytes` ends: the index of its newline outside quotes.
pub fn record_end(bytes: &[u8]) -> Option<usize> {
    let mut quoted = false;
    for at in memchr::memchr2_iter(b'"', b'\n', bytes) {
        match bytes[at] {
            b'"' => quoted = !quoted,
            _ if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

struct Cell<'a> {
    text: Cow<'a, str>,
    quoted: bool,
}

/// The cells of a record without its newline.
fn cells(record: &str) -> Result<Vec<Cell<'_>>, Fault> {
    let mut cells = Vec::new();
    let mut rest = Some(record);
    while let Some(text) = rest {
        let (cell, tail) = first_cell(text)?;
        cells.push(cell);
        rest = tail;
    }
    Ok(cells)
}

/// The first cell, and what follows its comma.
fn first_cell(text: &str) -> Result<(Cell<'_>, Option<&str>), Fault> {
    let plain = |end: usize| Cell {
        text: text[..end].into(),
        quoted: false,
    };
    match text.find([',', '"']) {
        None => return Ok((plain(text.len()), None)),
        Some(at) if text.as_bytes()[at] == b',' => return Ok((plain(at), Some(&text[at + 1..]))),
        Some(_) => {}
    }
    let (mut out, mut rest) = (String::new(), text);
    loop {
        let Some(at) = rest.find([',', '"']) else {
            out.push_str(rest);
            return Ok((quoted(out), None));
        };
        out.push_str(&rest[..at]);
        if rest.as_bytes()[at] == b',' {
            return Ok((quoted(out), Some(&rest[at + 1..])));
        }
        rest = &rest[at + 1..];
        loop {
            let end = rest
                .find('"')
                .ok_or_else(|| Fault::new(Rule::Quote, "unclosed quote"))?;
            out.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            match rest.strip_prefix('"') {
                Some(more) => {
                    out.push('"');
                    rest = more;
                }
                None => break,
            }
        }
    }
}

fn quoted(text: String) -> Cell<'static> {
    Cell {
        text: text.into(),
        quoted: true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(record: &str) -> Result<Vec<(String, bool)>, Rule> {
        cells(record)
            .map(|cells| {
                let pair = |c: Cell<'_>| (c.text.into_owned(), c.quoted);
                cells.into_iter().map(pair).collect()
            })
            .map_err(|fault| fault.rule)
    }

    #[test]
    fn cells_are_cut_as_copy_cuts_them() {
        let plain = |t: &str| (t.to_string(), false);
        let quoted = |t: &str| (t.to_string(), true);
        let table = [
            ("", Ok(vec![plain("")])),
            ("a,,b", Ok(vec![plain("a"), plain(""), plain("b")])),
            ("a,", Ok(vec![plain("a"), plain("")])),
            (r#""","a,b""#, Ok(vec![quoted(""), quoted("a,b")])),
            (
                r#""a ""b"" c",d"#,
                Ok(vec![quoted(r#"a "b" c"#), plain("d")]),
            ),
            ("\"two\nlines\"", Ok(vec![quoted("two\nlines")])),
            (r#"5" x" y"#, Ok(vec![quoted("5 x y")])),
            (r#"a," b"#, Err(Rule::Quote)),
            (r#"\.,\N"#, Ok(vec![plain(r"\."), plain(r"\N")])),
        ];
        for (record, expected) in table {
            assert_eq!(read(record), expected, "{record}");
        }
    }

    #[test]
    fn only_a_cell_without_quotes_is_null() {
        let dataset = Dataset::load(None).unwrap();
        let header = b"id,fetched_at,last_name,extra,registered,post_code";
        let columns = Columns::read(header, &dataset, "").unwrap();
        assert_eq!(columns.unknown, ["extra"]);
        let id = "053a5780-3703-442c-a561-beda535af12c";
        let record =
            |name: &str| format!("{id},2026-11-24T00:00:00Z,{name},x,2020-01-01T00:00:00Z,0123");
        let read = |columns: &Columns, name: &str| {
            columns.values(record(name).as_bytes(), &dataset).unwrap()[2].to_string()
        };
        let empty = record("");
        let values = columns.values(empty.as_bytes(), &dataset).unwrap();
        assert_eq!(values[2], Value::Null);
        assert_eq!(values[5], Value::Text("0123".into()));
        assert_eq!(values[9], Value::Timestamp(1_577_836_800_000));
        assert_eq!(read(&columns, "\"\""), "");
        let columns = Columns::read(header, &dataset, "NA").unwrap();
        assert_eq!(read(&columns, "NA"), "null");
        assert_eq!(read(&columns, "\"NA\""), "NA");
        assert_eq!(read(&columns, ""), "");
    }

    #[test]
    fn a_header_that_does_not_fit_says_what_is_there() {
        let dataset = Dataset::load(None).unwrap();
        let table = [
            ("id,email", "no column for the required field fetched_at"),
            (
                "id,fetched_at,registered,registered_date",
                "more than one column for the field registered_date",
            ),
            ("id,\"", "invalid header"),
        ];
        for (header, message) in table {
            let error = Columns::read(header.as_bytes(), &dataset, "").unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
        let error = Columns::read(b"ID;email", &dataset, "").unwrap_err();
        assert!(
            error.to_string().ends_with("the header has: ID;email"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn what_a_csv_writer_writes_is_read_back(records in prop::collection::vec(
            prop::collection::vec("[a\",\\n\\r é]{0,6}", 2..5), 1..5,
        )) {
            let mut bytes = Vec::new();
            for record in &records {
                let mut writer = ::csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
                writer.write_record(record).unwrap();
                bytes.extend(writer.into_inner().unwrap());
            }
            let mut rest = &bytes[..];
            for record in &records {
                let end = record_end(rest).unwrap();
                let cells = read(std::str::from_utf8(&rest[..end]).unwrap()).unwrap();
                let texts: Vec<&String> = cells.iter().map(|c| &c.0).collect();
                prop_assert_eq!(texts, record.iter().collect::<Vec<_>>());
                rest = &rest[end + 1..];
            }
            prop_assert!(rest.is_empty());
        }
    }
}
