//! `produce`, `stream` and `load-batch` against bare loops that write the same rows into the same
//! tables, and loads with a history against those without, as whole processes in turns. docs/benchmarks.md explains how to run and read it.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod harness;

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use harness::{Options, Usage, bare, compare, kept, measure, rtp, stores};
use rtp::dataset::Dataset;
use rtp::intake::input::Input;
use rtp::ports::event_log::partition_of;
use rtp::record::row::{Origin, Rows};
use rtp::record::transform::{Transform, write_key};
use rtp::record::value::Value;
use rtp::servers::sqlite::{self, Missing, OnConflict};
use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, ValueRef};

/// Page cache of the bare upserts, same as the real-time store's.
const CACHE_KIB: u32 = 32_768;

/// Rows per transaction of the bare upserts, as in a micro-batch of `stream`.
const BATCH: usize = 10_000;

/// Bytes of lines per transaction of the bare appends, as in a chunk of `produce`.
const CHUNK: usize = 1 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--bare") => run_bare(&args[1..]),
        _ => match Options::read(args.into_iter()) {
            Ok(options) if options.scaling => scaling(&options),
            Ok(options) => ratios(&options),
            Err(usage) => {
                eprintln!("{usage}");
                return ExitCode::from(2);
            }
        },
    }
    ExitCode::SUCCESS
}

/// A stage: its name, one run of ours, and one of the bare loop, over the given number of events.
type Stage = (&'static str, fn(u64) -> Usage, fn(u64) -> Usage);

const STAGES: [Stage; 5] = [
    ("produce", produce, bare_produce),
    ("stream", stream, bare_stream),
    ("load-batch", load_batch, bare_load_batch),
    // What a history costs: not against a bare loop, but against the same load without one.
    ("history", load_with_history, load_batch),
    ("history-next-day", next_day_with_history, next_day),
];

fn ratios(options: &Options) {
    harness::print_header();
    for (name, ours, bare) in STAGES.iter().filter(|s| options.includes(s.0)) {
        compare(
            name,
            options,
            || ours(options.events),
            || bare(options.events),
        );
    }
}

fn scaling(options: &Options) {
    harness::print_header();
    for (name, ours, _) in STAGES.iter().filter(|s| options.includes(s.0)) {
        for events in [100_000, 1_000_000, 3_000_000] {
            let runs: Vec<Usage> = (0..options.pairs.max(1)).map(|_| ours(events)).collect();
            harness::print_usage(name, events, &runs);
        }
    }
}

fn produce(events: u64) -> Usage {
    let place = stores();
    let file = harness::events(events);
    measure(rtp(place.path()).arg("produce").arg(file))
}

fn stream(events: u64) -> Usage {
    let place = stores();
    let log = format!("sqlite:{}/.rtp/log.db", filled_log(events).display());
    let group = uuid::Uuid::now_v7().to_string();
    let args = [
        "stream",
        "--until-end",
        "--event-log",
        &log,
        "--group",
        &group,
    ];
    measure(rtp(place.path()).args(args))
}

/// Without a history: the bare loop writes one table, so this must, too.
fn load_batch(events: u64) -> Usage {
    load(stores().path(), &harness::events(events), false)
}

fn load_with_history(events: u64) -> Usage {
    load(stores().path(), &harness::events(events), true)
}

fn next_day(events: u64) -> Usage {
    load_two_days(events, false)
}

fn next_day_with_history(events: u64) -> Usage {
    load_two_days(events, true)
}

/// Loads all keys, and measures the load of the same keys on the next day.
fn load_two_days(events: u64, keeps_history: bool) -> Usage {
    let place = stores();
    let first = harness::events(events);
    load(place.path(), &first, keeps_history);
    let second = kept(&format!("next-day-{events}"), |path| {
        let text = std::fs::read_to_string(&first).unwrap();
        std::fs::write(path, text.replace("\"2026-11-01T", "\"2026-11-02T")).unwrap();
    });
    load(place.path(), &second, keeps_history)
}

fn load(place: &Path, file: &Path, keeps_history: bool) -> Usage {
    let keeps = format!("\nhistory = {keeps_history}");
    let dataset = rtp::dataset::BUILT_IN.replace("\nhistory = true", &keeps);
    std::fs::write(place.join("users.toml"), dataset).unwrap();
    let load = ["load-batch", "--dataset", "users.toml"];
    measure(rtp(place).args(load).arg(file))
}

fn bare_produce(events: u64) -> Usage {
    let place = stores();
    let file = harness::events(events);
    measure(&mut bare(
        place.path(),
        &["produce", &file.display().to_string()],
    ))
}

fn bare_stream(events: u64) -> Usage {
    let place = stores();
    let rows = parsed_rows(events).display().to_string();
    measure(&mut bare(place.path(), &["stream", &rows]))
}

fn bare_load_batch(events: u64) -> Usage {
    let place = stores();
    let rows = parsed_rows(events).display().to_string();
    measure(&mut bare(place.path(), &["load-batch", &rows]))
}

/// A folder whose log has this many events; each run of `stream` reads it as a separate group.
fn filled_log(events: u64) -> PathBuf {
    kept(&format!("log-{events}"), |folder| {
        std::fs::create_dir_all(folder).unwrap();
        measure(rtp(folder).arg("init"));
        measure(rtp(folder).arg("produce").arg(harness::events(events)));
    })
}

/// The rows of the events, parsed beforehand, so that the bare loops read them at almost no cost. Each
/// row is its length, then its parameters in the order of the upsert's, each as a tag and the value.
fn parsed_rows(events: u64) -> PathBuf {
    kept(&format!("rows-{events}"), |path| {
        let dataset = Dataset::load(None).unwrap();
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
        let mut input = Input::new(&[harness::events(events)], None);
        let mut transform = Transform::new(&dataset, rtp::time::now_ms());
        while let Some(chunk) = input.next_chunk().unwrap() {
            let mut rows = Rows::new(dataset.fields.len());
            for line in chunk.lines() {
                let origin = Origin {
                    partition: 0,
                    offset: i64::try_from(line.number).unwrap(),
                };
                transform.event(line.bytes, origin, &mut rows).unwrap();
            }
            for i in 0..rows.len() {
                let values: Vec<Value<'_>> = rows.values(i).collect();
                let row = encode(&values, rows.meta(i), dataset.event.key);
                out.write_all(&u32::try_from(row.len()).unwrap().to_le_bytes())
                    .unwrap();
                out.write_all(&row).unwrap();
            }
        }
        out.flush().unwrap();
    })
}

fn encode(values: &[Value<'_>], meta: &rtp::record::row::RowMeta, key: usize) -> Vec<u8> {
    let mut row = Vec::new();
    let mut sized = |tag: u8, bytes: &[u8]| {
        row.push(tag);
        row.extend_from_slice(&u16::try_from(bytes.len()).unwrap().to_le_bytes());
        row.extend_from_slice(bytes);
    };
    for value in values {
        match value {
            Value::Null => sized(b'n', b""),
            Value::Text(text) => sized(b't', text.as_bytes()),
            Value::Uuid(uuid) => sized(b'b', uuid.as_bytes()),
            Value::Timestamp(n) => sized(b'i', &n.to_le_bytes()),
            other => panic!("the users dataset has no {other:?}"),
        }
    }
    let mut text = Vec::new();
    write_key(&values[key], &mut text);
    let partition = i64::from(partition_of(Some(&text), 3));
    sized(b'b', &meta.digest.0);
    sized(b'i', &partition.to_le_bytes());
    sized(b'i', &meta.origin.offset.to_le_bytes());
    row
}

/// Takes one parameter off the front of an encoded row.
fn decode<'a>(row: &mut &'a [u8]) -> ValueRef<'a> {
    let length = usize::from(u16::from_le_bytes([row[1], row[2]]));
    let (tag, bytes) = (row[0], &row[3..3 + length]);
    *row = &row[3 + length..];
    match tag {
        b'n' => ValueRef::Null,
        b't' => ValueRef::Text(bytes),
        b'b' => ValueRef::Blob(bytes),
        _ => ValueRef::Integer(i64::from_le_bytes(bytes.try_into().unwrap())),
    }
}

fn run_bare(args: &[String]) {
    let dataset = Dataset::load(None).unwrap();
    let file = Path::new(&args[1]);
    match args[0].as_str() {
        "produce" => append(file),
        "stream" => {
            let own = ["rtp_digest", "rtp_partition", "rtp_offset"];
            upsert(
                file,
                &dataset,
                ".rtp/realtime.db",
                &dataset.realtime.table,
                &own,
            );
        }
        _ => upsert(
            file,
            &dataset,
            ".rtp/batch.db",
            &dataset.batch.table,
            &["rtp_digest"],
        ),
    }
}

/// Appends each line to its partition, with its key, the time and a header, as `produce` does.
fn append(file: &Path) {
    let db = sqlite::open(Path::new(".rtp/log.db"), Missing::Refuse, 4_096).unwrap();
    let mut inserts: Vec<_> = (0..3)
        .map(|p| {
            let sql = format!("INSERT INTO events_1_{p} VALUES (?1, ?2, ?3, ?4, ?5)");
            db.prepare(&sql).unwrap()
        })
        .collect();
    let mut headers = rtp::record::event::Headers::default();
    headers.push("rtp.run_id", uuid::Uuid::now_v7().to_string().as_bytes());
    let mut next = [0_i64; 3];
    let mut file = File::open(file).unwrap();
    let mut buffer = vec![0; 2 * CHUNK];
    let mut filled = 0;
    loop {
        let read = file.read(&mut buffer[filled..filled + CHUNK]).unwrap();
        if read == 0 {
            break;
        }
        filled += read;
        let now = rtp::time::now_ms();
        db.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'\n', &buffer[start..filled]) {
            let line = &buffer[start..start + length];
            let key = &line[7..43]; // {"id":"
            let p = usize::try_from(partition_of(Some(key), 3)).unwrap();
            inserts[p]
                .execute((next[p], now, key, line, headers.bytes()))
                .unwrap();
            next[p] += 1;
            start += length + 1;
        }
        for (p, next) in next.iter().enumerate() {
            db.prepare_cached(
                "UPDATE partitions SET next_offset = ?2 WHERE topic = 1 AND partition = ?1",
            )
            .unwrap()
            .execute((p, next))
            .unwrap();
        }
        db.execute_batch("COMMIT").unwrap();
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
}

/// Upserts the rows in batches, each sorted by key.
fn upsert(file: &Path, dataset: &Dataset, store: &str, table: &str, own: &[&str]) {
    let table = rtp::servers::sqlite::ddl::rows_of(table);
    let db: Connection = sqlite::open(Path::new(store), Missing::Refuse, CACHE_KIB).unwrap();
    let sql = sqlite::upsert(dataset, &table, own, OnConflict::KeepNewest);
    let mut statement = db.prepare(&sql).unwrap();
    let parameters = statement.parameter_count();
    let mut rows = BufReader::with_capacity(1 << 20, File::open(file).unwrap());
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let mut starts = Vec::with_capacity(BATCH);
        while starts.len() < BATCH {
            let mut length = [0; 4];
            if rows.read_exact(&mut length).is_err() {
                break;
            }
            let start = bytes.len();
            bytes.resize(start + u32::from_le_bytes(length) as usize, 0);
            rows.read_exact(&mut bytes[start..]).unwrap();
            starts.push(start);
        }
        if starts.is_empty() {
            return;
        }
        starts.sort_unstable_by_key(|start| &bytes[start + 3..start + 19]); // the key is the first column
        db.execute_batch("BEGIN IMMEDIATE").unwrap();
        for start in starts {
            let mut row = &bytes[start..];
            for parameter in 1..=parameters {
                statement
                    .raw_bind_parameter(parameter, ToSqlOutput::Borrowed(decode(&mut row)))
                    .unwrap();
            }
            statement.raw_execute().unwrap();
        }
        db.execute_batch("COMMIT").unwrap();
    }
}
