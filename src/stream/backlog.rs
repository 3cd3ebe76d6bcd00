//! Micro-batches whose rows the store has set aside: what is to be done for all of them at once.

use std::time::Instant;

use super::batch::{Batch, Counted};
use crate::ports::event_log::Span;
use crate::record::event::EventBatch;
use crate::run::rejected::Groups;

/// Maximum number of rows set aside: enough for random keys to share the pages of an index.
const MAX_BACKLOG_ROWS: u64 = 250_000;

/// Maximum bytes of dead letters kept with them.
const MAX_LETTER_BYTES: usize = 4 << 20;

/// Dead letters to be sent, and what the run says about them once they are.
#[derive(Debug, Default)]
pub(super) struct Letters {
    pub(super) events: EventBatch,
    pub(super) groups: Groups,
}

#[derive(Debug, Default)]
pub(super) struct PendingBacklog {
    /// When the first of them was read.
    pub(super) begun: Option<Instant>,
    pub(super) span: Span,
    pub(super) letters: Letters,
    pub(super) counted: Counted,
}

impl PendingBacklog {
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_none()
    }

    pub(super) fn has_room(&self) -> bool {
        self.counted.read < MAX_BACKLOG_ROWS && self.letters.events.size() < MAX_LETTER_BYTES
    }

    /// Adds a batch whose rows are set aside.
    pub(super) fn add(&mut self, batch: &Batch) {
        self.begun.get_or_insert(batch.begun);
        self.span.extend(&batch.span);
        self.counted.add(Counted::of(batch));
    }
}
