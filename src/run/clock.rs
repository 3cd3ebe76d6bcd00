//! Whether the clock that events are judged by is right, as far as the event log shows.

use std::time::Duration;

use super::Run;

/// The clocks of two machines always differ a little.
const TOLERATED: Duration = Duration::from_secs(60);

/// Warns once in a run that our clock is behind that of the event log.
#[derive(Debug)]
pub struct ClockWatch {
    /// What people call our clock.
    clock: &'static str,
    has_warned: bool,
}

impl ClockWatch {
    /// Of the clock of this machine, or of an option that takes its place.
    pub fn new(option: Option<&'static str>) -> Self {
        ClockWatch {
            clock: option.unwrap_or("the clock of this machine"),
            has_warned: false,
        }
    }

    /// Looks at how far an event's timestamp in the log is ahead of our clock, in milliseconds.
    pub fn look(&mut self, run: &Run, ahead: i64) {
        let ahead = Duration::from_millis(ahead.max(0).unsigned_abs());
        if ahead <= TOLERATED || self.has_warned {
            return;
        }
        self.has_warned = true;
        let (clock, seconds) = (self.clock, Duration::from_secs(ahead.as_secs()));
        run.warn(format!(
            "{clock} is {seconds:?} behind the event log, or that of a producer is ahead; an event is rejected as future only if its event time is more than an hour after its timestamp in the log"
        ));
    }
}
