//! A micro-batch: events, and the rows and rejects made from them.

use std::time::Instant;

use crate::dataset::Dataset;
use crate::ports::event_log::{Epoch, Offsets, Polled, Span};
use crate::record::event::{Event, EventBatch, Headers};
use crate::record::reject::{Fault, Reject, Rule};
use crate::record::row::{Origin, Rows};
use crate::record::transform::Transform;

/// A micro-batch, read and transformed.
pub(super) struct Batch {
    pub(super) epoch: Epoch,
    pub(super) span: Span,
    /// Empty only at the requested end of the partitions that this member reads, when nothing follows a full
    /// micro-batch, and where a transaction left nothing to read.
    pub(super) events: EventBatch,
    /// Whether it is as large as allowed, so that more events are probably waiting.
    pub(super) is_full: bool,
    pub(super) rows: Rows,
    /// Index and reason of the bad events.
    pub(super) rejects: Vec<(usize, Reject)>,
    /// When its first event arrived.
    pub(super) begun: Instant,
    /// How far the latest timestamp in the log is ahead of our clock, in milliseconds.
    pub(super) ahead: i64,
}

impl Batch {
    /// An empty one, which reuses the memory of earlier rows.
    pub(super) fn new(mut rows: Rows) -> Self {
        rows.clear();
        Batch {
            epoch: Epoch::default(),
            span: Span::default(),
            events: EventBatch::default(),
            is_full: false,
            rows,
            rejects: Vec::new(),
            begun: Instant::now(),
            ahead: 0,
        }
    }

    /// Adds the result of a poll. Whatever was read before the reader was reset is void.
    pub(super) fn add(&mut self, polled: Polled, dataset: &Dataset) {
        if polled.epoch != self.epoch {
            self.events = EventBatch::default();
            self.span = Span::default();
            self.rejects.clear();
            self.rows.clear();
            self.epoch = polled.epoch;
        }
        if self.events.is_empty() {
            self.begun = Instant::now();
        }
        self.span.extend(&polled.span);
        let known = self.events.len();
        match known {
            0 => self.events = polled.events,
            _ => polled.events.iter().for_each(|e| self.events.push(e)),
        }
        self.transform(known, dataset);
    }

    /// Makes rows from the good events, starting at this one.
    fn transform(&mut self, first: usize, dataset: &Dataset) {
        let now = crate::time::now_ms();
        let mut transform = Transform::new(dataset, now);
        let mut good_headers: &[u8] = &[];
        for (i, event) in (first..).zip(self.events.iter_from(first)) {
            let origin = Origin {
                partition: event.partition,
                offset: event.offset,
            };
            transform.logged_at(Some(event.timestamp));
            self.ahead = self.ahead.max(event.timestamp.saturating_sub(now));
            let is_same = std::ptr::eq(event.headers, good_headers);
            let read = match event.value {
                _ if !is_same && !Headers::are_text(event.headers) => Err(Reject {
                    field: None,
                    fault: Fault::new(Rule::InvalidUtf8, "a header name is not valid UTF-8"),
                }),
                Some(value) => transform.event(value, origin, &mut self.rows),
                None => Err(Reject::whole(Rule::Tombstone, "the event has no value")),
            };
            match read {
                Ok(_) => good_headers = event.headers,
                Err(reject) => self.rejects.push((i, reject)),
            }
        }
    }

    /// Whether it advances nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.span.is_empty()
    }

    /// Whether nothing is left to read in the partitions of this member, which may have none.
    pub(super) fn is_at(&self, end: &Offsets) -> bool {
        self.span.to.have_reached(end)
    }

    /// The bad events, each with its reason.
    pub(super) fn rejected(&self) -> impl Iterator<Item = (Event<'_>, &Reject)> {
        let mut rejects = self.rejects.iter().peekable();
        self.events
            .iter()
            .enumerate()
            .filter_map(move |(i, event)| {
                let (_, reject) = rejects.next_if(|(bad, _)| *bad == i)?;
                Some((event, reject))
            })
    }
}

/// What was read, to be counted once it is durable.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub(super) read: u64,
    pub(super) bytes: u64,
    pub(super) rejected: u64,
}

impl Counted {
    pub(super) fn of(batch: &Batch) -> Self {
        Counted {
            read: batch.events.len() as u64,
            bytes: batch.events.size() as u64,
            rejected: batch.rejects.len() as u64,
        }
    }

    pub(super) fn add(&mut self, more: Counted) {
        self.read += more.read;
        self.bytes += more.bytes;
        self.rejected += more.rejected;
    }
}
