//! What a server promises: one trait per role, with the types that its methods use. No server is named here.

pub mod aggregates;
pub mod batch_store;
#[cfg(feature = "conformance")]
#[doc(hidden)]
pub mod conformance;
pub mod event_log;
pub mod ledger;
pub mod log_reader;
pub mod monitor;
pub mod page_reader;
pub mod realtime_store;
pub mod sample_store;
pub mod series_reader;
pub mod table_reader;
pub mod table_schema;

/// The hint if something is missing that `rtp init` creates.
pub(crate) const INIT_FIRST: &str = "run `rtp init` first, with the same dataset and addresses";
