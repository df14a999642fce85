//! What one tenant's program does wrong is that tenant's trouble: a node with a neighbour that is
//! asked all the time, beside programs that crash, fork without end, take all memory, never get
//! ready, do not go, or talk without end. Nothing of them is left afterwards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "../../runtime/tests/common/leftovers.rs"]
mod leftovers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Cluster, NIHILO, get, must, run, text, wait_for, wait_up_to};

/// An answer of the neighbour takes no longer, whatever its tenant does; a quiet machine needs a
/// millisecond, one whose two cores are burnt by others some scheduler slices.
const NEIGHBOUR_LIMIT: Duration = Duration::from_secs(1);
/// Between two questions to it.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// So many answers say something about a time.
const MIN_ANSWERS: usize = 50;
/// A gigabyte is dropped in seconds by a release build, in half a minute by one without optimisation.
const FLOOD_LIMIT: Duration = Duration::from_secs(120);
const MIB: u64 = 1024 * 1024;
/// Two files of 5 MiB each at most, a line more, and what the node notes.
const MAX_LOG_BYTES: u64 = 11 * MIB;

/// A node with one well-behaved service.
struct House {
    cluster: Cluster,
    pid: i32,
}

impl House {
    fn new(slot: u16) -> Self {
        let cluster = Cluster::start_one(slot);
        must(cluster.cli(&[
            "service",
            "create",
            "neighbour",
            "--image",
            "demo/hello",
            "--scale",
            "1..1",
        ]));
        let pid = cluster.pid(0);
        Self { cluster, pid }
    }

    /// A tenant whose program is a line of shell; nobody waits for it.
    fn let_in(&self, script: &str, more: &[&str]) {
        self.let_in_as("file:///bin/sh", &["--arg", "-c", "--arg", script], more);
    }

    fn let_in_as(&self, image: &str, program: &[&str], more: &[&str]) {
        let mut args = vec![
            "service",
            "create",
            "tenant",
            "--image",
            image,
            "--scale",
            "1..1",
            "--no-wait",
        ];
        args.extend(program);
        args.extend(more);
        must(self.cluster.cli(&args));
    }

    /// Asks the neighbour all the time while `fault` lasts; each answer must come in time.
    fn neighbour_serves_while(&self, fault: impl FnOnce()) {
        let is_over = AtomicBool::new(false);
        let port = self.cluster.gateway(0);
        let ask = || {
            let mut took = Vec::new();
            while !is_over.load(Ordering::Relaxed) || took.len() < MIN_ANSWERS {
                let asked = Instant::now();
                let answer = get(port, "neighbour.default.localhost").unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                took.push(asked.elapsed());
                std::thread::park_timeout(ASK_EVERY);
            }
            took
        };
        let took = std::thread::scope(|scope| {
            let asking = scope.spawn(ask);
            let lasted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(fault));
            is_over.store(true, Ordering::Relaxed);
            let took = asking.join().unwrap();
            if let Err(panic) = lasted {
                std::panic::resume_unwind(panic);
            }
            took
        });
        let mut sorted = took;
        sorted.sort();
        let (n, worst) = (sorted.len(), sorted[sorted.len() - 1]);
        println!("{n} answers, median {:?}, worst {worst:?}", sorted[n / 2]);
        assert!(worst < NEIGHBOUR_LIMIT, "an answer took {worst:?}");
    }

    /// What the conditions of the tenant's revision say of this, as `reason: message`.
    fn complaint(&self, wanted: &str) -> Option<String> {
        let shown = self
            .cluster
            .cli(&["revision", "list", "-s", "tenant", "-o", "json"]);
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
        let conditions = shown["items"][0]["status"]["conditions"].as_array()?;
        let said = |condition: &serde_json::Value| {
            let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", text("reason"), text("message"))
        };
        conditions
            .iter()
            .map(said)
            .find(|said| said.contains(wanted))
    }

    fn wait_for_complaint(&self, wanted: &str) -> String {
        wait_for(&format!("complaint of {wanted}"), || self.complaint(wanted))
    }

    /// Deletes the tenant; the node that it was on is the same, and nothing of the tenant is left.
    fn see_off(&self) {
        must(self.cluster.cli(&["service", "delete", "tenant"]));
        wait_for("end of its processes", || {
            (tenants_processes(&self.cluster) == 0).then_some(())
        });
        assert_eq!(self.cluster.pid(0), self.pid);
        let status = self.cluster.status();
        assert_eq!(status[0].1, self.pid, "the node is another process");
        wait_for("end of its groups", || {
            groups_of_tenant().is_empty().then_some(())
        });
    }
}

impl Drop for House {
    /// With the node goes whatever it has run.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        must(self.cluster.stop());
        let agent = self.cluster.node_dir(0).join("agent");
        leftovers::assert_none(&agent, self.cluster.instance_ports(0));
    }
}

/// Processes of this cluster's tenant, by the environment that they were started with.
fn tenants_processes(cluster: &Cluster) -> usize {
    let mark = std::fs::read_to_string(cluster.node_dir(0).join("agent/mark")).unwrap();
    let wanted = format!("NIHILO_MARK={}.tenant-", mark.trim());
    let entries = std::fs::read_dir("/proc").unwrap();
    let environments =
        entries.filter_map(|entry| std::fs::read(entry.ok()?.path().join("environ")).ok());
    let has = |environment: &Vec<u8>| String::from_utf8_lossy(environment).contains(&wanted);
    environments.filter(has).count()
}

/// Control groups whose instance is a tenant's, in any hierarchy.
fn groups_of_tenant() -> Vec<String> {
    let found = std::process::Command::new("find")
        .args([
            "/sys/fs/cgroup",
            "-type",
            "d",
            "-path",
            "*/nihilo-*/tenant-*",
        ])
        .output();
    let found = found.map(|found| String::from_utf8_lossy(&found.stdout).into_owned());
    found
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Serves like any app, and does this besides.
fn serving_and(script: &str) -> String {
    format!("{NIHILO} demo-app hello & {script}")
}

#[test]
fn a_crash_is_the_tenants_own() {
    let house = House::new(40);
    house.neighbour_serves_while(|| {
        house.let_in("echo no database; exit 3", &[]);
        let message = house.wait_for_complaint("ExitCode3");
        assert!(
            message.contains("Container failed with: no database"),
            "{message}"
        );
        // A second one, after a pause that is told.
        let again = house.wait_for_complaint("times in a row");
        assert!(again.contains("not started again for"), "{again}");
    });
    house.see_off();
}

#[test]
fn a_fork_bomb_takes_its_own_processes_only() {
    let house = House::new(41);
    house.neighbour_serves_while(|| {
        // A shell's bomb ends where it cannot fork; this one goes on.
        let bomb = serving_and("exec perl -e 'while (1) { defined fork or sleep 5 }'");
        house.let_in(&bomb, &[]);
        let limit = 1_024;
        let most = wait_for("flood of processes", || {
            let n = tenants_processes(&house.cluster);
            (n > limit / 2).then_some(n)
        });
        assert!(most <= limit, "{most} processes");
    });
    house.see_off();
}

#[test]
fn a_hog_is_ended_and_told_so() {
    let house = House::new(42);
    house.neighbour_serves_while(|| {
        let hog = serving_and("exec perl -e '$x = \"a\" x (600 << 20); sleep 60'");
        house.let_in(&hog, &["--limit", "memory=96Mi"]);
        let message = house.wait_for_complaint("OOMKilled");
        assert!(message.contains("resources.limits.memory"), "{message}");
    });
    house.see_off();
}

#[test]
fn one_that_never_gets_ready_is_given_up() {
    let house = House::new(43);
    house.neighbour_serves_while(|| {
        let deadline = "serving.knative.dev/progress-deadline=2s";
        house.let_in("echo waiting; sleep 300", &["-a", deadline]);
        let message = house.wait_for_complaint("ProgressDeadlineExceeded");
        assert!(message.contains("waiting"), "{message}");
    });
    house.see_off();
}

#[test]
fn one_that_does_not_go_is_killed() {
    let house = House::new(44);
    house.neighbour_serves_while(|| {
        let grace = "nihilo.dev/termination-grace-period=1s";
        house.let_in_as("demo/ignore-term", &[], &["-a", grace]);
        wait_for("the tenant's answer", || {
            let answer = get(house.cluster.gateway(0), "tenant.default.localhost").ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        });
        house.see_off();
    });
}

#[test]
fn a_gigabyte_of_output_fills_no_disk() {
    let house = House::new(45);
    house.neighbour_serves_while(|| {
        house.let_in(
            &serving_and("yes tenant | head -c 1G; sleep 3; echo silent; wait"),
            &[],
        );
        let logs = || run_logs(&house.cluster);
        let said = wait_up_to(FLOOD_LIMIT, "the end of its output", || {
            let said = logs();
            said.contains("silent").then_some(said)
        });
        assert!(said.contains("(dropped "), "{}", &said[said.len() - 300..]);
        let dir = house.cluster.node_dir(0).join("agent/instances");
        let instances = std::fs::read_dir(dir).unwrap();
        let files = instances.flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap());
        let bytes: u64 = files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes < MAX_LOG_BYTES, "{bytes} bytes of output on disk");
    });
    house.see_off();
}

fn run_logs(cluster: &Cluster) -> String {
    let servers = cluster.servers();
    text(&run(&["logs", "tenant", "--server", &servers]))
}
