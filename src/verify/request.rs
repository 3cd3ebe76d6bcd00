//! One run of `verify`, from what was asked for to what was found.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::series::open::{OpenSeries, Wanted, compare_all, open};
use super::{
    Comparison, Listed, Outcome, Report, Tolerances, Witnesses, compare, compare_keys,
    compare_landing, listed,
};
use crate::dataset::{Dataset, Nulls};
use crate::error::Result;
use crate::ports::realtime_store::RealtimeStores;
use crate::ports::table_reader::TableReader;
use crate::run::retry::Retry;

/// What is compared with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Both tables, and if asked for, the tables for reads by time with the real-time store's table.
    Whole {
        /// Whether these are compared, too.
        series: bool,
    },
    /// The keys in an earlier list of differences.
    Listed(PathBuf),
    /// The records of landing files with both tables.
    Landing(Vec<PathBuf>),
}

/// What was asked for.
#[derive(Debug)]
pub struct Request<'a> {
    /// The dataset.
    pub dataset: &'a Dataset,
    /// The real-time store.
    pub realtime_store: Arc<dyn RealtimeStores>,
    /// The log and the batch store.
    pub witnesses: Witnesses,
    /// How far the values of each column may differ.
    pub tolerances: Tolerances,
    /// How long a key that differs may still become equal.
    pub grace: Duration,
    /// What is compared.
    pub scope: Scope,
    /// Whether it is a "no" if there is nothing to compare.
    pub require_records: bool,
}

/// What is open for reading.
pub struct Opened<'a> {
    tables: [Box<dyn TableReader>; 2],
    series: Vec<OpenSeries<'a>>,
    listed: Listed,
}

impl fmt::Debug for Opened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "two tables and {} series", self.series.len())
    }
}

impl<'a> Request<'a> {
    /// The table of the real-time and of the batch store.
    pub fn names(&self) -> [String; 2] {
        let realtime = &self.dataset.realtime;
        [
            format!("{}.{}", realtime.keyspace, realtime.table),
            self.dataset.batch.table.clone(),
        ]
    }

    /// Address and table of each store.
    pub fn stores(&self) -> [(String, String); 2] {
        let [realtime, batch] = self.names();
        [
            (self.realtime_store.to_string(), realtime),
            (self.witnesses.batch_store.to_string(), batch),
        ]
    }

    /// Opens all that is compared: what is not there is told before anything is read, which may take long.
    pub async fn open(&self, retry: &Retry) -> Result<Opened<'a>> {
        let (dataset, store) = (self.dataset, &*self.realtime_store);
        let listed = match &self.scope {
            Scope::Listed(list) => listed(list, dataset)?,
            Scope::Whole { .. } | Scope::Landing(_) => Listed::default(),
        };
        let batch = &self.witnesses.batch_store;
        let realtime = retry.through_outage(async || store.table(dataset).await);
        let realtime = realtime.await?;
        let batch = retry.through_outage(async || batch.table(dataset).await);
        let batch = batch.await?;
        if dataset.nulls == Nulls::Unset {
            let [realtime, batch] = self.names();
            retry.run.warn(format!(
                "the dataset has null = \"unset\", so a value in {realtime} counts as equal to a null in {batch}"
            ));
        }
        let wanted = match self.scope {
            Scope::Whole { series: true } => Wanted::All,
            Scope::Whole { series: false } => Wanted::None,
            Scope::Listed(_) | Scope::Landing(_) => Wanted::Listed(&listed.series),
        };
        Ok(Opened {
            tables: [realtime, batch],
            series: open(store, dataset, wanted, retry).await?,
            listed,
        })
    }

    /// Compares what was asked for. None after a stop.
    pub async fn compare(
        &self,
        mut opened: Opened<'_>,
        retry: &Retry,
        report: &mut Report<'_>,
    ) -> Result<Option<Outcome>> {
        let [realtime, _] = &mut opened.tables;
        let ask = async || realtime.time_to_live().await;
        let mut comparison = self.comparison(retry);
        comparison.ttl = retry.through_outage(ask).await?;
        let comparison = Arc::new(comparison);
        let (tables, names) = (opened.tables, self.names());
        let (mut landing, listed) = (None, opened.listed.count());
        let compared = match &self.scope {
            Scope::Whole { .. } => compare(&comparison, tables, retry, report).await?,
            Scope::Listed(_) => {
                compare_keys(&comparison, tables, opened.listed, retry, report).await?
            }
            Scope::Landing(files) => {
                let done = compare_landing(&comparison, tables, &names, files, retry, report);
                done.await?.map(|(compared, read)| {
                    landing = Some(read);
                    compared
                })
            }
        };
        let Some(compared) = compared else {
            return Ok(None);
        };
        let rows = compared.rows[0];
        let series = compare_all(&comparison, opened.series, rows, retry, report).await?;
        let outcome = Outcome {
            compared,
            series,
            landing,
            listed,
            names,
            scope: self.scope.clone(),
            tolerances: self.tolerances.clone(),
            require_records: self.require_records,
            group: self.witnesses.group.clone(),
        };
        Ok(retry.run.stop.requested().is_none().then_some(outcome))
    }

    fn comparison(&self, retry: &Retry) -> Comparison {
        let (tolerances, stop) = (self.tolerances.clone(), retry.run.stop.clone());
        let mut comparison = Comparison::new(self.dataset, tolerances, stop);
        comparison.grace = self.grace;
        comparison.witnesses = Some(self.witnesses.clone());
        comparison
    }
}
