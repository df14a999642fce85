//! From a bundle on the disk to what is executed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// What to execute, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub argv: Vec<String>,
    /// `None` = wherever the node's own working directory is.
    pub dir: Option<PathBuf>,
    /// The unpacked bundle that it is of.
    pub tree: Option<PathBuf>,
}

impl Program {
    pub(crate) fn at(argv: Vec<String>, working_dir: &str) -> Self {
        let dir = (!working_dir.is_empty()).then(|| working_dir.into());
        Self {
            argv,
            dir,
            tree: None,
        }
    }

    /// The file that is executed; `None` where it is looked for by its name.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        let program = self.argv.first().filter(|program| program.contains('/'))?;
        let dir = self.dir.as_deref().unwrap_or(Path::new("/"));
        // An absolute one replaces the directory.
        Some(dir.join(program))
    }
}

/// What the service says beside its image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) command: &'a [String],
    pub(super) args: &'a [String],
    pub(super) working_dir: &'a str,
}

/// Of programs of the host that are named without a path, as instances have it.
pub(crate) const HOST_PATH: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// A binary is run where it lies.
pub(super) fn of_binary(blob: &Path, asked: Asked<'_>) -> Program {
    let mut argv = match asked.command {
        [] => vec![blob.to_string_lossy().into_owned()],
        command => command.to_vec(),
    };
    argv.extend_from_slice(asked.args);
    Program::at(argv, asked.working_dir)
}

/// A program of the tree, or one of the host (`python3`, `/bin/sh`), at the tree's top.
///
/// # Errors
/// What is missing, in words.
pub(super) fn of_tree(
    root: &Path,
    entrypoint: &[String],
    asked: Asked<'_>,
) -> Result<Program, String> {
    let words = match asked.command {
        [] => entrypoint,
        command => command,
    };
    let (first, rest) = words.split_first().ok_or("it has no entry point")?;
    let mut argv = vec![find(root, first)?];
    argv.extend_from_slice(rest);
    argv.extend_from_slice(asked.args);
    // An absolute one replaces the tree's.
    let dir = root.join(asked.working_dir);
    Ok(Program {
        argv,
        dir: Some(dir),
        tree: Some(root.into()),
    })
}

fn find(root: &Path, program: &str) -> Result<String, String> {
    let path = Path::new(program);
    if path.is_absolute() {
        return Ok(program.into());
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("`{program}` leads out of the bundle"));
    }
    let clean: PathBuf = path
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect();
    let in_tree = root.join(clean);
    match fs::metadata(&in_tree) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 == 0 => Err(format!(
            "`{program}` of the bundle is no program: `chmod +x` it, and push it again"
        )),
        Ok(found) if found.is_file() => Ok(in_tree.to_string_lossy().into_owned()),
        _ if program.contains('/') => Err(format!("the bundle has no file `{program}`")),
        _ => of_host(program),
    }
}

fn of_host(program: &str) -> Result<String, String> {
    let mut all = HOST_PATH.iter().map(|dir| Path::new(dir).join(program));
    let found = all.find(|path| fs::metadata(path).is_ok_and(|found| found.is_file()));
    found
        .map(|path| path.to_string_lossy().into_owned())
        .ok_or_else(|| {
            format!(
                "neither the bundle nor this node has a program `{program}` (looked in {})",
                HOST_PATH.join(", ")
            )
        })
}
