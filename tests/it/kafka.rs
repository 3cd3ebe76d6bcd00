//! The Kafka adapter and the errors of its client, on the mock cluster that librdkafka brings along: it runs in this
//! process and answers any request with any error. The tests on real brokers are in tests/servers.

use std::time::{Duration, Instant};

use rdkafka::bindings::rd_kafka_resp_err_t as Fault;
use rdkafka::config::ClientConfig;
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::types::RDKafkaApiKey;
use rtp::error::{Error, Kind};
use rtp::ports::event_log::{Consumer as _, Limits, Polled};
use rtp::servers::address::Address;
use rtp::servers::kafka::KafkaConsumer;

type Cluster = MockCluster<'static, DefaultProducerContext>;

const TOPIC: &str = "events";

/// Longer than anything here takes on a slow machine.
const LONG: Duration = Duration::from_secs(60);

fn cluster(brokers: i32, partitions: i32) -> (Cluster, Address) {
    let cluster = MockCluster::new(brokers).unwrap();
    cluster.create_topic(TOPIC, partitions, 1).unwrap();
    let servers = cluster.bootstrap_servers();
    let first = servers.split(',').next().unwrap();
    let (host, port) = first.split_once(':').unwrap();
    let server = Address {
        hosts: vec![(host.into(), port.parse().unwrap())],
        ..Address::default()
    };
    (cluster, server)
}

/// Appends to a partition.
fn produce(cluster: &Cluster, partition: i32, values: std::ops::Range<u32>) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers());
    let producer: BaseProducer = config.create().unwrap();
    for n in values {
        let value = n.to_string();
        let record = BaseRecord::<[u8], str>::to(TOPIC)
            .partition(partition)
            .payload(&value);
        producer.send(record).unwrap();
    }
    producer.flush(LONG).unwrap();
}

/// The same error, as often as a request may be tried meanwhile.
fn always(cluster: &Cluster, request: RDKafkaApiKey, fault: Fault) {
    cluster.request_errors(request, &[fault; 1_000]);
}

/// A member of the group, and the values of what it has read.
struct Member {
    consumer: KafkaConsumer,
    read: Vec<String>,
}

impl Member {
    async fn of(server: &Address) -> Member {
        Member {
            consumer: KafkaConsumer::open(server, TOPIC, "group").await.unwrap(),
            read: Vec::new(),
        }
    }

    async fn poll(&mut self) -> Result<Polled, Error> {
        let limits = Limits {
            events: 1_000,
            bytes: 1 << 20,
            wait: Duration::from_millis(20),
        };
        let polled = self.consumer.poll(limits).await?;
        for event in polled.events.iter() {
            let value = event.value.unwrap();
            self.read.push(String::from_utf8(value.into()).unwrap());
        }
        Ok(polled)
    }

    /// Polls until a poll is like this.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Polled, &[String]) -> bool) -> Polled {
        let begun = Instant::now();
        loop {
            let polled = self.poll().await.unwrap();
            if is_so(&polled, &self.read) {
                return polled;
            }
            assert!(begun.elapsed() < LONG, "never: {what}; {polled:?}");
        }
    }

    /// Polls until one fails for good.
    async fn failure(&mut self) -> Error {
        let begun = Instant::now();
        loop {
            match self.poll().await {
                Err(failed) if !failed.is_retriable() => return failed,
                other => assert!(begun.elapsed() < LONG, "no error: {other:?}"),
            }
        }
    }
}

fn trouble(polled: &Polled) -> String {
    polled
        .trouble
        .as_ref()
        .map_or_else(String::new, Error::to_string)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_broker_calls_corrupt_is_missing_data_at_its_place() {
    let (cluster, server) = cluster(1, 1);
    produce(&cluster, 0, 0..3);
    let mut member = Member::of(&server).await;
    member.until("events", |_, read| read.len() == 3).await;
    always(
        &cluster,
        RDKafkaApiKey::Fetch,
        Fault::RD_KAFKA_RESP_ERR_INVALID_MSG,
    );
    for _ in 0..2 {
        let failed = member.failure().await;
        assert_eq!(failed.kind(), Kind::Missing, "{failed}");
        let said = failed.to_string();
        for told in ["partition 0", "from offset 3", "cannot be read"] {
            assert!(said.contains(told), "no {told:?} in: {said}");
        }
    }
    // It was not skipped.
    cluster.clear_request_errors(RDKafkaApiKey::Fetch);
    produce(&cluster, 0, 3..5);
    member.until("the rest", |_, read| read.len() == 5).await;
    assert_eq!(member.read, ["0", "1", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_broker_is_told_until_it_is_over() {
    let (cluster, server) = cluster(1, 1);
    produce(&cluster, 0, 0..1);
    let mut member = Member::of(&server).await;
    member.until("events", |_, read| read.len() == 1).await;
    always(
        &cluster,
        RDKafkaApiKey::Fetch,
        Fault::RD_KAFKA_RESP_ERR_UNKNOWN,
    );
    let polled = member
        .until("trouble", |polled, _| polled.trouble.is_some())
        .await;
    let said = trouble(&polled);
    assert!(
        said.contains("partition 0") && said.contains("Unknown"),
        "{said}"
    );
    assert_eq!(polled.trouble.unwrap().kind(), Kind::Unavailable);
    cluster.clear_request_errors(RDKafkaApiKey::Fetch);
    // Nothing new arrives, and still it is over.
    member
        .until("the end of it", |polled, _| polled.trouble.is_none())
        .await;
    produce(&cluster, 0, 1..2);
    member.until("the rest", |_, read| read.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_does_not_admit_a_member_is_told_until_it_does() {
    let (cluster, server) = cluster(1, 1);
    produce(&cluster, 0, 0..1);
    let inconsistent = Fault::RD_KAFKA_RESP_ERR_INCONSISTENT_GROUP_PROTOCOL;
    always(&cluster, RDKafkaApiKey::JoinGroup, inconsistent);
    let mut member = Member::of(&server).await;
    let polled = member
        .until("trouble", |polled, _| polled.trouble.is_some())
        .await;
    let said = trouble(&polled);
    assert!(said.contains(TOPIC) && said.contains("protocol"), "{said}");
    let error = polled.trouble.unwrap();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.hint_text().unwrap().contains("cooperative-sticky"));
    cluster.clear_request_errors(RDKafkaApiKey::JoinGroup);
    let polled = member.until("events", |_, read| read.len() == 1).await;
    assert!(polled.trouble.is_none(), "{polled:?}");
}

/// The client looks for a coordinator for ever, and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_a_coordinator_is_told_until_it_has_one() {
    let (cluster, server) = cluster(1, 1);
    produce(&cluster, 0, 0..1);
    let none = Fault::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE;
    always(&cluster, RDKafkaApiKey::FindCoordinator, none);
    let mut member = Member::of(&server).await;
    let polled = member
        .until("trouble", |polled, _| polled.trouble.is_some())
        .await;
    let said = trouble(&polled);
    assert!(
        said.contains(TOPIC) && said.contains("coordinator does not answer"),
        "{said}"
    );
    let error = polled.trouble.unwrap();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.hint_text().unwrap().contains("__consumer_offsets"));
    cluster.clear_request_errors(RDKafkaApiKey::FindCoordinator);
    let polled = member.until("events", |_, read| read.len() == 1).await;
    assert!(polled.trouble.is_none(), "{polled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_broker_refuses_ends_the_run() {
    let (cluster, server) = cluster(1, 1);
    let refused = Fault::RD_KAFKA_RESP_ERR_INVALID_SESSION_TIMEOUT;
    always(&cluster, RDKafkaApiKey::JoinGroup, refused);
    let failed = Member::of(&server).await.failure().await;
    assert_eq!(failed.kind(), Kind::Refused, "{failed}");
    assert!(failed.to_string().contains("session timeout"), "{failed}");
    assert!(failed.hint_text().unwrap().contains("session.timeout.ms"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_leader_is_gone_is_told_while_the_others_go_on() {
    let (cluster, server) = cluster(2, 2);
    let group = MockCoordinator::Group("group".into());
    cluster.coordinator(group, 1).unwrap();
    for (partition, broker) in [(0, 1), (1, 2)] {
        cluster
            .partition_leader(TOPIC, partition, Some(broker))
            .unwrap();
    }
    produce(&cluster, 0, 0..1);
    produce(&cluster, 1, 1..2);
    let mut member = Member::of(&server).await;
    member.until("events", |_, read| read.len() == 2).await;
    cluster.broker_down(2).unwrap();
    let polled = member
        .until("trouble", |polled, _| polled.trouble.is_some())
        .await;
    let said = trouble(&polled);
    assert!(said.contains("partition 1"), "{said}");
    assert_eq!(polled.trouble.unwrap().kind(), Kind::Unavailable);
    produce(&cluster, 0, 2..3);
    member.until("the others", |_, read| read.len() == 3).await;
    cluster.broker_up(2).unwrap();
    produce(&cluster, 1, 3..4);
    let polled = member.until("the rest", |_, read| read.len() == 4).await;
    assert!(polled.trouble.is_none(), "{polled:?}");
}

/// And asked about at once: one after another, each would have to wait for the time-outs of those before it.
#[tokio::test(flavor = "multi_thread")]
async fn all_partitions_that_are_silent_are_told_together() {
    let (cluster, server) = cluster(2, 4);
    let group = MockCoordinator::Group("group".into());
    cluster.coordinator(group, 1).unwrap();
    for (partition, broker) in [(0, 1), (1, 2), (2, 2), (3, 2)] {
        cluster
            .partition_leader(TOPIC, partition, Some(broker))
            .unwrap();
        produce(&cluster, partition, 0..1);
    }
    let mut member = Member::of(&server).await;
    member.until("events", |_, read| read.len() == 4).await;
    cluster.broker_down(2).unwrap();
    let told = "partitions 2, 3 cannot be read either";
    let polled = member
        .until("trouble", |polled, _| trouble(polled).contains(told))
        .await;
    let said = trouble(&polled);
    assert!(said.contains("partition 1 in"), "{said}");
    cluster.broker_up(2).unwrap();
    (1..4).for_each(|partition| produce(&cluster, partition, 1..2));
    member
        .until("the rest", |polled, read| {
            read.len() == 7 && polled.trouble.is_none()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_client_cannot_receive_is_missing_data_at_its_place() {
    let (cluster, mut server) = cluster(1, 1);
    produce(&cluster, 0, 0..1);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers());
    let producer: BaseProducer = config.create().unwrap();
    let large = "x".repeat(50_000);
    let record = BaseRecord::<[u8], str>::to(TOPIC)
        .partition(0)
        .payload(&large);
    producer.send(record).unwrap();
    producer.flush(LONG).unwrap();
    for (name, value) in [
        ("message.max.bytes", "1000"),
        ("fetch.max.bytes", "1000"),
        ("fetch.message.max.bytes", "1000"),
        ("receive.message.max.bytes", "9000"),
    ] {
        server.settings.push((name.into(), value.into()));
    }
    let failed = Member::of(&server).await.failure().await;
    assert_eq!(failed.kind(), Kind::Missing, "{failed}");
    let said = failed.to_string();
    for told in ["partition 0", "cannot be read", "receive.message.max.bytes"] {
        assert!(said.contains(told), "no {told:?} in: {said}");
    }
}
