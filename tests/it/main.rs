//! The commands as users see them, on embedded stores: one module per subject, and one binary, so that everything is
//! linked only once. The real servers' tests are in tests/servers.

#![allow(clippy::unwrap_used)]

mod aggregate;
mod cli;
mod commits;
#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod dag;
mod dashboard;
mod docs;
mod explain;
mod fetch;
mod full_disk;
mod heartbeat;
mod help;
mod init;
mod kafka;
mod layers;
mod ledger;
mod load_batch;
mod logs;
mod metrics;
mod mock_api;
mod pipeline;
mod produce;
mod products;
mod schema;
mod silence;
mod sources;
mod stream;
mod transform;
mod verify;
mod verify_answers;
mod verify_files;
mod verify_log;
mod verify_rejects;
mod verify_witnesses;
mod view;
