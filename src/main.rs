//! The `rtp` binary: turns the library's verdict into an exit status, nothing else.

/// Events are allocated on one thread and freed on another, here and in librdkafka; with glibc's `malloc` that
/// takes a fifth more processor time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Two arenas instead of four for each core, so that the others use again what one thread has freed, and freed pages are
/// returned after a second instead of ten: `verify` of a million rows takes 43 MB with it, and 69 MB without.
#[expect(unsafe_code, reason = "jemalloc reads its settings from this symbol")]
#[cfg_attr(target_os = "linux", unsafe(export_name = "malloc_conf"))]
#[cfg_attr(not(target_os = "linux"), unsafe(export_name = "_rjem_malloc_conf"))]
pub static JEMALLOC: &[u8; 30] = b"narenas:2,dirty_decay_ms:1000\0";

fn main() -> std::process::ExitCode {
    rtp::run(std::env::args_os()).into()
}
