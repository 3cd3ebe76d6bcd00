//! The search for what tells the class of differences, and the verdict on each.

use std::ops::Range;

use tokio::task::block_in_place;

use super::waiting::{ASKED, ASKED_RECORDS, Answers, Asked, Waiting, Witness};
use super::writer::or_ahead;
use super::{ROUNDS, Settle, known};
use crate::error::Result;
use crate::ports::batch_store::Mode;
use crate::ports::ledger::LoadRecord;
use crate::run::task::beside;
use crate::time::now_ms;
use crate::verify::base::Base;
use crate::verify::classify::{self, Judged, Version};
use crate::verify::expiry::Expiry;
use crate::verify::recheck::Found;
use crate::verify::search::{
    ByKey, Landed, Rejected, Seen, hash_of, id_of, in_landing, in_log, in_rejects,
};
use crate::verify::{Class, Kind, Side};

impl Settle<'_, '_> {
    /// Searches for what differences wait for, if they are too many to wait for more.
    pub(super) async fn answer_if_many(&mut self) -> Result<()> {
        match self.waiting.is_full() && self.answers.is_none() {
            // A search judges what waits for it, in this very way.
            true => {
                self.was_full = true;
                Box::pin(self.answer()).await
            }
            false => Ok(()),
        }
    }

    /// Searches for what the differences wait for, reads their rows again, and reports those that still differ. Rows that
    /// are other ones by then wait for another search.
    pub(super) async fn answer(&mut self) -> Result<()> {
        for round in 1..=ROUNDS {
            let waiting = std::mem::take(&mut self.waiting);
            if waiting.is_empty() || self.is_stopped() {
                return Ok(());
            }
            let Waiting {
                keys,
                records,
                asked,
            } = waiting;
            self.searches += 1;
            self.answers = Some(self.search(asked).await?);
            self.is_last_round = round == ROUNDS;
            self.judge_keys(&keys).await?;
            self.judge_records(records.into_vec()).await?;
            self.answers = None;
            self.is_last_round = false;
        }
        Ok(())
    }

    async fn search(&mut self, asked: Asked) -> Result<Answers> {
        let comparison = self.comparison;
        let (dataset, stop) = (&comparison.whole, &comparison.stop);
        let base = known(self.base.as_ref())?;
        let loads = base.loads.as_deref().unwrap_or_default();
        let landing = || match asked.landing.is_empty() {
            true => Landed::default(),
            false => in_landing(dataset, loads, base.has_earlier, &asked.landing, stop),
        };
        let log = async {
            match (asked.log.is_empty(), &self.given_up) {
                (true, _) => Default::default(),
                (false, Some(why)) => (ByKey::default(), Some(why.clone())),
                (false, None) => {
                    let witnesses = comparison.witnesses.as_ref();
                    in_log(witnesses, dataset, &base.log, &asked.log, self.retry).await
                }
            }
        };
        let (landed, (seen, trouble)) = beside(landing, log)?;
        self.given_up = self.given_up.take().or(trouble.clone());
        let ahead = self.ahead(&seen).await?;
        let base = known(self.base.as_ref())?;
        let loads = base.loads.as_deref().unwrap_or_default();
        let is_cut = self.rejects.as_ref().is_some_and(|all| all.is_cut);
        let rejects = is_cut.then(|| {
            let wanted = [&asked.rejects, &asked.landing];
            block_in_place(|| in_rejects(dataset, loads, Some(&wanted), stop))
        });
        Ok(Answers {
            asked,
            seen,
            trouble,
            ahead,
            landed,
            rejects,
        })
    }

    /// The class of a difference with its evidence; none if that has to be asked for.
    pub(super) fn verdict(
        &mut self,
        found: &Found,
        judged: Judged,
        witness: Witness,
        version: Version,
    ) -> Result<Option<(Class, String)>> {
        if witness != Witness::Log {
            self.read_rejects()?;
        }
        let base = known(self.base.as_ref())?;
        let all = self.rejects.as_ref();
        let answers = self.answers.as_ref();
        let answers = answers.filter(|answers| answers.has(&found.key, witness, version));
        let rejects = match all.filter(|all| !all.is_cut) {
            Some(all) => Some(all),
            None => answers.and_then(|answers| answers.rejects.as_ref()),
        };
        let id = id_of(hash_of(&found.key), version);
        let rejects = rejects.filter(|_| witness != Witness::Log);
        let rejected = rejects.and_then(|r| r.of(&found.key, version.0));
        let unread = rejects.and_then(|rejects| rejects.unread.as_deref());
        Ok(match (judged, answers) {
            (Judged::AskLog(_), Some(answers)) => {
                Some(self.by_log(base, answers, (found.kind, id, version)))
            }
            (Judged::AskLanding(class, came_later), Some(answers)) => Some(by_landing(
                base,
                (class, came_later),
                &answers.landed,
                rejected,
                (id, version.0),
            )),
            (Judged::AskLog(_) | Judged::AskLanding(..), None) => None,
            (Judged::Known(class, evidence), _) => rejects.map(|_| match (rejected, unread) {
                (Some(rejected), _) if rejected.is_sure => (Class::Rejected, rejected.why),
                (Some(unsure), _) => (class, also(evidence, Some(unsure.why))),
                (None, None) => (class, evidence),
                (None, Some(unread)) => (class, format!("{evidence}; {unread}")),
            }),
        })
    }

    /// The class of a difference whose rows were written again whenever they were read: a version comes after one that was
    /// looked for, and is in flight as long as that one is.
    pub(super) fn verdict_before(
        &self,
        found: &Found,
        witness: Witness,
    ) -> Result<(Class, String)> {
        let base = known(self.base.as_ref())?;
        let key = hash_of(&found.key);
        let answers = self.answers.as_ref().filter(|_| witness == Witness::Log);
        let judged = answers.into_iter().flat_map(|answers| {
            let before = answers.asked.log.versions(key);
            before.map(|version| {
                self.by_log(base, answers, (found.kind, id_of(key, version), version))
            })
        });
        let waiting = judged
            .into_iter()
            .find(|(class, _)| *class == Class::InFlight);
        let again = "its rows were written again whenever they were read";
        Ok(match waiting {
            Some((class, evidence)) => (class, format!("{evidence}; {again}")),
            None => (Class::Unexplained, again.into()),
        })
    }

    /// The class of a version that the real-time store lacks, by the log, with its evidence.
    fn by_log(
        &self,
        base: &Base,
        answers: &Answers,
        (kind, id, version): (Kind, u64, Version),
    ) -> (Class, String) {
        let nothing = Seen::default();
        let seen = answers.seen.get(&id).unwrap_or(&nothing);
        let trouble = answers.trouble.as_deref();
        let judged = classify::by_log(&self.comparison.whole, base, seen, trouble);
        let judged = or_ahead(judged, seen, &answers.ahead);
        match self.comparison.ttl {
            None => judged,
            Some(ttl) => {
                let expiry = Expiry { ttl, now: now_ms() };
                expiry.or(judged, kind, version.0, seen, trouble, base)
            }
        }
    }

    /// Why the batch store lacks a version that was loaded, if that is what a load was told to do; and whether that is sure,
    /// because no load that may have brought it since, or before, is one whose files are not all known.
    pub(super) fn as_meant(
        &self,
        found: &Found,
        witness: Witness,
        version: Version,
    ) -> Option<(String, bool)> {
        if witness != Witness::Landing || found.record == Some(Side::Batch) {
            return None; // the real-time store lacks it
        }
        let loads = self.base.as_ref()?.loads.as_deref().ok()?;
        let landed = &self.answers.as_ref()?.landed;
        let key = hash_of(&found.key);
        let id = id_of(key, version);
        let is = |mode: Mode, load: &LoadRecord| load.mode == mode.name();
        let last = |mode: Mode, of: Range<usize>| of.into_iter().find(|at| is(mode, &loads[*at]));
        let told = |at: usize, what: &str, others: Range<usize>| {
            let (run, mode) = (&loads[at].info.run_id, &loads[at].mode);
            let is_sure = !landed.may_be_in(id, version.0, others);
            let perhaps = if is_sure { "" } else { "perhaps " };
            let why = format!("{perhaps}load {run} with --mode {mode} {what}");
            Some((why, is_sure))
        };
        let at = landed.load(id)?;
        if let Some(replaced) = last(Mode::Replace, 0..at) {
            let what = "has since removed all rows that it did not bring";
            return told(replaced, what, 0..replaced + 1);
        }
        if found.kind != Kind::Changed {
            return None;
        }
        let written = landed.written_by(id);
        let stored = found.rows[Side::Batch as usize].as_ref();
        let older = stored.and_then(|row| classify::version(&self.comparison.whole, row));
        let overwritten = older.and_then(|older| landed.exactly(id_of(key, older)));
        let overwritten = overwritten.filter(|load| is(Mode::Upsert, &loads[*load]));
        if let Some(load) = overwritten.filter(|load| *load < written.unwrap_or(at)) {
            let what = "has since put the older row in its place";
            return told(load, what, 0..load);
        }
        // Unless another load had brought it before, and nothing has removed it since.
        let was_written = written.is_some_and(|before| last(Mode::Replace, at..before).is_none());
        match is(Mode::Ignore, &loads[at]) && !was_written {
            true => told(at, "left the stored row as it was", at + 1..usize::MAX),
            false => None,
        }
    }

    /// What else a search of the files has to find for a difference: what is stored in place of a newer version, if a load
    /// may have put it there.
    pub(super) fn also_asked(&self, found: &Found, witness: Witness) -> Option<Version> {
        let loads = self.base.as_ref()?.loads.as_deref().ok()?;
        let is_upsert = |load: &LoadRecord| load.mode == Mode::Upsert.name();
        if witness != Witness::Landing || !loads.iter().any(is_upsert) {
            return None;
        }
        let stored = found.rows[Side::Batch as usize].as_ref()?;
        classify::version(&self.comparison.whole, stored)
    }

    /// Reads where all rejected records are, if they are not too many.
    fn read_rejects(&mut self) -> Result<()> {
        if self.rejects.is_none() {
            let dataset = &self.comparison.whole;
            let loads = known(self.base.as_ref())?
                .loads
                .as_deref()
                .unwrap_or_default();
            let stop = &self.comparison.stop;
            self.rejects = Some(block_in_place(|| in_rejects(dataset, loads, None, stop)));
        }
        Ok(())
    }

    /// Tells why there was more than one search, if there was.
    pub(super) fn tell_searches(&self) {
        let searches = self.searches;
        if self.was_full && searches > 1 {
            self.retry.run.info(format!(
                "log and files were searched {searches} times for what tells the classes, because one search is for at most {ASKED} keys or {ASKED_RECORDS} records of landing files"
            ));
        }
    }
}

/// The class of a version, with this id and event time, that the batch store lacks, by the files, with its evidence.
fn by_landing(
    base: &Base,
    judged: (Class, Option<String>),
    landed: &Landed,
    rejected: Option<Rejected>,
    (id, time): (u64, i64),
) -> (Class, String) {
    // It counts if every other load is known not to have read the record.
    let explains = |rejected: &Rejected| {
        let (load, input) = (rejected.load, rejected.input.as_deref());
        let read = base.read_by(load, input);
        rejected.is_sure && !landed.may_be_elsewhere(id, time, (load, input), read)
    };
    let is_rejected = rejected.as_ref().is_some_and(explains);
    let of_key = rejected.as_ref().filter(|rejected| rejected.is_of_key);
    let unread = landed.unread(id, time, of_key.map(|rejected| rejected.load));
    // One that may be any record says nothing about a record that was loaded.
    let place = landed.place(id);
    let rejected = rejected.filter(|rejected| rejected.is_of_key || place.is_none());
    let why = rejected.map(|rejected| rejected.why);
    let (class, evidence) = classify::by_landing(
        base,
        judged,
        place.as_deref(),
        why.as_deref().filter(|_| is_rejected),
        unread.as_deref(),
    );
    (class, also(evidence, why.filter(|_| !is_rejected)))
}

/// Evidence with a reject that may be of another record.
fn also(evidence: String, reject: Option<String>) -> String {
    match reject {
        None => evidence,
        Some(reject) => format!("{evidence}; perhaps rejected, see {reject}"),
    }
}
