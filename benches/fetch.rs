//! `fetch` from the practice API at three sizes, as a whole process: memory and time per event must
//! not grow with the number of events. docs/benchmarks.md explains how to run and read it.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod harness;

use std::io::{BufRead, BufReader};
use std::process::{Child, ExitCode, Stdio};

use harness::{Options, Usage, measure, rtp};

fn main() -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    let sizes = match options.scaling {
        true => vec![100_000, 1_000_000, 3_000_000],
        false => vec![options.events],
    };
    let api = Api::start();
    harness::print_header();
    // In turns, so that a slow minute of the machine does not affect just one size.
    let mut runs: Vec<Vec<Usage>> = sizes.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.pairs.max(1) {
        for (events, runs) in sizes.iter().zip(&mut runs) {
            runs.push(api.fetch(*events));
        }
    }
    for (events, runs) in sizes.iter().zip(&runs) {
        harness::print_usage("fetch", *events, runs);
    }
    ExitCode::SUCCESS
}

/// The practice API, which stops when the value is dropped.
struct Api {
    child: Child,
    url: String,
}

impl Api {
    fn start() -> Api {
        let mut child = rtp(harness::workspace())
            .args(["mock-api", "--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut url).unwrap();
        Api {
            child,
            url: format!("{}/api/1.4/", url.trim_end()),
        }
    }

    fn fetch(&self, events: u64) -> Usage {
        let count = events.to_string();
        let args = [
            "fetch", "--api", &self.url, "--count", &count, "--limit", "none",
        ];
        measure(rtp(harness::workspace()).args(args))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
