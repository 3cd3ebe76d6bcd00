//! The rows of a table as a sketch whose size depends on the number of differences, not on that of rows: an invertible
//! Bloom lookup table (Goodrich and Mitzenmacher, 2011; set reconciliation: Eppstein et al., 2011).
//!
//! Each row is added to three cells, which keep a count and the xor of what was added. The difference of two tables'
//! sketches has only the rows that are not in both; a cell with a single one of them shows it, and taking that one out
//! of its other cells may leave a single one there. With three cells a row, that ends with all rows found as long as there
//! are fewer than about 0.8 of the cells. So one scan of each table is enough to know the keys that differ. Where it is
//! not, because too much differs or keys are long, those parts say so and are scanned again.

use xxhash_rust::xxh3::xxh3_64;

use crate::record::value::Value;

/// Independent parts, each for the keys of consecutive buckets: one with too many differences does not spoil the others.
pub(super) const PARTS: usize = 64;

/// Cells of a part, in three rows of them; some 1,200 differing rows can be found in them.
const CELLS: usize = 3 * ROW_CELLS;

/// Cells in each of a part's three rows.
const ROW_CELLS: usize = 512;

/// Rows of a part that wait to be put in its cells together: the cells of one part fit the processor's cache, those of all
/// do not.
const WAITING: usize = 128;

/// Longest encoding of a key that fits a cell: 17 bytes of a UUID, 9 of an integer, or a text of 14 bytes.
const KEY_BYTES: usize = 23;

/// A key's encoding with its length, padded.
type Slot = [u64; 3];

/// Rows, added up so that one that was added twice with opposite signs is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    count: i64,
    key: Slot,
    digest: u64,
    /// Xor of the rows' hashes: if it is that of the key and digest in the cell, there is only this one row.
    hash: u64,
}

/// A row in a sketch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    key: Slot,
    digest: u64,
    hash: u64,
}

impl Entry {
    fn new(key: Slot, digest: u64) -> Self {
        let mut bytes = [0; 32];
        for (at, word) in key.iter().chain([&digest]).enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        Entry {
            key,
            digest,
            hash: xxh3_64(&bytes),
        }
    }

    /// Its cells within a part, by parts of its hash.
    fn cells(&self) -> [usize; 3] {
        [0, 1, 2].map(|row| row * ROW_CELLS + (self.hash >> (21 * row)) as usize % ROW_CELLS)
    }
}

/// A table's rows.
#[derive(Debug)]
pub(super) struct Sketch {
    cells: Vec<Cell>,
    /// Rows of each part that are not in their cells yet.
    waiting: Vec<Vec<Entry>>,
    /// Parts with a key that is too long for a cell.
    has_long_keys: [bool; PARTS],
}

/// A key that perhaps differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Suspect {
    /// Its encoding.
    pub(super) key: Vec<u8>,
    /// The [`short`] digest of the only row of it that the scan of the real-time store saw; none if that is not known, or
    /// equals the batch store's.
    pub(super) seen: Option<u64>,
}

impl Suspect {
    /// A key of which nothing else is known.
    pub(super) fn unseen(key: &Value<'_>) -> Suspect {
        let mut encoding = Vec::new();
        key.encode(&mut encoding);
        Suspect {
            key: encoding,
            seen: None,
        }
    }
}

/// A digest as sketches have it.
pub(super) fn short(digest: u128) -> u64 {
    (digest >> 64) as u64 ^ digest as u64
}

/// What two tables' sketches show.
#[derive(Debug)]
pub(super) struct Differing {
    /// The keys of rows that are not in both, each once.
    pub(super) keys: Vec<Suspect>,
    /// Parts of which not all rows were found; none of their keys are in `keys`.
    pub(super) unknown: [bool; PARTS],
}

impl Differing {
    /// Nothing is known.
    pub(super) fn unknown() -> Self {
        Differing {
            keys: Vec::new(),
            unknown: [true; PARTS],
        }
    }
}

impl Sketch {
    pub(super) fn new() -> Self {
        Sketch {
            cells: vec![Cell::default(); PARTS * CELLS],
            waiting: vec![Vec::new(); PARTS],
            has_long_keys: [false; PARTS],
        }
    }

    /// Adds a row of a part's key.
    pub(super) fn add(&mut self, part: usize, key: &[u8], digest: u128) {
        match slot(key) {
            None => self.has_long_keys[part] = true,
            Some(key) => {
                let entry = Entry::new(key, short(digest));
                self.waiting[part].push(entry);
                if self.waiting[part].len() == WAITING {
                    self.put_waiting(part);
                }
            }
        }
    }

    fn put_waiting(&mut self, part: usize) {
        let cells = &mut self.cells[part * CELLS..(part + 1) * CELLS];
        for entry in self.waiting[part].drain(..) {
            put(cells, &entry, 1);
        }
    }

    fn part_mut(&mut self, part: usize) -> &mut [Cell] {
        &mut self.cells[part * CELLS..(part + 1) * CELLS]
    }

    /// The keys of rows that are in only one of two tables, of which this one is the real-time store's. Uses up both.
    pub(super) fn difference(mut self, mut other: Sketch) -> Differing {
        for part in 0..PARTS {
            self.put_waiting(part);
            other.put_waiting(part);
        }
        for (cell, of_other) in self.cells.iter_mut().zip(&other.cells) {
            cell.count -= of_other.count;
            cell.digest ^= of_other.digest;
            cell.hash ^= of_other.hash;
            for (word, of_other) in cell.key.iter_mut().zip(of_other.key) {
                *word ^= of_other;
            }
        }
        let mut differing = Differing {
            keys: Vec::new(),
            unknown: [false; PARTS],
        };
        for part in 0..PARTS {
            let found = match self.has_long_keys[part] || other.has_long_keys[part] {
                true => None,
                false => peel(self.part_mut(part)),
            };
            match found {
                None => differing.unknown[part] = true,
                Some(rows) => differing.keys.extend(by_key(rows)),
            }
        }
        differing
    }
}

/// Adds an entry to its cells, or takes it out.
fn put(cells: &mut [Cell], entry: &Entry, sign: i64) {
    for at in entry.cells() {
        let cell = &mut cells[at];
        cell.count += sign;
        cell.digest ^= entry.digest;
        cell.hash ^= entry.hash;
        for (word, of_entry) in cell.key.iter_mut().zip(entry.key) {
            *word ^= of_entry;
        }
    }
}

/// The only entry of a cell, if it has one.
fn only(cell: &Cell) -> Option<Entry> {
    let entry = (cell.count.abs() == 1).then(|| Entry::new(cell.key, cell.digest))?;
    (entry.hash == cell.hash).then_some(entry)
}

/// A row that is in only one of two tables: its key, whether it is in the first of them, and its digest.
type OneSided = (Slot, bool, u64);

/// The keys of these rows, each once, although a row that was changed has two versions.
fn by_key(mut rows: Vec<OneSided>) -> Vec<Suspect> {
    rows.sort_unstable();
    let of_keys = rows.chunk_by(|a, b| a.0 == b.0).map(|of_key| {
        let mut seen = of_key.iter().filter(|(_, is_first, _)| *is_first);
        Suspect {
            key: encoding(of_key[0].0),
            seen: match (seen.next(), seen.next()) {
                (Some((.., digest)), None) => Some(*digest),
                _ => None,
            },
        }
    });
    of_keys.collect()
}

/// All rows in the cells, from which they are taken out; none if some of them cannot be found.
fn peel(cells: &mut [Cell]) -> Option<Vec<OneSided>> {
    let mut rows = Vec::new();
    let mut to_see: Vec<usize> = (0..CELLS).collect();
    while let Some(at) = to_see.pop() {
        // The bound ends a loop that only a wrong count of an entry could begin.
        if let Some(entry) = only(&cells[at])
            && rows.len() <= CELLS
        {
            let sign = cells[at].count;
            put(cells, &entry, -sign);
            rows.push((entry.key, sign > 0, entry.digest));
            to_see.extend(entry.cells());
        }
    }
    let is_empty = cells.iter().all(|cell| *cell == Cell::default());
    is_empty.then_some(rows)
}

/// A key's encoding and its length; none if it is too long.
fn slot(key: &[u8]) -> Option<Slot> {
    let mut bytes = [0; KEY_BYTES + 1];
    bytes[..KEY_BYTES]
        .get_mut(..key.len())?
        .copy_from_slice(key);
    bytes[KEY_BYTES] = key.len() as u8;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at * 8..at * 8 + 8]);
        u64::from_le_bytes(word)
    };
    Some([word(0), word(1), word(2)])
}

/// What [`slot`] was made of.
fn encoding(slot: Slot) -> Vec<u8> {
    let mut bytes: Vec<u8> = slot.iter().flat_map(|word| word.to_le_bytes()).collect();
    let len = usize::from(bytes[KEY_BYTES]).min(KEY_BYTES);
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Vec<u8> {
        let mut key = vec![2];
        key.extend_from_slice(&xxh3_64(&n.to_be_bytes()).to_be_bytes());
        key.extend_from_slice(&n.to_be_bytes());
        key
    }

    fn suspect(n: u64, seen: Option<u64>) -> Suspect {
        Suspect { key: key(n), seen }
    }

    fn part(key: &[u8]) -> usize {
        (xxh3_64(key) >> 58) as usize
    }

    fn add(sketch: &mut Sketch, n: u64, digest: u128) {
        let key = key(n);
        sketch.add(part(&key), &key, digest);
    }

    #[test]
    fn what_differs_is_found_among_rows_that_do_not() {
        let [mut a, mut b] = [Sketch::new(), Sketch::new()];
        for n in 0..20_000 {
            add(&mut a, n, u128::from(n));
        }
        for n in (0..20_000).rev().filter(|n| n % 100 != 3) {
            add(&mut b, n, u128::from(if n % 100 == 7 { n + 1 } else { n }));
        }
        add(&mut b, 20_000, 0);
        let only_in_a = (0..20_000).filter(|n| matches!(n % 100, 3 | 7));
        let seen = only_in_a.map(|n| (n, Some(n))).chain([(20_000, None)]);
        let mut expected: Vec<Suspect> = seen.map(|(n, seen)| suspect(n, seen)).collect();
        let mut differing = a.difference(b);
        assert_eq!(differing.unknown, [false; PARTS]);
        expected.sort();
        differing.keys.sort();
        assert_eq!(differing.keys, expected);
    }

    #[test]
    fn tens_of_thousands_fit_and_too_many_are_not_guessed() {
        for (rows, all) in [(60_000, true), (200_000, false)] {
            let mut a = Sketch::new();
            (0..rows).for_each(|n| add(&mut a, n, 1));
            let differing = a.difference(Sketch::new());
            let unknown = differing.unknown.iter().filter(|unknown| **unknown).count();
            match all {
                true => assert_eq!((unknown, differing.keys.len()), (0, 60_000)),
                false => assert_eq!((unknown, differing.keys.len()), (PARTS, 0)),
            }
        }
    }

    #[test]
    fn a_row_that_is_twice_in_a_table_or_has_a_long_key_is_left_to_another_scan() {
        let mut a = Sketch::new();
        let mut b = Sketch::new();
        add(&mut a, 1, 1);
        add(&mut a, 1, 1);
        add(&mut b, 1, 1);
        let twice = a.difference(b);
        // One of two equal rows is left: its key is found, because the others cancel out.
        assert_eq!(twice.keys, [suspect(1, Some(1))]);
        let mut a = Sketch::new();
        add(&mut a, 1, 1);
        add(&mut a, 1, 1);
        let twice = a.difference(Sketch::new());
        assert_eq!((twice.keys.len(), twice.unknown[part(&key(1))]), (0, true));
        let mut a = Sketch::new();
        a.add(5, &[7; KEY_BYTES + 1], 1);
        a.add(6, &[7; KEY_BYTES], 1);
        let long = a.difference(Sketch::new());
        assert!(long.unknown[5] && !long.unknown[6]);
        let keys: Vec<&[u8]> = long.keys.iter().map(|suspect| &*suspect.key).collect();
        assert_eq!(keys, [[7; KEY_BYTES]]);
    }
}
