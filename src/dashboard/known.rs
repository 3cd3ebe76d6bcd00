//! What is known about a server: the last numbers stay while it is away.

use crate::error::{Error, Result};
use crate::ports::INIT_FIRST;

/// What was seen of a server, and whether it is there.
#[derive(Clone, Debug)]
pub(crate) struct Known<T> {
    /// What was last seen.
    pub(crate) seen: Option<T>,
    /// Whether the last look succeeded; none before the first.
    pub(crate) is_up: Option<bool>,
    /// Since when it is there, or away, in milliseconds since 1970 UTC.
    pub(crate) since: Option<i64>,
    /// Why the last look failed.
    pub(crate) message: Option<String>,
    /// Whether it failed because `rtp init` has not been run.
    is_bare: bool,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Known {
            seen: None,
            is_up: None,
            since: None,
            message: None,
            is_bare: false,
        }
    }
}

impl<T> Known<T> {
    /// Takes the outcome of a look.
    pub(crate) fn look(&mut self, outcome: Result<T>, now: i64) {
        let is_up = outcome.is_ok();
        if self.is_up != Some(is_up) {
            self.since = Some(now);
        }
        self.is_up = Some(is_up);
        let hint = outcome.as_ref().err().and_then(Error::hint_text);
        self.is_bare = hint == Some(INIT_FIRST);
        match outcome {
            Ok(seen) => (self.seen, self.message) = (Some(seen), None),
            Err(error) => self.message = Some(told(&error)),
        }
    }

    /// Whether it was there, or has not been looked at, at the last look.
    pub(crate) fn is_away(&self) -> bool {
        self.is_up == Some(false)
    }

    /// Whether it was never seen, because it lacks what `rtp init` makes.
    pub(crate) fn needs_init(&self) -> bool {
        self.is_bare && self.seen.is_none()
    }
}

fn told(error: &Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_made_is_told_apart_from_what_is_away() {
        let mut known = Known::<i32>::default();
        known.look(Err(Error::unavailable("gone")), 1);
        assert!(!known.needs_init());
        known.look(Err(Error::invalid("no table").hint(INIT_FIRST)), 2);
        assert!(known.needs_init());
        known.look(Ok(1), 3);
        assert!(!known.needs_init());
        known.look(Err(Error::invalid("no table").hint(INIT_FIRST)), 4);
        assert!(!known.needs_init(), "its last numbers are shown");
    }

    #[test]
    fn the_last_numbers_stay_while_a_server_is_away() {
        let mut known = Known::default();
        known.look(Ok(7), 1);
        known.look(Ok(8), 2);
        assert_eq!(
            (known.seen, known.is_up, known.since),
            (Some(8), Some(true), Some(1))
        );
        known.look(Err(Error::unavailable("gone")), 3);
        known.look(Err(Error::unavailable("still gone")), 4);
        assert_eq!(
            (known.seen, known.is_up, known.since),
            (Some(8), Some(false), Some(3))
        );
        assert_eq!(known.message.as_deref(), Some("still gone"));
        known.look(Ok(9), 5);
        assert_eq!(
            (known.seen, known.message, known.since),
            (Some(9), None, Some(5))
        );
    }
}
