//! What the Kafka adapters share: the client's configuration, what its errors mean, and what happens
//! when the brokers are gone.

mod bootstrap;
mod committer;
mod consumer;
pub mod log_reader;
mod membership;
pub mod monitor;
mod native;
mod outside;
mod producer;
mod properties;
mod queue;
mod reading;
mod server;
mod settings;
mod topics;

pub use consumer::KafkaConsumer;
pub(crate) use outside::wait_until_closed;
pub use producer::KafkaProducer;
pub use server::{KIND, Kafka};
pub(crate) use settings::config;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::error::{Error, Kind, Result};
use crate::ports::INIT_FIRST;
use crate::servers::address::Address;

/// How long one request may take before the brokers count as unavailable.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The same, if the brokers are known to be gone.
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);

/// After this long without an answer from the brokers, they are asked for one, ...
const DOUBT: Duration = Duration::from_secs(3);

/// ... and have this long to give it, so that both are no longer than one request.
const METADATA_TIMEOUT: Duration = Duration::from_secs(7);

/// Longest time between two reminders to a client which brokers to ask first.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// What the client says of an answer that is larger than it accepts (librdkafka 2.12, rd_kafka_transport_framed_recv and
/// rd_kafka_recv). It disconnects, and asks the same again.
const TOO_LARGE: [&str; 2] = ["Invalid frame size", "Invalid response size"];

/// A client that cannot connect reports it within this many events.
const WORDS: usize = 8;

/// The address without its parameters, for messages.
pub(crate) fn address(server: &Address) -> String {
    format!("kafka://{}", server.authority())
}

/// What an error of the client means for the caller.
pub(crate) fn error(server: &Address, error: &KafkaError) -> Error {
    let at = address(server);
    match error {
        KafkaError::ClientConfig(_, reason, name, _) => {
            return settings::not_accepted(name, reason);
        }
        KafkaError::ClientCreation(reason) => {
            return Error::invalid(format!("cannot create a client for {at}: {reason}"));
        }
        _ => {}
    }
    match code(error) {
        Some(code) => coded(&at, code),
        None => Error::refused(format!("{at}: {error}")),
    }
}

/// The code of an error, also of an administrative request, whose code the crate does not report.
fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// Like [`error`], for an error code of librdkafka or of a broker.
pub(crate) fn coded(at: &str, code: Code) -> Error {
    said(at, code, &code.to_string())
}

/// Like [`coded`], in other words than the code's.
pub(crate) fn said(at: &str, code: Code, words: &str) -> Error {
    let message = format!("{at}: {words}");
    match code {
        _ if is_unknown(code) => Error::invalid(message)
            .hint(INIT_FIRST),
        Code::MessageSizeTooLarge => Error::data(message).hint(
            "raise max.message.bytes of the topic, and -X message.max.bytes with it, or leave out the event",
        ),
        Code::InvalidMessageSize
        | Code::InvalidTimestamp
        | Code::InvalidRecord
        | Code::InvalidMessage => Error::data(message),
        Code::InvalidReplicationFactor
        | Code::InvalidPartitions
        | Code::InvalidConfig
        | Code::InvalidTopic
        | Code::PolicyViolation
        | Code::InvalidArgument => Error::invalid(message),
        Code::FencedInstanceId => Error::refused(message)
            .hint("another process uses the same --instance-id; give each process its own"),
        Code::InconsistentGroupProtocol => Error::unavailable(message).hint(
            "another member of the group uses another partition assignor; all must use cooperative-sticky, or take another --group",
        ),
        Code::CoordinatorNotAvailable => Error::unavailable(message).hint(
            "the brokers create the topic __consumer_offsets for it; they cannot if offsets.topic.replication.factor is larger than their number, for example, and their log says so",
        ),
        Code::InvalidSessionTimeout => Error::refused(message).hint(
            "set -X session.timeout.ms within the broker's group.min.session.timeout.ms and group.max.session.timeout.ms",
        ),
        Code::InvalidGroupId => Error::invalid(message).hint("--group sets it"),
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::SSL
        | Code::Fatal
        | Code::OutOfOrderSequenceNumber
        | Code::UnsupportedVersion => Error::refused(message),
        _ => Error::unavailable(message),
    }
}

/// Whether this error says that events are damaged where they are stored.
fn is_corrupt(code: Code) -> bool {
    matches!(
        code,
        Code::BadMessage
            | Code::BadCompression
            | Code::InvalidMessage
            | Code::InvalidMessageSize
            | Code::InvalidRecord
    )
}

/// Whether an error says that what is in the log cannot be read, which no waiting heals.
fn is_unreadable(code: Code) -> bool {
    is_corrupt(code) || matches!(code, Code::MessageSizeTooLarge | Code::NotImplemented)
}

/// Whether this error says that a topic, or a partition of it, does not exist.
pub(crate) fn is_unknown(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::UnknownTopicId
    )
}

/// Whether this error is about reaching a broker; [`Health`] keeps it until one answers.
pub(crate) fn is_about_connections(code: Code) -> bool {
    matches!(
        code,
        Code::AllBrokersDown
            | Code::BrokerTransportFailure
            | Code::Resolve
            | Code::SSL
            | Code::Authentication
            | Code::SaslAuthenticationFailed
    )
}

/// Like [`is_unknown`], for an error.
pub(crate) fn is_unknown_topic(error: &KafkaError) -> bool {
    code(error).is_some_and(is_unknown)
}

/// What the client reports on its own, kept until somebody asks: its log must not go to stderr.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Since when no broker has been reachable, with the last reason.
    down: Option<(Code, String)>,
    /// When a broker last answered anything.
    heard: Option<Instant>,
    /// What the client said of an answer that was larger than it accepts.
    too_large: Option<(Instant, String)>,
    /// When the client was last reminded which brokers to ask first, or first failed, and when that is due again.
    told: Option<(Instant, Duration)>,
}

impl Health {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an answer from a broker.
    pub(crate) fn heard(&self) {
        let mut state = self.state();
        state.heard = Some(Instant::now());
        state.down = None;
        state.told = None;
    }

    /// Called at each failure to get an answer from a broker: whether to remind the client now which brokers to ask
    /// first. The time between reminders doubles, because the client keeps all of them.
    fn begins_again(&self) -> bool {
        let state = &mut *self.state();
        let (since, pause) = state.told.unwrap_or((Instant::now(), DOUBT));
        let is_over = since.elapsed() >= pause;
        state.told = match is_over {
            true => Some((Instant::now(), (pause * 2).min(LONGEST_SILENCE))),
            false => Some((since, pause)),
        };
        is_over
    }

    /// Whether to ask whether a broker is reachable: none is known to be, or none has answered for long.
    pub(crate) fn is_doubtful(&self) -> bool {
        let doubt = self.doubt();
        self.is_down() || self.state().heard.is_none_or(|at| at.elapsed() > doubt)
    }

    /// How long the brokers may be silent before they are asked.
    pub(crate) fn doubt(&self) -> Duration {
        match self.is_down() {
            true => SHORT_TIMEOUT,
            false => DOUBT,
        }
    }

    /// How long the next request may take.
    pub(crate) fn patience(&self) -> Duration {
        match self.is_down() {
            true => SHORT_TIMEOUT,
            false => REQUEST_TIMEOUT,
        }
    }

    /// What the client has said of an answer that was larger than it accepts, within this time.
    pub(crate) fn too_large(&self, within: Duration) -> Option<String> {
        let said = self.state().too_large.take();
        said.filter(|(at, _)| at.elapsed() < within)
            .map(|(_, reason)| reason)
    }

    /// Whether no broker is known to be reachable.
    pub(crate) fn is_down(&self) -> bool {
        self.state().down.is_some()
    }

    /// Why the brokers cannot be reached; a time-out alone says little.
    pub(crate) fn explain(&self, server: &Address, error: Error) -> Error {
        let at = address(server);
        match &self.state().down {
            Some((code, reason)) if error.is_retriable() => {
                let known = coded(&at, *code);
                let message = format!("{at} does not answer: {reason}");
                match known.is_retriable() {
                    true => Error::unavailable(message),
                    false => Error::refused(message),
                }
            }
            _ => error,
        }
    }
}

impl ClientContext for Health {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {
        // What matters is also reported as an error.
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        let mut state = self.state();
        if TOO_LARGE.iter().any(|said| reason.contains(said)) {
            let said = format!("{reason}; the limit is -X receive.message.max.bytes");
            state.too_large = Some((Instant::now(), said));
        }
        let is_worse = match (&state.down, code) {
            // The error of each broker says more than the summary.
            (Some(_), Code::AllBrokersDown) => false,
            (_, code) => is_about_connections(code),
        };
        if is_worse {
            state.down = Some((code, reason.into()));
        }
    }
}

impl ConsumerContext for Health {}

/// Like [`partitions`], for a client that reads nothing yet: each call of `listen` handles one of its events, so that
/// a refused connection or password is known at once.
pub(crate) fn first_partitions<C: ClientContext>(
    client: &Client<C>,
    health: &Health,
    server: &Address,
    topic: &str,
    listen: impl Fn(),
) -> Result<u32> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    loop {
        let known = asked(client, health, server, topic, SHORT_TIMEOUT);
        (0..WORDS).for_each(|_| listen());
        match known {
            Err(e) if e.is_retriable() && !health.is_down() && Instant::now() < deadline => {}
            other => return other.map_err(|e| health.explain(server, e)),
        }
    }
}

/// Makes an idempotent client ask for its producer id now. It asks when a broker tells it about topics, but not
/// over the connection to the given address, which it does not keep; and if it did not ask then, it tries again
/// only every 500 ms (librdkafka 2.12, rdkafka_idempotence.c). Nothing depends on success.
pub(crate) fn hasten_producer_id<C: ClientContext>(client: &Client<C>, topic: &str) {
    for _ in 0..10 {
        match client.fetch_metadata(Some(topic), SHORT_TIMEOUT) {
            Ok(metadata) if metadata.orig_broker_id() < 0 => {}
            _ => return,
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The number of a topic's partitions; a missing topic is `Invalid`.
pub(crate) fn partitions<C: ClientContext>(
    client: &Client<C>,
    health: &Health,
    server: &Address,
    topic: &str,
) -> Result<u32> {
    asked(client, health, server, topic, health.patience()).map_err(|e| health.explain(server, e))
}

/// Like [`partitions`], for a topic that existed before: `Missing` if it is gone.
pub(crate) fn partitions_of_known<C: ClientContext>(
    client: &Client<C>,
    health: &Health,
    server: &Address,
    topic: &str,
) -> Result<u32> {
    let ask = || {
        asked(
            client,
            health,
            server,
            topic,
            health.patience().min(METADATA_TIMEOUT),
        )
    };
    let is_unknown = |known: &Result<u32>| matches!(known, Err(e) if e.kind() == Kind::Invalid);
    let mut known = ask();
    if is_unknown(&known) {
        // Brokers that have just returned may not know all topics yet.
        std::thread::sleep(SHORT_TIMEOUT);
        known = ask();
    }
    match known {
        known if is_unknown(&known) => Err(topic_gone(server, topic)),
        known => known.map_err(|e| health.explain(server, e)),
    }
}

fn asked<C: ClientContext>(
    client: &Client<C>,
    health: &Health,
    server: &Address,
    topic: &str,
    patience: Duration,
) -> Result<u32> {
    let metadata = client.fetch_metadata(Some(topic), patience).map_err(|e| {
        if health.begins_again() {
            bootstrap::again(client, &server.authority());
        }
        error(server, &e)
    })?;
    health.heard();
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    let failed = found.and_then(|t| t.error()).map(Code::from);
    match (found, failed) {
        (None, _) | (_, Some(Code::UnknownTopicOrPartition | Code::UnknownTopic)) => {
            Err(no_topic(server, topic))
        }
        (_, Some(code)) => Err(coded(&address(server), code)),
        (Some(found), None) => Ok(u32::try_from(found.partitions().len()).unwrap_or(0)),
    }
}

/// Why a client does not know a topic that existed before, or a partition of it. This also happens for a moment
/// when brokers have just returned and lead nothing yet.
pub(crate) fn why_unknown<C: ClientContext>(
    client: &Client<C>,
    health: &Health,
    server: &Address,
    topic: &str,
) -> Error {
    match partitions_of_known(client, health, server, topic) {
        Ok(_) => Error::unavailable(format!("{}: not ready to serve", address(server))),
        Err(e) => e,
    }
}

/// The error if a topic is gone that existed when the command started.
fn topic_gone(server: &Address, topic: &str) -> Error {
    let at = address(server);
    Error::missing(format!("topic {topic} in {at} no longer exists"))
        .hint("`rtp init` recreates it, without the events that were in it")
}

fn no_topic(server: &Address, topic: &str) -> Error {
    Error::invalid(format!("there is no topic {topic} in {}", address(server))).hint(INIT_FIRST)
}

#[cfg(test)]
mod tests {
    use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

    use crate::error::Kind;
    use crate::servers::address::Address;

    #[test]
    fn an_administrative_request_fails_as_its_code_says() {
        let server = Address::default();
        let kind = |code| super::error(&server, &KafkaError::AdminOp(code)).kind();
        for code in [
            Code::DestroyBroker,
            Code::OperationTimedOut,
            Code::KafkaStorageError, // a disk of the broker
            Code::LogDirNotFound,
            Code::NotEnoughReplicas,
            Code::NotEnoughReplicasAfterAppend,
        ] {
            assert_eq!(kind(code), Kind::Unavailable, "{code}");
        }
        assert_eq!(kind(Code::TopicAuthorizationFailed), Kind::Refused);
        assert!(super::is_unknown_topic(&KafkaError::AdminOp(
            Code::UnknownTopic
        )));
    }
}
