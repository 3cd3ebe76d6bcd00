//! The embedded real-time store, intact and broken.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rtp::dataset::Dataset;
use rtp::dataset::ddl::quoted;
use rtp::error::{Error, Result};
use rtp::ports::conformance::realtime_store::{CASES, Harness};
use rtp::ports::conformance::{Abilities, Ability, Outcome, stored};
use rtp::ports::event_log::{Offsets, Span};
use rtp::ports::realtime_store::{Backlog, RealtimeStore, Upsert, Upserted, Upstream};
use rtp::ports::table_reader::TableReader;
use rtp::record::row::Rows;
use rtp::servers::sqlite::ddl::rows_of;
use rtp::servers::sqlite::realtime_store::{SqliteRealtimeStore, create};
use rtp::servers::sqlite::table_reader::SqliteTable;

use super::rows::{CONSTRAINT, FAILURE, Mangle, Mangler, object, some};
use super::{each_case_can_fail, keeps_all};

/// One way to break the port's promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Rows(Mangle),
    CommitsNothing,
    CommitsWithTheUpsert,
    WritesHalfABatchFirst,
    LastWriteWins,
    CountsDuplicatesAsWritten,
    CountsSkippedAsWritten,
    LosesTheOthersOfARefused,
    HidesRefusals,
    NamesTheWrongRow,
    DeniesItsOffsets,
    RowsWithoutOffsets,
    OffsetsBeforeRows,
    PassesOverEmptyBatches,
    IgnoresOvertaking,
    WritesThoughOvertaken,
    ForgetsMarks,
    SharesGroups,
    TakesAnyTopic,
    WritesWhatIsKeptAside,
    MergesNothing,
    MergesAgain,
    ForgetsNothing,
    MergesPastRefusals,
    LosesTheSeries,
    RoundsTowardsZero,
    ShowsVersionsTwice,
    TakesAnyTable,
    OpensAnyTable,
    ForgetsOlderVersions,
}

const BREAKERS: &[(Break, &str)] = &[
    (
        Break::LosesTheSeries,
        "a_series_has_the_newest_row_of_each_key_in_its_bucket",
    ),
    (
        Break::RoundsTowardsZero,
        "a_series_has_the_newest_row_of_each_key_in_its_bucket",
    ),
    (
        Break::ShowsVersionsTwice,
        "a_series_has_the_newest_row_of_each_key_in_its_bucket",
    ),
    (Break::TakesAnyTable, "a_table_that_does_not_fit_is_told"),
    (Break::OpensAnyTable, "a_table_that_does_not_fit_is_told"),
    (
        Break::ForgetsOlderVersions,
        "the_newest_row_that_is_not_refused_wins",
    ),
    (Break::CommitsNothing, "committed_rows_survive_a_crash"),
    (Break::CommitsWithTheUpsert, "rows_come_with_the_commit"),
    (Break::WritesHalfABatchFirst, "rows_come_with_the_commit"),
    (
        Break::WritesHalfABatchFirst,
        "an_error_leaves_nothing_behind",
    ),
    (Break::LastWriteWins, "the_newest_event_wins_in_any_order"),
    (
        Break::Rows(Mangle::LowerDigestWins),
        "the_newest_event_wins_in_any_order",
    ),
    (
        Break::Rows(Mangle::FirstOfABatchWins),
        "the_newest_event_of_a_batch_wins_and_the_others_are_counted",
    ),
    (
        Break::CountsDuplicatesAsWritten,
        "the_newest_event_of_a_batch_wins_and_the_others_are_counted",
    ),
    (
        Break::LastWriteWins,
        "a_replay_of_older_events_changes_nothing",
    ),
    (
        Break::CountsSkippedAsWritten,
        "a_row_that_is_not_newer_is_counted_as_skipped",
    ),
    (
        Break::Rows(Mangle::KeepsOldValues),
        "an_absent_field_replaces_a_value",
    ),
    (Break::Rows(Mangle::TrimsTexts), "every_type_round_trips"),
    (
        Break::Rows(Mangle::EmptyTextIsNull),
        "every_type_round_trips",
    ),
    (
        Break::Rows(Mangle::RoundsDecimals),
        "every_type_round_trips",
    ),
    (
        Break::Rows(Mangle::RoundsIntegers),
        "every_type_round_trips",
    ),
    (
        Break::Rows(Mangle::CutsMilliseconds),
        "every_type_round_trips",
    ),
    (Break::Rows(Mangle::LosesBooleans), "every_type_round_trips"),
    (
        Break::Rows(Mangle::FoldsCase),
        "keys_are_told_apart_by_their_bytes",
    ),
    (
        Break::Rows(Mangle::RoundsIntegers),
        "keys_are_told_apart_by_their_bytes",
    ),
    (
        Break::LosesTheOthersOfARefused,
        "a_refused_row_is_named_and_leaves_the_others",
    ),
    (
        Break::HidesRefusals,
        "a_refused_row_is_named_and_leaves_the_others",
    ),
    (
        Break::NamesTheWrongRow,
        "a_refused_row_is_named_and_leaves_the_others",
    ),
    (Break::DeniesItsOffsets, "offsets_are_told_if_they_are_kept"),
    (Break::RowsWithoutOffsets, "offsets_come_with_the_commit"),
    (
        Break::OffsetsBeforeRows,
        "an_upsert_that_is_not_committed_moves_no_offsets",
    ),
    (
        Break::PassesOverEmptyBatches,
        "a_batch_without_rows_moves_the_offsets",
    ),
    (
        Break::IgnoresOvertaking,
        "an_overtaken_member_is_told_and_writes_nothing",
    ),
    (
        Break::WritesThoughOvertaken,
        "an_overtaken_member_is_told_and_writes_nothing",
    ),
    (Break::ForgetsMarks, "a_mark_comes_back_with_its_offset"),
    (Break::SharesGroups, "groups_have_their_own_offsets"),
    (
        Break::TakesAnyTopic,
        "offsets_of_another_topic_are_an_error",
    ),
    (
        Break::WritesWhatIsKeptAside,
        "rows_kept_aside_come_with_the_merge",
    ),
    (Break::MergesNothing, "rows_kept_aside_come_with_the_merge"),
    (Break::MergesAgain, "rows_kept_aside_come_with_the_merge"),
    (Break::ForgetsNothing, "rows_kept_aside_can_be_forgotten"),
    (Break::MergesPastRefusals, "a_refused_row_fails_the_merge"),
];

/// The embedded store in its own folder.
struct Store {
    folder: tempfile::TempDir,
    broken: Option<Break>,
    lacks: Vec<Ability>,
}

impl Store {
    fn new(broken: Option<Break>) -> Store {
        Store {
            folder: tempfile::tempdir().unwrap(),
            broken,
            lacks: Vec::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("realtime.db")
    }
}

impl Abilities for Store {
    fn lacks(&self) -> &[Ability] {
        &self.lacks
    }
}

fn sql<T>(result: rusqlite::Result<T>) -> Result<T> {
    result.map_err(|e| Error::refused(e.to_string()))
}

#[async_trait]
impl Harness for Store {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        match self.broken {
            Some(Break::TakesAnyTable) => create(&self.path(), dataset).or(Ok(())),
            _ => create(&self.path(), dataset),
        }
    }

    async fn open(
        &self,
        dataset: &Dataset,
        mut upstream: Upstream<'_>,
    ) -> Result<Box<dyn RealtimeStore>> {
        match self.broken {
            Some(Break::SharesGroups) => upstream.group = "shared",
            Some(Break::TakesAnyTopic) => upstream.topic = "any",
            _ => {}
        }
        let inner = match SqliteRealtimeStore::open(&self.path(), dataset, upstream) {
            Err(_) if self.broken == Some(Break::OpensAnyTable) => {
                let elsewhere = self.folder.path().join("elsewhere.db");
                std::fs::remove_file(&elsewhere).unwrap_or(());
                create(&elsewhere, dataset)?;
                SqliteRealtimeStore::open(&elsewhere, dataset, upstream)?
            }
            opened => opened?,
        };
        Ok(match self.broken {
            None => Box::new(inner),
            Some(broken) => Box::new(BrokenStore {
                inner,
                broken,
                dataset: dataset.clone(),
                path: self.path(),
                mangler: Mangler::default(),
                is_open: false,
            }),
        })
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        let table = &dataset.realtime.table;
        Ok(Box::new(SqliteTable::open(&self.path(), dataset, table)?))
    }

    async fn series(&self, dataset: &Dataset) -> Result<Vec<(i64, i64, String)>> {
        let table = quoted(&dataset.realtime.series[0].table);
        let mut rows = sql(series(&self.path(), &table))?;
        match self.broken {
            Some(Break::LosesTheSeries) => rows.clear(),
            Some(Break::RoundsTowardsZero) => rows
                .iter_mut()
                .filter(|(bucket, ..)| *bucket < 0)
                .for_each(|(bucket, ..)| *bucket += 3_600_000),
            Some(Break::ShowsVersionsTwice) => rows.extend(rows.clone()),
            _ => {}
        }
        Ok(rows)
    }

    async fn refuse(&self, dataset: &Dataset, title: &str) -> Result<()> {
        sql(object(
            &self.path(),
            &dataset.realtime.table,
            title,
            CONSTRAINT,
        ))
    }

    async fn fail_at(&self, dataset: &Dataset, title: &str) -> Result<()> {
        sql(object(
            &self.path(),
            &dataset.realtime.table,
            title,
            FAILURE,
        ))
    }
}

fn series(path: &Path, table: &str) -> rusqlite::Result<Vec<(i64, i64, String)>> {
    let db = rusqlite::Connection::open(path)?;
    let select = format!("SELECT strftime('%s', hour) * 1000, id, title FROM {table}");
    let mut select = db.prepare(&select)?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}

struct BrokenStore {
    inner: SqliteRealtimeStore,
    broken: Break,
    dataset: Dataset,
    path: PathBuf,
    mangler: Mangler,
    /// Whether the inner store has an uncommitted upsert.
    is_open: bool,
}

impl BrokenStore {
    async fn plain(&mut self, span: &Span, rows: &Rows) -> Result<Upsert> {
        self.is_open = true;
        self.inner.upsert(span, rows).await
    }

    async fn close(&mut self) -> Result<()> {
        self.is_open = false;
        self.inner.commit().await
    }

    /// Removes the stored rows of these keys, so that the next ones are never older.
    fn remove(&self, rows: &Rows) {
        let db = rusqlite::Connection::open(&self.path).unwrap();
        let table = quoted(&rows_of(&self.dataset.realtime.table));
        let remove = format!("DELETE FROM {table} WHERE CAST(id AS TEXT) = ?1");
        for i in 0..rows.len() {
            let key = rows.value(i, self.dataset.event.key).to_string();
            db.execute(&remove, [key]).unwrap();
        }
    }
}

#[async_trait]
impl RealtimeStore for BrokenStore {
    async fn offsets(&mut self) -> Result<Option<Offsets>> {
        match self.broken {
            Break::DeniesItsOffsets => Ok(None),
            _ => self.inner.offsets().await,
        }
    }

    async fn upsert(&mut self, span: &Span, rows: &Rows) -> Result<Upsert> {
        let none = Rows::new(self.dataset.fields.len());
        let change = |upsert: Upsert, change: &dyn Fn(&mut Upserted)| match upsert {
            Upsert::Superseded => Upsert::Superseded,
            Upsert::Done(mut upserted) => {
                change(&mut upserted);
                Upsert::Done(upserted)
            }
        };
        match self.broken {
            Break::Rows(mangle) => {
                let mangled = self.mangler.rows(&self.dataset, rows, mangle);
                let left_out = (rows.len() - mangled.len()) as u64;
                let upsert = self.plain(span, &mangled).await?;
                Ok(change(upsert, &|u| u.deduplicated += left_out))
            }
            Break::CommitsWithTheUpsert => {
                let upsert = self.plain(span, rows).await?;
                self.close().await?;
                Ok(upsert)
            }
            Break::WritesHalfABatchFirst => {
                let half = rows.len() / 2;
                let first = some(&self.dataset, rows, 0..half);
                self.plain(&Span::default(), &first).await?;
                self.close().await?;
                let rest = some(&self.dataset, rows, half..rows.len());
                self.plain(span, &rest).await
            }
            Break::LastWriteWins => {
                self.remove(rows);
                self.plain(span, rows).await
            }
            Break::CountsDuplicatesAsWritten => {
                let upsert = self.plain(span, rows).await?;
                Ok(change(upsert, &|u| {
                    u.written += std::mem::take(&mut u.deduplicated);
                }))
            }
            Break::CountsSkippedAsWritten => {
                let upsert = self.plain(span, rows).await?;
                Ok(change(upsert, &|u| {
                    u.written += std::mem::take(&mut u.skipped);
                }))
            }
            Break::LosesTheOthersOfARefused => {
                let upsert = self.plain(span, rows).await?;
                match &upsert {
                    Upsert::Done(u) if !u.refused.is_empty() => {
                        self.plain(span, &none).await?;
                    }
                    _ => {}
                }
                Ok(upsert)
            }
            Break::HidesRefusals => {
                let upsert = self.plain(span, rows).await?;
                Ok(change(upsert, &|u| u.refused.clear()))
            }
            Break::NamesTheWrongRow => {
                let upsert = self.plain(span, rows).await?;
                Ok(change(upsert, &|u| {
                    u.refused.iter_mut().for_each(|(i, _)| *i = 9 - *i);
                }))
            }
            Break::ForgetsOlderVersions => {
                let mut newest = Rows::new(self.dataset.fields.len());
                for i in rows.newest_by_key(self.dataset.event.key) {
                    newest.push(&stored(rows.values(i)), *rows.meta(i));
                }
                self.plain(span, &newest).await
            }
            Break::RowsWithoutOffsets => self.plain(&Span::default(), rows).await,
            Break::OffsetsBeforeRows => {
                self.plain(span, &none).await?;
                self.close().await?;
                self.plain(&Span::default(), rows).await
            }
            Break::PassesOverEmptyBatches if rows.is_empty() => {
                Ok(Upsert::Done(Upserted::default()))
            }
            Break::IgnoresOvertaking => {
                let from = self.inner.offsets().await?.unwrap();
                let to = span.to.clone();
                self.plain(&Span { from, to }, rows).await
            }
            Break::ForgetsMarks => {
                let to = span.to.iter().collect();
                let from = span.from.clone();
                self.plain(&Span { from, to }, rows).await
            }
            Break::WritesThoughOvertaken => {
                let upsert = self.plain(span, rows).await?;
                if upsert == Upsert::Superseded {
                    self.plain(&Span::default(), rows).await?;
                    self.close().await?;
                }
                Ok(upsert)
            }
            _ => self.plain(span, rows).await,
        }
    }

    async fn commit(&mut self) -> Result<()> {
        if self.broken == Break::Rows(Mangle::FirstOfABatchWins) {
            self.mangler.forget();
        }
        match self.broken {
            Break::CommitsNothing => Ok(()),
            _ if !self.is_open => Ok(()),
            _ => self.close().await,
        }
    }

    fn backlog(&mut self) -> Option<&mut dyn Backlog> {
        Some(self)
    }
}

#[async_trait]
impl Backlog for BrokenStore {
    async fn stage(&mut self, rows: &Rows) -> Result<()> {
        match self.broken {
            Break::WritesWhatIsKeptAside => {
                self.inner.upsert(&Span::default(), rows).await?;
                self.inner.commit().await
            }
            _ => self.inner.stage(rows).await,
        }
    }

    async fn merge(&mut self, span: &Span) -> Result<Upsert> {
        self.is_open = true;
        match self.broken {
            Break::MergesNothing => {
                self.inner.discard().await?;
                self.inner.merge(span).await
            }
            Break::MergesAgain => {
                let merged = self.inner.merge(span).await?;
                Ok(match merged {
                    Upsert::Done(counted) if counted.written == 0 => Upsert::Done(Upserted {
                        skipped: 16,
                        ..counted
                    }),
                    other => other,
                })
            }
            Break::MergesPastRefusals => match self.inner.merge(span).await {
                Err(_) => Ok(Upsert::Done(Upserted::default())),
                merged => merged,
            },
            _ => self.inner.merge(span).await,
        }
    }

    async fn discard(&mut self) -> Result<()> {
        match self.broken {
            Break::ForgetsNothing => Ok(()),
            _ => self.inner.discard().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_keeps_every_guarantee() {
    keeps_all(CASES, &Store::new(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_an_ability_that_lacks_does_not_apply() {
    let mut store = Store::new(Some(Break::DeniesItsOffsets));
    store.lacks = vec![Ability::Transactions, Ability::RefusesRows];
    for case in CASES {
        let outcome = case.check(&store as &dyn Harness).await;
        match case.needs.iter().find(|a| store.lacks.contains(a)) {
            Some(lacking) => assert_eq!(outcome, Outcome::NotApplicable(*lacking), "{case:?}"),
            None => assert_eq!(outcome, Outcome::Kept, "{case:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_case_of_the_realtime_store_can_fail() {
    each_case_can_fail(CASES, BREAKERS, async |broken, case| {
        case.check(&Store::new(Some(broken)) as &dyn Harness).await
    })
    .await;
}
