//! The result of a comparison: its counts and its verdict.

use std::collections::BTreeMap;

use super::format::SampleDocument;
use super::recheck::Found;
use super::{Class, Kind, Tolerances};
use crate::dataset::Dataset;
use crate::run::{Run, add};

/// Keys of each class that are kept as samples.
const SAMPLES: usize = 20;

/// The result of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// Rows of the real-time and of the batch store, as the first scan saw them.
    pub rows: [u64; 2],
    /// Bytes of their encodings.
    pub bytes: u64,
    /// Keys in the real-time store only.
    pub missing: u64,
    /// Keys in the batch store only.
    pub extra: u64,
    /// Keys in both with different values.
    pub changed: u64,
    /// Keys that occur more than once in a store.
    pub duplicates: u64,
    /// Rows of both stores whose difference is an error.
    pub differing_rows: u64,
    /// Rows of both stores whose difference is explained.
    pub explained_rows: u64,
    /// Rows beyond the first of their key.
    pub surplus_rows: u64,
    /// Keys by class.
    pub classes: BTreeMap<Class, u64>,
    /// Values that differ, by column.
    pub columns: BTreeMap<String, u64>,
    /// Some keys of each class.
    pub samples: BTreeMap<Class, Vec<String>>,
    /// Keys that were looked up, and are in neither store.
    pub absent: u64,
    /// Those of them that a store had, or should have had, when they were listed.
    pub gone: u64,
    /// Whether only some keys were compared: that one store has none of them says nothing about the store.
    pub is_partial: bool,
    /// Some differences of each class.
    pub(super) documents: Vec<SampleDocument>,
}

impl Compared {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.classes.is_empty()
    }

    /// Whether both layers agree: every difference is explained, and neither layer is empty while the other is not,
    /// unless all of its rows have expired.
    pub fn agrees(&self) -> bool {
        !self.is_one_empty() && !self.classes.keys().any(|class| class.fails())
    }

    fn is_one_empty(&self) -> bool {
        // One that was filled meanwhile is equal by now.
        let is_one_empty = !self.is_partial
            && !self.classes.is_empty()
            && self.rows != [0, 0]
            && self.rows.contains(&0);
        is_one_empty && !self.classes.keys().eq([&Class::Expired])
    }

    /// Adds a difference.
    pub(super) fn add(&mut self, found: &Found, class: Class, dataset: &Dataset) {
        match found.kind {
            Kind::Missing => self.missing += 1,
            Kind::Extra => self.extra += 1,
            Kind::Changed => self.changed += 1,
            Kind::Duplicate => self.duplicates += 1,
        }
        match class.fails() {
            true => self.differing_rows += found.differing_rows(),
            false => self.explained_rows += found.differing_rows(),
        }
        self.surplus_rows += found.surplus_rows();
        for column in &found.columns {
            let name = dataset.fields[*column].name.clone();
            *self.columns.entry(name).or_default() += 1;
        }
        self.add_class(class, found.key.to_string());
    }

    /// Adds a key of a class.
    pub(super) fn add_class(&mut self, class: Class, key: String) {
        *self.classes.entry(class).or_default() += 1;
        let samples = self.samples.entry(class).or_default();
        if samples.len() < SAMPLES {
            samples.push(key);
        }
    }

    /// Counts the rows of both stores, and this many that were looked for and are not there.
    pub(super) fn count(&self, lacked: u64, run: &Run) {
        let counts = &run.counts;
        let differing = self.differing_rows + self.explained_rows + self.surplus_rows;
        // Rows written during the comparison can make more rows differ than the first scan saw.
        let read = (self.rows[0] + self.rows[1] + lacked).max(differing);
        add(&counts.read, read);
        add(&counts.written, read - differing);
        add(&counts.rejected, self.differing_rows);
        add(&counts.skipped, self.explained_rows);
        add(&counts.deduplicated, self.surplus_rows);
        add(&counts.bytes, self.bytes);
    }

    /// The result of whole tables of these names in a sentence, the real-time store's first. Equal means equal within
    /// these tolerances.
    pub(super) fn sentence(&self, names: &[String; 2], tolerances: &Tolerances) -> String {
        let [realtime, batch] = names;
        let within = tolerances.within();
        let [a, b] = self.rows;
        let rows = format!("{a} rows in {realtime}, {b} in {batch}");
        match (self.agrees(), self.is_equal(), self.rows) {
            (true, true, [0, 0]) => format!("{realtime} and {batch} are both empty"),
            (true, true, [a, b]) if a == b => {
                format!("equal: {a} rows in {realtime} and {batch}{within}")
            }
            (true, true, _) => {
                format!("equal: {rows}{within}; rows were written during the comparison")
            }
            (true, false, _) => {
                let explained = self.of_classes(|class| !class.fails());
                format!("in agreement: {rows}{within}; explained: {explained}")
            }
            (false, ..) => {
                let empty = match (self.is_one_empty(), a) {
                    (false, _) => String::new(),
                    (true, 0) => format!("; {realtime} is empty"),
                    (true, _) => format!("; {batch} is empty"),
                };
                let found = self.found();
                format!(
                    "not equal: {} missing in {batch}, {} extra in {batch}, {} changed, {} duplicate{found}; {rows}{empty}",
                    self.missing, self.extra, self.changed, self.duplicates,
                )
            }
        }
    }

    /// The classes in parentheses, those that fail first.
    pub(super) fn found(&self) -> String {
        let failing = self.of_classes(|class| class.fails());
        let explained = self.of_classes(|class| !class.fails());
        let found = [failing, explained];
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        match found.concat().is_empty() {
            true => String::new(),
            false => format!(" ({})", found.join("; ").trim_matches([';', ' '])),
        }
    }

    pub(super) fn of_classes(&self, which: impl Fn(Class) -> bool) -> String {
        let classes = self.classes.iter().filter(|(class, _)| which(**class));
        let shown = classes.map(|(class, n)| format!("{n} {}", class.name().replace('_', " ")));
        shown.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_was_filled_while_it_was_compared_is_not_empty() {
        let mut compared = Compared {
            rows: [0, 3],
            ..Compared::default()
        };
        assert!(compared.agrees());
        compared.add_class(Class::InFlight, "1".into());
        assert!(!compared.agrees(), "it is empty, and only in flight");
        compared.rows = [2, 3];
        assert!(compared.agrees());
    }
}
