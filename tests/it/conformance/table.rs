//! Reading the embedded stores' tables, with intact and with broken readers.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use rtp::dataset::Dataset;
use rtp::dataset::ddl::quoted;
use rtp::error::{Error, Result};
use rtp::ports::batch_store::{BatchStore, Mode};
use rtp::ports::conformance::table_reader::{CASES, Harness, Kept};
use rtp::ports::conformance::{Abilities, Stored, load_of, stored};
use rtp::ports::event_log::{Offsets, Span};
use rtp::ports::page_reader::{Page, PageQuery};
use rtp::ports::realtime_store::{RealtimeStore, Upstream};
use rtp::ports::table_reader::{Provenance, StoredRow, TableReader, Visitor};
use rtp::record::row::{Digest, Rows};
use rtp::record::value::Value;
use rtp::servers::sqlite::batch_store::SqliteBatchStore;
use rtp::servers::sqlite::ddl::rows_of;
use rtp::servers::sqlite::realtime_store::SqliteRealtimeStore;
use rtp::servers::sqlite::table_reader::SqliteTable;

use super::rows::{Mangle, one};
use super::{each_case_can_fail, keeps_all};

/// One way to break the port's promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    Rows(Mangle),
    LendsARowTwice,
    LosesARow,
    LendsWhatIsNotWanted,
    LendsOnWhenToldToStop,
    BreaksWithAnError,
    ReadsTheWholeTable,
    ReadsACopy,
    FoldsKeys,
    HidesForeignValues,
    FailsAtForeignValues,
    ForgetsOrigins,
    TellsOtherDigests,
    TellsAFewOnly,
    TellsMissingKeys,
    RemembersProvenance,
    PagesBackwards,
    PagesFromTheStart,
    PagesBeyondTheEnd,
    PagesWhateverTheValue,
    PagesWhateverTheTime,
    EndsAtAMisfit,
    HidesMisfits,
    DeniesUniqueKeys,
    TakesWhatIsMissing,
    LocksWritersOut,
    ScansInTwoParts,
}

const BREAKERS: &[(Break, &str)] = &[
    (Break::PagesBackwards, "pages_have_every_key_once_in_order"),
    (
        Break::PagesFromTheStart,
        "pages_have_every_key_once_in_order",
    ),
    (
        Break::PagesBeyondTheEnd,
        "pages_have_every_key_once_in_order",
    ),
    (
        Break::PagesWhateverTheValue,
        "pages_have_only_rows_with_these_values",
    ),
    (Break::PagesWhateverTheTime, "pages_have_only_newer_rows"),
    (
        Break::EndsAtAMisfit,
        "a_key_that_does_not_fit_is_told_and_ends_no_page",
    ),
    (
        Break::HidesMisfits,
        "a_key_that_does_not_fit_is_told_and_ends_no_page",
    ),
    (Break::LendsARowTwice, "a_scan_lends_every_row_once"),
    (Break::LosesARow, "a_scan_lends_every_row_once"),
    (Break::LendsWhatIsNotWanted, "only_wanted_rows_are_lent"),
    (
        Break::LendsOnWhenToldToStop,
        "a_break_ends_the_reading_without_an_error",
    ),
    (
        Break::BreaksWithAnError,
        "a_break_ends_the_reading_without_an_error",
    ),
    (
        Break::ReadsTheWholeTable,
        "read_lends_the_rows_of_these_keys_as_they_are_now",
    ),
    (
        Break::ReadsACopy,
        "read_lends_the_rows_of_these_keys_as_they_are_now",
    ),
    (Break::FoldsKeys, "keys_are_told_apart_by_their_bytes"),
    (
        Break::Rows(Mangle::RoundsIntegers),
        "keys_are_told_apart_by_their_bytes",
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
        Break::Rows(Mangle::CutsMilliseconds),
        "every_type_round_trips",
    ),
    (
        Break::Rows(Mangle::TrimsTexts),
        "encodings_are_those_of_the_values",
    ),
    (Break::HidesForeignValues, "foreign_values_are_handed_over"),
    (
        Break::FailsAtForeignValues,
        "foreign_values_are_handed_over",
    ),
    (Break::ForgetsOrigins, "provenance_is_what_was_written"),
    (Break::TellsOtherDigests, "provenance_is_what_was_written"),
    (Break::TellsAFewOnly, "provenance_is_what_was_written"),
    (Break::TellsMissingKeys, "provenance_is_what_was_written"),
    (
        Break::RemembersProvenance,
        "provenance_is_that_of_the_row_now",
    ),
    (
        Break::DeniesUniqueKeys,
        "keys_are_unique_in_tables_of_our_own",
    ),
    (
        Break::TakesWhatIsMissing,
        "a_missing_table_or_column_is_an_error",
    ),
    (Break::LocksWritersOut, "no_writer_is_made_to_wait"),
    (Break::ScansInTwoParts, "a_scan_shows_no_half_of_a_load"),
];

/// Which store's table it is.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Realtime,
    Batch,
}

/// An embedded store's table in its own folder.
pub(crate) struct Table {
    folder: tempfile::TempDir,
    pub(crate) kind: Kind,
    broken: Option<Break>,
    is_scanning: Arc<AtomicBool>,
}

impl Table {
    pub(crate) fn new(kind: Kind, broken: Option<Break>) -> Table {
        Table {
            folder: tempfile::tempdir().unwrap(),
            kind,
            broken,
            is_scanning: Arc::default(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    pub(crate) fn name<'d>(&self, dataset: &'d Dataset) -> &'d str {
        match self.kind {
            Kind::Realtime => &dataset.realtime.table,
            Kind::Batch => &dataset.batch.table,
        }
    }
}

impl Abilities for Table {}

#[async_trait]
impl Harness for Table {
    async fn create(&self, dataset: &Dataset) -> Result<()> {
        match self.kind {
            Kind::Realtime => rtp::servers::sqlite::realtime_store::create(&self.path(), dataset),
            Kind::Batch => rtp::servers::sqlite::batch_store::create(&self.path(), dataset),
        }
    }

    async fn write(&self, dataset: &Dataset, rows: &Rows) -> Result<()> {
        if self.is_scanning.load(Ordering::SeqCst) {
            return Err(Error::unavailable("a reader holds the table"));
        }
        match self.kind {
            Kind::Realtime => {
                let upstream = Upstream {
                    group: "group",
                    topic: "topic",
                };
                let mut store = SqliteRealtimeStore::open(&self.path(), dataset, upstream)?;
                let at = store.offsets().await?.unwrap().get(0).unwrap_or(0);
                let span = Span {
                    from: Offsets::from([(0, at)]),
                    to: Offsets::from([(0, at + rows.len() as i64)]),
                };
                store.upsert(&span, rows).await?;
                store.commit().await
            }
            Kind::Batch => {
                let mut store = SqliteBatchStore::open(&self.path(), dataset)?;
                store.stage(rows).await?;
                store
                    .merge(Mode::UpdateIfNewer, &load_of("run"))
                    .await
                    .map(|_| ())
            }
        }
    }

    async fn table(&self, dataset: &Dataset) -> Result<Box<dyn TableReader>> {
        let inner = SqliteTable::open(&self.path(), dataset, self.name(dataset));
        Ok(match self.broken {
            None => Box::new(inner?),
            Some(Break::TakesWhatIsMissing) if inner.is_err() => Box::new(Nothing),
            Some(broken) => Box::new(BrokenTable {
                inner: inner?,
                broken,
                key: dataset.event.key,
                copy: None,
                known: None,
                is_scanning: self.is_scanning.clone(),
            }),
        })
    }

    fn keeps(&self) -> Kept {
        Kept {
            origin: matches!(self.kind, Kind::Realtime),
            digest: true,
            write_timestamps: false,
        }
    }

    async fn plant_text(&self, dataset: &Dataset, column: &str, text: &str) -> Result<()> {
        let table = quoted(&rows_of(self.name(dataset)));
        let update = format!("UPDATE {table} SET {} = ?1 WHERE id = 1", quoted(column));
        let planted =
            rusqlite::Connection::open(self.path()).and_then(|db| db.execute(&update, [text]));
        planted
            .map(|_| ())
            .map_err(|e| Error::refused(e.to_string()))
    }
}

/// A table that does not exist.
struct Nothing;

#[async_trait]
impl TableReader for Nothing {
    fn has_unique_keys(&self) -> bool {
        true
    }

    async fn scan(&mut self, _: &mut dyn Visitor) -> Result<()> {
        Ok(())
    }

    async fn read(&mut self, _: &[Value<'_>], _: &mut dyn Visitor) -> Result<()> {
        Ok(())
    }
}

struct BrokenTable {
    inner: SqliteTable,
    broken: Break,
    key: usize,
    /// The rows as first read.
    copy: Option<Vec<Stored>>,
    /// The provenance that was told first.
    known: Option<Vec<Provenance>>,
    is_scanning: Arc<AtomicBool>,
}

impl BrokenTable {
    /// All rows now.
    async fn all(&mut self) -> Result<Vec<Stored>> {
        let mut all = All(Vec::new(), usize::MAX);
        self.inner.scan(&mut all).await?;
        Ok(all.0)
    }
}

/// Keeps the first rows, up to a number.
struct All(Vec<Stored>, usize);

impl Visitor for All {
    fn wants(&mut self, _: &Value<'_>) -> bool {
        true
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        self.0.push(stored(row.values.iter().cloned()));
        match self.0.len() < self.1 {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}

fn lend(row: &Stored, visitor: &mut dyn Visitor) -> ControlFlow<()> {
    let foreign = &[];
    visitor.row(StoredRow {
        values: row,
        foreign,
    })
}

/// Sits between the reader and the consumer of its rows.
struct Between<'v> {
    visitor: &'v mut dyn Visitor,
    broken: Break,
    lent: usize,
    has_broken_off: bool,
    has_met_foreign: bool,
}

impl Visitor for Between<'_> {
    fn wants(&mut self, key: &Value<'_>) -> bool {
        self.broken == Break::LendsWhatIsNotWanted || self.visitor.wants(key)
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        self.lent += 1;
        self.has_met_foreign |= !row.foreign.is_empty();
        let flow = match self.broken {
            Break::LosesARow if self.lent == 7 => return ControlFlow::Continue(()),
            Break::LendsARowTwice if self.lent == 7 => {
                if self.visitor.row(row).is_break() {
                    return ControlFlow::Break(());
                }
                self.visitor.row(row)
            }
            Break::HidesForeignValues => self.visitor.row(StoredRow {
                foreign: &[],
                ..row
            }),
            Break::Rows(mangle) => {
                let mut values = stored(row.values.iter().cloned());
                values.iter_mut().for_each(|value| one(value, mangle));
                lend(&values, self.visitor)
            }
            _ => self.visitor.row(row),
        };
        self.has_broken_off |= flow.is_break();
        match self.broken {
            Break::LendsOnWhenToldToStop => ControlFlow::Continue(()),
            _ => flow,
        }
    }
}

#[async_trait]
impl TableReader for BrokenTable {
    fn has_unique_keys(&self) -> bool {
        self.broken != Break::DeniesUniqueKeys
    }

    async fn page(&mut self, query: &PageQuery<'_>) -> Result<Page> {
        let mut query = *query;
        match self.broken {
            Break::PagesFromTheStart => query.after = None,
            Break::PagesBeyondTheEnd => query.most += 1,
            Break::PagesWhateverTheValue => query.filters = &[],
            Break::PagesWhateverTheTime => query.newer_than = None,
            _ => {}
        }
        let mut page = self.inner.page(&query).await?;
        match self.broken {
            Break::PagesBackwards => page.keys.reverse(),
            Break::EndsAtAMisfit if !page.among.is_empty() => page.keys.truncate(1),
            Break::HidesMisfits => page.among.clear(),
            _ => {}
        }
        Ok(page)
    }

    async fn scan(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        if self.broken == Break::ScansInTwoParts {
            let mut first = All(Vec::new(), 1_000);
            self.inner.scan(&mut first).await?;
            for row in &first.0 {
                if lend(row, visitor).is_break() {
                    return Ok(());
                }
            }
            for row in &self.all().await?[first.0.len()..] {
                if lend(row, visitor).is_break() {
                    return Ok(());
                }
            }
            return Ok(());
        }
        let is_locking = self.broken == Break::LocksWritersOut;
        self.is_scanning.store(is_locking, Ordering::SeqCst);
        let mut between = Between {
            visitor,
            broken: self.broken,
            lent: 0,
            has_broken_off: false,
            has_met_foreign: false,
        };
        self.inner.scan(&mut between).await?;
        let (has_broken_off, has_met_foreign) = (between.has_broken_off, between.has_met_foreign);
        self.is_scanning.store(false, Ordering::SeqCst);
        match self.broken {
            Break::BreaksWithAnError if has_broken_off => Err(Error::refused("broken off")),
            Break::FailsAtForeignValues if has_met_foreign => Err(Error::refused("no number")),
            _ => Ok(()),
        }
    }

    async fn read(&mut self, keys: &[Value<'_>], visitor: &mut dyn Visitor) -> Result<()> {
        match self.broken {
            Break::ReadsTheWholeTable => self.inner.scan(visitor).await,
            Break::ReadsACopy => {
                if self.copy.is_none() {
                    self.copy = Some(self.all().await?);
                }
                for row in self.copy.iter().flatten() {
                    if keys.contains(&row[self.key]) && lend(row, visitor).is_break() {
                        break;
                    }
                }
                Ok(())
            }
            Break::FoldsKeys => {
                let folded = |value: &Value<'_>| value.to_string().to_lowercase();
                let wanted: Vec<String> = keys.iter().map(folded).collect();
                for row in self.all().await? {
                    if wanted.contains(&folded(&row[self.key])) && lend(&row, visitor).is_break() {
                        break;
                    }
                }
                Ok(())
            }
            broken => {
                let mut between = Between {
                    visitor,
                    broken,
                    lent: 0,
                    has_broken_off: false,
                    has_met_foreign: false,
                };
                self.inner.read(keys, &mut between).await
            }
        }
    }

    async fn provenance(&mut self, keys: &[Value<'_>]) -> Result<Vec<Provenance>> {
        let mut told = self.inner.provenance(keys).await?;
        match self.broken {
            Break::ForgetsOrigins => told.iter_mut().for_each(|p| p.origin = None),
            Break::TellsOtherDigests => told
                .iter_mut()
                .for_each(|p| p.digest = Some(Digest([1; 16]))),
            Break::TellsAFewOnly => told.truncate(256),
            Break::TellsMissingKeys => told.extend(keys.last().map(|key| Provenance {
                key: key.owned(),
                origin: None,
                digest: None,
                write_timestamps: None,
            })),
            Break::RemembersProvenance => return Ok(self.known.get_or_insert(told).clone()),
            _ => {}
        }
        Ok(told)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_tables_keep_every_guarantee() {
    for kind in [Kind::Realtime, Kind::Batch] {
        keeps_all(CASES, &Table::new(kind, None)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_case_of_the_tables_can_fail() {
    each_case_can_fail(CASES, BREAKERS, async |broken, case| {
        let table = Table::new(Kind::Realtime, Some(broken));
        case.check(&table as &dyn Harness).await
    })
    .await;
}
