//! What the dashboard shows: one collector looks at the log and both stores at a fixed pace, however many people look at
//! the dashboard, and keeps one state of it all, with its changes.
//!
//! `log_eye` and `store_eyes` look; `known` keeps the last numbers of a server that is away; `state` composes what is
//! shown, with the sentence at its top from `sentence` and `missing`, the stages from `pipeline` and the commands from `advice`; `lag`,
//! `rates`, `profiles`, `live` and `times` are its figures, and `patch` the changes.

mod advice;
mod known;
mod lag;
mod live;
mod log_eye;
mod missing;
mod patch;
mod pipeline;
mod profiles;
mod rates;
mod sentence;
mod state;
mod store_eyes;
mod times;
mod words;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, broadcast};

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::ports::batch_store::BatchStores;
use crate::ports::event_log::EventLog;
use crate::ports::realtime_store::RealtimeStores;
use crate::ports::sample_store::{Sample, SampleStore, Scope};
use crate::run::Run;
use crate::run::task::Task;

pub(crate) use self::advice::Options;
use self::known::Known;
use self::log_eye::{LogEye, LogSeen};
use self::profiles::ProfileEye;
use self::rates::Recent;
use self::store_eyes::{BatchEye, BatchSeen, RealtimeEye, RealtimeSeen};

/// The pace of the looks at the log.
const LOG_PACE: Duration = Duration::from_secs(1);

/// The pace of the looks at the stores.
const STORE_PACE: Duration = Duration::from_millis(1_500);

/// A state is made after a look, but not sooner after the one before than this, so that several looks make one.
const STATE_GAP: Duration = Duration::from_millis(250);

/// And at least this often, because times pass.
const STATE_PACE: Duration = Duration::from_secs(1);

/// The pace of the samples.
const SAMPLE_PACE: Duration = Duration::from_secs(5);

/// How long a look may take, so that a server that hangs is told as one that is away.
const LOOK_TIME: Duration = Duration::from_secs(10);

/// Changes that wait for a slow reader. One that is further behind is dropped, and gets the whole state when it is back.
const WAITING: usize = 32;

/// What is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) event_log: Arc<dyn EventLog>,
    pub(crate) realtime: Arc<dyn RealtimeStores>,
    pub(crate) batch: Arc<dyn BatchStores>,
    /// The consumer group whose lag is shown.
    pub(crate) group: String,
    /// What the commands that it recommends need.
    pub(crate) options: Options,
    /// The classes of differences that verdicts count.
    pub(crate) classes: Vec<Class>,
}

impl Sources {
    /// What the history is about.
    pub(crate) fn scope(&self) -> Scope {
        Scope {
            dataset: self.dataset.name.clone(),
            event_log: address(&*self.event_log),
            topic: self.dataset.event.topic.clone(),
            group: self.group.clone(),
        }
    }
}

/// The address of a log, by which the history knows it again: a relative one of a file means another file elsewhere.
fn address(log: &dyn EventLog) -> String {
    let Some(path) = log.file() else {
        return log.to_string();
    };
    // The file itself may not be there yet, or not any more.
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let found = path.canonicalize().or_else(|_| {
        let folder = folder.canonicalize()?;
        Ok::<_, std::io::Error>(folder.join(path.file_name().unwrap_or_default()))
    });
    let path = found.or_else(|_| std::path::absolute(path));
    path.map_or_else(
        |_| log.to_string(),
        |path| format!("sqlite:{}", path.display()),
    )
}

/// A class of differences between the layers.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Class {
    /// Its name in verdicts.
    pub(crate) name: &'static str,
    /// What it means, for people.
    pub(crate) meaning: &'static str,
    /// Whether the layers disagree because of it.
    pub(crate) fails: bool,
}

/// What was seen of the servers.
#[derive(Debug, Default)]
struct Seen {
    log: Known<LogSeen>,
    realtime: Known<RealtimeSeen>,
    batch: Known<BatchSeen>,
    recent: Recent,
}

/// One state, and what changed since the one before.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    /// Counts the states.
    pub(crate) id: u64,
    /// The state, as JSON.
    pub(crate) state: Arc<str>,
    /// The merge patch, as JSON.
    pub(crate) patch: Arc<str>,
}

/// The collector's memory, which everybody reads.
pub(crate) struct Board {
    sources: Sources,
    started: i64,
    seen: Mutex<Seen>,
    samples: tokio::sync::Mutex<Box<dyn SampleStore>>,
    current: Mutex<(Value, News)>,
    news: broadcast::Sender<News>,
    /// That something was looked at.
    looked: Notify,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board")
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

/// The content of a lock, even after a panic of another holder, which ends the run by itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    pub(crate) fn new(sources: Sources, samples: Box<dyn SampleStore>) -> Arc<Board> {
        let board = Board {
            started: crate::time::now_ms(),
            sources,
            seen: Mutex::default(),
            samples: tokio::sync::Mutex::new(samples),
            current: Mutex::default(),
            news: broadcast::channel(WAITING).0,
            looked: Notify::new(),
        };
        board.compose();
        Arc::new(board)
    }

    /// Looks until it is dropped; returns only by an error that is a bug.
    pub(crate) async fn collect(self: &Arc<Self>, run: &Run) -> Result<()> {
        let [log, realtime, batch] = [0, 1, 2].map(|_| Arc::clone(self));
        let (pace, memory) = (Arc::clone(self), Arc::clone(self));
        let run = run.clone();
        let tasks: [Task<()>; 5] = [
            Task::spawn(async move { log.watch_log().await }),
            Task::spawn(async move { realtime.watch_realtime().await }),
            Task::spawn(async move { batch.watch_batch().await }),
            Task::spawn(async move { pace.publish().await }),
            Task::spawn(async move { memory.remember(&run).await }),
        ];
        futures_util::future::try_join_all(tasks).await.map(|_| ())
    }

    async fn watch_log(&self) -> Result<()> {
        let mut eye: Option<LogEye> = None;
        loop {
            let look = async {
                let mut open = match eye.take() {
                    Some(eye) => eye,
                    None => LogEye::open(&self.sources).await?,
                };
                let seen = open.look(&self.sources).await?;
                eye = Some(open);
                Ok(seen)
            };
            let outcome = in_time(look, &self.sources.event_log).await;
            // A file may be replaced, which whoever has it open does not see.
            if self
                .sources
                .event_log
                .file()
                .is_some_and(|path| !path.exists())
            {
                eye = None;
            }
            {
                let mut seen = lock(&self.seen);
                if let Ok(log) = &outcome {
                    seen.recent.add(log);
                }
                seen.log.look(outcome, crate::time::now_ms());
            }
            self.looked.notify_one();
            tokio::time::sleep(LOG_PACE).await;
        }
    }

    async fn watch_realtime(&self) -> Result<()> {
        let mut eye: Option<RealtimeEye> = None;
        loop {
            let look = async {
                let mut open = match eye.take() {
                    Some(eye) => eye,
                    None => RealtimeEye::open(&self.sources).await?,
                };
                let seen = open.look().await?;
                // A file may be replaced, which whoever has it open does not see.
                eye = Some(open).filter(|_| self.sources.realtime.file().is_none());
                Ok(seen)
            };
            let outcome = in_time(look, &self.sources.realtime).await;
            lock(&self.seen)
                .realtime
                .look(outcome, crate::time::now_ms());
            self.looked.notify_one();
            tokio::time::sleep(STORE_PACE).await;
        }
    }

    async fn watch_batch(&self) -> Result<()> {
        let mut eye: Option<BatchEye> = None;
        let mut profiles = ProfileEye::default();
        loop {
            let look = async {
                let mut open = match eye.take() {
                    Some(eye) => eye,
                    None => BatchEye::open(&self.sources).await?,
                };
                let seen = open.look(&self.sources, &mut profiles).await?;
                eye = Some(open).filter(|_| self.sources.batch.file().is_none());
                Ok(seen)
            };
            let outcome = in_time(look, &self.sources.batch).await;
            lock(&self.seen).batch.look(outcome, crate::time::now_ms());
            self.looked.notify_one();
            tokio::time::sleep(STORE_PACE).await;
        }
    }

    /// Makes a state after each look.
    async fn publish(&self) -> Result<()> {
        loop {
            tokio::time::sleep(STATE_GAP).await;
            let looked = tokio::time::timeout(STATE_PACE - STATE_GAP, self.looked.notified());
            looked.await.unwrap_or(()); // times pass also without a look
            self.compose();
        }
    }

    /// Makes a state of what was seen, and tells what changed.
    fn compose(&self) {
        let state = state::compose(&self.sources, &lock(&self.seen), self.started);
        let mut current = lock(&self.current);
        let (before, last) = &*current;
        let Some(patch) = patch::diff(before, &state) else {
            return;
        };
        let news = News {
            id: last.id + 1,
            state: state.to_string().into(),
            patch: patch.to_string().into(),
        };
        *current = (state, news.clone());
        self.news.send(news).unwrap_or(0); // perhaps nobody looks
    }

    /// Keeps a sample at a fixed pace. Without one, the dashboard lacks a point of its history, which is told once.
    async fn remember(&self, run: &Run) -> Result<()> {
        let mut pace = tokio::time::interval(SAMPLE_PACE);
        let mut is_told = false;
        loop {
            pace.tick().await;
            let Some(sample) = self.sample() else {
                continue;
            };
            let added = self.samples.lock().await.add(&sample).await;
            match added {
                Err(error) if !is_told => {
                    run.warn(format!("the dashboard's history has gaps: {error}"));
                    is_told = true;
                }
                Err(_) => {} // told above
                Ok(()) => is_told = false,
            }
        }
    }

    /// What the log counts now; none while it is away.
    fn sample(&self) -> Option<Sample> {
        let seen = lock(&self.seen);
        let log = seen.log.seen.as_ref().filter(|_| !seen.log.is_away())?;
        Some(Sample {
            at: log.at,
            produced: Some(log.produced),
            committed: Some(log.committed),
            lag_records: Some(log.lag_records()),
            lag_ms: log.lag_ms(),
        })
    }

    /// What is looked at.
    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The present state.
    pub(crate) fn now(&self) -> News {
        lock(&self.current).1.clone()
    }

    /// The present state, and the changes from then on.
    pub(crate) fn follow(&self) -> (News, broadcast::Receiver<News>) {
        let current = lock(&self.current); // so that no change falls in between
        (current.1.clone(), self.news.subscribe())
    }

    /// What the state would have been at each step of a range, and what happened in it. `range` is in milliseconds; none
    /// is all that is known.
    pub(crate) async fn series(&self, range: Option<i64>, name: &str) -> Result<Value> {
        let now = crate::time::now_ms();
        let (samples, from, step) = {
            let mut store = self.samples.lock().await;
            let from = match range {
                Some(range) => now.saturating_sub(range),
                None => store.oldest().await?.unwrap_or(now - 900_000),
            };
            let (from, step) = steps(from, now);
            let mut samples = store.since(from - step, step).await?;
            // A damaged file may have any times.
            samples.retain(|sample| (1..=now).contains(&sample.at));
            (samples, from, step)
        };
        let seen = lock(&self.seen);
        let log = seen.log.seen.as_ref();
        let letters = log.map(|log| &log.letters[..]).unwrap_or_default();
        let letters: Vec<_> = letters.iter().filter(|letter| letter.at >= from).collect();
        let known_after = log.and_then(|log| log.letters_known_after);
        let batch = seen.batch.seen.as_ref();
        let verdicts = batch.map(|batch| &batch.verdicts[..]).unwrap_or_default();
        let verdicts: Vec<_> = verdicts.iter().filter(|v| v.ended_at >= from).collect();
        let mut series = rates::series(&samples, batch, from, now, step);
        series["range"] = json!(name);
        series["step_s"] = json!(step / 1_000);
        series["now"] = json!(now);
        series["dead_letters"] = serde_json::to_value(letters).map_err(Error::internal)?;
        series["dead_letters_known_after"] = json!(known_after);
        series["verdicts"] = serde_json::to_value(verdicts).map_err(Error::internal)?;
        Ok(series)
    }
}

/// Where a range begins, which is not in the future, and its step.
fn steps(from: i64, now: i64) -> (i64, i64) {
    let from = from.clamp(0, now);
    (from, step(now - from))
}

/// The step of a range, so that it has at most 400 of them.
fn step(range: i64) -> i64 {
    const STEPS: [i64; 9] = [5, 15, 60, 300, 1_800, 3_600, 21_600, 86_400, 604_800];
    let fits = |step: &i64| range / (step * 1_000) < 400;
    STEPS.into_iter().find(fits).unwrap_or(604_800) * 1_000
}

/// A look that takes no longer than a look may.
async fn in_time<T>(
    look: impl Future<Output = Result<T>>,
    address: &(impl std::fmt::Display + ?Sized),
) -> Result<T> {
    let silent = || Error::unavailable(format!("no answer from {address} within {LOOK_TIME:?}"));
    let looked = tokio::time::timeout(LOOK_TIME, look).await;
    looked.unwrap_or_else(|_| Err(silent()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_a_bounded_number_of_steps() {
        for (range, step_s) in [
            (900, 5),
            (3_600, 15),
            (86_400, 300),
            (604_800, 1_800),
            (86_400 * 365, 86_400),
        ] {
            let step = step(range * 1_000);
            assert_eq!(step, step_s * 1_000, "{range}");
        }
        let now = crate::time::now_ms();
        for from in [i64::MIN, -9_000_000_000_000_000_000, now + 1, i64::MAX] {
            let (from, step) = steps(from, now);
            assert!(
                (0..=now).contains(&from) && (now - from) / step < 4_000,
                "{from}"
            );
        }
    }

    #[test]
    fn the_history_knows_a_log_by_its_file_and_not_by_the_folder_of_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::create_dir(folder.join("sub")).unwrap();
        let known = |path: &str| {
            let url = format!("sqlite:{}/{path}", folder.display());
            address(&*crate::servers::event_log(&url).unwrap())
        };
        let expected = format!("sqlite:{}/log.db", folder.display());
        assert_eq!(known("sub/../log.db"), expected);
        std::fs::write(folder.join("log.db"), "").unwrap();
        assert_eq!(known("sub/../log.db"), expected, "now that it is there");
        let relative = address(&*crate::servers::event_log("sqlite:log.db").unwrap());
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(relative, format!("sqlite:{}/log.db", here.display()));
        let kafka = crate::servers::event_log("kafka://h:9092").unwrap();
        assert_eq!(address(&*kafka), kafka.to_string());
    }
}
