//! The event log on a real Kafka.

use std::time::Duration;

use async_trait::async_trait;
use rtp::conformance::{Abilities, Ability};
use rtp::error::Result;
use rtp::event_log::conformance::{CASES, Harness};
use rtp::event_log::kafka::{KafkaConsumer, KafkaProducer, create};
use rtp::event_log::{Consumer, Producer, Topic};
use rtp::url::Server;

use crate::keeps;
use crate::stack::{self, Access, server};

struct Log(Server);

impl Log {
    fn of(kafka: &stack::Server) -> Log {
        let address = kafka.address("RTP_EVENT_LOG").strip_prefix("kafka://");
        let (host, port) = address.unwrap().split_once(':').unwrap();
        Log(Server {
            hosts: vec![(host.into(), port.parse().unwrap())],
            ..Server::default()
        })
    }
}

impl Abilities for Log {
    fn lacks(&self) -> &[Ability] {
        &[Ability::RemovesOldProbes]
    }
}

#[async_trait]
impl Harness for Log {
    async fn create(&self, topics: &[Topic]) -> Result<()> {
        create(&self.0, topics).await
    }

    async fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        Ok(Box::new(KafkaProducer::open(&self.0, topic).await?))
    }

    async fn consumer(&self, topic: &str, group: &str) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(KafkaConsumer::open(&self.0, topic, group).await?))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(15)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_log_keeps_every_guarantee() {
    let Some(kafka) = server("kafka", Access::Open) else {
        return;
    };
    keeps(CASES, &Log::of(kafka)).await;
}
