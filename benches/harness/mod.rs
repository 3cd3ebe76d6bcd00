//! Shared by the benchmarks: deterministic event files, whole processes measured from outside, and
//! medians over interleaved runs, because a machine drifts more between two runs than programs differ.

#![allow(dead_code, unreachable_pub)] // each benchmark uses only part of this module

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wait4::Wait4;

/// What a whole process used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// From start to end.
    pub wall: Duration,
    /// User and system time of all its threads.
    pub cpu: Duration,
    /// Peak resident memory in bytes.
    pub memory: u64,
}

/// The options of a benchmark's command line.
#[derive(Debug)]
pub struct Options {
    /// `--events N`: events of the input.
    pub events: u64,
    /// `--pairs N`: how often each side runs.
    pub pairs: usize,
    /// `--scaling`: 100,000, 1,000,000 and 3,000,000 events, ours only.
    pub scaling: bool,
    /// What to run; all of it if empty.
    pub names: Vec<String>,
}

impl Options {
    /// Reads the command line; cargo's own `--bench` is ignored.
    pub fn read(args: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            events: 1_000_000,
            pairs: 5,
            scaling: false,
            names: Vec::new(),
        };
        let mut args = args.filter(|arg| arg != "--bench");
        while let Some(arg) = args.next() {
            let mut number = || {
                args.next()
                    .and_then(|n| n.parse().ok())
                    .ok_or_else(|| format!("{arg} needs a number"))
            };
            match arg.as_str() {
                "--events" => options.events = number()?,
                "--pairs" => options.pairs = usize::try_from(number()?).unwrap_or(usize::MAX),
                "--scaling" => options.scaling = true,
                name if !name.starts_with('-') => options.names.push(arg),
                _ => return Err(format!("unknown option {arg}")),
            }
        }
        Ok(options)
    }

    /// Whether to run this part.
    pub fn includes(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|n| n == name)
    }
}

/// The release binary of the same build.
pub fn rtp(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rtp"));
    command.current_dir(folder).env_clear();
    command
}

/// This benchmark again, as a separate process: the bare loop to compare with.
pub fn bare(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("--bare").args(args).current_dir(folder);
    command
}

/// Runs a process to its end; it must succeed. Data that earlier processes left in the write cache is
/// flushed to disk first.
pub fn measure(command: &mut Command) -> Usage {
    measure_to(command, 0)
}

/// The same for a process that must end with this status.
pub fn measure_to(command: &mut Command, status: i32) -> Usage {
    assert!(Command::new("sync").status().unwrap().success());
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let used = child.wait4().unwrap();
    let wall = started.elapsed();
    assert_eq!(used.status.code(), Some(status), "{command:?}");
    Usage {
        wall,
        cpu: used.rusage.utime + used.rusage.stime,
        memory: used.rusage.maxrss,
    }
}

/// Runs ours and the bare one in turns, each first in every second pair, and prints medians and the
/// ratio of speeds: above 1 ours is faster.
pub fn compare(
    name: &str,
    options: &Options,
    mut ours: impl FnMut() -> Usage,
    mut bare: impl FnMut() -> Usage,
) {
    let mut pairs = Vec::new();
    for i in 0..options.pairs.max(1) {
        let pair = match i % 2 {
            0 => (ours(), bare()),
            _ => {
                let bare = bare();
                (ours(), bare)
            }
        };
        eprintln!(
            "{name} pair {}: ours {:.2} s, bare {:.2} s",
            i + 1,
            pair.0.wall.as_secs_f64(),
            pair.1.wall.as_secs_f64()
        );
        pairs.push(pair);
    }
    let (a, b): (Vec<Usage>, Vec<Usage>) = pairs.iter().copied().unzip();
    print_usage(&format!("{name}, rtp"), options.events, &a);
    print_usage(&format!("{name}, bare loop"), options.events, &b);
    let ratios = |of: fn(&Usage) -> Duration| {
        spread(
            pairs
                .iter()
                .map(|(a, b)| of(b).as_secs_f64() / of(a).as_secs_f64()),
        )
    };
    let (low, middle, high) = ratios(|u| u.wall);
    let (_, cpu, _) = ratios(|u| u.cpu);
    println!(
        "{:<24} {middle:.2}x of the bare loop's speed ({low:.2} to {high:.2}); by CPU {cpu:.2}x",
        name
    );
}

/// The columns of `print_usage`.
pub fn print_header() {
    println!(
        "{:<24} {:>9} {:>8} {:>16} {:>8} {:>8} {:>9}",
        "", "events", "wall s", "(low to high)", "us/event", "CPU us", "peak MB"
    );
}

/// One line: medians of the runs, and the most memory of any.
pub fn print_usage(name: &str, events: u64, runs: &[Usage]) {
    let (low, wall, high) = spread(runs.iter().map(|u| u.wall.as_secs_f64()));
    let (_, cpu, _) = spread(runs.iter().map(|u| u.cpu.as_secs_f64()));
    let memory = runs.iter().map(|u| u.memory).max().unwrap_or_default();
    println!(
        "{name:<24} {events:>9} {wall:>8.2} {:>16} {:>8.2} {:>8.2} {:>9.1}",
        format!("({low:.2} to {high:.2})"),
        wall * 1e6 / events as f64,
        cpu * 1e6 / events as f64,
        memory as f64 / 1e6,
    );
}

/// Lowest, median and highest.
pub fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    (
        sorted[0],
        sorted[sorted.len() / 2],
        sorted[sorted.len() - 1],
    )
}

/// A folder next to the build's own files: on a real disk, while `/tmp` may be in memory.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A folder with the stores of the users dataset, deleted when the value is dropped.
pub fn stores() -> tempfile::TempDir {
    let place = tempfile::tempdir_in(workspace()).unwrap();
    measure(rtp(place.path()).arg("init"));
    place
}

/// A file that is created once and kept for the next run.
pub fn kept(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let path = workspace().join(name);
    if !path.exists() {
        let aside = workspace().join(format!("{name}.partial"));
        make(&aside);
        std::fs::rename(&aside, &path).unwrap();
    }
    path
}

/// NDJSON of this many users with random keys, as `fetch` writes them.
pub fn events(count: u64) -> PathBuf {
    kept(&format!("users-{count}.ndjson"), |path| {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
        let mut random = Random(count);
        for n in 0..count {
            writeln!(out, "{}", user(n, &mut random)).unwrap();
        }
        out.flush().unwrap();
    })
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[(self.next() % list.len() as u64) as usize]
    }

    fn time(&mut self, first_year: u64, years: u64) -> String {
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            first_year + self.below(years),
            1 + self.below(12),
            1 + self.below(28),
            self.below(24),
            self.below(60),
            self.below(60),
            self.below(1000)
        )
    }
}

fn user(n: u64, random: &mut Random) -> String {
    const FIRST: [&str; 8] = [
        "Alfons", "Rose", "Zoë", "Emily", "Jörg", "Océane", "Mads", "Aada",
    ];
    const LAST: [&str; 8] = [
        "Müller", "Heldt", "Tucker", "Nielsen", "Roussel", "Korhonen", "García", "Watts",
    ];
    const PLACE: [(&str, &str, &str, &str); 4] = [
        ("Friedhofstraße", "Lehrte", "Niedersachsen", "Germany"),
        ("Dame Street", "Navan", "Clare", "Ireland"),
        ("Rue du Stade", "Dijon", "Haute-Savoie", "France"),
        ("Hämeenkatu", "Kangasniemi", "Pirkanmaa", "Finland"),
    ];
    let id = uuid::Builder::from_random_bytes(
        (u128::from(random.next()) << 64 | u128::from(random.next())).to_be_bytes(),
    )
    .into_uuid();
    let (first, last) = (random.pick(&FIRST), random.pick(&LAST));
    let (street, city, state, country) = PLACE[random.below(4) as usize];
    let sex = ["female", "male"][random.below(2) as usize];
    let picture = random.below(100);
    format!(
        concat!(
            r#"{{"id":"{id}","first_name":"{first}","last_name":"{last}","gender":"{sex}","#,
            r#""address":"{number} {street}, {city}, {state}, {country}","post_code":{post},"#,
            r#""email":"user{n}@example.com","username":"bigfish{n}","dob":"{dob}","#,
            r#""registered_date":"{registered}","phone":"0{phone}-{phone}","#,
            r#""picture":"https://example.com/api/portraits/med/{sex}/{picture}.jpg","#,
            r#""nationality":"{nat}","fetched_at":"2026-11-01T00:00:00.000Z"}}"#
        ),
        id = id,
        first = first,
        last = last,
        sex = sex,
        number = random.below(9_999),
        street = street,
        city = city,
        state = state,
        country = country,
        post = 10_000 + random.below(90_000),
        n = n,
        dob = random.time(1945, 60),
        registered = random.time(2002, 20),
        phone = 1_000 + random.below(9_000),
        picture = picture,
        nat = &country[..2],
    )
}
