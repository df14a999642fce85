//! The bundles of one node: what is here, what is coming, how much room it takes.
//!
//! Everything here waits for the disk: call it where that may be done. What is decided about names and
//! room is decided under one lock; bytes are hashed, written and unpacked outside of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use nihilo_types::bundle::{Blob, CHUNK_BYTES, Digest, Manifest};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use super::archive;
use super::error::BundleError;
use super::gc::{Collected, Deletion, Holding, Kept, PRESSURE_PERCENT, decide};
use super::layout::{Layout, named, settle, sharded_entries};
use super::partial::{Partial, digest_of};
use super::spool::Spool;
use super::tree;
use super::unpack::{Limits, make_root, unpack};

/// A blob that was taken for another node's bundle is kept so long without being told why.
const LEASE: Duration = Duration::from_secs(600);

/// Of one node; shared.
#[derive(Debug)]
pub struct BundleStore {
    layout: Layout,
    max_bytes: AtomicU64,
    opened: Instant,
    table: Mutex<Table>,
    /// Partials are opened one after the other: what is in them is hashed.
    opening: Mutex<()>,
    /// So are tars unpacked.
    unpacking: Mutex<()>,
    /// So are manifests written: each goes by the same name on its way.
    installing: Mutex<()>,
    pressure: Notify,
}

#[derive(Debug, Default)]
struct Table {
    installed: BTreeMap<Digest, Installed>,
    /// Blob to its bytes.
    blobs: BTreeMap<Digest, u64>,
    /// Blob to what its tar holds.
    trees: BTreeMap<Digest, Tree>,
    /// By [`Partial::key`].
    partials: BTreeMap<Digest, Slot>,
    /// Bytes that are promised to a tree that is being unpacked.
    n_unpacking: u64,
    /// Bytes that are promised to blobs of which nobody knows yet how long they become.
    n_spooled: u64,
    /// Such blobs so far; names them on their way.
    n_spools: u64,
    /// Blobs that somebody works on, with their number.
    holds: BTreeMap<Digest, u32>,
    /// Blobs that are kept until then.
    leases: BTreeMap<Digest, Instant>,
    /// Files and trees that were taken away so far; names them on their way out.
    n_gone: u64,
}

#[derive(Debug)]
struct Installed {
    manifest: Arc<Manifest>,
    used: Instant,
}

#[derive(Debug)]
struct Tree {
    n_bytes: u64,
    used: Instant,
}

/// A blob that is not whole.
#[derive(Debug)]
enum Slot {
    Open(Arc<Partial>),
    /// By an earlier process; not looked into yet.
    Left {
        n_bytes: u64,
        written: Instant,
    },
}

/// What bundles take of the node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub n_bundles: u64,
    pub n_bytes: u64,
    pub max_bytes: u64,
}

impl BundleStore {
    /// Opens the directory, and forgets what is not whole in it. Nothing is hashed.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(dir: PathBuf, max_bytes: u64) -> Result<Arc<Self>, BundleError> {
        let failed = BundleError::io("bundles", &dir);
        let layout = Layout::make(dir.clone());
        let table = layout.and_then(|layout| Ok((read(&layout)?, layout)));
        let (table, layout) = table.map_err(failed)?;
        Ok(Arc::new(Self {
            layout,
            max_bytes: max_bytes.into(),
            opened: Instant::now(),
            table: Mutex::new(table),
            opening: Mutex::default(),
            unpacking: Mutex::default(),
            installing: Mutex::default(),
            pressure: Notify::new(),
        }))
    }

    /// The bound from now on, in bytes. Under a lower one nothing comes until enough has gone.
    pub fn set_max_bytes(&self, max_bytes: u64) {
        self.max_bytes.store(max_bytes, Ordering::Relaxed);
        self.pressure.notify_one();
    }

    fn max_bytes(&self) -> u64 {
        self.max_bytes.load(Ordering::Relaxed)
    }

    pub fn usage(&self) -> Usage {
        let table = self.table.lock();
        Usage {
            n_bundles: table.installed.len() as u64,
            n_bytes: table.n_bytes(),
            max_bytes: self.max_bytes(),
        }
    }

    /// Resolves when there is little room left, once for each time it gets so.
    pub async fn pressed(&self) {
        self.pressure.notified().await;
    }

    /// Milliseconds of this store's own clock, for [`Kept::as_of_ms`].
    pub fn now_ms(&self) -> u64 {
        self.ms(Instant::now())
    }

    /// The manifest of a bundle that can be started here; notes its use.
    pub fn installed(&self, bundle: &Digest) -> Option<Arc<Manifest>> {
        let mut table = self.table.lock();
        let found = table.installed.get_mut(bundle)?;
        found.used = Instant::now();
        Some(found.manifest.clone())
    }

    /// Whether a bundle can be started here; is no use of it.
    pub fn has(&self, bundle: &Digest) -> bool {
        self.table.lock().installed.contains_key(bundle)
    }

    /// Chunks of a blob that this node does not have; what was left of an attempt is proven for it.
    ///
    /// # Errors
    /// The disk.
    pub fn missing(self: &Arc<Self>, blob: &Blob) -> Result<Vec<u32>, BundleError> {
        let is_begun = {
            let table = self.table.lock();
            if table.blobs.contains_key(&blob.digest) {
                return Ok(Vec::new());
            }
            table.partials.contains_key(&Partial::key(blob))
        };
        if !is_begun {
            return Ok((0..blob.n_chunks()).collect());
        }
        Ok(self.receive(blob)?.missing())
    }

    /// Begins to take a blob in, or goes on with it; its room is promised.
    ///
    /// # Errors
    /// `Full`, or the disk.
    pub fn receive(self: &Arc<Self>, blob: &Blob) -> Result<Receiving, BundleError> {
        let hold = Hold::of(self, blob.digest);
        let key = Partial::key(blob);
        let _one_at_a_time = self.opening.lock();
        let found = {
            let table = self.table.lock();
            if table.blobs.contains_key(&blob.digest) {
                return Ok(Receiving::of_whole(hold));
            }
            match table.partials.get(&key) {
                Some(Slot::Open(partial)) => return Ok(Receiving::of(hold, partial.clone())),
                Some(Slot::Left { n_bytes, .. }) => *n_bytes,
                None => 0,
            }
        };
        self.check_room(blob.size.saturating_sub(found))?;
        let partial = Arc::new(Partial::open(&self.layout.part(&key), blob)?);
        let slot = Slot::Open(partial.clone());
        self.table.lock().partials.insert(key, slot);
        Ok(Receiving::of(hold, partial))
    }

    /// Makes a bundle ready to start, whose blob is here.
    ///
    /// # Errors
    /// `NotHeld`, or the disk.
    pub fn install(&self, manifest: &Manifest) -> Result<(), BundleError> {
        let (digest, blob) = (manifest.digest(), manifest.blob.digest);
        if self.table.lock().blobs.get(&blob) != Some(&manifest.blob.size) {
            return Err(BundleError::NotHeld { blob });
        }
        let _one_at_a_time = self.installing.lock();
        if self.table.lock().installed.contains_key(&digest) {
            return Ok(());
        }
        let to = self.layout.manifest(&digest);
        let from = to.with_extension("new");
        let written = fs::write(&from, manifest.to_bytes())
            .and_then(|()| File::open(&from)?.sync_all())
            .and_then(|()| settle(&from, &to));
        if let Err(error) = written {
            drop(fs::remove_file(&from));
            return Err(BundleError::io("manifest", &to)(error));
        }
        let installed = Installed {
            manifest: Arc::new(manifest.clone()),
            used: Instant::now(),
        };
        self.table.lock().installed.insert(digest, installed);
        Ok(())
    }

    /// A chunk of a whole blob; `None` = it is not here.
    ///
    /// # Errors
    /// The disk, or there is no such chunk.
    pub fn read_chunk(&self, blob: Digest, chunk: u32) -> Result<Option<Vec<u8>>, BundleError> {
        let Some(size) = self.table.lock().blobs.get(&blob).copied() else {
            return Ok(None);
        };
        let at = u64::from(chunk) * CHUNK_BYTES;
        if at >= size {
            return Err(BundleError::NoSuchChunk { blob, chunk });
        }
        let n = CHUNK_BYTES.min(size - at);
        let mut bytes = vec![0; usize::try_from(n).unwrap_or(0)];
        let path = self.layout.blob(&blob);
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, at));
        read.map_err(BundleError::io("blob", &path))?;
        Ok(Some(bytes))
    }

    /// Where a blob lies that is here whole: a program is run in place.
    pub(crate) fn program(&self, blob: &Digest) -> PathBuf {
        self.layout.blob(blob)
    }

    /// Where the tar of an installed bundle is unpacked; unpacks it first where it is not.
    ///
    /// # Errors
    /// `WrongBlob` when the blob has been damaged: it is forgotten then, and may be fetched again.
    pub(super) fn tree(&self, manifest: &Manifest) -> Result<PathBuf, BundleError> {
        let blob = manifest.blob.digest;
        let root = self.layout.tree(&blob).join(TREE_ROOT);
        if self.use_tree(&blob) {
            return Ok(root);
        }
        let _one_at_a_time = self.unpacking.lock();
        if self.use_tree(&blob) {
            return Ok(root);
        }
        // What is in a tar is no more than the tar.
        self.check_room(manifest.blob.size)?;
        self.table.lock().n_unpacking = manifest.blob.size;
        let unpacked = self.prove(&blob).and_then(|()| self.unpack(&blob));
        let mut table = self.table.lock();
        table.n_unpacking = 0;
        let tree = Tree {
            n_bytes: unpacked?,
            used: Instant::now(),
        };
        table.trees.insert(blob, tree);
        Ok(root)
    }

    /// Where the archive of an image lies, proven, and without anything in it that an engine must not be
    /// given.
    ///
    /// # Errors
    /// As [`Self::tree`].
    pub(super) fn archive(&self, blob: &Digest) -> Result<PathBuf, BundleError> {
        self.prove(blob)?;
        let path = self.layout.blob(blob);
        let file = File::open(&path).map_err(BundleError::io("blob", &path))?;
        let checked = archive::check(std::io::BufReader::new(file));
        checked.map_err(|why| BundleError::NoArchive { blob: *blob, why })?;
        Ok(path)
    }

    fn use_tree(&self, blob: &Digest) -> bool {
        let mut table = self.table.lock();
        let tree = table.trees.get_mut(blob);
        tree.map(|tree| tree.used = Instant::now()).is_some()
    }

    /// Once, before a tar is unpacked or loaded: it may have lain for long.
    fn prove(&self, blob: &Digest) -> Result<(), BundleError> {
        let path = self.layout.blob(blob);
        let got = digest_of(&path).map_err(BundleError::io("blob", &path))?;
        if got == *blob {
            return Ok(());
        }
        warn!(%blob, %got, "damaged on the disk; forgotten, to be fetched again");
        let mut table = self.table.lock();
        let is_of_it = |installed: &Installed| installed.manifest.blob.digest == *blob;
        let bundles = table.installed.iter().filter(|(_, of)| is_of_it(of));
        let bundles: Vec<_> = bundles.map(|(digest, _)| *digest).collect();
        let bundles = bundles.into_iter().map(Deletion::Bundle);
        let deletions = bundles.chain([Deletion::Blob(*blob)]);
        let gone: Vec<_> = deletions
            .filter_map(|deletion| self.remove(&mut table, &deletion))
            .collect();
        drop(table);
        gone.iter().for_each(|gone| take_away(gone));
        Err(BundleError::WrongBlob { want: *blob, got })
    }

    fn unpack(&self, blob: &Digest) -> Result<u64, BundleError> {
        let (from, new) = (self.layout.blob(blob), self.layout.new_tree(blob));
        let failed = || BundleError::io("unpacking", &new);
        // Of an attempt that failed.
        tree::remove(&new).map_err(failed())?;
        let tar = File::open(&from).map_err(BundleError::io("blob", &from))?;
        let unpacked = self.unpack_into(&new, tar, blob);
        if unpacked.is_err() {
            // Nobody counts it.
            take_away(&new);
        }
        unpacked
    }

    fn unpack_into(&self, new: &Path, tar: File, blob: &Digest) -> Result<u64, BundleError> {
        let failed = || BundleError::io("unpacking", new);
        let root = new.join(TREE_ROOT);
        make_root(&root).map_err(failed())?;
        let n_bytes = unpack(std::io::BufReader::new(tar), &root, Limits::default());
        let n_bytes = n_bytes.map_err(|source| BundleError::Refused {
            blob: *blob,
            source,
        })?;
        let sealed = fs::write(new.join(TREE_BYTES), n_bytes.to_string())
            .and_then(|()| tree::seal(&root))
            // All files at once: one by one would be a wait each.
            .and_then(|()| Ok(rustix::fs::syncfs(File::open(new)?)?))
            .and_then(|()| settle(new, &self.layout.tree(blob)));
        sealed.map_err(failed())?;
        Ok(n_bytes)
    }

    /// Keeps a blob for a while without a reason that is known here: its bundle is about to become
    /// known to the cluster.
    pub fn lease(&self, blob: Digest) {
        let until = Instant::now() + LEASE;
        self.table.lock().leases.insert(blob, until);
    }

    /// Ends [`Self::lease`].
    pub fn release(&self, blob: &Digest) {
        self.table.lock().leases.remove(blob);
    }

    /// Removes what is not kept, or only says what it would.
    pub fn collect(&self, mut kept: Kept, is_dry_run: bool) -> Collected {
        let now = Instant::now();
        let mut table = self.table.lock();
        table.leases.retain(|_, until| *until > now);
        kept.leased.extend(table.leases.keys().copied());
        kept.leased.extend(table.holds.keys().copied());
        let holdings = self.holdings(&table);
        let above = self.max_bytes() / 100 * PRESSURE_PERCENT;
        let deletions = decide(&holdings, &kept, above, self.ms(now));
        let n_before = table.n_bytes();
        let n_bytes = deletions.iter().map(|gone| table.bytes_of(gone)).sum();
        let is_bundle = |deletion: &&Deletion| matches!(deletion, Deletion::Bundle(_));
        let collected = Collected {
            n_bundles: deletions.iter().filter(is_bundle).count() as u64,
            n_bytes,
            n_bytes_kept: n_before.saturating_sub(n_bytes),
        };
        if is_dry_run {
            return collected;
        }
        let gone: Vec<_> = deletions
            .iter()
            .filter_map(|deletion| self.remove(&mut table, deletion))
            .collect();
        drop(table);
        gone.iter().for_each(|gone| take_away(gone));
        if n_bytes > 0 {
            info!(
                n_bytes,
                n_bundles = collected.n_bundles,
                "bundles collected"
            );
        }
        collected
    }

    fn holdings(&self, table: &Table) -> Vec<Holding> {
        let bundles = table.installed.iter().map(|(digest, of)| Holding::Bundle {
            digest: *digest,
            blob: of.manifest.blob.digest,
            used_ms: self.ms(of.used),
        });
        let blobs = table.blobs.iter().map(|(digest, n_bytes)| Holding::Blob {
            digest: *digest,
            n_bytes: *n_bytes,
        });
        let trees = table.trees.iter().map(|(blob, tree)| Holding::Tree {
            blob: *blob,
            n_bytes: tree.n_bytes,
            used_ms: self.ms(tree.used),
        });
        let partials = table.partials.iter().map(|(key, slot)| {
            let (written, is_open) = match slot {
                // The table has one reference of its own.
                Slot::Open(partial) => (partial.written_at(), Arc::strong_count(partial) > 1),
                Slot::Left { written, .. } => (*written, false),
            };
            Holding::Partial {
                key: *key,
                n_bytes: slot.n_bytes(),
                written_ms: self.ms(written),
                is_open,
            }
        });
        bundles.chain(blobs).chain(trees).chain(partials).collect()
    }

    /// Takes one thing away from its name and out of the table, under the lock: nobody may put the same
    /// thing there meanwhile. Where it went is returned, to be removed once the lock is free: a large
    /// file takes a disk its time. What keeps its name is still counted.
    #[must_use = "what is returned takes room until it is removed"]
    fn remove(&self, table: &mut Table, deletion: &Deletion) -> Option<PathBuf> {
        let from = match deletion {
            Deletion::Bundle(digest) => self.layout.manifest(digest),
            Deletion::Blob(digest) => self.layout.blob(digest),
            Deletion::Partial(digest) => self.layout.part(digest),
            Deletion::Tree(digest) => self.layout.tree(digest),
        };
        table.n_gone += 1;
        let gone = self.layout.tmp().join(format!("{}.gone", table.n_gone));
        let moved = fs::rename(&from, &gone);
        let is_there = match &moved {
            Ok(()) => false,
            Err(error) => error.kind() != ErrorKind::NotFound,
        };
        if let Err(error) = &moved {
            warn!(%error, path = %from.display(), "not removed");
        }
        // A bundle that cannot be taken away from its name must not be started all the same: its blob
        // goes next.
        match deletion {
            Deletion::Bundle(digest) => drop(table.installed.remove(digest)),
            _ if is_there => {}
            Deletion::Blob(digest) => drop(table.blobs.remove(digest)),
            Deletion::Partial(digest) => drop(table.partials.remove(digest)),
            Deletion::Tree(digest) => drop(table.trees.remove(digest)),
        }
        moved.is_ok().then_some(gone)
    }

    fn check_room(&self, wanted: u64) -> Result<(), BundleError> {
        self.check_room_in(&self.table.lock(), wanted)
    }

    fn check_room_in(&self, table: &Table, wanted: u64) -> Result<(), BundleError> {
        let (used, max) = (table.n_bytes(), self.max_bytes());
        if (used + wanted) / PRESSURE_PERCENT >= max / 100 {
            self.pressure.notify_one();
        }
        match used + wanted <= max {
            true => Ok(()),
            false => Err(BundleError::Full { wanted, used, max }),
        }
    }

    fn ms(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.opened);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn finish(&self, partial: &Partial) -> Result<(), BundleError> {
        let (blob, key) = (partial.blob().digest, Partial::key(partial.blob()));
        // Who comes second finds it done.
        let _one_at_a_time = self.opening.lock();
        if self.table.lock().blobs.contains_key(&blob) {
            return Ok(());
        }
        let finished = partial.finish(&self.layout.blob(&blob));
        let mut table = self.table.lock();
        match &finished {
            Ok(()) => {
                table.partials.remove(&key);
                table.blobs.insert(blob, partial.size());
            }
            Err(BundleError::Incomplete { .. }) => {}
            Err(BundleError::WrongBlob { .. }) => {
                table.partials.remove(&key);
            }
            Err(_) => {
                let slot = Slot::Left {
                    n_bytes: partial.size(),
                    written: Instant::now(),
                };
                table.partials.insert(key, slot);
            }
        }
        finished
    }
}

/// Removes what has no name any more, file or tree.
fn take_away(gone: &Path) {
    let removed = match fs::symlink_metadata(gone) {
        Ok(found) if found.is_dir() => tree::remove(gone),
        Ok(_) => fs::remove_file(gone),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            warn!(%error, path = %gone.display(), "not removed; the next start tries again");
        }
        _ => {}
    }
}

/// In the directory of an unpacked tar.
const TREE_ROOT: &str = "root";
const TREE_BYTES: &str = "bytes";

impl Table {
    fn n_bytes(&self) -> u64 {
        let trees = self.trees.values().map(|tree| tree.n_bytes);
        let partials = self.partials.values().map(Slot::n_bytes);
        let whole = self.blobs.values().copied();
        let coming = self.n_unpacking + self.n_spooled;
        whole.chain(trees).chain(partials).sum::<u64>() + coming
    }

    fn bytes_of(&self, deletion: &Deletion) -> u64 {
        let found = match deletion {
            Deletion::Bundle(_) => None,
            Deletion::Blob(digest) => self.blobs.get(digest).copied(),
            Deletion::Tree(digest) => self.trees.get(digest).map(|tree| tree.n_bytes),
            Deletion::Partial(digest) => self.partials.get(digest).map(Slot::n_bytes),
        };
        found.unwrap_or(0)
    }
}

impl Slot {
    fn n_bytes(&self) -> u64 {
        match self {
            Slot::Open(partial) => partial.size(),
            Slot::Left { n_bytes, .. } => *n_bytes,
        }
    }
}

/// What stands in the directory, by names and lengths.
fn read(layout: &Layout) -> std::io::Result<Table> {
    let mut table = Table::default();
    for (digest, path) in sharded_entries(&layout.blobs())? {
        table.blobs.insert(digest, fs::metadata(path)?.len());
    }
    for (digest, path) in sharded_entries(&layout.trees())? {
        let n_bytes = fs::read_to_string(path.join(TREE_BYTES));
        let n_bytes = n_bytes.ok().and_then(|text| text.parse().ok());
        let tree = Tree {
            n_bytes: n_bytes.unwrap_or(0),
            used: Instant::now(),
        };
        table.trees.insert(digest, tree);
    }
    read_manifests(layout, &mut table)?;
    read_tmp(layout, &mut table)?;
    Ok(table)
}

fn read_manifests(layout: &Layout, table: &mut Table) -> std::io::Result<()> {
    for entry in fs::read_dir(layout.manifests())? {
        let entry = entry?;
        let bytes = fs::read(entry.path())?;
        let manifest = Manifest::parse(&bytes).ok();
        let manifest = manifest.filter(|manifest| {
            let named = named(&entry.file_name().to_string_lossy(), ".json");
            let blob = table.blobs.get(&manifest.blob.digest);
            named == Some(manifest.digest()) && blob == Some(&manifest.blob.size)
        });
        let Some(manifest) = manifest else {
            warn!(file = %entry.path().display(), "no manifest of what is here; removed");
            fs::remove_file(entry.path())?;
            continue;
        };
        let installed = Installed {
            manifest: Arc::new(manifest),
            used: Instant::now(),
        };
        let digest = installed.manifest.digest();
        table.installed.insert(digest, installed);
    }
    Ok(())
}

/// Blobs are gone on with; trees are made anew.
fn read_tmp(layout: &Layout, table: &mut Table) -> std::io::Result<()> {
    for entry in fs::read_dir(layout.tmp())? {
        let entry = entry?;
        let Some(digest) = named(&entry.file_name().to_string_lossy(), ".part") else {
            tree::remove(&entry.path()).or_else(|_| fs::remove_file(entry.path()))?;
            continue;
        };
        let found = entry.metadata()?;
        let age = found.modified().ok().and_then(|at| {
            let age = SystemTime::UNIX_EPOCH.elapsed().ok()?;
            age.checked_sub(at.duration_since(SystemTime::UNIX_EPOCH).ok()?)
        });
        let now = Instant::now();
        let slot = Slot::Left {
            n_bytes: found.len(),
            written: now.checked_sub(age.unwrap_or_default()).unwrap_or(now),
        };
        table.partials.insert(digest, slot);
    }
    Ok(())
}

/// Somebody works on a blob: it is not collected meanwhile.
#[derive(Debug)]
struct Hold {
    store: Arc<BundleStore>,
    blob: Digest,
}

impl Hold {
    fn of(store: &Arc<BundleStore>, blob: Digest) -> Self {
        *store.table.lock().holds.entry(blob).or_default() += 1;
        Self {
            store: store.clone(),
            blob,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut table = self.store.table.lock();
        if let Some(n) = table.holds.get_mut(&self.blob) {
            *n -= 1;
            if *n == 0 {
                table.holds.remove(&self.blob);
            }
        }
    }
}

/// A blob that is taken in; several may do it at once. It is kept while this lives.
#[derive(Debug)]
pub struct Receiving {
    hold: Hold,
    /// `None` = it is whole.
    partial: Option<Arc<Partial>>,
}

impl Receiving {
    fn of_whole(hold: Hold) -> Self {
        Self {
            hold,
            partial: None,
        }
    }

    fn of(hold: Hold, partial: Arc<Partial>) -> Self {
        Self {
            hold,
            partial: Some(partial),
        }
    }

    /// Chunks that have to come.
    pub fn missing(&self) -> Vec<u32> {
        self.partial
            .as_deref()
            .map(Partial::missing)
            .unwrap_or_default()
    }

    /// Takes a whole chunk in, proven.
    ///
    /// # Errors
    /// It is not the chunk that it should be, or the disk.
    pub fn put(&self, chunk: u32, bytes: &[u8]) -> Result<(), BundleError> {
        match &self.partial {
            Some(partial) => partial.put(chunk, bytes),
            None => Ok(()),
        }
    }

    /// Proves the whole, brings it to the disk and gives it its name.
    ///
    /// # Errors
    /// `Incomplete`, `WrongBlob`, or the disk.
    pub fn finish(&self) -> Result<(), BundleError> {
        match &self.partial {
            Some(partial) => self.hold.store.finish(partial),
            None => Ok(()),
        }
    }
}

impl BundleStore {
    /// Begins to take in a blob of which nothing is known but that it ends.
    ///
    /// # Errors
    /// The disk.
    pub fn spool(self: &Arc<Self>) -> Result<Spool, BundleError> {
        let path = {
            let mut table = self.table.lock();
            table.n_spools += 1;
            self.layout.tmp().join(format!("{}.spool", table.n_spools))
        };
        Spool::begin(self.clone(), path)
    }

    /// Promises room to a blob that grows.
    pub(super) fn promise(&self, n_more: u64) -> Result<(), BundleError> {
        let mut table = self.table.lock();
        self.check_room_in(&table, n_more)?;
        table.n_spooled += n_more;
        Ok(())
    }

    /// Takes a promise back.
    pub(super) fn unpromise(&self, n: u64) {
        self.table.lock().n_spooled -= n;
    }

    /// Gives a blob its name whose bytes are at `from`, on the disk; keeps it while the answer lives.
    pub(super) fn take_in(
        self: &Arc<Self>,
        from: &Path,
        blob: Digest,
        size: u64,
    ) -> Result<Receiving, BundleError> {
        let hold = Hold::of(self, blob);
        let _one_at_a_time = self.opening.lock();
        if !self.table.lock().blobs.contains_key(&blob) {
            let to = self.layout.blob(&blob);
            settle(from, &to).map_err(BundleError::io("blob", &to))?;
            self.table.lock().blobs.insert(blob, size);
        }
        Ok(Receiving::of_whole(hold))
    }
}

#[cfg(test)]
#[path = "store_test.rs"]
mod tests;
