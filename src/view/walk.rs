//! A listing under way: the keys of both layers in one order, each once.
//!
//! A row must not be hidden by a guess. That the batch layer is complete up to its newest record is such a guess: a small
//! load of one newer record would hide whatever was streamed before it and loaded nowhere. So all keys of both layers
//! are listed wherever that costs no more than they do: from a store that keeps them in order, and in a listing that is
//! read to its end, which may well read the whole table.
//!
//! What is left is a page from a store that keeps no order (Cassandra). To find the next keys there, its whole table
//! would have to be read for each page. So a page has the batch store's keys, and those that a series of the real-time
//! store has after the boundary; it says what that leaves out, and whoever needs all of them can ask for no boundary.
//!
//! A condition is about the row that is shown. That row is in one of the layers, so if both list all of their keys, each
//! may leave out those without the wanted values. With a boundary, the real-time store offers no older keys, and only
//! the batch store's whole list has them: its keys are then all read, and the merged rows compared.

use std::collections::VecDeque;

use super::merge::Merged;
use super::{Query, View};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::ports::page_reader::{Filter, Misfits, PageQuery};
use crate::ports::table_reader::TableReader;
use crate::record::row::compare_keys;
use crate::record::value::Value;

/// Fewest keys that are read at once, because rows that do not have the wanted values are left out.
const FEWEST: usize = 32;

/// The same if the batch store does not leave them out.
const FEWEST_OF_ALL: usize = 512;

/// How often more keys are read for one page.
const ROUNDS: usize = 32;

/// A listing under way. What is shown comes in the order of keys, so that a key is shown at most once, whatever is
/// written meanwhile.
#[derive(Debug)]
pub struct Walk {
    query: Query,
    realtime: Ahead,
    batch: Ahead,
    /// Keys that were taken from both layers, and whose rows were not shown yet.
    pending: Vec<Value<'static>>,
    /// Fewest keys whose rows are read at once.
    fewest: usize,
}

/// Keys of one layer that were read ahead.
#[derive(Debug)]
struct Ahead {
    keys: VecDeque<Value<'static>>,
    /// The last key that was read.
    after: Option<Value<'static>>,
    newer_than: Option<i64>,
    /// Only rows that have all these values in this layer.
    filters: Vec<Filter>,
    is_end: bool,
    /// How many are read at once.
    most: usize,
    /// Keys that have no place in the order, as far as the listing has come.
    misfits: Misfits,
    /// Those ahead of it, by the key that follows; none follows the last ones.
    misfits_ahead: VecDeque<(Option<Value<'static>>, Misfits)>,
}

impl Walk {
    /// Begins a listing. `ahead` keys of each layer are read at once: a page for a single page; many for a listing that
    /// is read to its end, because a store may have to read the whole table for them.
    pub fn new(query: Query, ahead: usize) -> Walk {
        let fewest = match (query.filters.is_empty(), query.boundary) {
            (true, _) => 1,
            (false, None) => FEWEST,
            (false, Some(_)) => FEWEST_OF_ALL,
        };
        let layer = |newer_than, filters| Ahead {
            keys: VecDeque::new(),
            after: query.after.clone(),
            newer_than,
            filters,
            is_end: false,
            most: ahead.max(FEWEST).max(fewest),
            misfits: Misfits::default(),
            misfits_ahead: VecDeque::new(),
        };
        let of_batch = match query.boundary {
            None => query.filters.clone(),
            Some(_) => Vec::new(),
        };
        Walk {
            realtime: layer(query.boundary, query.filters.clone()),
            batch: layer(None, of_batch),
            query,
            pending: Vec::new(),
            fewest,
        }
    }

    /// What the boundary leaves out, if there is one.
    pub fn left_out(&self, view: &View) -> Option<String> {
        if self.the_key(view).is_some() {
            return None;
        }
        let boundary = crate::time::format_ms(self.query.boundary?);
        let lacking = view
            .finds_by()
            .map(|table| format!(" or {table} lacks them"));
        Some(format!(
            "keys that only the real-time store has are not listed if their event time is not after {boundary}{}",
            lacking.unwrap_or_default()
        ))
    }

    /// The rows that cannot be listed among those so far, as a sentence for each layer that has some. What was read ahead
    /// is not told, because a listing that goes on behind its last row meets it again.
    pub fn misfits(&self, view: &View) -> Vec<String> {
        let kind = view.dataset.key().kind.name();
        let layers = [("real-time", &self.realtime), ("batch", &self.batch)];
        let met = layers
            .into_iter()
            .filter(|(_, layer)| layer.misfits.count > 0);
        met.map(|(name, layer)| {
            let Misfits { count, samples } = &layer.misfits;
            let (rows, are, more) = match *count {
                1 => ("row", "is", ""),
                n if n > samples.len() as u64 => ("rows", "are", ", ..."),
                _ => ("rows", "are", ""),
            };
            let samples = samples.join(", ");
            format!(
                "{count} {rows} of the {name} store {are} not listed, because the key is not of the type {kind}: {samples}{more}"
            )
        })
        .collect()
    }

    /// What it was asked for.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// The next rows, at most so many; fewer at the end, or if few rows have the wanted values. After an error, the next
    /// call goes on where this one stopped.
    pub async fn next(&mut self, view: &mut View, most: usize) -> Result<Vec<Merged>> {
        self.take_the_key(view);
        let mut rows = Vec::new();
        for _ in 0..ROUNDS {
            if rows.len() >= most || self.is_end() {
                break;
            }
            match self.read(view, most, &mut rows).await {
                Err(error) if rows.is_empty() => return Err(error),
                Err(_) => break, // the next call meets it again
                Ok(()) => {}
            }
        }
        let (position, is_end) = (self.query.after.as_ref(), self.is_end());
        self.realtime.pass(position, is_end);
        self.batch.pass(position, is_end);
        Ok(rows)
    }

    /// Whether nothing is left.
    pub fn is_end(&self) -> bool {
        self.pending.is_empty() && self.realtime.is_over() && self.batch.is_over()
    }

    /// The key behind which the listing goes on; none if it is still to begin.
    pub fn position(&self) -> Option<&Value<'static>> {
        self.query.after.as_ref()
    }

    /// The only key that has the wanted values, if one of them is the key's.
    fn the_key(&self, view: &View) -> Option<&Value<'static>> {
        let key = view.dataset.event.key;
        let mut filters = self.query.filters.iter();
        filters.find(|f| f.field == key).map(|f| &f.value)
    }

    /// A key that is known need not be looked for.
    fn take_the_key(&mut self, view: &View) {
        if self.realtime.is_end && self.batch.is_end {
            return;
        }
        let Some(key) = self.the_key(view).cloned() else {
            return;
        };
        let after = self.query.after.as_ref();
        if after.is_none_or(|after| compare_keys(&key, after).is_gt()) {
            self.pending.push(key);
        }
        self.realtime.is_end = true;
        self.batch.is_end = true;
    }

    /// Reads the rows of the next keys, both layers as they are now, and adds those with the wanted values, up to so many.
    async fn read(&mut self, view: &mut View, most: usize, rows: &mut Vec<Merged>) -> Result<()> {
        self.take_keys(view, (most - rows.len()).max(self.fewest))
            .await?;
        let key = view.dataset.event.key;
        let mut last = self.pending.last().cloned();
        for row in view.rows(&self.pending).await? {
            let mut filters = self.query.filters.iter();
            if filters.all(|filter| row.row.values[filter.field] == filter.value) {
                rows.push(row);
            }
            if rows.len() == most {
                last = rows.last().map(|row| row.row.values[key].clone());
                break;
            }
        }
        if let Some(last) = last {
            self.pending.retain(|key| compare_keys(key, &last).is_gt());
            self.query.after = Some(last);
        }
        Ok(())
    }

    /// Takes the next keys of both layers, in order.
    async fn take_keys(&mut self, view: &mut View, most: usize) -> Result<()> {
        let View {
            dataset,
            realtime,
            batch,
            ..
        } = view;
        let filters = &self.query.filters;
        while self.pending.len() < most {
            self.batch.fill(dataset, filters, batch.as_mut()).await?;
            self.realtime
                .fill(dataset, filters, realtime.as_mut())
                .await?;
            let next = match (self.realtime.keys.front(), self.batch.keys.front()) {
                (None, None) => break,
                (Some(_), None) => self.realtime.keys.pop_front(),
                (None, Some(_)) => self.batch.keys.pop_front(),
                (Some(r), Some(b)) => match compare_keys(r, b) {
                    std::cmp::Ordering::Less => self.realtime.keys.pop_front(),
                    std::cmp::Ordering::Greater => self.batch.keys.pop_front(),
                    std::cmp::Ordering::Equal => {
                        self.batch.keys.pop_front();
                        self.realtime.keys.pop_front()
                    }
                },
            };
            self.pending.extend(next);
        }
        Ok(())
    }
}

impl Ahead {
    /// Reads more keys if none is left. A misfit has no row in the other layer, so its own must have the wanted values.
    async fn fill(
        &mut self,
        dataset: &Dataset,
        wanted: &[Filter],
        table: &mut dyn TableReader,
    ) -> Result<()> {
        if !self.keys.is_empty() || self.is_end {
            return Ok(());
        }
        let page = table
            .page(&PageQuery {
                dataset,
                after: self.after.as_ref(),
                filters: &self.filters,
                misfits_with: wanted,
                newer_than: self.newer_than,
                most: self.most,
            })
            .await?;
        self.is_end = page.keys.len() < self.most;
        if let Some(last) = page.keys.last() {
            self.after = Some(last.clone());
        }
        let met = page.among.into_iter();
        let met = met.map(|(before, met)| (page.keys.get(before).cloned(), met));
        self.misfits_ahead.extend(met);
        self.keys.extend(page.keys);
        self.misfits.extend(page.misfits);
        Ok(())
    }

    /// Takes the misfits up to a position of the listing, at its end all of them.
    fn pass(&mut self, position: Option<&Value<'static>>, is_end: bool) {
        let is_passed = |next: &Option<Value<'static>>| {
            let both = next.as_ref().zip(position);
            both.is_some_and(|(next, position)| compare_keys(next, position).is_le())
        };
        while let Some((next, _)) = self.misfits_ahead.front()
            && (is_end || is_passed(next))
            && let Some((_, met)) = self.misfits_ahead.pop_front()
        {
            self.misfits.extend(met);
        }
    }

    fn is_over(&self) -> bool {
        self.keys.is_empty() && self.is_end
    }
}
