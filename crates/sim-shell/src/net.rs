//! turmoil's sockets as a node's network, behind the links' gates.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nihilo_host::net::{GivenListener, GivenNet, GivenStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use crate::links::{Edge, Links};

/// Ports of instances, from here on; each is used once.
const FIRST_INSTANCE_PORT: u16 = 20_000;

/// The network of one host.
#[derive(Debug)]
pub(crate) struct SimNet {
    me: String,
    links: Arc<Links>,
    next_port: AtomicU16,
}

impl SimNet {
    pub(crate) fn new(me: &str, links: Arc<Links>) -> Self {
        Self {
            me: me.to_owned(),
            links,
            next_port: AtomicU16::new(FIRST_INSTANCE_PORT),
        }
    }

    fn gate(&self, peer: String) -> Gate {
        let (incoming, outgoing) = ((peer.clone(), self.me.clone()), (self.me.clone(), peer));
        Gate {
            n_resets: self.links.n_resets(&incoming) + self.links.n_resets(&outgoing),
            incoming,
            outgoing,
            number: self.links.number(),
            links: self.links.clone(),
        }
    }
}

impl GivenNet for SimNet {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn GivenListener>>> {
        async move {
            let listener = TcpListener::bind(address).await?;
            let net = Self::new(&self.me, self.links.clone());
            let listener = SimListener { listener, net };
            Ok(Box::new(listener) as Box<dyn GivenListener>)
        }
        .boxed()
    }

    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn GivenStream>>> {
        async move {
            let host = address.split(':').next().unwrap_or_default();
            let gate = self.gate(if host == "127.0.0.1" { &self.me } else { host }.to_owned());
            std::future::poll_fn(|context| gate.passes_both(context)).await;
            let stream = TcpStream::connect(address).await?;
            Ok(Box::new(SimStream { stream, gate }) as Box<dyn GivenStream>)
        }
        .boxed()
    }

    fn free_port(&self) -> io::Result<SocketAddr> {
        let port = self.next_port.fetch_add(1, Ordering::Relaxed);
        Ok(SocketAddr::from(([127, 0, 0, 1], port)))
    }
}

struct SimListener {
    listener: TcpListener,
    net: SimNet,
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimListener")
            .field("net", &self.net)
            .finish_non_exhaustive()
    }
}

impl GivenListener for SimListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn GivenStream>, SocketAddr)>> {
        async move {
            let (stream, client) = self.listener.accept().await?;
            let peer = match client.ip().is_loopback() {
                true => self.net.me.clone(),
                false => turmoil::reverse_lookup(client.ip()).unwrap_or_default(),
            };
            let gate = self.net.gate(peer);
            let stream = Box::new(SimStream { stream, gate });
            Ok((stream as Box<dyn GivenStream>, client))
        }
        .boxed()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Both directions of one connection's link.
#[derive(Debug)]
struct Gate {
    number: u64,
    incoming: Edge,
    outgoing: Edge,
    /// When the connection was made.
    n_resets: u64,
    links: Arc<Links>,
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.links.forget(self.number);
    }
}

impl Gate {
    fn passes_both(&self, context: &Context<'_>) -> Poll<()> {
        if self.links.is_cut(&self.incoming) || self.links.is_cut(&self.outgoing) {
            self.links.wait(self.number, context);
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn check_reset(&self) -> io::Result<()> {
        let now = self.links.n_resets(&self.incoming) + self.links.n_resets(&self.outgoing);
        match now == self.n_resets {
            true => Ok(()),
            false => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    fn poll_incoming(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        if self.links.is_cut(&self.incoming) {
            self.links.wait(self.number, context);
            return Poll::Pending;
        }
        // Whoever waits for bytes of a reset connection is woken by the heal.
        let checked = self.check_reset();
        if checked.is_ok() {
            self.links.wait(self.number, context);
        }
        Poll::Ready(checked)
    }
}

#[derive(Debug)]
struct SimStream {
    stream: TcpStream,
    gate: Gate,
}

impl GivenStream for SimStream {
    fn poll_peek(
        &mut self,
        context: &mut Context<'_>,
        head: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.gate.poll_incoming(context))?;
        self.stream.poll_peek(context, head)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.gate.poll_incoming(context))?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.gate.check_reset()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
