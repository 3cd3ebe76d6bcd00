//! Servers for the tests, from stack/stack.py: each is started once, when a test first asks for it, in its
//! own folder, and stops with this process, however that ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A running server.
pub struct Server {
    name: &'static str,
    /// Where its files are.
    pub folder: PathBuf,
    is_durable: bool,
    /// What rtp needs to find it: addresses and password files, by variable.
    pub environment: BTreeMap<String, String>,
}

/// If a test with its own server fails, it prints the server's last log lines.
impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logged = self.stack("logs", &[]).stdout;
            eprintln!("{}", String::from_utf8_lossy(&logged));
        }
    }
}

/// A server that is stopped (SIGSTOP) as long as this value lives.
pub struct Stopped<'a>(&'a Server);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.signal("CONT");
    }
}

/// Whether the server requires TLS and a password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Open,
    Guarded,
}

/// A shared server of this name: `kafka`, `cassandra` or `postgres`. If something must be installed first,
/// prints which test does not run and why, and returns None; under CI that is a failure.
pub fn server(name: &'static str, access: Access) -> Option<&'static Server> {
    type Slot = OnceLock<Result<Server, String>>;
    static SLOTS: [Slot; 6] = [const { OnceLock::new() }; 6];
    let at = ["kafka", "cassandra", "postgres"]
        .iter()
        .position(|n| *n == name)
        .unwrap();
    let slot = &SLOTS[2 * at + usize::from(access == Access::Guarded)];
    let kind = match access {
        Access::Open => "open",
        Access::Guarded => "guarded",
    };
    let started = slot.get_or_init(|| Server::start(name, access, kind, false));
    started.as_ref().map_err(|why| does_not_run(why)).ok()
}

/// Like [`server`], but for one test only, which may stop it.
pub fn own_server(name: &'static str, test: &str) -> Option<Server> {
    let started = Server::start(name, Access::Open, test, false);
    started.map_err(|why| does_not_run(&why)).ok()
}

/// The same, but what it has acknowledged survives when it is killed.
pub fn own_durable_server(name: &'static str, test: &str) -> Option<Server> {
    let started = Server::start(name, Access::Open, test, true);
    started.map_err(|why| does_not_run(&why)).ok()
}

/// Prints which test does not run and why; under CI that is a failure.
pub fn does_not_run(why: &str) {
    let test = std::thread::current();
    let message = format!("{} does not run: {why}", test.name().unwrap_or("a test"));
    assert!(std::env::var_os("CI").is_none(), "{message}");
    eprintln!("{message}");
}

impl Server {
    /// An error says what must be installed first.
    fn start(
        name: &'static str,
        access: Access,
        kind: &str,
        is_durable: bool,
    ) -> Result<Server, String> {
        let pid = std::process::id();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{kind}-{pid}"));
        let mut server = Server {
            name,
            folder,
            is_durable,
            environment: BTreeMap::new(),
        };
        let pid = pid.to_string();
        let mut more = vec!["--ports", "free", "--parent", &pid];
        if access == Access::Guarded {
            more.push("--tls");
        }
        let up = server.stack("up", &more);
        let said = String::from_utf8_lossy(&up.stderr).into_owned();
        match up.status.code() {
            Some(0) => {}
            Some(3) => return Err(said),
            _ => panic!("{said}"),
        }
        let env = server.stack("env", &[]).stdout;
        for line in String::from_utf8(env).unwrap().lines() {
            let (variable, value) = line
                .strip_prefix("export ")
                .and_then(|line| line.split_once('='))
                .unwrap();
            let value = value.trim_matches('\'').to_string();
            server.environment.insert(variable.to_string(), value);
        }
        Ok(server)
    }

    fn stack(&self, action: &str, more: &[&str]) -> std::process::Output {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        Command::new("python3")
            .arg(project.join("stack/stack.py"))
            .args([action, "--only", self.name, "--dir"])
            .arg(&self.folder)
            .args(more)
            .env("RTP_KAFKA_HEAP", "512m")
            .env("RTP_CASSANDRA_HEAP", "768m")
            .env(
                "RTP_CASSANDRA_COMMITLOG_SYNC",
                if self.is_durable { "batch" } else { "periodic" },
            )
            .output()
            .unwrap()
    }

    /// Whether this variable concerns this server; the others in its folder were not started.
    pub fn provides(&self, variable: &str) -> bool {
        let about = match self.name {
            "kafka" => ["RTP_EVENT_LOG", "RTP_KAFKA"],
            "cassandra" => ["RTP_REALTIME_STORE", "RTP_CASSANDRA"],
            _ => ["RTP_BATCH_STORE", "RTP_POSTGRES"],
        };
        about.iter().any(|name| variable.starts_with(name))
    }

    /// Its address, by the variable that rtp reads it from, such as `RTP_EVENT_LOG`.
    pub fn address(&self, variable: &str) -> &str {
        &self.environment[variable]
    }

    /// Sends a signal such as `STOP` to it and to its child processes.
    pub fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(self.folder.join(self.name).join("pid")).unwrap();
        let pid = pid.trim();
        let kill = |pid: &str| Command::new("kill").args(["-s", name, pid]).output();
        let children = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(children).unwrap();
        assert!(kill(pid).unwrap().status.success());
        for child in children.split_whitespace() {
            kill(child).unwrap(); // it may have ended
        }
    }

    /// Stops it and its child processes until the result is dropped.
    pub fn stopped(&self) -> Stopped<'_> {
        self.signal("STOP");
        Stopped(self)
    }

    /// Starts it again after its death.
    pub fn restart(&self) {
        let up = self.stack("up", &[]);
        assert!(
            up.status.success(),
            "{}",
            String::from_utf8_lossy(&up.stderr)
        );
    }
}
