//! The headline cases on real processes, as the gate runs them: the leader, owner of the service's
//! shard, is killed in the middle of a scale-up; the leader is cut off from the others.

use std::path::PathBuf;
use std::process::Command;

use nihilo_jepsen_lite::backend::Network;
use nihilo_jepsen_lite::probe;

/// The binary under test; built here if nothing else has built it yet.
fn nihilo() -> PathBuf {
    probe::binary().unwrap_or_else(|_| {
        let status = Command::new(env!("CARGO"))
            .args([
                "build",
                "--locked",
                "--package",
                "nihilo-server",
                "--bin",
                "nihilo",
            ])
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "no binary to test"
        );
        probe::binary().expect("it was built just now")
    })
}

/// Runs one trial, which has to pass.
fn passes(args: &[&str]) {
    let out = tempfile::tempdir().expect("a directory for the records");
    let output = Command::new(env!("CARGO_BIN_EXE_nihilo-jepsen-lite"))
        .args(args)
        .arg("--out")
        .arg(out.path())
        .env(probe::BINARY_ENV, nihilo())
        .output()
        .expect("the harness starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("PASS seed"), "{stdout}");
}

#[test]
fn the_leader_killed_in_the_middle_of_a_scale_up_loses_no_request() {
    passes(&["matrix", "--cells", "scaling-up:leader+owner"]);
}

#[test]
fn a_leader_that_is_cut_off_from_the_others_loses_no_request() {
    if let Err(error) = Network::create() {
        eprintln!("skipped: {error:#}");
        return;
    }
    passes(&[
        "run",
        "--workload",
        "from-zero",
        "--nemesis",
        "isolate-leader",
        "--minutes",
        "0.3",
    ]);
}
