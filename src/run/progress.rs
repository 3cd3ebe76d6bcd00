//! What a command has done so far, on one line of the terminal that is redrawn.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::run::counts::{Counts, get, human_bytes};

/// Time between two redraws.
const TICK: Duration = Duration::from_millis(100);

/// The progress line; hidden until it is started.
#[derive(Clone, Debug)]
pub struct Progress(ProgressBar);

impl Default for Progress {
    fn default() -> Self {
        Progress(ProgressBar::hidden())
    }
}

impl Progress {
    /// Starts to draw the counts of a run on stderr.
    pub fn start(command: &'static str, counts: Arc<Counts>) -> Self {
        let bar = ProgressBar::new_spinner();
        let line = move |state: &ProgressState, out: &mut dyn Write| {
            let seconds = state.elapsed().as_secs_f64().max(1e-3);
            let read = get(&counts.read);
            let drawn = write!(
                out,
                "rtp {command}: {read} read, {} written, {} rejected, {}, {:.0} records/s",
                get(&counts.written),
                get(&counts.rejected),
                human_bytes(get(&counts.bytes)),
                read as f64 / seconds,
            );
            // If it cannot be drawn now, the next tick draws it.
            drawn.unwrap_or_default();
        };
        let style = ProgressStyle::with_template("{spinner} {counts}");
        bar.set_style(
            style
                .unwrap_or_else(|_| ProgressStyle::default_spinner())
                .with_key("counts", line),
        );
        bar.enable_steady_tick(TICK);
        Progress(bar)
    }

    /// Runs `print` with the line out of its way.
    pub fn suspend(&self, print: impl FnOnce()) {
        self.0.suspend(print);
    }

    /// Removes the line.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}
