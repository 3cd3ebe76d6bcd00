//! A listing under way: the keys of both layers in one order, each once.

use std::collections::VecDeque;

use super::merge::Merged;
use super::{Query, View};
use crate::dataset::Dataset;
use crate::error::Result;
use crate::ports::page_reader::PageQuery;
use crate::ports::table_reader::TableReader;
use crate::record::row::compare_keys;
use crate::record::value::Value;

/// Fewest keys that are read at once, because rows that do not have the wanted values are left out.
const FEWEST: usize = 32;

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
}

/// Keys of one layer that were read ahead.
#[derive(Debug)]
struct Ahead {
    keys: VecDeque<Value<'static>>,
    /// The last key that was read.
    after: Option<Value<'static>>,
    newer_than: Option<i64>,
    is_end: bool,
    /// How many are read at once.
    most: usize,
}

impl Walk {
    /// Begins a listing. `ahead` keys of each layer are read at once: a page for a single page; many for a listing that
    /// is read to its end, because a store may have to read the whole table for them.
    pub fn new(query: Query, ahead: usize) -> Walk {
        let layer = |newer_than| Ahead {
            keys: VecDeque::new(),
            after: query.after.clone(),
            newer_than,
            is_end: false,
            most: ahead.max(FEWEST),
        };
        Walk {
            realtime: layer(query.boundary),
            batch: layer(None),
            query,
            pending: Vec::new(),
        }
    }

    /// What it was asked for.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// The next rows, at most so many; fewer at the end, or if few rows have the wanted values. After an error, the next
    /// call goes on where this one stopped.
    pub async fn next(&mut self, view: &mut View, most: usize) -> Result<Vec<Merged>> {
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

    /// Reads the rows of the next keys, both layers as they are now, and adds those with the wanted values, up to so many.
    async fn read(&mut self, view: &mut View, most: usize, rows: &mut Vec<Merged>) -> Result<()> {
        let fewest = if self.query.filters.is_empty() {
            1
        } else {
            FEWEST
        };
        self.take_keys(view, (most - rows.len()).max(fewest))
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
        while self.pending.len() < most {
            self.batch
                .fill(dataset, &self.query, batch.as_mut())
                .await?;
            self.realtime
                .fill(dataset, &self.query, realtime.as_mut())
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
    /// Reads more keys if none is left.
    async fn fill(
        &mut self,
        dataset: &Dataset,
        query: &Query,
        table: &mut dyn TableReader,
    ) -> Result<()> {
        if !self.keys.is_empty() || self.is_end {
            return Ok(());
        }
        let keys = table
            .page(&PageQuery {
                dataset,
                after: self.after.as_ref(),
                filters: &query.filters,
                newer_than: self.newer_than,
                most: self.most,
            })
            .await?;
        self.is_end = keys.len() < self.most;
        if let Some(last) = keys.last() {
            self.after = Some(last.clone());
        }
        self.keys.extend(keys);
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.keys.is_empty() && self.is_end
    }
}
