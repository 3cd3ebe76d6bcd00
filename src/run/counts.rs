//! The records that a run counts, and byte counts formatted for people.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::run::rejected::Groups;

/// The counts of one run. `read = written + rejected + deduplicated + skipped` holds at the end of
/// every command that moves records.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records read, blank lines and trailers included.
    pub read: AtomicU64,
    /// Records that reached their destination.
    pub written: AtomicU64,
    /// Records rejected by a rule, kept as dead letters or in the reject file.
    pub rejected: AtomicU64,
    /// Records superseded by a newer one with the same key in the same input.
    pub deduplicated: AtomicU64,
    /// Blank lines, trailers, and rows not newer than the stored one.
    pub skipped: AtomicU64,
    /// Bytes of records read.
    pub bytes: AtomicU64,
    /// Events appended to the dead-letter topic.
    pub dead_letters: AtomicU64,
    /// Attempts repeated after a dependency failed.
    pub retries: AtomicU64,
    groups: Mutex<Groups>,
}

impl Counts {
    /// Resets the counts of an input that is read again from its start.
    pub fn start_over(&self) {
        let of_input = [
            &self.read,
            &self.written,
            &self.rejected,
            &self.deduplicated,
            &self.skipped,
            &self.bytes,
        ];
        for count in of_input {
            count.store(0, Ordering::Relaxed);
        }
        *self.lock() = Groups::default();
    }

    /// Adds bad records to their groups; `rejected` counts them.
    pub fn add_rejected(&self, groups: &Groups) {
        if !groups.is_empty() {
            self.lock().merge(groups);
        }
    }

    /// The bad records so far, grouped.
    pub fn rejected_groups(&self) -> Groups {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts records that were written as skipped, because what they were written to is not kept.
    pub fn give_up(&self, records: u64) {
        self.written.fetch_sub(records, Ordering::Relaxed);
        add(&self.skipped, records);
    }
}

/// Adds to a count.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Reads a count.
pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Bytes in the largest decimal unit that keeps the number above one.
pub(super) fn human_bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        assert_eq!(human_bytes(999), "999 B");
        assert_eq!(human_bytes(1_500), "1.5 kB");
        assert_eq!(human_bytes(2_000_000_000), "2.00 GB");
    }
}
