//! Keys that perhaps differ: read again, after some time if asked for; what still differs gets its class and is reported.
//!
//! There is one of it for a comparison, so that a grace is waited for once, and log and ledger are asked once.

mod answers;
mod waiting;
mod writer;

use tokio::time::Instant;

use self::waiting::{Answers, KeyList, Records, Waiting, Witness};
use super::base::Base;
use super::classify::{self, Judged};
use super::landing::lacking;
use super::recheck::{AtOnce, Found, OwnedRow, content, differences, not_caught_up, rows_now};
use super::search::Rejects;
use super::sketch::Suspect;
use super::{Class, Compared, Comparison, Content, Difference, Kind, Report, Side, Table};
use crate::error::{Error, Result};
use crate::ports::table_reader::Provenance;
use crate::record::value::Value;
use crate::run::retry::Retry;

/// How often rows are read that are written again and again.
const ROUNDS: u32 = 5;

/// Maximum bytes of keys that wait for the end of a grace, some 140,000 UUIDs; with more, what is there is settled first.
const WAITING_BYTES: usize = 4 << 20;

/// Settles keys that perhaps differ.
pub(super) struct Settle<'a, 'r> {
    comparison: &'a Comparison,
    /// Scans may use them between two keys.
    pub(super) tables: &'a mut [Table; 2],
    retry: &'a Retry,
    report: &'a mut Report<'r>,
    compared: &'a mut Compared,
    /// The names of the tables or files that are compared for each side, if those of records of landing files are.
    names: Option<[[String; 2]; 2]>,
    /// What was known before the first of the rows was read that is judged.
    base: Option<Base>,
    keys: KeyList,
    /// How many keys are read at once from both stores.
    at_once: AtOnce,
    /// How many records are looked up at once in each store: one may lack what the other one has in large rows.
    looked_up: [AtOnce; 2],
    /// Records of a landing file that a store lacked before the grace was over.
    records: Records,
    /// What a search has to find out.
    waiting: Waiting,
    /// What the last search found, while the rows that waited for it are judged.
    answers: Option<Answers>,
    /// Whether what would have to be asked now is not asked any more.
    is_last_round: bool,
    rejects: Option<Rejects>,
    searches: u64,
    /// Whether a search could not wait for the end.
    was_full: bool,
    begun: Instant,
    /// When the last scan ended: whatever makes a key differ came before.
    since: Instant,
    /// Why the log is not asked any more, once it was away for too long.
    given_up: Option<String>,
}

impl<'a, 'r> Settle<'a, 'r> {
    pub(super) fn new(
        comparison: &'a Comparison,
        tables: &'a mut [Table; 2],
        retry: &'a Retry,
        report: &'a mut Report<'r>,
        compared: &'a mut Compared,
    ) -> Self {
        Settle {
            comparison,
            tables,
            retry,
            report,
            compared,
            names: None,
            base: None,
            keys: KeyList::default(),
            at_once: AtOnce::default(),
            looked_up: Default::default(),
            records: Records::default(),
            waiting: Waiting::default(),
            answers: None,
            is_last_round: false,
            rejects: None,
            searches: 0,
            was_full: false,
            begun: Instant::now(),
            since: Instant::now(),
            given_up: None,
        }
    }

    /// Takes that a scan has ended, whose keys are added next.
    pub(super) fn scanned(&mut self) {
        self.since = Instant::now();
    }

    /// Takes how many rows the tables have, and their bytes.
    pub(super) fn expect(&mut self, rows: u64, bytes: u64) {
        self.at_once.expect(rows, bytes);
    }

    /// From now on, what is reported of a landing file's records is about the tables or files of these names: of those
    /// that are looked for in the real-time store, and in the batch store.
    pub(super) fn name_tables(&mut self, names: [[String; 2]; 2]) {
        self.names = Some(names);
    }

    /// Adds a key.
    pub(super) async fn add(&mut self, suspect: &Suspect) -> Result<()> {
        self.keys.add(suspect);
        match self.keys.bytes() >= WAITING_BYTES {
            true => self.settle_keys().await,
            false => Ok(()),
        }
    }

    /// Adds records of a landing file that a store must have.
    pub(super) async fn add_records(&mut self, side: Side, records: Vec<OwnedRow>) -> Result<()> {
        if self.is_stopped() {
            return Ok(());
        }
        // The records were there before the comparison began.
        let is_over = Instant::now() >= self.begun + self.comparison.grace;
        if is_over {
            self.ask().await;
        }
        let mut records = records.into_iter().peekable();
        while records.peek().is_some() {
            let at_once = self.looked_up[side as usize].keys();
            let some = records.by_ref().take(at_once).collect();
            let found = self.lacking(side, some).await?;
            match is_over {
                true => self.judge(found).await?,
                false => found.into_iter().for_each(|found| self.records.add(found)),
            }
        }
        match self.records.are_many() {
            _ if is_over => self.answer_if_many().await,
            false => Ok(()),
            true => self.settle_records().await,
        }
    }

    /// Settles the rest; nothing after a stop.
    pub(super) async fn finish(mut self) -> Result<()> {
        self.settle_keys().await?;
        self.settle_records().await?;
        self.answer().await?;
        self.tell_searches();
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.comparison.stop.requested().is_some()
    }

    /// Settles the keys that were added, once the grace is over.
    async fn settle_keys(&mut self) -> Result<()> {
        let keys = std::mem::take(&mut self.keys);
        if keys.count() > 0 {
            self.comparison.wait(self.since).await;
            let keys = self.not_caught_up(keys).await?;
            self.judge_keys(&keys).await?;
        }
        Ok(())
    }

    /// Leaves out the keys of which the batch store has by now what the scan of the real-time store saw: as in any other
    /// row, both were read, and are equal. A load on its way makes many of them, and this spares reading the real-time
    /// store, where single rows are dear.
    async fn not_caught_up(&mut self, keys: KeyList) -> Result<KeyList> {
        if !self.tables.iter().all(Table::has_unique_keys) {
            return Ok(keys);
        }
        let mut left = KeyList::default();
        let mut seen = Vec::new();
        let mut keys = keys.iter().peekable();
        while let Some(key) = keys.next()
            && !self.is_stopped()
        {
            match key? {
                (key, Some(digest)) => seen.push((key, digest)),
                (key, None) => left.add(&Suspect::unseen(&key)),
            }
            let is_last = keys.peek().is_none() && !seen.is_empty();
            if is_last || seen.len() >= self.at_once.keys() {
                let (comparison, [_, batch]) = (self.comparison, &mut *self.tables);
                let (some, at_once) = (std::mem::take(&mut seen), &mut self.at_once);
                let some = not_caught_up(comparison, batch, some, at_once, self.retry).await?;
                some.iter().for_each(|key| left.add(&Suspect::unseen(key)));
            }
        }
        Ok(left)
    }

    async fn judge_keys(&mut self, keys: &KeyList) -> Result<()> {
        let mut keys = keys.iter().peekable();
        while keys.peek().is_some() && !self.is_stopped() {
            let some = keys.by_ref().take(self.at_once.keys());
            let some: Result<Vec<Value<'static>>> = some.map(|key| Ok(key?.0)).collect();
            self.ask().await;
            let found = match self.answers {
                None => self.read(some?).await?,
                Some(_) => self.read_again(some?).await?,
            };
            self.judge(found).await?;
            self.answer_if_many().await?;
        }
        Ok(())
    }

    /// Settles the records that were added, once the grace is over.
    async fn settle_records(&mut self) -> Result<()> {
        let records = std::mem::take(&mut self.records);
        if !records.is_empty() {
            self.comparison.wait(self.begun).await;
            self.judge_records(records.into_vec()).await?;
        }
        Ok(())
    }

    async fn judge_records(&mut self, mut records: Vec<(Side, OwnedRow)>) -> Result<()> {
        while let Some(side) = records.last().map(|(side, _)| *side)
            && !self.is_stopped()
        {
            let at_once = self.looked_up[side as usize].keys();
            let of_side = records.iter().rev().take(at_once);
            let some = of_side.take_while(|(of, _)| *of == side).count();
            let some = records.split_off(records.len() - some);
            self.ask().await;
            let some = some.into_iter().map(|(_, row)| row).collect();
            let found = self.lacking(side, some).await?;
            self.judge(found).await?;
            self.answer_if_many().await?;
        }
        Ok(())
    }

    async fn lacking(&mut self, side: Side, records: Vec<OwnedRow>) -> Result<Vec<Found>> {
        let table = self.tables[side as usize].get()?;
        let (comparison, at_once) = (self.comparison, &mut self.looked_up[side as usize]);
        lacking(comparison, side, table, records, at_once, self.retry).await
    }

    async fn read(&mut self, keys: Vec<Value<'static>>) -> Result<Vec<Found>> {
        let (comparison, tables) = (self.comparison, &mut *self.tables);
        differences(comparison, tables, keys, &mut self.at_once, self.retry).await
    }

    /// Like `read`, for keys that were read before: that they are there more than once is reported then.
    async fn read_again(&mut self, keys: Vec<Value<'static>>) -> Result<Vec<Found>> {
        let mut found = self.read(keys).await?;
        found.retain(|found| found.kind != Kind::Duplicate);
        Ok(found)
    }

    /// Asks where the log and the loads are. Before rows are read: whatever moves on in between only brings more rows.
    async fn ask(&mut self) {
        if self.base.is_none() {
            let witnesses = self.comparison.witnesses.as_ref();
            let dataset = &self.comparison.whole;
            self.base = Some(Base::take(witnesses, dataset, self.retry).await);
        }
    }

    async fn judge(&mut self, mut found: Vec<Found>) -> Result<()> {
        for round in 1..=ROUNDS {
            let outside = self.judge_once(found).await?;
            found = self.confirm(outside, round == ROUNDS).await?;
            if found.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Judges differences by what the stores keep; returns those whose rows do not seem to be what rtp wrote.
    async fn judge_once(&mut self, found: Vec<Found>) -> Result<Vec<(Found, String)>> {
        let mut outside = Vec::new();
        if found.is_empty() {
            return Ok(outside);
        }
        let kept = self.provenance(&found).await?;
        for found in found {
            let of = |side: Side| {
                let mut kept = kept[side as usize].iter();
                kept.find(|kept| kept.key == found.key)
            };
            let dataset = &self.comparison.whole;
            let base = known(self.base.as_ref())?;
            let kept = [Side::Realtime, Side::Batch]
                .map(|side| of(side).filter(|_| found.record != Some(side)));
            let judged = classify::by_stores(dataset, base, &found, kept);
            if let Judged::Known(Class::ChangedOutside, why) = judged {
                outside.push((found, why));
                continue;
            }
            if found.is_newer_than_record(dataset) {
                continue;
            }
            self.settle_one(found, judged)?;
        }
        Ok(outside)
    }

    /// Reports rows that are not what rtp wrote, if they are still the ones that were read: a row and what is kept with it
    /// are read one after the other, and a load or the stream may have written it in between. Returns the differences that
    /// are left of the other rows.
    async fn confirm(
        &mut self,
        outside: Vec<(Found, String)>,
        is_last: bool,
    ) -> Result<Vec<Found>> {
        if outside.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<Value<'static>> =
            outside.iter().map(|(found, _)| found.key.clone()).collect();
        let (comparison, at_once) = (self.comparison, &mut self.at_once);
        let now = rows_now(comparison, self.tables, &keys, at_once, self.retry).await?;
        let (mut moved, mut left) = (Vec::new(), Vec::new());
        for ((found, why), now) in outside.into_iter().zip(now) {
            let is_same = |side: Side| {
                found.record == Some(side) || found.rows[side as usize] == now[side as usize]
            };
            let is_same = is_same(Side::Realtime) && is_same(Side::Batch);
            match (is_same, found.record) {
                (true, _) => self.tell(&found, Class::ChangedOutside, &why)?,
                (false, _) if is_last => {
                    let why = "its rows were written again whenever they were read";
                    self.tell(&found, Class::Unexplained, why)?;
                }
                (false, None) => moved.push(found.key),
                (false, Some(Side::Batch)) => {
                    let [_, record] = found.rows;
                    left.extend(
                        self.lacking(Side::Realtime, record.into_iter().collect())
                            .await?,
                    );
                }
                (false, Some(Side::Realtime)) => {
                    let [record, _] = found.rows;
                    left.extend(
                        self.lacking(Side::Batch, record.into_iter().collect())
                            .await?,
                    );
                }
            }
        }
        if !moved.is_empty() {
            left.extend(self.read_again(moved).await?);
        }
        Ok(left)
    }

    /// Reports a difference, or asks for what tells its class.
    fn settle_one(&mut self, mut found: Found, judged: Judged) -> Result<()> {
        let dataset = &self.comparison.whole;
        let realtime = found.rows[Side::Realtime as usize].as_ref();
        let newer = realtime.and_then(|row| classify::version(dataset, row));
        let (witness, version) = match (&judged, newer) {
            (Judged::AskLog(version), _) => (Witness::Log, *version),
            (Judged::AskLanding(..), Some(version)) => (Witness::Landing, version),
            (Judged::Known(..), Some(version)) if judged.was_not_loaded() => {
                (Witness::Rejects, version)
            }
            (Judged::Known(class, evidence), _) => return self.tell(&found, *class, evidence),
            (Judged::AskLanding(..), None) => {
                return Err(Error::internal("a version without a row"));
            }
        };
        match self.verdict(&found, judged, witness, version)? {
            Some((class, mut evidence)) => {
                let why = self.as_meant(&found, witness, version);
                if let Some((why, is_sure)) = why.filter(|_| class == Class::Lost) {
                    found.is_meant = is_sure;
                    evidence = format!("{evidence}; {why}");
                }
                self.tell(&found, class, &evidence)
            }
            None if self.is_last_round => {
                let (class, evidence) = self.verdict_before(&found, witness)?;
                self.tell(&found, class, &evidence)
            }
            None => {
                if let Some(stored) = self.also_asked(&found, witness) {
                    self.waiting.asked.landing.add(&found.key, stored);
                }
                self.waiting.add(found, witness, version);
                Ok(())
            }
        }
    }

    /// What the stores keep with these rows.
    async fn provenance(&mut self, found: &[Found]) -> Result<[Vec<Provenance>; 2]> {
        let keys: Vec<Value<'static>> = found.iter().map(|found| found.key.clone()).collect();
        let mut both = [Vec::new(), Vec::new()];
        for (table, kept) in self.tables.iter_mut().zip(&mut both) {
            let table = table.get()?;
            let ask = async || table.provenance(&keys).await;
            *kept = self.retry.through_outage(ask).await?;
        }
        Ok(both)
    }

    fn tell(&mut self, found: &Found, class: Class, evidence: &str) -> Result<()> {
        let dataset = &self.comparison.whole;
        if let Some((names, record)) = self.names.as_ref().zip(found.record) {
            let side = match record {
                Side::Realtime => Side::Batch,
                Side::Batch => Side::Realtime,
            };
            self.report.turn_to_tables(&names[side as usize]);
        }
        self.compared.add(found, class, dataset);
        self.report.repair(dataset, found, class)?;
        let side = match (found.record, found.kind, found.counts) {
            (Some(Side::Realtime), ..) => Some(Side::Batch),
            (Some(Side::Batch), ..) => Some(Side::Realtime),
            (_, Kind::Changed, _) => None,
            (_, Kind::Duplicate, [_, 0 | 1]) => Some(Side::Realtime),
            (_, Kind::Duplicate, [0 | 1, _]) | (_, Kind::Missing | Kind::Extra, _) => {
                Some(Side::Batch)
            }
            (_, Kind::Duplicate, _) => None,
        };
        let difference = Difference {
            kind: found.kind,
            class,
            evidence,
            key: Content::Value(&found.key),
            side,
            column: None,
            cells: match found.kind {
                Kind::Duplicate => found.counts.map(Content::Rows),
                _ => [Content::Row; 2],
            },
        };
        let [Some(a), Some(b)] = &found.rows else {
            self.compared.show(&difference);
            return self.report.add(&difference);
        };
        for &column in &found.columns {
            let difference = Difference {
                column: Some(&self.comparison.whole.fields[column].name),
                cells: [content(a, column), content(b, column)],
                ..difference
            };
            self.compared.show(&difference);
            self.report.add(&difference)?;
        }
        Ok(())
    }
}

fn known(base: Option<&Base>) -> Result<&Base> {
    base.ok_or_else(|| Error::internal("rows were judged before anything was asked"))
}

#[cfg(test)]
mod tests;
