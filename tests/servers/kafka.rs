//! The event log on a real Kafka.

use crate::stack::{Access, server};

#[test]
fn the_stack_answers() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    assert!(kafka.address("RTP_EVENT_LOG").starts_with("kafka://"));
}
