//! The shared libraries that a binary needs, as the machine's loader finds them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// Absolute paths; none for a static binary.
///
/// # Errors
/// A library is missing on this machine.
pub(crate) fn of(binary: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(binary).output();
    let output = output.context("`ldd` does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // It fails for a static binary of one kind, and says so on stderr.
    let complaint = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && !complaint.contains("not a dynamic executable") {
        bail!("ldd {}: {complaint}", binary.display());
    }
    parse(&text)
}

fn parse(text: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("a library is missing: {}", line.trim());
        }
        let path = line
            .split_ascii_whitespace()
            .find(|word| word.starts_with('/'));
        // A line without a path is the kernel's own page, or says that there is none.
        found.extend(path.map(PathBuf::from));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_by_their_paths() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 \
                    (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let want = [
            "/lib/x86_64-linux-gnu/libm.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(parse(text).unwrap(), want.map(PathBuf::from));
        assert!(parse("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = parse("\tlibx.so.1 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libx.so.1"), "{error}");
    }

    #[test]
    fn this_test_needs_the_c_library() {
        let own = std::env::current_exe().unwrap();
        let found = of(&own).unwrap();
        let is_libc = |path: &PathBuf| path.to_string_lossy().contains("libc.so");
        assert!(found.iter().any(is_libc), "{found:?}");
    }
}
