//! The unit as it is shipped, under a real systemd on a machine of its own: the host's programs in other
//! namespaces. Asks for root and for systemd on the host; returns at once, with the reason, without.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::{NIHILO, must, text, wait_for};
use rustix::process::getuid;

const SYSTEMD: &str = "/lib/systemd/systemd";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/machine.sh");
const UNIT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../packaging/nihilo.service"
);
const CONFIG: &str = r#"
name: box1
node-id: 1
data-dir: /var/lib/nihilo
members:
  - {id: 1, name: box1, peer: "127.0.0.1:7071", admin: "127.0.0.1:7070"}
"#;
const SERVICE: &str = r#"
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: hello}
spec:
  template:
    metadata: {annotations: {autoscaling.knative.dev/min-scale: "1"}}
    spec: {containers: [{image: demo/hello}]}
"#;

/// Ends with all that runs on it when dropped.
struct Machine {
    outside: Child,
    group: PathBuf,
    dir: tempfile::TempDir,
}

impl Machine {
    fn boot() -> Option<Self> {
        if let Some(why) = missing() {
            eprintln!("skipped: {why}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let config = dir.path().join("node.yaml");
        std::fs::write(&config, CONFIG).unwrap();
        std::fs::write(dir.path().join("service.yaml"), SERVICE).unwrap();
        let group = groups().join(format!("nihilo-test-{}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let outside = Command::new("bash")
            .args(["-c", r#"echo $$ >"$0/cgroup.procs"; exec unshare --mount --pid --uts --ipc --cgroup --net --fork --kill-child bash "$@""#])
            .arg(&group)
            .args([Path::new(SCRIPT), &root, Path::new(NIHILO), Path::new(UNIT), &config])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let machine = Self {
            outside,
            group,
            dir,
        };
        wait_for("the machine's systemd", || {
            // Until then it is the script, which still sees the host.
            let name = std::fs::read_to_string(format!("/proc/{}/comm", machine.init()?)).ok()?;
            (name.trim() == "systemd").then_some(())?;
            let shown = machine.runs(&["systemctl", "show", "--property", "Version"]);
            shown.status.success().then_some(())
        });
        Some(machine)
    }

    /// Its first process, as the host numbers it.
    fn init(&self) -> Option<i32> {
        let outside = self.outside.id();
        let children = format!("/proc/{outside}/task/{outside}/children");
        std::fs::read_to_string(children)
            .ok()?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    }

    fn runs(&self, command: &[&str]) -> Output {
        let init = self
            .init()
            .unwrap_or_else(|| panic!("no machine: {}", self.said()));
        Command::new("nsenter")
            .args(["--target", &init.to_string()])
            .args(["--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net"])
            .args([
                "env",
                "-i",
                "PATH=/usr/sbin:/usr/bin:/opt",
                "NIHILO_SERVER=127.0.0.1:7070",
            ])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn prints(&self, command: &[&str]) -> String {
        String::from_utf8(must(self.runs(command)).stdout).unwrap()
    }

    /// A property of the unit.
    fn shows(&self, property: &str) -> String {
        let shown = self.prints(&[
            "systemctl",
            "show",
            "--value",
            "--property",
            property,
            "nihilo",
        ]);
        shown.trim().to_owned()
    }

    fn until_serving(&self, what: &str, fits: impl Fn() -> bool) {
        let is_active = || self.shows("ActiveState") == "active" && fits();
        let status = || self.shows("StatusText").starts_with("serving");
        wait_for(what, || (is_active() && status()).then_some(()));
    }

    fn applies_the_service(&self) {
        let init = self.init().unwrap();
        let inside = format!("/proc/{init}/root/root/service.yaml");
        std::fs::copy(self.dir.path().join("service.yaml"), inside).unwrap();
        self.prints(&["nihilo", "apply", "-f", "/root/service.yaml"]);
    }

    /// Id and pid of the one instance that is ready.
    fn instance(&self) -> (String, u64) {
        wait_for("one instance that is ready", || {
            let list = self.prints(&["nihilo", "instance", "list", "-o", "json"]);
            let list: serde_json::Value = serde_json::from_str(&list).unwrap();
            let all = list["items"].as_array()?.iter();
            let ready: Vec<_> = all.filter(|of| of["state"] == "Ready").collect();
            let [one] = ready.as_slice() else { return None };
            Some((one["id"].as_str()?.to_owned(), one["pid"].as_u64()?))
        })
    }

    fn said(&self) -> String {
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let node = self
            .init()
            .map(|init| format!("/proc/{init}/root/var/log/nihilo.log"));
        let node = node.map(|path| read(path.into())).unwrap_or_default();
        format!("{}\n{node}", read(self.dir.path().join("log")))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
        drop(self.outside.kill());
        drop(self.outside.wait());
        // What was in them ends with the machine's first process, a moment later.
        wait_for("empty groups", || remove(&self.group).is_ok().then_some(()));
    }
}

/// Groups hold directories of their own and nothing that could be deleted.
fn remove(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)? {
        let path = entry?.path();
        if path.is_dir() {
            remove(&path)?;
        }
    }
    std::fs::remove_dir(group)
}

/// The hierarchy that systemd keeps its units in.
fn groups() -> &'static Path {
    let of_version_2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    Path::new(match of_version_2 {
        true => "/sys/fs/cgroup",
        false => "/sys/fs/cgroup/systemd",
    })
}

fn missing() -> Option<String> {
    if !getuid().is_root() {
        return Some("namespaces are made as root".into());
    }
    let programs = ["bash", "ip", "nsenter", "pgrep", "systemctl", "unshare"];
    let is_there = |name: &&str| {
        let mut dirs = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter();
        dirs.any(|dir| Path::new(dir).join(name).exists())
    };
    if let Some(program) = programs.iter().find(|name| !is_there(name)) {
        return Some(format!("no `{program}` here"));
    }
    if !Path::new(SYSTEMD).exists() {
        return Some(format!("no {SYSTEMD} here"));
    }
    let probe = groups().join(format!("nihilo-test-probe-{}", std::process::id()));
    if let Err(error) = std::fs::create_dir(&probe) {
        return Some(format!("no group for systemd's units: {error}"));
    }
    drop(std::fs::remove_dir(&probe));
    None
}

#[test]
fn a_unit_is_killed_restarted_watched_reloaded_and_stopped() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    machine.until_serving("the unit's start", || true);
    machine.applies_the_service();
    let instance = machine.instance();

    // Killed: systemd starts it again, and it takes over what runs.
    machine.prints(&["kill", "-KILL", &machine.shows("MainPID")]);
    machine.until_serving("the next process", || machine.shows("NRestarts") == "1");
    assert_eq!(machine.instance(), instance);

    // Restarted in place: the same process, of which systemd learns nothing but its words.
    let main = machine.shows("MainPID");
    machine.prints(&["nihilo", "node", "restart", "box1"]);
    machine.until_serving("the next program", || true);
    machine.prints(&["kill", "-USR2", &main]);
    let is_fourth = || machine.said().matches("node started").count() == 4;
    machine.until_serving("one more program", is_fourth);
    assert_eq!(
        (machine.shows("MainPID"), machine.shows("NRestarts")),
        (main.clone(), "1".into())
    );
    assert_eq!(machine.instance(), instance);

    machine.prints(&["systemctl", "reload", "nihilo"]);
    let is_read = || machine.said().contains("configuration read again");
    wait_for("the configuration read again", || is_read().then_some(()));

    // It does not feed the watchdog any more.
    machine.prints(&["kill", "-STOP", &main]);
    machine.until_serving("the watchdog's restart", || {
        machine.shows("NRestarts") == "2"
    });
    assert_eq!(machine.instance(), instance);

    // Stopped: nothing of it is left, and its instances were told.
    must(machine.runs(&["systemctl", "stop", "nihilo"]));
    assert_eq!(machine.shows("Result"), "success", "{}", machine.said());
    let left = machine.runs(&["pgrep", "--uid", "nihilo", "--list-full"]);
    assert_eq!(left.status.code(), Some(1), "left: {}", text(&left));
}
