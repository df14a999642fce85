//! Port offsets of clusters in tests that run at the same time.

use std::fs::File;
use std::net::TcpListener;

use super::{ADMIN, GATEWAY, PEER};

/// Offsets of this range keep all listeners below the ports that nodes give to instances.
const FIRST: u16 = 1_000;
const N: u32 = 1_080;
const STEP: u16 = 10;

/// Nine ports for the listeners of three nodes, kept from the other tests until it is dropped.
#[derive(Debug)]
pub(super) struct Offset {
    pub(super) number: u16,
    _ports: Vec<File>,
}

impl Offset {
    /// One whose ports are free; `slot` keeps tests of one process apart.
    pub(super) fn find(slot: u16) -> Self {
        // Neighbouring pids and slots start far apart.
        let start = std::process::id()
            .wrapping_mul(37)
            .wrapping_add(u32::from(slot) * 401);
        (0..N)
            .map(|n| {
                let place = start.wrapping_add(n * 17) % N;
                FIRST + STEP * u16::try_from(place).unwrap()
            })
            .find_map(Self::take)
            .expect("some offset is free")
    }

    fn take(number: u16) -> Option<Self> {
        let ports = (0..3).flat_map(|i| [GATEWAY + i, ADMIN + 100 * i, PEER + 100 * i]);
        let ports = ports.map(|port| claimed(port + number));
        Some(Self {
            number,
            _ports: ports.collect::<Option<_>>()?,
        })
    }
}

/// A port that is free, by a lock: between a look at it and the node's use of it, another test could
/// give it to a node of its own, and even another's look would be in the way of the node.
fn claimed(port: u16) -> Option<File> {
    let dir = std::env::temp_dir().join("nihilo-test-ports");
    std::fs::create_dir_all(&dir).unwrap();
    let file = File::create(dir.join(port.to_string())).unwrap();
    file.try_lock().ok()?;
    TcpListener::bind(("127.0.0.1", port)).ok()?;
    Some(file)
}
