//! Runs the real binary in its own folder, with a clean environment, and looks at the result.

#![allow(dead_code, unreachable_pub)] // tests/it and tests/servers each use their part of this module

pub mod figures;
pub mod merge_patch;
pub mod merged;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A folder that is deleted with the test.
pub struct Place(tempfile::TempDir);

/// What a command left behind.
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Of a process that ended by itself, and wrote text.
    pub fn of(out: std::process::Output) -> Ran {
        Ran {
            status: out.status.code().unwrap(),
            stdout: String::from_utf8(out.stdout).unwrap(),
            stderr: String::from_utf8(out.stderr).unwrap(),
        }
    }

    /// The summary of a command run with `--log-format json`.
    pub fn summary(&self) -> serde_json::Value {
        serde_json::from_str(self.stderr.lines().last().unwrap()).unwrap()
    }

    /// The summary's counts: read, written, rejected, deduplicated, skipped; they must balance.
    pub fn counts(&self) -> [u64; 5] {
        let summary = self.summary();
        let counts = ["read", "written", "rejected", "deduplicated", "skipped"]
            .map(|name| summary[name].as_u64().unwrap());
        assert_eq!(
            counts[0],
            counts[1..].iter().sum::<u64>(),
            "{}",
            self.stderr
        );
        counts
    }
}

impl Place {
    /// An empty folder.
    pub fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    /// An empty folder where `rtp init` has run.
    pub fn ready() -> Self {
        let place = Place::new();
        let ran = place.rtp(&["init"], b"");
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Runs rtp with `--log-format json`.
    pub fn rtp(&self, args: &[&str], stdin: &[u8]) -> Ran {
        let mut child = self.start(args).child.take().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let stdin = stdin.to_vec();
        let writer = std::thread::spawn(move || pipe.write_all(&stdin).ok());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Ran {
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a script with `pipefail`, and `rtp` in the path.
    pub fn bash(&self, script: &str) -> Ran {
        let out = self.script(script).output().unwrap();
        Ran::of(out)
    }

    /// Starts such a script without waiting for it; its output is lost.
    pub fn spawn_bash(&self, script: &str) -> std::process::Child {
        self.script(script)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn script(&self, script: &str) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_rtp")).parent().unwrap();
        let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script])
            .current_dir(self.root())
            .env_clear()
            .env("PATH", path);
        bash
    }

    /// Kills every rtp in this place that runs this command.
    pub fn kill_9(&self, command: &str) {
        for process in std::fs::read_dir("/proc").unwrap() {
            let process = process.unwrap().path();
            let here = std::fs::read_link(process.join("cwd"))
                .is_ok_and(|cwd| cwd == self.root().canonicalize().unwrap());
            let args = std::fs::read(process.join("cmdline")).unwrap_or_default();
            let mut args = args.split(|b| *b == 0);
            let is_rtp = args.next().is_some_and(|program| program.ends_with(b"rtp"));
            if here && is_rtp && args.next() == Some(command.as_bytes()) {
                let pid = process.file_name().unwrap().to_str().unwrap();
                let killed = Command::new("kill").args(["-9", pid]).status();
                assert!(killed.unwrap().success());
            }
        }
    }

    /// Starts rtp with `--log-format json` and an open standard input.
    pub fn start(&self, args: &[&str]) -> Running {
        self.start_by(Command::new(env!("CARGO_BIN_EXE_rtp")), args)
    }

    /// The same, for a process that may have only so many open files.
    pub fn start_with_files(&self, files: u32, args: &[&str]) -> Running {
        let mut shell = Command::new("/bin/sh");
        let script = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_rtp")]);
        self.start_by(shell, args)
    }

    fn start_by(&self, mut rtp: Command, args: &[&str]) -> Running {
        let child = rtp
            .args(["--log-format", "json"])
            .args(args)
            .current_dir(self.root())
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Running {
            child: Some(child),
            said: Vec::new(),
        }
    }

    /// One column of one row of a query, as text.
    pub fn query(&self, file: &str, sql: &str) -> String {
        let db = rusqlite::Connection::open(self.path(file)).unwrap();
        db.query_row(sql, [], |row| {
            Ok(match row.get_ref(0)? {
                rusqlite::types::ValueRef::Null => "NULL".to_string(),
                rusqlite::types::ValueRef::Integer(n) => n.to_string(),
                rusqlite::types::ValueRef::Real(n) => n.to_string(),
                rusqlite::types::ValueRef::Text(t) | rusqlite::types::ValueRef::Blob(t) => {
                    String::from_utf8_lossy(t).into_owned()
                }
            })
        })
        .unwrap()
    }
}

/// Adds the Rust files below a folder.
pub fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => {}
        }
    }
}

/// Waits until a condition holds.
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(180);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A running `rtp mock-api`, which stops with the test.
pub struct Mock {
    pub child: std::process::Child,
    /// Where it listens, such as `http://127.0.0.1:40123`.
    pub url: String,
}

impl Mock {
    pub fn start(args: &[&str]) -> Mock {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rtp"))
            .args(["mock-api", "--port", "0", "--quiet"])
            .args(args)
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line.trim_end().to_string();
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        Mock { child, url }
    }

    /// The address of its users.
    pub fn users(&self) -> String {
        format!("{}/api/1.4/", self.url)
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A running command, which is killed if the test ends before it. Its standard input stays open until it ends.
pub struct Running {
    child: Option<Child>,
    /// What was read of its messages.
    said: Vec<u8>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Running {
    fn child(&mut self) -> &mut Child {
        self.child.as_mut().unwrap()
    }

    pub fn write(&mut self, input: &[u8]) {
        let pipe = self.child().stdin.as_mut().unwrap();
        if let Err(e) = pipe.write_all(input).and_then(|()| pipe.flush()) {
            let mut said = String::new();
            let mut stderr = self.child().stderr.take().unwrap();
            stderr.read_to_string(&mut said).unwrap();
            panic!("it reads no more: {e}; {said}");
        }
    }

    /// The next line of its standard output, without waiting for more.
    pub fn read_line(&mut self) -> String {
        let pipe = self.child().stdout.as_mut().unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            pipe.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    }

    /// Reads its messages until they contain these words.
    pub fn until(&mut self, words: &str) {
        let has_said = |said: &[u8]| String::from_utf8_lossy(said).contains(words);
        while !has_said(&self.said) {
            let mut line = Vec::new();
            let mut byte = [0];
            while byte != *b"\n" {
                let pipe = self.child().stderr.as_mut().unwrap();
                let read = pipe.read(&mut byte).unwrap();
                let said = String::from_utf8_lossy(&self.said);
                assert!(read > 0, "it ended without {words:?}: {said}");
                line.extend(byte);
            }
            self.said.extend(line);
        }
    }

    /// Closes its standard input.
    pub fn close_input(&mut self) {
        drop(self.child().stdin.take());
    }

    /// Sends a signal such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let kill = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(kill.unwrap().success());
    }

    /// How it ended; status -1 means a signal.
    pub fn end(mut self) -> Ran {
        let mut child = self.child.take().unwrap();
        let pipe = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(pipe);
        let stderr = [std::mem::take(&mut self.said), output.stderr].concat();
        Ran {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }
}

/// The folder where tools are kept, for a script that lacks the environment to find it.
pub fn tools() -> String {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/kept");
    let out = Command::new(kept).output().unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap().trim_end().into()
}

/// An event of the users dataset: number `n`, fetched `second` seconds after midnight.
pub fn user(n: u64, second: u64, email: &str) -> String {
    format!(
        r#"{{"id":"00000000-0000-4000-8000-{n:012}","first_name":"Zoë","post_code":12345,"email":"{email}","fetched_at":"2026-11-01T00:{:02}:{:02}Z"}}"#,
        second / 60,
        second % 60
    )
}

/// `count` events of the users dataset, one per line.
pub fn users(count: u64) -> String {
    (0..count)
        .map(|n| user(n, 0, "a@example.com") + "\n")
        .collect()
}

/// Records as `fetch --state` sends them through a pipe: pages of one record, each followed by its bookmark.
pub fn pages(pages: &[(&str, &str)]) -> String {
    let mut tally = rtp::intake::marks::Tally::default();
    let mut out = String::new();
    for (records, state) in pages {
        tally.add_lines(records.lines().count() as u64, records.as_bytes());
        out += records;
        out += &tally.page(state);
    }
    out
}

/// Locks `state.json` like a running command.
pub fn hold_state(place: &Place) -> std::fs::File {
    rtp::durable::hold(&place.path("state.json")).unwrap()
}

/// Records followed by the trailer of `fetch --trailer`.
pub fn complete(records: &str) -> String {
    let mut tally = rtp::intake::marks::Tally::default();
    tally.add_lines(records.lines().count() as u64, records.as_bytes());
    records.to_string() + &tally.end()
}

/// The users dataset without a history.
pub fn users_without_history() -> String {
    let lines = rtp::dataset::BUILT_IN.lines();
    let lines = lines.filter(|line| !line.starts_with("history"));
    lines.map(|line| format!("{line}\n")).collect()
}
