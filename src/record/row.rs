//! What is stored: typed rows, their canonical digest, and the order of their versions.

use std::borrow::Cow;
use std::ops::Range;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::dataset::{Dataset, Series};
use crate::record::value::{Value, ValueOf};

/// The canonical digest of a row: XXH3-128 of its values' encodings, columns sorted by name,
/// big-endian, so that byte order is number order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// The digest of the encodings of a row's values, columns sorted by name.
    pub fn of(encoding: &[u8]) -> Digest {
        Digest(xxh3_128(encoding).to_be_bytes())
    }
}

/// Where a row comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Partition of the event log; 0 for a row from a file.
    pub partition: i32,
    /// Offset in the partition, or 1-based line of the input.
    pub offset: i64,
}

impl Origin {
    /// From the columns of a store; none if one of them has no value.
    pub fn of(partition: Option<i32>, offset: Option<i64>) -> Option<Origin> {
        Some(Origin {
            partition: partition?,
            offset: offset?,
        })
    }
}

/// What is known about a row besides its values.
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
    /// The order of versions of a key, the same in every store and merge: event time, then digest.
    pub fn version(&self) -> (i64, Digest) {
        (self.event_time, self.digest)
    }

    /// The version as Cassandra's write timestamp, in microseconds: the event time in milliseconds, and as the
    /// microseconds the thousandth of the digests' range in which the row's digest lies. That keeps the order of
    /// versions, except for two digests in the same thousandth.
    pub fn write_timestamp(&self) -> i64 {
        let Digest(digest) = self.digest;
        let first = u16::from_be_bytes([digest[0], digest[1]]);
        self.event_time * 1_000 + i64::from((u32::from(first) * 1_000) >> 16)
    }
}

/// The position of a row in a table for reads by time: start of the bucket, in milliseconds since 1970 UTC,
/// and shard, by XXH3-64 of the key's canonical encoding.
pub fn bucket(series: &Series, event_time: i64, key: &Value<'_>) -> (i64, i32) {
    let width = series.bucket.millis();
    let mut encoded = Vec::with_capacity(64);
    key.encode(&mut encoded);
    let shard = xxh3_64(&encoded) % u64::from(series.shards);
    (
        // No bucket starts before the first millisecond that a store can hold.
        event_time.div_euclid(width).saturating_mul(width),
        shard.try_into().unwrap_or(i32::MAX), // a dataset has at most 65,535 shards
    )
}

/// Rows of one dataset. Their texts share one buffer, so that rows are passed between threads and dropped
/// all at once.
#[derive(Clone, Debug)]
pub struct Rows {
    width: usize,
    text: String,
    /// Texts, by their position in `text`.
    cells: Vec<ValueOf<Range<usize>>>,
    meta: Vec<RowMeta>,
}

impl Rows {
    /// No rows yet, each `width` values wide.
    pub fn new(width: usize) -> Self {
        Rows {
            width,
            text: String::new(),
            cells: Vec::new(),
            meta: Vec::new(),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.meta.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.meta.is_empty()
    }

    /// Number of values in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The values of row `i`, in the dataset's order of fields.
    pub fn values(&self, i: usize) -> impl ExactSizeIterator<Item = Value<'_>> {
        let cells = &self.cells[i * self.width..(i + 1) * self.width];
        cells.iter().map(|cell| self.read(cell))
    }

    /// The value of row `i` in a column.
    pub fn value(&self, i: usize, column: usize) -> Value<'_> {
        self.read(&self.cells[i * self.width + column])
    }

    fn read(&self, cell: &ValueOf<Range<usize>>) -> Value<'_> {
        cell.map_text(|range| Cow::Borrowed(&self.text[range.clone()]))
    }

    /// What is known about row `i` besides its values.
    pub fn meta(&self, i: usize) -> &RowMeta {
        &self.meta[i]
    }

    /// Adds a row.
    pub fn push(&mut self, values: &[Value<'_>], meta: RowMeta) {
        debug_assert_eq!(values.len(), self.width);
        for value in values {
            let cell = value.map_text(|text| self.store(text));
            self.cells.push(cell);
        }
        self.meta.push(meta);
    }

    fn store(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }

    /// Drops all rows and keeps the memory for the next ones.
    pub fn clear(&mut self) {
        self.text.clear();
        self.cells.clear();
        self.meta.clear();
    }

    /// Indices of all rows, sorted by key, and the newest version of each key first: the others are superseded, unless
    /// a store refuses it.
    pub fn versions_by_key(&self, key: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_unstable_by(|a, b| {
            compare_keys(&self.value(*a, key), &self.value(*b, key))
                .then_with(|| self.meta(*b).version().cmp(&self.meta(*a).version()))
        });
        order
    }

    /// The newest of them only.
    pub fn newest_by_key(&self, key: usize) -> Vec<usize> {
        let mut order = self.versions_by_key(key);
        order.dedup_by(|a, b| self.have_same_key(key, *a, *b));
        order
    }

    /// Whether two rows have the same key.
    pub fn have_same_key(&self, key: usize, a: usize, b: usize) -> bool {
        self.value(a, key) == self.value(b, key)
    }
}

/// Orders keys like the stores' indexes: texts and UUIDs by bytes, numbers by value.
pub fn compare_keys(a: &Value<'_>, b: &Value<'_>) -> std::cmp::Ordering {
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
    Digest::of(scratch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(versions: &[(&str, i64, u8)]) -> Rows {
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
            rows.push(&[Value::Text((*key).into())], meta);
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
        let order = rows.versions_by_key(0);
        let mut keys = order.chunk_by(|a, b| rows.have_same_key(0, *a, *b));
        assert_eq!(keys.next(), Some(&[2, 1, 3][..]));
        assert_eq!(keys.next().map(<[usize]>::len), Some(2));
        assert_eq!(keys.next(), None);
        assert_eq!(rows.newest_by_key(0), [order[0], order[3]]);
    }

    #[test]
    fn write_timestamps_are_in_the_order_of_versions() {
        let at = |event_time, first: u8| {
            let meta = RowMeta {
                event_time,
                digest: Digest([first; 16]),
                origin: Origin::default(),
            };
            meta.write_timestamp()
        };
        assert_eq!(at(1, 0), 1_000);
        assert_eq!(at(1, 0xff), 1_999);
        assert_eq!(at(-1, 0xff), -1);
        let all: Vec<i64> = (0..=0xff).map(|first| at(7, first)).collect();
        assert!(all.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn values_come_back_as_they_were() {
        let values = [
            Value::Text("Zoë".into()),
            Value::Null,
            Value::Decimal("-1.5".into()),
            Value::Text("".into()),
            Value::Uuid(uuid::Uuid::from_u128(7)),
            Value::Int(-1),
            Value::Double(0.5),
            Value::Boolean(true),
            Value::Timestamp(1),
            Value::Date(2),
        ];
        let meta = RowMeta {
            event_time: 0,
            digest: Digest::default(),
            origin: Origin::default(),
        };
        let mut rows = Rows::new(values.len());
        for _ in 0..2 {
            rows.push(&values, meta);
        }
        assert_eq!(rows.values(1).collect::<Vec<_>>(), values);
        assert_eq!(rows.value(0, 2), values[2]);
    }
}
