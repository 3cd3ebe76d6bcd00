//! A pair of stores behind the merged view, what they have acknowledged, and whether a listing is right: it shows no row
//! that is older than what either store held before, no key twice, and every key that it should.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rtp::dataset::Dataset;
use rtp::ports::batch_store::{BatchStores, Mode};
use rtp::ports::event_log::{Offsets, Span};
use rtp::ports::ledger::LoadInfo;
use rtp::ports::page_reader::Filter;
use rtp::ports::realtime_store::{RealtimeStores, Upstream};
use rtp::record::row::{Digest, Origin, RowMeta, Rows, digest};
use rtp::record::value::Value;
use rtp::view::merge::Merged;
use rtp::view::{Boundary, Query, View, Walk};

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
table = "rtp_view_batch"
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

/// A pair of stores, and what they have acknowledged.
pub struct Layers {
    pub dataset: Arc<Dataset>,
    realtime: Arc<dyn RealtimeStores>,
    batch: Arc<dyn BatchStores>,
    /// The event time of a row that is written at time 0.
    begin: i64,
    state: Mutex<State>,
}

/// What is known about both stores at a moment.
#[derive(Clone, Default)]
pub struct State {
    /// The newest version of each key that was committed, of the real-time and of the batch store.
    pub held: [Held; 2],
    /// How often each key began to be written, and how often that ended.
    begun: BTreeMap<i64, u64>,
    ended: BTreeMap<i64, u64>,
}

/// What a listing is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Only rows with this text.
    pub text: Option<u8>,
    pub boundary: Boundary,
}

impl Layers {
    /// Creates the tables.
    pub async fn new(realtime: Arc<dyn RealtimeStores>, batch: Arc<dyn BatchStores>) -> Layers {
        Layers::named("rtp_view", realtime, batch).await
    }

    /// Creates tables of this name, so that several tests can use a server.
    pub async fn named(
        name: &str,
        realtime: Arc<dyn RealtimeStores>,
        batch: Arc<dyn BatchStores>,
    ) -> Layers {
        let declared = DATASET.replace("rtp_view", name);
        let dataset = Arc::new(Dataset::parse(&declared, "things").unwrap());
        realtime.create(&dataset).await.unwrap();
        batch.create(&dataset).await.unwrap();
        Layers {
            dataset,
            realtime,
            batch,
            begin: rtp::time::now_ms() - 1_000_000,
            state: Mutex::default(),
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

    /// Notes that these keys are about to be written.
    fn begin(&self, written: &[Written]) {
        let mut state = self.state.lock().unwrap();
        for (key, ..) in written {
            *state.begun.entry(*key).or_default() += 1;
        }
    }

    fn acknowledge(&self, layer: usize, versions: Vec<(i64, Version)>) {
        let mut state = self.state.lock().unwrap();
        for (key, version) in versions {
            *state.ended.entry(key).or_default() += 1;
            let newest = state.held[layer].entry(key).or_insert(version);
            *newest = version.max(*newest);
        }
    }

    pub async fn stream(&self, written: &[Written]) {
        self.begin(written);
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
        self.begin(written);
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

    pub fn state(&self) -> State {
        self.state.lock().unwrap().clone()
    }

    /// A listing, and what it is asked for.
    pub async fn query(&self, view: &mut View, asked: Asked) -> Query {
        let filter = |text| Filter {
            field: self.dataset.field_index("title").unwrap(),
            value: Value::Text(format!("text {text}").into()),
        };
        Query {
            filters: asked.text.map(filter).into_iter().collect(),
            boundary: view.boundary(asked.boundary, false).await.unwrap(),
            after: None,
        }
    }

    /// Whether a version of a key has this text.
    fn has_text(&self, key: i64, version: Version, text: u8) -> bool {
        let (_, versions) = self.rows(&[(key, version.0 - self.begin, text)]);
        versions[0].1 == version
    }

    /// The keys that a listing must have that began at `before`: those with the wanted text in their newest row, unless
    /// they were written since.
    pub fn wanted(&self, before: &State, boundary: Option<i64>, text: Option<u8>) -> BTreeSet<i64> {
        let is_new = |time: i64| boundary.is_none_or(|boundary| time > boundary);
        let [realtime, batch] = &before.held;
        let new = realtime.iter().filter(|(_, (time, _))| is_new(*time));
        let keys = new.chain(batch).map(|(key, _)| *key);
        let Some(text) = text else {
            return keys.collect();
        };
        let now = self.state();
        let is_calm = |key: &i64| {
            let begun = before.begun.get(key);
            begun == before.ended.get(key) && begun == now.begun.get(key)
        };
        let newest = |key: &i64| before.held.iter().filter_map(|layer| layer.get(key)).max();
        let has_text = |key: &i64| newest(key).is_some_and(|v| self.has_text(*key, *v, text));
        keys.filter(|key| is_calm(key) && has_text(key)).collect()
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

/// An error if rows without the wanted text are shown.
pub fn all_match(rows: &[Merged], text: Option<u8>) -> Result<(), String> {
    let Some(text) = text else { return Ok(()) };
    let wanted = Value::Text(format!("text {text}").into());
    match rows.iter().find(|row| row.row.values[1] != wanted) {
        Some(row) => Err(format!("{row:?} does not have {wanted}")),
        None => Ok(()),
    }
}

/// An error if keys are not in order, or one that must be shown is not.
pub fn all_are_shown(wanted: &BTreeSet<i64>, shown: &[i64]) -> Result<(), String> {
    if !shown.windows(2).all(|pair| pair[0] < pair[1]) {
        return Err(format!("keys come twice or out of order: {shown:?}"));
    }
    match wanted.iter().find(|key| shown.binary_search(key).is_err()) {
        Some(key) => Err(format!("{key} is not shown")),
        None => Ok(()),
    }
}

/// Numbers that look random; the same for the same seed.
fn random(seed: &mut u64) -> i64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    i64::try_from(*seed >> 33).unwrap()
}

/// Writes rows of random keys at ever later times until told to stop. Every third load is small, and its row newer than
/// what was streamed meanwhile. Rows of one time have one text, because a store may keep no finer order.
async fn write(layers: Arc<Layers>, is_batch: bool, done: Arc<AtomicBool>) {
    let mut seed = u64::from(is_batch) + 1;
    let mut now = 0;
    while !done.load(Ordering::SeqCst) {
        now += 1;
        let is_small = is_batch && now % 3 == 0;
        let (rows, newer) = if is_small { (1, 20) } else { (8, 0) };
        let row = |_| {
            let key = random(&mut seed) % 200;
            let time = now + newer - random(&mut seed) % 3;
            (key, time, u8::try_from(time.rem_euclid(3)).unwrap())
        };
        let rows: Vec<Written> = (0..rows).map(row).collect();
        match is_batch {
            true => layers.load(&rows).await,
            false => layers.stream(&rows).await,
        }
    }
}

/// What the listings of a test are asked for, in turn.
fn asked(listing: i64) -> Asked {
    let boundaries = [Boundary::Unasked, Boundary::Without];
    Asked {
        text: [None, Some(1)][usize::from(listing % 2 == 1)],
        boundary: boundaries[usize::from(listing % 4 > 1)],
    }
}

/// Reads so many listings, and as many single rows, while both stores are written; more of them until each store has been
/// written to, some listings had several pages, and some with a condition had rows that they must have.
pub async fn is_right_while_both_are_written(layers: Layers, most: i64) {
    let layers = Arc::new(layers);
    let done = Arc::new(AtomicBool::new(false));
    let writers =
        [false, true].map(|is_batch| tokio::spawn(write(layers.clone(), is_batch, done.clone())));
    let mut view = layers.view().await;
    let (mut pages, mut listings, mut by_condition) = (0, 0, 0);
    let is_filled = || layers.state().held.iter().all(|layer| layer.len() > 50);
    while listings < most || pages <= listings + most || by_condition < 20 || !is_filled() {
        let before = layers.state();
        let asked = asked(listings);
        let query = layers.query(&mut view, asked).await;
        let boundary = query.boundary;
        let mut walk = Walk::new(query, 32);
        let mut shown = Vec::new();
        while !walk.is_end() {
            let held = layers.state().held;
            let rows = walk.next(&mut view, 32).await.unwrap();
            let versions: Vec<_> = rows.iter().map(version_of).collect();
            none_is_older(&held, &versions).unwrap();
            all_match(&rows, asked.text).unwrap();
            shown.extend(versions.into_iter().map(|(key, _)| key));
            pages += 1;
        }
        let wanted = layers.wanted(&before, boundary, asked.text);
        all_are_shown(&wanted, &shown).unwrap_or_else(|e| panic!("{asked:?}, {boundary:?}: {e}"));
        if asked.text.is_some() {
            by_condition += wanted.len();
        }
        listings += 1;
        // A single row, too.
        let key = Value::Int(listings);
        let held = layers.state().held;
        if let Some(row) = view.row(&key).await.unwrap() {
            none_is_older(&held, &[version_of(&row)]).unwrap();
        }
    }
    done.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
}
