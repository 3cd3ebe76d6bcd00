//! What is in the newest events: the same groups as those of the stored figures, counted over a bounded number of events.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use jiff::civil::{Date, date};
use serde_json::{Value as Json, json};

use super::profiles::{kind, most, sort};
use crate::dataset::{Aggregate, By, Dataset, LATENESS, UNBORN, VERY_LATE};
use crate::ports::aggregates::number;
use crate::record::value::Value;

/// Events that are kept.
const MOST: usize = 5_000;

/// The counts are shown anew this often; each time, every reader gets all of them.
const PACE: Duration = Duration::from_secs(5);

/// The group of a value; none is the group of those without a value.
type Group = Option<Arc<str>>;

/// The newest events, by dimension.
#[derive(Default)]
pub(crate) struct Live {
    /// When each one arrived, in milliseconds since 1970 UTC, and its group in each dimension.
    events: VecDeque<(i64, Vec<Group>)>,
    /// Number of events by group, for each dimension.
    counts: Vec<HashMap<Group, u64>>,
    is_changed: bool,
    shown: Option<(Instant, Arc<Json>)>,
}

impl Live {
    /// Adds an event by its arrival in the log, in milliseconds since 1970 UTC, and its values.
    pub(crate) fn add(&mut self, dataset: &Dataset, arrival: i64, values: &[Value<'_>]) {
        self.counts
            .resize_with(dataset.aggregates.len(), HashMap::new);
        if self.events.len() == MOST {
            self.forget_oldest();
        }
        let mut groups = Vec::with_capacity(dataset.aggregates.len());
        for (aggregate, counts) in dataset.aggregates.iter().zip(&mut self.counts) {
            let group = group(dataset, aggregate, values);
            // One text for all events of the group.
            let known = counts.get_key_value(&group).map(|(known, _)| known.clone());
            let group = known.unwrap_or(group);
            *counts.entry(group.clone()).or_default() += 1;
            groups.push(group);
        }
        self.events.push_back((arrival, groups));
        self.is_changed = true;
    }

    fn forget_oldest(&mut self) {
        let Some((_, groups)) = self.events.pop_front() else {
            return;
        };
        for (group, counts) in groups.iter().zip(&mut self.counts) {
            if let Some(count) = counts.get_mut(group) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(group);
                }
            }
        }
    }

    /// As the dashboard shows it; none without events or dimensions.
    pub(crate) fn json(&mut self, dataset: &Dataset) -> Option<Arc<Json>> {
        let is_due = |(shown, _): &(Instant, _)| shown.elapsed() >= PACE;
        if self.is_changed && self.shown.as_ref().is_none_or(is_due) {
            self.shown = Some((Instant::now(), Arc::new(self.count(dataset))));
            self.is_changed = false;
        }
        let (_, json) = self.shown.as_ref()?;
        (!dataset.aggregates.is_empty()).then(|| Arc::clone(json))
    }

    fn count(&self, dataset: &Dataset) -> Json {
        let shown = dataset.aggregates.iter().zip(&self.counts);
        let aggregates = shown.map(|(aggregate, counts)| {
            let mut values: Vec<(Option<&str>, u64)> = counts
                .iter()
                .map(|(group, n)| (group.as_deref(), *n))
                .collect();
            values.sort_by_key(|(group, count)| (std::cmp::Reverse(*count), *group));
            values.truncate(most(aggregate.by) as usize);
            sort(aggregate.by, &mut values);
            json!({
                "name": aggregate.name,
                "kind": kind(aggregate.by),
                "total": self.events.len(),
                "distinct": counts.len(),
                "values": values,
            })
        });
        json!({
            "since": self.events.iter().map(|(arrival, _)| *arrival).min(),
            "events": self.events.len(),
            "aggregates": aggregates.collect::<Vec<_>>(),
        })
    }
}

/// The group of an event in a dimension, as the stores count it; ages are those on the day of the event.
fn group(dataset: &Dataset, aggregate: &Aggregate, values: &[Value<'_>]) -> Option<Arc<str>> {
    let value = &values[aggregate.field];
    let Value::Timestamp(event_time) = values[dataset.event.time] else {
        return None;
    };
    let text = match (aggregate.by, value) {
        (_, Value::Null) => return None,
        (By::Value, Value::Text(text)) => return Some(Arc::from(&**text)),
        (By::Value, Value::Int(n)) => n.to_string(),
        (By::Value, Value::Boolean(is)) => is.to_string(),
        (By::Value, value) => day(value)?.to_string(),
        (By::Band { width }, value) => band(
            day(value)?,
            day(&Value::Timestamp(event_time))?,
            width.into(),
        ),
        (By::Domain, Value::Text(text)) => {
            let (_, domain) = text.rsplit_once('@')?;
            domain.to_ascii_lowercase()
        }
        (By::Month, value) => day(value)?.strftime("%Y-%m").to_string(),
        (By::Hour, Value::Timestamp(ms)) => {
            format!("{:02}", ms.rem_euclid(86_400_000) / 3_600_000)
        }
        (By::Lateness, Value::Timestamp(ms)) => lateness(ms.saturating_sub(event_time)).into(),
        // The declaration allows no other fields.
        (By::Domain | By::Hour | By::Lateness, _) => return None,
    };
    Some(text.into())
}

/// The day of a timestamp or a date, in UTC.
fn day(value: &Value<'_>) -> Option<Date> {
    const DAY_MS: i64 = 86_400_000;
    let ms = match value {
        Value::Timestamp(ms) => *ms,
        Value::Date(days) => i64::from(*days) * DAY_MS,
        _ => return None,
    };
    let epoch = date(1970, 1, 1).at(0, 0, 0, 0);
    let time = epoch.checked_add(SignedDuration::from_millis(ms)).ok()?;
    Some(time.date())
}

/// Full years from one day to another, in bands.
fn band(born: Date, day: Date, width: i64) -> String {
    if born > day {
        return UNBORN.into();
    }
    let low = (number(day) - number(born)) / 10_000 / width * width;
    match width {
        1 => low.to_string(),
        _ => format!("{low}-{}", low + width - 1),
    }
}

fn lateness(ms: i64) -> &'static str {
    let bucket = LATENESS.iter().find(|(below, _)| ms < *below);
    bucket.map_or(VERY_LATE, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::transform::Transform;

    const NOW: i64 = 1_795_500_000_000; // 2026-11-24T06:00:00Z

    fn event(n: u64, more: &str) -> String {
        format!(
            r#"{{"id":"00000000-0000-4000-8000-{n:012}","fetched_at":"2026-11-24T05:59:00Z"{more}}}"#
        )
    }

    fn add(live: &mut Live, dataset: &Dataset, arrival: i64, event: &str) {
        let mut values = Vec::new();
        let transform = Transform::new(dataset, NOW);
        transform.read(event.as_bytes(), &mut values).unwrap();
        live.add(dataset, arrival, &values);
    }

    fn values(json: &Json, name: &str) -> Json {
        let mut aggregates = json["aggregates"].as_array().unwrap().iter();
        let found = aggregates.find(|aggregate| aggregate["name"] == name);
        found.unwrap()["values"].clone()
    }

    #[test]
    fn events_are_counted_by_the_groups_of_the_dataset() {
        let dataset = Dataset::load(None).unwrap();
        let mut live = Live::default();
        assert!(live.json(&dataset).is_none());
        for (n, more) in [
            (
                1,
                r#","email":"a@b@X.Example","dob":"2000-11-25T00:00:00Z","gender":"f""#,
            ),
            (
                2,
                r#","email":"c@x.example","dob":"1996-11-24T00:00:00Z","registered_date":"2020-02-29T23:59:59.999Z""#,
            ),
            (3, r#","email":"nobody","dob":"2026-11-25T00:00:00Z""#),
        ] {
            add(&mut live, &dataset, NOW + n, &event(n.unsigned_abs(), more));
        }
        let json = live.json(&dataset).unwrap();
        assert_eq!(
            (&json["since"], &json["events"]),
            (&json!(NOW + 1), &json!(3))
        );
        assert_eq!(
            values(&json, "email_domain"),
            json!([[null, 1], ["x.example", 2]])
        );
        let ages = json!([["under 0", 1], ["20-29", 1], ["30-39", 1]]);
        assert_eq!(values(&json, "age_band"), ages);
        assert_eq!(values(&json, "gender"), json!([[null, 2], ["f", 1]]));
        assert_eq!(
            values(&json, "registrations_by_month"),
            json!([[null, 2], ["2020-02", 1]])
        );
        assert_eq!(values(&json, "events_by_hour"), json!([["05", 3]]));
    }

    #[test]
    fn only_the_newest_events_count_and_not_each_one_makes_new_counts() {
        let dataset = Dataset::load(None).unwrap();
        let mut live = Live::default();
        let many = i64::try_from(MOST).unwrap();
        for n in 0..many + 10 {
            let more = format!(r#","email":"a@d{}","gender":"f""#, n % 20 / 10);
            add(&mut live, &dataset, n, &event(n.unsigned_abs(), &more));
        }
        let json = live.json(&dataset).unwrap();
        assert_eq!(
            (&json["since"], &json["events"]),
            (&json!(10), &json!(MOST))
        );
        assert_eq!(values(&json, "gender"), json!([["f", MOST]]));
        let half = MOST / 2;
        assert_eq!(
            values(&json, "email_domain"),
            json!([["d0", half], ["d1", half]])
        );
        add(&mut live, &dataset, many, &event(0, ""));
        assert!(
            Arc::ptr_eq(&json, &live.json(&dataset).unwrap()),
            "too early"
        );
        live.shown = live.shown.map(|(at, json)| (at - PACE, json));
        let later = live.json(&dataset).unwrap();
        assert_eq!(
            values(&later, "gender"),
            json!([[null, 1], ["f", MOST - 1]])
        );
        assert_eq!(
            live.counts[0].len(),
            1,
            "groups without events are forgotten"
        );
    }

    #[test]
    fn lateness_has_its_buckets() {
        for (ms, bucket) in [
            (-1, "early"),
            (0, "under 1s"),
            (999, "under 1s"),
            (1_000, "under 1m"),
            (86_399_999, "under 1d"),
            (86_400_000, "1d or more"),
        ] {
            assert_eq!(lateness(ms), bucket, "{ms}");
        }
    }
}
