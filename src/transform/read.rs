//! Events read batch by batch, and answered.

use std::path::PathBuf;

use jiff::Timestamp;

use super::answers::Answers;
use super::arrow_stream::ArrowStreams;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::intake::check::may_be_cut;
use crate::intake::chunk::{Ended, FileFormat, Line};
use crate::intake::input::Input;
use crate::run::{Run, add};
use crate::time::now_ms;

/// Where events come from.
#[derive(Debug)]
pub enum EventSource {
    /// One on each line.
    Ndjson(Input),
    /// One in each row of a record batch.
    Arrow(ArrowStreams),
}

/// Events that were read together, answered.
#[derive(Debug)]
pub struct AnsweredBatch {
    /// The answers, in the order of the events.
    pub answers: Answers,
    /// Blank lines and trailers.
    skipped: u64,
    /// Bytes of the events.
    bytes: u64,
    /// Set where a file of lines ends.
    pub ended: Option<Ended>,
    /// A last event that is cut short: its file and line.
    pub cut: Option<String>,
    /// How far the latest timestamp in the log is ahead of our clock, in milliseconds.
    pub ahead: i64,
}

impl EventSource {
    /// Events on the lines of these files; `-` or no file means standard input.
    pub fn ndjson(files: &[PathBuf]) -> Self {
        EventSource::Ndjson(Input::new(files, Some(FileFormat::Ndjson)))
    }

    /// Events in the Arrow streams of these files, in the same way.
    pub fn arrow(files: &[PathBuf]) -> Self {
        EventSource::Arrow(ArrowStreams::new(files))
    }

    /// The next batch; none at the end. Blocks until there is one.
    pub fn next(
        &mut self,
        dataset: &Dataset,
        now: Option<Timestamp>,
    ) -> Result<Option<AnsweredBatch>> {
        // The clock is read once there is something to judge, because a pipe may be silent for long.
        let now = || now.map_or_else(now_ms, Timestamp::as_millisecond);
        Ok(match self {
            EventSource::Ndjson(input) => input.next_chunk()?.map(|chunk| {
                let lines = chunk.lines();
                let lines = lines.map(|line| (line.number, (None, Some(line.bytes))));
                let answers = Answers::of(dataset, now(), lines);
                let last = chunk.lines().last().filter(|_| chunk.is_open);
                let is_cut = |line: &Line<'_>| {
                    let rule = answers.last_rule();
                    rule.is_some_and(|rule| may_be_cut(rule, line.bytes, chunk.format))
                };
                let cut = last.filter(is_cut);
                let batch = AnsweredBatch {
                    skipped: chunk.skipped,
                    bytes: chunk.size() as u64,
                    ended: chunk.ended.clone(),
                    cut: cut.map(|line| format!("{} line {}", input.name(), line.number)),
                    ahead: 0,
                    answers,
                };
                input.take_back(chunk);
                batch
            }),
            EventSource::Arrow(streams) => streams.next_batch()?.map(|(first, events)| {
                let (now, values, timestamps) = (now(), events.values(), events.timestamps());
                let latest = timestamps.iter().copied().flatten().max();
                let logged = timestamps.into_iter().zip(values.iter().copied());
                AnsweredBatch {
                    skipped: 0,
                    bytes: values
                        .iter()
                        .flatten()
                        .map(|value| value.len() as u64)
                        .sum(),
                    ended: None,
                    cut: None,
                    ahead: latest.map_or(0, |latest| latest.saturating_sub(now)),
                    answers: Answers::of(dataset, now, (first..).zip(logged)),
                }
            }),
        })
    }
}

impl AnsweredBatch {
    /// Counts the events.
    pub fn count(&self, run: &Run) {
        let (counts, events) = (&run.counts, self.answers.len() as u64);
        let good = self.answers.good() as u64;
        add(&counts.read, events + self.skipped);
        add(&counts.written, good);
        add(&counts.rejected, events - good);
        add(&counts.skipped, self.skipped);
        add(&counts.bytes, self.bytes);
    }
}
