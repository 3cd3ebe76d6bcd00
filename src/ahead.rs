//! Work done ahead on a thread of its own, in order and in bounded memory: one result is made while
//! the one before is used.

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::run::Stop;

/// What a thread makes ahead.
#[derive(Debug)]
pub struct Ahead<T>(mpsc::Receiver<Result<Option<T>>>);

impl<T: Send + 'static> Ahead<T> {
    /// Calls `make`, which may block, until it yields none or an error. Each call starts when the
    /// result before it has been taken.
    pub fn start(mut make: impl FnMut() -> Result<Option<T>> + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            while let Ok(place) = runtime.block_on(sender.reserve()) {
                let made = make();
                let is_last = !matches!(made, Ok(Some(_)));
                place.send(made);
                if is_last {
                    return;
                }
            }
        });
        Ahead(receiver)
    }

    /// The next result; none at the end, and at once when a stop is requested, whatever the thread
    /// is waiting for.
    pub async fn next(&mut self, stop: &Stop) -> Result<Option<T>> {
        tokio::select! {
            biased;
            _ = stop.wait() => Ok(None),
            made = self.0.recv() => made.unwrap_or_else(|| {
                Err(Error::refused("internal error: a thread ended before its work"))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Signal;

    #[tokio::test(flavor = "multi_thread")]
    async fn results_come_in_order_up_to_the_end_or_the_error() {
        let (_sender, stop) = Stop::channel();
        let mut n = 0;
        let mut ahead = Ahead::start(move || {
            n += 1;
            match n {
                1..=3 => Ok(Some(n)),
                _ => Err(Error::data("four")),
            }
        });
        for expected in 1..=3 {
            assert_eq!(ahead.next(&stop).await.unwrap(), Some(expected));
        }
        assert_eq!(ahead.next(&stop).await.unwrap_err().to_string(), "four");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stop_does_not_wait_and_a_panic_is_no_end() {
        let (sender, stop) = Stop::channel();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let mut blocked = Ahead::<()>::start(move || {
            held.recv().ok();
            Ok(None)
        });
        let mut broken = Ahead::<()>::start(|| panic!("as planned"));
        assert!(broken.next(&stop).await.is_err());
        sender.send_replace(Some(Signal::Terminate));
        assert!(blocked.next(&stop).await.unwrap().is_none());
        drop(hold);
    }
}
