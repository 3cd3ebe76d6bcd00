//! What every ledger must do: one case for each guarantee of the port.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::dataset::Dataset;
use crate::error::Result;
use crate::ports::batch_store::Mode;
use crate::ports::conformance::batch_store::Harness as Store;
use crate::ports::conformance::{
    Checked, Verdict, cases, dataset, equal, event, fine, fresh, holds, load_of, rows,
};
use crate::ports::ledger::{
    self, Contents, FileRead, Ledger, LoadInfo, LoadRecord, LoadedFile, Newest,
};
use crate::time::now_ms;

/// A batch store and its ledger to check.
#[async_trait]
pub trait Harness: Store {
    /// The ledger, through another connection.
    async fn ledger(&self, dataset: &Dataset) -> Result<Box<dyn Ledger>>;
}

cases! {
    dyn Harness;
    loads_are_listed_newest_first_with_what_was_known,
    the_newest_record_is_that_of_all_loads_or_of_those_since_a_replacement,
    a_load_that_failed_is_not_listed,
    a_verdict_comes_back_as_it_was_given,
    verdicts_are_listed_newest_first,
    other_datasets_are_not_mixed_in,
}

/// More than a case adds.
const ALL: u32 = 100;

/// A dataset with a name of its own, whose tables are there.
async fn ready(harness: &dyn Harness) -> Checked<Dataset> {
    let mut dataset = dataset("id")?;
    dataset.name = fresh("ledger");
    fine("creating tables", harness.create(&dataset).await)?;
    Ok(dataset)
}

async fn open(harness: &dyn Harness, dataset: &Dataset) -> Checked<Box<dyn Ledger>> {
    fine("opening the ledger", harness.ledger(dataset).await)
}

/// Loads one row; returns whether the store did.
async fn load(
    harness: &dyn Harness,
    dataset: &Dataset,
    mode: Mode,
    info: &LoadInfo,
) -> Checked<bool> {
    let mut store = fine("opening the store", harness.open(dataset).await)?;
    let rows = rows(dataset, &[event(1, 1, "a")])?;
    fine("staging", store.stage(&rows).await)?;
    Ok(store.merge(mode, info).await.is_ok())
}

/// What is known about loads: of files and of standard input, with and without rejects and records.
fn infos() -> [LoadInfo; 3] {
    let info = |started_at, newest, inputs: &[&str], rejects: Option<&str>| LoadInfo {
        run_id: fresh("run"),
        started_at,
        newest,
        inputs: inputs.iter().map(|path| LoadedFile::at(*path)).collect(),
        rejects: rejects.map(String::from),
    };
    let mut known = info(5, Some(253_402_300_799_999), &["", "/a"], None);
    known.inputs.push(LoadedFile {
        path: "/\"day\" {1}.csv".into(),
        read: Some(FileRead {
            contents: Contents {
                bytes: u64::MAX,
                xxh3: "00ff".repeat(8),
            },
            format: "csv".into(),
            null: "\\N, 'é'".into(),
            rejected: Some(7),
        }),
    });
    [
        info(1_767_225_600_001, None, &[], None),
        info(
            1_767_225_600_999,
            Some(-62_135_596_800_000),
            &["/a/b c.ndjson", "/\"quoted\", 'and' {braced}\\.csv"],
            Some("/é/rejects"),
        ),
        known,
    ]
}

async fn loads_are_listed_newest_first_with_what_was_known(harness: &dyn Harness) -> Verdict {
    let dataset = ready(harness).await?;
    let mut expected = Vec::new();
    let before = now_ms();
    for info in infos() {
        let done = load(harness, &dataset, Mode::Upsert, &info).await?;
        holds("the load is done", done)?;
        expected.insert(0, info);
    }
    let between = before - 1_000..=now_ms() + 1_000;
    let mut ledger = open(harness, &dataset).await?;
    let loads = fine("listing the loads", ledger.loads(ALL).await)?;
    for load in &loads {
        let done = (load.mode.as_str(), load.written);
        equal("mode and rows of a load", done, ("upsert", 1))?;
        let told = format!("it was committed at {}, in {between:?}", load.loaded_at);
        holds(told, between.contains(&load.loaded_at))?;
    }
    let infos = |loads: Vec<LoadRecord>| loads.into_iter().map(|load| load.info);
    equal("the loads", infos(loads).collect(), expected.clone())?;
    let last = fine("listing the last", ledger.loads(2).await)?;
    expected.truncate(2);
    equal("the last loads", infos(last).collect(), expected)
}

async fn the_newest_record_is_that_of_all_loads_or_of_those_since_a_replacement(
    harness: &dyn Harness,
) -> Verdict {
    let [dataset, other] = [ready(harness).await?, ready(harness).await?];
    let newest = async |dataset: &Dataset| {
        let mut ledger = open(harness, dataset).await?;
        fine("asking for the newest record", ledger.newest().await)
    };
    for info in infos() {
        let done = load(harness, &other, Mode::Replace, &info).await?;
        holds("the load is done", done)?;
    }
    let mut expected = Newest::default();
    equal("without a load", newest(&dataset).await?, expected)?;
    for (mode, time, in_table) in [
        (Mode::Upsert, None, None),
        (Mode::Upsert, Some(-5), Some(-5)),
        (
            Mode::Upsert,
            Some(1_767_225_600_001),
            Some(1_767_225_600_001),
        ),
        (Mode::Upsert, Some(7), Some(1_767_225_600_001)),
        (Mode::Replace, Some(3), Some(3)),
        (Mode::Upsert, Some(2), Some(3)),
        (Mode::UpdateIfNewer, Some(9), Some(9)),
        (Mode::Replace, None, None),
        (Mode::Upsert, None, None),
        (Mode::ReplaceOrEmpty, Some(4), Some(4)),
    ] {
        let info = LoadInfo {
            newest: time,
            ..load_of(&fresh("run"))
        };
        let done = load(harness, &dataset, mode, &info).await?;
        holds("the load is done", done)?;
        expected = Newest {
            ever: expected.ever.max(time),
            in_table,
        };
        equal("the newest record", newest(&dataset).await?, expected)?;
    }
    Ok(())
}

async fn a_load_that_failed_is_not_listed(harness: &dyn Harness) -> Verdict {
    let dataset = ready(harness).await?;
    let (done, failed) = (fresh("run"), fresh("run"));
    for (run, expected) in [(&done, true), (&failed, false)] {
        let is_done = load(harness, &dataset, Mode::Insert, &load_of(run)).await?;
        equal("whether the load is done", is_done, expected)?;
    }
    let mut ledger = open(harness, &dataset).await?;
    let loads = fine("listing the loads", ledger.loads(ALL).await)?;
    let runs: Vec<&str> = loads.iter().map(|load| load.info.run_id.as_str()).collect();
    equal("the runs", runs, vec![done.as_str()])
}

/// A verdict with every kind of value.
fn verdict(agrees: bool) -> ledger::Verdict {
    let counts = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
        let pairs = pairs.iter().map(|(name, count)| ((*name).into(), *count));
        pairs.collect()
    };
    let samples = [
        ("lost", vec!["a\"b\\c\n\u{1b}[2J", "é 日本 𝄞", ""]),
        ("none", Vec::new()),
    ];
    let samples = samples.into_iter().map(|(name, keys)| {
        let keys = keys.into_iter().map(String::from).collect();
        (name.into(), keys)
    });
    ledger::Verdict {
        run_id: fresh("run"),
        started_at: 1_767_225_600_123,
        ended_at: 1_767_225_660_456,
        agrees,
        rows: [10_000_000_000, 7],
        classes: counts(&[("in_flight", 3), ("lost", 9_007_199_254_740_993)]),
        columns: counts(&[("a column's \"name\"", 1), ("title", 2)]),
        samples: samples.collect(),
        options: vec!["--tolerance price=0.01".into(), "a\"b\\c\n".into()],
    }
}

async fn a_verdict_comes_back_as_it_was_given(harness: &dyn Harness) -> Verdict {
    let dataset = ready(harness).await?;
    let empty = ledger::Verdict {
        run_id: fresh("run"),
        agrees: true,
        ..ledger::Verdict::default()
    };
    for given in [verdict(false), verdict(true), empty] {
        let mut ledger = open(harness, &dataset).await?;
        fine("keeping a verdict", ledger.add_verdict(&given).await)?;
        drop(ledger);
        let mut ledger = open(harness, &dataset).await?;
        let last = fine("reading it back", ledger.verdicts(1).await)?;
        equal("the verdict", last, vec![given])?;
    }
    Ok(())
}

async fn verdicts_are_listed_newest_first(harness: &dyn Harness) -> Verdict {
    let dataset = ready(harness).await?;
    let mut ledger = open(harness, &dataset).await?;
    let none = fine("listing none", ledger.verdicts(ALL).await)?;
    equal("the verdicts before the first", none, Vec::new())?;
    let mut given: Vec<ledger::Verdict> = [true, false, true, false].map(verdict).into();
    for verdict in &given {
        fine("keeping a verdict", ledger.add_verdict(verdict).await)?;
    }
    given.reverse();
    let all = fine("listing them", ledger.verdicts(ALL).await)?;
    equal("the verdicts", &all, &given)?;
    let last = fine("listing the last", ledger.verdicts(3).await)?;
    equal("the last verdicts", &last[..], &given[..3])
}

async fn other_datasets_are_not_mixed_in(harness: &dyn Harness) -> Verdict {
    let datasets = [ready(harness).await?, ready(harness).await?];
    let mut given = Vec::new();
    for dataset in &datasets {
        let (info, verdict) = (load_of(&fresh("run")), verdict(true));
        let done = load(harness, dataset, Mode::Insert, &info).await?;
        holds("the load is done", done)?;
        let mut ledger = open(harness, dataset).await?;
        fine("keeping a verdict", ledger.add_verdict(&verdict).await)?;
        given.push((info.run_id, verdict));
    }
    for (dataset, (run, verdict)) in datasets.iter().zip(given) {
        let mut ledger = open(harness, dataset).await?;
        let loads = fine("listing the loads", ledger.loads(ALL).await)?;
        let runs = loads.into_iter().map(|load| load.info.run_id);
        equal("the dataset's loads", runs.collect::<Vec<_>>(), vec![run])?;
        let verdicts = fine("listing the verdicts", ledger.verdicts(ALL).await)?;
        equal("the dataset's verdicts", verdicts, vec![verdict])?;
    }
    Ok(())
}
