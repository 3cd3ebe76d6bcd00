//! What the loads have rejected of the record, in the reject files that are still there.

use std::ops::ControlFlow;

use super::Asked;
use super::model::{Part, Rejected, Time, Trouble};
use crate::error::{Error, Result};
use crate::intake::chunk::Line;
use crate::intake::reject_lines::{RejectKeys, RejectLine, RejectsOf, each_line, reject_files};
use crate::ports::ledger::LoadRecord;

/// How many records of the key are kept for the answer.
const MOST: usize = 100;

/// How many records are kept that may be of the key, besides those that are.
const MOST_UNSURE: usize = 20;

/// Rejected records.
#[derive(Debug, Default)]
struct Found {
    /// Those of the key, from the newest load on.
    sure: Vec<Rejected>,
    /// Those whose key cannot be read, but that have this key in their text.
    unsure: Vec<Rejected>,
    /// Number of further ones.
    left_out: u64,
}

/// Searches the reject files of the loads. First come the records that certainly have the key; also tells how many more
/// there are.
pub(super) fn rejects(
    asked: &Asked<'_>,
    loads: &[LoadRecord],
    troubles: &mut Vec<Trouble>,
) -> (Vec<Rejected>, u64) {
    let mut found = Found::default();
    for (load, there) in reject_files(loads) {
        let record = &loads[load];
        let mut file = RejectFile {
            asked,
            keys: RejectKeys::of(asked.dataset, asked.key.letters(), record, asked.stop),
            there: &there,
            load: (load, record),
            found: &mut found,
            trouble: None,
        };
        if let Err(e) = file.search() {
            troubles.push(Trouble::new(Part::Rejects, &e));
        }
    }
    let all = found.sure.into_iter().chain(found.unsure).collect();
    (all, found.left_out)
}

/// A reject file, while it is searched.
struct RejectFile<'a> {
    asked: &'a Asked<'a>,
    keys: RejectKeys<'a>,
    there: &'a RejectsOf<'a>,
    /// Its index, the newest being 0, and what is known of it.
    load: (usize, &'a LoadRecord),
    found: &'a mut Found,
    /// The first line that may be about the key, but cannot be read.
    trouble: Option<Error>,
}

impl RejectFile<'_> {
    fn search(&mut self) -> Result<()> {
        each_line(self.there.path, self.asked.stop, &mut |line| {
            self.see(line);
            ControlFlow::Continue(())
        })?;
        self.trouble.take().map_or(Ok(()), Err)
    }

    fn see(&mut self, line: Line<'_>) {
        let key = &self.asked.key;
        if !key.may_be_in(line.bytes) && !RejectLine::may_be_encoded(line.bytes) {
            return;
        }
        match self.there.read(line.bytes) {
            None => {} // another run wrote it
            Some(Ok(reject)) => self.add(reject),
            Some(Err(e)) => {
                let (path, number) = (self.there.path.display(), line.number);
                // The other lines can be read all the same.
                self.trouble
                    .get_or_insert_with(|| Error::missing(format!("{path} line {number} {e}")));
            }
        }
    }

    /// Adds a record if it has the key, or may have it.
    fn add(&mut self, reject: RejectLine) {
        let key = &self.asked.key;
        let read = self.keys.read(&reject);
        let is_of_key = match &read {
            Some((found, _)) if *found == key.value => true,
            Some(_) => return,
            None => {
                let record = reject.record().unwrap_or_default();
                if !key.may_be_a_value_in(&record) {
                    return;
                }
                false
            }
        };
        let (kept, most) = match is_of_key {
            true => (&mut self.found.sure, MOST),
            false => (&mut self.found.unsure, MOST_UNSURE),
        };
        if kept.len() >= most {
            self.found.left_out += 1;
            return;
        }
        let unsure = match is_of_key {
            true => "",
            false => "; its key cannot be read, but this key is in its text",
        };
        let (load, record) = self.load;
        kept.push(Rejected {
            file: self.there.path.display().to_string(),
            input: reject.input,
            line: reject.line,
            event_time: read.and_then(|(_, time)| time).map(Time),
            rule: reject.rule,
            field: reject.field,
            reason: reject.reason + unsure,
            is_of_key,
            run_id: record.info.run_id.clone(),
            load,
        });
    }
}
