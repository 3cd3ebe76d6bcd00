//! Kafka as the event log.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use super::log_reader::KafkaLogReader;
use super::monitor::KafkaLogMonitor;
use super::{KafkaConsumer, KafkaProducer, topics};
use crate::error::Result;
use crate::ports::event_log::{Consumer, EventLog, Producer, Setting, Topic};
use crate::ports::log_reader::LogReader;
use crate::ports::monitor::LogMonitor;
use crate::servers::address::{self, Address, Form};
use crate::servers::{Role, Server, ServerKind};

/// The form of its addresses.
pub(super) const FORM: Form = Form {
    scheme: "kafka",
    shown: "kafka://HOST:PORT[,HOST:PORT]",
    port: 9092,
    parameters: &["tls", "ca", "sasl"],
};

/// `kafka://…`.
pub const KIND: ServerKind = ServerKind {
    scheme: FORM.scheme,
    shown: FORM.shown,
    roles: &[Role::EventLog],
    parse: |rest| Ok(Arc::new(Kafka(address::parse(rest, &FORM)?))),
};

/// A server at an address.
#[derive(Clone, Debug)]
pub struct Kafka(pub Address);

impl fmt::Display for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        address::show(f, &FORM, &self.0)
    }
}

impl Server for Kafka {
    fn event_log(self: Arc<Self>) -> Option<Arc<dyn EventLog>> {
        Some(self)
    }
}

#[async_trait]
impl EventLog for Kafka {
    async fn create(&self, topics: &[Topic]) -> Result<Vec<String>> {
        topics::create(&self.0, topics).await
    }

    fn statements(&self, topics: &[Topic]) -> Vec<String> {
        topics.iter().map(topics::statement).collect()
    }

    async fn producer(&self, topic: &str) -> Result<Box<dyn Producer>> {
        Ok(Box::new(KafkaProducer::open(&self.0, topic).await?))
    }

    async fn consumer(&self, topic: &str, group: &str) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(KafkaConsumer::open(&self.0, topic, group).await?))
    }

    async fn monitor(&self, topic: &str, until: Instant) -> Result<Box<dyn LogMonitor>> {
        Ok(Box::new(
            KafkaLogMonitor::open(&self.0, topic, until).await?,
        ))
    }

    async fn reader(&self, topic: &str) -> Result<Box<dyn LogReader>> {
        Ok(Box::new(KafkaLogReader::open(&self.0, topic).await?))
    }

    fn with_settings(&self, settings: &[Setting]) -> Option<Arc<dyn EventLog>> {
        let pair = |setting: &Setting| (setting.name.clone(), setting.value.clone());
        let address = self.0.clone();
        Some(Arc::new(Kafka(Address {
            settings: settings.iter().map(pair).collect(),
            ..address
        })))
    }
}
