//! Reads a landing or reject file again, to look for some of its records.

use std::ops::ControlFlow;
use std::path::Path;

use crate::error::{Context, Result};
use crate::intake::chunk::{Ended, FileFormat, Line};
use crate::intake::input::Input;
use crate::ports::ledger::Contents;
use crate::run::Stop;

/// Looks at the records of a file.
pub trait Seeker {
    /// Takes the header of a CSV file, before its records.
    fn header(&mut self, header: &[u8]) -> Result<()>;

    /// Takes a record of a file of this format; `Break` ends the reading early, without an error.
    fn record(&mut self, record: Line<'_>, format: FileFormat) -> Result<ControlFlow<()>>;

    /// Takes what is known of a file that was read to its end.
    fn end(&mut self, _: &Ended) {}
}

/// Lends the records of a file to the seeker, in this format or in that of its extension. Blocks, ends early after a
/// stop, and keeps nothing of what was read. An error names the file.
pub fn each_record(
    path: &Path,
    format: Option<FileFormat>,
    stop: &Stop,
    seeker: &mut dyn Seeker,
) -> Result<()> {
    let mut input = Input::new(&[path.to_path_buf()], format);
    while let Some(chunk) = input.next_chunk()? {
        if stop.requested().is_some() {
            return Ok(());
        }
        if let Some(header) = chunk.header() {
            seeker.header(header).context(path.display())?;
        }
        for line in chunk.lines() {
            if seeker.record(line, chunk.format)?.is_break() {
                return Ok(());
            }
        }
        if let Some(ended) = &chunk.ended {
            seeker.end(ended);
        }
        input.take_back(chunk);
    }
    Ok(())
}

/// What is known of a file that was read to its end.
#[derive(Debug, Default)]
pub struct Whole {
    /// The header, if it is CSV.
    pub header: Option<Vec<u8>>,
    /// What it holds; none after a stop.
    pub contents: Option<Contents>,
}

impl Seeker for Whole {
    fn header(&mut self, header: &[u8]) -> Result<()> {
        self.header = Some(header.to_vec());
        Ok(())
    }

    fn record(&mut self, _: Line<'_>, _: FileFormat) -> Result<ControlFlow<()>> {
        Ok(ControlFlow::Continue(()))
    }

    fn end(&mut self, ended: &Ended) {
        self.contents = Some(ended.contents.clone());
    }
}

/// Reads a file of this format to its end, and keeps none of its records. Blocks; an error names the file.
pub fn whole(path: &Path, format: FileFormat, stop: &Stop) -> Result<Whole> {
    let mut whole = Whole::default();
    each_record(path, Some(format), stop, &mut whole)?;
    Ok(whole)
}
