//! Where fetched records land: on standard output, or in a file that appears only when it is complete.

use std::fs::File;
use std::path::Path;

use super::pages::Step;
use crate::durable::{self, Aside};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::intake::chunk::FileFormat;
use crate::intake::input::Input;
use crate::intake::marks::Tally;
use crate::run::retry::Retry;
use crate::run::stdout::{self, Pipe};
use crate::run::{Run, add, streams};

/// Whether this run fills a landing file.
#[derive(Debug)]
pub enum Claim {
    /// It does, and no other run fills the file while this is held.
    Ours(File),
    /// It does not: there is nothing to do, or the run was told to stop.
    Ends(Exit),
}

/// What a landing file must contain to be left as it is.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Number of records; none for any.
    pub count: Option<u64>,
    /// Whether there must be at least one.
    pub require_records: bool,
}

/// Claims a landing file, to fill it unless it is complete. Waits if another run is filling it.
pub async fn claim(path: &Path, wanted: Wanted, retry: &Retry) -> Result<Claim> {
    let in_use = || Error::unavailable(durable::in_use(path));
    let hold = retry.through_outage(async || durable::try_hold(path)?.ok_or_else(in_use));
    let held = tokio::select! {
        held = hold => held?,
        signal = retry.run.stop.wait() => return Ok(Claim::Ends(signal.exit())),
    };
    match tokio::task::block_in_place(|| is_complete(path, wanted, &retry.run))? {
        true => Ok(Claim::Ends(Exit::Done)),
        false => Ok(Claim::Ours(held)),
    }
}

/// Whether a file ends with a trailer and holds as many records as are wanted, which then count as skipped. An
/// error if the file does not match its trailer.
fn is_complete(path: &Path, wanted: Wanted, run: &Run) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let mut input = Input::new(&[path.into()], Some(FileFormat::Ndjson));
    let (mut records, mut bytes) = (0, 0);
    while let Some(chunk) = input.next_chunk()? {
        records += chunk.len() as u64;
        bytes += chunk.size() as u64;
        input.take_back(chunk);
    }
    let file = path.display();
    let lacks_records = records == 0 && wanted.require_records;
    if !input.is_complete() || lacks_records || wanted.count.is_some_and(|count| count != records) {
        run.info(format!("{file} holds {records} records, fetching it again"));
        return Ok(false);
    }
    run.info(format!("{file} already holds the {records} records"));
    for (counter, n) in [
        (&run.counts.read, records),
        (&run.counts.skipped, records),
        (&run.counts.bytes, bytes),
    ] {
        add(counter, n);
    }
    Ok(true)
}

/// An error if a file without records would replace one that has some.
pub fn check_replaced(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let mut input = Input::new(&[path.into()], Some(FileFormat::Ndjson));
    loop {
        match input.next_chunk() {
            Ok(None) => return Ok(()),
            Ok(Some(chunk)) if chunk.is_empty() => input.take_back(chunk),
            _ => break, // a record, or something that cannot be read as one
        };
    }
    Err(Error::missing(format!(
        "the source has no records, but {} has some, so it is unchanged",
        path.display()
    ))
    .hint("to replace it with an empty file, remove it first"))
}

/// Where the lines are written.
pub struct Landing {
    /// Dropped before it is published, it leaves nothing behind.
    file: Option<Aside>,
    /// Number of records in the file.
    held: u64,
    tally: Tally,
    run: Run,
}

impl std::fmt::Debug for Landing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Landing").finish_non_exhaustive()
    }
}

impl Landing {
    /// Starts the file, or standard output if there is none.
    pub fn open(file: Option<&Path>, run: &Run) -> Result<Self> {
        if file.is_none() {
            streams::check_output()?; // before the source is asked for anything
        }
        Ok(Landing {
            file: file.map(Aside::create).transpose()?,
            held: 0,
            tally: Tally::default(),
            run: run.clone(),
        })
    }

    /// Writes the wanted part of a page, and on a pipe also the mark that carries the bookmark. What a file has no room for
    /// is written by `flush`.
    pub fn write(&mut self, step: &Step, bookmark: Option<String>) -> Result<Pipe> {
        let lines = step.page.lines_of(step.take.clone());
        let records = step.take.end - step.take.start;
        self.tally.add_lines(records, lines);
        let pipe = match (&mut self.file, bookmark) {
            (Some(file), _) => {
                file.add(lines);
                self.held += records;
                Pipe::Open
            }
            (None, None) => stdout::write(lines)?,
            (None, Some(json)) => {
                stdout::write(&[lines, self.tally.page(&json).as_bytes()].concat())?
            }
        };
        if pipe == Pipe::Open {
            let counts = &self.run.counts;
            add(&counts.read, records);
            add(&counts.written, records);
            add(&counts.bytes, lines.len() as u64);
        }
        Ok(pipe)
    }

    /// Writes to the file what is worth a write. After `Unavailable`, the next call goes on where this one stopped.
    pub fn flush(&mut self) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), Aside::flush_if_due)
    }

    /// Writes the line that counts the records.
    pub fn write_trailer(&mut self) -> Result<()> {
        let trailer = self.tally.end();
        match &mut self.file {
            None => stdout::write(trailer.as_bytes()).map(|_| ()),
            Some(file) => {
                file.add(trailer.as_bytes());
                Ok(())
            }
        }
    }

    /// Makes the file durable before it appears. After `Unavailable`, it can be tried again.
    pub fn sync(&mut self) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), Aside::sync)
    }

    /// Makes the file appear, complete and durable.
    pub fn publish(mut self) -> Result<()> {
        self.file.take().map_or(Ok(()), Aside::publish)?;
        self.held = 0;
        Ok(())
    }
}

/// What is in a file that never appears was not written.
impl Drop for Landing {
    fn drop(&mut self) {
        self.run.counts.give_up(self.held);
    }
}
