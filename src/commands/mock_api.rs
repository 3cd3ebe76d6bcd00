//! `rtp mock-api`: a practice API on this machine, with faults on demand.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::mock_api::auth::{self, Login};
use crate::mock_api::connection::{Listener, Peer};
use crate::mock_api::faults::{self, Faults, Share};
use crate::mock_api::{Config, RateLimit, router};
use crate::run::Run;

/// How long open connections may continue after the stop.
const DRAIN: Duration = Duration::from_millis(500);

/// Serve a practice API, compatible with randomuser.me, with faults on demand
///
/// Prints its address as the only line on stdout. Routes: /api/ and /api/1.4/ (users), /products,
/// /products/linked, /products/offset, /products/next, /products/loop (one pagination style each),
/// POST /oauth/token, /healthz. The same seed, page and nationalities give the same users on
/// every machine. Ends with status 0 on SIGINT or SIGTERM.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// IP address to listen on; 0.0.0.0 also serves other machines and containers
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,

    /// Port to listen on; 0 picks a free one
    #[arg(long, default_value_t = 8000)]
    port: u16,

    /// Answer 429 to a client that received this many users in this time; without a value: 20000/300s
    #[arg(long, value_name = "USERS/DURATION", num_args = 0..=1, default_missing_value = "20000/300s",
        value_parser = RateLimit::parse)]
    rate_limit: Option<RateLimit>,

    /// Number of products
    #[arg(long, value_name = "N", default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(..=1_000_000_000))]
    products: u64,

    /// Answer 401 to requests without this credential: bearer:TOKEN, basic:USER:PASS,
    /// header:NAME:VALUE, query:NAME:VALUE or oauth2:ID:SECRET
    #[arg(long, value_name = "KIND:...", value_parser = auth::parse)]
    require_auth: Option<Login>,

    /// Serve the files DIR/page-01.json and so on as the pages of /api/, byte for byte
    #[arg(long, value_name = "DIR")]
    serve: Option<PathBuf>,

    /// Fault to inject and the share of requests it hits, such as 503=0.1; repeatable or comma-separated
    #[arg(long = "fault", value_name = "NAME=SHARE", value_delimiter = ',', value_parser = faults::parse)]
    faults: Vec<Share>,

    /// Seed of the faults: the same seed makes them hit the same requests [default: random]
    #[arg(long, value_name = "N")]
    fault_seed: Option<u64>,

    /// Delay before every response with data; /healthz and /oauth/token respond at once
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = crate::time::parse_duration)]
    latency: Duration,
}

const AFTER_HELP: &str = "\
Faults:
  429, 429-after, 429-date  429 without Retry-After; with it in seconds; with it as a date
  503                       service unavailable
  error-body                200 with {\"error\": ...}
  html                      200 with a web page
  slow, stall               the body trickles for 2 s; stops halfway
  cut, reset                the connection is closed halfway; reset halfway
  wrong-length              Content-Length too short and too long, in turn
  redirect                  302 to the same address with rtp-redirected=1, which no fault hits
  empty                     200 with no body at all
  no-records, few           no records; half of the records

Example: rtp mock-api --port 0 --fault 503=0.05,cut=0.01 --fault-seed 7";

/// Listens, prints the address and serves until told to stop.
pub async fn run(args: Args, run: &Run) -> Result<Exit> {
    if let Some(dir) = args.serve.as_deref().filter(|dir| !dir.is_dir()) {
        return Err(
            Error::invalid(format!("--serve: {} is not a folder", dir.display()))
                .hint("expected a folder with page-01.json, page-02.json and so on"),
        );
    }
    let fault_seed = args.fault_seed.unwrap_or_else(rand::random);
    if !args.faults.is_empty() && args.fault_seed.is_none() {
        run.info(format!("--fault-seed {fault_seed}"));
    }
    let app = router(Config {
        rate_limit: args.rate_limit,
        products: args.products,
        auth: args.require_auth,
        serve: args.serve,
        faults: Faults::new(args.faults, fault_seed)?,
        latency: args.latency,
    });

    let wanted = SocketAddr::from((args.host, args.port));
    let refused = |e| Error::refused(format!("cannot listen on {wanted}: {e}"));
    let listener = TcpListener::bind(wanted)
        .await
        .map_err(|e| refused(e).hint("--port 0 picks a free port"))?;
    let address = listener.local_addr().map_err(refused)?;
    crate::run::stdout::write(format!("http://{address}\n").as_bytes())?;

    let stop = run.stop.clone();
    let serve = axum::serve(
        Listener(listener),
        app.into_make_service_with_connect_info::<Peer>(),
    )
    .with_graceful_shutdown(async move {
        stop.wait().await;
    });
    tokio::select! {
        served = serve => served.map_err(|e| Error::refused(format!("cannot serve on {address}: {e}")))?,
        () = async { run.stop.wait().await; tokio::time::sleep(DRAIN).await } => {}
    }
    Ok(Exit::Done)
}
