//! Waiting before a request, so that the source's published limit and `--rps` are kept, by a sliding window: no
//! period of the limit's length ever exceeds the limit, so whatever fixed window the source counts in cannot
//! overflow.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::dataset::{Limit, LimitUnit};

/// Longest pause between two requests, which no clock overflows with.
const LONGEST_GAP: Duration = Duration::from_secs(365 * 86_400);

/// `--limit N/DURATION` or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitArg(pub Option<(u64, Duration)>);

impl FromStr for LimitArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(LimitArg(None));
        }
        let wrong = || format!("invalid limit `{text}`; expected for example 20000/300s, or none");
        let (count, per) = text.split_once('/').ok_or_else(wrong)?;
        let count = count.trim().parse().map_err(|_| wrong())?;
        let per = crate::time::parse_positive_duration(per)?;
        match count == 0 {
            true => Err(wrong()),
            false => Ok(LimitArg(Some((count, per)))),
        }
    }
}

impl LimitArg {
    /// The limit, in the same unit as the limit that the dataset declares.
    pub fn in_unit_of(self, declared: Option<Limit>) -> Option<Limit> {
        let unit = declared.map_or(LimitUnit::Records, |limit| limit.unit);
        self.0.map(|(count, per)| Limit { unit, count, per })
    }
}

/// At most `count` units in any period of length `per`, so that no fixed window that the source counts in can hold
/// more.
struct Window {
    count: u64,
    per: Duration,
    /// When units were taken, and how many; oldest first.
    taken: VecDeque<(Instant, u64)>,
    sum: u64,
}

impl Window {
    fn new(count: u64, per: Duration) -> Self {
        Window {
            count,
            per,
            taken: VecDeque::new(),
            sum: 0,
        }
    }

    /// Takes `units` now, or says how long to wait before asking again.
    fn take(&mut self, units: u64, now: Instant) -> Result<(), Duration> {
        while let Some((at, n)) = self.taken.front().copied() {
            if now.duration_since(at) < self.per {
                break;
            }
            self.sum -= n;
            self.taken.pop_front();
        }
        // A single request over the limit goes through on its own.
        if self.sum + units <= self.count || self.sum == 0 {
            self.sum += units;
            self.taken.push_back((now, units));
            return Ok(());
        }
        let oldest = self.taken.front().map_or(now, |(at, _)| *at);
        Err(self.per - now.duration_since(oldest))
    }
}

/// Lets requests through no faster than all limits allow.
pub struct Pace {
    windows: Mutex<Vec<(LimitUnit, Window)>>,
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pace")
    }
}

impl Pace {
    /// The source's limit, and at most `rps` requests per second.
    pub fn new(limit: Option<Limit>, rps: Option<f64>) -> Self {
        let limit = limit.map(|l| (l.unit, Window::new(l.count, l.per)));
        let rps = rps.map(|rps| {
            let gap = Duration::try_from_secs_f64(1.0 / rps)
                .unwrap_or(LONGEST_GAP)
                .min(LONGEST_GAP);
            (LimitUnit::Requests, Window::new(1, gap))
        });
        Pace {
            windows: Mutex::new(limit.into_iter().chain(rps).collect()),
        }
    }

    /// Waits until one request for `records` records may be made. Waiting requests go in order.
    pub async fn wait(&self, records: u64) {
        let mut windows = self.windows.lock().await;
        for (unit, window) in windows.iter_mut() {
            let units = match unit {
                LimitUnit::Records => records,
                LimitUnit::Requests => 1,
            };
            while let Err(pause) = window.take(units, Instant::now()) {
                tokio::time::sleep(pause).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_period_holds_more_than_the_limit() {
        let per = Duration::from_secs(300);
        let mut window = Window::new(1_000, per);
        let start = Instant::now();
        let mut now = start;
        let mut taken = Vec::new();
        for _ in 0..50 {
            while let Err(pause) = window.take(300, now) {
                assert!(!pause.is_zero());
                now += pause;
            }
            taken.push(now);
            now += Duration::from_secs(7);
        }
        for at in &taken {
            let inside = taken
                .iter()
                .filter(|t| **t >= *at && t.duration_since(*at) < per);
            assert!(inside.count() <= 3);
        }
        // Nor does it wait longer than it must: three requests in each period.
        assert!(now.duration_since(start) < per * 17);
    }

    #[test]
    fn a_request_over_the_limit_goes_alone() {
        let mut window = Window::new(10, Duration::from_secs(1));
        let now = Instant::now();
        assert_eq!(window.take(50, now), Ok(()));
        assert!(window.take(1, now).is_err());
    }

    #[test]
    fn limits_are_read_or_explained() {
        let limit = LimitArg(Some((20_000, Duration::from_secs(300))));
        assert_eq!("20000/300s".parse(), Ok(limit));
        assert_eq!("none".parse(), Ok(LimitArg(None)));
        for bad in ["", "0/1s", "5/0", "5", "x/1s", "5/x"] {
            assert!(bad.parse::<LimitArg>().is_err(), "{bad}");
        }
    }
}
