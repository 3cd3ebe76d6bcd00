//! Reads a topic on Kafka from outside its groups.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset, TopicPartitionList};

use crate::error::{Error, Result};
use crate::ports::event_log::{Offsets, Span};
use crate::ports::log_reader::{EventVisitor, LogReader};
use crate::ports::monitor::OutOfRange;
use crate::servers::address::Address;
use crate::servers::kafka::outside::PartitionReader;
use crate::servers::kafka::reading::Reading;
use crate::servers::kafka::{self, REQUEST_TIMEOUT};

/// The client belongs to a group by name only: it joins none, and commits nothing.
pub(super) const NO_GROUP: &str = "rtp-reader";

/// How long to wait before a question is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// After this long without an event or an end, the brokers count as unavailable.
const SILENCE: Duration = Duration::from_secs(15);

/// A topic, and who asks the brokers about it. Events are fetched by a client of their own for each reading, because
/// what an earlier reading has left in a client would come first.
#[derive(Debug)]
pub struct KafkaLogReader {
    topic: PartitionReader,
    /// Who asks about a group: the last one that was asked about.
    group: Option<PartitionReader>,
    /// How long a reading waits for an event or an end.
    silence: Duration,
}

impl KafkaLogReader {
    /// Opens a topic.
    pub async fn open(server: &Address, topic: &str) -> Result<Self> {
        let reader = ask_as(server, topic, NO_GROUP)?;
        tokio::task::block_in_place(|| reader.find_topic())?;
        Ok(KafkaLogReader {
            topic: reader,
            group: None,
            silence: SILENCE,
        })
    }

    /// Who asks the brokers, with the whole time for one question.
    fn asks(&mut self) -> &PartitionReader {
        self.topic.until = Instant::now() + REQUEST_TIMEOUT;
        &self.topic
    }

    fn read_bounds(&mut self) -> Result<Span> {
        let asks = self.asks();
        let mut span = Span::default();
        for (partition, low, high) in asks.ends(&asks.partitions()?)? {
            span.from.set(partition, low);
            span.to.set(partition, high);
        }
        Ok(span)
    }

    fn read_committed(&mut self, group: &str) -> Result<Offsets> {
        let partitions = self.asks().partitions()?;
        let asks = match self.group.take().filter(|asks| asks.group == group) {
            Some(asks) => asks,
            None => ask_as(&self.topic.server, &self.topic.topic, group)?,
        };
        let asks = self.group.insert(asks);
        asks.until = Instant::now() + REQUEST_TIMEOUT;
        loop {
            match asks.committed(&partitions) {
                // A broker that has just started finds the group's coordinator only after a moment.
                Err(e)
                    if e.is_retriable()
                        && !asks.health.is_down()
                        && Instant::now() < asks.until =>
                {
                    std::thread::sleep(PAUSE);
                }
                committed => return Ok(committed?.into_iter().collect()),
            }
        }
    }

    fn first_since(&mut self, time: i64) -> Result<Offsets> {
        let asks = self.asks();
        // Asked first: what is appended between the questions is not before the end then.
        let ends = asks.ends(&asks.partitions()?)?;
        let mut times = TopicPartitionList::new();
        for (partition, ..) in &ends {
            // Negative ones mean something else.
            let time = Offset::Offset(time.max(0));
            let added = times.add_partition_offset(&asks.topic, *partition, time);
            asks.driven("find a time in", added)?;
        }
        let found = asks.client.offsets_for_times(times, asks.patience());
        let found = asks.driven("find a time in", found)?;
        let mut offsets: Offsets = ends.iter().map(|(p, _, high)| (*p, *high)).collect();
        for element in found.elements() {
            asks.driven("find a time in", element.error())?;
            if let Offset::Offset(offset) = element.offset() {
                offsets.set(element.partition(), offset);
            }
        }
        Ok(offsets)
    }

    fn read_span(&mut self, span: &Span, visitor: &mut dyn EventVisitor) -> Result<()> {
        let silence = self.silence;
        let asks = self.asks();
        let unread: BTreeMap<i32, Range<i64>> = span.ranges().collect();
        let partitions = asks.partitions()?;
        if let Some(other) = unread.keys().find(|p| !partitions.contains(p)) {
            let (name, at) = (&asks.topic, kafka::address(&asks.server));
            return Err(Error::invalid(format!(
                "topic {name} in {at} has no partition {other}"
            )));
        }
        if unread.values().all(Range::is_empty) {
            return Ok(()); // a client of its own takes a tenth of a second
        }
        let mut reading = Reading::of(asks, unread, silence)?;
        reading.start()?;
        reading.run(visitor)
    }
}

fn ask_as(server: &Address, topic: &str, group: &str) -> Result<PartitionReader> {
    let until = Instant::now() + REQUEST_TIMEOUT;
    PartitionReader::open(server, topic, group, "read", until)
}

#[async_trait]
impl LogReader for KafkaLogReader {
    async fn bounds(&mut self) -> Result<Span> {
        tokio::task::block_in_place(|| self.read_bounds())
    }

    async fn identity(&mut self) -> Result<Option<String>> {
        tokio::task::block_in_place(|| self.asks().identity())
    }

    async fn out_of_range(&mut self, offsets: &Offsets) -> Result<Vec<OutOfRange>> {
        tokio::task::block_in_place(|| self.asks().compare(offsets))
    }

    async fn committed(&mut self, group: &str) -> Result<Offsets> {
        tokio::task::block_in_place(|| self.read_committed(group))
    }

    async fn followed(&mut self, group: &str) -> Result<BTreeSet<i32>> {
        tokio::task::block_in_place(|| self.asks().assigned(group))
    }

    async fn at_time(&mut self, time: i64) -> Result<Offsets> {
        tokio::task::block_in_place(|| self.first_since(time))
    }

    async fn read(&mut self, span: &Span, visitor: &mut dyn EventVisitor) -> Result<()> {
        tokio::task::block_in_place(|| self.read_span(span, visitor))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
    use rdkafka::types::{RDKafkaApiKey as Request, RDKafkaRespErr as Answer};

    use super::*;
    use crate::error::Kind;
    use crate::record::event::Event;

    const TOPIC: &str = "events";

    struct Count(usize);

    impl EventVisitor for Count {
        fn event(&mut self, _: Event<'_>) -> ControlFlow<()> {
            self.0 += 1;
            ControlFlow::Continue(())
        }
    }

    fn server<C: rdkafka::client::ClientContext>(cluster: &MockCluster<'_, C>) -> Address {
        let brokers = cluster.bootstrap_servers();
        let (host, port) = brokers.split_once(':').unwrap();
        Address {
            hosts: vec![(host.into(), port.parse().unwrap())],
            ..Address::default()
        }
    }

    /// Reads five events while the broker answers each fetch with this error.
    async fn read_though(answer: Option<Answer>) -> (usize, Result<()>) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &brokers);
        let producer: BaseProducer = config.create().unwrap();
        for _ in 0..5 {
            let event = BaseRecord::<[u8], [u8]>::to(TOPIC).payload(b"x");
            producer.send(event).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(Duration::from_secs(120)).unwrap();
        let mut reader = KafkaLogReader::open(&server(&cluster), TOPIC)
            .await
            .unwrap();
        let span = reader.bounds().await.unwrap();
        assert_eq!(span.to, [(0, 5)].into());
        if let Some(answer) = answer {
            cluster.request_errors(Request::Fetch, &[answer; 1_000]);
            reader.silence = Duration::from_secs(2);
        }
        let mut count = Count(0);
        let read = reader.read(&span, &mut count).await;
        (count.0, read)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_coordinator_that_is_not_found_at_once_is_waited_for() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        let mut reader = KafkaLogReader::open(&server(&cluster), TOPIC)
            .await
            .unwrap();
        let late = Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
        cluster.request_errors(Request::OffsetFetch, &[late; 3]);
        let committed = reader.committed("group").await.unwrap();
        assert!(committed.is_empty());
        let refused = Answer::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
        cluster.request_errors(Request::OffsetFetch, &[refused; 100]);
        let error = reader.committed("group").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_error_in_place_of_events_ends_a_reading_by_its_kind() {
        for (answer, kind, told) in [
            (
                Answer::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
                Kind::Refused,
                "topic events partition 0 in kafka://",
            ),
            (
                Answer::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
                Kind::Unavailable,
                "cannot read topic events partition 0 from offset 0",
            ),
            (
                Answer::RD_KAFKA_RESP_ERR_INVALID_MSG,
                Kind::Missing,
                "the events from offset 0 on cannot be read",
            ),
        ] {
            let (lent, read) = read_though(Some(answer)).await;
            let error = read.unwrap_err();
            assert_eq!((lent, error.kind()), (0, kind), "{answer:?}: {error}");
            assert!(error.to_string().contains(told), "{answer:?}: {error}");
        }
        let (lent, read) = read_though(None).await;
        assert_eq!(lent, 5);
        read.unwrap();
    }
}
