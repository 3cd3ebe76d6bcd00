//! Accepts connections, and ends them: hyper itself has limits that axum's own loop does not set.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::run::Stop;

/// Maximum connections at once; others wait.
const MOST_CONNECTIONS: usize = 1_024;

/// How long the head of a request may take, and how long a connection may wait for its next request.
const HEAD_TIME: Duration = Duration::from_secs(20);

/// The largest head of a request.
const MOST_HEAD_BYTES: usize = 16 << 10;

/// How long answers under way may take after the stop.
const DRAIN: Duration = Duration::from_secs(2);

/// The pause after a failure to accept, which is most often a lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until told to stop, and then until the answers under way are complete, or [`DRAIN`] has passed.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: &Stop) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            Some(_) = connections.join_next() => continue, // one that has ended
            _ = stop.wait() => break,
        };
        let Some((stream, place)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            answer(stream, router, &stop).await;
            drop(place);
        });
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    // What takes longer is cut off.
    tokio::time::timeout(DRAIN, drained).await.unwrap_or(());
}

type Place = tokio::sync::OwnedSemaphorePermit;

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, Place)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    let (stream, _) = listener.accept().await.ok()?;
    Some((stream, place))
}

/// Answers the requests of a connection.
async fn answer(stream: TcpStream, router: Router, stop: &Stop) {
    stream.set_nodelay(true).ok(); // only slower without
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MOST_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stop.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // The client has gone, or sent something else than HTTP; nobody is left to tell.
    ended.unwrap_or(());
}
