//! A pair of stores behind the merged view, what they have acknowledged, and whether a listing is right: it shows no row
//! that is older than what either store held before, no key twice, and every key that it should.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rtp::dataset::Dataset;
use rtp::ports::batch_store::{BatchStores, Mode};
use rtp::ports::event_log::{Offsets, Span};
use rtp::ports::ledger::LoadInfo;
use rtp::ports::realtime_store::{RealtimeStores, Upstream};
use rtp::record::row::{Digest, Origin, RowMeta, Rows, digest};
use rtp::record::value::Value;
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
keyspace = "rtp_view"
table = "things"
[[realtime.series]]
table = "things_by_hour"
bucket = "hour"
shards = 2
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
pub type Version = (i64, Digest);

/// Versions of rows, by key.
pub type Held = BTreeMap<i64, Version>;

/// A key, an event time, and a text that makes rows of one time differ.
pub type Written = (i64, i64, u8);

/// A pair of embedded stores, and what they have acknowledged.
pub struct Layers {
    pub dataset: Arc<Dataset>,
    realtime: Arc<dyn RealtimeStores>,
    batch: Arc<dyn BatchStores>,
    /// The event time of a row that is written at time 0.
    begin: i64,
    /// The newest version of each key that was committed, of the real-time and of the batch store.
    held: Mutex<[Held; 2]>,
}

impl Layers {
    /// Creates the tables.
    pub async fn new(realtime: Arc<dyn RealtimeStores>, batch: Arc<dyn BatchStores>) -> Layers {
        let dataset = Arc::new(Dataset::parse(DATASET, "things").unwrap());
        realtime.create(&dataset).await.unwrap();
        batch.create(&dataset).await.unwrap();
        Layers {
            dataset,
            realtime,
            batch,
            begin: rtp::time::now_ms() - 1_000_000,
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
            let event_time = self.begin + time;
            values[dataset.event.time] = Value::Timestamp(event_time);
            let text_field = dataset.field_index("title").unwrap();
            values[text_field] = Value::Text(format!("text {text}").into());
            let digest = digest(dataset, &values, &mut Vec::new());
            let meta = RowMeta {
                event_time,
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

    pub async fn stream(&self, written: &[Written]) {
        let (rows, versions) = self.rows(written);
        let upstream = Upstream {
            group: "group",
            topic: "topic",
        };
        let store = self.realtime.open(&self.dataset, upstream).await;
        let mut store = store.unwrap();
        let offsets = store.offsets().await.unwrap().unwrap_or_default();
        let at = offsets.get(0).unwrap_or(0);
        let span = Span {
            from: Offsets::from([(0, at)]),
            to: Offsets::from([(0, at + written.len() as i64)]),
        };
        store.upsert(&span, &rows).await.unwrap();
        store.commit().await.unwrap();
        self.acknowledge(0, versions);
    }

    pub async fn load(&self, written: &[Written]) {
        let (rows, versions) = self.rows(written);
        let store = self.batch.open(&self.dataset).await;
        let mut store = store.unwrap();
        store.stage(&rows).await.unwrap();
        let info = LoadInfo {
            run_id: "run".into(),
            newest: written.iter().map(|(_, time, _)| self.begin + time).max(),
            ..LoadInfo::default()
        };
        store.merge(Mode::UpdateIfNewer, &info).await.unwrap();
        self.acknowledge(1, versions);
    }

    pub async fn view(&self) -> View {
        let view = View::open(&self.dataset, &*self.realtime, &*self.batch).await;
        view.unwrap()
    }

    pub fn held(&self) -> [Held; 2] {
        self.held.lock().unwrap().clone()
    }
}

/// The number of a row's key, and its version.
pub fn version_of(row: &Merged) -> (i64, Version) {
    let Value::Int(key) = row.row.values[0] else {
        panic!("no key: {row:?}");
    };
    (key, row.row.version())
}

/// An error if a row that is shown is older than what was held when its page was asked for.
pub fn none_is_older(held: &[Held; 2], shown: &[(i64, Version)]) -> Result<(), String> {
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
pub fn all_are_shown(held: &[Held; 2], boundary: Option<i64>, shown: &[i64]) -> Result<(), String> {
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

/// Reads so many listings, and as many single rows, while both stores are written; more of them until each store has been
/// written to and some listings had several pages.
pub async fn is_right_while_both_are_written(layers: Layers, most: i64) {
    let layers = Arc::new(layers);
    let done = Arc::new(AtomicBool::new(false));
    let writers =
        [false, true].map(|is_batch| tokio::spawn(write(layers.clone(), is_batch, done.clone())));
    let mut view = layers.view().await;
    let (mut pages, mut listings) = (0, 0);
    let is_filled = || layers.held().iter().all(|layer| layer.len() > 50);
    while listings < most || pages <= listings + most || !is_filled() {
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
}
