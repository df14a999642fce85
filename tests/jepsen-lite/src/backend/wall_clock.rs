//! A node's own time of day: libfaketime is loaded before its libraries and reads how far to be wrong
//! from a file. Monotonic clocks and the boot clock stay the host's.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Of Debian's package libfaketime, whatever the machine is called; the one for many threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
const LIBRARIES: &str = "/usr/lib";
/// How long a file that was read counts, in seconds.
const CACHED_SECONDS: u64 = 1;

#[derive(Debug)]
pub struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// A clock that is right; `file` says from now on how wrong it is.
    ///
    /// # Errors
    /// No libfaketime, or the file cannot be written.
    pub fn create(file: PathBuf) -> anyhow::Result<Self> {
        let library = find(Path::new(LIBRARIES));
        let library = library.context("no libfaketime: apt-get install libfaketime")?;
        let clock = Self { library, file };
        clock.set(0)?;
        Ok(clock)
    }

    /// What a process must find in its environment to have this clock.
    pub fn variables(&self) -> Vec<(String, String)> {
        let variables = [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", CACHED_SECONDS.to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        let named = variables.into_iter();
        named
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Makes the clock wrong by so many seconds.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(&self, seconds: i64) -> anyhow::Result<()> {
        // Not read half written.
        let draft = self.file.with_extension("draft");
        std::fs::write(&draft, format!("{seconds:+}s\n"))?;
        std::fs::rename(&draft, &self.file)?;
        Ok(())
    }

    /// # Errors
    /// The process has been started without the library.
    pub fn check_loaded(&self, pid: u32) -> anyhow::Result<()> {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let library = self.library.canonicalize()?;
        let is_loaded = maps.contains(&*library.to_string_lossy());
        ensure!(is_loaded, "{} is not loaded", library.display());
        Ok(())
    }
}

fn find(libraries: &Path) -> Option<PathBuf> {
    let direct = [libraries.to_owned()].into_iter();
    let machines = std::fs::read_dir(libraries).into_iter().flatten().flatten();
    let places = direct.chain(machines.map(|machine| machine.path()));
    let mut files = places.map(|place| place.join(LIBRARY));
    files.find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_library_is_found_in_any_machines_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(dir.path()), None);
        let library = dir.path().join("riscv64-linux-gnu").join(LIBRARY);
        std::fs::create_dir_all(library.parent().unwrap()).unwrap();
        std::fs::write(&library, "").unwrap();
        assert_eq!(find(dir.path()), Some(library));
    }

    #[test]
    fn a_process_has_the_time_that_its_file_says() {
        let dir = tempfile::tempdir().unwrap();
        let clock = match WallClock::create(dir.path().join("clock")) {
            Ok(clock) => clock,
            Err(error) => return eprintln!("skipped: {error:#}"),
        };
        let wrong_by = |seconds| {
            clock.set(seconds).unwrap();
            let mut date = Command::new("date");
            let date = date.arg("+%s").envs(clock.variables()).output().unwrap();
            let told: i64 = String::from_utf8(date.stdout)
                .unwrap()
                .trim()
                .parse()
                .unwrap();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            told - i64::try_from(now.as_secs()).unwrap()
        };
        for seconds in [0, 3_600, -10] {
            let wrong = wrong_by(seconds);
            assert!((seconds - wrong).abs() < 5, "{seconds}: {wrong}");
        }
    }
}
