//! The pages of a source in order, several requested ahead where their addresses are known. A source without a
//! known end stops at the first page without records, not at a short one, which may be due to a page size limit of
//! its own.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use url::Url;
use xxhash_rust::xxh3::xxh3_64;

use super::Source;
use super::front::new_before;
use super::pace::Pace;
use super::page::{Page, PageReader};
use super::pagination::{Hint, Paging, Position, Resume};
use crate::error::{Context, Error, Kind, Result};
use crate::run::retry::{Outage, Retry};
use crate::run::task::Task;
use crate::secret::shown;

/// Maximum number of consecutive pages without records that a source with cursors may send.
const MAX_EMPTY_PAGES: u32 = 100;

const PUTS_FIRST: &str = "move the state file away to fetch everything again; to get only what is new from such a source, ask for it with a parameter in `query`, such as a time";

const MOVED: &str = "move the state file away to fetch everything again; a source that puts new records first cannot be resumed by page or offset: ask for what is new with a parameter in `query`, such as a time";

/// How often a source is asked before JSON without records is taken for what it always sends: within a second.
const MISFITS: u32 = 4;

/// How often a source is asked before the same unreadable answer is taken for what it always sends: within 7 seconds.
/// Longer than a glitch, and more often than JSON without records, which hardly any source sends while it is down.
const SAME_ANSWERS: u32 = 8;

/// How many records at the front of a source, and how many that were taken last, a bookmark remembers at most.
const REMEMBERED: u64 = 32;

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
    /// Whether a page was read, so that the dataset is right about where the records are.
    pub has_read: AtomicBool,
}

impl Fetcher {
    async fn page(&self, position: &Position) -> Result<Page> {
        let address = self.paging.address(position)?;
        let mut outage = self.retry.as_ref().map(Outage::new);
        let mut unread = Unread::default();
        loop {
            let error = match self.attempt(&address).await {
                Err(error) => self.judge(error, &mut unread),
                Ok(page) => return Ok(page),
            };
            match &mut outage {
                Some(outage) => outage.wait(error).await?,
                None => return Err(error),
            }
        }
    }

    /// An answer that cannot be read is an outage in a source whose pages were read before. If the same one comes again
    /// and again from the beginning, it is what the source always sends: a mistake in the dataset if it is JSON without
    /// records where they should be (`Invalid`), and otherwise the source's own (`Data`).
    fn judge(&self, error: Error, unread: &mut Unread) -> Error {
        let is_over = match error.kind() {
            Kind::Invalid => unread.misfits() >= MISFITS,
            Kind::Data => unread.same(&error) >= SAME_ANSWERS,
            _ => return error,
        };
        let is_proven = self.has_read.load(Ordering::Relaxed);
        let may_heal = self
            .retry
            .as_ref()
            .is_some_and(|retry| is_proven || (!is_over && !retry.max_outage.is_zero()));
        match error.kind() {
            _ if may_heal => Error::unavailable(error.to_string()),
            Kind::Invalid => error,
            _ if is_over => Error::refused(format!("{error}, {SAME_ANSWERS} times in a row")).hint(format!(
                "expected JSON with the records at `{}`; check the address, and the dataset's [source]; if the source is only down, fetch again later",
                self.reader.records_at()
            )),
            _ => error.as_kind(Kind::Refused),
        }
    }

    async fn attempt(&self, address: &Url) -> Result<Page> {
        self.pace.wait(self.paging.size()).await;
        let response = self.source.get(address).await?;
        let page = self.reader.read(&response).context(shown(address))?;
        self.check_size(&page, address)?;
        self.has_read.store(true, Ordering::Relaxed);
        Ok(page)
    }

    /// Some sources silently return fewer records than requested, and seed, page and size together decide which
    /// records are on a page.
    fn check_size(&self, page: &Page, address: &Url) -> Result<()> {
        let (asked, got) = (self.paging.size(), page.records());
        if !self.paging.is_endless() || got == asked {
            return Ok(());
        }
        Err(Error::data(format!(
            "{}: requested {asked} records, got {got}",
            shown(address)
        )))
    }
}

/// The answers to one request that could not be read.
#[derive(Debug, Default)]
struct Unread {
    misfits: u32,
    /// What was wrong with the last one, and how many in a row were like it.
    same: Option<(String, u32)>,
}

impl Unread {
    /// Counts JSON without records.
    fn misfits(&mut self) -> u32 {
        self.misfits += 1;
        self.misfits
    }

    /// Counts an answer, and returns how many in a row have been the same.
    fn same(&mut self, error: &Error) -> u32 {
        let what = error.to_string();
        let before = self.same.take().filter(|(before, _)| *before == what);
        let times = before.map_or(0, |(_, times)| times) + 1;
        self.same = Some((what, times));
        times
    }
}

/// One page, and how much of it is wanted.
#[derive(Debug)]
pub struct Step {
    /// The page.
    pub page: Page,
    /// Which of its records are wanted, counted from 0.
    pub take: Range<u64>,
    /// Where to continue once these are safe.
    pub resume: Resume,
}

/// A walk over a source.
#[derive(Debug)]
pub struct Pages {
    fetcher: Arc<Fetcher>,
    /// The next page to hand out; none at the end.
    at: Option<Position>,
    /// Where to continue after what was handed out.
    resume: Resume,
    /// What identifies the first records of the first page.
    first: Option<String>,
    ahead: VecDeque<PageRequest>,
    concurrency: usize,
    /// Records still wanted; none for all.
    wanted: Option<u64>,
    fingerprints: Recent,
    walked: Recent,
    hasher: RandomState,
    empty: u32,
    /// Number of records on the page before, if it had fewer than requested.
    short: Option<u64>,
    /// What responses have where the next page should be named; none once one of them has named it.
    unnamed: Option<String>,
    has_names: bool,
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
        from: Resume,
        count: Option<u64>,
        concurrency: usize,
    ) -> Self {
        // A response named this page, if it has a name.
        let has_names = !matches!(from.position, Position::Start);
        Pages {
            fetcher,
            at: Some(from.position.clone()),
            first: from.first.clone(),
            resume: from,
            ahead: VecDeque::new(),
            concurrency,
            wanted: count,
            fingerprints: Recent::default(),
            walked: Recent::default(),
            hasher: RandomState::new(),
            empty: 0,
            short: None,
            unnamed: None,
            has_names,
        }
    }

    /// A reason to doubt that the walk saw all pages: no response had the place where the dataset says that the next
    /// page is named.
    pub fn doubt(&self) -> Option<String> {
        let is_open = !self.has_names && self.wanted != Some(0);
        self.unnamed.clone().filter(|_| is_open)
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
        let done = self.done(&position, &page)?;
        let taken = self
            .wanted
            .map_or(records, |wanted| records.min(done.saturating_add(wanted)));
        self.wanted = self.wanted.map(|wanted| wanted - (taken - done));
        self.check_name(&page)?;

        let paging = &self.fetcher.paging;
        let next = paging.after(&position, records, &page.hint)?;
        if self.ahead.front().map(|r| &r.position) != next.as_ref() {
            self.ahead.clear(); // an offset that moved by fewer than expected
        }
        if let Some(mut resume) = paging.resume(&position, records, taken, next.as_ref()) {
            if resume.done > 0 {
                resume.last = Some(self.identity(&page, resume.done)?);
            }
            if position == Position::Start && records > 0 {
                self.first = Some(self.front(&page)?.join(" "));
            }
            if matches!(resume.position, Position::Cursor(_) | Position::Url(_)) {
                resume.first = self.first.clone();
            }
            self.resume = resume;
        }
        self.at = next;
        Ok(Some(Step {
            page,
            take: done..taken,
            resume: self.resume.clone(),
        }))
    }

    /// What identifies each of these records of a page.
    fn identities(&self, page: &Page, records: Range<u64>) -> Result<Vec<String>> {
        let reader = &self.fetcher.reader;
        records
            .map(|record| reader.identity(page.lines_of(record..record + 1)))
            .collect()
    }

    /// What identifies the last ones of the first `done` records of a page, in their order: not only the very last one,
    /// because others may have its key.
    fn identity(&self, page: &Page, done: u64) -> Result<String> {
        let last = done.saturating_sub(REMEMBERED)..done;
        let all = self.identities(page, last)?.concat();
        Ok(format!("{:016x}", xxh3_64(all.as_bytes())))
    }

    /// What identifies the records at the front of the source, each for itself, because some may be deleted.
    fn front(&self, page: &Page) -> Result<Vec<String>> {
        self.identities(page, 0..page.records().min(REMEMBERED))
    }

    /// Looks whether the first page still begins as it did when a walk with names began, before that walk continues
    /// elsewhere. An error if the source has put records before those. Returns a doubt, for people, if the first page has
    /// none of them any more, which may have been deleted.
    pub async fn check_front(&mut self) -> Result<Option<String>> {
        if !matches!(self.at, Some(Position::Cursor(_) | Position::Url(_))) {
            return Ok(None);
        }
        let page = self.fetcher.page(&Position::Start).await?;
        let front = Some(self.front(&page)?.join(" ")).filter(|_| page.records() > 0);
        let Some(first) = self.first.clone() else {
            self.first = front; // a bookmark of an older rtp: from now on
            return Ok(None);
        };
        let address = shown(&self.fetcher.paging.address(&Position::Start)?);
        let there = self.identities(&page, 0..page.records())?;
        match new_before(&first, &there) {
            Some(0) => return Ok(None),
            Some(new) => {
                return Err(Error::missing(format!(
                    "{address}: {new} records come before those that were the first, so the source has put new ones where this run would not look"
                ))
                .hint(PUTS_FIRST));
            }
            None => {}
        }
        self.first = front.or(Some(first));
        Ok(Some(format!(
            "{address}: the records that were the first are no longer on this page; if the source puts new records first, they are not fetched"
        )))
    }

    /// How many records of this page earlier walks took. If these are no longer where they were, new records may be on
    /// pages before this one, where numbers do not lead: an error. A page with a name has all records that its name stands
    /// for, so it is taken once more from its first.
    fn done(&self, position: &Position, page: &Page) -> Result<u64> {
        let Resume { done, last, .. } = &self.resume;
        if *done == 0 || self.resume.position != *position {
            return Ok(0);
        }
        let records = page.records();
        let is_there = match last {
            _ if *done > records => false,
            None => true, // a bookmark of an older rtp
            Some(last) => *last == self.identity(page, *done)?,
        };
        match is_there {
            true => return Ok(*done),
            false if !position.is_counted() => return Ok(0),
            false => {}
        }
        let address = shown(&self.fetcher.paging.address(position)?);
        let seen = match *done > records {
            true => format!(
                "{records} records, but an earlier run took {done} from this page, so the source has moved its records, or makes smaller pages than before"
            ),
            false => format!(
                "records up to {done} of this page are not those that an earlier run took last, so the source has moved its records"
            ),
        };
        Err(Error::missing(format!("{address}: {seen}")).hint(MOVED))
    }

    /// An error if this page is full and more are wanted, but no response so far says where the next one is.
    fn check_name(&mut self, page: &Page) -> Result<()> {
        match &page.hint {
            Hint::Absent(there) => self.unnamed = Some(there.clone()),
            Hint::None | Hint::Next(_) => self.has_names = true,
        }
        match self.doubt() {
            Some(there)
                if self.fetcher.paging.is_full(page.records()) =>
            {
                Err(Error::invalid(format!(
                    "a full page, but the place of the next one is missing: {there}"
                ))
                .hint("`next` in the dataset's [source.pagination] says where a response names the next page; if there is only one, take it with --count, or omit `size`"))
            }
            _ => Ok(()),
        }
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
        let address = || self.fetcher.paging.address(position).map(|at| shown(&at));
        let records = page.records();
        if !position.is_counted() && !self.walked.insert(self.hasher.hash_one(position)) {
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

/// The hashes of the pages of a walk. Memory is bounded: the most recent ones are kept, and one milestone, which finds
/// longer loops, too (Brent's algorithm).
#[derive(Debug, Default)]
struct Recent {
    known: HashSet<u64>,
    order: VecDeque<u64>,
    milestone: Option<u64>,
    seen: u64,
}

impl Recent {
    /// Pages that are remembered: 2 MiB of hashes.
    const MOST: usize = 1 << 16;

    /// False if it is known.
    fn insert(&mut self, hash: u64) -> bool {
        if self.milestone == Some(hash) || !self.known.insert(hash) {
            return false;
        }
        self.seen += 1;
        if self.seen.is_power_of_two() {
            self.milestone = Some(hash);
        }
        self.order.push_back(hash);
        if self.order.len() > Self::MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_of_every_length_are_found_in_bounded_memory() {
        for length in [1, 2, 100, Recent::MOST as u64 * 3] {
            let mut recent = Recent::default();
            let found = (0..length * 5).find(|n| !recent.insert(n % length));
            assert!(
                found.is_some_and(|n| n >= length && n < length * 4),
                "{length}: {found:?}"
            );
            assert!(recent.known.len() <= Recent::MOST && recent.order.len() <= Recent::MOST);
        }
        let mut recent = Recent::default();
        assert!((0..Recent::MOST as u64 * 3).all(|n| recent.insert(n)));
    }
}
