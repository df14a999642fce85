//! One address in front of three gateways, by the keepalived configuration that is shipped: it moves when
//! its box dies, when its gateway dies, and when its gateway drains.
//!
//! Three nodes and three keepalived in network namespaces. Where those, or keepalived, are missing, the
//! test says so and ends.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nihilo_jepsen_lite::backend::{N_NODES, Network};
use nihilo_jepsen_lite::probe;
use nihilo_types::node_config::{Member, NodeConfig, OnNodeExit, Profile};
use rustix::process::{Pid, Signal, kill_process};

const SHIPPED: &str = include_str!("../../../packaging/keepalived/keepalived.conf");
/// The host number that no box has; as in the shipped file.
const FRONT: u8 = 100;
const GATEWAY: u16 = 8080;
/// Three adverts of a second each, or two looks.
const MOVE_LIMIT: Duration = Duration::from_secs(4);
/// What a machine that is busy otherwise may take longer.
const BUSY: Duration = Duration::from_secs(1);
/// Of anything else, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A lost packet is as good as an answer that does not come.
const ASK_LIMIT: Duration = Duration::from_millis(250);
/// An instance may have to be started first.
const SERVICE_LIMIT: Duration = Duration::from_secs(30);

/// A machine of the three.
struct Host {
    namespace: String,
    address: Ipv4Addr,
    config: PathBuf,
    node: Child,
    keepalived: Child,
}

struct Boxes {
    all: Vec<Host>,
    front: Ipv4Addr,
    binary: PathBuf,
    // The processes go first, then what they run in.
    network: Network,
    dir: tempfile::TempDir,
}

impl Boxes {
    fn start(binary: PathBuf) -> anyhow::Result<Self> {
        let network = Network::create()?;
        let [a, b, c, _] = network.address(0).octets();
        let mut boxes = Self {
            all: Vec::new(),
            front: Ipv4Addr::new(a, b, c, FRONT),
            binary,
            network,
            dir: tempfile::tempdir()?,
        };
        for place in 0..N_NODES {
            let started = boxes.start_one(place)?;
            boxes.all.push(started);
        }
        Ok(boxes)
    }

    fn start_one(&self, place: usize) -> anyhow::Result<Host> {
        let dir = self.dir.path().join(format!("box{place}"));
        std::fs::create_dir_all(&dir)?;
        let (namespace, address) = (self.network.namespace(place), self.network.address(place));
        let config = dir.join("node.yaml");
        std::fs::write(&config, self.node_config(place, &dir).to_yaml())?;
        let shared = dir.join("keepalived.conf");
        std::fs::write(&shared, self.keepalived_config(address))?;
        let node = self.start_node(&namespace, &config)?;
        let file = |name: &str| dir.join(name).display().to_string();
        let mut keepalived = inside(&namespace, "keepalived", &dir.join("keepalived.log"))?;
        keepalived.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
        keepalived.args(["--use-file", &file("keepalived.conf")]);
        keepalived.args(["--pid", &file("keepalived.pid")]);
        keepalived.args(["--vrrp_pid", &file("vrrp.pid")]);
        let keepalived = keepalived.spawn()?;
        Ok(Host {
            namespace,
            address,
            config,
            node,
            keepalived,
        })
    }

    fn start_node(&self, namespace: &str, config: &Path) -> anyhow::Result<Child> {
        let log = config.with_file_name("node.log");
        let mut node = inside(namespace, &self.binary.display().to_string(), &log)?;
        node.args(["node", "start", "--config"]).arg(config);
        node.args(["--parent", &std::process::id().to_string()]);
        Ok(node.spawn()?)
    }

    /// On a machine of its own, every port is the default.
    fn node_config(&self, place: usize, dir: &Path) -> NodeConfig {
        let members = (0..N_NODES).map(|place| {
            let host = self.network.address(place);
            Member {
                id: place as u64 + 1,
                name: format!("box{place}"),
                peer: format!("{host}:7071"),
                admin: format!("{host}:7070"),
            }
        });
        let (name, id) = (format!("box{place}"), place as u64 + 1);
        let mut config = NodeConfig::of_one(name, id, dir.join("data"));
        config.listen = "0.0.0.0".into();
        config.advertise = self.network.address(place).to_string();
        config.members = members.collect();
        config.profile = Profile::Calm;
        config.on_node_exit = Some(OnNodeExit::Kill);
        config
    }

    /// The shipped file with what its comments call `of this box` put in.
    fn keepalived_config(&self, own: Ipv4Addr) -> String {
        let others = (0..N_NODES).map(|place| self.network.address(place));
        let others: Vec<_> = others.filter(|address| *address != own).collect();
        let changes = [
            ("/usr/bin/nihilo", self.binary.display().to_string()),
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
                .args(["-n", &self.all[*place].namespace, "-4", "addr", "show"])
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

    fn cli(&self, args: &[&str]) {
        let servers: Vec<_> = self
            .all
            .iter()
            .map(|b| format!("{}:7070", b.address))
            .collect();
        let output = Command::new(&self.binary)
            .args(args)
            .args(["--server", &servers.join(",")])
            .output()
            .expect("the binary");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {text}\n{}", self.logs());
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
    fn moves(&self, what: &str, fault: impl FnOnce(&Host)) -> usize {
        let before = self.only_holder();
        let silence = self.silence_after(|| fault(&self.all[before]));
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

    /// Runs a node that has ended, or is about to, once more.
    fn restart(&mut self, place: usize) {
        drop(self.all[place].node.wait());
        let (namespace, config) = (&self.all[place].namespace, &self.all[place].config);
        let node = self.start_node(namespace, config).expect("a process");
        self.all[place].node = node;
        let address = self.all[place].address;
        wait_for("gateway that is back", || {
            gateway_is_well(address).then_some(())
        });
    }

    fn serves(&self) {
        let host = "Host: hello.default.localhost";
        wait_for("answer of the service", || {
            let answer = ask(self.front, "/", host, SERVICE_LIMIT).ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        });
    }

    fn logs(&self) -> String {
        let of = |place| {
            let log = self.dir.path().join(format!("box{place}/keepalived.log"));
            std::fs::read_to_string(log).unwrap_or_default()
        };
        (0..N_NODES).map(of).collect::<Vec<_>>().join("\n--\n")
    }
}

impl Drop for Boxes {
    fn drop(&mut self) {
        for one in &mut self.all {
            // keepalived has children, and ends them when it is told to end.
            let _gone = signal(&one.keepalived, Signal::TERM);
            drop(one.node.kill());
            drop(one.node.wait());
            drop(one.keepalived.wait());
        }
    }
}

/// A program in a namespace; its pid is the command's.
fn inside(namespace: &str, program: &str, log: &Path) -> anyhow::Result<Command> {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log)?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(command)
}

fn signal(child: &Child, signal: Signal) -> rustix::io::Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a pid"), signal)
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within {LIMIT:?}");
        std::thread::park_timeout(LOOK_EVERY);
    }
}

fn ask(to: Ipv4Addr, path: &str, host: &str, limit: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((to, GATEWAY)), ASK_LIMIT)?;
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\n{host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn gateway_is_well(at: Ipv4Addr) -> bool {
    let answer = ask(at, "/.well-known/nihilo/gateway", "Host: any", ASK_LIMIT);
    answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !has("keepalived") {
        return Some("no keepalived on this machine".into());
    }
    probe::binary().err().map(|error| format!("{error:#}"))
}

#[test]
fn the_front_address_moves_to_a_gateway_that_wants_traffic() {
    if let Some(why) = missing() {
        return eprintln!("skipped: {why}");
    }
    let boxes = Boxes::start(probe::binary().expect("it was there"));
    let mut boxes = match boxes {
        Ok(boxes) => boxes,
        Err(error) => return eprintln!("skipped: {error:#}"),
    };
    wait_for("front address", || {
        gateway_is_well(boxes.front).then_some(())
    });
    let service = ["service", "create", "hello", "--image", "demo/hello"];
    boxes.cli(&[&service[..], &["--scale", "3..3"]].concat());
    boxes.serves();

    let first = boxes.only_holder();
    let second = boxes.moves("gateway killed", |holder| {
        signal(&holder.node, Signal::KILL).expect("it runs");
    });
    // Back again, it does not take the address back.
    boxes.restart(first);
    assert_eq!(boxes.silence_after(|| {}), Duration::ZERO);
    assert_eq!(boxes.only_holder(), second);

    boxes.moves("gateway told to stop", |holder| {
        signal(&holder.node, Signal::TERM).expect("it runs");
    });
    boxes.restart(second);

    boxes.moves("box unplugged", |holder| {
        let status = Command::new("ip")
            .args(["-n", &holder.namespace, "link", "set", "eth0", "down"])
            .status();
        assert!(status.is_ok_and(|status| status.success()));
    });
}
