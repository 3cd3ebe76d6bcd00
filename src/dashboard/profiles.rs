//! What is in the data: the stored figures of the last day that has some.

use jiff::civil::Date;
use serde_json::{Value, json};

use crate::dataset::{By, Dataset};
use crate::error::Result;
use crate::ports::aggregates::{Aggregates, Figure};

/// Values of a dimension that are shown, the most frequent ones.
const MOST: usize = 60;

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
            json!({
                "name": aggregate.name,
                "kind": kind(aggregate.by),
                "values": values(&figures, &aggregate.name),
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

/// The most frequent values of a dimension, in the order of the values.
fn values(figures: &[Figure], name: &str) -> Vec<(Option<String>, u64)> {
    let of_name = figures.iter().filter(|figure| figure.aggregate == name);
    let mut values: Vec<_> = of_name.map(|f| (f.value.clone(), f.count)).collect();
    values.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    values.truncate(MOST);
    values.sort();
    values
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
        let shown = values(&figures, "a");
        assert_eq!((shown.len(), &shown[0]), (MOST, &(None, 1_000)));
        assert_eq!(shown[1], (Some("041".into()), 41));
        assert_eq!(values(&figures, "b"), [(Some("007".into()), 7)]);
    }
}
