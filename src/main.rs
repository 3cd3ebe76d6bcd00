//! The `rtp` binary: turns the library's verdict into an exit status, nothing else.

fn main() -> std::process::ExitCode {
    rtp::run(std::env::args_os()).into()
}
