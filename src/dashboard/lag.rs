//! How far the group is behind in each partition, and which of its offsets are not in the topic any more.

use crate::ports::event_log::{Offsets, Span};
use crate::ports::monitor::{OutOfRange, Why, continues_at};

/// Where the group stands.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// Events that were ever appended.
    pub(super) produced: i64,
    /// Events that the group has committed, counted from where it began.
    pub(super) committed: i64,
    /// Events not committed that are still in the topic, by partition.
    pub(super) partitions: Vec<(i32, i64)>,
    /// The first of them, in each partition that has some.
    pub(super) first: Span,
}

/// What is known of the group's offsets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    /// Those in the log.
    pub(super) committed: &'a Offsets,
    /// Those in the store, if it keeps some.
    pub(super) stored: Option<&'a Offsets>,
    /// Which of both nobody can continue at.
    pub(super) out_of_range: &'a [OutOfRange],
    /// Where the partitions began when they were first looked at.
    pub(super) base: &'a Offsets,
}

impl Known<'_> {
    /// The first event at an offset or after it, where some were deleted in between.
    fn next(&self, partition: i32, at: i64) -> i64 {
        let here = |out: &&OutOfRange| (out.partition, out.offset) == (partition, at);
        match self.out_of_range.iter().find(here).map(|out| out.why) {
            Some(Why::Deleted { low }) => low,
            _ => at,
        }
    }
}

impl Lag {
    /// Compares the group's offsets with where the partitions begin and end. In a partition without a commit, the group
    /// will begin at the oldest event, and its progress is counted from `base`.
    pub(super) fn of(bounds: &Span, known: Known<'_>) -> Lag {
        let mut lag = Lag::default();
        for (partition, end) in bounds.to.iter() {
            let low = bounds.from.get(partition).unwrap_or(0);
            let committed = known.committed.get(partition);
            let at = continues_at(partition, committed, known.stored, low);
            // Where it continues once somebody has told it to.
            let at = known.next(partition, at).min(end).max(low);
            lag.produced = lag.produced.saturating_add(end);
            // Not the clamped one: what is deleted was not read, so it is no progress.
            let progress = committed.or(known.base.get(partition)).unwrap_or(low);
            lag.committed = lag.committed.saturating_add(progress);
            lag.partitions
                .push((partition, end.saturating_sub(at).max(0)));
            if at < end {
                lag.first.from.set(partition, at);
                lag.first.to.set(partition, at + 1);
            }
        }
        lag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Span {
        Span {
            from: Offsets::from([(0, 10), (1, 0), (2, 5)]),
            to: Offsets::from([(0, 30), (1, 7), (2, 5)]),
        }
    }

    fn lag(committed: &Offsets, stored: Option<&Offsets>, base: &Offsets) -> Lag {
        let known = Known {
            committed,
            stored,
            out_of_range: &[],
            base,
        };
        Lag::of(&bounds(), known)
    }

    #[test]
    fn a_group_is_behind_by_what_is_left_to_read() {
        let committed = Offsets::from([(0, 12), (2, 5)]);
        let lag = lag(&committed, None, &Offsets::default());
        assert_eq!(lag.partitions, [(0, 18), (1, 7), (2, 0)]);
        assert_eq!((lag.produced, lag.committed), (42, 17));
        let first: Vec<_> = lag.first.ranges().collect();
        assert_eq!(first, [(0, 12..13), (1, 0..1)]);
    }

    #[test]
    fn a_store_that_has_less_than_was_committed_is_behind() {
        let committed = Offsets::from([(0, 30), (1, 7), (2, 5)]);
        for (stored, partitions) in [
            (None, [(0, 0), (1, 0), (2, 0)]),
            (Some(&committed), [(0, 0), (1, 0), (2, 0)]),
            (
                Some(&Offsets::from([(0, 29), (1, 9), (2, 5)])),
                [(0, 1), (1, 0), (2, 0)],
            ),
            (
                Some(&Offsets::default()), // emptied: it begins with the oldest event
                [(0, 20), (1, 7), (2, 0)],
            ),
        ] {
            let lag = lag(&committed, stored, &Offsets::default());
            assert_eq!(lag.partitions, partitions, "{stored:?}");
            assert_eq!(lag.committed, 42);
        }
    }

    #[test]
    fn what_was_deleted_does_not_wait() {
        let committed = Offsets::from([(0, 3), (1, 2), (2, 9)]);
        let deleted = |partition, offset, low| OutOfRange {
            partition,
            offset,
            why: Why::Deleted { low },
        };
        let known = Known {
            committed: &committed,
            stored: None,
            out_of_range: &[deleted(0, 3, 10), deleted(1, 2, 6)],
            base: &Offsets::default(),
        };
        let lag = Lag::of(&bounds(), known);
        assert_eq!(lag.partitions, [(0, 20), (1, 1), (2, 0)]);
        let first: Vec<_> = lag.first.ranges().collect();
        assert_eq!(first, [(0, 10..11), (1, 6..7)]);
    }

    #[test]
    fn what_is_deleted_is_no_progress() {
        let base = Offsets::from([(0, 2), (1, 0), (2, 0)]);
        let none = Offsets::default();
        assert_eq!(lag(&none, None, &base).committed, 2);
        let behind = Offsets::from([(0, 3), (1, 1), (2, 1)]);
        assert_eq!(lag(&behind, None, &base).committed, 5);
    }
}
