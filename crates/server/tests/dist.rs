//! The archive and its installer: what is proven is installed whole, what is not changes nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{NIHILO, must, text};
use nihilo_types::node_config::NodeConfig;

/// An archive of the binary under test, with checksum and installer.
struct Dist {
    dir: tempfile::TempDir,
}

impl Dist {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new("cargo")
            .args(["xtask", "dist", "--level", "1", "--binary", NIHILO, "--out"])
            .arg(dir.path())
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
            .output();
        must(made.unwrap());
        Self { dir }
    }

    fn archive(&self) -> PathBuf {
        let files = std::fs::read_dir(self.dir.path()).unwrap();
        let mut files = files.map(|file| file.unwrap().path());
        let is_it = |path: &PathBuf| path.to_str().unwrap().ends_with(".tar.gz");
        files.find(is_it).unwrap()
    }

    fn install(&self, args: &[&str]) -> Output {
        let mut installer = Command::new("sh");
        installer.arg(self.dir.path().join("install.sh")).args(args);
        installer.output().unwrap()
    }
}

#[test]
fn what_is_proven_is_installed_and_runs() {
    let (dist, place) = (Dist::make(), tempfile::tempdir().unwrap());
    let prefix = place.path().join("opt");
    let shown = prefix.to_str().unwrap();
    let own = Command::new(NIHILO).arg("version").output().unwrap();
    let version = String::from_utf8(own.stdout).unwrap();
    // Also over itself, while it runs.
    let mut running = None;
    for _ in 0..2 {
        must(dist.install(&["--prefix", shown]));
        let installed = prefix.join("bin/nihilo");
        let said = must(Command::new(&installed).arg("version").output().unwrap());
        assert_eq!(String::from_utf8(said.stdout).unwrap(), version);
        running.get_or_insert_with(|| {
            let mut app = Command::new(&installed);
            app.args(["demo-app", "never-ready"]).spawn().unwrap()
        });
    }
    let mut running = running.unwrap();
    assert!(running.try_wait().unwrap().is_none());
    running.kill().unwrap();
    running.wait().unwrap();

    let read = |file: &str| std::fs::read_to_string(prefix.join(file)).unwrap();
    let unit = read("lib/systemd/system/nihilo.service");
    assert!(
        unit.contains(&format!("ExecStart={shown}/bin/nihilo node start")),
        "{unit}"
    );
    assert!(!unit.contains("/usr/bin/nihilo"), "{unit}");
    NodeConfig::parse(&read("share/doc/nihilo/examples/node.yaml"), "node.yaml").unwrap();
    assert!(read("share/doc/nihilo/LICENSE").contains("Apache License"));
    assert!(read("share/bash-completion/completions/nihilo").contains("nihilo"));
    for file in [
        "share/man/man1/nihilo-node-restart.1.gz",
        "share/doc/nihilo/examples/haproxy.cfg",
        "share/doc/nihilo/examples/keepalived.conf",
    ] {
        assert!(prefix.join(file).is_file(), "{file}");
    }
    // Nothing of the way there is left.
    let listed = Command::new("find")
        .arg(&prefix)
        .args(["-name", "*.new"])
        .output()
        .unwrap();
    assert!(listed.stdout.is_empty(), "{}", text(&listed));
}

#[test]
fn what_is_not_proven_changes_nothing() {
    let (dist, place) = (Dist::make(), tempfile::tempdir().unwrap());
    let prefix = place.path().join("opt");
    let shown = prefix.to_str().unwrap();
    let refused = |args: &[&str], code: i32, why: &str| {
        let output = dist.install(&[&["--prefix", shown], args].concat());
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert!(text(&output).contains(why), "{why}: {}", text(&output));
        assert!(!prefix.exists());
    };
    refused(
        &["--version", "9.9.9"],
        1,
        "name another --from or --version",
    );
    refused(&["--version", "../x"], 2, "is no version");
    refused(&["--prefix", "here"], 2, "must begin with a slash");
    refused(&["--colour", "red"], 2, "--colour is not known");
    let zeros = "0".repeat(64);
    refused(&["--sha256", &zeros], 1, "has the checksum");
    // One byte in the middle of it.
    let archive = dist.archive();
    let mut bytes = std::fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&archive, bytes).unwrap();
    refused(&[], 1, "has the checksum");
}
