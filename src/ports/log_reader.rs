//! Reading a topic from outside its groups: to find the events of a key, what is in flight, and the dead letters.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use async_trait::async_trait;

use crate::error::Result;
use crate::ports::event_log::{Offsets, Span};
use crate::ports::monitor::OutOfRange;
use crate::record::event::Event;

/// Reads one topic without being a member of a group.
///
/// Guarantees: nothing is written, and no group's offsets or members change; an event is lent as it is stored, byte for
/// byte, those of one partition in order; a missing topic is an error (`Invalid`).
#[async_trait]
pub trait LogReader: Send {
    /// Where each partition begins and ends now: the offset of its oldest event, and the one that the next event will
    /// get, or the first event of a transaction that is still open.
    async fn bounds(&mut self) -> Result<Span>;

    /// The topic's identity, as [`Consumer::identity`](crate::ports::event_log::Consumer::identity) tells it; none if the
    /// log does not tell it.
    async fn identity(&mut self) -> Result<Option<String>>;

    /// Those of these offsets from which a member of a group could not continue.
    async fn out_of_range(&mut self, offsets: &Offsets) -> Result<Vec<OutOfRange>>;

    /// What a group has committed; a partition without a commit has no offset.
    async fn committed(&mut self, group: &str) -> Result<Offsets>;

    /// The partitions that members of a group are reading now; none if the log does not tell.
    async fn followed(&mut self, _group: &str) -> Result<BTreeSet<i32>> {
        Ok(BTreeSet::new())
    }

    /// In each partition, the offset of the first event that was produced at this time or later, in milliseconds since
    /// 1970 UTC; the end if there is none.
    async fn at_time(&mut self, time: i64) -> Result<Offsets>;

    /// Lends the events in a span to the visitor. What was deleted from it in the meantime is left out.
    async fn read(&mut self, span: &Span, visitor: &mut dyn EventVisitor) -> Result<()>;
}

/// Takes the events of a topic, one at a time.
pub trait EventVisitor: Send {
    /// Whether events must be lent with their headers; if not, a log may leave them out, which takes less time.
    fn wants_headers(&self) -> bool {
        true
    }

    /// Takes an event; `Break` ends the reading early, without an error.
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()>;
}
