//! What the adapters of Cassandra share: connections, errors, and values as its columns hold them.

mod decimal;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::{X509Ref, X509StoreContextRef};
use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::{OpenSsl010Config, Session};
use scylla::client::session_builder::SessionBuilder;
use scylla::cluster::metadata::{ColumnType, NativeType};
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError,
    MetadataError, NewSessionError, PrepareError, RequestAttemptError,
};
use scylla::frame::response::result::ColumnSpec;
use scylla::frame::types::Consistency;
use scylla::serialize::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::{CellOverflowError, CellWriter, RowWriter, WrittenCellProof};
use scylla::statement::prepared::PreparedStatement;

use crate::dataset::ddl::{self, quoted};
use crate::dataset::{Dataset, Field, FieldType};
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::url::{Server, ServerUrl};
use crate::value::Value;

/// How long a request may take. A server that is stopped does not refuse it, it never answers.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a statement that changes the schema may take: all nodes must agree on it.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(60);

/// An idle connection is asked whether it still stands, this often.
const KEEPALIVE: Duration = Duration::from_secs(10);

const HINT: &str = "run `rtp init` first, with the same dataset and addresses";

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
    /// The driver's session. No keyspace is ever in use: tables are named with theirs.
    pub(crate) session: Session,
    /// For requests that somebody else watches over.
    untimed: ExecutionProfileHandle,
    address: String,
}

/// What an error of a request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The server is away or busy, and nobody knows what it did: the same request again does no harm.
    Outage,
    /// The server does not take this statement with these values.
    NotTaken,
    /// The server does not take anything of the kind from us.
    Refused,
}

impl Cluster {
    /// Connects to the cluster of which the address names some hosts.
    pub(crate) async fn connect(server: &Server, keyspace: &str) -> Result<Cluster> {
        let address = ServerUrl::Cassandra(server.clone()).to_string();
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
                Error::invalid(format!("no password for {address}"))
                    .hint("give it by RTP_CASSANDRA_PASSWORD_FILE or RTP_CASSANDRA_PASSWORD")
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

    /// Where it is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Prepares a statement that can be repeated without harm. A table, keyspace or column that is
    /// missing, or a right to it, is the user's to mend (`Invalid`).
    pub(crate) async fn prepare(&self, statement: &str) -> Result<PreparedStatement> {
        let prepared = self.session.prepare(statement).await;
        let mut prepared = prepared.map_err(|e| self.prepare_error(&e))?;
        prepared.set_is_idempotent(true);
        prepared.set_use_cached_result_metadata(true);
        Ok(prepared)
    }

    /// As [`Cluster::prepare`], for requests without a limit of time of their own.
    pub(crate) async fn prepare_untimed(&self, statement: &str) -> Result<PreparedStatement> {
        let mut prepared = self.prepare(statement).await?;
        prepared.set_execution_profile_handle(Some(self.untimed.clone()));
        Ok(prepared)
    }

    /// The profile of requests that somebody else watches over.
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
                Error::invalid(format!("{address} says: {}", said(attempt))).hint(HINT)
            }
        }
    }

    /// The error of a request, of whichever fate.
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
        RequestAttemptError::DbError(error, _) => match error {
            DbError::Unavailable { .. }
            | DbError::Overloaded
            | DbError::IsBootstrapping
            | DbError::TruncateError
            | DbError::ReadTimeout { .. }
            | DbError::WriteTimeout { .. }
            | DbError::ReadFailure { .. }
            | DbError::WriteFailure { .. }
            | DbError::ServerError => Fate::Outage,
            DbError::Invalid | DbError::SyntaxError => Fate::NotTaken,
            _ => Fate::Refused,
        },
        _ => Fate::Refused,
    }
}

/// What the server said, without the driver's words around it.
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
    let password = "the user is that of the address, the password that of RTP_CASSANDRA_PASSWORD_FILE or RTP_CASSANDRA_PASSWORD";
    match last_connection_error {
        ConnectionError::ConnectionSetupRequestError(setup) => match setup.get_error() {
            ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, text) => {
                Error::invalid(format!("{address} refuses the user: {text}")).hint(password)
            }
            ConnectionSetupRequestErrorKind::MissingAuthentication => {
                Error::invalid(format!("{address} asks for a user and a password")).hint(password)
            }
            other => Error::unavailable(format!("cannot connect to {address}: {other}")),
        },
        ConnectionError::IoError(io) if is_certificate_error(io) => Error::invalid(format!(
            "cannot trust {address}: {io}"
        ))
        .hint("the parameter `ca` names the file of the authority that signed its certificate"),
        other => Error::unavailable(format!("cannot connect to {address}: {other}")),
    }
}

/// Whether the connection stood, and we did not like the server's certificate.
fn is_certificate_error(error: &std::io::Error) -> bool {
    error.to_string().contains("certificate")
}

fn host_port(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

fn consistency(server: &Server) -> Result<Consistency> {
    let Some(asked) = server.parameter("consistency") else {
        return Ok(Consistency::LocalQuorum);
    };
    let found = CONSISTENCIES.iter().find(|(name, _)| *name == asked);
    found.map(|(_, level)| *level).ok_or_else(|| {
        Error::invalid(format!(
            "unknown consistency `{asked}`, allowed are: {}",
            CONSISTENCIES.map(|(name, _)| name).join(", ")
        ))
    })
}

/// TLS as the address asks for it: every node's certificate must be signed by an authority that is
/// trusted, and be for one of the address's hosts.
fn tls(server: &Server) -> Result<Option<OpenSsl010Config>> {
    match server.parameter("tls") {
        None | Some("false") => return Ok(None),
        Some("true") => {}
        Some(other) => {
            return Err(Error::invalid(format!(
                "unknown value `{other}` of tls, allowed are: true, false"
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

/// Of a chain only the first certificate is the server's own.
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

/// Whether a certificate's name is that of the host; `*` stands for its first part.
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

/// The tables that rtp keeps for itself in the dataset's keyspace: heartbeat's probes, and when each
/// table was last written to.
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

/// All statements that make a dataset's keyspace and tables, where they are missing.
pub fn statements(dataset: &Dataset) -> Vec<String> {
    let mut statements = ddl::cassandra(dataset);
    statements.extend(own_tables(dataset));
    statements
}

/// Creates the keyspace and the tables, where they are missing.
pub(crate) async fn create(server: &Server, dataset: &Dataset) -> Result<()> {
    let cluster = Cluster::connect(server, &dataset.realtime.keyspace).await?;
    for text in statements(dataset) {
        let mut statement = scylla::statement::unprepared::Statement::new(text);
        statement.set_request_timeout(Some(SCHEMA_TIMEOUT));
        statement.set_is_idempotent(true);
        match cluster.session.query_unpaged(statement, ()).await {
            Ok(_) => {}
            // Somebody else was faster, between the look whether it is there and the making.
            Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                DbError::AlreadyExists { .. },
                _,
            ))) => {}
            Err(error) => return Err(cluster.error(&error)),
        }
    }
    Ok(())
}

/// Checks that columns have the types of the dataset's fields.
pub(crate) fn check_types<'s>(
    table: &str,
    fields: &[Field],
    columns: impl Iterator<Item = &'s ColumnSpec<'s>>,
) -> Result<()> {
    for (field, column) in fields.iter().zip(columns) {
        let expected = ColumnType::Native(native(field.kind));
        if *column.typ() != expected {
            return Err(Error::invalid(format!(
                "column {} of {table} is of type {:?}, the dataset says {}",
                field.name,
                column.typ(),
                field.kind.name()
            )));
        }
    }
    Ok(())
}

fn native(kind: FieldType) -> NativeType {
    match kind {
        FieldType::Text => NativeType::Text,
        FieldType::Uuid => NativeType::Uuid,
        FieldType::Int => NativeType::Int,
        FieldType::BigInt => NativeType::BigInt,
        FieldType::Double => NativeType::Double,
        FieldType::Decimal => NativeType::Decimal,
        FieldType::Boolean => NativeType::Boolean,
        FieldType::Timestamp => NativeType::Timestamp,
        FieldType::Date => NativeType::Date,
    }
}

/// Day 0 of Cassandra's dates is 2^31 days before 1970.
const EPOCH: u32 = 1 << 31;

/// Writes a value as a column of this type holds it.
pub(crate) fn write<'b>(
    value: &Value<'_>,
    kind: FieldType,
    cell: CellWriter<'b>,
) -> Result<WrittenCellProof<'b>, CellOverflowError> {
    match value {
        Value::Null => Ok(cell.set_null()),
        Value::Text(text) => cell.set_value(text.as_bytes()),
        Value::Uuid(uuid) => cell.set_value(uuid.as_bytes()),
        Value::Int(n) => match (kind, i32::try_from(*n)) {
            (FieldType::Int, Ok(n)) => cell.set_value(&n.to_be_bytes()),
            _ => cell.set_value(&n.to_be_bytes()),
        },
        Value::Double(n) => cell.set_value(&n.to_be_bytes()),
        Value::Decimal(text) => {
            let mut stored = Vec::with_capacity(16);
            decimal::encode(text, &mut stored);
            cell.set_value(&stored)
        }
        Value::Boolean(b) => cell.set_value(&[u8::from(*b)]),
        Value::Timestamp(ms) => cell.set_value(&ms.to_be_bytes()),
        Value::Date(days) => {
            cell.set_value(&days.cast_unsigned().wrapping_add(EPOCH).to_be_bytes())
        }
    }
}

/// Reads what a column holds as its field has it; none if the field's type cannot hold it.
pub(crate) fn read<'f>(field: &Field, stored: Option<&'f [u8]>) -> Option<Value<'f>> {
    let Some(bytes) = stored else {
        return Some(Value::Null);
    };
    Some(match field.kind {
        FieldType::Text => Value::Text(std::str::from_utf8(bytes).ok()?.into()),
        FieldType::Uuid => Value::Uuid(uuid::Uuid::from_slice(bytes).ok()?),
        FieldType::Int => Value::Int(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        FieldType::BigInt => Value::Int(i64::from_be_bytes(bytes.try_into().ok()?)),
        FieldType::Double => {
            let n = f64::from_be_bytes(bytes.try_into().ok()?);
            Value::Double(n.is_finite().then_some(n + 0.0)?) // -0 is 0
        }
        FieldType::Decimal => Value::from_text(field, decimal::decode(bytes)?.into()).ok()?,
        FieldType::Boolean => match bytes {
            [0] => Value::Boolean(false),
            [1] => Value::Boolean(true),
            _ => return None,
        },
        FieldType::Timestamp => Value::Timestamp(i64::from_be_bytes(bytes.try_into().ok()?)),
        FieldType::Date => {
            let day = u32::from_be_bytes(bytes.try_into().ok()?);
            Value::Date(day.wrapping_sub(EPOCH).cast_signed())
        }
    })
}

/// One value bound to a statement's only place.
#[derive(Debug)]
pub(crate) struct One<'a>(pub(crate) &'a Value<'a>, pub(crate) FieldType);

impl SerializeRow for One<'_> {
    fn serialize(
        &self,
        _: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        write(self.0, self.1, writer.make_cell_writer())
            .map(|_| ())
            .map_err(SerializationError::new)
    }

    fn is_empty(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
