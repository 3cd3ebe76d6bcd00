//! `rtp man`: the man page of rtp or of one command on stdout.

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::secret::MASK;

/// Print the man page of rtp, or of one command
///
/// For example: rtp man init | man -l -
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Command whose page to print [default: rtp itself]
    pub command: Option<String>,
}

/// Prints the page.
pub fn run(args: &Args, mut program: clap::Command) -> Result<Exit> {
    program.build();
    let page = match &args.command {
        None => clap_mangen::Man::new(program),
        Some(name) => {
            let names: Vec<&str> = program
                .get_subcommands()
                .map(clap::Command::get_name)
                .collect();
            let command = program.find_subcommand(name).ok_or_else(|| {
                // A word may be a mistyped command; anything else may be a mistyped address with a password.
                let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
                let name = if is_word { name } else { MASK };
                Error::invalid(format!(
                    "unknown command `{name}`; commands: {}",
                    names.join(", ")
                ))
            })?;
            clap_mangen::Man::new(command.clone())
        }
    };
    let mut text = Vec::new();
    page.render(&mut text).map_err(Error::internal)?;
    crate::run::stdout::write(&text)?;
    Ok(Exit::Done)
}
