//! `rtp dashboard`: a page that shows whether both layers are right, and the merged view over HTTP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::commands::args::ServerArgs;
use crate::dashboard::{self, Board, Options, Sources};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::ports::sample_store::SampleStore;
use crate::run::Run;
use crate::run::files::{Files, is_same_file};
use crate::serve::token::Token;
use crate::serve::{Site, Views, files, listen, router};
use crate::servers;
use crate::verify::Class;

/// Serve a page that shows the pipeline live, and the merged view as an API
///
/// The page shows ingestion, event times, both layers and whether they agree, and the stages. The API answers
/// GET /api/v1/DATASET/KEY and /api/v1/DATASET?FIELD=VALUE like `rtp view`; /api/v1/openapi.json describes it. Nothing
/// is written to the log or the stores, and each of them is read at a fixed pace, however many people look.
///
/// It listens on this machine only. With --token-file it may listen on another address; then each request needs the
/// token, as `Authorization: Bearer TOKEN`, or in a browser as /?token=TOKEN, once.
///
/// Runs until it is told to stop, and ends with status 0. A server that is away is shown as such, and waited for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to listen on; others than this machine's own need --token-file
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port to listen on; 0 picks a free one
    #[arg(long, value_name = "N", default_value_t = 8501)]
    port: u16,
    /// File with the token that each request must have; it must not be readable by every user of this machine
    #[arg(long, env = "RTP_DASHBOARD_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Consumer group whose lag is shown
    #[arg(long, value_name = "NAME", default_value = "rtp")]
    group: String,
    /// File for the history of rates and lag, which is thinned as it gets older; it is created if it is missing
    #[arg(long, value_name = "FILE", default_value = ".rtp/dashboard.db")]
    history: PathBuf,
    #[command(flatten)]
    servers: ServerArgs,
}

impl Args {
    /// The files that it reads and writes.
    pub fn files(&self) -> Files {
        let mut files = Files::default();
        if let Some(path) = &self.token_file {
            files.read("--token-file", path);
        }
        self.servers.log.read_by(&mut files);
        // It is a database of its own: the next run goes on with it, and nothing in it is overwritten.
        files.read("--history", &self.history);
        files
    }

    /// What commands need to mean the same dataset and servers.
    fn options(&self, dataset: &Dataset) -> Options {
        let file = dataset.file.as_ref().map(|file| file.display().to_string());
        let [log, realtime, batch] = self.servers.not_default();
        Options::new([file, log, realtime, batch])
    }

    /// The history, in memory if the file cannot be written.
    fn samples(&self, sources: &Sources, run: &Run) -> Result<Box<dyn SampleStore>> {
        let others = [
            sources.event_log.file(),
            sources.realtime.file(),
            sources.batch.file(),
        ];
        let is_history = |other: &Path| is_same_file(other, &self.history);
        if others.iter().any(|other| other.is_some_and(is_history)) {
            let shown = self.history.display();
            let same = format!(
                "--history {shown} is the event log or a store, which nothing else is written to"
            );
            return Err(Error::invalid(same).hint("name a file of its own"));
        }
        servers::must_be_history(&self.history)
            .map_err(|e| e.hint("name a file of its own with --history"))?;
        let scope = sources.scope();
        match servers::samples(Some(&self.history), &scope) {
            Ok(samples) => Ok(samples),
            Err(error) => {
                run.warn(format!(
                    "{error}; the history is kept in memory, until this run ends"
                ));
                servers::samples(None, &scope)
            }
        }
    }
}

/// Listens, prints the address, and serves until told to stop.
pub async fn run(args: &Args, dataset: &Dataset, run: &Run) -> Result<Exit> {
    let token = args.token_file.as_deref().map(Token::read).transpose()?;
    if token.is_none() && !args.host.is_loopback() {
        let other = format!("--host {} can be reached from other machines", args.host);
        return Err(
            Error::invalid(other).hint("give a token with --token-file, or leave --host out")
        );
    }
    let dataset = Arc::new(dataset.clone());
    let sources = Sources {
        dataset: Arc::clone(&dataset),
        event_log: args.servers.log.with(None)?,
        realtime: Arc::clone(&args.servers.realtime.realtime_store),
        batch: Arc::clone(&args.servers.batch.batch_store),
        group: args.group.clone(),
        options: args.options(&dataset),
        classes: Class::ALL.map(shown).to_vec(),
    };
    let (realtime, batch) = (Arc::clone(&sources.realtime), Arc::clone(&sources.batch));
    let samples = args.samples(&sources, run)?;
    let board = Board::new(sources, samples);
    let router = router(Site {
        views: Views::new(Arc::clone(&dataset), realtime, batch),
        board: Arc::clone(&board),
        dataset,
        token,
        run: run.clone(),
    })?;
    let wanted = SocketAddr::from((args.host, args.port));
    let refused = |e| Error::refused(format!("cannot listen on {wanted}: {e}"));
    let limits = files::limits(run);
    let listener =
        listen::bind(wanted).map_err(|e| refused(e).hint("--port 0 picks a free port"))?;
    let address = listener.local_addr().map_err(refused)?;
    crate::run::stdout::write(format!("http://{address}\n").as_bytes())?;
    tokio::select! {
        () = listen::serve(listener, router, &run.stop, limits) => Ok(Exit::Done),
        failed = board.collect(run) => failed.map(|()| Exit::Done),
    }
}

/// A class of differences, as the dashboard shows it.
fn shown(class: Class) -> dashboard::Class {
    dashboard::Class {
        name: class.name(),
        meaning: class.meaning(),
        fails: class.fails(),
    }
}
