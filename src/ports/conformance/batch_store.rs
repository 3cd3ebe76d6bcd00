//! What every batch store must do: one case for each guarantee of the port.

use async_trait::async_trait;

use crate::dataset::Dataset;
use crate::error::{Error, Kind, Result};
use crate::ports::batch_store::{BatchStore, Merged, Mode};
use crate::ports::conformance::{
    Abilities, Checked, HARD_KEYS, Verdict, cases, dataset, equal, event, fine, fresh, hard_events,
    holds, holds_rows, is_told, keyed_events, load_of, misfits, newer_first, rows, smaller,
};
use crate::ports::table_reader::TableReader;

/// A batch store to check. What it opens is dropped without being closed where a case simulates a crash.
#[async_trait]
pub trait Harness: Abilities + Send + Sync {
    /// Creates the dataset's tables where they are missing.
    async fn create(&self, dataset: &Dataset) -> Result<()>;

    /// The store.
    async fn open(&self, dataset: &Dataset) -> Result<Box<dyn BatchStore>>;

    /// The dataset's table, through another connection.
    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>>;

    /// The run ids in the store's record of loads.
    async fn loads(&self, dataset: &Dataset) -> Result<Vec<String>>;

    /// Makes the store refuse every row with this title from now on.
    async fn refuse(&self, dataset: &Dataset, title: &str) -> Result<()>;

    /// Makes the store refuse a title that another row already has.
    async fn make_titles_unique(&self, dataset: &Dataset) -> Result<()>;
}

cases! {
    dyn Harness;
    a_table_that_does_not_fit_is_told,
    staged_rows_are_not_visible,
    a_load_survives_a_crash,
    insert_fails_on_a_stored_key_and_keeps_nothing,
    upsert_replaces_the_stored_row,
    ignore_leaves_the_stored_row,
    update_if_newer_goes_by_event_time_then_digest,
    replace_leaves_only_the_loaded_rows,
    replace_by_no_row_fails_and_keeps_the_stored_ones,
    replace_by_no_row_is_done_when_told_so,
    a_failed_replacement_keeps_the_stored_rows needs RefusesRows,
    stored_rows_are_counted_and_staged_ones_are_not,
    the_newest_of_a_key_counts_in_every_mode,
    counts_add_up_in_every_mode,
    a_refused_row_fails_the_load_and_is_named needs RefusesRows,
    rows_that_exclude_each_other_are_both_named needs RefusesRows,
    a_load_is_recorded_with_its_run_id,
    a_failed_merge_can_be_tried_again,
    the_next_load_starts_empty,
    staging_does_not_lock_the_table,
    an_absent_field_replaces_a_value,
    every_type_round_trips,
    keys_are_told_apart_by_their_bytes,
}

pub(super) const MODES: [Mode; 6] = [
    Mode::Insert,
    Mode::Upsert,
    Mode::Ignore,
    Mode::UpdateIfNewer,
    Mode::Replace,
    Mode::ReplaceOrEmpty,
];

/// A store with tables of its own.
struct Loader<'h> {
    harness: &'h dyn Harness,
    dataset: Dataset,
    store: Box<dyn BatchStore>,
}

impl<'h> Loader<'h> {
    async fn new(harness: &'h dyn Harness) -> Checked<Loader<'h>> {
        Loader::with_key(harness, "id").await
    }

    async fn with_key(harness: &'h dyn Harness, key: &str) -> Checked<Loader<'h>> {
        let dataset = dataset(key)?;
        fine("creating tables", harness.create(&dataset).await)?;
        let store = fine("opening the store", harness.open(&dataset).await)?;
        Ok(Loader {
            harness,
            dataset,
            store,
        })
    }

    async fn stage(&mut self, events: &[String]) -> Verdict {
        let rows = rows(&self.dataset, events)?;
        fine("staging", self.store.stage(&rows).await)
    }

    async fn merge(&mut self, mode: Mode) -> Checked<Merged> {
        let merged = self.store.merge(mode, &load_of(&fresh("run"))).await;
        fine(&format!("merging by {}", mode.name()), merged)
    }

    /// The error of a merge that must fail.
    async fn fails(&mut self, mode: Mode) -> Checked<Error> {
        match self.store.merge(mode, &load_of(&fresh("run"))).await {
            Ok(merged) => Err(format!("expected that the merge fails, got {merged:?}")),
            Err(e) => Ok(e),
        }
    }

    async fn load(&mut self, mode: Mode, events: &[String]) -> Checked<Merged> {
        self.stage(events).await?;
        self.merge(mode).await
    }

    async fn holds(&self, what: &str, events: &[String]) -> Verdict {
        let table = fine("opening the table", self.harness.table(&self.dataset).await)?;
        holds_rows(what, &self.dataset, table, events).await
    }

    /// A crash: the store is dropped as it is and opened again.
    async fn crash(self) -> Checked<Loader<'h>> {
        drop(self.store);
        let store = fine("opening the store", self.harness.open(&self.dataset).await)?;
        Ok(Loader { store, ..self })
    }
}

/// An event for each of the ids, all at one second.
fn events(ids: std::ops::Range<i64>, second: u8, title: &str) -> Vec<String> {
    ids.map(|id| event(id, second, title)).collect()
}

async fn a_table_that_does_not_fit_is_told(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    for (dataset, word) in misfits(&loader.dataset) {
        let created = harness.create(&dataset).await;
        is_told(created, harness.open(&dataset).await.map(|_| ()), word)?;
    }
    // The table is still the first one's, and one that needs less may use it, too.
    let fewer = smaller(&loader.dataset);
    fine("creating for fewer fields", harness.create(&fewer).await)?;
    fine("opening for fewer fields", harness.open(&fewer).await)?;
    let events = [event(1, 1, "a")];
    loader.load(Mode::Insert, &events).await?;
    loader.holds("in the end", &events).await
}

async fn staged_rows_are_not_visible(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    loader.stage(&events(0..10, 0, "a")).await?;
    loader.holds("before the merge", &[]).await?;
    let mut loader = loader.crash().await?;
    loader.holds("after the crash", &[]).await?;
    // Rows left staged by a crash belong to no later load.
    loader.load(Mode::Insert, &events(5..8, 0, "b")).await?;
    loader.holds("after the merge", &events(5..8, 0, "b")).await
}

async fn a_load_survives_a_crash(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    loader.load(Mode::Insert, &events(0..10, 0, "a")).await?;
    let loader = loader.crash().await?;
    loader
        .holds("after the crash", &events(0..10, 0, "a"))
        .await
}

async fn insert_fails_on_a_stored_key_and_keeps_nothing(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    let first = events(5..8, 1, "a");
    loader.load(Mode::Insert, &first).await?;
    loader.stage(&events(0..10, 2, "b")).await?;
    let error = loader.fails(Mode::Insert).await?;
    equal("kind of the error", error.kind(), Kind::Data)?;
    loader.holds("after the error", &first).await
}

async fn upsert_replaces_the_stored_row(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    loader.load(Mode::Insert, &events(0..3, 5, "a")).await?;
    let older = events(0..2, 1, "older");
    loader.load(Mode::Upsert, &older).await?;
    let expected: Vec<String> = older.into_iter().chain(events(2..3, 5, "a")).collect();
    loader.holds("after the upsert", &expected).await
}

async fn ignore_leaves_the_stored_row(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    loader.load(Mode::Insert, &events(0..3, 5, "a")).await?;
    loader.load(Mode::Ignore, &events(2..5, 9, "newer")).await?;
    let expected: Vec<String> = events(0..3, 5, "a")
        .into_iter()
        .chain(events(3..5, 9, "newer"))
        .collect();
    loader.holds("after the load", &expected).await
}

async fn update_if_newer_goes_by_event_time_then_digest(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    let pair = |id| [event(id, 5, "one"), event(id, 5, "another")];
    let [newer_1, older_1] = newer_first(&loader.dataset, pair(1))?;
    let [newer_2, older_2] = newer_first(&loader.dataset, pair(2))?;
    let stored = [
        older_1,
        newer_2.clone(),
        event(3, 5, "stored"),
        event(4, 5, "stored"),
    ];
    loader.load(Mode::UpdateIfNewer, &stored).await?;
    let loaded = [
        newer_1.clone(),
        older_2,
        event(3, 6, "newer"),
        event(4, 4, "older"),
    ];
    loader.load(Mode::UpdateIfNewer, &loaded).await?;
    let expected = [
        newer_1,
        newer_2,
        event(3, 6, "newer"),
        event(4, 5, "stored"),
    ];
    loader.holds("after the load", &expected).await
}

async fn replace_leaves_only_the_loaded_rows(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    loader.load(Mode::Insert, &events(0..10, 5, "a")).await?;
    let older = events(5..12, 1, "b");
    loader.load(Mode::Replace, &older).await?;
    loader.holds("after the load", &older).await
}

async fn replace_by_no_row_fails_and_keeps_the_stored_ones(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    let stored = events(0..10, 5, "a");
    loader.load(Mode::Insert, &stored).await?;
    let refused = fresh("run");
    for attempt in ["without a call of stage", "again", "after one with no row"] {
        if attempt == "after one with no row" {
            loader.stage(&[]).await?;
        }
        match loader.store.merge(Mode::Replace, &load_of(&refused)).await {
            Ok(merged) => return Err(format!("replaced by nothing, {attempt}: {merged:?}")),
            Err(e) => equal("kind of the error", e.kind(), Kind::Missing)?,
        }
        loader.holds(attempt, &stored).await?;
    }
    let loads = fine("reading the record", harness.loads(&loader.dataset).await)?;
    holds("no record of the load", !loads.contains(&refused))?;
    let next = events(20..22, 1, "b");
    loader.load(Mode::Replace, &next).await?;
    loader.holds("after the next load", &next).await?;
    // The rows staged by the load before it are gone.
    loader.fails(Mode::Replace).await?;
    loader.crash().await?.holds("after a crash", &next).await
}

async fn replace_by_no_row_is_done_when_told_so(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    let stored = events(0..10, 5, "a");
    loader.load(Mode::Insert, &stored).await?;
    let merged = loader.merge(Mode::ReplaceOrEmpty).await?;
    equal("counts", merged, Merged::default())?;
    loader.crash().await?.holds("after it", &[]).await
}

async fn a_failed_replacement_keeps_the_stored_rows(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    let stored = events(0..10, 5, "a");
    loader.load(Mode::Insert, &stored).await?;
    fine(
        "arranging a refusal",
        harness.refuse(&loader.dataset, "poison").await,
    )?;
    for mode in [Mode::Replace, Mode::ReplaceOrEmpty] {
        loader.stage(&[event(1, 6, "poison")]).await?;
        let error = loader.fails(mode).await?;
        equal("kind of the error", error.kind(), Kind::Data)?;
        loader.holds("after the error", &stored).await?;
    }
    loader.crash().await?.holds("after a crash", &stored).await
}

async fn stored_rows_are_counted_and_staged_ones_are_not(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    let counted = fine("counting none", loader.store.count().await)?;
    equal("rows of an empty table", counted, 0)?;
    loader.load(Mode::Insert, &events(0..10, 5, "a")).await?;
    loader.stage(&events(10..15, 5, "b")).await?;
    let counted = fine("counting", loader.store.count().await)?;
    equal("rows before the merge", counted, 10)?;
    loader.merge(Mode::Insert).await?;
    let counted = fine("counting again", loader.store.count().await)?;
    equal("rows after it", counted, 15)
}

async fn the_newest_of_a_key_counts_in_every_mode(harness: &dyn Harness) -> Verdict {
    for mode in MODES {
        let mut loader = Loader::new(harness).await?;
        let pair = [event(2, 7, "one"), event(2, 7, "another")];
        let [newest, same_time] = newer_first(&loader.dataset, pair)?;
        let first = [
            event(1, 3, "b"),
            event(1, 9, "c"),
            event(1, 6, "a"),
            newest.clone(),
        ];
        loader.stage(&first).await?;
        loader.stage(&[same_time, event(1, 8, "late")]).await?;
        loader.merge(mode).await?;
        let what = format!("by {}", mode.name());
        loader.holds(&what, &[event(1, 9, "c"), newest]).await?;
    }
    Ok(())
}

async fn counts_add_up_in_every_mode(harness: &dyn Harness) -> Verdict {
    for mode in MODES {
        let mut loader = Loader::new(harness).await?;
        let first_id = match mode {
            Mode::Insert => 4, // the others meet the stored rows 0 to 3
            _ => 0,
        };
        loader.load(mode, &events(0..4, 5, "stored")).await?;
        let mut batch = events(first_id..first_id + 2, 6, "newer");
        batch.extend(events(first_id + 2..first_id + 4, 4, "older"));
        batch.extend(events(first_id..first_id + 1, 1, "twice"));
        batch.extend(events(8..9, 0, "new"));
        let merged = loader.load(mode, &batch).await?;
        let (written, skipped) = match mode {
            Mode::Insert | Mode::Upsert | Mode::Replace | Mode::ReplaceOrEmpty => (5, 0),
            Mode::Ignore => (1, 4),
            Mode::UpdateIfNewer => (3, 2),
        };
        let expected = Merged {
            written,
            deduplicated: 1,
            skipped,
        };
        equal(format_args!("counts by {}", mode.name()), merged, expected)?;
    }
    Ok(())
}

async fn a_refused_row_fails_the_load_and_is_named(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    fine(
        "arranging a refusal",
        harness.refuse(&loader.dataset, "poison").await,
    )?;
    let mut batch = events(100..110, 0, "a");
    batch[6] = event(106, 0, "poison");
    for part in batch.chunks(4) {
        loader.stage(part).await?;
    }
    let error = loader.fails(Mode::UpdateIfNewer).await?;
    equal("kind of the error", error.kind(), Kind::Data)?;
    let message = error.to_string();
    holds(
        format_args!("the message names record 7: {message}"),
        message.contains("record 7 "),
    )?;
    loader.holds("after the error", &[]).await
}

async fn rows_that_exclude_each_other_are_both_named(harness: &dyn Harness) -> Verdict {
    for mode in [Mode::Insert, Mode::UpdateIfNewer, Mode::Replace] {
        let mut loader = Loader::new(harness).await?;
        let dataset = loader.dataset.clone();
        fine(
            "arranging titles",
            harness.make_titles_unique(&dataset).await,
        )?;
        let stored = [event(100, 0, "stored")];
        loader.load(Mode::Insert, &stored).await?;
        // Neither the order of lines nor that of keys has both ends of a pair at an end of the load.
        let mut batch: Vec<String> = (0..12)
            .map(|i| event(i * 5 % 12, 1, &format!("t{i}")))
            .collect();
        batch[1] = event(5, 1, "twin");
        batch[6] = event(6, 1, "twin");
        loader.stage(&batch).await?;
        let told = loader.fails(mode).await?.to_string();
        let both = told.contains("records 2 and 7 ");
        holds(format_args!("`{told}` names the records 2 and 7"), both)?;
        loader.holds("after the failure", &stored).await?;
    }
    let mut loader = Loader::new(harness).await?;
    let dataset = loader.dataset.clone();
    fine(
        "arranging titles",
        harness.make_titles_unique(&dataset).await,
    )?;
    loader
        .load(Mode::Insert, &[event(100, 0, "stored")])
        .await?;
    let mut batch: Vec<String> = (0..5).map(|i| event(i, 1, &format!("t{i}"))).collect();
    batch[3] = event(3, 1, "stored");
    loader.stage(&batch).await?;
    let told = loader.fails(Mode::UpdateIfNewer).await?.to_string();
    holds(
        format_args!("`{told}` names record 4 alone"),
        told.contains("record 4 "),
    )
}

async fn a_load_is_recorded_with_its_run_id(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    let (done, failed) = (fresh("run"), fresh("run"));
    for run_id in [&done, &failed] {
        loader.stage(&events(0..3, 0, "a")).await?;
        let merged = loader.store.merge(Mode::Insert, &load_of(run_id)).await;
        let is_done = run_id == &done;
        holds(
            format_args!("a load is done: {is_done}"),
            merged.is_ok() == is_done,
        )?;
    }
    let loads = fine("reading the record", harness.loads(&loader.dataset).await)?;
    let recorded = |run_id: &String| loads.iter().filter(|r| *r == run_id).count();
    equal("records of a load that is done", recorded(&done), 1)?;
    equal("records of a load that failed", recorded(&failed), 0)
}

async fn a_failed_merge_can_be_tried_again(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    loader.load(Mode::Insert, &events(3..4, 1, "a")).await?;
    let batch = events(0..10, 2, "b");
    loader.stage(&batch).await?;
    loader.fails(Mode::Insert).await?;
    let merged = loader.merge(Mode::UpdateIfNewer).await?;
    equal("rows written by the second attempt", merged.written, 10)?;
    loader.holds("after it", &batch).await
}

async fn the_next_load_starts_empty(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    loader.load(Mode::Insert, &events(0..10, 0, "a")).await?;
    let next = events(20..25, 0, "b");
    let merged = loader.load(Mode::Replace, &next).await?;
    equal("rows written", merged.written, 5)?;
    loader.holds("after the second load", &next).await
}

async fn staging_does_not_lock_the_table(harness: &dyn Harness) -> Verdict {
    let mut long = Loader::new(harness).await?;
    long.stage(&events(0..10, 1, "a")).await?;
    let mut other = fine("opening the store again", harness.open(&long.dataset).await)?;
    let theirs = events(10..12, 1, "b");
    let dataset = long.dataset.clone();
    fine(
        "staging during it",
        other.stage(&rows(&dataset, &theirs)?).await,
    )?;
    fine(
        "merging during it",
        other.merge(Mode::Upsert, &load_of(&fresh("run"))).await,
    )?;
    long.holds("of the other load", &theirs).await?;
    long.merge(Mode::Upsert).await?;
    long.holds(
        "of both loads",
        &events(0..10, 1, "a")
            .into_iter()
            .chain(theirs)
            .collect::<Vec<_>>(),
    )
    .await
}

async fn an_absent_field_replaces_a_value(harness: &dyn Harness) -> Verdict {
    for mode in [Mode::Upsert, Mode::UpdateIfNewer, Mode::Replace] {
        let mut loader = Loader::new(harness).await?;
        loader.load(mode, &[event(1, 1, "a")]).await?;
        let bare = [r#"{"id":1,"at":"2026-01-01T00:00:02Z"}"#.to_string()];
        loader.load(mode, &bare).await?;
        loader.holds(&format!("by {}", mode.name()), &bare).await?;
    }
    Ok(())
}

async fn every_type_round_trips(harness: &dyn Harness) -> Verdict {
    let mut loader = Loader::new(harness).await?;
    let events = hard_events();
    loader.load(Mode::UpdateIfNewer, &events).await?;
    loader.holds("of every type", &events).await
}

async fn keys_are_told_apart_by_their_bytes(harness: &dyn Harness) -> Verdict {
    for (key, values) in HARD_KEYS {
        let mut loader = Loader::with_key(harness, key).await?;
        let (first, again) = (keyed_events(key, &values, 1), keyed_events(key, &values, 2));
        loader.load(Mode::UpdateIfNewer, &first).await?;
        loader.load(Mode::UpdateIfNewer, &again).await?;
        loader.holds(&format!("by {key}"), &again).await?;
    }
    Ok(())
}
