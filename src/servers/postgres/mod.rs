//! What the PostgreSQL adapters share: the address of the server, a session with it, and the meaning of its errors.
//!
//! The driver blocks, and must not run on a thread of the runtime. A session is therefore a thread of
//! its own that is given one piece of work at a time. Whoever waits for the result asks the server from
//! time to time, through a fresh connection, whether it is still alive: a merge may take minutes, but a
//! server, or one process of it, that was stopped must not be waited for forever. Only a process that was
//! stopped inside a statement other than a copy cannot be distinguished from one that works.

pub mod aggregates;
pub mod batch_store;
pub mod ddl;
mod errors;
mod history;
pub mod ledger;
mod merge;
pub mod monitor;
mod pages;
mod schema;
mod server;
pub mod table_reader;
mod types;

pub use errors::error;
pub use server::{KIND, Postgres};

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ::postgres::config::SslMode;
use ::postgres::error::Severity;
use ::postgres::{Client, Config};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use postgres_openssl::MakeTlsConnector;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::dataset::ddl::quoted;
use crate::error::{Context, Error, Result};
use crate::ports::INIT_FIRST;
use crate::secret::Secret;
use crate::servers::address::Address;

/// How long to wait for an answer before asking the server whether it is alive.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a connection may take to be ready, handshakes included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may be silent before keepalive probes its other end.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The settings of every session: it neither waits forever nor makes others wait forever.
const SETTINGS: &str = "SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '60s'";

/// The state of the process behind a connection: whether it waits for its client, whether it has copied
/// anything, and a mark that changes when it makes progress.
const STANDING: &str = "SELECT
  coalesce(state LIKE 'idle%' OR wait_event IN ('ClientRead', 'ClientWrite'), false),
  coalesce(bytes_processed > 0, false),
  concat_ws(' ', state_change, bytes_processed)
  FROM pg_stat_activity LEFT JOIN pg_stat_progress_copy USING (pid) WHERE pg_stat_activity.pid = $1";

/// How often in a row a copy may be found without progress, one [`ANSWER_TIMEOUT`] apart.
const COPY_LOOKS: u32 = 8;

/// The address of a server, and how to connect to it.
#[derive(Clone)]
pub struct Target {
    config: Config,
    tls: MakeTlsConnector,
    address: String,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address)
    }
}

/// How much of the server's certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    Nothing,
    Authority,
    Host,
}

impl Target {
    /// From an address, and the password in the environment or a file.
    pub fn new(server: &Address) -> Result<Arc<Target>> {
        let address = Postgres(server.clone()).to_string();
        let mut config = Config::new();
        for (host, port) in &server.hosts {
            config.host(host).port(*port);
        }
        if let Some(user) = &server.user {
            config.user(user);
        }
        if let Some(database) = &server.path {
            config.dbname(database);
        }
        if let Some(password) = Secret::of_server("POSTGRES")? {
            config.password(password.expose());
        }
        config
            .application_name("rtp")
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(KEEPALIVE)
            .keepalives_idle(KEEPALIVE)
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3);
        let authority = server.parameter("sslrootcert").map(PathBuf::from);
        let (mode, verify) = ssl_mode(server.parameter("sslmode"), authority.is_some())
            .context(format_args!("cannot connect to {address}"))?;
        config.ssl_mode(mode);
        let tls = connector(verify, authority.as_deref())
            .context(format_args!("cannot connect to {address}"))?;
        Ok(Arc::new(Target {
            config,
            tls,
            address,
        }))
    }

    /// The address, without a password.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A connection, and the number of the process behind it.
    fn connect(&self) -> Result<(Client, i32), ::postgres::Error> {
        let mut client = self.config.connect(self.tls.clone())?;
        client.batch_execute(SETTINGS)?;
        let process = client.query_one("SELECT pg_backend_pid()", &[])?;
        let process = process.try_get(0)?;
        Ok((client, process))
    }
}

/// As in libpq, `require` also verifies the authority if one is named.
fn ssl_mode(mode: Option<&str>, has_authority: bool) -> Result<(SslMode, Verify)> {
    let needs_authority = |verify| match has_authority {
        true => Ok((SslMode::Require, verify)),
        false => Err(Error::invalid(format!(
            "sslmode={} needs sslrootcert=FILE, a file with the certificates of the trusted authorities",
            mode.unwrap_or_default()
        ))),
    };
    match mode {
        Some("disable") => Ok((SslMode::Disable, Verify::Nothing)),
        None | Some("prefer") => Ok((SslMode::Prefer, Verify::Nothing)),
        Some("require") if has_authority => Ok((SslMode::Require, Verify::Authority)),
        Some("require") => Ok((SslMode::Require, Verify::Nothing)),
        Some("verify-ca") => needs_authority(Verify::Authority),
        Some("verify-full") => needs_authority(Verify::Host),
        Some(other) => Err(Error::invalid(format!(
            "unknown sslmode `{other}`; supported: disable, prefer, require, verify-ca, verify-full"
        ))),
    }
}

fn connector(verify: Verify, authority: Option<&std::path::Path>) -> Result<MakeTlsConnector> {
    let fail = |e: openssl::error::ErrorStack| Error::refused(format!("cannot set up TLS: {e}"));
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(fail)?;
    match (verify, authority) {
        (Verify::Nothing, _) => builder.set_verify(SslVerifyMode::NONE),
        (_, None) => {}
        (_, Some(file)) => builder.set_ca_file(file).map_err(|e| {
            Error::invalid(format!(
                "cannot read the certificates of sslrootcert from {}: {e}",
                file.display()
            ))
        })?,
    }
    let mut tls = MakeTlsConnector::new(builder.build());
    if verify != Verify::Host {
        tls.set_callback(|connect, _| {
            connect.set_verify_hostname(false);
            Ok(())
        });
    }
    Ok(tls)
}

/// A piece of work for a session's thread.
type Work = Box<dyn FnOnce(&mut Client) + Send>;

/// The result of a piece of work.
pub type Answer<T> = oneshot::Receiver<Result<T, Failure>>;

/// What went wrong, and whether the connection survived.
#[derive(Debug)]
pub struct Failure {
    error: Error,
    /// Whether the error came from the server itself.
    is_answer: bool,
    /// Whether the connection can be used for more work.
    is_open: bool,
}

impl Failure {
    fn lost(error: Error) -> Failure {
        Failure {
            error,
            is_answer: false,
            is_open: false,
        }
    }

    /// An error of the reader of a copy, which wraps an error of the driver.
    pub fn of_copy(e: std::io::Error) -> Failure {
        match e
            .get_ref()
            .and_then(|e| e.downcast_ref::<::postgres::Error>())
        {
            Some(e) => Failure::of(e),
            None => Failure::lost(Error::unavailable(e.to_string())),
        }
    }

    fn of(e: &::postgres::Error) -> Failure {
        let answer = e.as_db_error();
        Failure {
            error: error(e),
            is_answer: answer.is_some(),
            is_open: answer.is_some_and(|e| e.parsed_severity() == Some(Severity::Error)),
        }
    }
}

impl From<::postgres::Error> for Failure {
    fn from(e: ::postgres::Error) -> Failure {
        Failure::of(&e)
    }
}

/// A connection on a thread of its own. After a failure it is not used again.
#[derive(Debug)]
pub struct Session {
    work: mpsc::Sender<Work>,
    target: Arc<Target>,
    /// The number of the server's process.
    process: i32,
    is_open: bool,
}

impl Session {
    /// Connects.
    pub async fn open(target: &Arc<Target>) -> Result<Session> {
        Session::try_open(target)
            .await
            .map_err(|failure| failure.error)
            .context(format_args!("cannot connect to {}", target.address))
    }

    async fn try_open(target: &Arc<Target>) -> Result<Session, Failure> {
        let (work, waiting) = mpsc::channel::<Work>();
        let (opened, is_open) = oneshot::channel();
        let server = target.clone();
        std::thread::Builder::new()
            .name("postgres".into())
            .spawn(move || match server.connect() {
                // If a send fails, nobody is waiting any more.
                Err(e) => opened.send(Err(Failure::of(&e))).unwrap_or(()),
                Ok((mut client, process)) => {
                    if opened.send(Ok(process)).is_ok() {
                        waiting.into_iter().for_each(|work| work(&mut client));
                    }
                }
            })
            .map_err(|e| {
                Failure::lost(Error::unavailable(format!("cannot start a thread: {e}")))
            })?;
        let process = match timeout(CONNECT_TIMEOUT, is_open).await {
            Ok(Ok(connected)) => connected?,
            Ok(Err(_)) => return Err(Failure::lost(broken_thread())),
            Err(_) => return Err(Failure::lost(no_answer())),
        };
        Ok(Session {
            work,
            target: target.clone(),
            process,
            is_open: true,
        })
    }

    /// Whether the connection can be used for more work. It cannot after one of its futures was dropped
    /// before completion.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Does a piece of work and waits for its result for as long as the server is alive.
    pub async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Client) -> Result<T, ::postgres::Error> + Send + 'static,
    ) -> Result<T> {
        let answer = self.start(work)?;
        self.finish(answer).await
    }

    /// Starts a piece of work that communicates with the caller while it runs.
    pub fn start<T: Send + 'static, E: Into<Failure>>(
        &mut self,
        work: impl FnOnce(&mut Client) -> Result<T, E> + Send + 'static,
    ) -> Result<Answer<T>> {
        self.is_open = false;
        let (sender, answer) = oneshot::channel();
        let work = Box::new(move |client: &mut Client| {
            let done = work(client).map_err(Into::into);
            // Nobody waits for the result of abandoned work.
            sender.send(done).unwrap_or(());
        });
        self.work.send(work).map_err(|_| broken_thread())?;
        Ok(answer)
    }

    /// Waits for the result of what was started.
    pub async fn finish<T>(&mut self, mut answer: Answer<T>) -> Result<T> {
        let mut watch = Watch::default();
        loop {
            match timeout(ANSWER_TIMEOUT, &mut answer).await {
                Err(_) => self.look(&mut watch).await?,
                Ok(Err(_)) => return Err(broken_thread()),
                Ok(Ok(Ok(done))) => {
                    self.is_open = true;
                    return Ok(done);
                }
                Ok(Ok(Err(failure))) => {
                    self.is_open = failure.is_open;
                    return Err(failure.error);
                }
            }
        }
    }

    /// To be called after each [`ANSWER_TIMEOUT`] of silence: an error if the server does not answer a fresh
    /// connection, or if the process behind this one makes no progress where it should.
    pub async fn look(&self, watch: &mut Watch) -> Result<()> {
        let now = self.standing().await?;
        let limit = match &now {
            // Unless it was stopped, it is never waiting for its client for longer than that.
            Some(now) if now.waits_for_us => 1,
            Some(now) if now.has_copied => COPY_LOOKS,
            // A process at work is left alone, because a merge may take hours.
            _ => u32::MAX,
        };
        watch.unmoved = match now.is_some() && now == watch.last {
            true => watch.unmoved + 1,
            false => 0,
        };
        watch.last = now;
        if watch.unmoved < limit {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "process {} of the server has stopped: no progress for {:?}",
            self.process,
            ANSWER_TIMEOUT * watch.unmoved
        )))
    }

    /// Asks through a fresh connection; none if the server is alive but does not say.
    async fn standing(&self) -> Result<Option<Standing>> {
        let mut fresh = match Session::try_open(&self.target).await {
            Ok(fresh) => fresh,
            Err(failure) if failure.is_answer => return Ok(None),
            Err(failure) => return Err(failure.error.context(NO_OTHER)),
        };
        let process = self.process;
        let asked = fresh.start(move |client| {
            let row = client.query_opt(STANDING, &[&process])?;
            let standing = row.map(|row| {
                Ok::<_, ::postgres::Error>(Standing {
                    waits_for_us: row.try_get(0)?,
                    has_copied: row.try_get(1)?,
                    mark: row.try_get(2)?,
                })
            });
            standing.transpose()
        })?;
        match timeout(CONNECT_TIMEOUT, asked).await {
            Ok(Ok(Ok(standing))) => Ok(standing),
            Ok(Ok(Err(failure))) if failure.is_answer => Ok(None),
            Ok(Ok(Err(failure))) => Err(failure.error.context(NO_OTHER)),
            Ok(Err(_)) => Err(broken_thread()),
            Err(_) => Err(no_answer().context(NO_OTHER)),
        }
    }
}

/// Observations of a silent process.
#[derive(Debug, Default)]
pub struct Watch {
    last: Option<Standing>,
    /// How often in a row it was found without progress.
    unmoved: u32,
}

/// The state of a process.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    waits_for_us: bool,
    has_copied: bool,
    mark: String,
}

/// The message if the server seems to be gone.
const NO_OTHER: &str = "no answer, and a fresh connection gets none either";

fn no_answer() -> Error {
    Error::unavailable(format!("no answer within {CONNECT_TIMEOUT:?}"))
}

fn broken_thread() -> Error {
    Error::internal("the thread of a connection ended before its work was done")
}

/// Creates tables in one transaction, and returns the session; two concurrent runs wait for each other.
pub async fn create_tables(target: &Arc<Target>, statements: &[String]) -> Result<Session> {
    let script = format!(
        "BEGIN; SELECT pg_advisory_xact_lock(hashtext('rtp init'));\n{};\nCOMMIT",
        statements.join(";\n")
    );
    let mut session = Session::open(target).await?;
    session
        .run(move |client| client.batch_execute(&script))
        .await
        .context(format_args!("cannot create tables in {}", target.address))?;
    Ok(session)
}

/// The names and types of a table's columns; none if there is no such table.
pub fn columns(
    client: &mut Client,
    table: &str,
) -> Result<Vec<(String, String)>, ::postgres::Error> {
    let select = "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
                  WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
    let rows = client.query(select, &[&quoted(table)])?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

/// Opens a session with a server that must have these tables.
pub async fn open_tables(target: &Arc<Target>, tables: &[&str]) -> Result<Session> {
    let mut session = Session::open(target).await?;
    for table in tables {
        let name = (*table).to_string();
        let there = session.run(move |client| columns(client, &name)).await;
        if there
            .context(format_args!("cannot open {}", target.address))?
            .is_empty()
        {
            return Err(missing_table(target, table));
        }
    }
    Ok(session)
}

/// The error if a table is missing that `rtp init` creates.
pub fn missing_table(target: &Target, table: &str) -> Error {
    Error::invalid(format!("there is no table {table} in {}", target.address)).hint(INIT_FIRST)
}
