//! What a member asks the brokers about its topic and its group.

use std::collections::BTreeMap;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::KafkaConsumer;
use crate::error::{Error, Result};
use crate::ports::event_log::Offsets;
use crate::servers::kafka::{self, queue};

/// What to do about a topic that ends before the position where it was read.
const MADE_ANEW: &str = "the topic was deleted and recreated; use a new --group";

impl KafkaConsumer {
    pub(super) fn driven<T>(&self, doing: &str, result: Result<T, KafkaError>) -> Result<T> {
        result.map_err(|e| {
            let health = &self.membership.health;
            let known = match self.client() {
                Ok(client) if kafka::is_unknown_topic(&e) => {
                    kafka::why_unknown(client.client(), health, &self.server, &self.topic)
                }
                _ => kafka::error(&self.server, &e),
            };
            health
                .explain(&self.server, known)
                .context(format_args!("cannot {doing} topic {}", self.topic))
        })
    }

    pub(super) fn identify(&self) -> Result<String> {
        let client = self.client()?.client();
        let patience = self.membership.health.patience();
        if let Some(id) = self.driven(
            "ask for the id of",
            queue::topic_id(client, &self.topic, patience),
        )? {
            return Ok(format!("kafka topic {id}"));
        }
        match client.fetch_cluster_id(patience) {
            Some(id) => Ok(format!("kafka cluster {id}")),
            None => {
                let at = kafka::address(&self.server);
                let silent = Error::unavailable(format!("{at} does not report its cluster id"));
                Err(self.membership.health.explain(&self.server, silent))
            }
        }
    }

    pub(super) fn partitions(&self) -> Result<i32> {
        let client = self.client()?;
        let health = &self.membership.health;
        let known = kafka::partitions_of_known(client.client(), health, &self.server, &self.topic);
        Ok(i32::try_from(known?).unwrap_or(i32::MAX))
    }

    pub(super) fn watermarks(&mut self, partition: i32) -> Result<(i64, i64)> {
        let patience = self.membership.health.patience();
        let marks = self
            .client()?
            .fetch_watermarks(&self.topic, partition, patience);
        let (low, high) = self.driven("read the ends of", marks)?;
        let known = self.ends.insert(partition, high).unwrap_or(high);
        if high < known {
            let place = self.place(partition);
            return Err(Error::missing(format!(
                "{place}: it ends at offset {high}, but ended at {known} before"
            ))
            .hint(MADE_ANEW));
        }
        Ok((low, high))
    }

    pub(super) fn place(&self, partition: i32) -> String {
        let at = kafka::address(&self.server);
        format!("topic {} partition {partition} in {at}", self.topic)
    }

    pub(super) fn list(
        &self,
        offsets: impl IntoIterator<Item = (i32, i64)>,
    ) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let added = list.add_partition_offset(&self.topic, partition, Offset::Offset(offset));
            self.driven("set an offset of", added)?;
        }
        Ok(list)
    }

    /// The group's committed offset in each of these partitions; none if there is none.
    pub(super) fn committed_of(&self, partitions: &[i32]) -> Result<BTreeMap<i32, Option<i64>>> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        let patience = self.membership.health.patience();
        let read = self.client()?.committed_offsets(list, patience);
        let list = self.driven("read the group's offsets of", read)?;
        let mut committed = BTreeMap::new();
        for element in list.elements() {
            self.driven("read the group's offsets of", element.error())?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            committed.insert(element.partition(), offset);
        }
        Ok(committed)
    }

    pub(super) fn check_range(
        &self,
        partition: i32,
        position: i64,
        low: i64,
        high: i64,
    ) -> Result<()> {
        let place = self.place(partition);
        if position < low {
            return Err(Error::missing(format!(
                "{place}: the events from offset {position} to {} were deleted before they were read",
                low - 1
            ))
            .hint("the topic's retention has deleted them (retention.ms, or retention.bytes); raise it, or move the group's offset to continue without them"));
        }
        if position > high {
            return Err(Error::missing(format!(
                "{place}: the next event should have offset {position}, but the topic ends at {high}"
            ))
            .hint(MADE_ANEW));
        }
        Ok(())
    }

    pub(super) fn all_committed(&mut self) -> Result<Offsets> {
        let partitions: Vec<i32> = (0..self.partitions()?).collect();
        let mut offsets = Offsets::default();
        for (partition, committed) in self.committed_of(&partitions)? {
            let offset = match committed {
                Some(offset) => offset,
                None => self.watermarks(partition)?.0,
            };
            offsets.set(partition, offset);
        }
        self.membership.health.heard();
        Ok(offsets)
    }

    pub(super) fn starts(&mut self) -> Result<Offsets> {
        (0..self.partitions()?)
            .map(|p| self.watermarks(p).map(|(low, _)| (p, low)))
            .collect()
    }

    pub(super) fn ends(&mut self) -> Result<Offsets> {
        (0..self.partitions()?)
            .map(|p| self.watermarks(p).map(|(_, high)| (p, high)))
            .collect()
    }

    pub(super) fn ask_if_doubtful(&self) -> Result<()> {
        match self.membership.health.is_doubtful() {
            true => self.partitions().map(|_| ()),
            false => Ok(()),
        }
    }
}
