//! What the ports' conformance suites share: a suite is a list of cases, one for each guarantee in a
//! port's docs, which every adapter must keep. An adapter's tests hand a harness to each case.

pub mod aggregates;
pub mod batch_store;
pub mod event_log;
pub mod history;
pub mod ledger;
pub mod log_reader;
pub mod monitor;
mod pages;
pub mod realtime_store;
pub mod table_reader;

use std::fmt::{Debug, Display};
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;

use crate::dataset::{Dataset, FieldType};
use crate::error::{Kind, Result};
use crate::ports::ledger::LoadInfo;
use crate::ports::table_reader::{Foreign, StoredRow, TableReader, Visitor};
use crate::record::row::{Origin, RowMeta, Rows};
use crate::record::transform::Transform;
use crate::record::value::Value;

/// Nothing, or what was expected and what was found instead.
pub type Verdict = std::result::Result<(), String>;

/// A step's result, or what was expected and what was found instead.
type Checked<T> = std::result::Result<T, String>;

/// What some adapters cannot do, or some harnesses cannot arrange. A case that needs it does not apply to
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// The store keeps a group's offsets with its rows, in one transaction that nobody sees before its commit.
    Transactions,
    /// The store distinguishes a row that is not newer than the stored one from one that is written.
    ComparesVersions,
    /// The store sets the rows of a backlog aside and merges them.
    KeepsAside,
    /// The harness can make the store refuse a row.
    RefusesRows,
    /// The harness can make the store fail in the middle of a batch.
    FailsInTheMiddle,
    /// The log removes old probes at once, not by its retention.
    RemovesOldProbes,
    /// The log marks its positions with the event before them.
    MarksPositions,
    /// The log never leaves a gap between events, and the harness can make one.
    LeavesNoGaps,
    /// A column of the store can hold values that do not fit its type.
    HoldsForeignValues,
}

/// What every harness says about its adapter.
pub trait Abilities {
    /// What it cannot do.
    fn lacks(&self) -> &[Ability] {
        &[]
    }
}

/// The outcome of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guarantee is kept.
    Kept,
    /// It is not: what was expected, and what was found instead.
    Broken(String),
    /// The adapter does not have this ability.
    NotApplicable(Ability),
}

/// The future of a case.
type Running<'h> = Pin<Box<dyn Future<Output = Verdict> + 'h>>;

/// One guarantee of a port, and the check that a harness `H` keeps it.
pub struct Case<H: ?Sized + 'static> {
    /// The guarantee.
    pub name: &'static str,
    /// What an adapter must be able to do for the case to apply.
    pub needs: &'static [Ability],
    /// The check.
    pub run: for<'h> fn(&'h H) -> Running<'h>,
}

impl<H: ?Sized> Debug for Case<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl<H: Abilities + ?Sized> Case<H> {
    /// Runs the case, if it applies.
    pub async fn check(&self, harness: &H) -> Outcome {
        if let Some(lacking) = self.needs.iter().find(|a| harness.lacks().contains(a)) {
            return Outcome::NotApplicable(*lacking);
        }
        match (self.run)(harness).await {
            Ok(()) => Outcome::Kept,
            Err(what) => Outcome::Broken(what),
        }
    }
}

/// Lists the cases of a suite: functions of this file, each with the abilities it needs.
macro_rules! cases {
    ($harness:ty; $($name:ident $(needs $($ability:ident)+)?,)+) => {
        /// Every case of the suite.
        pub const CASES: &[$crate::ports::conformance::Case<$harness>] = &[$($crate::ports::conformance::Case {
            name: stringify!($name),
            needs: &[$($($crate::ports::conformance::Ability::$ability),+)?],
            run: |harness| Box::pin($name(harness)),
        }),+];
    };
}
pub(crate) use cases;

/// A name that nobody else uses, for a topic, table or group.
pub(crate) fn fresh(what: &str) -> String {
    format!("{what}_{:016x}", rand::random::<u64>())
}

/// A load of which nothing is known but its run.
pub fn load_of(run_id: &str) -> LoadInfo {
    LoadInfo {
        run_id: run_id.into(),
        ..LoadInfo::default()
    }
}

/// The value of a result that must be `Ok`.
pub(crate) fn fine<T>(doing: &str, result: Result<T>) -> std::result::Result<T, String> {
    result.map_err(|e| format!("{doing} fails: {e}"))
}

/// What must be equal.
pub(crate) fn equal<T: PartialEq + Debug>(what: impl Display, got: T, expected: T) -> Verdict {
    match got == expected {
        true => Ok(()),
        false => Err(format!("{what}: expected {expected:?}, got {got:?}")),
    }
}

/// What must hold.
pub(crate) fn holds(what: impl Display, is: bool) -> Verdict {
    match is {
        true => Ok(()),
        false => Err(format!("expected that {what}")),
    }
}

/// A dataset with tables and a topic of its own, and a field of each type; `key` is one of them.
pub(crate) fn dataset(key: &str) -> std::result::Result<Dataset, String> {
    let table = fresh("conformance");
    let mut text = format!(
        "name = \"conformance\"\n\
         [source]\nurl = \"http://localhost/\"\nrecords = \"\"\n\
         [source.pagination]\nstyle = \"none\"\n\
         [event]\ntopic = \"{table}\"\nkey = \"{key}\"\ntime = \"at\"\n\
         [realtime]\nkeyspace = \"rtp_conformance\"\ntable = \"{table}\"\n\
         [batch]\ntable = \"{table}\"\n"
    );
    let fields = [
        ("id", "bigint"),
        ("title", "text"),
        ("code", "uuid"),
        ("small", "int"),
        ("ratio", "double"),
        ("price", "decimal"),
        ("good", "boolean"),
        ("seen", "timestamp"),
        ("day", "date"),
        ("at", "timestamp"),
    ];
    for (name, kind) in fields {
        let required = [key, "at"].contains(&name);
        text.push_str(&format!(
            "[[field]]\nname = \"{name}\"\ntype = \"{kind}\"\nfrom = \"/{name}\"\nrequired = {required}\n"
        ));
    }
    fine("the suite's dataset", Dataset::parse(&text, "conformance"))
}

/// Datasets whose rows the tables of this one cannot take, each with a word of the difference.
pub(crate) fn misfits(dataset: &Dataset) -> [(Dataset, &'static str); 4] {
    let changed = |change: &dyn Fn(&mut Dataset)| {
        let mut dataset = dataset.clone();
        change(&mut dataset);
        sort_columns(&mut dataset);
        dataset
    };
    let at = |name: &str| dataset.field_index(name).unwrap_or_default();
    let (title, small, seen) = (at("title"), at("small"), at("seen"));
    [
        (
            changed(&|d| {
                let mut more = d.fields[title].clone();
                more.name = "subtitle".into();
                d.fields.push(more);
            }),
            "subtitle",
        ),
        (
            changed(&|d| d.fields[small].kind = FieldType::Text),
            "small",
        ),
        // In a store without types of its own for times, both are whole numbers.
        (changed(&|d| d.fields[seen].kind = FieldType::Date), "seen"),
        (
            changed(&|d| {
                d.event.key = small;
            }),
            "small",
        ),
    ]
}

/// The dataset without its field `title`, which is not required.
pub(crate) fn smaller(dataset: &Dataset) -> Dataset {
    let mut dataset = dataset.clone();
    if let Some(title) = dataset.field_index("title") {
        dataset.fields.remove(title);
        for index in [&mut dataset.event.key, &mut dataset.event.time] {
            *index -= usize::from(*index > title);
        }
        sort_columns(&mut dataset);
    }
    dataset
}

fn sort_columns(dataset: &mut Dataset) {
    let fields = &dataset.fields;
    dataset.digest_order = (0..fields.len()).collect();
    dataset
        .digest_order
        .sort_by(|a, b| fields[*a].name.cmp(&fields[*b].name));
}

/// What creating and opening a table that does not fit must answer: the same message twice, which names the difference.
pub(crate) fn is_told(created: Result<()>, opened: Result<()>, word: &str) -> Verdict {
    let told = |doing: &str, result: Result<()>| match result {
        Ok(()) => Err(format!("{doing} a table without a fitting {word} succeeds")),
        Err(e) => {
            equal(format_args!("kind of {e}"), e.kind(), Kind::Invalid)?;
            holds(
                format_args!("`{e}` names {word}"),
                e.to_string().contains(word),
            )?;
            Ok(e.to_string())
        }
    };
    let created = told("creating", created)?;
    equal("the message of opening", told("opening", opened)?, created)
}

/// An event with key `id` at `second` that has no other field but a title.
pub(crate) fn event(id: i64, second: u8, title: &str) -> String {
    format!(r#"{{"id":{id},"title":"{title}","at":"2026-01-01T00:00:{second:02}Z"}}"#)
}

/// The events' rows, from partition 0 at their index.
pub(crate) fn rows(dataset: &Dataset, events: &[String]) -> std::result::Result<Rows, String> {
    let mut rows = Rows::new(dataset.fields.len());
    let mut transform = Transform::new(dataset, crate::time::now_ms());
    for (offset, event) in (0..).zip(events) {
        let origin = Origin {
            partition: 0,
            offset,
        };
        transform
            .event(event.as_bytes(), origin, &mut rows)
            .map_err(|reject| format!("{event}: {}", reject.describe(dataset)))?;
    }
    Ok(rows)
}

/// The values of a row, in the dataset's order of fields.
pub type Stored = Vec<Value<'static>>;

/// The values of a row, with texts of their own.
pub fn stored<'a>(values: impl Iterator<Item = Value<'a>>) -> Stored {
    values.map(|value| value.owned()).collect()
}

/// All rows of a table, and their values that do not fit their columns.
#[derive(Default)]
struct Collector {
    rows: Vec<Stored>,
    foreign: Vec<Foreign>,
}

impl Visitor for Collector {
    fn wants(&mut self, _: &Value<'_>) -> bool {
        true
    }

    fn row(&mut self, row: StoredRow<'_>) -> ControlFlow<()> {
        self.rows.push(stored(row.values.iter().cloned()));
        self.foreign.extend_from_slice(row.foreign);
        ControlFlow::Continue(())
    }
}

/// Compares a table's rows, in any order, with those that the events should produce.
pub(crate) async fn holds_rows(
    what: impl Display,
    dataset: &Dataset,
    mut table: Box<dyn TableReader>,
    events: &[String],
) -> Verdict {
    let mut collector = Collector::default();
    fine("reading the table", table.scan(&mut collector).await)?;
    equal(
        format_args!("foreign values {what}"),
        collector.foreign,
        Vec::new(),
    )?;
    let mut extra = collector.rows;
    let expected = rows(dataset, events)?;
    let mut missing: Vec<Stored> = (0..expected.len())
        .map(|i| stored(expected.values(i)))
        .collect();
    missing.retain(|row| match extra.iter().position(|r| r == row) {
        Some(i) => {
            extra.swap_remove(i);
            false
        }
        None => true,
    });
    match missing.is_empty() && extra.is_empty() {
        true => Ok(()),
        false => Err(format!("rows {what}: missing {missing:?}, extra {extra:?}")),
    }
}

/// Of two events with the same key and time, the one whose row is the newest in the order of versions, then the
/// other.
pub(crate) fn newer_first(
    dataset: &Dataset,
    pair: [String; 2],
) -> std::result::Result<[String; 2], String> {
    let version = |rows: &Rows, i: usize| RowMeta::version(rows.meta(i));
    let is_first_newer = {
        let rows = rows(dataset, &pair)?;
        version(&rows, 0) > version(&rows, 1)
    };
    let [a, b] = pair;
    Ok(if is_first_newer { [a, b] } else { [b, a] })
}

/// Events whose values are the hardest of each type.
pub(crate) fn hard_events() -> Vec<String> {
    [
        // The ends of every type.
        r#"{"id":9223372036854775807,"title":"","code":"ffffffff-ffff-ffff-ffff-ffffffffffff","small":2147483647,"ratio":1.7976931348623157e308,"price":12345678901234567890123456789.123456789,"good":true,"seen":"9999-12-31T23:59:59.999Z","day":"9999-12-31","at":"2026-01-01T00:00:00.001Z"}"#,
        r#"{"id":-9223372036854775808,"title":" a ","code":"00000000-0000-0000-0000-000000000000","small":-2147483648,"ratio":5e-324,"price":-0.000000000000000001,"good":false,"seen":"0001-01-01T00:00:00Z","day":"0001-01-01","at":"2026-01-01T00:00:00.999Z"}"#,
        // Beyond what a double holds, one millisecond before 1970, text that is easily mangled.
        r#"{"id":9007199254740993,"title":"Zoë 👩‍🍳 \"'\\\n\t e\u0301 \uFEFF","code":"6f2e5b1c-0a3d-4a7e-9b1e-2f3c4d5e6f70","small":0,"ratio":0.1,"price":10,"good":true,"seen":"1969-12-31T23:59:59.999Z","day":"1969-12-31","at":"2026-01-01T00:00:00Z"}"#,
        // Only what is required.
        r#"{"id":0,"at":"2026-01-01T00:00:00Z"}"#,
    ]
    .map(String::from)
    .to_vec()
}

/// Keys of each type that are easily confused, as they are written in JSON.
pub(crate) const HARD_KEYS: [(&str, [&str; 4]); 4] = [
    ("title", [r#""a""#, r#""A""#, r#""a ""#, r#""ä""#]),
    ("id", ["9007199254740992", "9007199254740993", "-1", "1"]),
    ("small", ["-1", "0", "1", "2147483647"]),
    (
        "code",
        [
            r#""00000000-0000-4000-8000-000000000001""#,
            r#""00000000-0000-4000-8000-000000000010""#,
            r#""00000000-0000-4000-8000-0000000000ff""#,
            r#""ff000000-0000-4000-8000-000000000001""#,
        ],
    ),
];

/// An event for each hard key of one type.
pub(crate) fn keyed_events(key: &str, values: &[&str], second: u8) -> Vec<String> {
    values
        .iter()
        .map(|value| format!(r#"{{"{key}":{value},"at":"2026-01-01T00:00:{second:02}Z"}}"#))
        .collect()
}
