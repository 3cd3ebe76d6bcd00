//! What every real-time store must do: one case for each guarantee of the port. The file is long because it is one list, of
//! cases that can each be read on their own.

use async_trait::async_trait;

use crate::dataset::{Bucket, Dataset, Series};
use crate::error::{Kind, Result};
use crate::ports::conformance::{
    Abilities, Checked, HARD_KEYS, Verdict, cases, dataset, equal, event, fine, fresh, hard_events,
    holds, holds_rows, is_told, keyed_events, misfits, newer_first, rows, smaller,
};
use crate::ports::event_log::{Offsets, Position, Span};
use crate::ports::realtime_store::{Backlog, RealtimeStore, Upsert, Upserted, Upstream};
use crate::ports::table_reader::TableReader;
use crate::record::event::Mark;

/// A real-time store to check. What it opens is dropped without being closed where a case simulates a crash.
#[async_trait]
pub trait Harness: Abilities + Send + Sync {
    /// Creates the dataset's tables where they are missing.
    async fn create(&self, dataset: &Dataset) -> Result<()>;

    /// The store for what a consumer group reads.
    async fn open(
        &self,
        dataset: &Dataset,
        upstream: Upstream<'_>,
    ) -> Result<Box<dyn RealtimeStore>>;

    /// The dataset's table, through another connection.
    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>>;

    /// The rows of the dataset's first series: start of the bucket in milliseconds since 1970, key and title.
    async fn series(&self, dataset: &Dataset) -> Result<Vec<(i64, i64, String)>>;

    /// Makes the store refuse every row with this title from now on.
    async fn refuse(&self, dataset: &Dataset, title: &str) -> Result<()>;

    /// Makes the store fail at every row with this title from now on.
    async fn fail_at(&self, dataset: &Dataset, title: &str) -> Result<()>;
}

cases! {
    dyn Harness;
    a_table_that_does_not_fit_is_told,
    committed_rows_survive_a_crash,
    rows_come_with_the_commit needs Transactions,
    an_error_leaves_nothing_behind needs Transactions FailsInTheMiddle,
    the_newest_event_wins_in_any_order,
    the_newest_event_of_a_batch_wins_and_the_others_are_counted,
    a_replay_of_older_events_changes_nothing,
    a_row_that_is_not_newer_is_counted_as_skipped needs ComparesVersions,
    an_absent_field_replaces_a_value,
    every_type_round_trips,
    keys_are_told_apart_by_their_bytes,
    a_refused_row_is_named_and_leaves_the_others needs RefusesRows,
    the_newest_row_that_is_not_refused_wins needs RefusesRows,
    a_series_has_the_newest_row_of_each_key_in_its_bucket,
    offsets_are_told_if_they_are_kept,
    offsets_come_with_the_commit needs Transactions,
    an_upsert_that_is_not_committed_moves_no_offsets needs Transactions,
    a_batch_without_rows_moves_the_offsets needs Transactions,
    an_overtaken_member_is_told_and_writes_nothing needs Transactions,
    a_mark_comes_back_with_its_offset needs Transactions,
    groups_have_their_own_offsets needs Transactions,
    offsets_of_another_topic_are_an_error needs Transactions,
    rows_kept_aside_come_with_the_merge needs Transactions KeepsAside,
    rows_kept_aside_can_be_forgotten needs Transactions KeepsAside,
    a_refused_row_fails_the_merge needs Transactions KeepsAside RefusesRows,
}

/// A member of a group of its own, and its position.
struct Writer {
    dataset: Dataset,
    group: String,
    store: Box<dyn RealtimeStore>,
    position: i64,
}

impl Writer {
    /// A store of new tables.
    async fn new(harness: &dyn Harness) -> Checked<Writer> {
        Writer::with_key(harness, "id").await
    }

    async fn with_key(harness: &dyn Harness, key: &str) -> Checked<Writer> {
        Writer::of(harness, dataset(key)?).await
    }

    async fn of(harness: &dyn Harness, dataset: Dataset) -> Checked<Writer> {
        fine("creating tables", harness.create(&dataset).await)?;
        let group = fresh("group");
        let store = open(harness, &dataset, &group).await?;
        Ok(Writer {
            dataset,
            group,
            store,
            position: 0,
        })
    }

    /// A crash: the store is dropped as it is and opened again.
    async fn crash(self, harness: &dyn Harness) -> Checked<Writer> {
        drop(self.store);
        let store = open(harness, &self.dataset, &self.group).await?;
        Ok(Writer { store, ..self })
    }

    /// Upserts the next events of partition 0, without a commit.
    async fn upsert(&mut self, events: &[String]) -> Checked<Upserted> {
        let span = span(self.position, self.position + events.len() as i64);
        let rows = rows(&self.dataset, events)?;
        match fine("upserting", self.store.upsert(&span, &rows).await)? {
            Upsert::Done(upserted) => Ok(upserted),
            Upsert::Superseded => Err("expected an upsert, got superseded".into()),
        }
    }

    /// Sets rows aside.
    async fn stage(&mut self, events: &[String]) -> Verdict {
        let rows = rows(&self.dataset, events)?;
        let kept = self.backlog()?.stage(&rows).await;
        fine("keeping rows aside", kept)
    }

    fn backlog(&mut self) -> Checked<&mut dyn Backlog> {
        self.store
            .backlog()
            .ok_or_else(|| "the store keeps nothing aside".into())
    }

    /// Merges the rows set aside as this many events, without a commit.
    async fn merge(&mut self, events: i64) -> Checked<Result<Upsert>> {
        let span = span(self.position, self.position + events);
        Ok(self.backlog()?.merge(&span).await)
    }

    async fn discard(&mut self) -> Verdict {
        fine("forgetting", self.backlog()?.discard().await)
    }

    /// Upserts and commits.
    async fn write(&mut self, events: &[String]) -> Checked<Upserted> {
        let upserted = self.upsert(events).await?;
        fine("committing", self.store.commit().await)?;
        self.position += events.len() as i64;
        Ok(upserted)
    }

    async fn holds(&self, harness: &dyn Harness, what: &str, events: &[String]) -> Verdict {
        let table = fine("opening the table", harness.table(&self.dataset).await)?;
        holds_rows(what, &self.dataset, table, events).await
    }

    async fn offsets(&mut self) -> Checked<Option<Offsets>> {
        fine("asking for the offsets", self.store.offsets().await)
    }
}

async fn open(
    harness: &dyn Harness,
    dataset: &Dataset,
    group: &str,
) -> Checked<Box<dyn RealtimeStore>> {
    open_of(harness, dataset, group, "topic").await
}

/// The store of what a group reads from a topic of this identity.
async fn open_of(
    harness: &dyn Harness,
    dataset: &Dataset,
    group: &str,
    topic: &str,
) -> Checked<Box<dyn RealtimeStore>> {
    let upstream = Upstream { group, topic };
    fine("opening the store", harness.open(dataset, upstream).await)
}

/// An offset of partition 0.
fn at(offset: i64) -> Offsets {
    Offsets::from([(0, offset)])
}

/// What lies between two offsets of partition 0.
fn span(from: i64, to: i64) -> Span {
    Span {
        from: at(from),
        to: at(to),
    }
}

/// An event for each of the ids, all at one second.
fn events(ids: std::ops::Range<i64>, second: u8, title: &str) -> Vec<String> {
    ids.map(|id| event(id, second, title)).collect()
}

async fn a_table_that_does_not_fit_is_told(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    let upstream = Upstream {
        group: "group",
        topic: "topic",
    };
    for (dataset, word) in misfits(&member.dataset) {
        let created = harness.create(&dataset).await;
        let opened = harness.open(&dataset, upstream).await;
        is_told(created, opened.map(|_| ()), word)?;
    }
    // The table is still the first one's, and one that needs less may use it, too.
    let fewer = smaller(&member.dataset);
    fine("creating for fewer fields", harness.create(&fewer).await)?;
    fine(
        "opening for fewer fields",
        harness.open(&fewer, upstream).await,
    )?;
    member.write(&events(0..1, 0, "a")).await?;
    member
        .holds(harness, "in the end", &events(0..1, 0, "a"))
        .await
}

async fn committed_rows_survive_a_crash(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    member.write(&events(0..10, 0, "a")).await?;
    let mut member = member.crash(harness).await?;
    member.write(&events(10..20, 0, "a")).await?;
    let member = member.crash(harness).await?;
    member
        .holds(harness, "after the crash", &events(0..20, 0, "a"))
        .await
}

async fn rows_come_with_the_commit(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    member.upsert(&events(0..10, 0, "a")).await?;
    member.holds(harness, "before the commit", &[]).await?;
    let mut member = member.crash(harness).await?;
    member.holds(harness, "after the crash", &[]).await?;
    // The next upsert replaces one that was never committed.
    member.upsert(&events(0..5, 0, "a")).await?;
    member.write(&events(5..8, 0, "a")).await?;
    member
        .holds(harness, "after the commit", &events(5..8, 0, "a"))
        .await
}

async fn an_error_leaves_nothing_behind(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    fine(
        "arranging a failure",
        harness.fail_at(&member.dataset, "broken").await,
    )?;
    let mut batch = events(0..10, 0, "a");
    batch[5] = event(5, 0, "broken");
    let dataset = member.dataset.clone();
    let failed = {
        let rows = rows(&dataset, &batch)?;
        member.store.upsert(&span(0, 10), &rows).await
    };
    holds("the upsert fails", failed.is_err())?;
    member.holds(harness, "after the error", &[]).await?;
    member.write(&events(20..25, 0, "a")).await?;
    member
        .holds(harness, "after the next upsert", &events(20..25, 0, "a"))
        .await
}

async fn the_newest_event_wins_in_any_order(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    let pair = [event(0, 5, "one"), event(0, 5, "another")];
    let [newest, same_time] = newer_first(&member.dataset, pair)?;
    let older = event(0, 4, "older");
    let versions = [&newest, &same_time, &older];
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    let mut expected = Vec::new();
    for (id, order) in (1..).zip(orders) {
        let of_key = |i: usize| versions[i].replace(r#""id":0"#, &format!(r#""id":{id}"#));
        // A different key has a different digest, so the order of the two is determined again.
        let pair = [of_key(0), of_key(1)];
        let [first, second] = newer_first(&member.dataset, pair)?;
        let of_key = [first, second, of_key(2)];
        for i in order {
            member.write(std::slice::from_ref(&of_key[i])).await?;
        }
        expected.push(of_key[0].clone());
    }
    member.holds(harness, "in every order", &expected).await
}

async fn the_newest_event_of_a_batch_wins_and_the_others_are_counted(
    harness: &dyn Harness,
) -> Verdict {
    let mut member = Writer::new(harness).await?;
    let pair = [event(2, 7, "one"), event(2, 7, "another")];
    let [newest, same_time] = newer_first(&member.dataset, pair)?;
    let batch = [
        event(1, 3, "b"),
        event(1, 9, "c"),
        event(1, 6, "a"),
        same_time.clone(),
        newest.clone(),
        same_time,
        event(3, 0, "alone"),
    ];
    let upserted = member.write(&batch).await?;
    equal("deduplicated", upserted.deduplicated, 4)?;
    equal("written", upserted.written, 3)?;
    let expected = [event(1, 9, "c"), newest, event(3, 0, "alone")];
    member.holds(harness, "of the batch", &expected).await
}

async fn a_replay_of_older_events_changes_nothing(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    let (old, new) = (events(0..10, 1, "old"), events(0..5, 2, "new"));
    member.write(&old).await?;
    member.write(&new).await?;
    let expected: Vec<String> = new.iter().chain(&old[5..]).cloned().collect();
    member
        .holds(harness, "before the replay", &expected)
        .await?;
    for batch in [&old, &new, &old] {
        member.write(batch).await?;
    }
    member.holds(harness, "after the replay", &expected).await
}

async fn a_row_that_is_not_newer_is_counted_as_skipped(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    member.write(&events(0..10, 5, "a")).await?;
    let mut batch = events(0..4, 5, "a");
    batch.extend(events(4..6, 4, "older"));
    batch.extend(events(6..7, 6, "newer"));
    batch.extend(events(10..12, 0, "new"));
    let upserted = member.write(&batch).await?;
    let expected = Upserted {
        written: 3,
        skipped: 6,
        ..Upserted::default()
    };
    equal("counts", upserted, expected)
}

async fn an_absent_field_replaces_a_value(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    let (full, bare) = (event(1, 1, "a"), r#"{"id":1,"at":"2026-01-01T00:00:02Z"}"#);
    member.write(&[full]).await?;
    let bare = [bare.to_string()];
    member.write(&bare).await?;
    member.holds(harness, "without the field", &bare).await
}

async fn every_type_round_trips(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    let events = hard_events();
    member.write(&events).await?;
    member.holds(harness, "of every type", &events).await
}

async fn keys_are_told_apart_by_their_bytes(harness: &dyn Harness) -> Verdict {
    for (key, values) in HARD_KEYS {
        let mut member = Writer::with_key(harness, key).await?;
        member.write(&keyed_events(key, &values, 1)).await?;
        let again = keyed_events(key, &values, 2);
        member.write(&again).await?;
        let what = format!("by {key}");
        member.holds(harness, &what, &again).await?;
    }
    Ok(())
}

async fn a_refused_row_is_named_and_leaves_the_others(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    fine(
        "arranging a refusal",
        harness.refuse(&member.dataset, "poison").await,
    )?;
    // In the order of keys, the refused one has a different position than in the batch.
    let mut batch: Vec<String> = (0..10).map(|id| event(9 - id, 0, "a")).collect();
    batch[3] = event(6, 0, "poison");
    let upserted = member.write(&batch).await?;
    let refused: Vec<usize> = upserted.refused.iter().map(|(i, _)| *i).collect();
    equal("index of the refused row", refused, vec![3])?;
    equal("written", upserted.written, 9)?;
    batch.remove(3);
    member
        .holds(harness, "besides the refused one", &batch)
        .await
}

async fn the_newest_row_that_is_not_refused_wins(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    let refuse = harness.refuse(&member.dataset, "poison").await;
    fine("arranging a refusal", refuse)?;
    let batch = [
        event(1, 3, "good"),
        event(2, 1, "good"),
        event(1, 9, "poison"),
        event(1, 1, "older"),
        event(3, 5, "poison"),
        event(1, 7, "poison"),
    ];
    let upserted = member.write(&batch).await?;
    let mut refused: Vec<usize> = upserted.refused.iter().map(|(i, _)| *i).collect();
    refused.sort_unstable();
    equal("indices of the refused rows", refused, vec![2, 4, 5])?;
    equal("written", upserted.written, 2)?;
    equal("deduplicated", upserted.deduplicated, 1)?;
    let expected = [event(1, 3, "good"), event(2, 1, "good")];
    member
        .holds(harness, "as if they had come one by one", &expected)
        .await
}

async fn a_series_has_the_newest_row_of_each_key_in_its_bucket(harness: &dyn Harness) -> Verdict {
    const HOUR: i64 = 3_600_000;
    let mut dataset = dataset("id")?;
    dataset.realtime.series.push(Series {
        table: fresh("series"),
        bucket: Bucket::Hour,
        shards: 2,
    });
    let mut member = Writer::of(harness, dataset).await?;
    // Versions of three keys, in hours that begin at these times; the second half is written later.
    let versions = [
        (1, "2026-01-01T00:10:00Z", "1, first", 1_767_225_600_000),
        (
            1,
            "2026-01-01T00:59:59.999Z",
            "1, same hour",
            1_767_225_600_000,
        ),
        (2, "1969-12-31T23:30:00Z", "2, before 1970", -HOUR),
        (3, "1969-12-31T23:00:00Z", "3, on the hour", -HOUR),
        (
            1,
            "2026-01-01T01:00:00Z",
            "1, next hour",
            1_767_225_600_000 + HOUR,
        ),
        (2, "1969-12-31T22:59:59.999Z", "2, late", -2 * HOUR),
        (3, "1970-01-01T00:00:00Z", "3, from 1970 on", 0),
    ];
    let events = versions
        .map(|(id, at, title, _)| format!(r#"{{"id":{id},"title":"{title}","at":"{at}"}}"#));
    for batch in [&events[..4], &events[4..], &events[..2]] {
        member.write(batch).await?;
    }
    let mut found = fine("reading the series", harness.series(&member.dataset).await)?;
    found.sort_unstable();
    for newest in [4, 2, 6] {
        let (id, _, title, bucket) = versions[newest];
        let is_there = found.contains(&(bucket, id, title.into()));
        holds(format_args!("`{title}` is in {found:?}"), is_there)?;
    }
    for row in &found {
        let mut versions = versions.iter();
        let is_one = versions.any(|(id, _, title, bucket)| *row == (*bucket, *id, (*title).into()));
        holds(format_args!("{row:?} is a version in its bucket"), is_one)?;
    }
    let rows = found.len();
    found.dedup();
    equal("rows without repetitions", found.len(), rows)
}

async fn offsets_are_told_if_they_are_kept(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    let keeps = !harness
        .lacks()
        .contains(&crate::ports::conformance::Ability::Transactions);
    let expected = keeps.then(Offsets::default);
    equal("offsets of a new group", member.offsets().await?, expected)
}

async fn offsets_come_with_the_commit(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    for _ in 0..2 {
        member.write(&events(0..5, 0, "a")).await?;
        let expected = Some(at(member.position));
        equal("offsets", member.offsets().await?, expected.clone())?;
        member = member.crash(harness).await?;
        equal("offsets after the crash", member.offsets().await?, expected)?;
    }
    Ok(())
}

async fn an_upsert_that_is_not_committed_moves_no_offsets(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    member.write(&events(0..5, 0, "a")).await?;
    member.upsert(&events(5..8, 0, "a")).await?;
    let mut member = member.crash(harness).await?;
    equal("offsets", member.offsets().await?, Some(at(5)))?;
    member
        .holds(harness, "after the crash", &events(0..5, 0, "a"))
        .await
}

async fn a_batch_without_rows_moves_the_offsets(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    let dataset = member.dataset.clone();
    let none = rows(&dataset, &[])?;
    let done = fine("upserting", member.store.upsert(&span(0, 7), &none).await)?;
    equal("the upsert", done, Upsert::Done(Upserted::default()))?;
    fine("committing", member.store.commit().await)?;
    let mut member = member.crash(harness).await?;
    equal("offsets", member.offsets().await?, Some(at(7)))
}

async fn an_overtaken_member_is_told_and_writes_nothing(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    let mut late = open(harness, &member.dataset, &member.group).await?;
    let mine = events(0..5, 0, "a");
    member.write(&mine).await?;
    let dataset = member.dataset.clone();
    let others = events(5..15, 0, "b");
    let rows = rows(&dataset, &others)?;
    let told = fine("upserting", late.upsert(&span(0, 10), &rows).await)?;
    equal("the late upsert", told, Upsert::Superseded)?;
    member.holds(harness, "after it", &mine).await?;
    equal("offsets after it", member.offsets().await?, Some(at(5)))?;
    // The other member continues from the group's offsets.
    let done = fine("upserting", late.upsert(&span(5, 15), &rows).await)?;
    holds("the next upsert is done", matches!(done, Upsert::Done(_)))?;
    fine("committing", late.commit().await)?;
    equal("offsets in the end", member.offsets().await?, Some(at(15)))
}

async fn a_mark_comes_back_with_its_offset(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    let none = rows(&member.dataset, &[])?;
    for (offset, mark) in [(7, Some(Mark(i64::MIN))), (8, Some(Mark(-1))), (9, None)] {
        let mut moved = span(member.position, offset);
        moved.to.set(
            0,
            Position {
                offset,
                before: mark,
            },
        );
        fine("upserting", member.store.upsert(&moved, &none).await)?;
        fine("committing", member.store.commit().await)?;
        member.position = offset;
        member = member.crash(harness).await?;
        let stored = member.offsets().await?.and_then(|at| at.position(0));
        equal(
            "the position",
            stored.map(|at| (at.offset, at.before)),
            Some((offset, mark)),
        )?;
    }
    Ok(())
}

async fn groups_have_their_own_offsets(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    member.write(&events(0..5, 0, "a")).await?;
    let mut other = open(harness, &member.dataset, &fresh("group")).await?;
    let offsets = fine("asking for the offsets", other.offsets().await)?;
    let none = Some(Offsets::default());
    equal("offsets of another group", offsets, none)
}

async fn offsets_of_another_topic_are_an_error(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    let stored = events(0..5, 0, "a");
    member.write(&stored).await?;
    let (dataset, group) = (member.dataset.clone(), member.group.clone());
    let mut other = open_of(harness, &dataset, &group, "another topic").await?;
    let told = other.offsets().await.map_err(|e| e.kind());
    equal("the offsets", told, Err(Kind::Missing))?;
    let rows = rows(&dataset, &events(5..10, 0, "b"))?;
    let told = fine("upserting", other.upsert(&span(5, 10), &rows).await)?;
    equal("the upsert", told, Upsert::Superseded)?;
    member.holds(harness, "after it", &stored).await?;
    let mut other = open_of(harness, &dataset, &fresh("group"), "another topic").await?;
    let offsets = fine("asking for the offsets", other.offsets().await)?;
    equal(
        "offsets of another group",
        offsets,
        Some(Offsets::default()),
    )
}

async fn rows_kept_aside_come_with_the_merge(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    member.stage(&events(0..10, 0, "lost")).await?;
    let mut member = member.crash(harness).await?;
    member.write(&events(0..3, 5, "stored")).await?;
    let stored = events(0..3, 5, "stored");
    // Of one key some are newer and some older, both among the rows set aside and against the stored one.
    member.stage(&events(2..10, 1, "older")).await?;
    member.stage(&events(2..10, 7, "newer")).await?;
    member.holds(harness, "before the merge", &stored).await?;
    let merged = fine("merging", member.merge(16).await?)?;
    let expected = Upserted {
        written: 8,
        deduplicated: 8,
        ..Upserted::default()
    };
    equal("the merge", merged, Upsert::Done(expected))?;
    member.holds(harness, "before the commit", &stored).await?;
    fine("committing", member.store.commit().await)?;
    let mut all = events(0..2, 5, "stored");
    all.extend(events(2..10, 7, "newer"));
    member.holds(harness, "after the commit", &all).await?;
    equal("offsets", member.offsets().await?, Some(at(19)))?;
    let again = fine("merging nothing", {
        member.position = 19;
        member.merge(1).await?
    })?;
    equal("the next merge", again, Upsert::Done(Upserted::default()))
}

async fn rows_kept_aside_can_be_forgotten(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    member.stage(&events(0..10, 0, "a")).await?;
    member.discard().await?;
    fine("merging", member.merge(10).await?)?;
    fine("committing", member.store.commit().await)?;
    member.holds(harness, "after the commit", &[]).await
}

async fn a_refused_row_fails_the_merge(harness: &dyn Harness) -> Verdict {
    let mut member = Writer::new(harness).await?;
    fine(
        "arranging a refusal",
        harness.refuse(&member.dataset, "poison").await,
    )?;
    let mut batch = events(0..10, 0, "a");
    batch[3] = event(3, 0, "poison");
    member.stage(&batch).await?;
    match member.merge(10).await? {
        Err(e) => equal("kind of the error", e.kind(), Kind::Data)?,
        Ok(merged) => return Err(format!("expected an error, got {merged:?}")),
    }
    member.discard().await?;
    member.holds(harness, "after the refusal", &[]).await?;
    let upserted = member.write(&batch).await?;
    equal("written one by one", upserted.written, 9)
}
