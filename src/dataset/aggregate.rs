//! By what the rows of a day are counted: the `[[aggregate]]` tables of a dataset file, and their check.

use std::collections::HashSet;

use toml::Spanned;

use super::checker::Checker;
use super::parse::RawAggregate;
use super::{Field, FieldType};
use crate::error::Result;

/// A dimension by which `rtp aggregate` counts the rows of a day.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// Its name in the table of figures.
    pub name: String,
    /// Index of the field that it looks at.
    pub field: usize,
    /// What it takes from the field's value.
    pub by: By,
}

/// What a dimension takes from a value. Null is always a group of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The value itself.
    Value,
    /// Full years from the value until the day whose rows are counted, in bands of this many years.
    Band {
        /// Years.
        width: u16,
    },
    /// What follows the last `@`, with A to Z in lower case; null without an `@`.
    Domain,
    /// Month, in UTC: `2026-11`.
    Month,
    /// Hour of the day, in UTC: `00` to `23`.
    Hour,
    /// Time from the event time until the value, in the buckets of [`LATENESS`].
    Lateness,
}

impl By {
    /// The names in a dataset file.
    const NAMES: [&'static str; 6] = ["value", "band", "domain", "month", "hour", "lateness"];

    /// The types of fields that it can look at.
    fn types(self) -> &'static [FieldType] {
        use FieldType as T;
        match self {
            By::Value => &[T::Text, T::Int, T::BigInt, T::Boolean, T::Date],
            By::Band { .. } | By::Month => &[T::Timestamp, T::Date],
            By::Domain => &[T::Text],
            By::Hour | By::Lateness => &[T::Timestamp],
        }
    }
}

/// The group of ages, and of lateness, below zero.
pub const UNBORN: &str = "under 0";
/// See [`UNBORN`].
pub const EARLY: &str = "early";

/// The buckets of lateness, each with the milliseconds that it stays below.
pub const LATENESS: [(i64, &str); 6] = [
    (0, EARLY),
    (1_000, "under 1s"),
    (60_000, "under 1m"),
    (600_000, "under 10m"),
    (3_600_000, "under 1h"),
    (86_400_000, "under 1d"),
];

/// The bucket above all others.
pub const VERY_LATE: &str = "1d or more";

impl Checker<'_> {
    pub(super) fn aggregates(
        &self,
        raw: &[Spanned<RawAggregate>],
        fields: &[Field],
        time: usize,
    ) -> Result<Vec<Aggregate>> {
        let mut names = HashSet::new();
        let mut aggregates = Vec::with_capacity(raw.len());
        for raw in raw {
            let aggregate = self.aggregate(raw, fields, time)?;
            if !names.insert(aggregate.name.to_ascii_lowercase()) {
                let message = format!("the aggregate `{}` is declared twice", aggregate.name);
                return Err(self.error(&raw.get_ref().name.span(), message));
            }
            aggregates.push(aggregate);
        }
        Ok(aggregates)
    }

    fn aggregate(
        &self,
        raw: &Spanned<RawAggregate>,
        fields: &[Field],
        time: usize,
    ) -> Result<Aggregate> {
        let (at, raw) = (raw.span(), raw.get_ref());
        let name = self.identifier(&raw.name, "the aggregate's name")?;
        let field = self.field(&raw.field, fields)?;
        let by = match &raw.by {
            None => "value",
            Some(by) => self.choice(by, "by", &By::NAMES.map(|name| (name, name)))?,
        };
        if by != "band"
            && let Some(width) = &raw.width
        {
            let message =
                format!("aggregate `{name}`: width applies only to by = \"band\", not \"{by}\"");
            return Err(self.error(&width.span(), message));
        }
        let by = match by {
            "band" if raw.width.is_none() => {
                let message = format!(
                    "aggregate `{name}`: by = \"band\" needs `width`, the number of years in a band"
                );
                return Err(self.error(&at, message));
            }
            "band" => By::Band {
                width: self.range(raw.width.as_ref(), "width", 1, 1000, 10)?,
            },
            "domain" => By::Domain,
            "month" => By::Month,
            "hour" => By::Hour,
            "lateness" => By::Lateness,
            _ => By::Value,
        };
        let kind = fields[field].kind;
        if !by.types().contains(&kind) {
            let expected: Vec<&str> = by.types().iter().map(|kind| kind.name()).collect();
            let message = format!(
                "aggregate `{name}`: the field `{}` has type {}; expected one of: {}",
                fields[field].name,
                kind.name(),
                expected.join(", ")
            );
            return Err(self.error(&raw.field.span(), message));
        }
        if by == By::Lateness && field == time {
            let message = format!(
                "aggregate `{name}`: `{}` is the event time itself; expected the timestamp at which a record arrived",
                fields[field].name
            );
            return Err(self.error(&raw.field.span(), message));
        }
        Ok(Aggregate { name, field, by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{BUILT_IN, Dataset};

    /// The built-in file with no aggregates but these, at its end.
    fn with(aggregates: &str) -> String {
        let parts = BUILT_IN.split_inclusive("\n\n");
        let others = parts.filter(|part| !part.starts_with("[[aggregate]]"));
        others.chain(["\n", aggregates]).collect()
    }

    #[test]
    fn the_built_in_dataset_declares_its_dimensions() {
        let dataset = Dataset::load(None).unwrap();
        let declared: Vec<(&str, &str, By)> = dataset
            .aggregates
            .iter()
            .map(|a| (&*a.name, &*dataset.fields[a.field].name, a.by))
            .collect();
        assert_eq!(
            declared,
            [
                ("nationality", "nationality", By::Value),
                ("gender", "gender", By::Value),
                ("age_band", "dob", By::Band { width: 10 }),
                ("email_domain", "email", By::Domain),
                ("registrations_by_month", "registered_date", By::Month),
                ("events_by_hour", "fetched_at", By::Hour),
            ]
        );
        let without = Dataset::parse(&with(""), "users.toml").unwrap();
        assert!(without.aggregates.is_empty());
    }

    #[test]
    fn errors_name_the_line_and_what_is_allowed() {
        // The lines of an aggregate, which of them is wrong (0 is its head), and the message.
        for (lines, wrong, message) in [
            (
                "name = \"a b\"\nfield = \"gender\"",
                1,
                "the aggregate's name `a b` is invalid",
            ),
            (
                "name = \"a\"\nfield = \"sex\"",
                2,
                "unknown field `sex`; expected one of: id, first_name",
            ),
            (
                "name = \"a\"\nfield = \"gender\"\nby = \"year\"",
                3,
                "unknown by `year`; expected one of: value, band, domain, month, hour, lateness",
            ),
            (
                "name = \"a\"\nfield = \"gender\"\nunit = 1",
                3,
                "unknown field `unit`, expected one of",
            ),
            (
                "name = \"a\"\nfield = \"dob\"",
                2,
                "aggregate `a`: the field `dob` has type timestamp; expected one of: text, int, bigint, boolean, date",
            ),
            (
                "name = \"a\"\nfield = \"gender\"\nby = \"band\"\nwidth = 10",
                2,
                "the field `gender` has type text; expected one of: timestamp, date",
            ),
            (
                "name = \"a\"\nfield = \"dob\"\nby = \"domain\"",
                2,
                "expected one of: text",
            ),
            (
                "name = \"a\"\nfield = \"email\"\nby = \"hour\"",
                2,
                "expected one of: timestamp",
            ),
            (
                "name = \"a\"\nfield = \"fetched_at\"\nby = \"lateness\"",
                2,
                "`fetched_at` is the event time itself; expected the timestamp at which a record arrived",
            ),
            (
                "name = \"a\"\nfield = \"dob\"\nby = \"band\"",
                0,
                "by = \"band\" needs `width`",
            ),
            (
                "name = \"a\"\nfield = \"dob\"\nby = \"band\"\nwidth = 0",
                4,
                "width must be 1 to 1000, got 0",
            ),
            (
                "name = \"a\"\nfield = \"gender\"\nwidth = 5",
                3,
                "width applies only to by = \"band\", not \"value\"",
            ),
            (
                "name = \"a\"\nfield = \"gender\"\n[[aggregate]]\nname = \"A\"\nfield = \"email\"",
                4,
                "the aggregate `A` is declared twice",
            ),
        ] {
            let text = with(&format!("[[aggregate]]\n{lines}\n"));
            let line = text.lines().count() - lines.lines().count() + wrong;
            let error = Dataset::parse(&text, "users.toml").unwrap_err().to_string();
            assert!(error.contains(message), "{lines}: {error}");
            let place = format!("users.toml:{line}: ");
            assert!(
                error.starts_with(&place),
                "{lines}: {error} is not at {place}"
            );
        }
    }
}
