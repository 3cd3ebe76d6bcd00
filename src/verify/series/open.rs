//! Opens the tables for reads by time that are to be compared, and compares them one after the other.

use super::{ComparedSeries, compare_series};
use crate::dataset::{Dataset, Series};
use crate::error::{Error, Result};
use crate::ports::realtime_store::RealtimeStores;
use crate::ports::series_reader::SeriesReader;
use crate::ports::table_reader::TableReader;
use crate::run::retry::Retry;
use crate::verify::{Comparison, Report};

/// A series that is open for reading, with its name and its table.
pub(in crate::verify) struct OpenSeries<'d> {
    series: &'d Series,
    name: String,
    reader: Box<dyn SeriesReader>,
    table: Box<dyn TableReader>,
}

/// Opens the tables for reads by time that have rows of their own, or says that they are not compared.
pub(in crate::verify) async fn open<'d>(
    store: &dyn RealtimeStores,
    dataset: &'d Dataset,
    is_asked_for: bool,
    retry: &Retry,
) -> Result<Vec<OpenSeries<'d>>> {
    let run = &retry.run;
    let mut all = Vec::new();
    for series in &dataset.realtime.series {
        let name = format!("{}.{}", dataset.realtime.keyspace, series.table);
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
        let (series, reader, table) = (one.series, one.reader, one.table);
        let compared =
            compare_series(comparison, series, reader, table, rows, retry, report).await?;
        match compared {
            Some(compared) => all.push((one.name, compared)),
            None => break,
        }
    }
    Ok(all)
}
