//! What is in the data: the stored figures of the last day that has some.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::civil::Date;
use serde_json::{Value, json};

use crate::dataset::{By, Dataset, LATENESS, UNBORN};
use crate::error::Result;
use crate::ports::aggregates::{Aggregates, Summary};

/// Values of a dimension that are shown, the most frequent ones.
const MOST: u32 = 60;

/// The same for a dimension whose values are drawn along an axis, where one left out would look like one without rows.
const MOST_IN_A_ROW: u32 = 2_000;

/// Looks for new figures are this far apart, because each looks at all figures of a day: at most 10,000 a dimension.
const PACE: Duration = Duration::from_secs(10);

/// The figures of a day.
#[derive(Clone, Debug)]
pub(crate) struct Profiles {
    day: Date,
    /// When they were computed, in milliseconds since 1970 UTC.
    pub(crate) computed_at: Option<i64>,
    aggregates: Value,
}

impl Profiles {
    /// Reads the largest figures of a day.
    async fn read(
        figures: &mut dyn Aggregates,
        dataset: &Dataset,
        day: Date,
        summary: Summary,
    ) -> Result<Profiles> {
        let mut aggregates = Vec::with_capacity(dataset.aggregates.len());
        for aggregate in &dataset.aggregates {
            let most = most(aggregate.by);
            let mut top = figures.top(day, &aggregate.name, most).await?;
            sort(aggregate.by, &mut top.values);
            aggregates.push(json!({
                "name": aggregate.name,
                "kind": kind(aggregate.by),
                "total": top.rows,
                "distinct": top.distinct,
                "values": top.values,
            }));
        }
        Ok(Profiles {
            day,
            computed_at: summary.computed_at,
            aggregates: aggregates.into(),
        })
    }

    /// As the dashboard shows it.
    pub(crate) fn json(&self) -> Value {
        json!({"day": self.day.to_string(), "aggregates": self.aggregates})
    }
}

/// Keeps the figures of the last day that has some, and reads them only if they have changed.
#[derive(Default)]
pub(crate) struct ProfileEye {
    known: Option<(Summary, Arc<Profiles>)>,
    looked: Option<Instant>,
}

impl ProfileEye {
    /// The figures; none if there are none.
    pub(crate) async fn look(
        &mut self,
        figures: &mut dyn Aggregates,
        dataset: &Dataset,
    ) -> Result<Option<Arc<Profiles>>> {
        let is_fresh = self.looked.is_some_and(|looked| looked.elapsed() < PACE);
        if let (true, Some((_, profiles))) = (is_fresh, &self.known) {
            return Ok(Some(Arc::clone(profiles)));
        }
        self.look_again(figures, dataset).await?;
        self.looked = Some(Instant::now());
        Ok(self
            .known
            .as_ref()
            .map(|(_, profiles)| Arc::clone(profiles)))
    }

    async fn look_again(&mut self, figures: &mut dyn Aggregates, dataset: &Dataset) -> Result<()> {
        let Some(day) = figures.last_day().await? else {
            self.known = None;
            return Ok(());
        };
        // Before the figures, so that those of a run in between are read the next time.
        let summary = figures.summary(day).await?;
        let is_known =
            |(known, profiles): &(Summary, Arc<Profiles>)| *known == summary && profiles.day == day;
        if !self.known.as_ref().is_some_and(is_known) {
            let profiles = Profiles::read(figures, dataset, day, summary).await?;
            self.known = Some((summary, Arc::new(profiles)));
        }
        Ok(())
    }
}

pub(super) fn most(by: By) -> u32 {
    match by {
        By::Value | By::Domain => MOST,
        By::Band { .. } | By::Month | By::Hour | By::Lateness => MOST_IN_A_ROW,
    }
}

/// Sorts groups with their counts as they stand along an axis, those without a value first, and others by their names.
pub(super) fn sort<T: AsRef<str> + Ord, N: Ord>(by: By, values: &mut [(Option<T>, N)]) {
    values.sort_by(|(a, n), (b, m)| {
        let [x, y] = [a, b].map(|group| group.as_ref().map(|group| place(by, group.as_ref())));
        (x, a, n).cmp(&(y, b, m))
    });
}

/// The place of a group along its axis.
fn place(by: By, group: &str) -> i64 {
    match by {
        By::Band { .. } if group == UNBORN => -1,
        By::Band { .. } => {
            let low = group.split('-').next().and_then(|low| low.parse().ok());
            low.unwrap_or(i64::MAX)
        }
        By::Lateness => {
            let known = LATENESS.iter().position(|(_, name)| *name == group);
            known.map_or(i64::MAX, |place| place as i64)
        }
        // The order of the names is that of the axis.
        By::Value | By::Domain | By::Month | By::Hour => 0,
    }
}

pub(super) fn kind(by: By) -> &'static str {
    match by {
        By::Value => "value",
        By::Band { .. } => "band",
        By::Domain => "domain",
        By::Month => "month",
        By::Hour => "hour",
        By::Lateness => "lateness",
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::ports::aggregates::{Computed, Fewer, Figure, Top};

    /// A store that counts how often its figures are read.
    struct Counting {
        summary: Summary,
        read: u32,
    }

    #[async_trait]
    impl Aggregates for Counting {
        async fn compute(&mut self, _: Date, _: Fewer, _: &str) -> Result<Computed> {
            unreachable!("the dashboard computes nothing")
        }

        async fn read(&mut self, _: Date) -> Result<Vec<Figure>> {
            unreachable!("the dashboard does not read all figures")
        }

        async fn last_day(&mut self) -> Result<Option<Date>> {
            Ok((self.summary.figures > 0).then_some(jiff::civil::date(2026, 11, 24)))
        }

        async fn top(&mut self, _: Date, _: &str, most: u32) -> Result<Top> {
            self.read += 1;
            let values = (0..most).map(|n| (Some(format!("{:04}", 9_999 - n)), 1));
            Ok(Top {
                values: values.collect(),
                distinct: 10_000,
                rows: 20_000,
            })
        }

        async fn summary(&mut self, _: Date) -> Result<Summary> {
            Ok(self.summary)
        }
    }

    #[test]
    fn groups_stand_along_an_axis_in_its_order() {
        for (by, expected) in [
            (
                By::Band { width: 5 },
                &[
                    "under 0", "0-4", "5-9", "10-14", "15-19", "95-99", "100-104",
                ][..],
            ),
            (By::Band { width: 1 }, &["under 0", "0", "9", "10", "100"]),
            (
                By::Lateness,
                &[
                    "early",
                    "under 1s",
                    "under 1m",
                    "under 10m",
                    "under 1h",
                    "under 1d",
                    "1d or more",
                ],
            ),
            (By::Hour, &["00", "09", "23"]),
            (By::Month, &["1999-12", "2020-01"]),
            (By::Value, &["10", "9", "a"]),
        ] {
            let mut values: Vec<_> = expected.iter().rev().map(|name| (Some(*name), 1)).collect();
            values.push((None, 1));
            sort(by, &mut values);
            let names: Vec<_> = values.iter().filter_map(|(name, _)| *name).collect();
            assert_eq!((values[0].0, &names[..]), (None, expected), "{by:?}");
        }
    }

    #[tokio::test]
    async fn figures_are_read_only_if_they_have_changed() {
        let dataset = Dataset::load(None).unwrap();
        let each_time = u32::try_from(dataset.aggregates.len()).unwrap();
        let mut store = Counting {
            summary: Summary::default(),
            read: 0,
        };
        let mut eye = ProfileEye::default();
        assert!(eye.look(&mut store, &dataset).await.unwrap().is_none());
        store.summary.figures = 9;
        store.summary.computed_at = Some(7);
        let profiles = eye.look(&mut store, &dataset).await.unwrap().unwrap();
        assert_eq!((store.read, profiles.computed_at), (each_time, Some(7)));
        for _ in 0..3 {
            eye.looked = None; // as if the time had passed
            eye.look(&mut store, &dataset).await.unwrap();
        }
        assert_eq!(store.read, each_time);
        store.summary.computed_at = Some(8);
        eye.look(&mut store, &dataset).await.unwrap();
        assert_eq!(store.read, each_time, "too early to look");
        eye.looked = None;
        let profiles = eye.look(&mut store, &dataset).await.unwrap().unwrap();
        assert_eq!((store.read, profiles.computed_at), (2 * each_time, Some(8)));
        store.summary.figures = 0;
        eye.looked = None;
        assert!(eye.look(&mut store, &dataset).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_largest_figures_are_shown_in_the_order_of_their_values() {
        let dataset = Dataset::load(None).unwrap();
        let mut store = Counting {
            summary: Summary {
                figures: 9,
                ..Summary::default()
            },
            read: 0,
        };
        let profiles = ProfileEye::default().look(&mut store, &dataset).await;
        let json = profiles.unwrap().unwrap().json();
        assert_eq!(json["day"], "2026-11-24");
        let shown = |name: &str| {
            let mut aggregates = json["aggregates"].as_array().unwrap().iter();
            aggregates.find(|shown| shown["name"] == name).unwrap()
        };
        let domains = shown("email_domain");
        assert_eq!(
            (&domains["total"], &domains["distinct"]),
            (&20_000.into(), &10_000.into())
        );
        let values = domains["values"].as_array().unwrap();
        assert_eq!(
            (values.len(), &values[0]),
            (MOST as usize, &json!(["9940", 1]))
        );
        let months = shown("registrations_by_month")["values"]
            .as_array()
            .unwrap();
        assert_eq!(
            months.len(),
            MOST_IN_A_ROW as usize,
            "none is left out along an axis"
        );
    }
}
