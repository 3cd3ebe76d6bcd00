//! The records that put right what differs, as NDJSON for `produce` and `load-batch`. Nothing is written to a store.

use std::path::Path;

use super::format::counted;
use super::recheck::Found;
use super::{Class, Kind};
use crate::dataset::Dataset;
use crate::durable::Aside;
use crate::error::Result;
use crate::record::json;
use crate::run::Run;

/// A file of records.
#[derive(Debug)]
pub struct Repair {
    file: Aside,
    name: String,
    /// Records that the real-time store lacks, that the batch store lacks, and differences without a right record.
    counts: [u64; 3],
    /// Differences of tables for reads by time.
    of_series: u64,
    /// Differences that are explained.
    explained: u64,
    /// Records that the batch store lacks because a load was told to leave or remove its rows.
    meant: u64,
}

impl Repair {
    /// Creates the file, which replaces one of that name when it is complete.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Repair {
            file: Aside::create(path)?,
            name: path.display().to_string(),
            counts: [0; 3],
            of_series: 0,
            explained: 0,
            meant: 0,
        })
    }

    /// Adds the record that both stores should have, if the rows show it. What was changed behind the pipeline's back
    /// shows none: which of the two values is right is not for us to guess.
    pub(super) fn add(&mut self, dataset: &Dataset, found: &Found, class: Class) -> Result<()> {
        if !class.fails() {
            self.explained += 1;
            return Ok(());
        }
        if found.is_meant {
            self.meant += 1;
            return Ok(());
        }
        let [realtime, batch] = &found.rows;
        let (lacks, row) = match (class, found.kind) {
            (Class::Lost | Class::Unexplained, Kind::Extra) => (0, batch),
            (Class::Lost | Class::Unexplained, Kind::Missing) => (1, realtime),
            (Class::Lost, Kind::Changed) => match found.is_realtime_newer(dataset) {
                true => (1, realtime),
                false => (0, batch),
            },
            _ => (2, &None),
        };
        self.counts[lacks] += 1;
        if let Some(row) = row {
            let mut line = json::event(dataset, &row.values);
            line.push('\n');
            self.file.write(line.as_bytes())?;
        }
        Ok(())
    }

    /// Counts a difference whose rows do not show which record is right.
    pub(super) fn leave(&mut self) {
        self.counts[2] += 1;
    }

    /// Counts a difference of a table for reads by time, which no record puts right: its events would have to be read again.
    pub(super) fn leave_series(&mut self) {
        self.of_series += 1;
    }

    /// Publishes the file, and tells what to do with it.
    pub fn finish(self, run: &Run) -> Result<()> {
        let [realtime, batch, none] = self.counts;
        self.file.publish()?;
        let name = &self.name;
        if realtime + batch > 0 {
            run.info(format!(
                "{name} has {}: the real-time store lacks {realtime} of them (rtp produce {name}), the batch store {batch} (rtp load-batch {name}); both commands keep what is newer",
                counted(realtime + batch, "record")
            ));
        }
        if none > 0 {
            run.warn(format!(
                "{} not repaired by {name}, because no row shows which record is right; rtp explain KEY shows what is known of one",
                differences(none)
            ));
        }
        if self.of_series > 0 {
            run.warn(format!(
                "{} not repaired by {name}, because they are of tables for reads by time, and it has only records that a main table lacks",
                differences(self.of_series)
            ));
        }
        if self.explained > 0 {
            run.info(format!(
                "{} left out of {name}, because they are explained: the records are on their way, refused or expired",
                differences(self.explained)
            ));
        }
        if self.meant > 0 {
            run.warn(format!(
                "{} not repaired by {name}, because a load with --mode ignore, upsert or replace was told to leave the batch store so",
                differences(self.meant)
            ));
        }
        if self.counts == [0; 3] && self.meant == 0 && self.of_series == 0 {
            run.info(format!(
                "{name} is empty, because there is nothing to repair"
            ));
        }
        Ok(())
    }
}

/// `1 difference is`, `2 differences are`.
fn differences(number: u64) -> String {
    let verb = if number == 1 { "is" } else { "are" };
    format!("{} {verb}", counted(number, "difference"))
}
