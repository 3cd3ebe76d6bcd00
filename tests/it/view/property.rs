//! Whatever is loaded and streamed while a listing is read: it shows no row that is older than what either layer held
//! before, no key twice, and every key that it should.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rtp::dataset::Dataset;
use rtp::ports::batch_store::{BatchStores, Mode};
use rtp::ports::event_log::{Offsets, Span};
use rtp::ports::ledger::LoadInfo;
use rtp::ports::realtime_store::{RealtimeStores, Upstream};
use rtp::record::row::{Digest, Origin, RowMeta, Rows, digest};
use rtp::record::value::Value;
use rtp::servers::sqlite::Sqlite;
use rtp::view::merge::Merged;
use rtp::view::{Query, View, Walk};

const DATASET: &str = r#"
name = "things"
[source]
url = "http://localhost/"
records = ""
[source.pagination]
style = "none"
[event]
topic = "things"
key = "id"
time = "at"
[realtime]
keyspace = "k"
table = "things"
[batch]
table = "batch_things"
[[field]]
name = "id"
type = "bigint"
from = "/id"
required = true
[[field]]
name = "title"
type = "text"
from = "/title"
[[field]]
name = "at"
type = "timestamp"
from = "/at"
required = true
"#;

/// Event time and digest.
type Version = (i64, Digest);

/// Versions of rows, by key.
type Held = BTreeMap<i64, Version>;

/// A key, an event time, and a text that makes rows of one time differ.
type Written = (i64, i64, u8);

/// A pair of embedded stores, and what they have acknowledged.
struct Layers {
    _folder: tempfile::TempDir,
    dataset: Arc<Dataset>,
    realtime: Sqlite,
    batch: Sqlite,
    /// The newest version of each key that was committed, of the real-time and of the batch store.
    held: Mutex<[Held; 2]>,
}

impl Layers {
    async fn new() -> Layers {
        let folder = tempfile::tempdir().unwrap();
        let dataset = Arc::new(Dataset::parse(DATASET, "things").unwrap());
        let realtime = Sqlite(folder.path().join("realtime.db"));
        let batch = Sqlite(folder.path().join("batch.db"));
        RealtimeStores::create(&realtime, &dataset).await.unwrap();
        BatchStores::create(&batch, &dataset).await.unwrap();
        Layers {
            _folder: folder,
            dataset,
            realtime,
            batch,
            held: Mutex::default(),
        }
    }

    fn rows(&self, written: &[Written]) -> (Rows, Vec<(i64, Version)>) {
        let dataset = &self.dataset;
        let mut rows = Rows::new(dataset.fields.len());
        let mut versions = Vec::new();
        for (key, time, text) in written {
            let mut values = vec![Value::Null; dataset.fields.len()];
            values[dataset.event.key] = Value::Int(*key);
            values[dataset.event.time] = Value::Timestamp(*time);
            let text_field = dataset.field_index("title").unwrap();
            values[text_field] = Value::Text(format!("text {text}").into());
            let digest = digest(dataset, &values, &mut Vec::new());
            let meta = RowMeta {
                event_time: *time,
                digest,
                origin: Origin::default(),
            };
            rows.push(&values, meta);
            versions.push((*key, meta.version()));
        }
        (rows, versions)
    }

    fn acknowledge(&self, layer: usize, versions: Vec<(i64, Version)>) {
        let mut held = self.held.lock().unwrap();
        for (key, version) in versions {
            let newest = held[layer].entry(key).or_insert(version);
            *newest = version.max(*newest);
        }
    }

    async fn stream(&self, written: &[Written]) {
        let (rows, versions) = self.rows(written);
        let upstream = Upstream {
            group: "group",
            topic: "topic",
        };
        let store = RealtimeStores::open(&self.realtime, &self.dataset, upstream).await;
        let mut store = store.unwrap();
        let at = store.offsets().await.unwrap().unwrap().get(0).unwrap_or(0);
        let span = Span {
            from: Offsets::from([(0, at)]),
            to: Offsets::from([(0, at + written.len() as i64)]),
        };
        store.upsert(&span, &rows).await.unwrap();
        store.commit().await.unwrap();
        self.acknowledge(0, versions);
    }

    async fn load(&self, written: &[Written]) {
        let (rows, versions) = self.rows(written);
        let store = BatchStores::open(&self.batch, &self.dataset).await;
        let mut store = store.unwrap();
        store.stage(&rows).await.unwrap();
        let info = LoadInfo {
            run_id: "run".into(),
            newest: written.iter().map(|(_, time, _)| *time).max(),
            ..LoadInfo::default()
        };
        store.merge(Mode::UpdateIfNewer, &info).await.unwrap();
        self.acknowledge(1, versions);
    }

    async fn view(&self) -> View {
        let view = View::open(&self.dataset, &self.realtime, &self.batch).await;
        view.unwrap()
    }

    fn held(&self) -> [Held; 2] {
        self.held.lock().unwrap().clone()
    }
}

/// The number of a row's key, and its version.
fn version_of(row: &Merged) -> (i64, Version) {
    let Value::Int(key) = row.row.values[0] else {
        panic!("no key: {row:?}");
    };
    (key, row.row.version())
}

/// An error if a row that is shown is older than what was held when its page was asked for.
fn none_is_older(held: &[Held; 2], shown: &[(i64, Version)]) -> Result<(), String> {
    for (key, version) in shown {
        for layer in held {
            if layer.get(key).is_some_and(|there| there > version) {
                return Err(format!("{key} is older than what a layer held"));
            }
        }
    }
    Ok(())
}

/// An error if keys are not in order, or one that was held from the start is not shown.
fn all_are_shown(held: &[Held; 2], boundary: Option<i64>, shown: &[i64]) -> Result<(), String> {
    if !shown.windows(2).all(|pair| pair[0] < pair[1]) {
        return Err(format!("keys come twice or out of order: {shown:?}"));
    }
    let is_new = |time: i64| boundary.is_none_or(|boundary| time > boundary);
    let realtime = held[0].iter().filter(|(_, (time, _))| is_new(*time));
    for (key, _) in realtime.chain(&held[1]) {
        if shown.binary_search(key).is_err() {
            return Err(format!("{key} is not shown"));
        }
    }
    Ok(())
}

/// What happens between two pages of a listing, or before it.
#[derive(Clone, Debug)]
enum Step {
    Stream(Vec<Written>),
    Load(Vec<Written>),
    Page(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let written = || prop::collection::vec((0_i64..60, 1_i64..50, 0_u8..3), 1..12);
    let step = prop_oneof![
        written().prop_map(Step::Stream),
        written().prop_map(Step::Load),
        (1_usize..9).prop_map(Step::Page),
    ];
    prop::collection::vec(step, 1..24)
}

/// Writes and reads in this order; the listing begins with the first page.
async fn walks(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let layers = Layers::new().await;
    let mut view = layers.view().await;
    let mut walk: Option<(Walk, [Held; 2], Option<i64>)> = None;
    let mut shown = Vec::new();
    for step in steps.into_iter().chain([Step::Page(usize::MAX)]) {
        match step {
            Step::Stream(written) => layers.stream(&written).await,
            Step::Load(written) => layers.load(&written).await,
            Step::Page(most) => {
                if walk.is_none() {
                    let query = Query {
                        boundary: view.boundary().await.unwrap(),
                        ..Query::default()
                    };
                    let boundary = query.boundary;
                    walk = Some((Walk::new(query, 4), layers.held(), boundary));
                }
                let (walk, ..) = walk.as_mut().unwrap();
                let held = layers.held();
                while !walk.is_end() {
                    let rows = walk.next(&mut view, most.min(64)).await.unwrap();
                    let versions: Vec<_> = rows.iter().map(version_of).collect();
                    none_is_older(&held, &versions).map_err(TestCaseError::fail)?;
                    shown.extend(versions.iter().map(|(key, _)| *key));
                    if most != usize::MAX {
                        break;
                    }
                }
            }
        }
    }
    let (_, held, boundary) = walk.unwrap();
    all_are_shown(&held, boundary, &shown).map_err(TestCaseError::fail)
}

#[test]
fn a_listing_is_right_whatever_is_written_between_its_pages() {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    proptest!(ProptestConfig::with_cases(24), |(steps in steps())| {
        runtime.block_on(walks(steps))?;
    });
}

/// Numbers that look random; the same for the same seed.
fn random(seed: &mut u64) -> i64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    i64::try_from(*seed >> 33).unwrap()
}

/// Writes rows of random keys at ever later times until told to stop.
async fn write(layers: Arc<Layers>, is_batch: bool, done: Arc<AtomicBool>) {
    let mut seed = u64::from(is_batch) + 1;
    let mut now = 0;
    while !done.load(Ordering::SeqCst) {
        now += 1;
        let row = |_| (random(&mut seed) % 200, now - random(&mut seed) % 3, 0);
        let rows: Vec<Written> = (0..8).map(row).collect();
        match is_batch {
            true => layers.load(&rows).await,
            false => layers.stream(&rows).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_row_is_older_than_either_layer_held_while_both_are_written() {
    let layers = Arc::new(Layers::new().await);
    let done = Arc::new(AtomicBool::new(false));
    let writers =
        [false, true].map(|is_batch| tokio::spawn(write(layers.clone(), is_batch, done.clone())));
    let mut view = layers.view().await;
    let (mut pages, mut listings) = (0, 0);
    while listings < 40 {
        let before = layers.held();
        let query = Query {
            boundary: view.boundary().await.unwrap(),
            ..Query::default()
        };
        let boundary = query.boundary;
        let mut walk = Walk::new(query, 32);
        let mut shown = Vec::new();
        while !walk.is_end() {
            let held = layers.held();
            let rows = walk.next(&mut view, 32).await.unwrap();
            let versions: Vec<_> = rows.iter().map(version_of).collect();
            none_is_older(&held, &versions).unwrap();
            shown.extend(versions.into_iter().map(|(key, _)| key));
            pages += 1;
        }
        all_are_shown(&before, boundary, &shown).unwrap();
        listings += 1;
        // A single row, too.
        let key = Value::Int(listings);
        let held = layers.held();
        if let Some(row) = view.row(&key).await.unwrap() {
            none_is_older(&held, &[version_of(&row)]).unwrap();
        }
    }
    done.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    let held = layers.held();
    assert!(
        held.iter().all(|layer| layer.len() > 50) && pages > 40,
        "{pages} pages"
    );
}

/// The checks above can fail.
#[test]
fn older_rows_missing_keys_and_keys_that_come_twice_are_seen() {
    let version = |time| (time, Digest::default());
    let held = [Held::from([(1, version(5))]), Held::from([(2, version(4))])];
    assert!(none_is_older(&held, &[(1, version(5)), (2, version(9))]).is_ok());
    assert!(none_is_older(&held, &[(1, version(4))]).is_err());
    assert!(none_is_older(&held, &[(2, version(3))]).is_err());
    assert!(all_are_shown(&held, Some(4), &[1, 2, 3]).is_ok());
    assert!(all_are_shown(&held, Some(5), &[2]).is_ok());
    for (boundary, shown) in [
        (Some(4), &[2][..]),
        (None, &[1]),
        (None, &[1, 1, 2]),
        (None, &[2, 1]),
    ] {
        assert!(all_are_shown(&held, boundary, shown).is_err(), "{shown:?}");
    }
}
