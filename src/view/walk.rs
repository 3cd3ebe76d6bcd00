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
    /// Keys that were taken from both layers, and whose rows were not read yet.
    pending: Vec<Value<'static>>,
    /// Rows that were read, and found no room on their page.
    left: VecDeque<Merged>,
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
            left: VecDeque::new(),
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
            while rows.len() < most
                && let Some(row) = self.left.pop_front()
            {
                rows.push(row);
            }
            if rows.len() == most || self.is_end() {
                break;
            }
            if let Err(error) = self.read(view, most - rows.len()).await {
                self.left.extend(rows);
                return Err(error);
            }
        }
        Ok(rows)
    }

    /// Whether nothing is left.
    pub fn is_end(&self) -> bool {
        self.left.is_empty()
            && self.pending.is_empty()
            && self.realtime.is_over()
            && self.batch.is_over()
    }

    /// The key behind which the listing goes on, once something was read; `last` is the last row that was shown.
    pub fn position(&self, last: Option<&Merged>, key: usize) -> Option<Value<'static>> {
        match (last, self.left.is_empty() && self.pending.is_empty()) {
            (Some(row), false) => Some(row.row.values[key].clone()),
            _ => self.query.after.clone(),
        }
    }

    /// Reads the rows of the next keys.
    async fn read(&mut self, view: &mut View, most: usize) -> Result<()> {
        if self.pending.is_empty() {
            self.take_keys(view, most.max(FEWEST)).await?;
        }
        let rows = view.rows(&self.pending).await?;
        let has_values = |row: &Merged| {
            let mut filters = self.query.filters.iter();
            filters.all(|filter| row.row.values[filter.field] == filter.value)
        };
        self.left.extend(rows.into_iter().filter(has_values));
        if let Some(last) = self.pending.pop() {
            self.query.after = Some(last);
        }
        self.pending.clear();
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
