//! Opens the tables for reads by time that are to be compared, and compares them one after the other.

use std::collections::BTreeMap;

use super::{ComparedSeries, SeriesPart, compare_series};
use crate::dataset::{Dataset, Series};
use crate::error::{Error, Result};
use crate::ports::realtime_store::RealtimeStores;
use crate::ports::series_reader::SeriesReader;
use crate::ports::table_reader::TableReader;
use crate::record::value::Value;
use crate::run::retry::Retry;
use crate::verify::{Comparison, Report};

/// A series that is open for reading, with its name and its table.
pub(in crate::verify) struct OpenSeries<'d> {
    series: &'d Series,
    name: String,
    /// The only keys that are compared; all of them, if none are named.
    only: Option<Vec<Value<'static>>>,
    reader: Box<dyn SeriesReader>,
    table: Box<dyn TableReader>,
}

/// Which tables for reads by time are compared.
pub(in crate::verify) enum Wanted<'a> {
    All,
    None,
    /// Those with keys, and of each only these.
    Listed(&'a BTreeMap<String, Vec<Value<'static>>>),
}

/// The name of a series in messages and lists.
pub(in crate::verify) fn name(dataset: &Dataset, series: &Series) -> String {
    format!("{}.{}", dataset.realtime.keyspace, series.table)
}

/// Opens the tables for reads by time that have rows of their own, or says that they are not compared.
pub(in crate::verify) async fn open<'d>(
    store: &dyn RealtimeStores,
    dataset: &'d Dataset,
    wanted: Wanted<'_>,
    retry: &Retry,
) -> Result<Vec<OpenSeries<'d>>> {
    let run = &retry.run;
    let mut all = Vec::new();
    for series in &dataset.realtime.series {
        let name = name(dataset, series);
        let (is_asked_for, only) = match wanted {
            Wanted::All => (true, None),
            Wanted::None => (false, None),
            Wanted::Listed(keys) => match keys.get(&name) {
                Some(keys) => (true, Some(keys.clone())),
                None => continue,
            },
        };
        if store.series(dataset, series).is_none() {
            if is_asked_for {
                let table = &dataset.realtime.table;
                run.info(format!(
                    "{name} shows the rows of {table}, so there is nothing to compare"
                ));
            }
            continue;
        }
        if !is_asked_for {
            run.info(format!("{name} was not compared; --series compares it"));
            continue;
        }
        let open = async || match store.series(dataset, series) {
            Some(opening) => opening.await,
            None => Err(Error::internal("a series has gone")),
        };
        all.push(OpenSeries {
            series,
            name,
            only,
            reader: retry.through_outage(open).await?,
            table: retry
                .through_outage(async || store.table(dataset).await)
                .await?,
        });
    }
    Ok(all)
}

/// Compares all series. Their names and results; some or none of them after a stop.
pub(in crate::verify) async fn compare_all(
    comparison: &Comparison,
    opened: Vec<OpenSeries<'_>>,
    rows: u64,
    retry: &Retry,
    report: &mut Report<'_>,
) -> Result<Vec<(String, ComparedSeries)>> {
    let mut all = Vec::new();
    for one in opened {
        report.turn_to(one.name.clone());
        let what = SeriesPart {
            series: one.series,
            only: one.only.as_deref(),
            rows,
        };
        let (reader, table) = (one.reader, one.table);
        let compared = compare_series(comparison, what, reader, table, retry, report).await?;
        match compared {
            Some(compared) => all.push((one.name, compared)),
            None => break,
        }
    }
    Ok(all)
}
