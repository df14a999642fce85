//! A disk of its own for each node: an ext4 image on a loop device, which can lose its power, fill
//! up, and freeze.
//!
//! ```text
//! node ─ write ─► page cache ─ fsync ─► image      power loss: what was not synced is gone,
//!                                                  what was synced stays
//! ```

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// Sparse; several times what a trial writes, and more than the free space below which a node
/// refuses writes.
const IMAGE_MIB: u64 = 1_024;
/// A process that was killed holds its files a moment longer.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(5);
const TRY_EVERY: Duration = Duration::from_millis(20);
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH` (fs/ext4/ext4.h, include/uapi/linux/
/// ext4.h): from the next moment on nothing reaches the disk, the journal's memory included. In
/// Perl, which every Debian has, because the call would be `unsafe` here.
const SHUTDOWN: &str = r#"open(my $d, "<", $ARGV[0]) or die "$!\n"; my $f = pack("L", 2);
    ioctl($d, 0x8004587d, $f) or die "$!\n";"#;
const BALLOON: &str = "balloon";
/// One block in so many is more than the extents of one file take.
const BOOKKEEPING_SHARE: u64 = 100;
const BLOCK: usize = 4096;

/// Unmounted and removed when dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
    frozen: bool,
}

impl Disk {
    /// Makes an empty disk and mounts it at `mount`.
    ///
    /// # Errors
    /// Not root, no loop devices, or no ext4.
    pub fn create(image: PathBuf, mount: &Path) -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a disk for each node needs root"
        );
        std::fs::create_dir_all(mount)?;
        File::create(&image)?.set_len(IMAGE_MIB * 1024 * 1024)?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", shown(&image)?])?;
        let disk = Self {
            image,
            mount: mount.to_owned(),
            frozen: false,
        };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> anyhow::Result<()> {
        let (image, mount) = (shown(&self.image)?, shown(&self.mount)?);
        run("mount", &["-o", "loop", image, mount])
    }

    /// From now on nothing is written any more, and what was not synced is lost.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn lose_power(&self) -> anyhow::Result<()> {
        run("perl", &["-e", SHUTDOWN, shown(&self.mount)?])
    }

    /// Brings the disk back as a restart finds it; nobody may use it meanwhile.
    ///
    /// # Errors
    /// Somebody does.
    pub fn come_back(&self) -> anyhow::Result<()> {
        let since = Instant::now();
        while let Err(error) = run("umount", &[shown(&self.mount)?]) {
            if since.elapsed() >= UNMOUNT_LIMIT {
                return Err(error);
            }
            thread::park_timeout(TRY_EVERY);
        }
        self.mount()
    }

    /// Every write hangs from now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        run("fsfreeze", &["-f", shown(&self.mount)?])?;
        self.frozen = true;
        Ok(())
    }

    /// # Errors
    /// It is not frozen.
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        run("fsfreeze", &["-u", shown(&self.mount)?])?;
        self.frozen = false;
        Ok(())
    }

    /// Takes all space but `left_bytes`.
    ///
    /// # Errors
    /// There is not that much.
    pub fn fill(&self, left_bytes: u64) -> anyhow::Result<()> {
        let space = rustix::fs::statvfs(&self.mount)?;
        let free = space.f_bavail * space.f_frsize;
        let Some(take) = free.checked_sub(left_bytes) else {
            bail!("only {free} bytes are free on {}", self.mount.display());
        };
        let mut balloon = File::create(self.mount.join(BALLOON))?;
        let flags = rustix::fs::FallocateFlags::empty();
        // The file system needs some blocks to note where these are.
        let at_once = take - take / BOOKKEEPING_SHARE;
        rustix::fs::fallocate(&balloon, flags, 0, at_once).context("a balloon file")?;
        if left_bytes == 0 {
            balloon.seek(SeekFrom::End(0))?;
            let block = [1; BLOCK];
            while balloon.write_all(&block).is_ok() {}
        }
        Ok(())
    }

    /// # Errors
    /// It was not taken.
    pub fn give_back(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.mount.join(BALLOON))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.frozen {
            drop(self.thaw());
        }
        let Ok(mount) = shown(&self.mount) else {
            return;
        };
        let since = Instant::now();
        while run("umount", &[mount]).is_err() {
            if since.elapsed() >= UNMOUNT_LIMIT {
                // The rest when its last user ends.
                drop(run("umount", &["--lazy", mount]));
                break;
            }
            thread::park_timeout(TRY_EVERY);
        }
        drop(std::fs::remove_file(&self.image));
    }
}

fn shown(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is no text")
}

fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = args.last().copied().unwrap_or_default();
    ensure!(
        output.status.success(),
        "`{program}` of {last}: {}",
        said.trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_loss_takes_what_was_not_synced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("mount");
        let disk = match Disk::create(dir.path().join("image"), &mount) {
            Ok(disk) => disk,
            Err(error) => {
                eprintln!("skipped: {error:#}");
                return;
            }
        };
        let mut file = File::create(mount.join("log")).unwrap();
        file.write_all(b"synced").unwrap();
        file.sync_all().unwrap();
        file.write_all(b" and not").unwrap();
        disk.lose_power().unwrap();
        assert!(
            file.write_all(b"lost")
                .and_then(|()| file.sync_all())
                .is_err()
        );
        drop(file);
        disk.come_back().unwrap();
        let log = std::fs::read(mount.join("log")).unwrap();
        assert_eq!(log, b"synced");
    }

    #[test]
    fn a_full_disk_takes_nothing_until_space_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("mount");
        let disk = match Disk::create(dir.path().join("image"), &mount) {
            Ok(disk) => disk,
            Err(error) => {
                eprintln!("skipped: {error:#}");
                return;
            }
        };
        disk.fill(0).unwrap();
        let more = || std::fs::write(mount.join("more"), vec![1; 1 << 20]);
        assert!(more().is_err());
        disk.give_back().unwrap();
        more().unwrap();
    }
}
