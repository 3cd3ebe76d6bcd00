//! The adapters of the real servers, on servers that these tests start and stop.

#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)]

mod cassandra;
#[path = "../common/mod.rs"]
mod common;
mod joins;
mod kafka;
mod live;
mod pipeline;
mod postgres;
mod spark;
mod spark_aggregate;
mod stack;
mod storm;
mod view;

use rtp::ports::conformance::{Abilities, Case, Outcome};

/// Every case that applies passes; the others need an ability that the harness lacks.
async fn keeps<H: Abilities + ?Sized>(cases: &[Case<H>], harness: &H) {
    let mut broken = Vec::new();
    for case in cases {
        if let Outcome::Broken(what) = case.check(harness).await {
            broken.push(format!("{}: {what}", case.name));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
