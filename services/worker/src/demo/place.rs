//! The folder the demo works in, and where its report goes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

/// Processes of the daemon may still write for a moment after it is gone.
const TIDY_AGAIN: Duration = Duration::from_millis(100);
const TIDY_TRIES: u32 = 50;

pub struct Place {
    pub folder: PathBuf,
    pub report: PathBuf,
    /// The folder, if it is to vanish. Its removal on drop is for interrupts and panics.
    temporary: Option<TempDir>,
}

impl Place {
    /// `dir` is kept and must be new or empty; without it the folder is temporary.
    pub fn new(dir: Option<&Path>, report: Option<&Path>) -> anyhow::Result<Self> {
        let (folder, temporary) = match dir {
            Some(dir) => (new_folder(dir)?, None),
            None => {
                let temporary = tempfile::Builder::new().prefix("perennial-demo-").tempdir();
                let temporary = temporary.context("cannot create a temporary folder")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let report = match (report, dir) {
            (Some(file), _) => file.to_owned(),
            (None, Some(_)) => folder.join("report.html"),
            (None, None) => folder.with_extension("html"),
        };
        Ok(Self { folder, report, temporary })
    }

    /// Keeps a folder that would vanish, for somebody to look at; says where it is.
    pub fn keep(&mut self) -> String {
        if let Some(temporary) = self.temporary.take() {
            self.folder = temporary.keep();
        }
        format!("the demo stopped; its store and log are kept in {}", self.folder.display())
    }

    /// Removes a temporary folder, patiently.
    pub async fn tidy(&mut self) {
        let Some(temporary) = &self.temporary else { return };
        for _ in 0..TIDY_TRIES {
            match std::fs::remove_dir_all(temporary.path()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => tokio::time::sleep(TIDY_AGAIN).await,
                _ => break,
            }
        }
    }
}

fn new_folder(dir: &Path) -> anyhow::Result<PathBuf> {
    let make = || -> std::io::Result<(PathBuf, bool)> {
        std::fs::create_dir_all(dir)?;
        let dir = std::fs::canonicalize(dir)?;
        let empty = std::fs::read_dir(&dir)?.next().is_none();
        Ok((dir, empty))
    };
    match make().with_context(|| format!("cannot use `{}`", dir.display()))? {
        (dir, true) => Ok(dir),
        (dir, false) => bail!("`{}` is not empty; name a new folder with --dir", dir.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_temporary_folder_vanishes_and_the_report_lies_outside() {
        let mut place = Place::new(None, None).unwrap();
        std::fs::write(place.folder.join("log"), "x").unwrap();
        assert!(!place.report.starts_with(&place.folder));
        place.tidy().await;
        assert!(!place.folder.exists());
    }

    #[test]
    fn after_a_failure_the_folder_is_kept_and_named() {
        let mut place = Place::new(None, None).unwrap();
        let text = place.keep();
        let folder = place.folder.clone();
        drop(place);
        assert!(folder.exists() && text.contains(&folder.display().to_string()));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_named_folder_must_be_empty() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(Some(&dir.path().join("new")), None).unwrap();
        assert!(place.report.ends_with("new/report.html"));
        assert!(Place::new(Some(dir.path()), None).err().unwrap().to_string().contains("not empty"));
    }
}
