//! What one run of `verify` found, and what it answers.

use super::{Compared, ComparedSeries, Landing, Scope, Tolerances};
use crate::run::{Run, add};

/// What was found.
#[derive(Debug)]
pub struct Outcome {
    /// Of the tables of both stores.
    pub compared: Compared,
    /// Of the tables for reads by time, with their names.
    pub series: Vec<(String, ComparedSeries)>,
    /// Of the landing files, if these were compared.
    pub landing: Option<Landing>,
    /// The table of the real-time and of the batch store.
    pub names: [String; 2],
    /// What was compared.
    pub scope: Scope,
    /// How far values may have differed.
    pub tolerances: Tolerances,
    /// Whether it is a "no" if there is nothing to compare.
    pub require_records: bool,
}

impl Outcome {
    /// Whether the answer is yes.
    pub fn agrees(&self) -> bool {
        self.layers_agree() && self.has_records() && self.bad_records() == 0
    }

    /// Whether all of both tables was compared.
    pub fn is_whole(&self) -> bool {
        matches!(self.scope, Scope::Whole { .. })
    }

    /// Whether the layers agree, as far as they were compared.
    pub fn layers_agree(&self) -> bool {
        let series = self.series.iter();
        self.compared.agrees() && series.map(|(_, one)| one).all(ComparedSeries::is_equal)
    }

    fn has_records(&self) -> bool {
        self.compared.rows != [0, 0] || !self.require_records
    }

    fn bad_records(&self) -> u64 {
        self.landing.as_ref().map_or(0, |landing| landing.rejected)
    }

    /// The result of the tables in a sentence.
    pub fn sentence(&self) -> String {
        self.compared.sentence(&self.names, &self.tolerances)
    }

    /// Counts what was compared.
    pub fn count(&self, run: &Run) {
        self.compared.count(run);
        add(&run.counts.read, self.bad_records());
        add(&run.counts.rejected, self.bad_records());
    }

    /// Tells people what was found.
    pub fn tell(&self, run: &Run) {
        if let (Scope::Landing(files), Some(landing)) = (&self.scope, &self.landing) {
            let (records, files) = (landing.records, files.len());
            run.info(format!(
                "looked up {records} records of {files} landing files in both stores"
            ));
            if let Some(bad) = &landing.first_bad {
                run.warn(format!("{} records are bad; {bad}", landing.rejected));
            }
        }
        self.compared.tell(&self.names, &self.tolerances, run);
        for (series, compared) in &self.series {
            compared.tell(series, &self.names[0], &self.tolerances, run);
        }
    }
}
