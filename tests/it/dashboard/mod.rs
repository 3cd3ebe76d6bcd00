//! `rtp dashboard` over a real socket.

mod letters;
mod live;
mod missing;
mod rows;
mod safety;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::common::{Place, Running, user};

/// A running dashboard, which is killed with the test.
pub(super) struct Dashboard {
    process: Running,
    pub(super) address: String,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answer {
    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let (_, value) = lines.find(|(there, _)| there.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// A problem, with the words of its detail and of what was expected.
    pub(super) fn is_problem(&self, status: u16, detail: &str, expected: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let problem = self.json();
        assert_eq!(problem["status"], status);
        let says = |name: &str, words: &str| {
            let text = problem[name].as_str().unwrap_or_default();
            assert!(text.contains(words), "{name}: {problem}");
        };
        says("detail", detail);
        says("expected", expected);
    }
}

impl Dashboard {
    pub(super) fn start(place: &Place, more: &[&str]) -> Dashboard {
        Self::of(place.start(&[&["dashboard", "--port", "0"], more].concat()))
    }

    /// One that has been started, with `--port 0`.
    pub(super) fn of(mut process: Running) -> Dashboard {
        let line = process.read_line();
        let address = line.trim_end().strip_prefix("http://").unwrap();
        Dashboard {
            address: address.into(),
            process,
        }
    }

    /// Sends a request as it is, and reads the answer until the connection is closed.
    pub(super) fn send(&self, request: &str) -> Answer {
        self.try_send(request).unwrap()
    }

    /// The same for a request that may cost the connection.
    pub(super) fn try_send(&self, request: &str) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Ok(Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.into(),
            body: body.into(),
        })
    }

    /// A request with these headers besides the host.
    pub(super) fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let host = &self.address;
        self.send(&format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"
        ))
    }

    pub(super) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    /// The state, once it is as it should be.
    pub(super) fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let state = self.get("/api/v1/state").json();
            if is_so(&state) {
                return state;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "never {what}: {state}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Stops it, and expects that it ends well.
    pub(super) fn stop(self) -> String {
        self.process.signal("TERM");
        let ran = self.process.end();
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.stderr
    }

    /// The server-sent events from now on.
    pub(super) fn events(&self) -> Events {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let host = &self.address;
        let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut events = Events(BufReader::new(stream));
        let head: Vec<String> = std::iter::repeat_with(|| events.line())
            .take_while(|line| !line.is_empty())
            .collect();
        assert!(head[0].contains(" 200 "), "{head:?}");
        assert!(
            head.iter()
                .any(|line| line.eq_ignore_ascii_case("content-type: text/event-stream")),
            "{head:?}"
        );
        events
    }
}

/// An event stream, in HTTP's chunks.
pub(super) struct Events(BufReader<TcpStream>);

impl Events {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().into()
    }

    /// Name, id and data of the next event.
    pub(super) fn next(&mut self) -> (String, u64, Value) {
        loop {
            let size = usize::from_str_radix(&self.line(), 16).unwrap();
            let mut frame = vec![0; size];
            self.0.read_exact(&mut frame).unwrap();
            assert_eq!(self.line(), "");
            let frame = String::from_utf8(frame).unwrap();
            let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
            if let Some(name) = field("event: ") {
                let data = serde_json::from_str(field("data: ").unwrap()).unwrap();
                return (name.into(), field("id: ").unwrap().parse().unwrap(), data);
            }
            assert!(frame.starts_with(':'), "{frame}");
        }
    }
}

/// Sends events through the log into the real-time store.
pub(super) fn stream(place: &Place, events: &str) {
    for (stage, input) in [
        (&["produce"][..], events.as_bytes()),
        (&["stream", "--until-end"], b""),
    ] {
        let ran = place.rtp(stage, input);
        assert!(ran.status < 2, "{}", ran.stderr);
    }
}

pub(super) fn load(place: &Place, events: &str) {
    let ran = place.rtp(&["load-batch"], events.as_bytes());
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

/// Users of these numbers, a line each.
pub(super) fn lines(numbers: std::ops::Range<u64>, second: u64, email: &str) -> String {
    numbers.map(|n| user(n, second, email) + "\n").collect()
}
