//! `rtp completions`: shell completions on stdout.

use clap::CommandFactory;

use crate::cli::Cli;
use crate::error::Result;
use crate::exit::Exit;

/// Print the completions for a shell
///
/// For example: rtp completions bash > ~/.local/share/bash-completion/completions/rtp
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Prints the completions.
pub fn run(args: &Args) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "rtp", &mut script);
    crate::stdout::write(&script)?;
    Ok(Exit::Done)
}
