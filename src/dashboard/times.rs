//! How event times are distributed among the newest events, and how late they arrived.

use std::collections::VecDeque;

use serde_json::{Value, json};

/// Events that are kept.
const MOST: usize = 5_000;

/// Parts of the range of event times.
const PARTS: i64 = 24;

/// Borders between the parts of the lateness, in seconds. One part more is below the first one, of the events that arrived
/// before their time, and one above the last.
const LATENESS: [f64; 17] = [
    0.0,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    900.0,
    3_600.0,
    21_600.0,
    86_400.0,
    604_800.0,
    31_536_000.0,
];

/// The newest events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(VecDeque<(i64, i64)>);

impl Times {
    /// Adds an event by its arrival in the log and its event time, both in milliseconds since 1970 UTC.
    pub(crate) fn add(&mut self, arrival: i64, event_time: i64) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back((arrival, event_time));
    }

    /// As the dashboard shows it.
    pub(crate) fn json(&self) -> Value {
        let late = |(arrival, time): &(i64, i64)| arrival.saturating_sub(*time) as f64 / 1e3;
        let mut lateness: Vec<f64> = self.0.iter().map(late).collect();
        lateness.sort_by(f64::total_cmp);
        let (edges, counts) = self.parts();
        let borders: Vec<Option<f64>> = [None]
            .into_iter()
            .chain(LATENESS.map(Some))
            .chain([None])
            .collect();
        json!({
            "since": self.0.iter().map(|(arrival, _)| *arrival).min(),
            "histogram": {"edges": edges, "counts": counts},
            "lateness": {
                "edges": borders,
                "counts": by_lateness(&lateness),
                "p50": quantile(&lateness, 50),
                "p99": quantile(&lateness, 99),
            },
        })
    }

    /// Borders, and number of events between them.
    fn parts(&self) -> (Vec<i64>, Vec<u64>) {
        let times = || self.0.iter().map(|(_, time)| *time);
        let (Some(first), Some(last)) = (times().min(), times().max()) else {
            return (Vec::new(), Vec::new());
        };
        let width = (last.saturating_sub(first) / PARTS).saturating_add(1);
        let mut counts = vec![0; PARTS.try_into().unwrap_or(1)];
        for time in times() {
            let part = usize::try_from((time - first) / width).unwrap_or(0);
            counts[part] += 1;
        }
        let edges = (0..=PARTS).map(|part| first.saturating_add(part.saturating_mul(width)));
        (edges.collect(), counts)
    }
}

/// Numbers below the first border, between the borders, and above the last.
fn by_lateness(sorted: &[f64]) -> Vec<u64> {
    let mut counts = vec![0; LATENESS.len() + 1];
    for late in sorted {
        counts[LATENESS.partition_point(|edge| edge <= late)] += 1;
    }
    counts
}

/// The smallest value that so many percent do not exceed.
fn quantile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_in_one_part() {
        let mut times = Times::default();
        for n in 0..100 {
            // Event n is n seconds late, except for one from the future.
            times.add(
                1_000_000,
                1_000_000 - n * 1_000 + if n == 0 { 5_000 } else { 0 },
            );
        }
        let json = times.json();
        let sum = |counts: &Value| -> u64 {
            counts
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap())
                .sum()
        };
        assert_eq!(sum(&json["histogram"]["counts"]), 100);
        assert_eq!(json["histogram"]["edges"].as_array().unwrap().len(), 25);
        let lateness = &json["lateness"];
        assert_eq!(
            lateness["counts"].as_array().unwrap().len(),
            LATENESS.len() + 1
        );
        assert_eq!(
            lateness["edges"].as_array().unwrap().len(),
            LATENESS.len() + 2
        );
        assert_eq!(sum(&lateness["counts"]), 100);
        assert_eq!(
            (&lateness["p50"], &lateness["p99"]),
            (&json!(49.0), &json!(98.0))
        );
        assert_eq!(lateness["counts"][9], 30, "from 30 s to 60 s");
    }

    #[test]
    fn the_parts_at_both_ends_are_open() {
        let mut times = Times::default();
        const YEAR: i64 = 31_536_000_000;
        for late in [-5_000, -1, 0, 99, YEAR - 1, YEAR, 9 * YEAR] {
            times.add(10 * YEAR, 10 * YEAR - late);
        }
        let lateness = &times.json()["lateness"];
        let part = |index: usize| {
            let edges = &lateness["edges"];
            let range = [&edges[index], &edges[index + 1]].map(Value::as_f64);
            (range, lateness["counts"][index].as_u64().unwrap())
        };
        assert_eq!(part(0), ([None, Some(0.0)], 2), "early");
        assert_eq!(part(1), ([Some(0.0), Some(0.1)], 2));
        assert_eq!(part(16), ([Some(604_800.0), Some(31_536_000.0)], 1));
        assert_eq!(part(17), ([Some(31_536_000.0), None], 2));
        assert_eq!(times.json()["lateness"]["p50"], 0.099);
    }

    #[test]
    fn without_events_nothing_is_known() {
        let json = Times::default().json();
        assert!(json["since"].is_null() && json["lateness"]["p50"].is_null());
        assert_eq!(json["histogram"]["counts"], json!([]));
    }

    #[test]
    fn only_the_newest_events_are_kept() {
        let mut times = Times::default();
        for n in 0..i64::try_from(MOST).unwrap() + 10 {
            times.add(n, n);
        }
        assert_eq!(times.json()["since"], 10);
    }
}
