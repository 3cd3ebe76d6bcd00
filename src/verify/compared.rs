//! The result of a comparison: its counts and its verdict.

use super::Tolerances;
use crate::run::{Run, add};

/// The result of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Rows of the real-time and of the batch store, as the first scan saw them.
    pub rows: [u64; 2],
    /// Bytes of their encodings.
    pub bytes: u64,
    /// Keys in the real-time store only.
    pub missing: u64,
    /// Keys in the batch store only.
    pub extra: u64,
    /// Keys in both with different values.
    pub changed: u64,
    /// Keys that occur more than once in a store.
    pub duplicates: u64,
    /// Rows of both stores that differ.
    pub differing_rows: u64,
    /// Rows beyond the first of their key.
    pub surplus_rows: u64,
}

impl Compared {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.missing + self.extra + self.changed + self.duplicates == 0
    }

    /// Counts the rows of both stores.
    pub fn count(&self, run: &Run) {
        let counts = &run.counts;
        let differing = self.differing_rows + self.surplus_rows;
        // Rows written during the comparison can make more rows differ than the first scan saw.
        let read = (self.rows[0] + self.rows[1]).max(differing);
        add(&counts.read, read);
        add(&counts.written, read - differing);
        add(&counts.rejected, self.differing_rows);
        add(&counts.deduplicated, self.surplus_rows);
        add(&counts.bytes, self.bytes);
    }

    /// Reports the result for the tables of these names, the real-time store's first. Equal means equal within
    /// these tolerances.
    pub fn tell(&self, [realtime, batch]: &[String; 2], tolerances: &Tolerances, run: &Run) {
        let rows = self.rows;
        if !self.is_equal() {
            run.warn(format!(
                "not equal: {} missing in {batch}, {} extra in {batch}, {} changed, {} duplicate; {} rows in {realtime}, {} in {batch}",
                self.missing, self.extra, self.changed, self.duplicates, rows[0], rows[1]
            ));
            return;
        }
        let within = match tolerances.are_strict() {
            true => "",
            false => ", within the tolerances",
        };
        match rows {
            [0, 0] => run.warn(format!("{realtime} and {batch} are both empty")),
            [a, b] if a == b => {
                run.info(format!("equal: {a} rows in {realtime} and {batch}{within}"));
            }
            [a, b] => run.info(format!(
                "equal: {a} rows in {realtime}, {b} in {batch}{within}; rows were written during the comparison"
            )),
        }
    }
}
