//! What rests in a store: typed rows, their canonical digest, and the one order between them.

use xxhash_rust::xxh3::xxh3_128;

use crate::dataset::Dataset;
use crate::value::Value;

/// The canonical digest of a row: XXH3-128 of its values' encodings, columns sorted by name,
/// big-endian, so that byte order is number order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 16]);

/// Where a row comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Partition of the event log; 0 for a row from a file.
    pub partition: i32,
    /// Offset in the partition, or 1-based line of the input.
    pub offset: i64,
}

/// What is known of a row beside its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowMeta {
    /// Event time in milliseconds since 1970 UTC.
    pub event_time: i64,
    /// Canonical digest.
    pub digest: Digest,
    /// Where it comes from.
    pub origin: Origin,
}

impl RowMeta {
    /// The one order of versions of a key, in every store and merge: event time, then digest.
    pub fn version(&self) -> (i64, Digest) {
        (self.event_time, self.digest)
    }
}

/// Rows of one dataset, borrowed from the events they were read from.
#[derive(Debug)]
pub struct Rows<'a> {
    width: usize,
    values: Vec<Value<'a>>,
    meta: Vec<RowMeta>,
}

impl<'a> Rows<'a> {
    /// No rows yet, each `width` values wide.
    pub fn new(width: usize) -> Self {
        Rows {
            width,
            values: Vec::new(),
            meta: Vec::new(),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.meta.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.meta.is_empty()
    }

    /// The values of row `i`, in the dataset's order of fields.
    pub fn values(&self, i: usize) -> &[Value<'a>] {
        &self.values[i * self.width..(i + 1) * self.width]
    }

    /// What is known of row `i` beside its values.
    pub fn meta(&self, i: usize) -> &RowMeta {
        &self.meta[i]
    }

    /// Adds a row: `fill` pushes its values. On an error nothing is added.
    pub fn push<E>(
        &mut self,
        fill: impl FnOnce(&mut Vec<Value<'a>>) -> Result<(), E>,
        meta: impl FnOnce(&[Value<'a>]) -> Result<RowMeta, E>,
    ) -> Result<(), E> {
        let start = self.values.len();
        let added = fill(&mut self.values).and_then(|()| meta(&self.values[start..]));
        match added {
            Ok(meta) => {
                debug_assert_eq!(self.values.len() - start, self.width);
                self.meta.push(meta);
                Ok(())
            }
            Err(e) => {
                self.values.truncate(start);
                Err(e)
            }
        }
    }

    /// Indices of the newest row of each key, sorted by key; the others are superseded.
    pub fn newest_by_key(&self, key: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_unstable_by(|a, b| {
            compare_keys(&self.values(*a)[key], &self.values(*b)[key])
                .then_with(|| self.meta(*b).version().cmp(&self.meta(*a).version()))
        });
        order.dedup_by(|a, b| self.values(*a)[key] == self.values(*b)[key]);
        order
    }
}

/// Orders keys as the stores' indices do: bytes of texts and UUIDs, numbers by value.
fn compare_keys(a: &Value<'_>, b: &Value<'_>) -> std::cmp::Ordering {
    match (a, b) {
        (Value::Uuid(a), Value::Uuid(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        _ => std::cmp::Ordering::Equal, // a key has one type in a dataset
    }
}

/// Computes the canonical digest; `scratch` is reused between rows.
pub fn digest(dataset: &Dataset, values: &[Value<'_>], scratch: &mut Vec<u8>) -> Digest {
    scratch.clear();
    for &i in &dataset.digest_order {
        values[i].encode(scratch);
    }
    Digest(xxh3_128(scratch).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(versions: &[(&str, i64, u8)]) -> Rows<'static> {
        let mut rows = Rows::new(1);
        for (i, (key, event_time, digest)) in versions.iter().enumerate() {
            let meta = RowMeta {
                event_time: *event_time,
                digest: Digest([*digest; 16]),
                origin: Origin {
                    partition: 0,
                    offset: i as i64,
                },
            };
            let key = key.to_string();
            let fill = |values: &mut Vec<Value<'static>>| {
                values.push(Value::Text(key.into()));
                Ok::<(), ()>(())
            };
            rows.push(fill, |_| Ok(meta)).unwrap();
        }
        rows
    }

    #[test]
    fn the_newest_of_a_key_wins_whatever_the_order() {
        let rows = rows(&[
            ("b", 1, 0),
            ("a", 2, 1),
            ("a", 2, 9),
            ("a", 1, 255),
            ("b", 1, 0),
        ]);
        let newest = rows.newest_by_key(0);
        let offsets: Vec<i64> = newest.iter().map(|i| rows.meta(*i).origin.offset).collect();
        assert_eq!(offsets.len(), 2);
        assert_eq!(offsets[0], 2);
    }

    #[test]
    fn a_failed_push_leaves_no_trace() {
        let mut rows = rows(&[("a", 1, 0)]);
        let result = rows.push(
            |v| {
                v.push(Value::Null);
                Err("bad")
            },
            |_| unreachable!(),
        );
        assert_eq!(result, Err("bad"));
        assert_eq!(rows.len(), 1);
        assert_eq!(rows.values(0), [Value::Text("a".into())]);
    }
}
