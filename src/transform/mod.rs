//! The rules alone: events in, as NDJSON or Arrow; rows, or the reasons why there are none, out.

pub mod answers;
pub mod arrow_stream;
pub mod read;
