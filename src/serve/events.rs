//! The state as it changes: server-sent events. Each reader gets the state, and then merge patches, which were
//! made once for all of them. A reader that does not keep up is dropped; its browser connects again, and gets the state.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::Site;
use crate::dashboard::News;
use crate::run::Stop;

/// How soon a browser connects again, in milliseconds.
const RETRY_MS: u32 = 2_000;

/// A comment this often keeps proxies from ending an idle connection.
const COMMENT: Duration = Duration::from_secs(15);

/// A reader of the state.
struct Reader {
    first: Option<News>,
    last_id: u64,
    news: Receiver<News>,
    stop: Stop,
}

/// Answers until the reader has gone, is too slow, or the server stops.
pub(super) async fn events(State(site): State<Arc<Site>>) -> Response {
    let (first, news) = site.board.follow();
    let reader = Reader {
        last_id: first.id,
        first: Some(first),
        news,
        stop: site.run.stop.clone(),
    };
    let frames = stream::unfold(reader, |mut reader| async {
        let frame = reader.next().await?;
        Some((
            Ok::<_, std::convert::Infallible>(Bytes::from(frame)),
            reader,
        ))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(frames)).into_response()
}

impl Reader {
    /// The next frame; none at the end.
    async fn next(&mut self) -> Option<String> {
        if let Some(News { id, state, .. }) = self.first.take() {
            return Some(format!(
                "retry: {RETRY_MS}\nevent: state\nid: {id}\ndata: {state}\n\n"
            ));
        }
        loop {
            let news = tokio::select! {
                news = self.news.recv() => news,
                () = tokio::time::sleep(COMMENT) => return Some(": still here\n\n".into()),
                _ = self.stop.wait() => return None,
            };
            match news {
                Ok(News { id, .. }) if id <= self.last_id => {}
                Ok(News { id, patch, .. }) => {
                    self.last_id = id;
                    return Some(format!("event: patch\nid: {id}\ndata: {patch}\n\n"));
                }
                Err(RecvError::Lagged(_) | RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(id: u64) -> News {
        News {
            id,
            state: "{}".into(),
            patch: "{}".into(),
        }
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_is_dropped() {
        let (_stopper, stop) = Stop::channel();
        let (sender, receiver) = tokio::sync::broadcast::channel(2);
        let mut reader = Reader {
            first: Some(news(7)),
            last_id: 7,
            news: receiver,
            stop,
        };
        let begin = "retry: 2000\nevent: state\nid: 7\ndata: {}\n\n";
        assert_eq!(reader.next().await.as_deref(), Some(begin));
        sender.send(news(7)).unwrap(); // which the state has
        sender.send(news(8)).unwrap();
        let patch = "event: patch\nid: 8\ndata: {}\n\n";
        assert_eq!(reader.next().await.as_deref(), Some(patch));
        for id in 9..12 {
            sender.send(news(id)).unwrap();
        }
        assert_eq!(reader.next().await, None);
    }

    #[tokio::test]
    async fn a_stop_ends_the_events() {
        let (stopper, stop) = Stop::channel();
        let (_sender, news_of) = tokio::sync::broadcast::channel(2);
        let mut reader = Reader {
            first: None,
            last_id: 0,
            news: news_of,
            stop,
        };
        stopper.send(Some(crate::run::Signal::Terminate)).unwrap();
        assert_eq!(reader.next().await, None);
    }
}
