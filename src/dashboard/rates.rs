//! Rates: differences of what the log and the stores count themselves.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::log_eye::LogSeen;
use crate::ports::ledger::LoadRecord;
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

/// Rows a second that loads have written lately.
pub(crate) fn load_rate(loads: &[LoadRecord], now: i64) -> f64 {
    let recent = loads.iter().filter(|load| now - load.loaded_at < LOADS_MS);
    let rows: u64 = recent.map(|load| load.written).sum();
    (rows as f64 * 1e6 / LOADS_MS as f64).round() / 1e3
}

/// Rates and lag at each of these steps, up to `now`.
pub(crate) fn series(
    samples: &[Sample],
    loads: &[LoadRecord],
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
    // What was loaded is known also from before the dashboard was started.
    let mut load = vec![0.0; steps];
    for record in loads {
        if let Some(i) = place(record.loaded_at) {
            load[i] += record.written as f64 * 1e3 / step as f64;
        }
    }
    let times: Vec<i64> = (first..).take(steps).map(|n| n * step).collect();
    json!({
        "t": times,
        "rates": {"fetch": none(), "produce": produce, "stream": stream, "load": load},
        "lag_records": records,
        "lag_seconds": seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::ledger::LoadInfo;

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
        let load = |loaded_at, written| LoadRecord {
            info: LoadInfo::default(),
            mode: "upsert".into(),
            loaded_at,
            written,
        };
        let loads = [load(12_000, 50), load(15_000, 50), load(999_000, 7)];
        let series = series(&samples, &loads, 0, 59_000, 10_000);
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
            json!([0.0, 10.0, 0.0, 0.0, 0.0, 0.0])
        );
        assert_eq!(series["lag_records"], json!([3, 3, null, null, 3, 3]));
        assert_eq!(series["lag_seconds"][0], 1.5);
        assert_eq!(load_rate(&loads[..2], 70_000), 1.667);
    }
}
