//! What fills the panels that are empty: commands to copy, for the dataset and the servers of this dashboard.

use serde_json::{Value, json};

use super::{Seen, Sources};

/// The options that a command needs to mean the same dataset and servers as this dashboard; empty where the command
/// finds them by itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    dataset: String,
    event_log: String,
    realtime_store: String,
    batch_store: String,
}

impl Options {
    /// The values of the options `--dataset`, `--event-log`, `--realtime-store` and `--batch-store`; none where it is
    /// the default.
    pub(crate) fn new(
        [dataset, event_log, realtime_store, batch_store]: [Option<String>; 4],
    ) -> Options {
        let option = |name: &str, value: Option<String>| match value {
            None => String::new(),
            Some(value) => format!(" {name} {}", quoted(&value)),
        };
        Options {
            dataset: option("--dataset", dataset),
            event_log: option("--event-log", event_log),
            realtime_store: option("--realtime-store", realtime_store),
            batch_store: option("--batch-store", batch_store),
        }
    }
}

/// A word as a shell takes it, also zsh, which looks for files by [ and for a program by = at the beginning.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@%+".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// A step: whether it is needed, its panel, its command, and why.
type Step = (bool, &'static str, String, &'static str);

/// The next steps, in the order in which they make sense.
pub(super) fn next(sources: &Sources, seen: &Seen) -> Value {
    let steps = first_steps(sources, seen)
        .into_iter()
        .chain(later_steps(sources, seen));
    let shown = steps.filter(|(is_needed, ..)| *is_needed);
    shown
        .map(|(_, panel, command, why)| json!({"panel": panel, "command": command, "why": why}))
        .collect()
}

/// What makes topics and tables where there are none.
fn first_steps(sources: &Sources, seen: &Seen) -> Vec<Step> {
    let o = &sources.options;
    let init = format!(
        "rtp init{}{}{}{}",
        o.dataset, o.event_log, o.realtime_store, o.batch_store
    );
    let log = seen.log.needs_init();
    let stores = seen.realtime.needs_init() || seen.batch.needs_init();
    [
        (
            log,
            "ingestion",
            "the event log has no topic for these records yet",
        ),
        (
            log,
            "event_time",
            "the event log has no topic for these records yet",
        ),
        (
            stores,
            "layers",
            "a store has no tables for these records yet",
        ),
        (
            seen.batch.needs_init(),
            "profiles",
            "the batch store has no tables for these records yet",
        ),
    ]
    .map(|(is_needed, panel, why)| (is_needed, panel, init.clone(), why))
    .into()
}

fn later_steps(sources: &Sources, seen: &Seen) -> Vec<Step> {
    let (log, batch) = (seen.log.seen.as_ref(), seen.batch.seen.as_ref());
    let no_events = seen.log.needs_init() || log.is_some_and(|log| log.produced == 0);
    let only_letters = log.is_some_and(|log| log.produced == 0 && log.dead_letters > 0);
    let why_no_events = match only_letters {
        true => "no event was accepted yet: each record is in the dead letters, with its reason",
        false => "no event has arrived yet",
    };
    let no_stream = log.is_some_and(|log| log.produced > 0 && !log.has_committed);
    let no_load = seen.batch.needs_init() || batch.is_some_and(|batch| batch.loads.is_empty());
    let no_verdict = batch.is_some_and(|batch| batch.verdicts.is_empty());
    let no_figures = batch.is_some_and(|batch| batch.profiles.is_none())
        && !sources.dataset.aggregates.is_empty();
    let o = &sources.options;
    let group = match sources.group.as_str() {
        "rtp" => String::new(),
        other => format!(" --group {}", quoted(other)),
    };
    let fetch = format!("rtp fetch{} --count 1000", o.dataset);
    let produce = format!("{fetch} | rtp produce{}{}", o.dataset, o.event_log);
    let stream = format!(
        "rtp stream{}{}{} --until-end{group}",
        o.dataset, o.event_log, o.realtime_store
    );
    let load = format!("{fetch} | rtp load-batch{}{}", o.dataset, o.batch_store);
    let verify = format!(
        "rtp verify{}{}{}{}{group}",
        o.dataset, o.event_log, o.realtime_store, o.batch_store
    );
    let aggregate = format!("rtp aggregate{}{} --date today", o.dataset, o.batch_store);
    vec![
        (no_events, "ingestion", produce.clone(), why_no_events),
        (no_events, "event_time", produce, why_no_events),
        (
            no_stream,
            "ingestion",
            stream,
            "no stream has read the events yet",
        ),
        (
            no_load,
            "layers",
            load,
            "nothing was loaded into the batch store yet",
        ),
        (
            no_verdict,
            "layers",
            verify,
            "the layers were never compared",
        ),
        (
            no_figures,
            "profiles",
            aggregate,
            "no figures were computed yet",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_only_those_that_are_needed_and_a_shell_takes_them() {
        let options = Options::new([
            Some("my data/it's.toml".into()),
            Some("kafka://a:9092,b:9092".into()),
            None,
            Some("postgres://me@h:5432/db?x=1&y".into()),
        ]);
        assert_eq!(options.dataset, r" --dataset 'my data/it'\''s.toml'");
        assert_eq!(options.event_log, " --event-log kafka://a:9092,b:9092");
        assert_eq!(options.realtime_store, "");
        assert_eq!(
            options.batch_store,
            " --batch-store 'postgres://me@h:5432/db?x=1&y'"
        );
        for (word, expected) in [
            ("", "''"),
            ("kafka://[::1]:9092", "'kafka://[::1]:9092'"),
            ("=ls", "'=ls'"),
            ("a-b_c.d/e:1,f@g%h+", "a-b_c.d/e:1,f@g%h+"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }
}
