//! What the Kafka adapters share: the client's configuration, what its errors mean, and who is told
//! when the brokers are gone.

mod bootstrap;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use crate::url::Server;

/// How long one request may take before the brokers count as unavailable.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The same, for brokers that are known to be gone.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// After this long without a word from the brokers they are asked for one, ...
const DOUBT: Duration = Duration::from_secs(3);

/// ... and have this long to give it, so that both are no longer than one request.
const ANSWER: Duration = Duration::from_secs(7);

/// Longest time from one telling a client where to begin to the next.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// A client that cannot connect says so in fewer words than these.
const WORDS: usize = 8;

/// Settings that the adapters rely on, and why.
const KEPT: &[(&str, &str)] = &[
    ("bootstrap.servers", "the address says it"),
    ("security.protocol", "the address says it"),
    ("sasl.mechanism", "the address says it"),
    ("sasl.mechanisms", "the address says it"),
    ("sasl.username", "the address says it"),
    (
        "sasl.password",
        "it would be seen by everybody; use RTP_KAFKA_PASSWORD_FILE",
    ),
    ("group.id", "--group says it"),
    (
        "enable.auto.commit",
        "offsets are committed only after the rows are durable",
    ),
    (
        "enable.auto.offset.store",
        "offsets are committed only after the rows are durable",
    ),
    (
        "auto.offset.reset",
        "a lost range of offsets must be an error",
    ),
    (
        "partition.assignment.strategy",
        "all members of a group must agree on it",
    ),
    (
        "partitioner",
        "an event's partition must be the same on every log",
    ),
    ("acks", "an event counts only once all replicas have it"),
    (
        "request.required.acks",
        "an event counts only once all replicas have it",
    ),
    (
        "enable.idempotence",
        "events must be neither lost nor doubled",
    ),
    ("allow.auto.create.topics", "a missing topic is an error"),
    (
        "message.copy.max.bytes",
        "a request must not outlive what it points to",
    ),
];

/// The configuration that every client has.
pub(crate) fn config(server: &Server) -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", server.authority())
        .set("client.id", "rtp")
        .set("socket.timeout.ms", PATIENCE.as_millis().to_string())
        .set("socket.connection.setup.timeout.ms", "5000")
        // Half of it is also what a new client waits between its first two connections: to the address
        // it was given, and to the broker that it hears of there (librdkafka 2.12, sparse_connect_intvl).
        .set("reconnect.backoff.ms", "22")
        .set("reconnect.backoff.max.ms", "1000")
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Warning);
    let is_on = match server.parameter("tls") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => return Err(not_allowed("tls", other, "true, false")),
    };
    let mechanism = match server.parameter("sasl") {
        None => None,
        Some("plain") => Some("PLAIN"),
        Some("scram-sha-256") => Some("SCRAM-SHA-256"),
        Some("scram-sha-512") => Some("SCRAM-SHA-512"),
        Some(other) => {
            return Err(not_allowed(
                "sasl",
                other,
                "plain, scram-sha-256, scram-sha-512",
            ));
        }
    };
    config.set(
        "security.protocol",
        match (is_on, mechanism) {
            (false, None) => "plaintext",
            (true, None) => "ssl",
            (false, Some(_)) => "sasl_plaintext",
            (true, Some(_)) => "sasl_ssl",
        },
    );
    if let Some(file) = server.parameter("ca") {
        config.set("ssl.ca.location", file);
    }
    if let Some(mechanism) = mechanism {
        let user = server.user.as_deref().ok_or_else(|| {
            Error::invalid(
                "sasl needs a user in the address, as in kafka://USER@HOST:PORT?sasl=plain",
            )
        })?;
        let password = Secret::of_server("KAFKA")?.ok_or_else(|| {
            Error::invalid(format!(
                "the password of {user} at {} is missing",
                address(server)
            ))
            .hint("set RTP_KAFKA_PASSWORD_FILE or RTP_KAFKA_PASSWORD")
        })?;
        config
            .set("sasl.mechanism", mechanism)
            .set("sasl.username", user)
            .set("sasl.password", password.expose());
    }
    for (name, value) in &server.settings {
        if let Some((_, reason)) = KEPT.iter().find(|(kept, _)| kept == name) {
            return Err(Error::invalid(format!("{name} cannot be set: {reason}")));
        }
        config.set(name, value);
    }
    Ok(config)
}

fn not_allowed(parameter: &str, value: &str, allowed: &str) -> Error {
    Error::invalid(format!(
        "{parameter}={value} is not known, allowed are: {allowed}"
    ))
}

/// The address without its parameters, for messages.
pub(crate) fn address(server: &Server) -> String {
    format!("kafka://{}", server.authority())
}

/// What an error of the client asks of the caller.
pub(crate) fn error(server: &Server, error: &KafkaError) -> Error {
    let at = address(server);
    match error {
        KafkaError::ClientConfig(_, reason, name, value) => {
            return Error::invalid(format!("the setting {name}={value} is refused: {reason}"));
        }
        KafkaError::ClientCreation(reason) => {
            return Error::invalid(format!("the client of {at} cannot be made: {reason}"));
        }
        _ => {}
    }
    match error.rdkafka_error_code() {
        Some(code) => coded(&at, code),
        None => Error::refused(format!("{at}: {error}")),
    }
}

/// As [`error`], for a code of librdkafka or of a broker.
pub(crate) fn coded(at: &str, code: Code) -> Error {
    let message = format!("{at}: {code}");
    match code {
        _ if is_unknown(code) => Error::invalid(message)
            .hint("run `rtp init` first, with the same dataset and addresses"),
        Code::MessageSizeTooLarge => Error::data(message).hint(
            "raise max.message.bytes of the topic, and -X message.max.bytes with it, or leave the event out",
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
            .hint("another process has the same --instance-id; each must have one of its own"),
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

/// Whether this says that a topic, or a partition of it, is not there.
pub(crate) fn is_unknown(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::UnknownTopicId
    )
}

/// Whether a topic, or a partition of it, is not there.
pub(crate) fn is_unknown_topic(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(is_unknown)
}

/// What the client says by itself, kept until somebody asks: its own log must not land on stderr.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Since when no broker is there, with the last reason.
    down: Option<(Code, String)>,
    /// When something was last heard from a broker.
    heard: Option<Instant>,
    /// When the client was last told where to begin, or first failed, and when that is due again.
    told: Option<(Instant, Duration)>,
}

impl Health {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something came from a broker.
    pub(crate) fn heard(&self) {
        let mut state = self.state();
        state.heard = Some(Instant::now());
        state.down = None;
        state.told = None;
    }

    /// Called at each failure to hear from a broker: whether the client is told where to begin now. The time
    /// from one telling to the next doubles, for the client keeps all that it was told.
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

    /// Whether a broker should be asked if it is there: none is known to be, or none was heard of for long.
    pub(crate) fn is_doubtful(&self) -> bool {
        let doubt = self.doubt();
        self.is_down() || self.state().heard.is_none_or(|at| at.elapsed() > doubt)
    }

    /// How long a silence of the brokers is nothing to ask about.
    pub(crate) fn doubt(&self) -> Duration {
        match self.is_down() {
            true => SHORT_PATIENCE,
            false => DOUBT,
        }
    }

    /// How long the next request may take.
    pub(crate) fn patience(&self) -> Duration {
        match self.is_down() {
            true => SHORT_PATIENCE,
            false => PATIENCE,
        }
    }

    /// Whether no broker is known to be there.
    pub(crate) fn is_down(&self) -> bool {
        self.state().down.is_some()
    }

    /// What keeps us from the brokers; a time-out alone says little.
    pub(crate) fn explain(&self, server: &Server, error: Error) -> Error {
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
        // What matters comes as an error as well.
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        let mut state = self.state();
        let is_worse = match (&state.down, code) {
            // The brokers' own words say more than the sum of them.
            (Some(_), Code::AllBrokersDown) => false,
            (
                _,
                Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::Resolve
                | Code::SSL
                | Code::Authentication
                | Code::SaslAuthenticationFailed,
            ) => true,
            _ => false,
        };
        if is_worse {
            state.down = Some((code, reason.into()));
        }
    }
}

impl ConsumerContext for Health {}

/// As [`partitions`], for a client that reads nothing yet: `listen` brings what it has to say, so that
/// a refused connection or password is known at once, one word a call.
pub(crate) fn first_partitions<C: ClientContext>(
    client: &Client<C>,
    health: &Health,
    server: &Server,
    topic: &str,
    listen: impl Fn(),
) -> Result<u32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let known = asked(client, health, server, topic, SHORT_PATIENCE);
        (0..WORDS).for_each(|_| listen());
        match known {
            Err(e) if e.is_retriable() && !health.is_down() && Instant::now() < deadline => {}
            other => return other.map_err(|e| health.explain(server, e)),
        }
    }
}

/// Makes an idempotent client ask for its producer id now. It asks when a broker tells it of topics, but not
/// over the connection to the address it was given, which it does not keep; and if it does not come to ask,
/// it looks again only every 500 ms (librdkafka 2.12, rdkafka_idempotence.c). Nothing depends on success.
pub(crate) fn hasten_producer_id<C: ClientContext>(client: &Client<C>, topic: &str) {
    for _ in 0..10 {
        match client.fetch_metadata(Some(topic), SHORT_PATIENCE) {
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
    server: &Server,
    topic: &str,
) -> Result<u32> {
    asked(client, health, server, topic, health.patience()).map_err(|e| health.explain(server, e))
}

/// As [`partitions`], for a topic that was there before: `Missing` without it.
pub(crate) fn partitions_of_known<C: ClientContext>(
    client: &Client<C>,
    health: &Health,
    server: &Server,
    topic: &str,
) -> Result<u32> {
    let ask = || asked(client, health, server, topic, health.patience().min(ANSWER));
    let is_unknown = |known: &Result<u32>| matches!(known, Err(e) if e.kind() == Kind::Invalid);
    let mut known = ask();
    if is_unknown(&known) {
        // Brokers that come back may not know all topics yet.
        std::thread::sleep(SHORT_PATIENCE);
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
    server: &Server,
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

/// Why a client does not know a topic that was there before, or a partition of it: that is so for a moment
/// as well when brokers come back and lead nothing yet.
pub(crate) fn why_unknown<C: ClientContext>(
    client: &Client<C>,
    health: &Health,
    server: &Server,
    topic: &str,
) -> Error {
    match partitions_of_known(client, health, server, topic) {
        Ok(_) => Error::unavailable(format!("{}: not ready to serve", address(server))),
        Err(e) => e,
    }
}

/// The topic was there when the command started.
fn topic_gone(server: &Server, topic: &str) -> Error {
    let at = address(server);
    Error::missing(format!(
        "topic {topic} in {at} is gone, and was there before"
    ))
    .hint("`rtp init` makes it anew, without the events that were in it")
}

fn no_topic(server: &Server, topic: &str) -> Error {
    Error::invalid(format!("no topic {topic} in {}", address(server)))
        .hint("run `rtp init` first, with the same dataset and addresses")
}
