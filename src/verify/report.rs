//! Output of the differences: a sample for people, all of them for machines.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::recheck::Found;
use super::{Class, Kind, Repair, Side};
use crate::dataset::Dataset;
use crate::durable::Aside;
use crate::error::{Error, Result};
use crate::intake::chunk::FileFormat;
use crate::record::value::Value;
use crate::run::Run;
use crate::run::stdout::{self, Pipe};
use crate::run::streams;

/// Maximum length of a value shown to people, in characters.
const SHOWN_CHARACTERS: usize = 200;

/// What one store has where they differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Content<'a> {
    /// Nothing to show: the difference is about the row.
    Row,
    /// A value.
    Value(&'a Value<'a>),
    /// A value that does not fit the column's type.
    Foreign(&'a str),
    /// A number of rows.
    Rows(u64),
}

/// One difference: of a column, or of a row.
#[derive(Clone, Copy, Debug)]
pub struct Difference<'a> {
    /// What differs.
    pub kind: Kind,
    /// Why.
    pub class: Class,
    /// What shows that, for people; contains no value but the key.
    pub evidence: &'a str,
    /// The row's key.
    pub key: Content<'a>,
    /// The store that lacks the row, is the only one to have it, or has it more than once.
    pub side: Option<Side>,
    /// The column that differs.
    pub column: Option<&'a str>,
    /// What the real-time store and the batch store have.
    pub cells: [Content<'a>; 2],
}

/// A difference as a line of NDJSON.
#[derive(Serialize)]
struct DifferenceLine<'a> {
    class: &'a str,
    kind: &'a str,
    key: serde_json::Value,
    store: Option<&'a str>,
    column: Option<&'a str>,
    realtime: serde_json::Value,
    batch: serde_json::Value,
    evidence: &'a str,
}

/// What is shown of the differences.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How many.
    pub most: u64,
    /// Whether the values of a column that differs are shown.
    pub has_values: bool,
}

/// Where differences go.
#[derive(Debug)]
pub struct Report<'r> {
    run: &'r Run,
    tables: [String; 2],
    /// The series that is compared with the first table, if one is.
    series: Option<String>,
    sample: Sample,
    shown: u64,
    total: u64,
    output: Option<DifferenceFile>,
    repair: Option<Repair>,
}

#[derive(Debug)]
struct DifferenceFile {
    format: FileFormat,
    to: Destination,
    line: Vec<u8>,
}

#[derive(Debug)]
enum Destination {
    Stdout(Pipe),
    File(Aside),
}

impl<'r> Report<'r> {
    /// Shows a sample of the first differences and writes all of them to `output`; `-` means stdout.
    pub fn create(
        run: &'r Run,
        tables: [String; 2],
        sample: Sample,
        output: Option<(&PathBuf, FileFormat)>,
    ) -> Result<Self> {
        let output = match output {
            None => None,
            Some((path, format)) => Some(DifferenceFile::create(path, format)?),
        };
        Ok(Report {
            run,
            tables,
            series: None,
            sample,
            shown: 0,
            total: 0,
            output,
            repair: None,
        })
    }

    /// From now on, the records that put right what differs go to this file.
    pub fn repair_with(&mut self, repair: Repair) {
        self.repair = Some(repair);
    }

    /// From now on, the rows that are compared are in the tables or files of these names.
    pub(super) fn turn_to_tables(&mut self, tables: &[String; 2]) {
        self.tables.clone_from(tables);
    }

    /// Adds what puts a difference right.
    pub(super) fn repair(&mut self, dataset: &Dataset, found: &Found, class: Class) -> Result<()> {
        match &mut self.repair {
            Some(repair) => repair.add(dataset, found, class),
            None => Ok(()),
        }
    }

    /// Counts a difference that nothing puts right.
    pub(super) fn leave_unrepaired(&mut self) {
        if let Some(repair) = &mut self.repair {
            repair.leave();
        }
    }

    /// From now on, the differences are those of a series from the table of the real-time store.
    pub fn turn_to(&mut self, series: String) {
        self.tables[1].clone_from(&series);
        self.series = Some(series);
    }

    /// Adds one difference.
    pub fn add(&mut self, difference: &Difference<'_>) -> Result<()> {
        self.total += 1;
        if let (Some(_), Some(repair)) = (&self.series, &mut self.repair) {
            repair.leave_series();
        }
        if self.shown < self.sample.most {
            self.shown += 1;
            self.run.info(self.for_people(difference));
        }
        match &mut self.output {
            None => Ok(()),
            Some(output) => output.write(difference, self.series.as_deref()),
        }
    }

    /// Reports how many were not shown, and makes the full list durable.
    pub fn finish(self) -> Result<()> {
        let rest = self.total - self.shown;
        if rest > 0 {
            let hint = match self.output {
                None => "; --output FILE lists them all",
                Some(_) => "",
            };
            self.run.info(format!("... and {rest} more{hint}"));
        }
        if let Some(Destination::File(file)) = self.output.map(|output| output.to) {
            file.publish()?;
        }
        match self.repair {
            Some(repair) => repair.finish(self.run),
            None => Ok(()),
        }
    }

    fn for_people(&self, d: &Difference<'_>) -> String {
        let what = self.what(d);
        let class = match d.class {
            Class::Duplicate => String::new(),
            class => format!("{}: ", class.name().replace('_', " ")),
        };
        match d.evidence.is_empty() {
            true => format!("{class}{what}"),
            false => format!("{class}{what}; {}", d.evidence),
        }
    }

    fn what(&self, d: &Difference<'_>) -> String {
        let name = d.kind.name();
        let [realtime, batch] = &self.tables;
        let key = shown(&d.key);
        match (d.kind, d.column) {
            // The other table may have the key.
            (Kind::Missing, _) if self.series.is_some() => {
                format!("{name} {key}: its newest row is in {realtime}, not in {batch}")
            }
            (Kind::Extra, _) if self.series.is_some() => {
                format!("{name} {key}: a row in {batch} that does not belong there by {realtime}")
            }
            (Kind::Missing, _) => format!("{name} {key}: in {realtime}, not in {batch}"),
            (Kind::Extra, _) => format!("{name} {key}: in {batch}, not in {realtime}"),
            (Kind::Duplicate, _) => format!(
                "{name} {key}: {} rows in {realtime}, {} in {batch}",
                shown(&d.cells[0]),
                shown(&d.cells[1])
            ),
            (Kind::Changed, column) if !self.sample.has_values => format!(
                "{name} {key}: {} differs; --sample {} shows values",
                column.unwrap_or_default(),
                self.sample.most
            ),
            (Kind::Changed, column) => format!(
                "{name} {key}: {} is {} in {realtime}, {} in {batch}",
                column.unwrap_or_default(),
                shown(&d.cells[0]),
                shown(&d.cells[1])
            ),
        }
    }
}

impl DifferenceFile {
    fn create(path: &Path, format: FileFormat) -> Result<Self> {
        let to = match path.as_os_str() == "-" {
            true => {
                streams::check_output()?;
                Destination::Stdout(Pipe::Open)
            }
            false => Destination::File(Aside::create(path)?),
        };
        let mut output = DifferenceFile {
            format,
            to,
            line: Vec::new(),
        };
        if format == FileFormat::Csv {
            output
                .line
                .extend_from_slice(b"class,kind,key,store,column,realtime,batch,evidence\n");
            output.send()?;
        }
        Ok(output)
    }

    fn write(&mut self, d: &Difference<'_>, series: Option<&str>) -> Result<()> {
        self.line.clear();
        let store = series.or(d.side.map(Side::name));
        let line = match self.format {
            FileFormat::Ndjson => serde_json::to_string(&DifferenceLine {
                class: d.class.name(),
                kind: d.kind.name(),
                key: json(&d.key),
                store,
                column: d.column,
                realtime: json(&d.cells[0]),
                batch: json(&d.cells[1]),
                evidence: d.evidence,
            })
            .map_err(Error::internal)?,
            FileFormat::Csv => [
                d.class.name().to_string(),
                d.kind.name().to_string(),
                csv(&d.key),
                store.unwrap_or_default().to_string(),
                d.column.unwrap_or_default().to_string(),
                csv(&d.cells[0]),
                csv(&d.cells[1]),
                quoted(d.evidence),
            ]
            .join(","),
        };
        self.line.extend_from_slice(line.as_bytes());
        self.line.push(b'\n');
        self.send()
    }

    /// If the reader of stdout went away, it has seen enough; the verdict is still given.
    fn send(&mut self) -> Result<()> {
        match &mut self.to {
            Destination::File(file) => file.write(&self.line),
            Destination::Stdout(Pipe::Closed) => Ok(()),
            Destination::Stdout(pipe) => {
                *pipe = stdout::write(&self.line)?;
                Ok(())
            }
        }
    }
}

fn json(cell: &Content<'_>) -> serde_json::Value {
    match cell {
        Content::Row => serde_json::Value::Null,
        Content::Value(value) => json!(value),
        Content::Foreign(found) => json!(found),
        Content::Rows(n) => json!(n),
    }
}

/// Null is empty and texts are quoted, so that even an empty text can be distinguished from null. What a
/// spreadsheet would take for a formula is prefixed with `'`.
fn csv(cell: &Content<'_>) -> String {
    match cell {
        Content::Row | Content::Value(Value::Null) => String::new(),
        Content::Value(Value::Text(text)) => quoted(text),
        Content::Foreign(found) => quoted(found),
        Content::Value(other) => other.to_string(),
        Content::Rows(n) => n.to_string(),
    }
}

fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let prefix = if formula { "'" } else { "" };
    format!("\"{prefix}{}\"", text.replace('"', "\"\""))
}

/// A value for people: texts in quotes, so that a trailing space is visible, and not longer than a screen.
fn shown(cell: &Content<'_>) -> String {
    let text = match cell {
        Content::Row => String::new(),
        Content::Value(Value::Text(text)) => format!("{text:?}"),
        Content::Value(other) => other.to_string(),
        Content::Foreign(found) => (*found).to_string(),
        Content::Rows(n) => n.to_string(),
    };
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_of_csv_cannot_become_a_formula_and_null_is_no_empty_text() {
        let table = [
            (Value::Null, ""),
            (Value::Text("".into()), "\"\""),
            (Value::Text("a \"b\", c".into()), "\"a \"\"b\"\", c\""),
            (Value::Text("=HYPERLINK(1)".into()), "\"'=HYPERLINK(1)\""),
            (Value::Text("@SUM".into()), "\"'@SUM\""),
            (Value::Text("\tx".into()), "\"'\tx\""),
            (Value::Int(-5), "-5"),
            (Value::Decimal("-1.5".into()), "-1.5"),
        ];
        for (value, cell) in table {
            assert_eq!(csv(&Content::Value(&value)), cell);
        }
    }

    #[test]
    fn people_see_the_trailing_space_and_no_control_characters() {
        let value = Value::Text("Zoë \u{1b}[2J".into());
        assert_eq!(shown(&Content::Value(&value)), "\"Zoë \\u{1b}[2J\"");
        let long = Value::Text("x".repeat(1_000).into());
        assert_eq!(shown(&Content::Value(&long)).len(), SHOWN_CHARACTERS + 3);
    }
}
