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
    /// Of the rows whose key does not fit, only those that have all these values, too.
    pub misfits_with: &'q [Filter],
    /// Only rows whose event time is later, in milliseconds since 1970 UTC.
    pub newer_than: Option<i64>,
    /// At most so many keys, the first ones.
    pub most: usize,
}

/// Some keys, and what was met among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The keys in their order, each once. Fewer than were asked for are the last ones.
    pub keys: Vec<Value<'static>>,
    /// Keys that do not fit their column's type, of the whole table: only in the first page of a listing.
    pub misfits: Misfits,
    /// Those that the store meets among the keys instead: before the key of this index, or behind the last one.
    pub among: Vec<(usize, Misfits)>,
}

impl Page {
    /// Adds a misfit that was met behind the keys so far.
    pub fn meet(&mut self, found: impl FnOnce() -> String) {
        let at = self.keys.len();
        if self.among.last().is_none_or(|(last, _)| *last != at) {
            self.among.push((at, Misfits::default()));
        }
        if let Some((_, misfits)) = self.among.last_mut() {
            misfits.add(found);
        }
    }
}

/// Keys that do not fit their column's type: they have no place in the order, so their rows are in no page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misfits {
    /// Number of rows.
    pub count: u64,
    /// What some of them have instead of a key, for people: `text "abc"`.
    pub samples: Vec<String>,
}

/// Number of samples: more help nobody, and there may be as many misfits as rows.
const SAMPLES: usize = 5;

impl Misfits {
    /// Adds a row with this in place of its key.
    pub fn add(&mut self, found: impl FnOnce() -> String) {
        self.count += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(found());
        }
    }

    /// Adds what another page has.
    pub fn extend(&mut self, more: Misfits) {
        self.count += more.count;
        let room = SAMPLES - self.samples.len();
        self.samples.extend(more.samples.into_iter().take(room));
    }
}

/// A value that a column must have. It is never null.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// Index of the field.
    pub field: usize,
    /// The value.
    pub value: Value<'static>,
}

fn has_all(filters: &[Filter], values: &[Value<'_>]) -> bool {
    let has = |filter: &Filter| values[filter.field] == filter.value;
    filters.iter().all(has)
}

impl PageQuery<'_> {
    /// Whether a row with these values belongs to the page, as far as its key is not concerned.
    pub fn matches(&self, values: &[Value<'_>]) -> bool {
        let is_new = match (self.newer_than, &values[self.dataset.event.time]) {
            (None, _) => true,
            (Some(boundary), Value::Timestamp(time)) => *time > boundary,
            (Some(_), _) => false,
        };
        is_new && has_all(self.filters, values)
    }
}

/// Keeps the first keys of what it is lent, in whatever order that comes. Memory: the keys of one page.
#[derive(Debug)]
pub struct FirstKeys<'q> {
    query: PageQuery<'q>,
    keys: BTreeSet<Key>,
    misfits: Misfits,
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
            misfits: Misfits::default(),
        }
    }

    /// The page. Only the first one of a listing tells the misfits, because each scan meets all of them.
    pub fn into_page(self) -> Page {
        Page {
            keys: self.keys.into_iter().map(|Key(key)| key).collect(),
            misfits: match self.query.after {
                None => self.misfits,
                Some(_) => Misfits::default(),
            },
            among: Vec::new(),
        }
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
        if !self.query.matches(row.values) {
            return ControlFlow::Continue(());
        }
        if let Some(foreign) = row.foreign.iter().find(|f| f.field == key) {
            if has_all(self.query.misfits_with, row.values) {
                self.misfits.add(|| foreign.found.clone());
            }
        } else {
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
    use crate::ports::table_reader::Foreign;

    #[test]
    fn the_first_keys_are_kept_once_whatever_the_order() {
        let dataset = Dataset::load(None).unwrap();
        let after = Value::Uuid(uuid::Uuid::from_u128(2));
        let query = PageQuery {
            dataset: &dataset,
            after: Some(&after),
            filters: &[],
            misfits_with: &[],
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
        assert_eq!(first.into_page().keys, expected);
    }

    #[test]
    fn misfits_are_told_once_by_the_first_page() {
        let dataset = Dataset::load(None).unwrap();
        let after = Value::Uuid(uuid::Uuid::from_u128(2));
        let mut values = vec![Value::Null; dataset.fields.len()];
        let email = dataset.field_index("email").unwrap();
        values[email] = Value::Text("a".into());
        let with = |value: &str| {
            [Filter {
                field: email,
                value: Value::Text(value.to_string().into()),
            }]
        };
        let (has, lacks) = (with("a"), with("b"));
        let foreign = [Foreign {
            field: dataset.event.key,
            found: "integer 7".into(),
            between: None,
        }];
        for (after, newer_than, misfits_with, count) in [
            (None, None, &[][..], 8),
            (None, None, &has, 8),
            (None, None, &lacks, 0),
            (Some(&after), None, &[], 0),
            (None, Some(1), &[], 0),
        ] {
            let mut first = FirstKeys::new(&PageQuery {
                dataset: &dataset,
                after,
                filters: &[],
                misfits_with,
                newer_than,
                most: 3,
            });
            for _ in 0..8 {
                let row = StoredRow {
                    values: &values,
                    foreign: &foreign,
                };
                assert!(first.row(row).is_continue());
            }
            let misfits = first.into_page().misfits;
            assert_eq!(misfits.count, count);
            assert_eq!(misfits.samples.len() as u64, count.min(SAMPLES as u64));
            assert!(misfits.samples.iter().all(|found| found == "integer 7"));
        }
    }
}
