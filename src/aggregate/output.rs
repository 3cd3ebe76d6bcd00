//! The figures as NDJSON, in a file or on standard output.

use std::path::Path;

use jiff::civil::Date;
use serde_json::json;

use crate::dataset::Dataset;
use crate::durable::Aside;
use crate::error::Result;
use crate::ports::aggregates::Figure;
use crate::run::stdout::{self, Pipe};
use crate::run::streams;
use crate::time::format_ms;

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
            let line = json!({
                "dataset": dataset.name,
                "day": day.to_string(),
                "aggregate": figure.aggregate,
                "value": figure.value,
                "count": figure.count,
                "run_id": figure.run_id,
                "computed_at": format_ms(figure.computed_at),
            });
            lines.push_str(&line.to_string());
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
