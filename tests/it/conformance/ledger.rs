//! The ledger of the embedded batch store, intact and broken.

use std::sync::Mutex;

use async_trait::async_trait;
use rtp::dataset::Dataset;
use rtp::error::Result;
use rtp::ports::batch_store::{BatchStore, Mode};
use rtp::ports::conformance::batch_store::Harness as Store;
use rtp::ports::conformance::ledger::{CASES, Harness};
use rtp::ports::conformance::{Abilities, load_of};
use rtp::ports::ledger::{Ledger, LoadInfo, LoadRecord, Newest, Verdict};
use rtp::ports::table_reader::TableReader;
use rtp::servers::sqlite::batch_store::{SqliteBatchStore, create};
use rtp::servers::sqlite::ledger::SqliteLedger;
use rtp::servers::sqlite::table_reader::SqliteTable;

use super::{each_case_can_fail, keeps_all};

/// One way to break the port's promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    ListsTheOldestFirst,
    ListsMoreThanAsked,
    ForgetsTheNewestTime,
    ForgetsTheInputs,
    TellsTheLastNewestTime,
    ForgetsReplacements,
    ListsFailedLoads,
    KeepsNoVerdict,
    ForgetsSamples,
    RoundsCounts,
    MixesDatasets,
}

const LOADS: &str = "loads_are_listed_newest_first_with_what_was_known";
const NEWEST: &str = "the_newest_record_is_that_of_all_loads_or_of_those_since_a_replacement";
const GIVEN: &str = "a_verdict_comes_back_as_it_was_given";

const BREAKERS: &[(Break, &str)] = &[
    (Break::ListsTheOldestFirst, LOADS),
    (Break::ListsMoreThanAsked, LOADS),
    (Break::ForgetsTheNewestTime, LOADS),
    (Break::ForgetsTheInputs, LOADS),
    (Break::TellsTheLastNewestTime, NEWEST),
    (Break::ForgetsReplacements, NEWEST),
    (Break::MixesDatasets, NEWEST),
    (Break::ListsFailedLoads, "a_load_that_failed_is_not_listed"),
    (Break::KeepsNoVerdict, GIVEN),
    (Break::ForgetsSamples, GIVEN),
    (Break::RoundsCounts, GIVEN),
    (
        Break::ListsTheOldestFirst,
        "verdicts_are_listed_newest_first",
    ),
    (
        Break::ListsMoreThanAsked,
        "verdicts_are_listed_newest_first",
    ),
    (Break::MixesDatasets, "other_datasets_are_not_mixed_in"),
];

/// The embedded store in its own folder.
struct Kept {
    folder: tempfile::TempDir,
    broken: Option<Break>,
    datasets: Mutex<Vec<Dataset>>,
}

impl Kept {
    fn new(broken: Option<Break>) -> Kept {
        Kept {
            folder: tempfile::tempdir().unwrap(),
            broken,
            datasets: Mutex::default(),
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("batch.db")
    }
}

impl Abilities for Kept {}

#[async_trait]
impl Store for Kept {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        self.datasets.lock().unwrap().push(dataset.clone());
        create(&self.path(), dataset)
    }

    async fn open(&self, dataset: &Dataset) -> Result<Box<dyn BatchStore>> {
        Ok(Box::new(SqliteBatchStore::open(&self.path(), dataset)?))
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        let table = &dataset.batch.table;
        Ok(Box::new(SqliteTable::open(&self.path(), dataset, table)?))
    }

    async fn loads(&self, _: &Dataset) -> Result<Vec<String>> {
        unreachable!("no case of the ledger asks the store")
    }

    async fn refuse(&self, _: &Dataset, _: &str) -> Result<()> {
        unreachable!("no case of the ledger needs it")
    }

    async fn make_titles_unique(&self, _: &Dataset) -> Result<()> {
        unreachable!("no case of the ledger needs it")
    }
}

#[async_trait]
impl Harness for Kept {
    async fn ledger(&self, dataset: &Dataset) -> Result<Box<dyn Ledger>> {
        let open = |dataset: &Dataset| SqliteLedger::open(&self.path(), dataset);
        let Some(broken) = self.broken else {
            return Ok(Box::new(open(dataset)?));
        };
        if broken == Break::ListsFailedLoads {
            let mut store = SqliteBatchStore::open(&self.path(), dataset)?;
            store.merge(Mode::Upsert, &load_of("failed")).await?;
        }
        let others = match broken {
            Break::MixesDatasets => self.datasets.lock().unwrap().clone(),
            _ => Vec::new(),
        };
        Ok(Box::new(BrokenLedger {
            inner: open(dataset)?,
            others: others
                .iter()
                .filter(|other| other.name != dataset.name)
                .map(open)
                .collect::<Result<_>>()?,
            broken,
        }))
    }
}

struct BrokenLedger {
    inner: SqliteLedger,
    others: Vec<SqliteLedger>,
    broken: Break,
}

impl BrokenLedger {
    fn most(&self, most: u32) -> u32 {
        match self.broken {
            Break::ListsMoreThanAsked => most + 1,
            _ => most,
        }
    }
}

#[async_trait]
impl Ledger for BrokenLedger {
    async fn loads(&mut self, most: u32) -> Result<Vec<LoadRecord>> {
        let mut loads = self.inner.loads(self.most(most)).await?;
        for other in &mut self.others {
            loads.extend(other.loads(most).await?);
        }
        if self.broken == Break::ListsTheOldestFirst {
            loads.reverse();
        }
        for load in &mut loads {
            let info: &mut LoadInfo = &mut load.info;
            match self.broken {
                Break::ForgetsTheNewestTime => info.newest = None,
                Break::ForgetsTheInputs => info.inputs.clear(),
                _ => {}
            }
        }
        Ok(loads)
    }

    async fn newest(&mut self) -> Result<Newest> {
        let mut newest = self.inner.newest().await?;
        for other in &mut self.others {
            let other = other.newest().await?;
            newest.ever = newest.ever.max(other.ever);
            newest.in_table = newest.in_table.max(other.in_table);
        }
        match self.broken {
            Break::TellsTheLastNewestTime => {
                let loads = self.inner.loads(1).await?;
                newest.ever = loads.iter().find_map(|load| load.info.newest);
            }
            Break::ForgetsReplacements => newest.in_table = newest.ever,
            _ => {}
        }
        Ok(newest)
    }

    async fn add_verdict(&mut self, verdict: &Verdict) -> Result<()> {
        match self.broken {
            Break::KeepsNoVerdict => Ok(()),
            _ => self.inner.add_verdict(verdict).await,
        }
    }

    async fn verdicts(&mut self, most: u32) -> Result<Vec<Verdict>> {
        let mut verdicts = self.inner.verdicts(self.most(most)).await?;
        for other in &mut self.others {
            verdicts.extend(other.verdicts(most).await?);
        }
        if self.broken == Break::ListsTheOldestFirst {
            verdicts.reverse();
        }
        for verdict in &mut verdicts {
            match self.broken {
                Break::ForgetsSamples => verdict.samples.clear(),
                Break::RoundsCounts => {
                    for count in verdict.classes.values_mut() {
                        *count = *count as f64 as u64;
                    }
                }
                _ => {}
            }
        }
        Ok(verdicts)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_ledger_keeps_every_guarantee() {
    keeps_all(CASES, &Kept::new(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_case_of_the_ledger_can_fail() {
    each_case_can_fail(CASES, BREAKERS, async |broken, case| {
        case.check(&Kept::new(Some(broken)) as &dyn Harness).await
    })
    .await;
}
