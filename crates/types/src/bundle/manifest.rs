//! What a bundle is made of. The digest of its manifest's bytes is the bundle's own.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CHUNK_BYTES, Digest, MAX_BLOB_BYTES, MAX_MANIFEST_BYTES};

/// The only one there is.
pub const SCHEMA: u32 = 1;
/// Words of an entry point, and bytes of all of them.
const MAX_WORDS: usize = 256;
const MAX_WORD_BYTES: usize = 16 * 1024;

/// Shape: its canonical form is compact JSON, its fields in this order. Only that form is taken: two
/// forms of one manifest would be two bundles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    pub schema: u32,
    pub kind: BundleKind,
    pub platform: Platform,
    /// Program and leading arguments, where the service gives none. Of a binary: empty, it is the
    /// program. Of a tree: a program of it, by its path, or one of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    pub blob: Blob,
    /// Of an image's archive, and of nothing else: the engine's id of the image. Archives of one image
    /// may differ from engine to engine; this is what each engine must come to that loads one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<Digest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BundleKind {
    /// The blob is the program.
    Binary,
    /// The blob is a tar, not compressed, of a directory.
    Tree,
    /// The blob is what `docker save` makes of one container image.
    DockerArchive,
}

impl fmt::Display for BundleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Binary => "binary",
            Self::Tree => "tree",
            Self::DockerArchive => "docker-archive",
        })
    }
}

/// What it runs on, in Go's words: `linux`, `amd64`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Platform {
    pub os: String,
    /// `any` for a script.
    pub arch: String,
}

impl Platform {
    pub const ANY_ARCH: &str = "any";

    pub fn linux(arch: &str) -> Self {
        Self {
            os: "linux".into(),
            arch: arch.into(),
        }
    }

    /// Whether a host of this architecture, in Rust's words (`x86_64`), runs it.
    pub fn runs_on(&self, arch: &str) -> bool {
        let arch = match arch {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.os == "linux" && (self.arch == arch || self.arch == Self::ANY_ARCH)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.arch)
    }
}

/// Bytes, by their digest; each chunk has one of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Blob {
    pub digest: Digest,
    /// Bytes, 1 to [`MAX_BLOB_BYTES`].
    pub size: u64,
    /// One for every [`CHUNK_BYTES`] that begin.
    pub chunks: Vec<Digest>,
}

impl Blob {
    pub fn n_chunks(&self) -> u32 {
        u32::try_from(self.chunks.len()).unwrap_or(u32::MAX)
    }

    /// Where a chunk begins, and its bytes; `None` = there is no such chunk.
    pub fn range_of(&self, chunk: u32) -> Option<(u64, u64)> {
        if chunk >= self.n_chunks() {
            return None;
        }
        let at = u64::from(chunk) * CHUNK_BYTES;
        Some((at, CHUNK_BYTES.min(self.size.saturating_sub(at))))
    }
}

/// Why bytes are no manifest that this version takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed manifest: {0}")]
pub struct MalformedManifest(pub String);

impl Manifest {
    /// The canonical form.
    ///
    /// # Panics
    /// Never: it holds no map and no float.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest renders as JSON")
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// # Errors
    /// Not the canonical form, or over a limit.
    pub fn parse(bytes: &[u8]) -> Result<Self, MalformedManifest> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            let text = format!("{} bytes, at most {MAX_MANIFEST_BYTES}", bytes.len());
            return Err(MalformedManifest(text));
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| MalformedManifest(error.to_string()))?;
        manifest.check()?;
        if manifest.to_bytes() != bytes {
            let text = "it is not in canonical form (compact JSON, fields in their order)";
            return Err(MalformedManifest(text.into()));
        }
        Ok(manifest)
    }

    /// # Errors
    /// What is over a limit, or does not belong together.
    pub fn check(&self) -> Result<(), MalformedManifest> {
        let Blob { size, chunks, .. } = &self.blob;
        let n_words: usize = self.entrypoint.iter().map(String::len).sum();
        let why = if self.schema != SCHEMA {
            format!("schema {}, this version knows {SCHEMA}", self.schema)
        } else if self.platform.os != "linux" {
            format!("it is for `{}`, nodes run linux", self.platform.os)
        } else if *size == 0 {
            "its blob is empty".into()
        } else if *size > MAX_BLOB_BYTES {
            format!("its blob has {size} bytes, at most {MAX_BLOB_BYTES}")
        } else if chunks.len() as u64 != size.div_ceil(CHUNK_BYTES) {
            format!("{size} bytes are not {} chunks", chunks.len())
        } else if self.entrypoint.len() > MAX_WORDS || n_words > MAX_WORD_BYTES {
            format!("its entry point has more than {MAX_WORDS} words or {MAX_WORD_BYTES} bytes")
        } else if self.entrypoint.iter().any(|word| word.contains('\0')) {
            "its entry point has a zero byte".into()
        } else {
            return self.check_entrypoint();
        };
        Err(MalformedManifest(why))
    }

    fn check_entrypoint(&self) -> Result<(), MalformedManifest> {
        let is_there = self.entrypoint.first().is_some_and(|word| !word.is_empty());
        let is_none = self.entrypoint.is_empty();
        let why = match self.kind {
            BundleKind::Tree if is_there => return self.check_image_id(),
            BundleKind::Binary | BundleKind::DockerArchive if is_none => {
                return self.check_image_id();
            }
            BundleKind::Tree => "a tree needs an entry point",
            BundleKind::Binary => "a binary is its own entry point",
            BundleKind::DockerArchive => "an image has its own entry point",
        };
        Err(MalformedManifest(why.into()))
    }

    fn check_image_id(&self) -> Result<(), MalformedManifest> {
        let is_archive = self.kind == BundleKind::DockerArchive;
        match (is_archive, self.image_id.is_some()) {
            (true, true) | (false, false) => Ok(()),
            (true, false) => Err(MalformedManifest("an image's archive needs its id".into())),
            (false, true) => {
                let text = format!("a {} has no image id", self.kind);
                Err(MalformedManifest(text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(size: u64) -> Manifest {
        let n_chunks = usize::try_from(size.div_ceil(CHUNK_BYTES)).unwrap();
        Manifest {
            schema: SCHEMA,
            kind: BundleKind::Binary,
            platform: Platform::linux("amd64"),
            entrypoint: Vec::new(),
            blob: Blob {
                digest: Digest::of(b"all"),
                size,
                chunks: vec![Digest::of(b"one"); n_chunks],
            },
            image_id: None,
        }
    }

    #[test]
    fn only_the_canonical_form_is_read() {
        let manifest = manifest(CHUNK_BYTES + 1);
        let bytes = manifest.to_bytes();
        assert_eq!(Manifest::parse(&bytes), Ok(manifest.clone()));
        assert_eq!(manifest.digest(), Digest::of(&bytes));
        let text = String::from_utf8(bytes).unwrap();
        let spaced = text.replace("\"schema\":1", "\"schema\": 1");
        let why = Manifest::parse(spaced.as_bytes()).unwrap_err();
        assert!(why.0.contains("canonical"), "{why}");
        let unknown = text.replace("\"schema\":1", "\"schema\":1,\"user\":\"me\"");
        assert!(Manifest::parse(unknown.as_bytes()).is_err());
    }

    #[test]
    fn an_image_has_its_id_in_the_canonical_form() {
        let mut archive = manifest(9);
        archive.kind = BundleKind::DockerArchive;
        archive.image_id = Some(Digest::of(b"image"));
        let text = String::from_utf8(archive.to_bytes()).unwrap();
        let id = format!("\"imageId\":\"{}\"}}", Digest::of(b"image"));
        assert!(text.ends_with(&id), "{text}");
        assert_eq!(Manifest::parse(text.as_bytes()), Ok(archive));
    }

    #[test]
    fn chunks_cover_the_blob() {
        let blob = manifest(2 * CHUNK_BYTES + 7).blob;
        assert_eq!(blob.range_of(0), Some((0, CHUNK_BYTES)));
        assert_eq!(blob.range_of(2), Some((2 * CHUNK_BYTES, 7)));
        assert_eq!(blob.range_of(3), None);
    }

    #[test]
    fn the_largest_blob_has_a_manifest_within_its_limit() {
        let largest = manifest(MAX_BLOB_BYTES);
        assert!(Manifest::parse(&largest.to_bytes()).is_ok());
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        type Change = fn(&mut Manifest);
        let cases: [(Change, &str); 9] = [
            (|m| m.schema = 2, "this version knows 1"),
            (|m| m.blob.size = 0, "is empty"),
            (|m| m.blob.size = MAX_BLOB_BYTES + 1, "at most"),
            (|m| m.blob.chunks.clear(), "are not 0 chunks"),
            (|m| m.kind = BundleKind::Tree, "needs an entry point"),
            (|m| m.entrypoint.push("x".into()), "its own entry point"),
            (|m| m.kind = BundleKind::DockerArchive, "needs its id"),
            (
                |m| m.image_id = Some(Digest::of(b"image")),
                "a binary has no image id",
            ),
            (
                |m| {
                    m.kind = BundleKind::DockerArchive;
                    m.entrypoint.push("x".into());
                },
                "an image has its own entry point",
            ),
        ];
        for (change, wanted) in cases {
            let mut manifest = manifest(9);
            change(&mut manifest);
            let why = manifest.check().unwrap_err();
            assert!(why.0.contains(wanted), "{why}");
        }
    }

    #[test]
    fn a_platform_is_that_of_the_host() {
        assert!(Platform::linux("amd64").runs_on("x86_64"));
        assert!(Platform::linux("any").runs_on("aarch64"));
        assert!(!Platform::linux("arm64").runs_on("x86_64"));
    }
}
