//! What writers that died left in a folder that is a store: files that no listing shows and no reader can ask for.

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use domain::Timestamp;

use crate::Error;
use crate::open::{folder, parse};

/// Removes what nobody has written to since `before` from the store at `url`, if it is a folder; how many files that were.
pub fn remove(url: &str, before: Timestamp) -> Result<usize, Error> {
    let parsed = parse(url)?;
    match parsed.scheme() {
        "file" => remove_in(&folder(url, &parsed)?, before),
        _ => Ok(0),
    }
}

fn remove_in(folder: &Path, before: Timestamp) -> Result<usize, Error> {
    let mut removed = 0;
    for entry in fs::read_dir(folder).map_err(Error::file("list", folder))? {
        let path = entry.map_err(Error::file("list", folder))?.path();
        // Links are not followed; what vanishes meanwhile is somebody's work that ended.
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.is_dir() {
            removed += remove_in(&path, before)?;
        } else if is_staged(&path) && found.modified().is_ok_and(|at| at < UNIX_EPOCH + Duration::from_millis(before)) {
            fs::remove_file(&path).map_err(Error::file("remove", &path))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Named as `object_store` names a file before it is whole: `<name>#<number>`.
fn is_staged(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.rsplit_once('#')).map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_staged_files_go_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("chunks/c");
        fs::create_dir_all(&folder).unwrap();
        for name in ["raw", "raw#1", "raw#12", "raw#", "raw#x"] {
            fs::write(folder.join(name), b"rows").unwrap();
        }
        let url = format!("file://{}", home.path().display());
        assert_eq!(remove(&url, 0).unwrap(), 0, "they may still be written to");
        let tomorrow = u64::MAX / 2_000_000;
        assert_eq!(remove(&url, tomorrow).unwrap(), 2);
        let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["raw", "raw#", "raw#x"]);
        assert_eq!(remove("memory:///", tomorrow).unwrap(), 0);
    }
}
