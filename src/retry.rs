//! Waiting for a dependency that is down.

use std::future::Future;
use std::time::{Duration, Instant};

use rand::RngExt;

use crate::error::{Error, Result};
use crate::run::{Run, add};

/// First and longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A dependency that comes back within two or three attempts is not worth a warning.
const WARN_FROM: Duration = Duration::from_millis(400);

/// `--max-outage`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct MaxOutage {
    /// How long to wait for a dependency that is down; 0 fails at once, or, if it only stops answering,
    /// as soon as that shows, after 10s [default: 5m, and no end for a following stream]
    #[arg(long, value_name = "DURATION", value_parser = crate::time::parse_duration)]
    max_outage: Option<Duration>,
}

impl MaxOutage {
    /// For a command that ends by itself.
    pub fn bounded(self) -> Duration {
        self.max_outage.unwrap_or(Duration::from_secs(300))
    }

    /// For a command that follows until it is told to stop.
    pub fn following(self) -> Duration {
        self.max_outage.unwrap_or(Duration::MAX)
    }
}

/// Repeats `attempt` while it fails as unavailable, with full jitter and never sooner than the
/// dependency asked for, up to `max_outage`. A stop ends the waiting with the error at hand.
pub async fn through_outage<T, F>(
    run: &Run,
    max_outage: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let started = Instant::now();
    let mut ceiling = PAUSES.0;
    let mut warned = false;
    loop {
        let error = match attempt().await {
            Err(error) if error.is_retriable() => error,
            other => return other,
        };
        let asked = error.asked_pause().unwrap_or_default();
        let longest = ceiling.max(asked);
        if started.elapsed().saturating_add(longest) > max_outage || run.stop.requested().is_some()
        {
            return Err(gave_up(error, max_outage));
        }
        if longest >= WARN_FROM && !warned {
            run.warn(format!("{error}; waiting for it"));
            warned = true;
        }
        add(&run.counts.retries, 1);
        // Those who were sent away together must not come back together.
        let jitter = rand::rng().random_range(Duration::ZERO..=ceiling);
        tokio::select! {
            () = tokio::time::sleep(asked + jitter) => {}
            _ = run.stop.wait() => return Err(error),
        }
        ceiling = (ceiling * 2).min(PAUSES.1);
    }
}

fn gave_up(error: Error, max_outage: Duration) -> Error {
    if error.hint_text().is_some() {
        return error;
    }
    let hint = format!("--max-outage ({max_outage:?}) says how long to wait for it");
    error.hint(hint)
}
