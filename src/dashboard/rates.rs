//! Rates: differences of what the log and the stores count themselves.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::log_eye::LogSeen;
use super::store_eyes::BatchSeen;
use crate::ports::sample_store::Sample;

/// The time over which the present rates are taken, in milliseconds.
const WINDOW_MS: i64 = 5_000;

/// The time over which loads count as present, in milliseconds.
const LOADS_MS: i64 = 60_000;

/// The log's counts at some moments, not older than the window, except for one.
#[derive(Debug, Default)]
pub(crate) struct Recent(VecDeque<Counts>);

#[derive(Clone, Copy, Debug)]
struct Counts {
    at: i64,
    produced: i64,
    committed: i64,
}

impl Recent {
    /// Adds what a look found.
    pub(crate) fn add(&mut self, seen: &LogSeen) {
        let now = Counts {
            at: seen.at,
            produced: seen.produced,
            committed: seen.committed,
        };
        if self.0.back().is_some_and(|last| last.at >= now.at) {
            return;
        }
        if self
            .0
            .back()
            .is_some_and(|last| last.produced > now.produced)
        {
            self.0.clear(); // another topic with the same name
        }
        self.0.push_back(now);
        while self
            .0
            .get(1)
            .is_some_and(|second| now.at - second.at >= WINDOW_MS)
        {
            self.0.pop_front();
        }
    }

    /// Events a second that were appended, and that were committed; none before two looks.
    pub(crate) fn rates(&self) -> [Option<f64>; 2] {
        let (Some(first), Some(last)) = (self.0.front(), self.0.back()) else {
            return [None, None];
        };
        let ms = last.at - first.at;
        [
            rate(Some(first.produced), Some(last.produced), ms),
            rate(Some(first.committed), Some(last.committed), ms),
        ]
    }
}

/// A difference by the second; none if the time has not passed or a count has begun again.
fn rate(before: Option<i64>, after: Option<i64>, ms: i64) -> Option<f64> {
    let grown = after?.checked_sub(before?).filter(|grown| *grown >= 0)?;
    (ms > 0).then(|| (grown as f64 * 1e6 / ms as f64).round() / 1e3)
}

/// Rows a second that loads had written when the store was last looked at; none if not even the last one is known.
pub(crate) fn load_rate(batch: &BatchSeen) -> Option<f64> {
    let begin = batch.at.saturating_sub(LOADS_MS);
    let from = begin.max(batch.loads_known_after().unwrap_or(begin));
    let ms = batch.at.saturating_sub(from);
    let recent = batch.loads.iter().filter(|load| load.loaded_at > from);
    // A record that somebody has damaged may have any number.
    let rows: f64 = recent.map(|load| load.written as f64).sum();
    (ms > 0).then(|| (rows * 1e6 / ms as f64).round() / 1e3)
}

/// Rows a second that loads have written in each step, which begins with a time of `times`; none where that is not known:
/// before the oldest load that is listed, and after the store was last looked at.
fn load_rates(batch: Option<&BatchSeen>, times: &[i64], step: i64) -> Vec<Option<f64>> {
    let Some(batch) = batch else {
        return vec![None; times.len()];
    };
    let after = batch.loads_known_after().unwrap_or(i64::MIN);
    let is_known = |begin: &i64| *begin > after && *begin <= batch.at;
    let mut rates: Vec<_> = times.iter().map(|t| is_known(t).then_some(0.0)).collect();
    let first = times.first().copied().unwrap_or(0);
    for record in &batch.loads {
        let place = record.loaded_at.saturating_sub(first).div_euclid(step);
        let place = usize::try_from(place).ok();
        if let Some(Some(rate)) = place.and_then(|i| rates.get_mut(i)) {
            *rate += record.written as f64 * 1e3 / step as f64;
        }
    }
    rates
}

/// Rates and lag at each of these steps, up to `now`.
pub(crate) fn series(
    samples: &[Sample],
    batch: Option<&BatchSeen>,
    from: i64,
    now: i64,
    step: i64,
) -> Value {
    let first = from.div_euclid(step);
    let steps = usize::try_from(now.div_euclid(step) - first + 1).unwrap_or(0);
    let place = |at: i64| {
        usize::try_from(at.div_euclid(step) - first)
            .ok()
            .filter(|i| *i < steps)
    };
    let none = || vec![Value::Null; steps];
    let [mut produce, mut stream, mut records, mut seconds] = [none(), none(), none(), none()];
    let mut before: Option<&Sample> = None;
    for sample in samples {
        if let Some(i) = place(sample.at) {
            if let Some(before) = before {
                let ms = sample.at - before.at;
                produce[i] = json!(rate(before.produced, sample.produced, ms));
                stream[i] = json!(rate(before.committed, sample.committed, ms));
            }
            records[i] = json!(sample.lag_records);
            seconds[i] = json!(sample.lag_ms.map(|ms| ms as f64 / 1e3));
        }
        before = Some(sample);
    }
    let times: Vec<i64> = (first..).take(steps).map(|n| n * step).collect();
    // What was loaded is known also from before the dashboard was started.
    let load = load_rates(batch, &times, step);
    json!({
        "t": times,
        "rates": {"produce": produce, "stream": stream, "load": load},
        "lag_records": records,
        "lag_seconds": seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::super::store_eyes::MOST;
    use super::*;
    use crate::ports::ledger::{LoadInfo, LoadRecord};

    fn load(loaded_at: i64, written: u64) -> LoadRecord {
        LoadRecord {
            info: LoadInfo::default(),
            mode: "upsert".into(),
            loaded_at,
            written,
        }
    }

    fn batch(at: i64, loads: Vec<LoadRecord>) -> BatchSeen {
        BatchSeen {
            at,
            loads,
            ..BatchSeen::default()
        }
    }

    fn seen(at: i64, produced: i64, committed: i64) -> LogSeen {
        LogSeen {
            at,
            produced,
            committed,
            ..LogSeen::default()
        }
    }

    #[test]
    fn present_rates_are_those_of_the_last_seconds() {
        let mut recent = Recent::default();
        recent.add(&seen(0, 0, 0));
        assert_eq!(recent.rates(), [None, None]);
        recent.add(&seen(1_000, 100, 50));
        assert_eq!(recent.rates(), [Some(100.0), Some(50.0)]);
        for second in 2..20 {
            recent.add(&seen(second * 1_000, 100, 50 + second * 7));
        }
        assert_eq!(recent.rates(), [Some(0.0), Some(7.0)]);
        recent.add(&seen(20_000, 3, 1)); // a topic that was recreated
        assert_eq!(recent.rates(), [None, None]);
    }

    #[test]
    fn a_series_has_a_place_for_every_step() {
        let sample = |at, produced, committed| Sample {
            at,
            produced: Some(produced),
            committed,
            lag_records: Some(3),
            lag_ms: Some(1_500),
        };
        let samples = [
            sample(1_000, 10, Some(0)),
            sample(11_000, 110, None),
            sample(41_000, 170, Some(8)), // after a gap
            sample(51_000, 5, Some(5)),   // of another topic
        ];
        let loads = vec![load(999_000, 7), load(15_000, 50), load(12_000, 50)];
        let batch = batch(45_000, loads);
        let series = series(&samples, Some(&batch), 0, 59_000, 10_000);
        assert_eq!(
            series["t"],
            json!([0, 10_000, 20_000, 30_000, 40_000, 50_000])
        );
        assert_eq!(
            series["rates"]["produce"],
            json!([null, 10.0, null, null, 2.0, null])
        );
        assert_eq!(
            series["rates"]["stream"],
            json!([null, null, null, null, null, null])
        );
        assert_eq!(
            series["rates"]["load"],
            json!([0.0, 10.0, 0.0, 0.0, 0.0, null])
        );
        assert_eq!(series["lag_records"], json!([3, 3, null, null, 3, 3]));
        assert_eq!(series["lag_seconds"][0], 1.5);
    }

    #[test]
    fn what_is_not_known_of_loads_is_no_zero() {
        let times: Vec<i64> = (0..6).map(|n| n * 10_000).collect();
        assert_eq!(load_rates(None, &times, 10_000), [None; 6]);
        // As many as are listed, one of them damaged: there may have been others before.
        let mut loads = vec![load(35_000, 20); MOST as usize - 2];
        loads.push(load(i64::MIN, 9));
        loads.push(load(12_000, 1));
        let mut batch = batch(40_000, loads);
        let rate = Some(f64::from(MOST - 2) * 2.0);
        let known = [None, None, Some(0.0), rate, Some(0.0), None];
        assert_eq!(load_rates(Some(&batch), &times, 10_000), known);
        // One fewer, so these are all.
        batch.loads.pop();
        let all = [Some(0.0), Some(0.0), Some(0.0), rate, Some(0.0), None];
        assert_eq!(load_rates(Some(&batch), &times, 10_000), all);
    }

    #[test]
    fn the_present_rate_of_loads_is_over_the_time_that_is_known() {
        let some = batch(
            70_000,
            vec![load(15_000, 50), load(12_000, 50), load(10_000, 7)],
        );
        assert_eq!(load_rate(&some), Some(1.667));
        let damaged = batch(70_000, vec![load(i64::MIN, 50), load(i64::MAX, 60)]);
        assert_eq!(load_rate(&damaged), Some(1.0));
        let huge = batch(70_000, vec![load(65_000, u64::MAX); 3]);
        assert!(load_rate(&huge).is_some_and(|rate| rate > 1e17));
        // One a tenth of a second: the list ends 20 s ago.
        let many = (0..i64::from(MOST))
            .map(|n| load(70_000 - n * 100, 10))
            .collect();
        let rate = load_rate(&batch(70_000, many)).unwrap();
        assert!((rate - 100.0).abs() < 1.0, "{rate}");
    }
}
