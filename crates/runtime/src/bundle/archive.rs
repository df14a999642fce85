//! What an image's archive must not hold: names. An engine that loads an archive gives its images the
//! names that stand in it, and takes them from the images that have them: whoever pushed one could
//! replace what other services run.

use std::io::{Read, Seek};

use serde::Deserialize;

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
/// Each of these files, at most.
const MAX_BYTES: u64 = 1024 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

/// Looks through the heads of a tar.
///
/// # Errors
/// Why an engine may not be given it, in words for people.
pub(crate) fn check(archive: impl Read + Seek) -> Result<(), String> {
    let unreadable = |error: std::io::Error| format!("it is no archive of an image: {error}");
    let mut tar = tar::Archive::new(archive);
    let mut n_images = None;
    for entry in tar.entries_with_seek().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?.into_owned();
        let path = path.to_string_lossy();
        let file = path.trim_start_matches("./");
        if ![MANIFEST, REPOSITORIES, INDEX].contains(&file) {
            continue;
        }
        let file = file.to_owned();
        let mut text = Vec::new();
        let n_read = entry.take(MAX_BYTES).read_to_end(&mut text);
        if n_read.map_err(unreadable)? as u64 == MAX_BYTES {
            return Err(format!("its `{file}` has {MAX_BYTES} bytes or more"));
        }
        let named = match file.as_str() {
            MANIFEST => {
                let saved: Vec<Saved> = read(&file, &text)?;
                n_images = Some(n_images.unwrap_or(0) + saved.len());
                saved
                    .into_iter()
                    .find_map(|one| one.repo_tags?.into_iter().next())
            }
            INDEX => name_in_index(&read(&file, &text)?),
            _ => name_in_repositories(&read(&file, &text)?),
        };
        if let Some(name) = named {
            return Err(format!(
                "it would give the name `{name}` to its image, and take it from the node's own: save the \
                 image by its id"
            ));
        }
    }
    match n_images {
        Some(1) => Ok(()),
        Some(n) => Err(format!("it holds {n} images instead of one")),
        None => Err(format!(
            "it is no archive of an image: it has no `{MANIFEST}`"
        )),
    }
}

fn read<T: serde::de::DeserializeOwned>(file: &str, text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| format!("its `{file}`: {error}"))
}

fn name_in_index(index: &serde_json::Value) -> Option<String> {
    let manifests = index.get("manifests")?.as_array()?;
    let annotations = manifests.iter().filter_map(|one| one.get("annotations"));
    let mut names = annotations.flat_map(|all| NAMES.iter().filter_map(|name| all.get(name)));
    Some(names.next()?.as_str().unwrap_or("?").to_owned())
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
}
