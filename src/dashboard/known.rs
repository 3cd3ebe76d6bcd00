//! What is known about a server: the last numbers stay while it is away.

use crate::error::{Error, Result};

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
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Known {
            seen: None,
            is_up: None,
            since: None,
            message: None,
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
        match outcome {
            Ok(seen) => (self.seen, self.message) = (Some(seen), None),
            Err(error) => self.message = Some(told(&error)),
        }
    }

    /// Whether it was there, or has not been looked at, at the last look.
    pub(crate) fn is_away(&self) -> bool {
        self.is_up == Some(false)
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
