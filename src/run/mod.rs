//! What every command is handed: the run's id, its counts, the stop signal, and how to report.

pub mod clock;
mod counts;
pub mod exposition;
pub mod files;
pub mod metrics;
pub mod progress;
pub mod read_ahead;
pub mod rejected;
pub mod retry;
pub mod stdout;
pub mod streams;
pub mod task;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use self::counts::human_bytes;
pub use self::counts::{Counts, add, get};
use crate::error::Error;
use crate::exit::Exit;
use crate::run::metrics::Metrics;
use crate::run::progress::Progress;
use crate::run::rejected::Groups;
use crate::run::task::Panics;

/// Format of the messages on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line, for machines.
    Json,
}

/// A stop requested by a signal: SIGINT or SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// The status of work that a signal cut short.
    pub fn exit(self) -> Exit {
        match self {
            Signal::Interrupt => Exit::Interrupted,
            Signal::Terminate => Exit::Terminated,
        }
    }

    /// Its name, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
        }
    }
}

/// Tells a command to finish the work in hand and end.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Option<Signal>>);

impl Stop {
    /// The sender requests the stop; the receiver is cloned into whatever waits for it.
    pub fn channel() -> (watch::Sender<Option<Signal>>, Stop) {
        let (sender, receiver) = watch::channel(None);
        (sender, Stop(receiver))
    }

    /// The signal, if one has arrived.
    pub fn requested(&self) -> Option<Signal> {
        *self.0.borrow()
    }

    /// Resolves when a stop is requested; never, if none is.
    pub async fn wait(&self) -> Signal {
        let mut receiver = self.0.clone();
        loop {
            if let Some(signal) = *receiver.borrow_and_update() {
                return signal;
            }
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The context of one run of one command.
#[derive(Clone, Debug)]
pub struct Run {
    /// The command's name, as in the summary.
    pub command: &'static str,
    /// Identifies the run in logs, headers and the summary: `RTP_RUN_ID`, or a new UUID v7.
    pub id: Arc<str>,
    /// When it began, in milliseconds since 1970 UTC. Runs of the same day may have the same `id`.
    pub started_at: i64,
    /// What has been counted so far.
    pub counts: Arc<Counts>,
    /// What else Prometheus reads.
    pub metrics: Arc<Metrics>,
    /// The stop signal.
    pub stop: Stop,
    /// Format of the messages on stderr.
    pub log_format: LogFormat,
    /// Only warnings, errors and the summary; no progress.
    pub quiet: bool,
    /// The panics so far.
    pub panics: Arc<Panics>,
    progress: Progress,
    started: Instant,
}

impl Run {
    /// A run that starts now.
    pub fn new(
        command: &'static str,
        id: String,
        stop: Stop,
        log_format: LogFormat,
        quiet: bool,
    ) -> Self {
        Run {
            command,
            id: id.into(),
            started_at: jiff::Timestamp::now().as_millisecond(),
            counts: Arc::default(),
            metrics: Arc::default(),
            stop,
            log_format,
            quiet,
            panics: Arc::default(),
            progress: Progress::default(),
            started: Instant::now(),
        }
    }

    /// Tells the user something on stderr, unless `--quiet`.
    pub fn info(&self, message: impl AsRef<str>) {
        if !self.quiet {
            self.notice(message);
        }
    }

    /// Tells the user something on stderr that `--quiet` must not hide, because it cannot be known otherwise.
    pub fn notice(&self, message: impl AsRef<str>) {
        self.log("info", message.as_ref(), None);
    }

    /// Warns the user on stderr.
    pub fn warn(&self, message: impl AsRef<str>) {
        self.log("warn", message.as_ref(), None);
    }

    /// Reports the error that ends the run.
    pub fn error(&self, error: &Error) {
        self.log("error", &error.to_string(), error.hint_text());
    }

    /// Draws the counts on stderr until the summary, if that is a terminal and may be drawn on.
    pub fn start_progress(&mut self) {
        if !self.quiet && self.log_format == LogFormat::Text && std::io::stderr().is_terminal() {
            self.progress = Progress::start(self.command, self.counts.clone());
        }
    }

    fn log(&self, level: &str, message: &str, hint: Option<&str>) {
        let line = match self.log_format {
            LogFormat::Text => {
                let mut line = match level {
                    "info" => format!("rtp {}: {}", self.command, printable(message)),
                    _ => format!("rtp {}: {level}: {}", self.command, printable(message)),
                };
                if let Some(hint) = hint {
                    line.push_str(&format!("\n  hint: {}", printable(hint)));
                }
                line
            }
            LogFormat::Json => {
                let mut object = serde_json::json!({
                    "time": jiff::Timestamp::now().to_string(),
                    "level": level,
                    "command": self.command,
                    "run_id": &*self.id,
                    "message": message,
                });
                if let (Some(hint), Some(map)) = (hint, object.as_object_mut()) {
                    map.insert("hint".into(), hint.into());
                }
                printable_json(&object)
            }
        };
        self.progress.suspend(|| to_stderr(&line));
    }

    /// Prints what was rejected, and the summary: the last line on stderr.
    pub fn summary(&self, exit: Exit) {
        self.progress.clear();
        let groups = self.counts.rejected_groups();
        for line in groups.lines() {
            self.warn(line);
        }
        to_stderr(&match self.log_format {
            LogFormat::Text => self.summary_line(exit),
            LogFormat::Json => self.summary_object(&groups, exit).to_string(),
        });
        self.panics.hear_no_more();
    }

    fn summary_line(&self, exit: Exit) -> String {
        let c = &self.counts;
        let seconds = self.started.elapsed().as_secs_f64();
        if get(&c.read) == 0 {
            let (command, code) = (self.command, exit.code());
            return format!("rtp {command}: 0 records in {seconds:.2} s; exit {code}");
        }
        format!(
            "rtp {}: {} read, {} written, {} rejected, {} deduplicated, {} skipped; {} in {:.2} s; exit {}",
            self.command,
            get(&c.read),
            get(&c.written),
            get(&c.rejected),
            get(&c.deduplicated),
            get(&c.skipped),
            human_bytes(get(&c.bytes)),
            seconds,
            exit.code(),
        )
    }

    fn summary_object(&self, groups: &Groups, exit: Exit) -> serde_json::Value {
        let c = &self.counts;
        let seconds = self.started.elapsed().as_secs_f64();
        let mut summary = serde_json::json!({
            "command": self.command,
            "run_id": &*self.id,
            "read": get(&c.read),
            "written": get(&c.written),
            "rejected": get(&c.rejected),
            "deduplicated": get(&c.deduplicated),
            "skipped": get(&c.skipped),
            "bytes": get(&c.bytes),
            "retries": get(&c.retries),
            "seconds": (seconds * 1000.0).round() / 1000.0,
            "exit": exit.code(),
        });
        if !groups.is_empty() {
            summary["rejects"] = groups.json();
        }
        summary
    }
}

/// Writes one line to stderr. A closed stderr must not stop a writer from finishing its work, and
/// there is nobody left to tell, so the error ends here.
pub fn to_stderr(line: &str) {
    let mut bytes = Vec::with_capacity(line.len() + 1);
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    if std::io::stderr().lock().write_all(&bytes).is_err() {
        // See above.
    }
}

/// Escapes whatever could control a terminal, or begin a line that looks like one of rtp's own: the text may come from
/// a server.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            c if is_hostile(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// The same for JSON, which escapes only some of that on its own.
fn printable_json(object: &serde_json::Value) -> String {
    escape_json(&object.to_string())
}

/// JSON without line breaks between its tokens, and without a character that could control a terminal: those in its texts
/// are escaped, so that they read back as they were.
pub fn escape_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match is_hostile(c) {
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

/// C0, DEL and C1 but for the tab, the separators of lines and paragraphs, and the bidirectional controls.
fn is_hostile(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a store could say to look like rtp, or to take over the terminal.
    const HOSTILE: &str =
        "no\nrtp load-batch: 9 read\r\u{1b}[2J\u{9b}2J\u{202e}x\u{2028}y\u{7f}\u{61c}";

    #[test]
    fn hostile_characters_are_escaped() {
        assert_eq!(
            printable("a\u{1b}]0;x\u{7}\rb"),
            "a\\u{1b}]0;x\\u{7}\\u{d}b"
        );
        assert_eq!(printable("Zoë\u{202e}x\ty"), "Zoë\\u{202e}x\ty");
        let told = printable(HOSTILE);
        assert!(told.starts_with("no\\nrtp load-batch: 9 read"), "{told}");
        assert!(!told.contains(is_hostile), "{told}");
    }

    #[test]
    fn json_is_one_line_that_reads_back_as_it_was() {
        let line = printable_json(&serde_json::json!({"message": HOSTILE}));
        assert!(!line.contains(is_hostile), "{line}");
        let back: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(back["message"], HOSTILE);
    }
}
