//! Work on threads and tasks of its own. A panic there is a bug in rtp: it becomes an error that says what
//! happened and where, so that nobody mistakes it for the end of the work.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Once, OnceLock};
use std::task::{self, Poll};

use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::run::Run;

thread_local! {
    /// `Some` while [`catch`] runs on this thread: the file and line of its last panic.
    static CAUGHT_AT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The run that reports uncaught panics.
static REPORTER: OnceLock<Run> = OnceLock::new();

/// Reports uncaught panics as errors of this run, instead of by a stack trace.
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
            let place = place(panic);
            match (keep_place(&place), REPORTER.get()) {
                _ if Backtrace::capture().status() == BacktraceStatus::Captured => {
                    default_hook(panic); // whoever sets RUST_BACKTRACE wants to see it
                }
                (true, _) => {}
                (false, Some(run)) => run.error(&panicked(panic.payload(), &place)),
                (false, None) => default_hook(panic),
            }
        }));
    });
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
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("a panic without a message");
    Error::internal(format!("{text} ({place})"))
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
    fn a_panic_inside_of_another_catch_is_told_by_the_inner_one() {
        let caught = catch(|| {
            let line = line!() + 1;
            let inner = catch::<()>(|| panic!("inside"));
            assert_says(&inner.unwrap_err(), "inside", line);
            Err::<(), _>(Error::data("outside"))
        });
        assert_eq!(caught.unwrap_err().kind(), Kind::Data);
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
