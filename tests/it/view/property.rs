//! Whatever is loaded and streamed while a listing is read: it shows no row that is older than what either layer held
//! before, no key twice, and every key that it should.

use std::sync::Arc;

use proptest::prelude::*;
use rtp::record::row::Digest;
use rtp::servers::sqlite::Sqlite;
use rtp::view::{Boundary, Query, Walk};

use crate::common::merged::{
    Asked, Held, Layers, State, Written, all_are_shown, all_match, is_right_while_both_are_written,
    none_is_older, version_of,
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

/// The boundary of a listing.
#[derive(Clone, Copy, Debug)]
enum Until {
    Unasked,
    /// The newest event time of the last load.
    Loaded,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let written = || prop::collection::vec((0_i64..60, 1_i64..50, 0_u8..3), 1..12);
    let newer = (0_i64..60, 50_i64..90, 0_u8..3);
    let step = prop_oneof![
        written().prop_map(Step::Stream),
        written().prop_map(Step::Load),
        newer.prop_map(|row| Step::Load(vec![row])),
        (1_usize..9).prop_map(Step::Page),
    ];
    prop::collection::vec(step, 1..24)
}

/// A condition, or none; and a boundary.
fn asked() -> impl Strategy<Value = (Option<u8>, Until)> {
    let text = prop::option::of(0_u8..3);
    (text, prop_oneof![Just(Until::Unasked), Just(Until::Loaded)])
}

/// Writes and reads in this order; the listing begins with the first page.
async fn walks(steps: Vec<Step>, (text, until): (Option<u8>, Until)) -> Result<(), TestCaseError> {
    let (_folder, layers) = embedded().await;
    let mut view = layers.view().await;
    let mut walk: Option<(Walk, State)> = None;
    let mut shown = Vec::new();
    for step in steps.into_iter().chain([Step::Page(usize::MAX)]) {
        match step {
            Step::Stream(written) => layers.stream(&written).await,
            Step::Load(written) => layers.load(&written).await,
            Step::Page(most) => {
                if walk.is_none() {
                    let boundary = match until {
                        Until::Unasked => Boundary::Unasked,
                        Until::Loaded => view.newest_loaded().await.unwrap().into(),
                    };
                    let query = layers.query(&mut view, Asked { text, boundary }).await;
                    walk = Some((Walk::new(query, 4), layers.state()));
                }
                let (walk, _) = walk.as_mut().unwrap();
                let held = layers.state().held;
                while !walk.is_end() {
                    let rows = walk.next(&mut view, most.min(64)).await.unwrap();
                    let versions: Vec<_> = rows.iter().map(version_of).collect();
                    none_is_older(&held, &versions).map_err(TestCaseError::fail)?;
                    all_match(&rows, text).map_err(TestCaseError::fail)?;
                    shown.extend(versions.iter().map(|(key, _)| *key));
                    if most != usize::MAX {
                        break;
                    }
                }
            }
        }
    }
    let (walk, before) = walk.unwrap();
    let boundary = walk.query().boundary;
    prop_assert_eq!(walk.left_out(&view).is_some(), boundary.is_some());
    // Embedded stores keep their keys in order, so nothing is left out unless that was asked for.
    prop_assert!(boundary.is_none() || matches!(until, Until::Loaded));
    let wanted = layers.wanted(&before, boundary, text);
    all_are_shown(&wanted, &shown).map_err(TestCaseError::fail)
}

#[test]
fn a_listing_is_right_whatever_is_written_between_its_pages() {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    proptest!(ProptestConfig::with_cases(48), |(steps in steps(), asked in asked())| {
        runtime.block_on(walks(steps, asked))?;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_row_is_older_than_either_layer_held_while_both_are_written() {
    let (_folder, layers) = embedded().await;
    is_right_while_both_are_written(layers, 40).await;
}

/// The checks above can fail.
#[tokio::test(flavor = "multi_thread")]
async fn older_rows_missing_keys_and_keys_that_come_twice_are_seen() {
    let version = |time| (time, Digest::default());
    let held = [Held::from([(1, version(5))]), Held::from([(2, version(4))])];
    assert!(none_is_older(&held, &[(1, version(5)), (2, version(9))]).is_ok());
    assert!(none_is_older(&held, &[(1, version(4))]).is_err());
    assert!(none_is_older(&held, &[(2, version(3))]).is_err());
    assert!(all_are_shown(&[1, 2].into(), &[1, 2, 3]).is_ok());
    for shown in [&[2][..], &[1], &[1, 1, 2], &[2, 1]] {
        assert!(all_are_shown(&[1, 2].into(), shown).is_err(), "{shown:?}");
    }
    // What must be shown: whatever is held, unless a boundary or a condition leaves it out, or it was written since.
    let (_folder, layers) = embedded().await;
    layers.stream(&[(1, 5, 0), (2, 5, 1), (3, 9, 1)]).await;
    layers.load(&[(4, 6, 1), (3, 6, 0)]).await;
    let before = layers.state();
    let boundary = before.held[1].get(&4).map(|(time, _)| *time);
    assert_eq!(layers.wanted(&before, None, None), [1, 2, 3, 4].into());
    assert_eq!(layers.wanted(&before, boundary, None), [3, 4].into());
    assert_eq!(layers.wanted(&before, None, Some(1)), [2, 3, 4].into());
    assert_eq!(layers.wanted(&before, None, Some(0)), [1].into());
    layers.load(&[(2, 1, 0)]).await;
    assert_eq!(layers.wanted(&before, None, Some(1)), [3, 4].into());
    let mut view = layers.view().await;
    let rows = Walk::new(Query::default(), 9).next(&mut view, 9).await;
    assert!(all_match(&rows.unwrap(), Some(1)).is_err());
}
