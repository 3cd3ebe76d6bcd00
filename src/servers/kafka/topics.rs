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

/// Creates the topics where they are missing, and waits until the brokers report them. Returns which of the others delete
/// events sooner than they should.
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
        Ok(there) => shortfall(topic, &there),
        Err(e) if is_secret(&e) && topic.retention != Retention::LogDefault => Some(format!(
            "the brokers do not tell how long events are kept ({e})"
        )),
        Err(e) if is_secret(&e) => None,
        Err(e) => return Err(health.explain(server, kafka::error(server, &e))),
    };
    let at = kafka::address(server);
    Ok(says.map(|says| format!("topic {} in {at}: {says}", topic.name)))
}

/// How long a topic keeps its events; none if for ever.
fn kept_for(there: &Properties) -> Option<Duration> {
    let kept = there.get("retention.ms")?.parse().ok(); // -1 is for ever
    kept.map(Duration::from_millis)
}

/// How many bytes of events a partition keeps; none if there is no limit.
fn kept_bytes(there: &Properties) -> Option<u64> {
    there.get("retention.bytes")?.parse().ok() // -1 is no limit
}

/// What to say of a topic with these properties; none if it keeps its events as asked, or deletes only older events of the
/// same key.
fn shortfall(topic: &Topic, there: &Properties) -> Option<String> {
    let (asked, most) = match topic.retention {
        Retention::For(asked) => (format!("for {asked:?}"), asked),
        Retention::Forever => ("for ever".into(), Duration::MAX),
        Retention::LogDefault => return None,
    };
    if !there.get("cleanup.policy")?.contains("delete") {
        return None;
    }
    let by_time = kept_for(there).filter(|kept| *kept < most).map(|kept| {
        let wanted = retention_ms(topic).unwrap_or_default();
        (
            format!("events are kept for {kept:?}"),
            format!("retention.ms={wanted}"),
        )
    });
    let by_size = kept_bytes(there).map(|bytes| {
        (
            format!("the oldest events are deleted where a partition has more than {bytes} bytes"),
            "retention.bytes=-1".to_string(),
        )
    });
    let (says, set): (Vec<_>, Vec<_>) = by_time.into_iter().chain(by_size).unzip();
    if says.is_empty() {
        return None;
    }
    let (name, says, set) = (&topic.name, says.join(", and "), set.join(","));
    Some(format!(
        "{says}, but the dataset asks that they be kept {asked}; rtp changes no topic that exists: `kafka-configs.sh --alter --topic {name} --add-config {set}` does"
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

    fn says(asked: Retention, there: &[(&str, &str)]) -> Option<String> {
        let topic = Topic {
            retention: asked,
            ..Topic::new("users.dlq", 1)
        };
        let there = there.iter();
        let there = there.map(|(name, value)| (name.to_string(), value.to_string()));
        shortfall(&topic, &there.collect())
    }

    #[test]
    fn a_topic_that_deletes_events_by_their_size_is_told() {
        let there = |policy, bytes| {
            let by_size = ("retention.bytes", bytes);
            [("cleanup.policy", policy), ("retention.ms", "-1"), by_size]
        };
        for asked in [Retention::Forever, Retention::For(DAY)] {
            let said = says(asked, &there("delete", "1000000")).unwrap();
            for part in [
                "more than 1000000 bytes, but",
                "--add-config retention.bytes=-1`",
            ] {
                assert!(said.contains(part), "{part}: {said}");
            }
            assert_eq!(says(asked, &there("delete", "-1")), None);
            assert_eq!(says(asked, &there("compact", "1000000")), None);
        }
        assert_eq!(
            says(Retention::LogDefault, &there("delete", "1000000")),
            None
        );
        let by_both = [
            ("cleanup.policy", "delete"),
            ("retention.ms", "1000"),
            ("retention.bytes", "9"),
        ];
        let said = says(Retention::Forever, &by_both).unwrap();
        assert!(said.contains("for 1s, and the oldest"), "{said}");
        assert!(
            said.contains("--add-config retention.ms=-1,retention.bytes=-1`"),
            "{said}"
        );
    }

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
            let said = says(
                asked,
                &[("cleanup.policy", policy), ("retention.ms", there)],
            );
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
