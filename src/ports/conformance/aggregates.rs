//! What every store of figures must do: one case for each guarantee of the port. The file is long because it is one list,
//! of cases that can each be read on their own.

use async_trait::async_trait;
use jiff::civil::{Date, date};

use crate::dataset::{Aggregate, By, Dataset};
use crate::error::{Kind, Result};
use crate::ports::aggregates::{Aggregates, Computed, Fewer, Figure, MAX_VALUES, Summary, Top};
use crate::ports::batch_store::{BatchStore, Mode};
use crate::ports::conformance::{
    Abilities, Checked, Verdict, cases, dataset, equal, fine, fresh, holds, load_of, rows, smaller,
};

/// A store to check.
#[async_trait]
pub trait Harness: Abilities + Send + Sync {
    /// Creates the dataset's tables where they are missing.
    async fn create(&self, dataset: &Dataset) -> Result<()>;

    /// The store of the rows.
    async fn open(&self, dataset: &Dataset) -> Result<Box<dyn BatchStore>>;

    /// The figures.
    async fn aggregates(&self, dataset: &Dataset) -> Result<Box<dyn Aggregates>>;
}

cases! {
    dyn Harness;
    every_dimension_is_counted,
    only_rows_of_the_day_count,
    a_day_computed_again_is_not_touched,
    what_no_longer_holds_is_replaced_or_removed,
    fewer_rows_keep_the_stored_figures,
    told_to_replace_it_does,
    a_day_without_rows_has_no_figures,
    too_many_values_are_an_error_and_change_nothing,
    other_days_datasets_and_dimensions_are_left_alone,
    a_history_has_the_rows_of_a_former_day,
    a_history_that_is_not_declared_does_not_count,
    a_history_that_lacks_a_row_does_not_count,
    a_table_that_lacks_a_column_is_told,
    the_last_day_with_figures_is_known,
    the_largest_figures_come_with_the_sum_of_all,
    a_summary_tells_whether_figures_changed,
}

const DAY: Date = date(2026, 3, 1);

/// A store with tables of its own.
struct Counter<'h> {
    harness: &'h dyn Harness,
    dataset: Dataset,
    figures: Box<dyn Aggregates>,
}

impl<'h> Counter<'h> {
    async fn new(harness: &'h dyn Harness, by: &[(&str, &str, By)]) -> Checked<Counter<'h>> {
        Self::of(harness, dataset("id")?, by).await
    }

    async fn of(
        harness: &'h dyn Harness,
        mut dataset: Dataset,
        by: &[(&str, &str, By)],
    ) -> Checked<Counter<'h>> {
        dataset.name = fresh("dataset");
        for (name, field, by) in by {
            let field = dataset.field_index(field).ok_or("no such field")?;
            let name = (*name).to_string();
            dataset.aggregates.push(Aggregate {
                name,
                field,
                by: *by,
            });
        }
        fine("creating tables", harness.create(&dataset).await)?;
        let figures = fine("opening", harness.aggregates(&dataset).await)?;
        Ok(Counter {
            harness,
            dataset,
            figures,
        })
    }

    async fn load(&self, mode: Mode, events: &[String]) -> Verdict {
        let rows = rows(&self.dataset, events)?;
        let mut store = fine("opening", self.harness.open(&self.dataset).await)?;
        fine("staging", store.stage(&rows).await)?;
        fine("merging", store.merge(mode, &load_of("load")).await).map(|_| ())
    }

    async fn compute(&mut self, day: Date, fewer: Fewer, run: &str) -> Checked<Computed> {
        fine("computing", self.figures.compute(day, fewer, run).await)
    }

    async fn stored(&mut self, day: Date) -> Checked<Vec<Figure>> {
        fine("reading", self.figures.read(day).await)
    }

    /// The figures of a day are exactly these.
    async fn has(
        &mut self,
        what: &str,
        day: Date,
        expected: &[(&str, Option<&str>, u64)],
    ) -> Verdict {
        let stored = self.stored(day).await?;
        let stored: Vec<(&str, Option<&str>, u64)> = stored
            .iter()
            .map(|f| (&*f.aggregate, f.value.as_deref(), f.count))
            .collect();
        equal(
            format_args!("figures of {day} {what}"),
            &stored[..],
            expected,
        )
    }
}

/// An event with this title at this time.
fn titled(id: u64, at: &str, title: &str) -> String {
    format!(r#"{{"id":{id},"title":"{title}","at":"{at}"}}"#)
}

fn titles(events: &[(u64, &str, &str)]) -> Vec<String> {
    let event = |(id, at, title): &(u64, &str, &str)| titled(*id, at, title);
    events.iter().map(event).collect()
}

const BY_TITLE: &[(&str, &str, By)] = &[("titles", "title", By::Value)];
const NOON: &str = "2026-03-01T12:00:00Z";
const NEXT: &str = "2026-03-02T00:00:00Z";

/// Values at the edges of each group, and absent ones.
async fn every_dimension_is_counted(harness: &dyn Harness) -> Verdict {
    let mut counter = Counter::new(
        harness,
        &[
            ("a_title", "title", By::Value),
            ("b_domain", "title", By::Domain),
            ("c_int", "small", By::Value),
            ("d_bigint", "id", By::Value),
            ("e_boolean", "good", By::Value),
            ("f_date", "day", By::Value),
            ("g_age", "seen", By::Band { width: 10 }),
            ("h_years", "day", By::Band { width: 1 }),
            ("i_month", "seen", By::Month),
            ("j_month", "day", By::Month),
            ("k_hour", "seen", By::Hour),
            ("l_late", "seen", By::Lateness),
        ],
    )
    .await?;
    let events = [
        r#"{"id":1,"title":"Zoë@A.Example@B.EXAMPLE","small":-5,"good":true,"day":"2000-02-29","seen":"1996-03-02T00:00:00Z","at":"2026-03-01T00:00:00Z"}"#,
        r#"{"id":2,"title":"x@b.example","small":5,"good":false,"day":"1999-03-01","seen":"2026-03-01T00:00:00.999Z","at":"2026-03-01T00:00:00Z"}"#,
        r#"{"id":3,"title":"x@","good":true,"day":"1969-12-31","seen":"1969-12-31T23:59:59.999Z","at":"2026-03-01T23:59:59.999Z"}"#,
        r#"{"id":4,"title":"","small":5,"day":"2026-03-02","seen":"9999-12-31T23:59:59.999Z","at":"2026-03-01T01:00:00Z"}"#,
        r#"{"id":5,"title":"no domain","day":"0001-01-01","seen":"2026-03-01T01:00:01Z","at":"2026-03-01T01:00:00Z"}"#,
        r#"{"id":6,"at":"2026-03-01T00:00:00Z"}"#,
    ]
    .map(String::from);
    counter.load(Mode::Insert, &events).await?;
    let done = counter.compute(DAY, Fewer::Keep, "run").await?;
    let expected = [
        ("a_title", None, 1),
        ("a_title", Some(""), 1),
        ("a_title", Some("Zoë@A.Example@B.EXAMPLE"), 1),
        ("a_title", Some("no domain"), 1),
        ("a_title", Some("x@"), 1),
        ("a_title", Some("x@b.example"), 1),
        ("b_domain", None, 3),
        ("b_domain", Some(""), 1),
        ("b_domain", Some("b.example"), 2),
        ("c_int", None, 3),
        ("c_int", Some("-5"), 1),
        ("c_int", Some("5"), 2),
        ("d_bigint", Some("1"), 1),
        ("d_bigint", Some("2"), 1),
        ("d_bigint", Some("3"), 1),
        ("d_bigint", Some("4"), 1),
        ("d_bigint", Some("5"), 1),
        ("d_bigint", Some("6"), 1),
        ("e_boolean", None, 3),
        ("e_boolean", Some("false"), 1),
        ("e_boolean", Some("true"), 2),
        ("f_date", None, 1),
        ("f_date", Some("0001-01-01"), 1),
        ("f_date", Some("1969-12-31"), 1),
        ("f_date", Some("1999-03-01"), 1),
        ("f_date", Some("2000-02-29"), 1),
        ("f_date", Some("2026-03-02"), 1),
        ("g_age", None, 1),
        ("g_age", Some("0-9"), 2),
        ("g_age", Some("20-29"), 1),
        ("g_age", Some("50-59"), 1),
        ("g_age", Some("under 0"), 1),
        ("h_years", None, 1),
        ("h_years", Some("2025"), 1),
        ("h_years", Some("26"), 1),
        ("h_years", Some("27"), 1),
        ("h_years", Some("56"), 1),
        ("h_years", Some("under 0"), 1),
        ("i_month", None, 1),
        ("i_month", Some("1969-12"), 1),
        ("i_month", Some("1996-03"), 1),
        ("i_month", Some("2026-03"), 2),
        ("i_month", Some("9999-12"), 1),
        ("j_month", None, 1),
        ("j_month", Some("0001-01"), 1),
        ("j_month", Some("1969-12"), 1),
        ("j_month", Some("1999-03"), 1),
        ("j_month", Some("2000-02"), 1),
        ("j_month", Some("2026-03"), 1),
        ("k_hour", None, 1),
        ("k_hour", Some("00"), 2),
        ("k_hour", Some("01"), 1),
        ("k_hour", Some("23"), 2),
        ("l_late", None, 1),
        ("l_late", Some("1d or more"), 1),
        ("l_late", Some("early"), 2),
        ("l_late", Some("under 1m"), 1),
        ("l_late", Some("under 1s"), 1),
    ];
    counter.has("by every dimension", DAY, &expected).await?;
    let counts = (done.rows, done.figures, done.written, done.removed);
    let all = expected.len() as u64;
    equal(
        "rows, figures, written and removed",
        counts,
        (6, all, all, 0),
    )
}

async fn only_rows_of_the_day_count(harness: &dyn Harness) -> Verdict {
    let mut counter = Counter::new(harness, BY_TITLE).await?;
    let events = titles(&[
        (1, "2026-02-28T23:59:59.999Z", "before"),
        (2, "2026-03-01T00:00:00Z", "first"),
        (3, "2026-03-01T23:59:59.999Z", "last"),
        (4, "2026-03-01T00:00:00+01:00", "before, in UTC"),
        (5, NEXT, "after"),
    ]);
    counter.load(Mode::Insert, &events).await?;
    let done = counter.compute(DAY, Fewer::Keep, "run").await?;
    equal("rows", done.rows, 2)?;
    equal("table", &done.table, &counter.dataset.batch.table.clone())?;
    let expected = [("titles", Some("first"), 1), ("titles", Some("last"), 1)];
    counter.has("", DAY, &expected).await
}

async fn a_day_computed_again_is_not_touched(harness: &dyn Harness) -> Verdict {
    let mut counter = Counter::new(harness, BY_TITLE).await?;
    let long = "long ".repeat(2_000);
    let events = titles(&[(1, NOON, "a"), (2, NOON, &long), (3, NOON, "")]);
    counter.load(Mode::Insert, &events).await?;
    counter
        .load(Mode::Insert, &[format!(r#"{{"id":4,"at":"{NOON}"}}"#)])
        .await?;
    counter.compute(DAY, Fewer::Keep, "first").await?;
    let before = counter.stored(DAY).await?;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    for fewer in [Fewer::Keep, Fewer::Replace] {
        let done = counter.compute(DAY, fewer, "second").await?;
        let counts = (done.figures, done.written, done.removed, done.stored_rows);
        equal(
            "figures, written, removed, stored rows",
            counts,
            (4, 0, 0, 4),
        )?;
        equal(
            "figures, runs and times",
            counter.stored(DAY).await?,
            before.clone(),
        )?;
    }
    holds(
        "all figures are of the first run",
        before.iter().all(|f| f.run_id == "first"),
    )
}

async fn what_no_longer_holds_is_replaced_or_removed(harness: &dyn Harness) -> Verdict {
    let mut counter = Counter::new(harness, BY_TITLE).await?;
    let events = titles(&[(1, NOON, "gone"), (2, NOON, "more"), (3, NOON, "same")]);
    counter.load(Mode::Insert, &events).await?;
    counter.compute(DAY, Fewer::Keep, "first").await?;
    counter
        .load(
            Mode::Upsert,
            &titles(&[(1, NOON, "more"), (4, NOON, "new")]),
        )
        .await?;
    let done = counter.compute(DAY, Fewer::Keep, "second").await?;
    let counts = (done.figures, done.written, done.removed);
    equal("figures, written and removed", counts, (3, 2, 1))?;
    let expected = [
        ("titles", Some("more"), 2),
        ("titles", Some("new"), 1),
        ("titles", Some("same"), 1),
    ];
    counter.has("after a change", DAY, &expected).await?;
    let runs: Vec<String> = counter
        .stored(DAY)
        .await?
        .into_iter()
        .map(|f| f.run_id)
        .collect();
    equal(
        "the run of each",
        runs,
        ["second", "second", "first"].map(String::from).to_vec(),
    )
}

/// Two rows on the day are counted; then one of them moves to the next day.
async fn moved<'h>(harness: &'h dyn Harness) -> Checked<Counter<'h>> {
    let mut counter = Counter::new(harness, BY_TITLE).await?;
    counter
        .load(Mode::Insert, &titles(&[(1, NOON, "a"), (2, NOON, "b")]))
        .await?;
    counter.compute(DAY, Fewer::Keep, "first").await?;
    counter
        .load(Mode::Upsert, &titles(&[(2, NEXT, "b")]))
        .await?;
    Ok(counter)
}

async fn fewer_rows_keep_the_stored_figures(harness: &dyn Harness) -> Verdict {
    let mut counter = moved(harness).await?;
    let before = counter.stored(DAY).await?;
    let done = counter.compute(DAY, Fewer::Keep, "second").await?;
    let told = (
        done.is_kept,
        done.rows,
        done.stored_rows,
        done.figures,
        done.written,
    );
    equal(
        "kept, rows, stored rows, figures, written",
        told,
        (true, 1, 2, 0, 0),
    )?;
    equal("the figures", counter.stored(DAY).await?, before)
}

async fn told_to_replace_it_does(harness: &dyn Harness) -> Verdict {
    let mut counter = moved(harness).await?;
    let done = counter.compute(DAY, Fewer::Replace, "second").await?;
    let told = (done.is_kept, done.figures, done.written, done.removed);
    equal("kept, figures, written, removed", told, (false, 1, 0, 1))?;
    counter
        .has("after one row has left", DAY, &[("titles", Some("a"), 1)])
        .await
}

async fn a_day_without_rows_has_no_figures(harness: &dyn Harness) -> Verdict {
    let mut counter = Counter::new(harness, BY_TITLE).await?;
    counter
        .load(Mode::Insert, &titles(&[(1, NEXT, "a")]))
        .await?;
    let done = counter.compute(DAY, Fewer::Keep, "run").await?;
    equal(
        "rows and figures",
        (done.rows, done.figures, done.is_kept),
        (0, 0, false),
    )?;
    counter.has("without rows", DAY, &[]).await
}

async fn too_many_values_are_an_error_and_change_nothing(harness: &dyn Harness) -> Verdict {
    let mut counter = Counter::new(
        harness,
        &[("a_good", "good", By::Value), ("b_ids", "id", By::Value)],
    )
    .await?;
    let event = |id| format!(r#"{{"id":{id},"good":true,"at":"{NOON}"}}"#);
    let most: Vec<String> = (0..MAX_VALUES).map(event).collect();
    counter.load(Mode::Insert, &most).await?;
    let done = counter.compute(DAY, Fewer::Keep, "run").await?;
    equal("figures", done.figures, MAX_VALUES + 1)?;
    counter.load(Mode::Insert, &[event(MAX_VALUES)]).await?;
    let error = match counter.figures.compute(DAY, Fewer::Keep, "run").await {
        Ok(done) => return Err(format!("too many values are counted: {done:?}")),
        Err(error) => error,
    };
    equal("kind", error.kind(), Kind::Invalid)?;
    holds(
        format_args!("`{error}` names b_ids"),
        error.to_string().contains("b_ids"),
    )?;
    let stored = counter.stored(DAY).await?;
    let first = stored.first().map(|f| (f.aggregate.clone(), f.count));
    equal(
        "the figure of the other dimension",
        first,
        Some(("a_good".into(), MAX_VALUES)),
    )
}

async fn other_days_datasets_and_dimensions_are_left_alone(harness: &dyn Harness) -> Verdict {
    let mut counter = Counter::new(harness, BY_TITLE).await?;
    counter
        .load(Mode::Insert, &titles(&[(1, NOON, "a"), (2, NEXT, "b")]))
        .await?;
    for day in [DAY, date(2026, 3, 2)] {
        counter.compute(day, Fewer::Keep, "first").await?;
    }
    // The same table under another name, and then another dimension.
    let mut other = counter.dataset.clone();
    other.name = fresh("dataset");
    other.aggregates[0].name = "others".into();
    for name in [counter.dataset.name.clone(), other.name.clone()] {
        let dataset = Dataset {
            name,
            ..other.clone()
        };
        let mut figures = fine("opening", harness.aggregates(&dataset).await)?;
        fine(
            "computing",
            figures.compute(DAY, Fewer::Keep, "second").await,
        )?;
    }
    let both = [("others", Some("a"), 1), ("titles", Some("a"), 1)];
    counter.has("by two dimensions", DAY, &both).await?;
    counter
        .has("", date(2026, 3, 2), &[("titles", Some("b"), 1)])
        .await?;
    counter.dataset = other;
    counter.figures = fine("opening", harness.aggregates(&counter.dataset).await)?;
    counter.has("of the other dataset", DAY, &both[..1]).await
}

/// A store whose dataset keeps a history; both rows of the day have gone to the next one.
async fn with_history<'h>(harness: &'h dyn Harness) -> Checked<Counter<'h>> {
    let mut dataset = dataset("id")?;
    dataset.batch.history = true;
    let counter = Counter::of(harness, dataset, BY_TITLE).await?;
    let [first, second] = [[NOON, "a", "b"], [NEXT, "c", "d"]];
    for [at, one, two] in [first, second] {
        let load = titles(&[(1, at, one), (2, at, two)]);
        counter.load(Mode::Upsert, &load).await?;
    }
    Ok(counter)
}

async fn a_history_has_the_rows_of_a_former_day(harness: &dyn Harness) -> Verdict {
    let mut counter = with_history(harness).await?;
    let done = counter.compute(DAY, Fewer::Keep, "run").await?;
    let table = format!("{}_history", counter.dataset.batch.table);
    equal("table and rows", (done.table, done.rows), (table, 2))?;
    let former = [("titles", Some("a"), 1), ("titles", Some("b"), 1)];
    counter.has("from the history", DAY, &former).await?;
    // A history that was switched on later has no rows of a day, or not all.
    counter.dataset.batch.history = false;
    let more = titles(&[(3, NOON, "e"), (4, NOON, "f"), (5, NOON, "g")]);
    counter.load(Mode::Insert, &more).await?;
    let only = date(2026, 2, 28);
    let before = titles(&[(6, "2026-02-28T12:00:00Z", "h")]);
    counter.load(Mode::Insert, &before).await?;
    for (day, rows) in [(only, 1), (DAY, 3)] {
        let done = counter.compute(day, Fewer::Keep, "run").await?;
        let table = counter.dataset.batch.table.clone();
        equal("table and rows", (done.table, done.rows), (table, rows))?;
    }
    Ok(())
}

async fn a_history_that_is_not_declared_does_not_count(harness: &dyn Harness) -> Verdict {
    let mut counter = with_history(harness).await?;
    counter.dataset.batch.history = false;
    counter.figures = fine("opening", harness.aggregates(&counter.dataset).await)?;
    let table = counter.dataset.batch.table.clone();
    for (day, rows) in [(DAY, 0), (date(2026, 3, 2), 2)] {
        let done = counter.compute(day, Fewer::Keep, "run").await?;
        let told = (done.table, done.rows);
        equal("table and rows", told, (table.clone(), rows))?;
    }
    // One that is declared and not there is an error: it would be missed without a word.
    let mut other = dataset("id")?;
    other.aggregates.clone_from(&counter.dataset.aggregates);
    fine("creating tables", harness.create(&other).await)?;
    other.batch.history = true;
    let opened = harness.aggregates(&other).await.map(|_| ());
    equal(
        "opening without its table",
        opened.map_err(|e| e.kind()),
        Err(Kind::Invalid),
    )
}

/// It was off for a while: then it may have as many rows as the table, or more, and older ones.
async fn a_history_that_lacks_a_row_does_not_count(harness: &dyn Harness) -> Verdict {
    const LATER: &str = "2026-03-01T13:00:00Z";
    let mut counter = with_history(harness).await?;
    let table = counter.dataset.batch.table.clone();
    let day = date(2026, 3, 2);
    counter.dataset.batch.history = false;
    let newer = titles(&[(1, "2026-03-02T01:00:00Z", "e"), (3, LATER, "f")]);
    counter.load(Mode::Upsert, &newer).await?;
    for (day, rows, unrecorded) in [(day, 2, 1), (DAY, 1, 1)] {
        let done = counter.compute(day, Fewer::Keep, "run").await?;
        let told = (done.table, done.rows, done.unrecorded);
        equal(
            "table, rows and unrecorded",
            told,
            (table.clone(), rows, unrecorded),
        )?;
    }
    let titles_of_day = [("titles", Some("d"), 1), ("titles", Some("e"), 1)];
    counter.has("from the table", day, &titles_of_day).await?;
    counter
        .has("from the table", DAY, &[("titles", Some("f"), 1)])
        .await?;
    // Loaded again with a history, it is complete.
    counter.dataset.batch.history = true;
    counter.load(Mode::Upsert, &newer).await?;
    for (day, rows) in [(day, 2), (DAY, 3)] {
        let done = counter.compute(day, Fewer::Keep, "again").await?;
        let told = (done.table, done.rows, done.unrecorded);
        let history = format!("{table}_history");
        equal("table, rows and unrecorded", told, (history, rows, 0))?;
    }
    Ok(())
}

/// A column that is not there must not be counted as if it were, whatever the store makes of its name.
async fn a_table_that_lacks_a_column_is_told(harness: &dyn Harness) -> Verdict {
    for keeps_history in [false, true] {
        let mut dataset = dataset("id")?;
        dataset.batch.history = keeps_history;
        let without = smaller(&dataset);
        fine("creating tables", harness.create(&without).await)?;
        let field = dataset.field_index("title").ok_or("no such field")?;
        dataset.aggregates.push(Aggregate {
            name: "titles".into(),
            field,
            by: By::Value,
        });
        let told = match harness.aggregates(&dataset).await {
            Ok(mut figures) => figures.compute(DAY, Fewer::Keep, "run").await.map(|_| ()),
            Err(e) => Err(e),
        };
        let Err(e) = told else {
            return Err("a column that the table lacks is counted".into());
        };
        equal(format_args!("kind of {e}"), e.kind(), Kind::Invalid)?;
        let names = e.to_string().contains("title");
        holds(format_args!("`{e}` names title"), names)?;
    }
    Ok(())
}

async fn the_last_day_with_figures_is_known(harness: &dyn Harness) -> Verdict {
    let mut counter = Counter::new(harness, BY_TITLE).await?;
    let last = fine("asking", counter.figures.last_day().await)?;
    equal("last day without figures", last, None)?;
    counter
        .load(Mode::Insert, &titles(&[(1, NOON, "a"), (2, NEXT, "b")]))
        .await?;
    for day in [date(2026, 3, 2), DAY] {
        counter.compute(day, Fewer::Keep, "run").await?;
    }
    let last = fine("asking", counter.figures.last_day().await)?;
    equal("last day", last, Some(date(2026, 3, 2)))
}

async fn the_largest_figures_come_with_the_sum_of_all(harness: &dyn Harness) -> Verdict {
    let by = [("titles", "title", By::Value), ("hours", "at", By::Hour)];
    let mut counter = Counter::new(harness, &by).await?;
    let top = counter.figures.top(DAY, "titles", 3).await;
    equal("without figures", fine("reading", top)?, Top::default())?;
    let mut events = titles(&[
        (1, NOON, "b"),
        (2, NOON, "b"),
        (3, NOON, "c"),
        (4, NOON, "a"),
    ]);
    events.push(format!(r#"{{"id":5,"at":"{NOON}"}}"#));
    events.push(titled(6, NEXT, "other day"));
    counter.load(Mode::Insert, &events).await?;
    for day in [DAY, date(2026, 3, 2)] {
        counter.compute(day, Fewer::Keep, "run").await?;
    }
    let value = |text: &str, count| (Some(text.to_string()), count);
    let all = [value("b", 2), (None, 1), value("a", 1), value("c", 1)];
    for most in [1, 3, 4, 100] {
        let top = counter.figures.top(DAY, "titles", most).await;
        let expected = Top {
            values: all.iter().take(most as usize).cloned().collect(),
            distinct: 4,
            rows: 5,
        };
        let what = format_args!("the {most} largest figures");
        equal(what, fine("reading", top)?, expected)?;
    }
    Ok(())
}

async fn a_summary_tells_whether_figures_changed(harness: &dyn Harness) -> Verdict {
    let mut counter = Counter::new(harness, BY_TITLE).await?;
    let none = fine("reading", counter.figures.summary(DAY).await)?;
    equal("without figures", none, Summary::default())?;
    counter
        .load(Mode::Insert, &titles(&[(1, NOON, "a"), (2, NOON, "b")]))
        .await?;
    counter.compute(DAY, Fewer::Keep, "first").await?;
    let first = fine("reading", counter.figures.summary(DAY).await)?;
    let newest = counter
        .stored(DAY)
        .await?
        .iter()
        .map(|f| f.computed_at)
        .max();
    let expected = Summary {
        figures: 2,
        rows: 2,
        computed_at: newest,
    };
    equal("after the first run", first, expected)?;
    counter.compute(DAY, Fewer::Keep, "again").await?;
    let again = fine("reading", counter.figures.summary(DAY).await)?;
    equal("after a run that changed nothing", again, first)?;
    counter
        .load(Mode::Upsert, &titles(&[(2, NOON, "a")]))
        .await?;
    counter.compute(DAY, Fewer::Keep, "changed").await?;
    let changed = fine("reading", counter.figures.summary(DAY).await)?;
    holds("another summary of changed figures", changed != first)
}
