//! `rtp fetch`: the records of an HTTP API as NDJSON.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::connect;
use crate::dataset::{Dataset, Limit, LimitUnit};
use crate::durable::{self, Aside};
use crate::error::{Error, Result, file_error};
use crate::exit::Exit;
use crate::input::{Format, Input};
use crate::retry::{MaxOutage, through_outage};
use crate::run::{Run, add, get};
use crate::source::http::Timeouts;
use crate::source::pace::{LimitArg, Pace};
use crate::source::page::{Reader, Shape};
use crate::source::pages::{Fetcher, Pages, Step};
use crate::source::paging::{Paging, Position};
use crate::stdout::{self, Reader as Pipe};
use crate::time::{format_ms, now_ms, parse_duration, parse_time};
use crate::trailer::Tally;

/// Fetch the records of an HTTP API and write them as NDJSON
///
/// Each record becomes one line with the dataset's fields. A page is written whole or not at all,
/// pages in their order. What fails for a while (time-outs, 429, 5xx, broken bodies) is tried again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the API, or file:// and a saved body or a folder of *.json [default: the dataset's source.url]
    #[arg(long, env = "RTP_API_URL", value_name = "URL")]
    api: Option<String>,
    /// Number of records [default: one page of an endless source, else all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Seed, if the source takes one: the same seed and page give the same records [default: the run's id]
    #[arg(long, value_name = "TEXT")]
    seed: Option<String>,
    /// Page to begin with, for sources whose pages are numbered
    #[arg(long, value_name = "N", conflicts_with = "state")]
    page: Option<u64>,
    /// Event time of all records of this run, not in the future: RFC 3339 or a day [default: now]
    #[arg(long, env = "RTP_AS_OF", value_name = "TIME", value_parser = parse_time)]
    as_of: Option<jiff::Timestamp>,
    /// Write records as they came, less the dataset's secrets
    #[arg(long)]
    raw: bool,
    /// Write to this file, which appears only when it is complete
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// End with a line that counts the records, so that readers can tell a complete input
    #[arg(long)]
    trailer: bool,
    /// Fetch nothing if the file of --out is complete and holds --count records; another rtp that is
    /// fetching it is waited for
    #[arg(long, requires = "out", requires = "trailer", conflicts_with = "state")]
    unless_complete: bool,
    /// Go on after the page that this file names; it moves when --out is complete, or by --commit-state of the reader
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Requests under way at the same time, for sources whose pages are numbered
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    concurrency: u8,
    /// Most requests a second
    #[arg(long, value_name = "N", value_parser = positive)]
    rps: Option<f64>,
    /// Keep to this limit instead of the dataset's, in its unit (records or requests): N/DURATION or none
    #[arg(long, value_name = "N/DURATION")]
    limit: Option<LimitArg>,
    /// Time for a connection
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    connect_timeout: Duration,
    /// Time without a byte of an answer
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_duration)]
    idle_timeout: Duration,
    /// Time for one request
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    request_timeout: Duration,
    /// Time for the whole run; longer ends it with status 4
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_elapsed: Option<Duration>,
    /// End with status 1 if there is no record
    #[arg(long)]
    require_records: bool,
    #[command(flatten)]
    outage: MaxOutage,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(n) if n.is_finite() && n > 0.0 => Ok(n),
        _ => Err("allowed is a number above 0, such as 5 or 0.5".into()),
    }
}

/// Fetches, page by page.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let walk = walk(args, dataset, run);
    match args.max_elapsed {
        None => walk.await,
        Some(limit) => tokio::time::timeout(limit, walk).await.unwrap_or_else(|_| {
            Err(
                Error::refused(format!("the time limit of {limit:?} is over"))
                    .hint("--max-elapsed sets it"),
            )
        }),
    }
}

async fn walk(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let unless_complete = args.out.as_deref().filter(|_| args.unless_complete);
    let _held = match unless_complete {
        None => None,
        Some(path) => tokio::select! {
            held = hold(path, args, run) => Some(held?),
            signal = run.stop.wait() => return Ok(signal.exit()),
        },
    };
    if let Some(path) = unless_complete
        && tokio::task::block_in_place(|| is_complete(path, args.count, run))?
    {
        return Ok(Exit::Done);
    }
    let api = api(args, dataset)?;
    let (source, declared) = connect::source(&api, dataset, args.timeouts())?;
    let mut bookmark = Bookmark::open(args, dataset, run)?;
    let seed = match (&declared.seed_param, &args.seed, &bookmark.seed) {
        (_, Some(seed), _) | (_, None, Some(seed)) => Some(seed.clone()),
        (Some(_), None, None) => Some(run.id.to_string()),
        (None, None, None) => None,
    };
    let base = Url::parse(&declared.url)
        .map_err(|e| Error::invalid(format!("`{}`: {e}", declared.url)))?;
    let paging = Paging::new(&declared, &base, seed.as_deref())?;
    let from = bookmark.start(&paging, args)?;
    bookmark.seed = seed;
    let count = args.count.or(paging.is_endless().then_some(paging.size()));
    let fetcher = Arc::new(Fetcher {
        source,
        reader: Reader::new(dataset, &declared, shape(args)?),
        pace: Pace::new(limit(args, declared.limit), args.rps),
        paging,
        max_outage: (api.scheme() != "file").then(|| args.outage.bounded()),
        run: run.clone(),
    });
    let mut pages = Pages::new(fetcher, from, count, args.concurrency.into());
    let mut output = Output::open(args)?;
    loop {
        let step = tokio::select! {
            step = pages.next() => step,
            signal = run.stop.wait() => return Ok(signal.exit()),
        };
        let Some(step) = step? else { break };
        let mark = bookmark.move_to(&step.resume)?;
        // A reader that is slow holds us here, in the middle of no line.
        let pipe = tokio::task::block_in_place(|| output.page(&step, mark, run))?;
        if pipe == Pipe::Gone {
            return Ok(Exit::Done);
        }
    }
    output.finish(args, &bookmark)?;
    let written = get(&run.counts.written);
    if let Some(short) = count.filter(|count| written < *count) {
        run.warn(format!(
            "the source ended after {written} of {short} records"
        ));
    }
    if written == 0 {
        run.warn("there was no record at the source");
        return Ok(Exit::verdict(!args.require_records));
    }
    Ok(Exit::Done)
}

impl Args {
    /// Whether the records go to a file, by `--out` or by redirection.
    pub fn writes_a_file(&self) -> bool {
        self.out.is_some() || stdout::is_file()
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts {
            connect: self.connect_timeout,
            idle: self.idle_timeout,
            total: self.request_timeout,
        }
    }
}

/// Holds a file against every other run, which is waited for.
async fn hold(path: &Path, args: &Args, run: &Run) -> Result<File> {
    let in_use = || Error::unavailable(durable::in_use(path));
    through_outage(run, args.outage.bounded(), || async {
        durable::try_hold(path)?.ok_or_else(in_use)
    })
    .await
}

/// Whether a file ends with a trailer, and holds this many records. They count as skipped. An error if it
/// is not what its trailer says.
fn is_complete(path: &Path, count: Option<u64>, run: &Run) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let mut input = Input::new(&[path.into()], Some(Format::Ndjson));
    let (mut records, mut bytes) = (0, 0);
    while let Some(chunk) = input.next_chunk()? {
        records += chunk.len() as u64;
        bytes += chunk.size() as u64;
        input.take_back(chunk);
    }
    let file = path.display();
    if !input.is_complete() || count.is_some_and(|count| count != records) {
        run.info(format!(
            "{file} holds {records} records, it is fetched anew"
        ));
        return Ok(false);
    }
    run.info(format!("{file} holds the {records} records already"));
    for (counter, n) in [
        (&run.counts.read, records),
        (&run.counts.skipped, records),
        (&run.counts.bytes, bytes),
    ] {
        add(counter, n);
    }
    Ok(true)
}

/// The address of the API. A password in it would stand in every list of processes.
fn api(args: &Args, dataset: &Dataset) -> Result<Url> {
    let text = args.api.as_deref().unwrap_or(&dataset.source.url);
    let allowed = "allowed are http://, https:// and file://";
    let url = Url::parse(text)
        .map_err(|e| Error::invalid(format!("--api `{text}` is no address: {e}")).hint(allowed))?;
    if url.password().is_some() {
        return Err(Error::invalid("--api has a password in it")
            .hint("the dataset's [source.auth] takes it from the environment or a file"));
    }
    match url.scheme() {
        "http" | "https" | "file" => Ok(url),
        other => Err(Error::invalid(format!("--api: unknown scheme `{other}`")).hint(allowed)),
    }
}

fn shape(args: &Args) -> Result<Shape> {
    let now = now_ms();
    let as_of = args.as_of.map_or(now, jiff::Timestamp::as_millisecond);
    if as_of > now {
        return Err(Error::invalid(format!(
            "--as-of {} is in the future",
            format_ms(as_of)
        )));
    }
    Ok(match args.raw {
        true => Shape::Raw,
        false => Shape::Event {
            as_of: format_ms(as_of),
        },
    })
}

fn limit(args: &Args, declared: Option<Limit>) -> Option<Limit> {
    let unit = declared.map_or(LimitUnit::Records, |l| l.unit);
    match args.limit {
        None => declared,
        Some(LimitArg(given)) => given.map(|(count, per)| Limit { unit, count, per }),
    }
}

/// What the file of `--state` holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    version: u32,
    dataset: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<String>,
    next: Position,
}

/// Where this run began, and where the next one will go on.
#[derive(Debug)]
struct Bookmark<'a> {
    path: Option<&'a Path>,
    dataset: &'a str,
    seed: Option<String>,
    next: Option<Position>,
    /// No other run moves the file meanwhile.
    _held: Option<File>,
}

impl<'a> Bookmark<'a> {
    fn open(args: &'a Args, dataset: &'a Dataset, run: &Run) -> Result<Self> {
        let mut bookmark = Bookmark {
            path: args.state.as_deref(),
            dataset: &dataset.name,
            seed: None,
            next: None,
            _held: None,
        };
        let Some(path) = bookmark.path else {
            return Ok(bookmark);
        };
        if args.out.is_some() {
            bookmark._held = Some(durable::hold(path)?);
        }
        match std::fs::read(path) {
            Ok(bytes) => bookmark.read(path, &bytes, args)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                run.info(format!("{} is not there yet: a first run", path.display()));
            }
            Err(e) => return Err(file_error("read", path, &e)),
        }
        Ok(bookmark)
    }

    fn read(&mut self, path: &Path, bytes: &[u8], args: &Args) -> Result<()> {
        let wrong = |what: String| {
            Error::invalid(format!("{}: {what}", path.display()))
                .hint("move the file away to begin anew")
        };
        let state: State =
            serde_json::from_slice(bytes).map_err(|e| wrong(format!("no state of fetch: {e}")))?;
        if state.version != 1 {
            return Err(wrong(format!("version {}, allowed is 1", state.version)));
        }
        if state.dataset != self.dataset {
            return Err(wrong(format!(
                "it belongs to the dataset {}, not {}",
                state.dataset, self.dataset
            )));
        }
        if let Some(seed) = args
            .seed
            .as_ref()
            .filter(|s| Some(*s) != state.seed.as_ref())
        {
            let other = state.seed.as_deref().unwrap_or("none");
            return Err(wrong(format!("it was made with seed {other}, not {seed}")));
        }
        (self.seed, self.next) = (state.seed, Some(state.next));
        Ok(())
    }

    fn start(&self, paging: &Paging, args: &Args) -> Result<Position> {
        match &self.next {
            None => paging.start(args.page),
            Some(next) if paging.fits(next) => Ok(next.clone()),
            Some(_) => Err(Error::invalid(format!(
                "{} does not fit the source's style of pagination",
                self.path.unwrap_or(Path::new("the state")).display()
            ))),
        }
    }

    /// Moves on; returns the state as JSON, if one is kept.
    fn move_to(&mut self, next: &Position) -> Result<Option<String>> {
        self.next = Some(next.clone());
        self.json()
    }

    fn json(&self) -> Result<Option<String>> {
        let (Some(_), Some(next)) = (self.path, &self.next) else {
            return Ok(None);
        };
        let state = State {
            version: 1,
            dataset: self.dataset.into(),
            seed: self.seed.clone(),
            next: next.clone(),
        };
        serde_json::to_string(&state)
            .map(Some)
            .map_err(|e| Error::refused(format!("cannot write the state: {e}")))
    }

    fn save(&self) -> Result<()> {
        match (self.path, self.json()?) {
            (Some(path), Some(state)) => durable::replace(path, format!("{state}\n").as_bytes()),
            _ => Ok(()),
        }
    }
}

/// Where the lines go.
struct Output {
    file: Option<Aside>,
    tally: Tally,
}

impl Output {
    fn open(args: &Args) -> Result<Self> {
        Ok(Output {
            file: args.out.as_deref().map(Aside::create).transpose()?,
            tally: Tally::default(),
        })
    }

    /// Writes the wanted part of a page, and on a pipe the mark that carries the bookmark on.
    fn page(&mut self, step: &Step, mark: Option<String>, run: &Run) -> Result<Pipe> {
        let lines = step.page.first(step.take);
        self.tally.add_lines(step.take, lines);
        let pipe = match (&mut self.file, mark) {
            (Some(file), _) => {
                file.write(lines)?;
                Pipe::Here
            }
            (None, None) => stdout::write(lines)?,
            (None, Some(state)) => {
                stdout::write(&[lines, self.tally.page(&state).as_bytes()].concat())?
            }
        };
        if pipe == Pipe::Here {
            add(&run.counts.read, step.take);
            add(&run.counts.written, step.take);
            add(&run.counts.bytes, lines.len() as u64);
        }
        Ok(pipe)
    }

    /// Ends the output; the bookmark moves only once the file is safe.
    fn finish(self, args: &Args, bookmark: &Bookmark<'_>) -> Result<()> {
        let trailer = match args.trailer {
            true => self.tally.end(),
            false => String::new(),
        };
        match self.file {
            None => stdout::write(trailer.as_bytes()).map(|_| ()),
            Some(mut file) => {
                file.write(trailer.as_bytes())?;
                file.publish()?;
                bookmark.save()
            }
        }
    }
}
