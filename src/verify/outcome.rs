//! What one run of `verify` found, and what it answers.

use std::path::{Path, PathBuf};

use super::format::counted;
use super::{Compared, ComparedSeries, Landing, Scope, Tolerances};
use crate::run::{Run, add};

/// The group of a stream that names none.
pub const DEFAULT_GROUP: &str = "rtp";

/// What was found.
#[derive(Debug)]
pub struct Outcome {
    /// Of the tables of both stores.
    pub compared: Compared,
    /// Of the tables for reads by time, with their names.
    pub series: Vec<(String, ComparedSeries)>,
    /// Of the landing files, if these were compared.
    pub landing: Option<Landing>,
    /// Keys in the list, if one was compared.
    pub listed: u64,
    /// The table of the real-time and of the batch store.
    pub names: [String; 2],
    /// What was compared.
    pub scope: Scope,
    /// How far values may have differed.
    pub tolerances: Tolerances,
    /// Whether it is a "no" if there is nothing to compare.
    pub require_records: bool,
    /// The consumer group whose commits tell what is in flight.
    pub group: String,
}

/// A part of the answer.
struct Part {
    is_yes: bool,
    text: String,
}

impl Outcome {
    /// Whether the answer is yes.
    pub fn agrees(&self) -> bool {
        self.parts().all(|part| part.is_yes)
    }

    /// Whether all of both tables was compared.
    pub fn is_whole(&self) -> bool {
        matches!(self.scope, Scope::Whole { .. })
    }

    /// The answer in a sentence, what makes it a "no" first.
    pub fn sentence(&self) -> String {
        let mut parts: Vec<Part> = self.parts().collect();
        parts.sort_by_key(|part| part.is_yes);
        let texts: Vec<String> = parts.into_iter().map(|part| part.text).collect();
        texts.join("; ")
    }

    /// Why the answer is a "no", besides what the classes of the differences say.
    pub fn problems(&self) -> Vec<String> {
        let others = self.series_parts().chain(self.other_parts());
        let problems = others.filter(|part| !part.is_yes);
        problems.map(|part| part.text).collect()
    }

    /// How this was other than a comparison of every value of both tables and nothing else.
    pub fn options(&self) -> Vec<String> {
        let mut options = self.tolerances.options();
        if let Scope::Whole { series: true } = self.scope {
            options.push("--series".into());
        }
        if self.group != DEFAULT_GROUP {
            options.push(format!("--group {}", self.group));
        }
        if self.require_records {
            options.push("--require-records".into());
        }
        options
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        let tables = std::iter::once(self.tables_part());
        tables.chain(self.series_parts()).chain(self.other_parts())
    }

    fn tables_part(&self) -> Part {
        let text = match &self.scope {
            Scope::Whole { .. } => self.compared.sentence(&self.names, &self.tolerances),
            Scope::Listed(list) => self.list_sentence(list),
            Scope::Landing(files) => self.landing_sentence(files),
        };
        Part {
            is_yes: self.compared.agrees(),
            text,
        }
    }

    fn list_sentence(&self, list: &Path) -> String {
        let (compared, list) = (&self.compared, list.display());
        let [realtime, batch] = &self.names;
        let [a, b] = compared.rows;
        let within = self.tolerances.within();
        let keys = counted(self.listed, "key");
        let neither = match compared.absent {
            0 => String::new(),
            n => format!(", and neither has {n}"),
        };
        let rows = format!("of {keys} in {list}, {realtime} has {a} and {batch} {b}{neither}");
        match (self.listed, compared.agrees(), compared.is_equal()) {
            (0, ..) if self.series.is_empty() => {
                format!("nothing was compared, because {list} lists no difference")
            }
            (0, ..) => format!("{list} lists no difference of {realtime} and {batch}"),
            (_, true, true) => format!("equal: {rows}{within}"),
            (_, true, false) => {
                let explained = compared.of_classes(|class| !class.fails());
                format!("in agreement: {rows}{within}; explained: {explained}")
            }
            (_, false, _) => format!(
                "not equal: {} missing in {batch}, {} extra in {batch}, {} changed, {} duplicate{}; {rows}",
                compared.missing,
                compared.extra,
                compared.changed,
                compared.duplicates,
                compared.found(),
            ),
        }
    }

    fn landing_sentence(&self, files: &[PathBuf]) -> String {
        let compared = &self.compared;
        let [realtime, batch] = &self.names;
        let within = self.tolerances.within();
        let read = self.landing.as_ref().map_or(0, |landing| landing.records);
        let records = counted(read, "record");
        let files = shown(files);
        match (read, compared.agrees(), compared.is_equal()) {
            (0, ..) => format!("nothing was compared, because there is no good record in {files}"),
            (_, true, true) => format!(
                "equal: {realtime} and {batch} have {records} of {files}, or newer ones{within}"
            ),
            (_, true, false) => {
                let explained = compared.of_classes(|class| !class.fails());
                format!("in agreement: {records} of {files}{within}; explained: {explained}")
            }
            (_, false, _) => format!(
                "not equal: of {records} of {files}, {} missing in {realtime}, {} missing in {batch}, {} older or changed there{}",
                compared.extra,
                compared.missing,
                compared.changed,
                compared.found(),
            ),
        }
    }

    fn series_parts(&self) -> impl Iterator<Item = Part> {
        self.series.iter().map(|(name, series)| Part {
            is_yes: series.agrees(),
            text: series.sentence(name, &self.names[0], &self.tolerances),
        })
    }

    fn other_parts(&self) -> impl Iterator<Item = Part> {
        let landing = self.landing.as_ref().filter(|read| read.rejected > 0);
        let bad = landing.map(|landing| {
            let first = landing.first_bad.iter();
            let first: String = first.map(|why| format!(", the first: {why}")).collect();
            let records = counted(landing.rejected, "bad record");
            format!("{records}{first}")
        });
        let gone = (self.compared.gone > 0).then(|| {
            let keys = counted(self.compared.gone, "listed key");
            format!("not repaired: neither store has a row of {keys}")
        });
        let nothing = (self.require_records && !self.has_records())
            .then(|| "--require-records was given, and there is no row to compare".to_string());
        let no = |text| Part {
            is_yes: false,
            text,
        };
        bad.into_iter().chain(gone).chain(nothing).map(no)
    }

    /// Whether anything was compared.
    fn has_records(&self) -> bool {
        let series = self.series.iter();
        match &self.scope {
            Scope::Whole { .. } => self.compared.rows != [0, 0],
            Scope::Listed(_) => self.compared.rows != [0, 0] || series.len() > 0,
            Scope::Landing(_) => self.landing.as_ref().is_some_and(|read| read.records > 0),
        }
    }

    fn bad_records(&self) -> u64 {
        self.landing.as_ref().map_or(0, |landing| landing.rejected)
    }

    /// Counts what was compared.
    pub fn count(&self, run: &Run) {
        let compared = &self.compared;
        // Each record of a landing file is looked for in both stores.
        let lacked = match self.scope {
            Scope::Landing(_) => compared.missing + compared.extra,
            Scope::Whole { .. } | Scope::Listed(_) => 0,
        };
        compared.count(lacked, run);
        add(&run.counts.read, self.bad_records());
        add(&run.counts.rejected, self.bad_records());
    }

    /// Tells people what was found.
    pub fn tell(&self, run: &Run) {
        let has_records = self.has_records();
        for part in self.parts() {
            match part.is_yes && has_records {
                true => run.info(part.text),
                false => run.warn(part.text),
            }
        }
    }
}

/// The names of files.
fn shown(files: &[PathBuf]) -> String {
    let name = |file: &PathBuf| match file.as_os_str() == "-" {
        true => "standard input".to_string(),
        false => file.display().to_string(),
    };
    let names: Vec<String> = files.iter().map(name).collect();
    names.join(", ")
}
