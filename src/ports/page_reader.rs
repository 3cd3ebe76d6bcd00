//! Reading the keys of a table in pages, in key order: what to ask for, and a page made by a scan, for a store that keeps
//! no such order.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::dataset::Dataset;
use crate::ports::table_reader::{StoredRow, Visitor};
use crate::record::row::compare_keys;
use crate::record::value::Value;

/// Which keys a page has.
#[derive(Clone, Copy, Debug)]
pub struct PageQuery<'q> {
    /// The dataset of the table.
    pub dataset: &'q Dataset,
    /// Only keys behind this one in the order.
    pub after: Option<&'q Value<'q>>,
    /// Only rows that have all these values.
    pub filters: &'q [Filter],
    /// Only rows whose event time is later, in milliseconds since 1970 UTC.
    pub newer_than: Option<i64>,
    /// At most so many keys, the first ones.
    pub most: usize,
}

/// A value that a column must have. It is never null.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// Index of the field.
    pub field: usize,
    /// The value.
    pub value: Value<'static>,
}

impl PageQuery<'_> {
    /// Whether a row with these values belongs to the page, as far as its key is not concerned.
    pub fn matches(&self, values: &[Value<'_>]) -> bool {
        let is_new = match (self.newer_than, &values[self.dataset.event.time]) {
            (None, _) => true,
            (Some(boundary), Value::Timestamp(time)) => *time > boundary,
            (Some(_), _) => false,
        };
        let has = |filter: &Filter| values[filter.field] == filter.value;
        is_new && self.filters.iter().all(has)
    }
}

/// Keeps the first keys of what it is lent, in whatever order that comes. Memory: the keys of one page.
#[derive(Debug)]
pub struct FirstKeys<'q> {
    query: PageQuery<'q>,
    keys: BTreeSet<Key>,
}

/// A key, in the order of keys.
#[derive(Debug)]
struct Key(Value<'static>);

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_keys(&self.0, &other.0)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Key {}

impl<'q> FirstKeys<'q> {
    /// Begins without any.
    pub fn new(query: &PageQuery<'q>) -> Self {
        FirstKeys {
            query: *query,
            keys: BTreeSet::new(),
        }
    }

    /// The page.
    pub fn into_keys(self) -> Vec<Value<'static>> {
        self.keys.into_iter().map(|Key(key)| key).collect()
    }
}

impl Visitor for FirstKeys<'_> {
    fn wants(&mut self, key: &Value<'_>) -> bool {
        let is_after = |after: &Value<'_>| compare_keys(key, after).is_gt();
        let is_before_last = |Key(last): &Key| compare_keys(key, last).is_lt();
        self.query.after.is_none_or(is_after)
            && (self.keys.len() < self.query.most || self.keys.last().is_some_and(is_before_last))
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        let key = self.query.dataset.event.key;
        let is_foreign = row.foreign.iter().any(|f| f.field == key);
        if !is_foreign && self.query.matches(row.values) {
            self.keys.insert(Key(row.values[key].owned()));
            if self.keys.len() > self.query.most {
                self.keys.pop_last();
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_keys_are_kept_once_whatever_the_order() {
        let dataset = Dataset::load(None).unwrap();
        let after = Value::Uuid(uuid::Uuid::from_u128(2));
        let query = PageQuery {
            dataset: &dataset,
            after: Some(&after),
            filters: &[],
            newer_than: Some(10),
            most: 3,
        };
        let mut first = FirstKeys::new(&query);
        // Keys and event times.
        for (key, time) in [
            (9, 11),
            (1, 11),
            (7, 11),
            (3, 10),
            (7, 12),
            (2, 11),
            (5, 11),
            (4, 99),
        ] {
            let mut values = vec![Value::Null; dataset.fields.len()];
            values[dataset.event.key] = Value::Uuid(uuid::Uuid::from_u128(key));
            values[dataset.event.time] = Value::Timestamp(time);
            if first.wants(&values[dataset.event.key].clone()) {
                let row = StoredRow {
                    values: &values,
                    foreign: &[],
                };
                assert!(first.row(row).is_continue());
            }
        }
        let expected: Vec<Value<'_>> = [4, 5, 7]
            .map(|key| Value::Uuid(uuid::Uuid::from_u128(key)))
            .into();
        assert_eq!(first.into_keys(), expected);
    }
}
