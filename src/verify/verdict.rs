//! What is kept of a comparison, and what documents show of it.

use std::time::Duration;

use super::format::{ClassDocument, SampleDocument, StoreDocument, VerdictDocument};
use super::{Class, Compared, Content, Difference};
use crate::ports::ledger::Verdict;
use crate::record::value::Value;
use crate::run::Run;
use crate::time::now_ms;

/// Differences of each class that a document shows.
const SAMPLES: usize = 10;

/// The verdict on a comparison that began then, in milliseconds since 1970 UTC.
pub fn verdict(compared: &Compared, agrees: bool, started_at: i64, run: &Run) -> Verdict {
    let by_name = |(class, n): (&Class, &u64)| (class.name().to_string(), *n);
    let keys = |(class, keys): (&Class, &Vec<String>)| (class.name().to_string(), keys.clone());
    Verdict {
        run_id: run.id.to_string(),
        started_at,
        ended_at: now_ms(),
        agrees,
        rows: compared.rows,
        classes: compared.classes.iter().map(by_name).collect(),
        columns: compared.columns.clone(),
        samples: compared.samples.iter().map(keys).collect(),
    }
}

/// What a document says besides the verdict and its samples.
#[derive(Debug)]
pub struct Compare<'a> {
    /// The dataset's name.
    pub dataset: &'a str,
    /// Address and table of each store.
    pub stores: [(String, String); 2],
    /// Event time of the newest loaded record, in milliseconds since 1970 UTC.
    pub boundary: Option<i64>,
    /// The grace.
    pub grace: Duration,
}

/// The document of a verdict.
pub fn document(
    verdict: &Verdict,
    compared: &Compared,
    sentence: String,
    about: &Compare<'_>,
) -> VerdictDocument {
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
        verdict: verdict.clone(),
        sentence,
        dataset: about.dataset.into(),
        stores: about.stores.each_ref().map(store),
        boundary: about.boundary,
        grace: about.grace,
        classes: Class::ALL.map(class).into(),
        samples: compared.documents.clone(),
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
