//! The figures of some days, one after the other: computed by the batch store, told, and written out.

mod output;

use std::path::Path;

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan, tz::TimeZone};

use self::output::Output;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::ports::aggregates::{Aggregates, Computed, Fewer};
use crate::run::add;
use crate::run::retry::Retry;

/// A day on the command line: a date, or a word for one that moves with the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Day {
    /// A date.
    On(Date),
    /// So many days before today.
    Ago(i32),
}

impl Day {
    /// Reads `2026-11-24`, `yesterday` or `today`.
    pub fn parse(text: &str) -> Result<Day, String> {
        match text {
            "today" => Ok(Day::Ago(0)),
            "yesterday" => Ok(Day::Ago(1)),
            other => {
                let date = other.parse::<Date>().ok();
                let date = date.filter(|day| other.len() == 10 && day.year() > 0);
                date.map(Day::On).ok_or_else(|| {
                    format!(
                        "invalid day `{other}`; expected for example 2026-11-24, yesterday or today"
                    )
                })
            }
        }
    }

    fn date(self, today: Date) -> Date {
        match self {
            Day::On(date) => date,
            Day::Ago(days) => today.saturating_sub(days.days()),
        }
    }
}

/// What to do.
#[derive(Debug)]
pub struct Figures<'a> {
    /// The dataset.
    pub dataset: &'a Dataset,
    /// The first day.
    pub from: Day,
    /// The last day; none means the first one.
    pub to: Option<Day>,
    /// What to do with a day that has fewer rows than its stored figures count.
    pub fewer: Fewer,
    /// Where to write the figures, `-` for standard output.
    pub output: Option<&'a Path>,
    /// Whether a day without rows makes the answer "no".
    pub require_records: bool,
    /// How outages of the store are handled.
    pub retry: Retry,
}

impl Figures<'_> {
    /// Computes the days in order, each in a transaction of its own.
    pub async fn run(&self, open: impl AsyncFn() -> Result<Box<dyn Aggregates>>) -> Result<Exit> {
        let run = &self.retry.run;
        let today = TimeZone::UTC.to_datetime(Timestamp::now()).date();
        let [first, last] = self.days(today)?;
        if self.dataset.aggregates.is_empty() {
            return Err(Error::invalid(format!(
                "the dataset {} declares no [[aggregate]], so there is nothing to count by",
                self.dataset.name
            )));
        }
        let mut output = self.output.map(Output::create).transpose()?;
        let mut store = self.retry.through_outage(&open).await?;
        let mut has_all = true;
        for day in first.series(1.day()).take_while(|day| *day <= last) {
            if let Some(signal) = run.stop.requested() {
                run.info(format!(
                    "stopped before {day}; the days before it are complete"
                ));
                self.tell_unwritten(output.as_ref());
                return Ok(signal.exit());
            }
            let computed = self.day(day, &mut *store, output.as_mut()).await;
            let rows = computed.inspect_err(|_| {
                self.tell_end(first, day, last);
                self.tell_unwritten(output.as_ref());
            })?;
            has_all &= rows > 0;
            if day == today && rows > 0 {
                run.info(format!(
                    "{day} is not over yet in UTC, so its figures may still change"
                ));
            }
        }
        if let Some(output) = output {
            output.finish()?;
        }
        Ok(Exit::verdict(has_all || !self.require_records))
    }

    /// Computes one day; the number of its rows.
    async fn day(
        &self,
        day: Date,
        store: &mut dyn Aggregates,
        output: Option<&mut Output>,
    ) -> Result<u64> {
        let run = &self.retry.run;
        let computed = self
            .retry
            .through_outage(async || store.compute(day, self.fewer, &run.id).await)
            .await?;
        add(&run.counts.read, computed.figures);
        add(&run.counts.written, computed.written);
        add(&run.counts.skipped, computed.figures - computed.written);
        self.tell(day, &computed);
        if let Some(output) = output {
            let figures = self
                .retry
                .through_outage(async || store.read(day).await)
                .await?;
            output.write(self.dataset, day, &figures)?;
        }
        Ok(computed.rows)
    }

    /// Tells what an error has left undone of several days.
    fn tell_end(&self, first: Date, day: Date, last: Date) {
        let before = match first < day {
            true => "; the days before it are complete",
            false => "",
        };
        if day < last {
            self.retry.run.warn(format!(
                "the run ends at {day}, so no later day up to {last} was computed{before}"
            ));
        }
    }

    /// A file is written as a whole or not at all.
    fn tell_unwritten(&self, output: Option<&Output>) {
        if let (Some(Output::File(_)), Some(path)) = (output, self.output) {
            let path = path.display();
            let text =
                format!("--output {path} was not written, because not all days were computed");
            self.retry.run.warn(text);
        }
    }

    fn days(&self, today: Date) -> Result<[Date; 2]> {
        let first = self.from.date(today);
        let last = self.to.map_or(first, |to| to.date(today));
        for (option, day) in [("--date", first), ("--to", last)] {
            if day > today {
                return Err(Error::invalid(format!(
                    "{option} {day} is in the future; today is {today} in UTC"
                )));
            }
        }
        match first <= last {
            true => Ok([first, last]),
            false => Err(Error::invalid(format!(
                "--to {last} is before --date {first}"
            ))),
        }
    }

    fn tell(&self, day: Date, computed: &Computed) {
        let (run, c) = (&self.retry.run, computed);
        if c.unrecorded > 0 {
            run.warn(format!(
                "{day}: the history lacks {} of the rows that {} has of this day, so {1} is counted, without keys whose newest row is of a later day; loading the day's records again completes the history",
                c.unrecorded, c.table
            ));
        }
        let rows = match c.rows {
            0 => "no rows".into(),
            1 => "1 row".into(),
            rows => format!("{rows} rows"),
        };
        match c.rows {
            _ if c.is_kept => run.warn(format!(
                "{day}: {} has {rows} of this day, but the stored figures count {}, so they are kept: keys that were loaded again have left the day, unless the dataset keeps a history; --replace replaces the figures",
                c.table, c.stored_rows
            )),
            0 => run.warn(format!("{day}: {} has no rows of this day", c.table)),
            _ => run.info(format!(
                "{day}: {rows} of {}, {} figures, {} of them new or changed, {} removed",
                c.table, c.figures, c.written, c.removed
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn a_day_is_a_date_or_one_of_two_words() {
        let today = date(2026, 3, 1);
        for (text, expected) in [
            ("2026-02-28", date(2026, 2, 28)),
            ("0001-01-01", date(1, 1, 1)),
            ("today", today),
            ("yesterday", date(2026, 2, 28)),
        ] {
            assert_eq!(Day::parse(text).unwrap().date(today), expected, "{text}");
        }
        for text in [
            "",
            "2026-02-29",
            "2026-2-1",
            "20260228",
            "tomorrow",
            "2026-02-28T00:00Z",
            "0000-01-01",
        ] {
            let told = Day::parse(text).unwrap_err();
            assert!(told.contains("expected for example 2026-11-24"), "{told}");
        }
    }
}
