//! What every reader of a store's table must do: one case for each guarantee of the port.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use async_trait::async_trait;

use crate::dataset::{Dataset, Field};
use crate::error::{Kind, Result};
use crate::ports::conformance::pages::{
    a_key_that_does_not_fit_is_told_and_ends_no_page, pages_have_every_key_once_in_order,
    pages_have_only_newer_rows, pages_have_only_rows_with_these_values,
};
use crate::ports::conformance::{
    Abilities, Checked, HARD_KEYS, Stored, Verdict, cases, dataset, equal, event, fine,
    hard_events, holds, holds_rows, keyed_events, rows, stored,
};
use crate::ports::table_reader::{
    EncodedRow, EncodedVisitor, Provenance, StoredRow, TableReader, Visitor,
};
use crate::record::row::Rows;
use crate::record::value::Value;

/// A store's table to check.
#[async_trait]
pub trait Harness: Abilities + Send + Sync {
    /// Creates the dataset's tables where they are missing.
    async fn create(&self, dataset: &Dataset) -> Result<()>;

    /// Stores rows and commits them.
    async fn write(&self, dataset: &Dataset, rows: &Rows) -> Result<()>;

    /// Opens the table.
    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>>;

    /// What the store keeps besides the values.
    fn keeps(&self) -> Kept {
        Kept::default()
    }

    /// Puts a text into this number column of the row whose key is 1.
    async fn plant_text(&self, dataset: &Dataset, column: &str, text: &str) -> Result<()>;
}

/// What a store keeps about a row besides its values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kept {
    /// The origin.
    pub origin: bool,
    /// The digest.
    pub digest: bool,
    /// The write timestamps of the columns.
    pub write_timestamps: bool,
}

cases! {
    dyn Harness;
    a_scan_lends_every_row_once,
    only_wanted_rows_are_lent,
    a_break_ends_the_reading_without_an_error,
    read_lends_the_rows_of_these_keys_as_they_are_now,
    keys_are_told_apart_by_their_bytes,
    every_type_round_trips,
    encodings_are_those_of_the_values,
    foreign_values_are_handed_over needs HoldsForeignValues,
    pages_have_every_key_once_in_order,
    pages_have_only_rows_with_these_values,
    pages_have_only_newer_rows,
    a_key_that_does_not_fit_is_told_and_ends_no_page needs HoldsForeignValues,
    provenance_is_what_was_written,
    provenance_is_that_of_the_row_now,
    keys_are_unique_in_tables_of_our_own,
    a_missing_table_or_column_is_an_error,
    no_writer_is_made_to_wait,
    a_scan_shows_no_half_of_a_load needs Transactions,
}

/// How long a writer may take during a scan.
const PATIENCE: Duration = Duration::from_secs(30);

/// A visitor that keeps the rows it is lent.
struct Keeper<W> {
    wants: W,
    rows: Vec<Stored>,
    most: usize,
}

impl<W: FnMut(&Value<'_>) -> bool + Send> Keeper<W> {
    fn new(wants: W) -> Self {
        Keeper {
            wants,
            rows: Vec::new(),
            most: usize::MAX,
        }
    }

    /// The values of a column, sorted.
    fn ints(&self, column: usize) -> Vec<i64> {
        let mut ints: Vec<i64> = self
            .rows
            .iter()
            .filter_map(|row| match row[column] {
                Value::Int(n) => Some(n),
                _ => None,
            })
            .collect();
        ints.sort_unstable();
        ints
    }
}

impl<W: FnMut(&Value<'_>) -> bool + Send> Visitor for Keeper<W> {
    fn wants(&mut self, key: &Value<'_>) -> bool {
        (self.wants)(key)
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        self.rows.push(stored(row.values.iter().cloned()));
        match self.rows.len() < self.most {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}

async fn create(harness: &dyn Harness, key: &str) -> Checked<Dataset> {
    let dataset = dataset(key)?;
    fine("creating tables", harness.create(&dataset).await)?;
    Ok(dataset)
}

async fn write(harness: &dyn Harness, dataset: &Dataset, events: &[String]) -> Verdict {
    let rows = rows(dataset, events)?;
    fine("writing", harness.write(dataset, &rows).await)
}

async fn open(harness: &dyn Harness, dataset: &Dataset) -> Checked<Box<dyn TableReader>> {
    fine("opening the table", harness.table(dataset).await)
}

/// Events of keys 0 and up.
fn events(count: i64, second: u8) -> Vec<String> {
    (0..count).map(|id| event(id, second, "a")).collect()
}

async fn a_scan_lends_every_row_once(harness: &dyn Harness) -> Verdict {
    let dataset = create(harness, "id").await?;
    let mut table = open(harness, &dataset).await?;
    let mut keeper = Keeper::new(|_: &Value<'_>| true);
    fine("scanning", table.scan(&mut keeper).await)?;
    equal("rows of an empty table", keeper.rows.len(), 0)?;
    write(harness, &dataset, &events(2_000, 0)).await?;
    for scan in ["first", "second"] {
        let mut keeper = Keeper::new(|_: &Value<'_>| true);
        fine("scanning", table.scan(&mut keeper).await)?;
        let expected: Vec<i64> = (0..2_000).collect();
        equal(
            format_args!("keys of the {scan} scan"),
            keeper.ints(0),
            expected,
        )?;
    }
    Ok(())
}

async fn only_wanted_rows_are_lent(harness: &dyn Harness) -> Verdict {
    let dataset = create(harness, "id").await?;
    write(harness, &dataset, &events(100, 0)).await?;
    let mut table = open(harness, &dataset).await?;
    let mut keeper = Keeper::new(|key: &Value<'_>| matches!(key, Value::Int(10..13)));
    fine("scanning", table.scan(&mut keeper).await)?;
    equal("keys lent", keeper.ints(0), vec![10, 11, 12])
}

async fn a_break_ends_the_reading_without_an_error(harness: &dyn Harness) -> Verdict {
    let dataset = create(harness, "id").await?;
    write(harness, &dataset, &events(1_000, 0)).await?;
    let mut table = open(harness, &dataset).await?;
    let keys: Vec<Value<'_>> = (0..1_000).map(Value::Int).collect();
    for way in ["scanning", "reading"] {
        let mut keeper = Keeper::new(|_: &Value<'_>| true);
        keeper.most = 3;
        let ended = match way {
            "scanning" => table.scan(&mut keeper).await,
            _ => table.read(&keys, &mut keeper).await,
        };
        fine(way, ended)?;
        equal(
            format_args!("rows lent by {way} until the break"),
            keeper.rows.len(),
            3,
        )?;
    }
    Ok(())
}

async fn read_lends_the_rows_of_these_keys_as_they_are_now(harness: &dyn Harness) -> Verdict {
    let dataset = create(harness, "id").await?;
    write(harness, &dataset, &events(1_000, 0)).await?;
    let mut table = open(harness, &dataset).await?;
    for (second, title) in [(0, "a"), (1, "b")] {
        // 700 keys that are there, and 300 that are not.
        let keys: Vec<Value<'_>> = (300..1_300).map(Value::Int).collect();
        let mut keeper = Keeper::new(|_: &Value<'_>| true);
        fine("reading", table.read(&keys, &mut keeper).await)?;
        let expected: Vec<i64> = (300..1_000).collect();
        equal("keys lent", keeper.ints(0), expected)?;
        let titled = |row: &&Stored| row[1] == Value::Text(title.into());
        let is_now = keeper.rows.iter().filter(titled).count();
        equal(format_args!("rows as of second {second}"), is_now, 700)?;
        let next: Vec<String> = (0..1_000).map(|id| event(id, 1, "b")).collect();
        write(harness, &dataset, &next).await?;
    }
    let mut keeper = Keeper::new(|_: &Value<'_>| true);
    fine("reading no key", table.read(&[], &mut keeper).await)?;
    equal("rows of no key", keeper.rows.len(), 0)
}

async fn keys_are_told_apart_by_their_bytes(harness: &dyn Harness) -> Verdict {
    for (key, values) in HARD_KEYS {
        let dataset = create(harness, key).await?;
        let events = keyed_events(key, &values, 1);
        write(harness, &dataset, &events).await?;
        let mut table = open(harness, &dataset).await?;
        let expected = rows(&dataset, &events)?;
        for (i, written) in values.iter().enumerate() {
            let mut keeper = Keeper::new(|_: &Value<'_>| true);
            let asked = expected.value(i, dataset.event.key);
            fine("reading", table.read(&[asked], &mut keeper).await)?;
            let row = vec![stored(expected.values(i))];
            equal(format_args!("rows of {key} {written}"), keeper.rows, row)?;
        }
    }
    Ok(())
}

async fn every_type_round_trips(harness: &dyn Harness) -> Verdict {
    let dataset = create(harness, "id").await?;
    let events = hard_events();
    write(harness, &dataset, &events).await?;
    holds_rows(
        "of every type",
        &dataset,
        open(harness, &dataset).await?,
        &events,
    )
    .await
}

async fn encodings_are_those_of_the_values(harness: &dyn Harness) -> Verdict {
    /// Keys and rows.
    #[derive(Default)]
    struct Encodings(Vec<[Vec<u8>; 2]>);
    impl EncodedVisitor for Encodings {
        fn wants(&mut self, _: &[u8]) -> bool {
            true
        }
        fn row(&mut self, row: EncodedRow<'_>) -> ControlFlow<()> {
            self.0.push([row.key.to_vec(), row.columns.to_vec()]);
            ControlFlow::Continue(())
        }
    }
    let mut dataset = create(harness, "id").await?;
    let events = hard_events();
    write(harness, &dataset, &events).await?;
    let mut table = open(harness, &dataset).await?;
    let time = dataset.event.time;
    dataset.digest_order.retain(|i| *i != time); // a column that is not compared
    let mut encodings = Encodings::default();
    let scanned = table.scan_encoded(&dataset, &mut encodings).await;
    fine("scanning", scanned)?;
    let rows = rows(&dataset, &events)?;
    let mut expected = Vec::new();
    for i in 0..rows.len() {
        let (mut key, mut columns) = (Vec::new(), Vec::new());
        rows.value(i, dataset.event.key).encode(&mut key);
        for column in &dataset.digest_order {
            rows.value(i, *column).encode(&mut columns);
        }
        expected.push([key, columns]);
    }
    encodings.0.sort_unstable();
    expected.sort_unstable();
    equal("encodings", encodings.0, expected)
}

async fn foreign_values_are_handed_over(harness: &dyn Harness) -> Verdict {
    /// Keys and foreign fields.
    #[derive(Default)]
    struct Strangers(Vec<(Value<'static>, Vec<usize>)>);
    impl Visitor for Strangers {
        fn wants(&mut self, _: &Value<'_>) -> bool {
            true
        }
        fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
            let fields = row.foreign.iter().map(|f| f.field).collect();
            let values = stored(row.values.iter().cloned());
            self.0.push((values[3].clone(), fields));
            ControlFlow::Continue(())
        }
    }
    let dataset = create(harness, "id").await?;
    write(harness, &dataset, &[event(1, 0, "a")]).await?;
    let planted = harness.plant_text(&dataset, "small", "twelve").await;
    fine("planting a text", planted)?;
    let mut table = open(harness, &dataset).await?;
    let mut strangers = Strangers::default();
    fine("scanning", table.scan(&mut strangers).await)?;
    let expected = vec![(Value::Null, vec![3])];
    equal("value and foreign fields of the row", strangers.0, expected)
}

/// What the store should keep about these rows, by key.
fn kept(harness: &dyn Harness, dataset: &Dataset, rows: &Rows) -> Vec<Provenance> {
    let Kept {
        origin,
        digest,
        write_timestamps,
    } = harness.keeps();
    let of = |i: usize| {
        let (meta, written) = (rows.meta(i), rows.meta(i).write_timestamp());
        Provenance {
            key: rows.value(i, dataset.event.key).owned(),
            origin: origin.then_some(meta.origin),
            digest: digest.then_some(meta.digest),
            write_timestamps: write_timestamps.then_some([written; 2]),
        }
    };
    sorted((0..rows.len()).map(of).collect())
}

fn sorted(mut provenance: Vec<Provenance>) -> Vec<Provenance> {
    provenance.sort_by_key(|p| p.key.to_string());
    provenance
}

async fn provenance_is_what_was_written(harness: &dyn Harness) -> Verdict {
    for (key, values) in HARD_KEYS {
        let dataset = create(harness, key).await?;
        let mut written = keyed_events(key, &values, 0);
        if key == "id" {
            written.extend((100..700).map(|id| event(id, 1, "a"))); // more than are asked about at once
        }
        write(harness, &dataset, &written).await?;
        let rows = rows(&dataset, &written)?;
        let mut table = open(harness, &dataset).await?;
        let keys: Vec<Value<'_>> = (0..rows.len())
            .map(|i| rows.value(i, dataset.event.key))
            .collect();
        let told = fine("asking for provenance", table.provenance(&keys).await)?;
        let (told, expected) = (sorted(told), kept(harness, &dataset, &rows));
        equal(format_args!("keys by {key}"), told.len(), expected.len())?;
        for (told, expected) in told.into_iter().zip(expected) {
            equal(format_args!("provenance by {key}"), told, expected)?;
        }
        let missing = match key {
            "title" => Value::Text("b".into()),
            "code" => Value::Uuid(uuid::Uuid::from_u128(77)),
            _ => Value::Int(77),
        };
        let told = table.provenance(&[missing]).await;
        let told = fine("asking for provenance", told)?;
        equal("provenance of missing keys", told, Vec::new())?;
    }
    Ok(())
}

async fn provenance_is_that_of_the_row_now(harness: &dyn Harness) -> Verdict {
    let dataset = create(harness, "id").await?;
    let mut table = open(harness, &dataset).await?;
    let keys = [Value::Int(0), Value::Int(1), Value::Int(2)];
    for second in [1, 2] {
        // The order of the events is another one, and so are their origins.
        let mut now = events(3, second);
        now.rotate_left(second.into());
        write(harness, &dataset, &now).await?;
        let told = fine("asking for provenance", table.provenance(&keys).await)?;
        let expected = kept(harness, &dataset, &rows(&dataset, &now)?);
        equal("provenance", sorted(told), expected)?;
    }
    Ok(())
}

async fn keys_are_unique_in_tables_of_our_own(harness: &dyn Harness) -> Verdict {
    let dataset = create(harness, "id").await?;
    let table = open(harness, &dataset).await?;
    equal("unique keys", table.has_unique_keys(), true)
}

async fn a_missing_table_or_column_is_an_error(harness: &dyn Harness) -> Verdict {
    let there = create(harness, "id").await?;
    let mut wider = there.clone();
    let more = Field {
        name: "more".into(),
        required: false,
        ..there.fields[1].clone()
    };
    wider.fields.push(more);
    for (what, dataset) in [("table", dataset("id")?), ("column", wider)] {
        let opened = match harness.table(&dataset).await {
            Ok(mut table) => table.scan(&mut Keeper::new(|_: &Value<'_>| true)).await,
            Err(e) => Err(e),
        };
        let kind = opened.map_err(|e| e.kind());
        equal(
            format_args!("reading without the {what}"),
            kind,
            Err(Kind::Invalid),
        )?;
    }
    Ok(())
}

/// Stops at the first row until it is told to continue.
struct Waiter {
    at_a_row: Option<SyncSender<()>>,
    go_on: Receiver<()>,
    titles: Vec<Value<'static>>,
}

impl Visitor for Waiter {
    fn wants(&mut self, _: &Value<'_>) -> bool {
        true
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        self.titles.extend(stored(row.values[1..2].iter().cloned()));
        let Some(at_a_row) = self.at_a_row.take() else {
            return ControlFlow::Continue(());
        };
        let waited = at_a_row.send(()).is_ok() && self.go_on.recv_timeout(PATIENCE).is_ok();
        match waited {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()), // nobody tells us to continue: the writer has failed
        }
    }
}

/// Writes newer rows in the middle of a scan; returns the titles that the scan saw.
async fn scan_beside_a_writer(harness: &dyn Harness) -> Checked<Vec<Value<'static>>> {
    let dataset = create(harness, "id").await?;
    write(harness, &dataset, &events(2_000, 0)).await?;
    let mut table = open(harness, &dataset).await?;
    let (at_a_row, first) = sync_channel(1);
    let (done, go_on) = sync_channel(1);
    let mut waiter = Waiter {
        at_a_row: Some(at_a_row),
        go_on,
        titles: Vec::new(),
    };
    let scan = tokio::spawn(async move {
        let scanned = table.scan(&mut waiter).await;
        (scanned, waiter.titles)
    });
    let is_under_way = tokio::task::block_in_place(|| first.recv_timeout(PATIENCE).is_ok());
    holds("the scan comes to a row", is_under_way)?;
    let newer: Vec<String> = (0..2_000).map(|id| event(id, 1, "b")).collect();
    write(harness, &dataset, &newer).await?;
    done.send(())
        .map_err(|e| format!("the scan has ended before the writer: {e}"))?;
    let (scanned, titles) = scan.await.map_err(|e| e.to_string())?;
    fine("scanning", scanned)?;
    Ok(titles)
}

async fn no_writer_is_made_to_wait(harness: &dyn Harness) -> Verdict {
    let titles = scan_beside_a_writer(harness).await?;
    equal("rows of the scan", titles.len(), 2_000)
}

async fn a_scan_shows_no_half_of_a_load(harness: &dyn Harness) -> Verdict {
    let mut titles = scan_beside_a_writer(harness).await?;
    titles.dedup();
    equal("titles met in turn", titles, vec![Value::Text("a".into())])
}
