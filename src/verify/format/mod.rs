//! A verdict as a document: for people, spreadsheets, reviews, browsers and CI, each in a file of its own. Every format
//! begins with the verdict, and writes what stands in the data so that it cannot become markup, a formula or a command of
//! the terminal.

mod csv;
mod history;
mod html;
mod json;
mod junit;
mod markdown;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, Write};
use std::time::Duration;

pub use history::{history_json, history_table};
pub(super) use text::counted;

use crate::ports::ledger::Verdict;

/// How a verdict is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned text for a terminal.
    #[default]
    Table,
    /// One JSON object on one line.
    Json,
    /// For spreadsheets; the first column says what a line is about.
    Csv,
    /// For reviews and issues, with tables as GitHub and GitLab show them.
    Markdown,
    /// A page that needs nothing else, to look at or to print.
    Html,
    /// For CI: a test case for each class, which fails if the class does.
    Junit,
}

/// What all formats say. The counts of the classes and columns, and the numbers of rows, are those of the verdict.
#[derive(Clone, Debug)]
pub struct VerdictDocument {
    /// What is kept of it.
    pub verdict: Verdict,
    /// The verdict in a sentence.
    pub sentence: String,
    /// Why the layers do not agree, besides what the classes say.
    pub problems: Vec<String>,
    /// What was compared.
    pub scope: ScopeDocument,
    /// The dataset's name.
    pub dataset: String,
    /// The real-time and the batch store.
    pub stores: [StoreDocument; 2],
    /// Event time of the newest loaded record, in milliseconds since 1970 UTC, none if nothing is loaded; or why it is not
    /// known.
    pub boundary: Result<Option<i64>, String>,
    /// How long a difference was given to go away.
    pub grace: Duration,
    /// All classes, in the order in which they are shown, also those without a difference.
    pub classes: Vec<ClassDocument>,
    /// Some differences of each class, in the order in which they are shown.
    pub samples: Vec<SampleDocument>,
    /// The tables for reads by time that were compared.
    pub series: Vec<SeriesDocument>,
    /// What was read of landing files, if these were compared.
    pub landing: Option<LandingDocument>,
}

/// What was compared.
#[derive(Clone, Debug)]
pub struct ScopeDocument {
    /// `all`; or the option by which it was less: `rerun` or `against`.
    pub name: &'static str,
    /// The files of that option.
    pub files: Vec<String>,
}

impl Default for ScopeDocument {
    fn default() -> Self {
        ScopeDocument {
            name: "all",
            files: Vec::new(),
        }
    }
}

/// A table for reads by time that was compared.
#[derive(Clone, Debug, Default)]
pub struct SeriesDocument {
    /// The table.
    pub table: String,
    /// Whether it has what it must have.
    pub agrees: bool,
    /// Keys of the real-time store's table.
    pub keys: u64,
    /// Its rows.
    pub rows: u64,
    /// Rows that are missing, extra and changed.
    pub differences: [u64; 3],
}

/// What was read of landing files.
#[derive(Clone, Copy, Debug, Default)]
pub struct LandingDocument {
    /// Good records.
    pub records: u64,
    /// Bad ones.
    pub rejected: u64,
}

/// A store that was compared.
#[derive(Clone, Debug, Default)]
pub struct StoreDocument {
    /// Its address, without a password.
    pub address: String,
    /// The table.
    pub table: String,
}

/// A class of differences.
#[derive(Clone, Debug, Default)]
pub struct ClassDocument {
    /// Its name, as in [`Verdict::classes`].
    pub name: String,
    /// What it means, for people.
    pub meaning: String,
    /// Whether a difference of this class means that the layers do not agree.
    pub fails: bool,
}

/// A difference.
#[derive(Clone, Debug, Default)]
pub struct SampleDocument {
    /// The name of its class.
    pub class: String,
    /// The row's key.
    pub key: String,
    /// The column that differs, if the row is in both stores.
    pub column: Option<String>,
    /// What the real-time and the batch store have there; none is null, or no row.
    pub values: [Option<String>; 2],
    /// Why it is of this class.
    pub evidence: String,
}

/// A class and its number of keys.
#[derive(Clone, Copy, Debug)]
struct Counted<'a> {
    name: &'a str,
    meaning: &'a str,
    fails: bool,
    count: u64,
}

impl Format {
    /// Writes the document in this format.
    pub fn write(self, document: &VerdictDocument, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Format::Table => table::write(document, out),
            Format::Json => json::write(document, out),
            Format::Csv => csv::write(document, out),
            Format::Markdown => markdown::write(document, out),
            Format::Html => html::write(document, out),
            Format::Junit => junit::write(document, out),
        }
    }
}

impl VerdictDocument {
    /// The classes with their counts. One that was counted and never declared is shown last, and fails: nobody said that
    /// it does not.
    fn counted(&self) -> Vec<Counted<'_>> {
        let counts = &self.verdict.classes;
        let declared = self.classes.iter().map(|class| Counted {
            name: &class.name,
            meaning: &class.meaning,
            fails: class.fails,
            count: counts.get(&class.name).copied().unwrap_or(0),
        });
        let is_declared = |name: &str| self.classes.iter().any(|class| class.name == name);
        let others = counts.iter().filter(|(name, _)| !is_declared(name));
        let others = others.map(|(name, count)| Counted {
            name,
            meaning: "a class without a description",
            fails: true,
            count: *count,
        });
        declared.chain(others).collect()
    }

    /// The samples of a class.
    fn samples_of<'a>(&'a self, class: &'a str) -> impl Iterator<Item = &'a SampleDocument> {
        self.samples.iter().filter(move |s| s.class == class)
    }

    /// The verdict in a word, which stands before its sentence.
    fn word(&self) -> &'static str {
        match self.verdict.agrees {
            true => "AGREE",
            false => "DIFFER",
        }
    }

    /// What was compared, as pairs of a name and a text.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let [realtime, batch] = [0, 1].map(|i| {
            let store = &self.stores[i];
            let rows = text::grouped(self.verdict.rows[i]);
            format!("{} in {}: {rows} rows", store.table, store.address)
        });
        let boundary = match &self.boundary {
            Ok(Some(newest)) => text::time(*newest),
            Ok(None) => "nothing is loaded".into(),
            Err(why) => format!("not known: {why}"),
        };
        let files = self.scope.files.join(", ");
        let scope = match self.scope.name {
            "rerun" => format!("only the keys in {files}"),
            "against" => format!("the records of {files} with both stores"),
            _ => "all rows".into(),
        };
        let options = match self.verdict.options.is_empty() {
            true => "none".into(),
            false => self.verdict.options.join(" "),
        };
        vec![
            ("dataset", self.dataset.clone()),
            ("scope", scope),
            ("options", options),
            ("real-time store", realtime),
            ("batch store", batch),
            ("newest loaded record", boundary),
            ("grace", text::seconds(self.grace)),
            ("began", text::time(self.verdict.started_at)),
            ("ended", text::time(self.verdict.ended_at)),
            ("run", self.verdict.run_id.clone()),
        ]
    }
}

/// The headings of the samples' columns, in the order of [`SampleDocument::cells`].
const SAMPLE_HEADINGS: [&str; 6] = ["class", "key", "column", "real-time", "batch", "evidence"];

impl SampleDocument {
    /// Its texts, with `null` for what is none.
    fn cells(&self) -> [&str; 6] {
        let value = |i: usize| match (&self.column, &self.values[i]) {
            (_, Some(value)) => value.as_str(),
            (Some(_), None) => "null",
            (None, None) => "",
        };
        [
            &self.class,
            &self.key,
            self.column.as_deref().unwrap_or_default(),
            value(0),
            value(1),
            &self.evidence,
        ]
    }
}

/// Yes or no.
fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}
