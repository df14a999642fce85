//! A socket of the test's own in front of a Docker engine, which fails at a byte that the test names: from
//! there on it is an engine that has died, until it is told to come back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use crate::common::LIMIT;

const PIECE_BYTES: usize = 64 * 1024;

/// When the engine fails. Of one connection, as an image is the one thing of that size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fails {
    Never,
    /// It has said so many bytes.
    Answering(usize),
    /// It was told so many bytes.
    Listening(usize),
    /// It was told as many at least, has done what it was to do, and is about to say so.
    Done(usize),
}

#[derive(Debug)]
struct State {
    fails: Fails,
    is_down: bool,
    /// Both ends of every connection.
    open: Vec<UnixStream>,
}

#[derive(Debug)]
struct Shared {
    engine: PathBuf,
    state: Mutex<State>,
    went_down: Condvar,
}

/// Listens as long as the test's process lives.
#[derive(Debug)]
pub(crate) struct EngineProxy {
    socket: PathBuf,
    shared: Arc<Shared>,
}

impl EngineProxy {
    pub(crate) fn before(engine: &Path, socket: PathBuf) -> Self {
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::new(Shared {
            engine: engine.to_owned(),
            state: Mutex::new(State {
                fails: Fails::Never,
                is_down: false,
                open: Vec::new(),
            }),
            went_down: Condvar::new(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                accepting.connect(client.unwrap());
            }
        });
        Self { socket, shared }
    }

    /// What a node's configuration says to use it.
    pub(crate) fn settings(&self) -> String {
        format!("docker:\n  socket: {}\n", self.socket.display())
    }

    pub(crate) fn fail(&self, fails: Fails) {
        self.shared.state.lock().unwrap().fails = fails;
    }

    pub(crate) fn until_down(&self) {
        let state = self.shared.state.lock().unwrap();
        let down = self
            .shared
            .went_down
            .wait_timeout_while(state, LIMIT, |state| !state.is_down);
        assert!(
            !down.unwrap().1.timed_out(),
            "the engine was not asked for so much"
        );
    }

    pub(crate) fn come_back(&self) {
        let mut state = self.shared.state.lock().unwrap();
        (state.fails, state.is_down) = (Fails::Never, false);
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, client: UnixStream) {
        let mut state = self.state.lock().unwrap();
        if state.is_down {
            return;
        }
        let engine = UnixStream::connect(&self.engine).unwrap();
        state
            .open
            .extend([client.try_clone().unwrap(), engine.try_clone().unwrap()]);
        drop(state);
        // Bytes that the engine was told on this connection.
        let told = Arc::new(Mutex::new(0));
        let ways = [
            (
                client.try_clone().unwrap(),
                engine.try_clone().unwrap(),
                true,
            ),
            (engine, client, false),
        ];
        for (from, to, is_to_engine) in ways {
            let (shared, told) = (self.clone(), told.clone());
            std::thread::spawn(move || shared.carry(from, to, is_to_engine, &told));
        }
    }

    /// One way of a connection, until either end or the engine is gone.
    fn carry(
        &self,
        mut from: UnixStream,
        mut to: UnixStream,
        is_to_engine: bool,
        told: &Mutex<usize>,
    ) {
        let (mut piece, mut n_bytes) = (vec![0; PIECE_BYTES], 0);
        while let Ok(n @ 1..) = from.read(&mut piece) {
            n_bytes += n;
            if is_to_engine {
                *told.lock().unwrap() = n_bytes;
            }
            let n_told = *told.lock().unwrap();
            let fails = self.state.lock().unwrap().fails;
            let is_due = match fails {
                Fails::Never => false,
                Fails::Answering(limit) => !is_to_engine && n_bytes >= limit,
                Fails::Listening(limit) => is_to_engine && n_bytes >= limit,
                Fails::Done(limit) => !is_to_engine && n_told >= limit,
            };
            if is_due {
                return self.go_down();
            }
            if to.write_all(&piece[..n]).is_err() {
                break;
            }
        }
        // As the one end has it, so has the other.
        drop(to.shutdown(Shutdown::Write));
    }

    fn go_down(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_down = true;
        for stream in state.open.drain(..) {
            // Closed by its end before is as good.
            drop(stream.shutdown(Shutdown::Both));
        }
        self.went_down.notify_all();
    }
}
