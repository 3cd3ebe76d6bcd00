//! The merged view of Cassandra, whose new rows are found by the table for reads by time, and PostgreSQL.

use std::sync::Arc;

use rtp::view::{Boundary, Query, View, Walk};
use scylla::value::CqlTimestamp;

use crate::cassandra::session;
use crate::common::merged::{Asked, Layers, is_right_while_both_are_written, version_of};
use crate::postgres::Database;
use crate::stack::{Access, Server, server};

/// Stores on both servers with tables of this name; none if a server is missing.
async fn layers(name: &str) -> Option<(&'static Server, Database, Layers)> {
    let cassandra = server("cassandra", Access::Open)?;
    let postgres = Database::new(name)?;
    let realtime = rtp::servers::realtime_store(cassandra.address("RTP_REALTIME_STORE"));
    let batch = rtp::servers::batch_store(&postgres.url);
    let layers = Layers::named(name, realtime.unwrap(), batch.unwrap()).await;
    Some((cassandra, postgres, layers))
}

/// The keys of a listing, and what it leaves out.
async fn listed(view: &mut View, query: Query) -> (Vec<i64>, Option<String>, Vec<String>) {
    let mut walk = Walk::new(query, 4);
    let mut keys = Vec::new();
    while !walk.is_end() {
        let rows = walk.next(view, 4).await.unwrap();
        keys.extend(rows.iter().map(|row| version_of(row).0));
    }
    (keys, walk.left_out(view), walk.misfits(view))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_row_is_older_than_either_store_held_while_both_are_written() {
    if let Some((_, _, layers)) = layers("rtp_view").await {
        is_right_while_both_are_written(layers, 15).await;
    }
}

/// A page lists what the series has after the boundary, and says so; a listing that is read to its end, or for which no
/// boundary is asked for, lists everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_page_leaves_out_is_said_and_can_be_asked_for() {
    let Some((cassandra, _postgres, layers)) = layers("rtp_view_pages").await else {
        return;
    };
    let streamed: Vec<_> = (1..8).map(|n| (n, n, 1)).collect();
    layers.stream(&streamed).await;
    layers.load(&[(3, 1, 0), (9, 5, 2)]).await;
    // As if 7 had been written before the dataset declared the series.
    let session = session(cassandra).await;
    let series = "rtp_view_pages.things_by_hour";
    let select = format!("SELECT hour, shard, at, id FROM {series}");
    let rows = session.query_unpaged(select, ()).await.unwrap();
    let rows = rows.into_rows_result().unwrap();
    type Row = (CqlTimestamp, i32, CqlTimestamp, i64);
    for row in rows.rows::<Row>().unwrap() {
        let row = row.unwrap();
        if row.3 == 7 {
            let delete =
                format!("DELETE FROM {series} WHERE hour = ? AND shard = ? AND at = ? AND id = ?");
            session.query_unpaged(delete, row).await.unwrap();
        }
    }
    let mut view = layers.view().await;
    let all = [1, 2, 3, 4, 5, 6, 7, 9];
    let unasked = Asked {
        text: None,
        boundary: Boundary::Unasked,
    };
    let query = layers.query(&mut view, unasked).await;
    assert_eq!(query.boundary, view.newest_loaded().await.unwrap());
    let (keys, left_out, _) = listed(&mut view, query).await;
    assert_eq!(keys, [3, 6, 9]);
    let left_out = left_out.unwrap();
    assert!(
        left_out.contains("or things_by_hour lacks them"),
        "{left_out}"
    );
    let whole = view.boundary(Boundary::Unasked, true).await.unwrap();
    assert_eq!(whole, None);
    for text in [None, Some(1)] {
        let boundary = Boundary::Without;
        let query = layers.query(&mut view, Asked { text, boundary }).await;
        let expected = if text.is_none() { &all[..] } else { &all[..7] };
        let listed = listed(&mut view, query).await;
        assert_eq!(listed, (expected.to_vec(), None, Vec::new()));
    }
    // A condition on a row that the series does not offer, of a key that the batch store has with another value.
    let by_text = Asked {
        text: Some(1),
        ..unasked
    };
    let query = layers.query(&mut view, by_text).await;
    assert_eq!(listed(&mut view, query).await.0, [3, 6]);
}

/// A table of another program may have rows without a key, and several of one key.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_without_a_key_are_told_and_rows_of_one_key_listed_once() {
    let Some(database) = Database::new("rtp_view_keys") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let realtime = rtp::servers::sqlite::Sqlite(folder.path().join("realtime.db"));
    let batch = rtp::servers::batch_store(&database.url);
    let layers = Layers::named("rtp_view_keys", Arc::new(realtime), batch.unwrap()).await;
    let loaded: Vec<_> = (0..12).map(|n| (n, 1, 1)).collect();
    layers.load(&loaded).await;
    let table = "rtp_view_keys_batch";
    let keys = format!(
        "SELECT conname FROM pg_constraint WHERE conrelid = '{table}'::regclass AND contype IN ('p', 'u')"
    );
    for key in database.psql(&keys).unwrap().lines() {
        database
            .psql(&format!("ALTER TABLE {table} DROP CONSTRAINT {key}"))
            .unwrap();
    }
    let change = format!(
        "ALTER TABLE {table} ALTER id DROP NOT NULL;
         INSERT INTO {table} SELECT t.* FROM {table} AS t, generate_series(1, 40) WHERE id IN (2, 3);
         UPDATE {table} SET id = NULL WHERE id IN (5, 7)"
    );
    database.psql(&change).unwrap();
    let mut view = layers.view().await;
    for text in [None, Some(1)] {
        let boundary = Boundary::Unasked;
        let query = layers.query(&mut view, Asked { text, boundary }).await;
        let (keys, left_out, misfits) = listed(&mut view, query).await;
        assert_eq!(
            (keys, left_out),
            (vec![0, 1, 2, 3, 4, 6, 8, 9, 10, 11], None)
        );
        let expected = "2 rows of the batch store are not listed, because the key is not of the type bigint: null, ...";
        assert_eq!(misfits, [expected]);
    }
}
