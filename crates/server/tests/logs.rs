//! `nihilo logs` of instances on several nodes: real processes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use common::adopting::Adopting;
use common::{Cluster, NIHILO, kill, must, run, wait_for};
use rustix::process::Signal;

/// Serves, and says who it is; says a number once a file of that name is there.
fn talking(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "{NIHILO} demo-app hello & echo $NIHILO_NODE says 0; for n in 1 2 3 4; do until [ -e {dir}/$n ]; \
         do sleep 0.05; done; echo $NIHILO_NODE says $n; done; wait"
    )
}

fn create(nodes: &Cluster, name: &str, scale: &str) {
    let script = talking(nodes.path());
    let program = ["--image", "file:///bin/sh", "--arg", "-c", "--arg", &script];
    let args = ["service", "create", name, "--scale", scale];
    must(nodes.cli(&[&args[..], &program].concat()));
}

/// All may say this number from now on.
fn let_say(nodes: &Cluster, n: u32) {
    std::fs::write(nodes.path().join(n.to_string()), "").unwrap();
}

/// Ready instances of a service, with their nodes.
fn running(nodes: &Cluster, service: &str) -> BTreeMap<String, String> {
    let args = ["instance", "list", "-o", "json", "--server"];
    let output = must(run(&[&args[..], &[&nodes.admin(0)]].concat()));
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let items = listed["items"].as_array().unwrap().iter();
    let ready = items.filter(|item| {
        let revision = item["revision"].as_str().unwrap();
        item["state"] == "Ready" && revision.rsplit_once('-').unwrap().0 == service
    });
    let text = |item: &serde_json::Value, key: &str| item[key].as_str().unwrap().to_owned();
    ready
        .map(|item| (text(item, "id"), text(item, "node")))
        .collect()
}

/// The line of each of these instances in which it says `n`.
fn lines(of: &BTreeMap<String, String>, n: u32) -> BTreeSet<String> {
    of.iter()
        .map(|(id, node)| format!("{id} | {node} says {n}"))
        .collect()
}

/// Lines that somebody was shown, and remarks beside them.
#[derive(Debug, Clone, Default)]
struct Shown {
    lines: Vec<String>,
    remarks: String,
}

impl Shown {
    /// `nihilo logs` asked of the first node, to its end.
    fn by(nodes: &Cluster, more: &[&str]) -> Self {
        let args = ["logs", "talks", "--server", &nodes.admin(0)];
        let output = must(run(&[&args[..], more].concat()));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            lines: text(&output.stdout).lines().map(str::to_owned).collect(),
            remarks: text(&output.stderr),
        }
    }

    fn has(&self, wanted: &BTreeSet<String>) -> bool {
        let shown: BTreeSet<_> = self.lines.iter().cloned().collect();
        wanted.is_subset(&shown)
    }

    #[track_caller]
    fn has_each_once(&self) {
        let distinct: BTreeSet<_> = self.lines.iter().collect();
        assert_eq!(distinct.len(), self.lines.len(), "{self:#?}");
    }
}

/// `nihilo logs -f` asked of the first node.
struct Follower {
    child: Child,
    shown: Arc<Mutex<Shown>>,
}

impl Follower {
    fn start(nodes: &Cluster) -> Self {
        let args = ["logs", "talks", "-f", "--server", &nodes.admin(0)];
        let mut command = Command::new(NIHILO);
        command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let shown = Arc::new(Mutex::new(Shown::default()));
        let out = BufReader::new(child.stdout.take().unwrap());
        let taken = shown.clone();
        std::thread::spawn(move || {
            for line in out.lines() {
                taken.lock().unwrap().lines.push(line.unwrap());
            }
        });
        let (mut remarks, taken) = (child.stderr.take().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(n @ 1..) = remarks.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..n]);
                taken.lock().unwrap().remarks.push_str(&text);
            }
        });
        Self { child, shown }
    }

    fn until(&self, what: &str, is_shown: impl Fn(&Shown) -> bool) {
        wait_for(what, || is_shown(&self.shown.lock().unwrap()).then_some(()));
    }

    fn until_lines(&self, of: &BTreeMap<String, String>, n: u32) {
        let wanted = lines(of, n);
        self.until(&format!("{wanted:?}"), |shown| shown.has(&wanted));
    }

    fn until_remark(&self, remark: &str) {
        self.until(remark, |shown| shown.remarks.contains(remark));
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("{:#?}", self.shown.lock());
        }
    }
}

/// Two instances on two nodes, and a third node that is asked.
#[test]
fn what_instances_on_several_nodes_say_is_shown_by_a_node_that_runs_none() {
    let nodes = Adopting::start(Cluster::start(72), 3);
    must(nodes.0.cli(&["node", "cordon", "node1"]));
    create(&nodes.0, "talks", "2..2");
    // Of a name that begins alike.
    create(&nodes.0, "talks-more", "1..1");
    let all = running(&nodes.0, "talks");
    let on: BTreeSet<&str> = all.values().map(String::as_str).collect();
    assert_eq!(on, BTreeSet::from(["node2", "node3"]), "{all:?}");

    let shown = Shown::by(&nodes.0, &[]);
    let kept: BTreeSet<_> = shown.lines.iter().cloned().collect();
    assert_eq!(kept, lines(&all, 0), "{shown:#?}");
    shown.has_each_once();
    assert_eq!(shown.remarks, "");

    let follower = Follower::start(&nodes.0);
    follower.until_lines(&all, 0);
    let_say(&nodes.0, 1);
    follower.until_lines(&all, 1);

    // One that crashes is followed by the one in its place, and what it said is told of afterwards.
    let crashed = nodes.processes().into_iter().find(|(_, pid)| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let of_talks = environment.contains("K_SERVICE=talks\0");
        of_talks && is_shell(*pid)
    });
    let (i, pid) = crashed.unwrap();
    let crashed_on = format!("node{}", i + 1);
    kill(pid, Signal::KILL);
    let gone = all.iter().find(|(_, node)| **node == crashed_on).unwrap();
    let now = wait_for("another one", || {
        let now = running(&nodes.0, "talks");
        (now.len() == 2 && !now.contains_key(gone.0)).then_some(now)
    });
    follower.until_lines(&now, 1);
    let previous = Shown::by(&nodes.0, &["--previous"]);
    let gone = BTreeMap::from([(gone.0.clone(), gone.1.clone())]);
    let said: Vec<_> = [lines(&gone, 0), lines(&gone, 1)]
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(previous.lines, said, "{previous:#?}");
    assert_eq!(previous.remarks, "");

    // A node that is restarted is gone for a moment, and each line is shown once all the same.
    must(nodes.0.cli(&["node", "restart", "node2"]));
    follower.until_remark("no lines from node2");
    follower.until_remark("node2 answers again");
    follower.until_remark("node2 restarted: what was said there just before may be missing here");
    let_say(&nodes.0, 2);
    follower.until_lines(&now, 2);
    // What was said before its restart is shown still.
    let kept = Shown::by(&nodes.0, &[]);
    for n in 0..=2 {
        assert!(kept.has(&lines(&now, n)), "{n}: {kept:#?}");
    }
    kept.has_each_once();

    // One that is dead is named; the rest is shown.
    nodes.kill_node(2);
    follower.until_remark("no lines from node3");
    let_say(&nodes.0, 3);
    let mut left = now.clone();
    left.retain(|_, node| node == "node2");
    follower.until_lines(&left, 3);
    for more in [&[][..], &["--previous"]] {
        let shown = Shown::by(&nodes.0, more);
        assert!(shown.remarks.contains("no lines from node3"), "{shown:#?}");
        assert!(
            !shown.lines.is_empty() || crashed_on == "node3",
            "{shown:#?}"
        );
        shown.has_each_once();
    }
    let shown = follower.shown.lock().unwrap().clone();
    shown.has_each_once();
    assert!(shown.lines.iter().all(|line| !line.contains("talks-more")));
}

/// The first process of an instance, not what it has started.
fn is_shell(pid: i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.starts_with(b"/bin/sh\0")
}
