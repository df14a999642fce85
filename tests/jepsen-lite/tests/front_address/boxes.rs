//! Three machines with a node each, in network namespaces.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nihilo_jepsen_lite::backend::{N_NODES, Network};
use nihilo_jepsen_lite::probe;
use nihilo_types::node_config::{Member, NodeConfig, OnNodeExit, Profile};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) const GATEWAY: u16 = 8080;
/// Of anything, on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A lost packet is as good as an answer that does not come.
const ASK_LIMIT: Duration = Duration::from_millis(250);
pub(crate) const HOST: &str = "hello.default.localhost";

/// A machine of the three.
pub(crate) struct Machine {
    pub(crate) namespace: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) config: PathBuf,
    pub(crate) node: Child,
}

impl Machine {
    /// Its directory, for what else runs there.
    pub(crate) fn dir(&self) -> &Path {
        self.config.parent().expect("a file lies somewhere")
    }

    /// Takes its only link away, or gives it back.
    pub(crate) fn plug(&self, state: &str) {
        let status = Command::new("ip")
            .args(["-n", &self.namespace, "link", "set", "eth0", state])
            .status();
        assert!(status.is_ok_and(|status| status.success()));
    }
}

pub(crate) struct Boxes {
    pub(crate) all: Vec<Machine>,
    pub(crate) binary: PathBuf,
    on_node_exit: OnNodeExit,
    /// Who begins connections with a PROXY header.
    balancer: Option<Ipv4Addr>,
    // The processes go first, then what they run in.
    pub(crate) network: Network,
    dir: tempfile::TempDir,
}

impl Boxes {
    /// `balanced` = whoever is at the guest's address speaks the PROXY protocol.
    pub(crate) fn start(
        binary: PathBuf,
        on_node_exit: OnNodeExit,
        balanced: bool,
    ) -> anyhow::Result<Self> {
        let network = Network::create()?;
        let guest = network.address(nihilo_jepsen_lite::backend::GUEST);
        let mut boxes = Self {
            all: Vec::new(),
            binary,
            on_node_exit,
            balancer: balanced.then_some(guest),
            network,
            dir: tempfile::tempdir()?,
        };
        for place in 0..N_NODES {
            let started = boxes.start_one(place)?;
            boxes.all.push(started);
        }
        Ok(boxes)
    }

    fn start_one(&self, place: usize) -> anyhow::Result<Machine> {
        let dir = self.dir.path().join(format!("box{place}"));
        std::fs::create_dir_all(&dir)?;
        let (namespace, address) = (self.network.namespace(place), self.network.address(place));
        let config = dir.join("node.yaml");
        std::fs::write(&config, self.node_config(place, &dir).to_yaml())?;
        let node = self.start_node(&namespace, &config)?;
        Ok(Machine {
            namespace,
            address,
            config,
            node,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
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
        config.on_node_exit = Some(self.on_node_exit);
        let balancer = self.balancer.iter().map(Ipv4Addr::to_string);
        config.gateway.proxy_protocol_from = balancer.collect();
        config
    }

    pub(crate) fn cli(&self, args: &[&str]) {
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
        assert!(
            output.status.success(),
            "{args:?}: {text}\n{}",
            self.logs("node.log")
        );
    }

    /// Runs a node that has ended, or is about to, once more.
    pub(crate) fn restart(&mut self, place: usize) {
        drop(self.all[place].node.wait());
        let (namespace, config) = (&self.all[place].namespace, &self.all[place].config);
        let node = self.start_node(namespace, config).expect("a process");
        self.all[place].node = node;
        self.until_well(place);
    }

    pub(crate) fn until_well(&self, place: usize) {
        let address = self.all[place].address;
        wait_for("gateway that is well", || {
            gateway_is_well(address).then_some(())
        });
    }

    /// What lies under this name in the machines' directories.
    pub(crate) fn logs(&self, name: &str) -> String {
        let of = |place| {
            let log = self.dir.path().join(format!("box{place}/{name}"));
            std::fs::read_to_string(log).unwrap_or_default()
        };
        (0..N_NODES).map(of).collect::<Vec<_>>().join("\n--\n")
    }
}

impl Drop for Boxes {
    fn drop(&mut self) {
        for one in &mut self.all {
            drop(one.node.kill());
            drop(one.node.wait());
            // What outlives a node outlives no test.
            let sweep = ["internal", "sweep", "--result", "success", "--config"];
            let mut sweep_it = Command::new(&self.binary);
            drop(sweep_it.args(sweep).arg(&one.config).output());
        }
    }
}

/// A program in a namespace; its pid is the command's.
pub(crate) fn inside(namespace: &str, program: &str, log: &Path) -> anyhow::Result<Command> {
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

pub(crate) fn signal(child: &Child, signal: Signal) -> rustix::io::Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a pid"), signal)
}

pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within {LIMIT:?}");
        std::thread::park_timeout(LOOK_EVERY);
    }
}

pub(crate) fn ask(
    to: SocketAddr,
    path: &str,
    host: &str,
    limit: Duration,
) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, ASK_LIMIT.max(limit / 10))?;
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

pub(crate) fn gateway_is_well(at: Ipv4Addr) -> bool {
    let to = SocketAddr::from((at, GATEWAY));
    let answer = ask(to, "/.well-known/nihilo/gateway", "any", ASK_LIMIT);
    answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// What this machine lacks for three boxes and these programs; `--version` of each must run.
pub(crate) fn missing(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    let lacks = |program: &&&str| Command::new(program).arg("-v").output().is_err();
    if let Some(program) = programs.iter().find(lacks) {
        return Some(format!("no {program} on this machine"));
    }
    probe::binary().err().map(|error| format!("{error:#}"))
}
