//! The pages of a source in their order, several requested ahead where their places are known.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use url::Url;

use super::Source;
use super::pace::Pace;
use super::page::{Page, Reader};
use super::paging::{Paging, Position};
use crate::error::{Context, Error, Result};
use crate::retry::through_outage;
use crate::run::Run;

/// Most pages without a record in a row that a source with cursors may send.
const MAX_EMPTY: u32 = 100;

/// Requests and reads single pages, through outages.
#[derive(Debug)]
pub struct Fetcher {
    /// Where pages come from.
    pub source: Box<dyn Source>,
    /// Where they are.
    pub paging: Paging,
    /// How they are read.
    pub reader: Reader,
    /// How fast they may be requested.
    pub pace: Pace,
    /// How long the source may be down; none for saved bodies, which do not change by waiting.
    pub max_outage: Option<Duration>,
    /// Counts retries, and stops.
    pub run: Run,
}

impl Fetcher {
    async fn page(&self, position: &Position) -> Result<Page> {
        let address = self.paging.address(position)?;
        match self.max_outage {
            Some(longest) => through_outage(&self.run, longest, || self.attempt(&address)).await,
            None => self.attempt(&address).await,
        }
    }

    async fn attempt(&self, address: &Url) -> Result<Page> {
        self.pace.wait(self.paging.size()).await;
        let response = self.source.get(address).await?;
        let page = self.reader.read(&response).context(address)?;
        self.check_size(&page, address)?;
        Ok(page)
    }

    /// Some sources answer silently with fewer records than asked for, and seed, page and size
    /// together decide who is on a page.
    fn check_size(&self, page: &Page, address: &Url) -> Result<()> {
        let (asked, got) = (self.paging.size(), page.records());
        if !self.paging.is_endless() || got == asked {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "{address}: asked for {asked} records, got {got}"
        )))
    }
}

/// One page, and how much of it is wanted.
#[derive(Debug)]
pub struct Step {
    /// The page.
    pub page: Page,
    /// Records of it that are wanted, from the first.
    pub take: u64,
    /// Where to go on once these are safe: after the page, or at the page itself if it was not
    /// taken whole or may still grow.
    pub resume: Position,
}

/// A walk over a source.
#[derive(Debug)]
pub struct Pages {
    fetcher: Arc<Fetcher>,
    /// The next page to hand out; none at the end.
    at: Option<Position>,
    ahead: VecDeque<Request>,
    concurrency: usize,
    /// Records still wanted; none for all.
    wanted: Option<u64>,
    fingerprints: HashSet<u64>,
    walked: HashSet<Position>,
    empty: u32,
    /// Records of the page before, if it had fewer than asked for.
    short: Option<u64>,
}

#[derive(Debug)]
struct Request {
    position: Position,
    page: JoinHandle<Result<Page>>,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.page.abort();
    }
}

impl Pages {
    /// A walk from a position over `count` records, or all.
    pub fn new(
        fetcher: Arc<Fetcher>,
        from: Position,
        count: Option<u64>,
        concurrency: usize,
    ) -> Self {
        Pages {
            fetcher,
            at: Some(from),
            ahead: VecDeque::new(),
            concurrency,
            wanted: count,
            fingerprints: HashSet::new(),
            walked: HashSet::new(),
            empty: 0,
            short: None,
        }
    }

    /// The next page; none after the last one.
    pub async fn next(&mut self) -> Result<Option<Step>> {
        let Some(position) = self.at.clone().filter(|_| self.wanted != Some(0)) else {
            return Ok(None);
        };
        self.request_ahead(&position);
        let Some(mut request) = self.ahead.pop_front() else {
            return Ok(None);
        };
        let page = (&mut request.page).await;
        let page = page.map_err(|e| Error::refused(format!("internal error: {e}")))??;
        self.check(&position, &page)?;

        let records = page.records();
        let paging = &self.fetcher.paging;
        let next = paging.after(&position, records, &page.hint)?;
        if self.ahead.front().map(|r| &r.position) != next.as_ref() {
            self.ahead.clear(); // an offset that moved by fewer than expected
        }
        let take = self.wanted.map_or(records, |wanted| wanted.min(records));
        self.wanted = self.wanted.map(|wanted| wanted - take);
        let resume = match &next {
            Some(next) if take == records => next.clone(),
            _ => position,
        };
        self.at = next;
        Ok(Some(Step { page, take, resume }))
    }

    /// Keeps as many requests under way as allowed, wanted and known.
    fn request_ahead(&mut self, at: &Position) {
        let size = self.fetcher.paging.size().max(1);
        let wanted = self.wanted.map_or(u64::MAX, |w| w.div_ceil(size));
        while self.ahead.len() < self.concurrency && (self.ahead.len() as u64) < wanted {
            let position = match self.ahead.len() as u64 {
                0 => Some(at.clone()),
                pages => self.fetcher.paging.ahead(at, pages),
            };
            let Some(position) = position else { break };
            let (fetcher, place) = (self.fetcher.clone(), position.clone());
            let page = tokio::spawn(async move { fetcher.page(&place).await });
            self.ahead.push_back(Request { position, page });
        }
    }

    /// A source that repeats itself would be read for ever, one that leaves records out lose them.
    fn check(&mut self, position: &Position, page: &Page) -> Result<()> {
        let address = || self.fetcher.paging.address(position);
        let records = page.records();
        if !self.walked.insert(position.clone()) {
            return Err(Error::refused(format!(
                "{}: the source named this page twice, so its pages go round in a circle",
                address()?
            )));
        }
        if records == 0 {
            self.empty += 1;
            if self.empty > MAX_EMPTY {
                return Err(Error::refused(format!(
                    "{}: {MAX_EMPTY} pages without a record before it",
                    address()?
                )));
            }
            return Ok(());
        }
        self.empty = 0;
        if !self.fingerprints.insert(page.fingerprint) {
            return Err(Error::refused(format!(
                "{}: the same records as on an earlier page",
                address()?
            ))
            .hint("the source does not page as the dataset's [source.pagination] says"));
        }
        if let (Position::Page(_), Some(before)) = (position, self.short)
            && records > before
        {
            return Err(Error::refused(format!(
                "{}: {records} records, but only {before} on the page before it, which left some out",
                address()?
            )));
        }
        self.short = Some(records).filter(|n| *n < self.fetcher.paging.size());
        Ok(())
    }
}
