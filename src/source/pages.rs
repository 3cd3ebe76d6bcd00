//! The pages of a source in order, several requested ahead where their addresses are known. A source without a
//! known end stops at the first page without records, not at a short one, which may be due to a page size limit of
//! its own.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use url::Url;

use super::Source;
use super::pace::Pace;
use super::page::{Page, PageReader};
use super::pagination::{Paging, Position};
use crate::error::{Context, Error, Result};
use crate::run::retry::{Outage, Retry};
use crate::run::task::Task;

/// Maximum number of consecutive pages without records that a source with cursors may send.
const MAX_EMPTY_PAGES: u32 = 100;

/// Requests and reads single pages, through outages.
#[derive(Debug)]
pub struct Fetcher {
    /// Where pages come from.
    pub source: Box<dyn Source>,
    /// Where they are.
    pub paging: Paging,
    /// How they are read.
    pub reader: PageReader,
    /// How fast they may be requested.
    pub pace: Pace,
    /// How outages of the source are handled; none for saved bodies, which waiting does not change.
    pub retry: Option<Retry>,
}

impl Fetcher {
    async fn page(&self, position: &Position) -> Result<Page> {
        let address = self.paging.address(position)?;
        let mut outage = self.retry.as_ref().map(Outage::new);
        loop {
            match (self.attempt(&address).await, &mut outage) {
                (Err(error), Some(outage)) => outage.wait(error).await?,
                (page, _) => return page,
            }
        }
    }

    async fn attempt(&self, address: &Url) -> Result<Page> {
        self.pace.wait(self.paging.size()).await;
        let response = self.source.get(address).await?;
        let page = self.reader.read(&response).context(address)?;
        self.check_size(&page, address)?;
        Ok(page)
    }

    /// Some sources silently return fewer records than requested, and seed, page and size together decide which
    /// records are on a page.
    fn check_size(&self, page: &Page, address: &Url) -> Result<()> {
        let (asked, got) = (self.paging.size(), page.records());
        if !self.paging.is_endless() || got == asked {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "{address}: requested {asked} records, got {got}"
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
    /// Where to continue once these are safe: after the page, or at the page itself if it was not
    /// taken whole or may still grow.
    pub resume: Position,
}

/// A walk over a source.
#[derive(Debug)]
pub struct Pages {
    fetcher: Arc<Fetcher>,
    /// The next page to hand out; none at the end.
    at: Option<Position>,
    ahead: VecDeque<PageRequest>,
    concurrency: usize,
    /// Records still wanted; none for all.
    wanted: Option<u64>,
    fingerprints: HashSet<u64>,
    walked: HashSet<Position>,
    empty: u32,
    /// Number of records on the page before, if it had fewer than requested.
    short: Option<u64>,
}

#[derive(Debug)]
struct PageRequest {
    position: Position,
    page: Task<Page>,
}

impl Pages {
    /// A walk over `count` records, or all, starting from a position.
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
        let Some(request) = self.ahead.pop_front() else {
            return Ok(None);
        };
        let page = request.page.await?;
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

    /// Keeps as many requests in flight as are allowed, wanted and known.
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
            let page = Task::spawn(async move { fetcher.page(&place).await });
            self.ahead.push_back(PageRequest { position, page });
        }
    }

    /// Detects a source that repeats itself, which would be read forever, and one that skips records, which would be
    /// lost.
    fn check(&mut self, position: &Position, page: &Page) -> Result<()> {
        let address = || self.fetcher.paging.address(position);
        let records = page.records();
        if !self.walked.insert(position.clone()) {
            return Err(Error::refused(format!(
                "{}: the source named this page twice, so its pages form a loop",
                address()?
            )));
        }
        if records == 0 {
            self.empty += 1;
            if self.empty > MAX_EMPTY_PAGES {
                return Err(Error::refused(format!(
                    "{}: {MAX_EMPTY_PAGES} pages without records precede this one",
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
            .hint("the source does not paginate as [source.pagination] in the dataset says"));
        }
        if let (Position::Page(_), Some(before)) = (position, self.short)
            && records > before
        {
            return Err(Error::refused(format!(
                "{}: {records} records, but only {before} on the page before it, which skipped some",
                address()?
            )));
        }
        self.short = Some(records).filter(|n| *n < self.fetcher.paging.size());
        Ok(())
    }
}
