//! Listening sockets that outlive a program: handed to the one that takes its place in the same process,
//! so that nobody who dials meanwhile is refused. The kernel lets them wait.
//!
//! ```text
//! listen ──> kept, a second descriptor ── hand_over ──> standard input of the next program
//!            let_go: the listener's own is the last                 │ take_over
//!                                        listen at that address <───┘
//! ```
//!
//! They travel as a message on standard input: what is found there is owned from the first moment, and
//! no number of a descriptor has to be believed. Only a process that asks for it keeps any
//! ([`keep_from_now_on`]).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Listeners of one node, at most: three ports, the gateway's TLS and private ones.
const MAX: usize = 5;
/// A message without a byte is none.
const WORD: &[u8] = b"sockets";

/// Of this process.
static KEPT: Mutex<Kept> = Mutex::new(Kept {
    keeps: false,
    open: Vec::new(),
    inherited: Vec::new(),
});

#[derive(Debug)]
struct Kept {
    keeps: bool,
    /// Second descriptors of what is listened on.
    open: Vec<OwnedFd>,
    /// From the program before, not yet asked for.
    inherited: Vec<TcpListener>,
}

/// What is listened on after this can be handed over.
pub fn keep_from_now_on() {
    lock().keeps = true;
}

/// Closes what was kept: a listener that ends refuses from then on, as ever. Nothing is kept any more.
pub fn let_go() {
    let mut kept = lock();
    kept.keeps = false;
    kept.open.clear();
    kept.inherited.clear();
}

/// Closes what the program before had and this one does not listen on, and says which.
pub fn close_unused() -> Vec<SocketAddr> {
    let unused = std::mem::take(&mut lock().inherited);
    unused
        .iter()
        .filter_map(|socket| socket.local_addr().ok())
        .collect()
}

/// Puts everything that is kept into a socket that is to be the next program's standard input.
///
/// # Errors
/// The system's; what was kept is closed then.
pub fn hand_over() -> io::Result<OwnedFd> {
    let open = std::mem::take(&mut lock().open);
    let (ours, theirs) = UnixDatagram::pair()?;
    let descriptors: Vec<BorrowedFd<'_>> = open.iter().take(MAX).map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("too many sockets for one message"));
    }
    sendmsg(
        &ours,
        &[IoSlice::new(WORD)],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(theirs.into())
}

/// Takes what the program before has put on this one's standard input; returns how many that are.
///
/// # Errors
/// Nothing of the kind is there.
pub fn take_over() -> io::Result<usize> {
    let found = received(io::stdin().as_fd())?;
    let n = found.len();
    lock().inherited = found;
    Ok(n)
}

fn received(socket: BorrowedFd<'_>) -> io::Result<Vec<TcpListener>> {
    let mut word = [0; WORD.len()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut word)],
        &mut control,
        flags,
    )?;
    if word != WORD {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "another message",
        ));
    }
    let sockets = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    Ok(sockets.map(TcpListener::from).collect())
}

/// The inherited socket that listens at `address`, if there is one. Else those are closed that are in the
/// way of one that is to listen there.
pub(crate) fn inherited(address: SocketAddr) -> Option<TcpListener> {
    let inherited = &mut lock().inherited;
    let is_it = |socket: &TcpListener| socket.local_addr().is_ok_and(|own| own == address);
    if let Some(place) = inherited.iter().position(is_it) {
        return Some(inherited.swap_remove(place));
    }
    let is_apart = |socket: &TcpListener| {
        let own = socket.local_addr();
        own.is_ok_and(|own| !is_in_the_way(own, address))
    };
    inherited.retain(is_apart);
    None
}

fn is_in_the_way(own: SocketAddr, wanted: SocketAddr) -> bool {
    let (own_ip, wanted_ip) = (own.ip().to_canonical(), wanted.ip().to_canonical());
    let is_any = own_ip.is_unspecified() || wanted_ip.is_unspecified();
    own.port() == wanted.port() && (is_any || own_ip == wanted_ip)
}

/// Keeps a listener open beyond its own end, where this process wants that.
pub(crate) fn keep(listener: impl AsFd) -> io::Result<()> {
    let mut kept = lock();
    if kept.keeps {
        kept.open.push(listener.as_fd().try_clone_to_owned()?);
    }
    Ok(())
}

fn lock() -> std::sync::MutexGuard<'static, Kept> {
    // Each step leaves it whole.
    KEPT.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    /// One test, as what is kept is the whole process's.
    #[test]
    fn who_dials_between_two_programs_is_served_by_the_second() {
        let none = UnixDatagram::pair().unwrap().0;
        assert!(received(none.as_fd()).is_err());

        let first = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = first.local_addr().unwrap();
        keep(&first).unwrap();
        assert!(lock().open.is_empty(), "nobody asked for it");
        keep_from_now_on();
        keep(&first).unwrap();
        drop(first);
        let mut dialled = TcpStream::connect(address).unwrap();
        dialled.write_all(b"hello").unwrap();

        let handed = hand_over().unwrap();
        lock().inherited = received(handed.as_fd()).unwrap();
        let elsewhere = SocketAddr::from(([127, 0, 0, 2], address.port()));
        assert!(inherited(elsewhere).is_none());
        let other_port = SocketAddr::from(([0, 0, 0, 0], address.port() ^ 1));
        assert!(inherited(other_port).is_none());
        let second = inherited(address).unwrap();
        assert!(inherited(address).is_none() && close_unused().is_empty());
        let (mut accepted, _) = second.accept().unwrap();
        let mut said = [0; 5];
        accepted.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello");

        keep(&second).unwrap();
        let_go();
        drop(second);
        assert!(TcpStream::connect(address).is_err(), "it was let go");

        // Another program may take a port as soon as it is free.
        assert!((0..5).any(|_| is_given_up_for_a_wider_address()));
    }

    fn is_given_up_for_a_wider_address() -> bool {
        let moved = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = moved.local_addr().unwrap().port();
        lock().inherited = vec![moved];
        let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
        assert!(TcpListener::bind(everywhere).is_err());
        assert!(inherited(everywhere).is_none());
        TcpListener::bind(everywhere).is_ok()
    }
}
