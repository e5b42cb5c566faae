//! A worker's folder for what it is working on. Folders of workers that died are removed by the next one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = "scratch-";
const LOCK: &str = "lock";

/// A folder in the cache, this process's for as long as the value lives.
pub struct Home {
    pub folder: PathBuf,
    /// Its lock ends with the process, however that ends.
    _lock: File,
}

impl Home {
    /// Makes `cache/scratch-{name}`, after removing such folders that no living process holds.
    pub fn claim(cache: &Path, name: &str) -> io::Result<Self> {
        fs::create_dir_all(cache)?;
        // Held while folders come and go: one that is not locked yet must not look abandoned.
        let door = File::create(cache.join(format!("{PREFIX}{LOCK}")))?;
        door.lock()?;
        for entry in fs::read_dir(cache)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_abandoned(&entry.path()) {
                // What cannot be removed only takes room.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let folder = std::path::absolute(cache.join(format!("{PREFIX}{name}")))?;
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join(LOCK))?;
        lock.try_lock().map_err(|_| io::Error::other(format!("another worker called `{name}` uses it")))?;
        Ok(Self { folder, _lock: lock })
    }
}

fn is_abandoned(folder: &Path) -> bool {
    let lock = File::open(folder.join(LOCK));
    folder.is_dir() && lock.map_or(true, |lock| lock.try_lock().is_ok())
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_are_cleared_away_and_the_living_left_alone() {
        let cache = tempfile::tempdir().unwrap();
        let dead = cache.path().join("scratch-dead");
        fs::create_dir_all(dead.join("1/out")).unwrap();
        File::create(dead.join(LOCK)).unwrap();
        let living = Home::claim(cache.path(), "living").unwrap();
        assert!(!dead.exists());
        let other = Home::claim(cache.path(), "other").unwrap();
        assert!(living.folder.is_dir() && other.folder.is_dir());
        assert!(Home::claim(cache.path(), "other").err().unwrap().to_string().contains("`other`"));
        drop(living);
        assert!(!cache.path().join("scratch-living").exists());
    }
}
