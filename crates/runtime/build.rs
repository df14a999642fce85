//! Compiles the launcher, which is a program of its own inside the node's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let out = PathBuf::from(variable("OUT_DIR")).join("launcher");
    let files = [
        "launcher/main.rs",
        "src/launch.rs",
        "src/launch/filter.rs",
        "src/launch/landlock.rs",
        "src/launch/mounts.rs",
        "src/launch/plan.rs",
        "src/launch/root.rs",
        "src/launch/steps.rs",
        "src/launch/syscalls.rs",
        "build.rs",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    // Without shared libraries to load and addresses to fix up it starts in half the time. Where the
    // C library has no such form, the ordinary one does.
    let is_static = compile(
        &out,
        &["target-feature=+crt-static", "relocation-model=static"],
    );
    assert!(
        is_static || compile(&out, &[]),
        "the launcher does not compile"
    );
}

fn compile(out: &Path, codegen: &[&str]) -> bool {
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--edition=2024", "--crate-name=launcher", "--target"])
        .arg(variable("TARGET"))
        .args(["-Copt-level=3", "-Cpanic=abort", "-Cstrip=symbols"])
        .args(codegen.iter().map(|option| format!("-C{option}")));
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        let mut option = OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    rustc.arg("-o").arg(out).arg("launcher/main.rs");
    rustc.status().is_ok_and(|status| status.success())
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
