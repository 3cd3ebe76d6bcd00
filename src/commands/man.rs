//! `rtp man`: the man page of rtp or of one command on stdout.

use clap::CommandFactory;

use crate::cli::Cli;
use crate::error::{Error, Result};
use crate::exit::Exit;

/// Print the man page of rtp, or of one command
///
/// For example: rtp man init | man -l -
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The command [default: rtp itself]
    pub command: Option<String>,
}

/// Prints the page.
pub fn run(args: &Args) -> Result<Exit> {
    let mut rtp = Cli::command();
    rtp.build();
    let page = match &args.command {
        None => clap_mangen::Man::new(rtp),
        Some(name) => {
            let names: Vec<&str> = rtp.get_subcommands().map(clap::Command::get_name).collect();
            let command = rtp.find_subcommand(name).ok_or_else(|| {
                Error::invalid(format!(
                    "no command `{name}`, there are: {}",
                    names.join(", ")
                ))
            })?;
            clap_mangen::Man::new(command.clone())
        }
    };
    let mut text = Vec::new();
    page.render(&mut text)
        .map_err(|e| Error::refused(format!("cannot render the man page: {e}")))?;
    crate::stdout::write(&text)?;
    Ok(Exit::Done)
}
