//! Accepts connections, and ends them: hyper itself has limits that axum's own loop does not set. There are never more
//! connections than the process may have files, less those that the log and the stores need.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::patience::Patient;
use crate::run::Stop;

/// How long the head of a request may take, and how long a connection may wait for its next request.
const HEAD_TIME: Duration = Duration::from_secs(20);

/// The largest head of a request.
const MOST_HEAD_BYTES: usize = 16 << 10;

/// How long answers under way may take after the stop.
const DRAIN: Duration = Duration::from_secs(2);

/// The pause after a failure to accept, which is most often a lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections that the system keeps until they are accepted.
const BACKLOG: u32 = 1_024;

/// What the system keeps for a client that does not read. More would only hide for longer that it does not.
const SEND_BUFFER: u32 = 64 << 10;

/// Clients that are told at the same time that there is no place for them; others are only disconnected.
const TOLD: usize = 32;

/// How long telling them may take.
const TELL_TIME: Duration = Duration::from_secs(1);

/// The answer if there is no place. Browsers and scripts try again.
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 5\r\n\
    cache-control: no-store\r\nconnection: close\r\ncontent-length: 100\r\n\r\n\
    {\"status\":503,\"detail\":\"too many connections are open\",\"expected\":\"another request in some seconds\"}";

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections: usize,
    /// How long a client may take nothing of what waits for it.
    pub(crate) patience: Duration,
}

/// Listens on an address.
pub(crate) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?; // as every server does, so that it can be started again at once
    socket.set_send_buffer_size(SEND_BUFFER)?; // which each connection inherits
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until told to stop, and then until the answers under way are complete, or [`DRAIN`] has passed.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: &Stop, limits: Limits) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(TOLD));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue, // one that has ended
            _ = stop.wait() => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if let Some(place) = take(&places) {
            let (router, stop) = (router.clone(), stop.clone());
            connections.spawn(async move {
                answer(stream, router, &stop, limits.patience).await;
                drop(place);
            });
        } else if let Some(place) = take(&refusals) {
            connections.spawn(async move {
                refuse(stream).await;
                drop(place);
            });
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    // What takes longer is cut off.
    tokio::time::timeout(DRAIN, drained).await.unwrap_or(());
}

/// A place, if there is one left.
fn take(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(places).try_acquire_owned().ok()
}

/// Answers the requests of a connection.
async fn answer(stream: TcpStream, router: Router, stop: &Stop, patience: Duration) {
    stream.set_nodelay(true).ok(); // only slower without
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MOST_HEAD_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream, patience)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stop.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // The client has gone, does not read, or sent something else than HTTP; nobody is left to tell.
    ended.unwrap_or(());
}

/// Says that there is no place.
async fn refuse(mut stream: TcpStream) {
    let told = async {
        // If a request is left unread, the system resets the connection, and the client may lose the answer.
        let mut request = [0; 4_096];
        if stream.read(&mut request).await? == 0 {
            return Ok(());
        }
        stream.write_all(FULL.as_bytes()).await?;
        stream.shutdown().await?;
        while stream.read(&mut request).await? > 0 {}
        Ok(())
    };
    // Whoever does not listen is disconnected all the same.
    let told: Result<std::io::Result<()>, _> = tokio::time::timeout(TELL_TIME, told).await;
    told.unwrap_or(Ok(())).unwrap_or(());
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::run::Signal;

    const LONG: Duration = Duration::from_secs(60);

    /// A server whose answers are so long that no buffer holds one, and what stops it.
    async fn start(
        connections: usize,
        patience: Duration,
    ) -> (
        SocketAddr,
        tokio::sync::watch::Sender<Option<Signal>>,
        JoinHandle<()>,
    ) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(async || "hello"))
            .route("/long", get(async || "x".repeat(64 << 20)));
        let (stopper, stop) = Stop::channel();
        let limits = Limits {
            connections,
            patience,
        };
        let server = tokio::spawn(async move { serve(listener, router, &stop, limits).await });
        (address, stopper, server)
    }

    async fn ask(address: SocketAddr, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn begin_of_answer(stream: &mut TcpStream) -> String {
        let mut answer = [0; 12];
        let read = tokio::time::timeout(LONG, stream.read_exact(&mut answer)).await;
        read.unwrap().unwrap();
        String::from_utf8(answer.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn beyond_the_limit_a_client_is_told_and_a_place_is_free_again_later() {
        let (address, stopper, server) = start(2, LONG).await;
        let mut first = ask(address, "/").await;
        let mut second = ask(address, "/").await;
        assert_eq!(begin_of_answer(&mut first).await, "HTTP/1.1 200");
        assert_eq!(begin_of_answer(&mut second).await, "HTTP/1.1 200");
        let mut third = ask(address, "/").await;
        let mut answer = String::new();
        third.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        let length = format!("content-length: {}", body.len());
        assert!(head.ends_with(&length), "{head}: {length}");
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["status"], 503);
        drop(first);
        loop {
            let mut next = ask(address, "/").await;
            if begin_of_answer(&mut next).await == "HTTP/1.1 200" {
                break;
            }
        }
        stopper.send(Some(Signal::Terminate)).unwrap();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_loses_its_place() {
        let (address, stopper, server) = start(1, Duration::from_millis(50)).await;
        let mut silent = ask(address, "/long").await;
        loop {
            let mut next = ask(address, "/").await;
            if begin_of_answer(&mut next).await == "HTTP/1.1 200" {
                break;
            }
        }
        let mut rest = Vec::new();
        // It is cut off: an error, or an end before the end.
        let read = silent.read_to_end(&mut rest).await;
        assert!(read.is_err() || rest.len() < 64 << 20);
        stopper.send(Some(Signal::Terminate)).unwrap();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_reads_gets_everything() {
        let (address, stopper, server) = start(1, LONG).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET /long HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.len() > 64 << 20);
        stopper.send(Some(Signal::Terminate)).unwrap();
        server.await.unwrap();
    }
}
