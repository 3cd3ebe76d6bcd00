//! `rtp mock-api`: a randomuser-compatible API on loopback.

use crate::error::Result;
use crate::exit::Exit;
use crate::run::Run;

/// Serve a randomuser-compatible API on loopback, for demos and tests
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Port to listen on; 0 takes a free one and prints its address
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
}

/// Serves until told to stop.
pub async fn run(_args: Args, _run: &Run) -> Result<Exit> {
    Ok(Exit::Done)
}
