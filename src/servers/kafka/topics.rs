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
use crate::servers::kafka::properties::{Properties, is_secret, properties};
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

/// Creates the topics where they are missing, and waits until the brokers report them. Returns which of the others keep
/// events for a shorter time than they should.
pub(super) async fn create(server: &Address, topics: &[Topic]) -> Result<Vec<String>> {
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
            let adding = format!(
                "add partitions with `kafka-topics.sh --alter --topic {} --partitions {}`",
                topic.name, topic.partitions
            );
            topic.check_partitions(partitions, &kafka::address(server), &adding)?;
        }
    }
    let mut says = Vec::new();
    for topic in topics.iter().filter(|t| was_there.contains(&t.name)) {
        says.extend(compare_retention(&admin, &health, server, topic)?);
    }
    Ok(says)
}

/// Whether an existing topic deletes its events sooner than the dataset asks for, as a sentence; or that it is not known.
fn compare_retention(
    admin: &AdminClient<Health>,
    health: &Health,
    server: &Address,
    topic: &Topic,
) -> Result<Option<String>> {
    let ask = || properties(admin.inner(), &topic.name, health.patience());
    let says = match tokio::task::block_in_place(ask) {
        Ok(there) => kept_for(&there).and_then(|kept| shortfall(topic, kept)),
        Err(e) if is_secret(&e) && topic.retention != Retention::LogDefault => Some(format!(
            "the brokers do not tell how long events are kept ({e})"
        )),
        Err(e) if is_secret(&e) => None,
        Err(e) => return Err(health.explain(server, kafka::error(server, &e))),
    };
    let at = kafka::address(server);
    Ok(says.map(|says| format!("topic {} in {at}: {says}", topic.name)))
}

/// How long a topic keeps its events; none if for ever, or if it deletes only older events of the same key.
fn kept_for(there: &Properties) -> Option<Duration> {
    let deletes = there.get("cleanup.policy")?.contains("delete");
    let kept = there.get("retention.ms").filter(|_| deletes)?;
    kept.parse().ok().map(Duration::from_millis) // -1 is for ever
}

/// What to say of a topic that keeps its events for this long.
fn shortfall(topic: &Topic, kept: Duration) -> Option<String> {
    let asked = match topic.retention {
        Retention::For(asked) if asked > kept => format!("for {asked:?}"),
        Retention::Forever => "for ever".into(),
        Retention::For(_) | Retention::LogDefault => return None,
    };
    let (name, wanted) = (&topic.name, retention_ms(topic).unwrap_or_default());
    Some(format!(
        "events are kept for {kept:?}, but the dataset asks that they be kept {asked}; rtp changes no topic that exists: `kafka-configs.sh --alter --topic {name} --add-config retention.ms={wanted}` does"
    ))
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

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_topic_that_keeps_events_for_a_shorter_time_is_told() {
        for (policy, there, asked, expected) in [
            (
                "delete",
                "604800000",
                Retention::Forever,
                "604800s, but the dataset asks that they be kept for ever;",
            ),
            (
                "delete",
                "604800000",
                Retention::For(8 * DAY),
                "be kept for 691200s;",
            ),
            (
                "compact,delete",
                "0",
                Retention::For(DAY),
                "events are kept for 0ns",
            ),
            ("delete", "604800000", Retention::For(7 * DAY), ""),
            ("delete", "604800000", Retention::For(DAY), ""),
            ("delete", "604800000", Retention::LogDefault, ""),
            ("delete", "-1", Retention::Forever, ""),
            ("compact", "604800000", Retention::Forever, ""),
        ] {
            let topic = Topic {
                retention: asked,
                ..Topic::new("users.dlq", 1)
            };
            let entry = |(name, value): (&str, &str)| (name.to_string(), value.to_string());
            let there = [("cleanup.policy", policy), ("retention.ms", there)].map(entry);
            let kept = kept_for(&Properties::from(there));
            let said = kept.and_then(|kept| shortfall(&topic, kept));
            match said {
                None => assert_eq!(expected, "", "{asked:?}"),
                Some(said) => {
                    assert!(!expected.is_empty() && said.contains(expected), "{said}");
                    assert!(
                        said.contains("--topic users.dlq --add-config retention.ms="),
                        "{said}"
                    );
                }
            }
        }
    }
}
