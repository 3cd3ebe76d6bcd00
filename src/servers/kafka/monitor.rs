//! Watches a topic on Kafka, without joining the groups that it watches.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::error::{Context, Error, Result};
use crate::ports::event_log::{Offsets, Producer};
use crate::ports::monitor::{
    Lag, LogMonitor, OutOfRange, Stored, continues_at, probe_event, probe_topic,
};
use crate::servers::address::Address;
use crate::servers::kafka;
use crate::servers::kafka::KafkaProducer;
use crate::servers::kafka::outside::PartitionReader;

/// How long one attempt to read an event waits.
const POLL_TIMEOUT: Duration = Duration::from_millis(50);

/// A topic and its heartbeat topic.
#[derive(Debug)]
pub struct KafkaLogMonitor {
    server: Address,
    topic: String,
    until: Instant,
    producer: KafkaProducer,
    probes: PartitionReader,
}

impl KafkaLogMonitor {
    /// Opens a topic and its heartbeat topic, to watch them until this time.
    pub async fn open(server: &Address, topic: &str, until: Instant) -> Result<Self> {
        let probes = probe_topic(topic);
        let reader = PartitionReader::open(server, &probes, "rtp-heartbeat", "watch", until)?;
        // A producer waits longer for its topic than a check may take, and would keep the reason to itself.
        tokio::task::block_in_place(|| reader.find_topic())?;
        Ok(KafkaLogMonitor {
            producer: KafkaProducer::open(server, &probes).await?,
            probes: reader,
            server: server.clone(),
            topic: topic.into(),
            until,
        })
    }

    fn reader(&self, group: &str) -> Result<PartitionReader> {
        PartitionReader::open(&self.server, &self.topic, group, "watch", self.until)
    }
}

/// What a reader sees.
enum Seen<'a> {
    Event {
        partition: i32,
        /// In milliseconds since 1970 UTC, if the event has a time.
        timestamp: Option<i64>,
        value: Option<&'a [u8]>,
    },
    /// This partition has no more events now.
    End(i32),
}

impl PartitionReader {
    /// Reads from these offsets until `see` has seen enough. An error that the client may recover from is waited for
    /// until the time limit, and told then.
    fn read_from(
        &self,
        offsets: &BTreeMap<i32, i64>,
        mut see: impl FnMut(Seen<'_>) -> bool,
    ) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let added = list.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset));
            self.driven("read", added)?;
        }
        self.driven("read", self.client.assign(&list))?;
        let mut unread = offsets.clone();
        let mut last = None;
        while Instant::now() < self.until {
            let is_enough = match self.client.poll(POLL_TIMEOUT.min(self.patience())) {
                Some(Ok(message)) => {
                    unread.remove(&message.partition());
                    see(Seen::Event {
                        partition: message.partition(),
                        timestamp: message.timestamp().to_millis(),
                        value: message.payload(),
                    })
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    unread.remove(&partition);
                    see(Seen::End(partition))
                }
                Some(Err(error)) => {
                    last = Some(self.unreadable(&error, &unread)?);
                    false
                }
                None => false,
            };
            if is_enough {
                return Ok(());
            }
        }
        let silent = || {
            let at = kafka::address(&self.server);
            Error::unavailable(format!("{at} returned no event in time"))
                .context(format_args!("cannot read {}", self.places(&unread)))
        };
        Err(self
            .health
            .explain(&self.server, last.unwrap_or_else(silent)))
    }

    /// What an error says that came in place of an event: `Err` if waiting cannot help.
    fn unreadable(&self, error: &KafkaError, unread: &BTreeMap<i32, i64>) -> Result<Error> {
        let known = match error.rdkafka_error_code() {
            Some(code) if kafka::is_corrupt(code) => {
                let at = kafka::address(&self.server);
                Error::missing(format!("{at}: {code}; the events there are damaged"))
            }
            _ => kafka::error(&self.server, error),
        };
        let known = self
            .health
            .explain(&self.server, known)
            .context(format_args!("cannot read {}", self.places(unread)));
        match known.is_retriable() {
            true => Ok(known),
            false => Err(known),
        }
    }

    /// All but the topic's identity.
    fn lag(&self, stored: Option<&Offsets>) -> Result<Lag> {
        let partitions = self.partitions()?;
        // In this order, because the group goes on meanwhile, and so does the end.
        let committed = self.committed(&partitions)?;
        let ends = self.ends(&partitions)?;
        let mut lag = Lag {
            started: !committed.is_empty(),
            ..Lag::default()
        };
        let mut firsts = BTreeMap::new();
        for (partition, low, high) in ends {
            let of = committed.get(&partition).copied();
            lag.out_of_range
                .extend(of.and_then(|at| OutOfRange::find(partition, at, low, high)));
            let first = continues_at(partition, of, stored, low).max(low);
            let behind = u64::try_from(high - first).unwrap_or(0);
            lag.partitions.push((partition, behind));
            if behind > 0 {
                firsts.insert(partition, first);
            }
        }
        if !lag.out_of_range.is_empty() {
            // Events that a group has just read may expire at once.
            let now = self.committed(&partitions)?;
            lag.out_of_range
                .retain(|found| now.get(&found.partition) == Some(&found.offset));
        }
        if firsts.is_empty() {
            return Ok(lag);
        }
        let (oldest, has_events) = self.oldest_from(&firsts)?;
        lag.oldest = oldest;
        for (partition, behind) in &mut lag.partitions {
            if has_events.get(partition) == Some(&false) {
                *behind = 0; // what a transaction left there is not an event
            }
        }
        Ok(lag)
    }

    /// Those of these offsets from which a member of a group could not continue.
    pub(super) fn compare(&self, offsets: &Offsets) -> Result<Vec<OutOfRange>> {
        let partitions: Vec<i32> = offsets.iter().map(|(partition, _)| partition).collect();
        let ends = self.ends(&partitions)?.into_iter();
        let found = |(p, low, high)| OutOfRange::find(p, offsets.get(p)?, low, high);
        Ok(ends.filter_map(found).collect())
    }

    /// The timestamp of the oldest event from these offsets on, and which of the partitions have one.
    fn oldest_from(
        &self,
        firsts: &BTreeMap<i32, i64>,
    ) -> Result<(Option<i64>, BTreeMap<i32, bool>)> {
        let mut oldest: Option<i64> = None;
        let mut has_events = BTreeMap::new();
        self.read_from(firsts, |seen| {
            match seen {
                Seen::Event {
                    partition,
                    timestamp,
                    ..
                } => {
                    if has_events.insert(partition, true).is_none() {
                        oldest = oldest.into_iter().chain(timestamp).min();
                    }
                }
                Seen::End(partition) => {
                    has_events.entry(partition).or_insert(false);
                }
            }
            has_events.len() == firsts.len()
        })?;
        Ok((oldest, has_events))
    }
}

#[async_trait]
impl LogMonitor for KafkaLogMonitor {
    async fn probe(&mut self, id: &str) -> Result<()> {
        let probes = &self.probes;
        let ends = tokio::task::block_in_place(|| probes.ends(&probes.partitions()?))?;
        self.producer.send(&probe_event(id)).await?;
        self.producer.flush().await?;
        let ends = ends
            .iter()
            .map(|(partition, _, high)| (*partition, *high))
            .collect();
        tokio::task::block_in_place(|| {
            probes.read_from(
                &ends,
                |seen| matches!(seen, Seen::Event { value, .. } if value == Some(id.as_bytes())),
            )
        })
        .context("a probe that was accepted cannot be read back")
    }

    async fn lag(&mut self, group: &str, stored: Option<&Stored>) -> Result<Lag> {
        let reader = self.reader(group)?;
        tokio::task::block_in_place(|| {
            reader.find_topic()?;
            let topic = reader.identity()?;
            let stored = stored.and_then(|stored| stored.of_topic(topic.as_deref()));
            let lag = reader.lag(stored)?;
            Ok(Lag { topic, ..lag })
        })
    }

    async fn out_of_range(&mut self, offsets: &Offsets) -> Result<Vec<OutOfRange>> {
        let reader = self.reader("rtp-heartbeat")?;
        tokio::task::block_in_place(|| {
            reader.find_topic()?;
            reader.compare(offsets)
        })
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
    use rdkafka::types::{RDKafkaApiKey as Request, RDKafkaRespErr as Answer};

    use super::*;
    use crate::error::Kind;

    const TOPIC: &str = "events";

    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(120);

    /// A broker in this process, with a topic of one partition that has this many events.
    struct Broker(MockCluster<'static, DefaultProducerContext>);

    impl Broker {
        fn with(events: usize) -> Broker {
            let cluster = MockCluster::new(1).unwrap();
            cluster.create_topic(TOPIC, 1, 1).unwrap();
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", cluster.bootstrap_servers());
            let producer: BaseProducer = config.create().unwrap();
            for _ in 0..events {
                let event = BaseRecord::<[u8], [u8]>::to(TOPIC).payload(b"x");
                producer.send(event).map_err(|(e, _)| e).unwrap();
            }
            producer.flush(LONG).unwrap();
            Broker(cluster)
        }

        fn reader(&self, limit: Duration) -> PartitionReader {
            let address = self.0.bootstrap_servers();
            let (host, port) = address.split_once(':').unwrap();
            let server = Address {
                hosts: vec![(host.into(), port.parse().unwrap())],
                ..Address::default()
            };
            PartitionReader::open(&server, TOPIC, "rtp", "watch", Instant::now() + limit).unwrap()
        }
    }

    fn commit(reader: &PartitionReader, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(TOPIC, 0, Offset::Offset(offset))
            .unwrap();
        reader
            .client
            .commit(&list, rdkafka::consumer::CommitMode::Sync)
            .unwrap();
    }

    #[test]
    fn a_commit_beyond_the_end_of_the_topic_is_told() {
        let broker = Broker::with(20);
        let reader = broker.reader(LONG);
        commit(&reader, 15);
        let lag = reader.lag(None).unwrap();
        assert_eq!(
            (lag.partitions, lag.out_of_range),
            (vec![(0, 5)], Vec::new())
        );
        for (stored, behind) in [(4, 16), (15, 5), (18, 5)] {
            let stored = Offsets::from([(0, stored)]);
            let lag = reader.lag(Some(&stored)).unwrap();
            assert_eq!(lag.records(), behind, "a store at {stored:?}");
        }
        let emptied = reader.lag(Some(&Offsets::default())).unwrap();
        assert_eq!(emptied.records(), 20, "it begins with the oldest event");
        commit(&reader, 100);
        let lag = reader.lag(None).unwrap();
        let told: Vec<String> = lag.out_of_range.iter().map(ToString::to_string).collect();
        assert_eq!((lag.started, told.len()), (true, 1), "{told:?}");
        let expected = "its offset in partition 0 is 100, but the topic ends at 20";
        assert_eq!(told, [expected]);
        for (stored, number) in [(20, 0), (21, 1)] {
            let found = reader.compare(&[(0, stored)].into()).unwrap();
            assert_eq!(found.len(), number, "a store at {stored}: {found:?}");
        }
    }

    #[test]
    fn what_the_broker_says_is_told_before_the_time_limit() {
        let broker = Broker::with(1);
        let reader = broker.reader(Duration::ZERO);
        let error = reader.read_from(&BTreeMap::from([(0, 0)]), |_| true);
        let told = error.unwrap_err().to_string();
        assert!(
            told.contains("cannot read topic events partition 0 from offset 0"),
            "{told}"
        );

        let refused = Answer::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
        broker
            .0
            .request_errors(Request::OffsetFetch, &[refused; 100]);
        let error = broker.reader(LONG).lag(None).unwrap_err();
        let told = (error.kind(), error.to_string());
        assert_eq!(told.0, Kind::Refused, "{}", told.1);
        assert!(
            told.1.contains("cannot read the offsets of group rtp"),
            "{}",
            told.1
        );
    }

    #[test]
    fn an_error_in_place_of_an_event_is_not_passed_over() {
        let broker = Broker::with(1);
        let refused = Answer::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        broker.0.request_errors(Request::Fetch, &[refused; 100]);
        let error = broker.reader(LONG).lag(None).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        let place = "cannot read topic events partition 0 from offset 0";
        assert!(error.to_string().contains(place), "{error}");
    }
}
