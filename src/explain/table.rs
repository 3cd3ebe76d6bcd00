//! The answer for people: a first line that says it all, then a line for each thing that was found.

use super::model::{Explained, InLog, Letter, Part, Row, Version};
use crate::run::printable;

/// Width of the first column.
const LABEL: usize = 12;

/// How many partitions without the record are listed one by one.
const LISTED: usize = 8;

/// The answer, a line each. Whatever comes from a store or a file cannot control a terminal.
pub fn table(found: &Explained) -> String {
    let mut lines = Lines(printable(&found.outcome.text) + "\n");
    lines.rows(found);
    if let Some(log) = &found.log {
        lines.log(log);
    }
    lines.left_out("dead letter", "earlier ones", found.left_out.dead_letters);
    for letter in &found.dead_letters {
        lines.add("dead letter", &dead_letter(letter));
    }
    lines.left_out("landing", "more lines", found.left_out.landing);
    for landed in &found.landing {
        let mut text = format!("{} line {}", landed.file, landed.line);
        if let Some(time) = landed.event_time {
            text += &format!(", event time {time}");
        }
        if let Some(invalid) = &landed.invalid {
            text += &format!(", invalid: {invalid}");
        }
        lines.add("landing", &text);
    }
    for reject in &found.rejects {
        let input = reject.input.as_deref().filter(|input| *input != "-");
        let input = input.map_or(String::new(), |input| format!(" of {input}"));
        let line = reject.line;
        let line = line.map_or(String::new(), |n| format!("line {n}{input}, "));
        let field = reject
            .field
            .as_ref()
            .map(|field| format!("field {field}: "));
        let (file, rule, reason) = (&reject.file, &reject.rule, &reject.reason);
        let field = field.unwrap_or_default();
        lines.add(
            "reject",
            &format!("{line}in {file}: {field}{rule}: {reason}"),
        );
    }
    lines.left_out("reject", "more lines", found.left_out.rejects);
    lines.verdict(found);
    for trouble in &found.troubles {
        let (part, message) = (trouble.part.name(), &trouble.message);
        lines.add("not read", &format!("{part}: {message}"));
    }
    lines.0
}

struct Lines(String);

impl Lines {
    fn add(&mut self, label: &str, text: &str) {
        let line = format!("{label:<LABEL$}  {}", printable(text));
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }

    /// Says how many lines are missing, if some are.
    fn left_out(&mut self, label: &str, what: &str, count: u64) {
        if count > 0 {
            self.add(label, &format!("{count} {what}, which are not shown"));
        }
    }

    fn rows(&mut self, found: &Explained) {
        let sides = [
            ("real-time", &found.realtime, Part::Realtime),
            ("batch", &found.batch, Part::Batch),
        ];
        for (label, stored, part) in sides {
            match stored {
                Some(stored) => self.add(label, &row(stored)),
                None if found.lacks(part) => {}
                None => self.add(label, "no row"),
            }
        }
        for differs in &found.differences {
            let (realtime, batch) = (&differs.realtime, &differs.batch);
            let text = format!("{}: real-time {realtime}, batch {batch}", differs.column);
            self.add("differs", &text);
        }
        for day in &found.history {
            let time = day.event_time.map(|time| format!(", event time {time}"));
            let text = format!("as of {}{}", day.as_of, time.unwrap_or_default());
            self.add("history", &text);
        }
        for load in &found.loads {
            let (run, at, mode) = (&load.run_id, load.loaded_at, &load.mode);
            let text = format!(
                "possibly run {run}, committed {at}, mode {mode}: {}",
                load.evidence
            );
            self.add("load", &text);
        }
    }

    fn log(&mut self, log: &InLog) {
        let shown = log.versions.len() as u64;
        if shown < log.count {
            let text = format!(
                "{} versions, of which these are the last {shown}",
                log.count
            );
            self.add("log", &text);
        }
        for version in &log.versions {
            self.add("log", &format!("{} {}", log.topic, in_log(version)));
        }
        if log.count == 0 && log.partitions.len() > LISTED {
            let count = log.partitions.len();
            let text = format!("nothing in the {count} partitions of {}", log.topic);
            self.add("log", &text);
        } else if log.count == 0 {
            for partition in &log.partitions {
                let (number, oldest) = (partition.partition, partition.oldest);
                let range = match partition.end > oldest {
                    true => format!("from offset {oldest} to {}", partition.end - 1),
                    false => "which is empty".into(),
                };
                let text = format!("nothing in {} partition {number}, {range}", log.topic);
                self.add("log", &text);
            }
        }
    }

    fn verdict(&mut self, found: &Explained) {
        let Some(verdict) = &found.verdict else {
            return;
        };
        let said = match verdict.agrees {
            true => "the stores agree",
            false => "the stores do not agree",
        };
        let named = match verdict.classes.is_empty() {
            true => "does not name this key among its samples".into(),
            false => format!("names this key as {}", verdict.classes.join(", ")),
        };
        let with = match verdict.options.is_empty() {
            true => String::new(),
            false => format!(", compared with {}", verdict.options.join(" ")),
        };
        self.add(
            "verdict",
            &format!("{}: {said}{with}; it {named}", verdict.ended_at),
        );
    }
}

fn row(row: &Row) -> String {
    let mut text = format!("{} table {}", row.store, row.table);
    if row.rows > 1 {
        text += &format!(", {} rows of this key, the first one", row.rows);
    }
    if let Some(time) = row.event_time {
        text += &format!(", event time {time}");
    }
    if let Some(origin) = row.origin {
        text += &format!(", from {origin}");
    }
    if let Some([oldest, newest]) = row.write_timestamps {
        text += &match oldest == newest {
            true => format!(", write timestamp {newest}"),
            false => format!(", write timestamps {oldest} to {newest}"),
        };
    }
    if row.is_as_written == Some(false) {
        text += "; its values are not those that rtp wrote";
    }
    text
}

fn in_log(version: &Version) -> String {
    let mut text = format!("{}, produced {}", version.at, version.produced_at);
    if let Some(time) = version.event_time {
        text += &format!(", event time {time}");
    }
    if let Some(run) = &version.run_id {
        text += &format!(", run {run}");
    }
    text += match version.is_waiting {
        true => ", waiting",
        false => ", read",
    };
    if let Some(invalid) = &version.invalid {
        text += &format!(", invalid: {invalid}");
    }
    text
}

fn dead_letter(letter: &Letter) -> String {
    let origin = match (letter.origin, letter.line) {
        (Some(origin), _) => format!(", of {origin}"),
        (None, Some(line)) => format!(", of line {line} of an input"),
        (None, None) => String::new(),
    };
    let (topic, at, since, stage) = (&letter.topic, letter.at, letter.written_at, &letter.stage);
    format!(
        "{topic} {at}, since {since}, by {stage}{origin}: {}",
        letter.message
    )
}
