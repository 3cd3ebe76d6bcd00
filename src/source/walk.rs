//! A walk over a source, page by page, to where its records land.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use url::Url;

use super::Source;
use super::bookmark::{Bookmark, SavedBy};
use super::landing::{self, Landing};
use super::pace::{LimitArg, Pace};
use super::page::{PageReader, Shape};
use super::pages::{Fetcher, Pages};
use super::pagination::Paging;
use crate::dataset::{self, Dataset, From};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::run::retry::Retry;
use crate::run::stdout::Pipe;
use crate::run::{Run, get};
use crate::time::{format_ms, now_ms};

/// What to fetch, how, and where to.
#[derive(Clone, Debug)]
pub struct WalkSettings {
    /// Number of records; none means one page of an endless source, otherwise all.
    pub count: Option<u64>,
    /// Seed of the records; none means the bookmark's, or else the run's id, if the source takes one.
    pub seed: Option<String>,
    /// First page, for sources with numbered pages.
    pub page: Option<u64>,
    /// Event time of the records, not in the future; none means now.
    pub as_of: Option<jiff::Timestamp>,
    /// Whether records are written as received.
    pub raw: bool,
    /// Number of concurrent requests.
    pub concurrency: usize,
    /// Maximum requests per second.
    pub rps: Option<f64>,
    /// Limit to use instead of the source's.
    pub limit: Option<LimitArg>,
    /// File of the bookmark.
    pub state: Option<PathBuf>,
    /// File of the records; none means standard output.
    pub out: Option<PathBuf>,
    /// Whether the records end with a trailer.
    pub trailer: bool,
    /// Whether there must be at least one record.
    pub require_records: bool,
    /// Whether each field of the dataset must be in at least one record.
    pub require_fields: bool,
}

/// Walks until there are enough records, the source ends, the run is told to stop, or nobody reads any more.
/// `declared` is the dataset's source as it applies to `source`.
pub async fn walk(
    settings: &WalkSettings,
    source: Box<dyn Source>,
    declared: &dataset::SourceSpec,
    dataset: &Dataset,
    retry: &Retry,
) -> Result<Exit> {
    let run = &retry.run;
    let mut bookmark = open_bookmark(settings, declared, dataset, run)?;
    let (mut pages, count) = pages(settings, source, declared, dataset, &bookmark, retry)?;
    let out = settings.out.as_deref();
    let mut landing = retry
        .through_outage(async || Landing::open(out, run))
        .await?;
    let doubt = tokio::select! {
        doubt = pages.check_front() => doubt?,
        signal = run.stop.wait() => return Ok(signal.exit()),
    };
    if let Some(doubt) = doubt {
        run.warn(doubt);
    }
    let mut present = Vec::new();
    loop {
        let step = tokio::select! {
            step = pages.next() => step?,
            signal = run.stop.wait() => return Ok(signal.exit()),
        };
        let Some(step) = step else { break };
        merge(&mut present, &step.page.present);
        let mark = bookmark.move_to(&step.resume)?;
        // Blocks here if the reader is slow, and never in the middle of a line.
        let pipe = tokio::task::block_in_place(|| landing.write(&step, mark))?;
        if pipe == Pipe::Closed {
            return Ok(Exit::Done);
        }
        let flush = async || tokio::task::block_in_place(|| landing.flush());
        retry.through_outage(flush).await?;
    }
    if let Some(there) = pages.doubt() {
        run.warn(format!(
            "no response says where the next page is, so this was taken for all of them: {there}"
        ));
    }
    let lacks_fields = get(&run.counts.written) > 0 && warn_of_absent(&present, dataset, run);
    if lacks_fields && settings.require_fields {
        // Neither the file nor the bookmark changes, so that another attempt fetches again.
        return Ok(Exit::No);
    }
    conclude(settings, landing, &bookmark, count, retry).await
}

fn merge(present: &mut Vec<bool>, page: &[bool]) {
    present.resize(page.len(), false);
    for (all, page) in present.iter_mut().zip(page) {
        *all |= page;
    }
}

/// Warns of the fields that no record has, which may be a mistake in the dataset; returns whether there are any.
fn warn_of_absent(present: &[bool], dataset: &Dataset, run: &Run) -> bool {
    let records = get(&run.counts.written);
    let fields = dataset.fields.iter().zip(present);
    let mut is_any = false;
    for (field, _) in fields.filter(|(_, is_present)| !**is_present) {
        is_any = true;
        let place = match &field.from {
            From::Pointer(pointer) => format!("`{pointer}`"),
            From::Template(_) => "all places of its template".into(),
            From::AsOf => continue,
        };
        run.warn(format!(
            "field {} is empty: none of the {records} records has {place}",
            field.name
        ));
    }
    is_any
}

fn open_bookmark(
    settings: &WalkSettings,
    declared: &dataset::SourceSpec,
    dataset: &Dataset,
    run: &Run,
) -> Result<Bookmark> {
    let saved_by = match settings.out {
        Some(_) => SavedBy::Us,
        None => SavedBy::Reader,
    };
    let (state, seed) = (settings.state.as_deref(), settings.seed.as_deref());
    let mut bookmark = Bookmark::open(state, saved_by, &dataset.name, seed, run)?;
    if bookmark.seed.is_none() && declared.seed_param.is_some() {
        bookmark.seed = Some(run.id.to_string());
    }
    Ok(bookmark)
}

/// The pages from the bookmark on, and the number of records wanted.
fn pages(
    settings: &WalkSettings,
    source: Box<dyn Source>,
    declared: &dataset::SourceSpec,
    dataset: &Dataset,
    bookmark: &Bookmark,
    retry: &Retry,
) -> Result<(Pages, Option<u64>)> {
    let base = Url::parse(&declared.url)
        .map_err(|e| Error::invalid(format!("the source's address: {e}")))?;
    let paging = Paging::new(declared, &base, bookmark.seed.as_deref())?;
    let from = bookmark.start(&paging, settings.page)?;
    let one_page = paging.is_endless().then_some(paging.size());
    let count = settings.count.or(one_page);
    let limit = match settings.limit {
        Some(given) => given.in_unit_of(declared.limit),
        None => declared.limit,
    };
    let fetcher = Fetcher {
        source,
        reader: PageReader::new(dataset, declared, shape(settings)?),
        pace: Pace::new(limit, settings.rps),
        paging,
        retry: (base.scheme() != "file").then(|| retry.clone()),
        has_read: AtomicBool::new(bookmark.is_resumed()),
    };
    let pages = Pages::new(Arc::new(fetcher), from, count, settings.concurrency);
    Ok((pages, count))
}

fn shape(settings: &WalkSettings) -> Result<Shape> {
    let now = now_ms();
    let as_of = settings.as_of.map_or(now, jiff::Timestamp::as_millisecond);
    if as_of > now {
        return Err(Error::invalid(format!(
            "the event time {} (--as-of or RTP_AS_OF) is in the future",
            format_ms(as_of)
        )));
    }
    Ok(match settings.raw {
        true => Shape::Raw,
        false => Shape::Event {
            as_of: format_ms(as_of),
        },
    })
}

/// Completes the landing, unless there are no new records and existing ones to keep; returns the verdict.
async fn conclude(
    settings: &WalkSettings,
    mut landing: Landing,
    bookmark: &Bookmark,
    count: Option<u64>,
    retry: &Retry,
) -> Result<Exit> {
    let run = &retry.run;
    let written = get(&run.counts.written);
    let nothing = match bookmark.is_resumed() {
        true => "the source has no new records",
        false => "the source has no records",
    };
    if let (0, Some(path)) = (written, &settings.out) {
        if settings.require_records {
            run.warn(format!("{nothing}, so {} is unchanged", path.display()));
            return Ok(Exit::No);
        }
        // With a bookmark, there may well be nothing new.
        if settings.state.is_none() {
            tokio::task::block_in_place(|| landing::check_replaced(path))?;
        }
    }
    if settings.trailer {
        landing.write_trailer()?;
    }
    let sync = async || tokio::task::block_in_place(|| landing.sync());
    retry.through_outage(sync).await?;
    landing.publish()?;
    if settings.out.is_some() {
        retry.through_outage(async || bookmark.save()).await?;
    }
    if let Some(count) = count.filter(|count| written < *count) {
        run.warn(format!(
            "the source ended after {written} of {count} records"
        ));
    }
    if written == 0 {
        run.warn(nothing);
        return Ok(Exit::verdict(!settings.require_records));
    }
    Ok(Exit::Done)
}
