//! Some of the events that a group has not committed.

use std::ops::ControlFlow;

use crate::dataset::Dataset;
use crate::error::Result;
use crate::intake::dead_letter::DeadLetters;
use crate::ports::event_log::{Offsets, Span};
use crate::ports::log_reader::EventVisitor;
use crate::record::event::Event;
use crate::record::value::Value;
use crate::verify::Witnesses;
use crate::verify::base::LogBase;

/// Events at each end of a partition.
const SAMPLE: i64 = 64;

/// Events of all partitions.
const MOST: usize = 4_096;

/// The keys of the first and of the last events that the group has not committed, of each partition.
pub(in crate::verify) async fn waiting_keys(
    witnesses: &Witnesses,
    dataset: &Dataset,
    base: &LogBase,
) -> Result<Vec<Value<'static>>> {
    let mut log = witnesses.event_log.reader(&dataset.event.topic).await?;
    let mut sample = Sample {
        letters: DeadLetters::of(dataset),
        keys: Vec::new(),
    };
    let unread = base.unread();
    let waiting = |at: &dyn Fn(i64, i64) -> [i64; 2]| {
        let ends = unread.iter().filter_map(|(partition, from)| {
            let to = base.bounds.to.get(partition).filter(|to| *to > from)?;
            Some((partition, at(from, to)))
        });
        let ends: Vec<(i32, [i64; 2])> = ends.collect();
        let side = |side: usize| -> Offsets { ends.iter().map(|(p, at)| (*p, at[side])).collect() };
        Span {
            from: side(0),
            to: side(1),
        }
    };
    let first = waiting(&|from, to| [from, to.min(from + SAMPLE)]);
    let last = waiting(&|from, to| [from.max(to - SAMPLE), to]);
    for span in [first, last] {
        log.read(&span, &mut sample).await?;
    }
    Ok(sample.keys)
}

struct Sample {
    letters: DeadLetters,
    keys: Vec<Value<'static>>,
}

impl EventVisitor for Sample {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        self.keys
            .extend(event.value.and_then(|record| self.letters.key_in(record)));
        match self.keys.len() < MOST {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}
