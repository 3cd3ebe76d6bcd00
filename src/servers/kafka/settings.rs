//! The configuration of the client library, and which of its settings `-X` may change: those that no promise of rtp
//! depends on. Whatever is not listed is refused, because librdkafka has some two hundred settings, also such as make it
//! pass over errors or load other code. No message repeats a value, which may be a secret.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use super::{REQUEST_TIMEOUT, address};
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::servers::address::Address;

/// Settings that may be changed, by what they are about.
const ALLOWED: &[&[&str]] = &[
    // Who asks, and from where: rtp does not look at it. The name of a member is that of --instance-id.
    &["client.id", "client.rack", "group.instance.id"],
    // How connections are made and kept. A wrong value makes them fail, which is an outage like any other.
    &[
        "broker.address.family",
        "broker.address.ttl",
        "client.dns.lookup",
        "connections.max.idle.ms",
        "metadata.max.age.ms",
        "reconnect.backoff.max.ms",
        "reconnect.backoff.ms",
        "retry.backoff.max.ms",
        "retry.backoff.ms",
        "socket.connection.setup.timeout.ms",
        "socket.keepalive.enable",
        "socket.nagle.disable",
        "socket.receive.buffer.bytes",
        "socket.send.buffer.bytes",
        "socket.timeout.ms",
        "topic.metadata.refresh.interval.ms",
    ],
    // What we show to the broker, and what more it must fulfil. The key stays in a file.
    &[
        "ssl.certificate.location",
        "ssl.cipher.suites",
        "ssl.crl.location",
        "ssl.curves.list",
        "ssl.key.location",
        "ssl.sigalgs.list",
    ],
    // How events are put together to requests: only their number and size.
    &[
        "batch.num.messages",
        "batch.size",
        "compression.level",
        "compression.type",
        "linger.ms",
        "max.in.flight.requests.per.connection",
        "message.max.bytes",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.messages",
        "request.timeout.ms",
    ],
    // How much is read ahead, and when a silent member loses its partitions, which it gets back without a loss.
    &[
        "fetch.error.backoff.ms",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "fetch.min.bytes",
        "fetch.queue.backoff.ms",
        "fetch.wait.max.ms",
        "heartbeat.interval.ms",
        "max.poll.interval.ms",
        "queued.max.messages.kbytes",
        "queued.min.messages",
        "receive.message.max.bytes",
        "session.timeout.ms",
    ],
];

/// Why others must stay as they are: those that people try. A name that ends with a dot stands for all that begin so.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "the address sets it",
        &[
            "bootstrap.servers",
            "metadata.broker.list",
            "sasl.mechanism",
            "sasl.mechanisms",
            "sasl.username",
            "security.protocol",
            "ssl.ca.location",
        ],
    ),
    (
        "everybody on this machine could read it; use RTP_KAFKA_PASSWORD_FILE",
        &["sasl.password"],
    ),
    (
        "everybody on this machine could read it; name a file with -X ssl.key.location",
        &[
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.keystore.location",
            "ssl.keystore.password",
        ],
    ),
    (
        "the address says how to log in, with ?sasl=plain, scram-sha-256 or scram-sha-512",
        &["sasl."],
    ),
    (
        "a broker must prove who it is; name its authority in the address, with ?ca=FILE",
        &[
            "enable.ssl.certificate.verification",
            "ssl.ca.",
            "ssl.endpoint.identification.algorithm",
        ],
    ),
    ("--group sets it", &["group.id"]),
    (
        "offsets are committed only after the rows are durable",
        &[
            "auto.commit.interval.ms",
            "enable.auto.commit",
            "enable.auto.offset.store",
        ],
    ),
    (
        "a lost range of offsets must be an error",
        &["auto.offset.reset"],
    ),
    (
        "all members of a group must agree on it",
        &[
            "group.protocol",
            "group.remote.assignor",
            "partition.assignment.strategy",
        ],
    ),
    (
        "an event's partition must be the same on every log",
        &["partitioner"],
    ),
    (
        "an event counts only once all replicas have it",
        &["acks", "request.required.acks"],
    ),
    (
        "an event counts only once it is acknowledged",
        &["delivery.report.only.error"],
    ),
    (
        "events must be neither lost nor duplicated, and must keep their order",
        &[
            "enable.gapless.guarantee",
            "enable.idempotence",
            "queuing.strategy",
        ],
    ),
    (
        "--max-outage says how long to wait; an event that the client gives up before that would be lost",
        &[
            "delivery.timeout.ms",
            "message.send.max.retries",
            "message.timeout.ms",
            "retries",
        ],
    ),
    (
        "rtp writes no transactions",
        &["transaction.timeout.ms", "transactional.id"],
    ),
    (
        "the events of a transaction count only once it is committed",
        &["isolation.level"],
    ),
    ("a corrupt event must be an error", &["check.crcs"]),
    (
        "rtp must see where a partition ends",
        &["enable.partition.eof"],
    ),
    ("a missing topic is an error", &["allow.auto.create.topics"]),
    (
        "it decides which memory a request points to",
        &["message.copy.max.bytes"],
    ),
    (
        "rtp does not show what it would make the client report",
        &["debug", "log.", "log_level", "statistics.interval.ms"],
    ),
    (
        "it would load other code into rtp",
        &["plugin.library.paths", "ssl.engine.", "ssl.providers"],
    ),
    (
        "it is another name of linger.ms; use that",
        &["queue.buffering.max.ms"],
    ),
    (
        "it is another name of fetch.message.max.bytes; use that",
        &["max.partition.fetch.bytes"],
    ),
    (
        "it is another name of compression.type; use that",
        &["compression.codec"],
    ),
    (
        "it is another name of max.in.flight.requests.per.connection; use that",
        &["max.in.flight"],
    ),
];

/// The configuration that every client has.
pub(crate) fn config(server: &Address) -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", server.authority())
        .set("client.id", "rtp")
        .set("socket.timeout.ms", REQUEST_TIMEOUT.as_millis().to_string())
        .set("socket.connection.setup.timeout.ms", "5000")
        // A new client also waits half of this between its first two connections: to the given address, and to
        // the broker that it learns of there (librdkafka 2.12, sparse_connect_intvl).
        .set("reconnect.backoff.ms", "22")
        .set("reconnect.backoff.max.ms", "1000")
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Warning);
    secure(server, &mut config)?;
    for (name, value) in &server.settings {
        may_be_set(name)?;
        config.set(name, value);
    }
    Ok(config)
}

/// An error with the reason if a setting must stay as it is.
fn may_be_set(name: &str) -> Result<()> {
    if ALLOWED.iter().any(|names| names.contains(&name)) {
        return Ok(());
    }
    let is_meant = |known: &&str| match known.strip_suffix('.') {
        Some(_) => name.starts_with(known),
        None => name == *known,
    };
    let found = REFUSED.iter().find(|(_, names)| names.iter().any(is_meant));
    Err(match found {
        Some((reason, _)) => Error::invalid(format!("-X cannot set {name}: {reason}")),
        None => Error::invalid(format!("-X cannot set {name}"))
            .hint("docs/servers.md lists the settings that it can change"),
    })
}

/// A value that the client does not accept. The client's own reason repeats it.
pub(super) fn not_accepted(name: &str, reason: &str) -> Error {
    let expected = match reason.split_once("outside allowed range ") {
        Some((_, range)) => format!("expected a number in {}", range.trim()),
        None if reason.contains("true or false") => "expected true or false".into(),
        None => "librdkafka does not accept the given value".into(),
    };
    Error::invalid(format!("invalid setting {name}: {expected}"))
}

/// TLS and SASL, as the address requests them.
fn secure(server: &Address, config: &mut ClientConfig) -> Result<()> {
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
                "there is no password for {user} at {}",
                address(server)
            ))
            .hint("set RTP_KAFKA_PASSWORD_FILE or RTP_KAFKA_PASSWORD")
        })?;
        config
            .set("sasl.mechanism", mechanism)
            .set("sasl.username", user)
            .set("sasl.password", password.expose());
    }
    Ok(())
}

fn not_allowed(parameter: &str, value: &str, allowed: &str) -> Error {
    Error::invalid(format!("invalid {parameter}={value}; supported: {allowed}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn set(name: &str, value: &str) -> Result<ClientConfig> {
        config(&Address {
            settings: vec![(name.into(), value.into())],
            ..Address::default()
        })
    }

    #[test]
    fn what_breaks_a_promise_is_refused_with_its_reason_and_without_its_value() {
        for (name, told) in [
            ("delivery.report.only.error", "acknowledged"),
            ("transactional.id", "transactions"),
            ("enable.idempotence", "duplicated"),
            ("acks", "replicas"),
            ("isolation.level", "committed"),
            ("message.timeout.ms", "--max-outage"),
            ("retries", "--max-outage"),
            ("enable.ssl.certificate.verification", "?ca=FILE"),
            ("ssl.endpoint.identification.algorithm", "?ca=FILE"),
            ("ssl.ca.pem", "?ca=FILE"),
            ("check.crcs", "corrupt"),
            ("sasl.password", "RTP_KAFKA_PASSWORD_FILE"),
            ("sasl.oauthbearer.client.secret", "?sasl="),
            ("ssl.key.password", "everybody"),
            ("plugin.library.paths", "code"),
            ("queue.buffering.max.ms", "linger.ms"),
            ("some.future.setting", "docs/servers.md"),
        ] {
            let refused = set(name, "hunter2").unwrap_err();
            let said = format!("{refused} {}", refused.hint_text().unwrap_or_default());
            assert_eq!(refused.kind(), Kind::Invalid, "{said}");
            assert!(said.contains(name) && said.contains(told), "{name}: {said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn what_may_be_set_is_known_to_the_client_and_listed_in_the_docs() {
        // Not included, because the image is built without the docs.
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/servers.md");
        let docs = std::fs::read_to_string(docs).unwrap();
        for name in ALLOWED.iter().copied().flatten() {
            let config = set(name, "1").unwrap();
            // A value may be wrong, a name may not.
            let unknown = config
                .create_native_config()
                .err()
                .is_some_and(|e| e.to_string().contains("No such configuration property"));
            assert!(!unknown, "{name}");
            assert!(
                docs.contains(&format!("`{name}`")),
                "{name} is not in the docs"
            );
            let refused = REFUSED.iter().flat_map(|(_, names)| names.iter());
            assert!(!refused.clone().any(|refused| refused == name), "{name}");
        }
    }

    #[test]
    fn a_value_that_is_not_accepted_is_not_repeated() {
        for (name, value, expected) in [
            ("linger.ms", "987654321", "expected a number in 0..900000"),
            ("socket.keepalive.enable", "hunter2", "true or false"),
            ("compression.type", "hunter2", "does not accept"),
        ] {
            let error = set(name, value).unwrap().create_native_config().err();
            let said = super::super::error(&Address::default(), &error.unwrap()).to_string();
            assert!(said.contains(name) && said.contains(expected), "{said}");
            assert!(!said.contains(value), "{said}");
        }
    }
}
