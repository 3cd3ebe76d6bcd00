//! Connections that a fault can break below HTTP, because hyper itself always keeps to the rules.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::lock;

/// The other end of a connection, and how the connection will end.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    address: SocketAddr,
    end: Arc<Mutex<End>>,
}

#[derive(Debug, Default)]
struct End {
    rest: Bytes,
    is_reset: bool,
}

impl Peer {
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends these bytes after the last response, whatever length that response announced.
    pub(super) fn append(&self, rest: Bytes) {
        lock(&self.end).rest = rest;
    }

    /// Ends the connection by a reset instead of a close.
    pub(super) fn reset(&self) {
        lock(&self.end).is_reset = true;
    }
}

/// Accepts connections.
#[derive(Debug)]
pub(crate) struct Listener(pub(crate) TcpListener);

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = axum::serve::Listener::accept(&mut self.0).await;
        let end = Arc::default();
        let peer = Peer { address, end };
        (Connection { stream, peer }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.io().peer.clone()
    }
}

/// A TCP connection that ends as its [`Peer`] was told.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    peer: Peer,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if lock(&self.peer.end).is_reset {
            self.stream.set_zero_linger().ok(); // without it the peer sees a close, which is bad enough
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Connection { stream, peer } = &mut *self;
        let mut end = lock(&peer.end);
        while !end.rest.is_empty() {
            let sent = ready!(Pin::new(&mut *stream).poll_write(cx, &end.rest))?;
            end.rest = end.rest.slice(sent..);
        }
        Pin::new(stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
