//! Work done ahead of time on a thread of its own, in order and in bounded memory: one result is produced while
//! the one before it is used.

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::error::{Error, Kind, Result};
use crate::run::Stop;
use crate::run::task::catch;

/// Results that a thread produces ahead of time.
#[derive(Debug)]
pub struct Ahead<T>(mpsc::Receiver<Result<Option<T>>>);

impl<T: Send + 'static> Ahead<T> {
    /// Calls `make`, which may block, until it yields none or an error. Each call starts once the
    /// result before it has been taken.
    pub fn start(mut make: impl FnMut() -> Result<Option<T>> + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            while let Ok(place) = runtime.block_on(sender.reserve()) {
                let made = catch(&mut make);
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
    /// is waiting for. A panic of the thread is still an error then.
    pub async fn next(&mut self, stop: &Stop) -> Result<Option<T>> {
        tokio::select! {
            biased;
            _ = stop.wait() => match self.0.try_recv() {
                Ok(Err(error)) if error.kind() == Kind::Internal => Err(error),
                _ => Ok(None),
            },
            made = self.0.recv() => {
                made.unwrap_or_else(|| Err(Error::internal("a thread ended before its work was done")))
            }
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
    async fn a_stop_does_not_wait() {
        let (sender, stop) = Stop::channel();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let mut blocked = Ahead::<()>::start(move || {
            held.recv().ok();
            Ok(None)
        });
        sender.send_replace(Some(Signal::Terminate));
        assert!(blocked.next(&stop).await.unwrap().is_none());
        drop(hold);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_is_no_end_nor_is_it_lost_in_a_stop() {
        let (sender, stop) = Stop::channel();
        let [mut seen, mut stopped] = [0, 1].map(|_| Ahead::<()>::start(|| panic!("as planned")));
        let error = seen.next(&stop).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        let text = error.to_string();
        assert!(
            text.contains("as planned (src/run/read_ahead.rs:"),
            "{text}"
        );
        while stopped.0.is_empty() {
            tokio::task::yield_now().await;
        }
        sender.send_replace(Some(Signal::Terminate));
        assert_eq!(
            stopped.next(&stop).await.unwrap_err().kind(),
            Kind::Internal
        );
    }
}
