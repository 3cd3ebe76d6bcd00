//! What the Cassandra adapters share: connections and errors.

pub mod ddl;
mod decimal;
mod guardrails;
pub mod monitor;
mod pages;
pub mod realtime_store;
mod schema;
mod server;
pub mod table_reader;
mod types;

pub use server::{Cassandra, KIND};

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::{X509Ref, X509StoreContextRef};
use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::{OpenSsl010Config, Session};
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError,
    MetadataError, NewSessionError, PrepareError, RequestAttemptError,
};
use scylla::frame::types::Consistency;
use scylla::statement::prepared::PreparedStatement;

use crate::dataset::Dataset;
use crate::dataset::ddl::quoted;
use crate::error::{Error, Result};
use crate::ports::INIT_FIRST;
use crate::secret::Secret;
use crate::servers::address::Address;

/// How long a request may take. A stopped server does not refuse requests; it never answers.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a statement that changes the schema may take, because all nodes must agree on it.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(60);

/// How often an idle connection is probed.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The code of a write that is refused until a node's folder for change data capture has room again (CQL protocol 5,
/// CDC_WRITE_FAILURE), which the driver does not name.
const CDC_IS_FULL: i32 = 0x1600;

/// The values of the parameter `consistency`.
const CONSISTENCIES: [(&str, Consistency); 8] = [
    ("local_quorum", Consistency::LocalQuorum),
    ("local_one", Consistency::LocalOne),
    ("quorum", Consistency::Quorum),
    ("each_quorum", Consistency::EachQuorum),
    ("one", Consistency::One),
    ("two", Consistency::Two),
    ("three", Consistency::Three),
    ("all", Consistency::All),
];

/// A connected cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The driver's session. It never uses a keyspace; table names include theirs.
    pub(crate) session: Session,
    /// For requests whose time the caller limits.
    untimed: ExecutionProfileHandle,
    address: String,
}

/// What an error of a request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The server is down or busy, and it is unknown what it did; repeating the request does no harm.
    Outage,
    /// The server does not accept this statement with these values.
    NotTaken,
    /// The server does not accept this kind of request from us.
    Refused,
}

impl Cluster {
    /// Connects to a cluster through the hosts that the address names.
    pub(crate) async fn connect(server: &Address, keyspace: &str) -> Result<Cluster> {
        let address = Cassandra(server.clone()).to_string();
        let profile = ExecutionProfile::builder()
            .consistency(consistency(server)?)
            .request_timeout(Some(TIMEOUT));
        let untimed = profile.clone().request_timeout(None).build().into_handle();
        let mut builder = SessionBuilder::new()
            .known_nodes(
                server
                    .hosts
                    .iter()
                    .map(|(host, port)| host_port(host, *port)),
            )
            .default_execution_profile_handle(profile.build().into_handle())
            .connection_timeout(TIMEOUT)
            .keepalive_interval(KEEPALIVE)
            .keepalive_timeout(TIMEOUT)
            .schema_agreement_timeout(SCHEMA_TIMEOUT)
            .keyspaces_to_fetch([keyspace]);
        if let Some(user) = &server.user {
            let password = Secret::of_server("CASSANDRA")?.ok_or_else(|| {
                Error::invalid(format!("there is no password for {address}"))
                    .hint("set RTP_CASSANDRA_PASSWORD_FILE or RTP_CASSANDRA_PASSWORD")
            })?;
            builder = builder.user(user, password.expose());
        }
        if let Some(tls) = tls(server)? {
            builder = builder.tls_context(Some(tls));
        }
        let session = match tokio::time::timeout(TIMEOUT, builder.build()).await {
            Ok(built) => built.map_err(|e| connect_error(&address, &e))?,
            Err(_) => {
                let silent = format!("no answer from {address} within {TIMEOUT:?}");
                return Err(Error::unavailable(silent));
            }
        };
        Ok(Cluster {
            session,
            untimed,
            address,
        })
    }

    /// Its address.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Prepares a statement that can be repeated without harm. A missing table, keyspace, column or
    /// permission is for the user to fix (`Invalid`).
    pub(crate) async fn prepare(&self, statement: &str) -> Result<PreparedStatement> {
        let prepared = self.session.prepare(statement).await;
        let mut prepared = prepared.map_err(|e| self.prepare_error(&e))?;
        prepared.set_is_idempotent(true);
        prepared.set_use_cached_result_metadata(true);
        Ok(prepared)
    }

    /// Like [`Cluster::prepare`], for requests without a time limit of their own.
    pub(crate) async fn prepare_untimed(&self, statement: &str) -> Result<PreparedStatement> {
        let mut prepared = self.prepare(statement).await?;
        prepared.set_execution_profile_handle(Some(self.untimed.clone()));
        Ok(prepared)
    }

    /// The profile of requests whose time the caller limits.
    pub(crate) fn untimed(&self) -> ExecutionProfileHandle {
        self.untimed.clone()
    }

    fn prepare_error(&self, error: &PrepareError) -> Error {
        let address = &self.address;
        let attempt = match error {
            PrepareError::AllAttemptsFailed { first_attempt } => first_attempt,
            other => return Error::unavailable(format!("cannot reach {address}: {other}")),
        };
        match fate_of_attempt(attempt) {
            Fate::Outage => {
                Error::unavailable(format!("cannot reach {address}: {}", said(attempt)))
            }
            Fate::NotTaken | Fate::Refused => {
                let said = said(attempt);
                let hint = match guardrails::fate(&said) {
                    Some(_) => "the guardrails of a server are set in its cassandra.yaml",
                    None => INIT_FIRST,
                };
                Error::invalid(format!("{address} says: {said}")).hint(hint)
            }
        }
    }

    /// The error of a request, whatever it means.
    pub(crate) fn error(&self, error: &ExecutionError) -> Error {
        let address = &self.address;
        let text = match error {
            ExecutionError::LastAttemptError(attempt) => said(attempt),
            ExecutionError::RequestTimeout(after) => format!("no answer within {after:?}"),
            other => other.to_string(),
        };
        match fate(error) {
            Fate::Outage => Error::unavailable(format!("{address} is not available: {text}")),
            Fate::NotTaken | Fate::Refused => Error::refused(format!("{address} says: {text}")),
        }
    }
}

/// What the error of a request means.
pub(crate) fn fate(error: &ExecutionError) -> Fate {
    match error {
        ExecutionError::LastAttemptError(attempt) => fate_of_attempt(attempt),
        ExecutionError::BadQuery(_) => Fate::NotTaken,
        ExecutionError::EmptyPlan
        | ExecutionError::ConnectionPoolError(_)
        | ExecutionError::RequestTimeout(_)
        | ExecutionError::SchemaAgreementError(_)
        | ExecutionError::MetadataError(_) => Fate::Outage,
        _ => Fate::Refused,
    }
}

fn fate_of_attempt(attempt: &RequestAttemptError) -> Fate {
    match attempt {
        RequestAttemptError::BrokenConnectionError(_)
        | RequestAttemptError::UnableToAllocStreamId => Fate::Outage,
        RequestAttemptError::SerializationError(_)
        | RequestAttemptError::CqlRequestSerialization(_) => Fate::NotTaken,
        RequestAttemptError::DbError(error, text) => match error {
            DbError::Unavailable { .. }
            | DbError::Overloaded
            | DbError::IsBootstrapping
            | DbError::TruncateError
            | DbError::ReadTimeout { .. }
            | DbError::WriteTimeout { .. }
            | DbError::ReadFailure { .. }
            | DbError::WriteFailure { .. }
            | DbError::RateLimitReached { .. }
            | DbError::ServerError
            | DbError::Other(CDC_IS_FULL) => Fate::Outage,
            DbError::Invalid => guardrails::fate(text).unwrap_or(Fate::NotTaken),
            DbError::SyntaxError => Fate::NotTaken,
            _ => Fate::Refused,
        },
        _ => Fate::Refused,
    }
}

/// The server's message, without the driver's text around it.
pub(crate) fn said(attempt: &RequestAttemptError) -> String {
    match attempt {
        RequestAttemptError::DbError(_, text) if !text.is_empty() => text.clone(),
        other => other.to_string(),
    }
}

fn connect_error(address: &str, error: &NewSessionError) -> Error {
    let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(
        ConnectionPoolError::Broken {
            last_connection_error,
        },
    )) = error
    else {
        return Error::unavailable(format!("cannot connect to {address}: {error}"));
    };
    let password = "the user comes from the address, the password from RTP_CASSANDRA_PASSWORD_FILE or RTP_CASSANDRA_PASSWORD";
    match last_connection_error {
        ConnectionError::ConnectionSetupRequestError(setup) => match setup.get_error() {
            ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, text) => {
                Error::invalid(format!("{address} refuses the user: {text}")).hint(password)
            }
            ConnectionSetupRequestErrorKind::MissingAuthentication => {
                Error::invalid(format!("{address} requires a user and a password")).hint(password)
            }
            other => Error::unavailable(format!("cannot connect to {address}: {other}")),
        },
        ConnectionError::IoError(io) if is_certificate_error(io) => Error::invalid(format!(
            "cannot trust the certificate of {address}: {io}"
        ))
        .hint("set the parameter `ca` in the address to the certificate file of the authority that signed it"),
        other => Error::unavailable(format!("cannot connect to {address}: {other}")),
    }
}

/// Whether the connection was established, but the server's certificate was rejected.
fn is_certificate_error(error: &std::io::Error) -> bool {
    error.to_string().contains("certificate")
}

fn host_port(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

fn consistency(server: &Address) -> Result<Consistency> {
    let Some(asked) = server.parameter("consistency") else {
        return Ok(Consistency::LocalQuorum);
    };
    let found = CONSISTENCIES.iter().find(|(name, _)| *name == asked);
    found.map(|(_, level)| *level).ok_or_else(|| {
        Error::invalid(format!(
            "unknown consistency `{asked}`; supported: {}",
            CONSISTENCIES.map(|(name, _)| name).join(", ")
        ))
    })
}

/// TLS as the address requests it: every node's certificate must be signed by a trusted authority, and be
/// issued for one of the address's hosts.
fn tls(server: &Address) -> Result<Option<OpenSsl010Config>> {
    match server.parameter("tls") {
        None | Some("false") => return Ok(None),
        Some("true") => {}
        Some(other) => {
            return Err(Error::invalid(format!(
                "invalid value `{other}` of tls; expected true or false"
            )));
        }
    }
    let fail = |e: openssl::error::ErrorStack| Error::invalid(format!("cannot set up TLS: {e}"));
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(fail)?;
    if let Some(ca) = server.parameter("ca") {
        builder
            .set_ca_file(ca)
            .map_err(|e| Error::invalid(format!("cannot read the certificates in {ca}: {e}")))?;
    }
    let hosts: Arc<[String]> = server.hosts.iter().map(|(host, _)| host.clone()).collect();
    builder.set_verify_callback(SslVerifyMode::PEER, move |is_trusted, chain| {
        is_trusted && is_for_one_of(&hosts, chain)
    });
    Ok(Some(OpenSsl010Config::new(builder)))
}

/// Only the first certificate of a chain is the server's own.
fn is_for_one_of(hosts: &[String], chain: &mut X509StoreContextRef) -> bool {
    if chain.error_depth() > 0 {
        return true;
    }
    let is_one = chain
        .current_cert()
        .is_some_and(|certificate| hosts.iter().any(|host| is_for(host, certificate)));
    if !is_one {
        chain.set_error(openssl::x509::X509VerifyResult::APPLICATION_VERIFICATION);
    }
    is_one
}

fn is_for(host: &str, certificate: &X509Ref) -> bool {
    let Some(names) = certificate.subject_alt_names() else {
        return false;
    };
    names.iter().any(|name| match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => name.ipaddress() == Some(&ip.octets()),
        Ok(IpAddr::V6(ip)) => name.ipaddress() == Some(&ip.octets()),
        Err(_) => name.dnsname().is_some_and(|name| covers(name, host)),
    })
}

/// Whether a certificate's name matches the host; `*` stands for its first part.
fn covers(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    match (name.strip_prefix("*."), host.split_once('.')) {
        (Some(name), Some((_, parent))) => name.contains('.') && name.eq_ignore_ascii_case(parent),
        _ => false,
    }
}

/// The table with its keyspace, quoted.
pub(crate) fn table(dataset: &Dataset, table: &str) -> String {
    format!("{}.{}", quoted(&dataset.realtime.keyspace), quoted(table))
}

/// The tables that rtp keeps for itself in the dataset's keyspace: the heartbeat's probes, and the time of the
/// last write to each table.
pub(crate) fn own_tables(dataset: &Dataset) -> [String; 2] {
    [
        format!(
            "CREATE TABLE IF NOT EXISTS {} (\n  \"writer\" text PRIMARY KEY,\n  \"id\" text,\n  \"probed_at\" timestamp\n) WITH comment = 'probes of rtp heartbeat'",
            table(dataset, "rtp_heartbeat")
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {} (\n  \"target\" text PRIMARY KEY,\n  \"written_at\" timestamp\n) WITH comment = 'when rtp stream last wrote to each table'",
            table(dataset, "rtp_progress")
        ),
    ]
}

/// All statements that create a dataset's keyspace and tables where they are missing.
pub fn statements(dataset: &Dataset) -> Vec<String> {
    let mut statements = ddl::keyspace_and_tables(dataset);
    statements.extend(own_tables(dataset));
    statements
}

/// Creates the keyspace and the tables where they are missing.
pub(crate) async fn create(server: &Address, dataset: &Dataset) -> Result<()> {
    let cluster = Cluster::connect(server, &dataset.realtime.keyspace).await?;
    for text in statements(dataset) {
        let mut statement = scylla::statement::unprepared::Statement::new(text);
        statement.set_request_timeout(Some(SCHEMA_TIMEOUT));
        statement.set_is_idempotent(true);
        match cluster.session.query_unpaged(statement, ()).await {
            Ok(_) => {}
            // Another run created it between the check and the statement.
            Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                DbError::AlreadyExists { .. },
                _,
            ))) => {}
            Err(error) => return Err(cluster.error(&error)),
        }
    }
    schema::check(&cluster, dataset).await?;
    schema::check_ttl(&cluster, dataset).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_speaks_of_a_node_is_an_outage_and_no_bad_row() {
        let full = "Guardrail replica_disk_usage violated: Write request failed because disk usage exceeds failure threshold";
        let large = "Guardrail column_value_size violated: Value of column 'email' has size 70000";
        let forbidden =
            "Guardrail user_timestamps violated: User provided timestamps is not allowed";
        for (error, text, expected) in [
            (DbError::Invalid, full, Fate::Outage),
            (DbError::Invalid, large, Fate::NotTaken),
            (DbError::Invalid, forbidden, Fate::Refused),
            (DbError::Invalid, "Batch too large", Fate::NotTaken),
            (DbError::SyntaxError, "line 1:0", Fate::NotTaken),
            (DbError::Overloaded, "", Fate::Outage),
            (DbError::ServerError, "No space left", Fate::Outage),
            (DbError::Other(0x1600), "Rejecting mutation", Fate::Outage),
            (DbError::Other(0x1700), "", Fate::Refused),
            (DbError::Unauthorized, "", Fate::Refused),
        ] {
            let attempt = RequestAttemptError::DbError(error, text.into());
            assert_eq!(fate_of_attempt(&attempt), expected, "{attempt}");
        }
    }

    #[test]
    fn a_star_stands_for_one_part_of_a_name() {
        for (name, host, is) in [
            ("db.example.com", "DB.example.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.com", "example.com", false),
            ("*", "localhost", false),
        ] {
            assert_eq!(covers(name, host), is, "{name} {host}");
        }
    }
}
