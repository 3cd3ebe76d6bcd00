//! `rtp completions`: shell completions on stdout.

use crate::error::Result;
use crate::exit::Exit;

/// Print shell completions
///
/// For example: rtp completions bash > ~/.local/share/bash-completion/completions/rtp
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Shell to print completions for
    pub shell: clap_complete::Shell,
}

/// Prints the completions.
pub fn run(args: &Args, mut program: clap::Command) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "rtp", &mut script);
    crate::run::stdout::write(&script)?;
    Ok(Exit::Done)
}
