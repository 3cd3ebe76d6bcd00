//! The figures as NDJSON, in a file or on standard output.

use std::path::Path;

use jiff::civil::Date;
use serde::Serialize;

use crate::dataset::Dataset;
use crate::durable::Aside;
use crate::error::{Error, Result};
use crate::ports::aggregates::Figure;
use crate::run::stdout::{self, Pipe};
use crate::run::streams;
use crate::time::format_ms;

/// A figure as a line of NDJSON.
#[derive(Serialize)]
struct Line<'a> {
    dataset: &'a str,
    day: String,
    aggregate: &'a str,
    value: Option<&'a str>,
    count: u64,
    run_id: &'a str,
    computed_at: String,
}

/// Where the figures go.
pub(super) enum Output {
    Stdout(Pipe),
    File(Aside),
}

impl Output {
    /// Fails before anything is computed if it cannot be written.
    pub(super) fn create(path: &Path) -> Result<Output> {
        match path.as_os_str() == "-" {
            true => {
                streams::check_output()?;
                Ok(Output::Stdout(Pipe::Open))
            }
            false => Aside::create(path).map(Output::File),
        }
    }

    /// Adds the figures of a day, a line each.
    pub(super) fn write(&mut self, dataset: &Dataset, day: Date, figures: &[Figure]) -> Result<()> {
        let mut lines = String::new();
        for figure in figures {
            let line = serde_json::to_string(&Line {
                dataset: &dataset.name,
                day: day.to_string(),
                aggregate: &figure.aggregate,
                value: figure.value.as_deref(),
                count: figure.count,
                run_id: &figure.run_id,
                computed_at: format_ms(figure.computed_at),
            });
            lines.push_str(&line.map_err(Error::internal)?);
            lines.push('\n');
        }
        match self {
            Output::File(file) => file.write(lines.as_bytes()),
            // Its reader has seen enough; the figures are still computed.
            Output::Stdout(Pipe::Closed) => Ok(()),
            Output::Stdout(pipe) => {
                *pipe = stdout::write(lines.as_bytes())?;
                Ok(())
            }
        }
    }

    /// Makes a file durable, and visible as a whole.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            Output::File(file) => file.publish(),
            Output::Stdout(_) => Ok(()),
        }
    }
}
