//! The merged view of Cassandra, whose new rows are found by the table for reads by time, and PostgreSQL.

use crate::common::merged::{Layers, is_right_while_both_are_written};
use crate::stack::{Access, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_row_is_older_than_either_store_held_while_both_are_written() {
    let open = |name| server(name, Access::Open);
    let (Some(cassandra), Some(postgres)) = (open("cassandra"), open("postgres")) else {
        return;
    };
    let realtime = rtp::servers::realtime_store(cassandra.address("RTP_REALTIME_STORE"));
    let batch = rtp::servers::batch_store(postgres.address("RTP_BATCH_STORE"));
    let layers = Layers::new(realtime.unwrap(), batch.unwrap()).await;
    is_right_while_both_are_written(layers, 15).await;
}
