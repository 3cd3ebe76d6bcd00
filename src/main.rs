//! The `rtp` binary: turns the library's verdict into an exit status, nothing else.

/// Events are allocated on one thread and freed on another, here and in librdkafka; with glibc's `malloc` that
/// takes a fifth more processor time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    rtp::run(std::env::args_os()).into()
}
