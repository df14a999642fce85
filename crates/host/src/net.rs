//! Sockets: the system's, or a simulation's.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;

use crate::sockets;

/// Where listeners and connections come from.
#[derive(Debug, Clone, Default)]
pub enum Net {
    #[default]
    System,
    Given(Arc<dyn GivenNet>),
}

/// A network that is not the system's.
pub trait GivenNet: Debug + Send + Sync + 'static {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn GivenListener>>>;
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn GivenStream>>>;
    /// A loopback port that nobody listens on, and nobody else gets while it is in use.
    ///
    /// # Errors
    /// None is left.
    fn free_port(&self) -> io::Result<SocketAddr>;
}

pub trait GivenListener: Debug + Send + Sync + 'static {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn GivenStream>, SocketAddr)>>;
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

pub trait GivenStream: AsyncRead + AsyncWrite + Debug + Send + Unpin + 'static {
    /// Reads without taking; the number of bytes seen, 0 at the end.
    fn poll_peek(
        &mut self,
        context: &mut Context<'_>,
        head: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>>;
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

impl Net {
    /// A socket that this process has inherited is used where it listens at `address`.
    ///
    /// # Errors
    /// The address is in use, or is not this machine's.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        match self {
            Self::System => {
                let listener = match sockets::inherited(address) {
                    Some(inherited) => TcpListener::from_std(inherited)?,
                    None => TcpListener::bind(address).await?,
                };
                sockets::keep(&listener)?;
                Ok(Listener::System(listener))
            }
            Self::Given(net) => net.listen(address).await.map(Listener::Given),
        }
    }

    /// Connects to `host:port`; the caller bounds the time.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens there.
    pub async fn dial(&self, address: &str) -> io::Result<Stream> {
        match self {
            Self::System => TcpStream::connect(address).await.map(Stream::System),
            Self::Given(net) => net.dial(address).await.map(Stream::Given),
        }
    }

    /// Takes a loopback port on which connections are refused until it listens.
    ///
    /// # Errors
    /// No port is left.
    pub fn reserve(&self) -> io::Result<Reserved> {
        match self {
            Self::System => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
                let address = socket.local_addr()?;
                Ok(Reserved {
                    address,
                    kind: ReservedKind::System(socket),
                })
            }
            Self::Given(net) => Ok(Reserved {
                address: net.free_port()?,
                kind: ReservedKind::Given(net.clone()),
            }),
        }
    }

    pub fn is_system(&self) -> bool {
        matches!(self, Self::System)
    }
}

/// A loopback port that is taken, and refuses connections.
#[derive(Debug)]
pub struct Reserved {
    pub address: SocketAddr,
    kind: ReservedKind,
}

#[derive(Debug)]
enum ReservedKind {
    System(TcpSocket),
    Given(Arc<dyn GivenNet>),
}

impl Reserved {
    /// Listens from now on, with up to `backlog` connections that wait.
    ///
    /// # Errors
    /// The system's.
    pub async fn listen(self, backlog: u32) -> io::Result<Listener> {
        match self.kind {
            ReservedKind::System(socket) => socket.listen(backlog).map(Listener::System),
            ReservedKind::Given(net) => net.listen(self.address).await.map(Listener::Given),
        }
    }
}

#[derive(Debug)]
pub enum Listener {
    System(TcpListener),
    Given(Box<dyn GivenListener>),
}

impl Listener {
    /// # Errors
    /// Out of descriptors and the like; the listener goes on.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Self::System(listener) => {
                let (stream, client) = listener.accept().await?;
                Ok((Stream::System(stream), client))
            }
            Self::Given(listener) => {
                let (stream, client) = listener.accept().await?;
                Ok((Stream::Given(stream), client))
            }
        }
    }

    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::System(listener) => listener.local_addr(),
            Self::Given(listener) => listener.local_addr(),
        }
    }

    /// Hands it to the runtime that will accept from it.
    ///
    /// # Errors
    /// The system's.
    pub fn move_to(self, runtime: &Handle) -> io::Result<Self> {
        match self {
            Self::System(listener) => {
                let listener = listener.into_std()?;
                let _entered = runtime.enter();
                TcpListener::from_std(listener).map(Self::System)
            }
            Self::Given(listener) => Ok(Self::Given(listener)),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    System(TcpStream),
    Given(Box<dyn GivenStream>),
}

impl Stream {
    /// Sends small writes at once.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::System(stream) => stream.set_nodelay(true),
            Self::Given(_) => Ok(()),
        }
    }

    /// # Errors
    /// The connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::System(stream) => stream.local_addr(),
            Self::Given(stream) => stream.local_addr(),
        }
    }

    /// Reads into `head` without taking; returns how many bytes are there, 0 at the end.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn peek(&mut self, head: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::System(stream) => stream.peek(head).await,
            Self::Given(stream) => {
                let mut head = ReadBuf::new(head);
                std::future::poll_fn(|context| stream.poll_peek(context, &mut head)).await
            }
        }
    }

    /// Hands it to the runtime that will use it.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn move_to(self, runtime: &Handle) -> io::Result<Self> {
        match self {
            Self::System(stream) => {
                let stream = stream.into_std()?;
                let _entered = runtime.enter();
                TcpStream::from_std(stream).map(Self::System)
            }
            Self::Given(stream) => Ok(Self::Given(stream)),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::System(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Given(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::System(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Given(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::System(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Given(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::System(stream) => stream.is_write_vectored(),
            Self::Given(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::System(stream) => Pin::new(stream).poll_flush(context),
            Self::Given(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::System(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Given(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
