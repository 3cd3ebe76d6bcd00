//! What is kept of a comparison, and what documents show of it.

use std::path::PathBuf;
use std::time::Duration;

use super::format::{
    ClassDocument, LandingDocument, SampleDocument, ScopeDocument, SeriesDocument, StoreDocument,
    VerdictDocument,
};
use super::{Class, Compared, ComparedSeries, Content, Difference, Outcome, Scope};
use crate::ports::ledger::Verdict;
use crate::record::value::Value;
use crate::run::Run;
use crate::time::now_ms;

/// Differences of each class that a document shows.
const SAMPLES: usize = 10;

/// The verdict on a comparison that began then, in milliseconds since 1970 UTC.
pub fn verdict(outcome: &Outcome, started_at: i64, run: &Run) -> Verdict {
    let compared = &outcome.compared;
    let by_name = |(class, n): (&Class, &u64)| (class.name().to_string(), *n);
    let keys = |(class, keys): (&Class, &Vec<String>)| (class.name().to_string(), keys.clone());
    Verdict {
        run_id: run.id.to_string(),
        started_at,
        ended_at: now_ms(),
        agrees: outcome.agrees(),
        rows: compared.rows,
        classes: compared.classes.iter().map(by_name).collect(),
        columns: compared.columns.clone(),
        samples: compared.samples.iter().map(keys).collect(),
        options: outcome.options(),
    }
}

/// What a document says besides the verdict and its samples.
#[derive(Debug)]
pub struct Compare<'a> {
    /// The dataset's name.
    pub dataset: &'a str,
    /// Address and table of each store.
    pub stores: [(String, String); 2],
    /// Event time of the newest loaded record, in milliseconds since 1970 UTC; or why it is not known.
    pub boundary: Result<Option<i64>, String>,
    /// The grace.
    pub grace: Duration,
}

/// The document of a verdict.
pub fn document(verdict: Verdict, outcome: &Outcome, about: &Compare<'_>) -> VerdictDocument {
    let store = |(address, table): &(String, String)| StoreDocument {
        address: address.clone(),
        table: table.clone(),
    };
    let class = |class: Class| ClassDocument {
        name: class.name().into(),
        meaning: class.meaning().into(),
        fails: class.fails(),
    };
    VerdictDocument {
        verdict,
        sentence: outcome.sentence(),
        problems: outcome.problems(),
        scope: scope(outcome),
        dataset: about.dataset.into(),
        stores: about.stores.each_ref().map(store),
        boundary: about.boundary.clone(),
        grace: about.grace,
        classes: Class::ALL.map(class).into(),
        samples: outcome.compared.documents.clone(),
        series: outcome.series.iter().map(of_series).collect(),
        landing: outcome.landing.as_ref().map(|read| LandingDocument {
            records: read.records,
            rejected: read.rejected,
        }),
    }
}

fn scope(outcome: &Outcome) -> ScopeDocument {
    let shown = |path: &PathBuf| path.display().to_string();
    match &outcome.scope {
        Scope::Whole { .. } => ScopeDocument::default(),
        Scope::Listed(list) => ScopeDocument {
            name: "rerun",
            files: vec![shown(list)],
        },
        Scope::Landing(files) => ScopeDocument {
            name: "against",
            files: files.iter().map(shown).collect(),
        },
    }
}

fn of_series((table, compared): &(String, ComparedSeries)) -> SeriesDocument {
    SeriesDocument {
        table: table.clone(),
        agrees: compared.agrees(),
        keys: compared.keys,
        rows: compared.rows,
        differences: [compared.missing, compared.extra, compared.changed],
    }
}

impl Compared {
    /// Keeps a difference for the document, if it has few of its class.
    pub(super) fn show(&mut self, difference: &Difference<'_>) {
        let class = difference.class.name();
        if self.documents.iter().filter(|d| d.class == class).count() < SAMPLES {
            self.documents.push(SampleDocument {
                class: class.into(),
                key: text(&difference.key).unwrap_or_default(),
                column: difference.column.map(str::to_string),
                values: difference.cells.each_ref().map(text),
                evidence: difference.evidence.into(),
            });
        }
    }
}

fn text(content: &Content<'_>) -> Option<String> {
    match content {
        Content::Row | Content::Value(Value::Null) => None,
        Content::Value(value) => Some(value.to_string()),
        Content::Foreign(found) => Some((*found).to_string()),
        Content::Rows(n) => Some(format!("{n} rows")),
    }
}
