//! Whatever is loaded and streamed while a listing is read: it shows no row that is older than what either layer held
//! before, no key twice, and every key that it should.

use std::sync::Arc;

use proptest::prelude::*;
use rtp::record::row::Digest;
use rtp::servers::sqlite::Sqlite;
use rtp::view::{Query, Walk};

use crate::common::merged::{
    Held, Layers, Written, all_are_shown, is_right_while_both_are_written, none_is_older,
    version_of,
};

/// Embedded stores, and their folder.
async fn embedded() -> (tempfile::TempDir, Layers) {
    let folder = tempfile::tempdir().unwrap();
    let store = |name: &str| Arc::new(Sqlite(folder.path().join(name)));
    let layers = Layers::new(store("realtime.db"), store("batch.db")).await;
    (folder, layers)
}

/// What happens between two pages of a listing, or before it.
#[derive(Clone, Debug)]
enum Step {
    Stream(Vec<Written>),
    Load(Vec<Written>),
    Page(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let written = || prop::collection::vec((0_i64..60, 1_i64..50, 0_u8..3), 1..12);
    let step = prop_oneof![
        written().prop_map(Step::Stream),
        written().prop_map(Step::Load),
        (1_usize..9).prop_map(Step::Page),
    ];
    prop::collection::vec(step, 1..24)
}

/// Writes and reads in this order; the listing begins with the first page.
async fn walks(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (_folder, layers) = embedded().await;
    let mut view = layers.view().await;
    let mut walk: Option<(Walk, [Held; 2], Option<i64>)> = None;
    let mut shown = Vec::new();
    for step in steps.into_iter().chain([Step::Page(usize::MAX)]) {
        match step {
            Step::Stream(written) => layers.stream(&written).await,
            Step::Load(written) => layers.load(&written).await,
            Step::Page(most) => {
                if walk.is_none() {
                    let query = Query {
                        boundary: view.boundary().await.unwrap(),
                        ..Query::default()
                    };
                    let boundary = query.boundary;
                    walk = Some((Walk::new(query, 4), layers.held(), boundary));
                }
                let (walk, ..) = walk.as_mut().unwrap();
                let held = layers.held();
                while !walk.is_end() {
                    let rows = walk.next(&mut view, most.min(64)).await.unwrap();
                    let versions: Vec<_> = rows.iter().map(version_of).collect();
                    none_is_older(&held, &versions).map_err(TestCaseError::fail)?;
                    shown.extend(versions.iter().map(|(key, _)| *key));
                    if most != usize::MAX {
                        break;
                    }
                }
            }
        }
    }
    let (_, held, boundary) = walk.unwrap();
    all_are_shown(&held, boundary, &shown).map_err(TestCaseError::fail)
}

#[test]
fn a_listing_is_right_whatever_is_written_between_its_pages() {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    proptest!(ProptestConfig::with_cases(24), |(steps in steps())| {
        runtime.block_on(walks(steps))?;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_row_is_older_than_either_layer_held_while_both_are_written() {
    let (_folder, layers) = embedded().await;
    is_right_while_both_are_written(layers, 40).await;
}

/// The checks above can fail.
#[test]
fn older_rows_missing_keys_and_keys_that_come_twice_are_seen() {
    let version = |time| (time, Digest::default());
    let held = [Held::from([(1, version(5))]), Held::from([(2, version(4))])];
    assert!(none_is_older(&held, &[(1, version(5)), (2, version(9))]).is_ok());
    assert!(none_is_older(&held, &[(1, version(4))]).is_err());
    assert!(none_is_older(&held, &[(2, version(3))]).is_err());
    assert!(all_are_shown(&held, Some(4), &[1, 2, 3]).is_ok());
    assert!(all_are_shown(&held, Some(5), &[2]).is_ok());
    for (boundary, shown) in [
        (Some(4), &[2][..]),
        (None, &[1]),
        (None, &[1, 1, 2]),
        (None, &[2, 1]),
    ] {
        assert!(all_are_shown(&held, boundary, shown).is_err(), "{shown:?}");
    }
}
