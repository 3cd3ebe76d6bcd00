//! The event log on Kafka: an idempotent producer, and a member of a consumer group whose offsets are
//! committed by hand.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::error::{Error, Kind, Result};
use crate::ports::event_log::{Retention, Topic};
use crate::servers::address::Address;
use crate::servers::kafka::{self, Health, REQUEST_TIMEOUT};

/// Pause between two checks whether a topic exists.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How Kafka's own tool creates a topic, as a comment of a script for the stores.
pub(super) fn statement(topic: &Topic) -> String {
    let retention =
        retention_ms(topic).map_or_else(String::new, |ms| format!(" --config retention.ms={ms}"));
    format!(
        "-- kafka-topics.sh --create --if-not-exists --topic {} --partitions {} --replication-factor {}{retention}",
        topic.name, topic.partitions, topic.replication
    )
}

/// Kafka's property, unless the brokers' default is to apply; they delete events after seven days unless told otherwise.
fn retention_ms(topic: &Topic) -> Option<String> {
    match topic.retention {
        Retention::LogDefault => None,
        Retention::For(kept) => Some(kept.as_millis().to_string()),
        Retention::Forever => Some("-1".into()),
    }
}

/// Creates the topics where they are missing, and waits until the brokers report them.
pub(super) async fn create(server: &Address, topics: &[Topic]) -> Result<()> {
    let health = Health::default();
    let admin = AdminClient::from_config_and_context(&kafka::config(server)?, health.clone())
        .map_err(|e| kafka::error(server, &e))?;
    // An unreachable broker is noticed sooner here than in the request, which reports nothing before its end.
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
    let mut was_there = Vec::new();
    for result in request(&admin, &health, server, topics).await? {
        match result {
            Ok(_) => {}
            Err((name, Code::TopicAlreadyExists)) => was_there.push(name),
            Err((name, code)) => {
                return Err(kafka::coded(&kafka::address(server), code)
                    .context(format_args!("cannot create the topic {name}")));
            }
        }
    }
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    for topic in topics {
        let partitions = loop {
            match partitions(&admin, &health, server, topic) {
                Ok(partitions) => break partitions,
                Err(e) if Instant::now() > deadline => return Err(e),
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        };
        if was_there.contains(&topic.name) {
            topic.check_partitions(partitions, &kafka::address(server))?;
        }
    }
    Ok(())
}

/// Asks for all topics at once; the answer says for each whether it was created, or why not.
async fn request(
    admin: &AdminClient<Health>,
    health: &Health,
    server: &Address,
    topics: &[Topic],
) -> Result<Vec<TopicResult>> {
    let retentions: Vec<Option<String>> = topics.iter().map(retention_ms).collect();
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
        .request_timeout(Some(REQUEST_TIMEOUT))
        .operation_timeout(Some(REQUEST_TIMEOUT));
    let created = admin.create_topics(&new, &options).await;
    created.map_err(|e| health.explain(server, kafka::error(server, &e)))
}

/// The number of a topic's partitions; an error while the brokers report none.
fn partitions(
    admin: &AdminClient<Health>,
    health: &Health,
    server: &Address,
    topic: &Topic,
) -> Result<u32> {
    let ask = || kafka::partitions(admin.inner(), health, server, &topic.name);
    match tokio::task::block_in_place(ask)? {
        0 => {
            let at = kafka::address(server);
            let silent = format!(
                "{at} does not report the topic {}, although it was created",
                topic.name
            );
            Err(Error::unavailable(silent))
        }
        partitions => Ok(partitions),
    }
}
