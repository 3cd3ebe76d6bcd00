//! Whether the clock of this machine is right, as far as the event log shows.

use std::time::Duration;

use super::Run;

/// The clocks of two machines always differ a little.
const TOLERATED: Duration = Duration::from_secs(60);

/// Warns once in a run that our clock is behind that of the event log.
#[derive(Debug, Default)]
pub struct ClockWatch {
    has_warned: bool,
}

impl ClockWatch {
    /// Looks at how far an event's timestamp in the log is ahead of our clock, in milliseconds.
    pub fn look(&mut self, run: &Run, ahead: i64) {
        let ahead = Duration::from_millis(ahead.max(0).unsigned_abs());
        if ahead <= TOLERATED || self.has_warned {
            return;
        }
        self.has_warned = true;
        let seconds = Duration::from_secs(ahead.as_secs());
        run.warn(format!(
            "the clock of this machine is {seconds:?} behind the event log; an event is rejected as future only if its event time is more than an hour after its timestamp in the log"
        ));
    }
}
