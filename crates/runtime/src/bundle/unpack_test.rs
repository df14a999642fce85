//! Tars as nobody should make them.

use tar::{Builder, Header};

use super::super::heads::MAX_HEAD_BYTES;
use super::*;

/// A header with the name as it is: `tar` itself refuses to write most of what is tried here.
fn header(name: &str, kind: EntryType, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(0o6_777);
    header.set_cksum();
    header
}

fn link(name: &str, kind: EntryType, target: &str) -> Header {
    let mut header = header(name, kind, 0);
    header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    header
}

fn tar_of(entries: &[(Header, &str)]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (header, text) in entries {
        tar.append(header, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn file_of(name: &str, text: &'static str) -> (Header, &'static str) {
    (header(name, EntryType::Regular, text.len()), text)
}

/// What comes of it, in a directory with a neighbour.
fn unpacked(
    entries: &[(Header, &str)],
    limits: Limits,
) -> (tempfile::TempDir, Result<u64, String>) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    make_root(&root).unwrap();
    fs::write(dir.path().join("outside"), "untouched").unwrap();
    let unpacked = unpack(tar_of(entries).as_slice(), &root, limits);
    (dir, unpacked.map_err(|error| error.to_string()))
}

#[test]
fn files_links_and_directories_stand_beneath_the_root_without_their_privileges() {
    let entries = [
        (header("./", EntryType::Directory, 0), ""),
        file_of("./bin/run", "#!"),
        file_of("bin/data", "abc"),
        (link("same", EntryType::Link, "bin/data"), ""),
        (link("bin/up", EntryType::Symlink, "../bin/data"), ""),
    ];
    let (dir, n_bytes) = unpacked(&entries, Limits::default());
    assert_eq!(n_bytes, Ok(5));
    let root = dir.path().join("root");
    for path in ["bin/data", "same", "bin/up"] {
        assert_eq!(
            fs::read_to_string(root.join(path)).unwrap(),
            "abc",
            "{path}"
        );
    }
    let run = fs::metadata(root.join("bin/run")).unwrap();
    // Neither setuid nor setgid, and nobody writes.
    assert_eq!(run.permissions().mode() & 0o7_777, 0o555);
}

#[test]
fn nothing_leads_out_of_the_tree() {
    let long = "a/".repeat(40) + "x";
    let entry = |header| vec![(header, "")];
    let cases: [(&str, Vec<(Header, &str)>); 13] = [
        ("has `..`", vec![file_of("../outside", "x")]),
        ("has `..`", vec![file_of("a/../../outside", "x")]),
        ("is absolute", vec![file_of("/tmp/outside", "x")]),
        ("a device", entry(header("null", EntryType::Char, 0))),
        ("a device", entry(header("disk", EntryType::Block, 0))),
        ("a FIFO", entry(header("pipe", EntryType::Fifo, 0))),
        (
            "out of the tree",
            entry(link("l", EntryType::Symlink, "../outside")),
        ),
        (
            "out of the tree",
            entry(link("l", EntryType::Symlink, "/etc/passwd")),
        ),
        ("has `..`", entry(link("l", EntryType::Link, "../outside"))),
        (
            "no file before it",
            entry(link("l", EntryType::Link, "later")),
        ),
        // A link's text stays inside, and where it leads does not.
        (
            "out of the tree",
            vec![
                (header("d/e", EntryType::Directory, 0), ""),
                (link("d/e/top", EntryType::Symlink, "../.."), ""),
                (link("l", EntryType::Symlink, "d/e/top/../outside"), ""),
            ],
        ),
        // A file through a link that came before it.
        (
            "File exists",
            vec![
                file_of("here/x", "x"),
                (link("door", EntryType::Symlink, "here"), ""),
                file_of("door/x", "y"),
            ],
        ),
        ("twice", vec![file_of(&long, "x"), file_of(&long, "y")]),
    ];
    for (wanted, entries) in cases {
        let (dir, result) = unpacked(&entries, Limits::default());
        let why = result.expect_err(wanted);
        let is_twice = wanted == "twice" && why.contains("exists");
        assert!(why.contains(wanted) || is_twice, "{wanted}: {why}");
        let outside = fs::read_to_string(dir.path().join("outside")).unwrap();
        assert_eq!(outside, "untouched", "{wanted}");
    }
}

#[test]
fn bounds_hold_whatever_the_tar_says() {
    let many: Vec<_> = ["a", "b", "c"].map(|name| file_of(name, "12345")).into();
    let few_files = Limits {
        n_files: 2,
        ..Limits::default()
    };
    let (_dir, result) = unpacked(&many, few_files);
    assert!(result.unwrap_err().contains("more than 2 files"));
    let few_bytes = Limits {
        n_bytes: 14,
        ..Limits::default()
    };
    let (_dir, result) = unpacked(&many, few_bytes);
    assert!(result.unwrap_err().contains("more than 14 bytes"));
    let sparse = header("bomb", EntryType::GNUSparse, 0);
    let (_dir, result) = unpacked(&[(sparse, "")], Limits::default());
    // By `tar` itself already, where its own numbers make no sense.
    assert!(result.is_err());
}

#[test]
fn sealed_trees_are_removed_again() {
    let (dir, result) = unpacked(&[file_of("a/b/c", "x")], Limits::default());
    result.unwrap();
    let root = dir.path().join("root");
    super::super::tree::seal(&root).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&root.join("a/b")), 0o555);
    super::super::tree::remove(&root).unwrap();
    assert!(fs::metadata(&root).is_err());
    super::super::tree::remove(&root).unwrap();
}

/// Counts what is read of it.
struct Counted<'a, R>(R, &'a mut u64);

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_read = self.0.read(buffer)?;
        *self.1 += n_read as u64;
        Ok(n_read)
    }
}

#[test]
fn names_and_records_that_would_fill_memory_are_refused_before_they_are_read() {
    let large = 64 * MAX_HEAD_BYTES;
    let kinds = [
        EntryType::XHeader,
        EntryType::GNULongName,
        EntryType::GNULongLink,
    ];
    for kind in kinds {
        let head = header("x", kind, usize::try_from(large).unwrap());
        let before = tar_of(&[file_of("a", "abc")]);
        // Without the end of that tar.
        let before = &before[..1_024];
        let tar = before.chain(&head.as_bytes()[..]);
        let (dir, mut n_read) = (tempfile::tempdir().unwrap(), 0);
        let tar = Counted(tar.chain(io::repeat(b'x')), &mut n_read);
        let refused = unpack(tar, dir.path(), Limits::default()).unwrap_err();
        let why = refused.to_string();
        assert!(why.contains("stands before a file"), "{kind:?}: {why}");
        assert!(n_read < 2 * MAX_HEAD_BYTES, "{kind:?}: {n_read}");
    }
}

#[test]
fn what_is_no_file_and_has_bytes_counts_as_no_head() {
    let n_bytes = 2 * MAX_HEAD_BYTES;
    let text = "x".repeat(usize::try_from(n_bytes).unwrap());
    let odd = (
        header("dir/", EntryType::Directory, text.len()),
        text.as_str(),
    );
    let (dir, unpacked) = unpacked(&[odd, file_of("a", "abc")], Limits::default());
    assert_eq!(unpacked, Ok(n_bytes + 3));
    assert_eq!(fs::read(dir.path().join("root/a")).unwrap(), b"abc");
}
