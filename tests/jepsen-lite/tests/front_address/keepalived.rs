//! By the keepalived configuration that is shipped: the address moves when its box dies, when its gateway
//! dies, and when its gateway drains.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nihilo_jepsen_lite::backend::N_NODES;
use nihilo_jepsen_lite::probe;
use nihilo_types::node_config::OnNodeExit;
use rustix::process::Signal;

use super::boxes::{
    Boxes, GATEWAY, HOST, LIMIT, LOOK_EVERY, Machine, ask, gateway_is_well, inside, missing,
    signal, wait_for,
};

const SHIPPED: &str = include_str!("../../../../packaging/keepalived/keepalived.conf");
/// The host number that no box has; as in the shipped file.
const FRONT: u8 = 100;
/// Three adverts of a second each, or two looks.
const MOVE_LIMIT: Duration = Duration::from_secs(4);
/// What a machine that is busy otherwise may take longer.
const BUSY: Duration = Duration::from_secs(1);
/// An instance may have to be started first.
const SERVICE_LIMIT: Duration = Duration::from_secs(30);

struct Shared {
    /// They go first: each has a child.
    keepalived: Vec<Child>,
    front: Ipv4Addr,
    boxes: Boxes,
}

impl Shared {
    fn start(boxes: Boxes) -> anyhow::Result<Self> {
        let [a, b, c, _] = boxes.network.address(0).octets();
        let mut shared = Self {
            keepalived: Vec::new(),
            front: Ipv4Addr::new(a, b, c, FRONT),
            boxes,
        };
        for place in 0..N_NODES {
            let started = shared.start_one(place)?;
            shared.keepalived.push(started);
        }
        Ok(shared)
    }

    fn start_one(&self, place: usize) -> anyhow::Result<Child> {
        let machine = &self.boxes.all[place];
        let file = |name: &str| machine.dir().join(name);
        std::fs::write(
            file("keepalived.conf"),
            self.keepalived_config(machine.address),
        )?;
        let shown = |name: &str| file(name).display().to_string();
        let mut keepalived = inside(&machine.namespace, "keepalived", &file("keepalived.log"))?;
        keepalived.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
        keepalived.args(["--use-file", &shown("keepalived.conf")]);
        keepalived.args(["--pid", &shown("keepalived.pid")]);
        keepalived.args(["--vrrp_pid", &shown("vrrp.pid")]);
        Ok(keepalived.spawn()?)
    }

    /// The shipped file with what its comments call `of this box` put in.
    fn keepalived_config(&self, own: Ipv4Addr) -> String {
        let others = (0..N_NODES).map(|place| self.boxes.network.address(place));
        let others: Vec<_> = others.filter(|address| *address != own).collect();
        let changes = [
            ("/usr/bin/nihilo", self.boxes.binary.display().to_string()),
            // The binary under test may lie where others may write.
            ("    enable_script_security\n", String::new()),
            ("10.0.0.100", self.front.to_string()),
            ("10.0.0.1 ", format!("{own} ")),
            ("10.0.0.2 ", format!("{} ", others[0])),
            ("10.0.0.3\n", format!("{}\n", others[1])),
        ];
        changes.iter().fold(SHIPPED.to_owned(), |text, (old, new)| {
            assert!(text.contains(old), "`{old}` in {text}");
            text.replace(old, new)
        })
    }

    /// Who has the front address, by what each kernel says.
    fn holders(&self) -> Vec<usize> {
        let holds = |place: &usize| {
            let shown = Command::new("ip")
                .args([
                    "-n",
                    &self.boxes.all[*place].namespace,
                    "-4",
                    "addr",
                    "show",
                ])
                .output()
                .expect("ip");
            String::from_utf8_lossy(&shown.stdout).contains(&format!(" {}/", self.front))
        };
        (0..N_NODES).filter(holds).collect()
    }

    fn only_holder(&self) -> usize {
        wait_for("one holder", || match self.holders().as_slice() {
            [one] => Some(*one),
            _ => None,
        })
    }

    /// How long the front address did not answer for, from `fault` on.
    fn silence_after(&self, fault: impl FnOnce()) -> Duration {
        let begun = Instant::now();
        fault();
        // The first look may still meet the old holder: what counts is the last that was in vain.
        let mut silent_until = Duration::ZERO;
        let mut last_change = begun;
        while last_change.elapsed() < MOVE_LIMIT * 2 {
            if !gateway_is_well(self.front) {
                silent_until = begun.elapsed();
                last_change = Instant::now();
                assert!(
                    silent_until < LIMIT,
                    "the address stays away\n{}",
                    self.logs()
                );
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
        silent_until
    }

    /// The holder after a fault at the present one, which must take the place within the limit.
    fn moves(&self, what: &str, fault: impl FnOnce(&Machine)) -> usize {
        let before = self.only_holder();
        let silence = self.silence_after(|| fault(&self.boxes.all[before]));
        eprintln!("{what}: {silence:?} without the answer that a gateway is well");
        assert!(
            silence < MOVE_LIMIT + BUSY,
            "{what}: {silence:?}\n{}",
            self.logs()
        );
        let after = self.only_holder();
        assert_ne!(after, before, "{what}");
        self.serves();
        after
    }

    fn serves(&self) {
        let front = SocketAddr::from((self.front, GATEWAY));
        wait_for("answer of the service", || {
            let answer = ask(front, "/", HOST, SERVICE_LIMIT).ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        });
    }

    fn logs(&self) -> String {
        self.boxes.logs("keepalived.log")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for keepalived in &mut self.keepalived {
            // It has children, and ends them when it is told to end.
            let _gone = signal(keepalived, Signal::TERM);
            drop(keepalived.wait());
        }
    }
}

#[test]
fn the_front_address_moves_to_a_gateway_that_wants_traffic() {
    if let Some(why) = missing(&["keepalived"]) {
        return eprintln!("skipped: {why}");
    }
    let binary = probe::binary().expect("it was there");
    let shared = Boxes::start(binary, OnNodeExit::Kill, false).and_then(Shared::start);
    let mut shared = match shared {
        Ok(shared) => shared,
        Err(error) => return eprintln!("skipped: {error:#}"),
    };
    wait_for("front address", || {
        gateway_is_well(shared.front).then_some(())
    });
    let service = ["service", "create", "hello", "--image", "demo/hello"];
    shared
        .boxes
        .cli(&[&service[..], &["--scale", "3..3"]].concat());
    shared.serves();

    let first = shared.only_holder();
    let second = shared.moves("gateway killed", |holder| {
        signal(&holder.node, Signal::KILL).expect("it runs");
    });
    // Back again, it does not take the address back.
    shared.boxes.restart(first);
    assert_eq!(shared.silence_after(|| {}), Duration::ZERO);
    assert_eq!(shared.only_holder(), second);

    shared.moves("gateway told to stop", |holder| {
        signal(&holder.node, Signal::TERM).expect("it runs");
    });
    shared.boxes.restart(second);

    shared.moves("box unplugged", |holder| holder.plug("down"));
}
