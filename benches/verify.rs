//! `verify` of equal stores against two bare scans that read every column of every row, both as whole
//! processes in turns. docs/benchmarks.md explains how to run and read it.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod harness;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use harness::{Options, Usage, bare, compare, kept, measure, rtp};
use rtp::dataset::Dataset;
use rtp::dataset::ddl::quoted;
use rtp::servers::sqlite::ddl::rows_of;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--bare") => scan_both(),
        _ => match Options::read(args.into_iter()) {
            Ok(options) if options.scaling => scaling(&options),
            Ok(options) => {
                harness::print_header();
                let folder = filled_stores(options.events);
                let ours = || measure(rtp(&folder).arg("verify"));
                compare("verify", &options, ours, || {
                    measure(&mut bare(&folder, &[]))
                });
            }
            Err(usage) => {
                eprintln!("{usage}");
                return ExitCode::from(2);
            }
        },
    }
    ExitCode::SUCCESS
}

fn scaling(options: &Options) {
    harness::print_header();
    for events in [100_000, 1_000_000, 3_000_000] {
        let folder = filled_stores(events);
        let runs: Vec<Usage> = (0..options.pairs.max(1))
            .map(|_| measure(rtp(&folder).arg("verify")))
            .collect();
        harness::print_usage("verify", events, &runs);
    }
}

/// A folder whose stores have this many rows each.
fn filled_stores(events: u64) -> PathBuf {
    kept(&format!("stores-{events}"), |folder| {
        std::fs::create_dir_all(folder).unwrap();
        measure(rtp(folder).arg("init"));
        let file = harness::events(events);
        measure(rtp(folder).arg("produce").arg(&file));
        measure(rtp(folder).args(["stream", "--until-end"]));
        measure(rtp(folder).arg("load-batch").arg(&file));
        std::fs::remove_file(folder.join(".rtp/log.db")).unwrap(); // as large as both, and not read
    })
}

/// The bare scans: both tables at the same time, every column read, its bytes counted.
fn scan_both() {
    let dataset = Dataset::load(None).unwrap();
    let bytes = std::thread::scope(|scope| {
        let tables = [
            (".rtp/realtime.db", &dataset.realtime.table),
            (".rtp/batch.db", &dataset.batch.table),
        ];
        tables
            .map(|(file, table)| scope.spawn(|| scan(Path::new(file), &dataset, table)))
            .map(|thread| thread.join().unwrap())
    });
    println!("{bytes:?}");
}

fn scan(file: &Path, dataset: &Dataset, table: &str) -> u64 {
    let db = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .unwrap();
    db.execute_batch("PRAGMA cache_size = -4096").unwrap();
    let columns: Vec<String> = dataset.fields.iter().map(|f| quoted(&f.name)).collect();
    let sql = format!(
        "SELECT {} FROM {}",
        columns.join(", "),
        quoted(&rows_of(table))
    );
    let mut select = db.prepare(&sql).unwrap();
    let mut rows = select.query([]).unwrap();
    let mut bytes = 0;
    while let Some(row) = rows.next().unwrap() {
        for i in 0..columns.len() {
            bytes += match row.get_ref(i).unwrap() {
                ValueRef::Null => 0,
                ValueRef::Integer(_) | ValueRef::Real(_) => 8,
                ValueRef::Text(b) | ValueRef::Blob(b) => b.len() as u64,
            };
        }
    }
    bytes
}
