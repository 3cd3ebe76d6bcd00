//! How far the group is behind in each partition, and which of its offsets are not in the topic any more.

use crate::ports::event_log::{Offsets, Span};
use crate::ports::monitor::OutOfRange;

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
    /// Offsets that the group cannot continue at.
    pub(super) out_of_range: Vec<OutOfRange>,
}

impl Lag {
    /// Compares what was committed with where the partitions begin and end. In a partition without a commit, the group
    /// will begin at the oldest event, and its progress is counted from `base`.
    pub(super) fn of(bounds: &Span, committed: &Offsets, base: &Offsets) -> Lag {
        let mut lag = Lag::default();
        for (partition, end) in bounds.to.iter() {
            let low = bounds.from.get(partition).unwrap_or(0);
            let known = committed.get(partition);
            let out = known.and_then(|at| OutOfRange::find(partition, at, low, end));
            lag.out_of_range.extend(out);
            // Where it continues once somebody has told it to.
            let at = known.unwrap_or(low).clamp(low, end);
            lag.produced += end;
            // Not the clamped one: what is deleted was not read, so it is no progress.
            lag.committed += known.or(base.get(partition)).unwrap_or(low);
            lag.partitions.push((partition, end - at));
            if at < end {
                lag.first.from.set(partition, at);
                lag.first.to.set(partition, at + 1);
            }
        }
        lag
    }
}

/// Whether some offset is beyond the end of its partition.
pub(super) fn is_beyond(committed: &Offsets, ends: &Offsets) -> bool {
    committed
        .iter()
        .any(|(partition, at)| ends.get(partition).is_some_and(|end| at > end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::monitor::Why;

    fn bounds() -> Span {
        Span {
            from: Offsets::from([(0, 10), (1, 0), (2, 5)]),
            to: Offsets::from([(0, 30), (1, 7), (2, 5)]),
        }
    }

    #[test]
    fn a_group_is_behind_by_what_is_left_to_read() {
        let committed = Offsets::from([(0, 12), (2, 5)]);
        let lag = Lag::of(&bounds(), &committed, &Offsets::default());
        assert_eq!(lag.partitions, [(0, 18), (1, 7), (2, 0)]);
        assert_eq!((lag.produced, lag.committed), (42, 17));
        let first: Vec<_> = lag.first.ranges().collect();
        assert_eq!(first, [(0, 12..13), (1, 0..1)]);
        assert_eq!(lag.out_of_range, []);
    }

    #[test]
    fn an_offset_that_is_not_in_the_topic_is_told() {
        let committed = Offsets::from([(0, 3), (1, 9), (2, 5)]);
        assert!(is_beyond(&committed, &bounds().to));
        let lag = Lag::of(&bounds(), &committed, &Offsets::default());
        assert_eq!(lag.partitions, [(0, 20), (1, 0), (2, 0)]);
        let found: Vec<_> = lag.out_of_range.iter().map(|o| (o.offset, o.why)).collect();
        assert_eq!(
            found,
            [(3, Why::Deleted { low: 10 }), (9, Why::Beyond { end: 7 })]
        );
    }

    #[test]
    fn what_is_deleted_is_no_progress() {
        let base = Offsets::from([(0, 2), (1, 0), (2, 0)]);
        let none = Offsets::default();
        assert_eq!(Lag::of(&bounds(), &none, &base).committed, 2);
        let behind = Offsets::from([(0, 3), (1, 1), (2, 1)]);
        assert_eq!(Lag::of(&bounds(), &behind, &base).committed, 5);
    }
}
