//! What an image's archive must not hold: names. An engine that loads an archive gives its images the
//! names that stand in it, and takes them from the images that have them: whoever pushed one could
//! replace what other services run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};

use serde::Deserialize;
use serde::de::IgnoredAny;
use tar::{Entry, EntryType};

use super::heads::Bounded;

/// Of `docker save`: which images are in it, by their layers.
const MANIFEST: &str = "manifest.json";
/// The same for engines of before 2016, names and nothing else.
const REPOSITORIES: &str = "repositories";
/// The same as an OCI image layout, which newer engines add.
const INDEX: &str = "index.json";
/// Annotations of an index that engines take for names.
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];
/// Keys of an index on the way to them.
const WAY: [&str; 2] = ["manifests", "annotations"];
/// Each of these files, at most.
const MAX_BYTES: u64 = 1024 * 1024;
/// An image has 127 layers at most, and an archive a few entries for each.
const MAX_ENTRIES: usize = 10_000;
const MAX_PATH_BYTES: usize = 4_096;
/// The length of what tells an engine that an archive is compressed.
const N_MAGIC: u64 = 4;

/// Everything that engines write there: one may read a key in another case as one of these.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    #[serde(rename = "RepoTags", default)]
    repo_tags: Option<Vec<String>>,
    #[serde(rename = "Config", default)]
    _config: IgnoredAny,
    #[serde(rename = "Layers", default)]
    _layers: IgnoredAny,
    #[serde(rename = "Parent", default)]
    _parent: IgnoredAny,
    #[serde(rename = "LayerSources", default)]
    _layer_sources: IgnoredAny,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Option<Vec<Described>>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

/// Looks through the heads of a tar. Whatever engines could read in another way than this is refused.
///
/// # Errors
/// Why an engine may not be given it, in words for people.
pub(crate) fn check(mut archive: impl Read + Seek) -> Result<(), String> {
    check_magic(&mut archive)?;
    let (archive, bound) = Bounded::new(archive);
    let mut tar = tar::Archive::new(archive);
    let (mut seen, mut n_images) = (Seen::default(), None);
    for entry in tar.entries_with_seek().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let file = seen.add(&mut entry)?;
        bound.begin_head();
        if ![MANIFEST, REPOSITORIES, INDEX].contains(&file.as_str()) {
            continue;
        }
        bound.end_head();
        let text = text_of(&file, entry)?;
        bound.begin_head();
        let named = match file.as_str() {
            MANIFEST => {
                let saved: Vec<Saved> = read(&file, &text)?;
                n_images = Some(saved.len());
                saved
                    .into_iter()
                    .find_map(|one| one.repo_tags?.into_iter().next())
            }
            INDEX => name_in_index(read(&file, &text)?)?,
            _ => name_in_repositories(&read(&file, &text)?),
        };
        if let Some(name) = named {
            return Err(format!(
                "it would give the name `{name}` to its image, and take it from the node's own: save the \
                 image by its id"
            ));
        }
    }
    seen.check_links()?;
    match n_images {
        Some(1) => Ok(()),
        Some(n) => Err(format!("it holds {n} images instead of one")),
        None => Err(format!(
            "it is no archive of an image: it has no `{MANIFEST}`"
        )),
    }
}

fn unreadable(error: std::io::Error) -> String {
    format!("it is no archive of an image: {error}")
}

/// What is compressed for an engine may be a tar here, with other files in it.
fn check_magic(archive: &mut (impl Read + Seek)) -> Result<(), String> {
    let mut magic = Vec::new();
    let read = archive.by_ref().take(N_MAGIC).read_to_end(&mut magic);
    read.map_err(unreadable)?;
    archive.rewind().map_err(unreadable)?;
    let is_of_name = |byte: &u8| *byte == 0 || byte.is_ascii_graphic();
    if magic.starts_with(b"BZh") || !magic.iter().all(is_of_name) {
        return Err("it is no archive of an image: it is compressed, or no tar".into());
    }
    Ok(())
}

/// The entries so far.
#[derive(Default)]
struct Seen {
    /// Whether each is a directory.
    paths: BTreeMap<String, bool>,
    links: BTreeSet<String>,
}

impl Seen {
    /// Returns the entry's path.
    fn add(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<String, String> {
        check_extensions(entry)?;
        let raw = entry.path_bytes().into_owned();
        let refused = |why: &str| {
            let shown = String::from_utf8_lossy(&raw);
            Err(format!("its entry `{}` {why}", shown.escape_default()))
        };
        let kind = entry.header().entry_type();
        let is_directory = kind == EntryType::Directory;
        let is_link = [EntryType::Symlink, EntryType::Link].contains(&kind);
        if kind != EntryType::Regular && !is_directory && !is_link {
            return refused("is no file, directory or link");
        }
        // Engines go on right behind the head of such an entry.
        if kind != EntryType::Regular && entry.size() > 0 {
            return refused("has bytes, and is no file");
        }
        let Some(path) = plain(&raw, is_directory) else {
            return refused("has no plain path");
        };
        if is_link && !path.contains('/') {
            return refused("is a link beside the image's own files");
        }
        if is_link {
            self.links.insert(path.clone());
        }
        let before = self.paths.insert(path.clone(), is_directory);
        if before.is_some_and(|was_directory| !(was_directory && is_directory)) {
            return refused("is there twice");
        }
        if self.paths.len() > MAX_ENTRIES {
            return Err(format!("it has more than {MAX_ENTRIES} entries"));
        }
        Ok(path)
    }

    /// What lies below a link lies somewhere else.
    fn check_links(&self) -> Result<(), String> {
        for link in &self.links {
            let below = format!("{link}/");
            let next = self.paths.range(below.clone()..).next();
            if next.is_some_and(|(path, _)| path.starts_with(&below)) {
                return Err(format!(
                    "its entry `{link}` is a link that others go through"
                ));
            }
        }
        Ok(())
    }
}

/// Records before an entry in its head's place, where engines read them in another way.
fn check_extensions(entry: &mut Entry<'_, impl Read>) -> Result<(), String> {
    let Some(extensions) = entry.pax_extensions().map_err(unreadable)? else {
        return Ok(());
    };
    let mut keys = BTreeSet::new();
    for extension in extensions {
        let extension = extension.map_err(unreadable)?;
        let key = extension.key_bytes();
        let is_needed = [&b"path"[..], b"linkpath", b"size"].contains(&key);
        let is_unset = is_needed && extension.value_bytes().is_empty();
        if is_unset || key.starts_with(b"GNU.sparse") || !keys.insert(key) {
            let shown = String::from_utf8_lossy(key);
            return Err(format!("it has an odd record `{}`", shown.escape_default()));
        }
    }
    Ok(())
}

/// The path that every reader makes of these bytes.
fn plain(raw: &[u8], is_directory: bool) -> Option<String> {
    let text = std::str::from_utf8(raw).ok()?;
    if text.len() > MAX_PATH_BYTES {
        return None;
    }
    let text = text.strip_prefix("./").unwrap_or(text);
    let text = match is_directory {
        true => text.strip_suffix('/').unwrap_or(text),
        false => text,
    };
    let is_root = is_directory && ["", "."].contains(&text);
    let is_plain = |part: &str| {
        !["", ".", ".."].contains(&part) && part.bytes().all(|byte| byte.is_ascii_graphic())
    };
    (is_root || text.split('/').all(is_plain)).then(|| text.to_owned())
}

fn text_of(file: &str, entry: impl Read) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let n_read = entry.take(MAX_BYTES).read_to_end(&mut text);
    if n_read.map_err(unreadable)? as u64 == MAX_BYTES {
        return Err(format!("its `{file}` has {MAX_BYTES} bytes or more"));
    }
    Ok(text)
}

fn read<T: serde::de::DeserializeOwned>(file: &str, text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| format!("its `{file}`: {error}"))
}

fn name_in_index(index: Index) -> Result<Option<String>, String> {
    check_keys(&index.others)?;
    for one in index.manifests.unwrap_or_default() {
        check_keys(&one.others)?;
        let mut given = one.annotations.unwrap_or_default().into_iter();
        if let Some((_, name)) = given.find(|(key, _)| NAMES.contains(&key.as_str())) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Engines read a key whatever its case.
fn check_keys(others: &BTreeMap<String, IgnoredAny>) -> Result<(), String> {
    // Both ways, as some letters have one of an ASCII letter's cases.
    let folded = |key: &str| key.to_uppercase().to_lowercase();
    match others
        .keys()
        .find(|key| WAY.contains(&folded(key).as_str()))
    {
        Some(key) => Err(format!("its `{INDEX}`: key `{}`", key.escape_default())),
        None => Ok(()),
    }
}

fn name_in_repositories(repositories: &serde_json::Value) -> Option<String> {
    repositories.as_object()?.keys().next().cloned()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn checked(files: &[(&str, &str)]) -> Result<(), String> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            let done = tar.append_data(&mut header, path, text.as_bytes());
            done.unwrap();
        }
        check(Cursor::new(tar.into_inner().unwrap()))
    }

    #[test]
    fn an_archive_of_one_image_without_a_name_is_taken() {
        let layer = ("abc/layer.tar", "bytes");
        for tags in ["null", "[]"] {
            let saved = format!(r#"[{{"Config":"c.json","RepoTags":{tags},"Layers":[]}}]"#);
            assert_eq!(checked(&[layer, (MANIFEST, &saved)]), Ok(()));
        }
        let index = r#"{"manifests":[{"digest":"sha256:x","annotations":{"other":"x"}}]}"#;
        let saved = r#"[{"Config":"blobs/sha256/c"}]"#;
        assert_eq!(checked(&[(INDEX, index), (MANIFEST, saved)]), Ok(()));
    }

    #[test]
    fn names_are_refused_wherever_an_engine_reads_them() {
        let saved = r#"[{"RepoTags":null}]"#;
        let tagged = r#"[{"RepoTags":["nginx:latest"]}]"#;
        let index =
            |key: &str| format!(r#"{{"manifests":[{{"annotations":{{"{key}":"nginx"}}}}]}}"#);
        let (one, two) = (index(NAMES[0]), index(NAMES[1]));
        let cases: [&[(&str, &str)]; 5] = [
            &[(MANIFEST, tagged)],
            &[("./manifest.json", tagged)],
            &[(MANIFEST, saved), (INDEX, &one)],
            &[(MANIFEST, saved), (INDEX, &two)],
            &[
                (MANIFEST, saved),
                (REPOSITORIES, r#"{"nginx":{"latest":"x"}}"#),
            ],
        ];
        for files in cases {
            let why = checked(files).unwrap_err();
            assert!(why.contains("the name `nginx"), "{files:?}: {why}");
        }
    }

    #[test]
    fn what_is_no_archive_of_one_image_is_refused() {
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[], "no `manifest.json`"),
            (&[(MANIFEST, "[]")], "0 images"),
            (&[(MANIFEST, "[{},{}]")], "2 images"),
            (&[(MANIFEST, "{")], "its `manifest.json`"),
        ];
        for (files, wanted) in cases {
            let why = checked(files).unwrap_err();
            assert!(why.contains(wanted), "{why}");
        }
        let why = check(Cursor::new(b"no tar, for sure".repeat(100))).unwrap_err();
        assert!(why.contains("no archive of an image"), "{why}");
    }

    const SAVED: &str = r#"[{"RepoTags":null}]"#;

    /// An entry as nobody writes one by accident.
    fn entry(kind: EntryType, path: &str, text: &str) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn file(path: &str, text: &str) -> Vec<u8> {
        entry(EntryType::Regular, path, text)
    }

    fn record(key: &str, value: &str) -> Vec<u8> {
        let rest = format!(" {key}={value}\n");
        let text = format!("{:02}{rest}", rest.len() + 2);
        entry(EntryType::XHeader, "PaxHeaders.0/x", &text)
    }

    /// With the manifest of an image that is fine before them.
    fn checked_raw(entries: &[Vec<u8>]) -> Result<(), String> {
        let mut bytes = file(MANIFEST, SAVED);
        bytes.extend(entries.concat());
        bytes.resize(bytes.len() + 1_024, 0);
        check(Cursor::new(bytes))
    }

    #[test]
    fn keys_that_engines_would_take_for_others_are_refused() {
        let named = r#"{"io.containerd.image.name":"nginx"}"#;
        let cases: [(&str, String); 9] = [
            (MANIFEST, r#"[{"repotags":["nginx"]}]"#.into()),
            (
                MANIFEST,
                r#"[{"RepoTags":null,"REPOTAGS":["nginx"]}]"#.into(),
            ),
            (MANIFEST, r#"[{"RepoTag\u017f":["nginx"]}]"#.into()),
            (
                MANIFEST,
                r#"[{"RepoTags":["nginx"],"RepoTags":null}]"#.into(),
            ),
            (
                INDEX,
                format!(r#"{{"Manifests":[{{"annotations":{named}}}]}}"#),
            ),
            (
                INDEX,
                format!(r#"{{"manifest\u017f":[{{"annotations":{named}}}]}}"#),
            ),
            (
                INDEX,
                format!(r#"{{"manifests":[{{"ANNOTATIONS":{named}}}]}}"#),
            ),
            (
                INDEX,
                format!(r#"{{"manifests":[{{"annotations":{named}}}],"manifests":[{{}}]}}"#),
            ),
            (
                INDEX,
                format!(r#"{{"manifests":[{{"annotations":{named},"annotations":null}}]}}"#),
            ),
        ];
        for (path, text) in cases {
            let files = match path {
                MANIFEST => vec![(path, text.as_str())],
                _ => vec![(MANIFEST, SAVED), (path, text.as_str())],
            };
            let why = checked(&files).unwrap_err();
            assert!(why.contains(path), "{text}: {why}");
        }
    }

    #[test]
    fn entries_that_engines_would_take_for_others_are_refused() {
        let tagged = r#"[{"RepoTags":["nginx"]}]"#;
        let link = |path: &str| entry(EntryType::Symlink, path, "");
        let cases: [(Vec<Vec<u8>>, &str); 17] = [
            (vec![file(MANIFEST, tagged)], "twice"),
            (vec![file("./manifest.json", SAVED)], "twice"),
            (vec![file("a/../index.json", "{}")], "no plain path"),
            (vec![file("/index.json", "{}")], "no plain path"),
            (vec![file(".//index.json", "{}")], "no plain path"),
            (vec![file("././index.json", "{}")], "no plain path"),
            (vec![file("index.json/", "{}")], "no plain path"),
            (vec![file("index.jſon", "{}")], "no plain path"),
            (vec![file("", "{}")], "no plain path"),
            (vec![link("index.json")], "a link beside"),
            (
                vec![entry(EntryType::Link, "index.json", "")],
                "a link beside",
            ),
            (vec![link("a/b"), file("a/b/c", "")], "others go through"),
            (
                vec![entry(EntryType::Directory, "a/", tagged)],
                "is no file",
            ),
            (
                vec![entry(EntryType::Fifo, "a", "")],
                "no file, directory or link",
            ),
            (
                vec![record("GNU.sparse.name", INDEX), file("a", "{}")],
                "odd record",
            ),
            (vec![record("path", ""), file("a", "{}")], "odd record"),
            (
                vec![record("comment", "x\n10 path=a\n"), file(INDEX, "{}")],
                "no archive of an image",
            ),
        ];
        for (entries, wanted) in cases {
            let why = checked_raw(&entries).unwrap_err();
            assert!(why.contains(wanted), "{wanted}: {why}");
        }
        // Looked at under the name that a record gives it.
        let renamed = [record("path", REPOSITORIES), file("a", r#"{"nginx":{}}"#)];
        assert!(checked_raw(&renamed).unwrap_err().contains("nginx"));
    }

    #[test]
    fn links_between_layers_and_directories_are_taken() {
        let directory = |path: &str| entry(EntryType::Directory, path, "");
        let entries = [
            directory("./"),
            directory("abc/"),
            file("abc/layer.tar", "bytes"),
            directory("abcd/"),
            entry(EntryType::Symlink, "abcd/layer.tar", ""),
            file("abcd/layer.tar.json", "{}"),
            directory("abc/"),
        ];
        assert_eq!(checked_raw(&entries), Ok(()));
    }

    #[test]
    fn records_that_would_fill_memory_are_refused_before_they_are_read() {
        let endless = |kind: EntryType| {
            let mut head = entry(kind, "x", "");
            head[124..136].copy_from_slice(b"77777777777\0");
            let sum = head[..148]
                .iter()
                .chain(&head[156..512])
                .map(|byte| u32::from(*byte));
            let sum = format!("{:06o}\0 ", sum.sum::<u32>() + 8 * 32);
            head[148..156].copy_from_slice(sum.as_bytes());
            head
        };
        let kinds = [
            EntryType::XHeader,
            EntryType::XGlobalHeader,
            EntryType::GNULongName,
            EntryType::GNULongLink,
        ];
        for kind in kinds {
            let n_more = usize::try_from(2 * super::super::heads::MAX_HEAD_BYTES).unwrap();
            let why = checked_raw(&[endless(kind), vec![b'x'; n_more]]).unwrap_err();
            assert!(why.contains("stands before a file"), "{kind:?}: {why}");
        }
    }

    #[test]
    fn what_an_engine_would_decompress_is_refused() {
        for magic in ["BZh9", "\u{1f}\u{8b}\u{8}", "P*M\u{18}"] {
            let mut bytes = file(magic, "");
            bytes.extend(file(MANIFEST, SAVED));
            let why = check(Cursor::new(bytes)).unwrap_err();
            assert!(why.contains("compressed"), "{magic:?}: {why}");
        }
    }
}
