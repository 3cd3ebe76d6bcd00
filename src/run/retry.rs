//! Waiting for a dependency that is down.

use std::time::{Duration, Instant};

use rand::RngExt;

use crate::error::{Error, Result};
use crate::run::{Run, add};

/// First pause between two attempts; each further one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A dependency that recovers sooner, within two or three attempts, is not worth a warning.
const WARN_FROM: Duration = Duration::from_millis(400);

/// How a run handles outages.
#[derive(Clone, Debug)]
pub struct Retry {
    /// The run, which warns, counts retries, and may be told to stop.
    pub run: Run,
    /// The longest outage to wait for.
    pub max_outage: Duration,
}

impl Retry {
    /// Repeats `attempt` while it fails as unavailable, until the outage lasts longer than allowed or a stop ends
    /// the wait.
    pub async fn through_outage<T>(
        &self,
        mut attempt: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let mut outage = Outage::new(self);
        loop {
            match attempt().await {
                Err(error) => outage.wait(error).await?,
                done => return done,
            }
        }
    }
}

/// Trouble with a part of the work while the rest goes on, so that nobody waits for it: told once it lasts, and an error
/// once it lasts longer than an outage may.
#[derive(Debug, Default)]
pub struct Trouble(Option<Lasting>);

#[derive(Debug)]
struct Lasting {
    lasted: Duration,
    seen: Instant,
    is_told: bool,
}

impl Trouble {
    /// Takes what is known now: the trouble, or that there is none. The time between two calls counts only up to
    /// [`LONGEST_PAUSE`], because whoever does not look does not know whether it is over.
    pub fn look(&mut self, retry: &Retry, now: Option<Error>) -> Result<()> {
        let Some(error) = now else {
            self.0 = None;
            return Ok(());
        };
        let state = self.0.get_or_insert_with(|| Lasting {
            lasted: Duration::ZERO,
            seen: Instant::now(),
            is_told: false,
        });
        state.lasted += state.seen.elapsed().min(LONGEST_PAUSE);
        state.seen = Instant::now();
        if !error.is_retriable() {
            return Err(error);
        }
        if state.lasted >= retry.max_outage {
            return Err(gave_up(error, retry.max_outage));
        }
        if state.lasted >= WARN_FROM && !state.is_told {
            retry.run.warn(format!("{error}; waiting for it"));
            state.is_told = true;
        }
        Ok(())
    }
}

/// The pauses between attempts, with full jitter and never shorter than the dependency asked for.
#[derive(Debug)]
pub struct Outage<'a> {
    retry: &'a Retry,
    started: Instant,
    ceiling: Duration,
    warned: bool,
}

impl<'a> Outage<'a> {
    /// One that begins with the first attempt, now: for a task that is sent to another thread, where the
    /// compiler does not accept an `AsyncFnMut`.
    pub fn new(retry: &'a Retry) -> Self {
        Outage {
            retry,
            started: Instant::now(),
            ceiling: FIRST_PAUSE,
            warned: false,
        }
    }

    /// Waits until the next attempt is due. Returns the error if it cannot heal, if the outage lasts longer than
    /// allowed, or if a stop ends the wait.
    pub async fn wait(&mut self, error: Error) -> Result<()> {
        let Retry { run, max_outage } = self.retry;
        if !error.is_retriable() {
            return Err(error);
        }
        let asked = error.asked_pause().unwrap_or_default();
        let longest = self.ceiling.max(asked);
        let is_over = self.started.elapsed().saturating_add(longest) > *max_outage;
        if is_over || run.stop.requested().is_some() {
            return Err(gave_up(error, *max_outage));
        }
        if longest.max(self.started.elapsed()) >= WARN_FROM && !self.warned {
            run.warn(format!("{error}; waiting for it"));
            self.warned = true;
        }
        add(&run.counts.retries, 1);
        // Clients that failed together must not retry together.
        let jitter = rand::rng().random_range(Duration::ZERO..=self.ceiling);
        tokio::select! {
            () = tokio::time::sleep(asked + jitter) => {}
            _ = run.stop.wait() => return Err(error),
        }
        self.ceiling = (self.ceiling * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

fn gave_up(error: Error, max_outage: Duration) -> Error {
    if error.hint_text().is_some() {
        return error;
    }
    let hint = format!("--max-outage ({max_outage:?}) sets how long to wait for it");
    error.hint(hint)
}
