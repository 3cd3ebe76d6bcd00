//! The event log on Kafka: an idempotent producer, and a member of a consumer group whose offsets are
//! committed by hand.

mod consumer;
mod native;
mod producer;

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::Topic;
use crate::error::{Error, Kind, Result};
use crate::kafka::{self, Health, PATIENCE};
use crate::url::Server;

pub use consumer::KafkaConsumer;
pub use producer::KafkaProducer;

/// Between two looks whether a topic is there.
const LOOK: Duration = Duration::from_millis(20);

/// How Kafka's own tool creates a topic, as a comment of a script for the stores.
pub fn statement(topic: &Topic) -> String {
    let retention = topic
        .retention
        .map(|kept| format!(" --config retention.ms={}", kept.as_millis()))
        .unwrap_or_default();
    format!(
        "-- kafka-topics.sh --create --if-not-exists --topic {} --partitions {} --replication-factor {}{retention}",
        topic.name, topic.partitions, topic.replication
    )
}

/// Creates the topics, where they are missing, and waits until every broker's word has them.
pub async fn create(server: &Server, topics: &[Topic]) -> Result<()> {
    let health = Health::default();
    let admin = AdminClient::from_config_and_context(&kafka::config(server)?, health.clone())
        .map_err(|e| kafka::error(server, &e))?;
    // Whether anybody is there shows sooner here than in the request, of which nothing is heard before its end.
    let caller = BaseConsumer::from_config_and_context(&kafka::config(server)?, health.clone())
        .map_err(|e| kafka::error(server, &e))?;
    let first = topics.first().map_or("", |topic| &topic.name);
    let known = tokio::task::block_in_place(|| {
        kafka::first_partitions(caller.client(), &health, server, first, || {
            caller.poll(Duration::ZERO);
        })
    });
    match known {
        Err(e) if e.kind() != Kind::Invalid => return Err(e),
        _ => {}
    }
    let retentions: Vec<Option<String>> = topics
        .iter()
        .map(|t| t.retention.map(|kept| kept.as_millis().to_string()))
        .collect();
    let new = topics.iter().zip(&retentions).map(|(topic, retention)| {
        let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
        let replication = TopicReplication::Fixed(i32::from(topic.replication));
        let new = NewTopic::new(&topic.name, partitions, replication);
        match retention {
            Some(ms) => new.set("retention.ms", ms),
            None => new,
        }
    });
    let new: Vec<NewTopic<'_>> = new.collect();
    let options = AdminOptions::new()
        .request_timeout(Some(PATIENCE))
        .operation_timeout(Some(PATIENCE));
    let created = admin
        .create_topics(&new, &options)
        .await
        .map_err(|e| admin_error(server, &health, &e))?;
    for result in created {
        match result {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                return Err(kafka::coded(&kafka::address(server), code)
                    .context(format_args!("cannot create the topic {name}")));
            }
        }
    }
    let deadline = Instant::now() + PATIENCE;
    for topic in topics {
        loop {
            let known = tokio::task::block_in_place(|| {
                kafka::partitions(admin.inner(), &health, server, &topic.name)
            });
            match known {
                Ok(n) if n > 0 => break,
                Err(e) if Instant::now() > deadline => return Err(e),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }
    Ok(())
}

fn admin_error(server: &Server, health: &Health, error: &KafkaError) -> Error {
    let known = match error {
        KafkaError::AdminOp(code) => kafka::coded(&kafka::address(server), *code),
        other => kafka::error(server, other),
    };
    health.explain(server, known)
}
