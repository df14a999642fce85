//! Makes a bundle out of a program or a directory. The same content is the same bundle, whoever packs
//! it and when.

mod elf;
mod procfile;
mod tree;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use nihilo_types::bundle::{
    Blob, BundleKind, CHUNK_BYTES, Digest, Hasher, MAX_BLOB_BYTES, Manifest, Platform, SCHEMA,
};

use crate::failure::{Failure, Result, exit};

/// A bundle that is ready to be pushed.
#[derive(Debug)]
pub(crate) struct Packed {
    pub manifest: Manifest,
    /// What a user should know before it runs elsewhere.
    pub remarks: Vec<String>,
    file: File,
}

impl Packed {
    pub(crate) fn read(&self, at: u64, n: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(n).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}

/// Packs a program, or a directory whose entry point is `command` or its `Procfile`'s `web:` line.
///
/// # Errors
/// It cannot be read, is too large, or has no entry point.
pub(crate) fn pack(path: &Path, command: &[String]) -> Result<Packed> {
    let shown = path.display();
    let found = fs::metadata(path).map_err(|error| Failure::io(shown, &error))?;
    match found.is_dir() {
        true => directory(path, command),
        false => program(path, &found, command),
    }
}

fn program(path: &Path, found: &fs::Metadata, command: &[String]) -> Result<Packed> {
    let shown = path.display();
    if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
        let failure = Failure::usage(format!("{shown} is no program"));
        return Err(failure.hint(format!("chmod +x {shown}, or name a directory")));
    }
    if !command.is_empty() {
        let text = "`--cmd` is for directories: a program is its own entry point";
        return Err(Failure::usage(text));
    }
    let mut file = File::open(path).map_err(|error| Failure::io(shown, &error))?;
    let (platform, remarks) = looked_at(path)?;
    let blob = blob_of(&mut file, path)?;
    Ok(Packed {
        manifest: manifest(BundleKind::Binary, platform, Vec::new(), blob),
        remarks,
        file,
    })
}

fn directory(path: &Path, command: &[String]) -> Result<Packed> {
    let entrypoint = match command {
        [] => of_procfile(path)?,
        [line] => procfile::words(line),
        words => words.to_vec(),
    };
    if entrypoint.is_empty() {
        return Err(Failure::usage("the command is empty"));
    }
    let first = path.join(&entrypoint[0]);
    let (platform, remarks) = match first.is_file() {
        true => looked_at(&first)?,
        false => (Platform::linux(Platform::ANY_ARCH), Vec::new()),
    };
    let mut file = tree::pack(path)?;
    let blob = blob_of(&mut file, path)?;
    Ok(Packed {
        manifest: manifest(BundleKind::Tree, platform, entrypoint, blob),
        remarks,
        file,
    })
}

fn of_procfile(dir: &Path) -> Result<Vec<String>> {
    let shown = dir.display();
    let text = fs::read_to_string(dir.join("Procfile")).unwrap_or_default();
    let line = procfile::web(&text).ok_or_else(|| {
        Failure::usage(format!(
            "{shown} has no `Procfile` with a line `web: COMMAND`"
        ))
        .hint("add one, or say it: --cmd './server --flag'")
    })?;
    Ok(procfile::words(line))
}

fn manifest(kind: BundleKind, platform: Platform, entrypoint: Vec<String>, blob: Blob) -> Manifest {
    Manifest {
        schema: SCHEMA,
        kind,
        platform,
        entrypoint,
        blob,
        image_id: None,
    }
}

/// What a program runs on, and what it needs there.
fn looked_at(path: &Path) -> Result<(Platform, Vec<String>)> {
    let looked = File::open(path).and_then(|file| elf::look(&file));
    let looked = looked.map_err(|error| Failure::io(path.display(), &error))?;
    let Some(elf) = looked else {
        return Ok((Platform::linux(Platform::ANY_ARCH), Vec::new()));
    };
    let remark = elf.interpreter.map(|interpreter| {
        format!(
            "{} is not static: it needs {interpreter} and its libraries on every node",
            path.display()
        )
    });
    let platform = Platform::linux(elf.arch);
    Ok((platform, remark.into_iter().collect()))
}

fn blob_of(file: &mut File, path: &Path) -> Result<Blob> {
    let read = hashed(file).map_err(|error| Failure::io(path.display(), &error))?;
    let shown = path.display();
    match read.size {
        0 => Err(Failure::usage(format!("{shown} is empty"))),
        size if size > MAX_BLOB_BYTES => {
            let text =
                format!("{shown} has {size} bytes packed, a bundle at most {MAX_BLOB_BYTES}");
            Err(Failure::new(exit::USAGE, text))
        }
        _ => Ok(read),
    }
}

/// Reads no more than it takes to know that it is too much.
fn hashed(file: &mut File) -> io::Result<Blob> {
    file.seek(SeekFrom::Start(0))?;
    let (mut all, mut chunks, mut size) = (Hasher::default(), Vec::new(), 0);
    let mut chunk = Vec::new();
    while size <= MAX_BLOB_BYTES {
        chunk.clear();
        let n = file.by_ref().take(CHUNK_BYTES).read_to_end(&mut chunk)?;
        if n == 0 {
            break;
        }
        all.update(&chunk);
        chunks.push(Digest::of(&chunk));
        size += n as u64;
    }
    Ok(Blob {
        digest: all.finish(),
        size,
        chunks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_of(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        dir
    }

    #[test]
    fn the_same_content_is_the_same_bundle() {
        let files = [
            ("Procfile", "web: ./run\n"),
            ("run", "#!/bin/sh\n"),
            ("a/b", "x"),
        ];
        let (one, two) = (directory_of(&files), directory_of(&files));
        let later = File::open(two.path().join("run")).unwrap();
        later.set_modified(std::time::UNIX_EPOCH).unwrap();
        let packed = |dir: &tempfile::TempDir| pack(dir.path(), &[]).unwrap().manifest;
        assert_eq!(packed(&one), packed(&two));
        assert_eq!(packed(&one).entrypoint, ["./run"]);
        assert_eq!(packed(&one).platform.arch, "any");
        fs::write(two.path().join("a/b"), "y").unwrap();
        assert_ne!(packed(&one).digest(), packed(&two).digest());
    }

    #[test]
    fn what_has_no_entry_point_is_refused_with_the_next_step() {
        let dir = directory_of(&[("index.html", "hello")]);
        let failure = pack(dir.path(), &[]).unwrap_err();
        assert!(failure.to_string().contains("hint: add one, or say it"));
        let by_flag = pack(dir.path(), &["./x --y".into()]).unwrap();
        assert_eq!(by_flag.manifest.entrypoint, ["./x", "--y"]);
        let failure = pack(&dir.path().join("index.html"), &[]).unwrap_err();
        assert!(failure.to_string().contains("is no program"), "{failure}");
    }

    #[test]
    fn a_program_is_read_as_what_it_is() {
        let own = std::env::current_exe().unwrap();
        let packed = pack(&own, &[]).unwrap();
        assert_eq!(packed.manifest.kind, BundleKind::Binary);
        assert!(packed.manifest.platform.runs_on(std::env::consts::ARCH));
        assert!(packed.manifest.check().is_ok());
        let first = packed.read(0, 4).unwrap();
        assert_eq!(first, b"\x7fELF");
    }
}
