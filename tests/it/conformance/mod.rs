//! The ports' conformance suites on the embedded adapters; and for each case a deliberately broken
//! adapter that must fail it, so that every case can fail.

mod aggregates;
mod batch_store;
mod event_log;
mod history;
mod ledger;
mod log_reader;
mod monitor;
mod realtime_store;
mod rows;
mod table;

use std::collections::BTreeSet;

use rtp::ports::conformance::{Abilities, Case, Outcome};

/// Every case applies and passes.
async fn keeps_all<H: Abilities + ?Sized>(cases: &[Case<H>], harness: &H) {
    let broken: Vec<(&str, Outcome)> = run_all(cases, harness).await;
    assert!(broken.is_empty(), "{broken:#?}");
}

async fn run_all<H: Abilities + ?Sized>(
    cases: &[Case<H>],
    harness: &H,
) -> Vec<(&'static str, Outcome)> {
    let mut broken = Vec::new();
    for case in cases {
        let outcome = case.check(harness).await;
        if outcome != Outcome::Kept {
            broken.push((case.name, outcome));
        }
    }
    broken
}

/// Each broken adapter fails the case that it is listed for, and each case has one.
async fn each_case_can_fail<H: Abilities + ?Sized, B: std::fmt::Debug + Copy>(
    cases: &[Case<H>],
    breakers: &[(B, &str)],
    broken: impl AsyncFn(B, &Case<H>) -> Outcome,
) {
    let mut wrong = Vec::new();
    for (breaker, name) in breakers {
        let case = cases.iter().find(|c| c.name == *name).unwrap();
        let outcome = broken(*breaker, case).await;
        if !matches!(outcome, Outcome::Broken(_)) {
            wrong.push(format!("{breaker:?} passes {name}: {outcome:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let broken: BTreeSet<&str> = breakers.iter().map(|(_, name)| *name).collect();
    let unbroken: Vec<&str> = cases
        .iter()
        .map(|c| c.name)
        .filter(|name| !broken.contains(name))
        .collect();
    assert!(unbroken.is_empty(), "without a breaker: {unbroken:?}");
}
