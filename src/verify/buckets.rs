//! What a scan collects, in memory that does not grow with the table: sums over the rows by bucket of their keys,
//! and the keys of a group of buckets.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::sketch::{Differing, PARTS, Sketch, Suspect, short};
use super::{Comparison, Side};
use crate::ports::table_reader::{EncodedRow, EncodedVisitor};
use crate::record::row::Digest;

/// Number of buckets: a key's is the top 12 bits of the hash of its encoding.
const BUCKETS: usize = 1 << 12;

/// Maximum rows of one table in a group, just below the size at which the hash table would double.
const GROUP_ROWS: u64 = (1 << 18) / 8 * 7;

/// Maximum bytes of keys of one table in a group.
const GROUP_KEY_BYTES: u64 = 6 << 20;

/// Number of rows between two checks of the stop signal.
const STOP_EVERY: u64 = 1_024;

/// The hash of a key's encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyHash([u64; 2]);

impl KeyHash {
    fn new(encoding: &[u8]) -> Self {
        let hash = xxh3_128(encoding);
        KeyHash([(hash >> 64) as u64, hash as u64])
    }

    fn bucket(self) -> usize {
        (self.0[0] >> (64 - BUCKETS.ilog2())) as usize
    }
}

impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[1]);
    }
}

/// Passes a hash through.
#[derive(Debug, Default)]
pub(super) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes
            .iter()
            .fold(self.0, |hash, b| hash.rotate_left(8) ^ u64::from(*b));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Rows of one bucket, summed up so that their order does not matter. The sum catches what an xor would cancel
/// out, such as two equal rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct BucketSum {
    rows: u64,
    key_bytes: u64,
    sum: u128,
    xor: u128,
}

/// The first pass: every row of a table.
#[derive(Debug)]
pub(super) struct Sums {
    comparison: Arc<Comparison>,
    side: Side,
    buckets: Vec<BucketSum>,
    /// None once its difference was taken.
    sketch: Option<Sketch>,
    /// Rows seen.
    pub(super) rows: u64,
    /// Bytes of their encodings.
    pub(super) bytes: u64,
    /// Number of rows among them whose key is not a valid key.
    pub(super) foreign_keys: u64,
}

impl Sums {
    pub(super) fn new(comparison: &Arc<Comparison>, side: Side) -> Self {
        Sums {
            comparison: comparison.clone(),
            side,
            buckets: vec![BucketSum::default(); BUCKETS],
            sketch: Some(Sketch::new()),
            rows: 0,
            bytes: 0,
            foreign_keys: 0,
        }
    }

    /// Forgets all rows.
    pub(super) fn restart(&mut self) {
        *self = Sums::new(&self.comparison, self.side);
    }
}

impl EncodedVisitor for Sums {
    fn wants(&mut self, _: &[u8]) -> bool {
        true
    }

    fn row(&mut self, row: EncodedRow<'_>) -> ControlFlow<()> {
        self.rows += 1;
        self.bytes += row.columns.len() as u64;
        if row.key.is_empty() {
            self.foreign_keys += 1;
        } else {
            let digest = digest(row, self.side);
            let at = KeyHash::new(row.key).bucket();
            if let Some(sketch) = &mut self.sketch {
                sketch.add(at / PART_BUCKETS, row.key, digest);
            }
            let bucket = &mut self.buckets[at];
            bucket.rows += 1;
            bucket.key_bytes += row.key.len() as u64;
            bucket.sum = bucket.sum.wrapping_add(digest);
            bucket.xor ^= digest;
        }
        go_on(&self.comparison, self.rows)
    }
}

/// Buckets in a part of a sketch.
const PART_BUCKETS: usize = BUCKETS / PARTS;

/// The keys that differ by the sketches of both tables, which are used up.
pub(super) fn sketch_difference([realtime, batch]: &mut [Sums; 2]) -> Differing {
    match (realtime.sketch.take(), batch.sketch.take()) {
        (Some(realtime), Some(batch)) => realtime.difference(batch),
        _ => Differing::unknown(),
    }
}

/// What is examined.
#[derive(Debug)]
pub(super) enum Suspects {
    /// The keys that the sketches show, and the buckets whose sums differ where they do not show all keys.
    Differing(Differing),
    /// All buckets: neither table rules out a key that occurs twice, equally in both.
    All,
}

impl Suspects {
    /// The keys that the sketches show; later none.
    pub(super) fn take_keys(&mut self) -> Vec<Suspect> {
        match self {
            Suspects::Differing(differing) => std::mem::take(&mut differing.keys),
            Suspects::All => Vec::new(),
        }
    }

    fn include(&self, bucket: usize, [a, b]: [&BucketSum; 2]) -> bool {
        match self {
            Suspects::Differing(differing) => differing.unknown[bucket / PART_BUCKETS] && a != b,
            Suspects::All => a.rows + b.rows > 0,
        }
    }
}

/// Buckets small enough to be examined together.
#[derive(Clone, Debug)]
pub(super) struct BucketGroup {
    buckets: Vec<bool>,
    rows: [u64; 2],
    key_bytes: [u64; 2],
}

impl BucketGroup {
    fn empty() -> Self {
        BucketGroup {
            buckets: vec![false; BUCKETS],
            rows: [0; 2],
            key_bytes: [0; 2],
        }
    }

    fn has_room(&self, both: [&BucketSum; 2]) -> bool {
        (0..2).all(|side| {
            self.rows[side] + both[side].rows <= GROUP_ROWS
                && self.key_bytes[side] + both[side].key_bytes <= GROUP_KEY_BYTES
        })
    }

    fn add(&mut self, bucket: usize, both: [&BucketSum; 2]) {
        self.buckets[bucket] = true;
        for (side, sums) in both.into_iter().enumerate() {
            self.rows[side] += sums.rows;
            self.key_bytes[side] += sums.key_bytes;
        }
    }
}

/// The buckets to examine, in groups. A bucket that is too large forms a group of its own.
pub(super) fn groups([realtime, batch]: [&Sums; 2], suspects: &Suspects) -> Vec<BucketGroup> {
    let mut groups: Vec<BucketGroup> = Vec::new();
    for (i, (a, b)) in realtime.buckets.iter().zip(&batch.buckets).enumerate() {
        if !suspects.include(i, [a, b]) {
            continue;
        }
        match groups.last_mut().filter(|group| group.has_room([a, b])) {
            Some(group) => group.add(i, [a, b]),
            None => {
                let mut group = BucketGroup::empty();
                group.add(i, [a, b]);
                groups.push(group);
            }
        }
    }
    groups
}

/// The further passes: the keys of a group of buckets. One value serves all groups, because memory freed and
/// allocated again by scans on changing threads adds up.
#[derive(Debug)]
pub(super) struct Keys {
    comparison: Arc<Comparison>,
    side: Side,
    group: Arc<BucketGroup>,
    seen: HashMap<KeyHash, SeenKey, BuildHasherDefault<Hashed>>,
    encodings: Vec<u8>,
    rows: u64,
}

#[derive(Clone, Copy, Debug)]
struct SeenKey {
    /// Sum of the digests, as two halves: an aligned u128 would make the entry a third larger.
    digest: [u64; 2],
    rows: u32,
    key_len: u32,
    key_at: usize,
}

impl Keys {
    pub(super) fn new(comparison: &Arc<Comparison>, side: Side) -> Self {
        Keys {
            comparison: comparison.clone(),
            side,
            group: Arc::new(BucketGroup::empty()),
            seen: HashMap::default(),
            encodings: Vec::new(),
            rows: 0,
        }
    }

    /// Forgets all keys, and makes room for those of this group.
    pub(super) fn restart(&mut self, group: &Arc<BucketGroup>) {
        let rows = group.rows[self.side as usize].min(GROUP_ROWS);
        let key_bytes = group.key_bytes[self.side as usize].min(GROUP_KEY_BYTES);
        self.group = group.clone();
        self.seen.clear();
        self.seen.reserve(rows as usize);
        self.encodings.clear();
        self.encodings.reserve_exact(key_bytes as usize);
        self.rows = 0;
    }

    fn suspect(&self, seen: &SeenKey) -> Suspect {
        let is_seen = seen.rows == 1 && self.side == Side::Realtime;
        Suspect {
            key: self.encodings[seen.key_at..seen.key_at + seen.key_len as usize].to_vec(),
            seen: is_seen.then(|| short(join(seen.digest))),
        }
    }
}

impl EncodedVisitor for Keys {
    fn wants(&mut self, key: &[u8]) -> bool {
        self.group.buckets[KeyHash::new(key).bucket()]
    }

    fn row(&mut self, row: EncodedRow<'_>) -> ControlFlow<()> {
        if row.key.is_empty() {
            return ControlFlow::Continue(());
        }
        let digest = digest(row, self.side);
        let encodings = &mut self.encodings;
        let seen = self.seen.entry(KeyHash::new(row.key)).or_insert_with(|| {
            let key_at = encodings.len();
            encodings.extend_from_slice(row.key);
            SeenKey {
                digest: [0; 2],
                rows: 0,
                key_len: row.key.len() as u32, // a key has at most 65,535 bytes
                key_at,
            }
        });
        let sum = join(seen.digest).wrapping_add(digest);
        seen.digest = [(sum >> 64) as u64, sum as u64];
        seen.rows = seen.rows.saturating_add(1);
        self.rows += 1;
        go_on(&self.comparison, self.rows)
    }
}

fn join([high, low]: [u64; 2]) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

/// The keys that are not one equal row in both tables.
pub(super) fn differing_keys([realtime, batch]: [&Keys; 2]) -> impl Iterator<Item = Suspect> {
    let in_realtime = realtime.seen.iter().filter(|(key, a)| {
        batch
            .seen
            .get(key)
            .is_none_or(|b| a.digest != b.digest || a.rows > 1 || b.rows > 1)
    });
    let only_in_batch = batch
        .seen
        .iter()
        .filter(|(key, _)| !realtime.seen.contains_key(key));
    in_realtime
        .map(|(_, seen)| realtime.suspect(seen))
        .chain(only_in_batch.map(|(_, seen)| batch.suspect(seen)))
}

/// The canonical digest. A row with a foreign value never equals a row of the other table.
fn digest(row: EncodedRow<'_>, side: Side) -> u128 {
    let digest = u128::from_be_bytes(Digest::of(row.columns).0);
    match row.foreign.is_empty() {
        true => digest,
        false => digest.rotate_left(1 + side as u32),
    }
}

pub(super) fn go_on(comparison: &Comparison, rows: u64) -> ControlFlow<()> {
    match rows.is_multiple_of(STOP_EVERY) && comparison.stop.requested().is_some() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Dataset;
    use crate::record::value::Value;
    use crate::run::Stop;
    use crate::verify::Tolerances;

    fn comparison() -> Arc<Comparison> {
        let dataset = Dataset::load(None).unwrap();
        let tolerances = Tolerances::parse(&dataset, &[]).unwrap();
        Arc::new(Comparison::new(&dataset, tolerances, Stop::channel().1))
    }

    fn unknown() -> Suspects {
        Suspects::Differing(Differing::unknown())
    }

    fn visit(visitor: &mut impl EncodedVisitor, keys: impl Iterator<Item = u128>) {
        for n in keys {
            let mut key = Vec::new();
            Value::Uuid(uuid::Uuid::from_u128(n)).encode(&mut key);
            if visitor.wants(&key) {
                let row = EncodedRow {
                    key: &key,
                    columns: &key,
                    foreign: &[],
                };
                assert!(visitor.row(row).is_continue());
            }
        }
    }

    #[test]
    fn equal_tables_in_any_order_have_no_groups_and_one_row_more_is_found() {
        let comparison = comparison();
        let mut sums = [Side::Realtime, Side::Batch].map(|side| Sums::new(&comparison, side));
        visit(&mut sums[0], 0..5_000);
        visit(&mut sums[1], (0..5_000).rev());
        assert!(groups([&sums[0], &sums[1]], &unknown()).is_empty());
        assert_eq!(groups([&sums[0], &sums[1]], &Suspects::All).len(), 1);
        visit(&mut sums[1], 5_000..5_001);
        let groups = groups([&sums[0], &sums[1]], &unknown());
        assert_eq!(groups.len(), 1);
        let group = Arc::new(groups[0].clone());
        let mut keys = [Side::Realtime, Side::Batch].map(|side| Keys::new(&comparison, side));
        keys.iter_mut().for_each(|keys| keys.restart(&group));
        visit(&mut keys[0], 0..5_000);
        visit(&mut keys[1], 0..5_001);
        let differing: Vec<Suspect> = differing_keys([&keys[0], &keys[1]]).collect();
        let expected = Value::Uuid(uuid::Uuid::from_u128(5_000));
        assert_eq!(differing, [Suspect::unseen(&expected)]);
        assert!(keys[0].seen.len() < 100, "only the bucket's keys are kept");
    }

    #[test]
    fn groups_are_bounded_whatever_differs() {
        let comparison = comparison();
        let mut sums = [Side::Realtime, Side::Batch].map(|side| Sums::new(&comparison, side));
        visit(&mut sums[0], 0..500_000);
        let groups = groups([&sums[0], &sums[1]], &unknown());
        assert_eq!(groups.len(), 3);
        assert!(groups.iter().all(|g| g.rows[0] <= GROUP_ROWS));
        assert_eq!(groups.iter().map(|g| g.rows[0]).sum::<u64>(), 500_000);
    }
}
