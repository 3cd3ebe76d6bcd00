//! The figures port: how many rows of a UTC day each value of a dimension has, counted and kept by the batch store.

use async_trait::async_trait;
use jiff::civil::Date;

use crate::dataset::{Aggregate, Dataset};
use crate::error::{Error, Result};

/// How many values a dimension may have on a day. A field with more is a key rather than a dimension.
pub const MAX_VALUES: u64 = 10_000;

/// Counts the rows of a day and keeps the figures.
///
/// The rows of a day are those whose event time is on that day in UTC: those of the dataset's history, if it keeps one that
/// has each row that the batch table has of that day, by its digest; otherwise those of the batch table, which has only the
/// newest row of each key. So a history that was off for a while does not count with what it has missed; nor does one that
/// the dataset does not declare, or no longer. A dimension counts each of them once, in the group of its value; null is a
/// group of its own, and so is a value that does not fit its column's type ([`INVALID`]).
///
/// Guarantees: the rows are counted by the store, in one statement a dimension; the figures of a day are stored all at
/// once or not at all, and are of one state of the table; figures that are already stored are not touched, those that no
/// longer hold are replaced or removed; unless told to replace them, a day whose stored figures count more rows than the
/// table has now keeps its figures, because keys whose newest row is of a later day have left the table; figures of other
/// days, datasets and dimensions are left alone; a dimension with more than [`MAX_VALUES`] values is an error (`Invalid`)
/// that names it, and nothing of that day changes.
#[async_trait]
pub trait Aggregates: Send {
    /// Counts the rows of a day, and stores the figures on behalf of a run.
    async fn compute(&mut self, day: Date, fewer: Fewer, run_id: &str) -> Result<Computed>;

    /// The stored figures of a day, by dimension and value, null first.
    async fn read(&mut self, day: Date) -> Result<Vec<Figure>>;

    /// The last day that has figures.
    async fn last_day(&mut self) -> Result<Option<Date>>;

    /// The largest figures of one dimension on a day, at most this many: the largest first, and of equal ones in the order
    /// of their values, null first.
    async fn top(&mut self, day: Date, aggregate: &str, most: u32) -> Result<Top>;

    /// What tells whether the stored figures of a day have changed.
    async fn summary(&mut self, day: Date) -> Result<Summary>;
}

/// The largest figures of a dimension on a day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Top {
    /// Values and numbers of rows.
    pub values: Vec<(Option<String>, u64)>,
    /// Number of values, with those that are left out.
    pub distinct: u64,
    /// Number of rows with any of them.
    pub rows: u64,
}

/// The stored figures of a day, all dimensions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of figures.
    pub figures: u64,
    /// Sum of the figures.
    pub rows: u64,
    /// When the newest of them was stored, in milliseconds since 1970 UTC.
    pub computed_at: Option<i64>,
}

/// The group of the values that do not fit their column's type, which only a store without strict types can have.
pub const INVALID: &str = "(invalid)";

/// What to do if the stored figures of a day count more rows than there are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fewer {
    /// The stored figures stay.
    Keep,
    /// They are replaced.
    Replace,
}

/// What became of the figures of a day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Computed {
    /// The table whose rows were counted.
    pub table: String,
    /// Its rows of that day.
    pub rows: u64,
    /// Rows of the batch table of that day that the history lacks, so that it is not counted; 0 without a history.
    pub unrecorded: u64,
    /// Rows that the figures counted that were stored before; none if there were no figures.
    pub stored_rows: u64,
    /// Whether the stored figures stay because they count more rows; nothing else is counted then.
    pub is_kept: bool,
    /// Figures counted.
    pub figures: u64,
    /// Figures inserted or replaced.
    pub written: u64,
    /// Figures removed, because their value no longer occurs.
    pub removed: u64,
}

impl Computed {
    /// The rows of the batch table.
    pub(crate) fn of_table(table: String, rows: u64) -> Computed {
        Computed {
            table,
            rows,
            ..Computed::default()
        }
    }

    /// Takes the rows of the history instead, unless it lacks rows of the batch table: it was off when they were loaded,
    /// and then it may have older ones in their place. How many rows it has shows nothing.
    pub(crate) fn prefer(&mut self, history: String, rows: u64, unrecorded: u64) {
        self.unrecorded = unrecorded;
        if unrecorded == 0 && rows > 0 {
            (self.table, self.rows) = (history, rows);
        }
    }
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Name of the dimension.
    pub aggregate: String,
    /// The value, as text.
    pub value: Option<String>,
    /// Number of rows.
    pub count: u64,
    /// The run that stored it.
    pub run_id: String,
    /// When, in milliseconds since 1970 UTC.
    pub computed_at: i64,
}

/// The first moment of a day and of the day after it, in milliseconds since 1970 UTC.
pub(crate) fn bounds(day: Date) -> [i64; 2] {
    const DAY: i64 = 86_400_000;
    let days = i64::from((day - jiff::civil::date(1970, 1, 1)).get_days());
    [days * DAY, (days + 1) * DAY]
}

/// A day as a number, 20261124: the difference of two such numbers, divided by 10,000, is the number of full years.
pub(crate) fn number(day: Date) -> i64 {
    i64::from(day.year()) * 10_000 + i64::from(day.month()) * 100 + i64::from(day.day())
}

/// The names of the dimensions as a list in SQL; they are identifiers, so nothing needs to be escaped.
pub(crate) fn names(dataset: &Dataset) -> String {
    let names = dataset.aggregates.iter().map(|a| format!("'{}'", a.name));
    names.collect::<Vec<_>>().join(", ")
}

/// The error if a dimension has too many values.
pub(crate) fn too_many(aggregate: &Aggregate, day: Date) -> Error {
    Error::invalid(format!(
        "the aggregate {} has more than {MAX_VALUES} values on {day}, so it is not a dimension to count by; no figure of that day was changed",
        aggregate.name
    ))
    .hint("remove it from the dataset, or count by something coarser, such as by = \"domain\" or \"month\"")
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn a_day_has_its_bounds_and_ages_are_full_years() {
        assert_eq!(bounds(date(1970, 1, 2)), [86_400_000, 172_800_000]);
        assert_eq!(bounds(date(1969, 12, 31)), [-86_400_000, 0]);
        let age = |born: Date, day: Date| (number(day) - number(born)) / 10_000;
        for (born, day, years) in [
            (date(2000, 2, 29), date(2023, 2, 28), 22),
            (date(2000, 2, 29), date(2023, 3, 1), 23),
            (date(2000, 2, 29), date(2024, 2, 29), 24),
            (date(1999, 12, 31), date(2000, 1, 1), 0),
            (date(2000, 1, 1), date(2000, 1, 1), 0),
        ] {
            assert_eq!(age(born, day), years, "{born} {day}");
        }
    }
}
