//! Files that are there after a power cut. Whoever makes one waits for the disk: never when an instance is
//! started (decision 0105).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Seen whole or not at all, by whatever power cut.
pub(crate) fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = file.with_extension("new");
    let mut new = File::create(&temporary)?;
    new.write_all(bytes)?;
    new.sync_all()?;
    rename(&temporary, file)
}

/// Gives what is on the disk already its final name.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    // The directory may be as new as what is in it.
    let above = to.ancestors().skip(1).take(2);
    above
        .filter(|dir| !dir.as_os_str().is_empty())
        .try_for_each(|dir| File::open(dir)?.sync_all())
}
