//! What every batch store must do for a dataset that keeps a history: one case for each guarantee.

use crate::dataset::Dataset;
use crate::error::{Kind, Result};
use crate::ports::batch_store::{BatchStore, Merged, Mode};
use crate::ports::conformance::batch_store::{Harness, MODES};
use crate::ports::conformance::{
    Checked, Verdict, cases, dataset, equal, event, fine, fresh, holds, holds_rows, load_of,
    newer_first, rows, smaller,
};

cases! {
    dyn Harness;
    every_mode_records_the_newest_of_each_day,
    each_mode_treats_the_recorded_row_as_the_stored_one,
    what_a_replacement_left_gives_way_to_the_stored_row,
    a_load_of_several_days_records_each_by_its_mode,
    versions_of_one_time_go_by_digest,
    the_same_load_again_changes_nothing,
    days_are_those_of_utc,
    a_replacement_deletes_no_history,
    a_failed_load_records_nothing needs RefusesRows,
    what_the_history_refuses_is_loaded_nowhere needs RefusesRows,
    a_missing_history_is_told_and_created,
    a_history_that_does_not_fit_is_told,
}

/// The time of an event that does not say another one.
const NOON: &str = "2026-01-01T12:00:00Z";

/// A store of a dataset that keeps a history.
struct Keeper<'h> {
    harness: &'h dyn Harness,
    dataset: Dataset,
    history: Dataset,
    store: Box<dyn BatchStore>,
}

/// A version of a record, and the day under which it is recorded.
#[derive(Clone, Debug)]
struct Version {
    event: String,
    day: String,
}

/// One at this time.
fn at(id: i64, time: &str, title: &str) -> Version {
    let event = event(id, 0, title).replace("2026-01-01T00:00:00Z", time);
    let day = time.split('T').next().unwrap_or_default().into();
    Version { event, day }
}

fn keeping() -> Checked<(Dataset, Dataset)> {
    let mut dataset = dataset("id")?;
    dataset.batch.history = true;
    let history = dataset.history().ok_or("the dataset keeps no history")?;
    Ok((dataset, history))
}

impl<'h> Keeper<'h> {
    async fn new(harness: &'h dyn Harness) -> Checked<Keeper<'h>> {
        let (dataset, history) = keeping()?;
        fine("creating tables", harness.create(&dataset).await)?;
        let store = fine("opening the store", harness.open(&dataset).await)?;
        Ok(Keeper {
            harness,
            dataset,
            history,
            store,
        })
    }

    async fn try_load(&mut self, mode: Mode, versions: &[Version]) -> Checked<Result<Merged>> {
        let events: Vec<String> = versions.iter().map(|v| v.event.clone()).collect();
        let rows = rows(&self.dataset, &events)?;
        fine("staging", self.store.stage(&rows).await)?;
        Ok(self.store.merge(mode, &load_of(&fresh("run"))).await)
    }

    async fn load(&mut self, mode: Mode, versions: &[Version]) -> Checked<Merged> {
        let merged = self.try_load(mode, versions).await?;
        fine(&format!("merging by {}", mode.name()), merged)
    }

    async fn has_recorded(&self, what: &str, versions: &[&Version]) -> Verdict {
        let with_day = |v: &&Version| {
            let day = format!("{{\"as_of\":\"{}\",", v.day);
            v.event.replacen('{', &day, 1)
        };
        let events: Vec<String> = versions.iter().map(with_day).collect();
        let table = fine("opening it", self.harness.table(&self.history).await)?;
        holds_rows(
            format_args!("recorded {what}"),
            &self.history,
            table,
            &events,
        )
        .await
    }

    async fn has_stored(&self, what: &str, versions: &[&Version]) -> Verdict {
        let events: Vec<String> = versions.iter().map(|v| v.event.clone()).collect();
        let table = fine("opening it", self.harness.table(&self.dataset).await)?;
        holds_rows(format_args!("stored {what}"), &self.dataset, table, &events).await
    }
}

async fn every_mode_records_the_newest_of_each_day(harness: &dyn Harness) -> Verdict {
    for mode in MODES {
        let mut keeper = Keeper::new(harness).await?;
        let [early, late] = [
            at(1, "2026-01-01T08:00:00Z", "early"),
            at(1, "2026-01-01T20:00:00Z", "late"),
        ];
        let [before, other] = [at(1, "2025-12-30T08:00:00Z", "before"), at(2, NOON, "b")];
        let all = [early, before.clone(), late.clone(), other.clone()];
        keeper.load(mode, &all).await?;
        let what = format!("by {}", mode.name());
        keeper.has_stored(&what, &[&late, &other]).await?;
        keeper
            .has_recorded(&what, &[&before, &late, &other])
            .await?;
        if mode == Mode::Insert {
            continue; // a key that is stored fails the load
        }
        let [old, new] = [
            at(1, "2025-12-31T08:00:00Z", "old"),
            at(2, "2026-01-02T00:00:00Z", "n"),
        ];
        keeper.load(mode, &[old.clone(), new.clone()]).await?;
        // A day of which nothing was known, but nothing newer than what is stored.
        let with_new = [&before, &old, &late, &other, &new];
        let expected = match mode {
            Mode::Ignore => &with_new[..4],
            _ => &with_new,
        };
        keeper.has_recorded(&what, expected).await?;
    }
    Ok(())
}

/// The stored row of the key is recorded under its day. It is the last day's, unless the mode has put an older row in
/// the place of a newer one.
async fn each_mode_treats_the_recorded_row_as_the_stored_one(harness: &dyn Harness) -> Verdict {
    let noon = at(1, NOON, "noon");
    let earlier = at(1, "2026-01-01T08:00:00Z", "earlier");
    let later = at(1, "2026-01-01T20:00:00Z", "later");
    let next = at(1, "2026-01-02T08:00:00Z", "next day");
    let former = at(1, "2025-12-31T08:00:00Z", "day before");
    for mode in MODES.into_iter().filter(|mode| *mode != Mode::Insert) {
        for loaded in [&earlier, &later, &next, &former] {
            let is_newer = loaded.event == later.event || loaded.event == next.event;
            let is_stored = match mode {
                Mode::Ignore => false,
                Mode::UpdateIfNewer => is_newer,
                _ => true,
            };
            let stored = if is_stored { loaded } else { &noon };
            let mut recorded = vec![stored];
            if loaded.day != noon.day && is_stored {
                recorded.push(&noon);
            }
            if loaded.day < noon.day && !is_stored {
                recorded.push(loaded);
            }
            let mut keeper = Keeper::new(harness).await?;
            keeper
                .load(Mode::Upsert, std::slice::from_ref(&noon))
                .await?;
            for turn in ["", " again"] {
                keeper.load(mode, std::slice::from_ref(loaded)).await?;
                let what = format!("after {} by {}{turn}", loaded.event, mode.name());
                keeper.has_stored(&what, &[stored]).await?;
                keeper.has_recorded(&what, &recorded).await?;
            }
        }
    }
    Ok(())
}

async fn what_a_replacement_left_gives_way_to_the_stored_row(harness: &dyn Harness) -> Verdict {
    let evening = at(1, "2026-01-01T20:00:00Z", "evening");
    let morning = at(1, "2026-01-01T08:00:00Z", "morning");
    let other = at(2, NOON, "other");
    for mode in MODES {
        let mut keeper = Keeper::new(harness).await?;
        keeper
            .load(Mode::Upsert, std::slice::from_ref(&evening))
            .await?;
        keeper
            .load(Mode::Replace, std::slice::from_ref(&other))
            .await?;
        let what = "after a replacement without the key";
        keeper.has_recorded(what, &[&evening, &other]).await?;
        keeper.load(mode, std::slice::from_ref(&morning)).await?;
        let what = format!("after the key came back by {}", mode.name());
        let stored: &[&Version] = match mode.clears() {
            true => &[&morning],
            false => &[&morning, &other],
        };
        keeper.has_stored(&what, stored).await?;
        keeper.has_recorded(&what, &[&morning, &other]).await?;
    }
    Ok(())
}

async fn a_load_of_several_days_records_each_by_its_mode(harness: &dyn Harness) -> Verdict {
    for mode in MODES.into_iter().filter(|mode| *mode != Mode::Insert) {
        let mut keeper = Keeper::new(harness).await?;
        let recorded = [
            at(1, "2026-01-01T12:00:00Z", "noon"),
            at(1, "2026-01-02T12:00:00Z", "noon"),
            at(1, "2026-01-03T12:00:00Z", "noon"),
        ];
        keeper.load(Mode::Upsert, &recorded).await?;
        // The newest of each day comes in the middle.
        let [first, second, third] = [
            at(1, "2026-01-01T10:00:00Z", "earlier"),
            at(1, "2026-01-02T14:00:00Z", "later"),
            at(1, "2026-01-03T10:00:00Z", "earlier"),
        ];
        let load = [
            at(1, "2026-01-01T08:00:00Z", "early"),
            at(1, "2026-01-02T13:00:00Z", "early"),
            second.clone(),
            first.clone(),
            third.clone(),
            at(1, "2026-01-03T08:00:00Z", "early"),
            at(1, "2026-01-02T12:30:00Z", "early"),
        ];
        let expected = match mode {
            Mode::Ignore => [&recorded[0], &recorded[1], &recorded[2]],
            Mode::UpdateIfNewer => [&recorded[0], &second, &recorded[2]],
            _ => [&first, &second, &third],
        };
        for turn in ["at first", "again"] {
            keeper.load(mode, &load).await?;
            let what = format!("{turn} by {}", mode.name());
            keeper.has_stored(&what, &expected[2..]).await?;
            keeper.has_recorded(&what, &expected).await?;
        }
    }
    Ok(())
}

async fn versions_of_one_time_go_by_digest(harness: &dyn Harness) -> Verdict {
    for newest_comes_first in [true, false] {
        let mut keeper = Keeper::new(harness).await?;
        let pair = [at(1, NOON, "one").event, at(1, NOON, "another").event];
        let [newer, older] = newer_first(&keeper.dataset, pair)?.map(|event| Version {
            event,
            day: "2026-01-01".into(),
        });
        let order = match newest_comes_first {
            true => [newer.clone(), older],
            false => [older, newer.clone()],
        };
        for version in order.clone() {
            keeper.load(Mode::UpdateIfNewer, &[version]).await?;
        }
        keeper.has_recorded("of one time", &[&newer]).await?;
        for mode in MODES {
            let mut keeper = Keeper::new(harness).await?;
            keeper.load(mode, &order).await?;
            let what = format!("of one time, in one load by {}", mode.name());
            keeper.has_recorded(&what, &[&newer]).await?;
        }
    }
    Ok(())
}

async fn the_same_load_again_changes_nothing(harness: &dyn Harness) -> Verdict {
    for mode in MODES.into_iter().filter(|mode| *mode != Mode::Insert) {
        let mut keeper = Keeper::new(harness).await?;
        let load = [
            at(1, "2026-01-01T08:00:00Z", "a"),
            at(2, NOON, "b"),
            at(1, "2026-01-02T08:00:00Z", "c"),
        ];
        for turn in ["at first", "again", "a third time"] {
            keeper.load(mode, &load).await?;
            let what = format!("{turn} by {}", mode.name());
            keeper.has_recorded(&what, &load.each_ref()).await?;
        }
    }
    Ok(())
}

async fn days_are_those_of_utc(harness: &dyn Harness) -> Verdict {
    let mut keeper = Keeper::new(harness).await?;
    let times = [
        "0001-01-01T00:00:00Z",
        "1969-12-31T00:00:00Z",
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00Z",
        "2024-02-29T23:59:59.999Z",
        "2024-03-01T00:00:00Z",
    ];
    let versions: Vec<Version> = (0..)
        .zip(times)
        .map(|(id, time)| at(id, time, "a"))
        .collect();
    let shifted = Version {
        event: at(9, "2026-01-01T23:30:00-02:00", "a").event,
        day: "2026-01-02".into(),
    };
    let all = [versions, vec![shifted]].concat();
    keeper.load(Mode::UpdateIfNewer, &all).await?;
    let all: Vec<&Version> = all.iter().collect();
    keeper.has_recorded("of any year", &all).await
}

async fn a_replacement_deletes_no_history(harness: &dyn Harness) -> Verdict {
    for mode in [Mode::Replace, Mode::ReplaceOrEmpty] {
        let mut keeper = Keeper::new(harness).await?;
        let [one, two] = [at(1, NOON, "a"), at(2, NOON, "b")];
        keeper
            .load(Mode::Upsert, std::slice::from_ref(&one))
            .await?;
        keeper.load(mode, std::slice::from_ref(&two)).await?;
        keeper.has_stored("after it", &[&two]).await?;
        keeper.has_recorded("after it", &[&one, &two]).await?;
    }
    let mut keeper = Keeper::new(harness).await?;
    let one = at(1, NOON, "a");
    keeper
        .load(Mode::Upsert, std::slice::from_ref(&one))
        .await?;
    keeper.load(Mode::ReplaceOrEmpty, &[]).await?;
    keeper.has_stored("after nothing", &[]).await?;
    keeper.has_recorded("after nothing", &[&one]).await
}

async fn a_failed_load_records_nothing(harness: &dyn Harness) -> Verdict {
    let mut keeper = Keeper::new(harness).await?;
    let stored = at(1, NOON, "stored");
    keeper
        .load(Mode::Insert, std::slice::from_ref(&stored))
        .await?;
    fine(
        "arranging a refusal",
        harness.refuse(&keeper.dataset, "poison").await,
    )?;
    for (mode, batch) in [
        (
            Mode::Insert,
            [at(2, NOON, "a"), at(1, "2026-01-02T00:00:00Z", "b")],
        ),
        (
            Mode::UpdateIfNewer,
            [at(2, NOON, "a"), at(3, NOON, "poison")],
        ),
        (Mode::Replace, [at(2, NOON, "a"), at(3, NOON, "poison")]),
    ] {
        let loaded = keeper.try_load(mode, &batch).await?;
        holds(
            format_args!("a load by {} fails", mode.name()),
            loaded.is_err(),
        )?;
        keeper.has_recorded("after the failure", &[&stored]).await?;
        let opened = fine("opening the store", harness.open(&keeper.dataset).await)?;
        keeper.store = opened;
    }
    let nothing = keeper.try_load(Mode::Replace, &[]).await?;
    equal(
        "kind of the error",
        nothing.err().map(|e| e.kind()),
        Some(Kind::Missing),
    )?;
    keeper.has_recorded("after nothing", &[&stored]).await
}

async fn what_the_history_refuses_is_loaded_nowhere(harness: &dyn Harness) -> Verdict {
    let mut keeper = Keeper::new(harness).await?;
    let stored = at(1, NOON, "stored");
    keeper
        .load(Mode::Insert, std::slice::from_ref(&stored))
        .await?;
    fine(
        "arranging a refusal",
        harness.refuse(&keeper.history, "poison").await,
    )?;
    let batch = [at(2, NOON, "a"), at(3, NOON, "poison")];
    match keeper.try_load(Mode::UpdateIfNewer, &batch).await? {
        Ok(merged) => return Err(format!("expected that the load fails, got {merged:?}")),
        Err(e) => equal(format_args!("kind of {e}"), e.kind(), Kind::Data)?,
    }
    keeper.has_stored("after it", &[&stored]).await?;
    keeper.has_recorded("after it", &[&stored]).await
}

async fn a_missing_history_is_told_and_created(harness: &dyn Harness) -> Verdict {
    let (dataset, history) = keeping()?;
    let mut without = dataset.clone();
    without.batch.history = false;
    fine("creating tables", harness.create(&without).await)?;
    match harness.open(&dataset).await {
        Ok(_) => return Err("a store without the history's table opens".into()),
        Err(e) => {
            equal(format_args!("kind of {e}"), e.kind(), Kind::Invalid)?;
            let (told, table) = (e.to_string(), &history.batch.table);
            holds(format_args!("`{told}` names {table}"), told.contains(table))?;
            let hint = e.hint_text().unwrap_or_default();
            holds(
                format_args!("`{hint}` names `rtp init`"),
                hint.contains("rtp init"),
            )?;
        }
    }
    fine("creating them again", harness.create(&dataset).await)?;
    fine("opening the store", harness.open(&dataset).await)?;
    // Whoever does not keep it any more needs no table for it, and leaves the one that is there.
    fine("opening without it", harness.open(&without).await).map(|_| ())
}

async fn a_history_that_does_not_fit_is_told(harness: &dyn Harness) -> Verdict {
    for lacks in ["title", "as_of"] {
        let (dataset, history) = keeping()?;
        // A table of this name that has no title, or whose key has no date.
        let plain = match lacks {
            "title" => smaller(&history),
            _ => history,
        };
        fine("creating a plain table", harness.create(&plain).await)?;
        let mut without = dataset.clone();
        without.batch.history = false;
        fine("creating the batch table", harness.create(&without).await)?;
        let opened = harness.open(&dataset).await.map(|_| ());
        for (doing, result) in [
            ("creating", harness.create(&dataset).await),
            ("opening", opened),
        ] {
            let Err(e) = result else {
                return Err(format!(
                    "{doing} a history without a fitting {lacks} succeeds"
                ));
            };
            equal(format_args!("kind of {e}"), e.kind(), Kind::Invalid)?;
            let names = e.to_string().contains(lacks);
            holds(format_args!("`{e}` names {lacks}"), names)?;
        }
    }
    Ok(())
}
