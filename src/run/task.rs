//! Work on threads and tasks of its own. A panic is a bug in rtp: it becomes an error that says what happened and
//! where, so that nobody mistakes it for the end of the work. Wherever it is, the run ends with the status for that.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};
use std::task::{self, Poll};
use std::thread;

use tokio::runtime::Handle;
use tokio::task::{JoinHandle, block_in_place};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::run::Run;

thread_local! {
    /// `Some` while [`catch`] runs on this thread: the file and line of its last panic.
    static CAUGHT_AT: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Whether [`guard`] runs on this thread.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// The run that hears of panics.
static REPORTER: OnceLock<Run> = OnceLock::new();

/// How a panic begins that Rust cannot unwind, in code that C has called or while another one unwinds. The process is
/// aborted after it.
const ABORTS: [&str; 2] = [
    "panic in a function that cannot unwind",
    "panic in a destructor",
];

/// The panics of a run, those included whose error nobody waited for.
#[derive(Debug, Default)]
pub struct Panics {
    /// Message and place of the first one.
    first: OnceLock<String>,
    /// Whether one was reported when it happened.
    is_told: AtomicBool,
    /// Whether the run has ended.
    is_over: AtomicBool,
}

impl Panics {
    /// Records a panic.
    fn add(&self, what: String, is_told: bool) {
        self.first.get_or_init(|| what);
        self.is_told.fetch_or(is_told, Ordering::Relaxed);
    }

    /// The first one, and whether it must still be reported; none if there was no panic.
    pub fn first(&self) -> Option<(Error, bool)> {
        let error = Error::internal(self.first.get()?);
        Some((error, !self.is_told.load(Ordering::Relaxed)))
    }

    /// Panics of what the end of the process cuts short no longer matter: the status is known, and the summary is the
    /// last line.
    pub(super) fn hear_no_more(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Reports uncaught panics as errors of this run, instead of by a stack trace, and records all of them.
pub fn report_panics(run: &Run) {
    REPORTER.get_or_init(|| run.clone());
    set_hook();
}

/// Runs what may panic.
pub fn catch<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    set_hook();
    let outer = CAUGHT_AT.replace(Some(String::new()));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    let place = CAUGHT_AT.replace(outer).unwrap_or_default();
    outcome.unwrap_or_else(|panic| Err(panicked(panic.as_ref(), &place)))
}

/// Runs code of a library that panics at bad input; none if it does. That is a mistake of the input, not of rtp.
pub fn guard<T>(work: impl FnOnce() -> T) -> Option<T> {
    set_hook();
    let outer = IS_GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(outer);
    outcome.ok()
}

/// Does what blocks on a thread of its own, beside what waits.
pub fn beside<A: Send, B>(
    blocks: impl FnOnce() -> A + Send,
    waits: impl Future<Output = B>,
) -> Result<(A, B)> {
    block_in_place(|| {
        thread::scope(|scope| {
            let blocks = scope.spawn(|| catch(|| Ok(blocks())));
            let waits = Handle::current().block_on(waits);
            let blocks = blocks
                .join()
                .map_err(|panic| panicked(panic.as_ref(), ""))?;
            Ok((blocks?, waits))
        })
    })
}

/// Work on a task of its own, which is awaited like any other future, and aborted once nobody awaits it any more.
#[derive(Debug)]
pub struct Task<T>(JoinHandle<Result<T>>);

impl<T: Send + 'static> Task<T> {
    /// Starts it.
    pub fn spawn(work: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Task(tokio::spawn(async {
            let mut work = pin!(work);
            std::future::poll_fn(|context| {
                let polled = catch(|| Ok(work.as_mut().poll(context)));
                polled.unwrap_or_else(|panic| Poll::Ready(Err(panic)))
            })
            .await
        }))
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Result<T>> {
        let joined = Pin::new(&mut self.0).poll(context);
        joined.map(|joined| joined.unwrap_or_else(|lost| Err(Error::internal(lost))))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Once per process: a caught panic leaves its place for [`catch`], any other one is reported.
fn set_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if IS_GUARDED.try_with(Cell::get).unwrap_or(false) {
                return;
            }
            let place = place(panic);
            let is_caught = keep_place(&place);
            // Whoever sets RUST_BACKTRACE wants to see it.
            let is_traced = Backtrace::capture().status() == BacktraceStatus::Captured;
            let run = REPORTER.get();
            if is_traced || (run.is_none() && !is_caught) {
                default_hook(panic);
            }
            if let Some(run) = run {
                hear(run, &said(panic.payload(), &place), is_caught, is_traced);
            }
        }));
    });
}

/// Records a panic, and reports it unless it is caught or was shown.
fn hear(run: &Run, what: &str, is_caught: bool, is_shown: bool) {
    if run.panics.is_over.load(Ordering::Relaxed) {
        return;
    }
    let aborts = ABORTS.iter().any(|start| what.starts_with(start));
    let is_told = !is_caught || is_shown;
    if !aborts {
        run.panics.add(what.into(), is_told);
        if !is_caught && !is_shown {
            run.error(&Error::internal(what));
        }
        return;
    }
    if let Some((error, true)) = run.panics.first() {
        run.error(&error);
    }
    run.summary(Exit::Internal);
    end(Exit::Internal);
}

/// Ends the process with a status, where it would otherwise be aborted without one.
#[expect(
    clippy::exit,
    reason = "the stack is not unwound, so main is never reached"
)]
fn end(exit: Exit) -> ! {
    std::process::exit(exit.code().into())
}

fn place(panic: &PanicHookInfo<'_>) -> String {
    let at = panic.location();
    at.map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line()))
}

/// Keeps the place of a panic for [`catch`]; false if [`catch`] is not running on this thread.
fn keep_place(place: &str) -> bool {
    let kept = CAUGHT_AT.try_with(|caught_at| match &mut *caught_at.borrow_mut() {
        Some(kept) => {
            *kept = place.into();
            true
        }
        None => false,
    });
    kept.unwrap_or(false) // the thread ends
}

fn panicked(payload: &(dyn Any + Send), place: &str) -> Error {
    Error::internal(said(payload, place))
}

fn said(payload: &(dyn Any + Send), place: &str) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("a panic without a message");
    format!("{text} ({place})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn assert_says(error: &Error, what: &str, line: u32) {
        assert_eq!(error.kind(), Kind::Internal);
        let place = format!("{what} ({}:{line})", file!());
        assert!(error.to_string().ends_with(&place), "{error}");
    }

    #[test]
    fn a_panic_is_an_error_with_its_message_and_place() {
        let line = line!() + 1;
        let caught = catch::<()>(|| panic!("as planned, {}", 1));
        assert_says(&caught.unwrap_err(), "as planned, 1", line);
        assert_eq!(catch(|| Ok(7)).unwrap(), 7);
    }

    #[test]
    fn a_guarded_panic_is_no_error() {
        let caught = catch(|| Ok(guard(|| panic!("at bad input"))));
        assert_eq!(caught.unwrap(), None::<()>);
        assert_eq!(guard(|| 7), Some(7));
        assert!(!IS_GUARDED.get());
    }

    #[test]
    fn a_panic_inside_of_another_catch_is_told_by_the_inner_one() {
        let caught = catch(|| {
            let line = line!() + 1;
            let inner = catch::<()>(|| panic!("inside"));
            assert_says(&inner.unwrap_err(), "inside", line);
            Err::<(), _>(Error::data("outside"))
        });
        assert_eq!(caught.unwrap_err().kind(), Kind::Data);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_blocks_is_done_beside_what_waits() {
        let (told, heard) = std::sync::mpsc::channel();
        let (asks, asked) = tokio::sync::oneshot::channel();
        // Each waits for the other: one after the other, they would never end.
        let blocks = move || {
            asks.send(1).unwrap();
            heard.recv().unwrap()
        };
        let waits = async {
            let asked = asked.await.unwrap();
            told.send(2).unwrap();
            asked
        };
        assert_eq!(beside(blocks, waits).unwrap(), (2, 1));
        let line = line!() + 1;
        let caught = beside(|| panic!("on its thread"), async {});
        assert_says(&caught.unwrap_err(), "on its thread", line);
    }

    #[tokio::test]
    async fn a_task_that_panics_says_so_to_who_awaits_it() {
        let line = line!() + 3;
        let task = Task::<()>::spawn(async {
            tokio::task::yield_now().await;
            panic!("in a task");
        });
        assert_says(&task.await.unwrap_err(), "in a task", line);
        assert_eq!(Task::spawn(async { Ok(7) }).await.unwrap(), 7);
    }
}
