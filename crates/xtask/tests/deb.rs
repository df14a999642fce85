//! The package, as `dpkg-deb` unpacks it.
//!
//! It is made of the `nihilo` that was built beside this test; where there is none, or no `dpkg-deb`, the
//! test says so and ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const XTASK: &str = env!("CARGO_BIN_EXE_nihilo-xtask");
/// More commands than this have a page.
const MIN_PAGES: usize = 50;

/// What a program prints; it must succeed.
fn output(program: impl AsRef<std::ffi::OsStr>, args: &[&str], dir: &Path) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A package of the binary at hand; `None` where it cannot be made.
fn package(dir: &Path) -> Option<PathBuf> {
    let nihilo = Path::new(XTASK).with_file_name("nihilo");
    if !nihilo.is_file() {
        eprintln!("skipped: no `nihilo` was built beside {XTASK}");
        return None;
    }
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        eprintln!("skipped: no dpkg-deb on this machine");
        return None;
    }
    let out = dir.join("out");
    let args = ["deb", "--compression", "none", "--binary", path(&nihilo)];
    output(XTASK, &[&args[..], &["--out", path(&out)]].concat(), dir);
    let files = std::fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .into_iter()
        .find(|file| file.extension().is_some_and(|e| e == "deb"))
}

#[test]
fn a_package_installs_a_binary_with_all_that_belongs_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some(package) = package(dir.path()) else {
        return;
    };
    let version = env!("CARGO_PKG_VERSION");
    let name = package.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(&format!("nihilo_{version}_")), "{name}");
    fields(&package, dir.path());
    owners(&package, dir.path());

    let root = dir.path().join("root");
    output("dpkg-deb", &["-x", path(&package), path(&root)], dir.path());
    let nihilo = root.join("usr/bin/nihilo");
    assert!(output(&nihilo, &["version"], dir.path()).contains(version));
    files(&root);
    manual(&root);

    let control = dir.path().join("control");
    output(
        "dpkg-deb",
        &["-e", path(&package), path(&control)],
        dir.path(),
    );
    let sums = control.join("md5sums");
    output("md5sum", &["--check", "--quiet", path(&sums)], &root);
    for script in ["postinst", "prerm", "postrm"] {
        let script = control.join(script);
        output("sh", &["-n", path(&script)], dir.path());
        assert_eq!(mode(&script), 0o755);
    }
}

fn fields(package: &Path, dir: &Path) {
    let of = |field| output("dpkg-deb", &["-f", path(package), field], dir);
    assert_eq!(of("Version").trim(), env!("CARGO_PKG_VERSION"));
    assert!(of("Depends").contains("adduser"));
    assert!(of("Installed-Size").trim().parse::<u64>().unwrap() > 1024);
}

fn owners(package: &Path, dir: &Path) {
    for line in output("dpkg-deb", &["-c", path(package)], dir).lines() {
        assert!(line.contains(" root/root "), "{line}");
    }
}

fn mode(file: &Path) -> u32 {
    file.metadata().unwrap().permissions().mode() & 0o7777
}

fn files(root: &Path) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (installed, source) in [
        (
            "usr/lib/systemd/system/nihilo.service",
            "packaging/nihilo.service",
        ),
        (
            "usr/share/doc/nihilo/examples/node.yaml",
            "packaging/node.yaml",
        ),
    ] {
        let [installed, source] = [root.join(installed), project.join(source)];
        assert_eq!(
            std::fs::read(&installed).unwrap(),
            std::fs::read(source).unwrap()
        );
        assert_eq!(mode(&installed), 0o644);
    }
    for (completion, piece) in [
        (
            "usr/share/bash-completion/completions/nihilo",
            "complete -F _nihilo",
        ),
        (
            "usr/share/zsh/vendor-completions/_nihilo",
            "#compdef nihilo",
        ),
        (
            "usr/share/fish/vendor_completions.d/nihilo.fish",
            "complete -c nihilo",
        ),
        ("usr/share/nihilo/nihilo.ps1", "Register-ArgumentCompleter"),
    ] {
        let text = std::fs::read_to_string(root.join(completion)).unwrap();
        assert!(text.contains(piece), "{completion}");
    }
    assert_eq!(mode(&root.join("usr/bin/nihilo")), 0o755);
    assert_eq!(mode(&root.join("usr/share")), 0o755);
}

fn manual(root: &Path) {
    let dir = root.join("usr/share/man/man1");
    let pages: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(pages.len() > MIN_PAGES, "{pages:?}");
    for page in pages {
        assert!(
            page.starts_with("nihilo") && page.ends_with(".1.gz"),
            "{page}"
        );
        assert!(
            output("gzip", &["-dc", &page], &dir).contains(".TH"),
            "{page}"
        );
    }
}
