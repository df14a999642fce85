//! Hosts on one machine, three and one for a guest: network namespaces around a switch, whose links
//! can be cut one way.
//!
//! The switch has a namespace of its own, so that the machine's firewall has no say in it. This
//! program's namespace is one more host, which no cut concerns.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use super::{GUEST, NodeIndex};

/// Trials at once, each with a network of its own.
const N_NETWORKS: u8 = 100;
/// This program's host number; nodes have theirs from 1.
const HARNESS: u8 = 254;
const SWITCH: &str = "switch";

/// What the nodes at a cut link notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Packets are lost.
    Silent,
    /// Whoever sends is answered with a reset.
    Told,
}

/// Removed when dropped, with everything in it.
#[derive(Debug)]
pub struct Network {
    number: u8,
}

impl Network {
    /// # Errors
    /// Not root, `ip` or `iptables` is missing, or all networks are in use.
    pub fn create() -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "network namespaces need root; choose a nemesis that cuts nothing"
        );
        let mut last = None;
        for number in 0..N_NETWORKS {
            // The kernel refuses a name in use, so that two trials never share one.
            let taken = run("ip", &["netns", "add", &switch(number)]);
            let made = taken.and_then(|()| {
                let network = Self { number };
                network.build().map(|()| network)
            });
            match made {
                Ok(network) => return Ok(network),
                Err(error) => last = Some(error),
            }
        }
        bail!("no network: {:#}", last.context("none was tried")?)
    }

    fn build(&self) -> anyhow::Result<()> {
        let switch = self.switch();
        run(
            "ip",
            &["-n", &switch, "link", "add", SWITCH, "type", "bridge"],
        )?;
        run("ip", &["-n", &switch, "link", "set", SWITCH, "up"])?;
        for node in 0..=GUEST {
            run("ip", &["netns", "add", &self.namespace(node)])?;
            let host = u8::try_from(node)? + 1;
            self.plug(host, Some(&self.namespace(node)), "eth0")?;
        }
        self.plug(HARNESS, None, &self.own_link())
    }

    /// Connects a host to the switch by a link called `link` on its side.
    fn plug(&self, host: u8, namespace: Option<&str>, link: &str) -> anyhow::Result<()> {
        let (switch, port) = (self.switch(), format!("port{host}"));
        let mut add = vec!["-n", &switch, "link", "add", &port, "type", "veth"];
        add.extend(["peer", "name", link, "netns"]);
        let own = std::process::id().to_string();
        add.push(namespace.unwrap_or(&own));
        run("ip", &add)?;
        run(
            "ip",
            &["-n", &switch, "link", "set", &port, "master", SWITCH, "up"],
        )?;
        let address = format!("{}/24", self.host(host));
        let inside = |args: &[&str]| {
            let place = namespace.map(|name| ["-n", name]);
            let all: Vec<_> = place.iter().flatten().chain(args).copied().collect();
            run("ip", &all)
        };
        inside(&["addr", "add", &address, "dev", link])?;
        inside(&["link", "set", link, "up"])?;
        if namespace.is_some() {
            inside(&["link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    fn host(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, host)
    }

    fn switch(&self) -> String {
        switch(self.number)
    }

    /// This program's end of its link to the switch.
    fn own_link(&self) -> String {
        format!("nihilo-t{}", self.number)
    }

    /// The namespace that a node's process runs in.
    pub fn namespace(&self, node: NodeIndex) -> String {
        format!("nihilo-t{}-n{}", self.number, node + 1)
    }

    pub fn address(&self, node: NodeIndex) -> Ipv4Addr {
        self.host(u8::try_from(node + 1).unwrap_or(HARNESS))
    }

    /// From now on nothing that `from` sends reaches `to`.
    ///
    /// # Errors
    /// `iptables` refuses.
    pub fn cut(&self, from: NodeIndex, to: NodeIndex, manner: Manner) -> anyhow::Result<()> {
        self.rule("-A", from, to, manner)
    }

    /// Undoes one cut.
    ///
    /// # Errors
    /// It was not cut in this manner.
    pub fn join(&self, from: NodeIndex, to: NodeIndex, manner: Manner) -> anyhow::Result<()> {
        self.rule("-D", from, to, manner)
    }

    fn rule(
        &self,
        change: &str,
        from: NodeIndex,
        to: NodeIndex,
        manner: Manner,
    ) -> anyhow::Result<()> {
        let (source, target) = (self.address(from).to_string(), self.address(to).to_string());
        let (node, chain, rule) = match manner {
            Manner::Silent => (to, "INPUT", vec!["-s", &source, "-j", "DROP"]),
            // At the sender: its own kernel answers, as the router beside it would.
            Manner::Told => (
                from,
                "OUTPUT",
                vec![
                    "-d",
                    &target,
                    "-p",
                    "tcp",
                    "-j",
                    "REJECT",
                    "--reject-with",
                    "tcp-reset",
                ],
            ),
        };
        let mut command = vec!["iptables", "-w", change, chain];
        command.extend(rule);
        self.inside(node, &command)
    }

    /// Connections of `from` to a port of `to` go to `via` instead, those that are open already
    /// excepted.
    ///
    /// # Errors
    /// `iptables` refuses.
    pub fn divert(&self, from: NodeIndex, to: SocketAddrV4, via: SocketAddr) -> anyhow::Result<()> {
        let (host, port, via) = (to.ip().to_string(), to.port().to_string(), via.to_string());
        let mut rule = vec!["iptables", "-w", "-t", "nat", "-A", "OUTPUT", "-p", "tcp"];
        rule.extend(["-d", &host, "--dport", &port]);
        rule.extend(["-j", "DNAT", "--to-destination", &via]);
        self.inside(from, &rule)
    }

    /// This program's own address, as the nodes see it.
    pub fn own_address(&self) -> Ipv4Addr {
        self.host(HARNESS)
    }

    /// Undoes every cut.
    ///
    /// # Errors
    /// `iptables` refuses.
    pub fn mend(&self) -> anyhow::Result<()> {
        (0..=GUEST).try_for_each(|node| {
            self.inside(node, &["iptables", "-w", "-F", "INPUT"])?;
            self.inside(node, &["iptables", "-w", "-F", "OUTPUT"])
        })
    }

    fn inside(&self, node: NodeIndex, command: &[&str]) -> anyhow::Result<()> {
        let namespace = self.namespace(node);
        let mut args = vec!["netns", "exec", &namespace];
        args.extend(command);
        run("ip", &args)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What was never made cannot be removed. This one first: with its namespace it would go some
        // time later, and be in the way of the next trial's.
        drop(run("ip", &["link", "del", &self.own_link()]));
        for node in 0..=GUEST {
            drop(run("ip", &["netns", "del", &self.namespace(node)]));
        }
        drop(run("ip", &["netns", "del", &self.switch()]));
    }
}

fn switch(number: u8) -> String {
    format!("nihilo-t{number}")
}

fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let command = format!("{program} {}", args.join(" "));
    let output = Command::new(program).args(args).output();
    let output =
        output.with_context(|| format!("`{program}`: apt-get install iproute2 iptables"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{command}`: {}", said.trim());
    Ok(())
}
