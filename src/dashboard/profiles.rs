//! What is in the data: the stored figures of the last day that has some.

use jiff::civil::Date;
use serde_json::{Value, json};

use crate::dataset::{By, Dataset};
use crate::error::Result;
use crate::ports::aggregates::{Aggregates, Figure};

/// Values of a dimension that are shown, the most frequent ones.
const MOST: usize = 60;

/// The same for a dimension whose values are drawn along an axis, where one left out would look like one without rows.
const MOST_IN_A_ROW: usize = 2_000;

/// The figures of a day.
#[derive(Clone, Debug)]
pub(crate) struct Profiles {
    day: Date,
    /// When they were computed, in milliseconds since 1970 UTC.
    pub(crate) computed_at: Option<i64>,
    aggregates: Value,
}

impl Profiles {
    /// Reads the figures of the last day that has some.
    pub(crate) async fn read(
        figures: &mut dyn Aggregates,
        dataset: &Dataset,
    ) -> Result<Option<Profiles>> {
        let Some(day) = figures.last_day().await? else {
            return Ok(None);
        };
        let figures = figures.read(day).await?;
        let shown = dataset.aggregates.iter().map(|aggregate| {
            let (values, total) = values(&figures, &aggregate.name, most(aggregate.by));
            json!({
                "name": aggregate.name,
                "kind": kind(aggregate.by),
                "total": total,
                "values": values,
            })
        });
        Ok(Some(Profiles {
            day,
            computed_at: figures.iter().map(|figure| figure.computed_at).max(),
            aggregates: shown.collect(),
        }))
    }

    /// As the dashboard shows it.
    pub(crate) fn json(&self) -> Value {
        json!({"day": self.day.to_string(), "aggregates": self.aggregates, "live": null})
    }
}

/// The most frequent values of a dimension, in the order of the values, and the number of rows with any value.
fn values(figures: &[Figure], name: &str, most: usize) -> (Vec<(Option<String>, u64)>, u64) {
    let of_name = figures.iter().filter(|figure| figure.aggregate == name);
    let mut values: Vec<_> = of_name.map(|f| (f.value.clone(), f.count)).collect();
    let total = values.iter().map(|(_, count)| count).sum();
    values.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    values.truncate(most);
    values.sort();
    (values, total)
}

fn most(by: By) -> usize {
    match by {
        By::Value | By::Domain => MOST,
        By::Band { .. } | By::Month | By::Hour | By::Lateness => MOST_IN_A_ROW,
    }
}

fn kind(by: By) -> &'static str {
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
    use super::*;

    #[test]
    fn the_most_frequent_values_are_shown_in_order() {
        let figure = |aggregate: &str, value: Option<usize>, count| Figure {
            aggregate: aggregate.into(),
            value: value.map(|n| format!("{n:03}")),
            count,
            run_id: "run".into(),
            computed_at: 0,
        };
        let mut figures = vec![figure("a", None, 1_000), figure("b", Some(7), 7)];
        figures.extend((0..100).map(|n| figure("a", Some(n), n as u64)));
        let (shown, total) = values(&figures, "a", most(By::Value));
        assert_eq!((shown.len(), &shown[0]), (MOST, &(None, 1_000)));
        assert_eq!(
            (&shown[1], total),
            (&(Some("041".into()), 41), 1_000 + 4_950)
        );
        let all = values(&figures, "a", most(By::Month)).0;
        assert_eq!(all.len(), 101, "none is left out along an axis");
        let other = values(&figures, "b", most(By::Value));
        assert_eq!(other, (vec![(Some("007".into()), 7)], 7));
    }
}
